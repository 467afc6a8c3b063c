"""What a client gets of the upstream's response: another status, and other headers."""

from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router import HeaderEdits, RouteOverride, UpstreamPool
from tests.declared.gateways import Got, application, gateway, response
from tests.servers import OK, serve
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

STATUSES: list[tuple[Any, int, int]] = [
    (201, 200, 201),
    (201, 404, 201),
    (404, 200, 404),
    (599, 200, 599),
    ({404: 410}, 404, 410),
    ({404: 410}, 200, 200),
    ({404: 410, 410: 404}, 410, 404),
    ({302: 307}, 302, 307),
]


@pytest.mark.parametrize(("given", "upstreams", "clients"), STATUSES)
async def test_the_status(given, upstreams, clients, way):
    """One for all, or others for some; the body and the headers stay."""
    answer = response(upstreams, "X-Own: 1", "Content-Type: text/x", body=b"the body")
    async with gateway(RouteOverride(path="/", status=given), answer=answer, way=way) as gw:
        got = await gw.get()

        assert (got.status, got.body) == (clients, b"the body")
        assert got.values("x-own") == [b"1"]
        assert got.values("content-length") == [b"8"]


@pytest.mark.parametrize("status", [204, 205, 304])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_status_without_a_body(status, chunked, server):
    """The upstream's body is dropped with what frames it, and its connection is not left open."""
    answer = response(200, "ETag: x", body=b"x" * 100_000)
    if chunked:
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    override = RouteOverride(path="/x", status=status)
    async with gateway(override, answer=answer, server=server) as gw:
        for _ in range(2):
            got = await gw.get("/x")
            assert got.status == status
            assert got.body == b""
            assert set(got.values("content-length")) <= {b"0"}
            if status != 205:  # Which may say so in chunks (RFC 9110, 15.3.6).
                assert got.values("transfer-encoding") == []
        assert (await gw.get("/y")).status == 200


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_without_a_body_gets_another_status(status, server):
    """It has no body then either, and says so."""
    override = RouteOverride(path="/", status={204: 200, 304: 404})
    async with gateway(override, answer=response(status, "ETag: x"), server=server) as gw:
        got = await gw.get()

        assert got.status == {204: 200, 304: 404}[status]
        assert got.body == b""
        assert got.values("etag") == [b"x"]


async def test_a_head_keeps_the_length(way, server):
    """It is that of the response to a GET."""
    answer = b"HTTP/1.1 404 -\r\nContent-Length: 1000\r\n\r\n"
    override = RouteOverride(path="/", status={404: 410})
    async with gateway(override, answer=answer, way=way, server=server) as gw:
        got = await gw.get(method="HEAD")

        assert (got.status, got.body) == (410, b"")
        assert got.values("content-length") == [b"1000"]


EDITS = [
    HeaderEdits(set={"x-always": "1", "x-last": "always"}, remove=["x-gone"]),
    HeaderEdits(set={"x-success": "1", "x-last": "success"}, when="success"),
    HeaderEdits(set={"x-failure": "1", "x-last": "failure"}, when="failure"),
]


@pytest.mark.parametrize("status", [200, 204, 302, 304, 400, 404, 500, 599])
async def test_headers_by_the_upstreams_status(status, way):
    """Below 400 is a success, in the order of the list; what ``status`` says does not count."""
    answer = response(status, "X-Gone: 1", "X-Last: 0", "X-Kept: 1")
    override = RouteOverride(path="/", response_headers=EDITS, status={500: 200, 302: 500})
    async with gateway(override, answer=answer, way=way) as gw:
        got = await gw.get()

        succeeded = status < 400
        assert got.values("x-always") == got.values("x-kept") == [b"1"]
        assert got.values("x-gone") == []
        assert got.values("x-success") == [b"1"] * succeeded
        assert got.values("x-failure") == [b"1"] * (not succeeded)
        assert got.values("x-last") == [b"success" if succeeded else b"failure"]


@pytest.mark.parametrize(
    ("edits", "lines"),
    [
        (HeaderEdits(set={"x-a": "2"}), {"x-a": [b"2"], "x-b": [b"1", b"2"]}),
        (HeaderEdits(add={"x-a": ["2", "3"]}), {"x-a": [b"1", b"2", b"3"]}),
        (HeaderEdits(remove=["x-b"]), {"x-a": [b"1"], "x-b": []}),
        (HeaderEdits(remove=["x-a"], set={"x-b": "3"}), {"x-a": [], "x-b": [b"3"]}),
        (HeaderEdits(remove=["x-a"], add={"x-a": "4"}), {"x-a": [b"4"]}),
        (HeaderEdits(keep=["x-a"]), {"x-a": [b"1"], "x-b": [], "content-type": [b"text/x"]}),
        (HeaderEdits(set={"content-type": "a/b"}), {"content-type": [b"a/b"]}),
        (HeaderEdits(set={"x-c": "caf\xe9"}), {"x-c": ["caf\xe9".encode()]}),
    ],
)
async def test_headers_are_edited(edits, lines, server):
    """Removed, set and added, and the framing stays."""
    answer = response(200, "X-A: 1", "X-B: 1", "X-B: 2", "Content-Type: text/x", body=b"body")
    override = RouteOverride(path="/", response_headers=edits)
    async with gateway(override, answer=answer, server=server) as gw:
        got = await gw.get()

        assert {name: got.values(name) for name in lines} == lines
        assert got.body == b"body"
        assert got.values("content-length") == [b"4"]


async def test_an_allow_list_of_a_response_without_a_length(server):
    """It arrives whole, and the upstream's other headers do not."""
    answer = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    override = RouteOverride(path="/", response_headers=HeaderEdits(keep=[]))
    async with gateway(override, answer=answer, server=server) as gw:
        got = await gw.get()

        assert got.body == b"ok"
        assert got.values("x-a") == []


async def test_what_we_say_ourselves_is_not_edited():
    """The key of an affinity is issued after the edits, which are of what the upstream says."""
    from fastapi_proxy_router import CookieAffinity

    affinity = CookieAffinity("stick", secret="0123456789abcdef")
    override = RouteOverride(path="/", response_headers=HeaderEdits(keep=[], remove=["set-cookie"]))
    async with gateway(
        override,
        answer=response(200, "Set-Cookie: a=1"),
        upstreams=lambda url: UpstreamPool(url, affinity=affinity),
    ) as gw:
        (cookie,) = (await gw.get()).values("set-cookie")

    assert cookie.startswith(b"stick=")


async def test_the_next_request_is_edited_anew(server):
    """An override leaves nothing behind on a connection that is used again."""
    override = RouteOverride(path="/x", status=404, response_headers=HeaderEdits(set={"x-a": "1"}))
    async with gateway(override, answer=OK, server=server) as gw:
        seen = [await gw.get(path) for path in ("/x", "/y", "/x")]

        assert [one.status for one in seen] == [404, 200, 404]
        assert [one.values("x-a") for one in seen] == [[b"1"], [], [b"1"]]
        assert gw.upstream.connections == 1


async def test_headers_of_an_accepted_handshake(server):
    """Its 101 is a success."""
    override = RouteOverride(path="/", response_headers=EDITS, status=404)
    async with ws_upstream() as upstream:
        async with serve(application(upstream.url, override), server) as gw:
            async with dialled(gw, "/") as client:
                await client.send("hello")
                assert await client.recv() == "hello"
                assert client.response is not None
                headers = client.response.headers
    if server != "granian":  # It drops the headers of an accepted WebSocket.
        assert headers["X-Success"] == headers["X-Always"] == "1"
        assert "X-Failure" not in headers


@pytest.mark.parametrize(("given", "clients"), [({403: 404}, 404), (410, 410), (200, 403)])
async def test_a_refused_handshake(given, clients, server):
    """It gets the status, unless that is none of a refusal, and the headers of a failure."""

    def refuse(connection, _request):
        return connection.respond(403, "not you\n")

    override = RouteOverride(path="/", response_headers=EDITS, status=given)
    async with ws_upstream(process_request=refuse) as upstream:
        async with serve(application(upstream.url, override), server) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, "/"):
                    pass

    found = refused.value.response
    assert (found.status_code, bytes(found.body or b"")) == (clients, b"not you\n")
    assert found.headers["X-Failure"] == found.headers["X-Always"] == "1"
    assert "X-Success" not in found.headers


async def test_interim_responses_are_not_counted():
    """The status that an edit is for is that of the final response."""

    async def hinting(_reader, writer):
        writer.write(b"HTTP/1.1 103 -\r\nLink: </x>\r\n\r\n" + response(404))

    override = RouteOverride(path="/", response_headers=EDITS)
    async with gateway(override, answer=hinting) as gw:
        got = await gw.get()
        final = Got(got.raw[got.raw.index(b"HTTP/1.1 404") :])

        assert final.values("x-failure") == [b"1"]
        assert final.values("x-success") == []
