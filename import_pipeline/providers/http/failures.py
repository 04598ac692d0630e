"""What failed in a row: whether the provider is down, a host that it leads to is dead, or only single items fail."""

from __future__ import annotations

import threading
from collections import Counter

import httpx

from import_pipeline.providers.http.addresses import Origin, Reach, origin
from import_pipeline.providers.timeouts import Allowance

FAILURES_UNTIL_DOWN = 3
"""So many failures in a row, of requests for as many items, mean that a host is down and no item broken."""
SLOW_ITEMS = 10
"""After so many that took too long the others may take no longer than one answer: a burst of dead links must not use
up a run."""


class Failures:
    """Counts for the threads of one client.

    Args:
        reach: Says which hosts are the provider's own.
    """

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._lock = threading.Lock()
        self._in_a_row: Counter[Origin | None] = Counter()
        self._answers = self._slow_items = 0

    @property
    def answers(self) -> int:
        """How often the provider has answered."""
        return self._answers

    @property
    def are_many_slow(self) -> bool:
        """Whether so many items took too long that no other may."""
        return self._slow_items >= SLOW_ITEMS

    def note_answer(self, *urls: httpx.URL) -> None:
        """Note who has answered."""
        with self._lock:
            for who in map(self._who, urls):
                self._answers += who is None
                self._in_a_row.pop(who, None)

    def note_slow(self, allowance: Allowance) -> None:
        """Note that an item took too long; once."""
        with self._lock:
            self._slow_items += not allowance.is_over
            allowance.is_over = True

    def note_failure(self, url: httpx.URL, allowance: Allowance, answers_before: int) -> int | None:
        """Note that a request failed in all its attempts, unless one for the same item did.

        Nor does it count against a provider that has answered other requests since.

        Returns:
            In how many in a row the provider has failed, if it is down.
        """
        who = self._who(url)
        with self._lock:
            if not allowance.has_failed and (who or self._answers == answers_before):
                self._in_a_row[who] += 1
            allowance.has_failed = True
            failed = self._in_a_row[who]
        return failed if who is None and failed >= FAILURES_UNTIL_DOWN else None

    def is_dead(self, url: httpx.URL) -> bool:
        """Say whether a host that is not the provider's has failed so often that it is not asked again."""
        who = self._who(url)
        return who is not None and self._in_a_row[who] >= FAILURES_UNTIL_DOWN

    def _who(self, url: httpx.URL) -> Origin | None:
        """Return who answers there; None is the provider itself."""
        return None if self._reach.is_base(url) else origin(url)
