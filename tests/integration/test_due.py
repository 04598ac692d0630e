"""Which accounts are due, asking for runs of them, and what the end of a run changes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import tenants

from import_pipeline.errors import ConfigurationError, ErrorClass
from import_pipeline.library.accounts import activate_account, ensure_account, move_cursor
from import_pipeline.library.due import DueAccount, DueCounts, Request, group_accounts, note_run_ended, request_runs
from import_pipeline.library.leases import acquire_lease, release_lease
from import_pipeline.records import Account, Listing
from import_pipeline.stages.report import close_accounts

INTERVAL = timedelta(minutes=15)


@dataclass
class World:
    """A database with accounts at one source, whose clock is turned by moving every stored time."""

    conn: psycopg.Connection[Any]

    def connect(self, number: int = 1) -> list[Account]:
        """Users with an account each."""
        found = []
        for _ in range(number):
            user = tenants.make_user(self.conn, f"{uuid4()}@example.com")
            account_id = ensure_account(self.conn, user.id, "demo", user.email)
            found.append(Account(account_id, user.id, "demo", user.email, self.now()))
        return found

    def now(self) -> datetime:
        row = self.conn.execute("select clock_timestamp()").fetchone()
        assert row is not None
        return row[0]  # type: ignore[no-any-return]

    def wait(self, span: timedelta) -> None:
        """Let time pass."""
        self.conn.execute(
            "update import_pipeline.polls set requested_at = requested_at - %(span)s,"
            " not_before = not_before - %(span)s, due_at = due_at - %(span)s",
            {"span": span},
        )
        self.conn.execute("update public.import_sources set last_sync_at = last_sync_at - %s", [span])
        self.conn.execute("update import_pipeline.leases set expires_at = expires_at - %s", [span])
        self.conn.execute("update public.import_items set retry_at = retry_at - %s", [span])

    def ask(self, *, busy: Iterable[UUID] = (), most: int = 20, slack: timedelta = timedelta(0)) -> list[Request]:
        return request_runs(self.conn, "demo", busy, most=most, slack=slack)[0]

    def counts(self, *, busy: Iterable[UUID] = ()) -> DueCounts:
        return request_runs(self.conn, "demo", busy, most=0)[1]

    def asked(self, **options: Any) -> set[UUID]:
        """The users for whom a run is asked for now."""
        return {user_id for request in self.ask(**options) for user_id in request.user_ids}

    def settle(
        self, *accounts: Account, problem: str | None = None, error_class: ErrorClass | None = "transient"
    ) -> None:
        """Let a run of these accounts end."""
        for account in accounts:
            opened = Account(account.id, account.user_id, "demo", account.label, self.now())
            if problem is None:
                move_cursor(self.conn, opened.id, opened.user_id, opened.opened_at, None)
            note_run_ended(self.conn, opened, INTERVAL, problem, error_class if problem else None)

    def add_item(self, account: Account, status: str, retry_in: timedelta, external_id: str = "call") -> None:
        self.conn.execute(
            "insert into public.import_items (user_id, source_app, external_id, status, retry_at)"
            " values (%s, 'demo', %s, %s, now() + %s)",
            [account.user_id, external_id, status, retry_in],
        )

    def polls(self) -> list[tuple[Any, ...]]:
        return self.conn.execute("select attempts, not_before - requested_at from import_pipeline.polls").fetchall()


@pytest.fixture
def world(conn: psycopg.Connection[Any]) -> World:
    conn.autocommit = True
    return World(conn)


# -- Who is due -------------------------------------------------------------------------------------------------------


def test_an_account_that_was_connected_just_now_is_due_at_once(world: World) -> None:
    (account,) = world.connect()
    assert world.asked() == {account.user_id}


def test_after_a_good_run_it_is_due_when_the_interval_has_passed_since_the_run_began(world: World) -> None:
    (account,) = world.connect()
    world.settle(account)
    world.wait(INTERVAL - timedelta(seconds=30))
    assert world.asked() == set()
    world.wait(timedelta(seconds=31))
    assert world.asked() == {account.user_id}


def test_with_slack_it_is_due_a_little_earlier_so_that_a_schedule_does_not_skip_every_other_time(world: World) -> None:
    (account,) = world.connect()
    world.settle(account)
    world.wait(INTERVAL - timedelta(seconds=30))
    assert world.asked(slack=INTERVAL / 2) == {account.user_id}
    assert world.asked(slack=INTERVAL / 2) == set(), "slack does not shorten the pause after asking"


@pytest.mark.parametrize("status", ["waiting", "failed"])
def test_an_item_that_is_to_be_tried_again_makes_its_account_due(world: World, status: str) -> None:
    account, _other = accounts = world.connect(2)
    world.settle(*accounts)
    world.add_item(account, status, timedelta(minutes=5))
    assert world.asked() == set()
    assert world.counts().next_at == pytest.approx(world.now() + timedelta(minutes=5), abs=timedelta(seconds=20))
    world.wait(timedelta(minutes=6))
    assert world.asked() == {account.user_id}


def test_an_item_that_the_last_run_did_not_see_any_more_does_not_make_its_account_due_all_the_time(
    world: World,
) -> None:
    (account,) = world.connect()
    world.add_item(account, "waiting", -timedelta(minutes=5))
    world.settle(account)
    assert world.asked() == set()
    world.wait(INTERVAL + timedelta(seconds=1))
    assert world.asked() == {account.user_id}


def test_who_is_inactive_elsewhere_in_work_or_without_a_user_is_left_out(world: World) -> None:
    inactive, elsewhere, in_work, held, gone = world.connect(5)
    execute = world.conn.execute
    execute("update public.import_sources set is_active = false where id = %s", [inactive.id])
    execute("update public.import_sources set source_app = 'other' where id = %s", [elsewhere.id])
    acquire_lease(world.conn, held.id, "run", is_run_over=lambda _: False)
    execute("alter table public.import_sources drop constraint import_sources_user_id_fkey")
    execute("delete from auth.users where id = %s", [gone.user_id])
    assert world.asked(busy=[in_work.user_id]) == set()
    counts = world.counts(busy=[in_work.user_id])
    assert (counts.accounts, counts.busy, counts.due, counts.next_at) == (2, 2, 0, None)
    world.wait(timedelta(minutes=2))  # the lease has run out, and in_work's run has ended
    assert world.asked() == {held.user_id, in_work.user_id}


def test_what_a_run_of_history_holds_is_due_all_the_same(world: World) -> None:
    (account,) = world.connect()
    acquire_lease(world.conn, account.id, "run", is_run_over=lambda _: False)
    acquire_lease(world.conn, account.id, "month", lane="history", is_run_over=lambda _: False)
    assert world.asked() == set()
    release_lease(world.conn, account.id, "run")
    assert world.asked() == {account.user_id}


def test_connecting_again_makes_an_account_due_at_once_whatever_went_wrong_before(world: World) -> None:
    (account,) = world.connect()
    world.settle(account, problem="the key was revoked", error_class="auth")
    world.wait(timedelta(hours=23))
    assert world.asked() == set()
    activate_account(world.conn, account.id, account.user_id, "demo", None, None)
    assert world.asked() == {account.user_id}


# -- Asking again -----------------------------------------------------------------------------------------------------


def test_a_run_that_never_ends_is_asked_for_again_after_pauses_that_grow_and_under_another_key(world: World) -> None:
    (account,) = world.connect()
    keys, pauses = [], []
    for attempt in range(1, 10):
        (request,) = world.ask()
        assert request.user_ids == [account.user_id]
        ((attempts, pause),) = world.polls()
        assert attempts == attempt
        keys.append(request.key)
        pauses.append(pause)
        world.wait(pause - timedelta(seconds=20))
        assert world.ask() == []
        world.wait(timedelta(seconds=21))
    assert len(set(keys)) == len(keys)
    assert pauses[:7] == [timedelta(minutes=5 * 2**n) for n in range(7)]
    assert pauses[7:] == [timedelta(hours=6)] * 2


def test_a_hundred_attempts_are_no_problem_for_the_arithmetic(world: World) -> None:
    (account,) = world.connect()
    world.ask()
    world.conn.execute("update import_pipeline.polls set attempts = 100000, not_before = now()")
    assert len(world.ask()) == 1
    world.settle(account, problem="it was down")
    assert world.conn.execute(
        "select attempts, round(extract(epoch from not_before - now()) / 3600) from import_pipeline.polls"
    ).fetchone() == (100001, 6)


def test_a_problem_postpones_by_the_same_pause_and_success_forgets_it(world: World) -> None:
    (account,) = world.connect()
    for minutes in (5, 10, 20):
        assert world.asked() == {account.user_id}
        world.settle(account, problem="it was down")
        world.wait(timedelta(minutes=minutes, seconds=-20))
        assert world.asked() == set()
        world.wait(timedelta(seconds=21))
    assert world.asked() == {account.user_id}
    world.settle(account)
    assert world.polls() == [(0, None)]


def test_a_credential_that_is_no_longer_accepted_is_tried_again_after_a_day(world: World) -> None:
    (account,) = world.connect()
    world.ask()
    world.settle(account, problem="the key was revoked", error_class="auth")
    world.wait(timedelta(hours=23, minutes=59))
    assert world.asked() == set()
    world.wait(timedelta(minutes=2))
    assert world.asked() == {account.user_id}


def test_a_run_that_found_the_account_taken_changes_nothing_because_the_other_run_will_tell(world: World) -> None:
    (account,) = world.connect()
    world.ask()
    before = world.polls()
    world.settle(account, problem="run 1 is working on this account", error_class=None)
    assert world.polls() == before


def test_the_end_of_a_run_of_history_says_nothing_about_when_to_look_for_something_new(world: World) -> None:
    (account,) = world.connect()
    listing = Listing(account, 0, complete=False, problem="The source is down.", error_class="transient")
    close_accounts(world.conn, "demo", "run", [listing], [], moves_cursor=False, polling_interval=INTERVAL)
    assert world.polls() == []
    close_accounts(world.conn, "demo", "run", [listing], [], polling_interval=INTERVAL)
    assert world.polls() == [(1, None)]


def test_an_account_that_was_deleted_meanwhile_harms_nobody(world: World) -> None:
    (account,) = world.connect()
    world.conn.execute("delete from public.import_sources")
    world.settle(account)
    world.settle(account, problem="it was down")
    assert world.polls() == []


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_a_day_is_24_hours_whatever_the_clocks_of_the_database_do_f68(world: World, zone: str) -> None:
    (account,) = world.connect()
    world.conn.execute("select set_config('timezone', %s, false)", [zone])
    for day in ("2026-03-07", "2026-03-28", "2026-04-04", "2026-10-03", "2026-10-24", "2026-10-31"):
        opened_at = datetime.fromisoformat(f"{day}T12:00:00+00:00")
        opened = Account(account.id, account.user_id, "demo", "ana", opened_at)
        note_run_ended(world.conn, opened, timedelta(days=1), None, None)
        row = world.conn.execute("select due_at from import_pipeline.polls").fetchone()
        assert row is not None
        assert row[0].astimezone(UTC) - opened_at == timedelta(hours=24)


# -- Groups, order, fairness ------------------------------------------------------------------------------------------


def due(number: int, attempts: int = 0, *, is_unanswered: bool = False) -> list[DueAccount]:
    return [DueAccount(uuid4(), uuid4(), attempts, is_unanswered) for _ in range(number)]


def test_accounts_that_had_a_problem_stay_among_themselves(world: World) -> None:
    good, bad = due(9), due(3, 2)
    groups = group_accounts([*good[:5], *bad, *good[5:]], 10)
    assert groups == [good, bad]


def test_accounts_that_were_never_imported_stay_among_themselves_because_their_histories_take_long(
    world: World,
) -> None:
    new, known = world.connect(3), world.connect(2)
    for account in known:
        world.conn.execute("update public.import_sources set last_sync_at = now() where id = %s", [account.id])
    first, second = sorted(world.ask(), key=lambda request: not request.is_first)
    assert set(first.user_ids) == {account.user_id for account in new}
    assert set(second.user_ids) == {account.user_id for account in known}
    assert first.is_first
    assert not second.is_first


def test_the_account_that_breaks_every_run_is_alone_after_three_of_them(world: World) -> None:
    for attempts, largest in ((1, 5), (2, 2), (3, 1), (40, 1)):
        groups = group_accounts(due(10, attempts, is_unanswered=True), 10)
        assert max(len(group) for group in groups) == largest
    assert [len(group) for group in group_accounts(due(25), 10)] == [10, 10, 5]


def test_the_number_of_accounts_in_a_run_is_a_setting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.connect(7)
    monkeypatch.setenv("IMPORT_PIPELINE_ACCOUNTS_PER_RUN", "3")
    assert sorted(len(request.user_ids) for request in world.ask()) == [1, 3, 3]
    monkeypatch.setenv("IMPORT_PIPELINE_ACCOUNTS_PER_RUN", "0")
    with pytest.raises(ConfigurationError, match="ACCOUNTS_PER_RUN must be a number from 1"):
        world.ask()


def test_every_account_is_served_once_before_any_is_served_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its runs go well, have a problem or break off."""
    monkeypatch.setenv("IMPORT_PIPELINE_ACCOUNTS_PER_RUN", "4")
    accounts = {account.user_id: account for account in world.connect(60)}
    served: Counter[UUID] = Counter()
    rounds = 0
    while min((served[user_id] for user_id in accounts), default=0) < 3:
        rounds += 1
        assert rounds < 200
        before = dict(served)
        asked = [user_id for request in world.ask(most=3) for user_id in request.user_ids]
        served.update(asked)
        for user_id in asked:
            kind = list(accounts).index(user_id) % 3
            assert before.get(user_id, 0) == 0 or min(served[each] for each in accounts) > 0
            if kind == 0:
                world.settle(accounts[user_id])
            elif kind == 1:
                world.settle(accounts[user_id], problem="it was down")
        if not asked:
            world.wait(timedelta(minutes=1))
    assert max(served.values()) < 30


def test_two_that_ask_at_once_ask_for_different_accounts(world: World, database_url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    accounts = world.connect(40)

    def ask(_: int) -> list[UUID]:
        with psycopg.connect(database_url, autocommit=True) as conn:
            return [user_id for request in request_runs(conn, "demo", (), most=1)[0] for user_id in request.user_ids]

    with ThreadPoolExecutor(4) as pool:
        asked = [user_id for group in pool.map(ask, range(4)) for user_id in group]
    assert sorted(asked) == sorted(account.user_id for account in accounts)


@pytest.mark.long
def test_a_hundred_thousand_due_accounts_are_asked_for_without_statistics_f57(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    execute = world.conn.execute
    for table in ("auth.users", "public.import_sources", "public.import_items", "import_pipeline.polls"):
        execute(f"alter table {table} set (autovacuum_enabled = false)")
    execute(
        "insert into auth.users (id, email)"
        " select gen_random_uuid(), n || '@example.com' from generate_series(1, 100000) as n"
    )
    execute("insert into public.import_sources (user_id, source_app) select id, 'demo' from auth.users")
    execute(
        "insert into public.import_items (user_id, source_app, external_id, status, retry_at)"
        " select id, 'demo', 'call', 'waiting', now() - interval '1 minute' from auth.users"
    )
    states = {
        "all new": "select",
        "all due": "insert into import_pipeline.polls (account_id, due_at)"
        " select id, now() - interval '1 h' from public.import_sources"
        " on conflict (account_id) do update set due_at = excluded.due_at, not_before = null;"
        " update public.import_sources set last_sync_at = now() - interval '2 h'",
        "all with a due item": "update import_pipeline.polls set due_at = now() + interval '1 h', not_before = null",
        "nobody due": "update public.import_sources set last_sync_at = now();"
        " update import_pipeline.polls set not_before = null",
    }
    for state, changes in states.items():
        execute(changes)
        began = time.perf_counter()
        requests, counts = request_runs(world.conn, "demo", [uuid4() for _ in range(250)], most=20)
        with capsys.disabled():
            print(f"\n{state}: asked for {len(requests)} runs in {time.perf_counter() - began:.2f} s")  # noqa: T201
        assert len(requests) == (0 if state == "nobody due" else 20)
        assert counts.accounts == 100000
