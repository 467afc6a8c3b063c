"""What a declared override wants of headers and of the query, and which of several applies."""

from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router import HeaderEdits, ProxyRouter, RouteOverride
from tests.declared.gateways import application, gateway
from tests.servers import serve
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

HIT = b"/hit"

HEADERS = [
    ({"X-Version": "1"}, ["x-version: 1"], True),
    ({"x-version": "1"}, ["X-VERSION: 1"], True),
    ({"x-version": "1"}, ["X-Version: 2"], False),
    ({"x-version": "1"}, ["X-Version: 2", "X-Version: 1"], True),
    ({"x-version": "1"}, ["X-Version: 1, 2"], False),
    ({"x-version": "a"}, ["X-Version: A"], False),
    ({"x-version": "1"}, ["X_Version: 1"], False),
    ({"x-version": "caf\xe9"}, ["X-Version: caf\xc3\xa9"], True),
    ({"x-version": ["1", "2"]}, ["X-Version: 2"], True),
    ({"x-version": ["1", "2"]}, ["X-Version: 3"], False),
    ({"x-debug": True}, ["X-Debug: anything"], True),
    ({"x-debug": True}, ["X-Debug:"], True),
    ({"x-debug": True}, [], False),
    ({"x-debug": True}, ["X_Debug: 1"], False),
    ({"x-debug": False}, [], True),
    ({"x-debug": False}, ["X-Debug: 1"], False),
    # What an upstream may take for it is there.
    ({"x-debug": False}, ["X_Debug: 1"], False),
    ({"x-debug": False}, ["x_DEBUG:"], False),
    ({"x_debug": False}, ["X-Debug: 1"], False),
    ({"x-a": "1", "x-b": "2"}, ["X-A: 1", "X-B: 2"], True),
    ({"x-a": "1", "x-b": "2"}, ["X-A: 1"], False),
    ({"cookie": "a=1"}, ["Cookie: a=1"], True),
    ({"content-type": "text/plain"}, ["Content-Type: text/plain"], True),
]


@pytest.mark.parametrize(("wanted", "headers", "matches"), HEADERS)
async def test_headers(wanted, headers, matches):
    """One of the lines is equal byte for byte, or one is there, or none is."""
    async with gateway(RouteOverride(path="/", match_headers=wanted, rewrite="/hit")) as gw:
        assert (await gw.get("/", *headers)).status == 200

        assert (gw.sent.target == HIT) is matches


QUERIES = [
    ({"beta": "1"}, "beta=1", True),
    ({"beta": "1"}, "beta=2", False),
    ({"beta": "1"}, "Beta=1", False),
    ({"beta": "1"}, "beta=2&beta=1", True),
    ({"beta": "1"}, "x=2;beta=1", True),
    ({"beta": "1"}, "%62eta=%31", True),
    ({"beta": "1"}, "%2562eta=1", False),
    ({"beta": "a b"}, "beta=a+b", True),
    ({"beta": "a b"}, "beta=a%20b", True),
    ({"beta": "a+b"}, "beta=a%2Bb", True),
    ({"beta": "a=b"}, "beta=a=b", True),
    ({"caf\xe9": "\xfc"}, "caf%C3%A9=%C3%BC", True),
    ({"beta": "\xe9"}, "beta=%E9", False),
    ({"beta": ["1", "2"]}, "beta=2", True),
    ({"beta": ["1", "2"]}, "beta=12", False),
    ({"beta": True}, "beta", True),
    ({"beta": True}, "beta=", True),
    ({"beta": True}, "alpha", False),
    ({"beta": True}, "", False),
    ({"beta": False}, "", True),
    ({"beta": False}, "alpha;%62eta", False),
    ({"beta": ""}, "beta", True),
    ({"a": "1", "b": True}, "a=1&b", True),
    ({"a": "1", "b": True}, "a=1", False),
]


@pytest.mark.parametrize(("wanted", "query", "matches"), QUERIES)
async def test_queries(wanted, query, matches):
    """Names and values are compared decoded; what was matched is sent as it came."""
    async with gateway(RouteOverride(path="/", match_query=wanted, rewrite="/hit")) as gw:
        assert (await gw.get(f"/?{query}" if query else "/")).status == 200

        target = HIT if matches else b"/"
        assert gw.sent.target == (target + b"?" + query.encode() if query else target)


async def test_all_conditions_together(way, server):
    """A request has to meet every one of them."""
    override = RouteOverride(
        path="/{rest:path}",
        methods=["POST"],
        hosts=["*.old.test"],
        match_headers={"x-version": ["1", "2"], "x-internal": False},
        match_query={"beta": True},
        rewrite="/hit",
    )
    good: dict[str, Any] = {"method": "POST", "host": "www.old.test:80"}
    asked = [
        ("/x?beta", ["X-Version: 2"], good),
        ("/x?beta", ["X-Version: 2"], {**good, "method": "PUT"}),
        ("/x?beta", ["X-Version: 2"], {**good, "host": "old.test"}),
        ("/x?beta", ["X-Version: 3"], good),
        ("/x?beta", ["X-Version: 2", "X-Internal: 1"], good),
        ("/x", ["X-Version: 2"], good),
    ]
    async with gateway(override, way=way, server=server) as gw:
        for target, headers, options in asked:
            await gw.get(target, *headers, "Content-Length: 0", **options)

        hits = [one.target.startswith(HIT) for one in gw.upstream.requests]
        assert hits == [True] + [False] * 5


async def test_the_first_that_matches_applies_and_only_that_one(way):
    """Of several in order, later ones add nothing, and a narrower one behind is never asked."""
    async with gateway(
        RouteOverride(path="/x", match_headers={"x-a": True}, rewrite="/first"),
        RouteOverride(path="/{p:path}", request_headers=HeaderEdits(set={"x-by": "second"})),
        RouteOverride(path="/y", rewrite="/never"),
        way=way,
    ) as gw:
        await gw.get("/x", "X-A: 1")
        await gw.get("/x")
        await gw.get("/y")

        sent = [(one.target, one.values(b"x-by")) for one in gw.upstream.requests]
        assert sent == [(b"/first", []), (b"/x", [b"second"]), (b"/y", [b"second"])]


async def test_an_override_for_get_is_for_handshakes_too(server):
    """Path, host, headers and query decide; one for POST, or for another host, does not apply."""
    overrides = [
        RouteOverride(path="/a/{id}", methods=["POST"], rewrite="/post"),
        RouteOverride(path="/a/{id}", methods=["GET"], hosts=["other.test"], rewrite="/host"),
        RouteOverride(
            path="/a/{id}",
            methods=["GET"],
            match_headers={"x-version": "2"},
            match_query={"beta": True},
            rewrite="/hit/{id}",
        ),
        RouteOverride(path="/b", rewrite="/any"),
    ]
    async with ws_upstream() as upstream:
        app = application({"": upstream.url}, *overrides, include="/api")
        async with serve(app, server) as gw:
            for path, version in (
                ("/api/a/7%2F8?x", "2"),
                ("/api/a/7%20?beta", "2"),
                ("/api/a/7?beta", "1"),
                ("/api/b", "1"),
            ):
                async with dialled(gw, path, additional_headers={"X-Version": version}):
                    pass

        paths = [one.request.path for one in upstream.connections if one.request]
        assert paths == ["/a/7%2F8?x", "/hit/7%20?beta", "/a/7?beta", "/any"]


async def test_an_override_applies_beneath_a_hook_for_websockets():
    """Declared first, then what the hook says."""
    from fastapi_proxy_router import WebSocketOverride

    edits = HeaderEdits(set={"x-declared": "1", "x-both": "declared"})
    async with ws_upstream() as upstream:
        router = ProxyRouter(
            upstream.url,
            overrides=[RouteOverride(path="/ws/{id}", rewrite="/hit/{id}", request_headers=edits)],
        )

        @router.override_websocket("/ws/{id}")
        async def both() -> WebSocketOverride:
            return WebSocketOverride(headers=HeaderEdits(set={"x-both": "hook"}))

        async with serve(router) as gw:
            async with dialled(gw, "/ws/a%20b"):
                pass

        request = upstream.connections[0].request
        assert request is not None
        assert request.path == "/hit/a%20b"
        assert request.headers["X-Declared"] == "1"
        assert request.headers.get_all("X-Both") == ["hook"]


async def test_a_handshake_that_a_rewrite_would_lead_astray_is_refused(server):
    """A parameter that becomes a dot segment in its new place is refused with 400."""
    override = RouteOverride(path="/a/{rest:path}", rewrite="/b/.{rest}")
    async with ws_upstream() as upstream:
        async with serve(application(upstream.url, override), server) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, "/a/."):
                    pass

        assert refused.value.response.status_code == 400
        assert upstream.connections == []
