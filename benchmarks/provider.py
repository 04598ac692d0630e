"""How much of what a provider allows an import of history uses, and whether it is ever refused.

    uv run python -m benchmarks.provider [--json] [--rounds 5] [--seconds 20] [--speed 10] [--latency 50] [--source all]

The real command, in a process of its own and with a library of its own each time, against fakes that answer after so
many milliseconds and count as the documentation says: Zoom at 20 requests a second, Fathom's two limits at ten times
their speed, so that nobody has to wait for minutes. What is told is how full the limit was on average, from the end of
the first span on until the last transcript was asked for.
"""

from __future__ import annotations

import bisect
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import Claim, parse_arguments, report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import servers
from commands import CommandLine
from fakes import FathomServer, Provider, RateLimit, ZoomServer, make_calls
from fakes import fathom as fake_fathom
from fakes import zoom as fake_zoom
from fakes.server import Request, RequestRecord, Response, Route

MONTHS = 2


class StrictZoom(ZoomServer):
    """A Zoom that counts downloads as well, since its documentation does not say that it does not."""

    def admit(self, request: Request, marked: Route) -> Response | None:
        """See `FakeServer`."""
        if marked.kind == "download":
            taken = self.limits.take(("requests",), request.credential)
            if taken and not taken[1]:
                return self.too_many_requests(request, None)
        return super().admit(request, marked)


@dataclass(frozen=True)
class Case:
    """A provider with its limit, and which requests draw on it.

    Args:
        name: What the table calls it.
        source: What is imported.
        server: The fake.
        switches: Of the fake.
        settings: Of the command.
        counted: What the addresses of the requests hold that are counted: those for transcripts.
        limit: What they may not exceed.
        calls_a_request: How many calls each of them brings.
    """

    name: str
    source: str
    server: type[Provider]
    switches: dict[str, Any]
    settings: dict[str, str]
    counted: str
    limit: RateLimit
    calls_a_request: int


def make_cases(speed: int) -> list[Case]:
    """Return the providers, Fathom with so many times its documented speed."""
    seconds = 60 / speed
    return [
        Case(
            f"Fathom, heavy requests, 30 in {seconds:g} s",
            "fathom",
            FathomServer,
            {"rate_limit": f"60/{seconds}s", "heavy_rate_limit": f"30/{seconds}s"},
            {
                "IMPORT_PIPELINE_FATHOM_API_KEY": fake_fathom.API_KEY,
                "IMPORT_PIPELINE_FATHOM_RATE_LIMITS": f"requests=60/{seconds}s, heavy=30/{seconds}s",
            },
            "include_transcript",
            RateLimit(30, seconds),
            10,
        ),
        Case(
            "Zoom, 20 in 1 s",
            "zoom",
            StrictZoom,
            {"rate_limit": "20/1s"},
            {
                "IMPORT_PIPELINE_ZOOM_ACCOUNT_ID": fake_zoom.ACCOUNT_ID,
                "IMPORT_PIPELINE_ZOOM_CLIENT_ID": fake_zoom.CLIENT_ID,
                "IMPORT_PIPELINE_ZOOM_CLIENT_SECRET": fake_zoom.CLIENT_SECRET,
            },
            "/rec/download/",
            RateLimit(20, 1),
            1,
        ),
    ]


def import_history(case: Case, seconds: float, latency: float) -> tuple[float, int]:
    """Import so much that it takes about so long, and return the share that was used and the number of refusals.

    Args:
        case: From where.
        seconds: How long it takes at the speed that is allowed.
        latency: How many seconds each answer takes.
    """
    requests = round(case.limit.requests * (1 + seconds / case.limit.seconds))
    calls = make_calls(requests * case.calls_a_request, months=MONTHS)
    server = case.server(calls=calls, latency=latency, **case.switches)
    with server, servers.scratch_folder() as folder:
        settings = server.environment | case.settings
        settings |= {
            "IMPORT_PIPELINE_USER": "ana@example.com",
            f"IMPORT_PIPELINE_{case.source.upper()}_HISTORY_START": f"{calls[-1].started_at:%Y-%m-%d}",
        }
        command_line = CommandLine(folder / "home", settings)
        connected = command_line.run("connect", case.source)
        assert connected.code == 0, connected.stderr
        server.forget_requests()
        done = command_line.run("sync", case.source, "--json", timeout=60 + 20 * seconds)
        assert (done.code, done.json["inserted"]) == (0, len(calls)), done.stderr
        records = server.requests
    refused = sum(record.status == 429 for record in records)
    return share([record for record in records if case.counted in record.target], case.limit), refused


def share(records: Sequence[RequestRecord], limit: RateLimit) -> float:
    """Return how full the limit was from the end of the first span until the last request, on average."""
    times = [record.arrived_at for record in records]
    first, last = times[0] + limit.seconds, times[-1]
    step = limit.seconds / 500
    ticks = [first + step * number for number in range(int((last - first) / step))]
    full = [bisect.bisect(times, tick) - bisect.bisect(times, tick - limit.seconds) for tick in ticks]
    return statistics.mean(full) / limit.requests


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(
        __doc__, rounds=(5, "imports of each source"), seconds=(20, "seconds that an import takes at least"),
        speed=(10, "times the documented speed of Fathom's limits"), latency=(50, "milliseconds until an answer"),
        source=("all", "`fathom`, `zoom` or both"),
    )  # fmt: skip
    cases = [case for case in make_cases(arguments.speed) if arguments.source in ("all", case.source)]
    found: dict[str, list[tuple[float, int]]] = {case.name: [] for case in cases}
    for _ in range(arguments.rounds):
        for case in cases:
            found[case.name].append(import_history(case, arguments.seconds, arguments.latency / 1000))
    claims = []
    for name, measured in found.items():
        used = statistics.median(used for used, _ in measured)
        claims.append(Claim(f"{name}: share used at {arguments.latency} ms", used, 0.95))
        claims.append(
            Claim(
                f"{name}: requests that were refused",
                sum(refused for _, refused in measured),
                0,
                at_least=False,
                unit="refusals",
            )
        )
    report(claims, as_json=arguments.json)


if __name__ == "__main__":
    main()
