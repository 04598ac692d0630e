"""Which prefix is a speaker: the guess, and the decision when all of the file is known."""

from __future__ import annotations

import pytest

from import_pipeline.transcripts.speakers import accepted, looks_like_a_name, name_of, split_prefix


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Dana Reyes: Hello.", ("Dana Reyes: ", "Hello.")),
        ("Reyes, Dana (Sales):   Hello.", ("Reyes, Dana (Sales): ", "Hello.")),
        ("Dr. J. Lee: Hello.", ("Dr. J. Lee: ", "Hello.")),
        ("\u200fדנה: שלום", ("דנה: ", "שלום")),
        ("田中：おはよう", ("田中: ", "おはよう")),
        ("Dana:", ("Dana: ", "")),
        ("[Dana] Hello.", ("[Dana] ", "Hello.")),
        ("[Dana]: Hello.", ("[Dana] ", "Hello.")),
        ("10:30 works", (None, "10:30 works")),
        ("https://example.org", (None, "https://example.org")),
        ("I agree. Note: no", (None, "I agree. Note: no")),
        ("Really? Yes: no", (None, "Really? Yes: no")),
        ("one two three four five six seven eight nine: x", (None, "one two three four five six seven eight nine: x")),
        ("x" * 90 + ": y", (None, "x" * 90 + ": y")),
        ("--: x", (None, "--: x")),
        ("[0:03] x", (None, "[0:03] x")),
        ("", (None, "")),
    ],
)
def test_what_has_the_shape_of_a_speaker(line: str, expected: tuple[str | None, str]) -> None:
    assert split_prefix(line) == expected


@pytest.mark.parametrize(
    ("guesses", "turns", "known", "believed"),
    [
        pytest.param({"Ann: ": 2}, 100, set(), {"Ann: "}, id="one word, twice"),
        pytest.param({"Ann: ": 1}, 100, set(), set(), id="one word, once among many"),
        pytest.param({"Ann: ": 1}, 1, set(), {"Ann: "}, id="one word, and nothing else"),
        pytest.param(
            {"Ann Lee: ": 1, "Bo: ": 30}, 100, set(), {"Ann Lee: ", "Bo: "}, id="two words, where names are usual"
        ),
        pytest.param({"Ann Lee: ": 1}, 100, set(), set(), id="two words, where names are not"),
        pytest.param({"Note: ": 50}, 100, set(), set(), id="never a name"),
        pytest.param({"ann: ": 30}, 100, set(), {"ann: "}, id="small letters, often"),
        pytest.param({"so i said: ": 2}, 100, set(), set(), id="small letters, seldom"),
        pytest.param({"Ann: ": 9, "Bo: ": 9}, 100, {"Ann"}, {"Ann: "}, id="only known names, where some are known"),
        pytest.param({"[Ann] ": 2, "[Music] ": 9}, 100, set(), {"[Ann] "}, id="sounds in brackets"),
        pytest.param({"[Ann] ": 1, "Ann: ": 1}, 100, set(), {"[Ann] ", "Ann: "}, id="one name written in two ways"),
    ],
)
def test_which_guesses_are_believed(guesses: dict[str, int], turns: int, known: set[str], believed: set[str]) -> None:
    assert accepted(guesses, turns, known) == believed


def test_the_name_in_a_guess() -> None:
    assert name_of("Dana Reyes: ") == name_of("[Dana Reyes] ") == "Dana Reyes"


@pytest.mark.parametrize(
    "name", ["Dana", "Ludwig van Beek", "SPEAKER_00", "@1", "O'Neil", "Reyes, Dana (Sales)", "דנה", "Éva"]
)
def test_names(name: str) -> None:
    assert looks_like_a_name(name)


@pytest.mark.parametrize("name", ["so i said", "Note", "the thing", "Action item", "a b c d e f", ""])
def test_what_is_no_name(name: str) -> None:
    assert not looks_like_a_name(name)
