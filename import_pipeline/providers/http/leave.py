"""Leave to send: the budget that processes share, and the silence that a provider has just demanded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import httpx

from import_pipeline.providers.error_answers import rate_header
from import_pipeline.providers.http.contract import Budget
from import_pipeline.providers.rate_budgets import LONGEST_WAIT_SECONDS, Permit


class Leave:
    """Gives leave to the threads of one client.

    Args:
        budget: What gives it; None gives it always.
        sleep: Waits.

    Attributes:
        silent_until: Until when nothing may draw on a budget (monotonic), before the budget itself knows.
    """

    def __init__(self, budget: Budget | None, sleep: Callable[[float], None]) -> None:
        self._budget = budget
        self._sleep = sleep
        self.silent_until: dict[str, float] = {}

    def wait(self, names: Sequence[str]) -> Permit | None:
        """Wait until a request may be sent. What one thread was just told holds for the others before it is stored."""
        while True:
            permit = self._budget.take(names) if self._budget and names else None
            left = max((self.silent_until.get(name, 0.0) for name in names), default=0.0) - time.monotonic()
            if left <= 0 or self._budget is None:
                return permit
            self.note_answered(permit)
            self._sleep(min(left, 1.0))  # a longer silence is in the budget by then

    def note_answered(self, permit: Permit | None) -> None:
        """Note that a request was answered, or that it was not sent."""
        if self._budget and permit:
            self._budget.note_answered(permit)

    def note_silence(self, seconds: float, names: Sequence[str]) -> None:
        """Let the other threads be silent from now on."""
        self.silent_until |= dict.fromkeys(names, time.monotonic() + seconds)

    def block(self, seconds: float, names: Sequence[str]) -> None:
        """Let every process be silent."""
        if self._budget and names:
            self._budget.block(seconds, names)

    def heed_remaining(self, response: httpx.Response, permit: Permit | None) -> None:
        """Fall silent when the provider has no room left though we think so: others use the account too."""
        remaining, reset = (rate_header(response, name) for name in ("RateLimit-Remaining", "RateLimit-Reset"))
        if remaining is None or reset is None or not permit or not permit.has_room:
            return
        with suppress(ValueError):
            if float(remaining) <= 0 and 0 < float(reset) <= LONGEST_WAIT_SECONDS:
                self.block(float(reset), permit.names)
