"""Parsing JSON of up to 50 MB without letting it grow to ten times its size.

Python's parser builds everything. It calls a hook for each object, though, so what is not needed (the tokens and words
of speech recognition, which are nine tenths of such a file) is dropped while it parses. What no hook can stop, arrays
of arrays or of numbers, is looked for before.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from import_pipeline.errors import TranscriptError
from import_pipeline.transcripts.text import TextFile

MAX_ARRAYS = 1_500_000
"""An empty array takes 56 bytes from two characters; a segment of Whisper has two arrays and 150 characters."""

_WINDOW = 1 << 20
_NOT_TRANSCRIPT = "is JSON, but not of a transcript"


def parse(file: TextFile, data: bytes, hook: Callable[[list[tuple[str, Any]]], Any]) -> Any:
    """Parse a JSON file.

    Args:
        file: The decoded file.
        data: The same as bytes, for the checks.
        hook: Called with the pairs of each object; its result takes the object's place.

    Raises:
        TranscriptError: It is damaged, nested too deeply, or built to fill the memory.
    """
    if data.count(b"[") > MAX_ARRAYS:
        raise TranscriptError(_NOT_TRANSCRIPT)
    for start in range(0, len(data), _WINDOW):
        window = data[start : start + _WINDOW]
        if window.count(b",") * 16 > _WINDOW and b"{" not in window and b"}" not in window:
            raise TranscriptError(_NOT_TRANSCRIPT)
    try:
        return json.loads(file.whole(), object_pairs_hook=hook)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise TranscriptError(f"is damaged JSON: {error.msg.removesuffix(' at')} at {where}") from None
    except RecursionError:
        raise TranscriptError("is JSON that is nested too deeply") from None
    except ValueError:  # an integer of thousands of digits
        raise TranscriptError("is damaged JSON: a number is too long") from None
