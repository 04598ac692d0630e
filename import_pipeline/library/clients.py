"""The HTTP client of one account, put together: its address, its credential, its rate budget, its settings.

The one place where HTTP, credentials and rate budgets of `providers/` meet; stages and the command line ask here.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from import_pipeline.connectors.base import Connector
from import_pipeline.database.connections import Connect
from import_pipeline.providers.credentials import StoredCredential
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.keys import open_key_ring
from import_pipeline.providers.rate_budgets import RateBudget, limits_of
from import_pipeline.providers.source_settings import source_url
from import_pipeline.providers.timeouts import Patience
from import_pipeline.records import Account, Lane


class Storage(NamedTuple):
    """What a client needs of the database."""

    connect: Connect
    is_embedded: bool


def open_client(
    connector: Connector,
    account: Account,
    storage: Storage,
    lane: Lane = "live",
    *,
    credential: StoredCredential | None = None,
    max_attempts: int | None = None,
) -> HttpClient:
    """Return the client by which a connector asks for an account; the caller closes it.

    Args:
        connector: What the source is.
        account: For whom.
        storage: The database that keeps credentials and budgets.
        lane: Whether it is for a run over history, which leaves a reserve to live ones.
        credential: One that is not committed yet; by default the account's own.
        max_attempts: Fewer where a person waits.

    Raises:
        ConfigurationError: A setting of the source or the encryption key is wrong.
    """
    patience = Patience()
    credential = credential or open_credential(connector, account.id, account.user_id, storage)
    return HttpClient(
        connector.title,
        source_url(connector.source_app, connector.base_url) if connector.base_url else "",
        credential,
        RateBudget(
            account.id, limits_of(connector.source_app, connector.rate_limits), storage.connect, lane, patience.sleep
        ),
        trusted_domains=connector.trusted_domains,
        limit_ends_at=connector.limit_ends_at,
        max_attempts=max_attempts,
        connect_command=f"import-pipeline connect {connector.source_app}",
        patience=patience,
    )


def open_credential(connector: Connector, account_id: UUID, user_id: UUID, storage: Storage) -> StoredCredential | None:
    """Return the credential of an account, or None where the source needs none.

    Raises:
        ConfigurationError: The encryption key is missing or wrong.
    """
    if not connector.authenticates_by:
        return None
    return StoredCredential(
        account_id,
        user_id,
        connector.source_app,
        connector.title,
        connector.authenticates_by,
        open_key_ring(is_embedded=storage.is_embedded),
        storage.connect,
    )
