"""WebSocket: dial the upstream first, then accept or refuse the client as the upstream did."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from typing import Any, Unpack
from weakref import WeakKeyDictionary

from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from .core.amending import amended
from .core.binding import affinity_headers
from .core.changes import NO_CHANGES, Changes
from .core.guard import check_response, is_bodyless, is_refusal
from .core.handshake import (
    ABNORMAL,
    accept_headers,
    check_origin,
    refusal_headers,
)
from .core.headers import Edits, edit, response_headers
from .core.names import Header
from .core.policy import DEFAULT_POLICY, ForwardPolicy
from .core.target import Location
from .core.upstream import Upstream
from .dialling import Dialling, Opened
from .exceptions import BadGateway, StreamAborted
from .log import log_failure, reported
from .overrides import WebSocketOverride, WebSocketOverrideOptions
from .relay import Relay
from .websocket import SWITCHING, Refused

__all__ = ["close_relays", "deny", "proxy_pass_websocket", "relay_websocket"]

#: What servers and Starlette raise when the client has left.
_GONE = (WebSocketDisconnect, RuntimeError, OSError)
_POLICY_VIOLATION = 1008
_running: WeakKeyDictionary[Upstream, set[Relay]] = WeakKeyDictionary()


async def proxy_pass_websocket(
    websocket: WebSocket, upstream: Upstream, **changes: Unpack[WebSocketOverrideOptions]
) -> None:
    """Relay *websocket* to *upstream* from your own endpoint, until one side ends.

    Do not accept it before: the upstream is asked first, so that its subprotocol, its headers or
    its refusal reach the client.

    Args:
        websocket: The client's WebSocket, not accepted yet.
        upstream: Where it goes: ``Depends(pool)``, or any ``Upstream``.
        changes: What to send in the handshake instead of what the client sent, limits, and hooks
            for messages; see ``WebSocketOverride``.

    Raises:
        BadGateway: The upstream could not be reached or broke the protocol.
        GatewayTimeout: It did not answer the handshake in time.
        NoUpstreamAvailable: We are out of resources.
        RequestRefused: The handshake is not safe to forward, or its origin is not allowed.
        pydantic.ValidationError: *changes* cannot be used.
        Exception: What a message hook raises, after both sides were closed with 1011.
    """
    if websocket.application_state is not WebSocketState.CONNECTING:
        # What the client sends would be lost until the upstream has answered.
        raise RuntimeError("accept no WebSocket before proxy_pass_websocket, which does it")
    override = WebSocketOverride(**changes).compile() if changes else NO_CHANGES
    await relay_websocket(websocket, upstream, changes=override)


async def relay_websocket(
    websocket: WebSocket,
    upstream: Upstream,
    *,
    policy: ForwardPolicy | None = None,
    location: Location | None = None,
    changes: Changes = NO_CHANGES,
) -> None:
    """Relay *websocket* to *upstream*; the arguments are those of ``send_request``.

    If it cannot be reached, or does not answer, the others of its pool are asked.
    """
    policy = changes.policy(policy or upstream.policy or DEFAULT_POLICY)
    options = changes.websocket or policy.websocket
    # Limits of one path do not open it to every page.
    allowed = options.allowed_origins
    if allowed is None:
        allowed = policy.websocket.allowed_origins
    with reported(websocket.scope):
        check_origin(websocket.scope["headers"], allowed)
    dialling = Dialling(websocket.scope, policy, location, changes).open(upstream)
    try:
        opened = await _unless_the_client_leaves(websocket, dialling)
    except Refused as refused:
        with reported(websocket.scope):
            await _refuse(websocket, refused, policy, changes)
        return
    if opened is not None:
        try:
            await _connect(websocket, opened, policy, changes)
        finally:
            opened.drop()


async def close_relays(upstreams: Iterable[Upstream]) -> None:
    """End what is relayed to *upstreams*, with 1012.

    Most servers have told the application before its lifespan ends; granian has not. Those of other
    event loops (tests have several) are not ours to wait for.
    """
    loop = asyncio.get_running_loop()
    running = [relay for upstream in upstreams for relay in list(_running.get(upstream, ()))]
    relays = [relay for relay in running if relay.loop is loop]
    await asyncio.gather(*(relay.stop() for relay in relays))


async def _unless_the_client_leaves(
    websocket: WebSocket, dialling: Coroutine[Any, Any, Opened]
) -> Opened | None:
    """Return what *dialling* returns, or ``None`` if the client leaves before that."""
    dial_task = asyncio.create_task(dialling, name="relay dial upstream")
    leave_task = asyncio.create_task(_left(websocket), name="relay watch client")
    opened: Opened | None = None
    try:
        await asyncio.wait([dial_task, leave_task], return_when=asyncio.FIRST_COMPLETED)
        if not (leave_task.done() and leave_task.result()):
            opened = await dial_task
        return opened
    finally:
        # Both before any await: a cancel scope of anyio cancels at each of them.
        leave_task.cancel()
        dial_task.cancel()
        if opened is None:
            dial_task.add_done_callback(_hung_up)
        try:
            await asyncio.wait([leave_task, dial_task])
        except BaseException:
            if opened is not None:
                opened.drop()
            raise
        finally:
            # A failure would hold itself, through its traceback and the task.
            del leave_task, dial_task


def _hung_up(dial_task: asyncio.Task[Opened]) -> None:
    """Drop the connection of an upstream that answered nobody."""
    if not dial_task.cancelled() and dial_task.exception() is None:
        dial_task.result().drop()


async def _left(websocket: WebSocket) -> bool:
    """Wait until the client leaves; a server that cannot tell before the accept says False."""
    try:
        while websocket.client_state is not WebSocketState.DISCONNECTED:
            await websocket.receive()
    except RuntimeError:
        return False
    return True


async def _connect(
    websocket: WebSocket, opened: Opened, policy: ForwardPolicy, changes: Changes
) -> None:
    """Accept the client as the upstream has accepted us, and relay until the end."""
    upstream = opened.upstream
    options = changes.websocket or policy.websocket
    hooks = (changes.on_client_message, changes.on_upstream_message)
    relay = Relay(websocket, opened.websocket, options, *hooks)
    running = _running.setdefault(upstream, set())
    running.add(relay)
    try:
        headers = accept_headers(opened.headers)
        if changes.response:
            _, headers = amended(SWITCHING, headers, changes.response, upstream, opened.sent)
        headers = [*headers, *affinity_headers(websocket.scope, upstream)]
        ended = await relay.run(websocket.accept(opened.websocket.subprotocol, headers))
    finally:
        running.discard(relay)
    if ended.by == "upstream" and ended.code == ABNORMAL:
        failure = StreamAborted(ended.reason, upstream=upstream, fault="upstream")
        if not relay.is_held_up:
            opened.lease.judge(failure)
        log_failure(websocket.scope, failure)
    else:
        opened.lease.succeeded()


async def _refuse(
    websocket: WebSocket, refused: Refused, policy: ForwardPolicy, changes: Changes
) -> None:
    """Pass the upstream's refusal on, with its status, headers and body.

    Raises:
        BadGateway: It is none. An upstream that took the handshake for an ordinary request must
            not answer it past the routes that guard such requests.
    """
    upstream = refused.upstream
    check_response(upstream, refused.status, refused.headers)
    if not is_refusal(refused.status):
        reason = f"the upstream answered the handshake with {refused.status}"
        raise BadGateway(reason, upstream=upstream, stage="head")
    headers = response_headers(
        refusal_headers(refused.headers),
        refused.status,
        keep_server_headers=policy.keep_server_headers,
    )
    status = refused.status
    if changes.response:
        status, headers = amended(status, headers, changes.response, upstream, refused.sent)
        status = status if is_refusal(status) else refused.status
    headers = [*headers, *affinity_headers(websocket.scope, upstream)]
    bodyless = is_bodyless("GET", status)
    answer = Response(b"" if bodyless else refused.body, status)
    length = () if bodyless else ((b"content-length", b"%d" % len(answer.body)),)
    framing = Edits(set=length, remove=frozenset({b"content-length"}))
    answer.raw_headers = edit(headers, framing)
    await deny(websocket, answer)


async def deny(websocket: WebSocket, answer: Response) -> None:
    """Refuse a WebSocket that is not accepted yet with *answer*, if the server can send one."""
    extensions = websocket.scope.get("extensions") or {}
    with suppress(*_GONE):
        if "websocket.http.response" not in extensions:
            await websocket.close(code=_POLICY_VIOLATION)
            return
        if "http.response.pathsend" in extensions:
            # granian, alone in offering this to WebSockets, dies of one that repeats a header.
            answer.raw_headers = _folded(answer.raw_headers)
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
