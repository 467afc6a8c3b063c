"""Policies that pick one of the available upstreams: those that go by order and by turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import add
from weakref import WeakKeyDictionary

from starlette.requests import HTTPConnection

from .upstream import Upstream

__all__ = ["Balancer", "FirstAvailable", "LeastRequests", "RoundRobin"]

#: A balancer is any callable that returns one of the upstreams it is given. There is at least one,
#: every one may be used, and every ``effective_weight`` is above 0. A pool gives the same tuple
#: until its membership, its weights or its health change, so what is computed from a tuple may be
#: kept with it. The connection is the request or WebSocket that an upstream is picked for.
Balancer = Callable[[Sequence[Upstream], HTTPConnection], Upstream]


class RoundRobin:
    """Take turns, in proportion to weight, and spread the turns of a heavy upstream.

    The smooth weighted round robin of nginx: every upstream gains its weight in credit, the richest
    is picked and pays the total. Weights 5, 1, 1 give a a b a c a a, not a a a a a b c. Upstreams
    may come and go between two picks; the credit of the others stays.
    """

    def __init__(self) -> None:
        self._turns = _Turns()

    def __call__(self, upstreams: Sequence[Upstream], connection: HTTPConnection) -> Upstream:
        """Return the next upstream in turn; *connection* is not looked at."""
        if len(upstreams) == 1:
            return upstreams[0]
        turns = self._turns
        if upstreams is not turns.upstreams:
            turns.follow(upstreams)
        return upstreams[turns.of_all()]


class LeastRequests:
    """Pick the upstream with the fewest requests in flight for its weight.

    Those that have equally few take turns in proportion to weight, as in nginx's ``least_conn``, so
    that without much traffic each has its share. It looks at every upstream on every pick;
    ``TwoChoices`` comes close to it at the same cost for any number of them.
    """

    def __init__(self) -> None:
        self._turns = _Turns()

    def __call__(self, upstreams: Sequence[Upstream], connection: HTTPConnection) -> Upstream:
        """Return the least busy upstream; *connection* is not looked at."""
        if len(upstreams) == 1:
            return upstreams[0]
        turns = self._turns
        if upstreams is not turns.upstreams:
            turns.follow(upstreams)
        loads = [
            upstream.in_flight / weight
            for upstream, weight in zip(upstreams, turns.weights, strict=True)
        ]
        least = min(loads)
        if loads.count(least) == 1:
            return upstreams[loads.index(least)]
        return upstreams[turns.of([place for place, load in enumerate(loads) if load == least])]


class FirstAvailable:
    """Pick the first upstream that may be used, in the order of the pool, whatever its weight."""

    def __call__(self, upstreams: Sequence[Upstream], connection: HTTPConnection) -> Upstream:
        """Return the first upstream; *connection* is not looked at."""
        return upstreams[0]


class _Turns:
    """Whose turn it is, among all or some of the upstreams. They are named by their places."""

    def __init__(self) -> None:
        self.upstreams: Sequence[Upstream] = ()
        self.weights: list[float] = []
        self._credits: list[float] = []
        self._total = 0.0
        self._kept: WeakKeyDictionary[Upstream, float] = WeakKeyDictionary()

    def follow(self, upstreams: Sequence[Upstream]) -> None:
        """Go on with *upstreams*, each with the credit that it had when it was last among them."""
        self._kept.update(zip(self.upstreams, self._credits, strict=True))
        # A copy, unless it is a tuple already: a list may change under us.
        self.upstreams = tuple(upstreams)
        self.weights = [upstream.effective_weight for upstream in upstreams]
        self._total = sum(self.weights)
        # It is hardly ever more than that of a round. From days of larger weights it would be turns
        # without end, or none for as long.
        most = 2 * self._total
        self._credits = [
            min(max(self._kept.get(upstream, 0.0), -most), most) for upstream in upstreams
        ]

    def of_all(self) -> int:
        """Return the place of the next upstream in turn."""
        credit = self._credits = list(map(add, self._credits, self.weights))
        richest = credit.index(max(credit))
        credit[richest] -= self._total
        return richest

    def of(self, places: Sequence[int]) -> int:
        """Return the one of *places* that is next in turn; the others neither gain nor pay."""
        credit, weights, total = self._credits, self.weights, 0.0
        for place in places:
            credit[place] += weights[place]
            total += weights[place]
        richest = max(places, key=credit.__getitem__)
        credit[richest] -= total
        return richest
