"""One server that requests are forwarded to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from ..exceptions import ConfigurationError
from .checks import ProbeResult
from .health import Health
from .latency import Latency
from .limits import Meter, RateLimit, mistaken_count, mistaken_flags
from .policy import ForwardPolicy

if TYPE_CHECKING:
    from .pool import UpstreamPool

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
        backup: It serves only while none of the others can.
        max_concurrent: The most exchanges at the same time. Default: no limit.
        rate_limit: The most requests in a window of time. Default: no limit.
        address: Where to connect to instead of the URL's host, a name or an IP address; ``Host``
            and the name in TLS stay the URL's.
        transport: The ``httpx`` or ``httpx2`` transport that carries its HTTP requests. It belongs
            to the upstream from now on and is closed with it. Default: one of ours.

    Attributes:
        address: Where it is connected to.
        authority: The value of its own ``Host`` header.
        pool: The pool that it is in.
        policy: How its pool forwards, or the last that it was in.
        in_flight: Exchanges that are running now.
        requests: Exchanges that there were.
        failures: Those that it has failed.
        latency: How long it takes to answer.
        health: Whether it may be used.
        last_probe: What came of its last health check.
        named: The upstream that was given, if this is one of the addresses of its name.
        effective_weight: The weight it has now, less than ``weight`` in a slow start.

    Raises:
        ConfigurationError: The URL or a number cannot be used.
    """

    def __init__(  # noqa: PLR0913 - all keywords, and all of them are what an upstream is
        self,
        url: str,
        *,
        weight: int = 1,
        backup: bool = False,
        max_concurrent: int | None = None,
        rate_limit: RateLimit | None = None,
        address: str | None = None,
        transport: Any = None,
    ) -> None:
        if not isinstance(url, str):
            raise ConfigurationError([f"the URL of an upstream must be a text, not {url!r}"])
        mistakes: list[str] = []
        shown = _shown(url)
        parts = _split(url, shown, mistakes)
        wrong = mistaken_count("weight", weight, lowest=0)
        if max_concurrent is not None:
            wrong += mistaken_count("max_concurrent", max_concurrent)
        wrong += mistaken_flags(backup=backup)
        if not isinstance(rate_limit, RateLimit | None):
            wrong.append(f"rate_limit must be a RateLimit or None, not {rate_limit!r}")
        if address is not None and not _HOST.fullmatch(address.encode()):
            wrong.append(f"address must be a name or an IP address, not {address!r}")
        mistakes += [f"{shown}: {mistake}" for mistake in wrong]
        if parts is None or mistakes:
            raise ConfigurationError(mistakes)
        self.url = url
        self.scheme: str = _WEBSOCKET_SCHEMES.get(parts.scheme, parts.scheme)
        self.host = (parts.hostname or "").encode("idna").decode()
        self.port = parts.port or _DEFAULT_PORTS[self.scheme]
        self.address = Origin(self.scheme, address or self.host, self.port)
        self.authority = _authority(self.scheme, self.host, self.port)
        self.base_path = parts.path.encode()
        self.base_query = parts.query.encode()
        self.backup = backup
        self.max_concurrent = max_concurrent
        self.rate_limit = rate_limit
        self.transport = self.given_transport = transport
        self.pool: UpstreamPool | None = None
        self.policy: ForwardPolicy | None = None
        self.in_flight = self.requests = self.failures = 0
        self.latency = Latency()
        self.health = Health()
        self.last_probe: ProbeResult | None = None
        self.named: Upstream | None = None
        self.effective_weight: float = weight
        self._weight = weight
        self._meter = Meter(rate_limit) if rate_limit is not None else None

    @property
    def weight(self) -> int:
        """Its share of the traffic of its pool; 0 takes none."""
        return self._weight

    @weight.setter
    def weight(self, weight: int) -> None:
        if mistakes := mistaken_count("weight", weight, lowest=0):
            raise ConfigurationError(mistakes)
        self._weight = self.effective_weight = weight
        if self.pool is not None:
            self.pool.refresh()

    @property
    def server_hostname(self) -> str | None:
        """The name that TLS asks for, if it is not that of the address."""
        return None if self.address.host == self.host else self.host

    @property
    def origin(self) -> str:
        """Scheme, host and port, and the address if it is another, for the log."""
        origin = f"{self.scheme}://{self.authority.decode()}"
        return f"{origin} at {self.address.host}" if self.server_hostname else origin

    def is_busy(self, now: float) -> bool:
        """Tell whether it may be given nothing more at this moment."""
        health = self.health
        return (
            (self.max_concurrent is not None and self.in_flight >= self.max_concurrent)
            or (health.on_trial and health.is_held)
            or (self._meter is not None and self._meter.wait(now) > 0)
        )

    def wait(self, now: float) -> float:
        """Return the seconds for which its rate limit holds it."""
        return self._meter.wait(now) if self._meter is not None else 0.0

    def count(self, now: float) -> None:
        """Count an exchange that begins."""
        self.in_flight += 1
        self.requests += 1
        if self._meter is not None:
            self._meter.add(now)

    def __repr__(self) -> str:
        return (
            f"<Upstream {self.url!r} {self.health.state}, weight {self.weight}, "
            f"{self.in_flight} in flight>"
        )


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
