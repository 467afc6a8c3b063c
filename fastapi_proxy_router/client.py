"""The client's side of an exchange: its body, and whether it is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any

from starlette.requests import ClientDisconnect, HTTPConnection, Request

from .core.guard import announces_body
from .core.headers import tokens
from .exceptions import RequestRefused

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


class ClientStream:
    """What one client sends, read by one task that also notices when the client leaves.

    There is one per request, however many upstreams are tried for it, so that what was read for a
    failed attempt is still there for the next. The task holds at most two chunks, which is the
    back-pressure; once a response is sent that did not want the body, it drops the rest. A client
    that waits for ``100 Continue`` is not read before its body is wanted, because reading is what
    makes the server send it.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        # Set by Starlette once a dependency has read the body with `request.body()` or `.json()`.
        self._cached: bytes | None = getattr(request, "_body", None)
        self._chunks: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(maxsize=1)
        self._first: bytes | Exception | None = None
        self._found: bool | None = None
        self._wanted = False
        self._spent = False
        self._ended = False
        self._dropping = False
        self._gone = False
        self._watching: set[asyncio.Task[Any]] = set()
        self._interrupted: set[asyncio.Task[Any]] = set()
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, request: Request) -> ClientStream:
        """Return the stream of *request*, the same one for every attempt."""
        stream: ClientStream | None = request.scope.get(_SCOPE_KEY)
        if stream is None:
            stream = request.scope[_SCOPE_KEY] = cls(request)
            if (stack := request_exit_stack(request)) is not None:
                stack.push_async_callback(stream.aclose)
        return stream

    async def begin(self, *, wanted: bool, idle: float | None) -> bool:
        """Start reading, and return whether a body is to be sent.

        Args:
            wanted: The upstream is to get the client's body, if there is one.
            idle: Seconds until the first of a body that no header announced has to be here.

        Raises:
            RequestRefused: It was not.
        """
        scope = self._request.scope
        http1 = scope["http_version"].startswith("1")
        announced = announces_body(scope["headers"])
        self._wanted = wanted
        if self._cached is not None or (http1 and not announced):
            self._start(self._wait_for_end())
            return wanted and (announced or bool(self._cached))
        if http1 and b"100-continue" in tokens(scope["headers"], b"expect"):
            return wanted
        self._start(self._read_body())
        if wanted and not announced and self._found is None and not self._spent:
            self._found = await self._look(idle)
        return wanted and (announced or self._found is not False)

    async def _look(self, idle: float | None) -> bool:
        """Wait for the first chunk: HTTP/2 needs no header to announce a body (RFC 9113, 8.1)."""
        try:
            async with asyncio.timeout(idle):
                self._first = await self._chunks.get()
        except TimeoutError:
            raise RequestRefused("The body took too long", status=408) from None
        return self._first is not None

    def _start(self, reading: Coroutine[Any, Any, None]) -> None:
        if self._reader is None:
            self._reader = asyncio.create_task(reading, name="proxy read client")
        else:
            reading.close()

    def drain(self) -> None:
        """Drop a body that the exchange does not want, so that a client that leaves is noticed."""
        if self._wanted and self._reader is not None:
            return
        self._spent = self._dropping = True
        while not self._chunks.empty():
            self._chunks.get_nowait()
        self._start(self._wait_for_end())

    async def _read_body(self) -> None:
        try:
            async for chunk in self._request.stream():
                if chunk:
                    await self._put(chunk)
            await self._put(None)
        except ClientDisconnect:
            self._leave()
            return
        except RuntimeError as error:
            await self._put(_consumed(error))
        except Exception as error:  # noqa: BLE001 - a limit of the router; raised by `body`
            await self._put(error)
        await self._wait_for_end()

    async def _put(self, item: bytes | Exception | None) -> None:
        if not self._dropping:
            await self._chunks.put(item)

    async def _wait_for_end(self) -> None:
        # A server or a limit may end this with an exception of its own; nobody reads on then.
        with suppress(Exception):
            while (await self._request.receive())["type"] != "http.disconnect":
                pass
            self._leave()

    def _leave(self) -> None:
        self._gone = True
        self._wake()
        for task in self._watching:
            self._interrupted.add(task)
            task.cancel()

    def _wake(self) -> None:
        with suppress(asyncio.QueueFull):
            self._chunks.put_nowait(ClientGone())

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            RuntimeError: It was already sent to an upstream, dropped, or consumed by a form parser,
                and nobody kept it. ``await request.body()`` beforehand keeps it.
        """
        if self._cached is not None:
            if self._cached:
                yield self._cached
            return
        if self._spent:
            raise RuntimeError(
                "the request body was already sent; read it with `await request.body()` before "
                "the first attempt to be able to send it again"
            )
        self._start(self._read_body())
        while not self._ended and (chunk := await self._next()) is not None:
            if isinstance(chunk, Exception):
                raise chunk
            self._spent = True
            yield chunk
        # An empty body can be sent again.
        self._ended = True

    async def _next(self) -> bytes | Exception | None:
        if self._first is not None:
            chunk, self._first = self._first, None
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
        self._watching.add(task)
        try:
            yield
        except BaseException as error:
            ours = task in self._interrupted and task.uncancel() <= cancelling
            if ours and isinstance(error, asyncio.CancelledError):
                raise ClientGone from error
            raise
        finally:
            self._watching.discard(task)

    async def aclose(self) -> None:
        """Stop reading, and let go of whoever still waits for the body. Idempotent."""
        if self._reader is not None and not self._reader.done():
            self._reader.cancel()
            await asyncio.wait([self._reader])
        self._wake()


def _consumed(error: RuntimeError) -> RuntimeError:
    explained = RuntimeError(
        "the request body was consumed before it could be forwarded, as a form for instance"
    )
    explained.__cause__ = error
    return explained
