"""Secrets and words that can be recognised are planted everywhere, and then looked for everywhere (F88)."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import psycopg
import pytest
from commands import COMMAND, VTT, CommandLine, write_calls
from fakes import FathomServer, Faults, ZoomServer
from servers import with_database
from upath import UPath

from import_pipeline.database.embedded import open_server
from import_pipeline.stages.staging import _read_lines

pytestmark = pytest.mark.long

CANARY = "canary7f3a"
KEY, ACCESS, REFRESH, SECRET = (f"{CANARY}-{name}" for name in ("key", "access", "refresh", "secret"))


class _Processes:
    """Remembers every command line that runs on this machine meanwhile."""

    def __enter__(self) -> _Processes:
        self.seen: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
            self.seen |= set(listed.stdout.splitlines())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def run(command: CommandLine, *arguments: str, given: str = "") -> str:
    """Run a command with something on its standard input, and return all that it prints."""
    done = subprocess.run(
        [COMMAND, *arguments],
        env=command.environment,
        input=given,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return f"{done.returncode}\n{done.stdout}{done.stderr}"


def files_with_canary(command: CommandLine, *, but_not_below: str = "") -> Iterator[str]:
    home = command.home
    for path in home.rglob("*"):
        if not path.is_file() or path.is_socket() or but_not_below in path.relative_to(home).parts:
            continue
        with mock.patch.dict(os.environ, command.environment):  # there is the key of what is sealed
            data = b"".join(_read_lines(UPath(path))) if path.suffix == ".sealed" else path.read_bytes()
        if CANARY.encode() in data:
            yield str(path.relative_to(home))


def tables_with_canary(url: str) -> Iterator[str]:
    with psycopg.connect(url, autocommit=True) as conn:
        databases = [name for (name,) in conn.execute("select datname from pg_database where datallowconn")]
    for database in databases:
        with psycopg.connect(with_database(url, database), autocommit=True) as conn:
            tables = conn.execute(
                "select quote_ident(schemaname) || '.' || quote_ident(tablename) from pg_tables"
                " where schemaname not in ('pg_catalog', 'information_schema')"
            ).fetchall()
            for (table,) in tables:
                count = conn.execute(f"select count(*) from {table} as t where t::text like '%{CANARY}%'").fetchone()
                if count and count[0]:
                    yield f"{database}: {table}"


def test_f88_no_secret_is_found_in_any_output_file_table_or_command_line(tmp_path: Path) -> None:
    printed = ""
    with (
        FathomServer(calls=25, api_keys={KEY: "dana@example.com"}, faults=Faults(share=0.2)) as fathom,
        ZoomServer(calls=25, faults=Faults(share=0.2, path="/v2/")) as zoom,
        _Processes() as processes,
    ):
        zoom.oauth.expires_in = 2  # renewed several times
        zoom.oauth.issue(access_token=ACCESS, refresh_token=REFRESH, expires_in=3600)
        settings = {
            **fathom.environment,
            **zoom.environment,
            "IMPORT_PIPELINE_FATHOM_RATE_LIMITS": "none",
            "IMPORT_PIPELINE_ZOOM_RATE_LIMITS": "none",
            "IMPORT_PIPELINE_FATHOM_HISTORY_START": "2025-06-01",
            "IMPORT_PIPELINE_ZOOM_HISTORY_START": "2025-06-01",
        }
        command = CommandLine(tmp_path / "home", settings)
        printed += run(command, "connect", "fathom", given=KEY)
        app = {"client_id": zoom.oauth.client_id, "client_secret": zoom.oauth.client_secret}
        tokens = {"refresh_token": REFRESH, "access_token": ACCESS, "expires_at": time.time() + 3600}
        printed += run(command, "connect", "zoom", given=json.dumps(app | tokens))
        printed += run(command, "connect", "zoom", given=json.dumps(app | {"client_secret": SECRET} | tokens))
        printed += run(command, "connect", "fathom", given=f"{CANARY}-wrong")
        for source in ("fathom", "zoom"):
            printed += run(command, "sync", source)
        # Everything is refused from now on.
        fathom.faults = Faults(always={"/meetings": "401"})
        zoom.oauth.revoke()
        for source in ("fathom", "zoom"):
            printed += run(command, "sync", source, "--full")
        for name in ("status", "failures", "sources", "rotate-key"):
            printed += run(command, name)
        printed += run(command, "disconnect", "fathom")
    assert "25" in printed
    assert "connect" in printed
    assert CANARY not in printed
    assert not [line for line in processes.seen if CANARY in line]
    assert not list(files_with_canary(command))
    with open_server(command.home) as server:
        assert not list(tables_with_canary(server.url()))


BROKEN = {
    "cut off.json": f'{{"segments": [{{"text": "{CANARY}',
    "of another kind.json": f'{{"said": ["{CANARY}"], "{CANARY}": 1}}',
    "without times.srt": f"{CANARY}\n{CANARY}\n",
    "only a note.vtt": f"WEBVTT\n\nNOTE {CANARY}\n",
    "times that run backwards.vtt": f"WEBVTT\n\n00:99:99.000 --> {CANARY}\n{CANARY}\n",
    "no archive.docx": f"PK {CANARY}",
    "nothing known.pages": CANARY,
    "empty of times.csv": f"speaker,text\nDana,{CANARY}\n",
}


def test_f88_what_was_said_is_found_in_the_table_of_recordings_and_nowhere_else(tmp_path: Path) -> None:
    """However broken the file in which it was written."""
    folder = tmp_path / "calls"
    write_calls(folder, 3)
    (folder / "said.vtt").write_text(VTT.format(text=CANARY))
    for name, content in BROKEN.items():
        (folder / name).write_text(content)
    command = CommandLine(tmp_path / "home")
    printed = "".join(
        run(command, *arguments)
        for arguments in (
            *(("upload", str(folder)), ("upload", str(folder), "--json"), ("failures",), ("failures", "--json")),
            *(("retry",), ("status",), ("why", str(folder / "said.vtt")), ("why", str(folder / "cut off.json"))),
        )
    )
    assert "cut off" in printed
    assert CANARY not in printed
    assert not list(files_with_canary(command, but_not_below="postgres"))
    with open_server(command.home) as server:
        assert list(tables_with_canary(server.url())) == ["import_pipeline: public.recordings"]
