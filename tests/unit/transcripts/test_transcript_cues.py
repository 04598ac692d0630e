"""WebVTT and SubRip, and everything in them that other readers lose."""

from __future__ import annotations

import pytest

from import_pipeline.errors import TranscriptError
from import_pipeline.transcripts import Transcript, Turn, read_transcript, turns_from_vtt


def vtt(body: str, name: str = "call.vtt") -> Transcript:
    return read_transcript(("WEBVTT\n\n" + body).encode(), name=name)


def said(transcript: Transcript) -> list[tuple[str | None, str]]:
    return [(turn.speaker, turn.text) for turn in transcript.turns]


W3C = """\
00:00:01.000 --> 00:00:02.500
<v Dana Reyes>Hello, everyone.</v>

00:00:10.000 --> 00:00:12.000
<v Omar Lindqvist>Good morning.</v>
"""
DANA, OMAR = ("Dana Reyes", "Hello, everyone."), ("Omar Lindqvist", "Good morning.")


def test_a_plain_file_is_read() -> None:
    transcript = vtt(W3C)
    assert list(transcript.turns) == [Turn(*DANA, 1.0, 2.5), Turn(*OMAR, 10.0, 12.0)]
    assert (transcript.format, transcript.duration_seconds, transcript.notes) == ("vtt", 12, {})


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(("\ufeffWEBVTT\n\n" + W3C).encode(), id="byte order mark"),
        pytest.param(("WEBVTT\n\n" + W3C).replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param(("WEBVTT\n\n" + W3C).replace("\n", "\r").encode(), id="CR"),
        pytest.param(("WEBVTT\n\n" + W3C).encode("utf-16"), id="UTF-16"),
        pytest.param(("WEBVTT\n\n" + W3C).rstrip().encode(), id="no final newline"),
        pytest.param(("WEBVTT - Weekly sync\nKind: captions\n\n" + W3C).encode(), id="text in the header"),
        pytest.param(("WEBVTT\n" + W3C).encode(), id="no blank line after the header"),
        pytest.param(("\n\nWEBVTT\n\n" + W3C).encode(), id="blank lines before the header"),
        pytest.param(("WEBVTT\n\n" + W3C).replace("00:00:", "00:").encode(), id="no hours"),
        pytest.param(("WEBVTT\n\n" + W3C).replace("00:00:01.000", "0:0:1.0").encode(), id="unpadded times"),
        pytest.param(("WEBVTT\n\n" + W3C).replace(".000", ",000").replace(".500", ",500").encode(), id="comma times"),
        pytest.param(("WEBVTT\n\n" + W3C).replace(" --> ", "-->").encode(), id="arrow without blanks"),
        pytest.param(("WEBVTT\n\n" + W3C).replace("2.500", "2.500 align:start position:10%").encode(), id="settings"),
        pytest.param(("WEBVTT\n\n" + W3C).replace("</v>", "").encode(), id="voice not closed"),
        pytest.param(("WEBVTT\n\n" + W3C).replace("<v ", "<v.loud.first ").encode(), id="voice with classes"),
        pytest.param(("WEBVTT\n\n" + W3C).replace("Hello", "<i>Hel</i><c.red>lo</c>").encode(), id="markup in text"),
        pytest.param(("WEBVTT\n\n" + W3C).replace("Hello,", "Hello, <00:01.500>").encode(), id="time tag in text"),
        pytest.param(("WEBVTT\n\n" + W3C).replace("\n\n00:00:10", "\n00:00:10").encode(), id="cues glued together"),
        pytest.param(("WEBVTT\n\n" + W3C).replace("Hello, ", "Hello,\n").encode(), id="text on two lines"),
        pytest.param(W3C.encode(), id="header missing"),
    ],
)
def test_these_spellings_mean_the_same(data: bytes) -> None:
    transcript = read_transcript(data, name="call.vtt")
    assert said(transcript) == [DANA, OMAR]
    assert [turn.start_seconds for turn in transcript.turns] == [1.0, 10.0]


def test_comments_styles_and_regions_are_not_speech() -> None:
    blocks = "NOTE by the recorder\nstill the note\n\nSTYLE\n::cue { color: red }\n\nREGION\nid:fred\n\n"
    assert said(vtt(blocks + W3C + "\nNOTE\nthe --> end\n")) == [DANA, OMAR]


def test_a_cue_that_says_note_is_speech() -> None:
    assert said(vtt("00:01.000 --> 00:02.000\nNOTE this down, please\n")) == [(None, "NOTE this down, please")]


@pytest.mark.parametrize("identifier", ["1", "intro", "3f2b8c1e-1111-4222-8333-444455556666"])
def test_identifiers_are_not_speech(identifier: str) -> None:
    assert said(vtt(f"{identifier}\n{W3C}")) == [DANA, OMAR]


def test_numbers_of_glued_cues_are_not_speech() -> None:
    body = "1\n00:01.000 --> 00:02.000\none\n2\n00:10.000 --> 00:12.000\ntwo\n3\n00:20.000 --> 00:22.000\nthree\n"
    assert [text for _, text in said(vtt(body))] == ["one", "two", "three"]


def test_a_number_that_somebody_says_is_speech() -> None:
    body = "00:01.000 --> 00:02.000\n42\n\n00:10.000 --> 00:12.000\n1984\n00:20.000 --> 00:22.000\nBig numbers.\n"
    assert [text for _, text in said(vtt(body))] == ["42", "1984", "Big numbers."]


def test_a_blank_line_in_a_cue_loses_nothing() -> None:
    body = "1\n00:01.000 --> 00:02.000\nfirst line\n\nsecond line\n\n2\n00:10.000 --> 00:12.000\nnext\n"
    assert [text for _, text in said(vtt(body))] == ["first line second line", "next"]


def test_text_with_an_arrow_is_kept() -> None:
    body = "00:01.000 --> 00:02.000\nA --> B means\nA before B\n\nthen go home --> now\n"
    assert said(vtt(body)) == [(None, "A --> B means A before B then go home --> now")]


def test_every_voice_of_a_cue_is_a_turn() -> None:
    body = "00:01.000 --> 00:02.000\n<v Dana>Yes.</v> <v Omar>No.\n<v Dana>Yes!</v>(laughs)\n"
    assert said(vtt(body)) == [("Dana", "Yes."), ("Omar", "No."), ("Dana", "Yes!"), (None, "(laughs)")]


def test_entities_are_decoded_in_text_and_names() -> None:
    body = "00:01.000 --> 00:02.000\n<v R&amp;D &lt;lab&gt;>a &lt;v b&gt; &amp;amp;&nbsp;c&lrm;</v>\n"
    assert said(vtt(body)) == [("R&D <lab>", "a <v b> &amp;\xa0c\u200e")]


def test_only_real_tags_are_taken_out() -> None:
    body = "00:01.000 --> 00:02.000\nif a < b and c > d <crosstalk> <b>go</b>\n"
    assert said(vtt(body)) == [(None, "if a < b and c > d <crosstalk> go")]


def test_a_name_may_hold_a_colon() -> None:
    assert said(vtt("00:01.000 --> 00:02.000\n<v Ops: Dana>Done: all of it.</v>\n")) == [
        ("Ops: Dana", "Done: all of it.")
    ]


def test_names_from_right_to_left() -> None:
    body = "00:01.000 --> 00:02.000\n<v דנה לוי>שלום לכולם</v>\n\n00:10.000 --> 00:11.000\n<v عمر>مرحبا</v>\n"
    assert said(vtt(body)) == [("דנה לוי", "שלום לכולם"), ("عمر", "مرحبا")]


def test_times_beyond_99_hours() -> None:
    transcript = vtt("123:00:01.000 --> 123:00:02.500\nStill here.\n")
    assert transcript.turns[0].start_seconds == 123 * 3600 + 1
    assert transcript.to_text() == "[123:00:01] Still here."


def test_a_time_beyond_any_recording_is_dropped_and_not_the_words() -> None:
    transcript = vtt("99999999:00:01.000 --> 99999999:00:02.500\nStill here.\n")
    assert list(transcript.turns) == [Turn(None, "Still here.", None)]
    assert transcript.notes == {"cues_without_time": 1}


def test_a_negative_time_is_zero() -> None:
    transcript = vtt("-00:00:00.500 --> 00:00:02.000\nEarly.\n")
    assert list(transcript.turns) == [Turn(None, "Early.", 0.0, 2.0)]
    assert transcript.notes == {"negative_times": 1}


def test_an_end_before_the_start_is_the_start() -> None:
    transcript = vtt("00:05.000 --> 00:02.000\nBack.\n")
    assert list(transcript.turns) == [Turn(None, "Back.", 5.0, 5.0)]
    assert transcript.notes == {"corrected_ends": 1}


def test_an_unreadable_time_loses_no_words() -> None:
    transcript = vtt("00:01.000 --> 00:02.000\nOne.\n\n00:0: --> 00:05\nTwo.\n\n00:10.000 --> 00:12.000\nThree.\n")
    assert [(turn.text, turn.start_seconds) for turn in transcript.turns] == [
        ("One.", 1),
        ("Two.", None),
        ("Three.", 10),
    ]
    assert transcript.notes == {"cues_without_time": 1}


def test_empty_cues_are_counted() -> None:
    transcript = vtt("00:01.000 --> 00:02.000\n\n00:03.000 --> 00:04.000\nHello.\n")
    assert (said(transcript), transcript.notes) == ([(None, "Hello.")], {"empty_cues": 1})


def test_unsorted_cues_are_sorted_and_counted() -> None:
    body = "".join(f"00:{at}.000 --> 00:{at + 1}.000\nat {at}\n\n" for at in (30, 10, 50, 20))
    transcript = vtt(body)
    assert [turn.start_seconds for turn in transcript.turns] == [10, 20, 30, 50]
    assert transcript.notes["reordered_turns"] > 0


def test_a_second_recording_in_the_file_stays_behind_the_first() -> None:
    body = "".join(f"00:{at:02}:00.000 --> 00:{at:02}:02.000\n{part} {at}\n\n" for part in "ab" for at in range(6))
    transcript = vtt(body)
    assert [turn.text for turn in transcript.turns] == [f"{part} {at}" for part in "ab" for at in range(6)]
    assert transcript.notes == {"times_begin_again": 1}


def test_overlapping_cues_of_two_people_stay_apart() -> None:
    body = "00:01.000 --> 00:05.000\n<v A>long</v>\n\n00:02.000 --> 00:03.000\n<v B>short</v>\n"
    assert said(vtt(body)) == [("A", "long"), ("B", "short")]


class TestZoom:
    def test_names_are_split_off_and_carried_on(self) -> None:
        body = (
            "1\n00:00:02.310 --> 00:00:05.120\nDana Reyes: Hello, everyone.\n\n"
            "2\n00:00:15.400 --> 00:00:19.000\nand welcome to our guests.\n\n"
            "3\n00:00:30.000 --> 00:00:31.000\nOmar Lindqvist: Good morning.\n\n"
        )
        transcript = vtt(body)
        assert said(transcript) == [DANA, ("Dana Reyes", "and welcome to our guests."), OMAR]
        assert transcript.format == "vtt-zoom"

    def test_a_sentence_with_a_colon_is_no_speaker(self) -> None:
        texts = ["Note: we start late.", "10:30 works", "so I said: no", "see https://example.org: there", "Bye."]
        marked = ["Dana Reyes: Hi.", *texts[:-1], "Dana Reyes: Bye."]
        body = "".join(f"{n}\n00:{n:02}:00.000 --> 00:{n:02}:02.000\n{text}\n\n" for n, text in enumerate(marked))
        transcript = vtt(body)
        assert {turn.speaker for turn in transcript.turns} == {"Dana Reyes"}
        assert [turn.text for turn in transcript.turns] == ["Hi.", *texts]

    def test_captions_without_names_have_no_speaker(self) -> None:
        body = "".join(f"00:{n:02}:00.000 --> 00:{n:02}:02.000\nWe talk, number {n}\n\n" for n in range(9))
        body += "00:09:00.000 --> 00:09:02.000\nListen: tomorrow at ten\n"
        transcript = vtt(body)
        assert {turn.speaker for turn in transcript.turns} == {None}
        assert (transcript.turns[-1].text, transcript.format) == ("Listen: tomorrow at ten", "vtt")

    def test_two_speakers_in_one_cue(self) -> None:
        body = "00:01.000 --> 00:02.000\nDana: Yes.\nOmar: No.\n\n00:09.000 --> 00:10.000\nDana: Why?\n"
        assert said(vtt(body)) == [("Dana", "Yes."), ("Omar", "No."), ("Dana", "Why?")]

    def test_names_with_a_full_width_colon(self) -> None:
        body = "00:01.000 --> 00:02.000\n田中：おはよう\n\n00:09.000 --> 00:10.000\n佐藤：はい\n"
        assert said(vtt(body)) == [("田中", "おはよう"), ("佐藤", "はい")]


class TestTeams:
    def test_unpadded_times_of_the_interface(self) -> None:
        transcript = vtt(
            "0:0:0.0 --> 0:0:5.320\n<v Dana Reyes>Hello, everyone.</v>\n\n1:2:3.5 --> 1:2:4.0\n<v Omar>Hm.</v>\n"
        )
        assert [(turn.start_seconds, turn.end_seconds) for turn in transcript.turns] == [(0.0, 5.32), (3723.5, 3724.0)]
        assert transcript.format == "vtt-teams"

    def test_cues_of_one_utterance_are_one_turn_whatever_the_pause(self) -> None:
        guid = "3f2b8c1e-1111-4222-8333-444455556666"
        body = (
            f"{guid}/12-0\n00:00:03.000 --> 00:00:04.000\n<v Reyes, Dana (Sales)>Hello,</v>\n\n"
            f"{guid}/12-1\n00:00:09.000 --> 00:00:10.000\n<v Reyes, Dana (Sales)>everyone.\nWelcome.</v>\n\n"
            f"{guid}/13-0\n00:00:20.000 --> 00:00:21.000\n<v @1>Hi.</v>\n"
        )
        transcript = vtt(body)
        assert said(transcript) == [("Reyes, Dana (Sales)", "Hello, everyone. Welcome."), ("@1", "Hi.")]
        assert (transcript.turns[0].end_seconds, transcript.format) == (10.0, "vtt-teams")


class TestSubRip:
    BODY = "1\n00:00:01,000 --> 00:00:02,500\nDana: Hello.\n\n2\n00:00:10,000 --> 00:00:12,000\nOmar: Hi.\n"

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param(BODY, id="as specified"),
            pytest.param(BODY.replace(",000", ".000").replace(",500", ".500"), id="points"),
            pytest.param(BODY.replace("1\n00:00:01", "00:00:01").replace("2\n00:00:10", "00:00:10"), id="no index"),
            pytest.param("\n\n" + BODY, id="blank lines first"),
            pytest.param(BODY.replace("\n\n", "\n\n\n\n"), id="many blank lines"),
            pytest.param(BODY.replace("Hello.", "<i>Hello.</i>").replace("Hi.", "{\\an8}Hi."), id="markup"),
            pytest.param(BODY.replace("Dana: ", "[Dana] ").replace("Omar: ", "[Omar] ")
                         + "\n3\n00:00:20,000 --> 00:00:21,000\n[Dana] Hello.\n"
                         + "\n4\n00:00:30,000 --> 00:00:31,000\n[Omar] Hi.\n", id="names in brackets"),
        ],
    )  # fmt: skip
    def test_subtitles_are_read(self, text: str) -> None:
        transcript = read_transcript(text.encode(), name="call.srt")
        assert said(transcript)[:2] == [("Dana", "Hello."), ("Omar", "Hi.")]
        assert transcript.format == "srt"

    def test_a_fraction_without_padding_is_a_decimal(self) -> None:
        transcript = read_transcript(b"1\n0:0:2,5 --> 0:0:3,25\nHello\n", name="call.srt")
        assert list(transcript.turns) == [Turn(None, "Hello", 2.5, 3.25)]

    def test_sounds_in_brackets_are_no_speakers(self) -> None:
        text = "".join(f"{n}\n00:0{n}:00,000 --> 00:0{n}:01,000\n[Music] la la.\n\n" for n in range(1, 4))
        assert {turn.speaker for turn in read_transcript(text.encode(), name="call.srt").turns} == {None}

    def test_a_subtitle_file_with_another_suffix_is_recognised(self) -> None:
        assert read_transcript(self.BODY.encode(), name="call.txt").format == "srt"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param("", "holds no cues", id="only a header"),
        pytest.param("NOTE nothing\n", "holds no cues", id="only a comment"),
        pytest.param("00:01.000 --> 00:02.000\n\n", "empty", id="an empty cue"),
        pytest.param("00:01.000 --> 00:02.000\n♪ …\n\n", "no spoken text", id="no word in it"),
        pytest.param("00:01.000 --> 00:02.000\n<v Dana></v>\n\n", "holds no cues|no spoken text", id="a silent voice"),
    ],
)
def test_a_file_without_speech_is_refused(body: str, reason: str) -> None:
    with pytest.raises(TranscriptError, match=reason):
        vtt(body)


@pytest.mark.parametrize("name", ["call.vtt", "call.srt"])
def test_a_subtitle_file_without_any_cue_is_refused(name: str) -> None:
    with pytest.raises(TranscriptError, match="holds no cues"):
        read_transcript(b"Dana Reyes: Hello.\nOmar: Hi.\n", name=name)


def test_connectors_get_turns_from_text() -> None:
    assert turns_from_vtt("WEBVTT\n\n" + W3C) == [Turn(*DANA, 1.0, 2.5), Turn(*OMAR, 10.0, 12.0)]
    assert turns_from_vtt("WEBVTT\n") == []
    assert turns_from_vtt("") == []
