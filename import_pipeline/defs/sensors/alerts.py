"""Telling people of runs that failed: a message to the address in `IMPORT_PIPELINE_ALERT_URL`, if one is set.

The message is JSON; its `text` is what Slack, Mattermost and their like show, the other fields are for programs. It
says what failed and what to do, and holds no secret and nothing that was said in a call. The address itself is a
secret too: anybody who has it can write there, so it appears nowhere.
"""

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import httpx
from dagster._core.storage.tags import WILL_RETRY_TAG
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

import import_pipeline.providers.http  # noqa: F401 - there the HTTP libraries are kept from telling addresses to logs
from import_pipeline.errors import ImportPipelineError, by_name, one_line
from import_pipeline.providers.timeouts import bound_total_time, deadline

# Dagster lets a sensor take 60 s, and hands it up to five failed runs each time.
TOTAL_SECONDS = 10.0
_SILENCE_SECONDS = 4.0
_ATTEMPTS = 3
_PAUSE_SECONDS = 0.5
_SHOWN_ITEMS = 5
_LONGEST_LINE = 300
_LONGEST_NAME = 100
_MARKUP = re.compile(r"(?<!\w)@(?=\w)|!(?=\[)|\](?=[(\[:])|:(?=//)|\bwww(?=\.)|[`~](?=[`~])", re.IGNORECASE)


class AlertError(ImportPipelineError):
    """The message about a failed run could not be delivered."""


class _PassingError(AlertError):
    """It may be delivered in a moment."""


@dg.run_failure_sensor(
    name="alert_on_failure",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells people of failed runs at the address in IMPORT_PIPELINE_ALERT_URL; without one it does nothing.",
)
def alert_on_failure(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Send one message about one run."""
    run = context.dagster_run
    url = os.environ.get("IMPORT_PIPELINE_ALERT_URL", "").strip()
    if not url:
        return dg.SkipReason(f"IMPORT_PIPELINE_ALERT_URL is not set, so nobody is told that run {run.run_id} failed.")
    if run.tags.get(WILL_RETRY_TAG) == "true":
        return dg.SkipReason(f"Run {run.run_id} failed and is tried again by itself; if that fails, people are told.")
    send(url, describe_failure(run, context.get_step_failure_events(), context.failure_event))
    return None


def describe_failure(
    run: dg.DagsterRun, broken_steps: Sequence[dg.DagsterEvent], run_failure: dg.DagsterEvent | None = None
) -> dict[str, Any]:
    """Return the message about a failed run, ready for JSON.

    Args:
        run: The run.
        broken_steps: The failure of each of its steps that failed, in their order.
        run_failure: The failure of the run itself, for one that ended without a broken step.
    """
    metadata: dict[str, dg.MetadataValue[Any]] = {}
    for event in broken_steps:
        if event.step_failure_data.user_failure_data is not None:
            metadata |= event.step_failure_data.user_failure_data.metadata
    accounts, items = _rows(metadata, "accounts"), _rows(metadata, "failed items")
    what_to_do = [one_line(row["what to do"], _LONGEST_LINE) for row in (*accounts, *items) if row.get("what to do")]
    message = {
        "job": run.job_name,
        "source": run.tags.get("source"),
        "month": run.tags.get("dagster/partition"),
        "run_id": run.run_id,
        "run_url": _address_of(run.run_id),
        "reported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "problem": one_line(_problem(broken_steps, run_failure), _LONGEST_LINE),
        "counts": {name: value.value for name, value in metadata.items() if isinstance(value, dg.IntMetadataValue)},
        "failed_items": [
            {"item": one_line(row["item"], _LONGEST_NAME), "reason": one_line(row["reason"], _LONGEST_LINE)}
            for row in items[:_SHOWN_ITEMS]
        ],
        "what_to_do": list(dict.fromkeys(what_to_do))[:3],
    }
    return {"text": _as_text(message)} | message


def send(url: str, message: dict[str, Any]) -> None:
    """Post a message, trying again what may pass by itself, for `TOTAL_SECONDS` at most.

    Raises:
        AlertError: It could not be delivered; the error does not quote the address.
    """
    with httpx.Client(timeout=_SILENCE_SECONDS) as client, deadline(TOTAL_SECONDS):
        bound_total_time(client)
        for attempt in Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_fixed(_PAUSE_SECONDS),
            retry=retry_if_exception_type(_PassingError),
            reraise=True,
        ):
            with attempt:
                _post(client, url, message)


def _post(client: httpx.Client, url: str, message: dict[str, Any]) -> None:
    try:
        with client.stream("POST", url, json=message) as answer:  # what it answers beyond its status is not read
            status = answer.status_code
    # Not chained: the words of libraries may quote the address.
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, ValueError):
        raise AlertError("IMPORT_PIPELINE_ALERT_URL is no address that a message can be sent to.") from None
    except (httpx.HTTPError, OSError) as error:
        raise _PassingError(f"The address for alerts could not be reached ({type(error).__name__}).") from None
    if status == 429 or status >= 500:
        raise _PassingError(f"The address for alerts answered with status {status}.")
    if not 200 <= status < 300:
        raise AlertError(f"The address for alerts answered with status {status}; is IMPORT_PIPELINE_ALERT_URL right?")


def _problem(broken_steps: Sequence[dg.DagsterEvent], run_failure: dg.DagsterEvent | None) -> str:
    for event in broken_steps:
        told = event.step_failure_data.user_failure_data
        if told is not None and told.description:
            return str(told.description)
    if broken_steps:
        event = broken_steps[0]
        more = f" So did {len(broken_steps) - 1} more." if len(broken_steps) > 1 else ""
        return f"The step {event.step_key} broke: {_explain(event.step_failure_data.error)}{more}"
    return (run_failure.message if run_failure is not None else None) or "The run ended without saying why."


def _explain(error: Any) -> str:
    """Say what broke a step: in our own words, or with no more than the name of a foreign error.

    Messages of ours hold neither secrets nor what was said; those of libraries may quote whatever they stumbled over.
    """
    name = "an error without a name"
    while error is not None:
        name = error.cls_name or name
        if by_name(name):
            first_line: str = (error.message.strip().splitlines() or [""])[0]
            return first_line.partition(": ")[2] or name
        error = error.cause
    return f"{name}; the run's log says more."


def _rows(metadata: dict[str, dg.MetadataValue[Any]], label: str) -> list[dict[str, Any]]:
    table = metadata.get(label)
    return [dict(record.data) for record in table.records] if isinstance(table, dg.TableMetadataValue) else []


def _address_of(run_id: str) -> str | None:
    """Return where the run is in the UI, if `IMPORT_PIPELINE_UI_URL` says where that is."""
    address = os.environ.get("IMPORT_PIPELINE_UI_URL", "").strip().rstrip("/")
    return f"{address}/runs/{run_id}" if address else None


def _as_text(message: dict[str, Any]) -> str:
    """Put a message into words, for chat programs; titles and reasons come from outside."""
    month = f" for {message['month'][:7]}" if message["month"] else ""
    lines = [f"{message['job']}{month} failed: {message['problem']}"]
    if message["counts"]:
        lines.append(", ".join(f"{value} {name}" for name, value in message["counts"].items()))
    lines += [f"• {each['item']}: {each['reason']}" for each in message["failed_items"]]
    lines += message["what_to_do"]
    return "\n".join([*map(_defused, lines), _escaped(message["run_url"] or f"Run {message['run_id']}")])


def _defused(line: str) -> str:
    """Let nothing in a line call people (`@channel`), lead away, show a picture, or swallow the lines that follow."""
    return _escaped(_MARKUP.sub("\\g<0>\N{ZERO WIDTH SPACE}", line))


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
