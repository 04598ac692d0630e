"""Files and folders that lead elsewhere, change under the hand, have no end, or have names that nobody can type."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import threading
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import tenants
from commands import VTT
from hostile.attacks import NASTY, is_harmless
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from import_pipeline.connectors import file_upload
from import_pipeline.connectors.file_upload import FileUpload
from import_pipeline.connectors.file_upload.files import find_files, inspect_file, path_to_uri, uri_to_path
from import_pipeline.defs.sensors.watch_drop_folder import _explain, _Tick
from import_pipeline.library.accounts import ensure_account
from import_pipeline.library.drop_folder import find_drop_accounts, scan_drop_folder
from import_pipeline.providers.http import HttpClient
from import_pipeline.records import Account, Failed, NewItem, Ready, Waiting
from import_pipeline.stages.listing import list_items
from import_pipeline.stages.transform import transform_item

SECRET = "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nNobody may read this.\n"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_SETTLE_SECONDS", "0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one sound file."""
    folder = tmp_path / "ana@example.com"
    folder.mkdir()
    (folder / "sound.vtt").write_text(VTT.format(text="This is sound."))
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "ben@example.com" / "secret.vtt"
    path.parent.mkdir()
    path.write_text(SECRET)
    return path


def upload(*paths: Path, dropped: bool = False) -> dict[str, str]:
    """Return what becomes of the files of these paths: title → transcript, or the reason it has none."""
    source = FileUpload(is_of_command=not dropped)
    options = source.check_options({"dropped" if dropped else "paths": [path_to_uri(path) for path in paths]})
    account = Account(uuid4(), uuid4(), source.source_app, "ana@example.com", datetime.now(UTC), options=options)
    outcomes: dict[str, str] = {}
    with HttpClient("Files", "http://localhost") as http:
        for item in list_items(source, account, http):
            json.dumps(item.details)
            outcome = transform_item(source, account, NewItem(item), http, datetime.now(UTC))
            if isinstance(outcome, Ready):
                outcomes[item.title or ""] = outcome.record.full_transcript
            else:
                assert isinstance(outcome, Failed | Waiting)
                assert not isinstance(outcome, Failed) or outcome.error_class == "data"
                assert is_harmless(outcome.reason)
                outcomes[item.title or ""] = f"reason: {outcome.reason}"
    return outcomes


# --- what is no file ----------------------------------------------------------------------------------------------


def make_pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path, _: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as opened, suppress(OSError):
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            opened.bind(path.name)
        finally:
            os.chdir(here)


def link_to(target: str) -> Any:
    return lambda path, _: path.symlink_to(target)


ODD_FILES = {
    "a pipe": make_pipe,
    "a socket": make_socket,
    "a device": link_to("/dev/zero"),
    "a terminal": link_to("/dev/tty"),
    "its own descriptor": link_to("/proc/self/fd/0"),
    "its memory": link_to("/proc/self/mem"),
    "a circle": lambda path, _: path.symlink_to(path),
    "nowhere": link_to("/no/such/file"),
    "a folder above": link_to(".."),
    "a folder": lambda path, _: path.mkdir(),
    "a hole": lambda path, _: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 40),
    "a kernel file": link_to("/proc/kmsg"),
}


@pytest.mark.timeout(60)  # who waits for a pipe waits for ever
@pytest.mark.parametrize("make", ODD_FILES.values(), ids=ODD_FILES)
def test_what_is_no_file_is_told_and_harms_no_neighbour(make: Any, folder: Path, secret: Path) -> None:
    make(folder / "odd.vtt", secret)
    outcomes = upload(folder)
    assert "This is sound." in outcomes.pop("sound")
    assert all(reason.startswith("reason: ") for reason in outcomes.values())


@pytest.mark.timeout(60)
def test_a_pipe_that_is_named_is_no_trap(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.vtt")
    assert upload(tmp_path / "pipe.vtt") == {"pipe": "reason: The file is not a regular file."}


# --- what leads elsewhere -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a link", "a link to a folder", "a way up", "a link to a link"])
def test_nothing_outside_is_read_for_who_drops_a_link(
    kind: str, folder: Path, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_DROP_FOLDER", str(tmp_path))
    (tmp_path / "inner").symlink_to(secret.parent)
    match kind:
        case "a link":
            (folder / "x.vtt").symlink_to(secret)
            path = folder / "x.vtt"
        case "a link to a folder":
            (folder / "x").symlink_to(secret.parent)
            path = folder / "x" / "secret.vtt"
        case "a way up":
            path = folder / ".." / "ben@example.com" / "secret.vtt"
        case _:
            (folder / "x.vtt").symlink_to(tmp_path / "inner" / "secret.vtt")
            path = folder / "x.vtt"
    (reason,) = upload(path, dropped=True).values()
    told = "names what lies above it" if kind == "a way up" else "is a link or lies behind one"
    assert reason.startswith(f"reason: The file {told}")


@pytest.mark.timeout(120)
def test_a_link_that_takes_the_place_of_a_file_at_any_moment_shows_nothing(
    folder: Path, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swapped between a file and a link, from at once to after some looks, while it is looked at again and again."""
    monkeypatch.setenv("IMPORT_PIPELINE_DROP_FOLDER", str(tmp_path))
    path, spare = folder / "x.vtt", folder / ".spare"
    stopping, moments, seen = threading.Event(), random.Random(1), list[str]()  # noqa: S311 - no secret

    def swap() -> None:
        while not stopping.is_set():
            for make in (lambda: spare.write_text(VTT.format(text="Mine.")), lambda: spare.symlink_to(secret)):
                spare.unlink(missing_ok=True)
                make()
                spare.rename(path)
                time.sleep(moments.choice((0.0, 0.0005, 0.005)))

    swapping = threading.Thread(target=swap, daemon=True)
    swapping.start()
    try:
        # How often the file stands still for a whole look depends on the machine: until it did once, it goes on.
        while len(seen) < 300 or not any("Mine." in text for text in seen):
            seen.extend(upload(path, dropped=True).values())
    finally:
        stopping.set()
        swapping.join()
    assert not [text for text in seen if "Nobody may read" in text]
    assert [text for text in seen if "is a link" in text]


# --- names and depths ---------------------------------------------------------------------------------------------


def test_files_of_any_name_are_imported_under_a_harmless_one(folder: Path) -> None:
    texts = [name.replace("/", "") for name in NASTY if "\0" not in name]
    encoded = list(dict.fromkeys([name.encode("utf-8", "replace")[:240] for name in texts if name]))
    encoded += [b"\xff\xfe\x80", b"a\nb", b"-rf", b"a" * 240]
    for number, name in enumerate(encoded):
        path = os.path.join(os.fsencode(folder), name + b".vtt")
        Path(os.fsdecode(path)).write_text(VTT.format(text=f"This is number {number}."))
    outcomes = upload(folder)
    said = "\n".join(outcomes.values())
    missing = [encoded[number] for number in range(len(encoded)) if f"This is number {number}." not in said]
    assert [name for name in missing if not name.startswith((b".", b"~$"))] == []


def test_folders_deeper_than_any_path_end_with_a_reason(folder: Path) -> None:
    here = os.open(folder, os.O_RDONLY)
    try:
        at = os.dup(here)
        for _ in range(3_000):
            os.mkdir("d", dir_fd=at)
            inner = os.open("d", os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = inner
        os.close(at)
        outcomes = upload(folder)
        assert "This is sound." in outcomes.pop("sound")
        assert outcomes == {"d": "reason: The file folder cannot be read: File name too long."}
    finally:
        os.close(here)
        subprocess.run(["rm", "-rf", folder / "d"], check=True)  # deeper than Python can remove


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name))
def test_any_path_comes_back_from_its_address(name: bytes) -> None:
    path = Path(os.fsdecode(b"/" + name.strip(b"/")))
    if path.is_absolute() and ".." not in path.parts:
        assert uri_to_path(path_to_uri(path)) == path
        assert path_to_uri(path).isascii()


@pytest.mark.parametrize(
    "path",
    [
        "/" + "a" * 5_000,
        "/a\0b",
        "file:///%00",
        "file:///%ff/../../etc/passwd",
        "file:////etc/passwd",
        "/../../../etc/shadow",
    ],
    ids=range(6),
)
def test_a_path_that_cannot_be_is_a_reason(path: str) -> None:
    named = uri_to_path(path) if path.startswith("file://") else Path(path)
    for found in find_files([named]):
        inspected = inspect_file(found, size_limit_bytes=1_000, settle_seconds=0)
        assert inspected.problem or inspected.waiting or inspected.sha256


# --- records ------------------------------------------------------------------------------------------------------


def test_of_a_list_of_records_a_deep_one_fails_by_itself(folder: Path) -> None:
    """Nesting that can just be read and not be written again, wherever the limit lies."""
    good = {"full_transcript": "Ann: Hello.", "source_app": "x", "recording_start_time": "2026-01-01T00:00:00Z"}
    depths = range(880, 1_000, 4)
    for depth in depths:
        sound = json.dumps(good | {"title": f"good {depth}"})
        deep = json.dumps(good)[:-1] + ', "source_metadata": {"a": ' + "[" * depth + "]" * depth + "}}"
        (folder / f"list {depth}.json").write_text(f"[{sound}, {deep}]")
    outcomes = upload(folder)
    assert "This is sound." in outcomes["sound"]
    assert len(outcomes) == 1 + len(depths)


def test_a_record_too_deep_to_be_hashed_is_known_by_its_place() -> None:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    assert file_upload._hash({"source_metadata": deep}) is None


ODD_RECORDS: list[Any] = [
    {"external_id": 5, "source_app": [], "full_transcript": "a"},
    {"full_transcript": "a", "recording_start_time": "0001-01-01T00:00:00+14:00", "duration": 1e308},
    {"full_transcript": "a", "bank_id": "../../etc", "vault_id": {"a": 1}},
    {"full_transcript": "a", "source_metadata": [1], "title": 7},
    {"full_transcript": "a\0b\ud800", "summary": {"a": 1}, "audio_url": "javascript:alert(1)"},
    {"full_transcript": "a", "recording_start_time": 10**30, "recording_end_time": []},
    {"external_id": None, "source_app": None, "source_metadata": None},
    {"full_transcript": "a", "owner_user_id": "x", "id": "y", "created_at": "z", "__class__": "os.system"},
]


def test_records_of_any_shape_are_imported_or_fail_each_by_itself(folder: Path) -> None:
    (folder / "list.json").write_text(json.dumps(ODD_RECORDS))
    outcomes = upload(folder)
    assert "This is sound." in outcomes["sound"]


# --- users' folders -----------------------------------------------------------------------------------------------

IMPOSTORS = [
    "ANA@EXAMPLE.COM", "ana@example.com ", " ana@example.com", "аna@example.com", "ana@example.com\n",
    "ana@exam\u200bple.com", "ana＠example.com", "ana@example。com", "ÀNA@example.com", "..@example.com", "...",
    "-ana@example.com", "ana%40example.com", "ana@example.com\u202e", "%", "'; drop table users; --",
    "ana@example.com@example.com", "\x1b[2Jana@example.com", "ana@e\u0445ample.com", "ana@example.co\u217f",
]  # fmt: skip
KATES = ["\u212aate@example.com", "\u212aATE@EXAMPLE.COM", "kate@example.com\u0307", "\uff4bate@example.com"]


def test_a_folder_is_the_user_whose_address_it_has_and_nobody_elses(
    conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    conn.autocommit = True
    ana = tenants.make_user(conn, "ana@example.com")
    ensure_account(conn, ana.id, "file-upload", ana.email)
    root = tmp_path / "drop"
    for name in (*IMPOSTORS, ana.email):
        (root / name).mkdir(parents=True)
        (root / name / "a.vtt").write_text(
            VTT.format(text=f"From {IMPOSTORS.index(name) if name in IMPOSTORS else 'ana'}.")
        )
    (root / "ben@example.com").symlink_to(root / ana.email)
    folders, problems = scan_drop_folder(root, 0)
    names = [each.user for each in folders]
    assert "ben@example.com" not in names
    found = find_drop_accounts(conn, "file-upload", names, creates_users=False)
    owned = [name for name, account in found.items() if not isinstance(account, str) and account.user_id == ana.id]
    assert owned == [ana.email], "Of those that differ in case alone, one is taken."
    assert all(isinstance(found[name], str) for name in names if name != ana.email)
    explained = _explain(root, folders, _Tick(None, conn, FileUpload(), set(), 0), [  # type: ignore[arg-type]
        *problems, *(f"{user} {told}" for user, told in found.items() if isinstance(told, str)),
    ])  # fmt: skip
    assert is_harmless(explained)
    assert "\n" not in explained


NO_ADDRESSES = [
    " mallory@example.com", "mallory@example.com ", "eve@example.com\nx", "mal\u200blory@example.com", "@", "a@b@c",
    "mallory@", "@example.com", "mal lory@example.com", "mallory@example.com\u202e", "mallory@example.com.",
    "x@" + "y" * 240, "mallory@\ufffd.example", "mallory@example.com\u2028",
]  # fmt: skip


def test_a_folder_whose_name_is_no_clean_address_makes_no_user_and_is_told(conn: psycopg.Connection[Any]) -> None:
    conn.autocommit = True
    found = find_drop_accounts(conn, "file-upload", [*NO_ADDRESSES, "Zoë+x@bücher.example"], creates_users=True)
    assert {name for name, account in found.items() if isinstance(account, str)} == set(NO_ADDRESSES)
    assert not isinstance(found["Zoë+x@bücher.example"], str)


@pytest.mark.parametrize("creates_users", [False, True])
def test_a_folder_with_the_kelvin_sign_is_not_kates(conn: psycopg.Connection[Any], creates_users: bool) -> None:
    """Attack A12."""
    conn.autocommit = True
    kate = tenants.make_user(conn, "kate@example.com")
    ensure_account(conn, kate.id, "file-upload", kate.email)
    spelled = [str(kate.id), kate.id.hex, f"{{{kate.id}}}", f"urn:uuid:{kate.id}"]
    found = find_drop_accounts(conn, "file-upload", [*KATES, *spelled, "KATE@example.com"], creates_users=creates_users)
    owned = [name for name, account in found.items() if not isinstance(account, str) and account.user_id == kate.id]
    assert owned == ["KATE@example.com"]
    assert {name for name, account in found.items() if isinstance(account, str)} >= set(spelled)
    users = {account.user_id for account in found.values() if not isinstance(account, str)}
    assert len(users) == (1 + len(KATES) - 1 if creates_users else 1), (
        "Of those that differ in ASCII case, one is taken."
    )
