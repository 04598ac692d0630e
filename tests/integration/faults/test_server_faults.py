"""PostgreSQL goes wrong while an import runs: the run says so, and one more brings everything, once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import servers
from fakes import FathomServer
from faults.library import CALLS, MOMENTS, Library, at, check_told
from psycopg import sql

from import_pipeline.connectors.fathom import Fathom
from import_pipeline.connectors.file_upload import FileUpload

FETCHING, WRITING, _ = MOMENTS
Switch = Callable[[], object]
"""Brings a fault, or ends it."""


class Fault:
    """What a test does to the server of a library.

    Attributes:
        words: What the run that meets it must say.
    """

    words: str

    def __init__(self, library: Library, server: servers.Server) -> None:
        self.library = library
        self.server = server
        self.database = library.owner_url.rpartition("/")[2].partition("?")[0]
        self.sessions = ExitStack()

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        self.sessions.close()

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.server.url, autocommit=True) as conn:
            conn.execute(sql.SQL(statement).format(database=sql.Identifier(self.database)))

    def end_sessions(self) -> None:
        """End what the importer has open, so that the fault meets it at once."""
        self.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'import-pipeline'"
        )


class StoppedAndStarted(Fault):
    words = "connection to the database was lost|shut down or restarted"

    def begin(self) -> None:
        self.server.stop("immediate")
        self.server.start()


class Restarted(StoppedAndStarted):
    def begin(self) -> None:
        self.server.stop("fast")
        self.server.start()


class Stopped(Fault):
    words = "could not be reached|connection to the database was lost"

    def begin(self) -> None:
        self.server.stop("immediate")

    def end(self) -> None:
        self.server.start()


class NoConnectionForTheLogin(Fault):
    words = "too many connections for role|restarted, or somebody ended"

    def begin(self) -> None:
        self.execute("alter role importer connection limit 0")
        self.end_sessions()

    def end(self) -> None:
        self.execute("alter role importer connection limit -1")


class NoConnectionAtAll(Fault):
    words = "connection slots|too many clients|restarted, or somebody ended"

    def begin(self) -> None:
        self.fill()
        self.end_sessions()
        self.fill()

    def fill(self) -> None:
        for _ in range(30):
            try:
                conn = psycopg.connect(self.library.world.url, application_name="another program")
            except psycopg.OperationalError:
                return
            self.sessions.enter_context(conn)
        raise AssertionError("There are connections without end.")


class ReadOnly(Fault):
    words = "read only at present.*DATABASE_URL must lead to the server that takes writes"

    def begin(self) -> None:
        self.execute("alter database {database} set default_transaction_read_only = on")
        self.end_sessions()

    def end(self) -> None:
        self.execute("alter database {database} reset default_transaction_read_only")


class TimedOut(Fault):
    setting = "statement_timeout"
    words = "longer than `statement_timeout` allows"

    def begin(self) -> None:
        self.execute(f"alter database {{database}} set {self.setting} = '2s'")
        self.end_sessions()
        conn = self.sessions.enter_context(psycopg.connect(self.library.owner_url))
        conn.execute("lock table public.recordings in share mode")

    def end(self) -> None:
        super().end()
        self.execute(f"alter database {{database}} reset {self.setting}")


class NoLock(TimedOut):
    setting = "lock_timeout"
    words = "longer than `lock_timeout` allows"


FAULTS = {
    "stopped in mode immediate and started": StoppedAndStarted,
    "restarted in mode fast": Restarted,
    "stopped until the run is over": Stopped,
    "no connection left for the login": NoConnectionForTheLogin,
    "no connection left at all": NoConnectionAtAll,
    "read only": ReadOnly,
    "statement_timeout 2 s while a table is locked": TimedOut,
    "lock_timeout 2 s while a table is locked": NoLock,
}
DEFAULT = {"stopped in mode immediate and started"}


@pytest.fixture(params=[pytest.param(n, marks=() if n in DEFAULT else pytest.mark.long) for n in FAULTS])
def fault(request: pytest.FixtureRequest, library: Library, server: servers.Server) -> tuple[str, Fault]:
    return request.param, FAULTS[request.param](library, server)


def test_files_are_imported_once_each_by_the_run_after_the_one_that_met_a_fault_while_writing(
    fault: tuple[str, Fault], library: Library, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.connect("file-upload")
    meet(library, fault, WRITING, FileUpload(is_of_command=True), CALLS, monkeypatch, paths=[str(files)])


def test_calls_of_a_provider_are_imported_once_each_by_the_run_after_the_one_that_met_a_fault_while_fetching(
    fault: tuple[str, Fault], library: Library, fathom: FathomServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.connect("fathom")
    meet(library, fault, FETCHING, Fathom(), sorted(fathom.external_ids), monkeypatch)


def meet(
    library: Library,
    fault: tuple[str, Fault],
    moment: str,
    connector: Any,
    expected: Any,
    monkeypatch: pytest.MonkeyPatch,
    **options: Any,
) -> None:
    """Let a run meet a fault in its second batch, and after the end of the fault run once more."""
    name, kind = fault
    call = 8 if moment == FETCHING else 2
    has_come = at(monkeypatch, moment, kind.begin, call=call)
    try:
        broken = library.run(connector, **options)
    finally:
        kind.end()
    assert has_come()
    said = check_told(library, broken, kind.words, expected)
    library.check(f"{name} ({connector.source_app})", moment, said, connector, expected, **options)
