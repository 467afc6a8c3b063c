"""What an upstream says of its own URLs, turned back to the public side by ``rewrite_urls``."""

from typing import Any

import pytest

from fastapi_proxy_router import HeaderEdits, RouteOverride
from tests.declared.gateways import Gateway, gateway

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

#: Where the router is found: the path of the application, the including call's, its own.
ABOVE: dict[str, Any] = {"include": "/v1", "prefix": "/api"}
ALL = RouteOverride(path="/{rest:path}", rewrite_urls=True)


class Redirecting:
    """An upstream whose answer is made of its own address, once that is known."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines
        self.upstream: Any = None

    async def __call__(self, reader, writer) -> None:
        while True:
            authority, port = self.upstream.authority, self.upstream.port
            lines = [
                line.replace("SELF", authority).replace("PORT", str(port)) for line in self.lines
            ]
            head = "\r\n".join(["HTTP/1.1 302 -", *lines, "Content-Length: 0"])
            writer.write(head.encode("latin-1") + b"\r\n\r\n")
            await writer.drain()
            self.upstream.requests[-1].head = (await reader.readuntil(b"\r\n\r\n"))[:-4]


async def turned(location: str, *overrides: RouteOverride, asked: str, **options: Any) -> str:
    """Return the ``Location`` that a client gets."""
    answer = Redirecting(f"Location: {location}")
    async with gateway(*(overrides or (ALL,)), answer=answer, **options) as gw:
        answer.upstream = gw.upstream
        got = await gw.get(asked, host="public.test")
        assert got.status == 302
        (value,) = got.values("location")
        return value.decode("latin-1").replace(gw.upstream.authority, "SELF")


LOCATIONS = [
    ("http://SELF/x?y=http://SELF/#z", "/v1/api/x?y=http://SELF/#z"),
    ("HTTP://SELF/x", "/v1/api/x"),
    ("//SELF/x", "/v1/api/x"),
    ("http://SELF", "/v1/api/"),
    ("/x%2Fy//z", "/v1/api/x%2Fy//z"),
    ("/", "/v1/api/"),
    ("/a/../../x", "/v1/api/x"),
    ("/%2e%2e/x", "/v1/api/x"),
    ("x", "x"),
    ("?q", "?q"),
    ("", ""),
    ("https://SELF/x", "https://SELF/x"),
    ("http://SELF.evil/x", "http://SELF.evil/x"),
    ("http://u@SELF/x", "http://u@SELF/x"),
    ("http://evil/x", "http://evil/x"),
    ("//evil/x", "//evil/x"),
    ("\\\\evil/x", "\\\\evil/x"),
    ("/\\evil/x", "/\\evil/x"),
    ("javascript:x", "javascript:x"),
]


@pytest.mark.parametrize(("location", "public"), LOCATIONS)
async def test_a_redirect_leads_back_below_the_prefix(location, public):
    """One of the upstream's own; another's, and a relative one, stays."""
    assert await turned(location, asked="/v1/api/a", **ABOVE) == public


@pytest.mark.parametrize(
    "location",
    [
        "http://SELF//evil/x",
        "//SELF//evil/x",
        "http://SELF/\\evil/x",
        "http://SELF/%2e//evil/x",
        "http://SELF/.//evil",
        "http://SELF/a/..//evil",
        "/.//evil",
        "/a/..//evil",
    ],
)
async def test_a_redirect_to_this_upstream_never_becomes_one_to_another_host(location):
    """Below no prefix at all, two slashes would name one."""
    public = await turned(location, asked="/a")

    assert not public.startswith(("//", "/\\", "\\"))
    assert public == location or public.startswith("/")


async def test_without_the_field_nothing_is_turned():
    """It is off by default."""
    override = RouteOverride(path="/{rest:path}")
    assert await turned("http://SELF/x", override, asked="/v1/api/a", **ABOVE) == "http://SELF/x"


@pytest.mark.parametrize(
    ("location", "public"),
    [
        ("http://SELF/base/x", "/v1/api/users/x"),
        ("/base/x", "/v1/api/users/x"),
        ("/base", "/v1/api/users"),
        ("/base/", "/v1/api/users/"),
        ("/based/x", "/based/x"),
        ("/other", "/other"),
        ("http://SELF/other", "http://SELF/other"),
    ],
)
async def test_the_base_path_and_the_prefix_of_the_mapping(location, public):
    """The one is taken away, the other put before; what is not below the base stays."""
    options = {**ABOVE, "base": "/base", "upstreams": lambda url: {"/users": url}}
    assert await turned(location, asked="/v1/api/users/a", **options) == public


async def test_root_path_and_parameters_of_the_prefix(way):
    """The application's own path is public, and what a client wrote of the prefix is quoted."""
    options: dict[str, Any] = {"include": "/{tenant}", "upstreams": lambda url: {"/users": url}}
    found = await turned("/x", asked='/t"%20<;/users/a', way=way, **options)
    assert found == "/t%22%20%3C;/users/x"


async def test_behind_a_mount():
    """The path of a mount is public too."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from tests.declared.gateways import application
    from tests.servers import raw_upstream, serve

    answer = Redirecting("Location: /x")
    async with raw_upstream(answer) as answer.upstream:
        app = Starlette(routes=[Mount("/sub", application(answer.upstream.url, ALL, **ABOVE))])
        async with serve(app, root_path="/root") as served:
            gw = Gateway(served.port, served.host, answer.upstream)
            got = await gw.get("/sub/v1/api/a")

    assert got.values("location") == [b"/root/sub/v1/api/x"]


REWRITES = [
    # The way back through the rewrite, as far as there is one.
    ("/v2/items/7%3B8?q", "{}/old/7%3B8?q"),
    ("http://SELF/v2/items/caf%C3%A9#x", "{}/old/caf%C3%A9#x"),
    ("/v2/items/7/8", "{}/v2/items/7/8"),
    ("/elsewhere", "{}/elsewhere"),
    ("/v2/items/../items/9", "{}/old/9"),
]


@pytest.mark.parametrize(("location", "public"), REWRITES)
async def test_through_the_inverse_of_a_rewrite(location, public, way):
    """A path that the rewrite leads to has a public one that is not spelled like it."""
    override = RouteOverride(path="/old/{id}", rewrite="/v2/items/{id}", rewrite_urls=True)
    found = await turned(location, override, asked="/v1/api/old/1", way=way, **ABOVE)
    assert found == public.format("/v1/api")


@pytest.mark.parametrize(("location", "public"), REWRITES[:3])
async def test_through_the_inverse_below_the_prefix_of_a_mapping(location, public, way):
    """The override's path has that prefix already."""
    override = RouteOverride(path="/users/old/{id}", rewrite="/v2/items/{id}", rewrite_urls=True)
    options = {**ABOVE, "upstreams": lambda url: {"/users": url}, "way": way}
    found = await turned(location, override, asked="/v1/api/users/old/1", **options)
    assert found == public.format("/v1/api/users")


async def test_through_the_inverse_below_a_prefix_with_parameters():
    """Both what is above the override's path and the parameters in it are the client's."""
    override = RouteOverride(path="/{shop}/old/{id}", rewrite="/{shop}/v2/{id}", rewrite_urls=True)
    options: dict[str, Any] = {"include": "/{tenant}", "upstreams": lambda url: {"/{shop}": url}}
    found = await turned("/b%20c/v2/9", override, asked="/t%20u/b%20c/old/1", **options)
    assert found == "/t%20u/b%20c/old/9"


@pytest.mark.parametrize(
    ("location", "public"),
    [("/v1/api/users/x", "/v1/api/users/x"), ("http://SELF/v1/api/x", "/v1/api/x")],
)
async def test_without_stripping_the_upstream_knows_the_prefix(location, public):
    """It is not put before what has it already."""
    options = {**ABOVE, "upstreams": lambda url: {"/users": url}, "strip_prefix": False}
    assert await turned(location, asked="/v1/api/users/a", **options) == public


async def test_through_the_inverse_without_stripping():
    """What the rewrite leads to has no prefix, so the way back has to have it."""
    override = RouteOverride(path="/users/old/{id}", rewrite="/v2/{id}", rewrite_urls=True)
    options = {**ABOVE, "upstreams": lambda url: {"/users": url}, "strip_prefix": False}
    asked = "/v1/api/users/old/1"
    assert await turned("/v2/7", override, asked=asked, **options) == "/v1/api/users/old/7"
    assert await turned("/v3/7", override, asked=asked, **options) == "/v3/7"


async def test_a_rewrite_that_drops_something_has_no_way_back():
    """The path is reached as one that is not rewritten."""
    override = RouteOverride(path="/old/{id}", rewrite="/v2/all", rewrite_urls=True)
    assert await turned("/v2/all", override, asked="/api/old/1", prefix="/api") == "/api/v2/all"


@pytest.mark.parametrize(
    ("override", "location", "public"),
    [
        ({"preserve_host": True}, "http://public.test/x", "/api/x"),
        ({"preserve_host": True}, "http://PUBLIC.test:80/x", "/api/x"),
        ({"preserve_host": True}, "http://public.test:81/x", "http://public.test:81/x"),
        ({"preserve_host": True}, "http://SELF/x", "/api/x"),
        ({"preserve_host": False}, "http://public.test/x", "http://public.test/x"),
        ({"host": "own.test:81"}, "http://own.test:81/x", "/api/x"),
        ({"host": "own.test:81"}, "http://own.test/x", "http://own.test/x"),
        ({"host": "own.test"}, "http://own.test:80/x", "/api/x"),
        ({"host": "own.test:80"}, "http://own.test/x", "/api/x"),
    ],
)
async def test_what_the_upstream_was_told_it_is_called(override, location, public):
    """Its own name is what it was sent as ``Host``, too."""
    rule = RouteOverride(path="/{rest:path}", rewrite_urls=True, **override)
    assert await turned(location, rule, asked="/api/a", prefix="/api") == public


async def test_every_header_that_has_urls(way, server):
    """``Location``, ``Content-Location``, ``Refresh`` and ``Link``; other headers stay."""
    answer = Redirecting(
        "Location: http://SELF/a",
        "Content-Location: /b",
        "Refresh: 5; url=http://SELF/c",
        'Link: </d>; rel=next, <http://SELF/e>; rel="x,</f>", <//evil/g>',
        "X-Link: http://SELF/h",
    )
    async with gateway(ALL, answer=answer, way=way, server=server, **ABOVE) as gw:
        answer.upstream = gw.upstream
        got = await gw.get("/v1/api/x")

        assert got.values("location") == [b"/v1/api/a"]
        assert got.values("content-location") == [b"/v1/api/b"]
        assert got.values("refresh") == [b"5; url=/v1/api/c"]
        (link,) = got.values("link")
        assert link == b'</v1/api/d>; rel=next, </v1/api/e>; rel="x,</f>", <//evil/g>'
        assert got.values("x-link") == [f"http://{gw.upstream.authority}/h".encode()]


async def test_urls_are_turned_before_headers_are_edited():
    """So an edit has the last word."""
    edits = HeaderEdits(set={"location": "/edited"})
    override = RouteOverride(path="/{p:path}", rewrite_urls=True, response_headers=edits)
    assert await turned("http://SELF/x", override, asked="/a") == "/edited"
