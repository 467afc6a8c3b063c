"""The addresses behind a name: what becomes of them in a pool when they change."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from ..exceptions import ConfigurationError
from .limits import mistaken_number, mistaken_seconds
from .upstream import Upstream

if TYPE_CHECKING:
    from .pool import UpstreamPool

__all__ = ["Endpoint", "Lookup", "Name", "Records", "Resolve", "is_name", "nameserver_of"]

Records = Literal["A+AAAA", "A", "AAAA", "SRV"]


class Endpoint(NamedTuple):
    """One of the places that a name stands for.

    Attributes:
        address: Where to connect to: an IP address, usually.
        host: The name it goes by in ``Host`` and in TLS. Default: that of the URL.
        port: Its port. Default: that of the URL.
        weight: Its share of the traffic. Default: that of the name's upstream.
        backup: Whether it serves only while others cannot. Default: what the name's upstream says.
    """

    address: str
    host: str | None = None
    port: int | None = None
    weight: int | None = None
    backup: bool | None = None


#: Finds what the upstream's name stands for now.
Lookup = Callable[[Upstream], Awaitable[Sequence[Endpoint]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """The names of a pool's upstreams stand for addresses, which are looked up at an interval.

    Every address becomes an upstream with the weight and the limits of the one that was given.
    ``Host`` and the name in TLS stay those of the URL. What is known of an address that stays is
    kept. One that is gone leaves the pool: it gets no more requests, and may finish those that it
    has. When a lookup fails or finds nothing, the addresses of the last one stay.

    Attributes:
        records: ``"A+AAAA"``, ``"A"`` or ``"AAAA"``, as the event loop's resolver answers, or
            ``"SRV"`` (RFC 2782), which needs ``fastapi-proxy-router[dns]``: then the URL is like
            ``http://_http._tcp.users.internal``, each target serves with its port and weight under
            its own name, and those of any but the first priority are backups.
        interval: Seconds between two lookups. The time to live of the records is not looked at.
        jitter: The share of the interval by which it varies.
        timeout: Seconds after which a lookup has failed.
        nameserver: The server to ask instead of the system's, such as ``127.0.0.1:8600``; needs
            ``fastapi-proxy-router[dns]``.
        lookup: Finds the endpoints of an upstream in a way of your own; the other attributes on
            records do not matter then.

    Raises:
        ConfigurationError: A value cannot be used; every mistake is reported.
    """

    records: Records = "A+AAAA"
    interval: float = 30.0
    jitter: float = 0.1
    timeout: float = 5.0
    nameserver: str | None = None
    lookup: Lookup | None = None

    def __post_init__(self) -> None:
        mistakes = mistaken_seconds("interval", self.interval)
        mistakes += mistaken_seconds("timeout", self.timeout)
        if self.records not in get_args(Records):
            mistakes.append(f"records must be one of {get_args(Records)}, not {self.records!r}")
        mistakes += mistaken_number("jitter", self.jitter, highest=0.99)
        if self.nameserver is not None and not _is_nameserver(self.nameserver):
            mistakes.append(
                f"nameserver must be an IP address, with a port or not, not {self.nameserver!r}"
            )
        if self.lookup is not None and not callable(self.lookup):
            mistakes.append(f"lookup must be callable, not {self.lookup!r}")
        if mistakes:
            raise ConfigurationError([f"resolve: {mistake}" for mistake in mistakes])


def nameserver_of(text: str) -> tuple[str, int]:
    """Return address and port of a name server; the port of DNS is 53.

    Raises:
        ValueError: It is none.
    """
    if _is_address(text):
        return text, 53
    parts = urlsplit(f"//{text}")
    return str(ipaddress.ip_address(parts.hostname or "")), parts.port or 53


def _is_nameserver(value: object) -> bool:
    try:
        nameserver_of(str(value))
    except ValueError:
        return False
    return isinstance(value, str)


def is_name(upstream: Upstream) -> bool:
    """Tell whether *upstream* is connected to by name, so that there is something to look up."""
    return upstream.named is None and not _is_address(upstream.address.host)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class Name:
    """An upstream that was given by name, and the upstreams of its addresses.

    Args:
        upstream: The one that was given. It serves itself until its name was looked up.
        members: The upstreams of addresses that were found before.

    Attributes:
        upstream: The one that was given.
        is_failing: The last lookup has failed.
    """

    def __init__(self, upstream: Upstream, members: Iterable[Upstream] = ()) -> None:
        self.upstream = upstream
        self.is_failing = False
        self._members = {(one.address.host, one.host, one.port): one for one in members}
        self._told = {key: (one.weight, one.backup) for key, one in self._members.items()}

    def found(self, pool: UpstreamPool, endpoints: Iterable[Endpoint]) -> bool:
        """Take over what a lookup has found, and tell whether anything has changed.

        Args:
            pool: The pool.
            endpoints: What was found; nothing changes if that is nothing.

        Raises:
            ConfigurationError: Something that was found cannot be used; nothing has changed then.
        """
        known = {key: one for key, one in self._members.items() if one.pool is pool}
        wanted = {self._key(endpoint): endpoint for endpoint in endpoints}
        if not wanted:
            return False
        new = {key: self._member(wanted[key]) for key in wanted if key not in known}
        lost = [one for key, one in known.items() if key not in wanted]
        if self.upstream.pool is pool:
            lost.append(self.upstream)
        # First: the pool is never without any.
        for one in new.values():
            pool.add(one)
        for one in lost:
            pool.remove(one)
        members = {key: known.get(key) or new[key] for key in wanted}
        told = {key: self._terms(endpoint) for key, endpoint in wanted.items()}
        # What others have set stays until the record says something new.
        adjusted = [key for key in known.keys() & told.keys() if told[key] != self._told[key]]
        for key in adjusted:
            # In this order: a new weight lets the pool work out anew who serves.
            members[key].backup = told[key][1]
            members[key].weight = told[key][0]
        self._members, self._told = members, told
        return bool(new or lost or adjusted)

    def _key(self, endpoint: Endpoint) -> tuple[str, str, int]:
        host, port = endpoint.host, endpoint.port
        return endpoint.address, host or self.upstream.host, port or self.upstream.port

    def _terms(self, endpoint: Endpoint) -> tuple[int, bool]:
        given, weight, backup = self.upstream, endpoint.weight, endpoint.backup
        return (
            given.weight if weight is None else weight,
            given.backup if backup is None else backup,
        )

    def _member(self, endpoint: Endpoint) -> Upstream:
        given = self.upstream
        address, host, port = self._key(endpoint)
        weight, backup = self._terms(endpoint)
        shown = f"[{host}]" if ":" in host else host
        member = Upstream(
            urlsplit(given.url)._replace(netloc=f"{shown}:{port}").geturl(),
            weight=weight,
            backup=backup,
            max_concurrent=given.max_concurrent,
            rate_limit=given.rate_limit,
            address=address,
            transport=given.given_transport,
        )
        member.named = given
        return member
