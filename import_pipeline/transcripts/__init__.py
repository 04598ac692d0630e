"""Every transcript format as speaker turns, and speaker turns as the one text that is stored.

`read_transcript` takes a file of any supported kind. Connectors whose provider delivers segments or WebVTT use
`turns_from_segments`, `turns_from_vtt`, `join`, `deroll` and `render`. Names are loaded on first use, so
that importing `clean_text` does not load the parsers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from import_pipeline.transcripts.finishing import deroll
    from import_pipeline.transcripts.reading import read_transcript, turns_from_segments, turns_from_vtt
    from import_pipeline.transcripts.records import read_records
    from import_pipeline.transcripts.text import clean_text
    from import_pipeline.transcripts.transcript import Transcript, render
    from import_pipeline.transcripts.turns import Turn, Turns, join

__all__ = [
    "Transcript",
    "Turn",
    "Turns",
    "clean_text",
    "deroll",
    "join",
    "read_records",
    "read_transcript",
    "render",
    "turns_from_segments",
    "turns_from_vtt",
]

_HOMES = {
    "Transcript": "transcript",
    "Turn": "turns",
    "Turns": "turns",
    "clean_text": "text",
    "deroll": "finishing",
    "join": "turns",
    "read_records": "records",
    "read_transcript": "reading",
    "render": "transcript",
    "turns_from_segments": "reading",
    "turns_from_vtt": "reading",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
