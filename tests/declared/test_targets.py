"""What line the upstream gets: method, path and query, byte for byte."""

from typing import Any

import pytest

from fastapi_proxy_router import QueryEdits, RouteOverride
from tests.declared.gateways import gateway

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

REWRITES = [
    ("/old/{rest:path}", "/new/{rest}", "/old/a%2Fb//c%E9;x=1", b"/new/a%2Fb//c%E9;x=1"),
    ("/old/{rest:path}", "/new/{rest}", "/old/", b"/new/"),
    ("/{a}/{b}", "/{b}/{a}/{b}", "/x%20/y%2B", b"/y%2B/x%20/y%2B"),
    ("/{a}-{b:int}", "/{b}", "/x%2D-07", b"/07"),
    ("/{any:path}", "/", "/x", b"/"),
    ("/{any:path}", "/caf\xe9 {any}%", "/x", b"/caf%C3%A9%20x%25"),
    ("/a", "/b/", "/a", b"/b/"),
]


@pytest.mark.parametrize(("path", "rewrite", "asked", "target"), REWRITES)
async def test_a_rewrite_is_below_the_upstreams_own_path(path, rewrite, asked, target):
    """Between the base path and the base query, with the client's query as it came."""
    override = RouteOverride(path=path, rewrite=rewrite)
    async with gateway(override, base="/base/?key=1") as gw:
        assert (await gw.get(f"{asked}?q=%2F&&x;")).status == 200

        assert gw.sent.target == b"/base" + target + b"?key=1&q=%2F&&x;"


@pytest.mark.parametrize(
    ("rewrite", "asked"),
    [
        ("/x/{rest}", "/old/.."),
        ("/x/.{rest}", "/old/."),
        ("/{rest}", "/old//evil/x"),
        ("/x/%2e{rest}", "/old/%2e"),
    ],
)
async def test_a_rewrite_leads_nowhere_else(rewrite, asked, way):
    """A target that the upstream could read as another one is refused with 400."""
    override = RouteOverride(path="/old/{rest:path}", rewrite=rewrite)
    async with gateway(override, base="/base", way=way) as gw:
        assert (await gw.get(asked)).status == 400
        assert gw.upstream.connections == 0


QUERIES = [
    (QueryEdits(set={"a": "1"}), "", b"a=1"),
    (QueryEdits(set={"a": "1"}), "b=%2F", b"b=%2F&a=1"),
    (QueryEdits(set={"a": "1"}), "a=0&b&%61=0", b"b&a=1"),
    (QueryEdits(set={"a": "1"}), "b;a=0;c", b"b;c&a=1"),
    (QueryEdits(set={"a": ["1", "2"]}), "a=0", b"a=1&a=2"),
    (QueryEdits(set={"a": "x y&\xe9"}), "", b"a=x+y%26%C3%A9"),
    (QueryEdits(add={"a": ["1", "2"]}), "a=0", b"a=0&a=1&a=2"),
    (QueryEdits(remove=["a"]), "a=0", b""),
    (QueryEdits(remove=["a"]), "x=1;a=0&&y=%zz", b"x=1&&y=%zz"),
    (QueryEdits(remove=["a b"]), "a+b=0&a%20b&ab", b"ab"),
    (QueryEdits(remove=["utm_source"]), "q=+%2B&utm_source=x", b"q=+%2B"),
    (
        QueryEdits(set={"a": "1"}, add={"b": "2"}, remove=["c"]),
        "c=0&b=0&a=0&d",
        b"b=0&d&a=1&b=2",
    ),
]


@pytest.mark.parametrize(("edits", "query", "sent"), QUERIES)
async def test_the_query_is_edited(edits, query, sent):
    """Removed, set, added; what is not named stays byte for byte, and no ``?`` without a query."""
    async with gateway(RouteOverride(path="/x", query=edits)) as gw:
        await gw.get(f"/x?{query}" if query else "/x")

        assert gw.sent.target == (b"/x?" + sent if sent else b"/x")


async def test_the_upstreams_own_query_is_not_edited(way, server):
    """Its key stays whatever an override removes of the client's."""
    override = RouteOverride(path="/x", query=QueryEdits(set={"a": "1"}, remove=["key"]))
    async with gateway(override, base="/base?key=1", way=way, server=server) as gw:
        await gw.get("/x?key=stolen&b=%2f")

        assert gw.sent.target == b"/base/x?key=1&b=%2f&a=1"


@pytest.mark.parametrize(
    ("asked", "method"), [("GET", "POST"), ("POST", "GET"), ("PUT", "PATCH"), ("GET", "MKCOL")]
)
async def test_the_method_is_another(asked, method, way):
    """The upstream is sent it, also in lower case, one that no catch-all takes included."""
    override = RouteOverride(path="/x", methods=[asked], method=method.lower())
    async with gateway(override, way=way) as gw:
        assert (await gw.get("/x", method=asked)).status == 200

        assert gw.sent.line == f"{method} /x HTTP/1.1".encode()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_is_dropped_for_get_and_head(method, chunked, server):
    """Neither it nor what is said of it is sent, and what belongs to the client's headers is."""
    override = RouteOverride(path="/x", method=method)
    answer = b"HTTP/1.1 200 -\r\nContent-Length: 0\r\n\r\n"
    request: dict[str, Any] = {"body": b"hello"}
    if chunked:
        request = {"chunked": b"5\r\nhello\r\n0\r\n\r\n"}
    async with gateway(override, server=server, answer=answer) as gw:
        got = await gw.get("/x", "X-Own: 1", method="POST", **request)

        assert got.status == 200
        assert gw.sent.line == f"{method} /x HTTP/1.1".encode()
        assert gw.sent.body == b""
        assert gw.sent.values(b"x-own") == [b"1"]
        assert gw.sent.values(b"content-length") == gw.sent.values(b"transfer-encoding") == []


async def test_a_head_that_becomes_a_get_has_no_body(way, server):
    """The upstream's body is not sent to a client that asked for none."""
    override = RouteOverride(path="/x", methods=["HEAD"], method="GET")
    async with gateway(override, way=way, server=server) as gw:
        got = await gw.get("/x", method="HEAD")

        assert gw.sent.line == b"GET /x HTTP/1.1"
        assert (got.status, got.body) == (200, b"")
