"""The harness of the conformance suite: what a fixture of a source says, and a world in which sources are synced.

A world runs the plain functions of the stages on a real Postgres, with everything that passes between two stages
written to files and read again; that takes a fraction of a Dagster run. How to write a fixture is in `README.md`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
import tenants
from fakes import Call, Provider, RequestRecord, make_calls
from fakes.server import Request, Response
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool
from upath import UPath

from import_pipeline.connectors.base import Connector, discover_connectors
from import_pipeline.database.tenancy import database_time
from import_pipeline.errors import ImportPipelineError, SourceUnavailableError, class_of, describe_bug, describe_problem
from import_pipeline.library.accounts import ensure_account
from import_pipeline.library.clients import Storage, open_client
from import_pipeline.library.leases import LeaseKeeper
from import_pipeline.library.sync_jobs import close_broken_run
from import_pipeline.providers.credentials import store_credential
from import_pipeline.providers.http import HttpClient
from import_pipeline.providers.keys import Secrets, open_key_ring
from import_pipeline.providers.source_settings import setting_name
from import_pipeline.records import (
    Account,
    AccountSummary,
    Batch,
    BatchSummary,
    Counts,
    JsonObject,
    ListedItem,
    Listing,
    Outcome,
    Stream,
    Window,
)
from import_pipeline.stages.connect import open_accounts
from import_pipeline.stages.dedup import leave_out_known
from import_pipeline.stages.fetch import BATCH_SIZE
from import_pipeline.stages.insert import cut_chunks, write_outcomes
from import_pipeline.stages.listing import list_items
from import_pipeline.stages.report import close_accounts
from import_pipeline.stages.staging import _read_lines, read_output, write_output
from import_pipeline.stages.transform import transform_items

SECRET_KEY = "Zm9yIHRlc3RzIG9ubHksIDMyIGJ5dGVzIGxvbmcgISE="
TURN = re.compile(r"\[(\d\d):(\d\d):(\d\d)\] (?:([^:\n]{1,60}): )?(.*)", re.DOTALL)


# --- what a fixture says ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """The record that a call must become.

    Attributes:
        title: Its title; white space does not count.
        started_at: When it began.
        seconds: How long it was; None where the source does not tell.
        said: What was said, in order; of texts only letters and digits count.
        starts: Seconds at which somebody begins to speak; None where the source has no times.
        speakers: Who may speak; None where the source does not tell.
    """

    title: str
    started_at: datetime
    seconds: float | None
    said: Sequence[str]
    starts: Sequence[float] | None
    speakers: frozenset[str | None] | None

    @classmethod
    def of(cls, call: Call, **changes: Any) -> Expected:
        """Return what a made-up call is, with what a source tells otherwise."""
        usual = cls(
            title=call.title,
            started_at=call.started_at,
            seconds=call.seconds,
            said=[segment.text for segment in call.segments],
            starts=[segment.start for segment in call.segments],
            speakers=frozenset(person.name for person in call.people),
        )
        return replace(usual, **changes)

    @classmethod
    def of_webvtt(cls, call: Call, **changes: Any) -> Expected:
        """Return the same for a WebVTT file: there nobody can tell what ends with a colon from a speaker's name."""
        usual, phrase = cls.of(call, **changes), "Let me repeat"
        speakers: frozenset[str | None] = frozenset(person.name for person in call.people) | {phrase}
        if not call.guests:  # who talks to nobody is named once, at the beginning
            speakers |= {None}
        return replace(usual, speakers=speakers, said=[text.removeprefix(f"{phrase}: ") for text in usual.said])


class Source:
    """The fixture of a source: how the suite starts it and what it must deliver.

    `tests/connectors/sources/<source>.py` defines one subclass named `Fixture`. This class holds for sources without a
    server; `RestSource` is for the others.
    """

    kinds: ClassVar[Sequence[str | None]] = (None,)
    """Kinds of credentials to test with, the usual one first; None stands for none."""

    def start(self, kind: str | None, calls: Sequence[Call], folder: Path, **switches: Any) -> Any:
        """Return the source with these calls; it has `calls`, `add`, `remove`, `external_id` as `Provider` has."""
        raise NotImplementedError

    def expect(self, server: Any, call: Call) -> Expected:
        """Return the record that a call must become."""
        return Expected.of(call)

    def account_options(self, server: Any) -> JsonObject:
        """Return what is kept with the credential, such as addresses."""
        return {}

    def run_options(self, server: Any) -> JsonObject:
        """Return what each run is told."""
        return {}

    def spoil(self, server: Any, call: Call) -> None:
        """Make the content of one call something that can never be imported."""
        raise NotImplementedError


class RestSource(Source):
    """The fixture of a source that is asked over HTTP, by a fake on `fakes.Provider`.

    Patterns are regular expressions, searched in the raw path with query.
    """

    server: ClassVar[type[Provider]]
    """The fake."""
    listing: ClassVar[str]
    """Pattern of the requests that list; all others but those for tokens count as content."""
    list_field: ClassVar[str]
    """Field of such an answer that holds the calls."""
    id_path: ClassVar[str]
    """Dotted path of the id in one of them."""
    page_parameter: ClassVar[str]
    """Query parameter that asks for a later page."""
    page_size_parameter: ClassVar[str | None] = None
    """Query parameter for the size of a page; None: the fake has a field `page_size`."""
    bounds: ClassVar[tuple[str, str] | None] = None
    """Query parameters with the two ends of a window; None where a listing cannot be asked for one."""
    listed_by: ClassVar[str] = "started_at"
    """Field of a made-up call that a window is about."""
    clamps: ClassVar[JsonObject] = {}
    """Switches of the fake under which it cuts windows that are too long."""
    expires: ClassVar[JsonObject] = {}
    """Switches of the fake under which the links of a listing have run out when they are followed."""
    blocks: ClassVar[JsonObject] = {}
    """Switches of the fake under which it refuses all content in a way that could be taken for its absence."""
    fields: ClassVar[Sequence[str]]
    """Dotted paths of fields whose type may change, of listed calls and of their content."""
    oddities: ClassVar[frozenset[str]] = frozenset({"data", "permanent"})
    """Classes of the failure of a call with a field of another type; `permanent`, if the odd value is asked for."""
    refusals: ClassVar[dict[int, set[str]]] = {403: {"auth"}, 404: {"permanent", "waiting"}}
    """Status of a refused request for content → class of the failure, or `waiting`."""

    def switches(self, kind: str | None) -> JsonObject:
        """Return the switches with which the fake accepts only this kind of credentials."""
        return {"auth": kind}

    def start(self, kind: str | None, calls: Sequence[Call], folder: Path, **switches: Any) -> Provider:
        """See `Source`."""
        return self.server(calls=calls, **self.switches(kind), **switches).start()  # type: ignore[call-arg]

    def secrets(self, server: Any, kind: str) -> dict[str, Any]:
        """Return the fields of a credential that is good for an hour; each call is another consent."""
        given = server.credentials
        if kind == "api-key":
            return {"api_key": given["api key"]}
        app = {"client_id": given["client id"], "client_secret": given["client secret"]}
        if kind == "server-to-server":
            return app | {"account_id": given["account id"]}
        tokens = server.oauth.issue()
        fresh = {"access_token": tokens.access_token, "expires_at": time.time() + 3600, "lifetime": 3600.0}
        return app | {"refresh_token": tokens.refresh_token} | fresh

    def revoke(self, server: Any, kind: str) -> None:
        """Let the source no longer accept any credential."""
        if kind == "api-key":
            server.api_keys = type(server.api_keys)()
            return
        server.oauth.revoke()
        if kind == "server-to-server":
            server.oauth.client_secret = "another secret"

    def take_scope(self, server: Any, kind: str) -> bool:
        """Let the credential lack a permission; False where the source knows none."""
        return False

    def content(self, server: Any, call: Call) -> str:
        """Return the pattern of the requests for the content of one call."""
        return f"/{re.escape(server.external_id(call))}"

    def refuse(self, server: Any, call: Call, fault: str) -> None:
        """Answer every request for the content of one call with a fault, and no request for another call's."""
        server.faults.always[self.content(server, call)] = fault

    def allow(self, server: Any, call: Call) -> None:
        """Undo `refuse`."""
        server.faults.always.clear()

    def hold_back(self, server: Any, call: Call) -> None:
        """Let there be no transcript of a call yet."""
        call.transcript_ready_at = datetime.now(UTC) + timedelta(days=365)

    def hand_over(self, server: Any, call: Call) -> None:
        """Let there be one."""
        call.transcript_ready_at = None

    def requests(self, kind: str, calls: int) -> tuple[int, int]:
        """Return how many requests it takes at most to list so many calls of three weeks, and to import them."""
        raise NotImplementedError

    # What follows from the above.

    def is_listing(self, request: RequestRecord) -> bool:
        """Say whether a request lists."""
        return re.search(self.listing, request.target) is not None

    def is_content(self, request: RequestRecord) -> bool:
        """Say whether a request is for content."""
        return not self.is_listing(request) and request.kind not in ("token", "authorize")

    @property
    def later_pages(self) -> str:
        """Pattern of the requests for a page that is not a first one."""
        return rf"^(?=.*(?:{self.listing})).*[?&]{self.page_parameter}=[^&]"

    def cut_pages(self, server: Any, size: int) -> None:
        """Let the source give so many calls on a page at most, whatever it is asked for."""
        if self.page_size_parameter is None:
            server.page_size = size
            return
        pattern = re.compile(rf"([?&]{self.page_size_parameter}=)\d+")

        def cut(request: Request) -> None:
            request.target = pattern.sub(rf"\g<1>{size}", request.target)

        before_answering(server, cut)


@dataclass(frozen=True)
class Target:
    """A connector with one kind of credentials, for tests to be parametrised with."""

    connector: Connector
    source: Any
    kind: str | None

    def __str__(self) -> str:
        return self.connector.source_app + (f"-by-{self.kind}" if len(self.source.kinds) > 1 else "")


def find_fixture(source_app: str) -> Source | None:
    """Return the fixture of a source, found by its name, or None if there is none."""
    name = f"connectors.sources.{source_app.replace('-', '_')}"
    if importlib.util.find_spec(name) is None:
        return None
    fixture: Source = importlib.import_module(name).Fixture()
    return fixture


CONNECTORS = [connector.for_command() for connector in discover_connectors().values()]
FIXTURES = {each.source_app: find_fixture(each.source_app) for each in CONNECTORS}
TARGETS = [
    Target(connector, fixture, kind)
    for connector in CONNECTORS
    if (fixture := FIXTURES[connector.source_app]) is not None
    for kind in fixture.kinds
]
REST = [target for target in TARGETS if isinstance(target.source, RestSource)]


def usual(targets: Sequence[Target]) -> list[Target]:
    """Leave out all but the usual kind of credentials: for what cannot depend on it."""
    return [target for target in targets if target.kind == target.source.kinds[0]]


# --- steering a fake ----------------------------------------------------------------------------------------------


def before_answering(server: Any, act: Callable[[Request], Any]) -> None:
    """Do something with each request before it is answered; a `Response` that it returns is the answer."""
    answer = server.answer

    def acting(request: Request, marked: Any, match: Any) -> Response:
        response = act(request)
        return response if isinstance(response, Response) else answer(request, marked, match)

    server.answer = acting


def edit_listing(server: Any, source: RestSource, edit: Callable[[list[Any]], Any]) -> None:
    """Change the list in every answer that lists."""
    answer = server.answer

    def editing(request: Request, marked: Any, match: Any) -> Response:
        response: Response = answer(request, marked, match)
        if response.status == 200 and re.search(source.listing, request.target):
            document = json.loads(response.body)
            if source.list_field in document:
                document[source.list_field] = edit(document[source.list_field])
                response.body = json.dumps(document).encode()
        return response

    server.answer = editing


def recent_calls(number: int, days: float = 12, seed: int = 1) -> list[Call]:
    """Make calls of the last days, newest first."""
    return make_calls(number, months=days / 30.44, seed=seed)


# --- the world ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subscriber:
    """A user with an account at a source."""

    target: Target
    server: Any
    user: tenants.User
    account_id: UUID
    secrets: dict[str, Any]


@dataclass
class Synced:
    """What one sync did.

    Attributes:
        account: Its summary; None when the source was down in the middle.
        items: What was listed.
        outcomes: What became of what needed work.
        broken: Why a batch broke off.
        requests: What was asked of the server.
    """

    account: AccountSummary | None = None
    items: list[ListedItem] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    broken: str | None = None
    requests: list[RequestRecord] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        assert self.account is not None, self.broken
        return self.account.counts

    @property
    def problem(self) -> str | None:
        assert self.account is not None, self.broken
        return self.account.problem


class World:
    """A database in which users sync sources; each test has users of its own."""

    def __init__(self, url: str, pool: ConnectionPool[Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = url
        self.pool = pool
        self.folder = folder
        self.storage = Storage(pool.connection, is_embedded=False)
        self._monkeypatch = monkeypatch
        self._stack = ExitStack()
        self._users = 0

    def close(self) -> None:
        """Stop all servers."""
        self._stack.close()

    def set(self, connector: Connector, **settings: str) -> None:
        """Set variables of a source."""
        for name, value in settings.items():
            self._monkeypatch.setenv(setting_name(connector.source_app, name), value)

    def start(
        self,
        target: Target,
        calls: int | Sequence[Call] = 12,
        *,
        page_size: int | None = None,
        history: timedelta = timedelta(days=20),
        **switches: Any,
    ) -> Any:
        """Start a source with calls of the last days and point the importer to it; no rate limits, short history."""
        made = recent_calls(calls) if isinstance(calls, int) else list(calls)
        server = target.source.start(target.kind, made, self.folder / f"source-{uuid4().hex[:6]}", **switches)
        self._stack.callback(server.close)
        if page_size is not None:
            target.source.cut_pages(server, page_size)
        for name, value in getattr(server, "environment", {}).items():
            self._monkeypatch.setenv(name, value)
        start = (datetime.now(UTC) - history).isoformat()
        self.set(target.connector, RATE_LIMITS="none", HISTORY_START=start)
        return server

    def connect(self, target: Target, server: Any, **fields: Any) -> Subscriber:
        """Make a user with an account at the source; `fields` replace those of the credential."""
        self._users += 1
        connector, source = target.connector, target.source
        with self.pool.connection() as conn:
            user = tenants.make_user(conn, f"user-{uuid4().hex[:10]}@example.com")
            account_id = ensure_account(conn, user.id, connector.source_app, user.email)
            secrets: dict[str, Any] = {}
            if target.kind is not None:
                secrets = source.secrets(server, target.kind) | fields
                ring = open_key_ring(is_embedded=False)
                options = source.account_options(server)
                store_credential(conn, ring, account_id, user.id, Secrets(target.kind, secrets), options)
        return Subscriber(target, server, user, account_id, secrets)

    def open(self, subscriber: Subscriber, run_id: str | None = None) -> Account:
        """Open the account for a run."""
        target = subscriber.target
        options = target.source.run_options(subscriber.server)
        leases = LeaseKeeper(self.storage.connect, run_id or str(uuid4()), "live", lambda _: True)
        users = [str(subscriber.user.id)]
        (account,) = open_accounts(target.connector, self.storage, users, options, leases, wait_seconds=0)
        return account

    def client(self, subscriber: Subscriber, account: Account) -> HttpClient:
        """Return a client of the account."""
        return open_client(subscriber.target.connector, account, self.storage)

    def sync(
        self,
        subscriber: Subscriber,
        *,
        month: Window | None = None,
        at: datetime | None = None,
        between: Callable[[], Any] = lambda: None,
    ) -> Synced:
        """Run the stages for an account.

        Args:
            subscriber: Whose.
            month: The partition.
            at: When the account is opened.
            between: Done after everything was listed and before anything is fetched.
        """
        target, run_id, synced = subscriber.target, str(uuid4()), Synced()
        asked_before = len(getattr(subscriber.server, "requests", ()))
        account = self.open(subscriber, run_id)
        if at is not None:
            account = replace(account, opened_at=at)
        summaries: list[BatchSummary] = []
        if account.problem:
            problem, problem_class = account.problem, account.problem_class
            listing = Listing(account, 0, complete=False, problem=problem, error_class=problem_class)
        else:
            listing = self._list(subscriber, account, month, synced)
            between()
            for number in range(0, len(synced.items), BATCH_SIZE):
                try:
                    batch = synced.items[number : number + BATCH_SIZE]
                    summaries.append(self._work_on(subscriber, account, run_id, number, batch, synced))
                except SourceUnavailableError as error:
                    synced.broken = str(error)
        with self.pool.connection() as conn:
            if synced.broken is not None:
                close_broken_run(conn, account, run_id)
            else:
                moves = month is None
                source_app = target.connector.source_app
                summary = close_accounts(conn, source_app, run_id, [listing], summaries, moves_cursor=moves)
                (synced.account,) = summary.accounts
        synced.requests = list(getattr(subscriber.server, "requests", ()))[asked_before:]
        return synced

    def _list(self, subscriber: Subscriber, account: Account, month: Window | None, synced: Synced) -> Listing:
        with self.client(subscriber, account) as http:
            try:
                for item in list_items(subscriber.target.connector, account, http, month):
                    synced.items.append(item)
            except ImportPipelineError as error:
                problem = describe_problem(error)
                return Listing(account, len(synced.items), False, problem, class_of(error))
            except Exception as error:  # noqa: BLE001 - as in the stage
                return Listing(account, len(synced.items), False, describe_bug(error), "bug")
        return Listing(account, len(synced.items), complete=True)

    def _work_on(
        self,
        subscriber: Subscriber,
        account: Account,
        run_id: str,
        number: int,
        batch: list[ListedItem],
        synced: Synced,
    ) -> BatchSummary:
        connector = subscriber.target.connector
        listed = list(self._stage(run_id, f"fetch_{number}", account, batch))
        with self.pool.connection() as conn:
            now = database_time(conn)
            always = not connector.is_polled
            counts, remaining = leave_out_known(conn, account, listed, always_attempt=always)
        new = self._stage(run_id, f"dedup_{number}", account, remaining)
        with self.client(subscriber, account) as http:
            made = transform_items(connector, account, new, http, now)
            outcomes = list(self._stage(run_id, f"transform_{number}", account, made))
        synced.outcomes += outcomes
        with self.pool.connection() as conn:
            for chunk in cut_chunks(outcomes):
                written, _ = write_outcomes(conn, account, run_id, chunk)
                counts += written
        return BatchSummary(account.id, number, counts)

    def _stage(self, run_id: str, step: str, account: Account, items: Any) -> Iterator[Any]:
        """Write items as an op's output and read them again as the next one's input."""
        path = UPath(self.folder / "staging" / run_id / step / "result.sealed")
        write_output(path, Stream(Batch(account, 0), iter(items)))
        yield from read_output(path).items

    # What is there afterwards

    def rows(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        with self.pool.connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement, parameters).fetchall()

    def recordings(self, subscriber: Subscriber) -> dict[str, dict[str, Any]]:
        """External id → row."""
        found = self.rows("select * from recordings where owner_user_id = %s", subscriber.user.id)
        return {row["source_metadata"]["external_id"]: row for row in found}

    def ledger(self, subscriber: Subscriber) -> dict[str, dict[str, Any]]:
        """Key → row."""
        found = self.rows("select * from import_items where user_id = %s", subscriber.user.id)
        return {row["external_id"]: row for row in found}

    def statuses(self, subscriber: Subscriber) -> dict[str, str]:
        """Key → status, with the class of what failed."""
        return {
            key: "/".join(filter(None, (row["status"], row["error_class"])))
            for key, row in self.ledger(subscriber).items()
        }

    def cursor(self, subscriber: Subscriber) -> datetime | None:
        (row,) = self.rows("select last_sync_at from import_sources where id = %s", subscriber.account_id)
        found: datetime | None = row["last_sync_at"]
        return found

    def due_now(self, subscriber: Subscriber) -> None:
        """Let every pause be over."""
        statement = "update import_items set retry_at = now() - interval '1 second' where user_id = %s"
        with self.pool.connection() as conn:
            conn.execute(statement + " and retry_at is not null", (subscriber.user.id,))

    def stored_secrets(self, subscriber: Subscriber) -> dict[str, Any]:
        """Return the credential as it is kept now."""
        statement = "select secret from import_pipeline.credentials where account_id = %s"
        (row,) = self.rows(statement, subscriber.account_id)
        return open_key_ring(is_embedded=False).decrypt(subscriber.account_id, row["secret"]).fields

    def staged_text(self) -> str:
        """Return all that was staged so far."""
        texts = []
        for path in (self.folder / "staging").rglob("*.sealed"):
            texts += [line.decode() for line in _read_lines(UPath(path))]
        return "\n".join(texts)


# --- checks -------------------------------------------------------------------------------------------------------


def squeeze(text: str) -> str:
    """Return the letters and digits of a text: punctuation and case differ between kinds of captions."""
    return re.sub(r"[\W_]+", "", text).casefold()


def check_recording(row: dict[str, Any], expected: Expected) -> None:
    """Check that a row of `recordings` is the record that was expected."""
    assert row["title"].split() == expected.title.split()
    assert row["recording_start_time"] == expected.started_at
    assert (row["duration"] is None) == (expected.seconds is None)
    assert abs((row["duration"] or 0) - (expected.seconds or 0)) <= 1
    spoken = []
    for turn in row["full_transcript"].split("\n\n"):
        match = TURN.fullmatch(turn)
        assert match, f"This is no turn: {turn[:80]!r}"
        hours, minutes, seconds, speaker, text = match.groups()
        if expected.starts is not None:
            start = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
            assert any(abs(start - each) < 2 for each in expected.starts), f"Nobody begins to speak at {start} s."
        if expected.speakers is None:
            text = f"{speaker or ''} {text}"
        else:
            assert speaker in expected.speakers
        assert text.strip()
        spoken.append(text)
    transcript, position = squeeze(" ".join(spoken)), 0
    for text in expected.said:
        position = transcript.find(squeeze(text), position)
        assert position >= 0, f"{text!r} is missing, or not in its place."
        position += len(squeeze(text))
    assert len(transcript) <= 1.1 * sum(len(squeeze(text)) for text in expected.said) + 20, "There is too much in it."


def check_library(world: World, subscriber: Subscriber, calls: Sequence[Call] | None = None) -> None:
    """Check that a user's library holds exactly these calls (by default all of the source), each as it was."""
    source, server = subscriber.target.source, subscriber.server
    found = world.recordings(subscriber)
    wanted = {server.external_id(call): call for call in (server.calls if calls is None else calls)}
    assert found.keys() == wanted.keys()
    for external_id, call in wanted.items():
        check_recording(found[external_id], source.expect(server, call))
