"""Which requests a declared override is for: path, method, host, headers and query."""

import pytest

from fastapi_proxy_router import RouteOverride
from tests.declared.gateways import gateway

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

#: What a request that matches is sent to.
HIT = b"/hit"
UUID = "123e4567-e89b-12d3-a456-426614174000"

PATHS = [
    ("/", "/", True),
    ("/", "/x", False),
    ("/a", "/a", True),
    ("/a", "/a/", False),
    ("/a", "/A", False),
    ("/a", "/%61", True),
    ("/a/{id}", "/a/7", True),
    ("/a/{id}", "/a/", False),
    ("/a/{id}", "/a/7/8", False),
    ("/a/{id}", "/a/7%2F8", False),
    ("/a/{id}", "/a/caf%C3%A9", True),
    ("/a/{id}", "/a/%E9", True),
    ("/a/{id:str}", "/a/x%20y", True),
    ("/a/{id:int}", "/a/007", True),
    ("/a/{id:int}", "/a/7.5", False),
    ("/a/{id:int}", "/a/-7", False),
    ("/a/{id:int}", "/a/%37", True),
    ("/a/{id:float}", "/a/7.5", True),
    ("/a/{id:float}", "/a/7", True),
    ("/a/{id:float}", "/a/x", False),
    ("/a/{id:uuid}", f"/a/{UUID}", True),
    ("/a/{id:uuid}", f"/a/{UUID.upper()}", True),
    ("/a/{id:uuid}", f"/a/{UUID}0", False),
    ("/a/{p:path}", "/a/", True),
    ("/a/{p:path}", "/a", False),
    ("/a/{p:path}", "/a/b//c/", True),
    ("/a/{p:path}", "/a/b%2Fc", True),
    ("/{p:path}", "/", True),
    ("/{p:path}.html", "/a/b.html", True),
    ("/{p:path}.html", "/a/b.htm", False),
    ("/{a}-{b}", "/x-y", True),
    ("/caf\xe9", "/caf%C3%A9", True),
    ("/a.b", "/axb", False),
    ("/a b", "/a%20b", True),
    ("/a+b", "/a+b", True),
    ("/a+b", "/aab", False),
]


@pytest.mark.parametrize(("pattern", "path", "matches"), PATHS)
async def test_a_path_matches_as_in_starlette(pattern, path, matches):
    """Whole segments, decoded, by every convertor."""
    async with gateway(RouteOverride(path=pattern, rewrite="/hit")) as gw:
        assert (await gw.get(path)).status == 200

        assert (gw.sent.target == HIT) is matches


async def test_a_path_matches_in_every_way(way, server):
    """Past FastAPI, through it and beneath a hook, on every server."""
    async with gateway(
        RouteOverride(path="/a/{id:int}/{rest:path}", rewrite="/hit/{id}/{rest}"),
        way=way,
        server=server,
    ) as gw:
        for path in ("/a/007/x%2Fy//z?q=%2F", "/a/x/y"):
            assert (await gw.get(path)).status == 200

        targets = [request.target for request in gw.upstream.requests]
        assert targets == [b"/hit/007/x%2Fy//z?q=%2F", b"/a/x/y"]


@pytest.mark.parametrize("prefix", ["", "/users"])
async def test_the_path_is_below_includes_and_has_the_prefix_of_the_mapping(way, prefix):
    """Below the including call's prefix and the router's, parameters and slashes among them."""
    override = RouteOverride(path=f"{prefix}/old/{{rest:path}}", rewrite="/new/{rest}")
    async with gateway(
        override,
        upstreams=lambda url: {prefix: url},
        prefix="/api/v1",
        include="/{tenant}",
        way=way,
    ) as gw:
        assert (await gw.get(f"/t%20x/api/v1{prefix}/old/7/8%2F9")).status == 200
        assert gw.sent.target == b"/new/7/8%2F9"
        assert gw.sent.values(b"x-forwarded-prefix") == [f"/t%20x/api/v1{prefix}".encode()]

        assert (await gw.get(f"/t/api/v1{prefix}/older/7")).status == 200
        assert gw.sent.target == b"/older/7"


async def test_each_prefix_of_a_mapping_has_its_overrides(way):
    """The path has the mapping's prefix, so that one for ``/a`` is not for ``/b``."""
    async with gateway(
        RouteOverride(path="/a/x", rewrite="/hit-a"),
        RouteOverride(path="/b/x", rewrite="/hit-b"),
        RouteOverride(path="/b", rewrite="/root-of-b"),
        upstreams=lambda url: {"/a": url, "/b": url, "": url},
        way=way,
    ) as gw:
        for path in ("/a/x", "/b/x", "/b", "/x", "/c/x"):
            await gw.get(path)

        targets = [request.target for request in gw.upstream.requests]
        assert targets == [b"/hit-a", b"/hit-b", b"/root-of-b", b"/x", b"/c/x"]


async def test_without_stripping_the_path_is_matched_below_the_prefix_all_the_same():
    """``strip_prefix`` decides what is sent, not what is matched; a rewrite is the whole path."""
    async with gateway(
        RouteOverride(path="/a/x", rewrite="/hit"),
        upstreams=lambda url: {"/a": url},
        strip_prefix=False,
        prefix="/api",
    ) as gw:
        await gw.get("/api/a/x")
        await gw.get("/api/a/y")

        assert [request.target for request in gw.upstream.requests] == [b"/hit", b"/api/a/y"]


@pytest.mark.parametrize(
    ("methods", "hits"),
    [
        (None, ["GET", "HEAD", "POST", "OPTIONS", "PROPFIND"]),
        (["GET"], ["GET"]),
        (["get", "head"], ["GET", "HEAD"]),
        (["OPTIONS"], ["OPTIONS"]),
        (["PROPFIND", "POST"], ["POST", "PROPFIND"]),
    ],
)
async def test_methods(methods, hits):
    """Those that are named, in any case; HEAD is not GET."""
    async with gateway(RouteOverride(path="/x", methods=methods, rewrite="/hit")) as gw:
        for method in ("GET", "HEAD", "POST", "OPTIONS", "PROPFIND"):
            await gw.get("/x", method=method)

        found = [one.line.split()[0] for one in gw.upstream.requests if one.target == HIT]
        assert [method.decode() for method in found] == hits


@pytest.mark.parametrize(
    ("hosts", "host", "matches"),
    [
        (["old.test"], "old.test", True),
        (["old.test"], "OLD.test:8080", True),
        (["Old.Test"], "old.test.", True),
        (["old.test"], "old.test.:80", True),
        (["old.test"], "very.old.test", False),
        (["old.test"], "old.test.evil", False),
        (["old.test"], "xold.test", False),
        (["*.test"], "old.test", True),
        (["*.test"], "very.old.test:1", True),
        (["*.test"], "test", False),
        (["*.old.test"], "xold.test", False),
        (["a.test", "b.test"], "b.test", True),
        (["[::1]"], "[0:0::1]:80", True),
        (["127.0.0.1"], "127.0.0.1:8000", True),
    ],
)
async def test_hosts(hosts, host, matches):
    """Without port and case, as a whole, or anything below a domain."""
    async with gateway(RouteOverride(path="/", hosts=hosts, rewrite="/hit")) as gw:
        assert (await gw.get(host=host)).status == 200

        assert (gw.sent.target == HIT) is matches
