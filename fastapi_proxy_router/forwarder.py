"""HTTP: one request out, one response back.

``proxy_pass`` runs the first half, up to the response's head, so that a caller can catch what goes
wrong and try another upstream. The response it returns runs the second half when the application
sends it. ``forward`` is both for a plain ASGI application.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn, Unpack

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .client import ClientStream
from .core.bodies import readable, rewritten
from .core.changes import NO_CHANGES, Changes, Transform
from .core.policy import ForwardPolicy
from .core.target import Location
from .core.upstream import Upstream
from .exceptions import BadGateway
from .exchange import Exchange
from .failover import Forwarding
from .lifetime import request_exit_stack
from .log import reported
from .mirroring import send_copy
from .overrides import OverrideOptions, RequestOverride
from .watch import ClientGone

__all__ = ["ForwardedResponse", "forward", "left", "proxy_pass", "run", "send_request"]

#: What nginx logs for a client that left before its answer; nobody receives it.
CLIENT_CLOSED_REQUEST = 499
#: The most bytes that are read of a response, unless something else is said.
READ_LIMIT = 16 * 1024 * 1024


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
    await run(Forwarding(ClientStream(scope, receive), upstream, policy), send)


async def run(forwarding: Forwarding, send: Send) -> None:
    """Forward a request from its beginning to its end; raises what ``forward`` raises."""
    try:
        exchange = await forwarding.open(send)
        send_copy(forwarding)
        await exchange.relay(send, exchange.status, exchange.headers)
    except ClientGone:
        await send({"type": "http.response.start", "status": CLIENT_CLOSED_REQUEST, "headers": []})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await forwarding.client.aclose()


async def proxy_pass(
    request: Request, upstream: Upstream, **changes: Unpack[OverrideOptions]
) -> ForwardedResponse:
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
        starlette.exceptions.HTTPException: The client left meanwhile (499; nobody receives it).
    """
    override = RequestOverride(**changes).compile() if changes else NO_CHANGES
    try:
        return await send_request(request, upstream, changes=override)
    except ClientGone:
        raise _gone() from None


async def send_request(
    request: Request,
    upstream: Upstream,
    *,
    policy: ForwardPolicy | None = None,
    location: Location | None = None,
    changes: Changes = NO_CHANGES,
) -> ForwardedResponse:
    """Send *request* to *upstream* and return its response, whose body is still to come.

    Args:
        request: The client's request.
        upstream: Where it goes.
        policy: How; the upstream's own by default.
        location: The parts of its path; all below ``root_path`` by default.
        changes: The override of this exchange.

    Raises:
        GatewayError: No answer could be had.
        RequestRefused: The request is not safe to forward.
        ClientGone: The client left meanwhile.
    """
    if changes.reads_response:
        changes = readable(changes, request.scope["headers"])
    forwarding = Forwarding(ClientStream.of(request), upstream, policy, location, changes)
    exchange = await forwarding.open(getattr(request, "_send", None))
    send_copy(forwarding)
    return ForwardedResponse(request, exchange)


def left() -> Response:
    """Return what is sent to a client that has left: nobody receives it."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _gone() -> HTTPException:
    """Return what ends the endpoint of a client that has left."""
    return HTTPException(CLIENT_CLOSED_REQUEST, "Client Closed Request")


class ForwardedResponse(Response):
    """An upstream's response whose body is relayed, chunk by chunk, when the application sends it.

    Its status and headers may be changed before that, and its body read, transformed or replaced.
    One that is not sent must be closed; FastAPI does so at the end of the request, plain Starlette
    does not.
    """

    def __init__(self, request: Request, exchange: Exchange) -> None:
        self.status_code = exchange.status
        self.raw_headers = exchange.headers
        self.background = None
        self.body = b""
        self._exchange = exchange
        self._transforms: tuple[Transform, ...] = ()
        self._closing: asyncio.Task[None] | None = None
        self._stack = request_exit_stack(request)
        if self._stack is not None:
            self._stack.push_async_callback(self.aclose)

    @property
    def upstream(self) -> Upstream:
        """The upstream that answered."""
        return self._exchange.upstream

    async def read(self, limit: int = READ_LIMIT) -> bytes:
        """Return the body, with gzip and deflate undone. What is sent later is the original.

        It is kept, so it may be read again, and the upstream is let go of. After ``replace_body``
        or ``transform`` it is the new one. A response that can have no body has ``b""``.

        Args:
            limit: The most bytes that it may have, as it came and as it is returned.

        Raises:
            BadGateway: It has more, or breaks off, or has another coding.
            GatewayTimeout: It did not come in time.
            starlette.exceptions.HTTPException: The client left meanwhile (499; nobody receives it).
            RuntimeError: The response is closed.
        """
        transforms, self._transforms = self._transforms, ()
        try:
            return await self._exchange.read(limit, transforms)
        except ClientGone:
            raise _gone() from None

    async def json(self, limit: int = READ_LIMIT) -> Any:
        """Return what the body says in JSON (RFC 8259).

        Args:
            limit: The most bytes that it may have, as for ``read``, which also says what else may
                be raised.

        Raises:
            BadGateway: It is not JSON; the reason is in the log only.
        """
        body = await self.read(limit)
        try:
            return json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            reason = f"its body is not JSON: {error}"
            with reported(self._exchange.client.scope):
                raise BadGateway(reason, upstream=self.upstream, stage="body") from None

    def replace_body(self, body: bytes) -> None:
        """Send *body* instead, with the headers that go with it. The upstream is let go of.

        ``Content-Length`` is set, ``Content-Encoding``, digests and ``Accept-Ranges`` are removed,
        and a strong ``ETag`` becomes a weak one. Other headers, such as ``Content-Type``, stay.
        """
        self._transforms = ()
        self._exchange.replace(body)
        # In place: `headers` may have been taken before.
        self.raw_headers[:] = rewritten(self.raw_headers, len(body))
        if self._closing is None and self._exchange.is_open:
            self._closing = asyncio.create_task(self.aclose(), name="proxy let go of upstream")

    def transform(self, hook: Transform) -> None:
        """Send what *hook* makes of the body, chunk by chunk, which is never buffered.

        It is called with an async iterator of the chunks, gzip and deflate undone, and is an async
        generator of those to send. The headers change as for ``replace_body``, but for the length.
        Several see the body in this order. None is called where there is no body to send. If one
        raises, or the upstream breaks off, the client's connection is dropped. Only the deadline
        of the whole exchange limits how long one may take.

        Raises:
            BadGateway: The body has another coding.
        """
        self._exchange.check_decodable()
        self._transforms = (*self._transforms, hook)
        self.raw_headers[:] = rewritten(self.raw_headers)

    async def aclose(self) -> None:
        """Let go of the upstream. Idempotent."""
        await self._exchange.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. A client that leaves ends it; an upstream that fails aborts it."""
        try:
            if self._closing is not None:
                await self._closing
            await self._exchange.relay(send, self.status_code, self.raw_headers, self._transforms)
        finally:
            if self._stack is None:
                await self._exchange.client.aclose()
        if self.background is not None:
            await self.background()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
