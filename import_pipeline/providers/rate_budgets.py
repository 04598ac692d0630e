"""How much may still be asked of a provider: one budget per account and limit, shared by all processes.

A budget is a row in `import_pipeline.rate_budgets`, a log of what was asked within the last span. We do not know
when the provider counted a request: somewhere between sending and answer. So it counts from sending until one
span after the answer, minus the shortest answer time seen. Then no span ever holds more than the limit, whether the
provider's windows slide or not. Time is the database's.

Why not a library: those that share a budget through PostgreSQL create tables of their own, one row per request, which
the importer's role may not do; none knows of requests on their way or of the silence a provider demands.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from import_pipeline.database.connections import Connect
from import_pipeline.database.sql import query
from import_pipeline.database.tenancy import acting_at_once
from import_pipeline.errors import AccountLockedError, ConfigurationError, RateLimitedError, ReconnectError
from import_pipeline.providers.source_settings import setting_name, source_setting
from import_pipeline.records import Lane

LONGEST_WAIT_SECONDS = 300.0
"""What has to wait longer than this is left for a later run."""
SHARE_OF_HISTORY = 0.8
"""Of a limit per hour or longer, history leaves the rest to live runs; a shorter one is free again soon enough."""

_RESERVED_FROM = timedelta(hours=1)
_UNLIMITED = 2_000_000_000
_GRAINS = 100
_MINUTE = timedelta(minutes=1)
_SHORTEST = timedelta(milliseconds=10)
_ANSWERS_UNTIL_LEARNT = 20


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A provider's limit: at most `requests` within any `per`; requests name the budgets they draw from."""

    name: str
    requests: int
    per: timedelta


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to send one request now, to be given to `RateBudget.note_answered` after its answer."""

    names: tuple[str, ...]
    taken_at: float
    asked_at: float
    sent_at: float
    has_room: bool
    """Whether by our own count the provider has room for more."""


@dataclass(slots=True)
class _Answers:
    """How many answers this process has had for an account, and in how many seconds the quickest came."""

    number: int = 0
    quickest: float = math.inf


_answers: dict[UUID, _Answers] = {}


class RateBudget:
    """The budgets of one account.

    Args:
        account_id: The account.
        limits: What its provider allows.
        connect: Lends an idle connection.
        lane: Runs over history leave a reserve to live ones, and the next place to one that waits.
        sleep: For tests.
    """

    def __init__(
        self,
        account_id: UUID,
        limits: Sequence[RateLimit],
        connect: Connect,
        lane: Lane = "live",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._account_id = account_id
        # Without a limit there is still the silence that a provider may ask for.
        self._limits = {limit.name: limit for limit in limits or (RateLimit("requests", _UNLIMITED, _MINUTE),)}
        self._connect = connect
        self._lane = lane
        self._sleep = sleep
        self._answers = _answers.setdefault(account_id, _Answers())

    def take(self, names: Sequence[str]) -> Permit:
        """Wait until one more request fits into all these budgets, and count it.

        Raises:
            RateLimitedError: The wait would be too long for this run; it says until when.
        """
        limits = self._find(names)
        parameters = {
            "account_id": self._account_id,
            "names": [limit.name for limit in limits],
            "allowed": [self._allowed(limit) for limit in limits],
            "seconds": [limit.per.total_seconds() for limit in limits],
            "lane": self._lane,
        }
        while True:
            asked_at = time.monotonic()
            wait_seconds, is_blocked, taken_at, used = self._ask(query("take_rate_budgets"), parameters)
            if wait_seconds <= 0:
                has_room = all(n + 1 < 0.9 * limit.requests for n, limit in zip(used, limits, strict=True))
                names = tuple(limit.name for limit in limits)
                return Permit(names, taken_at, asked_at, time.monotonic(), has_room)
            if wait_seconds > LONGEST_WAIT_SECONDS:
                until = datetime.fromtimestamp(taken_at + wait_seconds, UTC)
                why = "The provider asked for silence" if is_blocked else "The provider's limit is used up"
                raise RateLimitedError(f"{why} until {until:%Y-%m-%d %H:%M} UTC.", retry_at=until)
            self._sleep(wait_seconds)

    def note_answered(self, permit: Permit) -> None:
        """Note that a request was answered."""
        limits = [self._limits[name] for name in permit.names]
        now = time.monotonic()
        sooner = self._learn(now - permit.sent_at)
        # Never too early, since the permit was dated after it had been asked for.
        answered_at = permit.taken_at + now - permit.asked_at - sooner
        grains = [limit.per.total_seconds() / _GRAINS for limit in limits]
        if all(math.ceil(answered_at / grain) == math.ceil(permit.taken_at / grain) for grain in grains):
            return  # it is counted in this grain already
        self._ask(
            query("settle_rate_budgets"),
            {
                "account_id": self._account_id,
                "names": list(permit.names),
                "seconds": [limit.per.total_seconds() for limit in limits],
                "taken_at": permit.taken_at,
                "sooner": sooner,
            },
        )

    def _learn(self, seconds: float) -> float:
        """Note how long an answer took, and return how much earlier than at its end a request may count.

        Every request takes at least as long as the quickest one. That time is the same for each request, so it need
        not be added to the span. The first answers do not count, since a connection is opened for each of them.
        """
        self._answers.number += 1
        self._answers.quickest = min(self._answers.quickest, seconds)
        return self._answers.quickest if self._answers.number > _ANSWERS_UNTIL_LEARNT else 0.0

    def block(self, seconds: float, names: Sequence[str]) -> None:
        """Note that the provider asked for silence; no process draws on these budgets before."""
        blocked = [limit.name for limit in self._find(names)]
        self._ask(query("block_rate_budgets"), {"account_id": self._account_id, "names": blocked, "seconds": seconds})

    def _find(self, names: Sequence[str]) -> list[RateLimit]:
        limits = [self._limits[name] for name in sorted(names) if name in self._limits]
        return limits or [next(iter(self._limits.values()))]

    def _ask(self, statement: str, parameters: dict[str, Any]) -> Any:
        try:
            with self._connect() as conn, conn.cursor(row_factory=tuple_row) as cursor:
                with acting_at_once(conn, None, writes=()):  # others of the account wait for the budget
                    cursor.execute(statement, parameters)
                return cursor.fetchone()
        except (psycopg.errors.ForeignKeyViolation, psycopg.errors.NoDataFound):
            raise ReconnectError("The account was deleted during the run; connect the source again.") from None
        except psycopg.errors.LockNotAvailable:
            raise AccountLockedError from None

    def _allowed(self, limit: RateLimit) -> int:
        if self._lane == "history" and limit.per >= _RESERVED_FROM:
            return max(1, math.floor(limit.requests * SHARE_OF_HISTORY))
        return limit.requests


def limits_of(source_app: str, declared: Sequence[RateLimit]) -> tuple[RateLimit, ...]:
    """Return the limits of a source: what its connector declares, or what `IMPORT_PIPELINE_<SOURCE>_RATE_LIMITS` says.

    The setting is a list such as `requests=60/60s, heavy=30/60s`; without names one limit holds for all budgets, and
    `none` means no limit.

    Raises:
        ConfigurationError: The setting cannot be read.
    """
    text = source_setting(source_app, "RATE_LIMITS")
    if not text:
        return tuple(declared)
    if text == "none":
        return ()
    names = [limit.name for limit in declared] or ["requests"]
    limits = {limit.name: limit for limit in declared}
    try:
        for part in text.split(","):
            name, rate = (each.strip() for each in part.rpartition("=")[::2])
            number, seconds = rate.removesuffix("s").split("/")
            limit = RateLimit(name, int(number), timedelta(seconds=float(seconds)))
            if not 1 <= limit.requests <= _UNLIMITED or limit.per < _SHORTEST or (name and name not in names):
                raise ValueError
            limits |= {each: replace(limit, name=each) for each in ([name] if name else names)}
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{setting_name(source_app, 'RATE_LIMITS')} must look like `60/60s` (requests per seconds), with or "
            f"without a name ({', '.join(names)}), not {text!r}."
        ) from None
    return tuple(limits.values())
