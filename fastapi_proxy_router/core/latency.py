"""How long an upstream takes to answer, as an average that forgets."""

from __future__ import annotations

import math

__all__ = ["Latency"]

#: After so many time constants, a quarter of a percent of a figure is left, which says nothing.
_FORGOTTEN = 6


class Latency:
    """A decaying average of seconds, that believes bad news at once.

    The rules are those of Finagle's peak EWMA: a value above the average replaces it, any other
    moves it the more, the longer the last one is ago, and the average itself decays, so that an
    upstream that was slow once is tried again when it has not been used for a while.

    Args:
        memory: The time constant in seconds: after it, an old value counts for 37 %. Default: 10
            (Finagle's).
    """

    __slots__ = ("_seconds", "_since", "memory")

    def __init__(self, memory: float = 10.0) -> None:
        self.memory = memory
        self._seconds = 0.0
        self._since = -math.inf

    def observe(self, seconds: float, now: float) -> None:
        """Count in that at *now*, in seconds of a monotonic clock, an answer had taken *seconds*.

        Two that end in another order than they are told, count as if they ended together.
        """
        age, kept = now - self._since, 1.0
        if age > 0.0:
            self._since = now
            kept = math.exp(-age / self.memory)
        average = self._seconds * kept + seconds * (1.0 - kept)
        # A peak counts at once.
        self._seconds = max(average, seconds)

    def at(self, now: float) -> float | None:
        """Return the average in seconds as it is at *now*, or ``None``: nothing is known.

        That is so before the first answer, and again when six time constants (a minute) have passed
        without one.
        """
        age = (now - self._since) / self.memory
        if age >= _FORGOTTEN:
            return None
        return self._seconds * math.exp(-age) if age > 0.0 else self._seconds

    def __repr__(self) -> str:
        return f"<Latency {self._seconds:.3g} s, when last observed>"
