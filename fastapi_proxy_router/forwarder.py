"""HTTP: one request out, one response back.

``proxy_pass`` runs the first half, up to the response's head, so that a caller can catch what goes
wrong and try another upstream. The response it returns runs the second half when the application
sends it. ``forward`` is both for a plain ASGI application.
"""

from __future__ import annotations

from typing import Unpack

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .client import ClientStream, request_exit_stack
from .core.changes import NO_CHANGES, Changes
from .core.policy import ForwardPolicy
from .core.target import Location
from .core.upstream import Upstream
from .exchange import Exchange
from .failover import Forwarding
from .mirroring import send_copy
from .overrides import OverrideOptions, RequestOverride
from .watch import ClientGone

__all__ = ["ForwardedResponse", "forward", "proxy_pass", "run", "send_request"]

#: What nginx logs for a client that left before its answer; nobody receives it.
CLIENT_CLOSED_REQUEST = 499


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
    forwarding = Forwarding(ClientStream.of(request), upstream, policy, location, changes)
    try:
        exchange = await forwarding.open(getattr(request, "_send", None))
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    send_copy(forwarding)
    return ForwardedResponse(request, exchange)


class ForwardedResponse(Response):
    """An upstream's response whose body is relayed, chunk by chunk, when the application sends it.

    Its status and headers may be changed before that. One that is not sent must be closed; FastAPI
    does so at the end of the request, plain Starlette does not.
    """

    def __init__(self, request: Request, exchange: Exchange) -> None:
        self.status_code = exchange.status
        self.raw_headers = exchange.headers
        self.background = None
        self.body = b""
        self._exchange = exchange
        self._stack = request_exit_stack(request)
        if self._stack is not None:
            self._stack.push_async_callback(self.aclose)

    @property
    def upstream(self) -> Upstream:
        """The upstream that answered."""
        return self._exchange.upstream

    async def aclose(self) -> None:
        """Let go of the upstream. Idempotent."""
        await self._exchange.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. A client that leaves ends it; an upstream that fails aborts it."""
        try:
            await self._exchange.relay(send, self.status_code, self.raw_headers)
        finally:
            if self._stack is None:
                await self._exchange.client.aclose()
        if self.background is not None:
            await self.background()
