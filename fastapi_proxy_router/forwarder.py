"""HTTP: one request out, one response back.

``proxy_pass`` runs the first half, up to the response's head, so that a caller can catch what goes
wrong and try another upstream. The response it returns runs the second half when the application
sends it. ``forward`` is both for a plain ASGI application.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Unpack

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .body import RequestBody, given_body
from .client import ClientGone, ClientStream, request_exit_stack
from .core.changes import NO_CHANGES, Changes
from .core.forwarded import via_headers
from .core.guard import check_response, is_bodyless
from .core.headers import (
    Edits,
    Header,
    content_length,
    edit,
    request_headers,
    response_headers,
)
from .core.outbound import Outbound, outbound
from .core.policy import ForwardPolicy, Timeout
from .core.target import Location
from .core.upstream import Upstream
from .exceptions import (
    BadGateway,
    GatewayError,
    GatewayTimeout,
    ProxyError,
    StreamAborted,
)
from .log import log_failure, logged
from .overrides import OverrideOptions, RequestOverride
from .transport import UpstreamResponse, exchange

__all__ = ["ForwardedResponse", "forward", "proxy_pass", "send_request"]

#: What nginx logs for a client that left before its answer; nobody receives it.
CLIENT_CLOSED_REQUEST = 499
#: A message that no server knows. Starlette's BaseHTTPMiddleware ends a body cleanly when the
#: application behind it raises, and only then raises itself; on this message it fails at once.
_ABORT = {"type": "http.response.abort"}


async def forward(
    scope: Scope,
    receive: Receive,
    send: Send,
    upstream: Upstream,
    policy: ForwardPolicy | None = None,
) -> None:
    """Forward one HTTP request, as the whole of an ASGI application.

    Args:
        scope: The request's scope; its ``root_path`` is not sent to the upstream.
        receive: The server's.
        send: The server's.
        upstream: Where the request goes.
        policy: How; the upstream's own by default.

    Raises:
        GatewayError: No answer could be had, and nothing was sent to the client.
        RequestRefused: The request is not safe to forward, and nothing was sent to the client.
        StreamAborted: The response broke off after its head; let it leave the application.
    """
    async with AsyncExitStack() as stack:
        request = Request(dict(scope) | {"fastapi_inner_astack": stack}, receive, send)
        response = await send_request(request, upstream, policy=policy)
        await response(scope, receive, send)


async def proxy_pass(
    request: Request, upstream: Upstream, **changes: Unpack[OverrideOptions]
) -> Response:
    """Forward *request* to *upstream* from your own endpoint and return the response to return.

    Args:
        request: The client's request.
        upstream: Where it goes: ``Depends(pool)``, or any ``Upstream``.
        changes: What to send instead of what the client sent; see ``RequestOverride``. Without a
            ``path``, the whole path of the request below ``root_path`` is sent.

    Raises:
        BadGateway: The upstream could not be reached or broke the protocol.
        GatewayTimeout: It did not connect or answer in time.
        NoUpstreamAvailable: We are out of resources.
        RequestRefused: The request is not safe to forward.
        pydantic.ValidationError: *changes* cannot be used.
        RuntimeError: The body was sent to another upstream before; ``await request.body()``
            before the first attempt keeps it for a second.
    """
    override = RequestOverride(**changes).compile() if changes else NO_CHANGES
    return await send_request(request, upstream, changes=override)


async def send_request(
    request: Request,
    upstream: Upstream,
    *,
    policy: ForwardPolicy | None = None,
    location: Location | None = None,
    changes: Changes = NO_CHANGES,
) -> Response:
    """Send *request* to *upstream* and return its response, whose body is still to come.

    A client that leaves while this waits gets a 499 that nobody reads.

    Args:
        request: The client's request.
        upstream: Where it goes.
        policy: How; the upstream's own by default.
        location: The parts of its path; all below ``root_path`` by default.
        changes: The override of this exchange.

    Raises:
        GatewayError: No answer could be had.
        RequestRefused: The request is not safe to forward.
    """
    policy = policy or upstream.policy or ForwardPolicy()
    with logged(request):
        out = outbound(
            request.scope,
            upstream,
            location=location,
            changes=changes,
            policy=policy,
            crossing=request_headers,
        )
        try:
            return await _exchange(request, upstream, out, policy, changes)
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _exchange(
    request: Request,
    upstream: Upstream,
    out: Outbound,
    policy: ForwardPolicy,
    changes: Changes,
) -> ForwardedResponse:
    timeout = changes.timeout or policy.timeout
    client = ClientStream.of(request)
    upstream.in_flight += 1
    response: UpstreamResponse | None = None
    try:
        wanted = given_body(changes) is None
        with client.watch():
            arrives = await client.begin(wanted=wanted, idle=timeout.idle)
        arriving = client.body() if arrives else None
        body = RequestBody(out.headers, changes, arriving, timeout.idle)
        with client.watch():
            response = await _head(upstream, out, body, timeout)
        check_response(upstream, response.status, response.headers)
    except BaseException:
        upstream.in_flight -= 1
        if response is not None:
            await response.aclose()
        raise
    crossing = response_headers(
        response.headers, response.status, keep_server_headers=policy.keep_server_headers
    )
    if out.method == "HEAD" != request.method:
        crossing = edit(crossing, Edits(remove=frozenset({b"content-length"})))
    via_headers(crossing, policy.via, "1.1")
    return ForwardedResponse(
        request, client, response, edit(crossing, changes.response), timeout.idle
    )


async def _head(
    upstream: Upstream, out: Outbound, body: RequestBody, timeout: Timeout
) -> UpstreamResponse:
    """Send the request and wait for the head, from the end of the body at most ``response``."""
    loop = asyncio.get_running_loop()
    waiting = True

    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in body.chunks():
            yield chunk
        # A transport may still be sending when the head is here.
        if waiting and timeout.response is not None:
            deadline.reschedule(loop.time() + timeout.response)

    try:
        async with asyncio.timeout(None if body.arrives else _both(timeout)) as deadline:
            return await exchange(upstream, out.method, out.target, body.headers, chunks(), timeout)
    except TimeoutError as error:
        raise GatewayTimeout(
            f"no response head within {timeout.response} s", upstream=upstream, stage="head"
        ) from error
    finally:
        waiting = False


def _both(timeout: Timeout) -> float | None:
    """Return the limit for a transport that never asks for the body, which is empty."""
    if timeout.connect is None or timeout.response is None:
        return None
    return timeout.connect + timeout.response


class ForwardedResponse(Response):
    """An upstream's response whose body is relayed, chunk by chunk, when the application sends it.

    Its status and headers may be changed before that. One that is not sent must be closed; FastAPI
    and ``forward`` do so at the end of the request, plain Starlette does not.
    """

    def __init__(
        self,
        request: Request,
        client: ClientStream,
        response: UpstreamResponse,
        headers: list[Header],
        idle: float | None,
    ) -> None:
        self.status_code = response.status
        self.raw_headers = headers
        self.background = None
        self.body = b""
        self._request = request
        self._client = client
        self._response = response
        self._idle = idle
        self._closed = False
        if (stack := request_exit_stack(request)) is not None:
            stack.push_async_callback(self.aclose)

    @property
    def upstream(self) -> Upstream:
        """The upstream that answered."""
        return self._response.upstream

    async def aclose(self) -> None:
        """Let go of the upstream. Idempotent."""
        if not self._closed:
            self._closed = True
            self.upstream.in_flight -= 1
            try:
                await self._response.aclose()
            except GatewayError as error:
                log_failure(self._request, error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. A client that leaves ends it; an upstream that fails aborts it."""
        try:
            # OSError is how a server of ASGI 2.4 says in `send` that the client has left.
            with suppress(ClientGone, OSError):
                await self._relay(send)
        except ProxyError as error:
            log_failure(self._request, error)
            with suppress(Exception):
                await send(_ABORT)
            raise StreamAborted(error.reason, upstream=self.upstream, fault=error.fault) from error
        finally:
            await self.aclose()
            if request_exit_stack(self._request) is None:
                await self._client.aclose()
        if self.background is not None:
            await self.background()

    async def _relay(self, send: Send) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        if not is_bodyless(self._request.method, self.status_code):
            self._client.drain()
            with self._client.watch():
                await self._relay_body(send, content_length(headers))
        await self.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _relay_body(self, send: Send, length: int | None) -> None:
        if length is None:
            # Some servers hold the head back until they see a body; an event stream may be silent.
            await send({"type": "http.response.body", "body": b"", "more_body": True})
        sent = 0
        while chunk := await self._next_chunk():
            sent += len(chunk)
            if length is not None and sent > length:
                raise self._broken("it sent more than its Content-Length")
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if length is not None and sent < length:
            raise self._broken("it sent less than its Content-Length")

    async def _next_chunk(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle):
                return await self._response.next_chunk()
        except TimeoutError as error:
            raise self._broken(f"no byte of the body within {self._idle} s") from error

    def _broken(self, reason: str) -> BadGateway:
        return BadGateway(reason, upstream=self.upstream, stage="body")
