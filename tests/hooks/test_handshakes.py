"""Hooks and the handshakes of WebSockets."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio
from typing import Annotated, Any

import pytest
from fastapi import Depends, HTTPException, WebSocket
from starlette.requests import HTTPConnection
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router import (
    Ejection,
    HeaderEdits,
    OutboundRequest,
    ProxyRouter,
    RequestOverride,
    Upstream,
    UpstreamPool,
    WebSocketOverride,
)
from tests.hooks.helping import app_of, tell, until
from tests.servers import raw_upstream, serve
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


class Trace:
    """What the hooks of one handshake share."""

    def __init__(self) -> None:
        self.steps: list[str] = []


def told(upstream: Any, name: str) -> str | None:
    """Return what the upstream was told in a header of the handshake."""
    value: str | None = upstream.connections[-1].request.headers.get(name)
    return value


def _path(upstream: Any) -> str:
    return str(upstream.connections[-1].request.path)


async def test_hooks_share_their_object_with_the_hook_of_the_route(server):
    """In order, and on_send last."""
    traces: list[Trace] = []
    async with ws_upstream() as upstream:
        proxy = ProxyRouter(upstream.url, context=Trace)

        @proxy.on_request
        def first(trace: Trace) -> RequestOverride:
            traces.append(trace)
            trace.steps.append("first")
            return tell(a="wide", b="wide")

        @proxy.override_websocket("/x/{number}")
        async def hook(trace: Trace, number: int, websocket: WebSocket) -> WebSocketOverride:
            trace.steps.append(f"hook {number}")
            return WebSocketOverride(headers=HeaderEdits(set={"x-b": "hook"}))

        @proxy.on_send
        async def send(trace: Trace, outbound: OutboundRequest, upstream: Upstream) -> None:
            trace.steps.append(f"send {outbound.method} {outbound.path.decode()}")
            outbound.path = b"/y"

        async with serve(app_of(proxy), server) as gw:
            async with dialled(gw, "/x/7"):
                assert (told(upstream, "x-a"), told(upstream, "x-b")) == ("wide", "hook")
                assert _path(upstream) == "/y"
    (trace,) = traces
    assert trace.steps == ["first", "hook 7", "send GET /x/7"]


@pytest.mark.parametrize("chooser", ["on_request", "override_websocket"])
async def test_a_hook_chooses_another_pool(chooser):
    """Which counts the connection."""
    async with ws_upstream() as own, ws_upstream() as other:
        pool = UpstreamPool(other.url)
        proxy = ProxyRouter(own.url)
        if chooser == "on_request":
            proxy.on_request(lambda: RequestOverride(upstream=pool))
        else:
            proxy.override_websocket("/x")(lambda: WebSocketOverride(upstream=pool))
        async with serve(app_of(proxy)) as gw:
            async with dialled(gw, "/x"):
                assert pool.upstreams[0].in_flight == 1
            await until(lambda: pool.upstreams[0].in_flight == 0)
        assert (len(own.connections), len(other.connections)) == (0, 1)


async def test_the_upstream_that_a_hook_is_given_is_the_one_that_is_used():
    """Picked once."""
    ports: list[int] = []
    async with ws_upstream() as first, ws_upstream() as second:
        pool = UpstreamPool([first.url, second.url])
        proxy = ProxyRouter(pool)

        @proxy.override_websocket("/x")
        async def hook(upstream: Annotated[Upstream, Depends(pool)]) -> None:
            ports.append(upstream.port)

        async with serve(app_of(proxy)) as gw:
            for _ in range(4):
                async with dialled(gw, "/x"):
                    used = {one.port for one in pool.upstreams if one.in_flight}
                    assert used == {ports[-1]}
                await until(lambda: not any(one.in_flight for one in pool.upstreams))


def refusing() -> None:
    raise HTTPException(401, "who are you?")


def failing() -> None:
    raise KeyError("secret")


async def hanging() -> None:
    await asyncio.Event().wait()


def returning() -> Any:
    return 5


def spoiling(outbound: OutboundRequest) -> None:
    outbound.path = b"nowhere"


FAILING: list[tuple[str, Any, set[int]]] = [
    ("on_request", refusing, {401, 403}),
    ("override_websocket", refusing, {401, 403}),
    ("on_send", refusing, {401, 403}),
    ("on_request", failing, {500}),
    ("override_websocket", failing, {500}),
    ("on_send", failing, {500}),
    ("on_request", hanging, {500}),
    ("override_websocket", hanging, {500}),
    ("on_send", hanging, {500}),
    ("on_request", returning, {500}),
    ("on_send", returning, {500}),
    ("on_send", spoiling, {500}),
]


@pytest.mark.parametrize(("phase", "hook", "codes"), FAILING)
async def test_a_hook_that_fails_refuses_the_handshake(phase, hook, codes):
    """The upstream hears nothing, and is not blamed."""
    async with raw_upstream() as upstream:
        pool = UpstreamPool(upstream.url, ejection=Ejection(consecutive=1, max_share=1))
        proxy = ProxyRouter(pool, hook_timeout=0.1)
        decorate = getattr(proxy, phase)
        (decorate("/x") if phase.startswith("over") else decorate)(hook)
        async with serve(app_of(proxy)) as gw:
            with pytest.raises(InvalidStatus) as caught:
                async with dialled(gw, "/x"):
                    pass
        assert caught.value.response.status_code in codes
        assert upstream.connections == 0
        (one,) = pool.upstreams
        assert (one.in_flight, one.failures, one.health.is_usable) == (0, 0, True)


async def test_hooks_run_after_dependencies_and_validation():
    """Nobody who is refused is seen by a hook."""
    called: list[str] = []
    proxy = ProxyRouter("http://127.0.0.1:1")

    @proxy.on_request
    def wide(connection: HTTPConnection) -> None:
        called.append("wide")

    @proxy.override_websocket("/x/{number}")
    def hook(number: int) -> None:
        called.append("hook")

    @proxy.override_websocket("/y")
    def guarded(value: Annotated[None, Depends(refusing)]) -> None:
        called.append("guarded")

    async with serve(app_of(proxy)) as gw:
        for path in ("/x/a", "/y"):
            with pytest.raises(InvalidStatus):
                async with dialled(gw, path):
                    pass
    assert called == []


async def test_on_send_sees_each_try_of_a_handshake():
    """With the upstream that it is for."""
    hosts: list[str] = []
    async with ws_upstream() as upstream:
        pool = UpstreamPool(
            ["http://127.0.0.1:1", upstream.url],
            balancer=lambda upstreams, _connection: upstreams[0],
        )
        proxy = ProxyRouter(pool)

        @proxy.on_send
        def sign(outbound: OutboundRequest) -> None:
            hosts.append(outbound.headers["host"])
            outbound.headers["x-host"] = outbound.headers["host"]

        async with serve(app_of(proxy)) as gw, dialled(gw, "/x"):
            assert told(upstream, "x-host") == hosts[-1]
    assert hosts == ["127.0.0.1:1", upstream.authority]
