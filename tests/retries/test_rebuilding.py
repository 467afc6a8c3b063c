"""What each try sends is made anew: for its own upstream, from what the client has sent."""

import pytest
from fastapi import FastAPI

from fastapi_proxy_router import (
    HeaderEdits,
    ProxyRouter,
    RequestOverride,
    RouteOverride,
    Upstream,
    UpstreamPool,
)
from tests.retries.pools import closing, fast, first
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]


async def test_each_try_has_the_host_of_its_upstream(pools):
    """Nothing of the first one's address is told to the second."""
    async with closing() as one, raw_upstream() as two:
        upstream = Upstream("http://secret.first.test:81/a?key=1", address="127.0.0.1")
        upstream.address = upstream.address._replace(port=one.port)
        async with pools.gateway_to(upstream, two, retry=fast()) as gw:
            assert (await gw.ask(target="/x?q=1")).status == 200

        assert one.last.values(b"host") == [b"secret.first.test:81"]
        assert two.last.values(b"host") == [two.authority.encode()]
        assert b"secret" not in two.last.head
        assert str(one.port).encode() not in two.last.head


async def test_each_try_has_the_base_path_and_query_of_its_upstream(pools):
    """Once."""
    async with closing() as one, raw_upstream() as two:
        upstreams = [Upstream(f"{one.url}/v1?a=1"), Upstream(f"{two.url}/v2/?b=2")]
        async with pools.gateway_to(*upstreams, retry=fast(), prefix="/api") as gw:
            assert (await gw.ask(target="/api/x%2Fy?q=1")).status == 200

        assert one.last.target == b"/v1/x%2Fy?a=1&q=1"
        assert two.last.target == b"/v2/x%2Fy?b=2&q=1"


async def test_forwarding_headers_are_added_once(pools):
    """A second try has those of a first one."""
    options = {"trusted_proxies": ["127.0.0.1"], "forwarded": True, "via": "gw", "retry": fast()}
    async with closing() as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, prefix="/api", **options) as gw:
            headers = ("X-Forwarded-For: 192.0.2.1", "Connection: X-Gone", "X-Gone: 1", "X: 1")
            assert (await gw.ask("GET", "/api/x", *headers)).status == 200

        first_try, second_try = [
            [pair for pair in upstream.last.headers if pair[0] != b"host"]
            for upstream in (one, two)
        ]
        assert first_try == second_try
        assert two.last.values(b"x-forwarded-for") == [b"192.0.2.1, 127.0.0.1"]
        assert two.last.values(b"x-forwarded-prefix") == [b"/api"]
        assert len(two.last.values(b"via")) == len(two.last.values(b"forwarded")) == 1
        assert two.last.values(b"x-gone") == []


async def test_a_declared_override_applies_to_each_try(pools):
    """Path, query, headers, method and body."""
    override = RouteOverride(
        path="/old/{id}",
        rewrite="/new/{id}",
        request_headers=HeaderEdits(set={"x-api": "2"}, add={"x-more": "1"}),
        response_headers=HeaderEdits(set={"x-seen": "yes"}),
    )
    async with closing() as one, raw_upstream() as two:
        pool = UpstreamPool([one.url, two.url], balancer=first, retry=fast())
        app = FastAPI()
        app.include_router(ProxyRouter(pool, overrides=[override]))
        async with serve(app) as gw:
            answer = await get_raw(gw, "/old/7")

        assert status(answer) == 200
        assert answer.lower().count(b"x-seen: yes") == 1
        for upstream in (one, two):
            assert upstream.last.target == b"/new/7"
            assert upstream.last.values(b"x-api") == [b"2"]
            assert upstream.last.values(b"x-more") == [b"1"]


@pytest.mark.parametrize(("method", "expected"), [("PUT", 200), ("POST", 502)])
async def test_a_hook_is_called_once_and_applies_to_each_try(pools, method, expected):
    """What it says of the method says whether there is another try, and its body is sent again."""
    calls = []
    async with closing(after=5) as one, raw_upstream() as two:
        pool = UpstreamPool([one.url, two.url], balancer=first, retry=fast())
        proxy = ProxyRouter(pool)

        @proxy.override("/items", methods=["POST"])
        async def change() -> RequestOverride:
            calls.append(1)
            return RequestOverride(method=method, path="/changed", body=b"hello")

        app = FastAPI()
        app.include_router(proxy)
        async with serve(app) as gw:
            answer = await get_raw(gw, "/items", method="POST", body=b"ignored")

        assert (status(answer), len(calls)) == (expected, 1)
        if expected == 200:
            assert (two.last.line, two.last.body) == (b"PUT /changed HTTP/1.1", b"hello")
        else:
            assert two.connections == 0


async def test_a_host_that_is_kept_is_kept_in_each_try(pools):
    """``preserve_host``."""
    async with closing() as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, retry=fast(), preserve_host=True) as gw:
            assert (await gw.ask()).status == 200

        assert two.last.values(b"host") == [b"public.test"]


async def test_the_client_is_not_told_of_any_try(pools):
    """Neither who failed nor how often."""
    async with closing() as one, closing() as two:
        async with pools.gateway_to(one, two, retry=fast()) as gw:
            async with gw.client() as client:
                await client.send(gw.head("GET", "/x", "Connection: close"))
                raw = await client.end()

    assert raw.startswith(b"HTTP/1.1 502 ")
    for upstream in (one, two):
        assert str(upstream.port).encode() not in raw
