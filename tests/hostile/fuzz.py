"""Looks for files that break a reader, guided by the code they reach: finds what the tests' own mutations do not.

    uv run --with atheris python tests/hostile/fuzz.py /tmp/corpus -max_total_time=600 -timeout=10

Run it after a change of the readers. It stops at the first file that breaks one and keeps it as `crash-…`; what was
found goes into `FOUND` in `test_hostile_parsers.py`. No part of the suite: what it finds depends on chance.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["import_pipeline.transcripts"]):
    from import_pipeline.transcripts import read_records, read_transcript
    from import_pipeline.transcripts import reading as reading

from import_pipeline.errors import TranscriptError

SUFFIXES = ("vtt", "srt", "txt", "json", "docx")


def read(data: bytes) -> None:
    """Read a file whose first byte stands for its suffix."""
    name, data = f"call.{SUFFIXES[data[0] % len(SUFFIXES)] if data else 'txt'}", data[1:]
    with contextlib.suppress(TranscriptError):
        read_records(data)
    with contextlib.suppress(TranscriptError):
        read_transcript(data, name=name).to_text().encode()


if __name__ == "__main__":
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for sample in (Path(__file__).parents[2] / "samples").glob("*.*"):
        (corpus / sample.name).write_bytes(b"\0" + sample.read_bytes()[:4_000])
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
