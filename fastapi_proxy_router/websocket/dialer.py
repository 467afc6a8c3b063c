"""Open a WebSocket to an upstream: connect, and shake hands in the bytes that were made for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from ..core.names import Header
from ..core.outbound import Outbound
from ..core.policy import Timeout
from ..core.upstream import Upstream
from ..core.websocket import WebSocketOptions
from ..exceptions import BadGateway, GatewayTimeout
from ..transport import RawRequest, connect, crossing
from .answer import SWITCHING, Answer
from .connection import HandshakeFailed, UpstreamWebSocket

__all__ = ["Dialled", "Refused", "dial"]


class Dialled(NamedTuple):
    """An open WebSocket, and the headers of the upstream's 101."""

    websocket: UpstreamWebSocket
    headers: list[Header]


class Refused(Exception):
    """The upstream answered the handshake with something else than 101."""

    def __init__(self, upstream: Upstream, answer: Answer, sent: Outbound) -> None:
        super().__init__(answer.status)
        self.upstream = upstream
        self.sent = sent
        self.status = answer.status
        self.headers = answer.headers
        self.body = bytes(answer.body)


async def dial(
    upstream: Upstream,
    out: Outbound,
    offers: Sequence[str],
    options: WebSocketOptions,
    timeout: Timeout,
) -> Dialled:
    """Connect and complete the handshake; no redirect is followed and no proxy is used.

    Args:
        upstream: Where to.
        out: What to send.
        offers: The subprotocols that the client offers.
        options: The limits.
        timeout: The deadlines.

    Raises:
        Refused: The upstream refused.
        GatewayError: No answer could be had.
    """
    protocol = _protocol(upstream, offers, options)

    def new() -> UpstreamWebSocket:
        return UpstreamWebSocket(
            protocol,
            max_size=options.max_message_size,
            ping_interval=options.ping_interval,
            ping_timeout=options.ping_timeout,
        )

    with crossing(upstream, "connect"):
        websocket = await connect(upstream, new, timeout)
    dialled: Dialled | None = None
    try:
        answer = await _shake_hands(websocket, _request(out, protocol), upstream, timeout)
        if answer.status != SWITCHING:
            raise Refused(upstream, answer, out)
        dialled = Dialled(websocket, answer.headers)
        return dialled
    finally:
        if dialled is None:
            websocket.abort()


async def _shake_hands(
    websocket: UpstreamWebSocket, request: bytes, upstream: Upstream, timeout: Timeout
) -> Answer:
    try:
        async with asyncio.timeout(timeout.response):
            return await websocket.handshake(request)
    except TimeoutError:
        reason = "the handshake took too long"
        raise GatewayTimeout(reason, upstream=upstream, stage="head") from None
    except HandshakeFailed as error:
        # What an upstream has sent is in it, escape sequences for terminals too.
        reason = f"invalid handshake: {ascii(str(error))[:200]}"
        raise BadGateway(reason, upstream=upstream, stage="head") from None


def _protocol(
    upstream: Upstream, offers: Sequence[str], options: WebSocketOptions
) -> ClientProtocol:
    """Return what speaks WebSocket once the handshake is over, which it judges."""
    deflate = [ClientPerMessageDeflateFactory(compress_settings={"memLevel": 5})]
    most = options.max_message_size
    if most is not None and options.compression:
        # Else it takes a compressed message of just this size for one that is larger.
        most += 1
    return ClientProtocol(
        WebSocketURI(upstream.scheme == "https", upstream.host, upstream.port, "/", ""),
        extensions=deflate if options.compression else None,
        subprotocols=[Subprotocol(name) for name in offers] or None,
        state=State.OPEN,
        max_size=most,
    )


def _request(out: Outbound, protocol: ClientProtocol) -> bytes:
    """Return the handshake: our target and headers, byte for byte, and what websockets adds."""
    added = [
        (name.encode(), value.encode())
        for name, value in protocol.connect().headers.raw_items()
        if name != "Host"
    ]
    request = RawRequest("GET", out.target, [*out.headers, *added], b"")
    return request.head()
