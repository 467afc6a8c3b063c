"""One exchange's place with an upstream: counted once, and counted back however it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exceptions import ProxyError
from ..sources import CLOCK

if TYPE_CHECKING:
    from .upstream import Upstream

__all__ = ["Lease"]

#: What a failure counts for in the average of an upstream's latency, at the least.
_FAILURE_SECONDS = 1.0


class Lease:
    """An exchange with *upstream*, from its beginning to its end.

    What becomes of it is told to the upstream's health once. What is told neither way says nothing
    about the upstream: its client has left, or we have failed.

    Attributes:
        is_trying: It is the trial of a half-open upstream, and the only one.
    """

    __slots__ = (
        "_clock",
        "_epoch",
        "_health",
        "_is_answered",
        "_is_judged",
        "_is_over",
        "_pool",
        "_since",
        "_trial",
        "_upstream",
        "is_trying",
    )

    def __init__(self, upstream: Upstream) -> None:
        pool = upstream.pool
        self._upstream = upstream
        self._pool = pool
        self._clock = CLOCK if pool is None else pool.clock
        self._since = now = self._clock()
        self._is_answered = self._is_judged = self._is_over = False
        # The upstream gets a new one if it leaves its pool.
        self._health = health = upstream.health
        self._trial = self.is_trying = health.half_open and health.begin()
        self._epoch = health.epoch
        upstream.count(now)
        if pool is not None:
            pool.in_flight += 1

    def excuse(self, seconds: float) -> None:
        """Tell that the client was waited for: that is not the upstream's latency."""
        self._since = min(self._since + seconds, self._clock())

    def make_way(self) -> None:
        """Let another exchange be the trial too, because the client of this one is slow."""
        if self.is_trying and not self._is_over and self._is_telling:
            self.is_trying = False
            self._health.ended()
            if self._pool is not None:
                self._pool.wake()

    def answered(self, status: int) -> None:
        """Tell that the head of the response is here, which ends a trial well.

        Args:
            status: Its status; the pool may have chosen it as a failure.
        """
        pool = self._pool
        if pool is not None and status in pool.failure_statuses:
            self.failed()
        elif not self._is_judged:
            now = self._clock()
            self._is_answered = True
            self._upstream.latency.observe(now - self._since, now)
            health = self._health
            if self._epoch == health.epoch:
                health.answered(now, trial=self._trial)
                if self._trial:
                    self._settle(now)

    def succeeded(self) -> None:
        """Tell that the exchange was complete."""
        if not self._is_judged:
            self._is_judged = True
            health = self._health
            if self._epoch == health.epoch:
                health.succeeded()

    def failed(self) -> None:
        """Tell that the upstream has failed it."""
        if self._is_judged:
            return
        self._is_judged = True
        upstream, pool, health = self._upstream, self._pool, self._health
        upstream.failures += 1
        now = self._clock()
        # Else one that refuses at once would be the fastest of all; a stream that breaks off was
        # not slow because it was long.
        seconds = 0.0 if self._is_answered else now - self._since
        upstream.latency.observe(max(seconds, _FAILURE_SECONDS), now)
        if pool is None or not self._is_telling:
            return
        too_often = health.failed(now, trial=self._trial, answered=self._is_answered)
        if too_often and pool.may_eject(upstream):
            health.eject(now)
        self._settle(now)

    def judge(self, error: BaseException) -> None:
        """Tell how the exchange ended; what is not the upstream's fault does not count."""
        if isinstance(error, ProxyError) and error.fault == "upstream":
            self.failed()

    def end(self) -> None:
        """Count the exchange back. Idempotent."""
        if self._is_over:
            return
        self._is_judged = self._is_over = True
        if self.is_trying and self._is_telling:
            self._health.ended()
        upstream, pool = self._upstream, self._pool
        upstream.in_flight -= 1
        if pool is not None:
            pool.in_flight -= 1
            if pool.waiting:
                pool.wake()
            if upstream.pool is not pool and not upstream.in_flight:
                pool.tell()

    @property
    def _is_telling(self) -> bool:
        """Whether the upstream is still what it was when this began."""
        return self._epoch == self._health.epoch

    def _settle(self, now: float) -> None:
        if self._pool is not None:
            self._pool.settle(self._upstream, now)
