"""The keys that encrypt: of the environment or, on the embedded database, in a file of its owner's.

Fernet (cryptography) with the keys of `IMPORT_PIPELINE_SECRET_KEY`, the first of which encrypts. The plaintext names
its account, so that a row copied to another one is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID, uuid4

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from import_pipeline.database.embedded import home
from import_pipeline.errors import ConfigurationError

KEY_VARIABLE = "IMPORT_PIPELINE_SECRET_KEY"
_KEY_FILE = "secret.key"
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


def replace_keys(path: Path, keys: Sequence[str]) -> None:
    """Put other keys into a file, all at once."""
    with _key_file_beside(path, keys) as beside:
        beside.replace(path)
