"""The folder of the embedded server's socket: short enough for its path, and closed to everybody else."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import tempfile
from pathlib import Path

from import_pipeline.database.embedded import watchdog
from import_pipeline.database.embedded.installation import INSTEAD, Account
from import_pipeline.errors import EmbeddedServerError

_SOCKET_PATH_BYTES = 85
"""Linux allows 107 and macOS 103, with the name of the socket."""


def make_socket_folder(home: Path, account: Account, before: Path | None) -> Path:
    """Return a folder with a short path that only the server and we can enter; the same as last time if it can.

    Args:
        home: The home of the server.
        account: Whose processes are the server.
        before: The folder that was used last.

    Raises:
        EmbeddedServerError: None could be made.
    """
    name = f"import-pipeline-{hashlib.sha256(os.fsencode(f'{os.geteuid()} {home}')).hexdigest()[:12]}"
    problem: OSError | None = None
    for parent in dict.fromkeys(["/tmp", tempfile.gettempdir(), "/var/tmp"]):  # noqa: S108 - checked below # nosec B108
        usual = before or Path(parent, name)
        if len(os.fsencode(Path(parent, name))) > _SOCKET_PATH_BYTES:
            continue
        try:
            usual.mkdir(mode=0o700, exist_ok=True)
            if usual.lstat().st_uid == os.geteuid() and account.is_other and not os.listdir(usual):
                account.own(usual)
            state = usual.lstat()
            private = stat.S_ISDIR(state.st_mode) and stat.S_IMODE(state.st_mode) == 0o700
            if private and state.st_uid == account.uid and not _is_inhabited(usual):
                for leftover in (watchdog.SOCKET, f"{watchdog.SOCKET}.lock"):
                    (usual / leftover).unlink(missing_ok=True)
                return usual
            new = Path(tempfile.mkdtemp(dir=parent, prefix="import-pipeline-"))
            account.own(new)
            return new
        except OSError as error:
            problem = error
    raise EmbeddedServerError(
        f"No folder for the socket of the embedded PostgreSQL could be made: {problem}. {INSTEAD}"
    )


def _is_inhabited(folder: Path) -> bool:
    """Tell whether somebody answers on the socket in this folder."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(folder / watchdog.SOCKET))
        except OSError:
            return False
    return True
