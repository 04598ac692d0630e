"""The sample transcripts: one small made-up call per format and dialect, twenty in all.

They are what a newcomer imports first. Weekly sync, Pricing review, Warehouse scanner and Offer for two offices are
WebVTT as the W3C, Zoom and both sides of Teams write it; Lab induction is SubRip; Interview shift planning is Otter's
text; Website kick-off is pasted from Fathom; Budget check, Hiring and Release planning are Google Meet's classic text,
its combined document and its Markdown; Support handover has times and names; Field notes is prose; Voice memo lift,
Kaffeemaschine and Library desk are JSON of Whisper's interface, its command line and WhisperX; Renewal call and
Delivery date are records in our own fields, one as an object and one in a list; Inspection, Van and Book club are Word
documents of Teams (newer, older) and Meet.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from import_pipeline.transcripts import read_records, read_transcript

SAMPLES = Path(__file__).parents[3] / "samples"
FORMATS = {
    "2026-03-02 Weekly sync.vtt": ("vtt", 3),
    "2026-03-04 Pricing review.vtt": ("vtt-zoom", 3),
    "2026-03-05 Warehouse scanner.vtt": ("vtt-teams", 2),
    "2026-03-10 Lab induction.srt": ("srt", 2),
    "2026-03-12 Website kick-off.txt": ("fathom", 2),
    "2026-03-13 Budget check.txt": ("meet", 2),
    "2026-03-16 Hiring.txt": ("meet-gemini", 3),
    "2026-03-17 Release planning.txt": ("meet-markdown", 2),
    "2026-03-18 Support handover.txt": ("generic", 2),
    "2026-03-19 Field notes.txt": ("plain", 0),
    "2026-03-20 Voice memo lift.json": ("whisper-json", 0),
    "2026-03-23 Kaffeemaschine.json": ("whisper-json", 0),
    "2026-03-24 Library desk.json": ("whisperx-json", 2),
    "2026-03-27 Inspection.docx": ("teams-docx", 2),
    "2026-03-30 Van.docx": ("teams-docx-old", 2),
    "2026-03-31 Book club.docx": ("meet-docx", 3),
    "customers/2026-03-09 Offer for two offices.vtt": ("vtt-teams", 3),
    "customers/2026-03-11 Interview shift planning.txt": ("otter", 2),
    "customers/2026-03-25 Renewal call.json": ("record", 2),
    "customers/2026-03-26 Delivery date.json": ("record", 2),
}


def text_of(path: Path) -> tuple[str, str]:
    data = path.read_bytes()
    records = read_records(data)
    if records is not None:
        assert len(records) == 1
        return "record", str(records[0]["full_transcript"])
    transcript = read_transcript(data, name=path.name)
    return transcript.format, transcript.to_text()


def test_there_are_exactly_these_twenty_files() -> None:
    assert {path.relative_to(SAMPLES).as_posix() for path in SAMPLES.rglob("*") if path.is_file()} == set(FORMATS)
    assert len(FORMATS) == 20


@pytest.mark.parametrize(("name", "form", "speakers"), [(name, *about) for name, about in FORMATS.items()], ids=FORMATS)
def test_a_sample_is_read_as_what_it_is(name: str, form: str, speakers: int) -> None:
    found, text = text_of(SAMPLES / name)
    assert found == form
    named = {
        match[1] for match in re.finditer(r"^(?:\[\d\d:\d\d:\d\d\] )?([A-Z@][^:\n.?!]{0,40}): ", text, re.MULTILINE)
    }
    assert len(named - {"Remember"}) == speakers


def test_no_two_samples_have_the_same_content() -> None:
    assert len({text_of(SAMPLES / name)[1] for name in FORMATS}) == 20


def test_a_sample_in_full() -> None:
    assert text_of(SAMPLES / "2026-03-30 Van.docx")[1].split("\n\n")[:3] == [
        "[00:00:05] Robin Castellan: Is the van back from the workshop?",
        "[00:00:08] Zeynep Arslan: Since yesterday. They changed the brakes.",
        "[00:00:12] Robin Castellan: And the noise?",
    ]
