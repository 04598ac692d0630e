"""Which `Name: ` at the beginning of a line names a speaker, and which is a sentence with a colon.

A reader only *guesses*: it splits at everything that has the shape of a name and marks the guess by keeping the
separator, `Dana Reyes: `. When the whole file is read, `accepted` decides by what it saw, and a guess that was wrong is
glued back, so nothing that was said is lost either way.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from functools import lru_cache

MAX_NAME = 80

# No sentence punctuation, no markup, and not a time: "10:30 works" has no space behind its colon anyway.
_PREFIX = re.compile(
    r"([^\s:：<>\[\]{}()\"“”?!;…=/\\|*_#•-][^:：<>\n\[\]{}\"“”?!;…=/\\|]{0,79}?)(?::[ \t\xa0]+|：\s*|:$)"
)
_BRACKETED = re.compile(r"\[([^\]\[\n:\d][^\]\[\n:]{0,79})\]:?[ \t]+(?=\S)")
_MARKS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\u200b"

_NEVER_WORDS = """
note notes nb agenda summary details overview decision decisions action actions todo todos task tasks example
examples warning caution important tip tips hint reminder update updates ps p.s re fw fwd subject from to cc bcc
date time title topic topics attendees participants invited present absent duration recording link links url
website http https email e-mail phone address location source sources reference references next step steps
follow-up takeaways conclusion result results problem solution goal goals purpose background context disclaimer
transcript transcription chapter chapters section table remember however therefore also because so but and
or then now first second third finally meanwhile basically question questions fyi btw ok okay yes no well
"""
_NEVER_PHRASES = """
action item, action items, for example, to do, next step, next steps, follow up, key takeaways, that is, i mean,
in other words, my point, the point, the question, the thing, one thing
"""
_NEVER_NAMES = frozenset(_NEVER_WORDS.split()) | frozenset(_NEVER_PHRASES.replace("\n", " ").strip().split(", "))
_SOUND_WORDS = """
music applause laughter laughs laughing inaudible crosstalk silence noise pause background foreign sighs coughs
cheering cheers unintelligible blank_audio blank speaking beep ringing typing static whispering overlapping
"""
_SOUNDS = frozenset(_SOUND_WORDS.split())


def split_prefix(text: str) -> tuple[str | None, str]:
    """Split `Name: text` or `[Name] text`.

    Args:
        text: One cue or one line.

    Returns:
        The guessed speaker with its separator, and the rest; None and the text if it does not look like one.
    """
    if text[:1] == "[":
        match = _BRACKETED.match(text)
        return (f"[{match[1].strip()}] ", text[match.end() :]) if match else (None, text)
    match = _PREFIX.match(text)
    if match is None:
        return None, text
    label = _label(match[1])
    return (label, text[match.end() :].lstrip()) if label else (None, text)


@lru_cache(4096)  # the same few names, a hundred thousand times
def _label(name: str) -> str | None:
    """The guess that a prefix is; None if this cannot be a name. Whether it is one is decided by `accepted`."""
    name = name.strip().strip(_MARKS).strip()
    words = name.split()
    if not words or len(words) > 8 or not any(character.isalnum() for character in name):
        return None
    if any(word[-1] == "." and len(word) > 4 for word in words[:-1]):  # the end of a sentence, not "Dr." or "J."
        return None
    return f"{name}: "


def name_of(guess: str) -> str:
    """The name in a guess: `Dana: ` and `[Dana] ` are both Dana."""
    return guess[1:-2] if guess[0] == "[" else guess[:-2]


def is_guess(name: str | None) -> bool:
    """Whether a speaker of `Turns` is only guessed."""
    return name is not None and name[-1:] == " "


def looks_like_a_name(name: str) -> bool:
    """Whether this reads like the name of a person: few words, capitals or a script without them.

    Args:
        name: A candidate without its separator.
    """
    if name.lower() in _NEVER_NAMES:
        return False
    plain = re.sub(r"\s*\([^)]*\)\s*$", "", name)
    words = plain.replace(",", " ").split()
    if not 1 <= len(words) <= 5:
        return False
    particles = {
        "de",
        "da",
        "di",
        "del",
        "della",
        "van",
        "von",
        "der",
        "den",
        "la",
        "le",
        "el",
        "al",
        "bin",
        "ibn",
        "of",
    }
    return all(_capital(word) or word.lower() in particles for word in words)


def _capital(word: str) -> bool:
    first = next((character for character in word if character.isalnum()), "a")
    return first.isdigit() or first.isupper() or unicodedata.category(first) in {"Lo", "Lm", "Lt"}


def accepted(guesses: Mapping[str, int], turns: int, known: Collection[str]) -> set[str]:
    """Decide which guesses are speakers.

    Args:
        guesses: How many turns begin with each guess.
        turns: How many turns there are in all.
        known: Names that the file gives in a way that leaves no doubt.

    Returns:
        The guesses to believe.
    """
    counts: dict[str, int] = {}
    for guess, count in guesses.items():
        counts[name_of(guess)] = counts.get(name_of(guess), 0) + count
    share = sum(counts.values()) / max(turns, 1)
    believed = set()
    for guess in guesses:
        name = name_of(guess)
        count = counts[name]
        lower = name.lower()
        if name in known:
            believed.add(guess)
        elif known or lower in _NEVER_NAMES or (guess[0] == "[" and lower in _SOUNDS):
            continue
        elif guess[0] == "[":
            if count >= 2 and looks_like_a_name(name):
                believed.add(guess)
        elif looks_like_a_name(name):
            several = len(name.split()) > 1
            if count >= 2 or share >= (0.2 if several else 0.5):
                believed.add(guess)
        elif count >= 3 and share >= 0.2 and len(name.split()) <= 3:
            believed.add(guess)
    return believed
