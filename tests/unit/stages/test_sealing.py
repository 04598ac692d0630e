"""Sealed files: what was changed, cut off, lengthened, moved or sealed by somebody else is refused, all of it."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from import_pipeline.errors import ConfigurationError, StagedFileError
from import_pipeline.stages import sealing
from import_pipeline.stages.sealing import SealedReader, SealedWriter, sealing_keys

KEY, OTHER = b"a key of ours", b"a key of somebody else's"
PLACE = "run/step/result.sealed"


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_PIECE_BYTES", 100)


def seal(data: bytes, place: str = PLACE, key: bytes = KEY) -> bytes:
    raw = io.BytesIO()
    sealed = SealedWriter(raw, place, [key])
    for start in range(0, len(data), 33):
        sealed.write(data[start : start + 33])
    sealed.finish()
    return raw.getvalue()


def unseal(data: bytes, place: str = PLACE, *keys: bytes) -> bytes:
    """Read as `staging` does: all of it is looked at before anything is used."""
    SealedReader(io.BytesIO(data), place, keys or [KEY]).verify()
    reader = SealedReader(io.BytesIO(data), place, keys or [KEY])
    return b"".join(iter(lambda: reader.read(17), b""))


def pieces(data: bytes) -> tuple[bytes, list[bytes]]:
    """The head of a sealed file, and its pieces with their lengths."""
    at = len(sealing._HEAD) + 32
    head, found = data[:at], []
    while at < len(data):
        length = 4 + int.from_bytes(data[at : at + 4], "big")
        found.append(data[at : at + length])
        at += length
    return head, found


@pytest.mark.parametrize("length", [0, 1, 99, 100, 101, 200, 1000])
def test_what_was_sealed_comes_back(length: int) -> None:
    data = os.urandom(length)
    sealed = seal(data)
    assert unseal(sealed) == data
    assert unseal(sealed, PLACE, OTHER, KEY) == data, "with an older key too"
    assert length < 99 or data not in sealed
    assert seal(data) != sealed


def test_no_bit_can_be_changed_and_no_byte_be_missing_or_too_many() -> None:
    sealed, chance = seal(os.urandom(250)), random.Random(1)  # noqa: S311 - no secret
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1 << chance.randrange(8)
        with pytest.raises(StagedFileError):
            unseal(bytes(changed))
        with pytest.raises(StagedFileError):
            unseal(sealed[:position])
        with pytest.raises(StagedFileError):
            unseal(sealed[:position] + sealed[position + 1 :])
    for more in (b"\0", sealed, pieces(sealed)[1][-1]):
        with pytest.raises(StagedFileError):
            unseal(sealed + more)


def test_pieces_can_be_neither_left_out_nor_repeated_nor_put_in_another_order_nor_taken_from_another_file() -> None:
    data = os.urandom(350)
    sealed, other = seal(data), seal(data)
    head, of_file = pieces(sealed)
    _, of_other = pieces(other)
    assert len(of_file) == 4
    first, second, third, last = of_file
    forged = [
        [first, second, last], [first, second, third], [second, third, last], [first, first, second, third, last],
        [first, third, second, last], [first, second, third, last, last], [last], [],
        [of_other[0], second, third, last], [first, second, third, of_other[3]], of_other,
    ]  # fmt: skip
    for each in forged:
        with pytest.raises(StagedFileError):
            unseal(head + b"".join(each))
    assert unseal(head + b"".join(of_file)) == data


def test_a_file_is_good_in_its_place_and_for_its_key_only() -> None:
    sealed = seal(b"said")
    for place in ("other/step/result.sealed", "run/step[1]/result.sealed", "run/step/other.sealed", ""):
        with pytest.raises(StagedFileError):
            unseal(sealed, place)
    with pytest.raises(StagedFileError):
        unseal(sealed, PLACE, OTHER)


def test_a_length_without_end_takes_no_memory() -> None:
    head, _ = pieces(seal(b""))
    with pytest.raises(StagedFileError):
        unseal(head + b"\xff\xff\xff\xff" + b"x" * 1000)


# --- keys ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMPORT_PIPELINE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_without_a_setting_the_key_is_in_a_file_of_its_owners(home: Path) -> None:
    (key,) = sealing_keys()
    assert sealing_keys() == [key]
    file = home / "staging.key"
    assert file.read_text().strip().encode() == key
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o604)
    with pytest.raises(ConfigurationError, match="chmod go-rwx"):
        sealing_keys()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(home: Path) -> None:
    sealing_keys()
    os.chown(home / "staging.key", 65534, 65534)
    with pytest.raises(ConfigurationError, match="nobody"):
        sealing_keys()


def test_a_deployment_seals_with_its_first_key_and_opens_with_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    monkeypatch.setenv("IMPORT_PIPELINE_SECRET_KEY", old)
    sealed = seal(b"said", key=sealing_keys()[0])
    monkeypatch.setenv("IMPORT_PIPELINE_SECRET_KEY", f"{new},{old}")
    assert sealing_keys()[0] == new.encode()
    assert unseal(sealed, PLACE, *sealing_keys()) == b"said"
    assert not (home / "staging.key").exists()
    monkeypatch.setenv("IMPORT_PIPELINE_SECRET_KEY", "no key")
    with pytest.raises(ConfigurationError, match="Fernet"):
        sealing_keys()
