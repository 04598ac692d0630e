"""Files as a source: finding them, leaving unfinished ones alone, knowing them by content."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from connectors.demo import no_http

from import_pipeline.connectors.file_upload import FileUpload, _records_of
from import_pipeline.connectors.file_upload.files import (
    FoundFile,
    display_path,
    find_files,
    inspect_file,
    is_open_for_writing,
    path_to_uri,
    read_file,
    uri_to_path,
)
from import_pipeline.errors import ConfigurationError, ItemError, NotReadyError
from import_pipeline.library.normalise import normalise_item, normalise_record
from import_pipeline.records import Account, Failed, ListedItem, NewItem, Ready, Waiting, Window
from import_pipeline.stages.listing import list_items
from import_pipeline.stages.transform import transform_items

NOW = datetime(2024, 5, 6, tzinfo=UTC)
TEXT = "Ana: Good morning.\n\nBen: Good morning to you, how was the week?\n"
ODD_NAME = os.fsdecode(b"caf\xe9 \xff.txt")


def put(path: Path, content: str | bytes = TEXT, *, age: float = 100) -> Path:
    """Write a file that was last changed some seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    changed = time.time() - age
    os.utime(path, (changed, changed))
    return path


def inspect(path: Path, **values: Any) -> FoundFile:
    return inspect_file(FoundFile(path), **({"size_limit_bytes": 1000, "settle_seconds": 1.0} | values))


def names(*paths: Path) -> list[str]:
    return [found.path.name for found in find_files(paths)]


# --- finding ------------------------------------------------------------------------------------------------------


def test_files_are_found_below_a_folder_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/b/c.txt", "c.txt"):
        put(tmp_path / name)
    assert names(tmp_path) == ["c.txt", "z.txt", "b.txt", "c.txt"]


def test_a_file_that_is_named_is_found_whatever_its_name(tmp_path: Path) -> None:
    assert names(put(tmp_path / ".hidden.txt"), tmp_path / "missing.txt") == [".hidden.txt", "missing.txt"]


def test_hidden_files_in_folders_are_left_out(tmp_path: Path) -> None:
    for name in (".DS_Store", "~$open.docx", ".git/config", "a.txt"):
        put(tmp_path / name)
    assert names(tmp_path) == ["a.txt"]


def test_links_that_lead_round_in_a_circle_end(tmp_path: Path) -> None:
    put(tmp_path / "a.txt")
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "round").symlink_to(tmp_path / "round")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "there").symlink_to(tmp_path / "a.txt")
    found = {each.path.name: inspect_file(each, size_limit_bytes=1000) for each in find_files([tmp_path])}
    assert set(found) == {"a.txt", "gone", "round", "there"}
    assert "circle" in (found["round"].problem or "")
    assert "moved or deleted" in (found["gone"].problem or "")
    assert found["there"].sha256 == found["a.txt"].sha256


def test_folders_nested_a_thousand_deep_are_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(1100):
        os.mkdir("d")
        os.chdir("d")
    Path("a.txt").write_text(TEXT)
    found = names(tmp_path)
    os.unlink("a.txt")
    for _ in range(1100):  # from the bottom up: `shutil.rmtree`, and with it pytest, would give up
        os.chdir("..")
        os.rmdir("d")
    assert found == ["a.txt"]


@pytest.mark.parametrize("name", ["café.txt", "日本語.vtt", "a b#c?d%e.txt", ODD_NAME, "new\nline.txt"], ids=ascii)
def test_any_name_survives_as_an_address_and_as_text(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name)
    uri = path_to_uri(path)
    uri.encode("ascii")
    assert uri_to_path(uri) == path
    display_path(path).encode()
    assert inspect(path).sha256 == hashlib.sha256(TEXT.encode()).hexdigest()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Nothing is unreadable to root, so ask as nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_what_may_not_be_read_is_told_and_never_left_out() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        base.chmod(0o755)
        closed_file = put(base / "closed.txt")
        put(base / "closed" / "inside.txt")
        put(base / "open.txt")
        closed_file.chmod(0)
        (base / "closed").chmod(0)
        try:
            with unprivileged():
                found = {f.path.name: inspect_file(f, size_limit_bytes=1000) for f in find_files([base])}
        finally:
            (base / "closed").chmod(0o700)
    assert found["open.txt"].problem is None
    assert found["closed.txt"].problem == "may not be read: permission denied"
    assert found["closed"].problem == "folder may not be read: permission denied"


# --- inspecting ---------------------------------------------------------------------------------------------------


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    """F40: the same file under another name, and another content under the same name."""
    first = inspect(put(tmp_path / "a.txt"))
    copy = inspect(put(tmp_path / "copy of a.txt"))
    changed = inspect(put(tmp_path / "a.txt", TEXT + "x"))
    assert first.sha256 == copy.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    assert changed.sha256 != first.sha256


def test_a_pipe_and_a_folder_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    assert inspect(tmp_path / "pipe.txt").problem == "is not a regular file"
    assert inspect(tmp_path).problem == "is not a regular file"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """F38."""
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(2_000_000_000)
    os.utime(path, (0, 0))
    found = inspect(path, size_limit_bytes=50_000_000)
    assert found.sha256 is None
    assert "2,000 MB" in (found.problem or "")
    assert "IMPORT_PIPELINE_MAX_FILE_MB" in (found.problem or "")


@pytest.mark.parametrize("name", ["a.txt.part", "a.crdownload", "A.PARTIAL", "a.download", "a.tmp"])
def test_a_file_with_the_name_of_an_unfinished_one_waits(tmp_path: Path, name: str) -> None:
    """F39."""
    found = inspect(put(tmp_path / name))
    assert found.waiting
    assert found.sha256 is None


def test_a_file_that_a_writer_holds_open_waits_however_long_its_pauses(tmp_path: Path) -> None:
    """F39: the time since the last change says nothing about a writer with pauses."""
    path = put(tmp_path / "a.txt", age=3600)
    with path.open("rb") as file:
        assert not is_open_for_writing(file.fileno())
    program = "import sys; file = open(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        found = inspect(path)
        writer.communicate()
    assert found.waiting == "another program has it open for writing"
    assert found.sha256 is None
    assert inspect(path).sha256


def test_a_reader_does_not_keep_a_file_from_being_imported(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt")
    with path.open("rb"):
        assert inspect(path).sha256


def test_a_writer_that_comes_while_we_look_is_not_killed_and_does_not_kill_us(tmp_path: Path) -> None:
    """The default signal for a broken lease ends a process."""
    path = put(tmp_path / "a.txt")
    program = "import sys\nfor _ in range(3000):\n    open(sys.argv[1], 'a').close()\n"
    with subprocess.Popen([sys.executable, "-c", program, str(path)]) as writer:
        while writer.poll() is None:
            with path.open("rb") as file:
                is_open_for_writing(file.fileno())
    assert writer.returncode == 0


def test_a_young_file_is_given_the_time_to_settle(tmp_path: Path) -> None:
    young = put(tmp_path / "a.txt", age=0)
    assert inspect(young, settle_seconds=0.05).sha256


def test_a_file_from_the_future_is_read_all_the_same(tmp_path: Path) -> None:
    """F82: clocks of file servers differ."""
    assert inspect(put(tmp_path / "a.txt", age=-3600)).sha256


def test_what_changed_since_it_was_hashed_is_not_read(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt")
    found = inspect(path)
    assert found.sha256 is not None
    assert read_file(path, found.sha256, found.size_bytes) == TEXT.encode()
    put(path, TEXT + "more")
    assert read_file(path, found.sha256, found.size_bytes) is None


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert "moved or deleted" in (inspect(tmp_path / "gone.txt").problem or "")
    put(tmp_path / "file")
    assert "moved or deleted" in (inspect(tmp_path / "file" / "x.txt").problem or "")


# --- as a connector -----------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> FileUpload:
    monkeypatch.setenv("IMPORT_PIPELINE_SETTLE_SECONDS", "0")
    return FileUpload(is_of_command=True)


def account(*paths: Path | str) -> Account:
    options = FileUpload(is_of_command=True).check_options({"paths": [str(path) for path in paths]})
    return Account(UUID(int=1), UUID(int=2), "file-upload", "ana", NOW, options=options)


def outcomes(connector: FileUpload, *paths: Path) -> dict[str, Any]:
    """File name → what became of it, through listing and transform as a run does it."""
    mine = account(*paths)
    items = [NewItem(item) for item in list_items(connector, mine, no_http())]
    transformed = transform_items(connector, mine, iter(items), no_http(), NOW)
    return {Path(one.item.location or "").name: one for one in transformed}


@pytest.mark.parametrize(
    "options",
    [{}, {"paths": []}, {"paths": "x"}, {"paths": [1]}, {"paths": ["relative.txt"]}, {"paths": ["/x"], "more": 1}],
    ids=str,
)
def test_wrong_paths_are_an_error_of_the_configuration(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        FileUpload(is_of_command=True).check_options(options)


def test_every_kind_of_file_has_its_outcome_and_none_harms_another(quick: FileUpload, tmp_path: Path) -> None:
    put(tmp_path / "good.txt")
    put(tmp_path / "copy.txt")
    put(tmp_path / ODD_NAME)
    put(tmp_path / os.fsdecode(b"kind.\xff\xfe"), "x")
    put(tmp_path / "empty.txt", "")
    put(tmp_path / "broken.json", '{"a": ')
    put(tmp_path / "image.png", b"\x89PNG")
    put(tmp_path / "loading.txt.part")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    found = outcomes(quick, tmp_path)
    kinds = {name: type(one) for name, one in found.items()}
    assert kinds == {
        "good.txt": Ready, "copy.txt": Ready, "caf%E9%20%FF.txt": Ready, "kind.%FF%FE": Failed,
        "empty.txt": Failed, "broken.json": Failed, "image.png": Failed, "loading.txt.part": Waiting,
        "loop.txt": Failed, "pipe.txt": Failed,
    }  # fmt: skip
    for one in found.values():
        reason = getattr(one, "reason", "x")
        reason.encode()
        assert reason
        assert getattr(one, "error_class", "data") == "data"
    assert found["good.txt"].item.external_id == found["copy.txt"].item.external_id
    assert found["good.txt"].item.provisional_id != found["copy.txt"].item.provisional_id


def test_a_file_with_a_long_path_keeps_its_own_reason(quick: FileUpload, tmp_path: Path) -> None:
    folder = tmp_path / ("日本語の会議" * 10) / ("日本語の会議" * 10)
    put(folder / "lädt.txt.part")
    put(folder / "gut.txt")
    found = outcomes(quick, tmp_path)
    assert isinstance(found["lädt.txt.part"], Waiting)
    assert "being downloaded" in found["lädt.txt.part"].reason
    assert isinstance(found["gut.txt"], Ready)


def test_a_file_that_changes_between_listing_and_reading_waits(quick: FileUpload, tmp_path: Path) -> None:
    """F39."""
    path = put(tmp_path / "a.txt")
    mine = account(path)
    (item,) = quick.list_items(mine, Window(NOW, NOW), no_http())
    put(path, TEXT * 2)
    with pytest.raises(NotReadyError, match="changed"):
        quick.fetch_record(mine, item, no_http())
    path.unlink()
    with pytest.raises(ItemError, match="moved or deleted"):
        quick.fetch_record(mine, item, no_http())


def test_a_list_of_records_is_one_item_each(quick: FileUpload, tmp_path: Path) -> None:
    call = {"title": "A", "full_transcript": "Ana: Hi.", "recording_start_time": "2024-01-01T00:00:00Z"}
    put(
        tmp_path / "calls.json",
        json.dumps([call | {"external_id": "x", "source_app": "other"}, call | {"title": "B"}]),
    )
    mine = account(tmp_path)
    items = list(quick.list_items(mine, Window(NOW, NOW), no_http()))
    records = [normalise_record(quick.fetch_record(mine, normalise_item(item), no_http())) for item in items]
    assert [record.title for record in records] == ["A", "B"]
    assert len({record.external_id for record in records}) == 2
    assert [record.source_app for record in records] == ["file-upload"] * 2
    assert records[0].source_metadata["original_external_id"] == "x"
    assert [item.external_id for item in items] == [record.external_id for record in records]


def test_an_item_of_a_file_names_no_secret_and_can_be_staged(quick: FileUpload, tmp_path: Path) -> None:
    put(tmp_path / ODD_NAME)
    (item,) = quick.list_items(account(tmp_path), Window(NOW, NOW), no_http())
    assert isinstance(item, ListedItem)
    json.dumps(normalise_item(item).details).encode()


def test_a_pipe_that_takes_the_place_of_a_file_is_no_trap(tmp_path: Path) -> None:
    """Reading it waited for ever for somebody to write."""
    path = tmp_path / "call.txt"
    path.write_text(TEXT)
    found = inspect_file(FoundFile(path), size_limit_bytes=1_000_000, settle_seconds=0)
    assert found.sha256 is not None
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        read_file(path, found.sha256, found.size_bytes)


def test_a_file_that_has_grown_is_not_read_beyond_what_was_listed(tmp_path: Path) -> None:
    """F38: one that had become 3 GB was read whole before it was found to have changed."""
    path = tmp_path / "call.txt"
    path.write_text(TEXT)
    found = inspect_file(FoundFile(path), size_limit_bytes=1_000_000, settle_seconds=0)
    assert found.sha256 is not None
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    assert read_file(path, found.sha256, found.size_bytes) is None


def test_a_path_that_cannot_be_asked_about_is_told_and_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text(TEXT)
    paths = [tmp_path / ("x" * 300), Path("/nul\0"), tmp_path / "good.txt"]
    found = [inspect_file(each, size_limit_bytes=1_000_000) for each in find_files(paths)]
    assert [bool(each.problem) for each in found] == [True, True, False]


def test_a_list_of_many_records_is_parsed_once_and_not_once_for_each(tmp_path: Path) -> None:
    """The time of 50,000 records was quadratic: each one parsed the whole file."""
    path = tmp_path / "export.json"
    records = [
        {"title": f"Call {number}", "full_transcript": f"Ana: {number}", "recording_start_time": "2026-01-02T03:04:05Z"}
        for number in range(2000)
    ]
    path.write_text(json.dumps(records))
    connector = FileUpload(is_of_command=True)
    account = Account(UUID(int=1), UUID(int=2), "file-upload", "ana", NOW, options={"paths": [str(path)]})
    items = list(connector.list_items(account, Window(NOW, NOW), no_http()))
    _records_of.cache_clear()
    titles = [connector.fetch_record(account, item, no_http()).title for item in items]
    assert titles == [record["title"] for record in records]
    assert _records_of.cache_info().misses == 1
