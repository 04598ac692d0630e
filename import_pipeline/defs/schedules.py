"""The schedules of the sources, `sync_<source>`: the same as the sensors of `sensors/`, at fixed times.

For who prefers a clock to look at. In UTC, so that no change of the clocks fires one twice or leaves one out.
"""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

from import_pipeline.connectors.base import Connector
from import_pipeline.defs.sensors import ask_for_runs, describe_interval
from import_pipeline.stages.postgres import PostgresResource

OUTSTANDING_RUNS = 100
"""How many runs of a source a schedule lets queue up: it asks less often than a sensor, so for more at a time."""


def build_source_schedule(connector: Connector) -> dg.ScheduleDefinition:
    """Return the schedule `sync_<source>` of a connector whose runs need to know nothing but the accounts."""
    spacing, cron = plan_ticks(connector.polling_interval)

    @dg.schedule(
        name=f"sync_{connector.dagster_name}",
        job_name=connector.job_name,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=(
            f"Imports what is new at {connector.title} {describe_interval(spacing)}, for the accounts that are due. "
            f"Switch on either this or the sensor watch_{connector.dagster_name}, which also tries single calls again "
            "in time and notices at once when somebody connects."
        ),
    )
    def sync(context: dg.ScheduleEvaluationContext, postgres: PostgresResource) -> list[dg.RunRequest] | dg.SkipReason:
        # A run that began seconds after the last tick is due seconds after this one, and not with the next.
        return ask_for_runs(
            context.instance,
            postgres,
            connector,
            outstanding=OUTSTANDING_RUNS,
            per_tick=OUTSTANDING_RUNS,
            slack=spacing / 2,
        )

    return sync


def plan_ticks(interval: timedelta) -> tuple[timedelta, str]:
    """Return how far apart the ticks are, and their cron expression, for a source to be asked so often.

    Ticks divide the hour or the day evenly, so they may come a little more often than asked for, and at least daily.
    """
    minutes = max(1, int(interval.total_seconds() // 60))
    if minutes < 60:
        step = _largest_divisor(60, minutes)
        return timedelta(minutes=step), "* * * * *" if step == 1 else f"*/{step} * * * *"
    step = _largest_divisor(24, minutes // 60)
    hours = {1: "*", 24: "0"}.get(step, f"*/{step}")
    return timedelta(hours=step), f"0 {hours} * * *"


def _largest_divisor(of: int, at_most: int) -> int:
    return next(step for step in range(min(of, at_most), 0, -1) if of % step == 0)
