"""One WebSocket client on the websockets library: connect to an upstream and shake hands."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.http11 import Request as HandshakeRequest
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from .core.names import Header
from .core.outbound import Outbound
from .core.policy import ForwardPolicy, Timeout
from .core.upstream import Upstream
from .exceptions import BadGateway, GatewayTimeout, NoUpstreamAvailable, Stage
from .transport import tls_context

__all__ = ["CLOSE_TIMEOUT", "dial", "raw_headers"]

#: Seconds an upstream has to answer our close frame before its connection is dropped.
CLOSE_TIMEOUT = 5.0


async def dial(
    upstream: Upstream,
    out: Outbound,
    offers: Sequence[str],
    policy: ForwardPolicy,
    timeout: Timeout,
) -> ClientConnection:
    """Connect and complete the handshake; no redirect is followed and no proxy is used.

    Args:
        upstream: Where to.
        out: What to send.
        offers: The subprotocols that the client offers.
        policy: The limit for messages from the upstream.
        timeout: The deadlines.

    Raises:
        websockets.exceptions.InvalidStatus: The upstream refused; its response is attached.
        GatewayError: No answer could be had.
    """
    with _translated(upstream, "connect"):
        connection = await _connect(upstream, out, offers, policy, timeout.connect)
    try:
        with _translated(upstream, "head"):
            async with asyncio.timeout(timeout.response):
                await connection.handshake(user_agent_header=None)
    except BaseException:
        connection.transport.abort()
        raise
    connection.start_keepalive()
    return connection


async def _connect(
    upstream: Upstream,
    out: Outbound,
    offers: Sequence[str],
    policy: ForwardPolicy,
    seconds: float | None,
) -> ClientConnection:
    def protocol() -> ClientConnection:
        handshake = _Handshake(
            out,
            upstream,
            subprotocols=[Subprotocol(name) for name in offers] or None,
            max_size=policy.max_message_size,
        )
        return ClientConnection(handshake, close_timeout=CLOSE_TIMEOUT)

    async with asyncio.timeout(seconds):
        _, connection = await asyncio.get_running_loop().create_connection(
            protocol,
            upstream.host,
            upstream.port,
            ssl=tls_context() if upstream.scheme == "https" else None,
        )
    return connection


class _Handshake(ClientProtocol):
    """A client that sends our target and headers, byte for byte."""

    def __init__(self, out: Outbound, upstream: Upstream, **options: Any) -> None:
        # The whole target stands for the path: an URI that is taken apart and put together again
        # is not the same bytes.
        secure = upstream.scheme == "https"
        uri = WebSocketURI(secure, upstream.host, upstream.port, out.target.decode(), "")
        super().__init__(uri, **options)
        self._ours = out.headers

    def connect(self) -> HandshakeRequest:
        request = super().connect()
        theirs = [
            (name.encode(), value.encode())
            for name, value in request.headers.raw_items()
            if name != "Host"
        ]
        return _RawRequest(request.path, request.headers, raw=[*self._ours, *theirs])


class _RawRequest(HandshakeRequest):
    """A handshake whose headers are bytes: as text, not every version could send them all."""

    def __init__(self, path: str, headers: Headers, *, raw: list[Header]) -> None:
        super().__init__(path, headers)
        self._raw = raw

    def serialize(self) -> bytes:
        lines = [f"GET {self.path} HTTP/1.1".encode()]
        lines += [name + b": " + value for name, value in self._raw]
        return b"\r\n".join([*lines, b"", b""])


@contextmanager
def _translated(upstream: Upstream, stage: Stage) -> Iterator[None]:
    """Turn what dialling raises into ours; a refusal by the upstream passes as it is."""
    try:
        yield
    except InvalidStatus:
        raise
    except TimeoutError as error:
        raise GatewayTimeout(
            "the handshake took too long", upstream=upstream, stage=stage
        ) from error
    except InvalidHandshake as error:
        raise BadGateway(f"invalid handshake: {error}", upstream=upstream, stage=stage) from error
    except (EOFError, ConnectionClosed) as error:
        raise BadGateway("it closed in the handshake", upstream=upstream, stage=stage) from error
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise NoUpstreamAvailable(
                str(error), upstream=upstream, stage=stage, fault="us"
            ) from error
        raise BadGateway(str(error), upstream=upstream, stage=stage) from error


def raw_headers(headers: Headers) -> list[Header]:
    """Return headers that websockets has read as bytes."""
    return [(name.encode(), _bytes(value)) for name, value in headers.raw_items()]


def _bytes(value: str) -> bytes:
    """Return the bytes that websockets read: Latin-1 since its version 17, escaped before."""
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode("ascii", "surrogateescape")
