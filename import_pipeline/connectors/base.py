"""The contract between a connector and everything else, and how connectors are found.

A connector says what it is and does two things: list items in a window, and turn one item into a record. Credentials,
retries, rate limits, dedup, insert, ledger, job and command line come from us, so this module knows no database.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, ClassVar

from import_pipeline.errors import ConfigurationError, HttpError, ItemError, UnknownSourceError
from import_pipeline.providers.authentication import Authentication
from import_pipeline.providers.fields import get_text
from import_pipeline.providers.rate_budgets import RateLimit
from import_pipeline.records import Access, Account, ConnectorRecord, JsonObject, ListedItem, Window

if TYPE_CHECKING:
    import httpx

    from import_pipeline.providers.http import HttpClient

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

    base_url: ClassVar[str] = ""
    """Where its API is; `IMPORT_PIPELINE_<SOURCE>_URL` replaces it."""
    trusted_domains: ClassVar[tuple[str, ...]] = ()
    """Besides the origin of `base_url`, where the credential may be sent, for downloads: over https, subdomains too."""
    authenticates_by: ClassVar[tuple[Authentication, ...]] = ()
    """Kinds of credentials it accepts, the usual one first; empty means it needs none."""
    rate_limits: ClassVar[tuple[RateLimit, ...]] = ()
    """What the provider allows per account; `IMPORT_PIPELINE_<SOURCE>_RATE_LIMITS` replaces it."""
    permissions: ClassVar[str] = ""
    """One sentence: what the key or app must be allowed to do, shown by `connect`."""
    identity: ClassVar[tuple[str, str] | None] = None
    """Path and dotted field of an answer that tells the e-mail address behind a credential, if there is one."""
    addresses: ClassVar[str] = ""
    """What an account must name besides its credential, for instance a channel's address; empty: nothing."""

    partitioned: ClassVar[bool] = True
    """Whether the listing can be asked for a window. If not, it is read until everything is older than the window."""
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

    reads_files: ClassVar[bool] = False
    """Whether its items are files of this machine, so that it must know which folders other people fill."""
    is_polled: ClassVar[bool] = True
    """Whether it can be asked for what is new. Else a person names what is imported: a run is for one user, and naming
    a failed item is the request to try it again."""

    @abstractmethod
    def list_items(self, account: Account, window: Window, http: HttpClient) -> Iterator[ListedItem]:
        """List every item of an account in a window, in any order; duplicates and items outside of it are harmless.

        Raises:
            HttpError, SourceUnavailableError: The listing could not be read to its end; `http` raises them. Never end
                early instead: what is not listed counts as not there.
        """

    @abstractmethod
    def fetch_record(self, account: Account, item: ListedItem, http: HttpClient) -> ConnectorRecord:
        """Turn one listed item into a record with the same `external_id`.

        Raises:
            NotReadyError: The transcript is not there yet; the item waits.
            IgnoredItemError: The item is deliberately not imported.
            ItemError: This item cannot be imported, with its class; its neighbours go on. `http` raises `HttpError`.
            SourceUnavailableError: The source is down; the whole batch is tried again later.
        """

    def check_access(self, account: Account, http: HttpClient) -> Access:
        """Ask the source whether the credential works, for `connect`.

        Returns:
            Whose it is, if the source tells, and what it lacks. This asks for the first item of the last day.

        Raises:
            HttpError: The source does not accept it.
        """
        now = account.opened_at
        problems: tuple[str, ...] = ()
        try:
            next(iter(self.list_items(account, Window(now - timedelta(days=1), now), http)), None)
        except HttpError as error:
            if error.status == 401 or "scope" not in str(error).lower():
                raise
            problems = (str(error),)  # the provider names the scope that is missing
        email = None
        if self.identity is not None:
            with suppress(ItemError):  # it may need a scope of its own, which nothing else does
                email = get_text(http.get_json(self.identity[0]), self.identity[1])
        return Access(email, problems)

    def limit_ends_at(self, response: httpx.Response) -> datetime | None:
        """Say of a refusal that is no 429 whether it is the source's rate limit, and when that ends (aware)."""
        return None

    def check_options(self, options: JsonObject) -> JsonObject:
        """Check what a run was told beyond its accounts, and return it completed.

        Where accounts name `addresses` this accepts a list of others for this run only.

        Raises:
            ConfigurationError: An option is unknown or has a wrong value.
        """
        addresses = options.pop("addresses", []) if self.addresses else []
        if options:
            raise ConfigurationError(f"{self.title} knows no option {', '.join(sorted(options))}.")
        if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
            raise ConfigurationError(f"The option 'addresses' of {self.title} is a list of {self.addresses}.")
        for address in addresses:
            self.check_address(address)
        return {"addresses": addresses} if addresses else {}

    def check_address(self, address: str) -> None:
        """Check the form of one of `addresses`.

        Raises:
            ConfigurationError: It names nothing that can be imported.
        """
        return

    def for_command(self) -> Connector:
        """Return the connector as a command uses it, which may read whatever the user who runs it may read."""
        return self

    def options_for_retry(self, items: Mapping[str, str | None]) -> JsonObject:
        """Return the options of a run that lists at least these items (key in the ledger → location) again."""
        return {}

    @property
    def dagster_name(self) -> str:
        """What Dagster calls the source: `import_<this>` is its job."""
        return self.source_app.replace("-", "_")

    @property
    def job_name(self) -> str:
        """Name of the Dagster job."""
        return f"import_{self.dagster_name}"


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
        if module_info.name.startswith("_"):  # a part of a connector, which loads it when it is needed
            continue
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
