"""The commands for credentials: `connect`, `disconnect` and `rotate-key`. None of them loads Dagster."""

from __future__ import annotations

import re
import threading
import webbrowser
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from import_pipeline.cli.output import complain, plural, print_json, say
from import_pipeline.cli.session import INTERRUPTED, json_option, open_session, user_option
from import_pipeline.connectors.base import Connector, get_connector
from import_pipeline.database.opening import Database, open_database
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import (
    ConfigurationError,
    ImportPipelineError,
    ItemError,
    SourceUnavailableError,
    class_of,
    passes,
)
from import_pipeline.library.accounts import activate_account, ensure_account, find_account
from import_pipeline.library.ledger import count_recordings
from import_pipeline.records import Access, Account, JsonObject

if TYPE_CHECKING:
    from import_pipeline.providers.keys import KeyRing, Secrets

_KIND_NAMES = {"api-key": "API key", "oauth": "OAuth connection", "server-to-server": "server-to-server app"}
_CONNECT_AGAIN = re.compile(r" (Its access has ended: run|Run) `import-pipeline connect[^`]*`[^.]*\.")


@click.command()
@click.argument("source")
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option("--oauth", "by_consent", is_flag=True, help="Consent in the browser, with an OAuth app of yours.")
@click.option("--kind", metavar="KIND", help="Which kind of credential, where a source accepts several.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="Where --oauth waits for the browser, at http://127.0.0.1:PORT/callback; 0 lets the system choose.",
)
@user_option
@json_option
def connect(
    source: str,
    addresses: tuple[str, ...],
    by_consent: bool,
    kind: str | None,
    port: int,
    user: str | None,
    as_json: bool,
) -> None:
    """Connect a source: check a credential with it and store it, encrypted.

    Keys and secrets are never arguments. Each is taken from IMPORT_PIPELINE_<SOURCE>_<FIELD> (API_KEY, CLIENT_ID,
    CLIENT_SECRET, REFRESH_TOKEN, ACCOUNT_ID), or from standard input (a JSON object, `name=value` lines, or the one
    value that is missing); otherwise you are asked. ADDRESS says what to import, for sources that need it.
    """
    from import_pipeline.cli.credential_input import find_kinds, read_credential

    connector = _require_credentials(source)
    if by_consent and kind not in (None, "oauth"):
        raise ConfigurationError(f"--oauth and --kind {kind} exclude each other.")
    kinds = find_kinds(connector, "oauth" if by_consent else kind)
    if addresses and not connector.addresses:
        raise ConfigurationError(f"{connector.title} needs no address: everything the credential may see is imported.")
    options = connector.check_options({"addresses": list(addresses)} if addresses else {})
    try:
        with open_session(user, creates_user=True) as (database, conn, user_id):
            # What could stop it at the end is told before anybody has typed anything.
            from import_pipeline.providers.keys import Secrets, open_key_ring  # loads cryptography

            ring = open_key_ring(is_embedded=database.is_embedded)
            options = options or _earlier_options(conn, user_id, connector)
            chosen, fields = read_credential(connector, kinds, for_consent=by_consent)
            if by_consent:
                fields = _ask_for_consent(connector, chosen, fields, port)
            access, begins_anew = _store_checked(
                database, ring, connector, user_id, Secrets(chosen.kind, fields), options
            )
    except (click.Abort, KeyboardInterrupt):
        complain("Interrupted; nothing was stored.")
        raise SystemExit(INTERRUPTED) from None
    if as_json:
        told = {"source": source, "account_email": access.email, "problems": list(access.problems)}
        print_json(told | {"kind": chosen.kind})
    else:
        say(f"Connected {connector.title}{f' as {access.email}' if access.email else ''}.")
        if begins_anew:
            say("This is another account, or it imports something else than before: its whole history is listed anew.")
        for problem in access.problems:
            say(f"Warning: {problem}")
        where = "in secret.key beside the library" if ring.file else "in IMPORT_PIPELINE_SECRET_KEY"
        say(f"The {_KIND_NAMES.get(chosen.kind, chosen.kind)} is stored encrypted; what decrypts it is {where}.")
        say(f"Next: import-pipeline sync {source}")
    raise SystemExit(1 if access.problems else 0)


@click.command()
@click.argument("source")
@user_option
@json_option
def disconnect(source: str, user: str | None, as_json: bool) -> None:
    """Delete the credential of a source; its recordings stay."""
    from import_pipeline.providers.credentials import forget_credential

    connector = _require_credentials(source)
    with open_session(user) as (_, conn, user_id):
        account_id = find_account(conn, user_id, source)
        is_forgotten = account_id is not None and forget_credential(conn, account_id, user_id)
        with acting_as(conn, user_id):
            recordings = count_recordings(conn, user_id).get(source, 0)
    if as_json:
        print_json({"source": source, "disconnected": is_forgotten, "recordings": recordings})
    elif is_forgotten:
        stays = f"what was imported stays ({plural(recordings, 'recording')})"
        say(f"Disconnected {connector.title}: its credential is deleted, {stays}.")
        say(f"At {connector.title} itself it is still valid; revoke it there if nothing else uses it.")
    else:
        say(f"{connector.title} was not connected.")
    raise SystemExit(0 if is_forgotten else 1)


@click.command("rotate-key")
@json_option
def rotate_key(as_json: bool) -> None:
    """Encrypt all credentials with a new key.

    On the embedded database one is made. Otherwise put a new one in front of those in IMPORT_PIPELINE_SECRET_KEY, run
    this, and remove the others.
    """
    from import_pipeline.providers.credentials import rotate_keys

    with open_database() as database, database.connect() as conn:
        from import_pipeline.providers.keys import open_key_ring

        ring = open_key_ring(is_embedded=database.is_embedded)
        number = rotate_keys(conn, ring)
    if as_json:
        print_json({"credentials": number})
        return
    if ring.file:
        how = "a new key, in secret.key beside the library; only older backups need the old one"
    elif len(ring.keys) > 1:
        how = "the first key of IMPORT_PIPELINE_SECRET_KEY; the others can be removed from it now"
    else:
        how = "the only key of IMPORT_PIPELINE_SECRET_KEY; to change it, put a new one in front and run this again"
    say(f"{plural(number, 'credential')} {'is' if number == 1 else 'are'} encrypted with {how}.")


def _require_credentials(source: str) -> Connector:
    connector = get_connector(source)
    if not connector.authenticates_by:
        command = f"sync {source}" if connector.is_polled else "upload PATH"
        raise ConfigurationError(f"{connector.title} needs no credential; use `import-pipeline {command}`.")
    return connector


def _earlier_options(conn: Any, user_id: UUID, connector: Connector) -> JsonObject:
    """Return what the account names already, for when only the credential is renewed."""
    from import_pipeline.providers.credentials import find_options

    account_id = find_account(conn, user_id, connector.source_app)
    options = find_options(conn, account_id, user_id) if account_id else None
    if connector.addresses and not options:
        raise ConfigurationError(
            f"{connector.title} needs {connector.addresses}: `import-pipeline connect {connector.source_app} ADDRESS…`."
        )
    return options or {}


def _ask_for_consent(connector: Connector, chosen: Any, fields: JsonObject, port: int) -> JsonObject:
    from import_pipeline.providers.oauth import authorize
    from import_pipeline.providers.source_settings import source_url

    def show_address(address: str) -> None:
        say(f"Consent in your browser; if it does not open by itself, open this address:\n{address}")
        # Some browsers return only when they are closed.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    source = connector.source_app
    try:
        return authorize(
            connector.title,
            chosen,
            fields["client_id"],
            fields["client_secret"],
            authorize_url=source_url(source, chosen.authorize_url, "AUTHORIZE_URL"),
            token_url=source_url(source, chosen.token_url, "TOKEN_URL"),
            show_address=show_address,
            port=port,
        )
    except ImportPipelineError as error:
        raise _as_told(connector, error) from error


def _store_checked(
    database: Database,
    ring: KeyRing,
    connector: Connector,
    user_id: UUID,
    secrets: Secrets,
    options: JsonObject,
) -> tuple[Access, bool]:
    """Store a credential if the provider accepts it, else leave everything as it was.

    It is checked as runs use it, from the database, in a transaction that is committed last: whatever happens before,
    to us or to the provider, an earlier credential is still there.

    Returns:
        What the provider says of it, and whether the account's history is listed anew.

    Raises:
        ConfigurationError: The provider does not accept it.
        SourceUnavailableError: It could not be asked.
    """
    from import_pipeline.library.clients import Storage, open_client, open_credential
    from import_pipeline.providers.credentials import find_options, store_credential

    with database.connect() as conn:  # the one from before has been idle for as long as the person typed
        # Rate budgets are counted for it, and stay: the provider has counted the requests too.
        account_id = ensure_account(conn, user_id, connector.source_app, is_active=False)
        account = Account(
            account_id, user_id, connector.source_app, connector.title, opened_at=datetime.now(UTC), options=options
        )
        say(f"Asking {connector.title} …")
        with conn.transaction():
            is_another = bool(connector.addresses) and find_options(conn, account_id, user_id) != options
            store_credential(conn, ring, account_id, user_id, secrets, options)
            here = Storage(lambda: nullcontext(conn), database.is_embedded)
            credential = open_credential(connector, account_id, user_id, here)
            everywhere = Storage(database.connect, database.is_embedded)
            try:
                with open_client(connector, account, everywhere, credential=credential, max_attempts=4) as http:
                    access = connector.check_access(account, http)
            except ImportPipelineError as error:
                raise _as_told(connector, error) from error
            problem = "; ".join(access.problems) or None
            begins_anew = activate_account(
                conn, account_id, user_id, connector.source_app, access.email, problem, is_another=is_another
            )
    return access, begins_anew


def _as_told(connector: Connector, error: ImportPipelineError) -> ImportPipelineError:
    """Return a failed check as the person is told it, with the exit code of its class."""
    message = _CONNECT_AGAIN.sub("", str(error))
    if passes(class_of(error)):
        return SourceUnavailableError(f"{message} Nothing was changed; try again later.")
    if isinstance(error, ItemError):
        return ConfigurationError(f"{connector.title} does not accept this. {message} Nothing was changed.")
    return ConfigurationError(f"{message} Nothing was changed.")
