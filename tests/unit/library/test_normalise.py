"""Checks, cleaning and units of one record, without a database."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from import_pipeline.errors import InvalidRecordError
from import_pipeline.library.normalise import (
    DEEPEST_METADATA,
    NO_LINK,
    NOTES_KEY,
    normalise_item,
    normalise_record,
    parse_external_id,
)
from import_pipeline.records import ConnectorRecord, ListedItem

START = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


def record(**values: Any) -> ConnectorRecord:
    given: dict[str, Any] = {
        "external_id": "call-1",
        "source_app": "demo",
        "title": "Weekly",
        "full_transcript": "Ana: Hello.",
        "recording_start_time": START,
    }
    return ConnectorRecord(**(given | values))


def test_a_good_record_passes_unchanged_but_for_its_metadata() -> None:
    given = record(duration=60, recording_end_time=START + timedelta(seconds=60))
    stored = normalise_record(given)
    assert asdict(stored) == asdict(replace(given, source_metadata={"external_id": "call-1"}))
    assert normalise_record(stored) is stored


def test_external_id_is_the_first_key_of_the_metadata_and_wins() -> None:
    clean = normalise_record(record(source_metadata={"b": 1, "external_id": "forged", "a": 2}))
    assert list(clean.source_metadata.items()) == [("external_id", "call-1"), ("b", 1), ("a", 2)]


def test_the_record_that_was_handed_in_is_left_alone() -> None:
    metadata = {"external_id": "forged", "deep": {"x": ["a\0"]}}
    normalise_record(record(source_metadata=metadata))
    assert metadata == {"external_id": "forged", "deep": {"x": ["a\0"]}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (datetime(2024, 5, 6, 12, 0, tzinfo=timezone(timedelta(hours=5, minutes=30))), "2024-05-06T06:30:00+00:00"),
        ("2024-05-06T12:00:00+05:30", "2024-05-06T06:30:00+00:00"),
        ("2024-05-06T12:00:00Z", "2024-05-06T12:00:00+00:00"),
        ("2024-05-06T12:00:00.123456Z", "2024-05-06T12:00:00.123456+00:00"),
        ("20240506T120000Z", "2024-05-06T12:00:00+00:00"),
    ],
)
def test_times_are_stored_in_utc(given: Any, expected: str) -> None:
    assert normalise_record(record(recording_start_time=given)).recording_start_time == datetime.fromisoformat(expected)
    start = normalise_record(record(recording_start_time=given)).recording_start_time
    assert isinstance(start, datetime)
    assert start.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        *((0, 0), (0.4, 0), (59.6, 60), (172_800, 172_800), (172_800.4, None), (-0.1, None), (math.nan, None)),
        *((math.inf, None), (-math.inf, None), ("60", None), (True, None), (10**400, None), ([], None)),
    ],
)
def test_durations_are_whole_seconds_up_to_48_hours_or_null_and_noted(given: Any, stored: int | None) -> None:
    clean = normalise_record(record(duration=given))
    assert clean.duration == stored
    assert type(clean.duration) is (int if stored is not None else type(None))
    assert ("duration" in clean.source_metadata.get(NOTES_KEY, {})) == (stored is None)


def test_the_end_follows_from_start_and_duration_where_it_is_missing() -> None:
    assert normalise_record(record(duration=90)).recording_end_time == START + timedelta(seconds=90)
    assert normalise_record(record()).recording_end_time is None


def test_an_end_before_the_start_is_left_out_and_noted() -> None:
    clean = normalise_record(record(recording_end_time=START - timedelta(seconds=1)))
    assert clean.recording_end_time is None
    assert "recording_end_time" in clean.source_metadata[NOTES_KEY]


def test_replaced_characters_are_counted_over_all_texts() -> None:
    clean = normalise_record(
        record(title="\0", full_transcript="a\0b\ud800", summary="\udfff", source_metadata={"k\0": ["\0", {"x": "\0"}]})
    )
    assert clean.source_metadata[NOTES_KEY] == {"replaced_characters": 7}


def test_notes_of_a_first_pass_survive_a_second() -> None:
    once = normalise_record(record(title="\0", duration=-1))
    assert normalise_record(once) == once


def test_a_key_of_our_own_name_in_the_metadata_of_a_source_does_no_harm() -> None:
    assert NOTES_KEY not in normalise_record(record(source_metadata={NOTES_KEY: "theirs"})).source_metadata


@pytest.mark.parametrize("text", ["", " \n\t", None], ids=["empty", "blank", "none"])
def test_a_record_without_a_transcript_is_refused(text: Any) -> None:
    """F32: stored empty, it would keep the good version out for ever."""
    with pytest.raises(InvalidRecordError, match="no transcript"):
        normalise_record(record(full_transcript=text))


@pytest.mark.parametrize(
    "value", [None, "", " ", 1, 1.5, b"x", [], {}, object(), math.nan], ids=lambda value: type(value).__name__
)
def test_a_missing_external_id_is_refused(value: Any) -> None:
    """F4."""
    with pytest.raises(InvalidRecordError, match="no external id"):
        parse_external_id(value)


@pytest.mark.parametrize("value", ["x" * 512, "é" * 256, "🎉" * 128, " kept as it is ", "%s", "a/b=="])
def test_an_external_id_is_never_altered(value: str) -> None:
    assert parse_external_id(value) == value


@pytest.mark.parametrize("value", ["x" * 513, "é" * 257, "x" * 9000], ids=["513", "514 bytes", "9,000"])
def test_an_external_id_beyond_512_bytes_is_refused_with_its_length(value: str) -> None:
    """F72."""
    with pytest.raises(InvalidRecordError, match=f"{len(value.encode()):,} bytes"):
        parse_external_id(value)


@pytest.mark.parametrize("depth", [DEEPEST_METADATA, DEEPEST_METADATA + 1])
def test_metadata_may_be_nested_to_a_stated_depth(depth: int) -> None:
    value: Any = {}
    for level in range(depth - 1):
        value = [value] if level % 2 else {"x": value}
    value = value if isinstance(value, dict) else {"x": value[0]}
    if depth <= DEEPEST_METADATA:
        normalise_record(record(source_metadata=value))
    else:
        with pytest.raises(InvalidRecordError, match="nested too deeply"):
            normalise_record(record(source_metadata=value))


def test_no_reason_quotes_what_was_wrong() -> None:
    """F88."""
    secrets: list[dict[str, Any]] = [
        {"external_id": "CANARY" * 200},
        {"recording_start_time": "CANARY"},
        {"bank_id": "CANARY"},
        {"source_metadata": {"CANARY": b"CANARY"}},
        {"full_transcript": b"CANARY"},
    ]
    for values in secrets:
        with pytest.raises(InvalidRecordError) as caught:
            normalise_record(record(**values))
        assert "CANARY" not in str(caught.value)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.binary(max_size=5)
    | st.text(max_size=20)
    | st.characters(categories=("Cs",))
    | st.datetimes()
    | st.datetimes(timezones=st.just(UTC))
    | st.uuids()
    | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([name for name in ConnectorRecord.__dataclass_fields__]), anything, min_size=1, max_size=4
    )
)
def test_whatever_a_connector_delivers_is_refused_with_a_reason_or_can_be_stored(values: dict[str, Any]) -> None:
    try:
        clean = normalise_record(record(**values))
    except InvalidRecordError:
        return
    assert normalise_record(clean) == clean
    text = json.dumps(clean.source_metadata, allow_nan=False, ensure_ascii=False)
    for each in (clean.title, clean.full_transcript, clean.summary or "", clean.audio_url or "", text):
        assert "\0" not in each
        each.encode()
    assert "\\u0000" not in text
    assert clean.title.strip()
    assert clean.full_transcript.strip()
    assert next(iter(clean.source_metadata)) == "external_id"
    assert isinstance(clean.bank_id, UUID | None)


def test_a_listed_item_is_cleaned_but_for_its_ids() -> None:
    item = ListedItem("a", title="\0", location="\ud800", started_at=START, details={"x": math.inf})
    clean = normalise_item(item)
    assert (clean.title, clean.location, clean.started_at, clean.details) == ("\ufffd", "\ufffd", START, {"x": None})


@pytest.mark.parametrize(
    "values",
    [
        {"details": {"x": b"x"}},
        {"details": [1]},
        {"details": None},
        {"title": 5},
        {"location": 5},
        {"started_at": datetime(2024, 1, 1)},  # noqa: DTZ001 - that is what is wrong with it
        {"started_at": "soon"},
        {"provisional_id": 5},
        {"provisional_id": "\ud800"},
        {"size_bytes": "many"},
    ],
    ids=str,
)
def test_a_listed_item_that_cannot_be_staged_is_refused(values: dict[str, Any]) -> None:
    """One of them would break the file of its whole batch."""
    with pytest.raises(InvalidRecordError):
        normalise_item(ListedItem("a", **values))


# --- links --------------------------------------------------------------------------------------------------------

NO_LINKS = [
    *("javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)", "java\tscript:a"),
    *("\x01javascript:alert(1)", "javascript://https://a.example/%0aalert(1)", "data:text/html,<script>", "vbscript:a"),
    *("file:///etc/passwd", "ftp://a.example/x", "blob:https://a.example/1", "view-source:https://a.example"),
    *(
        "//a.example/x",
        "/rec/1",
        "\\\\server\\share",
        "https:\\\\a.example",
        "https:a.example",
        "https:///x",
        "https://",
    ),
    *(
        "http://[::1",
        "https://a.example:port/",
        "https://a.example/\x01",
        "https://a.example/ b",
        "https://a\u202e.example/",
    ),
    *(
        "https://a.example\n/x",
        "ｊavascript:alert(1)",
        "ｈttps://a.example",
        "a.example",
        "mailto:a@b.example",
        "x" * 9,
    ),
]
LINKS = ["https://a.example/x?y=1#z", "HTTP://a.example", "https://bücher.example/ü", "http://127.0.0.1:8000/x"]


@pytest.mark.parametrize("link", NO_LINKS)
def test_only_what_a_browser_opens_as_a_page_is_stored_as_a_link(link: str) -> None:
    """Attack A11: from a provider, a file, or whoever calls the library."""
    metadata = {"share_link": link, "page": {"joinUrl": link, "urls": [link, LINKS[0]]}, "said": link, "curl": link}
    clean = normalise_record(record(audio_url=link, video_url=link, source_metadata=metadata))
    assert (clean.audio_url, clean.video_url) == (None, None)
    notes = clean.source_metadata[NOTES_KEY]
    assert (notes["audio_url"], notes["video_url"]) == (NO_LINK, NO_LINK)
    assert notes["no_links"] == f"3 in the metadata {NO_LINK}"
    assert clean.source_metadata["share_link"] is None
    assert clean.source_metadata["page"] == {"joinUrl": None, "urls": [None, LINKS[0]]}
    assert clean.source_metadata["said"] == clean.source_metadata["curl"], "A text is no link."
    assert clean.source_metadata["said"]


@pytest.mark.parametrize("link", LINKS)
def test_a_link_is_stored_as_it_is(link: str) -> None:
    clean = normalise_record(record(audio_url=f" {link}\n", video_url=link, source_metadata={"share_link": link}))
    assert (clean.audio_url, clean.video_url, clean.source_metadata["share_link"]) == (link, link, link)
    assert NOTES_KEY not in clean.source_metadata


def test_what_a_listing_says_of_an_item_is_left_to_the_connector() -> None:
    details = {"download_url": "/rec/1"}
    assert normalise_item(ListedItem("1", details=details)).details == details


def test_no_link_is_noted_where_there_is_none() -> None:
    clean = normalise_record(record(audio_url="", video_url=None, source_metadata={"share_link": "", "url": None}))
    assert (clean.audio_url, clean.video_url) == (None, None)
    assert clean.source_metadata == {"external_id": "call-1", "share_link": "", "url": None}


@pytest.mark.parametrize("location", ["javascript:alert(1)", " JaVaScript:a", "java\tscript:a", "data:text/html,a"])
def test_where_an_item_is_kept_is_no_script(location: str) -> None:
    """Attack A11."""
    assert normalise_item(ListedItem("1", location=location)).location is None
    for sound in ("/srv/calls/a: b.vtt", "file:///srv/a.vtt", "https://a.example/x"):
        assert normalise_item(ListedItem("1", location=sound)).location == sound
