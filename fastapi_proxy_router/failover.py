"""HTTP: a request's way to the first upstream that answers it."""

from __future__ import annotations

import asyncio

from starlette.types import Send

from .admission import admitted, may_begin
from .client import ClientStream
from .core.changes import NO_CHANGES, Changes
from .core.policy import DEFAULT_POLICY, ForwardPolicy
from .core.target import Location
from .core.upstream import Upstream
from .exceptions import GatewayError
from .exchange import Exchange
from .log import reported
from .transforming import TransformFailed
from .tries import Tries

__all__ = ["Forwarding"]


class Forwarding:
    """A request that is on its way to an upstream, or to another of its pool if that one fails.

    Args:
        client: The client's side.
        upstream: Where the request goes first.
        policy: How; the upstream's own by default.
        location: The parts of the path; all below ``root_path`` by default.
        changes: The override.

    Attributes:
        client: The client's side.
        mirror: Where a copy of the request is to be sent, if one is.
    """

    def __init__(
        self,
        client: ClientStream,
        upstream: Upstream,
        policy: ForwardPolicy | None = None,
        location: Location | None = None,
        changes: Changes = NO_CHANGES,
    ) -> None:
        self.client = client
        self._upstream = upstream
        self._policy = changes.policy(policy or upstream.policy or DEFAULT_POLICY)
        self._location = location
        self._changes = changes
        total = (changes.timeout or self._policy.timeout).total
        self._until = None if total is None else asyncio.get_running_loop().time() + total
        pool = upstream.pool
        mirror = pool.mirror if pool is not None else None
        self.mirror = mirror if mirror is not None and mirror.wants(mirror.pool.chance) else None

    @property
    def body(self) -> bytes | None:
        """All of the body that is sent, if it is at hand."""
        own = self._changes.own_body
        return self.client.whole if own is None else own

    def copy(self, client: ClientStream, upstream: Upstream) -> Forwarding:
        """Return the same request of another client to another pool."""
        return Forwarding(client, upstream, None, self._location, self._changes)

    async def open(self, send: Send | None = None) -> Exchange:
        """Return an exchange that is open, the last real one if none is good.

        Args:
            send: The server's, to pass early hints on. Default: they are not.

        Raises:
            GatewayError: No answer could be had.
            RequestRefused: The request is not safe to forward.
            ClientGone: The client left meanwhile.
            Exception: What the client's body passes through has failed with; it is not tried again.
        """
        upstream: Upstream | None = self._upstream
        if not may_begin(self._upstream):
            upstream = await self._admitted()
        # After that: those who are refused pay for no retries.
        tries = self._begun()
        # The last answer: what the client gets if the pool wants a better one and there is none.
        held: Exchange | None = None
        try:
            while upstream is not None:
                exchange = Exchange(
                    self.client, upstream, self._policy, self._location, self._changes, self._until
                )
                try:
                    await exchange.open(send)
                except GatewayError as error:
                    upstream = await self._following(tries, exchange, error)
                    if upstream is None and held is None:
                        raise
                    continue
                held, unwanted = exchange, held
                if unwanted is not None:
                    await unwanted.aclose()
                rejected = tries.is_rejected(exchange.upstream_status)
                upstream = await self._following(tries, exchange, None) if rejected else None
            assert held is not None
            answer, held = held, None
            return answer  # noqa: TRY300 - an else would be nowhere near
        except TransformFailed as failed:
            failure = failed.error
        finally:
            if held is not None:
                await held.aclose()
        raise failure

    def _begun(self) -> Tries:
        """Count the first try, and keep what is sent of the body as far as may be needed again."""
        tries = Tries(self._upstream, self.client.scope, self._changes)
        if not self.client.is_empty:
            copied = self.mirror.body_limit if self.mirror is not None else 0
            if limit := max(tries.body_limit, copied):
                self.client.keep(limit)
        return tries

    async def _admitted(self) -> Upstream:
        """Wait for a turn."""
        with reported(self.client.scope), self.client.watch():
            return await admitted(self._upstream, self.client.scope, until=self._until)

    async def _following(
        self, tries: Tries, exchange: Exchange, error: GatewayError | None
    ) -> Upstream | None:
        """Return who is tried after *exchange*, when it is time to, or ``None`` for nobody."""
        client = self.client
        # It still sends, and two cannot send the same body.
        lacks = not client.is_replayable or (error is None and client.uploads)
        if exchange.hinted or (lacks and self._changes.own_body is None):
            return None
        with client.watch():
            return await tries.after(exchange.upstream, error, until=self._until)
