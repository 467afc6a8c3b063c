"""One gateway from ``PROXY_*`` variables, with every kind of override, asked over sockets."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router import ProxyRouter, RouteOverride
from tests.declared.gateways import Gateway, response
from tests.health.patient import until
from tests.servers import RawUpstream, raw_upstream, serve
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

OVERRIDES: list[dict[str, Any]] = [
    # Which requests.
    {"path": "/m/{id:int}", "methods": ["get", "POST"], "rewrite": "/by-method/{id}"},
    {"path": "/m/host", "hosts": ["*.old.test"], "rewrite": "/by-host"},
    {"path": "/m/header", "match_headers": {"x-v": ["1", "2"]}, "rewrite": "/by-header"},
    {"path": "/m/header", "match_headers": {"x-internal": False}, "rewrite": "/by-absence"},
    {"path": "/m/query", "match_query": {"beta": True, "v": "1"}, "rewrite": "/by-query"},
    # What the upstream gets.
    {"path": "/s/method", "method": "put"},
    {"path": "/s/query", "query": {"set": {"a": ["1", "2"]}, "add": {"b": "3"}, "remove": ["c"]}},
    {
        "path": "/s/headers",
        "request_headers": {
            "set": {"X-Key": "secret"},
            "add": {"x-tag": ["1", "2"]},
            "remove": ["cookie"],
            "keep": ["accept"],
        },
    },
    {"path": "/s/host", "host": "own.test:81", "forwarded": "none"},
    {"path": "/s/preserve", "preserve_host": True, "forwarded": True},
    {"path": "/s/body", "method": "POST", "body": base64.b64encode(b"\x00\xff").decode()},
    {"path": "/s/text", "method": "POST", "text": "caf\xe9"},
    {"path": "/s/json", "method": "POST", "json": {"a": [1, None]}},
    {"path": "/s/null", "method": "POST", "json": None},
    {"path": "/s/form", "method": "POST", "form": {"a": "b c", "d": ["e", "f"]}},
    {"path": "/s/limit", "body_limit": 3},
    {"path": "/silent/wait", "timeout": 0.1},
    {"path": "/silent/waits", "timeout": {"response": 0.1}},
    {"path": "/s/pool", "pool": "canary"},
    {"path": "/s/retry", "pool": "failing", "retry": {"attempts": 2, "statuses": [500]}},
    {"path": "/s/once", "pool": "failing", "retry": {"attempts": 1}},
    # What the client gets.
    {"path": "/c/status", "status": 201},
    {"path": "/c/statuses", "status": {"200": 202, "404": 410}},
    {
        "path": "/c/headers",
        "response_headers": [
            {"set": {"x-both": "success"}, "when": "success"},
            {"set": {"x-both": "failure"}, "when": "failure"},
            {"remove": ["x-upstream"]},
        ],
    },
    {"path": "/c/old/{id}", "rewrite": "/c/new/{id}", "rewrite_urls": True},
    {
        "path": "/c/cookies",
        "cookies": [
            {"domain": {"up.test": "pub.test"}, "path": True, "secure": True},
            {"names": ["a"], "http_only": True, "same_site": "lax"},
        ],
    },
    {
        "path": "/c/pages",
        "pool": "failing",
        "error_pages": [
            {"statuses": [404], "text": "never"},
            {"statuses": ["500-599"], "status": 503, "json": {"sorry": True}},
        ],
    },
    {
        "path": "/c/answer",
        "answer": {"status": 503, "text": "Back soon", "headers": {"set": {"retry-after": "60"}}},
    },
    {"path": "/ws", "rewrite": "/socket", "request_headers": {"set": {"x-key": "secret"}}},
]

ANSWER = response(
    200,
    "X-Upstream: 1",
    "Location: /c/new/9",
    "Set-Cookie: a=1; Domain=up.test; Path=/",
    "Set-Cookie: b=2",
)


@dataclass
class Built:
    """A gateway from the environment, and what is behind it."""

    gw: Gateway
    canary: RawUpstream
    failing: list[RawUpstream]


@asynccontextmanager
async def built(monkeypatch: Any, tmp_path: Any, sockets: str) -> AsyncIterator[Built]:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    monkeypatch.chdir(tmp_path)
    async with (
        raw_upstream(ANSWER) as main,
        raw_upstream(silent) as quiet,
        raw_upstream() as canary,
        raw_upstream(response(500)) as one,
        raw_upstream(response(500)) as two,
    ):
        variables = {
            "PREFIX": "/api",
            "POOLS__MAIN__UPSTREAMS": main.url,
            "POOLS__QUIET__UPSTREAMS": quiet.url,
            "POOLS__QUIET__PREFIX": "/silent",
            "POOLS__SOCKETS__UPSTREAMS": sockets,
            "POOLS__SOCKETS__PREFIX": "/ws",
            "POOLS__CANARY__UPSTREAMS": f"{canary.url}/base",
            "POOLS__CANARY__HEALTH": '{"path": "/healthz"}',
            "POOLS__FAILING__UPSTREAMS": f"{one.url},{two.url}",
            "POOLS__FAILING__RETRY": '{"statuses": [], "backoff": 0}',
            "OVERRIDES": json.dumps(OVERRIDES),
        }
        for name, value in variables.items():
            monkeypatch.setenv(f"PROXY_{name}", value)
        app = FastAPI()
        app.include_router(ProxyRouter.from_settings(), prefix="/v1")
        async with serve(app) as served:
            yield Built(Gateway(served.port, served.host, main), canary, [one, two])


@pytest.fixture
async def gateway(monkeypatch, tmp_path):
    """Serve a gateway from the environment."""
    async with built(monkeypatch, tmp_path, "http://sockets.test") as found:
        yield found


def test_every_field_is_used():
    """A field that is new is asked for here, too."""
    used = {name for override in OVERRIDES for name in override}
    fields = {field.alias or name for name, field in RouteOverride.model_fields.items()}
    assert used == fields


@pytest.mark.parametrize(
    ("target", "headers", "options", "sent"),
    [
        ("/m/7", [], {}, b"/by-method/7"),
        ("/m/7", [], {"method": "POST"}, b"/by-method/7"),
        ("/m/7", [], {"method": "DELETE"}, b"/m/7"),
        ("/m/x", [], {}, b"/m/x"),
        ("/m/host", [], {"host": "a.old.test:80"}, b"/by-host"),
        ("/m/host", [], {"host": "old.test"}, b"/m/host"),
        ("/m/header", ["X-V: 2"], {}, b"/by-header"),
        ("/m/header", [], {}, b"/by-absence"),
        ("/m/header", ["X_Internal: 1"], {}, b"/m/header"),
        ("/m/query?v=1&beta", [], {}, b"/by-query?v=1&beta"),
        ("/m/query?v=2&beta", [], {}, b"/m/query?v=2&beta"),
        ("/s/query?c&x=%2F&a=0", [], {}, b"/s/query?x=%2F&a=1&a=2&b=3"),
    ],
)
async def test_which_requests_and_where_to(gateway, target, headers, options, sent):
    """Paths, methods, hosts, headers and queries, and the line that the upstream gets."""
    await gateway.gw.get("/v1/api" + target, *headers, **options)

    assert gateway.gw.sent.target == sent


async def test_what_the_upstream_gets_of_headers(gateway):
    """Edits, the host and who the client is."""
    gw = gateway.gw
    await gw.get("/v1/api/s/method")
    assert gw.sent.line == b"PUT /s/method HTTP/1.1"

    await gw.get("/v1/api/s/headers", "Accept: a", "X-Key: mine", "Cookie: a=1", "X-Other: 1")
    assert gw.sent.values(b"x-key") == [b"secret"]
    assert gw.sent.values(b"x-tag") == [b"1", b"2"]
    assert gw.sent.values(b"accept") == [b"a"]
    assert gw.sent.values(b"cookie") == gw.sent.values(b"x-other") == []
    assert gw.sent.values(b"x-forwarded-prefix") == [b"/v1/api"]

    await gw.get("/v1/api/s/host")
    assert gw.sent.head == b"GET /s/host HTTP/1.1\r\nhost: own.test:81"

    await gw.get("/v1/api/s/preserve", host="pub.test")
    assert gw.sent.values(b"host") == [b"pub.test"]
    assert gw.sent.values(b"forwarded") == [b'for=127.0.0.1;host="pub.test";proto=http']


@pytest.mark.parametrize(
    ("target", "sent", "kind"),
    [
        ("body", b"\x00\xff", None),
        ("text", b"caf\xc3\xa9", b"text/plain; charset=utf-8"),
        ("json", b'{"a":[1,null]}', b"application/json"),
        ("null", b"null", b"application/json"),
        ("form", b"a=b+c&d=e&d=f", b"application/x-www-form-urlencoded"),
    ],
)
async def test_bodies(gateway, target, sent, kind):
    """Bytes, text, JSON, null and a form."""
    await gateway.gw.get(f"/v1/api/s/{target}")

    assert gateway.gw.sent.line.startswith(b"POST ")
    assert gateway.gw.sent.body == sent
    assert gateway.gw.sent.values(b"content-type") == ([] if kind is None else [kind])


async def test_limits_and_deadlines(gateway):
    """413 and 504."""
    gw = gateway.gw
    assert (await gw.get("/v1/api/s/limit", method="POST", body=b"four")).status == 413
    assert (await gw.get("/v1/api/s/limit", method="POST", body=b"two")).status == 200
    assert (await gw.get("/v1/api/silent/wait")).status == 504
    assert (await gw.get("/v1/api/silent/waits")).status == 504


async def test_pools_and_retries(gateway):
    """A pool that serves no prefix is kept going, and serves what names it."""
    gw = gateway.gw
    await until(lambda: bool(gateway.canary.requests))
    assert gateway.canary.requests[0].target == b"/healthz"
    await gw.get("/v1/api/s/pool")
    assert gateway.canary.last.target == b"/base/s/pool"

    def asked() -> int:
        return sum(len(one.requests) for one in gateway.failing)

    assert (await gw.get("/v1/api/s/retry")).status == 500
    assert asked() == 2
    assert (await gw.get("/v1/api/s/once")).status == 500
    assert asked() == 3


async def test_what_the_client_gets(gateway):
    """Statuses, headers, URLs, cookies, pages and answers."""
    gw = gateway.gw
    assert (await gw.get("/v1/api/c/status")).status == 201
    assert (await gw.get("/v1/api/c/statuses")).status == 202

    got = await gw.get("/v1/api/c/headers")
    assert got.values("x-both") == [b"success"]
    assert got.values("x-upstream") == []

    got = await gw.get("/v1/api/c/old/7")
    assert gw.sent.target == b"/c/new/7"
    assert got.values("location") == [b"/v1/api/c/old/9"]

    got = await gw.get("/v1/api/c/cookies")
    assert got.values("set-cookie") == [
        b"a=1; Domain=pub.test; Path=/v1/api; Secure; HttpOnly; SameSite=Lax",
        b"b=2; Secure",
    ]

    got = await gw.get("/v1/api/c/pages")
    assert (got.status, got.body) == (503, b'{"sorry":true}')

    got = await gw.get("/v1/api/c/answer")
    assert (got.status, got.body) == (503, b"Back soon")
    assert got.values("retry-after") == [b"60"]


async def test_handshakes(monkeypatch, tmp_path):
    """What is declared for GET, and an answer, hold for WebSockets."""
    async with ws_upstream() as upstream, built(monkeypatch, tmp_path, upstream.url) as found:
        async with dialled(found.gw, "/v1/api/ws"):
            pass
        with pytest.raises(InvalidStatus) as refused:
            async with dialled(found.gw, "/v1/api/c/answer"):
                pass

        request = upstream.connections[0].request
        assert request is not None
        assert request.path == "/socket"
        assert request.headers["X-Key"] == "secret"
        assert refused.value.response.status_code == 503
