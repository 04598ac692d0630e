"""The contract between a connector and everything else, and how connectors are found.

A connector says what it is and does two things: list items in a window, and turn one item into a record. Paging,
retries, dedup, insert, ledger, job and command line come from us, so this module knows no HTTP and no database.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import entry_points
from typing import ClassVar

from import_pipeline.errors import ConfigurationError, UnknownSourceError
from import_pipeline.records import Account, ConnectorRecord, JsonObject, ListedItem, Window

ENTRY_POINT_GROUP = "import_pipeline.connectors"


class Connector(ABC):
    """One source. A module in `import_pipeline/connectors/` defines one subclass; nothing else needs editing.

    The class attributes are the declaration; those without a value must be given. Instances hold no state of a run:
    one instance serves every account.
    """

    source_app: ClassVar[str]
    """Identifier in code, SQL and commands: lower-case words joined by `-`."""
    title: ClassVar[str]
    """What people call the source."""
    description: ClassVar[str]
    """One sentence: what is imported from there."""
    documentation_url: ClassVar[str]
    """The vendor's page that the code follows, or the standard."""

    authenticates_by: ClassVar[tuple[str, ...]] = ()
    """Kinds of credentials it accepts; empty means it needs none."""
    partitioned: ClassVar[bool] = True
    """Whether the listing can be asked for a window. If not, a run lists everything and leaves out what is known."""
    polling_interval: ClassVar[timedelta] = timedelta(minutes=15)
    """How often to look for something new."""
    look_back: ClassVar[timedelta] = timedelta(days=1)
    """How far before the cursor to look again, for items that appear late with an old date."""
    longest_window: ClassVar[timedelta | None] = None
    """The longest span one listing may be asked for; longer ones are cut."""
    history_start: ClassVar[datetime] = datetime(2018, 1, 1, tzinfo=UTC)
    """Nothing older is asked for."""
    transcript_deadline: ClassVar[timedelta] = timedelta(days=7)
    """How long to wait for a transcript, counted from the call or, if that is unknown, from the first listing."""
    concurrency: ClassVar[int] = 1
    """How many items of one account are turned into records at the same time."""

    options_are_personal: ClassVar[bool] = False
    """Whether the options of a run say what belongs to one user, so that it must not be a run for everybody."""
    listing_asks_again: ClassVar[bool] = False
    """Whether listing a failed item is itself the request to try it again, as with files that a person names."""

    @abstractmethod
    def list_items(self, account: Account, window: Window) -> Iterator[ListedItem]:
        """List every item of an account in a window, in any order; duplicates are harmless.

        Raises:
            SourceUnavailableError: The listing could not be read to its end. Never end early instead: what is not
                listed counts as not there.
        """

    @abstractmethod
    def fetch_record(self, account: Account, item: ListedItem) -> ConnectorRecord:
        """Turn one listed item into a record with the same `external_id`.

        Raises:
            NotReadyError: The transcript is not there yet; the item waits.
            IgnoredItemError: The item is deliberately not imported.
            ItemError: This item cannot be imported, with its class; its neighbours go on.
            SourceUnavailableError: The source is down; the whole batch is tried again later.
        """

    def check_options(self, options: JsonObject) -> JsonObject:
        """Check what a run was told beyond its accounts, and return it completed.

        Raises:
            ConfigurationError: An option is unknown or has a wrong value.
        """
        if options:
            raise ConfigurationError(f"{self.title} knows no option {', '.join(sorted(options))}.")
        return {}

    def options_for_retry(self, items: Mapping[str, str | None]) -> JsonObject:
        """Return the options of a run that lists at least these items (key in the ledger → location) again."""
        return {}

    @property
    def job_name(self) -> str:
        """Name of the Dagster job."""
        return f"import_{self.source_app.replace('-', '_')}"


@cache
def discover_connectors() -> Mapping[str, Connector]:
    """Find every connector: the modules beside this one, and what others installed under the entry-point group.

    Returns:
        `source_app` → connector, sorted.

    Raises:
        ConfigurationError: Two connectors claim the same source, or one does not declare what it must.
    """
    package = importlib.import_module(__package__)
    classes: list[type[Connector]] = []
    for module_info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{module_info.name}")
        classes += [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Connector) and value.__module__ == module.__name__
        ]
    classes += [entry_point.load() for entry_point in entry_points(group=ENTRY_POINT_GROUP)]

    found: dict[str, Connector] = {}
    for connector_class in classes:
        if connector_class is Connector:
            continue
        check_declaration(connector_class)
        if connector_class.source_app in found:
            raise ConfigurationError(
                f"Two connectors claim the source {connector_class.source_app!r}: "
                f"{type(found[connector_class.source_app]).__module__} and {connector_class.__module__}."
            )
        found[connector_class.source_app] = connector_class()
    return dict(sorted(found.items()))


def check_declaration(connector_class: type[Connector]) -> None:
    """Check that a connector class says what it must.

    Raises:
        ConfigurationError: Something is missing or has a wrong form.
    """
    where = f"The connector {connector_class.__module__}.{connector_class.__qualname__}"
    for name in ("source_app", "title", "description", "documentation_url"):
        if not isinstance(getattr(connector_class, name, None), str):
            raise ConfigurationError(f"{where} does not declare {name!r}.")
    missing: frozenset[str] = getattr(connector_class, "__abstractmethods__", frozenset())
    if missing:
        raise ConfigurationError(f"{where} does not define {', '.join(sorted(missing))}.")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", connector_class.source_app):
        raise ConfigurationError(f"{where}: source_app must be lower-case words joined by '-'.")


def get_connector(source_app: str) -> Connector:
    """Return the connector of a source.

    Raises:
        UnknownSourceError: There is none.
    """
    connectors = discover_connectors()
    if source_app not in connectors:
        raise UnknownSourceError(f"There is no source {source_app!r}; known are {', '.join(connectors)}.")
    return connectors[source_app]
