"""Parsing JSON of up to 50 MB without letting it grow to ten times its size.

Python's parser builds everything. It calls a hook for each object, though, so what is not needed (the tokens and words
of speech recognition, which are nine tenths of such a file) is dropped while it parses. What no hook can stop is
counted before.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from import_pipeline.errors import TranscriptError
from import_pipeline.json_bounds import has_too_many_values
from import_pipeline.transcripts.text import TextFile

_NOT_TRANSCRIPT = "is JSON, but not of a transcript"


def parse(file: TextFile, hook: Callable[[list[tuple[str, Any]]], Any], *, drops_objects: bool = False) -> Any:
    """Parse a JSON file.

    Args:
        file: The decoded file.
        hook: Called with the pairs of each object; its result takes the object's place.
        drops_objects: See `has_too_many_values`.

    Raises:
        TranscriptError: It is damaged, nested too deeply, or built to fill the memory.
    """
    text = file.whole()
    if has_too_many_values(text, drops_objects=drops_objects):
        raise TranscriptError(_NOT_TRANSCRIPT)
    try:
        return json.loads(text, object_pairs_hook=hook)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise TranscriptError(f"is damaged JSON: {error.msg.removesuffix(' at')} at {where}") from None
    except RecursionError:
        raise TranscriptError("is JSON that is nested too deeply") from None
    except ValueError:  # an integer of thousands of digits
        raise TranscriptError("is damaged JSON: a number is too long") from None
