"""The straight way past FastAPI: taken when nothing is to be injected, left when anything is."""

from collections.abc import Collection
from typing import Annotated, Any

import fastapi.routing
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer, SecurityScopes
from starlette.requests import HTTPConnection

from fastapi_proxy_router import ProxyRouter, Upstream, UpstreamPool
from tests.fast_path.ways import FASTAPI, STRAIGHT, included
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = pytest.mark.anyio


@pytest.fixture
async def other():
    """Run an upstream that stands in for the first."""
    async with raw_upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother") as served:
        yield served


# --- Where nothing is to be injected -----------------------------------------------------------


@pytest.mark.parametrize("prefixes", [("",), ("/x",), ("", ""), ("/x", "/y"), ("/x", "", "/y")])
async def test_nothing_to_inject_goes_straight(pool, ways, prefixes):
    """However deep the router is included, a request that needs no FastAPI does without."""
    async with serve(included(ProxyRouter(pool), prefixes)) as gw:
        assert status(await get_raw(gw, "".join(prefixes) + "/z")) == 200
        assert status(await get_raw(gw, "".join(prefixes) + "/z", method="POST", body=b"b")) == 200

    assert ways.seen == [STRAIGHT, STRAIGHT]


async def test_what_only_documents_goes_straight(pool, ways):
    """Tags, responses and deprecation say nothing about how a request is answered."""
    proxy = ProxyRouter(pool, tags=["a"], deprecated=True)
    app = included(proxy, tags=["b"], responses={502: {"description": "no upstream"}})
    async with serve(app) as gw:
        assert status(await get_raw(gw)) == 200

    assert ways.seen == [STRAIGHT]


async def test_dependencies_of_other_routes_do_not_matter(pool, ways):
    """A route beside the catch-all has dependencies of its own, the catch-all has none."""
    proxy = ProxyRouter(pool)
    ran: list[str] = []

    @proxy.get("/own", dependencies=[Depends(lambda: ran.append("own"))])
    async def own() -> str:
        return "own"

    async with serve(included(proxy)) as gw:
        assert status(await get_raw(gw, "/own")) == 200
        assert status(await get_raw(gw, "/forwarded")) == 200

    assert (ran, ways.seen) == (["own"], [STRAIGHT])


# --- Dependencies ------------------------------------------------------------------------------

PLACES = ("app", "include", "parent", "nested include", "router")


class Guard:
    """A dependency in each of the forms that FastAPI knows, and a note of what it did."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def plain(self, connection: HTTPConnection) -> None:
        self.ran.append("in")
        if connection.headers.get("authorization") != "Bearer good":
            raise HTTPException(401, "who are you?")

    async def coroutine(self, connection: HTTPConnection) -> None:
        self.plain(connection)

    async def generator(self, connection: HTTPConnection):
        self.plain(connection)
        yield
        self.ran.append("out")

    async def scoped(self, connection: HTTPConnection, scopes: SecurityScopes) -> None:
        assert scopes.scopes == ["proxy"]
        self.plain(connection)

    def declared(self, form: str) -> Any:
        forms = {
            "plain": Depends(self.plain),
            "coroutine": Depends(self.coroutine),
            "yield": Depends(self.generator),
            "security": Security(self.scoped, scopes=["proxy"]),
        }
        return forms[form]


def guarded(place: str, dependency: Any, pool: UpstreamPool) -> FastAPI:
    """Declare a dependency in one place of an app with a router in a router."""

    def at(here: str) -> list[Any] | None:
        return [dependency] if place == here else None

    proxy = ProxyRouter(pool, dependencies=at("router"))
    parent = APIRouter(dependencies=at("parent"))
    parent.include_router(proxy, dependencies=at("nested include"))
    app = FastAPI(dependencies=at("app"))
    app.include_router(parent, dependencies=at("include"))
    return app


@pytest.mark.parametrize("form", ["plain", "coroutine", "yield", "security"])
@pytest.mark.parametrize("place", PLACES)
async def test_a_dependency_is_never_skipped(pool, ways, upstream, place, form):
    """Wherever and however it is declared, it runs for every request, before the pool's."""
    guard = Guard()
    async with serve(guarded(place, guard.declared(form), pool)) as gw:
        assert status(await get_raw(gw)) == 401
        assert (ways.seen, upstream.connections) == ([], 0)
        assert status(await get_raw(gw, "/", "Authorization: Bearer good")) == 200

    assert ways.seen == [FASTAPI]
    assert guard.ran == ["in", "in"] + ["out"] * (form == "yield")


@pytest.mark.parametrize("scheme", [HTTPBearer(), APIKeyHeader(name="Authorization")])
@pytest.mark.parametrize("place", PLACES)
async def test_a_security_scheme_is_never_skipped(pool, ways, place, scheme):
    """FastAPI's own schemes refuse a client without credentials."""
    async with serve(guarded(place, Depends(scheme), pool)) as gw:
        assert status(await get_raw(gw)) in (401, 403)
        assert status(await get_raw(gw, "/", "Authorization: Bearer good")) == 200

    assert ways.seen == [FASTAPI]


async def test_what_a_dependency_yields_from_is_open_until_the_end(pool, upstream):
    """A dependency that yields is left after the response, not before."""
    events: list[str] = []

    async def session():
        events.append(f"in, after {len(upstream.requests)}")
        yield
        events.append(f"out, after {len(upstream.requests)}")

    async with serve(included(ProxyRouter(pool, dependencies=[Depends(session)]))) as gw:
        assert (await get_raw(gw)).endswith(b"ok")

    assert events == ["in, after 0", "out, after 1"]


async def test_a_router_in_two_apps_has_the_dependencies_of_each(pool, ways):
    """What one app declares holds there and nowhere else."""
    proxy, guard = ProxyRouter(pool), Guard()
    open_app, closed_app = included(proxy), FastAPI(dependencies=[guard.declared("plain")])
    closed_app.include_router(proxy)
    async with serve(open_app) as first, serve(closed_app) as second:
        assert status(await get_raw(first)) == 200
        assert status(await get_raw(second)) == 401
        assert status(await get_raw(second, "/", "Authorization: Bearer good")) == 200
        assert status(await get_raw(first)) == 200

    assert ways.seen == [STRAIGHT, FASTAPI, STRAIGHT]


async def test_a_router_included_twice_has_the_dependencies_of_each_call(pool, ways):
    """One app may include a router openly under one prefix and guarded under another."""
    proxy, guard, app = ProxyRouter(pool), Guard(), FastAPI()
    app.include_router(proxy, prefix="/closed", dependencies=[guard.declared("plain")])
    app.include_router(proxy, prefix="/open")
    async with serve(app) as gw:
        assert status(await get_raw(gw, "/open/x")) == 200
        assert status(await get_raw(gw, "/closed/x")) == 401

    assert ways.seen == [STRAIGHT]


# --- dependency_overrides ----------------------------------------------------------------------


async def test_an_override_of_the_pool_holds_while_it_is_there(pool, ways, upstream, other):
    """It is honoured before the first request and after, and so is that it is gone again."""
    app = included(ProxyRouter(pool))
    stand_in = Upstream(other.url)
    app.dependency_overrides[pool] = lambda: stand_in
    async with serve(app) as gw:
        assert (await get_raw(gw)).endswith(b"other")
        del app.dependency_overrides[pool]
        assert (await get_raw(gw)).endswith(b"ok")
        app.dependency_overrides = {pool: lambda: stand_in}
        assert (await get_raw(gw)).endswith(b"other")
        app.dependency_overrides.clear()
        assert (await get_raw(gw)).endswith(b"ok")

    assert (len(other.requests), len(upstream.requests)) == (2, 2)
    assert ways.seen == [STRAIGHT, STRAIGHT]


async def test_an_override_reaches_a_router_in_a_router(pool, other):
    """The app's overrides hold for what it includes, however deep."""
    app = included(ProxyRouter(pool), ("/x", "/y", "/z"))
    async with serve(app) as gw:
        assert (await get_raw(gw, "/x/y/z")).endswith(b"ok")
        app.dependency_overrides[pool] = lambda: Upstream(other.url)
        assert (await get_raw(gw, "/x/y/z")).endswith(b"other")


async def test_an_override_of_something_else_leaves_the_straight_way(pool, ways):
    """An app with any override is left to FastAPI, which knows what it is for."""
    app = included(ProxyRouter(pool))
    app.dependency_overrides[get_raw] = lambda: None
    async with serve(app) as gw:
        assert (await get_raw(gw)).endswith(b"ok")
        app.dependency_overrides.clear()
        assert (await get_raw(gw)).endswith(b"ok")

    assert ways.seen == [FASTAPI, STRAIGHT]


async def test_an_override_of_a_dependency_lets_a_request_in(pool, ways):
    """A test may replace the guard of a proxy, as that of any route."""
    guard = Guard()
    app = guarded("app", guard.declared("plain"), pool)
    app.dependency_overrides[guard.plain] = lambda: None
    async with serve(app) as gw:
        assert status(await get_raw(gw)) == 200

    assert (guard.ran, ways.seen) == ([], [FASTAPI])


async def test_overrides_are_those_of_the_app_that_includes_the_router(pool, ways, other):
    """Of an app mounted in an app the inner one's count, as FastAPI has it."""
    inner, outer = included(ProxyRouter(pool)), FastAPI()
    outer.mount("/inner", inner)
    async with serve(outer) as gw:
        outer.dependency_overrides[pool] = lambda: Upstream(other.url)
        assert (await get_raw(gw, "/inner/x")).endswith(b"ok")
        inner.dependency_overrides[pool] = lambda: Upstream(other.url)
        assert (await get_raw(gw, "/inner/x")).endswith(b"other")

    assert ways.seen == [STRAIGHT]


# --- Pools, routes and instruments of one's own ------------------------------------------------


class ByTenant(UpstreamPool):
    """A pool that is another dependency than the one it derives from."""

    async def __call__(  # type: ignore[override]
        self, connection: HTTPConnection, tenant: Annotated[str, Header()]
    ) -> Upstream:
        assert tenant == "june"
        return self.choose(connection)


async def test_a_pool_that_injects_in_its_own_way_is_called(upstream, ways):
    """Its __call__ runs, with whatever it asks FastAPI for."""
    pool = ByTenant(upstream.url, balancer=ways)
    async with serve(included(ProxyRouter(pool))) as gw:
        assert status(await get_raw(gw)) == 422
        assert status(await get_raw(gw, "/", "Tenant: june")) == 200

    assert ways.seen == [FASTAPI]


async def test_a_pool_that_only_picks_in_its_own_way_goes_straight(upstream, other, ways):
    """A pool's own pick() is asked on the straight way too."""

    class Second(UpstreamPool):
        def pick(
            self, connection: HTTPConnection, *, without: Collection[Upstream] = ()
        ) -> Upstream:
            super().pick(connection, without=without)
            return self.upstreams[1]

    pool = Second([upstream.url, other.url], balancer=ways)
    async with serve(included(ProxyRouter(pool))) as gw:
        assert (await get_raw(gw)).endswith(b"other")

    assert ways.seen == [STRAIGHT]


async def test_a_route_class_of_ones_own_handles_every_request(pool, ways):
    """route_class= is what FastAPI offers to wrap handlers, so it is not gone past."""
    handled: list[str] = []

    class Noted(APIRoute):
        def get_route_handler(self):
            handler = super().get_route_handler()

            async def noted(request):
                handled.append(request.method)
                return await handler(request)

            return noted

    async with serve(included(ProxyRouter(pool, route_class=Noted))) as gw:
        assert status(await get_raw(gw)) == 200
        assert status(await get_raw(gw, method="POST", body=b"x")) == 200

    assert handled == ["GET", "POST"]
    assert ways.seen == [FASTAPI, FASTAPI]


async def test_an_instrumented_endpoint_is_called(pool, ways, monkeypatch):
    """Tracers that wrap dependant.call when FastAPI builds a handler see every request."""
    calls: list[str] = []
    build = fastapi.routing.get_request_handler

    def traced(*, dependant, **options):
        endpoint = dependant.call

        async def call(**values):
            calls.append(endpoint.__name__)
            return await endpoint(**values)

        dependant.call = call
        return build(dependant=dependant, **options)

    monkeypatch.setattr(fastapi.routing, "get_request_handler", traced)
    async with serve(included(ProxyRouter(pool))) as gw:
        assert status(await get_raw(gw)) == 200

    assert len(calls) == 1
    assert ways.seen == [FASTAPI]
