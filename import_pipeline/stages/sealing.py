"""Files that nobody else can write or read: in pieces, each encrypted and bound to its file, its place and its number.

AES-GCM (cryptography) with a key per file, derived from the key of the installation. A piece is handed on once it is
known to be genuine, so nothing that somebody else wrote is ever unpacked or parsed; a file that was changed, cut off,
lengthened, put together from others or moved to another place is refused. Not here: what the files hold, and whose.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Sequence
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from import_pipeline.errors import StagedFileError
from import_pipeline.providers.keys import KEY_VARIABLE, KeyRing, ensure_key_file
from import_pipeline.stages.private_folders import require_own

_HEAD = b"import_pipeline sealed 1\n"
_SALT_BYTES = 32
_PIECE_BYTES = 1 << 18
_LENGTH = struct.Struct(">I")
_TAG_BYTES = 16
_KEY_FILE = "staging.key"


def sealing_keys() -> list[bytes]:
    """Return the keys of this installation, of which the first seals and all open.

    They are those of `IMPORT_PIPELINE_SECRET_KEY`, so that all workers of a deployment have them, or that of a file
    of our own: with a new key for credentials, runs under way go on.

    Raises:
        ConfigurationError: They cannot be read, or others may write or read the file.
    """
    keys = os.environ.get(KEY_VARIABLE, "").replace(",", " ").split()
    if not keys:
        path = ensure_key_file(_KEY_FILE)
        require_own(path, 0o077)
        return [key.encode() for key in KeyRing(file=path).keys]
    return [key.encode() for key in KeyRing(keys).keys]


class SealedWriter:
    """Seals what is written; only once it is finished the file is whole.

    Args:
        raw: Where the sealed bytes go.
        place: What the file is; only a reader that asks for the same gets it.
        keys: See `sealing_keys`.
    """

    def __init__(self, raw: IO[bytes], place: str, keys: Sequence[bytes]) -> None:
        salt = secrets.token_bytes(_SALT_BYTES)
        self._raw = raw
        self._place = place.encode()
        self._cipher = _cipher(keys[0], salt)
        self._number = 0
        self._pending = bytearray()
        raw.write(_HEAD + salt)

    def write(self, data: bytes) -> int:
        """Take some bytes; whole pieces are passed on."""
        self._pending += data
        while len(self._pending) > _PIECE_BYTES:  # never all of it: the last piece says that it is the last
            self._seal(bytes(self._pending[:_PIECE_BYTES]), is_last=False)
            del self._pending[:_PIECE_BYTES]
        return len(data)

    def finish(self) -> None:
        """Write the last piece."""
        self._seal(bytes(self._pending), is_last=True)

    def _seal(self, piece: bytes, *, is_last: bool) -> None:
        sealed = self._cipher.encrypt(_nonce(self._number, is_last=is_last), piece, self._place)
        self._raw.write(_LENGTH.pack(len(sealed)) + sealed)
        self._number += 1


class SealedReader:
    """Reads what was sealed for a place; see `SealedWriter`.

    Raises:
        StagedFileError: What comes next, or the file as a whole, is not as it was sealed here.
    """

    def __init__(self, raw: IO[bytes], place: str, keys: Sequence[bytes]) -> None:
        self._raw = raw
        self._place = place.encode()
        self._number = 0
        self._is_over = False
        self._piece = memoryview(b"")
        if self._take(len(_HEAD)) != _HEAD:
            raise StagedFileError
        salt = self._take(_SALT_BYTES)
        self._ciphers = [_cipher(key, salt) for key in keys]

    def read(self, size: int = -1) -> bytes:
        """Return some genuine bytes, none only at the end that was sealed as such."""
        while not self._piece and not self._is_over:
            self._piece = memoryview(self._open_next())
        taken = self._piece if size < 0 else self._piece[:size]
        self._piece = self._piece[len(taken) :]
        return bytes(taken)

    def verify(self) -> None:
        """Read to the end."""
        while not self._is_over:
            self._open_next()

    def _open_next(self) -> bytes:
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        if length > _PIECE_BYTES + _TAG_BYTES:
            raise StagedFileError
        sealed = self._take(length)
        for cipher in tuple(self._ciphers):
            for is_last in (False, True):
                try:
                    piece = cipher.decrypt(_nonce(self._number, is_last=is_last), sealed, self._place)
                except InvalidTag:
                    continue
                self._number += 1
                self._ciphers = [cipher]
                self._is_over = is_last
                if is_last and self._raw.read(1):
                    raise StagedFileError
                return piece
        raise StagedFileError

    def _take(self, length: int) -> bytes:
        taken = b""
        while len(taken) < length:  # an object store may give less than it was asked for
            more = self._raw.read(length - len(taken))
            if not more:
                raise StagedFileError
            taken += more
        return taken


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), length=32, salt=salt, info=_HEAD).derive(key))


def _nonce(number: int, *, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([is_last])
