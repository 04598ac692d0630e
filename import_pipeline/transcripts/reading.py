"""From the bytes of a file to a `Transcript`: the content decides what it is, the suffix only helps."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from import_pipeline.errors import TranscriptError
from import_pipeline.transcripts.cues import read_cues
from import_pipeline.transcripts.detecting import refuse_binary, refuse_foreign, refuse_markup
from import_pipeline.transcripts.fathom import read_fathom
from import_pipeline.transcripts.finishing import finish_turns
from import_pipeline.transcripts.generic import read_generic
from import_pipeline.transcripts.headed import read_headed, read_teams_old
from import_pipeline.transcripts.layouts import layout_of
from import_pipeline.transcripts.meet import read_meet
from import_pipeline.transcripts.speakers import is_guess
from import_pipeline.transcripts.speech_json import read_speech_json
from import_pipeline.transcripts.text import TextFile
from import_pipeline.transcripts.transcript import Transcript
from import_pipeline.transcripts.turns import UNKNOWN, Turn, Turns, fill_ends, milliseconds
from import_pipeline.transcripts.word_document import document_lines

_WEBVTT = re.compile(r"WEBVTT(?:[ \t\n]|$)", re.IGNORECASE)
_JSON = re.compile(r'\{\s*["}]|\[\s*[\[{\]"]')
_HEAD_OF_DOCUMENT = 1 << 18


def read_transcript(data: bytes, *, name: str) -> Transcript:
    """Read a transcript of any supported format.

    WebVTT (W3C, Zoom, Teams), SubRip, Otter, Fathom, Google Meet, Teams documents, YouTube's panel, speaker lines of
    any usual kind, prose, JSON of speech recognition.

    Args:
        data: The file, up to 50 MB.
        name: Its name; the suffix decides where the content leaves a doubt.

    Returns:
        The transcript, with at least one turn.

    Raises:
        TranscriptError: It is no transcript, damaged, or holds no speech. The message completes the file's name to a
            sentence and never quotes what is in the file.
    """
    suffix = name.lower().rpartition(".")[2] if "." in name else ""
    refuse_foreign(data)
    notes: dict[str, Any] = {}
    about: dict[str, Any] = {}
    if data.startswith(b"PK\x03\x04"):
        raw, form = _read_lines(*_head_and_rest(document_lines(data)), about, notes, in_document=True)
        return _finish(raw, form, about, notes)
    file = TextFile(data)
    if not file.encoding.startswith(("utf-16", "utf-32")):
        refuse_binary(data)
    head = file.head()
    start = head.lstrip("\ufeff \t\n")
    if not start:
        raise TranscriptError("is empty" if len(data) < 4 else "holds no text")
    refuse_markup(start)
    if suffix == "docx":
        raise TranscriptError("is no Word document: it is damaged, or another kind of file under this name")
    if _WEBVTT.match(start):
        raw, form = _read_cues(file.lines(), notes, webvtt=True)
    elif _JSON.match(start) or suffix == "json":
        raw, form = read_speech_json(file, data, about, notes)
    else:
        if suffix == "vtt":
            notes["missing_header"] = True
        raw, form = _read_lines(head, file.lines(), about, notes, suffix=suffix)
    if file.encoding != "utf-8":
        notes["encoding"] = file.encoding
    raw.damaged += file.damaged
    if file.cut_lines:
        notes["cut_lines"] = file.cut_lines
    return _finish(raw, form, about, notes)


def _head_and_rest(lines: Iterator[str]) -> tuple[str, Iterator[str]]:
    first: list[str] = []
    size = 0
    for line in lines:
        first.append(line)
        size += len(line) + 1
        if size > _HEAD_OF_DOCUMENT:
            break
    return "\n".join(first), itertools.chain(first, lines)


def _read_lines(
    head: str,
    lines: Iterable[str],
    about: dict[str, Any],
    notes: dict[str, Any],
    *,
    suffix: str = "",
    in_document: bool = False,
) -> tuple[Turns, str]:
    """Read text in the layout that its beginning has."""
    layout = layout_of(head)
    if layout == "cues":
        return _read_cues(lines, notes, webvtt=suffix == "vtt")
    if suffix in ("vtt", "srt"):
        raise TranscriptError("holds no cues")
    raw = Turns()
    if layout == "teams-old":
        form = read_teams_old(lines, raw, about, notes)
    elif layout == "meet":
        form = read_meet(lines, raw, about, notes)
    elif layout == "fathom":
        form = read_fathom(lines, raw, about, notes)
    elif layout in ("headed", "clocked"):
        form = read_headed(lines, raw, about, notes, clocks_only=layout == "clocked")
    else:
        form = read_generic(lines, head, raw, about, notes)
    if in_document and not form.endswith(("docx", "docx-old")):
        form = "teams-docx" if form == "otter" else f"{form}-docx"
    return raw, form


def _read_cues(lines: Iterable[str], notes: dict[str, Any], *, webvtt: bool) -> tuple[Turns, str]:
    raw = Turns()
    seen = read_cues(lines, raw, notes, webvtt=webvtt)
    if not len(raw):
        raise TranscriptError("holds no cues" if not seen["cues"] else "holds no spoken text: its cues are empty")
    if not webvtt:
        return raw, "srt"
    if seen["voices"]:
        return raw, "vtt-teams" if seen["utterances"] or seen["unpadded"] else "vtt"
    return raw, "vtt-zoom" if any(map(is_guess, raw.names)) else "vtt"


_CUE_FORMATS = ("vtt", "srt", "youtube", "whisper", "deepgram", "assemblyai", "segments", "teams-docx-old")


def _finish(raw: Turns, form: str, about: dict[str, Any], notes: dict[str, Any]) -> Transcript:
    turns = finish_turns(raw, notes, cues=form.startswith(_CUE_FORMATS))
    if form == "vtt-zoom" and len(turns.names) == 1:
        form = "vtt"
    if form.startswith("generic") and len(turns) == 1 and turns.starts[0] == UNKNOWN and len(turns.names) == 1:
        form = form.replace("generic", "plain")
    start = about.get("start")
    aware = isinstance(start, datetime) and start.tzinfo is not None
    if start is not None and not aware:
        notes["started_at_without_zone"] = start.isoformat()
    last = turns.last_ms()
    if last is not None and not about.get("duration") and all(end == UNKNOWN for end in turns.ends):
        notes["duration_is"] = "the start of the last turn"
    duration = max(about.get("duration") or 0, 0 if last is None else last // 1000)
    return Transcript(
        turns=turns,
        format=form,
        title=about.get("title") or None,
        started_at=start if aware else None,
        started_at_local=None if aware else start,
        duration_seconds=duration or None,
        notes=notes,
    )


def turns_from_vtt(text: str) -> list[Turn]:
    """The turns of a WebVTT file that a provider delivered.

    Args:
        text: The file as text.

    Returns:
        The turns in order, cues of one speaker put together; empty if nothing was said.
    """
    raw = Turns()
    lines = text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    read_cues(lines, raw, {}, webvtt=_WEBVTT.match(lines[0].strip() + "\n") is not None)
    return list(finish_turns(raw, {}, cues=True)) if raw.spoken else []


def turns_from_segments(segments: Iterable[tuple[str | None, str, float | None, float | None]]) -> list[Turn]:
    """Turns from a provider's segments.

    Args:
        segments: Speaker, text, start and end in seconds; each but the text may be missing. A missing end is the
            next start.

    Returns:
        One turn per segment that holds text, in the order given and not merged yet: `deroll` and `render` follow.
    """
    raw = Turns()
    for speaker, text, start, end in segments:
        text = " ".join(text.split())
        if text:
            start_ms, end_ms = milliseconds(start), milliseconds(end)
            if start_ms is not None and end_ms is not None:
                end_ms = max(start_ms, end_ms)
            raw.add(" ".join((speaker or "").split()) or None, text, start_ms, end_ms)
    fill_ends(raw)
    return list(raw)
