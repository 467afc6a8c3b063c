"""Hooks of requests: the upstream that they are given, and another that they choose."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import Depends, Request, Response
from starlette.requests import HTTPConnection

from fastapi_proxy_router import (
    CookieAffinity,
    ForwardedResponse,
    GatewayError,
    ProxyRouter,
    RequestOverride,
    Retry,
    RouteOverride,
    Split,
    Upstream,
    UpstreamPool,
    proxy_pass,
)
from tests.hooks.helping import answering, app_of, lines, tell, text, until
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


def nothing() -> None:
    """Be a dependency."""


class Turns:
    """A balancer that counts, and takes one after the other."""

    def __init__(self) -> None:
        self.picked: list[Upstream] = []

    def __call__(self, upstreams: Any, _connection: HTTPConnection) -> Upstream:
        self.picked.append(upstreams[len(self.picked) % len(upstreams)])
        return self.picked[-1]


@asynccontextmanager
async def named(*names: str):
    """Give an upstream for each name, which answers with it."""
    if not names:
        yield ()
        return
    async with raw_upstream(answering(names[0].encode())) as first, named(*names[1:]) as rest:
        yield (first, *rest)


async def test_the_upstream_that_a_hook_is_given_is_the_one_that_is_used():
    """It is picked once, and the hook may choose it by itself as well."""
    turns = Turns()
    async with named("a", "b") as upstreams:
        pool = UpstreamPool([one.url for one in upstreams], balancer=turns)
        proxy = ProxyRouter(pool)
        given: list[Upstream] = []

        @proxy.override("/x")
        async def hook(
            upstream: Annotated[Upstream, Depends(pool)], explicit: bool = False
        ) -> RequestOverride | None:
            given.append(upstream)
            return RequestOverride(upstream=upstream) if explicit else None

        async with serve(app_of(proxy)) as gw:
            answers = [text(await get_raw(gw, f"/x?explicit={n}")) for n in (0, 1, 0, 1)]
        assert answers == [b"a", b"b", b"a", b"b"]
        assert given == turns.picked


CHOOSERS = ["override", "on_request", "declared"]


def choosing(chooser: str, target: Any, *pools: Any) -> ProxyRouter:
    """Return a router for the first of *pools*, on which somebody chooses *target*."""
    declared = [RouteOverride(path="/x", pool=target.name)] if chooser == "declared" else []
    proxy = ProxyRouter(pools[0], overrides=declared, named_pools=pools[1:])
    if chooser == "override":
        proxy.override("/x")(lambda: RequestOverride(upstream=target))
    elif chooser == "on_request":
        proxy.on_request(lambda: RequestOverride(upstream=target))
    return proxy


@pytest.mark.parametrize("chooser", CHOOSERS)
@pytest.mark.parametrize("known", [True, False])
async def test_another_pool_may_be_chosen(chooser, known):
    """Its balancer picks, with its affinity, and nobody asks the pool of the route."""
    if chooser == "declared" and not known:
        pytest.skip("declared overrides name pools that the router knows")
    ours, theirs = Turns(), Turns()
    async with named("a", "b", "c") as (a, b, c):
        own = UpstreamPool(a.url, balancer=ours, name="own")
        other = UpstreamPool(
            [b.url, c.url], balancer=theirs, affinity=CookieAffinity(), name="other"
        )
        proxy = choosing(chooser, other, own, *([other] if known else []))
        async with serve(app_of(proxy)) as gw:
            first = await get_raw(gw, "/x")
            (cookie,) = lines(first, "set-cookie")
            bound = f"Cookie: {cookie.partition(';')[0]}"
            again = [text(await get_raw(gw, "/x", bound)) for _ in range(3)]
        assert again == [text(first)] * 3
        assert ours.picked == []
        assert len(theirs.picked) == 1


@pytest.mark.parametrize("chooser", CHOOSERS)
async def test_a_chosen_pool_retries_with_its_own_members(chooser):
    """The one that fails is blamed, and the next of that pool answers."""
    async with named("own", "good") as (own, good):
        bad = "http://127.0.0.1:1"
        first = UpstreamPool(own.url, name="own")
        other = UpstreamPool(
            [bad, good.url], balancer=Turns(), name="other", retry=Retry(attempts=2)
        )
        proxy = choosing(chooser, other, first, other)
        async with serve(app_of(proxy)) as gw:
            assert text(await get_raw(gw, "/x")) == b"good"
        await until(lambda: not any(one.in_flight for one in other.upstreams))
        assert own.connections == 0


@pytest.mark.parametrize("chooser", CHOOSERS)
async def test_the_place_is_taken_at_the_upstream_that_was_chosen(chooser):
    """While it answers it has one in flight, and the pool of the route has none."""
    seen: list[tuple[int, int]] = []
    async with named("own") as (own,):
        first = UpstreamPool(own.url, name="own")

        async def count(_reader, writer):
            seen.append((other.upstreams[0].in_flight, first.upstreams[0].in_flight))
            writer.write(answering(b"counted"))

        async with raw_upstream(count) as counted:
            other = UpstreamPool(counted.url, name="other")
            proxy = choosing(chooser, other, first, other)
            async with serve(app_of(proxy)) as gw:
                assert text(await get_raw(gw, "/x")) == b"counted"
            await until(lambda: other.upstreams[0].in_flight == 0)
        assert seen == [(1, 0)]


@pytest.mark.parametrize("chooser", CHOOSERS)
async def test_a_chosen_pool_without_upstreams_is_a_503(chooser):
    """The other pool is not asked instead."""
    async with named("own") as (own,):
        first = UpstreamPool(own.url, name="own")
        other = UpstreamPool("http://127.0.0.1:1", name="other")
        other.remove(other.upstreams[0])
        async with serve(app_of(choosing(chooser, other, first, other))) as gw:
            answer = await get_raw(gw, "/x")
        assert status(answer) == 503
        assert lines(answer, "retry-after") == ["1"]
        assert own.connections == 0


async def test_a_split_may_be_chosen():
    """It picks one of its pools."""
    async with named("own", "canary") as (own, canary):
        split = Split({UpstreamPool(own.url, name="s"): 1, UpstreamPool(canary.url, name="c"): 1})
        proxy = ProxyRouter(own.url)

        @proxy.override("/x")
        async def hook() -> RequestOverride:
            return RequestOverride(upstream=split)

        async with serve(app_of(proxy)) as gw:
            assert text(await get_raw(gw, "/x")) in (b"own", b"canary")


async def test_the_hook_of_a_route_has_the_last_word():
    """After what is declared, and after the router's hooks."""
    async with named("a", "b", "c", "d") as upstreams:
        pools = [UpstreamPool(one.url, name=f"p{i}") for i, one in enumerate(upstreams)]
        declared = [RouteOverride(path="/{p:path}", pool="p1")]
        proxy = ProxyRouter(pools[0], overrides=declared, named_pools=pools[1:])

        @proxy.on_request
        def wide(request: Request) -> RequestOverride | None:
            chosen = RequestOverride(upstream=pools[2])
            return None if "plain" in request.url.path else chosen

        @proxy.override("/own/{kind}")
        def hook(kind: str) -> RequestOverride | None:
            return RequestOverride(upstream=pools[3]) if kind == "x" else None

        async with serve(app_of(proxy)) as gw:
            targets = ["/plain", "/other", "/own/plain", "/own/y", "/own/x"]
            assert [text(await get_raw(gw, one)) for one in targets] == [
                b"b",
                b"c",
                b"b",
                b"c",
                b"d",
            ]


@pytest.mark.parametrize("chooser", [None, "override", "on_request", "declared"])
async def test_dependency_overrides_stand_in_for_the_pool_that_is_wanted(chooser):
    """For one that the router knows, whoever has chosen it."""
    async with named("own", "other", "fake") as (own, other, fake):
        first, second = UpstreamPool(own.url, name="own"), UpstreamPool(other.url, name="other")
        wanted = first if chooser is None else second
        app = app_of(choosing(chooser or "", wanted, first, second))
        app.dependency_overrides[wanted] = lambda: Upstream(fake.url)
        async with serve(app) as gw:
            assert text(await get_raw(gw, "/x")) == b"fake"


async def test_an_upstream_that_is_given_counts_what_was_told_of_it():
    """The hook tells the upstream which one it is."""
    async with named("a", "b") as upstreams:
        pool = UpstreamPool([one.url for one in upstreams], balancer=Turns())
        proxy = ProxyRouter(pool)

        @proxy.override("/x")
        async def hook(upstream: Annotated[Upstream, Depends(pool)]) -> RequestOverride:
            return tell(port=upstream.port)

        async with serve(app_of(proxy)) as gw:
            for _ in range(2):
                await get_raw(gw, "/x")
        for one in upstreams:
            assert one.last.values(b"x-port") == [str(one.port).encode()]


@pytest.mark.parametrize("dependencies", [[], [Depends(nothing)]], ids=["straight", "injected"])
async def test_a_hook_may_ask_another_pool_once_the_first_has_failed(dependencies):
    """The router's choice was made by then, and no other pool has to keep out of it."""
    async with named("b") as (backup,):
        others = UpstreamPool(backup.url, name="others")
        proxy = ProxyRouter("http://127.0.0.1:1")

        @proxy.on_response
        async def instead(
            request: Request, response: ForwardedResponse | None, error: GatewayError | None
        ) -> Response | None:
            return await proxy_pass(request, await others(request)) if error else None

        async with serve(app_of(proxy, dependencies=dependencies)) as gw:
            assert text(await get_raw(gw, "/x")) == b"b"
