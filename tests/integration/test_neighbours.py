"""What a user does to rows that are his harms his own imports at most: odd values in them, and locks on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import tenants
from connectors.demo import START, Demo
from world import World, calls, problem_of, summary_of

from import_pipeline import ConnectorRecord
from import_pipeline.connectors.base import get_connector
from import_pipeline.database.tenancy import acting_as
from import_pipeline.definitions import build_defs
from import_pipeline.defs.assets.figures import read_health, read_months
from import_pipeline.defs.sensors import build_source_sensor
from import_pipeline.defs.sensors.watch_drop_folder import ask_for_files
from import_pipeline.library.accounts import ensure_account, find_accounts
from import_pipeline.library.ledger import summarise_accounts
from import_pipeline.pipeline import insert_recordings
from import_pipeline.stages.postgres import PostgresResource

# -- Odd values -------------------------------------------------------------------------------------------------------

ODD_TIMES = (
    *("infinity", "-infinity", "294276-12-31 23:59:59+00", "10000-01-01 00:00:00+00", "9999-12-31 23:59:59+00"),
    *("4713-01-01 00:00:00+00 BC", "0001-12-31 00:00:00+00 BC", "0001-01-01 00:00:00+00", "2999-01-01 00:00:00+00"),
)
ODD_JOB = """
insert into public.sync_jobs (
    user_id, status, started_at, created_at, updated_at, completed_at, error,
    progress_current, progress_total, skipped_count, metadata
)
select
    user_id, %(status)s, %(time)s, %(time)s, %(time)s, %(time)s, repeat('x', 100000),
    2147483647, 2147483647, 2147483647,
    jsonb_build_object('account_id', id, 'run_id', %(run_id)s::text, 'without_vault_entry', 'many', 'counts', 'none')
from public.import_sources
where user_id = %(user)s
"""


@pytest.fixture
def odd(world: World) -> list[tenants.User]:
    """Ana, with an account like any other, and users who have set every time of theirs to something odd."""
    users = [world.account("ana@example.com")]
    for number, time in enumerate(ODD_TIMES):
        user = world.account(f"odd{number}@example.com")
        with tenants.as_user(world.conn, user.id):
            changed = world.conn.execute(
                "update public.import_sources set last_sync_at = %(t)s, created_at = %(t)s, updated_at = %(t)s,"
                " account_email = repeat('x', 100000), error_message = repeat('x', 100000)",
                {"t": time},
            )
            assert changed.rowcount == 1, "it is his to change"
        # On an installation of the owner's users may write these rows, too.
        world.conn.execute(ODD_JOB, {"status": "failed", "time": time, "run_id": "x", "user": user.id})
        users.append(user)
    return users


def test_a_run_imports_for_everybody_whatever_one_of_them_wrote_into_his_account(
    world: World, odd: list[tenants.User]
) -> None:
    run = world.run(Demo(calls(2)))
    assert run.success
    assert summary_of(run).counts.inserted == 2 * len(odd)
    for user in odd:
        ((is_right,),) = world.rows(
            "select last_sync_at between now() - interval '1 hour' and now() from import_sources where user_id = %s",
            user.id,
        )
        assert is_right, "and the next run goes on from where this one was"


def test_a_cursor_that_cannot_be_is_none_and_its_account_comes_neither_first_for_ever_nor_never(
    world: World, odd: list[tenants.User]
) -> None:
    found = find_accounts(world.conn, "demo", None)
    assert {account.user_id for account in found} == {user.id for user in odd}
    assert {account.last_sync_at for account in found} == {None}
    world.do("update import_sources set last_sync_at = now() - interval '1 minute' where user_id = %s", odd[0].id)
    (cursor,) = {account.last_sync_at for account in find_accounts(world.conn, "demo", [odd[0].id])}
    assert cursor == world.cursor(odd[0])
    asked = [user for request in request_all(world) for user in users_of(request)]
    assert sorted(asked) == sorted(str(user.id) for user in odd), "each is asked for, and once"
    assert isinstance(tick(world), str), "and then nobody any more, however his row looks"


@pytest.mark.long
def test_a_backfill_a_tick_and_the_pages_about_everybody_work_whatever_one_of_them_wrote(
    world: World, odd: list[tenants.User]
) -> None:
    assert world.run(Demo(calls(1)), month="2024-03-01").success
    assert len(users_of(request_all(world)[0])) > 0
    health = read_health(world.conn, 100)
    assert len(health.accounts) == len(odd)
    assert max(len(str(value)) for account in health.accounts for value in account.values()) <= 2000
    for user in odd[1:]:
        (account,) = summarise(world, user)
        assert account["last_run_at"] is None or account["last_run_at"].year < 9000
    defs = build_defs(connectors={"demo": Demo()}, postgres=PostgresResource(url=world.url))
    assert defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=world.instance, asset_selection=[dg.AssetKey("import_counts"), dg.AssetKey("import_health")]
    ).success  # fmt: skip


def test_odd_times_of_recordings_are_counted_as_unknown(world: World) -> None:
    ana = world.account("ana@example.com")
    record = ConnectorRecord("1", "demo", "Weekly", "[00:00:01] Ana: Hello.", START)
    for time in ODD_TIMES:
        record = ConnectorRecord(time, "demo", "Weekly", "[00:00:01] Ana: Hello.", START)
        (result,) = insert_recordings(world.conn, ana.id, [record])
        with tenants.as_user(world.conn, ana.id):
            world.conn.execute(
                "update recordings set recording_start_time = %s, created_at = %s where id = %s",
                [time, time, result.recording_id],
            )
    frame, others = read_months(world.conn, START - timedelta(days=40))
    assert (len(frame), others) == (0, len(ODD_TIMES))


def test_rows_that_a_user_forged_keep_no_broken_run_of_others_open(world: World) -> None:
    ana, eva = world.account("ana@example.com"), world.account("eva@example.com")
    for number in range(30):
        values = {"status": "processing", "time": "-infinity", "run_id": f"forged {number}", "user": eva.id}
        world.conn.execute(ODD_JOB, values)
    world.do(
        "insert into sync_jobs (user_id, status, updated_at, metadata) select user_id, 'processing',"
        " now() - interval '1 hour', jsonb_build_object('account_id', id, 'run_id', 'broken')"
        " from import_sources where user_id = %s",
        ana.id,
    )
    with acting_as(world.conn, None):
        first = world.conn.execute("select user_id from import_pipeline.silent_sync_jobs(2)").fetchall()
    assert {user for (user,) in first} == {ana.id, eva.id}, "each user's in turn"
    with locked(world, "sync_jobs", eva):
        assert "broken" in world.settle()
    statuses = "select distinct status from sync_jobs where user_id = %s"
    assert world.rows(statuses, ana.id) == [("failed",)]
    assert world.rows(statuses, eva.id) == [("processing",)]
    assert len(world.settle()) == 30, "and then his own are closed, whatever numbers stand in them"


# -- Locks ------------------------------------------------------------------------------------------------------------


@contextmanager
def locked(world: World, table: str, user: tenants.User) -> Iterator[None]:
    """Let a user keep his rows of a table locked, in a session of his own."""
    with psycopg.connect(world.url) as session:
        if table == "import_sources":  # as he can by himself; of others an installation of the owner's may let him
            session.execute("select set_config('request.jwt.claims', jsonb_build_object('sub', %s::text)::text, true)",
                            [str(user.id)])  # fmt: skip
            session.execute("set local role authenticated")
        rows = session.execute(f"select from public.{table} where user_id = %s for update", [user.id]).rowcount
        assert rows > 0 or table == "sync_jobs"
        yield
        session.rollback()


class LockedMeanwhile(Demo):
    """A source during whose listing a user locks a row of his."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lock: Any = None

    def list_items(self, account: Any, window: Any, http: Any) -> Any:
        yield from super().list_items(account, window, http)
        if self.lock is not None and account.user_id == self.lock[1].id:
            self.lock[2].enter_context(locked(self.lock[0], "import_sources", self.lock[1]))
            self.lock = None


def test_who_keeps_his_account_locked_is_left_out_and_all_others_are_imported(world: World) -> None:
    ana, eva = world.account("ana@example.com"), world.account("eva@example.com")
    with locked(world, "import_sources", eva):
        run = world.run(Demo(calls(2)))
        assert not run.success
        assert "another session has locked its row" in problem_of(run)
        assert "eva@example.com" in problem_of(run)
        assert "ana@example.com" not in problem_of(run)
        assert world.rows("select distinct owner_user_id from recordings") == [(ana.id,)]
        assert world.cursor(ana) is not None
    run = world.run(Demo(calls(2)))
    assert run.success
    assert world.rows("select count(*) from recordings") == [(4,)]


def test_who_locks_his_account_in_the_middle_of_a_run_keeps_nobody_elses_calls_and_cursor(world: World) -> None:
    from contextlib import ExitStack

    ana, eva = world.account("ana@example.com"), world.account("eva@example.com")
    with ExitStack() as stack:
        demo = LockedMeanwhile(calls(2))
        demo.lock = (world, eva, stack)
        run = world.run(demo)
        assert not run.success
        assert "eva@example.com: Another session has locked the row of this account" in problem_of(run)
        assert world.rows("select distinct owner_user_id from recordings") == [(ana.id,)]
        assert world.cursor(ana) is not None
    assert world.cursor(eva) is None, "so the next run lists it again"
    assert world.run(Demo(calls(2))).success
    assert world.rows("select count(*) from recordings") == [(4,)]


def test_a_progress_row_that_its_user_keeps_locked_decides_nothing(world: World) -> None:
    world.account("ana@example.com")
    eva = world.account("eva@example.com")

    class Meanwhile(Demo):
        def fetch_record(self, *args: Any) -> Any:
            if not sessions:
                stack.enter_context(locked(world, "sync_jobs", eva))
                sessions.append(eva)
            return super().fetch_record(*args)

    from contextlib import ExitStack

    sessions: list[Any] = []
    with ExitStack() as stack:
        run = world.run(Meanwhile(calls(2)))
        assert run.success
        assert summary_of(run).counts.inserted == 4
        assert sorted(row["status"] for row in world.jobs()) == ["completed", "processing"]
    world.settle()
    assert "processing" not in {row["status"] for row in world.jobs()}


def test_a_tick_asks_for_all_but_whose_account_is_locked(world: World) -> None:
    ana, eva = world.account("ana@example.com"), world.account("eva@example.com")
    with locked(world, "import_sources", eva):
        assert users_of(request_all(world)[0]) == [str(ana.id)]
    assert users_of(request_all(world)[0]) == [str(eva.id)]


def test_a_lock_that_anybody_can_take_keeps_no_tick_from_asking(world: World) -> None:
    ana = world.account("ana@example.com")
    with psycopg.connect(world.url) as session:
        session.execute("set local role authenticated")
        session.execute("select pg_advisory_xact_lock(hashtextextended('import_pipeline.polls/demo', 0))")
        assert users_of(request_all(world)[0]) == [str(ana.id)]


def test_a_folder_of_whose_account_is_locked_waits_and_the_others_are_imported(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ana, eva = world.account("ana@example.com", "file-upload"), world.account("eva@example.com", "file-upload")
    for user in (ana, eva):
        file = tmp_path / "drop" / user.email / "call.txt"
        file.parent.mkdir(parents=True)
        file.write_text("Ana: Hello.")
    monkeypatch.setenv("IMPORT_PIPELINE_DROP_FOLDER", str(tmp_path / "drop"))
    monkeypatch.setenv("IMPORT_PIPELINE_SETTLE_SECONDS", "0")
    postgres, connector = PostgresResource(url=world.url), get_connector("file-upload")
    with locked(world, "import_sources", eva):
        requests = ask_for_files(world.instance, postgres, connector)
        assert isinstance(requests, list)
        assert [users_of(request) for request in requests] == [[str(ana.id)]]
        told = ask_for_files(world.instance, postgres, connector)
        assert isinstance(told, dg.SkipReason)
        assert "users whose account another session has locked: 1" in str(told.skip_message)
    requests = ask_for_files(world.instance, postgres, connector)
    assert isinstance(requests, list)
    assert [users_of(request) for request in requests] == [[str(eva.id)]]


def test_an_account_that_its_user_opens_in_a_transaction_without_end_is_not_waited_for(world: World) -> None:
    from import_pipeline.errors import AccountLockedError

    eva = tenants.make_user(world.conn, "eva@example.com")
    with psycopg.connect(world.url) as session:
        session.execute("insert into import_sources (user_id, source_app) values (%s, 'demo')", [eva.id])
        with pytest.raises(AccountLockedError, match="Another session has locked the row"):
            ensure_account(world.conn, eva.id, "demo")
    assert ensure_account(world.conn, eva.id, "demo") is not None


# -- Looking ----------------------------------------------------------------------------------------------------------


def tick(world: World) -> list[dg.RunRequest] | str:
    with dg.build_sensor_context(
        instance=world.instance, resources={"postgres": PostgresResource(url=world.url)}
    ) as context:
        data = build_source_sensor(Demo()).evaluate_tick(context)
    return list(data.run_requests or []) or data.skip_message or ""


def request_all(world: World) -> list[dg.RunRequest]:
    """What a tick asks for."""
    found = tick(world)
    assert not isinstance(found, str), found
    return found


def users_of(request: dg.RunRequest) -> list[str]:
    config: Any = request.run_config
    users: list[str] = config["ops"]["connect"]["config"]["users"]
    return users


def summarise(world: World, user: tenants.User) -> list[dict[str, Any]]:
    with acting_as(world.conn, user.id):
        return summarise_accounts(world.conn, user.id)
