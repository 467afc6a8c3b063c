"""The tries of one request: which upstream is asked next, if any."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

from starlette.requests import HTTPConnection
from starlette.types import Scope

from .admission import admitted
from .core.changes import Changes
from .core.headers import edit, lowered, request_headers
from .core.names import Header
from .core.upstream import Upstream
from .exceptions import GatewayError, NoUpstreamAvailable

__all__ = ["Tries"]


class Tries:
    """What was tried for one request, and what may be tried yet.

    Args:
        upstream: The one that was picked first.
        scope: The client's.
        changes: The override, which may send another method.
    """

    __slots__ = ("_changes", "_number", "_pool", "_retry", "_scope", "_tried")

    def __init__(self, upstream: Upstream, scope: Scope, changes: Changes) -> None:
        self._scope = scope
        self._changes = changes
        self._pool = pool = upstream.pool
        self._retry = retry = changes.retry_at(upstream)
        self._tried: list[Upstream] = []
        self._number = 0
        if pool is not None and retry and (len(pool.upstreams) > 1 or retry.same_upstream):
            pool.budget.request(pool.clock())

    @property
    def body_limit(self) -> int:
        """The largest body that is worth keeping; 0 if none is sent twice."""
        pool, retry = self._pool, self._retry
        if pool is None or retry is None or retry.attempts == 1 or not self._is_repeatable:
            return 0
        several = retry.same_upstream or len(pool.upstreams) > 1
        return retry.body_limit if several else 0

    @property
    def _is_repeatable(self) -> bool:
        """Whether the request may be executed twice."""
        # A WebSocket has no method, whatever an override says of it.
        method = self._scope.get("method")
        method = (self._changes.method or method) if method else "GET"
        return self._retry is not None and self._retry.may_repeat(method, self._sent())

    def _sent(self) -> Iterator[Header]:
        """Yield the headers that are sent: what upstreams do not get binds none of them."""
        headers = request_headers(lowered(self._scope["headers"]))
        for edits in self._changes.request:
            headers = edit(headers, edits)
        yield from headers

    def is_rejected(self, status: int) -> bool:
        """Tell whether the pool wants a response of this *status* to be tried again."""
        return self._retry is not None and status in self._retry.statuses

    async def after(
        self, upstream: Upstream, error: GatewayError | None, *, until: float | None = None
    ) -> Upstream | None:
        """Return who is tried after *upstream*, when it is time to, or ``None`` for nobody.

        Args:
            upstream: The one that was tried.
            error: How that ended; ``None`` is a status that is rejected.
            until: When the request has to be over, in the event loop's time.
        """
        pool, retry = self._pool, self._retry
        if pool is None or retry is None or self._number + 1 >= retry.attempts:
            return None
        if error is None:
            may_follow = self._is_repeatable
        else:
            may_follow = retry.follows(error, repeatable=self._is_repeatable)
        if not may_follow:
            return None
        self._tried.append(upstream)
        try:
            following = self._pick(upstream)
            if following is None or not pool.budget.withdraw(pool.clock()):
                return None
            if following in self._tried or error is None or error.request_sent:
                pause = retry.pause(self._number, pool.chance)
                if until is not None and asyncio.get_running_loop().time() + pause >= until:
                    return None
                await asyncio.sleep(pause)
            self._number += 1
            following = await admitted(
                following,
                self._scope,
                without=self._without(following),
                until=until,
                # Who has an answer keeps the place of an exchange, for which others may wait.
                waits=error is not None,
            )
        except NoUpstreamAvailable:
            # What the last one said is what is to be known.
            return None
        late = until is not None and asyncio.get_running_loop().time() >= until
        return None if late else following

    def _pick(self, upstream: Upstream) -> Upstream | None:
        """Return one that was not tried, or where that is allowed another, or *upstream* again."""
        assert self._pool is not None
        assert self._retry is not None
        same = self._retry.same_upstream
        for tried in (self._tried, [upstream], []) if same else (self._tried,):
            with suppress(NoUpstreamAvailable):
                return self._pool.pick(HTTPConnection(self._scope), without=tried)
        return None

    def _without(self, following: Upstream) -> list[Upstream]:
        return [] if following in self._tried else self._tried
