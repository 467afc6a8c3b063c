"""The two upstreams of the browser: one serves its page and takes its report, one its sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as Handshake
from websockets.http11 import Response as Answer

from tests.servers import Served, listening_socket

HERE = Path(__file__).parent
#: The upstream prefers this one to the others it is offered.
SUBPROTOCOL = "chat"
#: What the handshake of the page's socket sets.
COOKIES = ("seen=1; Path=/; HttpOnly", "theme=dark; Path=/; SameSite=Lax")


@dataclass
class Seen:
    """One connection as the upstream of the sockets saw it."""

    target: str
    headers: Headers
    messages: list[str | bytes] = field(default_factory=list)
    #: How it ended, as far as it has.
    end: tuple[int | None, str | None] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def cookies(self) -> set[str]:
        lines = self.headers.get_all("Cookie")
        return {cookie for line in lines for cookie in line.split("; ")}


class Sockets:
    """What the sockets' upstream does is in a path: ``/behaviour/scenario?arguments``."""

    def __init__(self) -> None:
        self.seen: defaultdict[str, list[Seen]] = defaultdict(list)
        self._records: dict[ServerConnection, Seen] = {}

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Served]:
        listener = listening_socket()
        async with serve_websockets(
            self._run,
            sock=listener,
            process_request=self._process_request,
            process_response=_process_response,
            select_subprotocol=_select_subprotocol,
            compression=None,
            max_size=None,
        ):
            yield Served(listener.getsockname()[1])

    async def settled(self) -> None:
        """Wait until every connection has ended; one that does not has no end to show."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                for seen in self._records.values():
                    await seen.ended.wait()

    def _process_request(self, connection: ServerConnection, request: Handshake) -> Answer | None:
        seen = Seen(request.path, request.headers)
        self.seen[_words(request)[1]].append(seen)
        if _words(request)[0] != "refuse":
            self._records[connection] = seen
            return None
        answer = connection.respond(int(_arguments(request)["status"]), "not you\n")
        answer.headers["Location"] = "/ws/echo/redirected"
        answer.headers["WWW-Authenticate"] = 'Basic realm="tests"'
        return answer

    async def _run(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        seen = self._records[connection]
        behave = getattr(self, f"_{_words(connection.request)[0]}", self._echo)
        with contextlib.suppress(ConnectionClosed):
            await behave(connection, seen)
        await connection.wait_closed()
        seen.end = connection.close_code, connection.close_reason
        seen.ended.set()

    async def _echo(self, connection: ServerConnection, _seen: Seen) -> None:
        async for message in connection:
            await connection.send(message)

    async def _sink(self, connection: ServerConnection, seen: Seen) -> None:
        async for message in connection:
            seen.messages.append(message)

    async def _push(self, connection: ServerConnection, _seen: Seen) -> None:
        for number in range(1000):
            await connection.send(str(number))
        await connection.close(4000)

    async def _close(self, connection: ServerConnection, _seen: Seen) -> None:
        assert connection.request is not None
        if arguments := _arguments(connection.request):
            await connection.close(int(arguments["code"]), arguments.get("reason", ""))
            return
        connection.protocol.send_close()
        connection.transport.writelines(connection.protocol.data_to_send())

    async def _fragments(self, connection: ServerConnection, _seen: Seen) -> None:
        await connection.send(["a", "", "ü", "c"])
        await connection.send([b"\x01", b"\x02", b"\x03"])
        await connection.wait_closed()

    async def _stream(self, connection: ServerConnection, _seen: Seen) -> None:
        while True:
            await connection.send("more " * 200)
            await asyncio.sleep(0)

    async def _vanish(self, connection: ServerConnection, _seen: Seen) -> None:
        await connection.recv()
        connection.transport.abort()


def _words(request: Handshake) -> list[str]:
    return urlsplit(request.path).path.split("/")[1:]


def _arguments(request: Handshake) -> dict[str, str]:
    query = parse_qs(urlsplit(request.path).query)
    return {name: values[0] for name, values in query.items()}


def _select_subprotocol(connection: ServerConnection, offers: Any) -> Any:
    assert connection.request is not None
    chooses = _words(connection.request)[0] == "chooses"
    return SUBPROTOCOL if chooses and SUBPROTOCOL in offers else None


def _process_response(_connection: ServerConnection, request: Handshake, answer: Answer) -> None:
    if _words(request)[0] == "cookies":
        for cookie in COOKIES:
            answer.headers["Set-Cookie"] = cookie


class Pages:
    """Serve the page and its events; take its report."""

    def __init__(self) -> None:
        self.report: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        #: The Last-Event-ID of each request for events, and how many events are known to be seen.
        self.resumed: list[str | None] = []
        self._acknowledged: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        routes = [
            Route("/", _file("page.html", **{"Set-Cookie": "session=s3cret; Path=/; HttpOnly"})),
            Route("/page.js", _file("page.js")),
            Route("/events", self._events),
            Route("/seen/{number:int}", self._seen, methods=["POST"]),
            Route("/report", self._report, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)

    async def _report(self, request: Request) -> Response:
        report = json.loads(await request.body())
        if not self.report.done():
            self.report.set_result(report)
        return Response(status_code=204)

    async def _seen(self, request: Request) -> Response:
        self._acknowledged[request.path_params["number"]].set()
        return Response(status_code=204)

    async def _events(self, request: Request) -> Response:
        last = request.headers.get("last-event-id")
        self.resumed.append(last)
        first = int(last or 0) + 1

        async def two() -> AsyncIterator[str]:
            yield "retry: 1\n\n"
            for number in (first, first + 1):
                yield f"id: {number}\ndata: event {number}\n\n"
                await self._acknowledged[number].wait()

        return StreamingResponse(two(), media_type="text/event-stream")


def _file(name: str, **headers: str) -> Any:
    async def endpoint(_request: Request) -> FileResponse:
        return FileResponse(HERE / name, headers=headers)

    return endpoint
