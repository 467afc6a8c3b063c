"""WebSocket: dial the upstream, then accept, then pass messages both ways until one side ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, NamedTuple, Unpack

from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidState, InvalidStatus
from websockets.frames import Close

from .core.changes import NO_CHANGES, Changes
from .core.guard import check_response, is_bodyless, is_refusal
from .core.handshake import (
    ABNORMAL,
    CLIENT_LOST,
    UPSTREAM_LOST,
    accept_headers,
    close_frame,
    handshake_headers,
)
from .core.headers import Edits, edit, response_headers
from .core.names import Header
from .core.outbound import outbound
from .core.policy import DEFAULT_POLICY, ForwardPolicy
from .core.target import Location
from .core.upstream import Upstream
from .dialer import CLOSE_TIMEOUT, dial, raw_headers
from .exceptions import BadGateway
from .log import reported
from .overrides import OverrideOptions, RequestOverride

__all__ = ["open_relay", "proxy_pass_websocket"]


async def proxy_pass_websocket(
    websocket: WebSocket, upstream: Upstream, **changes: Unpack[OverrideOptions]
) -> None:
    """Relay *websocket* to *upstream* from your own endpoint, until one side ends.

    Do not accept it before: the upstream is asked first, so that its subprotocol, its headers or
    its refusal reach the client.

    Args:
        websocket: The client's WebSocket, not accepted yet.
        upstream: Where it goes: ``Depends(pool)``, or any ``Upstream``.
        changes: What to send in the handshake instead of what the client sent; see
            ``RequestOverride``. A method or a body has no meaning here and is refused.

    Raises:
        BadGateway: The upstream could not be reached or broke the protocol.
        GatewayTimeout: It did not answer the handshake in time.
        NoUpstreamAvailable: We are out of resources.
        RequestRefused: The handshake is not safe to forward.
        pydantic.ValidationError: *changes* cannot be used.
    """
    override = RequestOverride(**changes).compile() if changes else NO_CHANGES
    if override.method is not None or override.body is not None:
        raise TypeError("a WebSocket handshake has no method and no body to change")
    await open_relay(websocket, upstream, changes=override)


async def open_relay(
    websocket: WebSocket,
    upstream: Upstream,
    *,
    policy: ForwardPolicy | None = None,
    location: Location | None = None,
    changes: Changes = NO_CHANGES,
) -> None:
    """Relay *websocket* to *upstream*; the arguments are those of ``send_request``."""
    policy = policy or upstream.policy or DEFAULT_POLICY
    with reported(websocket.scope):
        out = outbound(
            websocket.scope,
            upstream,
            location=location,
            changes=changes,
            policy=policy,
            crossing=handshake_headers,
        )
        offers = websocket.scope.get("subprotocols", ())
        timeout = changes.timeout or policy.timeout
        upstream.in_flight += 1
        try:
            dialling = dial(upstream, out, offers, policy, timeout)
            connection = await _unless_the_client_leaves(websocket, dialling)
            if connection is not None:
                await _Relay(websocket, connection).run(changes)
        except InvalidStatus as refusal:
            await _refuse(websocket, upstream, refusal, policy, changes)
        finally:
            upstream.in_flight -= 1


async def _unless_the_client_leaves(
    websocket: WebSocket, dialling: Coroutine[Any, Any, ClientConnection]
) -> ClientConnection | None:
    """Return what *dialling* returns, or ``None`` if the client leaves before that."""
    dial_task = asyncio.create_task(dialling, name="relay dial upstream")
    leave_task = asyncio.create_task(_left(websocket), name="relay watch client")
    connection: ClientConnection | None = None
    try:
        await asyncio.wait([dial_task, leave_task], return_when=asyncio.FIRST_COMPLETED)
        if not (leave_task.done() and leave_task.result()):
            connection = await dial_task
        return connection
    finally:
        # Both before any await: a cancel scope of anyio cancels at each of them.
        leave_task.cancel()
        dial_task.cancel()
        if connection is None:
            dial_task.add_done_callback(_hung_up)
        await asyncio.wait([leave_task, dial_task])


def _hung_up(dial_task: asyncio.Task[ClientConnection]) -> None:
    """Drop the connection of an upstream that answered nobody."""
    if not dial_task.cancelled() and dial_task.exception() is None:
        dial_task.result().transport.abort()


async def _left(websocket: WebSocket) -> bool:
    """Wait until the client leaves; a server that cannot tell before the accept says False."""
    try:
        while websocket.client_state is not WebSocketState.DISCONNECTED:
            await websocket.receive()
    except RuntimeError:
        return False
    return True


async def _refuse(
    websocket: WebSocket,
    upstream: Upstream,
    refusal: InvalidStatus,
    policy: ForwardPolicy,
    changes: Changes,
) -> None:
    """Pass the upstream's refusal on, with its status, headers and body.

    Raises:
        BadGateway: It is none. An upstream that took the handshake for an ordinary request must
            not answer it past the routes that guard such requests.
    """
    status = refusal.response.status_code
    headers = raw_headers(refusal.response.headers)
    check_response(upstream, status, headers)
    if not is_refusal(status):
        reason = f"the upstream answered the handshake with {status}"
        raise BadGateway(reason, upstream=upstream, stage="head")
    extensions = websocket.scope.get("extensions", {})
    if "websocket.http.response" not in extensions:
        await websocket.close(code=1008)
        return
    headers = response_headers(headers, status, keep_server_headers=policy.keep_server_headers)
    if "http.response.pathsend" in extensions:
        # granian, alone in offering this to WebSockets, dies of a refusal that repeats a header.
        headers = _folded(headers)
    answer = Response(bytes(refusal.response.body or b""), status)
    length = () if is_bodyless("GET", status) else ((b"content-length", b"%d" % len(answer.body)),)
    framing = Edits(set=length, remove=frozenset({b"content-length"}))
    answer.raw_headers = edit(edit(headers, changes.response), framing)
    await websocket.send_denial_response(answer)


def _folded(headers: list[Header]) -> list[Header]:
    """Return *headers* with one line for each name; cookies cannot be joined: the first."""
    lines: dict[bytes, bytes] = {}
    for name, value in headers:
        key = name.lower()
        if key not in lines:
            lines[key] = value
        elif key != b"set-cookie":
            lines[key] += b", " + value
    return list(lines.items())


class _End(NamedTuple):
    """How one side ended."""

    code: int | None
    reason: str
    by_client: bool


class _Relay:
    """Two open sides, and how one is told that the other ended."""

    def __init__(self, websocket: WebSocket, connection: ClientConnection) -> None:
        self._websocket = websocket
        self._connection = connection

    async def run(self, changes: Changes) -> None:
        """Accept the client, then pump until one side has ended and the other was told."""
        try:
            await self._accept(changes)
            await self._pass_on(await self._pump())
        finally:
            self._connection.transport.abort()

    async def _pump(self) -> _End:
        """Run both pumps until one knows how a side ended; then neither runs any more."""
        pumps = {
            asyncio.create_task(self._client_to_upstream(), name="relay client->upstream"),
            asyncio.create_task(self._upstream_to_client(), name="relay upstream->client"),
        }
        try:
            pending = pumps
            while True:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for pump in done:
                    if (end := pump.result()) is not None:
                        return end
        finally:
            # Before anything else is sent: granian's `close` waits for a pending `receive`.
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            for pump in pumps:
                if not pump.cancelled():
                    pump.exception()

    async def _accept(self, changes: Changes) -> None:
        response = self._connection.response
        headers = accept_headers(raw_headers(response.headers)) if response else []
        with suppress(WebSocketDisconnect):
            await self._websocket.accept(
                self._connection.subprotocol, edit(headers, changes.response)
            )

    async def _client_to_upstream(self) -> _End | None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return _End(message.get("code"), message.get("reason") or "", by_client=True)
            text = message.get("text")
            try:
                await self._connection.send(text if text is not None else message["bytes"])
            except ConnectionClosed:
                # The other pump has its last messages to deliver, and knows how it ended.
                return None

    async def _upstream_to_client(self) -> _End:
        try:
            while True:
                message = await self._connection.recv()
                if isinstance(message, str):
                    await self._websocket.send_text(message)
                else:
                    await self._websocket.send_bytes(message)
        except WebSocketDisconnect:
            return _End(ABNORMAL, "", by_client=True)
        except ConnectionClosed as closed:
            # Without a frame from it we may have sent one: it broke a rule or a limit.
            frame = closed.rcvd or closed.sent or Close(ABNORMAL, "")
            return _End(frame.code, frame.reason, by_client=False)

    async def _pass_on(self, end: _End) -> None:
        lost = CLIENT_LOST if end.by_client else UPSTREAM_LOST
        code, reason = close_frame(end.code, end.reason, lost=lost)
        if not end.by_client:
            # ASGI has no close without a code.
            with suppress(WebSocketDisconnect, RuntimeError):
                await self._websocket.close(1000 if code is None else code, reason)
        elif code is None:
            await self._close_without_code()
        else:
            await self._connection.close(code, reason)

    async def _close_without_code(self) -> None:
        protocol = self._connection.protocol
        with suppress(InvalidState):
            protocol.send_close()
            self._connection.transport.writelines(protocol.data_to_send())
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._connection.wait_closed()
