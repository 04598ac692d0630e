"""Whoever can write where batches wait puts no row into anybody's library, and nobody else can write there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import zstandard
from connectors import demo
from connectors.demo import Demo
from upath import UPath
from world import World, calls

from import_pipeline.errors import ConfigurationError
from import_pipeline.records import Stream
from import_pipeline.stages.staging import StreamIOManager, _read_lines, write_output

FETCHED = "batches.0_00000.sealed"


@dataclass
class Staged:
    """A run whose batch was transformed, and then the database broke off; all its files wait."""

    world: World
    job: Any
    run_id: str
    other_run_id: str

    def file(self, step: str, name: str = "result.sealed", run_id: str | None = None) -> Path:
        return self.world.staging / (run_id or self.run_id) / step / name

    def go_on(self) -> dg.ExecuteJobResult:
        """Re-execute from the step that broke, as the UI does."""
        options = dg.ReexecutionOptions.from_failure(self.run_id, self.world.instance)
        with dg.execute_job(self.job, self.world.instance, raise_on_error=False, reexecution_options=options) as result:
            return result


@pytest.fixture
def staged(conn: psycopg.Connection[Any], database_url: str, tmp_path: Path) -> Iterator[Staged]:
    conn.autocommit = True
    with dg.instance_for_test() as instance:
        world = World(conn, database_url, tmp_path / "staging", instance)
        for name in ("ana", "ben"):
            world.account(f"{name}@example.com")
        world.do(
            "create function public.refuse() returns trigger language plpgsql security definer as"
            " $$ begin perform pg_cancel_backend(pg_backend_pid()); return new; end $$"
        )
        world.do("create trigger refuse before insert on import_items for each row execute function public.refuse()")
        job = demo.reconstructable(world.job(Demo(calls(3))))
        run_ids = []
        for _ in range(2):
            with dg.execute_job(job, instance, raise_on_error=False) as broken:
                assert not broken.success
                run_ids.append(broken.run_id)
            world.settle()
        world.do("drop trigger refuse on import_items")
        yield Staged(world, job, run_ids[1], run_ids[0])


def edit(staged: Staged) -> None:
    """Rewrite the file as it would have been written without a key, with another user's id in it."""
    path = staged.file("transform[0_00000]")
    lines = b"".join(_read_lines(UPath(path)))
    head = json.loads(lines.splitlines()[1])
    (ben,) = (
        user for (user,) in staged.world.rows("select id::text from auth.users") if user != head["account"]["user_id"]
    )
    path.write_bytes(zstandard.compress(lines.replace(head["account"]["user_id"].encode(), ben.encode())))


def flip(staged: Staged) -> None:
    path = staged.file("transform[0_00000]")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_off(staged: Staged) -> None:
    path = staged.file("transform[0_00000]")
    path.write_bytes(path.read_bytes()[:-20])


def replay_an_earlier_run(staged: Staged) -> None:
    shutil.copy(staged.file("transform[0_00000]", run_id=staged.other_run_id), staged.file("transform[0_00000]"))


def replay_another_batch(staged: Staged) -> None:
    shutil.copy(staged.file("transform[1_00000]"), staged.file("transform[0_00000]"))


def replay_another_step(staged: Staged) -> None:
    shutil.copy(staged.file("dedup[0_00000]"), staged.file("transform[0_00000]"))


def seal_with_another_key(staged: Staged) -> None:
    path = UPath(staged.file("transform[0_00000]"))
    lines = list(_read_lines(path))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as home:
        patch.setenv("IMPORT_PIPELINE_HOME", home)
        from import_pipeline.stages.staging import _batch, _item

        write_output(path, Stream(_batch.validate_json(lines[1]), [_item.validate_json(line) for line in lines[2:]]))


@pytest.mark.long
@pytest.mark.parametrize(
    "attack",
    [edit, flip, cut_off, replay_an_earlier_run, replay_another_batch, replay_another_step, seal_with_another_key],
)
def test_a_staged_file_that_is_not_as_it_was_left_imports_nothing_and_says_what_to_do(
    staged: Staged, attack: Callable[[Staged], None]
) -> None:
    """A6: rows of one user came into another's library."""
    attack(staged)
    result = staged.go_on()
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure and event.step_key == "insert[0_00000]"]
    assert "execute all steps of the run again" in str(failure.event_specific_data)
    owners = staged.world.rows(
        "select email, count(*) from recordings join auth.users as u on u.id = owner_user_id group by 1"
    )
    assert len(owners) == 1, "only the batch of the other account is imported"
    assert owners[0][1] == 3


@pytest.mark.long
def test_staged_files_that_are_as_they_were_left_are_gone_on_with(staged: Staged) -> None:
    assert staged.go_on().success
    assert staged.world.rows("select count(*) from recordings") == [(6,)]


@pytest.mark.long
def test_a_new_key_only_lets_the_run_list_again(
    staged: Staged, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_HOME", str(tmp_path / "another home"))
    assert not staged.go_on().success
    options = dg.ReexecutionOptions(staged.run_id)
    with dg.execute_job(staged.job, staged.world.instance, reexecution_options=options) as result:
        assert result.success
    assert staged.world.rows("select count(*) from recordings") == [(6,)]


# --- where batches wait -------------------------------------------------------------------------------------------

NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users of the machine may pass."""
    with tempfile.TemporaryDirectory(prefix="import-pipeline-staging-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def make(base: Path, mode: int = 0o700, owner: int | None = None) -> Path:
    base.mkdir(parents=True, exist_ok=True)
    base.chmod(mode)
    if owner is not None:
        os.chown(base, owner, owner)
    return base


def test_a_folder_of_ones_own_is_taken_and_one_that_is_missing_is_made(place: Path) -> None:
    for base in (make(place / "own"), make(place / "readable", 0o755), place / "missing" / "deep"):
        assert StreamIOManager(base=str(base)).private_base() == str(base)
    assert (place / "missing" / "deep").stat().st_mode & 0o777 == 0o700
    (place / "link").symlink_to(place / "own")
    assert StreamIOManager(base=str(place / "link")).private_base()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702, 0o770], ids=oct)
def test_a_folder_into_which_others_may_write_is_refused(mode: int, place: Path) -> None:
    base = make(place / "base", mode)
    if mode == 0o770:
        os.chown(base, -1, _group_of_several())
    with pytest.raises(ConfigurationError, match="chmod go-rwx"):
        StreamIOManager(base=str(base)).private_base()


@pytest.mark.parametrize("mode", [0o777, 0o707])
def test_a_folder_whose_parents_others_may_change_is_refused(mode: int, place: Path) -> None:
    base = make(make(place / "open", mode) / "inner" / "base")
    (place / "link").symlink_to(base)
    for each in (base, place / "link"):
        with pytest.raises(ConfigurationError, match=r"may replace what lies in .*open"):
            StreamIOManager(base=str(each)).private_base()
    (place / "open").chmod(0o1777)
    assert StreamIOManager(base=str(base)).private_base()


def _group_of_several() -> int:
    """Of a group that has other members, or is not the user's own."""
    import grp

    own = os.getegid()
    return next(group for group in os.getgroups() if group != own) if os.geteuid() else grp.getgrnam("daemon").gr_gid


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")


@as_root
def test_a_folder_or_link_of_another_user_is_refused_wherever_it_stands_on_the_way(place: Path) -> None:
    theirs = make(place / "theirs", 0o755, NOBODY)
    below = make(theirs / "below" / "base")
    sticky = make(place / "sticky", 0o1777)
    own = make(place / "own")
    subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "ln", "-s", own, sticky / "link"],
        check=True,
    )
    for base in (theirs, below, sticky / "link"):
        with pytest.raises(ConfigurationError, match="is nobody's"):
            StreamIOManager(base=str(base)).private_base()


UPLOAD = """
import os, sys
from import_pipeline import cli
sys.argv = ["import-pipeline", "upload", os.environ["CALLS"]]
cli.main()
"""


@pytest.mark.long
def test_a_run_begins_nothing_where_others_may_write(
    place: Path, tmp_path: Path, database_url: str, conn: psycopg.Connection[Any], make_user: Any
) -> None:
    make_user(conn, "ana@example.com")
    conn.commit()
    (tmp_path / "call.vtt").write_text("WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nAna: Hi.\n")
    settings = {
        "DATABASE_URL": database_url, "IMPORT_PIPELINE_USER": "ana@example.com", "CALLS": str(tmp_path / "call.vtt"),
        "IMPORT_PIPELINE_HOME": str(tmp_path / "home"), "IMPORT_PIPELINE_STAGING": str(make(place / "base", 0o777)),
        "IMPORT_PIPELINE_SETTLE_SECONDS": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", UPLOAD], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == ConfigurationError.exit_code, done.stderr
    assert "chmod go-rwx" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((place / "base").iterdir()) == []
    (place / "base").chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-c", UPLOAD], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_job_is_refused_before_it_asks_for_anything(
    conn: psycopg.Connection[Any], database_url: str, place: Path
) -> None:
    conn.autocommit = True
    with dg.DagsterInstance.ephemeral() as instance:
        world = World(conn, database_url, make(place / "base", 0o777), instance)
        world.account("ana@example.com")
        source = Demo(calls(3))
        result = world.run(source)
        (failure,) = [event for event in result.all_events if event.is_step_failure]
        assert failure.step_key == "connect"
        assert "chmod go-rwx" in str(failure.event_specific_data)
        assert source.asked == []
        assert world.jobs() == []


def test_what_is_at_the_place_of_an_unfinished_file_is_not_written_into(tmp_path: Path) -> None:
    path = UPath(tmp_path) / "run" / "step" / "result.sealed"
    path.parent.mkdir(parents=True)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    Path(f"{path}.partial").symlink_to(precious)
    write_output(path, [])
    assert precious.read_text() == "mine"
    assert not Path(str(path)).is_symlink()
