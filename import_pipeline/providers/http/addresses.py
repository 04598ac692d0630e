"""Where requests may go: what the answer of a provider names must not lead into the network that we stand in.

The operator names the bases, and a base may be anywhere. Every other address comes out of an answer, and is
connected to only where it is public, or where a base itself is: beside a proxy or a fake, on another port. What counts
is the address that is connected to and never the name, which may be answered otherwise the next time it is asked for.
Behind a proxy of the environment it is the proxy that asks for names, and what they lead to is its business; addresses
that are written out are refused there too.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from contextlib import suppress

import httpx

Origin = tuple[str, str, int | None]

_DEFAULT_PORTS = {"https": 443, "http": 80}
_IPv4, _IPv6 = ipaddress.IPv4Address, ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST = ipaddress.IPv6Network("2000::/3")
# What Python's tables know only since later patches, or what leads to any IPv4 address by a tunnel.
_NOT_PUBLIC = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20"))
)


class ForbiddenAddressError(Exception):
    """An answer of a provider leads to where it must not."""


class Reach:
    """What the client of one provider may connect to, and where the credential may be sent.

    Args:
        base_url: The provider's API; the credential is sent there.
        trusted_domains: Where else it may be sent, subdomains included: over https and its own port only.
    """

    def __init__(self, base_url: str, trusted_domains: Sequence[str] = ()) -> None:
        self._bases = [httpx.URL(base_url)]
        self._trusted = [httpx.URL(f"https://{domain}").raw_host.decode("ascii") for domain in trusted_domains]

    def add_base(self, url: str) -> None:
        """Let requests go to a part of the provider that a setting puts elsewhere, without the credential."""
        if not self.is_base(base := httpx.URL(url)):
            self._bases.append(base)

    def is_trusted(self, url: httpx.URL) -> bool:
        """Say whether the credential may be sent there: to the very origin of the API, or to a trusted domain."""
        scheme, host, port = origin(url)
        if host and (scheme, host, port) == origin(self._bases[0]):
            return True
        return (scheme, port) == ("https", 443) and any(
            host == domain or host.endswith(f".{domain}") for domain in self._trusted
        )

    def is_base(self, url: httpx.URL) -> bool:
        """Say whether it is the provider itself that is asked."""
        return origin(url) in map(origin, self._bases)

    def is_own(self, url: httpx.URL) -> bool:
        """Say whether it belongs to the provider, which counts what is asked of it."""
        return self.is_base(url) or self.is_trusted(url)

    def check(self, url: httpx.URL) -> None:
        """Check what an address shows by itself; `choose` checks the rest when it is connected to.

        Raises:
            ForbiddenAddressError: It is not to be followed.
        """
        if url.scheme != "https" and self._bases[0].scheme == "https":  # what is inside a network mostly is
            raise ForbiddenAddressError("from https to an address that is none")
        if url.userinfo and url.userinfo not in [base.userinfo for base in self._bases]:
            raise ForbiddenAddressError("to an address with a user name in it")
        if not url.host or self.is_base(url):
            return
        if address := _written(origin(url)[1]):
            self.choose(url.host, url.port or 0, [address])

    def choose(self, host: str, port: int, addresses: Sequence[str]) -> Sequence[str]:
        """Return those of a host's addresses that may be connected to.

        Raises:
            ForbiddenAddressError: None of them.
        """
        if any((host.lower().removesuffix("."), port) == origin(base)[1:] for base in self._bases):
            return addresses
        chosen = [address for address in addresses if is_public(address)]
        if len(chosen) < len(addresses):
            beside = {_plain(address) for base in self._bases for address in _addresses_of(base.raw_host.decode())}
            chosen = [address for address in addresses if address in chosen or _plain(address) in beside]
        if not chosen:
            raise ForbiddenAddressError("to an address inside a private network")
        return chosen


def origin(url: httpx.URL) -> Origin:
    """Return scheme, host and port, however they are spelled."""
    port = _DEFAULT_PORTS.get(url.scheme) if url.port is None else url.port
    return url.scheme, url.raw_host.decode("ascii").lower().removesuffix("."), port


def is_public(address: str) -> bool:
    """Say whether an IP address belongs to somebody on the internet, and not to this machine or a network around it."""
    ip = _plain(address)
    if isinstance(ip, _IPv6) and ip not in _UNICAST:
        return False
    is_special = ip.is_multicast or ip.is_reserved or any(ip in network for network in _NOT_PUBLIC)
    return ip.is_global and not is_special


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address, and of one that stands for an IPv4 address that one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, _IPv6):
        if ip.ipv4_mapped:
            return ip.ipv4_mapped
        if ip in _NAT64:
            return _IPv4(int(ip) & 0xFFFFFFFF)
    return ip


def _written(host: str) -> str | None:
    """Return the address that a host is without asking anybody, in any spelling: 127.1, 0x7f.1, 2130706433."""
    if host == "localhost" or host.endswith(".localhost"):
        return "127.0.0.1"
    with suppress(OSError):
        return socket.inet_ntoa(socket.inet_aton(host))
    with suppress(ValueError):
        return str(ipaddress.ip_address(host.partition("%")[0]))
    return None


def _addresses_of(host: str) -> list[str]:
    with suppress(OSError, UnicodeError):
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)] if host else []
    return []
