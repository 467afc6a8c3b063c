"""Policies that pick by drawing lots, so that the cost does not grow with the pool."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

from starlette.requests import HTTPConnection

from ..sources import CHANCE, CLOCK, Chance, Clock
from .upstream import Upstream

__all__ = ["LeastLatency", "Random", "TwoChoices"]

#: What an upstream that has not answered yet counts for beyond the request that tries it: longer
#: than any that has.
_UNKNOWN = 1e6


class Random:
    """Pick at random, in proportion to weight.

    Args:
        chance: Where the random numbers come from.
    """

    def __init__(self, *, chance: Chance = CHANCE) -> None:
        self._lots = _Lots(chance)

    def __call__(self, upstreams: Sequence[Upstream], connection: HTTPConnection) -> Upstream:
        """Return any upstream; *connection* is not looked at."""
        if len(upstreams) == 1:
            return upstreams[0]
        return self._lots.one(upstreams)


class TwoChoices:
    """Draw two upstreams in proportion to weight, and pick the less busy one.

    The power of two choices (Mitzenmacher, 2001): it keeps the load nearly as even as looking at
    all of them would, at the same cost for any number of them, and several gateways that know
    nothing of each other do not all run to the same upstream.

    The second one gets the request only if, with it, it is no busier for its weight than the first
    one is without. For equal weights that is: if it has fewer requests in flight. For others it
    also says that an upstream of a small weight, or one that is just starting, is not busy as soon
    as it has nothing to do: the traffic stays in proportion to weight until somebody is too busy.

    Args:
        chance: Where the random numbers come from.
    """

    def __init__(self, *, chance: Chance = CHANCE) -> None:
        self._lots = _Lots(chance)

    def __call__(self, upstreams: Sequence[Upstream], connection: HTTPConnection) -> Upstream:
        """Return the less busy one of two upstreams; *connection* is not looked at."""
        if len(upstreams) == 1:
            return upstreams[0]
        first, second = self._lots.two(upstreams)
        with_it = (second.in_flight + 1) * first.effective_weight
        return second if with_it <= first.in_flight * second.effective_weight else first


class LeastLatency:
    """Draw two upstreams in proportion to weight, and pick the one that should answer first.

    That is the one with the smaller product of its average time to the first byte (see ``Latency``)
    and of the requests it would have in flight, divided by its weight: Finagle's peak EWMA, and
    ``leasttime`` of Traefik. Of two choices the fastest upstream is only every so often one, so
    that not all traffic runs to it. An upstream of which no time is known gets one request at a
    time until it has answered, and no second one as long as there is another to draw.

    Args:
        chance: Where the random numbers come from.
        clock: What tells the seconds that the averages of the upstreams are told too.
    """

    def __init__(self, *, chance: Chance = CHANCE, clock: Clock = CLOCK) -> None:
        self._lots = _Lots(chance)
        self._clock = clock

    def __call__(self, upstreams: Sequence[Upstream], connection: HTTPConnection) -> Upstream:
        """Return the faster one of two upstreams; *connection* is not looked at."""
        if len(upstreams) == 1:
            return upstreams[0]
        first, second = self._lots.two(upstreams)
        now = self._clock()
        return second if _delay(second, now) < _delay(first, now) else first


def _delay(upstream: Upstream, now: float) -> float:
    """Return about how many seconds *upstream* takes for one more request."""
    seconds = upstream.latency.at(now)
    if seconds is None:
        if not upstream.in_flight:
            return 0.0
        seconds = _UNKNOWN
    return seconds * (upstream.in_flight + 1) / upstream.effective_weight


class _Lots:
    """Draws from upstreams in proportion to weight, in a time that depends little on how many.

    What it needs to know of them is kept as long as it is given the same tuple.
    """

    def __init__(self, chance: Chance) -> None:
        self._random = chance.random
        self._upstreams: Sequence[Upstream] = ()
        #: Where the share of each upstream ends; empty if all have the same.
        self._ends: list[float] = []

    def one(self, upstreams: Sequence[Upstream]) -> Upstream:
        """Return one of *upstreams*."""
        if upstreams is not self._upstreams:
            self._follow(upstreams)
        if self._ends:
            return upstreams[self._at(self._random() * self._ends[-1])]
        return upstreams[int(self._random() * len(upstreams))]

    def two(self, upstreams: Sequence[Upstream]) -> tuple[Upstream, Upstream]:
        """Return two of *upstreams*, which are at least two: never the same one twice."""
        if upstreams is not self._upstreams:
            self._follow(upstreams)
        if self._ends:
            first, second = self._two_places()
        else:
            count = len(upstreams)
            first = int(self._random() * count)
            second = int(self._random() * (count - 1))
            second += second >= first
        return upstreams[first], upstreams[second]

    def _follow(self, upstreams: Sequence[Upstream]) -> None:
        # A copy, unless it is a tuple already: a list may change under us.
        self._upstreams = tuple(upstreams)
        weights = [upstream.effective_weight for upstream in upstreams]
        equal = weights.count(weights[0]) == len(weights)
        self._ends = [] if equal else list(accumulate(weights))

    def _two_places(self) -> tuple[int, int]:
        """Draw a place, cut its share out, and draw another from the rest."""
        ends = self._ends
        first = self._at(self._random() * ends[-1])
        begin = ends[first - 1] if first else 0.0
        share = ends[first] - begin
        position = self._random() * (ends[-1] - share)
        second = self._at(position if position < begin else position + share)
        if second == first:
            # Only by rounding, at the edge of the share that was cut out.
            second = first - 1 if first else 1
        return first, second

    def _at(self, position: float) -> int:
        """Return whose share *position* is in. The last one's has no end that rounding can miss."""
        return bisect(self._ends, position, 0, len(self._ends) - 1)
