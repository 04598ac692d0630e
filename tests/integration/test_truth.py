"""However a run goes, all say the same of it: ledger, `sync_jobs`, summary, asset, Dagster's status, exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest
import servers
from connectors.demo import START, Call, Demo
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from world import World, problem_of, summary_of

from import_pipeline.cli.run_import import run_import
from import_pipeline.database.opening import Database
from import_pipeline.database.tenancy import acting_as
from import_pipeline.errors import HttpError, IgnoredItemError, ItemError, NotReadyError, SourceUnavailableError
from import_pipeline.library.ledger import summarise_accounts
from import_pipeline.records import Counts

OUTCOMES = ("inserted", "waiting", "failed", "ignored")
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # a run takes half a second: to shrink would take minutes
ENDS = ("complete", "listing breaks", "source is down")


@dataclass(frozen=True)
class Fate:
    """What an account's run meets: an outcome for each call, and how the account ends."""

    outcomes: tuple[str, ...]
    end: str

    @property
    def counts(self) -> Counts:
        found = Counter(self.outcomes)
        return Counts(listed=len(self.outcomes), **{kind: found[kind] for kind in OUTCOMES})

    @property
    def status(self) -> str:
        if self.end != "complete":
            return "failed"
        return "completed_with_errors" if "failed" in self.outcomes else "completed"


fates = st.builds(
    Fate, st.lists(st.sampled_from(OUTCOMES), max_size=6).map(tuple), st.sampled_from(("complete", *ENDS[:2]))
)
broken = st.builds(Fate, st.lists(st.sampled_from(OUTCOMES), max_size=6).map(tuple), st.just(ENDS[2]))


def call(number: int, outcome: str) -> Call:
    errors: dict[str, Any] = {
        "waiting": NotReadyError("It is still being written."),
        "failed": ItemError("It is broken."),
        "ignored": IgnoredItemError("It is a test call."),
    }
    return Call(f"call-{number}", START + timedelta(minutes=number), error=errors.get(outcome))


@contextmanager
def fresh_world(server_url: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    url = servers.create_database(server_url, template=template)
    try:
        with (
            psycopg.connect(url, autocommit=True) as conn,
            dg.DagsterInstance.ephemeral() as instance,
        ):
            yield World(conn, url, tmp_path_factory.mktemp("staging"), instance)
    finally:
        servers.drop_database(server_url, url)


def prepare(world: World, fates: list[Fate]) -> tuple[Demo, dict[Any, Fate]]:
    """Give each fate a user with an account, and return the source in which it will be met."""
    source, met = Demo(), {}
    source.transcript_deadline = timedelta(days=36500)  # type: ignore[misc] - the calls are old, and some wait
    for number, fate in enumerate(fates):
        user = world.account(f"user{number}@example.com")
        source.calls[user.id] = [call(each, outcome) for each, outcome in enumerate(fate.outcomes)]
        if fate.end == "listing breaks":
            source.breaks_after[user.id] = len(fate.outcomes)
            source.calls[user.id].append(Call("never listed", START - timedelta(minutes=1)))
        if fate.end == "source is down":
            source.calls[user.id].append(Call(f"down-{number}"))
            source.is_down.add(f"down-{number}")
        met[user.id] = fate
    return source, met


def agree(world: World, run_id: str, met: dict[Any, Fate]) -> None:
    """Compare what the ledger, the rows for other UIs and the status of an account say with what was met."""
    for user_id, fate in met.items():
        ledger = dict(
            world.rows(
                "select status, count(*) from import_items where user_id = %s and run_id = %s group by 1",
                user_id,
                run_id,
            )
        )
        ((status, counts, error, current, failed_ids),) = world.rows(
            "select status, metadata -> 'counts', error, progress_current, failed_ids"
            " from sync_jobs where user_id = %s",
            user_id,
        )
        with world.conn.transaction(), acting_as(world.conn, user_id):
            (said,) = summarise_accounts(world.conn, user_id)
        assert status == fate.status == said["last_run_status"]
        assert (error is None) == (status == "completed")
        assert ledger == {
            ("imported" if kind == "inserted" else kind): number
            for kind in OUTCOMES
            if (number := getattr(fate.counts, kind))
        }
        assert counts == {
            **{kind: getattr(fate.counts, kind) for kind in OUTCOMES}, "listed": len(fate.outcomes), "skipped": 0
        }  # fmt: skip
        assert current == len(fate.outcomes)
        assert len(failed_ids) == fate.counts.failed
        assert [said[kind] for kind in ("imported", "waiting", "failed", "ignored")] == [
            getattr(fate.counts, kind) for kind in OUTCOMES
        ]
        recordings = world.rows("select count(*) from recordings where owner_user_id = %s", user_id)
        assert recordings == [(fate.counts.inserted,)]
        cursor = world.rows("select last_sync_at is not null from import_sources where user_id = %s", user_id)
        assert cursor == [(fate.end == "complete",)]


@pytest.mark.long
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(st.lists(fates, min_size=1, max_size=3))
def test_f83_every_status_and_count_of_a_run_agrees(
    server_url: str, template: str, tmp_path_factory: pytest.TempPathFactory, fates: list[Fate]
) -> None:
    """F84: and each is the number of rows in the ledger."""
    with fresh_world(server_url, template, tmp_path_factory) as world:
        source, met = prepare(world, fates)
        result = world.run(source)
        agree(world, result.run_id, met)
        assert result.success == all(fate.status == "completed" for fate in fates)
        (run,) = world.instance.get_runs()
        assert (run.status == dg.DagsterRunStatus.SUCCESS) == result.success
        # What failed in itself would fail again at once; only a step that broke is worth a repetition.
        assert run.tags.get("dagster/retry_on_asset_or_op_failure") == ("true" if result.success else "false")
        total = sum((fate.counts for fate in fates), Counts())
        (event,) = [event for event in result.all_events if event.event_type_value == "ASSET_MATERIALIZATION"]
        shown = event.event_specific_data.materialization.metadata  # type: ignore[union-attr]
        for kind in ("listed", *OUTCOMES):
            assert shown["imported" if kind == "inserted" else kind].value == getattr(total, kind)
        if result.success:
            assert summary_of(result).counts == total
        else:
            said = problem_of(result)
            assert ("failed" in said) == any(fate.counts.failed for fate in fates) or "503" in said


@pytest.mark.long
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(st.lists(fates, max_size=2), broken)
def test_f85_a_run_that_broke_is_settled_as_failed_for_the_accounts_it_did_not_finish(
    server_url: str, template: str, tmp_path_factory: pytest.TempPathFactory, fates: list[Fate], down: Fate
) -> None:
    with fresh_world(server_url, template, tmp_path_factory) as world:
        source, _ = prepare(world, [*fates, down])
        result = world.run(source)
        assert not result.success
        (run,) = world.instance.get_runs()
        assert run.tags["dagster/retry_on_asset_or_op_failure"] == "true"
        assert {job["status"] for job in world.jobs()} == {"processing"}
        assert world.settle() == [result.run_id]
        for job in world.jobs():
            assert job["status"] == "failed"  # nobody moved the cursors, so none of them is complete
            assert "broke off" in job["error"]
            ledger = world.rows(
                "select count(*) from import_items where user_id = %s and run_id = %s", job["user_id"], result.run_id
            )
            counts = job["metadata"]["counts"]
            assert [(sum(counts[kind] for kind in OUTCOMES),)] == ledger
            assert counts["listed"] == job["progress_total"]
        source.is_down.clear()
        again = world.run(source)
        # What had failed before the run broke is not due yet; the rest of the broken batch was never attempted.
        assert again.success == (all(fate.end == "complete" for fate in fates) and "failed" not in down.outcomes)


@pytest.mark.long
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(fates)
def test_the_exit_code_of_the_command_says_the_same_as_the_row(
    server_url: str, template: str, tmp_path_factory: pytest.TempPathFactory, fate: Fate
) -> None:
    home = tmp_path_factory.getbasetemp() / "truth-home"
    home.mkdir(exist_ok=True)
    with fresh_world(server_url, template, tmp_path_factory) as world, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", world.url)
        patch.setenv("IMPORT_PIPELINE_HOME", str(home))
        patch.setenv("DAGSTER_HOME", "")
        source, met = prepare(world, [fate])
        (user_id,) = met
        with Database(world.url) as database:
            code = run_import(database, source, user_id, {}, as_json=True)
        (run_id,) = [job["metadata"]["run_id"] for job in world.jobs()]
        agree(world, run_id, met)
        expected = {"completed": 0, "completed_with_errors": 1, "failed": 3}  # it broke off because of the source
        assert code == expected[fate.status]


# --- an account that falls silent ---------------------------------------------------------------------------------


def test_an_account_that_had_calls_and_now_lists_none_of_them_says_so(world: World) -> None:
    world.account("ana@example.com")
    source = Demo([Call("call-1")])
    source.look_back = timedelta(days=3650)
    assert world.run(source).success
    source.calls[None] = []
    result = world.run(source)
    assert result.success  # the source says that all is well
    (account,) = summary_of(result).accounts
    assert "lists nothing any more, though 1 calls" in (account.warning or "")
    assert world.jobs()[-1]["metadata"]["warning"] == account.warning
    logged = [
        entry.user_message
        for entry in world.instance.all_logs(result.run_id)
        if "lists nothing any more" in entry.user_message
    ]
    assert len(logged) == 1
    assert "ana@example.com" in logged[0]


def test_a_quiet_week_a_new_account_and_a_deleted_call_are_no_silence(world: World) -> None:
    ana = world.account("ana@example.com")
    source = Demo()
    assert summary_of(world.run(source)).accounts[0].warning is None  # it never had any
    source.calls[None] = [Call("call-1")]
    assert world.run(source, full=True).success
    source.calls[None] = []
    assert summary_of(world.run(source)).accounts[0].warning is None  # none in the time that was asked for
    world.do("delete from recordings where owner_user_id = %s", ana.id)
    assert summary_of(world.run(source, full=True)).accounts[0].warning is None


# --- what a person is told of a failure ---------------------------------------------------------------------------


def test_f86_a_failure_tells_class_status_request_id_and_what_to_do(world: World) -> None:
    world.account("ana@example.com")
    refused = HttpError("The demo source answered 403.", status=403, request_id="req-8", error_class="permanent")
    result = world.run(Demo([Call("call-1", error=refused), Call("call-2", error=ItemError("It is broken."))]))
    assert not result.success
    assert world.rows("select http_status, request_id from import_items where external_id = 'call-1'") == [
        (403, "req-8")
    ]
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    table = failure.step_failure_data.user_failure_data.metadata["failed items"]  # type: ignore[union-attr]
    shown = {record.data["item"]: record.data for record in table.records}  # type: ignore[union-attr]
    assert shown["Call call-1"] == {
        "item": "Call call-1",
        "reason": "The demo source answered 403.",
        "class": "permanent",
        "HTTP status": "403",
        "request id": "req-8",
        "what to do": shown["Call call-1"]["what to do"],
    }
    assert "import-pipeline retry" in str(shown["Call call-2"]["what to do"])
    assert shown["Call call-2"]["request id"] == ""


def test_a_success_leaves_nothing_of_the_failure_before_it(world: World) -> None:
    world.account("ana@example.com")
    refused = HttpError("It answered 503.", status=503, request_id="req-9", error_class="transient")
    source = Demo([Call("call-1", error=refused)])
    world.run(source)
    source.calls[None] = [Call("call-1")]
    world.due_now()
    assert world.run(source, full=True).success
    assert world.rows("select status, http_status, request_id, error_message from import_items") == [
        ("imported", None, None, None)
    ]


def test_an_account_that_cannot_be_worked_on_tells_what_to_do(world: World) -> None:
    ana = world.account("ana@example.com")
    source = Demo()
    source.breaks_after[ana.id] = 0
    source.listing_error = SourceUnavailableError("The demo source answered 503.")
    source.calls[None] = [Call("call-1")]
    result = world.run(source)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    (record,) = failure.step_failure_data.user_failure_data.metadata["accounts"].records  # type: ignore[union-attr]
    assert "503" in str(record.data["problem"])
    assert "tried again by itself" in str(record.data["what to do"])
