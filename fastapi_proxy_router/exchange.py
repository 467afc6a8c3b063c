"""One HTTP exchange between a client and an upstream, from the head of the request to the end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import Message, Send

from .body import framed
from .client import ClientStream
from .core.binding import affinity_headers
from .core.changes import NO_CHANGES, Changes
from .core.forwarded import via_headers
from .core.guard import is_bodyless
from .core.headers import (
    Edits,
    content_length,
    edit,
    end_to_end,
    field_values,
    request_headers,
    response_headers,
    tokens,
)
from .core.lease import Lease
from .core.names import Header
from .core.outbound import Outbound, outbound
from .core.policy import ForwardPolicy
from .core.target import Location
from .core.upstream import Upstream
from .exceptions import GatewayError, ProxyError, StreamAborted
from .log import log_failure, reported
from .timing import PATIENCE, Timing
from .transport import EarlyHint, Head, RawRequest, UpstreamResponse, crossing, exchange
from .watch import ClientGone

__all__ = ["Exchange"]

#: A message that no server knows. Starlette's BaseHTTPMiddleware ends a body cleanly when the
#: application behind it raises, and only then raises itself; on this message it fails at once.
_ABORT: Message = {"type": "http.response.abort"}
_EARLY_HINT = "http.response.early_hint"
_TRAILERS = "http.response.trailers"
_CLOSE = (b"connection", b"close")


class Exchange:
    """One exchange: ``open`` it, ``relay`` the response, and ``aclose`` it whatever happens.

    Args:
        client: The client's side.
        upstream: Where the request goes.
        policy: How.
        location: The parts of the path; ``None`` is all below ``root_path``.
        changes: The override.
        until: When all of it has to be over, in the event loop's time.

    Attributes:
        upstream: Where the request goes.
        hinted: Something of the upstream's has reached the client before the response.
        status: The response's status, once the exchange is open.
        headers: The response's headers as they may cross to the client.
    """

    status: int
    headers: list[Header]

    def __init__(
        self,
        client: ClientStream,
        upstream: Upstream,
        policy: ForwardPolicy,
        location: Location | None,
        changes: Changes,
        until: float | None,
    ) -> None:
        self.client = client
        self.upstream = upstream
        self._policy = policy
        self._location = location
        self._changes = changes
        self._timeout = changes.timeout or self._policy.timeout
        self._timing = Timing(client, upstream, self._timeout, until)
        self._response: UpstreamResponse | None = None
        self._lease: Lease | None = None
        self.hinted = False
        self._uploads = False
        self._is_held_up = False
        self._has_length = False
        self._method: str = client.scope["method"]

    async def open(self, send: Send | None = None) -> None:
        """Send the request and wait for the response's head.

        Args:
            send: The server's, to pass early hints on. Default: they are not.

        Raises:
            GatewayError: No answer could be had.
            RequestRefused: The request is not safe to forward.
            ClientGone: The client left meanwhile.
        """
        try:
            with reported(self.client.scope):
                await self._timing.of_head(self._open(send))
        except BaseException as error:
            if self._lease is not None:
                self._lease.judge(error)
            await self.aclose()
            raise

    async def _open(self, send: Send | None) -> None:
        client, policy, changes = self.client, self._policy, self._changes
        out = outbound(
            client.scope,
            self.upstream,
            location=self._location,
            changes=changes,
            policy=policy,
            crossing=request_headers,
        )
        self._lease = self._timing.lease = lease = Lease(self.upstream)
        with client.watch():
            request = await self._request(out)
            hint = self._early_hint(send)
            with crossing(self.upstream, "head"):
                response = await exchange(self.upstream, request, self._timeout, hint)
            self._response = response
        lease.answered(response.status)
        headers = response_headers(
            response.headers, response.status, keep_server_headers=policy.keep_server_headers
        )
        if out.method == "HEAD" != self._method:
            headers = edit(headers, Edits(remove=frozenset({b"content-length"})))
        self._has_length = content_length(headers) is not None
        self.status = response.status
        self.headers = edit(via_headers(headers, policy.via, "1.1"), changes.response)
        # After the edits, which are of what the upstream has sent.
        if binding := affinity_headers(client.scope, self.upstream):
            self.headers = [*self.headers, *binding]

    async def _request(self, out: Outbound) -> RawRequest:
        if self.client.is_empty and self._changes is NO_CHANGES:
            return RawRequest(out.method, out.target, out.headers, b"")
        self._timing.ask_client()
        body = await framed(out.headers, self._changes, self.client, self._timeout.idle)
        self._timing.go_on()
        arriving = body.body
        if isinstance(arriving, bytes):
            return RawRequest(out.method, out.target, *body)
        self._uploads = True
        timed = body._replace(body=self._timing.of_upload(arriving))
        return RawRequest(out.method, out.target, *timed)

    async def relay(self, send: Send, status: int, headers: list[Header]) -> None:
        """Send the response to the client; a client that leaves ends it quietly.

        Raises:
            StreamAborted: The upstream failed, and the client's connection has to be dropped.
        """
        self.client.forget()
        try:
            await self._timing.of_body(self._relay(send, status, headers))
        except (ClientGone, OSError):
            # OSError is how a server of ASGI 2.4 says in `send` that the client has left.
            pass
        except Exception as error:
            if self._lease is not None and not self._is_held_up:
                self._lease.judge(error)
            with suppress(Exception):
                async with asyncio.timeout(PATIENCE):
                    await send(_ABORT)
            if not isinstance(error, ProxyError):
                raise
            log_failure(self.client.scope, error)
            raise StreamAborted(error.reason, upstream=self.upstream, fault=error.fault) from error
        finally:
            await self.aclose()

    async def _relay(self, send: Send, status: int, headers: list[Header]) -> None:
        response, client = self._response, self.client
        assert response is not None
        start: Message = {"type": "http.response.start", "status": status, "headers": headers}
        body = b""
        if client.uploads and client.scope["http_version"].startswith("1"):
            # The answer came before the end of the upload, of which some may be on its way.
            start["headers"] = [*headers, _CLOSE]
        if is_bodyless(self._method, status):
            await send(start)
        elif response.complete and not client.uploads and self._has_length:
            body = await response.next_chunk()
            await send(start)
        else:
            await self._relay_body(send, start)
        trailers = end_to_end(response.trailers) if start.get("trailers") else None
        if self._lease is not None:
            self._lease.succeeded()
        # Before the client can see the end, so that its next request finds the connection free.
        await self.aclose()
        if client.uploads:
            await client.linger()
        await send({"type": "http.response.body", "body": body, "more_body": False})
        if trailers is not None:
            await send({"type": _TRAILERS, "headers": trailers, "more_trailers": False})

    async def _relay_body(self, send: Send, start: Message) -> None:
        response, client = self._response, self.client
        assert response is not None
        if self._offers(_TRAILERS) and b"trailers" in tokens(client.scope["headers"], b"te"):
            start["trailers"] = True
        await send(start)
        if not self._uploads:
            client.drop()
        with client.watch():
            if not self._has_length:
                # Some servers hold the head back until they see a body; an event stream may be
                # silent for long.
                await send({"type": "http.response.body", "body": b"", "more_body": True})
            clock = asyncio.get_running_loop().time
            while chunk := await self._next_chunk(response):
                began = clock()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                # An upstream may give up a client that does not read, which is no failure.
                self._is_held_up |= clock() - began > PATIENCE

    async def _next_chunk(self, response: UpstreamResponse) -> bytes:
        with crossing(self.upstream, "body"):
            return await response.next_chunk()

    def _early_hint(self, send: Send | None) -> EarlyHint | None:
        if send is None or not self._offers(_EARLY_HINT):
            return None

        async def pass_on(head: Head) -> None:
            if links := field_values(head.headers, b"link"):
                self.hinted = True
                await send({"type": _EARLY_HINT, "links": links})

        return pass_on

    def _offers(self, extension: str) -> bool:
        return extension in (self.client.scope.get("extensions") or ())

    async def aclose(self) -> None:
        """Let go of the upstream. Idempotent."""
        if self._lease is not None:
            self._lease.end()
        response, self._response = self._response, None
        if response is not None:
            try:
                with crossing(self.upstream, "body"):
                    await response.aclose()
            except GatewayError as error:
                log_failure(self.client.scope, error)
