"""The text of a Word document, without building it in memory.

python-docx builds a tree of ten times the document's size and takes half a second per megabyte; a transcript needs the
paragraphs only. The archive is looked at before anything is unpacked, and the XML is read by expat in pieces, with
declarations refused, so no document can take more than its text.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any
from xml.parsers import expat

from import_pipeline.errors import TranscriptError

MAX_DOCUMENT = 100 * 1024 * 1024
MAX_RATIO = 200
"""Text documents shrink to a tenth, very repetitive ones to a fiftieth."""

_MAX_DIRECTORY = 4 * 1024 * 1024
_LONGEST_TAG = 8 * 1024 * 1024
_MOST_NAMES = 20_000
"""Names of elements and attributes, of which a document has some hundreds; the parser remembers each."""
_DOCUMENT = "word/document.xml"
_DAMAGED = "is damaged: the .docx cannot be opened"
_SPACES = (
    "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
    "http://purl.oclc.org/ooxml/wordprocessingml/main",
)
_FALLBACK = "http://schemas.openxmlformats.org/markup-compatibility/2006 Fallback"
_TAGS = {f"{space} {tag}": tag for space in _SPACES for tag in ("p", "t", "br", "cr", "tab", "noBreakHyphen")}


def document_lines(data: bytes) -> Iterator[str]:
    """The lines of a document: one per paragraph, and one more per line break in it.

    Args:
        data: The .docx.

    Raises:
        TranscriptError: It is another kind of archive, damaged, encrypted, or larger than any transcript.
    """
    archive = _open(data)
    try:
        with archive.open(_DOCUMENT) as stream:
            yield from _lines(stream)
    except TranscriptError:
        raise
    except (zipfile.BadZipFile, zlib.error, expat.ExpatError, OSError, EOFError, ValueError):
        raise TranscriptError(_DAMAGED) from None
    except (RuntimeError, NotImplementedError):
        raise TranscriptError("is a .docx that is encrypted or packed in an unusual way") from None
    finally:
        archive.close()


def _open(data: bytes) -> zipfile.ZipFile:
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - 65_557))
    if end == -1 or len(data) < end + 22:
        raise TranscriptError(_DAMAGED)
    # A directory of a million members would fill the memory before a single size could be looked at.
    directory = int.from_bytes(data[end + 12 : end + 16], "little")
    if directory > _MAX_DIRECTORY or data[end - 20 : end - 16] == b"PK\x06\x07":
        raise TranscriptError("is an archive with far more files than a document has")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, IndexError):
        raise TranscriptError(_DAMAGED) from None
    members = {member.filename: member for member in archive.infolist()}
    document = members.get(_DOCUMENT)
    if document is None:
        archive.close()
        raise TranscriptError(_other_kind(members))
    size, packed = document.file_size, max(document.compress_size, 1)
    if size > MAX_DOCUMENT or (size > 10 * 1024 * 1024 and size > MAX_RATIO * packed):
        archive.close()
        raise TranscriptError(f"is a .docx that unpacks to {size // 1024 // 1024:,} MB, more than any transcript")
    if document.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        archive.close()
        raise TranscriptError("is a .docx that is encrypted or packed in an unusual way")
    return archive


def _other_kind(members: Any) -> str:
    for prefix, kind in (("xl/", "an Excel workbook"), ("ppt/", "a PowerPoint presentation")):
        if any(name.startswith(prefix) for name in members):
            return f"is {kind}, not a transcript"
    if "content.xml" in members and "mimetype" in members:
        return "is an OpenDocument file; save it as .docx"
    return "is a ZIP archive; unpack it and upload what is in it"


def _lines(stream: Any) -> Iterator[str]:
    reader = _Reader()
    total = 0
    while piece := stream.read(1 << 18):
        total += len(piece)
        if total > MAX_DOCUMENT:
            raise TranscriptError("is a .docx that is larger inside than it says")
        reader.parser.Parse(piece, False)
        if total - reader.parser.CurrentByteIndex > _LONGEST_TAG:  # expat keeps an unfinished tag in memory
            raise TranscriptError(_DAMAGED)
        if len(reader.names) > _MOST_NAMES:
            raise TranscriptError(_DAMAGED)
        yield from reader.take()
    reader.parser.Parse(b"", True)
    yield from reader.take()


class _Reader:
    """Collects the text of runs; everything else of the markup passes by."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.parser = expat.ParserCreate(namespace_separator=" ", intern=self.names)
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = self._doctype
        self._done: list[str] = []
        self._parts: list[str] = []
        self._in_text = False
        self._depth = 0
        self._skipped = 0

    def take(self) -> list[str]:
        """The lines completed since the last call."""
        done, self._done = self._done, []
        return done

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > 500:
            raise TranscriptError(_DAMAGED)
        if name == _FALLBACK or self._skipped:  # the same text again, for old programs
            self._skipped += 1
            return
        tag = _TAGS.get(name)
        if tag == "t":
            self._in_text = True
        elif tag in ("br", "cr"):
            self._parts.append("\n")
        elif tag == "tab":
            self._parts.append("   ")
        elif tag == "noBreakHyphen":
            self._parts.append("-")

    def _end(self, name: str) -> None:
        self._depth -= 1
        if self._skipped:
            self._skipped -= 1
            return
        tag = _TAGS.get(name)
        if tag == "t":
            self._in_text = False
        elif tag == "p":
            self._done += "".join(self._parts).split("\n")
            self._parts = []

    def _characters(self, text: str) -> None:
        if self._in_text and not self._skipped:
            self._parts.append(text)
            if len(self._parts) > 10_000:
                self._parts = ["".join(self._parts)]

    def _doctype(self, *_declaration: object) -> None:
        # Entities unfold to any size, and so do attributes that are given to every element of a name.
        raise TranscriptError("is a .docx with a document type declaration, which no word processor writes")
