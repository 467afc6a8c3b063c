"""What has to hold after every fault, in one place."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_proxy_router import (
    ConnectionLimits,
    HTTP1Transport,
    ProxyRouter,
    Upstream,
    UpstreamPool,
)
from tests.faults.client import LIMIT, Answer, Asked
from tests.faults.upstreams import PROBE, PROBES, TOGETHER
from tests.servers import RawUpstream, Served, serve

SECRET = "SECRET"
_LINE = re.compile(r"\S+ '[^']*' to \S+ failed at \w+, fault of (client|upstream|us): .+")
_IDEMPOTENT = frozenset(b"GET HEAD OPTIONS PUT DELETE PROPFIND".split())


#: Of uvicorn, of granian, of hypercorn, and ours.
_EXCHANGE = re.compile(r"\.run_asgi|\.future_watcher|\b_handle\b|^proxy ")
_UPSTREAM = re.compile(r"\braw_upstream\.|\bGate\.")


def tasks() -> set[asyncio.Task[Any]]:
    """Return the tasks that are running, without those of anyio's own test runner."""
    return {task for task in asyncio.all_tasks() if "TestRunner" not in repr(task.get_coro())}


def descriptors() -> Counter[str]:
    """Return what the process has open, where the system tells, without pairs of unix sockets.

    Granian's runtime opens such a pair when it comes to it, once in a process.
    """
    pairs = {
        f"socket:[{line.split()[6]}]"
        for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()[1:]
    }
    found: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").glob("*"):
        try:
            if (target := str(entry.readlink())) not in pairs:
                found[target] += 1
        except OSError:  # The descriptor of this very listing.
            continue
    return found


async def until(condition: Callable[[], bool], message: Callable[[], str]) -> None:
    """Wait until *condition* holds; what ends a connection takes a few turns of the loop."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 2
    while not condition():
        assert loop.time() < deadline, message()
        await asyncio.sleep(0.005)


def _exchanges() -> set[asyncio.Task[Any]]:
    """Return the tasks in which a server runs the application, and those that we started."""
    return {task for task in tasks() if _EXCHANGE.search(f"{task.get_name()} {task.get_coro()!r}")}


def _ends() -> set[asyncio.Task[Any]]:
    """Return the tasks in which our upstreams serve a connection."""
    return {task for task in tasks() if _UPSTREAM.search(repr(task.get_coro()))}


async def _ended(left: Callable[[], set[asyncio.Task[Any]]]) -> None:
    await until(lambda: not left(), lambda: f"tasks: {Counter(map(repr, left())).most_common(9)}")


def limited(url: str, **options: Any) -> Upstream:
    """Return an upstream that has just as many connections as there are probes at once.

    One that is lost is missed.
    """
    limits = ConnectionLimits(max_connections=PROBES)
    return Upstream(url, transport=HTTP1Transport(limits=limits, **options))


class Gateway(Asked):
    """A gateway to one upstream, and all that its clients asked and were answered."""

    def __init__(self, served: Served, app: FastAPI, pool: UpstreamPool) -> None:
        super().__init__(served)
        self.app = app
        self.pool = pool
        self.asked: Counter[bytes] = Counter()
        self.answers: list[Answer] = []
        #: The bodies of the upstream's own answers, of which none may seem complete when it is not.
        self.whole = {b"ok"}

    def head(self, method: str = "GET", target: str = "/x", *headers: str) -> bytes:
        """Return the head of a request that has secrets, and count it."""
        line = f"{method} {target}?token={SECRET} HTTP/1.1"
        self.asked[line.encode()] += 1
        secrets = (f"Authorization: Bearer {SECRET}", f"Cookie: session={SECRET}")
        return "\r\n".join([line, "Host: public.test", *secrets, *headers, "", ""]).encode()

    def note(self, answer: Answer) -> Answer:
        """Remember an answer to a client that stayed to the end, for the invariants."""
        self.answers.append(answer)
        return answer


class Settled:
    """The invariants, for whatever a test does.

    Those on tasks, descriptors, the log and stray exceptions are checked when the test is over;
    those that need a gateway when its block ends.
    """

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self._stray: list[dict[str, Any]] = []
        self._loop = asyncio.get_running_loop()
        # What a server opens to listen. Not all of it is closed by granian when it stops.
        self._of_servers: Counter[str] = Counter()

    async def watch(self) -> AsyncIterator[Settled]:
        """Take the baseline, let the test run, and compare."""
        handler = self._loop.get_exception_handler()
        self._loop.set_exception_handler(lambda _loop, context: self._stray.append(context))
        self._caplog.set_level(logging.DEBUG, "fastapi_proxy_router")
        running, opened = tasks(), descriptors()
        # So that a collection looks at what is new and not at all that has been loaded.
        gc.freeze()
        yield self
        await _ended(lambda: tasks() - running)
        gc.collect(1)
        gc.unfreeze()
        opened += self._of_servers
        await until(
            lambda: not descriptors() - opened, lambda: f"descriptors: {descriptors() - opened}"
        )
        self._loop.set_exception_handler(handler)
        assert self._stray == [], f"stray: {self._stray}"
        # Below an error is what hypercorn gets for writing to clients that have left.
        records = [r for when in ("call", "teardown") for r in self._caplog.get_records(when)]
        errors = [r for r in records if r.name == "asyncio" and r.levelno >= logging.ERROR]
        assert [r.getMessage() for r in errors] == []

    @asynccontextmanager
    async def gateway(
        self,
        upstream: RawUpstream,
        server: str = "uvicorn-httptools",
        *,
        to: Upstream | None = None,
        heal: Callable[[], Awaitable[None]] | None = None,
        app: FastAPI | None = None,
        **options: Any,
    ) -> AsyncIterator[Gateway]:
        """Serve a gateway to *upstream*, and check at the end that it is as good as new.

        Args:
            upstream: Where it forwards to.
            server: The ASGI server.
            to: The address, where it is more than the upstream's URL; it should be ``limited``.
            heal: Ends the fault, where the upstream does not by itself.
            app: The application, where it is more than a router.
            options: The pool's.
        """
        pool = UpstreamPool(to or limited(upstream.url), **options)
        app = app or FastAPI()
        app.include_router(ProxyRouter(pool))
        opened, connected_before = descriptors(), _ends()
        async with serve(app, server) as served:
            self._of_servers += descriptors() - opened
            running = _exchanges()
            gateway = Gateway(served, app, pool)
            yield gateway
            await self._idle(gateway)
            self._check_answers(gateway)
            self._check_requests(gateway, upstream)
            self._check_log(gateway)
            if heal is not None:
                await heal()
            await self._probe(gateway)
            self._check_log(gateway)
            await self._idle(gateway)
            # Not only because the server stops.
            await _ended(lambda: _exchanges() - running)
            # What was left without being closed complains now, not in a later test.
            gc.collect()
        # The pool is closed with its application, so no connection is left that idles.
        await _ended(lambda: _ends() - connected_before)

    async def _idle(self, gateway: Gateway) -> None:
        def busy() -> bool:
            return any(upstream.in_flight for upstream in gateway.pool.upstreams)

        await until(lambda: not busy(), lambda: f"in flight: {gateway.pool!r}")

    def _check_answers(self, gateway: Gateway) -> None:
        for answer in gateway.answers:
            assert answer.rest == b"", "more than one answer"
            if answer.complete and not answer.failed and answer.status < 400:
                assert answer.body in gateway.whole, "a truncated answer that seems complete"

    def _check_requests(self, gateway: Gateway, upstream: RawUpstream) -> None:
        seen = Counter(request.line for request in upstream.requests)
        for line, times in seen.items():
            if line.split(b" ")[0] not in _IDEMPOTENT:
                assert times <= gateway.asked[line], f"sent {times} times: {line!r}"

    def _check_log(self, gateway: Gateway) -> None:
        records = [r for r in self._caplog.records if r.name == "fastapi_proxy_router"]
        for record in records:
            assert _LINE.fullmatch(record.getMessage()), record.getMessage()
            assert SECRET not in record.getMessage() + (record.exc_text or "")
        failures = [r.getMessage() for r in records if r.levelno > logging.DEBUG]
        failed = sum(answer.failed for answer in gateway.answers)
        assert len(failures) == failed, f"{failed} failed, in the log are {failures}"

    async def _probe(self, gateway: Gateway) -> None:
        async with asyncio.timeout(LIMIT):
            assert (await _ok(gateway, PROBE)) == 200, "the next request"
            statuses = await asyncio.gather(*(_ok(gateway, TOGETHER) for _ in range(PROBES)))
        assert Counter(statuses) == {200: PROBES}, "the capacity"


async def _ok(gateway: Gateway, target: bytes) -> int:
    async with gateway.client() as client:
        line = b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        await client.send(line)
        await client.end()
        answer = await client.answer()
    assert answer.status != 200 or answer.body == b"ok"
    return answer.status
