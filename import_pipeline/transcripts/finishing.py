"""What is decided only when a whole file has been read: speakers, order, repeated captions, and how turns are merged.

Everything works on the flat arrays of `Turns` and mostly on encoded text, because it touches every cue.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from import_pipeline.errors import TranscriptError
from import_pipeline.transcripts.speakers import accepted, is_guess, name_of
from import_pipeline.transcripts.turns import UNKNOWN, Turn, Turns, collect

GAP_MS = 1_500
"""Cues of one speaker that are closer than this are one turn."""

READABLE = 600
"""From this many bytes on, a turn ends with the sentence ..."""

LONGEST = 1_200
"""... and with the cue at this many, so that there is a time every minute or so."""

_SENTENCE_ENDS = (b".", b"?", b"!", "…".encode(), "。".encode(), "？".encode(), "！".encode(), b'"', "؟".encode())
_RESTART_MS = 60_000
_SMALLEST_PART = 5
_BLANK = 32
_COMPARED_WORDS = 120


def finish_turns(raw: Turns, notes: dict[str, Any], *, cues: bool) -> Turns:
    """Turn what a reader collected into the turns of a transcript.

    Args:
        raw: The turns in the order of the file, speakers possibly guessed.
        notes: Told what was repaired.
        cues: Whether the turns are cues of a subtitle: a cue without a name continues the speaker before it, and
            captions may repeat each other. Otherwise they are paragraphs, and a wrong guess continues its paragraph.
    """
    turns = resolve_speakers(raw, cues=cues)
    if cues and len(turns.names) == 1:
        turns = _deroll(turns, notes)
    turns = in_order(turns, notes)
    turns = merge(turns)
    if not raw.spoken or not len(turns):
        raise TranscriptError("holds no spoken text")
    if raw.damaged:
        notes["replaced_characters"] = notes.get("replaced_characters", 0) + raw.damaged
    return turns


def resolve_speakers(raw: Turns, *, cues: bool) -> Turns:
    """Believe the guessed speakers or glue them back to what was said."""
    names = raw.names
    guessed = [is_guess(name) for name in names]
    if not any(guessed):
        return raw
    counts = Counter(raw.speakers)
    guesses = {name: counts[number] for number, name in enumerate(names) if name and guessed[number]}
    known = {name for number, name in enumerate(names) if name and not guessed[number] and counts[number]}
    believed = accepted(guesses, len(raw), known)
    turns = Turns()
    final = array("I")
    glue: list[bytes] = []  # what a wrong guess took from its text, by number
    for number, name in enumerate(names):
        wrong = guessed[number] and name not in believed
        final.append(0 if wrong or name is None else turns.speaker_number(name_of(name) if guessed[number] else name))
        glue.append(name.encode() if wrong and name else b"")
    if any(glue):
        return _glued(raw, turns, final, glue, cues=cues)
    raw.names = turns.names  # nothing to glue: the text stays where it is
    carried = 0
    for index, number in enumerate(raw.speakers):
        speaker = final[number]
        if cues:
            carried = speaker = speaker or carried
        raw.speakers[index] = speaker
    return raw


def _glued(raw: Turns, turns: Turns, final: array[int], glue: list[bytes], *, cues: bool) -> Turns:
    """Put wrong guesses back where they stood: at the beginning of their cue, or into the paragraph before."""
    carried = 0
    before = UNKNOWN
    with memoryview(raw.blob) as blob:
        for index, number in enumerate(raw.speakers):
            text = blob[raw.offsets[index] : raw.offsets[index + 1]]
            start = raw.starts[index]
            speaker = final[number]
            if cues:
                carried = speaker = speaker or carried
            elif glue[number] and start in (UNKNOWN, before) and len(turns):  # no time of its own
                turns.extend_encoded(b"\n" + glue[number] + text)
                continue
            before = start
            turns.add_encoded(speaker, glue[number] + text if glue[number] else text, start, raw.ends[index])
    return turns


def in_order(turns: Turns, notes: dict[str, Any]) -> Turns:
    """Sort by start, keeping the order of what starts together; a turn without a time stays behind its neighbour.

    Where the times begin again, as in several recordings pasted into one file, the parts stay in the order of the
    file and are sorted each for itself.
    """
    keys = array("I")
    previous = latest = late = 0
    drops = array("Q")
    for index, start in enumerate(turns.starts):
        if start == UNKNOWN:
            start = previous
        if start < latest:
            late += 1
            if start + _RESTART_MS < previous:
                drops.append(index)
        latest = max(latest, start)
        previous = start
        keys.append(start)
    if not late:
        return turns
    bounds = [0, *drops, len(turns)]
    if drops and (len(drops) > 20 or min(b - a for a, b in pairwise(bounds)) < _SMALLEST_PART):
        bounds = [0, len(turns)]
    if len(bounds) > 2:
        notes["times_begin_again"] = len(bounds) - 2
    order: list[int] = []
    for first, last in pairwise(bounds):
        order += sorted(range(first, last), key=keys.__getitem__)
    moved = sum(1 for place, index in enumerate(order) if place != index)
    if not moved:
        return turns
    notes["reordered_turns"] = moved
    ordered = Turns()
    ordered.names = turns.names
    ordered.spoken = turns.spoken
    with memoryview(turns.blob) as blob:
        for index in order:
            text = blob[turns.offsets[index] : turns.offsets[index + 1]]
            ordered.add_encoded(turns.speakers[index], text, turns.starts[index], turns.ends[index])
    return ordered


def merge(turns: Turns) -> Turns:
    """Put consecutive cues of one speaker together, up to a readable length; merging twice changes nothing.

    Only turns whose end is known are cues. Paragraphs of a pasted text stay as their author divided them.
    """
    merged = Turns()
    merged.names = turns.names
    merged.spoken = turns.spoken
    merged.merged = True
    blob, offsets, ends = turns.blob, turns.offsets, turns.ends
    open_speaker, open_end, open_start, size, sentence_over = -1, UNKNOWN, 0, 0, True
    with memoryview(blob) as view:
        for index, (speaker, start) in enumerate(zip(turns.speakers, turns.starts, strict=True)):
            first, last, end = offsets[index], offsets[index + 1], ends[index]
            while first < last and blob[last - 1] <= _BLANK:  # trimmed in place: a turn can be 50 MB
                last -= 1
            while first < last and blob[first] <= _BLANK:
                first += 1
            if first == last:
                continue
            if (
                speaker == open_speaker
                and open_end != UNKNOWN
                and end != UNKNOWN
                and open_start <= start < open_end + GAP_MS
                and size + last - first < LONGEST
                and not (size >= READABLE and sentence_over)
            ):
                merged.blob += b" "
                merged.blob += view[first:last]
                merged.offsets[-1] = len(merged.blob)
                size += 1 + last - first
                if end > open_end:
                    merged.ends[-1] = open_end = end
            else:
                merged.add_encoded(speaker, view[first:last], start, end)
                open_speaker, open_start, open_end, size = speaker, start, end, last - first
            sentence_over = blob[max(first, last - 3) : last].endswith(_SENTENCE_ENDS)
    return merged


def deroll(turns: Iterable[Turn]) -> list[Turn]:
    """Take out what rolling captions repeat.

    YouTube's automatic captions show two lines: the one before, and the one being spoken. Read cue by cue, everything
    is there twice or three times. What a cue repeats from the end of the cue before it is dropped, but only if the
    whole sequence rolls: people do say "yes" twice.

    Args:
        turns: Captions in order, as read from the source (not merged).

    Returns:
        The same captions without repetition, or all of them unchanged.
    """
    return list(_deroll(collect(turns), {}))


def _deroll(turns: Turns, notes: dict[str, Any]) -> Turns:
    words_before: list[bytes] = []
    overlaps = array("I")
    rolling = pairs = 0
    for index in range(len(turns)):
        words = bytes(turns.blob[turns.offsets[index] : turns.offsets[index + 1]]).split()
        overlap = _overlap(words_before, words)
        if index and turns.speakers[index] == turns.speakers[index - 1]:
            pairs += 1
            rolling += 0 < overlap < len(words)
        else:
            overlap = 0
        overlaps.append(overlap)
        words_before = words[-_COMPARED_WORDS:]
    if rolling < 2 or rolling < 0.3 * pairs:
        return turns
    fresh = Turns()
    fresh.names = turns.names
    fresh.spoken = turns.spoken
    for index, overlap in enumerate(overlaps):
        text = bytes(turns.blob[turns.offsets[index] : turns.offsets[index + 1]])
        rest = b" ".join(text.split()[overlap:]) if overlap else text
        if rest:
            fresh.add_encoded(turns.speakers[index], rest, turns.starts[index], turns.ends[index])
    notes["repeated_captions"] = sum(1 for overlap in overlaps if overlap)
    return fresh


def _overlap(before: list[bytes], words: list[bytes]) -> int:
    """How many words at the beginning of a cue are the last words of the cue before."""
    if not before or not words or words[0] not in before:
        return 0
    for size in range(min(len(before), len(words), _COMPARED_WORDS), 0, -1):
        if before[-size] == words[0] and before[-size:] == words[:size]:
            return size
    return 0
