"""What is thrown at the software: texts that steer, break or exhaust what reads or shows them, and ways to spoil input.

Values and hypothesis strategies only; what must come of them is in the test modules.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

SAMPLES = sorted(path for path in (Path(__file__).parents[2] / "samples").rglob("*") if path.is_file())

STEERING = (
    "\x1b[2J\x1b[H",  # clears a terminal
    "\x1b]0;owned\x07",  # its title
    "\x1b]8;;https://evil.example\x07click\x1b]8;;\x07",  # a link under another text
    "\x1b]52;c;cm0gLXJmIH4=\x07",  # writes the clipboard
    "\x9b31m\x9d0;owned\x9c",  # the same commands in eight bits
    '\x1bP$q"p\x1b\\',
    "\r\x1b[KApproved",  # overwrites the line
    "\x08\x08\x08",
    "\x7f",
    "invoice\u202efdp.exe",  # shown as invoiceexe.pdf
    "\u2066\u2067a\u2069\u2069\u061c\u200f\u202a\u202b\u202c\u202d",
    "a\u200bb\u200cc\u200dd\u2060e\ufeff",
    "line\nERROR forged\r\n2026-01-01 forged\x0bv\x0cf\x85n\u2028l\u2029p",
    "\ufff9a\ufffab\ufffb\U000e0041\U000e007f",  # annotations and tags, which nobody sees
    "\ufffe\uffff\U0010ffff\ue000",
)
MARKUP = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![](https://evil.example/pixel.png)",
    "<https://evil.example|your bank>",
    "<!channel> <!here|x> <@U0123> <#C01>",
    "@channel @all @here hello @everyone",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "```\n# heading\n---\n> quote\n- list\n1. list",
    "[x]: https://evil.example\n[x][x] [x]",
    "&lt;b&gt; &#60;b&#62; &amp;",
    "https://evil.example www.evil.example someone@evil.example",
    "*bold* _it_ ~~no~~ `code` \\* $x^2$ $\\frac{1}{0$ \\",
    "[bold red]rich[/] [link=https://evil.example]x[/link] [/]",
    "%s %(name)s {0} {name} {{}} $(id) `id` ; rm -rf ~ | cat",
    "=cmd|' /C calc'!A0 +1 -1 @SUM(1)",
    "' or 1=1; drop table recordings; -- %27 \\",
    "../../etc/passwd ..\\..\\x file:///etc/passwd %2e%2e%2f %00 %0d%0aSet-Cookie: a=b",
)
UNSTORABLE = ("\0", "a\0b", "\ud800", "\udfff", "\udc00\ud800", "\ud83d", "x\ud83d\ude00y")
SCRIPTS = (
    "שלום עולם", "مرحبا", "می\u200cخواهم", "会议记录", "Ｆｕｌｌ", "e\u0301\u0327" * 9, "👩\u200d👩\u200d👧", "İıſK",
    "ﷺ", "Z\u0335\u0321\u034e", "ⅷ٣۴௫",
)  # fmt: skip
NASTY = (*STEERING, *MARKUP, *UNSTORABLE, *SCRIPTS)

nasty_text = st.one_of(
    st.sampled_from(NASTY),
    st.lists(st.sampled_from(NASTY) | st.text(max_size=5), max_size=6).map("".join),
    st.text(st.characters(codec=None), max_size=40),
)

HUGE_NUMBERS = (
    1e308, -1e308, 5e-324, 10**15, -(10**15), 2**63, -(2**63) - 1, 2**64, 10**30, 10**308, 10**309, 10**4000,
    float("inf"), float("-inf"), float("nan"), -0.0, 0, -1, 253402300800, 1e12, 1e15,
)  # fmt: skip
odd_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.sampled_from(HUGE_NUMBERS) | st.integers() | st.floats() | nasty_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(nasty_text, inner, max_size=4),
    max_leaves=8,
)
CLOCKS = (
    "00:00:00", "99:99:99", "9" * 5000 + ":00", "9" * 400 + ":00:00.5", "1:" + "0" * 5000, "0:0." + "9" * 5000, "-1:00",
    "٣:٠٠:٠٠", "１:００", "1e5:00", "0x10:00", "1_0:00", " 1:2 ", ":::", "00:00:00,", "²:00", "NaN:00", "inf",
)  # fmt: skip
INSTANTS = (
    "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:60Z",
    "2026-02-30T00:00:00Z", "2026-W01-1T00:00Z", "20260101T000000Z", "2026-01-01", "2026-01-01T00:00:00",
    "2026-01-01T00:00:00+23:59:59.999999", "2026-01-01T00:00:00+99:99", "2026-01-01T00:00:00." + "1" * 5000 + "Z",
    "-2026-01-01T00:00:00Z", "٢٠٢٦-٠١-٠١T00:00:00Z", "2026-01-01T24:00:00Z", "1767225600", "now", "2026-01-01\0T00Z",
)  # fmt: skip
odd_fields: st.SearchStrategy[Any] = odd_values | st.sampled_from((*CLOCKS, *INSTANTS))


def is_harmless(text: str) -> bool:
    """Say whether a terminal or a log shows these lines as what they are: no commands, no turned order."""
    return all(
        character == "\n" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        for character in text
    )


# --- spoiling what is sound ---------------------------------------------------------------------------------------


@st.composite
def spoilt_bytes(draw: st.DrawFn, pieces: Sequence[bytes]) -> bytes:
    """Return a file that was cut, doubled, swapped, mixed with another, overwritten or stuffed, some times over."""
    data = draw(st.sampled_from(pieces))
    for _ in range(draw(st.integers(1, 5))):
        if not data:
            break
        first, last = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        piece = data[first:last]
        match draw(st.integers(0, 8)):
            case 0:
                data = data[:first] + data[last:]
            case 1:
                data = data[:first] + piece[:2_000] * draw(st.integers(2, 40)) + data[last:]
            case 2:
                other = draw(st.sampled_from(pieces))
                data = data[:first] + other[: draw(st.integers(0, len(other)))] + data[last:]
            case 3:
                data = data[:first]
            case 4:
                stuffing = draw(nasty_text | st.sampled_from(CLOCKS)).encode("utf-8", "surrogatepass")
                data = data[:first] + stuffing * draw(st.sampled_from((1, 1, 3, 200))) + data[first:]
            case 5:
                data = data.replace(b"\n", draw(st.sampled_from((b"\r\n", b"\r", b"\n\r", b"\n\n\n", b" ", b"\x0b"))))
            case 6:
                lines = draw(st.permutations(data.split(b"\n")[:40]))
                data = b"\n".join(lines)
            case 7:
                data = data[:first] + draw(st.binary(min_size=1, max_size=8)) + data[first + 1 :]
            case _:
                encoding = draw(st.sampled_from(("utf-16", "utf-16-le", "utf-32", "cp1252", "utf-8-sig")))
                data = data.decode("utf-8", "replace").encode(encoding, "replace")
    return data


@st.composite
def spoilt_json(draw: st.DrawFn, document: Any) -> Any:
    """Return a JSON value with some values of it dropped, doubled, renamed, nested, or of another type."""
    copy = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 4))):
        holders = list(_holders(copy))
        if not holders:
            return copy
        holder, key = draw(st.sampled_from(holders))
        match draw(st.integers(0, 5)):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[draw(nasty_text)] = holder.pop(key)
            case 1:
                holder.insert(0, holder[key])
            case 2:
                for _ in range(draw(st.sampled_from((1, 3, 90, 150, 300)))):
                    holder[key] = draw(st.sampled_from(([holder[key]], {"a": holder[key]})))
            case 3 if isinstance(holder[key], str):
                holder[key] = holder[key] + draw(nasty_text)
            case 4 if isinstance(holder[key], list):
                holder[key] = holder[key] * draw(st.integers(2, 30))
            case _:
                holder[key] = draw(odd_fields)
    return copy


def _holders(value: Any, depth: int = 0) -> Any:
    if depth > 20:
        return
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _holders(value[key], depth + 1)
