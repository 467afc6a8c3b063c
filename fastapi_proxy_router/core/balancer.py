"""Policies that pick one of the available upstreams. They know nothing of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from starlette.requests import HTTPConnection

from .upstream import Upstream

__all__ = ["Balancer", "RoundRobin"]

#: A balancer is any callable that returns one of the upstreams it is given. There is at least one,
#: and every one may be used. The connection is the request or WebSocket it is picked for.
Balancer = Callable[[Sequence[Upstream], HTTPConnection], Upstream]


class RoundRobin:
    """Take turns, in proportion to weight, and spread the turns of a heavy upstream.

    The smooth weighted round robin of nginx: every upstream gains its weight in credit, the richest
    is picked and pays the total. Weights 5, 1, 1 give a a b a c a a, not a a a a a b c. Upstreams
    may come and go between two picks; the credit of the others stays.
    """

    def __init__(self) -> None:
        self._credit: WeakKeyDictionary[Upstream, int] = WeakKeyDictionary()

    def __call__(self, upstreams: Sequence[Upstream], connection: HTTPConnection) -> Upstream:
        """Return the next upstream in turn; *connection* is not looked at."""
        if len(upstreams) == 1:
            return upstreams[0]
        credit = self._credit
        for upstream in upstreams:
            credit[upstream] = credit.get(upstream, 0) + upstream.weight
        chosen = max(upstreams, key=credit.__getitem__)
        credit[chosen] -= sum(upstream.weight for upstream in upstreams)
        return chosen
