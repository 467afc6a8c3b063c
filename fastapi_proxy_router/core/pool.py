"""Upstreams that serve the same thing, and the choice between them."""

# No "from __future__ import annotations" here: FastAPI reads the annotations of __call__.

from collections.abc import Sequence
from typing import Unpack

from starlette.requests import HTTPConnection

from ..exceptions import ConfigurationError, NoUpstreamAvailable
from ..log import reported
from .balancer import Balancer, RoundRobin
from .policy import PolicyOptions, policy_from
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
        balancer: Picks one of the available upstreams. Default: ``RoundRobin()``.
        options: How to forward; see ``PolicyOptions``.

    Raises:
        ConfigurationError: No upstream, one that cannot be used or is in another pool already, or
            an option that cannot be used. Every mistake is reported.
    """

    def __init__(
        self,
        upstreams: UpstreamLike | Sequence[UpstreamLike],
        *,
        name: str = "",
        balancer: Balancer | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        given = [upstreams] if isinstance(upstreams, UpstreamLike) else list(upstreams)
        mistakes: list[str] = []
        self.name = name
        self.balancer: Balancer = balancer or RoundRobin()
        self.upstreams: list[Upstream] = []
        for entry in given:
            try:
                self.upstreams.append(_as_upstream(entry))
            except ConfigurationError as error:
                mistakes += error.mistakes
        mistakes += [
            f"upstream {upstream.url!r} is in another pool; give each pool its own"
            for upstream in self.upstreams
            if upstream.policy is not None
        ]
        if not given:
            mistakes.append("a pool needs at least one upstream")
        elif self.upstreams and not self.available():
            mistakes.append("every upstream of the pool has weight 0")
        try:
            self.policy = policy_from(options)
        except ConfigurationError as error:
            mistakes += error.mistakes
        if mistakes:
            raise ConfigurationError(mistakes)
        for upstream in self.upstreams:
            upstream.policy = self.policy

    def available(self) -> list[Upstream]:
        """Return the upstreams that may be picked now."""
        return [upstream for upstream in self.upstreams if upstream.weight]

    def pick(self, connection: HTTPConnection) -> Upstream:
        """Return the balancer's choice for *connection*.

        Raises:
            NoUpstreamAvailable: No upstream may be picked.
        """
        available = self.available()
        if not available:
            raise NoUpstreamAvailable(f"{self!r} has no available upstream", stage="pick")
        return self.balancer(available, connection)

    def choose(self, connection: HTTPConnection) -> Upstream:
        """Pick, and log it if there is nothing to pick from; raises what ``pick`` raises."""
        with reported(connection.scope):
            return self.pick(connection)

    async def __call__(self, connection: HTTPConnection) -> Upstream:
        """Pick, as a FastAPI dependency. A coroutine, so that FastAPI runs it without a thread."""
        return self.choose(connection)

    def __repr__(self) -> str:
        in_flight = sum(upstream.in_flight for upstream in self.upstreams)
        return (
            f"<UpstreamPool {self.name!r} {len(self.upstreams)} upstreams: "
            f"{len(self.available())} available, {in_flight} in flight>"
        )


def _as_upstream(entry: object) -> Upstream:
    if isinstance(entry, Upstream):
        return entry
    if isinstance(entry, str):
        return Upstream(entry)
    raise ConfigurationError([f"an upstream is a URL or an Upstream, not {entry!r}"])
