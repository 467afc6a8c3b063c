"""What the parameters of proxy_pass_websocket do, and what it raises."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, WebSocket, WebSocketException
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router import BadGateway, GatewayTimeout, NoUpstreamAvailable
from fastapi_proxy_router.compat import proxy_pass_websocket
from fastapi_proxy_router.compat.forwarding import _as_both
from tests.compat.programs import closed_port, named, passing
from tests.servers import raw_upstream, serve
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


async def handshake(target: str = "/x?q=1", *, offers: Any = None, **arguments: Any) -> Any:
    """Return the handshake that reaches the upstream, and the subprotocol that the client gets."""
    async with ws_upstream(subprotocols=offers and ["chat", "other"]) as upstream:
        async with serve(passing(upstream.url, **arguments)) as gw:
            headers = {"X-Own": "1", "X-Old": "1"}
            async with dialled(
                gw, target, additional_headers=headers, subprotocols=offers
            ) as client:
                return upstream.connections[0].request, client.subprotocol


async def test_path_and_query_are_those_of_the_client_or_of_the_program():
    """The rules are those of HTTP."""
    assert (await handshake("/a%2Fb?q=1"))[0].path == "/a%2Fb?q=1"
    assert (await handshake("/a%2Fb", path=lambda rest: rest))[0].path == "/a%2Fb"
    assert (await handshake(path="/v2?p=2"))[0].path == "/v2?p=2&q=1"
    assert (await handshake(path="/v2", forward_query=False))[0].path == "/v2"


async def test_headers_are_added_or_sent_instead():
    """Those of the handshake itself cannot be given."""
    given = {"x-own": "2", "Sec-WebSocket-Protocol": "given", "Sec-WebSocket-Key": "given"}
    request, _ = await handshake(additional_headers=given)
    assert (request.headers["X-Own"], request.headers["X-Old"]) == ("2", "1")
    assert request.headers.get_all("Sec-WebSocket-Protocol") == []
    instead, _ = await handshake(override_headers=given)
    assert (instead.headers["X-Own"], instead.headers.get_all("X-Old")) == ("2", [])
    assert len(instead.headers.get_all("Sec-WebSocket-Key")) == 1


async def test_the_upstream_chooses_a_subprotocol_of_the_client():
    """Before the client is accepted."""
    assert (await handshake(offers=["x", "chat"]))[1] == "chat"


async def test_the_program_may_offer_other_subprotocols():
    """Instead of those of the client."""
    request, chosen = await handshake(offers=["chat", "other"], subprotocols=["other"])
    assert (request.headers["Sec-WebSocket-Protocol"], chosen) == ("other", "other")


async def relayed(app: FastAPI) -> int:
    """Return the status that a client gets."""
    async with serve(app) as gw:
        with pytest.raises(InvalidStatus) as refused:
            async with dialled(gw, "/x"):
                pass
    return refused.value.response.status_code


async def test_an_upstream_that_is_down_is_a_502():
    """There, the client gets a 403."""
    assert await relayed(passing(await closed_port())) == 502


async def test_an_upstream_that_is_silent_is_a_504_when_the_time_is_up():
    """The timeout is that of the handshake."""

    async def silent(reader, _writer):
        await reader.read()

    async with raw_upstream(silent) as upstream:
        assert await relayed(passing(upstream.url, timeout=0.2)) == 504


@pytest.mark.parametrize("caught", [HTTPException, WebSocketException, BadGateway])
async def test_a_program_can_ask_another_upstream(caught):
    """It catches what it always caught; nothing has been said to the client."""
    down = await closed_port()
    async with serve(named("backup")) as backup:
        app = FastAPI()

        @app.websocket("/x")
        async def either(websocket: WebSocket):
            try:
                await proxy_pass_websocket(websocket, down, subprotocols=["only-for-one"])
            except caught:
                await proxy_pass_websocket(websocket, backup.url)

        async with serve(app) as gw, dialled(gw, "/x") as client:
            await client.send("hello")
            assert await client.recv() == "backup: hello"


@pytest.mark.parametrize("kind", [BadGateway, GatewayTimeout, NoUpstreamAvailable])
def test_what_is_raised_is_both_kinds_of_exception(kind):
    """The code is the one that it has there, the status is that of HTTP."""
    error: Any = _as_both(
        kind("why", stage="head", fault="us", request_sent=False, retry_after=7.0)
    )
    assert {kind, WebSocketException} <= set(type(error).__mro__)
    assert (error.code, error.status_code) == (1011, kind.status)
    assert (error.reason, error.stage, error.fault) == ("why", "head", "us")
    assert (error.request_sent, error.headers) == (False, {"Retry-After": "7"})
