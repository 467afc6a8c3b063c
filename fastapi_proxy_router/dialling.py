"""WebSocket: a handshake's way to the first upstream that answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, NamedTuple

from starlette.types import Scope

from .admission import admitted
from .core.changes import Changes
from .core.handshake import handshake_headers, offered
from .core.lease import Lease
from .core.names import Header
from .core.outbound import Outbound, outbound
from .core.policy import ForwardPolicy
from .core.retry import Retry
from .core.target import Location
from .core.upstream import Upstream
from .exceptions import GatewayError, GatewayTimeout
from .log import reported
from .tries import Tries
from .websocket import SWITCHING, Dialled, Refused, UpstreamWebSocket, dial

__all__ = ["Dialling", "Opened"]


class Opened(NamedTuple):
    """An open WebSocket to an upstream, the headers of its 101, and its place there."""

    upstream: Upstream
    websocket: UpstreamWebSocket
    headers: list[Header]
    lease: Lease
    sent: Outbound

    def drop(self) -> None:
        """Let go of it. Idempotent."""
        self.websocket.abort()
        self.lease.end()


class Dialling:
    """A handshake that is on its way to an upstream, or to another of its pool if that one fails.

    Args:
        scope: The client's.
        policy: How.
        location: The parts of the path; all below ``root_path`` by default.
        changes: The override.
    """

    def __init__(
        self, scope: Scope, policy: ForwardPolicy, location: Location | None, changes: Changes
    ) -> None:
        self._scope = scope
        self._policy = policy
        self._location = location
        self._changes = changes

    async def open(self, first: Upstream) -> Opened:
        """Return an open WebSocket.

        Raises:
            Refused: An upstream has refused; the last one, if the pool asks others then.
            GatewayError: No answer could be had.
            RequestRefused: The handshake is not safe to forward.
        """
        with reported(self._scope):
            upstream: Upstream | None = await admitted(first, self._scope)
        tries = Tries(first, self._scope, self._changes)
        refused: Refused | None = None
        try:
            while upstream is not None:
                try:
                    return await self._dial(upstream)
                except GatewayError as error:
                    upstream = await tries.after(upstream, error)
                    if upstream is None and refused is None:
                        raise
                except Refused as error:
                    refused = error
                    rejected = tries.is_rejected(error.status)
                    upstream = await tries.after(upstream, None) if rejected else None
            assert refused is not None
            raise refused
        finally:
            # It would hold itself, through its traceback.
            del refused

    async def _dial(self, upstream: Upstream) -> Opened:
        changes, policy = self._changes, self._policy
        with reported(self._scope):
            out = outbound(
                self._scope,
                upstream,
                location=self._location,
                changes=changes,
                policy=policy,
                crossing=handshake_headers,
            )
            for sender in changes.senders:
                out = await sender(out, upstream)
            lease = Lease(upstream)
            offers = offered(self._scope.get("subprotocols", ()))
            options = changes.websocket or policy.websocket
            dialling = dial(upstream, out, offers, options, changes.timeout or policy.timeout)
            try:
                dialled = await _in_time(dialling, upstream, changes.retry_at(upstream))
            except Refused as refused:
                lease.answered(refused.status)
                lease.succeeded()
                lease.end()
                raise
            except BaseException as error:
                lease.judge(error)
                lease.end()
                raise
        lease.answered(SWITCHING)
        return Opened(upstream, *dialled, lease, out)


async def _in_time(
    dialling: Coroutine[Any, Any, Dialled], upstream: Upstream, retry: Retry | None
) -> Dialled:
    """Wait for as long as one try may take."""
    per_try = retry.per_try if retry is not None else None
    try:
        async with asyncio.timeout(per_try):
            return await dialling
    except TimeoutError:
        reason = f"no answer to the handshake within the {per_try} s of a try"
        raise GatewayTimeout(reason, upstream=upstream, stage="head") from None
