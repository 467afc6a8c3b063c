"""Declared overrides beneath hooks: declared first, then router-wide hooks, then the route's."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI, Request, Response

from fastapi_proxy_router import (
    CookieEdits,
    ErrorPage,
    ForwardedResponse,
    GatewayError,
    HeaderEdits,
    OutboundRequest,
    ProxyRouter,
    QueryEdits,
    RequestOverride,
    ResponseOverride,
    RouteOverride,
    UpstreamPool,
)
from tests.declared.gateways import Busy, Gateway, empty, response
from tests.servers import OK, raw_upstream, serve

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

DECLARED = RouteOverride(
    path="/x/{id}",
    rewrite="/declared/{id}",
    query=QueryEdits(set={"a": "declared"}),
    method="PUT",
    request_headers=HeaderEdits(set={"x-both": "declared", "x-declared": "1"}),
    response_headers=HeaderEdits(set={"x-reply": "declared", "x-declared": "1"}),
    host="declared.test",
    text="declared",
    forwarded="none",
)


@asynccontextmanager
async def hooked(
    *overrides: RouteOverride, declare, answer=OK, server="uvicorn-httptools", **options
):
    """Serve overrides before one upstream, below what *declare* does with the router."""
    async with raw_upstream(answer) as upstream:
        router = ProxyRouter(upstream.url, overrides=overrides, **options)
        declare(router)
        app = FastAPI()
        app.include_router(router, prefix="/api")
        busy = Busy(app)
        async with serve(busy, server) as served:
            yield Gateway(served.port, served.host, upstream)
            await busy.idle()


async def test_a_hook_that_returns_nothing_leaves_what_is_declared(server):
    """All of it applies beneath."""

    def declare(router):
        @router.override("/x/{id}", methods=["POST"])
        async def hook(id: int) -> None:
            """Change nothing."""

    async with hooked(DECLARED, declare=declare, server=server) as gw:
        got = await gw.get("/api/x/7?b", method="POST", body=b"mine")

        assert gw.sent.line == b"PUT /declared/7?b&a=declared HTTP/1.1"
        assert gw.sent.body == b"declared"
        assert gw.sent.values(b"host") == [b"declared.test"]
        assert gw.sent.values(b"x-both") == [b"declared"]
        assert gw.sent.values(b"x-forwarded-for") == []
        assert got.values("x-reply") == [b"declared"]


async def test_the_hook_wins_where_both_say_something(server):
    """Field by field; what it does not say stays declared."""

    def declare(router):
        @router.override("/x/{id}", methods=["GET"])
        async def hook() -> RequestOverride:
            return RequestOverride(
                path="/hook",
                query=QueryEdits(set={"b": "hook"}),
                method="PATCH",
                headers=HeaderEdits(set={"x-both": "hook", "x-hook": "1"}),
                response_headers=HeaderEdits(set={"x-reply": "hook"}),
                host="hook.test",
                json={"by": "hook"},
                forwarded=True,
            )

    async with hooked(DECLARED, declare=declare, server=server) as gw:
        got = await gw.get("/api/x/7?b")

        assert gw.sent.line == b"PATCH /hook?a=declared&b=hook HTTP/1.1"
        assert gw.sent.body == b'{"by":"hook"}'
        assert gw.sent.values(b"content-type") == [b"application/json"]
        assert gw.sent.values(b"host") == [b"hook.test"]
        assert gw.sent.values(b"x-both") == [b"hook"]
        assert gw.sent.values(b"x-declared") == gw.sent.values(b"x-hook") == [b"1"]
        assert len(gw.sent.values(b"forwarded")) == 1
        assert got.values("x-reply") == [b"hook"]
        assert got.values("x-declared") == [b"1"]


async def test_the_order_is_declared_router_route():
    """Each sees what is left by those before it, and the last one wins."""
    edits = {name: HeaderEdits(set={"x-last": name}, add={"x-all": name}) for name in "abc"}

    def declare(router):
        @router.on_request
        async def first() -> RequestOverride:
            return RequestOverride(headers=edits["b"])

        @router.override("/x")
        async def hook() -> RequestOverride:
            return RequestOverride(headers=edits["c"])

        @router.on_send
        async def send(outbound: OutboundRequest) -> None:
            seen.append(outbound.headers["x-last"])

    seen: list[str] = []
    override = RouteOverride(path="/x", request_headers=edits["a"])
    async with hooked(override, declare=declare) as gw:
        await gw.get("/api/x")

        assert gw.sent.values(b"x-last") == [b"c"]
        assert gw.sent.values(b"x-all") == [b"a", b"b", b"c"]
        assert seen == ["c"]


async def test_what_on_send_sees_is_all_that_is_declared():
    """It has the last word on path, query and headers."""

    def declare(router):
        @router.on_send
        async def sign(outbound: OutboundRequest) -> None:
            assert outbound.method == "PUT"
            outbound.headers["x-signed"] = f"{outbound.path!r} {outbound.query!r}"
            outbound.headers["X-Both"] = "signed"

    async with hooked(DECLARED, declare=declare) as gw:
        await gw.get("/api/x/7?b")

        assert gw.sent.values(b"x-signed") == [b"b'/declared/7' b'b&a=declared'"]
        assert gw.sent.values(b"x-both") == [b"signed"]
        assert gw.sent.body == b"declared"


async def test_a_hook_of_the_response_sees_it_as_it_is_declared():
    """Edited and with its status, and what the hook says comes after that."""

    def declare(router):
        @router.override_response("/x", when="always")
        async def hook(response: ForwardedResponse) -> ResponseOverride:
            seen.append((response.status_code, response.headers["x-a"]))
            return ResponseOverride(headers=HeaderEdits(set={"x-a": "hook"}), status=202)

    seen: list[tuple[int, str]] = []
    edits = HeaderEdits(set={"x-a": "declared"})
    override = RouteOverride(path="/x", status={404: 200}, response_headers=edits)
    async with hooked(override, declare=declare, answer=response(404)) as gw:
        got = await gw.get("/api/x")

        assert seen == [(200, "declared")]
        assert got.status == 202
        assert got.values("x-a") == [b"hook"]


async def test_when_is_about_the_upstreams_status_beneath_hooks_too():
    """Not about that which is declared for the client."""

    def declare(router):
        @router.override("/x")
        async def hook() -> RequestOverride:
            success = HeaderEdits(set={"x-success": "1"}, when="success")
            failure = HeaderEdits(set={"x-failure": "1"}, when="failure")
            return RequestOverride(response_headers=[success, failure])

    override = RouteOverride(path="/x", status=200)
    async with hooked(override, declare=declare, answer=response(500)) as gw:
        got = await gw.get("/api/x")

        assert got.status == 200
        assert got.values("x-failure") == [b"1"]
        assert got.values("x-success") == []


async def test_what_a_hook_answers_is_sent_as_it_is():
    """Nothing that is declared of the upstream's response is done to it."""

    def declare(router):
        @router.override("/x")
        async def hook() -> Response:
            return Response("mine", 404, {"location": "/y", "set-cookie": "a=1"})

    override = RouteOverride(
        path="/x",
        status=500,
        rewrite_urls=True,
        cookies=CookieEdits(secure=True),
        response_headers=HeaderEdits(set={"x-a": "1"}),
        error_pages=[ErrorPage(statuses=["400-599"], text="never")],
    )
    async with hooked(override, declare=declare) as gw:
        got = await gw.get("/api/x")

        assert (got.status, got.body) == (404, b"mine")
        assert got.values("location") == [b"/y"]
        assert got.values("set-cookie") == [b"a=1"]
        assert got.values("x-a") == []
        assert gw.upstream.connections == 0


async def test_a_hook_chooses_another_pool_than_is_declared():
    """The later one wins, and the declared one is not asked."""
    async with raw_upstream() as other:
        chosen = UpstreamPool(other.url)

        def declare(router):
            @router.override("/x")
            async def hook() -> RequestOverride:
                return RequestOverride(upstream=chosen)

        override = RouteOverride(path="/{p:path}", pool="declared", rewrite="/new/{p}")
        async with hooked(override, declare=declare, named_pools=[empty("declared")]) as gw:
            assert (await gw.get("/api/x")).status == 200
            assert (await gw.get("/api/y")).status == 503

            assert other.last.target == b"/new/x"
            assert gw.upstream.connections == 0


async def test_hooks_hear_of_an_error_before_its_page():
    """What a hook answers instead wins over the page that is declared."""

    seen: list[str] = []

    def declared(router):
        @router.on_response
        async def count(request: Request, error: GatewayError | None) -> Response | None:
            seen.append(type(error).__name__)
            return Response("by hook", 200) if "hook" in request.query_params else None

    page = ErrorPage(statuses=[503], text="page")
    override = RouteOverride(path="/{p:path}", pool="declared", error_pages=[page])
    async with hooked(override, declare=declared, named_pools=[empty("declared")]) as gw:
        assert (await gw.get("/api/x")).body == b"page"
        got = await gw.get("/api/x?hook")

    assert (got.status, got.body) == (200, b"by hook")
    assert got.values("retry-after") == [b"1"]
    assert seen == ["NoUpstreamAvailable"] * 2


async def test_urls_are_turned_beneath_a_hook_that_rewrites_too():
    """What the upstream says of itself is turned, whoever sent the request where."""

    def declare(router):
        @router.override("/x/{id}")
        async def hook() -> RequestOverride:
            return RequestOverride(path="/elsewhere")

    override = RouteOverride(path="/x/{id}", rewrite="/v2/{id}", rewrite_urls=True)
    async with hooked(override, declare=declare, answer=response(302, "Location: /v2/8")) as gw:
        got = await gw.get("/api/x/7")

        assert gw.sent.target == b"/elsewhere"
        assert got.values("location") == [b"/api/x/8"]
