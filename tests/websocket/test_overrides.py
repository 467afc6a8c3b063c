"""What an override changes in a handshake: as arguments, and as a hook that FastAPI validates."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Header, Query, WebSocket, WebSocketException
from pydantic import ValidationError
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router import (
    ConfigurationError,
    HeaderEdits,
    ProxyRouter,
    Timeout,
    Upstream,
    WebSocketOptions,
    WebSocketOverride,
    proxy_pass_websocket,
)
from fastapi_proxy_router.overrides import WebSocketOverrideOptions
from tests.servers import Served, raw_upstream, serve
from tests.test_relay import dialled, ended, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

EVERYTHING: dict[str, Any] = {
    "path": "/a b",
    "query": {"q": "1&2", "r": ["3", "4"]},
    "host": "other.test",
    "headers": HeaderEdits(set={"x-user": "bob"}, add={"x-tag": "2"}, remove=["cookie"]),
    "response_headers": HeaderEdits(set={"x-seen": "1"}, remove=["x-old"]),
}


def passing(upstream: Served, **changes: Any) -> FastAPI:
    """Return an app whose own endpoint passes a WebSocket on."""
    app, target = FastAPI(), Upstream(f"{upstream.url}/base?key=1")

    @app.websocket("/ws/{rest:path}")
    async def own(websocket: WebSocket):
        await proxy_pass_websocket(websocket, target, **changes)

    return app


async def seen_by(upstream_of: Any, path: str = "/ws/x?y=2", server: str = "uvicorn-httptools"):
    """Return the request that reaches the upstream, and the response that reaches the client."""

    def old(_connection, _request, response):
        response.headers["X-Old"] = "1"

    async with ws_upstream(process_response=old) as upstream:
        async with serve(upstream_of(upstream), server) as gw:
            headers = {"X-User": "eve", "X-Tag": "1", "Cookie": "a=1"}
            async with dialled(gw, path, additional_headers=headers) as client:
                response = client.response
        return upstream.connections[0].request, response


def check_everything(request: Any) -> None:
    assert request.path == "/base/a%20b?key=1&q=1%262&r=3&r=4"
    assert request.headers["Host"] == "other.test"
    assert request.headers.get_all("X-User") == ["bob"]
    assert request.headers.get_all("X-Tag") == ["1", "2"]
    assert "Cookie" not in request.headers


async def test_an_endpoint_of_ones_own_changes_the_handshake(server):
    """Path, query, host and headers up, and the headers of the 101 down."""
    request, response = await seen_by(lambda up: passing(up, **EVERYTHING), server=server)

    check_everything(request)
    if server != "granian":  # It drops the headers of an accepted WebSocket.
        assert response.headers["X-Seen"] == "1"
        assert "X-Old" not in response.headers


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        ({"path": b"/raw%2Fpath//x"}, "/base/raw%2Fpath//x?key=1&y=2"),
        ({"path": "/100%"}, "/base/100%25?key=1&y=2"),
        ({"query": ""}, "/base/ws/x?key=1"),
        ({"query": "a=%2F"}, "/base/ws/x?key=1&a=%2F"),
        ({"query": b"a&b="}, "/base/ws/x?key=1&a&b="),
        ({}, "/base/ws/x?key=1&y=2"),
    ],
)
async def test_paths_and_queries_are_text_or_raw(changes, target):
    """Text of a path is encoded, bytes and queries are sent as they are."""
    request, _ = await seen_by(lambda up: passing(up, **changes))
    assert request.path == target


async def test_a_refusals_headers_are_edited(server):
    """Those of the upstream's refusal, which has its status and body still."""

    def refuse(connection, _request):
        response = connection.respond(403, "not you\n")
        response.headers["X-Old"] = "1"
        return response

    async with ws_upstream(process_request=refuse) as upstream:
        async with serve(passing(upstream, **EVERYTHING), server) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, "/ws/x"):
                    pass
    response = refused.value.response
    assert (response.status_code, bytes(response.body or b"")) == (403, b"not you\n")
    assert response.headers["X-Seen"] == "1"
    assert "X-Old" not in response.headers


@pytest.mark.parametrize("timeout", [0.1, Timeout(response=0.1)])
async def test_an_override_has_its_own_deadlines(timeout):
    """They hold for the handshake."""

    async def silent(reader, _writer):
        await reader.read()

    async with raw_upstream(silent) as upstream:
        async with serve(passing(upstream, timeout=timeout)) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, "/ws/x"):
                    pass
    assert refused.value.response.status_code == 504


async def test_an_unsafe_path_of_an_override_is_refused():
    """What is ours to say is checked as what the client says."""
    async with raw_upstream() as upstream:
        async with serve(passing(upstream, path="/a/../../b")) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, "/ws/x"):
                    pass
        assert upstream.connections == 0
    assert refused.value.response.status_code == 400


# --- Hooks -------------------------------------------------------------------------------------


async def tenant_of(x_user: Annotated[str, Header()]) -> str:
    if x_user == "banned":
        raise WebSocketException(1008, "go away")
    return x_user.upper()


def hooked(upstream: Served, base: str = "", **options: Any) -> FastAPI:
    """Return an app with a hook for each way to answer."""
    proxy = ProxyRouter(
        {"/v1": upstream.url + base, "/": "http://127.0.0.1:1"}, prefix="/api", **options
    )

    @proxy.override_websocket("/v1/rooms/{room}")
    async def enter(
        room: int, tenant: Annotated[str, Depends(tenant_of)], token: Annotated[str, Query()] = ""
    ) -> WebSocketOverride:
        return WebSocketOverride(
            path=f"/r/{room + 1}",
            query={"t": token},
            headers=HeaderEdits(set={"x-user": tenant}, remove=["x-tag"]),
            response_headers=HeaderEdits(set={"x-room": str(room)}),
        )

    @proxy.override_websocket("/v1/untouched/{rest:path}")
    def untouched(rest: str) -> None:
        """Relay as it came."""

    @proxy.override_websocket("/v1/everything")
    async def everything() -> WebSocketOverride:
        return WebSocketOverride(**EVERYTHING)

    @proxy.override_websocket("/v1/brief")
    async def brief() -> WebSocketOverride:
        return WebSocketOverride(options=WebSocketOptions(lifetime=0.01))

    @proxy.override_websocket("/v1/wrong")
    async def wrong() -> Any:
        return 5

    app = FastAPI()
    app.include_router(proxy)
    return app


async def test_a_hooks_parameters_are_validated_and_its_answer_applied(server):
    """Path, query, headers and dependencies come in, and the override goes up."""
    request, response = await seen_by(hooked, "/api/v1/rooms/7?token=a%26b", server)

    assert request.path == "/r/8?t=a%26b"
    assert request.headers.get_all("X-User") == ["EVE"]
    assert request.headers["Cookie"] == "a=1"
    assert "X-Tag" not in request.headers
    assert request.headers["X-Forwarded-Prefix"] == "/api/v1"
    if server != "granian":
        assert response.headers["X-Room"] == "7"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/api/v1/rooms/seven", {"X-User": "eve"}),
        ("/api/v1/rooms/7", {}),
        ("/api/v1/rooms/7", {"X-User": "banned"}),
    ],
)
async def test_what_does_not_validate_is_refused(server, path, headers):
    """With 403, and the upstream never hears of it."""
    async with ws_upstream() as upstream, serve(hooked(upstream), server) as gw:
        with pytest.raises(InvalidStatus) as refused:
            async with dialled(gw, path, additional_headers=headers):
                pass
        assert upstream.connections == []
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    ("strip_prefix", "target"),
    [(True, "/untouched/a%2Fb//c%20?x=%2F"), (False, "/api/v1/untouched/a%2Fb//c%20?x=%2F")],
)
async def test_a_hook_that_returns_nothing_leaves_the_path_as_it_came(server, strip_prefix, target):
    """Byte for byte, with the prefix or without."""
    request, _ = await seen_by(
        lambda up: hooked(up, strip_prefix=strip_prefix), f"/api/v1{UNTOUCHED}", server
    )
    assert request.path == target
    assert request.headers.get("X-Forwarded-Prefix") == ("/api/v1" if strip_prefix else None)


UNTOUCHED = "/untouched/a%2Fb//c%20?x=%2F"


async def test_a_hook_can_change_everything():
    """It has what ``proxy_pass_websocket`` has."""
    request, response = await seen_by(
        lambda up: hooked(up, "/base?key=1"), "/api/v1/everything?x=1"
    )
    check_everything(request)
    assert response.headers["X-Seen"] == "1"


async def test_a_hook_may_give_a_connection_its_own_limits():
    """They hold instead of the pool's."""
    async with ws_upstream() as upstream, serve(hooked(upstream)) as gw:
        async with dialled(gw, "/api/v1/brief") as client:
            assert (await ended(client))[0] == 1001


async def test_other_paths_are_relayed_as_they_came():
    """A hook has its path and no other."""
    request, _ = await seen_by(hooked, "/api/v1/rooms/7/x")
    assert request.path == "/rooms/7/x"
    assert request.headers["X-User"] == "eve"


async def test_a_hook_that_returns_something_else_is_our_mistake(server):
    """It is told to the server, which refuses with 500, and the upstream is left alone."""
    raised = []

    def watched(app):
        async def run(scope, receive, send):
            try:
                await app(scope, receive, send)
            except TypeError as error:
                raised.append(str(error))
                raise

        return run

    async with ws_upstream() as upstream, serve(watched(hooked(upstream)), server) as gw:
        with pytest.raises(InvalidStatus) as refused:
            async with dialled(gw, "/api/v1/wrong"):
                pass
        assert upstream.connections == []
    # granian has no 500 for a WebSocket.
    assert refused.value.response.status_code == (403 if server == "granian" else 500)
    assert len(raised) == 1
    assert "returned int; it may return a WebSocketOverride, a Response or None" in raised[0]


async def test_a_hook_is_still_an_ordinary_function():
    """The decorator gives it back as it was."""
    proxy = ProxyRouter("http://a")

    @proxy.override_websocket("/x")
    async def hook() -> WebSocketOverride:
        """Do nothing."""
        return WebSocketOverride()

    assert await hook() == WebSocketOverride()
    assert "hook" in [getattr(route, "name", "") for route in proxy.routes]


def test_a_hook_needs_a_pool_that_serves_its_path():
    """A path outside every prefix is a mistake, told at once."""
    with pytest.raises(ConfigurationError, match="no pool serves '/other'"):
        ProxyRouter({"/users": "http://a"}).override_websocket("/other")(lambda: None)


@pytest.mark.parametrize(
    "fields",
    [
        {"nonsense": 1},
        {"method": "POST"},
        {"body": b"x"},
        {"path": "no-slash"},
        {"path": "/\udc80"},
        {"host": "a\r\nb"},
        {"timeout": 0},
        {"headers": {"set": {"connection": "x"}}},
        {"headers": {"set": {"upgrade": "x"}}},
        {"headers": {"set": {"Sec-WebSocket-Key": "x"}}},
        {"headers": {"add": {"sec-websocket-protocol": "chat"}}},
        {"headers": {"set": {"sec-websocket-extensions": "permessage-deflate"}}},
        {"response_headers": {"set": {"sec-websocket-accept": "x"}}},
        {"options": {"idle": 5}},
        {"on_client_message": 5},
    ],
)
def test_an_override_that_cannot_work_is_refused(fields):
    """Where it is built, with pydantic's report."""
    with pytest.raises(ValidationError):
        WebSocketOverride(**fields)


async def test_arguments_that_cannot_work_are_refused_before_anything_is_sent():
    """``proxy_pass_websocket`` has no unknown arguments."""
    async with raw_upstream() as upstream, serve(passing(upstream, nonsense=1)) as gw:
        with pytest.raises(InvalidStatus) as refused:
            async with dialled(gw, "/ws/x"):
                pass
        assert upstream.connections == 0
    assert refused.value.response.status_code == 500


def test_proxy_pass_websocket_takes_what_an_override_has():
    """Its keyword arguments are the same fields, but for the upstream, which is given anyway."""
    fields = set(WebSocketOverride.model_fields)

    assert fields - {"upstream"} == set(WebSocketOverrideOptions.__annotations__)
