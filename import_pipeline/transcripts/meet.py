"""Google Meet's transcript document: classic text, the combined document with notes, and its Markdown export.

Times are headings every few minutes, not times of turns, so each turn gets the time of its section. Titles and
headings are localised; what identifies the document is therefore its structure, not its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from import_pipeline.transcripts.dates import find_date
from import_pipeline.transcripts.paragraphs import LONGEST_HEADER, Paragraphs, clock_ms
from import_pipeline.transcripts.speakers import split_prefix
from import_pipeline.transcripts.turns import Turns

_HEADING = re.compile(r"\s*+(?:#{1,6}\s*+)?([0-9]{1,3}:[0-9]{2}:[0-9]{2})\s*+(?:\{#[^}]{0,80}\})?\s*+$")
_TITLE = re.compile(
    r"(?:#{1,6}\s*)?(.{1,200}?)\s*"
    r"(?:\((?=[0-9]{4}-[0-9]{2}-[0-9]{2})[^)]{10,60}\)|[-–]\s*[0-9]{4}/[0-9]{2}/[0-9]{2} [^-–]{4,40})\s*[-–]\s*\S"
)
_TRANSCRIPT_TITLE = re.compile(
    r"(?:#{1,6}\s*)?(.{1,200}?)\s+[-–]\s+(?:Transcript|Transcription|Trascrizione|Transkript|Transcripción|Transcrição)\s*$"
)
_MARKER = re.compile(
    r"(?:#{1,6}\s*)?(?:📖\s*)?(?:Transcript|Transcription|Trascrizione|Transkript|Transcripción|Transcrição)\s*$"
)
_ENDED = re.compile(r"(?:#{1,6}\s*)?Transcription ended after ([0-9]{1,3}:[0-9]{2}:[0-9]{2})")
_DISCLAIMER = re.compile(r"_?This editable transcript was computer generated")
_ATTENDEES = re.compile(r"(?:#{1,6}\s*)?(?:Attendees|Invited|Partecipanti|Teilnehmer)\b:?\s*")
_DATE_ONLY = re.compile(r"[A-Z][a-z]{2,8}\.? [0-9]{1,2}, [0-9]{4}$")
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+\-.!~>|&<=])")
_BOLD_NAME = re.compile(r"\*\*([^*\n]{1,80}?):?\*\*:?[ \t]*")


def is_meet(lines: Sequence[str]) -> bool:
    """Whether these non-blank lines are the beginning of such a document."""
    for line in lines[:5]:
        if len(line) <= LONGEST_HEADER and _TITLE.match(line) and find_date(line):
            return True
    headings = turns = texts = 0
    for line in lines:
        if line.startswith("📖") or _ENDED.match(line):
            return True
        if _HEADING.match(line):
            headings += 1
        elif headings:
            texts += 1
            turns += split_prefix(line[:LONGEST_HEADER])[0] is not None or line.startswith("**")
    return headings > 0 and turns >= 0.5 * texts > 0


def read_meet(lines: Iterable[str], into: Turns, about: dict[str, Any], notes: dict[str, Any]) -> str:
    """Read the document.

    Args:
        lines: The lines of the text.
        into: Takes the turns, speakers guessed.
        about: Filled with title, start and length.
        notes: Given `attendees` and `precision`.
    """
    paragraphs = Paragraphs(into)
    section: int | None = None
    begun = False  # past the marker, or at the first time heading
    form = "meet"
    expecting_attendees = False
    for number, line in enumerate(lines):
        text = line.strip().lstrip("\ufeff")
        if not text:
            paragraphs.line("") if paragraphs.is_open else None
            continue
        if len(text) <= LONGEST_HEADER:
            if text.startswith("📝"):
                form = "meet-gemini"
            if ended := _ENDED.match(text):
                milliseconds = clock_ms(ended[1])
                about["duration"] = None if milliseconds is None else milliseconds // 1000
                break  # only the disclaimer follows
            if heading := _HEADING.match(text):
                if text.startswith("#"):
                    form = "meet-markdown"
                section = clock_ms(heading[1])
                begun = True
                paragraphs.close()
                continue
            if not begun or (not len(into) and not paragraphs.is_open):
                if _MARKER.match(text):
                    begun = True
                    continue
                if number < 60 or text.startswith("📖") or begun:
                    expecting_attendees = _about(text, about, notes, expecting_attendees)
        if _DISCLAIMER.match(text):
            continue
        if begun and (len(into) or paragraphs.is_open or section is not None or _names_somebody(text)):
            _turn(text, section, paragraphs)
    paragraphs.close()
    notes["precision"] = "section"
    return form


def _names_somebody(text: str) -> bool:
    return _BOLD_NAME.match(text) is not None or split_prefix(text)[0] is not None


def _turn(text: str, section: int | None, paragraphs: Paragraphs) -> None:
    if bold := _BOLD_NAME.match(text):
        name = _ESCAPE.sub(r"\1", bold[1]).strip(" :")
        paragraphs.begin(f"{name}: ", section, _ESCAPE.sub(r"\1", text[bold.end() :]))
        return
    if "\\" in text:
        text = _ESCAPE.sub(r"\1", text)
    speaker, said = split_prefix(text)
    if speaker:
        paragraphs.begin(speaker, section, said)
    elif paragraphs.is_open:
        paragraphs.line(text)
    else:
        paragraphs.begin(None, section, text)


def _about(text: str, about: dict[str, Any], notes: dict[str, Any], attendees_next: bool) -> bool:
    """Take title, date and attendees from the lines before the transcript; true if the next line lists attendees."""
    plain = _ESCAPE.sub(r"\1", text).strip("*# ")
    if title := _TITLE.match(plain):
        about.setdefault("title", title[1].strip())
        found = find_date(plain)
        if found and "start" not in about:
            about["start"] = found
    elif (title := _TRANSCRIPT_TITLE.match(plain)) and "title" not in about:
        about["title"] = title[1].strip()
    elif listed := _ATTENDEES.match(plain):
        if rest := plain[listed.end() :]:
            notes["attendees"] = [name.strip() for name in rest.split(",") if name.strip()]
        return not rest
    elif dated := _DATE_ONLY.match(plain):
        notes.setdefault("date", dated[0])
    elif attendees_next:
        notes["attendees"] = [name.strip() for name in plain.split(",") if name.strip()]
    return False
