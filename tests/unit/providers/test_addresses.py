"""Where a provider's answer may lead: not into the network that we stand in, by whatever name or spelling."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fakes.server import FakeServer, Request, Response

from import_pipeline.errors import HttpError
from import_pipeline.providers.http import HttpClient, addresses
from import_pipeline.providers.http.addresses import is_public

SECRET = "what an internal server says"


class Inside(FakeServer):
    """A server that nobody outside should reach: it answers, and refuses, with what is nobody's business."""

    status = 200

    def answer(self, request: Request, *_: Any) -> Response:
        return Response.json({"message": SECRET, "error": {"message": SECRET}}, self.status)


class Site(FakeServer):
    """The provider; it redirects to wherever a test says."""

    location = ""

    def answer(self, request: Request, *_: Any) -> Response:
        if request.path == "/moved":
            return Response(302, headers={"Location": self.location})
        return Response.json({"path": request.path})


@pytest.fixture
def inside() -> Iterator[Inside]:
    """Listens beside the provider: on another address of the loopback network."""
    with Inside(host="127.0.0.2") as server:
        yield server


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        yield server


Names = dict[str, list[str]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Names and what they are answered with; of several answers each is given once, and the last one stays."""
    known: Names = {}
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name in known:
            host = known[name].pop(0) if len(known[name]) > 1 else known[name][0]
        return resolve(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


def refusal_of(ask: Callable[[], Any]) -> str:
    with pytest.raises(HttpError) as caught:
        ask()
    assert caught.value.error_class == "permanent"
    assert SECRET not in str(caught.value)
    return str(caught.value)


# --- which addresses are public -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.1.2.3", "172.16.0.1", "172.31.255.255"),  # noqa: S104
        *("192.168.1.1", "100.64.0.1", "100.127.255.255", "169.254.169.254", "192.0.0.8", "192.0.0.170", "192.0.2.1"),
        *("198.18.0.1", "192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%lo", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1"),
        *("64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::", "2001::1", "100::1", "4000::1"),
    ],
)
def test_what_is_not_on_the_internet_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "100.63.255.255", "172.32.0.1", "193.0.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"],
)
def test_what_is_on_the_internet_is_public(address: str) -> None:
    assert is_public(address)


# --- where a link leads -------------------------------------------------------------------------------------------

SPELLINGS = [
    *("127.0.0.2", "127.2", "2130706434", "0x7f000002", "0177.2", "0x7f.0.0.2", "127.0.0.2."),
    *("[::ffff:127.0.0.2]", "[::ffff:7f00:2]", "[0:0:0:0:0:FFFF:127.0.0.2]"),
]


@pytest.mark.parametrize("way", ["named", "redirected to"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_address_inside_is_not_followed_however_it_is_spelled(
    site: Site, inside: Inside, spelling: str, way: str
) -> None:
    """Attack A9."""
    site.location = f"http://{spelling}:{inside.port}/latest/meta-data"
    with HttpClient("Demo", site.url, max_attempts=1) as client:
        told = refusal_of(lambda: client.get_bytes(site.location if way == "named" else "/moved"))
    assert told == "Demo leads to an address inside a private network, which is not followed."
    assert inside.requests == []


@pytest.mark.parametrize("address", ["127.0.0.2", "::ffff:127.0.0.2"])
@pytest.mark.parametrize("status", [200, 403])
def test_a_name_that_means_an_address_inside_is_not_followed(
    site: Site, inside: Inside, names: Names, address: str, status: int
) -> None:
    """Attack A9: nothing is fetched from there, and nothing that it says is shown."""
    inside.status = status
    names["files.example.test"] = [address]
    site.location = f"http://files.example.test:{inside.port}/secret"
    with HttpClient("Demo", site.url, max_attempts=1) as client:
        for ask in (lambda: client.get_json(site.location), lambda: client.get_json("/moved")):
            assert "inside a private network" in refusal_of(ask)
    assert inside.requests == []


def test_a_name_that_is_answered_otherwise_the_second_time_leads_where_it_was_looked_at(
    site: Site, inside: Inside, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack A9, DNS rebinding."""
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.3")
    with Site(host="127.0.0.3", port=inside.port) as public:
        names["files.example.test"] = ["127.0.0.3", "127.0.0.2"]
        with HttpClient("Demo", site.url, max_attempts=1) as client:
            assert client.get_json(f"http://files.example.test:{inside.port}/file") == {"path": "/file"}
        with HttpClient("Demo", site.url, max_attempts=1) as client:
            refusal_of(lambda: client.get_json(f"http://files.example.test:{inside.port}/file"))
        assert len(public.requests) == 1
    assert inside.requests == []


def test_of_a_name_with_several_addresses_only_the_public_ones_are_tried(
    site: Site, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack A9: the first address may answer nothing, so that the next one is taken."""
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.3")
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        found = ["127.0.0.3", "127.0.0.2"] if host == "files.example.test" else [host]
        return [entry for each in found for entry in resolve(each, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with HttpClient("Demo", site.url, max_attempts=1) as client, pytest.raises(HttpError, match="could not be reached"):
        client.get_json(f"http://files.example.test:{inside.port}/file")
    assert inside.requests == []


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "127.1", "[::1]", "169.254.169.254"])
def test_behind_a_proxy_written_addresses_inside_are_refused_too(
    site: Site, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack A9: what names mean is the proxy's business."""
    monkeypatch.setenv("ALL_PROXY", site.origin)
    with HttpClient("Demo", "http://api.example.test/v1", max_attempts=1) as client:
        assert client.get_json("/calls")
        assert "inside a private network" in refusal_of(lambda: client.get_json(f"http://{host}/x"))
    assert len(site.requests) == 1


def test_a_public_provider_leads_nowhere_inside(inside: Inside, names: Names) -> None:
    """Attack A9, where the base is an http address on the internet."""
    names["api.example.test"] = ["93.184.216.34"]
    with HttpClient("Demo", "http://api.example.test", max_attempts=1) as client:
        for host in ("127.0.0.2", "localhost", "2130706434"):
            refusal_of(lambda host=host: client.get_json(f"http://{host}:{inside.port}/"))  # type: ignore[misc]
    assert inside.requests == []


def test_a_provider_inside_leads_to_itself_and_to_other_ports_beside_it(site: Site, names: Names) -> None:
    """As a proxy in front of a provider does, or a fake that keeps its files on another port."""
    names["proxy.example.test"] = ["127.0.0.1"]
    with Site() as files:
        for base in (site.url, f"http://proxy.example.test:{site.port}"):
            with HttpClient("Demo", base, max_attempts=1) as client:
                for address in (f"{base}/own", f"{files.url}/file", f"http://proxy.example.test:{files.port}/file"):
                    assert client.get_json(address)["path"] in ("/own", "/file")


def test_a_trusted_domain_is_no_way_inside(site: Site, inside: Inside, names: Names) -> None:
    names["us02web.zoom.us"] = ["127.0.0.2"]
    with HttpClient("Demo", site.url, trusted_domains=["zoom.us"], max_attempts=1) as client:
        refusal_of(lambda: client.get_bytes(f"https://us02web.zoom.us:{inside.port}/"))
        refusal_of(lambda: client.get_bytes(f"http://us02web.zoom.us:{inside.port}/"))
    assert inside.requests == []


@pytest.mark.parametrize("user", ["user:pass@", "api.example.test@", "@"])
def test_a_link_with_a_user_name_is_not_followed(site: Site, user: str) -> None:
    address = f"http://{user}{site.host}:{site.port}/x"
    with HttpClient("Demo", site.url, max_attempts=1) as client:
        if user == "@":  # which names nobody
            assert client.get_json(address)
        else:
            assert "with a user name in it" in refusal_of(lambda: client.get_json(address))
    assert all("authorization" not in record.headers for record in site.requests)


def test_every_hop_of_a_redirect_is_looked_at(site: Site, inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack A9: a public host in between sends on to one inside."""
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.3")
    with ExitStack() as stack:
        between = stack.enter_context(Site(host="127.0.0.3"))
        between.location = f"{inside.url}/secret"
        site.location = f"{between.url}/moved"
        client = stack.enter_context(HttpClient("Demo", site.url, max_attempts=1))
        assert "inside a private network" in refusal_of(lambda: client.get_json("/moved"))
        assert [record.path for record in between.requests] == ["/moved"]
    assert inside.requests == []


def test_a_base_in_capitals_leads_to_no_http_either(site: Site) -> None:
    with HttpClient("Demo", "HTTPS://api.example.test", max_attempts=1) as client:
        assert "from https" in refusal_of(lambda: client.get_bytes(f"{site.url}/x"))
    assert site.requests == []


def test_a_stranger_asks_for_no_silence_at_the_provider(site: Site) -> None:
    """A host that a link names may refuse for hours; the provider and its other calls have nothing to do with it."""

    class Busy(FakeServer):
        def answer(self, request: Request, *_: Any) -> Response:
            return Response.json({}, 429, Retry_After="9999")

    with Busy() as busy, HttpClient("Demo", site.url, budget=NoBlock()) as client:
        with pytest.raises(HttpError):
            client.get_bytes(f"{busy.url}/file")
        assert client.get_json("/calls")


class NoBlock:
    """A budget that must not be blocked."""

    def take(self, names: Any) -> Any:
        from import_pipeline.providers.rate_budgets import Permit

        return Permit(tuple(names), 0.0, 0.0, 0.0, False)

    def note_answered(self, permit: Any) -> None:
        pass

    def block(self, seconds: float, names: Any) -> None:
        raise AssertionError("somebody else has no say here")
