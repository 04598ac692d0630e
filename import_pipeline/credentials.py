"""The secrets of accounts: encrypted in `import_pipeline.credentials`, renewed by one process at a time.

Fernet (cryptography) with the keys of `IMPORT_PIPELINE_SECRET_KEY`, the first of which encrypts; on the embedded
database the key is in a file of its owner's. The plaintext names its account, so that a row copied to another one is
refused. Nothing here reaches outputs, logs or messages.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID, uuid4

import httpx
import psycopg
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from import_pipeline.authentication import ApiKey, Authentication
from import_pipeline.embedded import home
from import_pipeline.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    ImportPipelineError,
    ReconnectError,
    SourceUnavailableError,
)
from import_pipeline.rate_budgets import Connect
from import_pipeline.records import JsonObject
from import_pipeline.settings import source_url
from import_pipeline.sql import query
from import_pipeline.tenancy import acting_as

SECRET_FIELDS = ("api_key", "client_secret", "access_token", "refresh_token")
KEY_VARIABLE = "IMPORT_PIPELINE_SECRET_KEY"
_KEY_FILE = "secret.key"
_RENEWED_EARLY_SECONDS = 300.0
_LOCK_SECONDS = 120
_PATIENCE = (
    f"select set_config('lock_timeout', '{_LOCK_SECONDS}s', true), set_config('statement_timeout', '0', true), "
    "set_config('idle_in_transaction_session_timeout', '300s', true)"
)
_NEW_KEY = "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"


@dataclass(frozen=True, slots=True)
class Secrets:
    """What an account is let in with.

    Args:
        kind: `api-key`, `oauth` or `server-to-server`.
        fields: The secrets by name; never shown.
    """

    kind: str
    fields: dict[str, Any] = field(repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError("Secrets are not pickled.")


class KeyRing:
    """The keys that encrypt and decrypt: Fernet keys, of which the first encrypts and all decrypt.

    Args:
        keys: The keys.
        file: Or the file that holds them. It is read anew each time, since another process may rotate them.

    Raises:
        ConfigurationError: There is no key, or it is none.
    """

    def __init__(self, keys: Sequence[str] = (), file: Path | None = None) -> None:
        self.file = file
        self._given = list(keys)
        self._fernet()

    def __reduce__(self) -> NoReturn:
        raise TypeError("Keys are not pickled.")

    @property
    def keys(self) -> list[str]:
        """The keys at present."""
        return self._given if self.file is None else self.file.read_text().split()

    def encrypt(self, account_id: UUID, secrets: Secrets) -> bytes:
        """Return the secrets of an account as they are stored."""
        plain = {"account_id": str(account_id), "kind": secrets.kind, "fields": secrets.fields}
        return self._fernet().encrypt(json.dumps(plain).encode())

    def decrypt(self, account_id: UUID, stored: bytes) -> Secrets:
        """Return what was stored.

        Raises:
            ConfigurationError: The keys do not fit, or the row belongs to another account.
        """
        try:
            plain = json.loads(self._fernet().decrypt(bytes(stored)))
        except InvalidToken:
            raise ConfigurationError(
                f"The stored credential cannot be decrypted: {self.file or KEY_VARIABLE} holds another key. Give the "
                "old one too, or connect the source again."
            ) from None
        if plain["account_id"] != str(account_id):
            raise ConfigurationError("The stored credential belongs to another account; connect the source again.")
        return Secrets(plain["kind"], plain["fields"])

    def _fernet(self) -> MultiFernet:
        try:
            return MultiFernet([Fernet(key) for key in self.keys])
        except (ValueError, TypeError):
            where = f"The file {self.file}" if self.file else KEY_VARIABLE
            raise ConfigurationError(f"{where} does not hold a Fernet key; `{_NEW_KEY}` makes one.") from None
        except OSError as error:
            raise ConfigurationError(f"The file {self.file} cannot be read: {error.strerror}.") from None


def open_key_ring(*, is_embedded: bool) -> KeyRing:
    """Return the keys of the environment or, on the embedded database, of the file beside it, made on first use.

    Raises:
        ConfigurationError: There is no key, or it is none.
    """
    keys = os.environ.get(KEY_VARIABLE, "").replace(",", " ").split()
    if keys:
        return KeyRing(keys)
    if not is_embedded:
        raise ConfigurationError(
            f"Credentials are kept encrypted, and {KEY_VARIABLE} holds no key. Make one with `{_NEW_KEY}`, keep it "
            "where you keep secrets, and set it for every process that imports."
        )
    return KeyRing(file=ensure_key_file(_KEY_FILE))


def ensure_key_file(name: str) -> Path:
    """Return a file of the home that holds a key, made on first use."""
    path = home() / name
    if not path.exists():
        with _key_file_beside(path, [Fernet.generate_key().decode()]) as beside, suppress(FileExistsError):
            os.link(beside, path)  # unless another process was faster
    return path


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
            _replace_keys(ring.file, [Fernet.generate_key().decode(), *old])
        for account_id, user_id in accounts:
            with acting_as(conn, user_id):  # the database shows a credential to its owner alone
                stored = cursor.execute(query("lock_credential"), {"account_id": account_id}).fetchone()
                if stored is not None:
                    secret = ring.encrypt(account_id, ring.decrypt(account_id, stored[0]))
                    cursor.execute(query("renew_credential"), {"account_id": account_id, "secret": secret})
                    number += 1
    if ring.file is not None:
        _replace_keys(ring.file, [key for key in ring.keys if key not in old])
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
    with acting_as(conn, user_id):
        conn.execute(
            query("store_credential"),
            {"account_id": account_id, "secret": ring.encrypt(account_id, secrets), "options": Jsonb(options)},
        )


def forget_credential(conn: psycopg.Connection[Any], account_id: UUID, user_id: UUID) -> bool:
    """Delete the secrets of an account and leave it inactive; its recordings stay. False if there were none."""
    with acting_as(conn, user_id), conn.cursor(row_factory=tuple_row) as cursor:
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
                cursor.execute(_PATIENCE)
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
        from import_pipeline.oauth import request_token  # loads oauthlib, for which only tokens are a reason

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
            acting_as(conn, self._user_id),
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


@contextmanager
def _key_file_beside(path: Path, keys: Sequence[str]) -> Iterator[Path]:
    """Write a file of keys that only its owner may read, to be put in its place whole; what is left of it goes."""
    beside = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("\n".join(keys) + "\n")
            file.flush()
            os.fsync(file.fileno())
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def _replace_keys(path: Path, keys: Sequence[str]) -> None:
    with _key_file_beside(path, keys) as beside:
        beside.replace(path)
