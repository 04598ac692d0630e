"""Word documents, other kinds of files, and files built to hurt."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import docx
import pytest

from import_pipeline.errors import TranscriptError
from import_pipeline.transcripts import Transcript, read_transcript
from import_pipeline.transcripts.word_document import MAX_DOCUMENT, document_lines

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def document(paragraphs: Sequence[str]) -> bytes:
    word = docx.Document()
    for paragraph in paragraphs:
        added = word.add_paragraph()
        for number, line in enumerate(paragraph.split("\n")):
            run = added.add_run()
            if number:
                run.add_break()
            run.add_text(line)
    buffer = io.BytesIO()
    word.save(buffer)
    return buffer.getvalue()


def archive(members: dict[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def word_xml(body: str, head: str = "") -> bytes:
    return archive(
        {"word/document.xml": f'<?xml version="1.0"?>{head}<w:document {W}><w:body>{body}</w:body></w:document>'}
    )


def read(data: bytes) -> Transcript:
    return read_transcript(data, name="call.docx")


HEADERS = [
    "Sync-20260302_100000-Meeting Transcript",
    "2 March 2026, 10:00am",
    "31m 5s",
    "Dana Reyes started transcription",
]


@pytest.mark.parametrize("joint", ["\n", None], ids=["one paragraph with line breaks", "a paragraph per line"])
def test_both_ways_teams_divides_its_document(joint: str | None) -> None:
    turns = [["Dana Reyes   0:03", "Hello, everyone."], ["Omar Lindqvist   0:08", "Good morning."]]
    body = [joint.join(turn) for turn in turns] if joint else [line for turn in turns for line in turn]
    transcript = read(document([*HEADERS, *body]))
    assert [(turn.speaker, turn.text, turn.start_seconds) for turn in transcript.turns] == [
        ("Dana Reyes", "Hello, everyone.", 3.0), ("Omar Lindqvist", "Good morning.", 8.0)
    ]  # fmt: skip
    assert (transcript.format, transcript.title, transcript.duration_seconds) == ("teams-docx", "Sync", 1865)


@pytest.mark.parametrize("joint", ["\n", None], ids=["one paragraph with line breaks", "a paragraph per line"])
def test_the_older_teams_document(joint: str | None) -> None:
    turns = [["0:0:5.100 --> 0:0:8.250", "Dana Reyes", "Hello."], ["0:0:9.0 --> 0:0:9.5", "Omar", "Hi."]]
    body = [joint.join(turn) for turn in turns] if joint else [line for turn in turns for line in turn]
    transcript = read(document(body))
    assert transcript.to_text() == "[00:00:05] Dana Reyes: Hello.\n\n[00:00:09] Omar: Hi."
    assert transcript.format == "teams-docx-old"


def test_a_meet_document() -> None:
    lines = ["Sync (2026-03-02 at 10:02 GMT+1) – Transcript", "Attendees", "Dana Reyes, Omar", "Transcript", "00:00:00"]
    transcript = read(document([*lines, "Dana Reyes: Hello.", "Omar: Hi.", "Transcription ended after 00:01:05"]))
    assert transcript.to_text() == "[00:00:00] Dana Reyes: Hello.\n\n[00:00:00] Omar: Hi."
    assert (transcript.format, transcript.title, transcript.duration_seconds) == ("meet-docx", "Sync", 65)


def test_a_document_of_prose() -> None:
    transcript = read(document(["We met at noon.", "", "It rained."]))
    assert (transcript.to_text(), transcript.format) == ("We met at noon.\n\nIt rained.", "plain-docx")


def test_markup_that_is_no_text_is_skipped() -> None:
    body = (
        "<w:p><w:r><w:t>Dana: </w:t></w:r>"
        "<w:r><w:t xml:space='preserve'>Hel</w:t><w:t>lo</w:t><w:tab/><w:t>there.</w:t></w:r>"
        "<w:del><w:r><w:delText>old</w:delText></w:r></w:del><w:r><w:instrText>PAGE</w:instrText></w:r></w:p>"
        "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>Omar: Hi &amp; bye.</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
        "<mc:AlternateContent xmlns:mc='http://schemas.openxmlformats.org/markup-compatibility/2006'><mc:Choice>"
        "<w:p><w:r><w:t>Dana: Box.</w:t></w:r></w:p></mc:Choice>"
        "<mc:Fallback><w:p><w:r><w:t>Dana: Box.</w:t></w:r></w:p>"
        "</mc:Fallback></mc:AlternateContent>"
    )
    lines = list(document_lines(word_xml(body)))
    assert lines == ["Dana: Hello   there.", "Omar: Hi & bye.", "Dana: Box."]


def test_a_strict_document_is_read() -> None:
    space = 'xmlns:w="http://purl.oclc.org/ooxml/wordprocessingml/main"'
    content = f"<w:document {space}><w:p><w:r><w:t>Hi.</w:t></w:r></w:p></w:document>"
    assert list(document_lines(archive({"word/document.xml": content}))) == ["Hi."]


GOOD = document(["Dana: Hello.", "Omar: Hi."])
BOMB = '<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(GOOD[: len(GOOD) // 2], "is damaged: the .docx", id="cut off"),
        pytest.param(b"PK\x03\x04", "is damaged: the .docx", id="only a signature"),
        pytest.param(b"PK\x03\x04" + b"PK\x05\x06" * 30, "is damaged|far more files", id="nonsense directory"),
        pytest.param(archive({"word/document.xml": "<w:document"}), "is damaged: the .docx", id="broken XML"),
        pytest.param(archive({"word/document.xml": b"\xff\xfe\x00"}), "is damaged: the .docx", id="no XML"),
        pytest.param(word_xml("<w:p>&b;</w:p>", BOMB), "document type declaration", id="entities"),
        pytest.param(word_xml("<w:x>" * 600 + "</w:x>" * 600), "is damaged", id="nested too deeply"),
        pytest.param(
            archive({"word/document.xml": b" " * (MAX_DOCUMENT + 1)}), "unpacks to 100 MB", id="too large inside"
        ),
        pytest.param(archive({"word/document.xml": b"a" * 20_000_000}), "unpacks to 19 MB", id="packed too well"),
        pytest.param(archive({"word/document.xml": "<a/>"}, zipfile.ZIP_LZMA), "unusual way", id="packed with LZMA"),
        pytest.param(archive({f"{n:0200}": b"" for n in range(18_000)}), "far more files", id="too many members"),
        pytest.param(word_xml(f'<w:p w:x="{"a " * 4_600_000}"/>'), "is damaged", id="one endless tag"),
        pytest.param(archive({"a.vtt": "WEBVTT"}), "is a ZIP archive", id="another archive"),
        pytest.param(archive({"xl/workbook.xml": ""}), "is an Excel workbook", id="Excel"),
        pytest.param(archive({"ppt/x.xml": ""}), "is a PowerPoint", id="PowerPoint"),
        pytest.param(archive({"mimetype": "x", "content.xml": ""}), "is an OpenDocument", id="OpenDocument"),
        pytest.param(document([]), "holds no spoken text", id="empty document"),
        pytest.param(document(["— — —", "…"]), "holds no spoken text", id="no words"),
    ],
)
def test_documents_that_cannot_be_read_are_refused_with_their_reason(data: bytes, reason: str) -> None:
    with pytest.raises(TranscriptError, match=reason):
        read(data)


def test_an_encrypted_member_is_refused() -> None:
    data = bytearray(GOOD)
    with zipfile.ZipFile(io.BytesIO(GOOD)) as file:
        at = file.getinfo("word/document.xml").header_offset
    data[at + 6] |= 1
    directory = data.index(b"PK\x01\x02")
    while bytes(data[directory + 46 : directory + 63]) != b"word/document.xml":
        directory = data.index(b"PK\x01\x02", directory + 4)
    data[directory + 8] |= 1
    with pytest.raises(TranscriptError, match="encrypted"):
        read(bytes(data))


def test_a_member_that_lies_about_its_size_is_refused() -> None:
    data = bytearray(archive({"word/document.xml": b"<a>" + b"x" * 5_000_000 + b"</a>"}))
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (1_000).to_bytes(4, "little")
    with pytest.raises(TranscriptError, match="is damaged"):
        read(bytes(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "^is empty$", id="nothing"),
        pytest.param(b"\xef\xbb\xbf", "^is empty$", id="only a mark"),
        pytest.param(b" \n\t\r\n", "holds no text", id="only blanks"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(50), "is a PNG picture", id="PNG"),
        pytest.param(b"\xff\xd8\xff\xe0" + bytes(50), "is a JPEG picture", id="JPEG"),
        pytest.param(b"%PDF-1.7\n", "is a PDF", id="PDF"),
        pytest.param(b"{\\rtf1\\ansi Hello}", "is an RTF document", id="RTF"),
        pytest.param(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(50), "old Office document", id="DOC"),
        pytest.param(b"\x00\x00\x00\x20ftypisom" + bytes(50), "is a recording .MP4", id="MP4"),
        pytest.param(b"ID3\x04" + bytes(50), "is an MP3 recording", id="MP3"),
        pytest.param(b"RIFF\x00\x00\x00\x00WAVEfmt ", "is a recording", id="WAV"),
        pytest.param(b"\x1f\x8b\x08" + bytes(50), "is a gzip archive", id="gzip"),
        pytest.param(b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page", id="web page"),
        pytest.param(b"\xef\xbb\xbf\r\n<!-- x --><HTML lang=en>Sign in", "web page", id="web page with a comment"),
        pytest.param("<html>Sign in</html>".encode("utf-16"), "web page", id="web page in UTF-16"),
        pytest.param(b"<?xml version='1.0'?><tt><p>Hi</p></tt>", "is XML", id="XML"),
        pytest.param(bytes(range(256)) * 40, "is not text", id="bytes"),
        pytest.param(b"Hello" + bytes(100), "is not text", id="NULs"),
        pytest.param(b"Hello everyone. " * 20_000 + bytes(300_000), "is not text", id="text that turns into NULs"),
    ],
)
@pytest.mark.parametrize("suffix", ["vtt", "srt", "txt", "docx", "json"])
def test_other_files_are_refused_with_their_reason(data: bytes, reason: str, suffix: str) -> None:
    with pytest.raises(TranscriptError, match=reason):
        read_transcript(data, name=f"call.{suffix}")


def test_words_that_look_like_a_signature_are_text() -> None:
    for words in (
        "ID3 tags were discussed.",
        "OggS and fLaC are formats.",
        "GIF or PNG?",
        "The ftyp box.",
        "PK is a name.",
    ):
        assert read_transcript(words.encode(), name="a.txt").to_text() == words


def test_text_under_the_name_of_a_document_is_not_taken_for_what_was_said() -> None:
    with pytest.raises(TranscriptError, match="no Word document"):
        read_transcript(b"not a document", name="call.docx")
