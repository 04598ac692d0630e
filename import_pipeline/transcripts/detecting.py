"""What a file is, by its first bytes; and a plain reason if it is nothing to read."""

from __future__ import annotations

import re

from import_pipeline.errors import TranscriptError

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "is a PDF; export the transcript as text, .docx or .vtt"),
    (b"\x89PNG\r\n\x1a\n", "is a PNG picture"),
    (b"\xff\xd8\xff", "is a JPEG picture"),
    (b"GIF87a", "is a GIF picture"),
    (b"GIF89a", "is a GIF picture"),
    (b"{\\rtf", "is an RTF document; save it as .docx or .txt"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Office document (.doc); save it as .docx"),
    (b"\x1f\x8b", "is a gzip archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive; unpack it first"),
    (b"Rar!\x1a\x07", "is a RAR archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is a Zstandard archive; unpack it first"),
    (b"\x1a\x45\xdf\xa3", "is a video (Matroska or WebM), not a transcript"),
    (b"OggS\0", "is an Ogg recording, not a transcript"),
    (b"fLaC\0", "is a FLAC recording, not a transcript"),
    (b"ID3\2", "is an MP3 recording, not a transcript"),
    (b"ID3\3", "is an MP3 recording, not a transcript"),
    (b"ID3\4", "is an MP3 recording, not a transcript"),
    (b"SQLite format 3\0", "is a SQLite database"),
    (b"\x7fELF", "is a program"),
)
_WEB_PAGE = re.compile(r"<(?:!doctype\s+html|html|head|body|script|meta)\b", re.IGNORECASE)
_PROLOGUE = (("<?xml", "?>"), ("<!--", "-->"))
_XML = re.compile(r"<\?xml\b|<tt\b|<transcript\b|<!DOCTYPE\b", re.IGNORECASE)
_CONTROLS = bytes(set(range(32)) - {7, 8, 9, 10, 11, 12, 13, 27})


def refuse_foreign(data: bytes) -> None:
    """Raise the reason if the file is empty, of another kind, or no text at all.

    Args:
        data: The file; ZIP archives pass, because a .docx is one.
    """
    if not data:
        raise TranscriptError("is empty")
    for magic, reason in _MAGIC:
        if data.startswith(magic):
            raise TranscriptError(reason)
    if data[4:8] == b"ftyp" and data[0] == 0:
        raise TranscriptError("is a recording (MP4 or M4A), not a transcript")
    if data[:4] == b"RIFF" and data[8:12] in (b"WAVE", b"AVI ", b"WEBP"):
        raise TranscriptError("is a recording or a picture (RIFF), not a transcript")
    if data[0] == 0xFF and len(data) > 1 and data[1] in (0xFB, 0xF3, 0xF2, 0xF1, 0xF9):
        raise TranscriptError("is a recording (MP3 or AAC), not a transcript")


def refuse_markup(start: str) -> None:
    """Raise if a text is a web page or XML; a sign-in page is what an expired download link answers with."""
    content = start = start[:8192].lstrip()
    for _ in range(9):  # what may stand before the first element; a regular expression for it takes exponential time
        for opening, closing in _PROLOGUE:
            if content.startswith(opening):
                content = content.partition(closing)[2].lstrip()
    if _WEB_PAGE.match(content):
        raise TranscriptError("is not a transcript: it looks like a web page (a sign-in page?)")
    if _XML.match(start):
        raise TranscriptError("is XML, which is none of the transcript formats")


def refuse_binary(data: bytes) -> None:
    """Raise if this is no text: too many NULs or control characters, in a file that is not UTF-16."""
    for sample in (data[:65_536], data[len(data) // 2 :][:65_536]):
        controls = len(sample) - len(sample.translate(None, _CONTROLS))
        if controls > 0.05 * len(sample):
            raise TranscriptError("is not text")
