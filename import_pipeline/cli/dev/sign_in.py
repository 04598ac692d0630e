"""Who may enter the UI: links that let a browser in, and the sessions they begin.

Both rest on a folder in the home that only its owner can enter, made anew each time the UI is opened: anybody who may
read it is the operator, in another terminal too. Every link and session ends with the UI. A webserver that is started
again in between finds it as it was, so nobody is signed out. Nothing here passes through an argument or an environment.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

OPERATOR = "operator"
VIEWER = "viewer"
SESSION_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True)
class Kind:
    """How long a link works, and whether for one browser only."""

    seconds: int
    is_used_once: bool


LINKS = {OPERATOR: Kind(10 * 60, is_used_once=True), VIEWER: Kind(24 * 3600, is_used_once=False)}
"""That of colleagues goes into a chat and is opened by several, and by programs that look at links before people do."""


class SignIn:
    """The links and sessions of one UI.

    Args:
        folder: Where they are kept; `prepare` makes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Make the folder anew, which ends what was before."""
        self.forget()
        self._folder.mkdir(mode=0o700)
        self.write("key", Fernet.generate_key().decode())

    def forget(self) -> None:
        """End every link and session."""
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def write(self, name: str, text: str) -> Path:
        """Write a file that nobody else can read."""
        path = self._folder / name
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(text)
        return path

    def make_token(self, role: str) -> str:
        """Return what lets a browser in with a role."""
        token = secrets.token_urlsafe(32)
        self.write(_name(role, token), "")
        return token

    def redeem(self, token: str) -> str | None:
        """Return the role that a token gives, or None.

        A token is compared with nothing, so that no comparison takes longer the more of it is right: a file with the
        name of its hash is there or not. Of two who bring the same one at once, one deletes the file.
        """
        for role, kind in LINKS.items():
            path = self._folder / _name(role, token)
            try:
                is_fresh = time.time() - path.stat().st_mtime < kind.seconds
                if kind.is_used_once or not is_fresh:
                    path.unlink()
            except FileNotFoundError:
                continue
            return role if is_fresh else None
        return None

    def make_session(self, role: str) -> str:
        """Return the value of the cookie that says who somebody is."""
        return self._signer.encrypt(role.encode()).decode()

    def read_session(self, value: str) -> str | None:
        """Return the role that a cookie proves, or None."""
        try:
            role = self._signer.decrypt(value.encode(), ttl=SESSION_SECONDS).decode()
        except InvalidToken:
            return None
        return role if role in LINKS else None

    @cached_property
    def _signer(self) -> Fernet:
        return Fernet((self._folder / "key").read_bytes())


def _name(role: str, token: str) -> str:
    return f"{role}-{hashlib.sha256(token.encode('utf-8', 'replace')).hexdigest()}"
