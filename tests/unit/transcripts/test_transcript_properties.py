"""What holds for every file: a transcript with words in it or a reason, and nothing else ever."""

from __future__ import annotations

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from import_pipeline.errors import TranscriptError
from import_pipeline.transcripts import Transcript, Turn, deroll, read_records, read_transcript, render, turns_from_vtt

SUFFIXES = ("vtt", "srt", "txt", "json", "docx", "")
PIECES = (
    "WEBVTT", "\n", "\n\n", "\r\n", "\r", "00:00:01.000 --> 00:00:02.000", "0:0:1.0 --> 0:0:2.5", "-->",
    "-00:01.000 --> 00:02.000", "99:99:99,999 --> 00:00", "1", "2", "42", "NOTE", "STYLE", "<v Ann>", "<v.x Bo>",
    "</v>", "<c>", "<", ">", "&amp;", "&", "Ann: ", "Bo Lee: ", "[Ann] ", "Note: ", "Ann  0:03  ",
    "Bo Lee   1:02:15", "0:08 - Bo Lee (Corp)", "@0:00 - Ann", "0:03", "1:00:05", "00:00:05", "### 00:05:10",
    "**Ann:** ", "Transcript", "📖 Transcript", "📝 Notes", "Transcription ended after 00:31:05", "Attendees",
    "Sync (2026-03-02 at 10:02 GMT+1) - Transcript", "Transcribed by https://otter.ai", "[00:00:03] ",
    "Ann (0:03) ", "Ann 0:03 ", "ACTION ITEM: x - WATCH: https://fathom.video/share/E?timestamp=1 ", "hello", " ",
    "שלום", "…", "\x00", "\ufeff", "\u2028", "\x85", "\xa0", "10:02:33 From Ann to Everyone: hi", '{"segments":[',
    '{"start":0,"end":1,"text":"hi"}', ",", "]}", "[", "]", "{", "}", '"', "x-20260302_100000-Meeting Transcript",
    "31m 5s", "Ann started transcription", "abc/12-0", "::", "：", "—",
)  # fmt: skip
messy_text = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=60).map("".join)
messy_bytes = st.one_of(
    st.binary(max_size=4_000),
    messy_text.map(lambda text: text.encode("utf-8", "replace")),
    messy_text.map(lambda text: text.encode("utf-16", "replace")),
    messy_text.map(lambda text: text.encode("cp1252", "replace")),
    st.tuples(messy_text, st.binary(max_size=20)).map(lambda parts: parts[0].encode("utf-8", "replace") + parts[1]),
)


def check(transcript: Transcript) -> None:
    """What every transcript promises."""
    assert len(transcript.turns) >= 1
    assert any(any(character.isalnum() for character in turn.text) for turn in transcript.turns)
    starts = [turn.start_seconds for turn in transcript.turns if turn.start_seconds is not None]
    if "times_begin_again" not in transcript.notes:
        assert starts == sorted(starts)
    for turn in transcript.turns:
        assert turn.text == turn.text.strip("\n")
        assert turn.text
        assert turn.start_seconds is None or 0 <= turn.start_seconds < 3_600_000
        assert turn.end_seconds is None or turn.start_seconds is None or turn.end_seconds >= turn.start_seconds
    text = transcript.to_text()
    assert "\0" not in text
    text.encode()
    assert transcript.duration_seconds is None or transcript.duration_seconds > 0
    assert transcript.started_at is None or transcript.started_at.tzinfo is not None
    assert transcript.started_at_local is None or transcript.started_at_local.tzinfo is None


@settings(max_examples=400, deadline=None)
@given(messy_bytes, st.sampled_from(SUFFIXES))
@example(b"WEBVTT\n\n00:01.000 --> 00:02.000\nx\n", "vtt")
@example(b"PK\x03\x04PK\x05\x06" + bytes(40), "docx")
def test_any_bytes_are_a_transcript_or_a_reason(data: bytes, suffix: str) -> None:
    reason = "is a transcript"
    try:
        check(read_transcript(data, name=f"call.{suffix}"))
    except TranscriptError as error:
        reason = str(error)
    assert 0 < len(reason) < 150


@settings(max_examples=200, deadline=None)
@given(messy_bytes)
def test_any_bytes_are_records_or_none_or_a_reason(data: bytes) -> None:
    try:
        records = read_records(data)
    except TranscriptError:
        return
    assert records is None or all(isinstance(record, dict) for record in records)


@settings(max_examples=200, deadline=None)
@given(messy_text)
def test_any_text_gives_turns(text: str) -> None:
    turns = turns_from_vtt(text)
    assert render(turns) == render(render_again(turns))
    deroll(turns)


def render_again(turns: list[Turn]) -> list[Turn]:
    """The same turns, as a connector might hold them."""
    return [Turn(turn.speaker, turn.text, turn.start_seconds, turn.end_seconds) for turn in turns]


names = st.sampled_from(
    [
        "Dana Reyes",
        "Omar",
        "Reyes, Dana (Sales)",
        "Dr. Ann Lee",
        "@1",
        "SPEAKER_00",
        "Speaker 1",
        "Zoë",
        "דנה לוי",
        "عمر",
        "田中",
        "Jean-Luc O'Neil",
        "Ludwig van Beek",
    ]
)
words = st.lists(
    st.sampled_from(["hello", "yes", "we", "meet", "at", "noon", "10:30", "ok.", "why?"]), min_size=1, max_size=9
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(names, words, st.booleans()), min_size=2, max_size=20), st.booleans())
def test_rendered_turns_are_read_as_they_were(said: list[tuple[str, list[str], bool]], timed: bool) -> None:
    speakers = [(speaker, " ".join(text)) for speaker, text, _ in said]
    turns = [
        Turn(speaker, text, at * 20.0 if timed else None, None) for at, (speaker, text) in enumerate(speakers)
    ]  # fmt: skip
    text = render(turns)
    transcript = read_transcript(text.encode(), name="call.txt")
    assert [(turn.speaker, turn.text, turn.start_seconds) for turn in transcript.turns] == [
        (turn.speaker, turn.text, turn.start_seconds) for turn in turns
    ]
    assert transcript.to_text() == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(names, words, st.integers(0, 3_000), st.integers(0, 9)), min_size=1, max_size=30))
def test_no_word_of_a_cue_is_lost(cues: list[tuple[str, list[str], int, int]]) -> None:
    body = "".join(
        f"{number}\n00:{start // 60:02}:{start % 60:02}.000 --> 00:{start // 60:02}:{start % 60:02}.{length}00\n"
        f"<v {name}>{' '.join(text)}</v>\n\n"
        for number, (name, text, start, length) in enumerate(cues)
    )  # fmt: skip
    transcript = read_transcript(("WEBVTT\n\n" + body).encode(), name="call.vtt")
    expected = sorted(itertools.chain.from_iterable(text for _, text, _, _ in cues))
    assert sorted(itertools.chain.from_iterable(turn.text.split() for turn in transcript.turns)) == expected
