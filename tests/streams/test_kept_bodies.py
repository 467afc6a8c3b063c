"""Request bodies that somebody reads before they are forwarded."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio
import json
import tracemalloc
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware

from fastapi_proxy_router import BadGateway, Upstream
from fastapi_proxy_router.core.changes import NO_CHANGES, Changes
from fastapi_proxy_router.forwarder import send_request
from fastapi_proxy_router.incoming import LimitedRequest
from tests.retries.pools import closing, fast, true
from tests.servers import raw_upstream
from tests.streams.endpoints import MIB, answer_of, in_chunks, out_of_chunks

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("streams")]

LIMIT = 10_000
FORM = "Content-Type: application/x-www-form-urlencoded"
PARTS = "Content-Type: multipart/form-data; boundary=b"
MULTIPART = (
    b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nbob\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n%b\r\n--b--\r\n'
) % (bytes(range(256)) * 8)
CHUNKED = "Transfer-Encoding: chunked"


class LimitedRoute(APIRoute):
    def get_route_handler(self):
        handler = super().get_route_handler()

        async def handle(request: Request):
            return await handler(
                LimitedRequest(request.scope, request.receive, request._send, limit=LIMIT)
            )

        return handle


class User(BaseModel):
    name: str


async def forward(request):
    state = request.app.state
    return await send_request(request, state.target, changes=state.changes)


async def nobody(request: Request):
    return await forward(request)


async def body(request: Request):
    await request.body()
    return await forward(request)


async def model(request: Request, user: User):
    assert user.name == "bob"
    return await forward(request)


async def form(request: Request, name: Annotated[str, Form()]):
    assert name == "bob"
    return await forward(request)


async def file(request: Request, name: Annotated[str, Form()], file: Annotated[UploadFile, File()]):
    assert (name, len(await file.read())) == ("bob", 2048)
    return await forward(request)


async def read_all(request: Request):
    return b"".join([chunk async for chunk in request.stream()])


async def dependency(request: Request, found: Annotated[bytes, Depends(read_all)]):
    assert found
    return await forward(request)


async def twice(request: Request):
    found = [await read_all(request), await read_all(request), await request.body()]
    assert found == [found[0]] * 3
    return await forward(request)


async def to_the_last(request: Request):
    found = 0
    async for chunk in request.stream():
        found += len(chunk)
        if found == int(request.headers["x-length"]):
            break
    return await forward(request)


async def part(request: Request):
    async for _ in request.stream():
        break
    return await forward(request)


async def part_twice(request: Request):
    async for _ in request.stream():
        break
    return await request.body()


async def by_another(request: Request):
    await Request(request.scope, request.receive).body()
    return await forward(request)


async def asked_for(request: Request):
    assert not await request.is_disconnected()
    return await forward(request)


ENDPOINTS: dict[str, Callable[..., Any]] = {
    "/nobody": nobody,
    "/body": body,
    "/json": model,
    "/form": form,
    "/file": file,
    "/dependency": dependency,
    "/twice": twice,
    "/to-the-last": to_the_last,
    "/part": part,
    "/part-twice": part_twice,
    "/by-another": by_another,
    "/asked-for": asked_for,
}


def reading(upstream, changes=NO_CHANGES):
    """Build an app whose endpoints read the body in all the ways there are, and forward it."""
    app = FastAPI()
    app.router.route_class = LimitedRoute
    app.state.target, app.state.changes = Upstream(upstream.url), changes
    for path, endpoint in ENDPOINTS.items():
        app.router.add_api_route(path, endpoint, methods=["POST"])
    return app


READ = {
    "/nobody": ("Content-Type: a/b", b"hello"),
    "/body": ("Content-Type: a/b", b"hello"),
    "/json": ("Content-Type: application/json", b' {"name": "bob", "more": 1} '),
    "/form": (FORM, b"name=b%6Fb&more=1"),
    "/file": (PARTS, MULTIPART),
    "/dependency": ("Content-Type: a/b", b"hello"),
    "/twice": ("Content-Type: a/b", b"hello"),
}


@pytest.mark.parametrize("path", READ)
async def test_a_body_that_was_read_is_forwarded_exactly(streams, server, path):
    """Byte for byte, in the framing that it had."""
    kind, body = READ[path]
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, app=reading(upstream), server=server) as gw:
            assert (await gw.ask("POST", path, kind, body=body)).status == 200
            async with gw.client() as client:
                await client.send(gw.head("POST", path, kind, CHUNKED))
                await client.send(in_chunks(body[:3], body[3:]))
                assert (await client.answer()).status == 200

        first, second = upstream.requests
        assert (first.body, out_of_chunks(second.body)) == (body, body)
        assert first.values(b"content-length") == [b"%d" % len(body)]
        assert second.values(b"content-length") == []


@pytest.mark.parametrize("path", ["/body", "/form", "/dependency"])
async def test_a_body_that_was_read_is_sent_again(streams, path):
    """A retry has it, too."""
    async with closing(after=5) as broken, raw_upstream() as good:
        app = FastAPI()
        app.router.route_class = LimitedRoute

        async def read(request: Request):
            return await (request.form() if path == "/form" else request.body())

        @app.put(path, dependencies=[Depends(read)])
        async def resend(request: Request):
            return await send_request(request, app.state.pool.upstreams[0])

        async with streams.gateway_with(broken, good, app=app, retry=fast()) as gw:
            assert (await gw.ask("PUT", path, FORM, body=b"name=bob")).status == 200

        assert good.last.body == b"name=bob"


@pytest.mark.parametrize("path", ["/body", "/form", "/file", "/json", "/dependency"])
async def test_more_than_the_limit_is_refused(streams, server, path):
    """413, whoever reads it, and the upstream hears nothing."""
    kind, _ = READ[path]
    body = MULTIPART.replace(b"bob", b"b" * LIMIT) if path == "/file" else b"name=" + b"b" * LIMIT
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, app=reading(upstream), server=server) as gw:
            answers = [await gw.ask("POST", path, kind, body=body)]
            async with gw.client() as client:
                await client.send(gw.head("POST", path, kind, CHUNKED) + in_chunks(body))
                answers.append(await client.answer())

        assert upstream.connections == 0
        for answer in answers:
            assert (answer.status, answer.values(b"connection")) == (413, [b"close"])
            assert json.loads(answer.body) == {"detail": "The body has more than 10000 bytes"}


async def test_a_body_that_is_declared_to_be_larger_is_refused_when_somebody_reads(streams):
    """Without waiting for it."""
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, app=reading(upstream)) as gw:
            async with gw.client() as client:
                headers = (f"Content-Length: {LIMIT + 1}", "Expect: 100-continue")
                await client.send(gw.head("POST", "/body", *headers))
                answer = await client.answer()

        assert answer.status == 413
        assert not client.received.startswith(b"HTTP/1.1 100")


async def test_up_to_the_limit_is_read(streams):
    """To the byte."""
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, app=reading(upstream)) as gw:
            assert (await gw.ask("POST", "/body", body=b"x" * LIMIT)).status == 200

        assert upstream.last.body == b"x" * LIMIT


async def test_a_body_that_nobody_reads_has_no_limit(streams):
    """It streams past, at the pace of the upstream."""

    async def count(reader, writer):
        received = 0
        while received < 32 * MIB:
            received += len(await reader.read(65536))
        writer.write(answer_of(body=b"%d" % received))

    async with raw_upstream(count) as upstream:
        async with streams.gateway_with(upstream, app=reading(upstream)) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/nobody", f"Content-Length: {32 * MIB}"))
                tracemalloc.start()
                for _ in range(512):
                    await client.send(bytes(65536))
                assert (await client.answer()).body == b"%d" % (32 * MIB)
                assert tracemalloc.get_traced_memory()[1] < 8 * MIB
                tracemalloc.stop()


@pytest.mark.parametrize("framing", [CHUNKED, "Content-Length: 10"])
async def test_a_body_that_was_read_in_part_is_not_forwarded(streams, server, framing):
    """It fails, and neither hangs nor sends the rest."""
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, app=reading(upstream), server=server) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/part", framing))
                chunked = framing == CHUNKED
                await client.send(in_chunks(b"first", end=False) if chunked else b"first")
                answer = await client.answer()

        assert answer.status == 500
        assert [type(error) for error in gw.raised] == [RuntimeError]
        assert upstream.requests == []


@pytest.mark.parametrize("framing", [CHUNKED, "Content-Length: 5"])
async def test_a_body_that_somebody_elses_request_has_read_is_not_waited_for(
    streams, server, framing
):
    """It was not kept, so it fails at once."""
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, app=reading(upstream), server=server) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/by-another", framing))
                await client.send(in_chunks(b"first") if framing == CHUNKED else b"first")
                answer = await client.answer()

        assert answer.status == 500
        assert [type(error) for error in gw.raised] == [RuntimeError]
        assert upstream.requests == []


async def test_who_asks_whether_the_client_has_left_takes_nothing_of_the_body(streams, server):
    """It is sent as a whole."""
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, app=reading(upstream), server=server) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/asked-for", CHUNKED))
                await client.send(in_chunks(b"first", b"last"))
                assert (await client.answer()).status == 200

        (request,) = upstream.requests
        assert out_of_chunks(request.body) == b"firstlast"


async def test_a_body_that_was_read_in_part_cannot_be_read_either(streams):
    """Starlette would wait for the rest, and take it for the whole."""
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, app=reading(upstream)) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/part-twice", "Content-Length: 10") + b"first")
                assert (await client.answer()).status == 500

        assert [type(error) for error in gw.raised] == [RuntimeError]


async def test_another_body_can_be_sent_for_one_that_was_read_in_part(streams):
    """Nothing of the client's is needed then."""
    async with raw_upstream() as upstream:
        app = reading(upstream, Changes(body=b"mine"))
        async with streams.gateway_with(upstream, app=app) as gw, gw.client() as client:
            await client.send(gw.head("POST", "/part", "Content-Length: 10") + b"first")
            await true(lambda: upstream.requests)
            await client.send(b"later")
            assert (await client.answer()).status == 200

        assert upstream.last.body == b"mine"


async def test_whoever_stops_at_the_last_byte_has_read_it_all(streams):
    """There is nothing left that could be missing."""
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, app=reading(upstream)) as gw:
            answer = await gw.ask("POST", "/to-the-last", "X-Length: 5", body=b"hello")

        assert answer.status == 200
        assert upstream.last.body == b"hello"


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("path", ["/nobody", "/body", "/form"])
async def test_a_middleware_in_front_changes_nothing(streams, path, reads):
    """Starlette's BaseHTTPMiddleware, which may have read the body, too."""

    async def dispatch(request, call_next):
        if reads:
            await request.body()
        return await call_next(request)

    async with raw_upstream() as upstream:
        app = reading(upstream)
        app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
        async with streams.gateway_with(upstream, app=app) as gw:
            assert (await gw.ask("POST", path, FORM, body=b"name=bob")).status == 200

        assert upstream.last.body == b"name=bob"


async def test_a_refusal_while_fastapi_reads_the_body_is_passed_on(streams):
    """Whoever raises it beneath: not as the 400 that FastAPI makes of other errors."""

    async def refuse(scope, receive, send):
        async def refusing():
            raise HTTPException(429, "slow down")

        await app(scope, refusing if scope["type"] == "http" else receive, send)

    async with raw_upstream() as upstream:
        app = reading(upstream)
        outer = FastAPI()
        outer.mount("/", refuse)
        async with streams.gateway_with(upstream, app=outer) as gw:
            answer = await gw.ask("POST", "/json", READ["/json"][0], body=READ["/json"][1])

        assert (answer.status, answer.body) == (429, b'{"detail":"slow down"}')


@pytest.mark.parametrize("route", [APIRoute, LimitedRoute])
@pytest.mark.parametrize("pause", [0.0, 0.3])
async def test_a_body_can_be_read_after_another_upstream_was_asked(streams, server, route, pause):
    """Also if the gateway has begun to listen meanwhile, and has some of it already."""

    async def slow(_reader, writer):
        await asyncio.sleep(pause)
        writer.write(answer_of(body=b"{}"))

    async with raw_upstream(slow) as auth, raw_upstream() as upstream:
        app = FastAPI()
        app.router.route_class = route

        @app.post("/x")
        async def guarded(request: Request):
            asked = await send_request(request, Upstream(auth.url), changes=Changes(method="GET"))
            assert asked.status_code == 200
            assert await request.body() == b"hello" * 1000
            return await send_request(request, Upstream(upstream.url))

        async with streams.gateway_with(upstream, app=app, server=server) as gw:
            assert (await gw.ask("POST", body=b"hello" * 1000)).status == 200

        assert upstream.last.body == b"hello" * 1000


async def test_a_body_that_was_read_after_another_upstream_was_asked_is_sent_again(streams):
    """It is kept like any other."""
    async with raw_upstream() as auth, closing(after=5) as broken, raw_upstream() as good:
        app = FastAPI()
        app.router.route_class = LimitedRoute

        @app.put("/x")
        async def guarded(request: Request):
            await send_request(request, Upstream(auth.url), changes=Changes(method="GET"))
            await request.body()
            return await send_request(request, app.state.pool.upstreams[0])

        async with streams.gateway_with(broken, good, app=app, retry=fast()) as gw:
            assert (await gw.ask("PUT", body=b"hello you")).status == 200

        assert good.last.body == b"hello you"


@pytest.mark.parametrize("route", [APIRoute, LimitedRoute])
async def test_what_sees_the_request_before_it_is_sent_may_read_the_body(streams, route):
    """It is sent all the same."""
    async with raw_upstream() as upstream:
        app = FastAPI()
        app.router.route_class = route

        @app.post("/x")
        async def signed(request: Request):
            async def sender(out, _upstream):
                assert await request.body() == b"hello"
                return out

            changes = Changes(senders=(sender,))
            return await send_request(request, Upstream(upstream.url), changes=changes)

        async with streams.gateway_with(upstream, app=app) as gw:
            assert (await gw.ask("POST", body=b"hello")).status == 200

        assert upstream.last.body == b"hello"


@pytest.mark.parametrize("route", [APIRoute, LimitedRoute])
async def test_the_rest_of_a_body_that_was_forwarded_is_not_the_whole(streams, route):
    """Whoever reads it after the upstream has given up is told so."""
    async with closing(after=5) as upstream:
        app = FastAPI()
        app.router.route_class = route

        @app.post("/x")
        async def late(request: Request):
            with pytest.raises(BadGateway):
                await send_request(request, Upstream(upstream.url))
            return await request.body()

        async with streams.gateway_with(upstream, app=app) as gw, gw.client() as client:
            await client.send(gw.head("POST", "/x", "Content-Length: 10") + b"hello")
            assert (await client.answer()).status == 500

        assert [type(error) for error in gw.raised] == [RuntimeError]


async def test_a_client_may_still_be_asked_whether_it_is_there(streams):
    """As Starlette does it, while the gateway listens, too."""
    found = []

    async def slow(reader, writer):
        await reader.readexactly(5)
        await asyncio.sleep(0.2)
        writer.write(answer_of(body=b"ok"))

    async with raw_upstream(slow) as upstream:
        app = FastAPI()

        @app.post("/x")
        async def asking(request: Request):
            response = await send_request(request, Upstream(upstream.url))
            found.append(await request.is_disconnected())
            return response

        async with streams.gateway_with(upstream, app=app) as gw:
            assert (await gw.ask("POST", body=b"hello")).status == 200

    assert found == [False]


async def test_a_body_that_was_forwarded_cannot_be_read_any_more(streams):
    """It fails at once; it would wait for ever."""
    async with raw_upstream() as upstream:
        app = FastAPI()
        app.router.route_class = LimitedRoute

        @app.post("/x")
        async def late(request: Request):
            await send_request(request, Upstream(upstream.url))
            return await request.body()

        async with streams.gateway_with(upstream, app=app) as gw:
            assert (await gw.ask("POST", body=b"hello")).status == 500

        assert [type(error) for error in gw.raised] == [RuntimeError]


STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize("later", [b"", b"=bob"])
@pytest.mark.parametrize("path", ["/own", "/form"])
async def test_an_answer_does_not_wait_for_a_body_that_is_over(streams, server, path, later):
    """Read by somebody else, or dropped: the end of the response is not held up."""
    async with raw_upstream(STREAM) as upstream:
        app = FastAPI()

        @app.post("/own")
        async def own(request: Request):
            return await send_request(request, Upstream(upstream.url), changes=Changes(body=b"x"))

        @app.post("/form")
        async def form(request: Request):
            await request.form()
            return await own(request)

        async with streams.gateway_with(upstream, app=app, server=server) as gw:
            async with gw.client() as client:
                body = b"name" + later
                await client.send(gw.head("POST", path, FORM, f"Content-Length: {len(body)}"))
                await client.send(body[:4])
                await asyncio.sleep(0.05)
                await client.send(body[4:])
                async with asyncio.timeout(2):
                    assert (await client.answer()).complete
