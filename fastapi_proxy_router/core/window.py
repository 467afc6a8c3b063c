"""Counts over the last seconds."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["Window"]

#: What has happened is forgotten by tenths of the window.
_BUCKETS: Final = 10


class Window:
    """How much has happened in the last *seconds*, and how much of that was marked.

    It looks back at least nine tenths of them, and never more than all.
    """

    __slots__ = ("_bucket", "_buckets", "_marked", "_total")

    def __init__(self, seconds: float) -> None:
        self._bucket = seconds / _BUCKETS
        #: The number of each bucket, its total, and how much of it was marked.
        self._buckets: deque[list[int]] = deque()
        self._total = 0
        self._marked = 0

    def add(self, now: float, *, total: int = 1, marked: int = 0) -> None:
        """Count one more, or mark what was counted before."""
        number = int(now // self._bucket)
        buckets = self._buckets
        if not buckets or buckets[-1][0] < number:
            self._forget(number)
            buckets.append([number, 0, 0])
        last = buckets[-1]
        last[1] += total
        last[2] += marked
        self._total += total
        self._marked += marked

    def counts(self, now: float) -> tuple[int, int]:
        """Return how much there was, and how much of it was marked."""
        self._forget(int(now // self._bucket))
        return self._total, self._marked

    def clear(self) -> None:
        """Forget everything."""
        self._buckets.clear()
        self._total = self._marked = 0

    def _forget(self, number: int) -> None:
        buckets = self._buckets
        while buckets and buckets[0][0] <= number - _BUCKETS:
            _, total, marked = buckets.popleft()
            self._total -= total
            self._marked -= marked
