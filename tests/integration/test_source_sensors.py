"""The sensors and schedules of the sources: what a tick asks for, what it says, and that nothing is asked for twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import dagster as dg
import pytest
import tenants
from connectors.demo import Demo, OtherDemo
from dagster._core.instance.ref import InstanceRef
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._utils.schedules import schedule_execution_time_iterator
from world import World, calls

from import_pipeline.connectors.fathom import Fathom
from import_pipeline.definitions import build_defs, defs
from import_pipeline.defs import sensors
from import_pipeline.defs.schedules import build_source_schedule, plan_ticks
from import_pipeline.defs.sensors import build_source_sensor
from import_pipeline.library.leases import acquire_lease
from import_pipeline.stages.postgres import PostgresResource

Status = dg.DagsterRunStatus
DEMO = Demo()


def tick(world: World, connector: Any = DEMO, *, url: str | None = None) -> list[dg.RunRequest] | str:
    """Let the sensor look once: what it asks for, or why it asks for nothing."""
    with dg.build_sensor_context(
        instance=world.instance, resources={"postgres": PostgresResource(url=url or world.url)}
    ) as context:
        data = build_source_sensor(connector).evaluate_tick(context)
    return list(data.run_requests or []) or data.skip_message or ""


def tick_of_schedule(world: World, connector: Any = DEMO) -> list[dg.RunRequest] | str:
    if not world.instance.is_persistent:  # a schedule, other than a sensor, wants to open the instance by itself
        folder = world.staging.with_name("instance")
        folder.mkdir()
        world.instance = dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(folder)))
    with dg.build_schedule_context(
        instance=world.instance,
        resources={"postgres": PostgresResource(url=world.url)},
        scheduled_execution_time=datetime.now(UTC),
    ) as context:
        data = build_source_schedule(connector).evaluate_tick(context)
    return list(data.run_requests or []) or data.skip_message or ""


def users_of(requests: list[dg.RunRequest] | str) -> set[UUID]:
    assert not isinstance(requests, str), requests
    return {UUID(user) for request in requests for user in config_of(request)["users"]}


def config_of(request: dg.RunRequest) -> dict[str, Any]:
    config: Any = request.run_config
    return config["ops"]["connect"]["config"]  # type: ignore[no-any-return]


def launch(
    world: World, status: dg.DagsterRunStatus, *users: UUID | str, connector: Demo = DEMO, **tags: str
) -> dg.DagsterRun:
    """A run in some state, as the daemon creates it."""
    return world.instance.create_run_for_job(
        world.job(connector),
        run_config={"ops": {"connect": {"config": {"users": [str(user) for user in users]}}}},
        status=status,
        tags=tags,
        remote_job_origin=RemoteJobOrigin(
            RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("import_pipeline"), "__repository__"), "import_demo"
        ),
    )


def wait(world: World, minutes: float) -> None:
    """Let time pass in the database."""
    world.do(
        "update import_pipeline.polls set requested_at = requested_at - span, not_before = not_before - span,"
        " due_at = due_at - span from (select %s::interval as span) as given",
        timedelta(minutes=minutes),
    )
    world.do("update public.import_sources set last_sync_at = last_sync_at - %s", timedelta(minutes=minutes))


def end_of(world: World, run_id: str) -> None:
    """Let it be a while ago that a run ended."""
    storage: Any = world.instance.run_storage
    with storage.connect() as conn:
        conn.exec_driver_sql(
            "update runs set update_timestamp = datetime('now', '-15 minutes') where run_id = ?", (run_id,)
        )


@pytest.fixture
def ana(world: World) -> tenants.User:
    return world.account("ana@example.com")


# -- What is asked for ------------------------------------------------------------------------------------------------


def test_an_account_that_was_connected_just_now_is_imported_and_due_again_after_the_interval(
    world: World, ana: tenants.User
) -> None:
    demo = Demo(calls(3))
    (request,) = tick(world, demo)
    assert isinstance(request, dg.RunRequest)
    assert config_of(request) == {"users": [str(ana.id)]}
    assert request.tags == {"lane": "live", "first_import": "demo", "dagster/sensor_name": "watch_demo"}
    assert world.run(demo, **config_of(request)).success
    assert len(world.recordings()) == 3
    told = tick(world, demo)
    assert isinstance(told, str)
    due_at = world.jobs()[0]["started_at"] + demo.polling_interval
    assert told.startswith("No account of Demo is due. Accounts: 1, the next is due at ")
    assert abs(datetime.fromisoformat(told[-24:-5] + "+00:00") - due_at) < timedelta(seconds=5)
    wait(world, 15.1)
    (request,) = tick(world, demo)
    assert isinstance(request, dg.RunRequest)
    assert request.tags == {"lane": "live", "dagster/sensor_name": "watch_demo"}
    assert config_of(request) == {"users": [str(ana.id)]}


def test_the_requests_of_a_tick_are_runs_of_the_job_as_it_is(world: World, ana: tenants.User) -> None:
    """What the sensor asks for fits the job that the definitions have for it."""
    (request,) = tick(world, Demo())
    assert isinstance(request, dg.RunRequest)
    repository = build_defs(connectors={"demo": DEMO}).get_repository_def()
    assert repository.get_sensor_def("watch_demo").job_name == "import_demo"
    assert repository.get_schedule_def("sync_demo").job_name == "import_demo"
    assert dg.validate_run_config(repository.get_job("import_demo"), dict(request.run_config))


def test_many_accounts_come_in_runs_of_ten_and_no_more_than_twenty_runs_a_tick(world: World) -> None:
    for number in range(215):
        world.account(f"user{number}@example.com")
    requests = tick(world)
    assert isinstance(requests, list)
    assert [len(config_of(request)["users"]) for request in requests] == [10] * 20
    assert len({request.run_key for request in requests}) == 20
    rest = tick(world)
    assert isinstance(rest, list)
    assert [len(config_of(request)["users"]) for request in rest] == [10, 5]
    assert len(users_of(requests) | users_of(rest)) == 215


def test_a_waiting_call_makes_its_account_due_before_the_interval_has_passed(world: World, ana: tenants.User) -> None:
    demo = Demo(calls(1))
    assert world.run(demo, users=[str(ana.id)]).success
    assert isinstance(tick(world, demo), str)
    world.do(
        "insert into import_items (user_id, source_app, external_id, status, retry_at)"
        " values (%s, 'demo', 'late', 'waiting', now())",
        ana.id,
    )
    assert users_of(tick(world, demo)) == {ana.id}


def test_a_run_that_fails_is_asked_for_again_after_the_pause_and_under_another_key_f58(
    world: World, ana: tenants.User
) -> None:
    demo = Demo(calls(3))
    demo.breaks_after = {ana.id: 1}
    keys = []
    for pause in (5, 10, 20):
        (request,) = tick(world, demo)
        assert isinstance(request, dg.RunRequest)
        keys.append(request.run_key)
        assert not world.run(demo, **config_of(request)).success
        end_of(world, world.runs[-1].run_id)
        wait(world, pause - 0.5)
        assert "is due" in tick(world, demo)
        wait(world, 0.6)
    assert len(set(keys)) == 3
    demo.breaks_after = {}
    (request,) = tick(world, demo)
    assert isinstance(request, dg.RunRequest)
    assert world.run(demo, **config_of(request)).success


# -- What is under way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status", [Status.NOT_STARTED, Status.QUEUED, Status.STARTING, Status.STARTED, Status.CANCELING]
)
def test_for_whom_a_run_is_queued_or_under_way_nothing_is_asked(
    world: World, ana: tenants.User, status: dg.DagsterRunStatus
) -> None:
    world.account("ben@example.com")
    cara = world.account("cara@example.com")
    launch(world, status, ana.id, "BEN@example.com", "nobody@example.com")
    assert users_of(tick(world)) == {cara.id}
    told = tick(world)
    assert isinstance(told, str)
    assert told.startswith("No account of Demo is due. Accounts: 3, being imported now: 2, the next is due at ")
    wait(world, 6)
    assert users_of(tick(world)) == {cara.id}


def test_while_a_run_for_everybody_is_under_way_nothing_is_asked(world: World, ana: tenants.User) -> None:
    launch(world, Status.QUEUED)
    told = "A run for every account of Demo is queued or under way; nothing is asked for until it ends."
    assert tick(world) == told


def test_runs_of_other_sources_and_months_of_history_are_no_reason_to_wait(world: World, ana: tenants.User) -> None:
    launch(world, Status.STARTED, ana.id, connector=OtherDemo())
    launch(world, Status.STARTED, **{"dagster/partition": "2024-03-01"})
    assert users_of(tick(world)) == {ana.id}


def test_when_enough_runs_are_queued_no_more_are_asked_for(
    world: World, ana: tenants.User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "OUTSTANDING_RUNS", 3)
    monkeypatch.setenv("IMPORT_PIPELINE_ACCOUNTS_PER_RUN", "1")
    for _ in range(2):
        launch(world, Status.QUEUED, uuid4())
    world.account("ben@example.com")
    assert len(users_of(tick(world))) == 1, "one more fits"
    launch(world, Status.QUEUED, uuid4())
    assert tick(world) == (
        "3 runs of Demo are queued or under way, which is enough for now; accounts that are due and wait for the next "
        "ones: 1."
    )


def test_cancelling_queued_runs_or_losing_them_brings_their_accounts_back_after_a_pause_f60(
    world: World, ana: tenants.User
) -> None:
    """A new deployment cancels what is queued; whoever deletes runs loses them altogether."""
    ben = world.account("ben@example.com")
    (request,) = tick(world)
    assert isinstance(request, dg.RunRequest)
    run = launch(world, Status.QUEUED, ana.id, ben.id)
    assert isinstance(tick(world), str)
    world.instance.report_run_canceled(run)
    wait(world, 6)
    assert isinstance(tick(world), str), "it ended just now, and what it left is being settled"
    end_of(world, run.run_id)
    assert users_of(tick(world)) == {ana.id, ben.id}

    world.instance.delete_run(run.run_id)
    assert isinstance(tick(world), str)
    wait(world, 11)
    assert users_of(tick(world)) == {ana.id, ben.id}


def test_a_run_that_broke_off_and_that_dagster_tries_again_is_left_to_dagster(world: World, ana: tenants.User) -> None:
    run = launch(world, Status.STARTED, ana.id, **{"dagster/will_retry": "true"})
    world.instance.report_run_failed(run)
    assert isinstance(tick(world), str)
    assert world.instance.get_run_by_id(run.run_id).is_complete_and_waiting_to_retry  # type: ignore[union-attr]


def test_a_run_whose_process_is_gone_without_a_word_does_not_keep_its_accounts_for_ever_f62(
    world: World, ana: tenants.User
) -> None:
    lost, working = launch(world, Status.STARTED, ana.id), launch(world, Status.STARTED, ana.id)
    for run in (lost, working):
        end_of(world, run.run_id)
    ((account_id,),) = world.rows("select id from import_sources")
    acquire_lease(world.conn, account_id, working.run_id, is_run_over=lambda _: False)
    assert isinstance(tick(world), str), "who holds an account is working"
    world.do("update import_pipeline.leases set expires_at = now() - interval '1 second'")
    assert users_of(tick(world)) == {ana.id}


def test_what_broke_off_after_a_long_while_is_not_asked_for_again_at_once_f61(world: World, ana: tenants.User) -> None:
    demo = Demo(calls(2))
    demo.is_down = {"call-000"}
    (request,) = tick(world, demo)
    assert isinstance(request, dg.RunRequest)
    assert not world.run(demo, **config_of(request)).success
    wait(world, 60)  # as long as the run took
    world.instance.add_run_tags(world.runs[-1].run_id, {"dagster/will_retry": "false"})
    assert world.settle()
    end_of(world, world.runs[-1].run_id)
    assert isinstance(tick(world, demo), str)
    wait(world, 5.1)
    assert users_of(tick(world, demo)) == {ana.id}


# -- What it says -----------------------------------------------------------------------------------------------------


def test_when_nobody_is_connected_the_sensor_says_how_it_is_done(world: World) -> None:
    assert tick(world, Fathom()) == ("Nobody has an account at Fathom yet; `import-pipeline connect fathom` opens one.")


@pytest.mark.parametrize("look", [tick, tick_of_schedule])
def test_a_database_that_is_gone_or_not_migrated_is_said_in_one_sentence(
    world: World, empty_database_url: str, look: Callable[..., Any]
) -> None:
    world.url = empty_database_url
    with pytest.raises(
        dg.DagsterError, match=r"^The database lacks \d+ migrations of this version; run `import-pipeline"
    ):
        look(world)
    world.url = "postgresql://nobody@127.0.0.1:9/nowhere"
    with pytest.raises(dg.DagsterError, match=r"^The database could not be reached"):
        look(world)


def test_every_source_has_a_sensor_and_a_schedule_that_are_off_and_files_have_none() -> None:
    repository = defs.get_repository_def()
    schedules = {each.name: each for each in repository.schedule_defs}
    watching = {each.name: each for each in repository.sensor_defs if each.name.startswith("watch_")}
    assert {"sync_fathom", "sync_youtube", "sync_zoom"} <= set(schedules)
    assert {"watch_fathom", "watch_youtube", "watch_zoom"} <= set(watching)
    assert "sync_file_upload" not in schedules
    for name in ("fathom", "youtube", "zoom"):
        assert schedules[f"sync_{name}"].default_status == dg.DefaultScheduleStatus.STOPPED
        assert watching[f"watch_{name}"].default_status == dg.DefaultSensorStatus.STOPPED
        assert schedules[f"sync_{name}"].execution_timezone == "UTC"
    assert schedules["sync_fathom"].cron_schedule == "*/15 * * * *"
    assert schedules["sync_youtube"].cron_schedule == "0 * * * *"


# -- Schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minutes", "spacing", "cron"),
    [
        (0.5, 1, "* * * * *"),
        (15, 15, "*/15 * * * *"),
        (25, 20, "*/20 * * * *"),
        (59, 30, "*/30 * * * *"),
        (60, 60, "0 * * * *"),
        (150, 120, "0 */2 * * *"),
        (7 * 60, 6 * 60, "0 */6 * * *"),
        (24 * 60, 24 * 60, "0 0 * * *"),
        (7 * 24 * 60, 24 * 60, "0 0 * * *"),
    ],
)
def test_ticks_are_as_often_as_the_source_wants_to_be_asked_or_a_little_more(
    minutes: float, spacing: int, cron: str
) -> None:
    assert plan_ticks(timedelta(minutes=minutes)) == (timedelta(minutes=spacing), cron)


@pytest.mark.long
def test_an_account_is_polled_with_every_tick_though_its_run_began_after_the_last_one(
    world: World, ana: tenants.User
) -> None:
    demo = Demo()
    for _ in range(3):
        (request,) = tick_of_schedule(world, demo)
        assert isinstance(request, dg.RunRequest)
        assert world.run(demo, **config_of(request)).success
        wait(world, 14.9)
    assert users_of(tick_of_schedule(world, demo)) == {ana.id}
    assert isinstance(tick_of_schedule(world, demo), str)


@contextmanager
def clock_of(zone: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process live in a time zone."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        yield
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("interval", [timedelta(minutes=15), timedelta(hours=1), timedelta(hours=6), timedelta(days=1)])
def test_no_change_of_the_clocks_fires_a_schedule_twice_or_leaves_a_tick_out_f68(
    zone: str, interval: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 2026 the clocks change on 8 March, 29 March, 5 April, 4 October, 25 October and 1 November."""
    every = type("Every", (Demo,), {"polling_interval": interval})
    schedule = build_source_schedule(every())
    with clock_of(zone, monkeypatch):
        for month in (3, 4, 10, 11):
            begin = datetime(2026, month, 1, tzinfo=UTC)
            ticks = schedule_execution_time_iterator(
                begin.timestamp(), str(schedule.cron_schedule), schedule.execution_timezone
            )
            expected = begin
            while expected < begin + timedelta(days=31):
                assert next(ticks) == expected
                expected += interval


# -- Fairness ---------------------------------------------------------------------------------------------------------


def test_every_account_is_imported_once_before_any_is_imported_twice_f57(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a thousand times the accounts of a tick the same holds; `test_due.py` measures a hundred thousand."""
    monkeypatch.setenv("IMPORT_PIPELINE_ACCOUNTS_PER_RUN", "2")
    monkeypatch.setattr(sensors, "RUNS_PER_TICK", 2)
    users = [world.account(f"user{number}@example.com").id for number in range(10)]
    demo = Demo()
    demo.breaks_after = {users[3]: 0, users[4]: 0}
    served: Counter[UUID] = Counter()
    for _ in range(12):
        requests = tick(world, demo)
        if isinstance(requests, str):
            wait(world, 5)
            continue
        for request in requests:
            for user in users_of([request]):
                assert not served[user] or all(served[each] for each in users)
                served[user] += 1
            result = world.run(demo, **config_of(request))
            end_of(world, result.run_id)
    assert min(served[each] for each in users) >= 2
