"""Requests within one process, so that another program can count what they take.

    python -m benchmarks.counted apps:router:get override_apps:read_body:post

For each app two processes are forked, of which one handles more requests than the other, and their
ids are printed. What differs between them is what so many requests take: no start, no import. A
request begins and ends as ASGI messages; the upstream is a few lines on the same event loop, so
that all is done in the same order every time, and what they take is part of the count.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any

import uvloop
from starlette.types import ASGIApp, Message, Scope

from .nginx import FILE, ITEM, ITEMS

#: Requests that are counted, and those that come before them in either process.
COUNTED = 400
WARM = 100

_JSON = b"content-type: application/json\r\n"
_ANSWER = b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (_JSON, len(ITEM), ITEM)
_HEADERS = [(b"host", b"127.0.0.1:8000")]
#: The method, path, query and body of each kind of request.
REQUESTS = {
    "get": ("GET", f"{ITEMS}/7", b"version=2", b""),
    "post": ("POST", ITEMS, b"", ITEM),
    "file": ("GET", FILE, b"", b""),
}


class _Upstream(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        if b"\r\n\r\n" not in self._received:
            return
        if b"\r\ncontent-length:" in head.lower():
            is_whole = body.endswith(b"}")
        else:
            is_whole = b"\r\ntransfer-encoding:" not in head.lower() or body.endswith(b"0\r\n\r\n")
        if is_whole:
            self._received = b""
            self._transport.write(_ANSWER)


def _scope(kind: str) -> Scope:
    method, path, query, body = REQUESTS[kind]
    posted = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "root_path": "",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [*_HEADERS, *(posted if body else ())],
        "state": {},
    }


async def _request(app: ASGIApp, kind: str) -> None:
    """Make one request.

    Raises:
        RuntimeError: It is not answered with 200, and whole.
    """
    sent: list[Message] = []
    complete = asyncio.Event()
    messages = iter([{"type": "http.request", "body": REQUESTS[kind][3], "more_body": False}])

    async def receive() -> Message:
        for message in messages:
            return message
        await complete.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            complete.set()

    await app(_scope(kind), receive, send)
    if sent[0]["status"] != 200 or not complete.is_set():
        raise RuntimeError(f"a request was answered {sent}")


async def _handle(build: Callable[[str], Any], kind: str, requests: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Upstream, "127.0.0.1", 0)
    app = build(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with app.router.lifespan_context(app):
        for _ in range(requests):
            await _request(app, kind)
        # Nothing is cleaned up: that is not part of a request.
        os._exit(0)


def _forked(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Return the id of a process that has done *work*.

    Raises:
        SystemExit: It could not.
    """
    process = os.fork()
    if not process:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(work())
        finally:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(process, 0)
    if status:
        raise SystemExit(f"a process ended with {os.waitstatus_to_exitcode(status)}")
    return process


def main() -> None:
    apps = [one.split(":") for one in sys.argv[1:]]
    builders = {
        (module, app): import_module(f".{module}", __package__).APPS[app] for module, app, _ in apps
    }
    # What an app imports only when it is built is imported here.
    for build in builders.values():
        build("http://127.0.0.1:1")
    for module, app, kind in apps:
        for requests in (WARM, WARM + COUNTED):
            build = builders[module, app]
            print(_forked(lambda: _handle(build, kind, requests)), flush=True)  # noqa: B023


if __name__ == "__main__":
    main()
