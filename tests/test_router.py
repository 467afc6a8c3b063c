"""ProxyRouter as a router: prefixes, precedence, dependencies, lifespan, injection."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio
import inspect
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, WebSocket
from fastapi.responses import PlainTextResponse
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Mount
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router import (
    BadGateway,
    ConfigurationError,
    CookieAffinity,
    HeaderAffinity,
    HeaderEdits,
    HealthCheck,
    ProxyRouter,
    Split,
    Upstream,
    UpstreamPool,
    forward,
    proxy_pass,
    proxy_pass_websocket,
    serving,
)
from tests.servers import Served, get_raw, raw_upstream, send_raw, serve, status
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


def named(name: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\n\r\n{name}".encode()


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


async def asgi_get(app, path: str, method: str = "GET", **options) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
        return await client.request(method, path, **options)


# --- What it accepts ---------------------------------------------------------------------------


async def test_every_form_of_upstreams_is_accepted():
    """A URL, an Upstream, a pool, a sequence of the first two, and a mapping to any of them."""
    async with raw_upstream() as upstream:
        forms: list[Any] = [
            upstream.url,
            Upstream(upstream.url),
            UpstreamPool(upstream.url),
            [upstream.url, Upstream(upstream.url)],
            {"/": upstream.url},
            {"/x": UpstreamPool([upstream.url]), "": [Upstream(upstream.url)]},
        ]
        for upstreams in forms:
            app = FastAPI()
            app.include_router(ProxyRouter(upstreams))
            assert (await asgi_get(app, "/a")).text == "ok"


@pytest.mark.parametrize(
    ("arguments", "mistakes"),
    [
        ([], ["a pool needs at least one upstream"]),
        ({}, ["a ProxyRouter needs at least one upstream"]),
        ("localhost:9000", ["must begin with http://"]),
        ("ftp://x", ["must begin with http://"]),
        ("http://", ["no host"]),
        ("http://x:0", ["port 0"]),
        ("http://a%0d%0ax/", ["no host"]),
        ("http://a\r\nx/", ["percent-encoded"]),
        ("http://x:99999", ["ort"]),
        ("http://user:secret@x", ["credentials"]),
        ("http://user:sec/secret@x", ["cannot be read"]),
        ("user:secret@x:80", ["must begin with http://"]),
        ("ftp://user:secret@x/#", ["must begin with http://", "credentials"]),
        ("http://x/#f", ["fragment"]),
        ("http://x/a b", ["percent-encoded"]),
        ("http://x/caf\xe9", ["percent-encoded"]),
        (["http://a", "nonsense", 5], ["'nonsense'", "not 5"]),
        ({"users": "http://a", "/b/": "http://b"}, ["'users'", "'/b/'"]),
        ({"": "http://a", "/": "http://b"}, ["given twice"]),
    ],
)
def test_wrong_upstreams_are_reported_together(arguments, mistakes):
    """Construction fails with every mistake, and without a secret."""
    with pytest.raises(ConfigurationError) as raised:
        ProxyRouter(arguments)

    assert len(raised.value.mistakes) == len(mistakes)
    for expected, mistake in zip(mistakes, raised.value.mistakes, strict=True):
        assert expected in mistake
        assert "secret" not in mistake


def test_an_upstream_belongs_to_one_pool():
    """Two pools with the same Upstream would overwrite each other's policy."""
    upstream = Upstream("http://a")
    UpstreamPool(upstream)

    with pytest.raises(ConfigurationError, match="in another pool"):
        UpstreamPool(upstream)


def test_whatever_else_an_api_router_takes_is_passed_through():
    """Tags, responses and the like arrive; an unknown argument fails as it does there."""
    router = ProxyRouter("http://a", tags=["proxied"], prefix="/p", redirect_slashes=False)

    assert (router.tags, router.prefix, router.redirect_slashes) == (["proxied"], "/p", False)
    with pytest.raises(TypeError, match="nonsense"):
        ProxyRouter("http://a", nonsense=True)


# --- Prefixes ----------------------------------------------------------------------------------


async def test_the_longest_prefix_wins_whatever_the_order():
    """/a/b goes to its own pool, also when /a was declared first."""
    async with (
        raw_upstream(named("root")) as root,
        raw_upstream(named("a")) as a,
        raw_upstream(named("ab")) as ab,
    ):
        app = FastAPI()
        app.include_router(ProxyRouter({"/": root.url, "/a": a.url, "/a/b": ab.url}))
        async with serve(app) as gw:
            expected = {
                "/": b"root",
                "/x": b"root",
                "/ab": b"root",
                "/a": b"a",
                "/a/": b"a",
                "/a/bc": b"a",
                "/a/b": b"ab",
                "/a/b/c": b"ab",
            }
            for path, name in expected.items():
                assert body(await get_raw(gw, path)) == name


PREFIXES = [
    # strip, request, upstream sees, X-Forwarded-Prefix
    (True, "/v1/users", b"/", b"/v1/users"),
    (True, "/v1/users/", b"/", b"/v1/users"),
    (True, "/v1/users/7?x=1", b"/7?x=1", b"/v1/users"),
    (True, "/v1/users?x=1", b"/?x=1", b"/v1/users"),
    (True, "/v1/%75sers/a%2Fb", b"/a%2Fb", b"/v1/%75sers"),
    (False, "/v1/users", b"/v1/users", None),
    (False, "/v1/users/7?x=1", b"/v1/users/7?x=1", None),
    (False, "/v1/%75sers/a%2Fb", b"/v1/%75sers/a%2Fb", None),
]


@pytest.mark.parametrize(("strip", "path", "target", "announced"), PREFIXES)
async def test_prefixes_are_stripped_and_announced_or_kept(strip, path, target, announced):
    """Router prefix and mapping prefix together, under both settings."""
    async with raw_upstream() as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter({"/users": upstream.url}, prefix="/v1", strip_prefix=strip))
        async with serve(app) as gw:
            assert status(await get_raw(gw, path)) == 200

        assert upstream.last.target == target
        assert upstream.last.values(b"x-forwarded-prefix") == ([announced] if announced else [])


async def test_a_prefix_ends_at_a_segment(server):
    """/users2 is not below /users, and an encoded slash is not a boundary."""
    async with raw_upstream() as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url, prefix="/users"))
        async with serve(app, server) as gw:
            assert status(await get_raw(gw, "/users2")) == 404
            assert status(await get_raw(gw, "/users%2f7")) == 400

        assert upstream.requests == []


async def test_the_bare_prefix_is_served_without_a_redirect(server):
    """/users is forwarded; nothing sends the client to a Host it named itself."""
    async with raw_upstream() as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url, prefix="/users"))
        async with serve(app, server) as gw:
            assert status(await get_raw(gw, "/users", method="POST", body=b"x")) == 200

        assert upstream.last.target == b"/"


def nested(upstream: Served, strip: bool) -> FastAPI:
    inner, outer, app = APIRouter(prefix="/inner"), APIRouter(prefix="/outer"), FastAPI()
    inner.include_router(ProxyRouter(upstream.url, prefix="/p", strip_prefix=strip), prefix="/i")
    outer.include_router(inner)
    app.include_router(outer, prefix="/{tenant}")
    return app


@pytest.mark.parametrize(
    ("strip", "target"), [(True, b"/a%2Fb//c"), (False, b"/acme/outer/inner/i/p/a%2Fb//c")]
)
async def test_nested_routers_add_up(strip, target):
    """Prefixes of every level, one of them a parameter, are cut out of the raw path."""
    async with raw_upstream() as upstream, serve(nested(upstream, strip)) as gw:
        answer = await get_raw(gw, "/acme/outer/inner/i/p/a%2Fb//c")

        assert status(answer) == 200
        assert upstream.last.target == target
        prefix = [b"/acme/outer/inner/i/p"] if strip else []
        assert upstream.last.values(b"x-forwarded-prefix") == prefix


@pytest.mark.parametrize(("strip", "target"), [(True, b"/a%2Fb"), (False, b"/p/a%2Fb")])
async def test_a_mounted_application_strips_the_mount(strip, target):
    """The path of a mount is never sent to the upstream; it is announced with the prefix."""
    async with raw_upstream() as upstream:
        sub, app = FastAPI(), FastAPI()
        sub.include_router(ProxyRouter(upstream.url, prefix="/p", strip_prefix=strip))
        app.mount("/sub", sub)
        async with serve(app) as gw:
            assert status(await get_raw(gw, "/sub/p/a%2Fb")) == 200

        assert upstream.last.target == target
        announced = b"/sub/p" if strip else b"/sub"
        assert upstream.last.values(b"x-forwarded-prefix") == [announced]


async def test_root_path_is_not_sent_to_the_upstream():
    """Behind a front proxy that strips /front, the upstream sees neither it nor the prefix."""
    async with raw_upstream() as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url, prefix="/p"))
        async with serve(app, root_path="/front") as gw:
            assert status(await get_raw(gw, "/p/a%2Fb")) == 200

        assert upstream.last.target == b"/a%2Fb"
        assert upstream.last.values(b"x-forwarded-prefix") == [b"/front/p"]


async def test_a_root_path_that_is_not_part_of_the_path_is_announced_too():
    """Some servers set root_path and do not put it in front of the path."""
    async with raw_upstream() as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url, prefix="/p"))

        async def behind_front(scope, receive, send):
            await app({**scope, "root_path": "/front"}, receive, send)

        async with serve(behind_front) as gw:
            assert status(await get_raw(gw, "/p/x")) == 200

        assert upstream.last.target == b"/x"
        assert upstream.last.values(b"x-forwarded-prefix") == [b"/front/p"]


# --- Precedence and OpenAPI --------------------------------------------------------------------


async def test_routes_declared_after_the_catch_all_win():
    """On the router itself and from routers it includes."""
    async with raw_upstream() as upstream:
        proxy, extra, app = ProxyRouter(upstream.url), APIRouter(), FastAPI()
        extra.add_api_route("/extra", lambda: "extra")
        proxy.add_api_route("/own", lambda: "own")
        proxy.include_router(extra)
        app.include_router(proxy)

        for path in ("own", "extra"):
            assert (await asgi_get(app, f"/{path}")).json() == path
        assert (await asgi_get(app, "/own", "POST")).text == "ok"
        assert (await asgi_get(app, "/other")).text == "ok"
        assert len(upstream.requests) == 2


async def test_a_route_declared_after_the_router_was_included_wins_if_fastapi_sees_it():
    """Older versions copy the routes when a router is included; newer ones look again."""
    async with raw_upstream() as upstream:
        proxy, plain, app = ProxyRouter(upstream.url, prefix="/proxy"), APIRouter(), FastAPI()
        app.include_router(plain)
        app.include_router(proxy)
        plain.add_api_route("/late", lambda: "late")
        proxy.add_api_route("/late", lambda: "late")

        seen = (await asgi_get(app, "/late")).status_code == 200
        assert (await asgi_get(app, "/proxy/late")).text == ('"late"' if seen else "ok")


def test_the_catch_alls_stay_last_whatever_is_added():
    """Mounts, hosts and websockets too."""
    proxy = ProxyRouter("http://a")
    catch_alls = proxy.routes[:]
    proxy.mount("/mounted", Starlette())
    proxy.host("own.test", Starlette())
    proxy.add_api_websocket_route("/own", lambda websocket: None)

    assert proxy.routes[-2:] == catch_alls
    assert len(proxy.routes) == 5


async def test_the_applications_own_routes_win():
    """What FastAPI would match first, it still does."""
    async with raw_upstream() as upstream:
        app = FastAPI()
        app.add_api_route("/own", lambda: "own")
        app.include_router(ProxyRouter(upstream.url))

        assert (await asgi_get(app, "/own")).json() == "own"
        assert upstream.requests == []


async def test_the_catch_alls_stay_out_of_openapi():
    """/docs renders and /openapi.json lists only what the application declares."""
    app = FastAPI()
    app.add_api_route("/own", lambda: "own")
    app.include_router(ProxyRouter({"/a": "http://a", "/b": "http://b"}))

    assert (await asgi_get(app, "/docs")).status_code == 200
    assert list((await asgi_get(app, "/openapi.json")).json()["paths"]) == ["/own"]


async def test_other_methods_can_be_chosen():
    """The list of methods is an argument; others are answered 405."""
    async with raw_upstream() as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url, methods=["GET", "BREW"]))

        assert (await asgi_get(app, "/", "BREW")).text == "ok"
        refused = await asgi_get(app, "/", "POST")
        assert refused.status_code == 405
        assert "BREW" in refused.headers["allow"]


# --- Dependencies ------------------------------------------------------------------------------


async def authenticated(connection: HTTPConnection) -> None:
    if connection.headers.get("authorization") != "Bearer good":
        raise HTTPException(401, "who are you?")


def guarded(place: str, upstream: Served) -> FastAPI:
    """Build an app with the dependency in one of the four places it may be declared."""
    auth = [Depends(authenticated)]
    app = FastAPI(dependencies=auth if place == "app" else None)
    parent = APIRouter(dependencies=auth if place == "parent" else None)
    proxy = ProxyRouter(upstream.url, dependencies=auth if place == "router" else None)
    parent.include_router(proxy, dependencies=auth if place == "include" else None)
    app.include_router(parent)
    return app


@pytest.mark.parametrize("place", ["app", "include", "parent", "router"])
async def test_dependencies_run_before_http_is_forwarded(server, place):
    """A dependency that refuses is heard, wherever it is declared, and nothing is forwarded."""
    async with raw_upstream() as upstream, serve(guarded(place, upstream), server) as gw:
        assert status(await get_raw(gw)) == 401
        assert upstream.connections == 0
        assert status(await get_raw(gw, "/", "Authorization: Bearer good")) == 200


@pytest.mark.parametrize("place", ["app", "include", "parent", "router"])
async def test_dependencies_run_before_a_websocket_is_forwarded(server, place):
    """The same for WebSockets: the handshake is refused and the upstream hears nothing."""
    async with ws_upstream() as upstream, serve(guarded(place, upstream), server) as gw:
        with pytest.raises(InvalidStatus) as refused:
            async with dialled(gw, "/"):
                pass
        assert refused.value.response.status_code == 401
        assert upstream.connections == []
        good = {"Authorization": "Bearer good"}
        async with dialled(gw, "/", additional_headers=good) as client:
            await client.send("x")
            assert await client.recv() == "x"


async def test_a_dependency_that_reads_the_body_does_not_lose_it():
    """A body that a dependency has read is replayed to the upstream, exactly."""

    async def audit(request: Request) -> None:
        assert await request.body() == b"hello"

    async with raw_upstream() as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url, dependencies=[Depends(audit)]))
        async with serve(app) as gw:
            assert status(await get_raw(gw, method="POST", body=b"hello")) == 200

        assert upstream.last.body == b"hello"


async def test_a_body_that_a_form_parser_consumed_fails_loudly():
    """It cannot be replayed, so the request fails; it neither hangs nor arrives empty."""

    async def form(request: Request) -> None:
        await request.form()

    async with raw_upstream() as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url, dependencies=[Depends(form)]))
        async with serve(app) as gw:
            answer = await get_raw(
                gw,
                "/",
                "Content-Type: application/x-www-form-urlencoded",
                method="POST",
                body=b"a=1",
            )
            assert status(answer) == 500

        assert all(not request.body for request in upstream.requests)


@pytest.mark.skipif(
    "max_body_size" not in inspect.signature(APIRouter).parameters, reason="a newer FastAPI's"
)
async def test_the_body_limit_of_the_router_holds():
    """max_body_size answers 413, for a declared length and for chunks, and never completes them."""
    async with raw_upstream() as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url, max_body_size=10))
        async with serve(app) as gw:
            assert status(await get_raw(gw, method="POST", body=b"x" * 10)) == 200
            assert status(await get_raw(gw, method="POST", body=b"x" * 11)) == 413
            chunked = (
                b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            assert status(await send_raw(gw, chunked + b"b\r\n0123456789a\r\n0\r\n\r\n")) == 413

        assert [request.body for request in upstream.requests] == [b"x" * 10]


# --- Lifespan ----------------------------------------------------------------------------------


class RecordingTransport(httpx.AsyncBaseTransport):
    closed = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="recorded")

    async def aclose(self) -> None:
        self.closed += 1


async def test_transports_close_with_the_application():
    """The router's lifespan is merged by include_router, and wraps the one it is given."""
    events, transport = [], RecordingTransport()

    @asynccontextmanager
    async def lifespan(_app):
        events.append("start")
        yield {"state": 1}
        events.append("stop")

    pool = UpstreamPool([Upstream("http://a", transport=transport), "http://b"])
    app = FastAPI()
    app.include_router(ProxyRouter(pool, lifespan=lifespan))
    async with serve(app) as gw:
        assert pool.upstreams[1].transport is not None
        assert body(await get_raw(gw)) == b"recorded"
        assert (events, transport.closed) == (["start"], 0)

    assert (events, transport.closed) == (["start", "stop"], 1)


async def test_it_works_when_no_lifespan_runs():
    """A transport opens on first use, for instance in a mounted application."""
    async with raw_upstream() as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url))
        async with serve(app, lifespan="off") as gw:
            assert status(await get_raw(gw)) == 200


# --- Injection ---------------------------------------------------------------------------------


def injecting(pool: UpstreamPool) -> FastAPI:
    app = FastAPI()

    @app.get("/report/{name}")
    async def report(request: Request, name: str, upstream: Annotated[Upstream, Depends(pool)]):
        return await proxy_pass(
            request,
            upstream,
            path=f"/v2/{name}",
            query={"full": "1", "tag": ["a b", "c&d"]},
            method="QUERY",
            headers=HeaderEdits(set={"x-api": "2"}, remove=["cookie"]),
            host="report.test",
            body=b"hello",
            timeout=5,
        )

    @app.websocket("/live/{room}")
    async def live(websocket: WebSocket, room: str, upstream: Annotated[Upstream, Depends(pool)]):
        await proxy_pass_websocket(
            websocket, upstream, path=f"/rooms/{room}", query="x=1", host="live.test"
        )

    @app.get("/whole/{path:path}")
    async def whole(request: Request, upstream: Annotated[Upstream, Depends(pool)]):
        return await proxy_pass(request, upstream)

    return app


async def test_a_pool_is_a_dependency_of_your_own_endpoint(server):
    """proxy_pass sends what it is given instead of what the client sent."""
    async with raw_upstream() as upstream:
        async with serve(injecting(UpstreamPool(upstream.url + "/base")), server) as gw:
            assert (
                status(await get_raw(gw, "/report/a%3Fb%20c?x=1", "Cookie: a=1", "X-API: 1")) == 200
            )

        sent = upstream.last
        assert sent.line == b"QUERY /base/v2/a%3Fb%20c?full=1&tag=a+b&tag=c%26d HTTP/1.1"
        assert sent.values(b"host") == [b"report.test"]
        assert sent.values(b"x-api") == [b"2"]
        assert sent.values(b"cookie") == []
        assert sent.values(b"content-length") == [b"5"]
        assert sent.body == b"hello"


async def test_a_client_cannot_leave_the_path_that_an_endpoint_gives():
    """A parameter that would climb out of the path is refused, not resolved."""
    async with raw_upstream() as upstream, serve(injecting(UpstreamPool(upstream.url))) as gw:
        assert status(await get_raw(gw, "/report/%2e%2e")) == 400
        assert upstream.connections == 0


async def test_without_a_path_the_whole_path_is_sent():
    """proxy_pass(request, upstream) sends the path as the application sees it."""
    async with raw_upstream() as upstream, serve(injecting(UpstreamPool(upstream.url))) as gw:
        await get_raw(gw, "/whole/a%2Fb?x")
        assert upstream.last.target == b"/whole/a%2Fb?x"


async def test_a_websocket_endpoint_can_forward_from_its_pool(server):
    """proxy_pass_websocket takes path, query and host."""
    async with ws_upstream() as upstream:
        async with serve(injecting(UpstreamPool(upstream.url)), server) as gw:
            async with dialled(gw, "/live/lobby%20one?drop=me") as client:
                await client.send("x")
                assert await client.recv() == "x"
            request = upstream.connections[0].request
            assert request is not None
            assert request.path == "/rooms/lobby%20one?x=1"
            assert request.headers["Host"] == "live.test"


async def test_the_policy_of_a_pool_holds_in_your_own_endpoint():
    """preserve_host and trusted_proxies travel with the injected upstream."""
    async with raw_upstream() as upstream:
        pool = UpstreamPool(upstream.url, preserve_host=True, trusted_proxies=["127.0.0.0/8"])
        async with serve(injecting(pool)) as gw:
            await get_raw(gw, "/whole/x", "X-Forwarded-For: 9.9.9.9")

        assert upstream.last.values(b"host") == [gw.authority.encode()]
        assert upstream.last.values(b"x-forwarded-for") == [b"9.9.9.9, 127.0.0.1"]


async def test_round_robin_follows_the_weights():
    """Three to one is three to one, spread out."""
    async with raw_upstream(named("a")) as a, raw_upstream(named("b")) as b:
        app = FastAPI()
        upstreams = [Upstream(a.url, weight=3), Upstream(b.url)]
        app.include_router(ProxyRouter(UpstreamPool(upstreams, balancer="round_robin")))
        answers = [(await asgi_get(app, "/")).text for _ in range(8)]

        assert answers == list("aabaaaba")


def handler(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text=f"{request.method} {request.url} {request.headers['x-own']}")


def handler2(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, text=f"{request.method} {request.url} {request.headers['x-own']}")


def fake_app() -> FastAPI:
    fake = FastAPI()

    @fake.post("/{path:path}")
    async def answer(request: Request, x_own: Annotated[str, Header()]):
        path = request.scope["raw_path"].decode()
        return PlainTextResponse(f"POST http://test{path} {x_own}")

    return fake


@pytest.mark.parametrize(
    "transport",
    [
        httpx.MockTransport(handler),
        httpx.ASGITransport(fake_app()),
        httpx2.MockTransport(handler2),
        httpx2.ASGITransport(fake_app()),
    ],
)
@pytest.mark.parametrize("path", ["/api/a%20b", "/report"])
async def test_a_pool_is_overridden_like_any_dependency(transport, path):
    """dependency_overrides reaches the catch-alls too, with any transport of either library."""
    pool = UpstreamPool("http://unreachable.test")
    app = FastAPI()

    @app.post("/report")
    async def report(request: Request, upstream: Annotated[Upstream, Depends(pool)]):
        return await proxy_pass(request, upstream, path="/a b")

    app.include_router(ProxyRouter(pool, prefix="/api"))
    app.dependency_overrides[pool] = lambda: Upstream("http://test", transport=transport)

    answer = await asgi_get(app, path, "POST", content=b"hi", headers={"x-own": "1"})

    assert answer.text == "POST http://test/a%20b 1"


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_errors_of_any_transport_are_ours(library):
    """What either library raises becomes a GatewayError of the right kind."""
    kinds = {
        library.ConnectError("x"): 502,
        library.ReadError("x"): 502,
        library.RemoteProtocolError("x"): 502,
        library.ConnectTimeout("x"): 504,
        library.ReadTimeout("x"): 504,
        library.PoolTimeout("x"): 503,
        OSError(24, "Too many open files"): 503,
    }
    for error, code in kinds.items():

        def fail(_request, error=error):
            raise error

        app = FastAPI()
        upstream = Upstream("http://test", transport=library.MockTransport(fail))
        app.include_router(ProxyRouter(upstream))
        assert (await asgi_get(app, "/")).status_code == code
        assert upstream.in_flight == 0


async def test_gateway_errors_can_be_handled():
    """app.exception_handler(BadGateway) sees the error with its reason, stage and fault."""

    def fail(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route")

    app = FastAPI()
    seen: list[BadGateway] = []
    app.include_router(ProxyRouter(Upstream("http://test", transport=httpx.MockTransport(fail))))

    @app.exception_handler(BadGateway)
    async def handle(_request: Request, error: BadGateway):
        seen.append(error)
        return PlainTextResponse("sorry", status_code=502)

    assert (await asgi_get(app, "/")).text == "sorry"
    assert (seen[0].stage, seen[0].fault) == ("connect", "upstream")
    assert seen[0].upstream is not None
    assert seen[0].upstream.url == "http://test"
    assert "no route" in seen[0].reason


async def test_failover_by_hand_sends_the_body_to_the_second_upstream():
    """A body that was read before the first attempt is sent whole on the second."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("down")

    app = FastAPI()
    async with raw_upstream() as second:

        @app.api_route("/{path:path}", methods=["GET", "POST"])
        async def failover(request: Request):
            await request.body()
            try:
                down = Upstream("http://down", transport=httpx.MockTransport(fail))
                return await proxy_pass(request, down)
            except BadGateway:
                return await proxy_pass(request, Upstream(second.url))

        async with serve(app) as gw:
            assert status(await get_raw(gw, "/x", method="POST", body=b"hello")) == 200
            assert second.last.body == b"hello"
            assert status(await get_raw(gw, "/x")) == 200


@pytest.mark.parametrize("framing", ["Content-Length: 0", "Transfer-Encoding: chunked"])
async def test_an_empty_body_can_be_sent_to_a_second_upstream(framing):
    """There was nothing in it that the first could have taken."""

    async def fail(reader, _writer):
        if framing != "Content-Length: 0":
            await reader.readuntil(b"0\r\n\r\n")

    app = FastAPI()
    async with raw_upstream(fail) as first, raw_upstream() as second:

        @app.post("/")
        async def failover(request: Request):
            try:
                return await proxy_pass(request, Upstream(first.url))
            except BadGateway:
                return await proxy_pass(request, Upstream(second.url))

        async with serve(app) as gw:
            head = f"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{framing}\r\n\r\n"
            end = "0\r\n\r\n" if "chunked" in framing else ""
            assert status(await send_raw(gw, (head + end).encode())) == 200

        assert len(first.requests) == len(second.requests) == 1


async def test_a_body_that_was_sent_is_not_sent_again_in_part():
    """Without reading it first, a second attempt fails loudly."""
    app, errors = FastAPI(), []

    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("broke off")

    async with raw_upstream() as second:

        @app.post("/")
        async def failover(request: Request):
            try:
                first = Upstream("http://down", transport=httpx.MockTransport(fail))
                return await proxy_pass(request, first)
            except BadGateway:
                try:
                    return await proxy_pass(request, Upstream(second.url))
                except RuntimeError as error:
                    errors.append(str(error))
                    raise

        async with serve(app) as gw:
            assert status(await get_raw(gw, "/", method="POST", body=b"hello")) == 500

        assert "request.body()" in errors[0]
        assert all(request.body != b"hello" for request in second.requests)


async def test_a_response_that_is_not_sent_is_closed():
    """An endpoint may look at the upstream's answer and give another one."""
    unfinished = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
    async with raw_upstream(unfinished) as upstream:
        pool, app = UpstreamPool(upstream.url), FastAPI()

        @app.get("/")
        async def other(request: Request, chosen: Annotated[Upstream, Depends(pool)]):
            response = await proxy_pass(request, chosen)
            return {"status": response.status_code}

        async with serve(app) as gw:
            assert body(await get_raw(gw)) == b'{"status":200}'
            async with asyncio.timeout(1):
                await upstream.closed.wait()
        assert pool.upstreams[0].in_flight == 0


async def test_the_forwarder_is_usable_alone(server):
    """forward() is a whole ASGI application, without FastAPI and without a router."""
    async with raw_upstream() as upstream:
        target = Upstream(upstream.url)

        async def app(scope, receive, send):
            if scope["type"] == "http":
                await forward(scope, receive, send, target)

        async with serve(Starlette(routes=[Mount("/m", app)]), server) as gw:
            assert status(await get_raw(gw, "/m/a%2Fb?x", method="POST", body=b"hi")) == 200

        assert upstream.last.target == b"/a%2Fb?x"
        assert upstream.last.body == b"hi"
        assert upstream.last.values(b"x-forwarded-prefix") == [b"/m"]


async def test_a_pool_without_an_upstream_is_logged(caplog):
    """Its 503 has a line in the log like any other failure."""
    pool = UpstreamPool("http://a", name="users")
    pool.upstreams[0].weight = 0
    app = FastAPI()
    app.include_router(ProxyRouter(pool))

    assert (await asgi_get(app, "/x")).status_code == 503
    assert ["users" in record.getMessage() for record in caplog.records] == [True]


async def test_a_pool_that_is_not_served_is_one_line_in_the_log(caplog):
    """Else its health checks would be missed only when an upstream is down."""
    pool = UpstreamPool("http://a", name="reports", health=HealthCheck())
    for _ in range(2):
        pool.pick(HTTPConnection({"type": "http", "headers": []}))

    assert [record.getMessage()[:34] for record in caplog.records] == [
        "pool 'reports' is not served: nobo"
    ]


async def test_a_pool_that_is_served_is_not_in_the_log(caplog):
    """Nor is one that needs nothing beside its traffic."""
    async with raw_upstream() as upstream:
        checked = UpstreamPool(upstream.url, health=HealthCheck())
        async with serving(checked):
            for pool in (checked, UpstreamPool(upstream.url)):
                pool.pick(HTTPConnection({"type": "http", "headers": []}))

    assert caplog.records == []


def test_an_option_of_a_pool_is_told_where_it_belongs():
    """It is not the router's."""
    with pytest.raises(ConfigurationError, match=r"balancer is for a pool: ProxyRouter\(Upstream"):
        ProxyRouter(["http://a", "http://b"], balancer="random")


def sticky(name: str, *hosts: str, path: str = "/") -> UpstreamPool:
    affinity = CookieAffinity(name, path=path, secret="0123456789abcdef")
    return UpstreamPool([f"http://{host}" for host in hosts], affinity=affinity)


def test_pools_that_write_the_same_cookie_are_refused():
    """Each would take the other's clients away."""
    with pytest.raises(ConfigurationError, match="'/a' and '/b' take each other's clients"):
        ProxyRouter({"/a": sticky("c", "a1", "a2"), "/b": sticky("c", "b1", "b2")})


@pytest.mark.parametrize(
    "other",
    [
        sticky("d", "b1"),
        sticky("c", "b1", path="/b"),
        sticky("c", "a1", "a2"),
        UpstreamPool("http://b", affinity=HeaderAffinity("c")),
    ],
)
def test_pools_that_do_not_share_a_cookie_go_together(other):
    """By its name, its path, or because they have the same upstreams."""
    ProxyRouter({"/a": sticky("c", "a1", "a2"), "/b": other})


def test_pools_of_a_split_may_write_the_same_cookie():
    """That is how a client stays on its version."""
    ProxyRouter(Split({sticky("c", "a1"): 1, sticky("c", "b1"): 1}))


def test_a_pool_says_what_it_is():
    """The repr is for operators."""
    pool = UpstreamPool(["http://a", Upstream("http://b", weight=0)], name="users")

    assert repr(pool) == "<UpstreamPool 'users' 2 upstreams: 1 healthy, 0 in flight>"
    assert repr(pool.upstreams[1]) == "<Upstream 'http://b' healthy, weight 0, 0 in flight>"
