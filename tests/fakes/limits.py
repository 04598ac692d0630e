"""Rate limits as providers count them: a log of the last span, or windows that begin anew."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from dataclasses import dataclass

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `requests` within `seconds`."""

    requests: int
    seconds: float

    @classmethod
    def parse(cls, text: str | RateLimit) -> RateLimit:
        """Read `60/60s`, `60/m` or `1000/1d`.

        Raises:
            ValueError: The text is something else.
        """
        if isinstance(text, RateLimit):
            return text
        match = re.fullmatch(r"(\d+)/(\d*\.?\d*)([smhd]?)", text.strip())
        if not match or not (match[2] or match[3]):
            raise ValueError(f"A rate limit looks like 60/60s, not {text!r}.")
        return cls(int(match[1]), float(match[2] or 1) * _UNITS[match[3]])


@dataclass(frozen=True, slots=True)
class Room:
    """What a limit leaves to a credential: requests now, and seconds until the next one (or until the window ends)."""

    limit: RateLimit
    remaining: int
    reset_seconds: float


class Limiter:
    """Counts the requests of each credential. Not thread-safe: its server holds a lock.

    Args:
        limit: The limit.
        fixed_window: Count in windows of the clock that begin anew, instead of over the last span.
    """

    def __init__(self, limit: str | RateLimit, fixed_window: bool = False) -> None:
        self.limit = RateLimit.parse(limit)
        self.fixed_window = fixed_window
        self._taken: dict[str, deque[float]] = {}

    def room(self, credential: str, now: float) -> Room:
        """Return what is left at an instant of the monotonic clock."""
        taken = self._taken.setdefault(credential, deque())
        seconds = self.limit.seconds
        window_start = now - now % seconds if self.fixed_window else now - seconds
        while taken and (taken[0] < window_start if self.fixed_window else taken[0] <= window_start):
            taken.popleft()
        begins = window_start if self.fixed_window else taken[0] if taken else now
        reset = begins + seconds - now
        return Room(self.limit, max(0, self.limit.requests - len(taken)), max(0.0, reset))

    def take(self, credential: str, now: float) -> None:
        """Count a request that was let in."""
        self._taken.setdefault(credential, deque()).append(now)


class Limits:
    """The rate limits of a server by name; a limit of None does not exist.

    Args:
        fixed_window: See `Limiter`.
    """

    def __init__(self, fixed_window: bool = False) -> None:
        self.fixed_window = fixed_window
        self._limiters: dict[str, Limiter] = {}
        self._lock = threading.Lock()

    def set(self, name: str, limit: str | RateLimit | None) -> None:
        """Set, replace or drop a limit; its count begins anew."""
        with self._lock:
            if limit is None:
                self._limiters.pop(name, None)
            else:
                self._limiters[name] = Limiter(limit, self.fixed_window)

    def take(self, names: tuple[str, ...], credential: str | None) -> tuple[str, bool, Room] | None:
        """Count a request against all of these limits, or against none if one of them is used up.

        Returns:
            The tightest limit's name, whether the request is let in, and the `Room`; None without any limit.
        """
        now, who = time.monotonic(), credential or ""
        with self._lock:
            rooms = [(name, self._limiters[name].room(who, now)) for name in names if name in self._limiters]
            if not rooms:
                return None
            used_up = [(name, room) for name, room in rooms if room.remaining < 1]
            if used_up:
                name, room = max(used_up, key=lambda each: each[1].reset_seconds)
                return name, False, room
            for name, _ in rooms:
                self._limiters[name].take(who, now)
            rooms = [(name, self._limiters[name].room(who, now)) for name, _ in rooms]
            name, room = min(rooms, key=lambda each: each[1].remaining)
            return name, True, room
