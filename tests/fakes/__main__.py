"""The fakes by hand: `python -m tests.fakes zoom --port 9002 --calls 500`."""

from __future__ import annotations

import json
import shlex
import signal
import threading
from dataclasses import fields
from types import FrameType
from typing import Any

import click

from . import ALL_KINDS, FathomServer, Faults, Provider, YouTubeServer, ZoomServer

PROVIDERS: dict[str, type[Provider]] = {"fathom": FathomServer, "zoom": ZoomServer, "youtube": YouTubeServer}
CREDENTIALS = {"fathom": ("api-key", "oauth"), "zoom": ("oauth", "server-to-server"), "youtube": ("key", "oauth")}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("provider", type=click.Choice(list(PROVIDERS)))
@click.option("--port", default=0, show_default="a free one", help="Where it listens on 127.0.0.1.")
@click.option("--calls", default=50, show_default=True, help="How many calls there are.")
@click.option("--months", default=13.0, show_default=True, help="Over how many months up to now they are spread.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes up the same calls.")
@click.option("--hosts", default=1, show_default=True, help="Over how many people they are spread, at most 5.")
@click.option(
    "--faults",
    "share",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="The share of requests that go wrong, 0 to 1.",
)
@click.option("--fault-kinds", help=f"Which faults, joined by commas: {', '.join(ALL_KINDS)}, or any status.")
@click.option("--rate-limit", metavar="N/SECONDS", help="For instance 60/1s. By default there is none.")
@click.option(
    "--auth",
    default="any",
    show_default=True,
    help="Accepted: any; api-key or oauth (fathom); oauth or server-to-server (zoom); key or oauth (youtube).",
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=JSON",
    help="Any other switch of the server, for instance --option clamp_days=28; --option ? lists them.",
)
def main(
    provider: str,
    port: int,
    calls: int,
    months: float,
    seed: int,
    hosts: int,
    share: float,
    fault_kinds: str | None,
    rate_limit: str | None,
    auth: str,
    options: tuple[str, ...],
) -> None:
    """Serve a fake of a PROVIDER until Ctrl-C.

    While it runs, `curl -d '{"share": 0.5}' URL/_faults` changes its faults, and `curl URL/_requests` counts what was
    asked.
    """
    kind = PROVIDERS[provider]
    if auth not in ("any", *CREDENTIALS[provider]):
        raise click.UsageError(f"{provider} knows --auth any, {' and '.join(CREDENTIALS[provider])}.")
    if "?" in options:
        click.echo(kind.__doc__)
        click.echo(Provider.__doc__)
        return
    faults = Faults(share=share, seed=seed)
    switches: dict[str, Any] = {"calls": calls, "months": months, "seed": seed, "hosts": hosts, "auth": auth}
    try:
        if fault_kinds:
            faults.change({"kinds": [each.strip() for each in fault_kinds.split(",")]})
        switches |= _parse(kind, options)
        server = kind(port=port, faults=faults, rate_limit=rate_limit, **switches)  # type: ignore[call-arg]
        server.start()
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"It cannot listen on port {port}: {error.strerror}.") from error
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, on_signal)
    _introduce(provider, server)
    while not stop.wait(1):
        pass
    server.close()
    click.echo(json.dumps(server.summary()))


def _parse(kind: type[Provider], options: tuple[str, ...]) -> dict[str, Any]:
    known = {each.name for each in fields(kind)} - {"faults", "oauth", "media"}
    switches: dict[str, Any] = {}
    for option in options:
        name, _, text = option.partition("=")
        if name not in known:
            raise click.UsageError(f"There is no switch {name!r}; --option ? lists them.")
        try:
            switches[name] = json.loads(text)
        except ValueError:
            switches[name] = text
    return switches


def _introduce(provider: str, server: Provider) -> None:
    click.echo(f"Fake {provider} with {len(server.calls)} calls.")
    click.echo(f"  base URL       {server.url}")
    for name in ("token_url", "authorize_url"):
        if address := getattr(server, name, None):
            click.echo(f"  {name.replace('_url', ' URL'):<14} {address}")
    for name, value in server.credentials.items():
        click.echo(f"  {name:<14} {value}")
    click.echo(f"  steer it       curl -d '{{\"share\": 0.5}}' {server.origin}/_faults")
    click.echo(f"  count          curl {server.origin}/_requests\n")
    for name, value in server.environment.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    click.echo("\nCtrl-C ends it.")


if __name__ == "__main__":
    main(prog_name="python -m tests.fakes")
