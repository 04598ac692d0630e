"""JSON: speech recognition of several makers, lists of segments, our own records, and damaged files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from import_pipeline.errors import TranscriptError
from import_pipeline.transcripts import Transcript, Turn, read_records, read_transcript


def read(content: Any, name: str = "call.json") -> Transcript:
    return read_transcript(json.dumps(content).encode(), name=name)


SEGMENTS = [
    {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": 3.2,
        "text": " Hello everyone.",
        "tokens": [50364, 1],
        "temperature": 0.0,
    },
    {"id": 1, "seek": 0, "start": 9.0, "end": 9.5, "text": " Bye.", "tokens": [50365], "no_speech_prob": 0.01},
]
HELLO_BYE = [Turn(None, "Hello everyone.", 0.0, 3.2), Turn(None, "Bye.", 9.0, 9.5)]
WORDS = [{"word": " Hello", "start": 0.0, "end": 0.5, "probability": 0.9}, {"word": " everyone."}]


@pytest.mark.parametrize(
    ("content", "form", "turns", "duration"),
    [
        pytest.param(
            {"task": "transcribe", "language": "english", "duration": 12.7, "text": "x", "segments": SEGMENTS,
             "words": WORDS},
            "whisper-json", HELLO_BYE, 12, id="Whisper API",
        ),
        pytest.param(
            {"text": " x", "segments": [{**SEGMENTS[0], "words": WORDS}, SEGMENTS[1]], "language": "en"},
            "whisper-json", HELLO_BYE, 9, id="Whisper command line",
        ),
        pytest.param(
            {"segments": [
                {"start": 0.0, "end": 3.2, "text": " Hello everyone.", "speaker": "SPEAKER_00",
                 "words": [{"word": "Hello", "score": 0.9, "speaker": "SPEAKER_00"}]},
                {"start": 9.0, "end": 9.5, "text": "Bye.", "speaker": "SPEAKER_01", "words": []},
            ], "word_segments": [{"word": "Hello", "start": 0.1, "end": 0.4, "score": 0.9, "speaker": "SPEAKER_00"}]},
            "whisperx-json",
            [Turn("SPEAKER_00", "Hello everyone.", 0.0, 3.2), Turn("SPEAKER_01", "Bye.", 9.0, 9.5)], 9, id="WhisperX",
        ),
        pytest.param(
            {"systeminfo": "AVX", "result": {"language": "en"}, "transcription": [
                {"timestamps": {"from": "00:00:00,000", "to": "00:00:03,200"}, "offsets": {"from": 0, "to": 3200},
                 "text": " Hello everyone.",
                 "tokens": [{"text": " Hello", "offsets": {"from": 0, "to": 100}, "id": 1}]},
                {"timestamps": {"from": "00:00:09,000", "to": "00:00:09,500"}, "text": " Bye."},
            ]},
            "whisper-cpp-json", HELLO_BYE, 9, id="whisper.cpp",
        ),
        pytest.param(
            {"metadata": {"duration": 25.9}, "results": {
                "channels": [{"alternatives": [{"transcript": "hello everyone bye", "confidence": 0.9, "words": []}]}],
                "utterances": [
                    {"start": 0.0, "end": 3.2, "confidence": 0.9, "transcript": "Hello everyone.", "speaker": 0},
                    {"start": 9.0, "end": 9.5, "confidence": 0.9, "transcript": "Bye.", "speaker": 1},
                ]}},
            "deepgram-json", [Turn("Speaker 0", "Hello everyone.", 0.0, 3.2), Turn("Speaker 1", "Bye.", 9.0, 9.5)], 25,
            id="Deepgram utterances",
        ),
        pytest.param(
            {"results": {"channels": [{"alternatives": [{"transcript": "x", "paragraphs": {
                "transcript": "x", "paragraphs": [
                    {"sentences": [{"text": "Hello everyone.", "start": 0.0, "end": 3.2}], "speaker": 0, "start": 0.0},
                    {"sentences": [{"text": "Bye.", "start": 9.0, "end": 9.5}], "speaker": 1, "start": 9.0},
                ]}}]}]}},
            "deepgram-json", [Turn("Speaker 0", "Hello everyone.", 0.0, 3.2), Turn("Speaker 1", "Bye.", 9.0, 9.5)], 9,
            id="Deepgram paragraphs",
        ),
        pytest.param(
            {"results": {"channels": [{"alternatives": [{"transcript": "hello bye", "words": [
                {"word": "hello", "start": 0.0, "end": 0.5, "confidence": 1, "punctuated_word": "Hello", "speaker": 0},
                {"word": "all", "start": 0.6, "end": 0.9, "confidence": 0.9, "speaker": 0, "punctuated_word": "all."},
                {"word": "bye", "start": 9.0, "end": 9.5, "confidence": 0.9, "speaker": 1, "punctuated_word": "Bye."},
            ]}]}]}},
            "deepgram-json", [Turn("Speaker 0", "Hello all.", 0.0, 0.9), Turn("Speaker 1", "Bye.", 9.0, 9.5)], 9,
            id="Deepgram words",
        ),
        pytest.param(
            {"id": "x", "audio_duration": 25, "text": "x", "utterances": [
                {"speaker": "A", "text": "Hello everyone.", "start": 0, "end": 3200,
                 "words": [{"text": "Hello", "start": 0, "end": 500, "confidence": 0.9, "speaker": "A"}]},
                {"speaker": "B", "text": "Bye.", "start": 9000, "end": 9500, "words": []},
            ], "words": [{"text": "Hello", "start": 0, "end": 500, "confidence": 0.9, "speaker": None}]},
            "assemblyai-json", [Turn("Speaker A", "Hello everyone.", 0.0, 3.2), Turn("Speaker B", "Bye.", 9.0, 9.5)],
            25,
            id="AssemblyAI, in milliseconds",
        ),
        pytest.param(
            [{"speaker": {"display_name": "Dana Reyes"}, "text": "Hello.", "timestamp": "00:00:05"},
             {"speaker": {"display_name": "Omar"}, "text": "Hi.", "timestamp": "01:00:09"}],
            "segments-json", [Turn("Dana Reyes", "Hello.", 5.0, 3609.0), Turn("Omar", "Hi.", 3609.0, 3609.0)], 3609,
            id="a list of segments with clock times",
        ),
        pytest.param(
            {"data": {"transcript": {"title": "Sync", "sentences": [
                {"index": 0, "speaker_name": "Dana Reyes", "text": "Hello.", "start_time": 5.0, "end_time": 6.0},
                {"index": 1, "speaker_name": "Omar", "text": "Hi.", "start_time": 9.0, "end_time": 9.5}]}}},
            "segments-json", [Turn("Dana Reyes", "Hello.", 5.0, 6.0), Turn("Omar", "Hi.", 9.0, 9.5)], 9,
            id="sentences deep inside",
        ),
        pytest.param({"text": "Hello everyone."}, "whisper-json", [Turn(None, "Hello everyone.", None)], None,
                     id="only text"),
        pytest.param({"segments": [{"text": " Hello"}, {"text": "Bye."}]}, "whisper-json",
                     [Turn(None, "Hello", None), Turn(None, "Bye.", None)], None, id="segments without times"),
    ],
)  # fmt: skip
def test_known_shapes(content: Any, form: str, turns: list[Turn], duration: int | None) -> None:
    transcript = read(content)
    assert list(transcript.turns) == turns
    assert (transcript.format, transcript.duration_seconds) == (form, duration)


def test_the_content_decides_and_not_the_suffix() -> None:
    assert read({"segments": SEGMENTS}, name="call.txt").format == "whisper-json"
    assert read_transcript(b"WEBVTT\n\n00:01.000 --> 00:02.000\nHi.\n", name="call.json").format == "vtt"


def test_json_in_utf16_and_with_emoji() -> None:
    content = json.dumps({"segments": [{"start": 0, "end": 1, "text": "Grüße 👋 \u2019"}]}, ensure_ascii=False)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert read_transcript(content.encode(encoding), name="a.json").turns[0].text == "Grüße 👋 \u2019"


def test_escapes_that_cannot_be_stored_are_replaced() -> None:
    transcript = read_transcript(b'{"segments":[{"start":0,"end":1,"text":"a\\u0000b \\ud83d c"}]}', name="a.json")
    assert transcript.turns[0].text == "a\ufffdb \ufffd c"
    assert transcript.notes["replaced_characters"] == 2


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-1e400", "1e400", '"soon"', "null", "true", "[1]", "{}", "9" * 300]
)
def test_a_strange_time_loses_no_words(value: str) -> None:
    data = f'{{"segments":[{{"start":{value},"end":{value},"text":"Hello"}},{{"start":1,"text":"Bye"}}]}}'
    assert [turn.text for turn in read_transcript(data.encode(), name="a.json").turns] == ["Hello", "Bye"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b'{"segments": [{"text": "secret", "start": 0,', r"damaged JSON: .* line 1, col", id="cut off"),
        pytest.param(b'{"a":\n "secret}', "damaged JSON: .* at line 2", id="open string"),
        pytest.param(b"secret words", "damaged JSON", id="no JSON at all"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="deep arrays"),
        pytest.param(b'{"a":' * 100_000, "nested too deeply", id="deep objects"),
        pytest.param(b'{"a": ' + b"9" * 5_000 + b"}", "a number is too long", id="endless number"),
        pytest.param(b"{}", "neither the output", id="empty object"),
        pytest.param(b"[]", "holds no spoken text", id="empty list"),
        pytest.param(b"42", "neither the output", id="a number"),
        pytest.param(b'{"name": "secret", "version": "1"}', "neither the output", id="something else"),
        pytest.param(b'[{"id": 1}, {"id": 2}]', "neither the output", id="a list of something else"),
        pytest.param(b'{"segments": []}', "holds no spoken text", id="no segment"),
        pytest.param(b'{"segments": [{"start": 0, "end": 1, "text": " "}]}', "holds no spoken text", id="silence"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(TranscriptError, match=reason) as caught:
        read_transcript(data, name="call.json")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


RECORD = {
    "external_id": "a-1",
    "source_app": "file-upload",
    "title": "T",
    "full_transcript": "Dana: Hello.",
    "duration": 5,
}


class TestRecords:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_one_record(self, encoding: str) -> None:
        assert read_records(json.dumps(RECORD).encode(encoding)) == [RECORD]

    def test_a_list_of_records_is_as_it_stands_in_the_file(self) -> None:
        records = [
            RECORD,
            {"external_id": "a-2", "full_transcript": None, "source_metadata": {"a": [1, {"b": None}]}},
            {},
        ]
        assert read_records(json.dumps(records).encode()) == records

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param({"segments": SEGMENTS, "duration": 3, "title": "x"}, id="Whisper"),
            pytest.param([], id="empty list"),
            pytest.param({}, id="empty object"),
            pytest.param("full_transcript", id="a string"),
            pytest.param([1, 2], id="numbers"),
            pytest.param({"summary": "x", "audio_url": "y", "text": "z"}, id="fields that others have, too"),
            pytest.param({"text": "x", "segments": [], "source_metadata": {}}, id="one field of ours"),
            pytest.param({"text": 'say "full_transcript": now', "segments": []}, id="speech about us"),
        ],
    )
    def test_other_json_is_no_record(self, content: Any) -> None:
        assert read_records(json.dumps(content).encode()) is None

    @pytest.mark.parametrize("data", [b"", b"WEBVTT", b"PK\x03\x04", b"\x00\xff", b'Ann: "full_transcript" is a field'])
    def test_other_files_are_no_records(self, data: bytes) -> None:
        assert read_records(data) is None

    def test_a_record_without_transcript_is_still_a_record(self) -> None:
        record = {"external_id": "a", "source_app": "x"}
        assert read_records(json.dumps(record).encode()) == [record]

    def test_an_entry_that_is_no_object_is_named(self) -> None:
        with pytest.raises(TranscriptError, match="its entry 2 is not an object"):
            read_records(json.dumps([RECORD, None]).encode())

    def test_a_damaged_file_of_records_is_an_error(self) -> None:
        with pytest.raises(TranscriptError, match=r"is damaged JSON: .* line 1"):
            read_records(json.dumps(RECORD).encode()[:-5])
