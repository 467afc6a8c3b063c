"""Proxy, the functions around the client, and what carries the requests of an application."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio
import ssl
from contextlib import asynccontextmanager

import httpx
import pytest
import trustme
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient

from fastapi_proxy_router import ConfigurationError, HTTP1Transport
from fastapi_proxy_router.compat import (
    Proxy,
    close_httpx_client,
    create_httpx_client,
    get_httpx_client,
    proxy_pass,
)
from fastapi_proxy_router.compat.clients import Carrier
from tests.compat.programs import application, named, passing
from tests.servers import get_raw, raw_upstream, serve, status
from tests.test_relay import dialled, ended, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


async def test_requests_share_their_connections():
    """Three requests one after the other need one connection."""
    async with raw_upstream() as upstream, serve(passing(upstream.url)) as gw:
        for _ in range(3):
            assert status(await get_raw(gw)) == 200
        assert upstream.connections == 1


async def test_the_end_of_the_lifespan_closes_the_connections():
    """The upstream sees it at once."""
    async with raw_upstream() as upstream:
        async with serve(passing(upstream.url)) as gw:
            await get_raw(gw)
        async with asyncio.timeout(1):
            await upstream.closed.wait()


async def test_create_and_close_do_what_proxy_does():
    """The pair is for programs with a lifespan of another kind; closing twice does no harm."""

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        await create_httpx_client(app)
        yield
        await close_httpx_client(app)
        await close_httpx_client(app)

    async with raw_upstream() as upstream:
        async with serve(passing(upstream.url, FastAPI(lifespan=lifespan))) as gw:
            await get_raw(gw)
            await get_raw(gw)
        async with asyncio.timeout(1):
            await upstream.closed.wait()
    assert upstream.connections == 1


async def test_closing_without_having_created_does_nothing():
    """As there."""
    await close_httpx_client(FastAPI())


async def test_a_proxy_can_be_closed_by_hand():
    """It stores the client when it is made."""
    app = FastAPI()
    proxy = Proxy(app)
    assert isinstance(app.state.http_proxy_client, httpx.AsyncClient)
    await proxy.close()
    assert app.state.http_proxy_client.is_closed


async def test_without_a_proxy_requests_are_forwarded_as_well():
    """The connections are kept for the next request, and can be closed."""
    app = FastAPI()
    async with raw_upstream() as upstream:
        async with serve(passing(upstream.url, app)) as gw:
            await get_raw(gw)
            await get_raw(gw)
        await close_httpx_client(app)
        async with asyncio.timeout(1):
            await upstream.closed.wait()
    assert upstream.connections == 1


async def test_a_mounted_application_keeps_its_connections():
    """Its lifespan never runs, and still no request pays for a connection of its own."""
    inner, outer = FastAPI(), application()
    async with raw_upstream() as upstream:
        outer.mount("/api", passing(upstream.url, inner))
        async with serve(outer) as gw:
            for _ in range(3):
                await get_raw(gw, "/api/x")
        await close_httpx_client(inner)
    assert upstream.connections == 1
    assert upstream.last.target == b"/x"


async def test_a_connection_without_an_application_is_forwarded_as_well():
    """A plain ASGI application has no state."""

    async def plain(scope, receive, send):
        if scope["type"] == "http":
            response = await proxy_pass(Request(scope, receive), upstream.url)
            await response(scope, receive, send)

    async with raw_upstream() as upstream, serve(plain, lifespan="off") as gw:
        assert status(await get_raw(gw)) == 200


async def test_the_client_is_given_to_whom_asks():
    """As a dependency too; it uses the same connections as the forwarding."""
    app = application()
    async with raw_upstream() as upstream:
        passed = passing(upstream.url, FastAPI())

        @app.get("/own")
        async def own(client: httpx.AsyncClient = Depends(get_httpx_client)):
            return (await client.get(f"{upstream.url}/asked")).text

        app.router.routes += passed.router.routes
        async with serve(app) as gw:
            assert (await get_raw(gw, "/own")).endswith(b'"ok"')
            assert status(await get_raw(gw, "/x")) == 200
    assert [request.target for request in upstream.requests] == [b"/asked", b"/x"]
    assert upstream.connections == 1


async def test_the_client_keeps_no_cookies():
    """Not of its own requests either."""
    app, cookie = FastAPI(), b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n"
    async with raw_upstream(cookie) as upstream, Proxy(app):
        client = app.state.http_proxy_client
        for _ in range(2):
            await client.get(upstream.url)
    assert [request.values(b"cookie") for request in upstream.requests] == [[], []]


async def test_without_a_proxy_there_is_no_client_to_give():
    """State says so, as there."""
    with pytest.raises(AttributeError):
        await get_httpx_client(Request({"type": "http", "app": FastAPI()}))


async def test_a_client_of_the_programs_own_is_used():
    """With what it knows, such as how to authenticate; it adds no header and no cookie."""
    app = FastAPI()
    cookie = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n"
    async with raw_upstream(cookie) as upstream:
        app.state.http_proxy_client = httpx.AsyncClient(auth=("bob", "secret"), trust_env=False)
        async with serve(passing(upstream.url, app)) as gw:
            await get_raw(gw)
            await get_raw(gw)
        await close_httpx_client(app)
        assert app.state.http_proxy_client.is_closed
    request = upstream.last
    assert request.values(b"authorization") == [b"Basic Ym9iOnNlY3JldA=="]
    assert {name for name, _ in request.headers}.isdisjoint({b"user-agent", b"accept", b"cookie"})


async def test_a_client_for_tests_is_used():
    """A program that is tested with a MockTransport in app.state goes on being tested so."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=request.url.path)

    app = FastAPI()
    app.state.http_proxy_client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    async with serve(passing("http://up", app)) as gw:
        assert (await get_raw(gw, "/x")).endswith(b"/x")
    await close_httpx_client(app)


def test_an_application_can_be_started_again():
    """As TestClient does, each time in another event loop."""
    app = passing("http://up", application(transport=httpx.MockTransport(_ok)))
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/x").text == "ok"


def _ok(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text="ok")


async def test_a_proxy_takes_a_transport():
    """One that trusts a private authority reaches an upstream with its certificate."""
    authority = trustme.CA()
    server, client = (
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
        ssl.create_default_context(),
    )
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    async with raw_upstream(ssl=server) as upstream:
        transport = HTTP1Transport(verify=client)
        app = passing(f"https://localhost:{upstream.port}", application(transport=transport))
        async with serve(app) as gw:
            assert status(await get_raw(gw)) == 200


async def test_a_proxy_takes_the_options_of_a_pool():
    """Whom to believe, for instance."""
    async with raw_upstream() as upstream:
        app = passing(upstream.url, application(trusted_proxies=["10.0.0.0/8"], via="gw"))
        async with serve(app) as gw:
            await get_raw(gw, "/", "X-Forwarded-For: 1.2.3.4", "X-Real-IP: 1.2.3.4")
    assert upstream.last.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert upstream.last.values(b"x-real-ip") == []
    assert upstream.last.values(b"via") == [b"1.1 gw"]


def test_an_option_that_cannot_be_used_is_a_mistake():
    """It is said when the Proxy is made."""
    with pytest.raises(ConfigurationError, match="via"):
        Proxy(FastAPI(), via="no spaces")


async def test_the_end_of_the_lifespan_ends_what_is_relayed():
    """The WebSocket of a client that stays is closed."""
    app = FastAPI()
    proxy = Proxy(app)
    async with ws_upstream() as upstream, serve(passing(upstream.url, app)) as gw:
        async with dialled(gw, "/x") as client:
            await client.send("hello")
            assert await client.recv() == "hello"
            await proxy.close()
            assert (await ended(client))[0] == 1012


def test_a_host_has_one_upstream():
    """Its figures and its connections are kept, for as many hosts as a program has."""
    carrier = Carrier(None)
    first = carrier.upstream("http://up")
    assert carrier.upstream("http://up") is first
    for number in range(1024):
        carrier.upstream(f"http://up-{number}")
    assert carrier.upstream("http://up") is not first


async def test_names_of_upstreams_may_be_made_per_request():
    """A program that picks the host by the request reaches each."""
    app = application()
    async with serve(named("one")) as one, serve(named("two")) as two:
        hosts = {"one": one.url, "two": two.url}

        @app.get("/{name}")
        async def passed(request: Request, name: str):
            return await proxy_pass(request, hosts[name], path="/")

        async with serve(app) as gw:
            assert b'"name":"one"' in await get_raw(gw, "/one")
            assert b'"name":"two"' in await get_raw(gw, "/two")
