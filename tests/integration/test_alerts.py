"""Alerts: who runs it hears once of a run that failed, what failed and what to do, and nothing that is secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from connectors.demo import Demo
from dev import free_port
from webhook import SECRET, Webhook
from world import World, calls

from import_pipeline.defs.sensors import alerts
from import_pipeline.defs.sensors.alerts import AlertError, alert_on_failure, describe_failure, send
from import_pipeline.errors import ItemError, SourceUnavailableError

SAID = "CANARY-77aa: what was said"


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with Webhook() as server:
        monkeypatch.setenv("IMPORT_PIPELINE_ALERT_URL", server.address)
        yield server


@pytest.fixture
def red(world: World) -> dg.ExecuteInProcessResult:
    """A run in which two calls failed, one of them with a title from outside."""
    source = Demo(calls(4))
    world.account("ana@example.com")
    source.calls[None][0].error = ItemError("The recording is encrypted.")
    source.calls[None][1].error = RuntimeError(SAID)
    source.calls[None][1].values["title"] = "<!channel> & friends\n" + "x" * 500
    return world.run(source)


def message_of(world: World, result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    run = world.instance.get_run_by_id(result.run_id)
    assert run is not None
    broken = [event for event in result.all_events if event.is_step_failure]
    return describe_failure(run, broken)


def tick(world: World, cursor: str | None = None) -> Any:
    """Evaluate the sensor as the daemon does."""
    with dg.build_sensor_context(instance=world.instance, cursor=cursor) as context:
        return alert_on_failure.evaluate_tick(context)


def engine_events(world: World, run_id: str) -> str:
    return "\n".join(str(entry) for entry in world.instance.all_logs(run_id))


def test_a_failed_run_is_told_once_and_a_green_one_never(world: World, webhook: Webhook) -> None:
    started = tick(world)
    source = Demo(calls(3))
    world.account("ana@example.com")
    assert world.run(source).success
    after_green = tick(world, started.cursor)
    assert webhook.messages == []
    source.calls[None] += calls(1, prefix="broken")
    source.calls[None][-1].error = ItemError("The recording is encrypted.")
    run = world.run(source, full=True)
    assert not run.success

    after_red = tick(world, after_green.cursor)
    (reaction,) = after_red.dagster_run_reactions
    assert reaction.error is None
    (message,) = webhook.messages
    assert message["run_id"] == run.run_id
    assert (message["job"], message["source"]) == ("import_demo", "demo")
    tick(world, after_red.cursor)
    assert len(webhook.messages) == 1


def test_the_message_says_what_failed_how_many_and_what_to_do(world: World, red: dg.ExecuteInProcessResult) -> None:
    message = message_of(world, red)
    assert "2 failed" in message["problem"]
    assert "import-pipeline failures" in message["problem"]
    assert message["counts"]["imported"] == 2
    assert message["counts"]["failed"] == 2
    reasons = {each["reason"] for each in message["failed_items"]}
    assert "The recording is encrypted." in reasons
    assert message["what_to_do"]
    text = message["text"]
    assert text.startswith("import_demo failed: ")
    assert "2 imported" in text
    assert "The recording is encrypted." in text
    assert all(advice in text for advice in message["what_to_do"])
    assert red.run_id in text


def test_titles_are_escaped_and_shortened_and_nothing_that_was_said_gets_out(
    world: World, red: dg.ExecuteInProcessResult
) -> None:
    message = message_of(world, red)
    assert "<" not in message["text"]
    assert "&lt;!channel&gt; &amp; friends x" in message["text"]
    assert max(len(each["item"]) for each in message["failed_items"]) <= 101
    assert "CANARY" not in json.dumps(message)


def test_with_the_address_of_the_ui_the_message_leads_to_the_run(
    world: World, red: dg.ExecuteInProcessResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert message_of(world, red)["run_url"] is None
    monkeypatch.setenv("IMPORT_PIPELINE_UI_URL", "https://dagster.example.com/")
    message = message_of(world, red)
    assert message["run_url"] == f"https://dagster.example.com/runs/{red.run_id}"
    assert message["run_url"] in message["text"]


def test_a_broken_step_is_told_in_our_words_or_by_the_name_of_a_foreign_error(world: World) -> None:
    @dg.op
    def ours() -> None:
        raise SourceUnavailableError("Zoom could not be reached: status 503.")

    @dg.op
    def foreign() -> None:
        raise ValueError(SAID)

    problems = {}
    for op in (ours, foreign):
        job = dg.GraphDefinition(name="import_broken", node_defs=[op]).to_job()
        result = job.execute_in_process(instance=world.instance, raise_on_error=False)
        problems[op.name] = message_of(world, result)["problem"]
    assert problems["ours"] == "The step ours broke: Zoom could not be reached: status 503."
    assert problems["foreign"] == "The step foreign broke: ValueError; the run's log says more."


def test_a_run_that_ended_without_a_step_says_how(world: World, webhook: Webhook) -> None:
    started = tick(world)
    run = world.instance.create_run_for_job(world.job(Demo([])))
    world.instance.report_run_failed(run, message="Run timed out due to taking longer than 180 seconds to start.")
    tick(world, started.cursor)
    (message,) = webhook.messages
    assert "longer than 180 seconds to start" in message["text"]
    assert message["failed_items"] == []


def test_a_run_that_is_tried_again_by_itself_is_told_only_when_that_fails_too(world: World, webhook: Webhook) -> None:
    started = tick(world)
    run = world.instance.create_run_for_job(world.job(Demo([])))
    world.instance.report_run_failed(run)
    world.instance.add_run_tags(run.run_id, {"dagster/will_retry": "true"})
    skipped = tick(world, started.cursor)
    assert "tried again" in skipped.skip_message
    again = world.instance.create_run_for_job(world.job(Demo([])), parent_run_id=run.run_id, root_run_id=run.run_id)
    world.instance.report_run_failed(again)
    world.instance.add_run_tags(again.run_id, {"dagster/will_retry": "false"})
    tick(world, skipped.cursor)
    assert [message["run_id"] for message in webhook.messages] == [again.run_id]


def test_without_an_address_nothing_is_sent_and_the_tick_says_so(
    world: World, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_ALERT_URL", " ")
    started = tick(world)
    run = world.instance.create_run_for_job(world.job(Demo([])))
    world.instance.report_run_failed(run)
    assert "IMPORT_PIPELINE_ALERT_URL is not set" in tick(world, started.cursor).skip_message
    assert webhook.requests == []


@pytest.mark.parametrize("fault", ["429", "500", "503", "disconnect"])
def test_what_passes_by_itself_is_tried_again(webhook: Webhook, fault: str) -> None:
    webhook.faults.next_faults = [fault, fault]
    send(webhook.address, {"text": "hello"})
    assert webhook.messages == [{"text": "hello"}]


@pytest.mark.parametrize("fault", ["500", "disconnect", "hang", "slow", "404", "302"])
def test_an_address_that_does_not_take_it_is_an_error_of_the_tick_that_hides_the_address(
    world: World, webhook: Webhook, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(alerts, "_SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(alerts, "TOTAL_SECONDS", 1.0)
    started = tick(world)
    webhook.faults.always = {"/services": fault}
    run = world.instance.create_run_for_job(world.job(Demo([])))
    world.instance.report_run_failed(run)
    told = tick(world, started.cursor)
    (reaction,) = told.dagster_run_reactions
    assert "The address for alerts" in reaction.error.to_string()
    shown = reaction.error.to_string() + engine_events(world, run.run_id) + caplog.text
    assert SECRET not in shown
    assert webhook.origin not in shown
    webhook.faults.always = {}
    webhook.forget_requests()
    tick(world, told.cursor)
    assert webhook.requests == [], "one attempt per run: the next tick has others to tell"


@pytest.mark.parametrize("address", ["nowhere", "ftp://example.com/x", "http://", "http://[::1", "https://exa mple/x"])
def test_what_is_no_address_is_refused_without_quoting_it(address: str) -> None:
    with pytest.raises(AlertError) as caught:
        send(address, {})
    assert address not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_port_where_nobody_listens_is_an_error_that_hides_the_address() -> None:
    port = free_port()
    with pytest.raises(AlertError, match="could not be reached") as caught:
        send(f"http://127.0.0.1:{port}/services/{SECRET}", {})
    assert str(port) not in str(caught.value)
