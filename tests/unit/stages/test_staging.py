"""What waits between two ops: whole or not at all, private, and the same after as before."""

from __future__ import annotations

import os
import stat
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import dagster as dg
import psutil
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from import_pipeline.errors import ConfigurationError, StagedFileError
from import_pipeline.library.normalise import DEEPEST_METADATA, LARGEST_NUMBER_BITS, normalise_record
from import_pipeline.records import (
    Account,
    AccountSummary,
    Batch,
    BatchSummary,
    ConnectorRecord,
    Counts,
    Failed,
    Ignored,
    ImportSummary,
    Known,
    ListedItem,
    Listing,
    NewItem,
    Ready,
    Stream,
    Waiting,
)
from import_pipeline.stages.sealing import SealedWriter, sealing_keys
from import_pipeline.stages.staging import StreamIOManager, read_output, remove_old, write_output

NOW = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
ACCOUNT = Account(
    id=UUID(int=1),
    user_id=UUID(int=2),
    source_app="demo",
    label="ana@example.com",
    opened_at=NOW,
    last_sync_at=NOW - timedelta(days=1),
    oldest_open_at=None,
    sync_job_id=UUID(int=3),
    options={"paths": ["/a b", "ü"], "n": 1.5, "deep": {"x": [None, True]}},
    problem=None,
)
ITEM = ListedItem("a\u2028b", "Titel 🎉\n", NOW, "/x/y", "file:///x", {"n": 2**70, "x": [1.25, None, "é"]}, 77)
RECORD = normalise_record(
    ConnectorRecord(
        "a\u2028b", "demo", "T", "line one\r\nline two\u0085\u2029\n\n[00:00:01] Ana: 🎉", NOW, 61,
        {"x": {"y": ["\x01", "\x7f"]}}, UUID(int=4), UUID(int=5), "s", "https://a", "https://v",
    )
)  # fmt: skip
COUNTS = Counts(6, 1, 2, 1, 1, 1)
BATCH = Batch(ACCOUNT, 3, COUNTS)
ITEMS: list[Any] = [
    ITEM,
    ListedItem("minimal"),
    NewItem(ITEM, 3, NOW),
    Known(ITEM, UUID(int=6), needs_vault_entry=True),
    Ready(ITEM, RECORD),
    Waiting(ITEM, "Not yet.", NOW),
    Failed(ITEM, "rate", "Too much.", NOW),
    Failed(ITEM, "bug", "x"),
    Ignored(ITEM, "A test."),
]
SUMMARY = AccountSummary(UUID(int=1), UUID(int=2), "ana", "completed", COUNTS, 2, "x")
VALUES: list[Any] = [
    [],
    [ACCOUNT, Account(UUID(int=1), UUID(int=2), "demo", "b", NOW, problem="Held by another run.")],
    [Listing(ACCOUNT, 5, complete=False, problem="503", error_class="transient"), Listing(ACCOUNT, 0, True)],
    BatchSummary(UUID(int=1), 4, COUNTS, 2),
    ImportSummary("demo", "run-1", [SUMMARY]),
]


def again(path: UPath, value: Any) -> Any:
    """Write and read."""
    write_output(path, value)
    return read_output(path)


@pytest.fixture
def path(tmp_path: Path) -> UPath:
    return UPath(tmp_path) / "run" / "step" / "result.sealed"


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_come_back_as_they_were(path: UPath, value: Any) -> None:
    found = again(path, value)
    assert found == value
    assert type(found) is type(value)


def test_every_kind_of_item_comes_back_as_it_was_and_in_order(path: UPath) -> None:
    found = again(path, Stream(BATCH, iter(ITEMS)))
    assert found.batch == BATCH
    read = list(found.items)
    assert [type(item) for item in read] == [type(item) for item in ITEMS]
    for before, after in zip(ITEMS, read, strict=True):
        if isinstance(before, Ready):  # its times and ids may come back as text, which means the same
            assert after.item == before.item
            assert normalise_record(after.record) == before.record
        else:
            assert after == before


def test_an_empty_stream_comes_back_empty(path: UPath) -> None:
    found = again(path, Stream(BATCH, iter(())))
    assert list(found.items) == []


def test_the_deepest_and_largest_metadata_that_pass_come_back(path: UPath) -> None:
    """What normalisation lets through must not break the file of its whole batch."""
    value: Any = {"n": 2**LARGEST_NUMBER_BITS - 1, "tiny": 5e-324, "huge": 1.7976931348623157e308, "int": -(2**63)}
    for level in range(DEEPEST_METADATA - 2):
        value = [value] if level % 2 else {"x": value}
    record = normalise_record(ConnectorRecord("a", "demo", "t", "x", NOW, source_metadata={"top": value}))
    (found,) = again(path, Stream(BATCH, [Ready(ListedItem("a", details={"top": value}), record)])).items
    assert normalise_record(found.record) == record


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
any_text = st.text(st.characters(), max_size=50)  # lone surrogates and NUL included


@settings(max_examples=150, deadline=None)
@given(any_text, any_text, st.dictionaries(any_text, json_values | any_text, max_size=4))
def test_whatever_text_a_source_delivers_can_be_written_and_read_once_it_is_normalised(
    title: str, transcript: str, metadata: dict[str, Any]
) -> None:
    """F70: one surrogate would break the batch."""
    record = normalise_record(ConnectorRecord("a", "demo", title, f"x{transcript}", NOW, source_metadata=metadata))
    path = UPath("memory://staging") / "result.sealed"
    (found,) = again(path, Stream(BATCH, [Ready(ListedItem("a"), record)])).items
    assert normalise_record(found.record) == record
    found.record.full_transcript.encode()


def test_what_is_not_normalised_is_refused_when_it_is_written_and_not_when_it_is_read(path: UPath) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        write_output(path, Stream(BATCH, [ListedItem("\ud800")]))
    assert not path.exists()


def test_an_output_that_breaks_off_half_way_leaves_nothing(path: UPath) -> None:
    def items() -> Iterator[Any]:
        yield ITEM
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write_output(path, Stream(BATCH, items()))
    assert list(path.parent.iterdir()) == []


def test_an_interrupted_output_leaves_nothing_and_an_earlier_one_stays(path: UPath) -> None:
    write_output(path, VALUES[3])

    def items() -> Iterator[Any]:
        yield ITEM
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_output(path, Stream(BATCH, items()))
    assert read_output(path) == VALUES[3]


def test_a_file_that_was_cut_off_is_an_error_and_not_the_end(path: UPath) -> None:
    write_output(path, Stream(BATCH, [Ready(ITEM, RECORD)] * 50_000))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(Exception, match=r".+"):
        list(read_output(path).items)


def test_a_damaged_file_is_told_without_what_was_said_in_it(path: UPath) -> None:
    """F88: messages of pydantic quote the input; what another version has sealed may be anything."""
    damaged = b'{"kind":"ready","record":{"full_transcript":"Ana: CANARY"}}'
    for lines in (b"stream\n" + damaged, b"value\n" + damaged):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as raw:
            sealed = SealedWriter(raw, "run/step/result.sealed", sealing_keys())
            sealed.write(zstandard.compress(lines))
            sealed.finish()
        with pytest.raises(StagedFileError, match="execute all steps") as told:
            list(read_output(path).items)
        assert "CANARY" not in "".join(traceback.format_exception(told.value))


def test_no_repr_shows_what_was_said(path: UPath) -> None:
    """F88: whoever logs a record, or reads a traceback of one, reads no transcript."""
    said = {"full_transcript": "CANARY", "summary": "CANARY", "source_metadata": {"said": "CANARY"}}
    record = ConnectorRecord(external_id="a", source_app="demo", title="t", recording_start_time=NOW, **said)  # type: ignore[arg-type]
    item = ListedItem("a", details={"transcript": "CANARY"})
    for value in (record, item, NewItem(item), Ready(item, record), Failed(item, "bug", "x"), Stream(BATCH, [record])):
        assert "CANARY" not in f"{value!r} {value}"
        assert type(value).__name__ in repr(value)


def test_a_stream_is_read_while_it_is_consumed(path: UPath) -> None:
    """F78: memory is bounded by one item and not by the batch."""
    large = normalise_record(ConnectorRecord("a", "demo", "t", os.urandom(500_000).hex(), NOW))
    process = psutil.Process()
    write_output(path, Stream(BATCH, (Ready(ITEM, large) for _ in range(200))))
    before = process.memory_info().rss
    peak = 0
    for number, _ in enumerate(read_output(path).items):
        if number % 10 == 0:
            peak = max(peak, process.memory_info().rss)
    assert peak - before < 60_000_000  # the whole is 200 MB


def test_files_and_folders_are_private_whatever_the_umask(path: UPath) -> None:
    """F88."""
    before = os.umask(0)
    try:
        write_output(path, VALUES[0])
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(str(path)).st_mode) == 0o600
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(os.stat(str(folder)).st_mode) == 0o700


class Named:
    """As much of an output's context as the I/O manager asks for; a real one brings an instance with it."""

    def __init__(self, *identifier: str) -> None:
        self.identifier = identifier

    def get_identifier(self) -> tuple[str, ...]:
        return self.identifier


def context(run_id: str, step: str) -> dg.OutputContext:
    return Named(run_id, step, "result")  # type: ignore[return-value]


def test_each_output_has_a_file_of_its_own_and_batches_are_removed_by_themselves(tmp_path: Path) -> None:
    manager = StreamIOManager(base=str(tmp_path))

    for step in ("dedup[0_00001]", "transform[0_00001]", "dedup[0_00002]", "transform[0_00002]"):
        manager.handle_output(context("run-1", step), Stream(BATCH, iter(ITEMS)))
    manager.handle_output(context("run-1", "connect"), [ACCOUNT])
    manager.remove_batch("run-1", "0_00001")
    manager.remove_batch("run-1", "0_00009")
    assert sorted(path.parent.name for path in tmp_path.rglob("*.sealed")) == [
        "connect", "dedup[0_00002]", "transform[0_00002]",
    ]  # fmt: skip


@pytest.mark.parametrize("part", ["..", "../../etc", "a/b", ""], ids=repr)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, part: str) -> None:
    base = tmp_path / "base"
    manager = StreamIOManager(base=str(base))
    manager.handle_output(context(part, "s"), [])
    assert len([*base.rglob("*.sealed")]) == 1
    assert [path for path in tmp_path.rglob("*.sealed") if not path.is_relative_to(base)] == []


def test_the_folder_is_chosen_when_the_run_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = StreamIOManager()
    monkeypatch.setenv("IMPORT_PIPELINE_HOME", str(tmp_path))
    assert manager.resolve_base() == str(tmp_path / "staging")
    monkeypatch.setenv("IMPORT_PIPELINE_STAGING", "s3://bucket/staging")
    assert manager.resolve_base() == "s3://bucket/staging"
    assert StreamIOManager(base="/given").resolve_base() == "/given"


@pytest.mark.parametrize("scheme", ["file://", "local://", "file:"])
def test_an_address_of_a_folder_means_the_folder(tmp_path: Path, scheme: str) -> None:
    manager = StreamIOManager(base=f"{scheme}{tmp_path}/b")
    manager.handle_output(context("run", "connect"), [ACCOUNT])
    assert manager.load_input(context("run", "connect")) == [ACCOUNT]
    assert (tmp_path / "b" / "run" / "connect" / "result.sealed").stat().st_mode & 0o077 == 0
    assert manager.remove_runs_of([], ["run"]) == 1
    assert not list((tmp_path / "b").iterdir())


@pytest.mark.parametrize(("base", "how"), [("s3://bucket/x", r"import-pipeline\[s3\]"), ("nosuch://x", "nosuch")])
def test_an_address_that_nothing_installed_reads_is_told(base: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigurationError, match=how):
        StreamIOManager(base=base).private_base()


def test_what_crashed_runs_left_is_removed_by_age(tmp_path: Path) -> None:
    for run in ("old", "young", "old but used"):
        write_output(UPath(tmp_path) / run / "step" / "result.sealed", [])
    long_ago = time.time() - 4 * 86_400
    for path in (tmp_path / "old", tmp_path / "old" / "step", tmp_path / "old but used"):
        os.utime(path, (long_ago, long_ago))
    assert remove_old(str(tmp_path), timedelta(days=3)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old but used", "young"]
    assert remove_old("s3://bucket/staging", timedelta(days=3)) == 0
    assert remove_old(str(tmp_path / "missing"), timedelta(days=3)) == 0
