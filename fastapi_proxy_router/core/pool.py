"""Upstreams that serve the same thing, and the choice between them."""

# No "from __future__ import annotations" here: FastAPI reads the annotations of __call__.

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Unpack

from starlette.requests import HTTPConnection

from ..exceptions import ConfigurationError, NoUpstreamAvailable, ProxyError
from ..log import logger, report
from .binding import Affinity
from .choice import asked
from .members import Members, indistinct, joining
from .options import PoolOptions, configured
from .retry import Budget
from .snapshot import PoolSnapshot, snapshot_of
from .upstream import Upstream

__all__ = ["UpstreamLike", "UpstreamPool"]

UpstreamLike = str | Upstream


class UpstreamPool:
    """Upstreams that serve the same thing.

    A pool is a FastAPI dependency: ``Depends(pool)`` injects the ``Upstream`` that its balancer
    picked for the request or WebSocket, and ``app.dependency_overrides[pool]`` replaces it.

    Args:
        upstreams: One upstream or a sequence of them, each an ``Upstream`` or its URL.
        name: What logs and ``repr`` call the pool.
        options: How it balances, what it tries again, how it forwards; see ``PoolOptions``.

    Attributes:
        policy: How it forwards.
        health: How its upstreams are probed.
        resolve: How their names are looked up.
        retry: What it tries again.
        affinity: How it binds clients to upstreams.
        budget: The retries that it can afford.
        queue: Who may wait.
        mirror: Where its requests are copied to.
        waiting: Those that wait for an upstream: what wakes them, the first first.
        in_flight: Exchanges that are running now.
        failure_statuses: Statuses of responses that count against an upstream.
        clock: What time it is.
        chance: The source of random numbers.

    Raises:
        ConfigurationError: No upstream, one that cannot be used or is in another pool already, or
            an option that cannot be used. Every mistake is reported.
    """

    def __init__(
        self,
        upstreams: UpstreamLike | Sequence[UpstreamLike],
        *,
        name: str = "",
        **options: Unpack[PoolOptions],
    ) -> None:
        given = [upstreams] if isinstance(upstreams, UpstreamLike | None) else list(upstreams)
        mistakes: list[str] = []
        taken = [one for entry in given if (one := joining(entry, mistakes)) is not None]
        if not given:
            mistakes.append("a pool needs at least one upstream")
        elif taken and not any(upstream.weight for upstream in taken):
            mistakes.append("every upstream of the pool has weight 0")
        mistakes += [
            f"upstream {upstream.url!r} is given twice"
            for upstream in set(taken)
            if taken.count(upstream) > 1
        ]
        policy, pooling = configured(options, mistakes)
        mistakes += indistinct(pooling.affinity, taken)
        if mistakes:
            raise ConfigurationError(mistakes)
        self.name = name
        self.policy = policy
        self.balancer = pooling.balancer
        self.health = pooling.health
        self.resolve = pooling.resolve
        self.retry = pooling.retry
        self.affinity = pooling.affinity
        self.queue = pooling.queue
        self.mirror = pooling.mirror
        self.clock, self.chance = pooling.clock, pooling.chance
        self.budget = Budget(pooling.retry)
        self.waiting: deque[Callable[[], None]] = deque()
        self.in_flight = 0
        ejection = pooling.ejection
        self.failure_statuses = frozenset(ejection.statuses if ejection is not None else ())
        self._max_concurrent = pooling.max_concurrent
        self._members = Members(
            check=pooling.health,
            ejection=ejection,
            panic=pooling.panic,
            on_change=pooling.on_state_change,
        )
        self._watchers: list[Callable[[], object]] = []
        self._is_unserved = pooling.health is not None or pooling.resolve is not None
        for upstream in taken:
            self._take(upstream)

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        """All its upstreams, also those that cannot be picked now."""
        return self._members.all

    # --- Choosing -------------------------------------------------------------------------------

    def available(self) -> tuple[Upstream, ...]:
        """Return the upstreams that may be picked now."""
        return self._members.candidates(self.clock())

    def pick(self, connection: HTTPConnection, *, without: Collection[Upstream] = ()) -> Upstream:
        """Return the balancer's choice for *connection*.

        Args:
            connection: The request or WebSocket.
            without: Upstreams that were tried for it.

        Raises:
            NoUpstreamAvailable: No upstream may be picked, and there is no queue; or the balancer
                returns ``None``.
            TypeError: The balancer returns what is no upstream of the pool.
        """
        now = self.clock()
        candidates = self._members.candidates(now)
        if self.affinity is not None:
            kept = self._kept(self.affinity, connection, candidates, without)
            if kept is not None:
                return kept
        if without:
            candidates = self._others(candidates, without)
        if not candidates:
            raise NoUpstreamAvailable(f"{self!r} has no available upstream", stage="pick")
        chosen = self._chosen(candidates, connection)
        if chosen.is_busy(now):
            free = tuple(upstream for upstream in candidates if not upstream.is_busy(now))
            if free:
                return self._chosen(free, connection)
            if self.queue is None:
                raise self.exhausted(candidates)
        return chosen

    def _warn(self) -> None:
        """Say once that what keeps the pool going was forgotten, or its lifespan is not run."""
        self._is_unserved = False
        logger.warning(
            "pool %r is not served: nobody probes or looks up its upstreams; "
            "see serving() for pools without a router, and let the lifespan run",
            self.name,
        )

    def _kept(
        self,
        affinity: Affinity,
        connection: HTTPConnection,
        candidates: Sequence[Upstream],
        without: Collection[Upstream],
    ) -> Upstream | None:
        """Return the upstream that the client is bound to, if it can serve."""
        now = self.clock()
        waits = self.queue is not None and affinity.failure == "refuse"

        def can_serve(one: Upstream) -> bool:
            usable = one.health.is_usable or one in candidates
            return usable and one not in without and (waits or not one.is_busy(now))

        return affinity.keep(connection, self._members.all, can_serve)

    def _chosen(self, upstreams: tuple[Upstream, ...], connection: HTTPConnection) -> Upstream:
        if self._is_unserved:
            self._warn()
        chosen = self.balancer(upstreams, connection)
        # Not "in upstreams", which would take longer the more there are.
        if getattr(chosen, "pool", None) is self:
            return chosen
        if chosen is None:
            raise NoUpstreamAvailable(f"the balancer of {self!r} wants none", stage="pick")
        raise TypeError(
            f"the balancer of {self!r} returned {chosen!r}, which is not one of its own"
        )

    def _others(
        self, candidates: tuple[Upstream, ...], tried: Collection[Upstream]
    ) -> tuple[Upstream, ...]:
        others = tuple(upstream for upstream in candidates if upstream not in tried)
        return others or tuple(one for one in self._members.backups() if one not in tried)

    def exhausted(self, upstreams: Sequence[Upstream] = ()) -> NoUpstreamAvailable:
        """Return the error that says that all are at their limits, and until when at least."""
        now = self.clock()
        waits = [upstream.wait(now) for upstream in upstreams or self.available()]
        reason = f"every upstream of {self!r} has all that it may take"
        wait = min(waits, default=1.0)
        return NoUpstreamAvailable(reason, stage="pick", fault="us", retry_after=wait)

    def patience(self) -> float:
        """Return the seconds until time alone may make room, infinity for never."""
        now = self.clock()
        waits = [upstream.wait(now) for upstream in self._members.candidates(now)]
        waits.append(self._members.valid_until - now)
        return min((wait for wait in waits if wait > 0), default=math.inf)

    def has_room(self) -> bool:
        """Tell whether the pool as a whole may take one more exchange."""
        return self._max_concurrent is None or self.in_flight < self._max_concurrent

    def choose(self, connection: HTTPConnection) -> Upstream:
        """Pick, and log it if there is nothing to pick from; raises what ``pick`` raises."""
        try:
            return self.pick(connection)
        except ProxyError as error:
            report(connection.scope, error)
            raise

    async def __call__(self, connection: HTTPConnection) -> Upstream:
        """Pick, as a FastAPI dependency. A coroutine, so that FastAPI runs it without a thread.

        On a router's own route it picks nothing if the router wants another pool.
        """
        # Nothing is for the router's own dependencies alone.
        return asked(self, connection)  # type: ignore[return-value]

    def wake(self, *, after: Callable[[], None] | None = None) -> None:
        """Let the first that waits look for an upstream, or the one *after* another."""
        turn = 0 if after is None else self.waiting.index(after) + 1
        if turn < len(self.waiting):
            self.waiting[turn]()

    # --- Membership -----------------------------------------------------------------------------

    def add(self, upstream: UpstreamLike) -> Upstream:
        """Take an upstream in, at run time too, and return it.

        Raises:
            ConfigurationError: It cannot be used, or is in a pool already.
        """
        mistakes: list[str] = []
        taken = joining(upstream, mistakes)
        if taken is not None:
            mistakes += indistinct(self.affinity, [*self.upstreams, taken])
        if taken is None or mistakes:
            raise ConfigurationError(mistakes)
        self._take(taken)
        self.tell()
        return taken

    def _take(self, upstream: Upstream) -> None:
        upstream.pool, upstream.policy = self, self.policy
        self._members.add(upstream)

    def remove(self, upstream: Upstream) -> None:
        """Let an upstream go; what it is doing it may finish.

        Raises:
            ConfigurationError: It is not in this pool.
        """
        self._check_member(upstream)
        upstream.pool = None
        self._members.remove(upstream)
        self.tell()

    def drain(self, upstream: Upstream) -> None:
        """Give an upstream nothing new: the same as a weight of 0.

        Raises:
            ConfigurationError: It is not in this pool.
        """
        self._check_member(upstream)
        upstream.weight = 0

    def _check_member(self, upstream: Upstream) -> None:
        if getattr(upstream, "pool", None) is not self:
            raise ConfigurationError([f"{upstream!r} is no upstream of {self!r}"])

    def refresh(self) -> None:
        """Work out anew who may be picked, because a weight or a state has changed."""
        self._members.refresh()
        self.wake()

    def watch(self, watcher: Callable[[], object]) -> Callable[[], None]:
        """Call *watcher* when an upstream comes, goes, or ends its last exchange after it has gone.

        It is called in the thread that does so. Returns what ends that.
        """
        self._is_unserved = False
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def tell(self) -> None:
        """Tell whoever watches that something has changed."""
        self.wake()
        for watcher in tuple(self._watchers):
            watcher()

    # --- Health ---------------------------------------------------------------------------------

    def may_eject(self, upstream: Upstream) -> bool:
        """Tell whether *upstream* may be ejected, with regard to those that are already."""
        return self._members.may_eject(upstream)

    def settle(self, upstream: Upstream, now: float) -> None:
        """Say what has changed in the health of *upstream*, if anything has."""
        self._members.settle(upstream, now)
        self.wake()

    # --- Seeing it ------------------------------------------------------------------------------

    def snapshot(self) -> PoolSnapshot:
        """Return what it is doing now: a pydantic model, which an endpoint may return."""
        now = self.clock()
        self._members.candidates(now)
        return snapshot_of(self, now)

    def __repr__(self) -> str:
        healthy = sum(bool(one.weight) and one.health.state == "healthy" for one in self.upstreams)
        return (
            f"<UpstreamPool {self.name!r} {len(self.upstreams)} upstreams: "
            f"{healthy} healthy, {self.in_flight} in flight>"
        )
