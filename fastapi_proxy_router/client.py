"""The client's side of an exchange: its body, and whether it is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any

from starlette.requests import ClientDisconnect, HTTPConnection, Request

from .core.guard import announces_body
from .core.headers import tokens

__all__ = ["ClientGone", "ClientStream", "request_exit_stack"]

_SCOPE_KEY = "fastapi_proxy_router.client"
# FastAPI's own key for the stack it unwinds when a request is over; `forward` provides one where
# FastAPI does not. Without it the stream ends when its response does.
_EXIT_STACK_KEY = "fastapi_inner_astack"


class ClientGone(Exception):
    """The client left before its exchange was over. Not an error, so it stays in this package."""


def request_exit_stack(connection: HTTPConnection) -> AsyncExitStack | None:
    """Return the stack that is unwound when the request is over, if there is one."""
    stack = connection.scope.get(_EXIT_STACK_KEY)
    return stack if isinstance(stack, AsyncExitStack) else None


def _explained(error: Exception) -> Exception:
    """Say what happened to a body that cannot be read; a limit of the router says it itself."""
    if isinstance(error, RuntimeError):
        reason = (
            "the request body was consumed before it could be forwarded, as a form for instance"
        )
        explained = RuntimeError(reason)
        explained.__cause__ = error
        return explained
    return error


class ClientStream:
    """What one client sends, read by one task that also notices when the client leaves.

    There is one per request, however many upstreams are tried for it, so that what was read for a
    failed attempt is still there for the next. The task holds at most two chunks, which is the
    back-pressure, and never reads ahead of the upstream when the client waits for
    ``100 Continue``: reading is what makes the server send it.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        # Set by Starlette once a dependency has read the body with `request.body()` or `.json()`.
        self._cached: bytes | None = getattr(request, "_body", None)
        self._chunks: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(maxsize=1)
        self._peeked: bytes | Exception | None = None
        self._taken = False
        self._gone = False
        self._interrupted = False
        self._watching: asyncio.Task[Any] | None = None
        self._reader: asyncio.Task[None] | None = None
        self.has_body = announces_body(request.scope["headers"])

    @classmethod
    async def of(cls, request: Request) -> ClientStream:
        """Return the stream of *request*, the same one for every attempt."""
        stream: ClientStream | None = request.scope.get(_SCOPE_KEY)
        if stream is None:
            stream = request.scope[_SCOPE_KEY] = cls(request)
            if (stack := request_exit_stack(request)) is not None:
                stack.push_async_callback(stream.aclose)
            await stream._begin()
        return stream

    async def _begin(self) -> None:
        headers = self._request.scope["headers"]
        http1 = self._request.scope["http_version"].startswith("1")
        if not http1 and not self.has_body:
            # HTTP/2 needs no header to announce a body (RFC 9113, 8.1): look.
            self.has_body = True
            self._start()
            self._peeked = await self._chunks.get()
            self.has_body = self._peeked is not None
        elif b"100-continue" not in tokens(headers, b"expect"):
            self._start()

    def _start(self) -> None:
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(), name="proxy read client")

    async def _read(self) -> None:
        try:
            if self.has_body and self._cached is None:
                async for chunk in self._request.stream():
                    if chunk:
                        await self._chunks.put(chunk)
                await self._chunks.put(None)
            while (await self._request.receive())["type"] != "http.disconnect":
                pass
        except ClientDisconnect:
            with suppress(asyncio.QueueFull):
                self._chunks.put_nowait(ClientGone())
        except Exception as error:  # noqa: BLE001 - raised where the body is read
            await self._chunks.put(_explained(error))
            return
        self._gone = True
        if self._watching is not None:
            self._interrupted = True
            self._watching.cancel()

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            RuntimeError: It was already sent to an upstream, or consumed by a form parser, and
                nobody kept it. ``await request.body()`` beforehand keeps it.
        """
        if self._cached is not None:
            yield self._cached
            return
        if self._taken:
            raise RuntimeError(
                "the request body was already sent; read it with `await request.body()` before "
                "the first attempt to be able to send it again"
            )
        self._start()
        while (chunk := await self._next()) is not None:
            if isinstance(chunk, Exception):
                raise chunk
            self._taken = True
            yield chunk

    async def _next(self) -> bytes | Exception | None:
        if self._peeked is not None:
            chunk, self._peeked = self._peeked, None
            return chunk
        return await self._chunks.get()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """End the block with ``ClientGone`` as soon as the client leaves.

        The task is cancelled as ``asyncio.timeout`` does it: a cancellation by somebody else, also
        one that comes meanwhile, stays one.
        """
        if self._gone:
            raise ClientGone
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._watching = task
        try:
            yield
        except BaseException as error:
            ours = self._interrupted and task.uncancel() <= cancelling
            if ours and isinstance(error, asyncio.CancelledError):
                raise ClientGone from error
            raise
        finally:
            self._watching = None

    async def aclose(self) -> None:
        """Stop reading. Idempotent."""
        if self._reader is not None and not self._reader.done():
            self._reader.cancel()
            await asyncio.wait([self._reader])
