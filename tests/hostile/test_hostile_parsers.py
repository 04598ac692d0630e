"""Whatever stands in a file, its reader delivers a transcript or one of our own reasons; nothing else comes out."""

from __future__ import annotations

import contextlib
import json
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hostile.attacks import CLOCKS, NASTY, SAMPLES, odd_fields, spoilt_bytes, spoilt_json
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from import_pipeline.errors import ItemError, TranscriptError
from import_pipeline.transcripts import (
    Turn,
    deroll,
    join,
    read_records,
    read_transcript,
    render,
    turns_from_segments,
    turns_from_vtt,
)

FILES = [path.read_bytes() for path in SAMPLES]
TEXTS = [data for data, path in zip(FILES, SAMPLES, strict=True) if path.suffix != ".docx"]
DOCUMENTS = [data for data, path in zip(FILES, SAMPLES, strict=True) if path.suffix == ".docx"]
JSON = [json.loads(data) for data, path in zip(FILES, SAMPLES, strict=True) if path.suffix == ".json"]
SUFFIXES = ("vtt", "srt", "txt", "json", "docx", "md", "")
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
THOROUGH = settings(QUICK, max_examples=1_500)


NAMES_SPACE = b'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
SAID = b"<w:p><w:r><w:t>Ann: Hello there.</w:t></w:r></w:p>"
FOUND = {
    # What a search found once, see `fuzz.py`, and what came of it then.
    "words behind the times": (  # ValueError
        b"00:00:01.000 --> 00:00:02.5 align:x\nAnn Lee\nHello.\n\n0:0:3.1 --> 0:0:06.24anks\nBo Lee\nYes.\n",
        "txt",
    ),
}


def check_file(data: bytes, suffix: str) -> None:
    """Read a file in both ways, and check what comes of it."""
    with contextlib.suppress(TranscriptError):
        records = read_records(data)
        assert records is None or all(isinstance(record, dict) for record in records)
    reason = "is a transcript"
    try:
        transcript = read_transcript(data, name=f"call.{suffix}")
    except TranscriptError as error:
        reason = str(error)
    else:
        text = transcript.to_text()
        assert text.strip()
        assert "\0" not in text
        text.encode()
        json.dumps(dict(transcript.notes), allow_nan=False)
        for time in (transcript.started_at, transcript.started_at_local):
            assert time is None or time.utcoffset() is not None or time is transcript.started_at_local
    assert 0 < len(reason) < 150


def check_spoilt_text(data: bytes, suffix: str) -> None:
    check_file(data, suffix)
    text = data.decode("utf-8", "surrogatepass" if data.isascii() else "replace")
    render(deroll(turns_from_vtt(text)))


@QUICK
@given(spoilt_bytes(TEXTS), st.sampled_from(SUFFIXES))
def test_a_text_however_spoilt_is_a_transcript_or_a_reason(data: bytes, suffix: str) -> None:
    check_spoilt_text(data, suffix)


@pytest.mark.long
@THOROUGH
@given(spoilt_bytes(TEXTS), st.sampled_from(SUFFIXES))
def test_a_text_however_spoilt_is_a_transcript_or_a_reason_at_length(data: bytes, suffix: str) -> None:
    check_spoilt_text(data, suffix)


def document_of(parts: dict[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def content_of(document: bytes) -> bytes:
    with zipfile.ZipFile(BytesIO(document)) as archive:
        return archive.read("word/document.xml")


@QUICK
@given(spoilt_bytes(DOCUMENTS) | spoilt_bytes([content_of(each) for each in DOCUMENTS]))
def test_a_document_however_spoilt_is_a_transcript_or_a_reason(data: bytes) -> None:
    check_file(data, "docx")
    check_file(document_of({"word/document.xml": data}), "docx")


@QUICK
@given(st.sampled_from(JSON).flatmap(spoilt_json), st.sampled_from(("json", "txt")))
@example({"segments": [{"text": "a", "start": 1e308, "end": -1e308}], "duration": 10**400}, "json")
def test_json_of_any_other_shape_is_a_transcript_or_a_reason(document: Any, suffix: str) -> None:
    check_file(json.dumps(document).encode(), suffix)


@pytest.mark.parametrize(
    "text",
    [
        '{"segments":[{"start":1e400,"end":-1e400,"text":"a"}]}',
        '{"segments":[{"start":%s,"end":2,"text":"a"}]}' % ("9" * 5_000),
        '{"segments":[{"start":NaN,"end":Infinity,"text":"a"}],"duration":-Infinity}',
        '{"segments":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '[{"external_id":"a","source_app":"b","source_metadata":' + "[" * 950 + "]" * 950 + "}]",
        '{"text":"a","text":"b","segments":1,"segments":[{"text":"c","start":0,"text":7}]}',
        '{"segments":[{"text":"' + "\\ud800" * 50 + '","start":0}]}',
        '"' + "\\" * 9_999,
        "[" * 1_000_000,
    ],
    ids=["1e400", "5,000 digits", "no numbers", "arrays", "objects", "record", "twice", "halves", "escapes", "open"],
)
def test_extreme_json_is_a_transcript_or_a_reason(text: str) -> None:
    check_file(text.encode(), "json")


@pytest.mark.parametrize(("data", "suffix"), FOUND.values(), ids=FOUND)
def test_what_once_broke_a_reader_is_read(data: bytes, suffix: str) -> None:
    check_file(data, suffix)
    assert read_transcript(data, name=f"call.{suffix}").to_text()


def document(body: bytes, prologue: bytes = b"") -> bytes:
    """A document in which something is said after some other markup."""
    body = b"<w:document %b><w:body>%b%b</w:body></w:document>" % (NAMES_SPACE, body, SAID)
    return document_of({"word/document.xml": prologue + body})


@pytest.mark.parametrize(
    "declarations",
    [
        b'<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">',
        b'<!ENTITY a SYSTEM "file:///etc/passwd">',
        b'<!ENTITY % a SYSTEM "http://127.0.0.1:9/x"> %a;',
        b'<!ATTLIST x a CDATA "' + b"A" * 3_000_000 + b'">',  # each element would get three megabytes
    ],
    ids=["entities", "a file", "an address", "attributes"],
)
def test_a_document_declares_nothing(declarations: bytes) -> None:
    with pytest.raises(TranscriptError, match="document type declaration"):
        read_transcript(document(b"<x/>" * 100_000, b"<!DOCTYPE x [%b]>" % declarations), name="call.docx")
    with pytest.raises(TranscriptError, match="document type declaration"):
        read_transcript(document(b"", b'<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x">'), name="call.docx")


def test_a_document_of_names_without_end_is_refused() -> None:
    names = [b"<n%d/>" % number for number in range(100_000)]
    with pytest.raises(TranscriptError, match="damaged"):
        read_transcript(document(b"".join(names)), name="call.docx")
    assert read_transcript(document(b"".join(names[:9_000])), name="call.docx").to_text() == "Ann: Hello there."


@pytest.mark.parametrize(
    "names",
    [
        ["../../../etc/cron.d/x", "/etc/x", "word/../../x", "C:\\x"],
        ["word/document.xml/x", "WORD/document.xml", "word\\document.xml"],
        [f"x{number}" for number in range(5_000)],
        ["a" * 60_000],
    ],
    ids=["out of the folder", "alike", "many", "long"],
)
def test_of_an_archive_one_part_is_read_and_nothing_is_unpacked(names: list[str], tmp_path: Path) -> None:
    parts = dict.fromkeys(names, b"evil")
    with contextlib.chdir(tmp_path):
        content = b"<w:document %b><w:body>%b</w:body></w:document>" % (NAMES_SPACE, SAID)
        data = document_of(parts | {"word/document.xml": content})
        assert read_transcript(data, name="call.docx").to_text() == "Ann: Hello there."
        with pytest.raises(TranscriptError):
            read_transcript(document_of(parts), name="call.docx")
    assert not any(tmp_path.iterdir())


def test_an_archive_within_an_archive_is_not_opened() -> None:
    inner = document(b"")
    for _ in range(20):
        inner = document_of({"word/document.xml": inner})
    with pytest.raises(TranscriptError, match="damaged"):
        read_transcript(inner, name="call.docx")


segments = st.tuples(
    st.none() | st.sampled_from(NASTY) | st.text(max_size=8),
    st.sampled_from(NASTY) | st.text(max_size=20),
    st.none() | st.floats() | st.integers(),
    st.none() | st.floats() | st.integers(),
)


@QUICK
@given(st.lists(segments, max_size=20))
def test_whatever_a_provider_calls_segments_can_be_stored(said: list[Any]) -> None:
    turns = turns_from_segments(said)
    for text in (render(turns), render(deroll(turns)), render(join([(None, turns), (None, turns)]))):
        text.encode()
        assert "\0" not in text


@QUICK
@given(st.text(max_size=60) | st.sampled_from(CLOCKS), odd_fields)
def test_a_turn_of_odd_times_is_rendered(text: str, time: Any) -> None:
    if text and not isinstance(time, str):
        render([Turn("Ann", text, time, time)]).encode()


def test_the_samples_are_there() -> None:
    assert len(TEXTS) > 9
    assert len(DOCUMENTS) > 2
    assert len(JSON) > 2
    assert not issubclass(ItemError, TranscriptError)
