"""Hooks that raise, hang, or are left alone: what the client gets, and what is let go."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio
import contextlib
import logging
import threading
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from fastapi_proxy_router import (
    BadGateway,
    Ejection,
    ForwardedResponse,
    GatewayError,
    ProxyRouter,
    RequestOverride,
    RequestRefused,
    Retry,
    UpstreamPool,
)
from tests.hooks.helping import answering, app_of, json_answer, lines, proxied, text, until
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

PHASES = ["override", "override_response", "on_request", "on_send", "on_response"]
WAYS = ["straight", "through FastAPI"]


def declare(router: ProxyRouter, phase: str, hook: Any) -> None:
    """Declare *hook* for everything, or for ``/x``."""
    decorate = getattr(router, phase)
    (decorate("/x") if phase.startswith("over") else decorate)(hook)


@asynccontextmanager
async def judged(
    answer: Any = None,
    server: str = "uvicorn-httptools",
    *,
    way: str = "straight",
    **options: Any,
):
    """Give a router whose upstream is put aside for any failure, and must not have any."""
    depends = [] if way == "straight" else [Depends(lambda: None)]
    async with proxied(answer, server) as one:
        one.pool = UpstreamPool(
            one.upstream.url,
            retry=Retry(attempts=3),
            ejection=Ejection(consecutive=1, max_share=1),
        )
        one.router = ProxyRouter(one.pool, dependencies=depends, **options)
        yield one
        (upstream,) = one.pool.upstreams
        await until(lambda: upstream.in_flight == 0)
        assert upstream.health.is_usable
        assert upstream.failures == 0


class Mistake(Exception):
    """A mistake of a user's."""


RAISED = {
    "a refusal": (lambda: HTTPException(418, "short and stout", {"x-a": "b"}), 418),
    "a mistake": (lambda: Mistake("secret"), 500),
    "a key error": (lambda: KeyError("secret"), 500),
    "a timeout": (lambda: TimeoutError("secret"), 500),
    "the end of an iteration": (lambda: StopIteration("secret"), 500),
}


@pytest.mark.parametrize("case", RAISED)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_hook_that_raises_is_a_500_or_what_it_says(case, phase, kind, way):
    """The upstream hears nothing or is let go, and nothing is tried again."""
    make, code = RAISED[case]
    calls: list[str] = []

    async def async_hook() -> None:
        calls.append(phase)
        raise make()

    def sync_hook() -> None:
        calls.append(phase)
        raise make()

    async with judged(answering(b"x" * 300_000), way=way) as one:
        declare(one.router, phase, async_hook if kind == "async" else sync_hook)
        async with one.serve() as gw:
            answer = await get_raw(gw, "/x")
        assert status(answer) == code
        assert b"secret" not in answer
        assert calls == [phase]
        assert len(one.upstream.requests) == phase.endswith("response")
        if phase.endswith("response"):
            async with asyncio.timeout(3):
                await one.upstream.closed.wait()


@pytest.mark.parametrize("phase", PHASES)
async def test_the_handlers_of_the_application_see_what_a_hook_raises(phase):
    """As they see what a path operation raises."""

    async def handle(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"handled": type(error).__name__}, 409)

    def hook() -> None:
        raise Mistake

    async with judged() as one:
        declare(one.router, phase, hook)
        app = app_of(one.router)
        app.add_exception_handler(Mistake, handle)
        async with one.serve(app) as gw:
            answer = await get_raw(gw, "/x")
        assert (status(answer), text(answer)) == (409, b'{"handled":"Mistake"}')


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_hook_that_hangs_is_a_500_when_its_time_is_up(phase, kind, way, caplog):
    """Whether it awaits or blocks; the server's log says which it was."""
    release = threading.Event()

    async def hanging() -> None:
        await asyncio.Event().wait()

    def blocking() -> None:
        release.wait(10)

    async with judged(answering(b"x" * 300_000), way=way, hook_timeout=0.1) as one:
        declare(one.router, phase, hanging if kind == "async" else blocking)
        app, raised = watched(app_of(one.router))
        async with one.serve(app) as gw:
            assert status(await get_raw(gw, "/x")) == 500
        release.set()
        assert len(one.upstream.requests) == phase.endswith("response")
    name = "hanging" if kind == "async" else "blocking"
    assert [type(error) for error in raised] == [RuntimeError]
    assert f"{name} took longer than 0.1 s" in str(raised[0])


def watched(app: FastAPI) -> tuple[Any, list[Exception]]:
    """Return *app* and what the server logs of it: what it raises."""
    raised: list[Exception] = []

    async def call(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:
            raised.append(error)
            raise

    return call, raised


@pytest.mark.parametrize("phase", ["override_response", "on_response"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_leaves_while_a_response_hook_runs_is_noticed(phase, way, server):
    """Within a second the hook is cancelled, and the upstream let go."""
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def hook(response: ForwardedResponse) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with judged(answering(b"x" * 300_000), server, way=way) as one:
        declare(one.router, phase, hook)
        async with one.serve() as gw:
            _, writer = await asyncio.open_connection(gw.host, gw.port)
            writer.write(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(3):
                await entered.wait()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            async with asyncio.timeout(1):
                await cancelled.wait()
            async with asyncio.timeout(1):
                await one.upstream.closed.wait()


async def test_a_client_that_leaves_while_on_send_runs_is_noticed():
    """The upstream hears nothing then."""
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def hook() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with judged() as one:
        one.router.on_send(hook)
        async with one.serve() as gw:
            _, writer = await asyncio.open_connection(gw.host, gw.port)
            writer.write(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(3):
                await entered.wait()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            async with asyncio.timeout(1):
                await cancelled.wait()
        assert one.upstream.connections == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_hook_may_raise_after_the_error_that_it_was_given(way):
    """What it raises is what the client gets."""

    async def hang_up(_reader, writer):
        writer.close()

    async with proxied(
        hang_up, dependencies=[] if way == "straight" else [Depends(lambda: None)]
    ) as one:

        @one.router.on_response
        def seen(error: GatewayError) -> None:
            raise HTTPException(404, "not here")

        @one.router.override("/x")
        def hook() -> None:
            """Have a route with FastAPI's part in it."""

        async with one.serve() as gw:
            for path in ("/x", "/y"):
                assert status(await get_raw(gw, path)) == 404


async def test_a_gateway_error_of_a_hooks_own_is_shown_to_those_after_it():
    """It is an error like any other."""
    seen: list[str] = []
    async with judged(json_answer("{}")) as one:

        @one.router.on_response
        def first(response: ForwardedResponse) -> None:
            raise BadGateway("it says nonsense", upstream=response.upstream, stage="body")

        @one.router.on_response
        def second(error: GatewayError | None) -> None:
            seen.append(error.reason if error is not None else "none")

        async with one.serve() as gw:
            assert status(await get_raw(gw, "/x")) == 502
        assert seen == ["it says nonsense"]


async def test_a_hook_that_hangs_holds_nobody_else_up():
    """Each request has its own time, and so has each hook."""
    async with judged(hook_timeout=0.5) as one:
        entered = asyncio.Event()

        @one.router.on_request
        async def hook(request: Request) -> None:
            if request.url.path == "/slow":
                entered.set()
                await asyncio.Event().wait()

        async with one.serve() as gw:
            slow = asyncio.create_task(get_raw(gw, "/slow"))
            await entered.wait()
            assert status(await get_raw(gw, "/fast")) == 200
            assert not slow.done()
            assert status(await slow) == 500


async def test_hooks_may_have_no_limit_of_time():
    """With None."""
    async with judged(hook_timeout=None) as one:

        @one.router.on_request
        async def hook() -> None:
            """Change nothing."""

        async with one.serve() as gw:
            assert status(await get_raw(gw, "/x")) == 200


@pytest.mark.parametrize("phase", PHASES)
async def test_what_a_hook_has_set_is_seen_by_code_below_it(phase):
    """A plain function runs in a thread, with the context variables of the request."""
    from contextvars import ContextVar

    who: ContextVar[str] = ContextVar("who", default="nobody")
    found: list[str] = []

    async def enter() -> None:
        who.set("somebody")

    def hook() -> None:
        found.append(who.get())

    async with raw_upstream() as upstream:
        router = ProxyRouter(upstream.url, dependencies=[Depends(enter)])
        declare(router, phase, hook)
        async with serve(app_of(router)) as gw:
            assert status(await get_raw(gw, "/x")) == 200
    assert found == ["somebody"]


async def test_a_failure_of_a_hook_is_no_line_of_ours(caplog):
    """The log of the gateway is about upstreams and clients; the server logs the exception."""
    caplog.set_level(logging.DEBUG, "fastapi_proxy_router")
    async with judged() as one:

        @one.router.on_response
        def hook(response: ForwardedResponse) -> None:
            raise Mistake

        async with one.serve() as gw:
            assert status(await get_raw(gw, "/x")) == 500
    assert [one for one in caplog.records if one.name == "fastapi_proxy_router"] == []


async def test_what_is_said_of_one_error_stays_out_of_the_next():
    """A hook may return the same page for all of them."""
    page = JSONResponse({"sorry": True}, 400)

    async with proxied() as one:

        @one.router.on_request
        def limit() -> RequestOverride:
            return RequestOverride(body_limit=1)

        @one.router.on_response
        def instead(error: RequestRefused) -> JSONResponse:
            return page

        async with one.serve() as gw:
            answer = await get_raw(gw, "/x", method="POST", body=b"body")
        assert (status(answer), lines(answer, "connection")) == (400, ["close"])
        assert "connection" not in page.headers
