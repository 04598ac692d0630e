"""Turns of several segments of one recording, on one clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from import_pipeline.transcripts import Turn, join, render, turns_from_vtt

START = datetime(2026, 3, 2, 10, tzinfo=UTC)


def at(minutes: float) -> datetime:
    """Return an instant some minutes after the start."""
    return START + timedelta(minutes=minutes)


def said(text: str) -> list[Turn]:
    """Return a segment of ten seconds."""
    return [Turn("Ann", text, 1.0, 10.0)]


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        pytest.param([at(0), at(5), at(90)], [1, 301, 5401], id="each where it began"),
        pytest.param([at(0), None, at(5)], [1, 11, 301], id="one that does not tell follows the one before"),
        pytest.param([None, at(7), at(8)], [1, 11, 71], id="the first does not tell"),
        pytest.param([None, None, None], [1, 11, 21], id="none tells"),
        pytest.param([at(0), at(0), at(0)], [1, 1, 1], id="all at once"),
    ],
)
def test_segments_are_moved_to_where_they_begin_f6(starts: list[datetime | None], expected: list[int]) -> None:
    turns = join((start, said(str(number))) for number, start in enumerate(starts))
    assert [turn.start_seconds for turn in turns] == expected
    assert [turn.end_seconds for turn in turns] == [second + 9 for second in expected]
    assert [turn.text for turn in turns] == ["0", "1", "2"]


def test_turns_without_times_stay_without() -> None:
    turns = join([(at(0), [Turn("Ann", "one", None)]), (at(5), [Turn(None, "two", None), Turn("Bo", "three", 2.0)])])
    assert [turn.start_seconds for turn in turns] == [None, None, 302.0]
    assert [turn.end_seconds for turn in turns] == [None, None, None]


def test_nothing_joins_to_nothing() -> None:
    assert join([]) == []
    assert join([(at(0), []), (None, [])]) == []


def test_one_segment_is_what_it_was() -> None:
    turns = turns_from_vtt("WEBVTT\n\n00:01.000 --> 00:02.000\nAnn: Hi.\n\n00:03.000 --> 00:04.000\nBo: Yes.\n")
    assert join([(at(3), turns)]) == turns
    assert render(join([(None, turns)])) == render(turns)
