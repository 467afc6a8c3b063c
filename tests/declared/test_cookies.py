"""Cookies that an upstream sets, edited for the public side."""

from typing import Any

import pytest

from fastapi_proxy_router import CookieAffinity, CookieEdits, RouteOverride, UpstreamPool
from tests.declared.gateways import application, gateway, response
from tests.servers import serve
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


async def cookies(
    edits: Any, *lines: str, asked: str = "/", override: Any = None, **options: Any
) -> list[str]:
    """Return what a client gets of these lines."""
    rule = RouteOverride(path="/{p:path}", cookies=edits, **(override or {}))
    answer = response(200, *[f"Set-Cookie: {line}" for line in lines])
    async with gateway(rule, answer=answer, **options) as gw:
        return [value.decode() for value in (await gw.get(asked)).values("set-cookie")]


ONE = [
    ({"domain": "pub.test"}, "a=1; Domain=up.test", "a=1; Domain=pub.test"),
    ({"domain": "pub.test"}, "a=1; Path=/", "a=1; Path=/"),
    ({"domain": ""}, "a=1; domain=.up.test; Secure", "a=1; Secure"),
    ({"domain": {"up.test": "pub.test"}}, "a=1;Domain=.UP.test", "a=1;Domain=pub.test"),
    ({"domain": {"up.test": "pub.test"}}, "a=1; Domain=x.up.test", "a=1; Domain=x.up.test"),
    ({"domain": {"up.test": "pub.test", "*": ""}}, "a=1; Domain=x.test", "a=1"),
    ({"path": True}, "a=1; Path=/", "a=1; Path=/api"),
    ({"path": True}, "a=1; Path=/x; HttpOnly", "a=1; Path=/api/x; HttpOnly"),
    ({"path": True}, "a=1", "a=1"),
    ({"path": {"/x": "/y"}}, "a=1; Path=/x/z", "a=1; Path=/y/z"),
    ({"path": {"/x": "/y"}}, "a=1; Path=/xz", "a=1; Path=/xz"),
    ({"path": {"/": "/all"}}, "a=1; Path=/x", "a=1; Path=/all/x"),
    ({"secure": True}, "a=1", "a=1; Secure"),
    ({"secure": True}, "a=1; secure", "a=1; secure"),
    ({"secure": False}, "a=1; Secure; Path=/", "a=1; Path=/"),
    ({"secure": False}, "__Secure-a=1; Secure", "__Secure-a=1; Secure"),
    ({"http_only": True}, "a=1", "a=1; HttpOnly"),
    ({"http_only": False}, "a=1; HttpOnly", "a=1"),
    ({"same_site": "lax"}, "a=1", "a=1; SameSite=Lax"),
    ({"same_site": "strict"}, "a=1; samesite=None", "a=1; samesite=Strict"),
    ({"same_site": "none", "secure": True}, "a=1", "a=1; Secure; SameSite=None"),
    ({"names": ["b"], "secure": True}, "a=1", "a=1"),
    ({"names": ["a", "b"], "secure": True}, "a=1", "a=1; Secure"),
    ({"names": ["a"], "secure": True}, "A=1", "A=1"),
    ({"secure": True}, 'a="x; y"; Max-Age=1', 'a="x; y"; Max-Age=1; Secure'),
]


@pytest.mark.parametrize(("fields", "line", "edited"), ONE)
async def test_a_cookie(fields, line, edited):
    """Domain, path and flags; what no edit is about stays byte for byte."""
    assert await cookies(CookieEdits(**fields), line, asked="/api/", prefix="/api") == [edited]


async def test_each_stays_a_line_of_its_own(way, server):
    """In their order, with dates that have commas, and each edit in its turn."""
    found = await cookies(
        [CookieEdits(domain="pub.test", secure=True), CookieEdits(names=["b"], http_only=True)],
        "a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT; Domain=up.test",
        "b=2",
        "a=3; Path=/x",
        way=way,
        server=server,
    )
    assert found == [
        "a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT; Domain=pub.test; Secure",
        "b=2; Secure; HttpOnly",
        "a=3; Path=/x; Secure",
    ]


PATHS = [
    ("/base", "/v1/t;x/api/users"),
    ("/base/", "/v1/t;x/api/users"),
    ("/base/x", "/v1/t;x/api/users/x"),
    ("/based", "/based"),
    ("/other", "/other"),
]


@pytest.mark.parametrize(("path", "public"), PATHS)
async def test_the_path_of_the_public_side(path, public, way):
    """Prefixes before it, the base path away; what a client wrote adds no attribute."""
    found = await cookies(
        CookieEdits(path=True),
        f"a=1; Path={path}",
        asked="/v1/t;x/api/users/y",
        include="/v1/{tenant}",
        prefix="/api",
        base="/base",
        upstreams=lambda url: {"/users": url},
        way=way,
    )
    assert found == [f"a=1; Path={public.replace(';x', '%3Bx')}"]


@pytest.mark.parametrize("urls", [False, True])
@pytest.mark.parametrize(
    ("path", "public"),
    [("/", "/api/users"), ("/v2", "/api/users/old"), ("/v2/x", "/api/users/old/x"), ("/v3", None)],
)
async def test_the_path_through_the_inverse_of_a_rewrite(path, public, urls, way):
    """Below the prefix of the mapping, which the override's path has already."""
    rule = RouteOverride(
        path="/users/old/{p:path}",
        rewrite="/v2/{p}",
        cookies=CookieEdits(path=True),
        rewrite_urls=urls,
    )
    answer = response(200, f"Set-Cookie: a=1; Path={path}")
    async with gateway(
        rule, answer=answer, prefix="/api", upstreams=lambda url: {"/users": url}, way=way
    ) as gw:
        (found,) = (await gw.get("/api/users/old/1")).values("set-cookie")

    assert found.decode() == f"a=1; Path={public or '/api/users' + path}"


async def test_the_cookie_of_an_affinity_is_ours():
    """It is not one that the upstream sets."""
    affinity = CookieAffinity("stick", secret="0123456789abcdef")
    found = await cookies(
        CookieEdits(same_site="strict", domain="pub.test", path={"/": "/x"}),
        "a=1; Domain=up.test; Path=/",
        upstreams=lambda url: UpstreamPool(url, affinity=affinity),
    )
    assert found[0] == "a=1; Domain=pub.test; Path=/x; SameSite=Strict"
    assert found[1].startswith("stick=")
    assert "pub.test" not in found[1]
    assert "Strict" not in found[1]


async def test_the_cookies_of_a_handshake(server):
    """Those of its 101."""

    def with_cookies(_connection, _request, answer):
        answer.headers["Set-Cookie"] = "a=1; Path=/"
        answer.headers["Set-Cookie"] = "b=2"

    rule = RouteOverride(path="/{p:path}", cookies=CookieEdits(path=True, secure=True))
    async with ws_upstream(process_response=with_cookies) as upstream:
        async with serve(application(upstream.url, rule, prefix="/api"), server) as gw:
            async with dialled(gw, "/api/x") as client:
                assert client.response is not None
                found = client.response.headers.get_all("Set-Cookie")
    if server != "granian":  # It drops the headers of an accepted WebSocket.
        assert found == ["a=1; Path=/api; Secure", "b=2; Secure"]
