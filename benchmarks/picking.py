"""What it costs to pick an upstream: in this process, without a server or a client."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

from starlette.requests import HTTPConnection

from fastapi_proxy_router import Upstream, UpstreamPool
from fastapi_proxy_router.sources import CLOCK

#: How many upstreams the pools have.
SIZES = (3, 100, 1000)
BALANCERS = (
    "two_choices",
    "random",
    "round_robin",
    "least_requests",
    "least_latency",
    "first_available",
    "hash:client",
    "hash:header:x-user",
)
ROUNDS = 3
#: Different requests, so that nothing is found that was kept for the last one.
_CLIENTS = 100
#: How long one pool is picked from in one round.
_SECONDS = 0.1


def measure(rounds: int = ROUNDS) -> dict[str, dict[str, list[float]]]:
    """Return the microseconds that ``pool.pick`` takes, by balancer and size, for each round."""
    pools = {(name, size): _pool(name, size) for name in BALANCERS for size in SIZES}
    connections = list(_connections())
    found: dict[str, dict[str, list[float]]] = {
        name: {str(size): [] for size in SIZES} for name in BALANCERS
    }
    for _ in range(rounds):
        for (name, size), pool in pools.items():
            found[name][str(size)].append(_one_round(pool.pick, connections))
    return found


def _one_round(
    pick: Callable[[HTTPConnection], Upstream], connections: list[HTTPConnection]
) -> float:
    pick(connections[0])
    # CPU time: what other programs took meanwhile is not ours.
    picks, began = 0, time.process_time()
    while (passed := time.process_time() - began) < _SECONDS:
        for connection in connections:
            pick(connection)
        picks += len(connections)
    return passed * 1e6 / picks


def _pool(name: str, size: int) -> UpstreamPool:
    """Return a pool that is at work: some upstreams are busier than others, some are faster."""
    chance = random.Random(1)
    upstreams = [Upstream(f"http://10.0.{number >> 8}.{number & 255}") for number in range(size)]
    for upstream in upstreams:
        upstream.in_flight = chance.randrange(4)
        upstream.latency.observe(chance.uniform(0.01, 0.1), CLOCK())
    return UpstreamPool(upstreams, balancer=name)


def _connections() -> Iterator[HTTPConnection]:
    for number in range(_CLIENTS):
        headers = [(b"host", b"gateway"), (b"x-user", b"user-%d" % number)]
        yield HTTPConnection(
            {"type": "http", "path": "/", "headers": headers, "client": (f"10.1.0.{number}", 5000)}
        )
