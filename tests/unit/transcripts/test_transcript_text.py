"""Bytes to storable text: encodings, line ends, and what Postgres refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from import_pipeline.transcripts import clean_text, read_transcript
from import_pipeline.transcripts.text import CHUNK, TextFile


def lines(data: bytes) -> list[str]:
    return list(TextFile(data).lines())


@pytest.mark.parametrize(
    ("text", "expected", "count"),
    [
        pytest.param("plain", "plain", 0, id="nothing to do"),
        pytest.param("Grüße 👋", "Grüße 👋", 0, id="an emoji is no surrogate"),
        pytest.param("a\0b\0", "a\ufffdb\ufffd", 2, id="NUL in ASCII"),
        pytest.param("ü\0", "ü\ufffd", 1, id="NUL among other letters"),
        pytest.param("a\ud83d", "a\ufffd", 1, id="high surrogate alone"),
        pytest.param("\ude00a", "\ufffda", 1, id="low surrogate alone"),
        pytest.param("\ude00\ud83d", "\ufffd\ufffd", 2, id="pair the wrong way round"),
    ],
)
def test_what_postgres_cannot_store_is_replaced_and_counted(text: str, expected: str, count: int) -> None:
    assert clean_text(text) == (expected, count)


def test_clean_text_finds_a_surrogate_beyond_the_first_slice() -> None:
    assert clean_text("é" * (2 * CHUNK) + "\ud800")[1] == 1


@given(st.text(st.characters(codec=None)))
def test_cleaned_text_is_always_storable(text: str) -> None:
    clean, count = clean_text(text)
    clean.encode()
    assert "\0" not in clean
    assert len(clean) == len(text)
    assert (count == 0) == (clean == text)


def test_importing_clean_text_does_not_load_the_parsers() -> None:
    code = (
        "import sys; from import_pipeline.transcripts import clean_text; "
        "sys.exit(sum(name.startswith('import_pipeline.transcripts.') for name in sys.modules) - 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        pytest.param("Zoë: Grüße".encode(), "utf-8", id="UTF-8"),
        pytest.param("Zoë: Grüße".encode("utf-8-sig"), "utf-8", id="UTF-8 with mark"),
        pytest.param("Zoë: Grüße".encode("utf-16"), "utf-16-le", id="UTF-16 with mark"),
        pytest.param(b"\xfe\xff" + "Zoë: Grüße".encode("utf-16-be"), "utf-16-be", id="UTF-16 big-endian with mark"),
        pytest.param("Zoë: Grüße".encode("utf-32"), "utf-32-le", id="UTF-32 with mark"),
        pytest.param("Zoë: Grüße".encode("utf-16-le"), "utf-16-le", id="UTF-16 without mark"),
        pytest.param("Zoë: Grüße".encode("utf-16-be"), "utf-16-be", id="UTF-16 big-endian without mark"),
        pytest.param("Zoë: Grüße".encode("cp1252"), "cp1252", id="Windows code page"),
    ],
)
def test_encodings_are_found(data: bytes, encoding: str) -> None:
    file = TextFile(data)
    assert (list(file.lines()), file.encoding, file.damaged) == (["Zoë: Grüße"], encoding, 0)
    assert file.head() == "Zoë: Grüße"


def test_one_broken_byte_does_not_garble_a_utf8_file() -> None:
    file = TextFile("Grüße aus Köln, schöne Tage.\n".encode() * 3 + b"\xff!")
    assert list(file.lines())[-1] == "\ufffd!"
    assert (file.encoding, file.damaged) == ("utf-8", 1)


def test_the_encoding_is_noted_unless_it_is_utf8() -> None:
    assert read_transcript("Ann: Café?\nBo: Olé.".encode("cp1252"), name="a.txt").notes["encoding"] == "cp1252"
    assert "encoding" not in read_transcript("Ann: Café?\nBo: Olé.".encode(), name="a.txt").notes


def test_replaced_characters_are_noted() -> None:
    notes = read_transcript(b"Ann: Well\0 then, let us begin with the list.\nBo: Fine.\n", name="a.txt").notes
    assert notes["replaced_characters"] == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_all_line_ends_are_the_same(end: str) -> None:
    assert lines(f"one{end}{end}two".encode()) == ["one", "", "two"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_chunks_lose_and_invent_no_line(end: bytes) -> None:
    expected = [f"line {number} " + "x" * (number % 300) for number in range(30_000)]
    assert lines(end.join(line.encode() for line in expected)) == expected


@pytest.mark.parametrize("letter", ["x", "ü", "👋"], ids=["1 byte", "2 bytes", "4 bytes"])
def test_an_endless_line_is_cut_between_words_and_characters(letter: str) -> None:
    with_spaces, without = (letter * 5 + " ") * (3 * CHUNK // 6), "x" + letter * (3 * CHUNK)
    for text in (with_spaces, without):
        file = TextFile(text.encode())
        pieces = list(file.lines())
        assert "".join(pieces) == text
        assert (len(pieces) - 1, file.damaged) == (file.cut_lines, 0)
        assert file.cut_lines > 0
