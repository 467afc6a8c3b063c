"""What a pool is doing at one moment, as models that an endpoint may return."""

# No "from __future__ import annotations" here: pydantic reads the annotations of the models.

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from .health import State

if TYPE_CHECKING:
    from .pool import UpstreamPool
    from .upstream import Upstream

__all__ = ["PoolSnapshot", "UpstreamSnapshot", "snapshot_of"]


class UpstreamSnapshot(BaseModel):
    """One upstream at one moment.

    Attributes:
        url: Its URL, without the query that is sent to it, which may be a secret.
        address: The host or IP address it is connected to instead of the URL's.
        state: ``healthy``, ``unhealthy`` to its probes, ``unknown`` before the first of them,
            ``ejected``, or ``half-open`` while one request may try it.
        weight: Its share of the traffic.
        effective_weight: The share it has now, less in a slow start.
        backup: It serves only while none of the others can.
        draining: Its weight is 0: it finishes what it has and is given nothing new.
        in_flight: Exchanges that are running now.
        requests: Exchanges that there were.
        failures: Those that it has failed.
        latency: Seconds to the first byte of its answers, on average; the last count most, and a
            failure for a second at the least. ``None`` if it answered nothing in the last minute.
        ejections: How often it was ejected.
        ejected_for: Seconds until a request may try it, if it is ejected.
    """

    model_config = ConfigDict(frozen=True)

    url: str
    address: str | None
    state: State
    weight: int
    effective_weight: float
    backup: bool
    draining: bool
    in_flight: int
    requests: int
    failures: int
    latency: float | None
    ejections: int
    ejected_for: float | None


class PoolSnapshot(BaseModel):
    """A pool at one moment.

    Attributes:
        name: Its name.
        in_flight: Exchanges that are running now.
        waiting: Requests that wait in its queue.
        retries: Retries in the last 10 s.
        retries_spent: Its budget allows no retry at this moment.
        panic: None of its upstreams is healthy, so it uses all.
        upstreams: Its upstreams.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    in_flight: int
    waiting: int
    retries: int
    retries_spent: bool
    panic: bool
    upstreams: list[UpstreamSnapshot]


def snapshot_of(pool: "UpstreamPool", now: float) -> PoolSnapshot:
    """Return what *pool* is doing."""
    return PoolSnapshot(
        name=pool.name,
        in_flight=pool.in_flight,
        waiting=len(pool.waiting),
        retries=pool.budget.retries(now),
        retries_spent=pool.budget.is_spent(now),
        panic=any(upstream.health.in_panic for upstream in pool.upstreams),
        upstreams=[_snapshot(upstream, now) for upstream in pool.upstreams],
    )


def _snapshot(upstream: "Upstream", now: float) -> UpstreamSnapshot:
    health = upstream.health
    return UpstreamSnapshot(
        url=f"{upstream.scheme}://{upstream.authority.decode()}{upstream.base_path.decode()}",
        address=upstream.address.host if upstream.server_hostname else None,
        state=health.state,
        weight=upstream.weight,
        effective_weight=upstream.effective_weight,
        backup=upstream.backup,
        draining=not upstream.weight,
        in_flight=upstream.in_flight,
        requests=upstream.requests,
        failures=upstream.failures,
        latency=upstream.latency.at(now),
        ejections=health.ejections,
        ejected_for=health.ejected_for(now),
    )
