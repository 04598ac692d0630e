"""Text layouts: Otter, Fathom, Meet, Teams documents, YouTube's panel, and what people write themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from import_pipeline.errors import TranscriptError
from import_pipeline.transcripts import Transcript, Turn, read_transcript
from import_pipeline.transcripts.dates import find_date


def text(content: str, name: str = "call.txt") -> Transcript:
    return read_transcript(content.encode(), name=name)


def said(transcript: Transcript) -> list[tuple[str | None, str, float | None]]:
    return [(turn.speaker, turn.text, turn.start_seconds) for turn in transcript.turns]


OTTER = """\
Dana Reyes  0:03  
Hello, everyone. Thanks for joining.
A second line.

Unknown Speaker  0:15  
Good morning.

Dana Reyes  1:02:15
Bye.

Transcribed by https://otter.ai
"""


class TestOtter:
    def test_headers_and_footer(self) -> None:
        transcript = text(OTTER)
        assert said(transcript) == [
            ("Dana Reyes", "Hello, everyone. Thanks for joining.\nA second line.", 3.0),
            ("Unknown Speaker", "Good morning.", 15.0),
            ("Dana Reyes", "Bye.", 3735.0),
        ]
        assert (transcript.format, transcript.duration_seconds) == ("otter", 3735)
        assert transcript.notes == {"duration_is": "the start of the last turn"}

    def test_export_without_names(self) -> None:
        transcript = text("0:03\nHello, everyone.\n\n0:15\nGood morning.\n\nTranscribed by https://otter.ai\n")
        assert said(transcript) == [(None, "Hello, everyone.", 3.0), (None, "Good morning.", 15.0)]
        assert transcript.format == "otter"

    def test_a_table_of_contents_is_prose(self) -> None:
        content = "Contents\nIntroduction  0:10\nMethods  1:20\nResults  3:40\nSummary  9:00\nWe then walked home.\n"
        assert text(content).format == "plain"

    def test_a_timetable_is_prose(self) -> None:
        content = (
            "".join(f"{who}  {hour}:00\n" for hour in range(8, 12) for who in ("Ann", "Bo")) + "Lunch is at noon.\n"
        )
        assert text(content).format == "plain"


FATHOM = """\
Weekly sync - March 2
VIEW RECORDING - 31 mins (No highlights): https://fathom.video/share/EXAMPLE

---

0:00 - Dana Reyes (Example Corp)
  Hello, everyone.  Thanks for joining.

0:08 - Omar Lindqvist
  Good morning.
  ACTION ITEM: Send the deck - WATCH: https://fathom.video/share/EXAMPLE?timestamp=12.9999  And after that, prices.
  SCREEN SHARING: Omar started screen sharing - WATCH: https://fathom.video/share/EXAMPLE?timestamp=20.5

1:02:15 - Dana Reyes (Example Corp)
  Bye.
"""


class TestFathom:
    def test_the_pasted_transcript(self) -> None:
        transcript = text(FATHOM)
        assert said(transcript) == [
            ("Dana Reyes", "Hello, everyone. Thanks for joining.", 0.0),
            ("Omar Lindqvist", "Good morning.\nAnd after that, prices.", 8.0),
            ("Dana Reyes", "Bye.", 3735.0),
        ]
        assert (transcript.format, transcript.title, transcript.started_at) == ("fathom", "Weekly sync", None)
        assert transcript.duration_seconds == 3735  # the last turn begins behind the stated 31 minutes
        assert transcript.notes["action_items"] == [{"text": "Send the deck", "seconds": 12.9999}]
        assert transcript.notes["screen_sharing"] == [{"text": "Omar started screen sharing", "seconds": 20.5}]
        assert transcript.notes["companies"] == {"Dana Reyes": "Example Corp"}

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(FATHOM.replace("  ", ""), id="indent lost"),
            pytest.param(FATHOM.replace("\n0:", "\n@0:").replace("\n1:", "\n@1:"), id="times with an at sign"),
            pytest.param(FATHOM.replace("deck - WATCH", "deck\n  - WATCH"), id="link below"),
            pytest.param(FATHOM.replace("\n", "\r\n"), id="CRLF"),
            pytest.param(FATHOM.partition("---\n")[2], id="preamble lost"),
        ],
    )  # fmt: skip
    def test_what_pasting_does_to_it(self, content: str) -> None:
        transcript = text(content)
        assert [(turn.speaker, turn.start_seconds) for turn in transcript.turns] == [
            ("Dana Reyes", 0.0), ("Omar Lindqvist", 8.0), ("Dana Reyes", 3735.0)
        ]  # fmt: skip
        assert transcript.notes["action_items"][0]["text"] == "Send the deck"
        assert "WATCH" not in transcript.to_text()

    def test_an_agenda_is_prose(self) -> None:
        content = "0:00 - Welcome\n1:20 - Numbers\n3:40 - Questions\n9:00 - Close\nThat was the plan for Tuesday.\n"
        assert text(content).to_text().count("Numbers") == 1


MEET = """\
Weekly sync (2026-03-02 at 10:02 GMT+1) - Transcript
Attendees
Dana Reyes, Omar Lindqvist
Transcript
This editable transcript was computer generated and might contain errors. People can also change the text.
00:00:05
Dana Reyes: Hello, everyone.
Omar Lindqvist: Good morning.
00:05:10
Dana Reyes: Next topic.
"""
GEMINI = """\
📝 Notes
Mar 2, 2026
Weekly sync
Invited Dana Reyes, Omar Lindqvist
Summary
Dana Reyes: greeted everybody. This is a summary and not speech.
Details
- Greeting: it was short.
📖 Transcript
Mar 2, 2026
Weekly sync - Transcript
00:00:05
Dana Reyes: Hello, everyone.
Omar Lindqvist: Good morning.
00:05:10
Dana Reyes: Next topic.
Transcription ended after 00:31:05
This editable transcript was computer generated and might contain errors.
"""
MARKDOWN = """\
# Weekly sync (2026-03-02 at 10:02 GMT+1) \\- Transcript

## Attendees

Dana Reyes, Omar Lindqvist

## Transcript

### 00:00:05

**Dana Reyes:** Hello, everyone.

**Omar Lindqvist:** Good morning.

### 00:05:10 {#00:05:10}

**Dana Reyes:** Next topic.

### Transcription ended after 00:31:05
"""
MEET_TURNS = [
    ("Dana Reyes", "Hello, everyone.", 5.0),
    ("Omar Lindqvist", "Good morning.", 5.0),
    ("Dana Reyes", "Next topic.", 310.0),
]


class TestMeet:
    @pytest.mark.parametrize(
        ("content", "form", "duration"),
        [
            pytest.param(MEET, "meet", 310, id="classic"),
            pytest.param("\ufeff" + MEET.replace(" - T", " – T"), "meet", 310, id="with a long dash"),
            pytest.param("\ufeff" + GEMINI, "meet-gemini", 1865, id="with notes"),
            pytest.param(MARKDOWN, "meet-markdown", 1865, id="Markdown"),
        ],
    )
    def test_three_exports_of_one_call(self, content: str, form: str, duration: int) -> None:
        transcript = text(content)
        assert said(transcript) == MEET_TURNS
        assert (transcript.format, transcript.title, transcript.duration_seconds) == (form, "Weekly sync", duration)
        assert transcript.notes["attendees"] == ["Dana Reyes", "Omar Lindqvist"]
        assert transcript.notes["precision"] == "section"

    def test_the_date_has_its_zone(self) -> None:
        expected = datetime(2026, 3, 2, 10, 2, tzinfo=timezone(timedelta(hours=1)))
        assert text(MEET).started_at == text(MARKDOWN).started_at == expected

    @pytest.mark.parametrize("zone", ["IST", "CST", ""])
    def test_an_ambiguous_zone_is_not_guessed(self, zone: str) -> None:
        transcript = text(MEET.replace("GMT+1", zone))
        naive = datetime(2026, 3, 2, 10, 2)  # noqa: DTZ001 - naive is the point
        assert (transcript.started_at, transcript.started_at_local) == (None, naive)
        assert transcript.notes["started_at_without_zone"] == "2026-03-02T10:02:00"

    def test_an_italian_document(self) -> None:
        content = MEET.replace("- Transcript", "- Trascrizione").replace("\nTranscript\n", "\nTrascrizione\n")
        transcript = text(content.replace("Attendees", "Partecipanti"))
        assert (said(transcript), transcript.title) == (MEET_TURNS, "Weekly sync")

    def test_a_sentence_that_goes_on_below(self) -> None:
        content = MEET.replace("everyone.", "everyone.\nI am glad: truly.")
        assert said(text(content))[0][1] == "Hello, everyone.\nI am glad: truly."


TEAMS = """\
Weekly sync-20260302_100000-Meeting Transcript
2 March 2026, 10:00am
31m 5s
Dana Reyes started transcription
Dana Reyes   0:03
Hello, everyone.
And welcome.
Omar Lindqvist   1:00:08
Good morning.
Dana Reyes stopped transcription
"""


class TestTeamsText:
    def test_the_newer_layout(self) -> None:
        transcript = text(TEAMS)
        assert said(transcript) == [
            ("Dana Reyes", "Hello, everyone.\nAnd welcome.", 3.0), ("Omar Lindqvist", "Good morning.", 3608.0)
        ]  # fmt: skip
        assert (transcript.format, transcript.title) == ("teams-docx", "Weekly sync")
        assert transcript.started_at is None
        assert transcript.started_at_local == datetime(2026, 3, 2, 10)  # noqa: DTZ001 - naive is the point

    def test_a_name_in_utc_gives_an_aware_start(self) -> None:
        transcript = text(TEAMS.replace("_100000-", "_100000UTC-"))
        assert transcript.started_at == datetime(2026, 3, 2, 10, tzinfo=UTC)

    def test_the_length_in_the_head_counts(self) -> None:
        assert text(TEAMS.replace("1:00:08", "0:08")).duration_seconds == 31 * 60 + 5

    @pytest.mark.parametrize("blank", ["", "\n"], ids=["dense", "with blank lines"])
    def test_the_older_layout(self, blank: str) -> None:
        content = (
            f"0:0:5.100 --> 0:0:8.250\nDana Reyes\nHello, everyone.\n{blank}"
            f"0:1:0.0 --> 0:1:2.0\nOmar Lindqvist\nGood morning.\nDana: said so.\n{blank}"
        )
        transcript = text(content)
        assert list(transcript.turns) == [
            Turn("Dana Reyes", "Hello, everyone.", 5.1, 8.25),
            Turn("Omar Lindqvist", "Good morning.\nDana: said so.", 60.0, 62.0)
        ]  # fmt: skip
        assert transcript.format == "teams-docx-old"


class TestYouTubePanel:
    def test_times_and_lines_alternate(self) -> None:
        transcript = text(
            "Transcript\n0:00\nhello and welcome\n0:03\nto the garden.\n0:09\ntoday: beans\n1:00:05\nbye\n"
        )
        assert transcript.to_text() == "[00:00:00] hello and welcome to the garden. today: beans bye"
        assert (transcript.format, transcript.duration_seconds) == ("youtube-paste", 3605)

    def test_times_for_screen_readers_are_not_speech(self) -> None:
        transcript = text(
            "0:03\n3 seconds\nhello\n1:05\n1 minute, 5 seconds\n5 seconds is short\n2:00\n2 minutes\nbye\n"
        )
        assert transcript.to_text() == "[00:00:03] hello 5 seconds is short bye"


HELLO = [
    ("Dana Reyes", "Hello, everyone.", 3.0),
    ("Omar Lindqvist", "Good morning: all.", 8.0),
    ("Dana Reyes", "Bye.", 61.0),
]


class TestGeneric:
    @pytest.mark.parametrize(
        "layout",
        [
            pytest.param("[{0}] {1}: {2}", id="brackets"),
            pytest.param("({0}) {1}: {2}", id="parentheses"),
            pytest.param("{0} {1}: {2}", id="bare time"),
            pytest.param("{0} - {1}: {2}", id="time and dash"),
            pytest.param("{1} ({0}) {2}", id="time behind the name"),
            pytest.param("{1} ({0}): {2}", id="time behind the name, and a colon"),
            pytest.param("{1} [{0}]\n{2}", id="header lines"),
            pytest.param("{1} ({0}):\n{2}", id="header lines with colon"),
            pytest.param("{1} {0} {2}", id="bare time behind the name"),
            pytest.param("[{0}] **{1}:** {2}", id="Markdown"),
            pytest.param("[{0}] {1}:\n{2}", id="text below"),
            pytest.param("[{0}.000 --> {0}.500] {1}: {2}", id="start and end"),
        ],
    )
    @pytest.mark.parametrize("blank", ["\n", "\n\n"], ids=["dense", "spaced"])
    def test_ways_to_write_time_and_name(self, layout: str, blank: str) -> None:
        for clocks in (("0:03", "0:08", "1:01"), ("00:00:03", "00:00:08", "00:01:01")):
            content = blank.join(
                layout.format(clock, speaker, words)
                for clock, (speaker, words, _) in zip(clocks, HELLO, strict=True)
            )  # fmt: skip
            assert said(text(content)) == HELLO

    def test_names_without_times(self) -> None:
        transcript = text("Dana Reyes: Hello.\nStill me.\n\nOmar: Good morning.\nNote: he waved.\nDana Reyes: Bye.\n")
        assert said(transcript) == [
            ("Dana Reyes", "Hello.\nStill me.", None),
            ("Omar", "Good morning.\nNote: he waved.", None),
            ("Dana Reyes", "Bye.", None),
        ]
        assert (transcript.format, transcript.duration_seconds) == ("generic", None)

    def test_lines_about_the_call_come_first(self) -> None:
        transcript = text(
            "Title: Weekly sync\nDate: 2026-03-02 10:00 UTC\nAttendees: Dana Reyes, Omar\n\n"
            "Dana Reyes (0:03) Hello.\nOmar (0:09) Hi.\n"
        )
        assert said(transcript) == [("Dana Reyes", "Hello.", 3.0), ("Omar", "Hi.", 9.0)]
        assert (transcript.title, transcript.started_at) == (
            "Weekly sync",
            datetime(2026, 3, 2, 10, tzinfo=UTC),
        )
        assert transcript.notes["attendees"] == ["Dana Reyes", "Omar"]

    @pytest.mark.parametrize(
        "prose",
        [
            pytest.param("Note: the door is open.\nNote: the light is on.", id="notes"),
            pytest.param("10:30 works for me.\n11:00 does not.", id="times of day"),
            pytest.param("https://example.org: see there.\nhttps://example.org: and there.", id="links"),
            pytest.param("He said: no.\nShe said: why not?", id="reported speech"),
            pytest.param("We met at the gate at 10:30 and walked.\n\nLunch 12:30 as usual.", id="paragraphs"),
            pytest.param(
                "Remember: bring the keys.\nIt rained.\nWe went on.\nThen home.", id="one colon in four lines"
            ),
            pytest.param("We agreed on this. Therefore: go.", id="a sentence before the colon"),
        ],
    )
    def test_prose_is_one_turn_with_its_paragraphs(self, prose: str) -> None:
        transcript = text(prose)
        assert said(transcript) == [(None, prose, None)]
        assert transcript.format == "plain"
        assert transcript.to_text() == prose

    def test_runs_of_blank_lines_become_one(self) -> None:
        assert text("one\n\n\n\n\ntwo\n\n\n").to_text() == "one\n\ntwo"

    def test_our_own_text_is_read_as_it_was(self) -> None:
        first = text(FATHOM)
        again = text(first.to_text())
        assert [(turn.speaker, turn.text, turn.start_seconds) for turn in again.turns] == said(first)
        assert again.to_text() == first.to_text()


@pytest.mark.parametrize(
    "chat",
    [
        pytest.param(
            "10:02:33  From Dana Reyes to Everyone: hello\n10:02:40  From Omar to Everyone: hi\n", id="one line"
        ),
        pytest.param(
            "10:02:33 From Dana Reyes to Everyone:\n\thello\n10:02:40 From Omar to Everyone:\n\thi\n", id="two lines"
        ),
        pytest.param("10:02:33 From Dana Reyes : hello\n", id="older"),
    ],
)
def test_a_chat_log_is_refused(chat: str) -> None:
    with pytest.raises(TranscriptError, match="is a chat log"):
        text(chat)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2026-03-02 at 10:02 GMT+1", "2026-03-02T10:02:00+01:00"),
        ("2026-03-02 at 10:02 GMT-3:30", "2026-03-02T10:02:00-03:30"),
        ("x - 2026/03/02 10:02 CET - Notes", "2026-03-02T10:02:00+01:00"),
        ("2026-03-02T10:02Z", "2026-03-02T10:02:00+00:00"),
        ("2026-03-02 10:02 +05:30", "2026-03-02T10:02:00+05:30"),
        ("2026-03-02 10:02 EDT", "2026-03-02T10:02:00-04:00"),
        ("2026-03-02 10:02 IST", "2026-03-02T10:02:00"),
        ("2026-02-31 10:02 UTC", None),
        ("2026-03-02", None),
        ("call-20260302_100000-Meeting Recording", "2026-03-02T10:00:00"),
        ("call-20260302_100000UTC-Meeting Recording", "2026-03-02T10:00:00+00:00"),
        ("call-20269902_100000-Meeting Recording", None),
    ],
)
def test_dates_are_aware_only_if_the_zone_is_clear(written: str, expected: str | None) -> None:
    found = find_date(written)
    assert (found.isoformat() if found else None) == expected
