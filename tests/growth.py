"""Whether the time that some work takes grows with its length, or faster: the same answer on any machine.

Seconds are compared with seconds of the same minute only, and of this process only: what else runs does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable

TIMES = 8
"""How many times as long the longer text is."""
TOO_MUCH = 24
"""How many times as long that may take. It is 8 where time grows with the length, 64 where it grows with the square."""
_NOTICEABLE_SECONDS = 0.002


def seconds(work: Callable[[int], object], length: int, tries: int = 3) -> float:
    """Return the processor time that the work takes at best."""
    best = float("inf")
    for _ in range(tries):
        before = time.process_time()
        work(length)
        best = min(best, time.process_time() - before)
    return best


def grows_faster_than_its_length(work: Callable[[int], object], length: int) -> bool:
    """Compare a length with a longer one, several times: what is seen once may be chance."""
    return all(seconds(work, TIMES * length, 1) > TOO_MUCH * seconds(work, length) for _ in range(4))


def noticeable_length(work: Callable[[int], object], most: int) -> int | None:
    """Return at what length the work takes a time that can be measured; None: not even at the longest.

    Begins with so short lengths, and goes on in so small steps, that even exponential time is noticed in time.
    """
    length = 16
    while length <= most:
        if seconds(work, length, 1) >= _NOTICEABLE_SECONDS and seconds(work, length) >= _NOTICEABLE_SECONDS:
            return length
        length += 4 if length < 64 else length
    return None
