"""Looks the names of upstreams up: the event loop's resolver, or dnspython for what it cannot."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from .core.discovery import Endpoint, Lookup, Name, Resolve, is_name, nameserver_of
from .core.pool import UpstreamPool
from .core.upstream import Upstream
from .exceptions import ConfigurationError
from .log import logger
from .rounds import Rounds

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as DNSResolver

__all__ = ["Resolver"]

_FAMILIES = {"A+AAAA": socket.AF_UNSPEC, "A": socket.AF_INET, "AAAA": socket.AF_INET6}


class Resolver:
    """Looks up the names of a pool's upstreams, each for itself, and keeps the pool up to date.

    Args:
        pool: The pool. Without ``Resolve`` there is nothing to do.
    """

    def __init__(self, pool: UpstreamPool) -> None:
        self._pool = pool
        self._names: dict[Upstream, Name] = {}
        self._rounds: Rounds[Name] | None = None
        if (resolve := pool.resolve) is not None:
            self._lookup = _lookup_of(resolve)
            self._rounds = Rounds(
                pool,
                self._parts,
                lambda name: self._look_up(name, resolve.timeout),
                resolve,
                lambda name: f"resolve {name.upstream.origin}",
            )

    async def start(self) -> None:
        """Begin, and return when every name was looked up once. Idempotent."""
        if self._rounds is not None:
            await self._rounds.start()

    async def stop(self) -> None:
        """End, and return when nothing of it is left. It may be started again. Idempotent."""
        if self._rounds is not None:
            await self._rounds.stop()

    def _parts(self) -> Iterable[Name]:
        """Return the names of the pool: of upstreams as they were given, and of their addresses."""
        members: dict[Upstream, list[Upstream]] = {}
        for upstream in self._pool.upstreams:
            if upstream.named is not None:
                members.setdefault(upstream.named, []).append(upstream)
            elif is_name(upstream):
                members.setdefault(upstream, [])
        self._names = {
            given: self._names.get(given) or Name(given, found) for given, found in members.items()
        }
        return self._names.values()

    async def _look_up(self, name: Name, timeout: float) -> None:
        given = name.upstream
        try:
            async with asyncio.timeout(timeout):
                endpoints = await self._lookup(given)
            changed = name.found(self._pool, endpoints)
            reason = "" if endpoints else "there is no address"
        except TimeoutError:
            reason = f"no answer within {timeout} s"
        except Exception as error:  # noqa: BLE001 - whatever a resolver raises
            reason = f"{type(error).__name__}: {ascii(str(error))[:200]}"
        if not reason:
            name.is_failing = False
            if changed:
                found = sorted({endpoint.address for endpoint in endpoints})
                logger.info("%s is at %s", given.origin, ", ".join(found))
        elif not name.is_failing:
            name.is_failing = True
            logger.warning("%s stays where it was, its lookup failed: %s", given.origin, reason)


def _lookup_of(resolve: Resolve) -> Lookup:
    """Return what looks names up in the chosen way.

    Raises:
        ConfigurationError: dnspython is needed for it and is not installed.
    """
    if resolve.lookup is not None:
        return resolve.lookup
    if resolve.records != "SRV" and resolve.nameserver is None:
        return lambda upstream: _by_event_loop(upstream, _FAMILIES[resolve.records])
    resolver = _dns_resolver(resolve)
    if resolve.records == "SRV":
        return lambda upstream: _services(resolver, upstream.address.host)
    kinds = resolve.records.split("+")

    async def look_up(upstream: Upstream) -> list[Endpoint]:
        return [Endpoint(one) for one in await _addresses(resolver, upstream.address.host, kinds)]

    return look_up


async def _by_event_loop(upstream: Upstream, family: int) -> list[Endpoint]:
    found = await asyncio.get_running_loop().getaddrinfo(
        upstream.address.host,
        upstream.port,
        family=family,
        type=socket.SOCK_STREAM,
        # No IPv6 where there is none.
        flags=socket.AI_ADDRCONFIG,
    )
    # A link-local address means nothing without the name of an interface.
    addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
    return [Endpoint(address) for address in addresses if "%" not in address]


def _dns_resolver(resolve: Resolve) -> DNSResolver:
    try:
        from dns.asyncresolver import Resolver as DNSResolver  # noqa: PLC0415 - it is an extra
        from dns.nameserver import Do53Nameserver  # noqa: PLC0415
    except ImportError:
        needs = "SRV records" if resolve.records == "SRV" else "a name server of one's own"
        mistake = f"resolve: {needs} need dnspython: pip install 'fastapi-proxy-router[dns]'"
        raise ConfigurationError([mistake]) from None
    resolver = DNSResolver(configure=resolve.nameserver is None)
    resolver.lifetime = resolve.timeout
    if resolve.nameserver is not None:
        resolver.nameservers = [Do53Nameserver(*nameserver_of(resolve.nameserver))]
    return resolver


async def _services(resolver: DNSResolver, name: str) -> list[Endpoint]:
    """Return the endpoints of SRV records (RFC 2782)."""
    records = list(await resolver.resolve(name, "SRV", search=True))
    first = min(record.priority for record in records)
    found = []
    for record in records:
        # A target that is the root says that there is no such service.
        if host := str(record.target).rstrip("."):
            # A weight of 0 is a small chance there, and none here.
            terms = host, record.port, max(record.weight, 1), record.priority != first
            found += [Endpoint(address, *terms) for address in await _addresses(resolver, host)]
    return found


async def _addresses(
    resolver: DNSResolver, name: str, kinds: Collection[str] = ("A", "AAAA")
) -> list[str]:
    """Return the addresses of *name*, none if it does not exist.

    Raises:
        dns.exception.DNSException: There was no answer.
    """
    from dns.resolver import NXDOMAIN  # noqa: PLC0415 - it is an extra

    found: list[str] = []
    try:
        for kind in kinds:
            answer = await resolver.resolve(name, kind, search=True, raise_on_no_answer=False)
            found += [record.address for record in answer.rrset or ()]
    except NXDOMAIN:
        return []
    return found
