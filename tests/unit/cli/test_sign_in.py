"""Links and sessions of the UI, and the addresses it answers at."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import psutil
import pytest

from import_pipeline.cli.dev.address import Address
from import_pipeline.cli.dev.sign_in import LINKS, OPERATOR, SESSION_SECONDS, VIEWER, SignIn
from import_pipeline.errors import ConfigurationError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ui"


@pytest.fixture
def sign_in(folder: Path) -> SignIn:
    sign_in = SignIn(folder)
    sign_in.prepare()
    return sign_in


def grow_old(folder: Path, seconds: float) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def test_a_link_of_the_operator_works_once(sign_in: SignIn) -> None:
    token = sign_in.make_token(OPERATOR)
    assert len(token) >= 43, "256 bits"
    assert sign_in.redeem(token) == OPERATOR
    assert sign_in.redeem(token) is None


def test_of_many_who_bring_the_same_link_at_once_one_gets_in(sign_in: SignIn) -> None:
    together = threading.Barrier(8)
    entered: list[str | None] = []

    def enter(token: str) -> None:
        together.wait()
        entered.append(sign_in.redeem(token))

    for _ in range(20):
        token = sign_in.make_token(OPERATOR)
        threads = [threading.Thread(target=enter, args=(token,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert entered.count(OPERATOR) == 1
        entered.clear()


def test_a_link_for_colleagues_works_again_until_it_is_too_old(sign_in: SignIn, folder: Path) -> None:
    token = sign_in.make_token(VIEWER)
    assert [sign_in.redeem(token) for _ in range(3)] == [VIEWER] * 3
    grow_old(folder, LINKS[VIEWER].seconds + 1)
    assert sign_in.redeem(token) is None


def test_an_old_link_works_no_more(sign_in: SignIn, folder: Path) -> None:
    token = sign_in.make_token(OPERATOR)
    grow_old(folder, LINKS[OPERATOR].seconds + 1)
    assert sign_in.redeem(token) is None


@pytest.mark.parametrize("token", ["", "key", "../key", "/etc/passwd", "\x00", "\ud800", "x" * 10_000])
def test_what_is_no_token_lets_nobody_in(sign_in: SignIn, token: str) -> None:
    assert sign_in.redeem(token) is None


def test_nothing_that_lies_in_the_folder_is_a_token(sign_in: SignIn, folder: Path) -> None:
    tokens = [sign_in.make_token(role) for role in LINKS]
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not any(token in path.name + path.read_text() for token in tokens)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_session_outlives_the_process_but_neither_its_ui_nor_its_time(
    sign_in: SignIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = sign_in.make_session(VIEWER)
    assert SignIn(folder).read_session(session) == VIEWER, "a webserver that was started again"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + SESSION_SECONDS + 1)
    assert SignIn(folder).read_session(session) is None
    monkeypatch.undo()
    sign_in.prepare()
    assert SignIn(folder).read_session(session) is None


def test_a_folder_that_somebody_prepared_is_made_anew(folder: Path) -> None:
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    (folder / "key").symlink_to(folder.parent / "elsewhere")
    SignIn(folder).prepare()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not (folder / "key").is_symlink()
    assert not (folder.parent / "elsewhere").exists()


@pytest.mark.parametrize(
    ("address", "url", "known"),
    [
        (Address("127.0.0.1", 3000), "http://127.0.0.1:3000", {"localhost:3000", "127.0.0.1:3000"}),
        (Address("localhost", 80), "http://localhost", {"localhost", "127.0.0.1"}),
        (Address.of("[::1]", 3000), "http://[::1]:3000", {"localhost:3000", "127.0.0.1:3000", "[::1]:3000"}),
        (
            Address("127.0.0.1", 3000, "https://UI.example.com"),
            "https://UI.example.com",
            {"localhost:3000", "127.0.0.1:3000", "ui.example.com"},
        ),
        (
            Address("10.0.0.5", 3000, "https://ui.example.com:8443"),
            "https://ui.example.com:8443",
            {"localhost:3000", "127.0.0.1:3000", "10.0.0.5:3000", "ui.example.com:8443"},
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Address) else "",
)
def test_an_address_knows_the_hosts_that_were_told_and_no_other(address: Address, url: str, known: set[str]) -> None:
    assert address.url == url
    assert set(address.origins) == known
    assert all(origin.endswith(f"//{host}") for host, origin in address.origins.items())


def test_who_listens_everywhere_is_found_at_each_address_of_the_machine() -> None:
    own = {each.address for addresses in psutil.net_if_addrs().values() for each in addresses if each.family.value == 2}
    assert set(Address("0.0.0.0", 3000).origins) > {f"{each}:3000" for each in own}  # noqa: S104


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1"])
def test_a_loopback_address_is_told_from_others(host: str) -> None:
    assert Address(host, 3000).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "0x0", "10.0.0.5", "no.such.host.invalid", ""])  # noqa: S104
def test_what_others_may_reach_is_no_loopback_address_however_it_is_written(host: str) -> None:
    assert not Address(host, 3000).is_loopback


@pytest.mark.parametrize(
    "url", ["ui.example.com", "ftp://ui.example.com", "https://", "https://ui:port", "javascript:1"]
)
def test_a_public_address_that_is_none_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_PIPELINE_UI_URL", url)
    with pytest.raises(ConfigurationError, match="IMPORT_PIPELINE_UI_URL"):
        Address.of("127.0.0.1", 3000)
