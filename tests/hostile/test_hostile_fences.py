"""Folders that others fill: whatever they put in place of a file, and whoever asks, shows nothing but their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import tenants
from commands import VTT

from import_pipeline.connectors.file_upload import FileUpload, fences
from import_pipeline.connectors.file_upload.fences import Fence, NotPermittedError, Reach, RefusedError, names_of_user
from import_pipeline.connectors.file_upload.files import ids_of_file, path_as_text, path_to_uri
from import_pipeline.errors import ConfigurationError, ItemError
from import_pipeline.library.accounts import ensure_account
from import_pipeline.library.clients import Storage
from import_pipeline.library.drop_folder import scan_drop_folder
from import_pipeline.library.leases import LeaseKeeper
from import_pipeline.providers.http import HttpClient
from import_pipeline.records import Account, Failed, ListedItem, NewItem, Ready, SharedFolder
from import_pipeline.stages.connect import open_accounts
from import_pipeline.stages.listing import list_items
from import_pipeline.stages.postgres import PostgresResource
from import_pipeline.stages.transform import transform_item

SECRET = VTT.format(text="Nobody may read this.")
COMMAND, UI = FileUpload(is_of_command=True), FileUpload()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_SETTLE_SECONDS", "0")


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A drop folder in which Ana and Ben have theirs; Ben's holds a call that is his."""
    root = tmp_path / "drop"
    for user in ("ana@example.com", "ben@example.com"):
        (root / user / "week").mkdir(parents=True)
    (root / "ben@example.com" / "week" / "call.vtt").write_text(SECRET)
    monkeypatch.setenv("IMPORT_PIPELINE_DROP_FOLDER", str(root))
    return root


@pytest.fixture
def mine(drop: Path) -> Path:
    """A call of Ana's."""
    path = drop / "ana@example.com" / "week" / "call.vtt"
    path.write_text(VTT.format(text="This is Ana's."))
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that is nobody's of those who fill folders."""
    path = tmp_path / "private" / "call.vtt"
    path.parent.mkdir()
    path.write_text(SECRET)
    return path


def account(user: str = "ana@example.com", *shared: Path, **options: Any) -> Account:
    """An account as a run has opened it; folders are drop folders that the database knows."""
    known = tuple(SharedFolder(str(folder), is_dropped=True) for folder in shared)
    return Account(uuid4(), uuid4(), "file-upload", user, datetime.now(UTC), options=options, shared_folders=known)


def listing(source: FileUpload, of: Account) -> list[ListedItem]:
    with HttpClient("Files", "http://localhost") as http:
        return list(list_items(source, of, http))


def outcome(source: FileUpload, of: Account, item: ListedItem) -> str:
    """What is said of one item: its transcript, or the reason why there is none."""
    with HttpClient("Files", "http://localhost") as http:
        found = transform_item(source, of, NewItem(item), http, datetime.now(UTC))
    if isinstance(found, Ready):
        return found.record.full_transcript
    assert isinstance(found, Failed)
    return f"reason: {found.reason}"


def import_all(source: FileUpload, of: Account) -> list[str]:
    return [outcome(source, of, item) for item in listing(source, of)]


# --- what takes the place of a file -------------------------------------------------------------------------------


def swap_file(mine: Path, secret: Path) -> None:
    mine.unlink()
    mine.symlink_to(secret)


def swap_folder(mine: Path, secret: Path) -> None:
    shutil.rmtree(mine.parent)
    mine.parent.symlink_to(secret.parent)


def swap_folder_of_user(mine: Path, secret: Path) -> None:
    (secret.parent / "week").mkdir()
    shutil.copy(secret, secret.parent / "week" / "call.vtt")
    shutil.rmtree(mine.parent.parent)
    mine.parent.parent.symlink_to(secret.parent)


def swap_hard_link(mine: Path, secret: Path) -> None:
    mine.unlink()
    mine.hardlink_to(secret)


def swap_magic_link(mine: Path, secret: Path) -> None:
    descriptor = os.open(secret, os.O_RDONLY)  # stays open, as with a process that waits
    mine.unlink()
    mine.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")


def swap_chain(mine: Path, secret: Path) -> None:
    (mine.parent / "inner").symlink_to(secret.parent)
    mine.unlink()
    mine.symlink_to("inner/call.vtt")


def swap_to_another_user(mine: Path, _: Path) -> None:
    mine.unlink()
    mine.symlink_to("../../ben@example.com/week/call.vtt")


SWAPS = [
    swap_file, swap_folder, swap_folder_of_user, swap_hard_link, swap_magic_link, swap_chain, swap_to_another_user,
]  # fmt: skip
ASKERS = {
    "the sensor, of what is new": (UI, "dropped"),
    "the sensor, of what is due": (UI, "again"),
    "somebody at the launchpad": (UI, "paths"),
    "retry": (COMMAND, "again"),
    "upload": (COMMAND, "paths"),
}


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize(("source", "option"), ASKERS.values(), ids=ASKERS)
def test_whoever_asks_again_what_was_dropped_is_read_only_as_dropped(
    source: FileUpload, option: str, swap: Callable[[Path, Path], None], mine: Path, secret: Path
) -> None:
    """A2, and A7: no more than that it is a link stands in the ledger."""
    of = account(**{option: [path_to_uri(mine)]})
    assert "This is Ana's." in import_all(source, of)[0]
    swap(mine, secret)
    (item,) = listing(source, of)
    assert outcome(source, of, item).startswith("reason: The file ")
    assert "link" in outcome(source, of, item)
    assert item.external_id == path_to_uri(mine)
    assert item.location == str(mine)
    assert (item.details["size_bytes"], item.details["modified_at"], item.details["sha256"]) == (0, 0.0, None)


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("source", [UI, COMMAND], ids=["re-executed in the UI", "by a command"])
def test_what_was_swapped_after_it_was_listed_is_not_read_by_a_later_step(
    source: FileUpload, swap: Callable[[Path, Path], None], mine: Path, secret: Path
) -> None:
    """The content is the same: by its hash it cannot be told apart."""
    secret.write_bytes(mine.read_bytes())
    of = account(paths=[str(mine)])
    (item,) = listing(source, of)
    shutil.copy(secret, mine.parent.parent.parent / "ben@example.com" / "week" / "call.vtt")
    swap(mine, secret)
    assert outcome(source, of, item).startswith("reason: The file ")
    assert "link" in outcome(source, of, item)


@pytest.mark.parametrize("swap", [swap_file, swap_folder, swap_folder_of_user, swap_chain])
@pytest.mark.parametrize("option", ["dropped", "again", "paths"])
def test_whether_what_a_link_names_exists_changes_nothing(
    option: str, swap: Callable[[Path, Path], None], mine: Path, secret: Path
) -> None:
    """A7: a file that is gone is no failure, so that its absence told who dropped a link what is not there."""
    swap(mine, secret)
    of = account(**{option: [str(mine)]})
    before = listing(UI, of)
    shutil.rmtree(secret.parent)
    assert listing(UI, of) == before
    assert len(before) == 1


@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a folder"])
@pytest.mark.timeout(60)
def test_what_is_no_file_is_never_waited_for(kind: str, mine: Path) -> None:
    of = account(again=[str(mine)])
    (item,) = listing(UI, of)
    mine.unlink()
    if kind == "a pipe":
        os.mkfifo(mine)
    elif kind == "a folder":
        mine.mkdir()
    else:
        code = "import os, socket, sys; os.chdir(sys.argv[1]); socket.socket(socket.AF_UNIX).bind(sys.argv[2])"
        subprocess.run([sys.executable, "-c", code, mine.parent, mine.name], check=True)
    assert "regular file" in outcome(UI, of, item)


# --- mounts -------------------------------------------------------------------------------------------------------

ASK_IN_MOUNT = """
import json, subprocess, sys
sys.path[:0] = json.loads(sys.argv[1])
mounted, place, root, path = sys.argv[2:]
done = subprocess.run(["mount", "--bind", mounted, place], capture_output=True, text=True)
if done.returncode:
    print(json.dumps(None))
    raise SystemExit
from pathlib import Path
from import_pipeline.connectors.file_upload.fences import Fence, Reach
told = []
for is_dropped in (True, False):
    reach = Reach((Fence(Path(root), is_dropped=is_dropped, is_permitted=True),), names=None)
    try:
        with reach.open(Path(path)) as opened:
            told.append(f"opened {opened.path}")
    except OSError as error:
        told.append(str(error))
with open(path) as file:
    assert "Nobody may read" in file.read(), "the mount is not there"
print(json.dumps(told))
"""


@pytest.mark.parametrize("what", ["a file", "a folder", "the folder of the user"])
def test_nothing_that_is_mounted_into_a_folder_is_read(
    what: str, drop: Path, mine: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bind mount is on the same device; where none may be made, one is simulated where mounts are told apart."""
    place, mounted = {
        "a file": (mine, secret),
        "a folder": (mine.parent, secret.parent),
        "the folder of the user": (mine.parent.parent, secret.parent),
    }[what]
    if what == "the folder of the user":
        (secret.parent / "week").mkdir()
        shutil.copy(secret, secret.parent / "week" / "call.vtt")
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    code = [sys.executable, "-c", ASK_IN_MOUNT, json.dumps(sys.path), mounted, place, drop, mine]
    done = subprocess.run([*unshare, *map(str, code)], capture_output=True, text=True, check=False)
    told = json.loads(done.stdout or "null")
    if told is None:
        device = mine.stat().st_ino if what == "a file" else place.stat().st_ino
        real = fences._mount_of
        monkeypatch.setattr(
            fences, "_mount_of", lambda opened: "another" if os.fstat(opened).st_ino == device else real(opened)
        )
        reach = Reach((Fence(drop, is_dropped=True, is_permitted=True),), names=None)
        with pytest.raises(RefusedError) as refused, reach.open(mine):
            pass
        told = [str(refused.value)]
    assert [text for text in told if text != "lies behind a mount, and none is entered here"] == []


# --- whose folder, and by which name ------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [UI, COMMAND], ids=["in the UI", "by a command"])
def test_a_users_items_come_from_his_own_folder_only(source: FileUpload, drop: Path, mine: Path) -> None:
    bens = drop / "ben@example.com" / "week" / "call.vtt"
    for path in (bens, bens.parent, bens.parent.parent):
        (item,) = listing(source, account(again=[str(path)]))
        assert item.details["size_bytes"] == 0
        assert outcome(source, account(), item) == (
            "reason: The file lies in the drop folder, but not in the folder of this user."
        )
    (said,) = import_all(source, account("Ana@Example.com", paths=[str(mine)]))
    assert "This is Ana's." in said
    of = account(paths=[str(mine)])
    by_id = mine.parent.parent.rename(drop / str(of.user_id))
    (said,) = import_all(source, replace(of, options={"paths": [str(by_id / "week")]}))
    assert "This is Ana's." in said


@pytest.mark.parametrize("name", [" {}", "{}\n", "{}.", "\u200b{}", "{}\u2028", "\t{} "], ids=repr)
def test_a_user_whose_address_looks_like_another_on_a_page_reads_nothing_of_theirs(
    name: str, drop: Path, mine: Path, conn: psycopg.Connection[Any], database_url: str
) -> None:
    conn.autocommit = True
    user = tenants.make_user(conn, name.format("ana@example.com"))
    ensure_account(conn, user.id, "file-upload", user.email)
    options: dict[str, Any] = {"again": [path_as_text(mine)]}
    storage = Storage(PostgresResource(url=database_url).connection, is_embedded=False)
    (opened,) = open_accounts(
        UI, storage, [str(user.id)], options, LeaseKeeper(storage.connect, "run", "live", lambda _: True)
    )
    assert opened.label.isprintable()
    (item,) = listing(UI, opened)
    assert outcome(UI, opened, item) == "reason: The file lies in the drop folder, but not in the folder of this user."


def test_the_drop_folder_as_a_whole_is_nobodys(drop: Path, mine: Path) -> None:
    (said,) = import_all(COMMAND, account(paths=[str(drop)]))
    assert "is the drop folder of all users" in said
    said_of_all = import_all(COMMAND, account(paths=[str(drop.parent)]))
    assert ["is the drop folder of all users" in said for said in said_of_all] == [True], "not even what it holds"


def test_no_other_spelling_of_its_path_leads_around_a_fence(
    drop: Path, mine: Path, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap_file(mine, secret)
    (tmp_path / "alias").symlink_to(drop)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "alias").symlink_to("../alias")
    (tmp_path / "to the folder").symlink_to(mine.parent)
    (tmp_path / "to the file").symlink_to(mine)
    rest = "ana@example.com/week/call.vtt"
    spellings = [
        str(mine),
        f"{drop}/./{rest}",
        f"{drop}//{rest}",
        f"{drop}/../drop/{rest}",
        f"{tmp_path}/alias/{rest}",
        f"{tmp_path}/far/../alias/{rest}",
        f"{tmp_path}/far/alias/{rest}",
        f"{tmp_path}/to the folder/call.vtt",
        f"{tmp_path}/to the file",
        f"/proc/self/root{drop}/{rest}",
        "file://" + "".join(f"%{byte:02x}" if byte != 47 else "/" for byte in os.fsencode(mine)),
        f"{path_to_uri(drop)}/../drop/{rest}",
    ]
    told_by = {
        "the setting": (drop, ()),
        "a setting with a slash": (Path(f"{drop}/"), ()),
        "a setting by a link": (tmp_path / "alias", ()),
        "the database alone": (None, (drop,)),
        "the database, by a link": (None, (tmp_path / "far" / "alias",)),
    }
    for setting, known in told_by.values():
        monkeypatch.setenv("IMPORT_PIPELINE_DROP_FOLDER", str(setting or ""))
        for spelling in spellings:
            for option in ("paths", "again"):
                (said,) = import_all(COMMAND, account("ana@example.com", *known, **{option: [spelling]}))
                told = "names what lies above it" if "drop/.." in spelling else "is a link or lies behind one"
                assert told in said, spelling


def test_a_drop_folder_that_was_moved_is_known_under_both_names(
    drop: Path, mine: Path, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap_file(mine, secret)
    moved = drop.rename(tmp_path / "moved")
    drop.symlink_to(moved)
    monkeypatch.delenv("IMPORT_PIPELINE_DROP_FOLDER")
    for path in (mine, moved / mine.relative_to(drop)):
        (said,) = import_all(COMMAND, account("ana@example.com", drop, again=[str(path)]))
        assert "is a link or lies behind one" in said


def test_names_that_are_no_text_are_fenced_too(drop: Path, secret: Path) -> None:
    odd = drop / "ana@example.com" / os.fsdecode(b"caf\xe9 \xff.vtt")
    odd.write_text(VTT.format(text="Odd."))
    of = account(again=[path_to_uri(odd)])
    assert "Odd." in import_all(COMMAND, of)[0]
    swap_file(odd, secret)
    assert "is a link" in import_all(COMMAND, of)[0]


def test_ids_of_a_file_are_not_made_of_what_a_link_names(drop: Path, mine: Path, secret: Path) -> None:
    """`why` and `retry --id` look for a file by its content."""
    reach = Reach((Fence(drop, is_dropped=True),), names=None, is_anywhere=True)
    assert len(ids_of_file(str(mine), reach)) == 3
    swap_file(mine, secret)
    assert ids_of_file(str(mine), reach) == [str(mine), path_to_uri(mine)]


def test_the_listing_of_the_drop_folder_leaves_out_hard_links_and_folders_that_became_links(
    drop: Path, mine: Path, secret: Path
) -> None:
    (mine.parent / "second name.vtt").hardlink_to(secret)
    (mine.parent / "folder").symlink_to(secret.parent)
    folders, _ = scan_drop_folder(drop, 0)
    (anas,) = [each for each in folders if each.user == "ana@example.com"]
    assert [file.path for file in anas.files] == [mine]
    assert anas.links == 2


# --- another user of the machine ----------------------------------------------------------------------------------

SWAP_FOR_EVER = """
import os, sys
path, spare, secret = sys.argv[1:]
print("swapping", flush=True)
while True:
    for make in (lambda: os.symlink(secret, spare), lambda: open(spare, "w").write(open(sys.argv[0]).read())):
        make()
        os.rename(spare, path)
"""


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A drop folder in which Ana's folder belongs to another user of the machine, who may come there."""
    with tempfile.TemporaryDirectory(prefix="import-pipeline-drop-") as name:
        folder = Path(name) / "ana@example.com"
        folder.mkdir()
        os.chmod(name, 0o755)  # noqa: S103 - they must come there
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        monkeypatch.setenv("IMPORT_PIPELINE_DROP_FOLDER", name)
        yield folder


@pytest.mark.timeout(120)
def test_another_user_who_swaps_a_file_and_a_link_for_ever_learns_nothing(theirs: Path) -> None:
    """As the user `nobody` where the tests run as root: what he may not read himself is what he wants to see."""
    with tempfile.TemporaryDirectory(prefix="import-pipeline-private-") as private:
        secret, program = Path(private) / "call.vtt", theirs.parent / "program"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        program.write_text(SWAP_FOR_EVER.replace("open(sys.argv[0]).read()", repr(VTT.format(text="This is Ana's."))))
        as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        path = theirs / "call.vtt"
        swapping = subprocess.Popen(
            [*as_nobody, sys.executable, program, path, theirs / "spare", secret], stdout=subprocess.PIPE, text=True
        )
        try:
            assert swapping.stdout is not None
            assert swapping.stdout.readline() == "swapping\n"
            said: list[str] = []
            of = account(again=[str(path)])
            while len(said) < 400 or not any("is a link" in text for text in said):
                for source in (UI, COMMAND):
                    for item in listing(source, of):
                        assert item.details["size_bytes"] in (0, len(VTT.format(text="This is Ana's.")))
                        if not item.details["waiting"]:
                            said.append(_said(source, of, item))
        finally:
            swapping.kill()
            swapping.communicate()
        assert not [text for text in said if "Nobody may read" in text]


def _said(source: FileUpload, of: Account, item: ListedItem) -> str:
    with HttpClient("Files", "http://localhost") as http:
        return repr(transform_item(source, of, NewItem(item), http, datetime.now(UTC)))


# --- what the UI may read -----------------------------------------------------------------------------------------


@pytest.fixture
def allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of two folders from which uploads are allowed."""
    folders = [tmp_path / "shared", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
        (folder / "call.vtt").write_text(VTT.format(text=f"From {folder.name}."))
    monkeypatch.setenv("IMPORT_PIPELINE_UPLOAD_FOLDERS", os.pathsep.join(["", *map(str, folders), " "]))
    return folders[0]


def test_without_a_folder_that_is_allowed_the_ui_takes_no_path(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in ("", " ", os.pathsep):
        monkeypatch.setenv("IMPORT_PIPELINE_UPLOAD_FOLDERS", setting)
        for option in ("paths", "dropped", "again"):
            with pytest.raises(ConfigurationError, match="takes no paths, because IMPORT_PIPELINE_UPLOAD_FOLDERS"):
                UI.check_options({option: [str(secret)]})
    monkeypatch.setenv("IMPORT_PIPELINE_UPLOAD_FOLDERS", "relative")
    with pytest.raises(ConfigurationError, match="not absolute"):
        UI.check_options({"paths": [str(secret)]})


def test_the_ui_reads_below_allowed_folders_and_a_command_everywhere(allowed: Path, secret: Path) -> None:
    for folder in (allowed, allowed.parent / "other"):
        options = UI.check_options({"paths": [str(folder)]})
        assert f"From {folder.name}." in import_all(UI, account(**options))[0]
    assert "Nobody may read" in import_all(COMMAND, account(**COMMAND.check_options({"paths": [str(secret)]})))[0]


def test_no_spelling_of_a_path_leads_the_ui_out_of_allowed_folders(allowed: Path, secret: Path, tmp_path: Path) -> None:
    (tmp_path / "shared too").mkdir()  # its name begins with that of an allowed one
    shutil.copy(secret, tmp_path / "shared too")
    (allowed / "away").symlink_to(secret.parent)
    outside = [
        str(secret), str(secret.parent), "/", str(tmp_path), f"{tmp_path}/shared too/call.vtt", f"{tmp_path}/SHARED",
        f"{allowed}/../private/call.vtt", f"{allowed}/away/call.vtt", f"{allowed}//../private/call.vtt",
        f"{path_to_uri(allowed)}/../private/call.vtt", f"{path_to_uri(allowed)}/%2e%2e/private/call.vtt",
        f"{path_to_uri(allowed)}%2f..%2fprivate/call.vtt", f"{path_to_uri(allowed)}/away/call.vtt",
        f"/proc/self/root{secret}", f"{allowed}/\0/../../private/call.vtt",
    ]  # fmt: skip
    for path in outside:
        for option in ("paths", "again", "dropped"):
            try:
                of = account(**UI.check_options({option: [path]}))
            except ConfigurationError as error:
                assert "Nobody" not in str(error)  # noqa: PT017
                continue
            for said in import_all(UI, of):
                assert said.startswith("reason: The file "), path


def test_the_ui_is_not_told_whether_something_is_there_that_it_may_not_read(allowed: Path, secret: Path) -> None:
    def told(path: Path) -> str:
        with pytest.raises(ConfigurationError) as refused:
            UI.check_options({"paths": [str(path)]})
        return str(refused.value)

    there = told(secret)
    secret.unlink()
    assert told(secret) == there


@pytest.mark.parametrize("swap", [swap_file, swap_folder, swap_hard_link, swap_chain, swap_magic_link])
@pytest.mark.parametrize("source", [UI, COMMAND], ids=["in the UI", "by retry"])
def test_a_link_in_an_allowed_folder_leads_nowhere(
    source: FileUpload, swap: Callable[[Path, Path], None], allowed: Path, secret: Path
) -> None:
    mine = allowed / "week" / "call.vtt"
    mine.parent.mkdir()
    mine.write_text(VTT.format(text="Shared."))
    of = account(again=[str(mine)])
    assert "Shared." in import_all(source, of)[0]
    swap(mine, secret)
    (said,) = import_all(source, of)
    assert said.startswith("reason: The file ")
    assert "link" in said


def test_what_a_command_listed_is_refused_to_the_ui_at_every_step(allowed: Path, secret: Path) -> None:
    of = account(paths=[str(secret)])
    (item,) = listing(COMMAND, of)
    assert "lies in no folder that uploads may be read from" in outcome(UI, of, item)
    with pytest.raises(NotPermittedError):
        listing(UI, of)
    assert issubclass(NotPermittedError, ItemError)
    with pytest.raises(ConfigurationError):
        UI.check_options({"paths": [str(secret)]})


def test_a_command_follows_a_link_that_its_user_names_himself(allowed: Path, secret: Path, tmp_path: Path) -> None:
    """Only below the drop folder, and where something is asked for again, a command is as careful as the UI."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "call.vtt").symlink_to(secret)
    assert "Nobody may read" in import_all(COMMAND, account(paths=[str(tmp_path / "mine")]))[0]


def test_an_allowed_folder_around_the_drop_folder_opens_no_folder_of_another_user(
    drop: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_UPLOAD_FOLDERS", os.pathsep.join([str(drop.parent), str(drop)]))
    (said,) = import_all(UI, account(paths=[str(drop / "ben@example.com")]))
    assert "not in the folder of this user" in said
    assert not [said for said in import_all(UI, account(paths=[str(drop.parent)])) if "Nobody may read" in said]
    assert "This is Ana's." in import_all(UI, account(paths=[str(mine)]))[0]


def test_names_of_users_differ_by_more_than_the_case_of_their_letters() -> None:
    """A Kelvin sign is no K, and what only looks alike is another name."""
    assert names_of_user("KATE@example.com") == names_of_user("kate@EXAMPLE.com")
    assert names_of_user("\N{KELVIN SIGN}ate@example.com") != names_of_user("kate@example.com")
    assert names_of_user("kate@example.com ") != names_of_user("kate@example.com")


# --- where a record belongs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_list", [True, False])
def test_a_file_names_no_destination(is_list: bool, mine: Path) -> None:
    """A4: who writes a file need not be who imports it. What it says is kept, where the owner can see it."""
    record = {
        "title": "T", "full_transcript": "Ana: Hi.", "recording_start_time": "2026-01-01T00:00:00Z",
        "bank_id": str(uuid4()), "vault_id": str(uuid4()), "owner_user_id": str(uuid4()), "user_id": str(uuid4()),
        "source_app": "zoom", "external_id": "x",
    }  # fmt: skip
    path = mine.with_suffix(".json")
    path.write_text(json.dumps([record] if is_list else record))
    of = account(dropped=[str(path)])
    (item,) = listing(UI, of)
    with HttpClient("Files", "http://localhost") as http:
        found = transform_item(UI, of, NewItem(item), http, datetime.now(UTC))
    assert isinstance(found, Ready)
    assert (found.record.bank_id, found.record.vault_id, found.record.source_app) == (None, None, "file-upload")
    said = {name: record[name] for name in ("bank_id", "vault_id")}
    assert found.record.source_metadata["destination_in_file"] == said
