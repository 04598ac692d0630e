"""JSON of speech recognition and of meeting services: segments with text, times, and sometimes speakers.

Known shapes: Whisper (`verbose_json` of the API, the command line's file), WhisperX, whisper.cpp, Deepgram, AssemblyAI,
and lists of segments as Fathom and Fireflies deliver them.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator
from typing import Any

from import_pipeline.errors import TranscriptError
from import_pipeline.transcripts.bounded_json import parse
from import_pipeline.transcripts.paragraphs import CLOCK, clock_ms
from import_pipeline.transcripts.text import TextFile
from import_pipeline.transcripts.turns import Turns, fill_ends, milliseconds

UNKNOWN_JSON = "is JSON, but neither the output of a speech recognition that is known nor a record"
MAX_OTHERS = 1_000_000
"""Objects that are no segments: a person counts once, anything else four times, which is about what they weigh."""

_CLOCK = re.compile(rf"\s*({CLOCK})\s*$")
_TEXT_KEYS = ("text", "transcript", "raw_text", "sentence")
_SPEAKER_KEYS = ("speaker", "speaker_name", "speakerName", "speaker_label", "participant", "speaker_id")
_START_KEYS = ("start", "start_time", "startTime", "start_seconds", "timestamp", "start_timestamp")
_END_KEYS = ("end", "end_time", "endTime", "end_seconds", "end_timestamp")
_SIGNS_OF_A_SEGMENT = frozenset({*_SPEAKER_KEYS, *_START_KEYS, *_END_KEYS, "offsets", "timestamps"})
_DEEPEST = 12
_INNER = ("segments", "utterances", "sentences", "paragraphs", "transcription", "results")
_WAY_IN = ("transcript", "data", "result", "results", *_INNER)
_PERSON = frozenset({"display_name", "name", "email", "speaker"})
_KEPT = frozenset(
    {*_WAY_IN, *_TEXT_KEYS, "channels", "alternatives", "language", "language_code", "duration", "audio_duration"}
    | {"metadata", "title", "speaker", "display_name", "name", "email"}
)


class _Segment(int):
    """Where a segment went: its number in the arrays. Whatever else the object held is gone."""

    __slots__ = ()


class _Hook:
    """Takes segments out of the JSON while it is parsed, into flat arrays; see `bounded_json`."""

    def __init__(self) -> None:
        self.found = Turns()
        self.starts = array("d")
        self.ends = array("d")
        self.words = Turns()
        self.others = 0

    def __call__(self, pairs: list[tuple[str, Any]]) -> Any:
        if pairs and pairs[0][0] == "word":  # nine of ten objects
            if len(pairs) > 4:
                self._word(dict(pairs))
            return None
        entry = dict(pairs)
        if entry.keys() == {"from", "to"}:  # whisper.cpp
            return (entry["from"], entry["to"])
        if not any(key in entry for key in _INNER):
            text = next((entry[key] for key in _TEXT_KEYS if isinstance(entry.get(key), str)), None)
            if text is not None and not _SIGNS_OF_A_SEGMENT.isdisjoint(entry):
                start, end = _times(entry)
                self.found.add(_speaker(entry), text.strip(), None, None)
                self.starts.append(start)
                self.ends.append(end)
                return _Segment(len(self.found) - 1)
        kept = {key: value for key, value in entry.items() if key in _KEPT}
        if not kept:
            return None
        person = kept.keys() <= _PERSON
        self.others += (1 if person else 4) + sum(map(_values_in, kept.values()))
        if self.others > MAX_OTHERS:
            raise TranscriptError(UNKNOWN_JSON)
        return _speaker({"speaker": kept}) if person else kept

    def _word(self, entry: dict[str, Any]) -> None:
        """Deepgram names speakers on words only, unless it was asked for utterances."""
        word = entry.get("punctuated_word") or entry["word"]
        if "speaker" in entry and "confidence" in entry and isinstance(word, str):
            start, end = milliseconds(entry.get("start")), milliseconds(entry.get("end"))
            self.words.add(_speaker(entry), word, start, end)


def _values_in(value: Any) -> int:
    """Count what an array holds besides segments and objects, which are counted by themselves."""
    if not isinstance(value, list):
        return 0
    return sum(1 + _values_in(each) for each in value if each is not None and not isinstance(each, (_Segment, dict)))


def _times(entry: dict[str, Any]) -> tuple[float, float]:
    """Start and end in the unit of the file; NaN if there is none."""
    offsets, stamps = entry.get("offsets"), entry.get("timestamps")
    if isinstance(offsets, tuple):
        return _number(offsets[0]) / 1000, _number(offsets[1]) / 1000
    if isinstance(stamps, tuple):
        return _number(stamps[0]), _number(stamps[1])
    start = next((entry[key] for key in _START_KEYS if key in entry), None)
    end = next((entry[key] for key in _END_KEYS if key in entry), None)
    return _number(start), _number(end)


def _number(value: Any) -> float:
    if isinstance(value, str) and (match := _CLOCK.match(value[:40])):
        ms = clock_ms(match[1])
        return math.nan if ms is None else ms / 1000
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12:
        return float(value)
    return math.nan


def _speaker(entry: dict[str, Any]) -> str | None:
    for key in _SPEAKER_KEYS:
        value = entry.get(key)
        if isinstance(value, dict):
            value = value.get("display_name") or value.get("name") or value.get("email")
        if isinstance(value, str) and value.strip():
            name = " ".join(value.split())[:200]
            return f"Speaker {name}" if len(name) == 1 else name  # AssemblyAI calls them "A" and "B"
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10_000:
            return f"Speaker {value}"
    return None


def read_speech_json(file: TextFile, data: bytes, about: dict[str, Any], notes: dict[str, Any]) -> tuple[Turns, str]:
    """Read JSON with segments.

    Args:
        file: The decoded file.
        data: The same as bytes.
        about: Filled with title and length.
        notes: Given the language.

    Returns:
        One turn per segment, and the format.
    """
    hook = _Hook()
    content = parse(file, hook, drops_objects=True)
    turns = Turns()
    form, milli = _form_of(content)
    segments = _find(content, 0)
    for group, speaker in segments or ():
        for segment in group:
            if isinstance(segment, _Segment):
                _copy(hook, segment, speaker, turns, 1 if milli else 1000)
            elif _is_said(segment):
                turns.add(speaker, segment["text"].strip())
    if not len(turns) and len(hook.words):
        turns, form = hook.words, "deepgram-json"
    if not len(turns):
        text = _only_text(content, 0)
        if text is None:
            raise TranscriptError("holds no spoken text" if segments is not None else UNKNOWN_JSON)
        turns.add(None, text)
    fill_ends(turns)
    turns.damaged += hook.found.damaged
    if isinstance(content, dict):
        _describe(content, about, notes)
        if form == "whisper-json" and len(turns.names) > 1:
            form = "whisperx-json"
    return turns, form


def _copy(hook: _Hook, segment: _Segment, speaker: str | None, turns: Turns, factor: int) -> None:
    number = int(segment)
    start, end = hook.starts[number] * factor / 1000, hook.ends[number] * factor / 1000
    start_ms, end_ms = milliseconds(start), milliseconds(end)
    if start_ms is not None and end_ms is not None and end_ms < start_ms:
        end_ms = start_ms
    named = hook.found.names[hook.found.speakers[number]]
    turns.add(named or speaker, hook.found.text_of(number), start_ms, end_ms)


def _form_of(content: Any) -> tuple[str, bool]:
    """The format, and whether its times are milliseconds."""
    if isinstance(content, dict):
        if "transcription" in content:
            return "whisper-cpp-json", False
        if "segments" in content:
            return "whisper-json", False
        if isinstance(content.get("results"), dict):
            return "deepgram-json", False
        if "utterances" in content or "audio_duration" in content:
            return "assemblyai-json", True
        if isinstance(content.get("text"), str):
            return "whisper-json", False
    return "segments-json", False


def _find(content: Any, depth: int) -> list[tuple[list[Any], str | None]] | None:
    """The lists of segments on the first known way in; an empty list if there is one without speech."""
    if depth > _DEEPEST:
        return None
    if isinstance(content, list):
        if not content:
            return []
        if any(_is_said(entry) for entry in content):
            return [(content, None)]
        found = [group for entry in content for group in _find(entry, depth + 1) or ()]
        return found or None
    if not isinstance(content, dict):
        return None
    empty: list[tuple[list[Any], str | None]] | None = None
    for key in (*_WAY_IN, "channels", "alternatives"):
        if key in content and content[key] is not None:
            found = _find(content[key], depth + 1) or []
            if found:
                speaker = _speaker(content)
                return [(group, name or speaker) for group, name in found]
            if isinstance(content[key], list):
                empty = []
    return empty


def _is_said(entry: Any) -> bool:
    """Whether an element of a list is a segment, if only one with text and nothing else."""
    return isinstance(entry, _Segment) or (isinstance(entry, dict) and isinstance(entry.get("text"), str))


def _only_text(content: Any, depth: int) -> str | None:
    """The whole text, where there are no segments."""
    if isinstance(content, _Segment) or depth > _DEEPEST:
        return None
    if isinstance(content, list):
        return next(_texts(content, depth), None)
    if not isinstance(content, dict):
        return None
    for key in ("text", "transcript"):
        if isinstance(content.get(key), str) and content[key].strip():
            return str(content[key])
    return next(
        _texts([content[key] for key in ("results", "channels", "alternatives") if key in content], depth), None
    )


def _texts(entries: list[Any], depth: int) -> Iterator[str]:
    for entry in entries:
        text = _only_text(entry, depth + 1)
        if text is not None:
            yield text


def _describe(content: dict[str, Any], about: dict[str, Any], notes: dict[str, Any]) -> None:
    metadata = content.get("metadata")
    for source in (content, metadata if isinstance(metadata, dict) else {}):
        for key in ("duration", "audio_duration"):
            seconds = _number(source.get(key))
            if seconds == seconds and 0 < seconds < 1_000 * 3600:
                about.setdefault("duration", int(seconds))
    if isinstance(content.get("title"), str) and content["title"].strip():
        about["title"] = content["title"].strip()
    language = content.get("language") or content.get("language_code")
    if isinstance(language, str) and len(language) < 40:
        notes["language"] = language
