"""The second half of an exchange: the response, once its head is here, on its way to the client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from functools import partial

from starlette.types import Message, Send

from .client import ClientStream
from .content import Content
from .core.bodies import DIGESTS
from .core.changes import Transform
from .core.guard import BODYLESS, is_bodyless
from .core.headers import Edits, edit, end_to_end, tokens
from .core.lease import Lease
from .core.names import Header
from .core.upstream import Upstream
from .exceptions import GatewayError, ProxyError, StreamAborted
from .log import log_failure, reported
from .timing import PATIENCE, Timing
from .transforming import Transformed, unwrapped
from .transport import UpstreamResponse, crossing
from .watch import ClientGone

__all__ = ["Reply"]

#: A message that no server knows. Starlette's BaseHTTPMiddleware ends a body cleanly when the
#: application behind it raises, and only then raises itself; on this message it fails at once.
_ABORT: Message = {"type": "http.response.abort"}
_TRAILERS = "http.response.trailers"
_CLOSE = (b"connection", b"close")


class Reply:
    """A response: ``relay`` it, perhaps after it was read, and ``aclose`` it whatever happens.

    Args:
        client: The client's side.
        upstream: Who answers.
        timing: The clocks of the exchange.

    Attributes:
        client: The client's side.
        upstream: Who answers.
        status: The response's status, once it is here.
        headers: The response's headers as they may cross to the client.
    """

    status: int
    headers: list[Header]
    _asked: str
    _lease: Lease | None = None
    _response: UpstreamResponse | None = None
    _content: Content | None = None
    _failure: Exception | None = None
    #: What the client's body passes through.
    _upload: Transformed | None = None
    _uploads = _relays = _has_length = _is_held_up = False

    def __init__(self, client: ClientStream, upstream: Upstream, timing: Timing) -> None:
        self.client = client
        self.upstream = upstream
        self._timing = timing
        self._method: str = client.scope["method"]

    @property
    def content(self) -> Content:
        """The body, for those who read or change it.

        Raises:
            RuntimeError: The response is closed.
            Exception: What has failed before.
        """
        if self._content is None:
            response = self._response
            if response is None:
                raise self._failure or RuntimeError("the response is closed and cannot be sent")
            is_empty = is_bodyless(self._asked, response.status)
            self._content = Content(self.upstream, None if is_empty else response, response.headers)
        return self._content

    @property
    def is_open(self) -> bool:
        """Whether the upstream still sends, or might."""
        return self._response is not None

    def replace(self, body: bytes) -> None:
        """Send *body* instead of what the upstream sends, which is not needed any more."""
        self._content = Content(self.upstream, None, (), body)

    def check_decodable(self) -> None:
        """Check that the coding of the body can be undone.

        Raises:
            BadGateway: It cannot.
        """
        with reported(self.client.scope):
            self.content.check()

    async def read(self, limit: int, transforms: Sequence[Transform] = ()) -> bytes:
        """Return the body, its coding undone, and keep it. The upstream is let go of.

        Args:
            limit: The most bytes it may have, before and after that.
            transforms: What it passes through. What they make of it takes its place.

        Raises:
            GatewayError: It has more, or breaks off, or its coding cannot be undone.
            ClientGone: The client left meanwhile.
            Exception: What a transform raises.
        """
        content, failure = self.content, None
        try:
            with reported(self.client.scope):
                await self._timing.of_body(self._read(content, limit, transforms))
        except Exception as error:  # noqa: BLE001 - it is raised below, without what wraps it
            failure = self._failure = unwrapped(self._judged(error))
        finally:
            await self.aclose()
        if failure is not None:
            raise failure
        return await content.read(limit)

    async def _read(self, content: Content, limit: int, transforms: Sequence[Transform]) -> None:
        try:
            with self.client.watch():
                if transforms:
                    await content.pass_through(transforms, limit)
                else:
                    await content.read(limit)
        finally:
            if content.raw is None:
                # Some of it is gone, so it can be neither read again nor sent.
                self._content = None
        if self._lease is not None and content.has_ended:
            self._lease.succeeded()

    async def relay(
        self,
        send: Send,
        status: int,
        headers: list[Header],
        transforms: Sequence[Transform] = (),
    ) -> None:
        """Send the response to the client; a client that leaves ends it quietly.

        Args:
            send: The server's.
            status: The status to send.
            headers: The headers to send; see ``rewritten`` for those of a body that is transformed.
            transforms: What the body passes through, its coding undone. Seconds that they take are
                not limited, but by the deadline of the whole exchange.

        Raises:
            BadGateway: That cannot be undone, and nothing was sent.
            StreamAborted: The upstream failed, and the client's connection has to be dropped.
            Exception: What a transform raises; the client's connection has to be dropped, too.
        """
        self.client.forget()
        if transforms or self._response is None or self._content is not None:
            await self._prepare(transforms)
        failure: Exception | None = None
        try:
            await self._timing.of_body(self._relay(send, status, headers, transforms))
        except (ClientGone, OSError):
            # OSError is how a server of ASGI 2.4 says in `send` that the client has left.
            pass
        except Exception as error:  # noqa: BLE001 - it is raised below, without what wraps it
            failure = await self._aborted(send, error)
        finally:
            await self.aclose()
        if failure is not None:
            raise failure

    async def _prepare(self, transforms: Sequence[Transform]) -> None:
        """Find what is to be sent, where that is not simply what comes."""
        try:
            if transforms:
                self.check_decodable()
            elif self.content.raw is None:
                # Nobody has read of it.
                self._content = None
        except BaseException:
            await self.aclose()
            raise

    async def _aborted(self, send: Send, error: Exception) -> Exception:
        """Drop the client's connection because of *error*, and return what is to be raised."""
        error = self._judged(error)
        with suppress(Exception):
            async with asyncio.timeout(PATIENCE):
                await send(_ABORT)
        if not isinstance(error, ProxyError):
            return unwrapped(error)
        log_failure(self.client.scope, error)
        aborted = StreamAborted(error.reason, upstream=self.upstream, fault=error.fault)
        aborted.__cause__ = error
        return aborted

    def _cause(self, error: Exception) -> Exception:
        """Return what broke the client's body off, if that is what *error* comes of."""
        # A transport may have made something else of it.
        return (self._upload and self._upload.failure) or error

    def _judged(self, error: Exception) -> Exception:
        """Return what has failed in truth, once the upstream's health has heard of it."""
        error = self._cause(error)
        is_held_up = self._is_held_up or (self._content is not None and self._content.was_held_up)
        if self._lease is not None and not is_held_up:
            self._lease.judge(error)
        return error

    async def _relay(
        self, send: Send, status: int, headers: list[Header], transforms: Sequence[Transform]
    ) -> None:
        client, content, response = self.client, self._content, self._response
        start = self._start(status, headers)
        body, trailers = b"", None
        if is_bodyless(self._method, status):
            await send(start)
        elif content is not None:
            body, trailers = await self._relay_content(send, start, content, transforms)
        else:
            assert response is not None
            if response.complete and not client.uploads and self._has_length:
                body = await response.next_chunk()
                await send(start)
            else:
                await self._relay_body(send, start, self._next_chunk)
            if start.get("trailers"):
                trailers = end_to_end(response.trailers)
        if self._lease is not None and (content is None or content.has_ended):
            self._lease.succeeded()
        # Before the client can see the end, so that its next request finds the connection free.
        await self.aclose()
        if client.uploads:
            await client.linger()
        await send({"type": "http.response.body", "body": body, "more_body": False})
        if trailers is not None:
            await send({"type": _TRAILERS, "headers": trailers, "more_trailers": False})

    def _start(self, status: int, headers: list[Header]) -> Message:
        if status in BODYLESS:
            # It may have been another status that had a length.
            headers = [pair for pair in headers if pair[0] != b"content-length"]
        if self.client.uploads and self.client.scope["http_version"].startswith("1"):
            # The answer came before the end of the upload, of which some may be on its way.
            headers = [*headers, _CLOSE]
        return {"type": "http.response.start", "status": status, "headers": headers}

    async def _relay_content(
        self, send: Send, start: Message, content: Content, transforms: Sequence[Transform]
    ) -> tuple[bytes, list[Header] | None]:
        """Send a body that was read, or is changed on its way.

        Returns:
            What is left of it to be sent, and the trailers if they are to be sent too.
        """
        body = b""
        if content.raw is not None and not transforms:
            body = content.raw
            self._offer_trailers(start)
            await send(start)
        else:
            self._has_length = False
            async with aclosing(content.through(transforms)) as chunks:
                await self._relay_body(send, start, partial(anext, chunks, b""))
        gone = DIGESTS if transforms else frozenset()
        trailers = edit(content.trailers, Edits(remove=gone)) if start.get("trailers") else None
        return body, trailers

    async def _relay_body(
        self, send: Send, start: Message, next_chunk: Callable[[], Awaitable[bytes]]
    ) -> None:
        client = self.client
        self._offer_trailers(start)
        await send(start)
        self._relays = True
        if not self._uploads:
            client.drop()
        with client.watch():
            if not self._has_length:
                # Some servers hold the head back until they see a body; an event stream may be
                # silent for long.
                await send({"type": "http.response.body", "body": b"", "more_body": True})
            clock = asyncio.get_running_loop().time
            while chunk := await next_chunk():
                began = clock()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                # An upstream may give up a client that does not read, which is no failure.
                self._is_held_up |= clock() - began > PATIENCE

    async def _next_chunk(self) -> bytes:
        assert self._response is not None
        with crossing(self.upstream, "body"):
            return await self._response.next_chunk()

    def _offer_trailers(self, start: Message) -> None:
        if self._offers(_TRAILERS) and b"trailers" in tokens(self.client.scope["headers"], b"te"):
            start["trailers"] = True

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
        if self._upload is not None:
            # A transport may have left it.
            await self._upload.aclose()
