"""What goes wrong on purpose: the kinds of faults and the rules by which a server picks one for a request.

How a fault looks on the wire is in `server.py`; how a provider words its errors is in the provider's module.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SILENCE_KINDS = ("429-retry-after", "429-bare", "429-date", "429-iso")
"""Too many requests: Retry-After in seconds, none, as HTTP date, as ISO-8601 date-time."""
STATUS_KINDS = ("500", "502", "503")
"""Any other status of three digits works as well, for instance `404` or `408`."""
BODY_KINDS = ("truncated", "invalid-json", "html")
"""The request is carried out but its answer is spoilt."""
CONNECTION_KINDS = ("disconnect", "hang", "slow")
"""No answer at all, none for `hang_seconds`, or one that drips for `hang_seconds` and is then cut off."""

QUICK_KINDS = (*SILENCE_KINDS, *STATUS_KINDS, *BODY_KINDS, "disconnect")
"""All that cost the client no time by themselves."""
ALL_KINDS = (*SILENCE_KINDS, *STATUS_KINDS, *BODY_KINDS, *CONNECTION_KINDS)


@dataclass(frozen=True, slots=True)
class NextFault:
    """A fault for one of the next requests: the first one whose path matches."""

    kind: str | None
    path: str = ""


@dataclass(kw_only=True, eq=False)
class Faults:
    """The fault switches of a server; they may be changed while it runs.

    A scripted fault comes before a permanent rule, which comes before a random one. Paths are regular expressions that
    are searched in the raw path, and in the raw path with query.

    Args:
        share: How many of the requests get a random fault, from 0 to 1.
        kinds: The faults that random picks from.
        path: Random faults hit only these paths. By default all but those of OAuth, since an answer with rotated
            tokens that gets lost ends a connection for good.
        seed: Of the randomness.
        next_faults: Kinds, or `NextFault`, for the next requests in this order; each is used once. `None` lets one
            request pass.
        always: Path → kind.
        retry_after_seconds: The silence that 429 demands.
        fractional_retry_after: Send Retry-After as a decimal fraction. By default whole seconds, at least 1.
        hang_seconds: How long `hang` and `slow` last.
        served: The kinds that were served so far, counted.
    """

    share: float = 0.0
    kinds: Sequence[str] = QUICK_KINDS
    path: str = r"^(?!.*(/oauth|/token$))"
    seed: int = 1
    next_faults: list[str | NextFault | None] = field(default_factory=list)
    always: dict[str, str] = field(default_factory=dict)
    retry_after_seconds: float = 1.0
    fractional_retry_after: bool = False
    hang_seconds: float = 5.0
    served: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(self.seed)  # noqa: S311
        self._check()

    def pick(self, target: str) -> str | None:
        """Choose the fault for one request, if any.

        Args:
            target: Raw path with query.
        """
        with self._lock:
            kind = self._pick(target)
            if kind:
                self.served[kind] = self.served.get(kind, 0) + 1
            return kind

    def change(self, values: Mapping[str, Any]) -> None:
        """Change some switches, given as JSON; unknown names are refused.

        Raises:
            ValueError: A name or a kind is unknown.
        """
        if unknown := set(values) - {*self.as_json()}:
            raise ValueError(f"No such switch: {', '.join(sorted(unknown))}.")
        with self._lock:
            before = {name: getattr(self, name) for name in values}
            for name, value in values.items():
                if name == "next_faults":
                    value = [NextFault(**each) if isinstance(each, dict) else each for each in value]
                setattr(self, name, value)
            try:
                self._check()
            except ValueError:
                for name, value in before.items():
                    setattr(self, name, value)
                raise
            if "seed" in values:
                self._random = random.Random(self.seed)  # noqa: S311

    def as_json(self) -> dict[str, Any]:
        """Return the switches as `change` takes them."""
        waiting = [{"kind": each.kind, "path": each.path} if isinstance(each, NextFault) else each
                   for each in self.next_faults]  # fmt: skip
        return {
            "share": self.share,
            "kinds": list(self.kinds),
            "path": self.path,
            "seed": self.seed,
            "next_faults": waiting,
            "always": dict(self.always),
            "retry_after_seconds": self.retry_after_seconds,
            "fractional_retry_after": self.fractional_retry_after,
            "hang_seconds": self.hang_seconds,
        }

    def _pick(self, target: str) -> str | None:
        for index, each in enumerate(self.next_faults):
            fault = each if isinstance(each, NextFault) else NextFault(each)
            if _matches(fault.path, target):
                del self.next_faults[index]
                return fault.kind
        for path, kind in self.always.items():
            if _matches(path, target):
                return kind
        if self.share > 0 and _matches(self.path, target) and self._random.random() < self.share:
            return self._random.choice(list(self.kinds))
        return None

    def _check(self) -> None:
        waiting = [each.kind if isinstance(each, NextFault) else each for each in self.next_faults]
        for kind in (*self.kinds, *self.always.values(), *waiting):
            if kind is not None and kind not in ALL_KINDS and not re.fullmatch(r"[1-5]\d\d", str(kind)):
                raise ValueError(f"No such fault: {kind!r}. There are {', '.join(ALL_KINDS)}, and any status.")


def _matches(path: str, target: str) -> bool:
    return bool(re.search(path, target.partition("?")[0]) or re.search(path, target))
