"""Router-wide hooks: their order, the object they share, and what they may do."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, HTTPException, Request, Response, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router import (
    ForwardedResponse,
    GatewayError,
    HeaderEdits,
    OutboundRequest,
    ProxyRouter,
    RequestOverride,
    ResponseOverride,
)
from tests.hooks.helping import app_of, json_answer, proxied, tell, text
from tests.servers import get_raw, raw_upstream, serve, status
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


@dataclass
class Trace:
    """What the hooks of one request share."""

    steps: list[str] = field(default_factory=list)


class Body(BaseModel):
    """What the upstream says."""

    number: int


def traced(router: ProxyRouter, traces: list[Trace]) -> None:
    """Declare every kind of hook; each leaves its name."""

    @router.on_request
    async def first(trace: Trace) -> None:
        traces.append(trace)
        trace.steps.append("request 1")

    @router.on_request
    def second(trace: Trace, request: Request) -> RequestOverride:
        trace.steps.append("request 2")
        return tell(wide="2", both="wide")

    @router.on_send
    def send(trace: Trace, outbound: OutboundRequest) -> None:
        trace.steps.append(f"send {outbound.headers.get('x-both')}")

    @router.on_response
    async def seen(trace: Trace, response: ForwardedResponse) -> ResponseOverride:
        trace.steps.append("response 1")
        return ResponseOverride(headers=HeaderEdits(set={"x-steps": "wide"}))

    @router.on_response
    def last(response: ForwardedResponse, trace: Trace) -> None:
        trace.steps.append(f"response 2 {response.headers.get('x-steps')}")

    @router.override("/hooked")
    async def hook(trace: Trace, number: int) -> RequestOverride:
        trace.steps.append(f"hook {number}")
        return tell(both="hook")

    @router.override_response("/hooked")
    async def hooked(body: Body, trace: Trace) -> Body:
        trace.steps.append(f"hooked {body.number}")
        return body


async def test_all_hooks_of_a_request_run_in_order_and_share_one_object(server):
    """Those of the router before those of the route on the way out, and after them back."""
    traces: list[Trace] = []
    async with proxied(json_answer('{"number": 2}'), server, context=Trace) as one:
        traced(one.router, traces)
        async with one.serve() as gw:
            assert status(await get_raw(gw, "/hooked?number=1")) == 200
            assert status(await get_raw(gw, "/other")) == 200
        hooked, other = (trace.steps for trace in traces)
        assert hooked == [
            "request 1",
            "request 2",
            "hook 1",
            "send hook",
            "hooked 2",
            "response 1",
            "response 2 wide",
        ]
        before, after = ["request 1", "request 2", "send wide"], ["response 1", "response 2 wide"]
        assert other == before + after


async def test_requests_at_the_same_time_have_objects_of_their_own():
    """However they take turns."""
    traces: list[Trace] = []
    together = asyncio.Barrier(10)

    async def answer(_reader, writer):
        writer.write(json_answer('{"number": 2}', "Connection: close"))

    async with proxied(answer, context=Trace) as one:
        traced(one.router, traces)

        @one.router.on_request
        async def wait(trace: Trace, request: Request) -> None:
            await together.wait()
            trace.steps.append(request.url.path)

        async with one.serve() as gw, httpx.AsyncClient(base_url=gw.url) as client:
            paths = [f"/{number}" for number in range(10)]
            await asyncio.gather(*(client.get(path) for path in paths))
        assert len({id(trace) for trace in traces}) == 10
        assert sorted(trace.steps[2] for trace in traces) == paths
        assert {len(trace.steps) for trace in traces} == {6}


def made() -> Trace:
    return Trace(["made"])


async def test_a_context_may_be_made_by_a_function():
    """That is annotated with what it makes."""
    async with proxied(context=made) as one:

        @one.router.override("/x")
        async def hook(trace: Trace | None) -> RequestOverride:
            assert trace is not None
            return tell(steps=trace.steps)

        async with one.serve() as gw:
            await get_raw(gw, "/x")
        assert one.upstream.last.values(b"x-steps") == [b"['made']"]


async def test_a_dependency_may_be_of_the_class_of_the_context():
    """What says ``Depends`` is FastAPI's."""
    async with proxied(context=Trace) as one:

        @one.router.override("/x")
        async def hook(
            mine: Trace, other: Annotated[Trace, Depends(made)], third: Trace = Depends(made)
        ) -> RequestOverride:
            return tell(steps=[*mine.steps, *other.steps, *third.steps])

        async with one.serve() as gw:
            await get_raw(gw, "/x")
        assert one.upstream.last.values(b"x-steps") == [b"['made', 'made']"]


async def test_hooks_run_after_all_dependencies_and_validation():
    """Nobody who is refused is seen by a hook, of the router or of the route."""
    called: list[str] = []

    def refuse() -> None:
        raise HTTPException(401, "who are you?")

    async with proxied() as one:

        @one.router.on_request
        async def wide() -> None:
            called.append("wide")

        @one.router.override("/x", dependencies=[Depends(refuse)])
        async def hook() -> None:
            called.append("hook")

        @one.router.override("/y/{number}")
        async def other(number: int) -> None:
            called.append("other")

        @one.router.override("/z")
        async def before() -> None:
            called.append("before")

        @one.router.override_response("/z")
        async def after(number: int) -> None:
            called.append("after")

        async with one.serve() as gw:
            assert status(await get_raw(gw, "/x")) == 401
            assert status(await get_raw(gw, "/y/x")) == 422
            assert status(await get_raw(gw, "/z")) == 422
        assert called == []


@pytest.mark.parametrize("available", [True, False])
async def test_a_response_of_the_first_hook_is_the_answer(available, server):
    """The others are not asked, and nobody is picked."""
    called: list[str] = []
    async with proxied(server=server) as one:
        if not available:
            one.pool.remove(one.pool.upstreams[0])

        @one.router.on_request
        def answer() -> Response:
            return PlainTextResponse("closed", 503)

        @one.router.on_request
        def other() -> None:
            called.append("other")

        @one.router.on_response
        def seen(error: GatewayError | None) -> None:
            called.append("seen")

        @one.router.override("/hooked")
        def hook() -> None:
            called.append("hook")

        async with one.serve() as gw:
            for path in ("/x", "/hooked"):
                got = await get_raw(gw, path)
                assert (status(got), text(got)) == (503, b"closed")
        assert (called, one.upstream.connections) == ([], 0)


def _told(upstream: Any) -> Any:
    return upstream.connections[0].request.headers


async def test_hooks_are_for_the_connections_that_they_ask_for():
    """Requests, WebSockets, or both."""
    called: list[str] = []
    async with ws_upstream() as upstream:
        proxy = ProxyRouter(upstream.url)

        @proxy.on_request
        async def http(request: Request) -> None:
            called.append("http")

        @proxy.on_request
        async def ws(websocket: WebSocket) -> None:
            called.append("ws")

        @proxy.on_request
        async def both(connection: HTTPConnection) -> None:
            called.append("both")

        @proxy.on_request
        async def either(connection: Request | WebSocket) -> None:
            called.append(f"either {connection.scope['type']}")

        @proxy.on_request
        async def blind() -> None:
            called.append("blind")

        @proxy.on_send
        async def send_http(request: Request) -> None:
            called.append("send http")

        @proxy.on_send
        async def send_both(outbound: OutboundRequest) -> None:
            outbound.headers["x-sent"] = "1"
            called.append("send both")

        async with serve(app_of(proxy)) as gw:
            async with dialled(gw, "/x"):
                assert _told(upstream)["x-sent"] == "1"
            assert called == ["ws", "both", "either websocket", "blind", "send both"]
            called.clear()
            await get_raw(gw, "/x")
        assert called == ["http", "both", "either http", "blind", "send http", "send both"]


async def test_a_response_answers_the_handshake_of_a_websocket_too(server):
    """With its status, where the server can send one."""
    async with ws_upstream() as upstream:
        proxy = ProxyRouter(upstream.url)

        @proxy.on_request
        async def refuse() -> Response:
            return JSONResponse({"no": 1}, 418)

        async with serve(app_of(proxy), server) as gw:
            with pytest.raises(InvalidStatus) as caught:
                async with dialled(gw, "/x"):
                    pass
        assert caught.value.response.status_code in (403, 418)
        assert not upstream.connections


async def test_hooks_of_one_router_are_not_for_another():
    """Also where both have the same pool."""
    async with raw_upstream() as upstream:
        first = ProxyRouter(upstream.url, prefix="/a")
        second = ProxyRouter(upstream.url, prefix="/b")
        first.on_request(lambda: tell(hooked=1))
        async with serve(app_of(first, second)) as gw:
            for path, told in (("/a/x", [b"1"]), ("/b/x", [])):
                await get_raw(gw, path)
                assert upstream.last.values(b"x-hooked") == told
