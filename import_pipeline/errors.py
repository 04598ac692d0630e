"""Every error this software raises on purpose.

One base class and one sentence per class: the first docstring line is the default message. An error about an *item*
carries the class that the ledger stores; an error about a *command* carries the exit code of the CLI. Nothing here
logs, and no message may hold a secret or a piece of a transcript.
"""

from __future__ import annotations

import traceback
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal

ErrorClass = Literal["auth", "rate", "transient", "data", "permanent", "bug"]
"""Why an item failed: credentials, provider limit, will pass by itself, bad content, will never work, our mistake."""

LONGEST_REASON = 500
"""Characters; some vendors answer with a page of HTML."""

ADVICE: dict[ErrorClass, str] = {
    "auth": "Connect the account again, with what the reason asks for: `import-pipeline connect`.",
    "rate": "Nothing: it is asked for again when the source allows it.",
    "transient": "Nothing: it is tried again by itself. If it lasts, see whether the source works.",
    "data": "Mend it at the source, then `import-pipeline retry`.",
    "permanent": "It cannot be imported as it is; the reason says why. `import-pipeline retry` once that has changed.",
    "bug": "Report it as a mistake of import_pipeline, with the reason.",
}
"""What a person can do about a failure of each class."""


class ImportPipelineError(Exception):
    """Something went wrong in import_pipeline."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").partition("\n")[0])


class ConfigurationError(ImportPipelineError):
    """A setting, an argument or a name is wrong."""

    exit_code = 2


class PlantedTriggerError(ConfigurationError):
    """A trigger would run code of a stranger where the importer writes."""


class UnknownUserError(ConfigurationError):
    """No user has this e-mail address."""


class UnknownSourceError(ConfigurationError):
    """No connector is installed for this source."""


class DatabaseUnavailableError(ImportPipelineError):
    """The database could not be reached."""

    exit_code = 3


class EmbeddedServerError(DatabaseUnavailableError):
    """The embedded PostgreSQL could not be started."""


class SourceUnavailableError(ImportPipelineError):
    """The source could not be reached."""

    exit_code = 3


class AccountLockedError(ImportPipelineError):
    """Another session has locked the row of this account; it is tried again by itself, or mend what keeps it locked."""


class StagedFileError(ImportPipelineError):
    """What an earlier step left for this one is not there as it was left: execute all steps of the run again."""


class StoppedError(ImportPipelineError):
    """The run is being stopped, so nothing more is asked."""


class MigrationError(ImportPipelineError):
    """The database could not be migrated; nothing was changed."""

    exit_code = 2


class PendingMigrationsError(MigrationError):
    """The database lacks migrations of this version of import_pipeline."""


class MigrationDriftError(MigrationError):
    """An applied migration differs from its file."""


class ErasureError(ImportPipelineError):
    """What belongs to a user could not be erased; nothing was changed."""

    exit_code = 2


class DuplicateRecordingsError(MigrationError):
    """The database already holds duplicate recordings, so the unique import key cannot be created."""


class ItemError(ImportPipelineError):
    """One item could not be imported.

    Args:
        message: What happened and what to do, for a person; short, without secrets or transcript.
        error_class: The class that the ledger stores; the default is the class attribute.
        retry_at: When to try again (aware); None lets the stage choose a growing pause.
    """

    error_class: ErrorClass = "data"

    def __init__(
        self,
        message: str | None = None,
        *,
        error_class: ErrorClass | None = None,
        retry_at: datetime | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_at = retry_at
        if error_class is not None:
            self.error_class = error_class


class InvalidRecordError(ItemError):
    """A record does not hold what an import needs."""


class TranscriptError(ItemError):
    """A text is not a transcript that can be read."""


class BankError(ItemError):
    """No bank could be chosen for a recording."""

    error_class = "permanent"


class HttpError(ItemError):
    """The source refused a request.

    Args:
        message: Method, path and answer, without secrets.
        status: HTTP status; None when there was no whole answer.
        code: The provider's own code in the body, if it sends one.
        request_id: By what the provider's support finds the request, if it tells.
        error_class: See `ItemError`.
        retry_at: See `ItemError`.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        error_class: ErrorClass | None = None,
        retry_at: datetime | None = None,
    ) -> None:
        super().__init__(message, error_class=error_class, retry_at=retry_at)
        self.status = status
        self.code = code
        self.request_id = request_id


class RateLimitedError(HttpError):
    """The source allows no more requests for now."""

    error_class = "rate"


class ReconnectError(HttpError):
    """The source no longer accepts the stored credential."""

    error_class = "auth"


class NotReadyError(ImportPipelineError):
    """An item is listed but its transcript is not there yet."""


class IgnoredItemError(ImportPipelineError):
    """An item is deliberately not imported, for a reason the ledger keeps."""


def class_of(error: ImportPipelineError) -> ErrorClass:
    """Return the class of a problem that concerns a whole account; a wrong setting counts as `auth`."""
    if isinstance(error, ItemError):
        return error.error_class
    return "auth" if isinstance(error, ConfigurationError) else "transient"


def by_name(name: str, kind: type[ImportPipelineError] = ImportPipelineError) -> type[ImportPipelineError] | None:
    """Return the error of ours with this name, which is all that a run tells of the class of what broke it."""
    if kind.__name__ == name:
        return kind
    return next((found for each in kind.__subclasses__() if (found := by_name(name, each))), None)


def passes(error_class: str | None) -> bool:
    """Say whether a problem of this class goes away by itself."""
    return error_class in ("rate", "transient")


def one_line(text: str, limit: int = 200) -> str:
    """Return the beginning of a text that somebody else wrote as one line; control characters would steer terminals."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= limit else f"{line[:limit]}…"


def describe_problem(error: ImportPipelineError) -> str:
    """Return the text of an error of ours as it can be staged, stored and shown, whatever a connector put into it."""
    return one_line(str(error), LONGEST_REASON) or type(error).__name__


def describe_bug(error: BaseException) -> str:
    """Name an unforeseen error by its type and place; its text could quote a transcript or a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}; this is a mistake in the software, please report it"
