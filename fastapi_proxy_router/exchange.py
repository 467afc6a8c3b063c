"""One HTTP exchange between a client and an upstream, from the head of the request to the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.types import Send

from .body import framed
from .client import ClientStream
from .core.amending import amended, hinted
from .core.binding import affinity_headers
from .core.changes import NO_CHANGES, Changes
from .core.forwarded import via_headers
from .core.headers import (
    Edits,
    content_length,
    edit,
    request_headers,
    response_headers,
)
from .core.lease import Lease
from .core.outbound import Outbound, outbound
from .core.policy import ForwardPolicy
from .core.target import Location
from .core.upstream import Upstream
from .exceptions import ProxyError
from .log import report
from .reply import Reply
from .timing import Timing
from .transforming import Transformed
from .transport import EarlyHint, Head, RawRequest, crossing, exchange

__all__ = ["Exchange"]

_EARLY_HINT = "http.response.early_hint"


class Exchange(Reply):
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
        upstream_status: The upstream's status, once the exchange is open.
        status: The response's status, which an override may have changed.
        headers: The response's headers as they may cross to the client.
    """

    upstream_status: int

    def __init__(
        self,
        client: ClientStream,
        upstream: Upstream,
        policy: ForwardPolicy,
        location: Location | None,
        changes: Changes,
        until: float | None,
    ) -> None:
        self._policy = policy
        self._location = location
        self._changes = changes
        self._timeout = changes.timeout or policy.timeout
        retry = changes.retry_at(upstream)
        per_try = retry.per_try if retry is not None else None
        super().__init__(client, upstream, Timing(client, upstream, self._timeout, until, per_try))
        self.hinted = False

    async def open(self, send: Send | None = None) -> None:
        """Send the request and wait for the response's head.

        Args:
            send: The server's, to pass early hints on. Default: they are not.

        Raises:
            GatewayError: No answer could be had.
            RequestRefused: The request is not safe to forward.
            ClientGone: The client left meanwhile.
            TransformFailed: What the client's body passes through has failed.
        """
        try:
            await self._timing.of_head(self._open(send))
        except BaseException as error:
            if isinstance(error, ProxyError):
                report(self.client.scope, error)
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
        with client.watch():
            for sender in changes.senders:
                out = await sender(out, self.upstream)
            self._lease = self._timing.lease = lease = Lease(self.upstream)
            request = await self._request(out)
            hint = self._early_hint(send, out)
            try:
                with crossing(self.upstream, "head"):
                    response = await exchange(self.upstream, request, self._timeout, hint)
            except Exception as error:  # noqa: BLE001 - it goes on, or what it comes of
                raise self._cause(error)  # noqa: B904 - mostly it is the same
            self._response = response
        lease.answered(response.status)
        self.upstream_status = response.status
        headers = response_headers(
            response.headers, response.status, keep_server_headers=policy.keep_server_headers
        )
        if out.method == "HEAD" != self._method:
            headers = edit(headers, Edits(remove=frozenset({b"content-length"})))
        self._asked = out.method
        self._has_length = content_length(headers) is not None
        self.status, self.headers = response.status, via_headers(headers, policy.via, "1.1")
        if changes.response:
            self.status, self.headers = amended(
                self.status, self.headers, changes.response, self.upstream, out
            )
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
        if isinstance(arriving, Transformed):
            self._upload = arriving
            arriving = self._sent_whole(arriving)
        timed = body._replace(body=self._timing.of_upload(arriving))
        return RawRequest(out.method, out.target, *timed)

    async def _sent_whole(self, body: Transformed) -> AsyncGenerator[bytes, None]:
        """Pass *body* on. When that is done, what is left of the client's is not wanted."""
        async with aclosing(body):
            async for chunk in body:
                yield chunk
        self._uploads = False
        if self._relays:
            self.client.drop()

    def _early_hint(self, send: Send | None, out: Outbound) -> EarlyHint | None:
        if send is None or not self._offers(_EARLY_HINT):
            return None

        async def pass_on(head: Head) -> None:
            if links := hinted(head.headers, self._changes.response, self.upstream, out):
                self.hinted = True
                await send({"type": _EARLY_HINT, "links": links})

        return pass_on
