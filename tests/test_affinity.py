"""Session affinity through the gateway, on every server."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, cast

import pytest
from fastapi import Depends, FastAPI, Request
from starlette.requests import HTTPConnection
from starlette.routing import Router
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router import (
    ConfigurationError,
    CookieAffinity,
    Ejection,
    HeaderAffinity,
    HeaderEdits,
    NoUpstreamAvailable,
    ProxyRouter,
    Queue,
    RouteOverride,
    Upstream,
    UpstreamPool,
    proxy_pass,
)
from fastapi_proxy_router.admission import admitted
from fastapi_proxy_router.core.lease import Lease
from tests.servers import RawUpstream, Served, _until, get_raw, raw_upstream, serve, status
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

SECRET = "a secret of the tests"


def named(name: str, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(name)}", *headers, "", name]
    return "\r\n".join(lines).encode()


def values(answer: bytes, name: str) -> list[str]:
    """Return the value of each line of a header of a raw answer."""
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1")
    return re.findall(rf"(?im)^{name}: (.*?)\r?$", head)


def body(answer: bytes) -> str:
    return answer.partition(b"\r\n\r\n")[2].decode()


def cookie(answer: bytes) -> str:
    """Return the name and value of the one cookie of an answer, to be sent back."""
    (line,) = values(answer, "set-cookie")
    return line.partition(";")[0]


@dataclass
class Gateway:
    """A gateway over two upstreams that say who they are."""

    served: Served
    pool: UpstreamPool
    upstreams: list[RawUpstream]

    async def get(self, *headers: str) -> bytes:
        return await get_raw(self.served, "/", *headers)


@asynccontextmanager
async def gateway(
    server: str = "uvicorn-httptools",
    *,
    headers: tuple[str, ...] = (),
    router: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Gateway]:
    options.setdefault("affinity", CookieAffinity(secret=SECRET))
    async with AsyncExitStack() as stack:
        upstreams = [
            await stack.enter_async_context(raw_upstream(named(name, *headers)))
            for name in ("first", "second")
        ]
        pool = UpstreamPool([one.url for one in upstreams], balancer="round_robin", **options)
        app = FastAPI()
        app.include_router(ProxyRouter(pool, **(router or {})))
        served = await stack.enter_async_context(serve(app, server))
        yield Gateway(served, pool, upstreams)


# HTTP


async def test_a_client_stays_with_its_upstream(server):
    """It gets a cookie once; who brings none takes turns."""
    async with gateway(server) as gw:
        first, second = await gw.get(), await gw.get()
        assert (body(first), body(second)) == ("first", "second")
        for answer in (first, second, first, first, second):
            again = await gw.get(f"Cookie: {cookie(answer)}")
            assert body(again) == body(answer)
            assert values(again, "set-cookie") == []


async def test_the_cookie_says_nothing_and_is_well_dressed(server):
    """A key of 22 characters, for this host, out of reach of scripts and other sites."""
    async with gateway(server) as gw:
        (line,) = values(await gw.get(), "set-cookie")

    assert re.fullmatch("proxy_affinity=[A-Za-z0-9_-]{22}; Path=/; HttpOnly; SameSite=Lax", line)


async def test_the_upstream_gets_the_cookies_as_they_came(server):
    """Those of several lines are joined, as ever, and the key is one of them."""
    async with gateway(server) as gw:
        key = cookie(await gw.get())
        await gw.get("Cookie: a=\xff;;b", f"Cookie: {key};c=1")
        assert gw.upstreams[0].last.values(b"cookie") == [f"a=\xff;;b; {key};c=1".encode("latin-1")]


@pytest.mark.parametrize("value", ["0" * 22, "junk", "", "\xff" * 22, "x" * 5000])
async def test_a_forged_key_is_redistributed(value):
    """Also where a known client would be refused, and a new key is issued."""
    affinity = CookieAffinity(secret=SECRET, failure="refuse")
    async with gateway(affinity=affinity) as gw:
        answers = [await gw.get(f"Cookie: proxy_affinity={value}") for _ in range(2)]

    assert [body(answer) for answer in answers] == ["first", "second"]
    assert len({cookie(answer) for answer in answers}) == 2


async def test_the_cookies_of_the_upstream_stay(server):
    """Each on its line, and the key on one of its own."""
    sent = ("Set-Cookie: a=1; Path=/x", "Set-Cookie: b=2")
    async with gateway(server, headers=sent) as gw:
        cookies = values(await gw.get(), "set-cookie")

    assert cookies[:2] == ["a=1; Path=/x", "b=2"]
    assert [line.partition("=")[0] for line in cookies[2:]] == ["proxy_affinity"]


async def test_an_override_of_the_response_does_not_take_the_key_away():
    """It is about what the upstream has sent."""
    edits = RouteOverride(path="/", response_headers=HeaderEdits(remove=["set-cookie"]))
    async with gateway(headers=("Set-Cookie: a=1",), router={"overrides": [edits]}) as gw:
        assert cookie(await gw.get()).startswith("proxy_affinity=")


async def test_a_proxy_that_is_trusted_says_that_the_client_uses_tls(server):
    """Then the cookie is for TLS only."""
    async with gateway(server, trusted_proxies=["127.0.0.1"]) as gw:
        for proto, secure in (("https", True), ("http", False)):
            (line,) = values(await gw.get(f"X-Forwarded-Proto: {proto}"), "set-cookie")
            assert line.endswith("; Secure") is secure


async def test_a_header_binds_too(server):
    """For clients without cookies."""
    async with gateway(server, affinity=HeaderAffinity("X-Session", secret=SECRET)) as gw:
        answers = [await gw.get(), await gw.get()]
        for answer in (*answers, *answers):
            (key,) = values(answer, "x-session")
            again = await gw.get(f"X-Session: {key}")
            assert (body(again), values(again, "x-session")) == (body(answer), [])
        assert gw.upstreams[0].last.values(b"x-session") == [
            value.encode() for value in values(answers[0], "x-session")
        ]


async def test_a_dependency_of_the_app_changes_nothing():
    """With one, FastAPI injects the upstream; without, the catch-all does so itself."""
    dependencies = [Depends(lambda: None)]
    async with gateway(router={"dependencies": dependencies}) as gw:
        key = cookie(await gw.get())
        assert [body(await gw.get(f"Cookie: {key}")) for _ in range(3)] == ["first"] * 3


async def test_an_endpoint_of_ones_own_binds_too(server):
    """What it forwards to has been injected."""
    async with raw_upstream(named("one")) as one, raw_upstream(named("two")) as two:
        affinity = CookieAffinity(secret=SECRET)
        pool = UpstreamPool([one.url, two.url], balancer="round_robin", affinity=affinity)
        app = FastAPI()

        @app.get("/")
        async def forward(request: Request, upstream: Annotated[Upstream, Depends(pool)]):
            return await proxy_pass(request, upstream)

        async with serve(app, server) as gw:
            key = cookie(await get_raw(gw))
            answers = [await get_raw(gw, "/", f"Cookie: {key}") for _ in range(3)]

    assert [body(answer) for answer in answers] == ["one"] * 3


async def test_an_upstream_that_stands_in_for_the_pool_issues_no_key():
    """A test that overrides the pool sees what the upstream sends, and nothing else."""
    async with raw_upstream(named("stub")) as stub, gateway() as gw:
        app = FastAPI()
        app.include_router(ProxyRouter(gw.pool))
        app.dependency_overrides[gw.pool] = lambda: Upstream(stub.url)
        async with serve(app, lifespan="off") as stubbed:
            answer = await get_raw(stubbed)

    assert (body(answer), values(answer, "set-cookie")) == ("stub", [])


# Upstreams that cannot serve


async def _closed_port() -> str:
    async with serve(Router(), lifespan="off") as gone:
        return gone.url


@asynccontextmanager
async def half_gone(failure: Any) -> AsyncIterator[tuple[Served, str]]:
    """Run a gateway of whose two upstreams one is gone; yield a cookie that binds to that one."""
    affinity = CookieAffinity(secret=SECRET, failure=failure)
    async with raw_upstream(named("alive")) as alive:
        gone = Upstream(await _closed_port())
        pool = UpstreamPool(
            [alive.url, gone], affinity=affinity, ejection=Ejection(consecutive=1, base_time=300)
        )
        app = FastAPI()
        app.include_router(ProxyRouter(pool))
        async with serve(app) as gw:
            yield gw, f"Cookie: proxy_affinity={affinity.key_of(gone)}"


async def test_a_client_is_redistributed_and_told_so():
    """In the request that finds its upstream gone, and in those that know of it."""
    async with half_gone("redistribute") as (gw, old):
        for _ in range(2):
            answer = await get_raw(gw, "/", old)
            assert (status(answer), body(answer)) == (200, "alive")
            new = f"Cookie: {cookie(answer)}"
            assert new != old
        assert values(await get_raw(gw, "/", new), "set-cookie") == []


async def test_a_client_may_be_refused_instead():
    """502 from the request that finds its upstream gone, and 503 from then on; nobody else."""
    async with half_gone("refuse") as (gw, old):
        assert [status(await get_raw(gw, "/", old)) for _ in range(3)] == [502, 503, 503]
        assert values(await get_raw(gw, "/", old), "retry-after") == ["1"]
        assert body(await get_raw(gw)) == "alive"


async def test_a_drained_upstream_keeps_its_clients():
    """And gets no new ones, until it is removed."""
    async with gateway() as gw:
        key = cookie(await gw.get())
        drained = gw.pool.upstreams[0]
        gw.pool.drain(drained)
        for _ in range(2):
            assert body(await gw.get(f"Cookie: {key}")) == "first"
            assert body(await gw.get()) == "second"
        gw.pool.remove(drained)
        moved = await gw.get(f"Cookie: {key}")
        assert body(moved) == "second"
        assert cookie(moved) != key


def test_upstreams_that_are_the_same_are_a_mistake():
    """Two unix sockets, say: give their URLs different hosts."""
    affinity = CookieAffinity()
    with pytest.raises(ConfigurationError, match="told from"):
        UpstreamPool(["http://a", "http://a:80"], affinity=affinity)
    pool = UpstreamPool(["http://a"], affinity=affinity)
    with pytest.raises(ConfigurationError, match="told from"):
        pool.add("http://a")
    pool.add("http://b")


# Limits


def busy(name: str) -> Upstream:
    """Return an upstream that takes one request at a time."""
    return Upstream(f"http://{name}", max_concurrent=1)


def test_a_client_of_a_busy_upstream_is_redistributed():
    """As it would be from one that is down; where clients are refused, it gets 503."""
    connection = HTTPConnection({"type": "http", "headers": []})
    for failure in ("redistribute", "refuse"):
        affinity = CookieAffinity(secret=SECRET, failure=cast("Any", failure))
        first, second = busy("a"), busy("b")
        pool = UpstreamPool([first, second], affinity=affinity)
        key = affinity.key_of(first).encode()
        connection.scope["headers"] = [(b"cookie", b"proxy_affinity=" + key)]
        lease = Lease(first)
        if failure == "redistribute":
            assert pool.pick(connection) is second
        else:
            with pytest.raises(NoUpstreamAvailable):
                pool.pick(connection)
        lease.end()
        assert pool.pick(connection) is first


async def test_clients_wait_for_their_own_upstream_and_hold_nobody_up():
    """In a queue, where they are refused otherwise: who is bound elsewhere or nowhere goes on."""
    affinity = CookieAffinity(secret=SECRET, failure="refuse")
    first, second = busy("a"), busy("b")
    pool = UpstreamPool([first, second], affinity=affinity, queue=Queue(timeout=5))

    def scope(*upstreams: Upstream) -> dict[str, Any]:
        keys = [f"proxy_affinity={affinity.key_of(one)}".encode() for one in upstreams]
        return {"type": "http", "headers": [(b"cookie", key) for key in keys]}

    async def begin(*upstreams: Upstream) -> Lease:
        wanted = scope(*upstreams)
        return Lease(await admitted(pool.pick(HTTPConnection(wanted)), wanted))

    leases = [Lease(first), Lease(second)]
    waiting = [asyncio.create_task(begin(first)), asyncio.create_task(begin())]
    await _until(lambda: len(pool.waiting) == 2)
    leases[1].end()
    other = await waiting[1]
    assert (first.in_flight, second.in_flight, waiting[0].done()) == (1, 1, False)
    other.end()
    # It comes while somebody waits for another upstream, and its own is free.
    async with asyncio.timeout(3):
        (await begin(second)).end()
    assert not waiting[0].done()
    leases[0].end()
    (await waiting[0]).end()
    assert (first.requests, second.requests, pool.in_flight) == (2, 3, 0)


# WebSockets


async def test_a_websocket_carries_the_key(server):
    """The 101 has it, and the next handshake brings it back."""
    async with ws_upstream() as first, ws_upstream() as second:
        affinity = CookieAffinity(secret=SECRET)
        pool = UpstreamPool([first.url, second.url], balancer="round_robin", affinity=affinity)
        app = FastAPI()
        app.include_router(ProxyRouter(pool))
        async with serve(app, server) as gw:
            async with dialled(gw) as client:
                assert client.response is not None
                lines = client.response.headers.get_all("set-cookie")
            key = f"proxy_affinity={affinity.key_of(pool.upstreams[0])}"
            # granian drops the headers of an accepted WebSocket.
            expected = [] if server == "granian" else [f"{key}; Path=/; HttpOnly; SameSite=Lax"]
            assert lines == expected
            sent = {"Cookie": key}
            for _ in range(3):
                async with dialled(gw, additional_headers=sent) as client:
                    assert client.response is not None
                    assert client.response.headers.get_all("set-cookie") == []
                    await client.send("hello")
                    assert await client.recv() == "hello"
    assert (len(first.connections), len(second.connections)) == (4, 0)


async def test_a_websocket_and_http_share_the_key(server):
    """A page and its WebSocket are at the same upstream."""
    async with gateway(server) as gw, ws_upstream() as chat:
        gw.pool.add(chat.url)
        affinity = gw.pool.affinity
        assert affinity is not None
        key = affinity.key_of(gw.pool.upstreams[-1])
        for _ in range(2):
            async with dialled(gw.served, additional_headers={"Cookie": f"proxy_affinity={key}"}):
                pass
    assert len(chat.connections) == 2


async def test_a_refused_websocket_carries_the_key(server):
    """The upstream has answered, whatever it said."""
    refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"
    async with raw_upstream(refusal) as upstream:
        app = FastAPI()
        app.include_router(
            ProxyRouter(UpstreamPool(upstream.url, affinity=CookieAffinity(secret=SECRET)))
        )
        async with serve(app, server) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw):
                    pass
    assert refused.value.response.status_code == 401
    (line,) = refused.value.response.headers.get_all("set-cookie")
    assert line.startswith("proxy_affinity=")
