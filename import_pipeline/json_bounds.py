"""How much JSON Python may be asked to parse: its values are counted in the text, before one of them takes memory.

A bound on bytes is none on memory: a value takes 30 to 200 bytes, and an array of arrays has one in three characters.
"""

from __future__ import annotations

import re

MOST_VALUES = 3_000_000
"""Python takes 300 MB for them at worst; JSON that people use has so many in 30 MB and more."""

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[,\[{}]', re.DOTALL)


def has_too_many_values(text: str, *, drops_objects: bool = False) -> bool:
    """Say whether JSON would take more memory than one value may.

    Args:
        text: The whole of it.
        drops_objects: A hook takes the place of each object and keeps nothing of it without counting: what stands in an
            object counts until the object ends.
    """
    if text.count(",") + text.count("[") + text.count('"') // 2 + 2 * text.count("{") <= MOST_VALUES:
        return False
    values, outside = 0, []
    for match in _TOKEN.finditer(text):  # one for a comma, an array and a text, two for an object
        sign = text[match.start()]
        if sign == "{":
            outside.append(values)
            values += 2
        elif sign != "}":
            values += 1
        elif drops_objects and outside:
            values = outside.pop()
        if values > MOST_VALUES:
            return True
    return False
