"""No regular expression takes time with the square of a text, but where the text is short."""

from __future__ import annotations

import contextlib
import re

import pytest
from growth import grows_faster_than_its_length, noticeable_length, seconds
from hostile.expressions import Attack, Expression, attacks, expressions

from import_pipeline.errors import TranscriptError
from import_pipeline.transcripts import read_transcript, turns_from_vtt
from import_pipeline.transcripts.paragraphs import LONGEST_HEADER

EXPONENTIAL = 64
"""What takes a noticeable time at less than this length has no use at all."""
LONGEST = 65_536

BOUNDED = {
    # Where it is used → how long a text it is used on at most.
    "import_pipeline.transcripts.layouts.FATHOM_HEADER.match": LONGEST_HEADER,
    "import_pipeline.transcripts.layouts.NAMED_HEADER.match": LONGEST_HEADER,
    "import_pipeline.transcripts.fathom._TITLE_DATE.sub": LONGEST_HEADER,
    "import_pipeline.transcripts.meet._TITLE.match": LONGEST_HEADER,
    "import_pipeline.transcripts.meet._TRANSCRIPT_TITLE.match": LONGEST_HEADER,
    "import_pipeline.transcripts.speakers.sub": LONGEST_HEADER,  # in `looks_like_a_name`
}


def name_of(expression: Expression) -> str:
    module, _, line = expression.where.partition(":")
    return f"{module if line else expression.where}.{expression.method}"


def grows_too_much(expression: Expression, attack: Attack) -> bool:
    def run(length: int) -> None:
        expression.run(attack.text(length))

    length = noticeable_length(run, LONGEST)
    return length is not None and (length < EXPONENTIAL or grows_faster_than_its_length(run, length))


def worst_of(expression: Expression) -> Attack | None:
    return next((attack for attack in attacks(expression) if grows_too_much(expression, attack)), None)


@pytest.mark.long
@pytest.mark.parametrize("expression", expressions(), ids=str)
def test_time_grows_with_the_length_and_not_with_its_square(expression: Expression) -> None:
    if name_of(expression) not in BOUNDED:
        assert worst_of(expression) is None
        return
    spent = max(
        seconds(lambda length, attack=attack: expression.run(attack.text(length)), BOUNDED[name_of(expression)], 1)
        for attack in attacks(expression)
    )
    assert spent < 100 * seconds(lambda length: re.sub("b", "", "a" * length), 1_000_000), "Even a line is too much."


def test_no_expression_is_overlooked_and_none_excused_in_vain() -> None:
    names = {name_of(each) for each in expressions()}
    assert len(names) > 60
    assert BOUNDED.keys() <= names


@pytest.mark.parametrize(
    "pattern", [r"<v[ \t]+([^<>]*)>", r"\s+x", r"a\s*\s*$", r"(a+)+$", r"(\w|\d)*!", r"(.*):(.*):(.*)!"]
)
def test_an_expression_that_takes_more_than_linear_time_is_found(pattern: str) -> None:
    assert worst_of(Expression("here", re.compile(pattern), "search")) is not None


@pytest.mark.parametrize("pattern", [r"\d+", r"[^:]*", r"<v[ \t][^<>]{0,40}>", r"a\s{0,8}b"])
def test_an_expression_that_takes_linear_time_is_not_accused(pattern: str) -> None:
    assert worst_of(Expression("here", re.compile(pattern), "search")) is None


@pytest.mark.timeout(120)
@pytest.mark.parametrize("suffix", ["txt", "docx", "vtt"])
def test_a_heading_of_blanks_without_end_is_read(suffix: str) -> None:
    text = f"00:00:01{' ' * 250_000}x\n00:00:02\nAnn: hello\n"
    with contextlib.suppress(TranscriptError):
        read_transcript(text.encode(), name=f"call.{suffix}")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "text",
    ["<v" + " " * 1_000_000 + "x", "<v.a" + "\t" * 1_000_000, "<v Ann" + " " * 1_000_000 + "<", "<v " * 300_000],
    ids=["blanks", "tabs", "open", "many"],
)
def test_a_voice_of_blanks_without_end_is_read(text: str) -> None:
    cue = f"WEBVTT\n\n00:01.000 --> 00:02.000\n{text} hello\n"
    assert "hello" in read_transcript(cue.encode(), name="call.vtt").to_text()
    assert turns_from_vtt(cue)
