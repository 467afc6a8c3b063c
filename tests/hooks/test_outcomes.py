"""on_response: what has come of a request, a response or an error."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

from typing import Any

import pytest
from fastapi import Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from fastapi_proxy_router import (
    CookieAffinity,
    ForwardedResponse,
    GatewayError,
    GatewayTimeout,
    ProxyError,
    ProxyRouter,
    ResponseOverride,
    Timeout,
    Upstream,
    UpstreamPool,
)
from tests.hooks.helping import answering, app_of, json_answer, lines, proxied, text
from tests.servers import get_raw, raw_upstream, serve, status


class Body(BaseModel):
    """What the upstream says."""

    number: int


pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


async def test_on_response_is_given_the_error_and_may_answer_in_its_place():
    """With what an upstream that does not listen comes to."""
    seen: list[Any] = []
    proxy = ProxyRouter("http://127.0.0.1:1")

    @proxy.on_response
    def only_responses(response: ForwardedResponse) -> None:
        pytest.fail("there is none")

    @proxy.on_response
    def only_timeouts(error: GatewayTimeout) -> None:
        pytest.fail("it is none")

    @proxy.on_response
    async def both(
        response: ForwardedResponse | None, error: GatewayError | None, upstream: Upstream | None
    ) -> None:
        seen.append((response, type(error).__name__, upstream and upstream.port))

    @proxy.on_response
    async def instead(error: ProxyError) -> ResponseOverride:
        return ResponseOverride(text="sorry")

    async with serve(app_of(proxy)) as gw:
        answer = await get_raw(gw, "/x")
    assert (status(answer), text(answer)) == (502, b"sorry")
    assert seen == [(None, "BadGateway", 1)]


async def test_json_that_does_not_come_in_time_is_a_504_that_other_hooks_see():
    """The upstream is let go."""
    seen: list[str] = []

    async def stop(reader, writer):
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"')
        await writer.drain()
        await reader.read()

    async with raw_upstream(stop) as upstream:
        pool = UpstreamPool(upstream.url, timeout=Timeout(idle=0.2))
        proxy = ProxyRouter(pool)

        @proxy.override_response("/x")
        async def hook(body: Body) -> None:
            pytest.fail("it was called")

        @proxy.on_response
        def other(error: GatewayError | None) -> None:
            seen.append(type(error).__name__)

        async with serve(app_of(proxy)) as gw:
            assert status(await get_raw(gw, "/x")) == 504
        assert seen == ["GatewayTimeout"]
        assert pool.upstreams[0].in_flight == 0


async def test_a_client_keeps_its_upstream_though_a_hook_changes_the_body():
    """The cookie of the affinity comes with the new body."""
    async with raw_upstream(json_answer('{"number": 1}')) as upstream:
        proxy = ProxyRouter(UpstreamPool(upstream.url, affinity=CookieAffinity()))

        @proxy.override_response("/x")
        async def hook(body: Body) -> Body:
            return Body(number=body.number + 1)

        async with serve(app_of(proxy)) as gw:
            answer = await get_raw(gw, "/x")
        assert text(answer) == b'{"number":2}'
        assert len(lines(answer, "set-cookie")) == 1


async def test_on_response_is_given_the_errors_of_a_union_of_them():
    """And none that is not in it."""
    seen: list[str] = []
    proxy = ProxyRouter("http://127.0.0.1:1")

    @proxy.on_response
    def some(error: GatewayTimeout | GatewayError | None) -> None:
        seen.append(type(error).__name__)

    async with serve(app_of(proxy)) as gw:
        assert status(await get_raw(gw, "/x")) == 502
    assert seen == ["BadGateway"]


async def test_on_response_sees_that_no_upstream_was_available():
    """And keeps what the error says to the client beside its own answer."""
    async with proxied() as one:
        one.pool.remove(one.pool.upstreams[0])

        @one.router.on_response
        def instead(error: GatewayError) -> Response:
            return PlainTextResponse(f"{error.status_code}", error.status_code)

        async with one.serve() as gw:
            answer = await get_raw(gw, "/x")
        assert (status(answer), text(answer)) == (503, b"503")
        assert lines(answer, "retry-after") == ["1"]


async def test_the_first_response_of_on_response_is_sent_and_the_upstream_let_go():
    """Those after it are not asked."""
    async with proxied(answering(b"x" * 1_000_000)) as one:

        @one.router.on_response
        def instead(response: ForwardedResponse) -> Response:
            return PlainTextResponse("instead")

        @one.router.on_response
        def other(response: ForwardedResponse) -> None:
            pytest.fail("it was called")

        async with one.serve() as gw:
            assert text(await get_raw(gw, "/x")) == b"instead"
