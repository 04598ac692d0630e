"""Sending a request again: how often, for how long, and with what pauses in between."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import tenacity

from import_pipeline.providers.http.contract import TryAgain
from import_pipeline.providers.rate_budgets import LONGEST_WAIT_SECONDS
from import_pipeline.providers.timeouts import Allowance

_JITTER = tenacity.wait_random_exponential(multiplier=0.5, max=30)


def repeat(
    attempt: Callable[[], Any],
    max_attempts: int,
    allowance: Allowance,
    note_slow: Callable[[Allowance], None],
    sleep: Callable[[float], None],
) -> Any:
    """Call `attempt` until it returns.

    Args:
        attempt: Raises `TryAgain` where another attempt may go better.
        max_attempts: How often it is called at most.
        allowance: The time that all attempts have together; pauses that the provider asks for do not count.
        note_slow: Called when no time is left for another attempt.
        sleep: Waits.

    Raises:
        TryAgain: The last attempt failed, too.
    """

    def is_out(state: tenacity.RetryCallState) -> bool:
        if allowance.left <= (0 if _asked(state) else state.upcoming_sleep):
            note_slow(allowance)
        return allowance.is_over

    def rest(state: tenacity.RetryCallState) -> None:
        with allowance.paused() if _asked(state) else nullcontext():
            sleep(state.upcoming_sleep)

    bounds = tenacity.stop_after_attempt(max_attempts) | tenacity.stop_after_delay(3 * LONGEST_WAIT_SECONDS)
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TryAgain),
        wait=_pause,
        stop=lambda state: bounds(state) or is_out(state),
        before_sleep=rest,
        sleep=lambda _: None,
        reraise=True,
    )
    return retrying(attempt)


def _pause(state: tenacity.RetryCallState) -> float:
    """Return how long to wait before the next attempt: full jitter, but at least what the provider asked for."""
    asked, jitter = _asked(state), _JITTER(state)
    return asked + min(jitter, 1.0) if asked else jitter


def _asked(state: tenacity.RetryCallState) -> float | None:
    error = state.outcome.exception() if state.outcome else None
    return error.pause_seconds if isinstance(error, TryAgain) else None
