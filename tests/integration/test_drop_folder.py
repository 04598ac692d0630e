"""The drop folder: what people put there is imported for them once, whatever they do with it, and never touched."""

from __future__ import annotations

import os
import shutil
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import tenants
from commands import VTT, CommandLine, write_calls
from connectors import demo
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dev import running_dev, wait_until
from webhook import Webhook
from world import World, problem_of

from import_pipeline.connectors.base import get_connector
from import_pipeline.connectors.file_upload.fences import IS_LINK
from import_pipeline.definitions import build_defs
from import_pipeline.defs import sensors
from import_pipeline.defs.sensors import watch_drop_folder as drop_folder_sensor
from import_pipeline.defs.sensors.watch_drop_folder import ask_for_files
from import_pipeline.library.drop_folder import find_drop_accounts, scan_drop_folder
from import_pipeline.stages.postgres import PostgresResource

UPLOAD = get_connector("file-upload")


class Folder:
    """A drop folder, the people who use it, and the sensor that looks at it."""

    def __init__(self, world: World, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.path = path
        self.monkeypatch = monkeypatch
        self.asked: list[dg.RunRequest] = []
        path.mkdir()
        self.ana, self.ben = (tenants.make_user(world.conn, f"{name}@example.com") for name in ("ana", "ben"))
        for user in (self.ana, self.ben):
            (path / user.email).mkdir()

    def of(self, user: tenants.User) -> Path:
        return self.path / user.email

    def write(self, user: tenants.User, name: str, text: str = "") -> Path:
        file = self.of(user) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(VTT.format(text=text or f"This is {name}."))
        return file

    def look(self) -> list[dg.RunRequest] | str:
        """Let the sensor look once: what it asks for, or why it asks for nothing."""
        with PostgresResource(url=self.world.url).yield_for_execution(dg.build_init_resource_context()) as postgres:
            found = ask_for_files(self.world.instance, postgres, UPLOAD)
        if isinstance(found, dg.SkipReason):
            return found.skip_message or ""
        self.asked += found
        return found

    def requests(self) -> list[dg.RunRequest]:
        found = self.look()
        assert not isinstance(found, str), found
        return found

    def skip(self) -> str:
        found = self.look()
        assert isinstance(found, str), found
        return found

    def run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """Run what was asked for, as the daemon launches it."""
        result = self.world.job(UPLOAD).execute_in_process(  # type: ignore[arg-type]
            request.run_config,
            instance=self.world.instance,
            tags={**request.tags, "dagster/run_key": request.run_key or ""},
            raise_on_error=False,
        )
        self.world.runs.append(result)
        return result

    def work(self) -> list[dg.ExecuteInProcessResult]:
        """Look and run until nothing is asked for any more."""
        done = []
        while not isinstance(found := self.look(), str):
            done += [self.run(request) for request in found]
        return done

    def launch(self, request: dg.RunRequest, status: dg.DagsterRunStatus) -> dg.DagsterRun:
        """A run of a request in some state, as the daemon creates it."""
        location = RegisteredCodeLocationOrigin("import_pipeline.definitions")
        return self.world.instance.create_run_for_job(
            self.world.job(UPLOAD),  # type: ignore[arg-type]
            run_config=request.run_config,
            status=status,
            tags={**request.tags, "dagster/run_key": request.run_key or ""},
            remote_job_origin=RemoteJobOrigin(
                RemoteRepositoryOrigin(location, repository_name="__repository__"), UPLOAD.job_name
            ),
            job_code_origin=None,
        )

    def titles(self, user: tenants.User) -> list[str]:
        found = self.world.rows("select title from recordings where owner_user_id = %s order by 1", user.id)
        return [title for (title,) in found]

    def pause_is_over(self) -> None:
        self.world.do("update import_pipeline.polls set not_before = now() - interval '1 second'")


@pytest.fixture
def folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("IMPORT_PIPELINE_DROP_FOLDER", str(tmp_path / "drop"))
    monkeypatch.setenv("IMPORT_PIPELINE_SETTLE_SECONDS", "0")
    # A red run keeps its users for a minute, so that its rows can be settled; here they are settled when it ends.
    monkeypatch.setattr(sensors, "_CLOSED_AFTER", -timedelta(minutes=1))
    return Folder(world, tmp_path / "drop", monkeypatch)


def options_of(request: dg.RunRequest) -> dict[str, Any]:
    config: Any = request.run_config
    return config["ops"]["connect"]["config"]["options"]  # type: ignore[no-any-return]


def names_in(request: dg.RunRequest) -> list[str]:
    return [Path(path).name for path in options_of(request)["dropped"]]


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_ino, path.read_bytes() if path.is_file() else b"")
        for path in sorted(root.rglob("*"))
    }


# -- What is imported -------------------------------------------------------------------------------------------------


def test_each_users_files_are_imported_for_him_once_and_left_as_they_are(folder: Folder) -> None:
    folder.write(folder.ana, "Monday.vtt")
    folder.write(folder.ana, "customers/2026/Offer.vtt")
    folder.write(folder.ben, "Interview.vtt")
    before = snapshot(folder.path)
    requests = folder.requests()
    assert len(requests) == 2
    for request in requests:
        assert request.tags == {"lane": "live"}
        assert folder.run(request).success
    assert folder.titles(folder.ana) == ["Monday", "Offer"]
    assert folder.titles(folder.ben) == ["Interview"]
    reason = folder.skip()
    assert "Nothing to import" in reason
    assert "Users: 2, files: 3" in reason
    assert snapshot(folder.path) == before


def test_what_comes_later_is_imported_whatever_its_dates_say(folder: Folder, tmp_path: Path) -> None:
    folder.write(folder.ana, "first.vtt")
    folder.work()
    old = tmp_path / "old"
    write_calls(old / "week", 3)
    for path in (old / "week").iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    shutil.copytree(old / "week", folder.of(folder.ana) / "copied", copy_function=shutil.copy2)
    folder.work()
    assert len(folder.titles(folder.ana)) == 4
    write_calls(old / "moved", 2, start=10)
    time.sleep(0.05)
    folder.write(folder.ana, "last.vtt")
    folder.work()
    # A folder that is moved brings files whose times are all older than what was imported already.
    (old / "moved").rename(folder.of(folder.ana) / "moved")
    folder.work()
    assert len(folder.titles(folder.ana)) == 7


def test_a_changed_file_is_another_call_and_a_renamed_or_copied_one_is_not(folder: Folder) -> None:
    file = folder.write(folder.ana, "call.vtt")
    folder.work()
    file.write_text(VTT.format(text="It goes on."))
    folder.work()
    assert folder.titles(folder.ana) == ["call", "call"]
    file = file.rename(file.with_name("renamed.vtt"))
    shutil.copy2(file, file.with_name("copy.vtt"))
    (request,) = folder.requests()
    assert names_in(request) == ["copy.vtt", "renamed.vtt"] or names_in(request) == ["renamed.vtt", "copy.vtt"]
    assert folder.run(request).success
    assert len(folder.titles(folder.ana)) == 2
    assert "Nothing to import" in folder.skip()


def test_what_is_not_complete_is_left_until_it_is(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_SETTLE_SECONDS", "1000")
    file = folder.write(folder.ana, "call.vtt")
    os.utime(file, (1_000_000_000, 1_000_000_000))  # its time of change is the system's own
    assert "not complete yet: 1" in folder.skip()
    monkeypatch.setenv("IMPORT_PIPELINE_SETTLE_SECONDS", "0")
    file = file.rename(file.with_name("call.vtt.part"))
    folder.write(folder.ana, ".hidden.vtt")
    reason = folder.skip()
    assert "not complete yet: 1" in reason
    assert "files: 0" in reason
    file.rename(file.with_name("call.vtt"))
    folder.work()
    assert folder.titles(folder.ana) == ["call"]


def test_a_file_that_stayed_open_is_imported_after_it_was_closed_though_it_did_not_change(folder: Folder) -> None:
    file = folder.write(folder.ana, "call.vtt")
    with file.open("a"):
        folder.work()
        assert folder.world.statuses() == {file.as_uri(): "waiting"}
        assert "Nothing to import" in folder.skip(), "not before its time"
        folder.world.due_now()
        folder.work()
        assert folder.world.statuses() == {file.as_uri(): "waiting"}, "it is still open"
    folder.world.due_now()
    (request,) = folder.requests()
    assert options_of(request)["again"] == [str(file)]
    assert folder.run(request).success
    assert folder.titles(folder.ana) == ["call"]
    assert "Nothing to import" in folder.skip()


def test_a_file_that_waited_and_is_gone_is_told_once_as_what_it_is(folder: Folder) -> None:
    file = folder.write(folder.ana, "call.vtt")
    with file.open("a"):
        folder.work()
    file.unlink()
    folder.world.due_now()
    (run,) = folder.work()
    assert not run.success
    ((status, _, message),) = folder.world.ledger().values()
    assert status == "failed"
    assert "not there any more" in (message or "")


def test_a_file_that_is_taken_away_before_its_run_came_is_no_failure(folder: Folder) -> None:
    folder.write(folder.ana, "a.vtt").with_name("b.vtt")
    gone = folder.write(folder.ana, "gone.vtt")
    (request,) = folder.requests()
    gone.unlink()
    assert folder.run(request).success
    assert folder.titles(folder.ana) == ["a"]


def test_broken_files_make_a_red_run_and_are_not_asked_for_again_before_they_change(folder: Folder) -> None:
    broken = folder.write(folder.ana, "broken.vtt")
    broken.write_text("")
    folder.write(folder.ana, "good.vtt")
    (run,) = folder.work()
    assert not run.success
    assert folder.titles(folder.ana) == ["good"]
    broken.write_text(VTT.format(text="Mended."))
    (run,) = folder.work()
    assert run.success
    assert folder.titles(folder.ana) == ["broken", "good"]


def test_any_name_that_a_file_can_have_is_imported(folder: Folder) -> None:
    names = [b"caf\xe9.vtt", "émoji 🎉.vtt".encode(), b"new\nline.vtt", b"-rf.vtt", b"50% #1.vtt", b"x" * 250 + b".vtt"]
    for position, name in enumerate(names):
        path = os.fsencode(folder.of(folder.ana)) + b"/" + name
        Path(os.fsdecode(path)).write_text(VTT.format(text=f"Number {position}."))
    (run,) = folder.work()
    assert run.success
    assert len(folder.titles(folder.ana)) == len(names)


# -- Whose files ------------------------------------------------------------------------------------------------------


def test_folders_of_nobody_are_told_and_the_others_go_on(folder: Folder) -> None:
    for stranger in ("carl@example.com", "notes"):
        (folder.path / stranger).mkdir()
        (folder.path / stranger / "call.vtt").write_text(VTT.format(text="Hello."))
    (folder.path / "beside.vtt").write_text(VTT.format(text="Hello."))
    (folder.path / "ANA@example.com").mkdir()
    folder.write(folder.ana, "mine.vtt")
    folder.work()
    assert folder.titles(folder.ana) == ["mine"]
    assert folder.world.rows("select count(*) from auth.users") == [(2,)]
    reason = folder.skip()
    assert "carl@example.com is nobody's e-mail address here" in reason
    assert "notes is nobody's" in reason
    assert "1 files or links that lie beside" in reason
    assert "is the same user as" in reason


def test_on_the_embedded_database_an_address_becomes_a_user(folder: Folder) -> None:
    found = find_drop_accounts(folder.world.conn, "file-upload", ["carl@example.com", "notes"], creates_users=True)
    assert not isinstance(found["carl@example.com"], str)
    assert found["notes"] == "is nobody's e-mail address here"
    again = find_drop_accounts(folder.world.conn, "file-upload", ["carl@example.com"], creates_users=True)
    assert again["carl@example.com"].id == found["carl@example.com"].id  # type: ignore[union-attr]


def test_an_account_that_is_switched_off_stays_off(folder: Folder) -> None:
    folder.write(folder.ana, "one.vtt")
    folder.work()
    folder.world.do("update import_sources set is_active = false")
    folder.write(folder.ana, "two.vtt")
    assert "ana@example.com is switched off for this source" in folder.skip()


def test_links_lead_nowhere(folder: Folder, tmp_path: Path) -> None:
    secret = folder.write(folder.ben, "secret.vtt")
    (folder.of(folder.ana) / "link.vtt").symlink_to(secret)
    (folder.of(folder.ana) / "all of ben").symlink_to(folder.of(folder.ben), target_is_directory=True)
    (folder.path / "dana@example.com").symlink_to(folder.of(folder.ben), target_is_directory=True)
    (request,) = folder.requests()
    assert {Path(path).parent for path in options_of(request)["dropped"]} == {folder.of(folder.ben)}
    folder.run(request)
    reason = folder.skip()
    assert "links, which are not followed: 2" in reason
    assert folder.titles(folder.ana) == []


def test_the_drop_folder_itself_may_be_reached_by_a_link(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(folder.path, target_is_directory=True)
    monkeypatch.setenv("IMPORT_PIPELINE_DROP_FOLDER", str(tmp_path / "link"))
    folder.write(folder.ana, "one.vtt")
    (run,) = folder.work()
    assert run.success
    assert folder.titles(folder.ana) == ["one"]


@pytest.mark.parametrize("what", ["file", "folder", "users folder"])
def test_a_link_that_takes_the_place_of_a_file_before_its_run_shows_nothing(folder: Folder, what: str) -> None:
    secret = folder.write(folder.ben, "week/secret.vtt")
    mine = folder.write(folder.ana, "week/secret.vtt", "Mine.")
    request = next(each for each in folder.requests() if options_of(each)["dropped"] == [str(mine)])
    if what == "file":
        mine.unlink()
        mine.symlink_to(secret)
    elif what == "folder":
        shutil.rmtree(mine.parent)
        mine.parent.symlink_to(secret.parent, target_is_directory=True)
    else:
        shutil.rmtree(folder.of(folder.ana))
        folder.of(folder.ana).symlink_to(folder.of(folder.ben), target_is_directory=True)
    assert not folder.run(request).success
    assert folder.titles(folder.ana) == []
    ((status, _, message),) = folder.world.ledger().values()
    assert (status, message) == ("failed", f"The file {IS_LINK}.")


@pytest.mark.parametrize("told", ["by the setting", "by nothing but the database"])
@pytest.mark.parametrize("swap", ["a link", "a link in the place of its folder", "a hard link"])
def test_a_retry_by_a_command_reads_what_was_dropped_only_as_dropped(
    folder: Folder, swap: str, told: str, tmp_path: Path
) -> None:
    """A2: the owner of a folder waits until his file fails, swaps it for a link, and waits for the operator."""
    secret = tmp_path / "private" / "call.vtt"
    secret.parent.mkdir()
    secret.write_text(VTT.format(text="Nobody may read this."))
    mine = folder.write(folder.ana, "week/call.vtt")
    mine.write_text("")
    (run,) = folder.work()
    assert not run.success
    if swap == "a link in the place of its folder":
        shutil.rmtree(mine.parent)
        mine.parent.symlink_to(secret.parent)
    else:
        mine.unlink()
        mine.symlink_to(secret) if swap == "a link" else mine.hardlink_to(secret)
    if told != "by the setting":
        folder.monkeypatch.delenv("IMPORT_PIPELINE_DROP_FOLDER")
    for _ in range(2):
        rows = folder.world.rows("select external_id, location from import_items where status = 'failed'")
        options = UPLOAD.options_for_retry(dict(rows))
        assert not folder.world.run(UPLOAD.for_command(), users=[folder.ana.email], options=options).success  # type: ignore[arg-type]
        assert folder.titles(folder.ana) == []
        ((status, error_class, message),) = folder.world.ledger().values()
        assert (status, error_class) == ("failed", "data")
        assert "link" in (message or "")


@pytest.mark.long
def test_the_commands_that_look_at_a_dropped_file_again_show_nothing_of_what_a_link_names(folder: Folder) -> None:
    """A2, with the commands themselves, which are told of no drop folder."""
    secret = folder.write(folder.ben, "secret.vtt", "Nobody may read this.")
    mine = folder.write(folder.ana, "call.vtt")
    mine.write_text("")
    folder.work()
    mine.unlink()
    mine.symlink_to(secret)
    settings = {"DATABASE_URL": folder.world.url, "IMPORT_PIPELINE_USER": folder.ana.email}
    folder.monkeypatch.delenv("IMPORT_PIPELINE_DROP_FOLDER")
    command_line = CommandLine(folder.path.parent / "home", settings)
    asked = [("retry",), ("retry", "--id", str(mine)), ("upload", str(mine)), ("upload", str(folder.path))]
    for arguments in asked:
        outcome = command_line.run(*arguments, "--json")
        assert outcome.code == 1, outcome.stderr
        assert outcome.json["inserted"] == 0
    assert "is a link" in command_line.run("why", mine).stdout
    assert folder.world.rows("select count(*) from recordings where owner_user_id = %s", folder.ana.id) == [(0,)]


def test_from_the_ui_nothing_is_imported_that_lies_in_no_allowed_folder_and_no_row_names_it(
    folder: Folder, tmp_path: Path
) -> None:
    """What stood in the ledger would be read by the next retry of a command, which may read more."""
    private, shared = tmp_path / "private", tmp_path / "shared"
    for place in (private, shared):
        place.mkdir()
        (place / "call.vtt").write_text(VTT.format(text=f"From {place.name}."))
    folder.write(folder.ana, "makes an account.vtt")
    folder.work()

    def launch(path: Path) -> dg.ExecuteInProcessResult:
        return folder.world.run(UPLOAD, users=[folder.ana.email], options={"paths": [str(path)]})  # type: ignore[arg-type]

    by_command = folder.world.run(
        UPLOAD.for_command(),  # type: ignore[arg-type]
        users=[folder.ana.email],
        options={"paths": [str(private)]},
    )
    assert by_command.success
    folder.world.do("delete from recordings")
    folder.world.do("delete from import_items")
    for _ in range(2):  # also once a folder is allowed
        broken = launch(private)
        assert "IMPORT_PIPELINE_UPLOAD_FOLDERS" in problem_of(broken, "connect")
        assert folder.world.ledger() == {}
        folder.monkeypatch.setenv("IMPORT_PIPELINE_UPLOAD_FOLDERS", str(shared))
    assert launch(shared).success
    assert folder.titles(folder.ana) == ["call"]
    folder.monkeypatch.delenv("IMPORT_PIPELINE_UPLOAD_FOLDERS")
    assert not launch(shared).success


@pytest.mark.long
@pytest.mark.parametrize("selection", [None, ["fetch*"], ["dedup[0_00000]*"]], ids=["all", "from fetch", "from dedup"])
def test_a_run_of_a_command_that_is_re_executed_in_the_ui_reads_nothing_that_the_ui_may_not(
    conn: psycopg.Connection[Any],
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    selection: list[str] | None,
) -> None:
    conn.autocommit = True
    monkeypatch.setenv("IMPORT_PIPELINE_SETTLE_SECONDS", "0")
    monkeypatch.setenv("IMPORT_PIPELINE_UPLOAD_FOLDERS", str(tmp_path / "shared"))
    private = tmp_path / "private"
    for place in (private, tmp_path / "shared"):
        place.mkdir()
        (place / "call.vtt").write_text(VTT.format(text="Nobody may read this."))
    with dg.instance_for_test() as instance:
        world = World(conn, database_url, tmp_path / "staging", instance)
        ana = world.account("ana@example.com", "file-upload")
        config = {"ops": {"connect": {"config": {"users": [ana.email], "options": {"paths": [str(private)]}}}}}
        job = demo.reconstructable(world.job(UPLOAD.for_command()))  # type: ignore[arg-type]
        with dg.execute_job(job, instance, run_config=config) as first:
            assert first.success
        world.do("delete from recordings")
        world.do("delete from import_items")
        in_ui = demo.reconstructable(world.job(UPLOAD))  # type: ignore[arg-type]
        options = dg.ReexecutionOptions(first.run_id, step_selection=selection or [])
        with dg.execute_job(in_ui, instance, raise_on_error=False, reexecution_options=options) as second:
            assert not second.success
        assert world.recordings() == []
        told = str(world.ledger()) + str([event.event_specific_data for event in second.all_events])
        assert "lies in no folder that uploads may be read from" in told


# -- Asking again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED])
def test_while_a_run_is_under_way_nothing_is_asked_for_that_user(folder: Folder, status: dg.DagsterRunStatus) -> None:
    folder.write(folder.ana, "one.vtt")
    (request,) = folder.requests()
    folder.launch(request, status)
    folder.write(folder.ana, "two.vtt")
    folder.pause_is_over()
    assert "being imported now: 1" in folder.skip()
    folder.write(folder.ben, "other.vtt")
    (other,) = folder.requests()
    assert names_in(other) == ["other.vtt"]


def test_a_run_that_was_never_created_is_asked_for_again_after_a_pause(folder: Folder) -> None:
    folder.write(folder.ana, "one.vtt")
    (first,) = folder.requests()
    assert "repeated after a pause: 1" in folder.skip()
    folder.pause_is_over()
    (second,) = folder.requests()
    assert names_in(second) == names_in(first)
    assert second.run_key != first.run_key
    ((attempts,),) = folder.world.rows("select attempts from import_pipeline.polls")
    assert attempts == 2


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED])
def test_a_run_that_broke_or_was_cancelled_is_asked_for_again(folder: Folder, status: dg.DagsterRunStatus) -> None:
    folder.write(folder.ana, "one.vtt")
    (first,) = folder.requests()
    run = folder.launch(first, dg.DagsterRunStatus.STARTED)
    if status == dg.DagsterRunStatus.FAILURE:
        folder.world.instance.report_run_failed(run)
    else:
        folder.world.instance.report_run_canceled(run)
    assert "repeated after a pause: 1" in folder.skip()
    folder.pause_is_over()
    (second,) = folder.requests()
    assert second.run_key != first.run_key
    assert folder.run(second).success
    assert folder.titles(folder.ana) == ["one"]
    assert "Nothing to import" in folder.skip()


def test_what_was_imported_is_not_asked_for_again_when_dagster_has_forgotten_the_run(folder: Folder) -> None:
    folder.write(folder.ana, "one.vtt")
    folder.work()
    for run in folder.world.instance.get_runs():
        folder.world.instance.delete_run(run.run_id)
    assert "Nothing to import" in folder.skip()


def test_what_is_gone_from_the_folder_is_forgotten(folder: Folder) -> None:
    for name in ("one.vtt", "two.vtt"):
        folder.write(folder.ana, name)
    folder.work()
    assert folder.world.rows("select count(*) from import_pipeline.dropped_files") == [(2,)]
    (folder.of(folder.ana) / "one.vtt").unlink()
    folder.skip()
    assert folder.world.rows("select count(*) from import_pipeline.dropped_files") == [(1,)]


def test_a_run_gets_a_bounded_number_of_files_the_oldest_first(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drop_folder_sensor, "FILES_PER_RUN", 3)
    for position in range(8):
        folder.write(folder.ana, f"{9 - position}.vtt")
        time.sleep(0.01)
    folder.work()
    assert [names_in(request) for request in folder.asked] == [
        ["9.vtt", "8.vtt", "7.vtt"],
        ["6.vtt", "5.vtt", "4.vtt"],
        ["3.vtt", "2.vtt"],
    ]
    assert len(folder.titles(folder.ana)) == 8


def test_when_there_is_room_for_one_run_everybody_has_his_turn(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drop_folder_sensor, "OUTSTANDING_RUNS", 1)
    monkeypatch.setattr(drop_folder_sensor, "FILES_PER_RUN", 1)
    for user in (folder.ana, folder.ben):
        for position in range(3):
            folder.write(user, f"{position}.vtt", f"{user.email} {position}")
    turns = []
    for _ in range(6):
        (request,) = folder.requests()
        turns.append(Path(options_of(request)["dropped"][0]).parent.name)
        folder.run(request)
    assert turns == [folder.ana.email, folder.ben.email] * 3
    assert "Nothing to import" in folder.skip()


# -- What the tick says -----------------------------------------------------------------------------------------------


def test_without_a_folder_the_tick_says_what_is_missing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_DROP_FOLDER", " ")
    assert folder.skip() == "IMPORT_PIPELINE_DROP_FOLDER is not set, so there is no folder to watch."
    monkeypatch.setenv("IMPORT_PIPELINE_DROP_FOLDER", str(folder.path / "missing"))
    assert "missing is not there" in folder.skip()
    file = folder.write(folder.ana, "file")
    monkeypatch.setenv("IMPORT_PIPELINE_DROP_FOLDER", str(file))
    assert "is not there" in folder.skip()


def test_a_database_that_is_gone_is_one_sentence(folder: Folder) -> None:
    folder.write(folder.ana, "one.vtt")
    folder.world.url = "postgresql://nobody@127.0.0.1:9/nowhere"
    with pytest.raises(dg.DagsterError, match="could not be reached"):
        folder.look()


def test_the_sensor_is_off_until_somebody_switches_it_on() -> None:
    sensor = build_defs().resolve_sensor_def("watch_drop_folder")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    assert sensor.minimum_interval_seconds == 30
    assert [target.job_name for target in sensor.targets] == ["import_file_upload"]


@pytest.mark.long
def test_fifty_thousand_files_are_looked_at_in_a_moment(
    folder: Folder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = folder.of(folder.ana)
    for position in range(50_000):
        if position % 500 == 0:
            part = home / f"{position // 500}"
            part.mkdir()
        (part / f"{position}.vtt").touch()
    started = time.perf_counter()
    scan_drop_folder(folder.path, 0)
    scanned = time.perf_counter()
    (request,) = folder.requests()
    asked = time.perf_counter()
    assert len(names_in(request)) == drop_folder_sensor.FILES_PER_RUN
    folder.world.do("delete from import_pipeline.dropped_files")
    folder.world.do("update import_pipeline.polls set not_before = null")
    folder.monkeypatch.setattr(drop_folder_sensor, "FILES_PER_RUN", 50_000)
    folder.requests()
    folder.world.do("update import_pipeline.dropped_files set is_settled = true")
    before_idle = time.perf_counter()
    assert "files: 50000" in folder.skip()
    idle = time.perf_counter() - before_idle
    with capsys.disabled():
        told = f"scan {scanned - started:.2f} s, first look {asked - scanned:.2f} s, idle look {idle:.2f} s"
        sys.stdout.write(f"\n50,000 files: {told}\n")


START_SENSOR = """
mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector) { __typename } }
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_in_the_running_ui_dropped_files_are_imported_and_a_broken_one_is_told_to_people(tmp_path: Path) -> None:
    drop = tmp_path / "drop"
    (drop / "ana@example.com").mkdir(parents=True)
    write_calls(drop / "ana@example.com" / "week", 3)
    with Webhook() as webhook:
        settings = {
            "IMPORT_PIPELINE_DROP_FOLDER": str(drop),
            "IMPORT_PIPELINE_USER": "ana@example.com",
            "IMPORT_PIPELINE_ALERT_URL": webhook.address,
        }
        command_line = CommandLine(tmp_path / "home", settings)
        with running_dev(command_line) as dev:
            repository = dev.repository()
            selector = {
                "repositoryName": repository["name"],
                "repositoryLocationName": repository["location"]["name"],
                "sensorName": "watch_drop_folder",
            }
            assert dev.ask(START_SENSOR, selector=selector)["startSensor"]["__typename"] == "Sensor"

            def counted(number: int) -> bool:
                outcome = command_line.run("counts", "--json")
                return outcome.code == 0 and outcome.json == {"file-upload": number}

            wait_until(lambda: counted(3), "waited for the first files", 240)
            write_calls(drop / "ana@example.com", 1, start=10)
            (drop / "ana@example.com" / "broken.vtt").touch()
            wait_until(lambda: counted(4), "waited for the later file", 240)
            (message,) = wait_until(lambda: webhook.messages, "waited for the alert", 240)
            assert message["job"] == "import_file_upload"
            assert "broken" in message["failed_items"][0]["item"]
            runs = dev.runs(pipelineName="import_file_upload")
            assert sorted(run["status"] for run in runs) == ["FAILURE", "SUCCESS"]
            assert dev.wait_for_run(dev.launch("clean_up"))["status"] == "SUCCESS"
