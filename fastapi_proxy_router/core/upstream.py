"""One server that requests are forwarded to."""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from ..exceptions import ConfigurationError
from .policy import ForwardPolicy

__all__ = ["Origin", "Upstream"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_WEBSOCKET_SCHEMES = {"ws": "http", "wss": "https"}
_TARGET = re.compile(r"[!-~]*")
_SPACE = re.compile(r"\s")
_HOST = re.compile(rb"[0-9A-Za-z._~-]+|[0-9A-Fa-f:.]+")


class Origin(NamedTuple):
    """Where connections go, all of which one pool may hold."""

    scheme: str
    host: str
    port: int


class Upstream:
    """One server that requests are forwarded to.

    Args:
        url: ``http://`` or ``https://`` (``ws`` and ``wss`` are read as these), a host, optionally
            a port, a base path that every request is put below, and a query that is sent with
            every request.
        weight: Its share of the traffic of its pool; 0 takes none.
        transport: The ``httpx`` or ``httpx2`` transport that carries its HTTP requests. It belongs
            to the upstream from now on and is closed with it. Default: one of ours.

    Attributes:
        address: Where it is connected to.
        authority: The value of its own ``Host`` header.
        policy: How its pool forwards; ``None`` until a pool takes it in.
        in_flight: Exchanges that are running now.

    Raises:
        ConfigurationError: The URL or the weight cannot be used.
    """

    def __init__(self, url: str, *, weight: int = 1, transport: Any = None) -> None:
        mistakes: list[str] = []
        shown = _shown(url)
        parts = _split(url, shown, mistakes)
        if type(weight) is not int or weight < 0:
            mistakes.append(f"{shown}: weight must be a whole number from 0, not {weight!r}")
        if parts is None or mistakes:
            raise ConfigurationError(mistakes)
        self.url = url
        self.weight = weight
        self.scheme: str = _WEBSOCKET_SCHEMES.get(parts.scheme, parts.scheme)
        self.host = (parts.hostname or "").encode("idna").decode()
        self.port = parts.port or _DEFAULT_PORTS[self.scheme]
        self.address = Origin(self.scheme, self.host, self.port)
        self.authority = _authority(self.scheme, self.host, self.port)
        self.base_path = parts.path.encode()
        self.base_query = parts.query.encode()
        self.transport = transport
        self.policy: ForwardPolicy | None = None
        self.in_flight = 0

    @property
    def origin(self) -> str:
        """Scheme, host and port, for the log."""
        return f"{self.scheme}://{self.authority.decode()}"

    def __repr__(self) -> str:
        return f"<Upstream {self.url!r} weight {self.weight}, {self.in_flight} in flight>"


def _authority(scheme: str, host: str, port: int) -> bytes:
    """Return the value of ``Host``: with the port only if it is not the scheme's default."""
    host = f"[{host}]" if ":" in host else host
    return host.encode() if port == _DEFAULT_PORTS[scheme] else f"{host}:{port}".encode()


def _shown(url: str) -> str:
    """Return *url* for a message: whatever may be a password is hidden."""
    return f"upstream {('***@' + url.rpartition('@')[2] if '@' in url else url)!r}"


def _split(url: str, shown: str, mistakes: list[str]) -> SplitResult | None:
    """Parse *url*, appending to *mistakes* all that makes it no address of an upstream."""
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna")
    except ValueError:
        # What urlsplit says quotes parts of the URL.
        mistakes.append(f"{shown}: host or port cannot be read")
        return None
    if parts.scheme not in _DEFAULT_PORTS and parts.scheme not in _WEBSOCKET_SCHEMES:
        mistakes.append(f"{shown}: the URL must begin with http:// or https://")
    elif not _HOST.fullmatch(host):
        mistakes.append(f"{shown}: the URL has no host, which is a name or an address")
    if port == 0:
        mistakes.append(f"{shown}: port 0 cannot be connected to")
    if parts.username is not None or parts.password is not None:
        mistakes.append(f"{shown}: credentials do not belong in the URL; set a header instead")
    if parts.fragment:
        mistakes.append(f"{shown}: a fragment is never sent")
    if not _TARGET.fullmatch(parts.path + parts.query) or _SPACE.search(url):
        mistakes.append(f"{shown}: path and query must be percent-encoded")
    return parts
