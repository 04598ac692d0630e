"""`import-pipeline dev`: the UI on this library, for as long as somebody wants it.

Opens the database and the instance, keeps the embedded server and the three services (`services`) running, and ends
everything with this process. Runs that were working go on when it is opened again.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path
from types import FrameType

import psutil

from import_pipeline.cli.dev.address import Address
from import_pipeline.cli.dev.guard import SIGN_IN_PATH
from import_pipeline.cli.dev.services import Services, end, running_services
from import_pipeline.cli.dev.sign_in import LINKS, OPERATOR, VIEWER, SignIn
from import_pipeline.cli.output import plural, say
from import_pipeline.database.embedded import home
from import_pipeline.database.opening import Database, open_database
from import_pipeline.errors import ConfigurationError, EmbeddedServerError
from import_pipeline.instance.preparing import prepare_instance

_LOOK_SECONDS = 0.5
_PROVE_SECONDS = 2.0


def serve(host: str, port: int, *, asks: bool, opens_browser: bool, invites: bool) -> None:
    """Run until interrupted or terminated.

    Args:
        host: What to listen on.
        port: On which port.
        asks: Whether people must sign in.
        opens_browser: Whether to open the browser, where there is one.
        invites: Whether to print a link for colleagues too.

    Raises:
        ConfigurationError: The port is taken, or strangers could enter.
        ImportPipelineError: Dagster could not be started.
    """
    address = Address.of(host, port)
    address.require_free()
    if not asks and not address.is_loopback:
        raise ConfigurationError(
            f"Without sign-in everybody who reaches {host} may do everything. Leave out --no-sign-in, or --host."
        )
    if not asks:
        say("No sign-in: every user of this machine may start runs, and a run reads your files. Be alone on it.")
    with _terminated_like_interrupted(), open_database() as database, _alone(), _open_desk(address) as desk:
        folder = prepare_instance(database)
        say(f"Starting Dagster with {folder} …")
        try:
            with running_services(address, _desk_folder(), None if asks else OPERATOR) as services:
                say(f"The UI is at {address.url} — press Ctrl-C to stop.")
                _welcome(address, desk, asks=asks, opens_browser=opens_browser, invites=invites)
                _watch(services, database)
        except KeyboardInterrupt:
            _interrupt_runs(str(folder))
    say("Stopped.")


def make_link(role: str) -> str:
    """Return a new link to the UI of this home, which another process keeps open.

    Raises:
        ConfigurationError: None is open.
    """
    with (home() / "dev.lock").open("a") as lock, suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        raise ConfigurationError(f"The UI of {home()} is not open; `import-pipeline dev` opens it.")
    try:
        return _link((_desk_folder() / "url").read_text(encoding="utf-8"), SignIn(_desk_folder()), role)
    except FileNotFoundError:
        raise ConfigurationError(f"The UI of {home()} is just being opened; ask again in a moment.") from None


def _welcome(address: Address, desk: SignIn, *, asks: bool, opens_browser: bool, invites: bool) -> None:
    """Let the operator in: a link in the terminal, and the browser."""
    if not address.is_loopback and not address.url.startswith("https:"):
        say(
            "What is sent over http can be read on its way, the cookie of your session too: anybody who has it is you. "
            "Put a proxy with TLS before it, and its address into IMPORT_PIPELINE_UI_URL."
        )
    if not asks:
        link = address.url
    elif _is_heard_by_one():
        link = _link(address.url, desk, OPERATOR)
        say(f"Sign in with {link}")
        minutes = LINKS[OPERATOR].seconds // 60
        say(f"It works once, within {minutes} minutes; `import-pipeline dev --link` prints another.")
    else:
        link = ""
        say("`import-pipeline dev --link` prints a link to sign in with; here others might read it.")
    if invites and _is_heard_by_one():
        hours = LINKS[VIEWER].seconds // 3600
        say(f"For colleagues, who look and change nothing, {hours} hours long: {_link(address.url, desk, VIEWER)}")
    if opens_browser and link and sys.stderr.isatty() and _has_display():
        _open_browser(desk, link)


def _open_browser(desk: SignIn, link: str) -> None:
    """Open the browser on a file of ours that leads to the link: arguments of programs can be seen by every user."""
    leads = f'<meta name="referrer" content="no-referrer"><meta http-equiv="refresh" content="0; url={escape(link)}">'
    file = desk.write("open.html", f"<!doctype html>{leads}")
    threading.Thread(target=webbrowser.open, args=(file.as_uri(),), daemon=True).start()


def _has_display() -> bool:
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _is_heard_by_one() -> bool:
    """Say whether a terminal or who started us is told what we say: files and journals may have other readers."""
    return sys.stderr.isatty() or stat.S_ISFIFO(os.fstat(sys.stderr.fileno()).st_mode)


def _link(url: str, desk: SignIn, role: str) -> str:
    return f"{url}{SIGN_IN_PATH}?token={desk.make_token(role)}"


def _desk_folder() -> Path:
    return home() / "ui"


@contextmanager
def _open_desk(address: Address) -> Iterator[SignIn]:
    """Keep links and sessions for as long as the UI is open."""
    desk = SignIn(_desk_folder())
    desk.prepare()
    desk.write("url", address.url)
    try:
        yield desk
    finally:
        desk.forget()


def _watch(services: Services, database: Database) -> None:
    proved_at = 0.0
    while True:
        if database.server is not None and time.monotonic() - proved_at > _PROVE_SECONDS:
            try:
                database.server.ensure_running()
            except EmbeddedServerError as error:
                say(f"The embedded PostgreSQL does not come back yet: {error}")
            proved_at = time.monotonic()
        services.keep_running()
        time.sleep(_LOOK_SECONDS)


def _interrupt_runs(dagster_home: str) -> None:
    """Interrupt the runs that are working; they go on when the UI is opened again."""
    from import_pipeline.instance.run_launcher import find_workers  # it loads Dagster, which nothing needed before

    workers = find_workers(dagster_home)
    if workers:
        say(f"Interrupting {plural(len(workers), 'run')}, to go on when the UI is opened again …")
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGINT)
        end(workers)


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the home for this process: two daemons on one instance would do everything twice.

    Raises:
        ConfigurationError: Another one is open.
    """
    with (home() / "dev.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(
                f"The UI of {home()} is open already, in another terminal; `import-pipeline dev --link` "
                "prints a link to it."
            ) from None
        yield


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let a service manager's SIGTERM end everything as cleanly as Ctrl-C."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
