"""The secrets of accounts: encrypted in `import_pipeline.credentials`, renewed by one process at a time.

What encrypts them is in `keys`. Nothing here reaches outputs, logs or messages.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import psycopg
from cryptography.fernet import Fernet
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from import_pipeline.database.connections import Connect, set_locally
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import (
    DatabaseUnavailableError,
    ImportPipelineError,
    ReconnectError,
    SourceUnavailableError,
)
from import_pipeline.providers.authentication import ApiKey, Authentication
from import_pipeline.providers.keys import KeyRing, Secrets, replace_keys
from import_pipeline.providers.oauth import request_token
from import_pipeline.providers.source_settings import source_url
from import_pipeline.records import JsonObject

SECRET_FIELDS = ("api_key", "client_secret", "access_token", "refresh_token")
_RENEWED_EARLY_SECONDS = 300.0
_LOCK_SECONDS = 120


def rotate_keys(conn: psycopg.Connection[Any], ring: KeyRing) -> int:
    """Encrypt every credential with the first key; with a key file, with a new one that replaces the others.

    Returns:
        How many credentials there are.

    Raises:
        ConfigurationError: One cannot be decrypted; nothing was changed.
    """
    number = 0
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        with acting_as(conn, None):
            accounts = cursor.execute(query("find_accounts_with_credentials")).fetchall()
        old = ring.keys
        if ring.file is not None:
            # Both are in the file as long as rows of either kind may exist, so a crash half-way loses nothing.
            replace_keys(ring.file, [Fernet.generate_key().decode(), *old])
        for account_id, user_id in accounts:
            with acting_as(conn, user_id, writes=()):  # the database shows a credential to its owner alone
                stored = cursor.execute(query("lock_credential"), {"account_id": account_id}).fetchone()
                if stored is not None:
                    secret = ring.encrypt(account_id, ring.decrypt(account_id, stored[0]))
                    cursor.execute(query("renew_credential"), {"account_id": account_id, "secret": secret})
                    number += 1
    if ring.file is not None:
        replace_keys(ring.file, [key for key in ring.keys if key not in old])
    return number


def store_credential(
    conn: psycopg.Connection[Any],
    ring: KeyRing,
    account_id: UUID,
    user_id: UUID,
    secrets: Secrets,
    options: JsonObject,
) -> None:
    """Keep the secrets of an account, and what it imports besides, in place of what was kept before."""
    with acting_as(conn, user_id, writes=()):
        conn.execute(
            query("store_credential"),
            {"account_id": account_id, "secret": ring.encrypt(account_id, secrets), "options": Jsonb(options)},
        )


def forget_credential(conn: psycopg.Connection[Any], account_id: UUID, user_id: UUID) -> bool:
    """Delete the secrets of an account and leave it inactive; its recordings stay. False if there were none."""
    with acting_as(conn, user_id, writes=("import_sources",)), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query("forget_credential"), {"account_id": account_id})
        found = cursor.fetchone() is not None
        cursor.execute(query("close_account"), {"id": account_id, "user_id": user_id})
    return found


def find_options(conn: psycopg.Connection[Any], account_id: UUID, user_id: UUID) -> JsonObject | None:
    """Return what an account imports besides its credential, or None if it has none."""
    with acting_as(conn, user_id), conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(query("find_account_options"), {"account_id": account_id}).fetchone()
    return None if row is None else row[0]


class StoredCredential:
    """The credential of one account as the HTTP client uses it; see `http.Credential`.

    Args:
        account_id: The account.
        user_id: Its owner.
        source_app: Its source.
        title: What people call the source.
        declared: The kinds of credentials the source accepts.
        ring: The keys.
        connect: Lends an idle connection.
    """

    def __init__(
        self,
        account_id: UUID,
        user_id: UUID,
        source_app: str,
        title: str,
        declared: Sequence[Authentication],
        ring: KeyRing,
        connect: Connect,
    ) -> None:
        self._account_id = account_id
        self._user_id = user_id
        self._source_app = source_app
        self._title = title
        self._declared = {each.kind: each for each in declared}
        self._ring = ring
        self._connect = connect
        self._loading = threading.Lock()
        self._renewing = threading.Lock()
        self._present: Secrets | None = None
        self._seen: tuple[str, ...] = ()
        self._failure: tuple[float, ImportPipelineError] | None = None

    @property
    def kind(self) -> str:
        """Which kind of credential it is."""
        return self._load().kind

    @property
    def secrets(self) -> Sequence[str]:
        """Return what must not appear in any message: present and earlier secrets."""
        return self._seen

    def sign(self, request: httpx.Request) -> None:
        """Put the key or a fresh access token into a request."""
        secrets = self._load_fresh()
        declared = self._declared[secrets.kind]
        if isinstance(declared, ApiKey):
            if declared.header:
                request.headers[declared.header] = self._sendable(secrets.fields["api_key"])
            if declared.parameter:
                request.url = request.url.copy_set_param(declared.parameter, secrets.fields["api_key"])
            return
        request.headers["Authorization"] = f"Bearer {self._sendable(secrets.fields['access_token'])}"

    def renew(self, refused: httpx.Request) -> bool:
        """Get another access token than the one that was refused; a key has no other."""
        secrets = self._load()
        if isinstance(self._declared[secrets.kind], ApiKey):
            return False
        self._renew(refused.headers.get("Authorization", "").removeprefix("Bearer "))
        return True

    def check(self) -> None:
        """Make sure that there is a credential and that it is fresh.

        Raises:
            ReconnectError: There is none, or the provider no longer accepts it.
            ConfigurationError: It cannot be decrypted.
            HttpError: The provider refused for another reason, for instance because it does not know the app.
            SourceUnavailableError: The provider gave no new token for now.
        """
        self._load_fresh()

    def _load_fresh(self) -> Secrets:
        secrets = self._load()
        if not isinstance(self._declared[secrets.kind], ApiKey) and _is_stale(secrets.fields):
            return self._renew(secrets.fields.get("access_token"))
        return secrets

    def _load(self) -> Secrets:
        with self._loading:
            if self._present is None:
                with self._cursor() as cursor:
                    row = cursor.execute(query("find_credential"), {"account_id": self._account_id}).fetchone()
                return self._keep(self._read(row))
            return self._present

    def _renew(self, refused: str | None) -> Secrets:
        """Return a fresh access token: the one that another thread or process got in between, or a new one."""
        began_at = time.monotonic()
        with self._renewing:
            if self._present is not None and self._is_good(self._present, refused):
                return self._present
            if self._failure is not None and self._failure[0] > began_at:  # while this thread waited
                raise self._failure[1].with_traceback(None)
            try:
                return self._keep(self._renew_stored(refused))
            except ImportPipelineError as error:
                self._failure = time.monotonic(), error
                raise

    def _renew_stored(self, refused: str | None) -> Secrets:
        """Renew what is stored, under a lock that makes other processes wait; a new token is stored before its use."""
        renewed: Secrets | None = None
        try:
            with self._cursor() as cursor:
                set_locally(
                    cursor.connection,
                    lock_timeout=f"{_LOCK_SECONDS}s",
                    statement_timeout="0",
                    idle_in_transaction_session_timeout="300s",
                )
                stored = self._read(self._lock(cursor))
                if self._is_good(stored, refused):
                    return stored
                renewed = replace(stored, fields=stored.fields | self._request_token(stored))
                self._store(cursor, renewed)
        except BaseException as error:
            if renewed is None:
                raise
            # The old token may be dead and only we know the new one: once more, on another connection.
            with self._cursor() as cursor:
                self._store(cursor, renewed)
            if not isinstance(error, psycopg.Error | DatabaseUnavailableError):
                raise
        return renewed

    def _lock(self, cursor: psycopg.Cursor[Any]) -> tuple[Any, ...] | None:
        try:
            return cursor.execute(query("lock_credential"), {"account_id": self._account_id}).fetchone()
        except psycopg.errors.LockNotAvailable:
            raise SourceUnavailableError(
                f"Another process has been asking {self._title} for an access token for {_LOCK_SECONDS} seconds."
            ) from None

    def _store(self, cursor: psycopg.Cursor[Any], secrets: Secrets) -> None:
        secret = self._ring.encrypt(self._account_id, secrets)
        cursor.execute(query("renew_credential"), {"account_id": self._account_id, "secret": secret})

    def _keep(self, secrets: Secrets) -> Secrets:
        known = [str(secrets.fields[name]) for name in SECRET_FIELDS if secrets.fields.get(name)]
        self._seen = tuple(dict.fromkeys((*self._seen, *known)))
        self._present = secrets
        return secrets

    def _request_token(self, secrets: Secrets) -> dict[str, Any]:
        declared = self._declared[secrets.kind]
        if isinstance(declared, ApiKey):
            raise TypeError("A key cannot be renewed.")
        token_url = source_url(self._source_app, declared.token_url, "TOKEN_URL")
        return request_token(self._title, declared, secrets.fields, token_url=token_url)

    def _sendable(self, secret: str) -> str:
        if not re.fullmatch(r"[!-~]+", secret):  # the driver's own words would quote it
            raise ReconnectError(
                f"The credential for {self._title} holds characters that cannot be sent: run `import-pipeline connect "
                f"{self._source_app}`."
            )
        return secret

    @contextmanager
    def _cursor(self) -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
        with (
            self._connect() as conn,
            acting_as(conn, self._user_id, writes=()),
            conn.cursor(row_factory=tuple_row) as cursor,
        ):
            yield cursor

    def _is_good(self, secrets: Secrets, refused: str | None) -> bool:
        return secrets.fields.get("access_token") not in (None, refused) and not _is_stale(secrets.fields)

    def _read(self, row: tuple[Any, ...] | None) -> Secrets:
        if row is None:
            raise ReconnectError(f"{self._title} is not connected: run `import-pipeline connect {self._source_app}`.")
        secrets = self._ring.decrypt(self._account_id, row[0])
        if secrets.kind not in self._declared:
            raise ReconnectError(
                f"{self._title} no longer accepts a credential of the kind {secrets.kind!r}: run "
                f"`import-pipeline connect {self._source_app}`."
            )
        return secrets


def _is_stale(fields: Mapping[str, Any]) -> bool:
    """Say whether an access token is missing or about to run out: five minutes early, of short-lived ones a tenth."""
    if not fields.get("access_token"):
        return True
    early = min(_RENEWED_EARLY_SECONDS, 0.1 * float(fields.get("lifetime") or 3600))
    return time.time() > float(fields.get("expires_at") or 0) - early
