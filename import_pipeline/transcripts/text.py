"""From bytes to lines of text that Postgres can store, a chunk at a time.

Nothing in here knows a transcript format, and importing it costs nothing. Files are decoded in chunks of about 1 MB:
one emoji in a 50 MB file would otherwise make Python keep four bytes for each of its characters.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

CHUNK = 1 << 20
"""How many bytes are decoded at once, and the length at which an endless line is cut at a space."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_HIGH_BYTES = re.compile(rb"[\x80-\xff]")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its first two bytes are the same
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def clean_text(text: str) -> tuple[str, int]:
    """Replace what a Postgres ``text`` or ``jsonb`` cannot hold: NUL and lone surrogates.

    Args:
        text: Any string.

    Returns:
        The text with U+FFFD in their place, and how many characters were replaced.
    """
    if text.isascii():
        return (text, 0) if "\0" not in text else (text.replace("\0", "\ufffd"), text.count("\0"))
    if "\0" not in text:
        try:
            for start in range(0, len(text), CHUNK):  # in slices: the whole would be a second copy in memory
                text[start : start + CHUNK].encode()
        except UnicodeEncodeError:
            pass
        else:
            return text, 0
    return _UNSTORABLE.subn("\ufffd", text)


class TextFile:
    """The lines of a file whose encoding was found by looking at all of it.

    UTF-8 with or without a byte order mark, UTF-16 and UTF-32 with one, UTF-16 without one, and else the Windows
    code page 1252, which is what older Windows programs write. A file that is UTF-8 but for a few broken bytes is
    read as UTF-8, because one flipped bit must not garble every accent in it.

    Args:
        data: The file.

    Attributes:
        encoding: What it is read as.
        damaged: How many characters had to be replaced by U+FFFD; complete when all lines were read.
        cut_lines: How many times a line longer than `CHUNK` was cut.
    """

    def __init__(self, data: bytes) -> None:
        self.damaged = 0
        self.cut_lines = 0
        self.encoding = "utf-8"
        for bom, encoding in _BOMS:
            if data.startswith(bom):
                data = data[len(bom) :]
                self.encoding = encoding
                break
        else:
            self.encoding = _without_bom(data)
        if self.encoding == "utf-8":
            self.encoding = _utf8_or_cp1252(data)
        elif not self.encoding.startswith("utf-8"):
            data = self._as_utf8(data)
        self._data = data
        self._codec = "cp1252" if self.encoding == "cp1252" else "utf-8"
        self._newline = b"\n" if b"\n" in data or b"\r" not in data else b"\r"

    def _as_utf8(self, data: bytes) -> bytes:
        decoder = codecs.getincrementaldecoder(self.encoding)("replace")
        return b"".join(
            decoder.decode(data[start : start + CHUNK], start + CHUNK >= len(data)).encode()
            for start in range(0, len(data), CHUNK)
        )

    def head(self, size: int = 1 << 18) -> str:
        """The beginning of the text, for telling formats apart; about `size` characters, cut at a line end."""
        piece = self._data[:size]
        if len(self._data) > size:
            piece = piece[: piece.rfind(self._newline) + 1] or piece
        return _newlines(piece.decode(self._codec, "replace")).replace("\0", "\ufffd")

    def whole(self) -> str:
        """All of the text as one string, with its line ends as they are; for JSON."""
        data = self._data
        if self._codec == "utf-8" and self.encoding == "utf-8" and _ASTRAL.search(data):
            # Python keeps four bytes per character when one of them needs it. JSON can spell those few as escapes.
            data = _ASTRAL.sub(_surrogate_escape, data)
        text = data.decode(self._codec, "replace")
        self.damaged += text.count("\ufffd") - data.count(b"\xef\xbf\xbd") if self._codec == "utf-8" else 0
        return text

    def lines(self) -> Iterator[str]:
        """All lines without their ends; NUL already replaced and counted."""
        for chunk in self._chunks():
            yield from chunk.split("\n")

    def _chunks(self) -> Iterator[str]:
        """Pieces that end at a line end, the last newline taken off."""
        data, newline, at = self._data, self._newline, 0
        while at < len(data):
            end = data.find(newline, min(at + CHUNK, len(data)) - 1, at + 2 * CHUNK)
            if end == -1:
                end = data.rfind(newline, at, at + CHUNK)
            following = end + 1
            if end == -1:
                end = following = self._cut(at)
            elif newline == b"\n" and end > at and data[end - 1] == 13:  # the line end is CRLF, and cut off as a whole
                end -= 1
            piece = data[at:end]
            text = piece.decode(self._codec, "replace")
            if "\ufffd" in text:
                self.damaged += text.count("\ufffd") - piece.count(b"\xef\xbf\xbd")
            if "\0" in text:
                self.damaged += text.count("\0")
                text = text.replace("\0", "\ufffd")
            yield _newlines(text)
            at = following

    def _cut(self, at: int) -> int:
        """Where to cut a line that is longer than a chunk: behind a space, never inside a character."""
        if len(self._data) - at <= 2 * CHUNK:
            return len(self._data)
        self.cut_lines += 1
        space = self._data.rfind(b" ", at, at + CHUNK) + 1
        if space:
            return space
        end = at + CHUNK
        while self._codec == "utf-8" and end > at + CHUNK - 4 and self._data[end] & 0xC0 == 0x80:
            end -= 1
        return end


_ASTRAL = re.compile(rb"[\xf0-\xf4][\x80-\xbf]{3}")


def _surrogate_escape(match: re.Match[bytes]) -> bytes:
    try:
        code = ord(match[0].decode()) - 0x10000
    except UnicodeDecodeError:
        return match[0]
    return b"\\u%04x\\u%04x" % (0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF))


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _without_bom(data: bytes) -> str:
    """UTF-16 of mostly Latin text has a NUL in every second byte; anything else is tried as UTF-8."""
    sample = data[:4096]
    if len(sample) >= 4:
        half = len(sample) // 2
        even, odd = sample[0::2].count(0), sample[1::2].count(0)
        if odd > 0.4 * half and even < 0.05 * half:
            return "utf-16-le"
        if even > 0.4 * half and odd < 0.05 * half:
            return "utf-16-be"
    return "utf-8"


def _utf8_or_cp1252(data: bytes) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), CHUNK):
            decoder.decode(data[start : start + CHUNK], start + CHUNK >= len(data))
    except UnicodeDecodeError:
        pass
    else:
        return "utf-8"
    broken = high = 0
    for start in range(0, len(data), CHUNK):
        piece = data[start : start + CHUNK]
        broken += piece.decode("utf-8", "replace").count("\ufffd") - piece.count(b"\xef\xbf\xbd")
        high += sum(1 for _ in _HIGH_BYTES.finditer(piece))
    return "utf-8" if broken * 4 < high else "cp1252"
