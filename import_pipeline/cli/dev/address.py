"""Where the UI is: what it listens on, what a browser may call it, and whether strangers can reach it."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import psutil

from import_pipeline.errors import ConfigurationError

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """Where the UI is.

    Attributes:
        host: What it listens on: an address of this machine or a name for one.
        port: On which port.
        public_url: What people type where a proxy stands before it, `IMPORT_PIPELINE_UI_URL`; or None.
    """

    host: str
    port: int
    public_url: str | None = None

    @classmethod
    def of(cls, host: str, port: int) -> Address:
        """Return the address with what the environment says.

        Raises:
            ConfigurationError: `IMPORT_PIPELINE_UI_URL` is not the address of a website.
        """
        public_url = os.environ.get("IMPORT_PIPELINE_UI_URL", "").strip().rstrip("/") or None
        if public_url is not None and _origin(public_url) is None:
            raise ConfigurationError("IMPORT_PIPELINE_UI_URL must begin with https:// or http:// and name a host.")
        return cls(host.strip("[]"), port, public_url)

    @property
    def url(self) -> str:
        """Where people find it."""
        return self.public_url or _as_origin(
            "http", socket.gethostname() if self._is_everywhere else self.host, self.port
        )

    @property
    def reached_at(self) -> tuple[socket.AddressFamily, Any]:
        """Where a program of this machine connects; an address that stands for all stands for this machine then."""
        family, _, _, _, place = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
        return family, place

    @cached_property
    def origins(self) -> dict[str, str]:
        """What a browser may call it: the header `Host` and, for each, the only right `Origin`.

        Names are those that were told, so that a name of somebody else's that leads here leads nowhere.
        """
        known = [_as_origin("http", host, self.port) for host in self._hosts()]
        if self.public_url is not None and (origin := _origin(self.public_url)):
            known.append(origin)
        return {origin.partition("://")[2]: origin for origin in known}

    @property
    def is_loopback(self) -> bool:
        """Whether nobody reaches it from another machine."""
        try:
            found = {str(each[4][0]) for each in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)}
        except (OSError, UnicodeError):
            return False
        return bool(found) and all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found)

    def require_free(self) -> None:
        """Raise unless it can be listened on.

        Raises:
            ConfigurationError: The port is taken, or the host is none of this machine.
        """
        try:
            family, place = self.reached_at
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "no such host"
            raise ConfigurationError(
                f"Port {self.port} of {self.host} cannot be used ({reason}); name others with --port and --host."
            ) from error

    @property
    def _is_everywhere(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False

    def _hosts(self) -> Iterator[str]:
        yield from ("localhost", "127.0.0.1", self.host)
        if self._is_everywhere:
            yield socket.gethostname()
            for addresses in psutil.net_if_addrs().values():
                yield from (each.address for each in addresses if each.family in (socket.AF_INET, socket.AF_INET6))


def _as_origin(scheme: str, host: str, port: int | None) -> str:
    """Put an origin together as browsers write it."""
    name = f"[{host}]" if ":" in host else host.lower()
    return f"{scheme}://{name}" if port in (None, _DEFAULT_PORTS.get(scheme)) else f"{scheme}://{name}:{port}"


def _origin(url: str) -> str | None:
    """Return the origin of a website's address, or None if it is none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        return None
    return _as_origin(parts.scheme, parts.hostname, port)
