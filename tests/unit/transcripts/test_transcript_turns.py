"""Turns, merging, rolling captions, and the text that is stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from import_pipeline.errors import TranscriptError
from import_pipeline.transcripts import Turn, Turns, deroll, read_transcript, render, turns_from_segments
from import_pipeline.transcripts.finishing import GAP_MS, LONGEST, READABLE, in_order, merge
from import_pipeline.transcripts.turns import MAX_SPEAKERS, collect


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        pytest.param(Turn("Ann", "Hi.", 3.9), "[00:00:03] Ann: Hi.", id="all of it"),
        pytest.param(Turn(None, "Hi.", 3723.0), "[01:02:03] Hi.", id="without speaker"),
        pytest.param(Turn("Ann", "Hi.", None), "Ann: Hi.", id="without time"),
        pytest.param(Turn(None, "Hi.", None), "Hi.", id="only text"),
        pytest.param(Turn("Ann", "Hi.", 360_000.0), "[100:00:00] Ann: Hi.", id="a hundred hours"),
        pytest.param(Turn(" ", " Hi.\n", 0.0), "[00:00:00] Hi.", id="blank name and blanks around"),
        pytest.param(Turn("Ann", "a\0b", float("nan")), "Ann: a\ufffdb", id="what cannot be stored, and no time"),
    ],
)
def test_a_turn_is_rendered(turn: Turn, expected: str) -> None:
    assert render([turn]) == expected


def test_turns_are_separated_by_blank_lines() -> None:
    assert render([Turn("A", "1", None), Turn("B", "2", None), Turn("A", "", None)]) == "A: 1\n\nB: 2"


def test_nothing_renders_to_nothing() -> None:
    assert render([]) == ""


def test_cues_of_one_speaker_are_put_together() -> None:
    turns = [Turn("A", "one", 0, 1), Turn("A", "two", 2, 3), Turn("B", "three", 3, 4), Turn("A", "four", 4, 5)]
    assert render(turns) == "[00:00:00] A: one two\n\n[00:00:03] B: three\n\n[00:00:04] A: four"


@pytest.mark.parametrize(
    ("second", "together"),
    [
        pytest.param(Turn("A", "b", 1 + (GAP_MS - 1) / 1000, 9), True, id="gap just short enough"),
        pytest.param(Turn("A", "b", 1 + GAP_MS / 1000, 9), False, id="gap too long"),
        pytest.param(Turn("B", "b", 1, 9), False, id="another speaker"),
        pytest.param(Turn("A", "b", 1, None), False, id="end unknown, so a paragraph"),
        pytest.param(Turn("A", "b", None, None), False, id="time unknown"),
        pytest.param(Turn("A", "b", 0.5, 0.7), True, id="overlapping"),
    ],
)
def test_when_two_cues_are_one_turn(second: Turn, together: bool) -> None:
    merged = merge(collect([Turn("A", "a", 0, 1), second]))
    assert (len(merged) == 1) is together
    if together:
        assert merged[0].end_seconds == max(1, second.end_seconds or 0)


def test_a_monologue_is_divided_at_sentences_and_in_any_case() -> None:
    sentences = [Turn("A", "Word after word, and so on.", at, at + 1) for at in range(100)]
    endless = [Turn("A", "word after word and so on", at, at + 1) for at in range(100)]
    for turns, least, most in ((sentences, READABLE, READABLE + 30), (endless, LONGEST - 30, LONGEST)):
        sizes = [len(turn.text) for turn in merge(collect(turns))]
        assert len(sizes) > 1
        assert all(least <= size <= most for size in sizes[:-1])


turns_strategy = st.lists(
    st.builds(
        Turn,
        st.sampled_from([None, "A", "B"]),
        st.text("ab .", max_size=40),
        st.one_of(st.none(), st.floats(0, 100)),
        st.one_of(st.none(), st.floats(0, 100)),
    ),
    max_size=30,
)


@given(turns_strategy)
def test_merging_twice_changes_nothing(turns: list[Turn]) -> None:
    once = merge(collect(turns))
    assert list(merge(collect(list(once)))) == list(once)


@given(turns_strategy)
def test_merging_loses_no_word(turns: list[Turn]) -> None:
    words = [word for turn in turns for word in turn.text.split()]
    assert [word for turn in merge(collect(turns)) for word in turn.text.split()] == words


@given(turns_strategy)
def test_order_is_by_start_and_loses_nothing(turns: list[Turn]) -> None:
    before = collect(turns)
    after = in_order(before, {})
    assert sorted(turn.text for turn in after) == sorted(turn.text for turn in before)
    starts = [turn.start_seconds for turn in after if turn.start_seconds is not None]
    assert starts == sorted(starts) or len(turns) >= 10


class TestSequence:
    TURNS = (Turn("A", "äö", 1.5, 2.0), Turn(None, "x", None), Turn("A", "y", 3.0, None))

    def test_it_gives_back_what_went_in(self) -> None:
        turns = collect(self.TURNS)
        assert (list(turns), len(turns), turns[-1], turns[:2]) == (
            list(self.TURNS), 3, self.TURNS[2], list(self.TURNS[:2])
        )  # fmt: skip
        assert turns == list(self.TURNS)
        assert turns != list(self.TURNS[:2])
        with pytest.raises(IndexError):
            turns[3]

    def test_its_repr_shows_no_content(self) -> None:
        assert repr(collect(self.TURNS)) == "<3 turns>"

    def test_too_many_names_are_refused(self) -> None:
        turns = Turns()
        for number in range(MAX_SPEAKERS - 1):
            turns.add(f"name {number}", "x")
        with pytest.raises(TranscriptError, match="names more than"):
            turns.add("one more", "x")

    def test_too_many_guesses_are_text(self) -> None:
        turns = Turns()
        for number in range(MAX_SPEAKERS + 1):
            turns.add(f"name {number}: ", "x")
        assert turns[-1].text == f"name {MAX_SPEAKERS}: x"


class TestSegments:
    def test_missing_ends_are_the_next_start(self) -> None:
        turns = turns_from_segments([("A", "one", 0, None), ("B", "two", 5.0, None), (None, "  ", 6, 7)])
        assert turns == [Turn("A", "one", 0.0, 5.0), Turn("B", "two", 5.0, 5.0)]

    def test_an_end_is_never_before_its_start(self) -> None:
        assert turns_from_segments([("A", "one", 5, 1)])[0].end_seconds == 5.0

    def test_segments_without_times(self) -> None:
        assert turns_from_segments([("A\n B", "one\ntwo", None, None)]) == [Turn("A B", "one two", None, None)]


class TestRollingCaptions:
    def test_repeated_lines_are_taken_out(self) -> None:
        rolling = [
            "hello everyone welcome",
            "hello everyone welcome to the show",
            "to the show",
            "to the show yes",
            "yes",
        ]
        rolling += ["yes yes", "yes yes we begin"]
        turns = [Turn(None, text, at * 2.0, at * 2.0 + 2) for at, text in enumerate(rolling)]
        assert [turn.text for turn in deroll(turns)] == [
            "hello everyone welcome",
            "to the show",
            "yes",
            "yes",
            "we begin",
        ]

    def test_a_sequence_that_does_not_roll_is_unchanged(self) -> None:
        texts = ["Yes.", "Yes.", "Yes. I think so.", "Good.", "Good.", "Then let us go.", "Where?", "Home."]
        turns = [Turn(None, text, float(at), None) for at, text in enumerate(texts)]
        assert deroll(turns) == turns

    def test_a_chorus_is_unchanged(self) -> None:
        turns = [Turn(None, "la la la", float(at), None) for at in range(10)]
        assert deroll(turns) == turns

    def test_automatic_captions_of_a_file(self) -> None:
        cues = [
            ("00:00.000 --> 00:02.000", " \nso<00:00.480><c> today</c><00:00.900><c> we</c>"),
            ("00:02.000 --> 00:02.010", "so today we\n "),
            ("00:02.010 --> 00:04.000", "so today we\nplant<00:02.500><c> beans</c>"),
            ("00:04.000 --> 00:04.010", "plant beans\n "),
            ("00:04.010 --> 00:06.000", "plant beans\nin<00:05.000><c> rows</c>"),
        ]
        data = "WEBVTT\nKind: captions\n\n" + "\n\n".join(f"{time}\n{text}" for time, text in cues)
        transcript = read_transcript(data.encode(), name="video.vtt")
        assert transcript.to_text() == "[00:00:00] so today we plant beans in rows"
        assert transcript.notes["repeated_captions"] == 4
