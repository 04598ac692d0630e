"""What the client is given by others: a credential and a budget, and how an attempt tells that it is to be repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import httpx

from import_pipeline.errors import HttpError
from import_pipeline.providers.rate_budgets import Permit


class Credential(Protocol):
    """What puts a secret into requests; `credentials.py` has the one that is kept in the database."""

    @property
    def kind(self) -> str:
        """Return which kind of credential it is; see `authentication.py`."""
        ...

    @property
    def secrets(self) -> Sequence[str]:
        """Return what must not appear in any message."""
        ...

    def sign(self, request: httpx.Request) -> None:
        """Put the secret into a request."""
        ...

    def renew(self, refused: httpx.Request) -> bool:
        """Get another secret than the one that was refused with this request; False where there is none."""
        ...


class Budget(Protocol):
    """Leave to send; `rate_budgets.py` has the one that processes share."""

    def take(self, names: Sequence[str]) -> Permit:
        """Wait for leave to send one request."""
        ...

    def note_answered(self, permit: Permit) -> None:
        """Note that it was answered."""
        ...

    def block(self, seconds: float, names: Sequence[str]) -> None:
        """Note that the provider asked for silence."""
        ...


class TryAgain(Exception):
    """An attempt failed in a way that passes.

    Attributes:
        error: What is raised if no other attempt is made.
        url: The address that was asked last.
        pause_seconds: How long a silence was demanded.
    """

    def __init__(self, error: HttpError, url: httpx.URL, pause_seconds: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.url = url
        self.pause_seconds = pause_seconds
