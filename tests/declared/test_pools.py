"""A pool that an override names: who serves it, and what becomes of the route's own."""

import asyncio

import pytest

from fastapi_proxy_router import (
    CookieAffinity,
    ErrorPage,
    HeaderEdits,
    HealthCheck,
    Mirror,
    ProxyRouter,
    RouteOverride,
    Split,
    Upstream,
    UpstreamPool,
)
from tests.declared.gateways import LIMIT, Got, application, empty
from tests.health.patient import often, patient, until
from tests.servers import RawUpstream, get_raw, raw_upstream, serve, status
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

CANARY = RouteOverride(path="/canary/{rest:path}", pool="canary", rewrite="/{rest}")


def targets(upstream: RawUpstream) -> list[bytes]:
    return [request.target for request in upstream.requests]


async def test_another_pool_serves_it(way, server):
    """What matches goes there, with that pool's policy; all else stays."""
    async with raw_upstream() as own, raw_upstream() as other:
        canary = UpstreamPool(f"{other.url}/base", name="canary", preserve_host=True)
        app = application(own.url, CANARY, named_pools=[canary], way=way)
        async with serve(app, server) as gw:
            assert status(await get_raw(gw, "/canary/x%2Fy")) == 200
            assert status(await get_raw(gw, "/x")) == 200

        assert targets(other) == [b"/base/x%2Fy"]
        assert targets(own) == [b"/x"]
        assert other.last.values(b"host") == [gw.authority.encode()]


async def test_a_pool_that_serves_a_prefix_may_be_named(way):
    """It has a prefix of its own, and is asked for others' requests as well."""
    async with raw_upstream() as own, raw_upstream() as other:
        pools = {"": own.url, "/c": UpstreamPool(other.url, name="canary")}
        async with serve(application(pools, CANARY, way=way)) as gw:
            await get_raw(gw, "/canary/x")
            await get_raw(gw, "/c/y")

        assert targets(other) == [b"/x", b"/y"]
        assert targets(own) == []


async def test_a_split_may_be_named(way):
    """Its weights decide."""
    async with raw_upstream() as own, raw_upstream() as other:
        split = Split({UpstreamPool(other.url): 1}, name="canary")
        async with serve(application(own.url, CANARY, named_pools=[split], way=way)) as gw:
            await get_raw(gw, "/canary/x")

        assert targets(other) == [b"/x"]


async def test_the_routes_own_pool_does_not_matter(way, server):
    """It has nobody left, and what it does not serve does not hear of that."""
    async with raw_upstream() as other:
        own = empty()
        canary = UpstreamPool(other.url, name="canary")
        app = application(own, CANARY, named_pools=[canary], way=way)
        async with serve(app, server) as gw:
            assert status(await get_raw(gw, "/canary/x")) == 200
            got = Got(await get_raw(gw, "/x"))

        assert got.status == 503
        assert got.values("retry-after") == [b"1"]
        assert own.in_flight == canary.in_flight == 0


async def test_a_named_pool_that_has_nobody(way):
    """Nobody else is asked in its place."""
    async with raw_upstream() as own:
        canary = empty("canary")
        app = application(own.url, CANARY, named_pools=[canary], way=way)
        async with serve(app) as gw:
            assert status(await get_raw(gw, "/canary/x")) == 503
            assert status(await get_raw(gw, "/x")) == 200

        assert targets(own) == [b"/x"]


async def test_health_checks_run_for_a_named_pool(way):
    """The lifespan keeps it going: the sick one is never asked, and the last probe is the last."""
    async with patient() as sick, patient() as well, raw_upstream() as own:
        sick.status = 500
        canary = UpstreamPool(
            [sick.url, well.url], name="canary", panic=False, health=often(path="/healthz")
        )
        app = application(own.url, CANARY, named_pools=[canary], way=way)
        async with serve(app) as gw:
            await until(lambda: len(sick.requests) > 0 and len(well.requests) > 0)
            for _ in range(6):
                assert status(await get_raw(gw, "/canary/x")) == 200

        assert set(sick.lines) == {"HEAD /healthz"}
        assert well.lines.count("GET /x") == 6
        assert not [task for task in asyncio.all_tasks() if "probe" in task.get_name()]


async def test_a_client_stays_with_its_upstream_of_a_named_pool(way, server):
    """The pool's own affinity gives the key, and reads it again."""
    async with raw_upstream() as own, raw_upstream() as one, raw_upstream() as two:
        canary = UpstreamPool(
            [one.url, two.url],
            name="canary",
            balancer="round_robin",
            affinity=CookieAffinity("stick", secret="0123456789abcdef"),
        )
        app = application(own.url, CANARY, named_pools=[canary], way=way)
        async with serve(app, server) as gw:
            first = Got(await get_raw(gw, "/canary/x"))
            (cookie,) = first.values("set-cookie")
            pair = cookie.partition(b";")[0].decode()
            for _ in range(4):
                again = Got(await get_raw(gw, "/canary/x", f"Cookie: {pair}"))
                assert again.values("set-cookie") == []
            assert Got(await get_raw(gw, "/x")).values("set-cookie") == []

        assert sorted([len(one.requests), len(two.requests)]) == [0, 5]


async def test_a_test_may_put_something_in_the_place_of_a_named_pool(way):
    """``dependency_overrides`` of it, and of the route's own, each for its own."""
    async with raw_upstream() as own, raw_upstream() as other, raw_upstream() as fake:
        pool, canary = UpstreamPool(own.url), UpstreamPool(other.url, name="canary")
        app = application(pool, CANARY, named_pools=[canary], way=way)
        app.dependency_overrides[canary] = lambda: Upstream(fake.url)
        async with serve(app) as gw:
            await get_raw(gw, "/canary/x")
            await get_raw(gw, "/y")

        assert targets(fake) == [b"/x"]
        assert targets(own) == [b"/y"]
        assert targets(other) == []

    async with raw_upstream() as own, raw_upstream() as other, raw_upstream() as fake:
        pool, canary = UpstreamPool(own.url), UpstreamPool(other.url, name="canary")
        app = application(pool, CANARY, named_pools=[canary], way=way)
        app.dependency_overrides[pool] = lambda: Upstream(fake.url)
        async with serve(app) as gw:
            await get_raw(gw, "/canary/x")
            await get_raw(gw, "/y")

        assert targets(fake) == [b"/y"]
        assert targets(other) == [b"/x"]


async def test_a_named_pool_serves_websockets(server):
    """Also while the route's own has nobody."""
    async with ws_upstream() as other:
        own = empty()
        canary = UpstreamPool(other.url, name="canary")
        app = application(own, CANARY, named_pools=[canary])
        async with serve(app, server) as gw:
            async with dialled(gw, "/canary/x") as client:
                await client.send("hello")
                assert await client.recv() == "hello"

        request = other.connections[0].request
        assert request is not None
        assert request.path == "/x"


async def test_limits_of_a_named_pool_are_its_own(way):
    """One exchange at a time there keeps nobody from the route's own pool."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def holds(_reader, writer):
        begun.set()
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with raw_upstream() as own, raw_upstream(holds) as other:
        canary = UpstreamPool(other.url, name="canary", max_concurrent=1)
        app = application(own.url, CANARY, named_pools=[canary], way=way)
        async with serve(app) as gw, asyncio.timeout(LIMIT):
            first = asyncio.create_task(get_raw(gw, "/canary/x"))
            await begun.wait()
            assert status(await get_raw(gw, "/canary/x")) == 503
            assert status(await get_raw(gw, "/x")) == 200
            go_on.set()
            assert status(await first) == 200
        assert canary.in_flight == 0


async def test_a_router_that_is_included_twice_serves_a_named_pool_in_both(way):
    """Each including call leads to the same pools."""
    async with raw_upstream() as own, raw_upstream() as other:
        router = ProxyRouter(
            own.url,
            overrides=[CANARY],
            named_pools=[UpstreamPool(other.url, name="canary", health=HealthCheck(interval=60))],
        )
        app = application("http://unused.test", include="/none", way=way)
        app.include_router(router, prefix="/a")
        app.include_router(router, prefix="/b")
        async with serve(app) as gw:
            assert status(await get_raw(gw, "/a/canary/x")) == 200
            assert status(await get_raw(gw, "/b/canary/y")) == 200

        assert [target for target in targets(other) if target != b"/"] == [b"/x", b"/y"]


async def test_a_copy_is_changed_alike(way):
    """A shadow pool gets what the upstream gets, and a page for the client is none of its."""
    async with raw_upstream() as own, raw_upstream() as shadow:
        pool = UpstreamPool(own.url, mirror=Mirror(pool=UpstreamPool(f"{shadow.url}/shadow")))
        override = RouteOverride(
            path="/x/{id}",
            rewrite="/y/{id}",
            method="PUT",
            text="ours",
            request_headers=HeaderEdits(set={"x-a": "1"}, remove=["cookie"]),
            status=404,
            error_pages=[ErrorPage(statuses=[404], text="page")],
        )
        async with serve(application(pool, override, way=way)) as served:
            got = Got(await get_raw(served, "/x/7?q", "Cookie: a=1", method="POST", body=b"mine"))
            async with asyncio.timeout(LIMIT):
                await shadow.received.wait()

        assert (got.status, got.body) == (404, b"page")
        for upstream, target in ((own, b"/y/7?q"), (shadow, b"/shadow/y/7?q")):
            assert upstream.last.line == b"PUT " + target + b" HTTP/1.1"
            assert upstream.last.values(b"x-a") == [b"1"]
            assert upstream.last.values(b"cookie") == []
            assert upstream.last.body == b"ours"
