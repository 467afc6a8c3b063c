"""A request whose body may be read by anybody and is still there to be forwarded."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from .client import ClientStream
from .core.guard import announces_body
from .core.headers import content_length
from .log import reported
from .measure import too_large

__all__ = ["LimitedRequest"]


class LimitedRequest(Request):
    """A request that keeps what is read of its body, up to a limit.

    ``stream()``, and so ``body()``, ``json()`` and ``form()``, leave the bytes behind for whoever
    asks for them next. A body that nobody reads is not touched, however large it is.

    Args:
        scope: The request's scope.
        receive: The server's.
        send: The server's.
        limit: The most bytes that are read, and kept, of its body.

    Attributes:
        is_part_read: Some of the body was read, but not all of it, so it cannot be forwarded.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, limit: int) -> None:
        super().__init__(scope, self._noted, send)
        self.limit = limit
        self.is_part_read = False
        self._source = receive

    async def is_disconnected(self) -> bool:
        """Tell whether the client is known to have left.

        As long as a body is to come nobody looks: Starlette's would take a part of it and drop it.
        """
        if (client := ClientStream.begun(self)) is not None:
            return client.has_left
        is_http1 = self.scope["http_version"].startswith("1")
        may_come = announces_body(self.scope["headers"]) or not is_http1
        if may_come and not hasattr(self, "_body"):
            return False
        return await super().is_disconnected()

    async def _noted(self) -> Message:
        """Receive, and take note of what is read past ``stream``, as by a request of somebody's."""
        message = await self._source()
        if message["type"] == "http.request" and ClientStream.begun(self) is None:
            if message.get("body"):
                self.is_part_read = True
            elif not (self.is_part_read or message.get("more_body")):
                self._keep(bytearray())
        return message

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body, and keep it.

        Raises:
            RequestRefused: It has more bytes than the limit (413).
            RuntimeError: Only a part of it is left, or it was forwarded already.
            starlette.requests.ClientDisconnect: The client left.
        """
        if not hasattr(self, "_body"):
            if self.is_part_read:
                raise RuntimeError("the request body was already read in part, and not kept")
            self._check(content_length(self.scope["headers"]) or 0)
            async with aclosing(self._arriving()) as chunks:
                async for chunk in chunks:
                    yield chunk
        else:
            yield self._body
        yield b""

    async def _arriving(self) -> AsyncGenerator[bytes, None]:
        kept = bytearray()
        client = ClientStream.begun(self)
        if client is not None and client.is_gone:
            raise RuntimeError("the request body was already sent, and cannot be read any more")
        source = super().stream()
        self.is_part_read = True
        async with aclosing(source):
            async for chunk in source:
                kept += chunk
                self._check(len(kept))
                if self._stream_consumed:
                    self._keep(kept)
                if chunk:
                    yield chunk
        self._keep(kept)

    def _keep(self, body: bytearray) -> None:
        self._body = bytes(body)
        self.is_part_read = False

    def _check(self, size: int) -> None:
        if size > self.limit:
            with reported(self.scope):
                raise too_large(self.limit)
