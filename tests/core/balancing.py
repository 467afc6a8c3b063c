"""What the tests of balancers share: upstreams, connections, and a farm of servers in no time."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

from starlette.requests import HTTPConnection

from fastapi_proxy_router import Balancer, Upstream

CONNECTION = HTTPConnection({"type": "http", "headers": []})


def pool_of(*weights: int) -> tuple[Upstream, ...]:
    """Return upstreams a, b, c and so on."""
    hosts = [chr(ord("a") + place) if place < 26 else f"u{place}" for place in range(len(weights))]
    return tuple(
        Upstream(f"http://{host}", weight=weight)
        for host, weight in zip(hosts, weights, strict=True)
    )


def busy(upstreams: Iterable[Upstream], *in_flight: int) -> None:
    for upstream, number in zip(upstreams, in_flight, strict=True):
        upstream.in_flight = number


def turns(balancer: Balancer, upstreams: Sequence[Upstream], picks: int) -> str:
    return "".join(balancer(upstreams, CONNECTION).host for _ in range(picks))


def shares(balancer: Balancer, upstreams: Sequence[Upstream], picks: int) -> list[float]:
    """Return the part of *picks* that each upstream gets, of requests that take no time."""
    found = Counter(balancer(upstreams, CONNECTION) for _ in range(picks))
    return [found[upstream] / picks for upstream in upstreams]


def request(**scope: Any) -> HTTPConnection:
    """Return a request or, with ``type="websocket"``, a WebSocket."""
    return HTTPConnection(
        {
            "type": "http",
            "path": "/",
            "query_string": b"",
            "headers": [],
            "client": ("192.0.2.1", 5),
            **scope,
        }
    )


class Farm:
    """Servers that take a while for each request, in a time of their own.

    Args:
        seconds: How long each server takes for a request, as a function of the time.
        workers: How many requests a server works on at once; the others queue in it.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        seconds: Callable[[Upstream, float], float],
        *,
        workers: int = 1,
        seed: int = 1,
    ) -> None:
        self.upstreams = upstreams
        self.now = 0.0
        self.picked: Counter[Upstream] = Counter()
        self.most: Counter[Upstream] = Counter()
        self.waits: list[float] = []
        self._seconds = seconds
        self._chance = random.Random(seed)
        self._free = {upstream: [0.0] * workers for upstream in upstreams}
        self._running: list[tuple[float, int, float, Upstream]] = []
        self._number = count()

    def clock(self) -> float:
        return self.now

    def run(self, balancer: Balancer, *, rate: float, seconds: float) -> None:
        """Send *rate* requests a second, at random times, for some seconds."""
        until = self.now + seconds
        while (arrival := self.now + self._chance.expovariate(rate)) < until:
            self._finish(arrival)
            self.send(balancer(self.upstreams, CONNECTION))
        self._finish(until)

    def send(self, upstream: Upstream) -> None:
        free = self._free[upstream]
        begin = max(heapq.heappop(free), self.now)
        end = begin + self._seconds(upstream, begin)
        heapq.heappush(free, end)
        heapq.heappush(self._running, (end, next(self._number), self.now, upstream))
        upstream.in_flight += 1
        self.picked[upstream] += 1
        self.most[upstream] = max(self.most[upstream], upstream.in_flight)

    def _finish(self, until: float) -> None:
        while self._running and self._running[0][0] <= until:
            end, _, sent, upstream = heapq.heappop(self._running)
            upstream.in_flight -= 1
            upstream.latency.observe(end - sent, end)
            self.waits.append(end - sent)
        self.now = until

    @property
    def mean(self) -> float:
        return sum(self.waits) / len(self.waits)

    def share(self, upstream: Upstream) -> float:
        return self.picked[upstream] / self.picked.total()
