"""WebVTT and SubRip: blocks of cues with times.

Why not the libraries (measured on Python 3.11, 5 MB of ordinary cues): webvtt-py 0.6.0
reads 5 MB/s, takes ten times the size of the file, and silently drops cues with a comma in the time, cues with a
negative time, text with an arrow in it and every voice of a cue but the first. srt 3.5.3 reads 16 MB/s, but its
expression is quadratic (40 kB of blanks take half a minute) and it logs the text that it cannot parse, which here would
be what somebody said. This reader follows the block structure of the W3C parsing algorithm and departs from it
where it would lose speech: a line that is no timing stays text even with an arrow in it, a cue whose time cannot be
read is kept without a time, and a blank line inside a cue does not end it for good.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from import_pipeline.transcripts.speakers import split_prefix
from import_pipeline.transcripts.turns import LATEST, Turns

_TIME = r"[ \t]*(-)?(?:([0-9]{1,9}):)?([0-9]{1,2}):([0-9]{1,2})(?:[.,]([0-9]{1,9}))?"
TIMING = re.compile(_TIME + r"[ \t]*-->" + _TIME + r"(?![0-9:])")
"""A timing line: hours optional, digits unpadded (Teams), comma or point, and a sign that some editors leave."""

_BROKEN_TIMING = re.compile(r"[0-9:;.,\s-]*-->")
_SKIPPED_BLOCK = re.compile(r"(?:NOTE|STYLE|REGION)(?:[ \t:]|$)")
# One blank before the name, and not all of them: what both parts could take costs time with the square of its length.
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?(?:[ \t]([^<>]*))?>|(</v>)", re.IGNORECASE)
_ONE_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?[ \t]([^<>]+)>([^<&]*)(?:</v>)?$")
# Only tags that exist: "<crosstalk>" and "a < b" are what somebody wrote down, and W3C's tokenizer would eat them.
_TAG = re.compile(
    r"</?(?:c|i|b|u|s|v|ruby|rt|lang|font|span|p|br)(?:[.\s/][^<>]*)?>|<[0-9]{1,9}:[0-9:.,]{1,20}>", re.IGNORECASE
)
_ASS_OVERRIDE = re.compile(r"\{\\[^{}]*\}")
_UTTERANCE = re.compile(r"([A-Za-z0-9-]+/[0-9]+)-[0-9]+\s*$")


def read_cues(lines: Iterable[str], into: Turns, notes: dict[str, Any], *, webvtt: bool) -> dict[str, int]:
    """Read the cues of a WebVTT or SubRip file.

    Args:
        lines: The lines of the file, the header line of WebVTT included.
        into: Takes one turn per cue and voice.
        notes: Told what was repaired or skipped.
        webvtt: Whether `NOTE`, `STYLE` and `REGION` blocks are to be skipped.

    Returns:
        How many cues there were, how many had voice tags, and how many an utterance id of Teams.
    """
    reader = _CueReader(into, webvtt)
    timing = TIMING.match
    feed_text, blank, feed_timing = reader.feed_text, reader.blank, reader.feed_timing
    for line in lines:
        if "-->" in line:
            match = timing(line)
            if match:
                feed_timing(match)
            elif reader.in_payload or not _BROKEN_TIMING.match(line):
                feed_text(line)
            elif not reader.skipping:
                reader.feed_timing(None)
        elif not line or line.isspace():
            blank()
        else:
            feed_text(line)
    reader.close()
    for key, count in reader.odd.items():
        if count:
            notes[key] = notes.get(key, 0) + count
    return {"cues": reader.cues, "voices": reader.voices, "utterances": reader.utterances, "unpadded": reader.unpadded}


class _CueReader:
    """The state between lines: the open cue, and lines that may be the next cue's identifier."""

    def __init__(self, into: Turns, webvtt: bool) -> None:
        self.into = into
        self.webvtt = webvtt
        self.in_payload = False
        self.skipping = webvtt  # the header block
        self.opened = False
        self.payload: list[str] = []
        self.before: list[str] = []
        self.start: int | None = None
        self.end: int | None = None
        self.number: int | None = None
        self.utterance: str | None = None
        self.last_utterance: str | None = None
        self.cues = self.voices = self.utterances = self.unpadded = 0
        self.odd = dict.fromkeys(
            ("empty_cues", "cues_without_time", "negative_times", "corrected_ends", "skipped_lines"), 0
        )

    def feed_text(self, line: str) -> None:
        if self.in_payload:
            self.payload.append(line)
        elif self.skipping:
            return
        elif not self.before and self.webvtt and _SKIPPED_BLOCK.match(line):
            self.skipping = True
        else:
            self.before.append(line)

    def blank(self) -> None:
        self.in_payload = self.skipping = False
        if self.before:
            self._stray(self.before)
            self.before = []

    def _stray(self, lines: list[str]) -> None:
        """Text in a block of its own: the cue before had a blank line in it."""
        if not self.opened:
            self.odd["skipped_lines"] += len(lines)
        elif not (len(lines) == 1 and self._is_next_number(lines[0])):
            self.payload += lines

    def _is_next_number(self, line: str) -> bool:
        line = line.strip()
        return (
            self.number is not None and len(line) < 10 and line.isascii() and line.isdigit()
            and self.number < int(line) <= self.number + 3
        )  # fmt: skip

    def feed_timing(self, match: re.Match[str] | None) -> None:
        identifier = None
        if self.in_payload:  # no blank line between two cues: the last line may be an identifier
            if self.payload and (self._is_next_number(self.payload[-1]) or _UTTERANCE.match(self.payload[-1])):
                identifier = self.payload.pop()
        elif self.before and not self.skipping:
            identifier = self.before.pop()
            if self.before:
                self._stray(self.before)
            self.before = []
        self._flush()
        self.opened = self.in_payload = True
        self.skipping = False
        self.cues += 1
        self.start, self.end = self._times(match) if match else (None, None)
        if self.start is None:
            self.odd["cues_without_time"] += 1
        if identifier is not None:
            self._identify(identifier.strip())
        else:
            self.utterance = None

    def _identify(self, identifier: str) -> None:
        self.utterance = None
        if len(identifier) < 10 and identifier.isascii() and identifier.isdigit():
            self.number = int(identifier)
        elif "/" in identifier:
            match = _UTTERANCE.match(identifier)
            if match:
                self.utterance = match[1]
                self.utterances += 1

    def _times(self, match: re.Match[str]) -> tuple[int | None, int | None]:
        minus, hours, minutes, seconds, fraction, minus_end, hours_end, minutes_end, seconds_end, fraction_end = (
            match.groups()
        )
        start = int(hours or 0) * 3_600_000 + int(minutes) * 60_000 + int(seconds) * 1_000
        end = int(hours_end or 0) * 3_600_000 + int(minutes_end) * 60_000 + int(seconds_end) * 1_000
        # Unpadded fractions (Teams writes 0:0:5.32) are read as decimals, as a browser does.
        if len(minutes) == 1:
            self.unpadded += 1
        if fraction:
            start += int(fraction) if len(fraction) == 3 else int(fraction[:3].ljust(3, "0"))
        if fraction_end:
            end += int(fraction_end) if len(fraction_end) == 3 else int(fraction_end[:3].ljust(3, "0"))
        if minus or minus_end:
            self.odd["negative_times"] += 1
            start, end = (0 if minus else start), (0 if minus_end else end)
        if start >= LATEST:
            return None, None
        if end < start or end >= LATEST:
            self.odd["corrected_ends"] += 1
            end = start
        return start, end

    def _flush(self) -> None:
        if not self.opened:
            return
        payload = self.payload
        if not payload:
            self.odd["empty_cues"] += 1
            self.last_utterance = None
            return
        self.payload = []
        text = payload[0].strip() if len(payload) == 1 else " ".join([line.strip() for line in payload])
        if "<" in text:
            if "<v" in text or "<V" in text:
                self._voices(text)
                return
            text = _untagged(text)
            payload = [_untagged(line) for line in payload]
        if not self.webvtt and "{\\" in text:
            text = _ASS_OVERRIDE.sub("", text)
            payload = [text]
        if "&" in text:
            text = html.unescape(text)
            payload = [html.unescape(line) for line in payload]
        speaker = None
        if ":" in text or "[" in text or "：" in text:
            if len(payload) > 1 and self._several(payload):
                return
            speaker, text = split_prefix(text)
        self.into.add(speaker, text, self.start, self.end)

    def _several(self, payload: list[str]) -> bool:
        """Whether several people speak in one cue, each on a line of its own; if so, take them."""
        parts = [split_prefix(line.strip()) for line in payload]
        if any(speaker is None for speaker, _ in parts):
            return False
        for speaker, said in parts:
            self.into.add(speaker, said, self.start, self.end)
        return True

    def _voices(self, text: str) -> None:
        """One or several `<v Name>` in a cue; the closing tag may be missing."""
        self.voices += 1
        simple = _ONE_VOICE.match(text)
        if simple:  # nearly all
            self._say(_name(simple[1]), simple[2].strip())
            return
        speaker: str | None = None
        at = 0
        for match in _VOICE.finditer(text):
            self._say_marked(speaker, text[at : match.start()])
            speaker = None if match[2] else _name(match[1])
            at = match.end()
        self._say_marked(speaker, text[at:])

    def _say_marked(self, speaker: str | None, text: str) -> None:
        text = _untagged(text)
        self._say(speaker, (html.unescape(text) if "&" in text else text).strip())

    def _say(self, speaker: str | None, text: str) -> None:
        if not text:
            return
        turns = self.into
        utterance = self.utterance
        if utterance and utterance == self.last_utterance and turns.speakers[-1] == turns.speaker_number(speaker):
            turns.extend_last(text, self.end)  # Teams cut one utterance into several cues
        else:
            turns.add(speaker, text, self.start, self.end)
        self.last_utterance = utterance

    def close(self) -> None:
        self.in_payload = False
        self.blank()
        self._flush()


def _untagged(text: str) -> str:
    return " ".join(_TAG.sub("", text).split())


@lru_cache(4096)
def _name(annotation: str | None) -> str | None:
    """The speaker of a voice tag; entities are allowed in it."""
    return " ".join(html.unescape(annotation or "").split()) or None
