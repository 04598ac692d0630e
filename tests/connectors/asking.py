"""What the tests of single connectors share: a client without a database, and a server that answers as a test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
from fakes import FakeServer
from fakes.server import Request, Response

from import_pipeline.connectors.base import Connector
from import_pipeline.library.normalise import normalise_item
from import_pipeline.providers.authentication import ApiKey
from import_pipeline.providers.http import HttpClient
from import_pipeline.records import Account, ConnectorRecord, ListedItem, NewItem, Outcome, Ready
from import_pipeline.stages.listing import list_items
from import_pipeline.stages.transform import transform_item


@dataclass(frozen=True)
class Held:
    """A credential that is never renewed."""

    kind: str
    secret: str
    connector: Connector

    @property
    def secrets(self) -> Sequence[str]:
        return [self.secret]

    def sign(self, request: httpx.Request) -> None:
        how = next(each for each in self.connector.authenticates_by if each.kind == self.kind)
        if not isinstance(how, ApiKey):
            request.headers["Authorization"] = f"Bearer {self.secret}"
        elif how.header:
            request.headers[how.header] = self.secret
        elif how.parameter:
            request.url = request.url.copy_set_param(how.parameter, self.secret)

    def renew(self, refused: httpx.Request) -> bool:
        return False


def open_http(connector: Connector, url: str, kind: str, secret: str = "made-up-secret") -> HttpClient:  # noqa: S107
    """Return a client that asks a server in place of the provider and never waits."""
    return HttpClient(
        connector.title,
        url,
        Held(kind, secret, connector),
        trusted_domains=connector.trusted_domains,
        limit_ends_at=connector.limit_ends_at,
        sleep=lambda _: None,
    )


def make_account(connector: Connector, days: float = 30, **options: Any) -> Account:
    """Return an account that was synced some days ago."""
    now = datetime.now(UTC)
    synced = now - timedelta(days=days) + connector.look_back
    return Account(uuid4(), uuid4(), connector.source_app, "me", now, last_sync_at=synced, options=options)


def list_all(connector: Connector, http: HttpClient, account: Account) -> dict[str, ListedItem]:
    """Return what a run would list, by id."""
    return {item.external_id: item for item in list_items(connector, account, http)}


def attempt(connector: Connector, http: HttpClient, account: Account, item: ListedItem, attempts: int = 0) -> Outcome:
    """Return what a run would make of an item."""
    now = datetime.now(UTC)
    return transform_item(connector, account, NewItem(normalise_item(item), attempts, now), http, now)


def import_all(connector: Connector, http: HttpClient, account: Account) -> dict[str, Outcome]:
    """Return what a run would make of everything, by id."""
    listed = list_all(connector, http, account)
    return {name: attempt(connector, http, account, item) for name, item in listed.items()}


def record_of(outcome: Outcome) -> ConnectorRecord:
    """Return the record of an item that was imported."""
    assert isinstance(outcome, Ready), outcome
    return outcome.record


@dataclass(kw_only=True, eq=False)
class Site(FakeServer):
    """Answers everything as a function says: with a JSON object, a text, or a whole response."""

    says: Callable[[Request], Any]

    def answer(self, request: Request, *_: Any) -> Response:
        found = self.says(request)
        if isinstance(found, str | bytes):
            return Response(200, found.encode() if isinstance(found, str) else found, "text/plain")
        return found if isinstance(found, Response) else Response.json(found)

    @property
    def targets(self) -> list[str]:
        """What was asked, in order."""
        return [record.target for record in self.requests]
