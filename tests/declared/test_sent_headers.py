"""What headers the upstream gets: edits, the allow-list, the host and who the client is."""

import pytest

from fastapi_proxy_router import HeaderEdits, RouteOverride, UpstreamPool
from tests.declared.gateways import Gateway, application, gateway
from tests.servers import serve
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

OURS = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"}


def names(gw: Gateway) -> set[bytes]:
    return {name for name, _ in gw.sent.headers}


async def test_headers_are_edited_byte_for_byte(way, server):
    """Removed, set and added, whatever spelling the client has; all others stay in order."""
    edits = HeaderEdits(
        set={"X-User": "b\xf6b", "X-New": ""},
        add={"x-tag": ["1", "2"], "x-more": "3"},
        remove=["Cookie", "x-old"],
    )
    async with gateway(
        RouteOverride(path="/", request_headers=edits), way=way, server=server
    ) as gw:
        await gw.get(
            "/",
            *("X-A: 1", "X-User: eve", "x_user: eve", "X-USER: eve", "X-Tag: 0", "X-B: 2"),
            *("Cookie: a=1", "Cookie: b=2", "X_Old: 1", "Accept: a, b"),
        )

        # Servers for ASGI leave headers in order, but for granian, which groups them by name.
        assert gw.sent.values(b"x-user") == ["b\xf6b".encode()]
        assert gw.sent.values(b"x-new") == [b""]
        assert gw.sent.values(b"x-tag") == [b"0", b"1", b"2"]
        assert gw.sent.values(b"x-more") == [b"3"]
        assert gw.sent.values(b"accept") == [b"a, b"]
        assert gw.sent.values(b"x-a") + gw.sent.values(b"x-b") == [b"1", b"2"]
        assert names(gw).isdisjoint({b"cookie", b"x_user", b"x-old", b"x_old"})


async def test_the_whole_head(server):
    """Nothing is added that nobody asked for, and what is set comes before what is added."""
    edits = HeaderEdits(set={"x-set": "1"}, add={"x-add": "2"}, keep=["x-kept"])
    override = RouteOverride(path="/x", request_headers=edits, forwarded="none", host="h.test:1")
    async with gateway(override, server=server) as gw:
        await gw.get("/x", "X-Kept: 0", "X-Dropped: 0")

        assert gw.sent.head == (
            b"GET /x HTTP/1.1\r\nhost: h.test:1\r\nx-kept: 0\r\nx-set: 1\r\nx-add: 2"
        )


async def test_an_allow_list_keeps_framing_type_and_what_we_say_of_the_client(way, server):
    """All else goes, the client's spellings with underscores and its claims too."""
    edits = HeaderEdits(keep=["Accept", "x-own"])
    async with gateway(
        RouteOverride(path="/p", request_headers=edits), way=way, server=server
    ) as gw:
        await gw.get(
            "/p",
            *(
                "Accept: a",
                "X-Own: 1",
                "X_Own: 2",
                "Cookie: a=1",
                "Authorization: b",
                "X-Real-IP: 6",
            ),
            *("Content-Type: text/x", "Content-Encoding: x", "X-Forwarded-For: 6.6.6.6"),
            *("X_Forwarded_For: 6.6.6.6", "User-Agent: u", "TE: trailers"),
            method="POST",
            body=b"hello",
        )

        ours = {b"host", b"accept", b"x-own", b"content-type", b"content-encoding", b"te"}
        assert names(gw) == ours | OURS | {b"content-length"}
        assert gw.sent.values(b"x-forwarded-for") == [b"127.0.0.1"]
        assert gw.sent.body == b"hello"


async def test_an_allow_list_keeps_a_chunked_body(server):
    """``Transfer-Encoding`` frames it, so it stays."""
    edits = HeaderEdits(keep=[])
    async with gateway(RouteOverride(path="/p", request_headers=edits), server=server) as gw:
        await gw.get("/p", "X-A: 1", method="POST", chunked=b"5\r\nhello\r\n0\r\n\r\n")

        assert names(gw) == {b"host", b"transfer-encoding"} | OURS
        assert gw.sent.body == b"5\r\nhello\r\n0\r\n\r\n"


async def test_an_allow_list_leaves_a_handshake_whole(server):
    """What makes it one is not the client's to keep."""
    edits = HeaderEdits(keep=["x-own"])
    async with ws_upstream(subprotocols=["chat"]) as upstream:
        app = application(upstream.url, RouteOverride(path="/", request_headers=edits))
        async with serve(app, server) as gw:
            headers = {"X-Own": "1", "X-Other": "2", "Cookie": "a=1"}
            async with dialled(
                gw, "/", additional_headers=headers, subprotocols=["chat"], origin="http://a.test"
            ) as client:
                assert client.subprotocol == "chat"
                await client.send("hello")
                assert await client.recv() == "hello"
        request = upstream.connections[0].request
        assert request is not None
        assert request.headers["X-Own"] == "1"
        assert {"X-Other", "Cookie", "Origin"}.isdisjoint(request.headers)


@pytest.mark.parametrize(
    ("pool", "override", "host"),
    [
        ({}, {}, "upstream"),
        ({}, {"host": "h.test"}, "h.test"),
        ({}, {"host": "h.test:8080"}, "h.test:8080"),
        ({}, {"host": "[::1]:80"}, "[::1]:80"),
        ({}, {"preserve_host": True}, "public.test:1"),
        ({}, {"preserve_host": False}, "upstream"),
        ({"preserve_host": True}, {}, "public.test:1"),
        ({"preserve_host": True}, {"preserve_host": False}, "upstream"),
        ({"preserve_host": True}, {"host": "h.test"}, "h.test"),
    ],
)
async def test_the_host(pool, override, host, way):
    """The override's, the client's or the upstream's; the pool's own rule yields."""
    async with gateway(
        RouteOverride(path="/", **override),
        upstreams=lambda url: UpstreamPool(url, **pool),
        way=way,
    ) as gw:
        await gw.get("/", host="public.test:1")

        expected = gw.upstream.authority if host == "upstream" else host
        assert gw.sent.headers[0] == (b"host", expected.encode())
        assert len(gw.sent.values(b"host")) == 1
        assert gw.sent.values(b"x-forwarded-host") == [b"public.test:1"]


@pytest.mark.parametrize("pool", [False, True, "none"])
@pytest.mark.parametrize("mode", [None, False, True, "none"])
async def test_who_the_client_is(pool, mode):
    """As the override says, or else the pool; the client's own claims never cross."""
    async with gateway(
        RouteOverride(path="/{p:path}", forwarded=mode),
        upstreams=lambda url: {"/api": UpstreamPool(url, forwarded=pool)},
    ) as gw:
        claims = ["X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Real-IP: 6.6.6.6"]
        await gw.get("/api/x", *claims, "X_Forwarded_Prefix: /evil", host="public.test:1")

        said = {
            name: value
            for name, value in gw.sent.headers
            if b"forward" in name or name == b"x-real-ip"
        }
        expected = {
            b"x-forwarded-for": b"127.0.0.1",
            b"x-forwarded-proto": b"http",
            b"x-forwarded-host": b"public.test:1",
            b"x-forwarded-port": b"1",
            b"x-forwarded-prefix": b"/api",
        }
        wanted = pool if mode is None else mode
        if wanted is True:
            expected[b"forwarded"] = b'for=127.0.0.1;host="public.test:1";proto=http'
        assert said == ({} if wanted == "none" else expected)


async def test_forwarding_headers_may_be_edited_by_hand(way):
    """They are then what the override says, and still not what the client says."""
    edits = HeaderEdits(set={"x-forwarded-for": "10.0.0.1"}, remove=["x-forwarded-port"])
    async with gateway(RouteOverride(path="/", request_headers=edits), way=way) as gw:
        await gw.get("/", "X-Forwarded-For: 6.6.6.6")

        assert gw.sent.values(b"x-forwarded-for") == [b"10.0.0.1"]
        assert gw.sent.values(b"x-forwarded-port") == []


async def test_no_forwarding_headers_in_a_handshake_either():
    """``"none"`` and the host hold for WebSockets."""
    override = RouteOverride(path="/", forwarded="none", host="h.test")
    async with ws_upstream() as upstream:
        async with serve(application(upstream.url, override)) as gw:
            async with dialled(gw, "/", additional_headers={"X-Forwarded-For": "6.6.6.6"}):
                pass
        request = upstream.connections[0].request
        assert request is not None
        assert request.headers["Host"] == "h.test"
        assert not [name for name, _ in request.headers.raw_items() if "orward" in name]
