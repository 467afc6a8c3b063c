"""Overrides: declared ones and hooks."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import json
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from fastapi_proxy_router import (
    ConfigurationError,
    HeaderEdits,
    ProxyRouter,
    RequestOverride,
    RouteOverride,
    Timeout,
)
from fastapi_proxy_router.overrides import OverrideOptions
from tests.servers import Served, get_raw, raw_upstream, serve, status
from tests.test_router import asgi_get

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


def overriding(upstream: Served, *overrides: RouteOverride, **options: Any) -> FastAPI:
    app = FastAPI()
    app.include_router(ProxyRouter(upstream.url, overrides=overrides, **options))
    return app


REWRITES = [
    ("/legacy/{id}", "/v2/{id}", "/legacy/7", b"/v2/7"),
    ("/legacy/{id}", "/v2/{id}/x", "/legacy/a%20b%3F?q=1", b"/v2/a%20b%3F/x?q=1"),
    ("/legacy/{id:int}", "/v2/{id}", "/legacy/007", b"/v2/007"),
    ("/legacy/{rest:path}", "/new/{rest}", "/legacy/a%2Fb//c", b"/new/a%2Fb//c"),
    ("/legacy/{rest:path}", "/new/{rest}", "/%6cegacy/caf%E9", b"/new/caf%E9"),
    ("/{a}/{b}", "/{b}/{a}", "/x/y", b"/y/x"),
    ("/fixed", "/a b%", "/fixed", b"/a%20b%25"),
    ("/", "/start", "/", b"/start"),
    ("/legacy", "/v2", "/legacyx", b"/legacyx"),
    ("/legacy", "/v2", "/legacy/x", b"/legacy/x"),
]


@pytest.mark.parametrize(("path", "rewrite", "request_path", "target"), REWRITES)
async def test_a_path_is_rewritten_byte_for_byte(path, rewrite, request_path, target):
    """Parameters of the pattern keep the bytes that the client sent."""
    async with raw_upstream() as upstream:
        async with serve(overriding(upstream, RouteOverride(path=path, rewrite=rewrite))) as gw:
            assert status(await get_raw(gw, request_path)) == 200

        assert upstream.last.target == target


async def test_a_rewrite_cannot_leave_the_base_path():
    """A parameter that would be a dot segment in its new place is refused."""
    async with raw_upstream() as upstream:
        override = RouteOverride(path="/legacy/{rest:path}", rewrite="/new/.{rest}")
        async with serve(overriding(upstream, override)) as gw:
            assert status(await get_raw(gw, "/legacy/.")) == 400
        assert upstream.connections == 0


async def test_overrides_are_relative_to_the_routers_prefix():
    """Below the router's prefix and its includes, and above the mapping's."""
    async with raw_upstream() as upstream:
        override = RouteOverride(path="/users/old/{id}", rewrite="/new/{id}")
        router = ProxyRouter({"/users": upstream.url}, prefix="/api", overrides=[override])
        app = FastAPI()
        app.include_router(router, prefix="/v1")
        async with serve(app) as gw:
            assert status(await get_raw(gw, "/v1/api/users/old/7")) == 200

        assert upstream.last.target == b"/new/7"
        assert upstream.last.values(b"x-forwarded-prefix") == [b"/v1/api/users"]


async def test_request_headers_are_edited(server):
    """Removed, set and added; a value that is set replaces every spelling the client sent."""
    edits = HeaderEdits(
        set={"X-User": "bob"}, add={"x-tag": ["1", "2"]}, remove=["Cookie", "x-old"]
    )
    async with raw_upstream() as upstream:
        app = overriding(upstream, RouteOverride(path="/{p:path}", request_headers=edits))
        async with serve(app, server) as gw:
            await get_raw(
                gw, "/", "X-User: eve", "x_user: eve", "X-Tag: 0", "Cookie: a=1", "X_Old: 1"
            )

        sent = dict(upstream.last.headers)
        assert upstream.last.values(b"x-user") == [b"bob"]
        assert upstream.last.values(b"x-tag") == [b"0", b"1", b"2"]
        assert {b"cookie", b"x_user", b"x_old"}.isdisjoint(sent)


async def test_connection_cannot_remove_a_header_that_an_override_sets():
    """The client's Connection is obeyed before the edit, not after it."""
    edits = HeaderEdits(set={"x-user": "bob"})
    async with raw_upstream() as upstream:
        async with serve(
            overriding(upstream, RouteOverride(path="/", request_headers=edits))
        ) as gw:
            await get_raw(gw, "/", "Connection: x-user", "X-User: eve")

        assert upstream.last.values(b"x-user") == [b"bob"]


async def test_response_headers_are_edited(server):
    """The client sees the upstream's headers, edited."""
    answer = b"HTTP/1.1 200 OK\r\nX-Old: 1\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok"
    edits = HeaderEdits(set={"x-new": "2"}, add={"x-kept": "3"}, remove=["x-old"])
    async with raw_upstream(answer) as upstream:
        app = overriding(upstream, RouteOverride(path="/", response_headers=edits))
        async with serve(app, server) as gw:
            got = (await get_raw(gw)).lower()

        assert b"x-old" not in got
        assert b"\r\nx-new: 2\r\n" in got
        assert got.count(b"\r\nx-kept: ") == 2


async def test_the_method_is_changed_and_get_drops_the_body():
    """POST becomes PUT with its body, or GET without it."""
    async with raw_upstream() as upstream:
        app = overriding(
            upstream,
            RouteOverride(path="/put", methods=["POST"], method="put"),
            RouteOverride(path="/get", methods=["POST"], method="GET"),
        )
        async with serve(app) as gw:
            for path in ("/put", "/get"):
                assert status(await get_raw(gw, path, method="POST", body=b"hello")) == 200

        put, get = upstream.requests
        assert (put.line, put.body) == (b"PUT /put HTTP/1.1", b"hello")
        assert (get.line, get.body, get.values(b"content-length")) == (
            b"GET /get HTTP/1.1",
            b"",
            [],
        )


async def test_a_get_that_becomes_a_head_has_an_empty_answer():
    """The length of a body that the upstream never sends is not promised to the client."""
    async with raw_upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n") as upstream:
        async with serve(overriding(upstream, RouteOverride(path="/", method="HEAD"))) as gw:
            answer = await get_raw(gw)

        assert status(answer) == 200
        assert answer.endswith(b"\r\n\r\n0\r\n\r\n")


async def test_an_override_applies_to_its_methods_only_and_the_first_wins():
    """Other methods and later overrides leave the request alone."""
    async with raw_upstream() as upstream:
        app = overriding(
            upstream,
            RouteOverride(path="/x", methods=["get"], rewrite="/first"),
            RouteOverride(path="/x", rewrite="/second"),
        )
        async with serve(app) as gw:
            await get_raw(gw, "/x")
            await get_raw(gw, "/x", method="DELETE")

        assert [request.target for request in upstream.requests] == [b"/first", b"/second"]


async def test_an_override_has_its_own_timeout():
    """Its deadline holds instead of the pool's."""

    async def think(reader, _writer):
        await reader.read()

    async with raw_upstream(think) as upstream:
        async with serve(overriding(upstream, RouteOverride(path="/", timeout=0.1))) as gw:
            assert status(await get_raw(gw)) == 504


WRONG = [
    {"path": "no-slash"},
    {"path": "/{x}/{x}"},
    {"path": "/{x:nonsense}"},
    {"path": "/", "nonsense": 1},
    {"path": "/{a}", "rewrite": "/{b}"},
    {"path": "/", "rewrite": "x"},
    {"path": "/{id}", "rewrite": "/v2/{id"},
    {"path": "/{id}", "rewrite": "/v2/id}"},
    {"path": "/", "rewrite": "/v2/{}"},
    {"path": "/", "rewrite": "/v2?x=1"},
    {"path": "/", "request_headers": {"set": {"x": " blank"}}},
    {"path": "/", "methods": []},
    {"path": "/", "methods": ["CONNECT"]},
    {"path": "/", "methods": ["BAD METHOD"]},
    {"path": "/", "timeout": 0},
    {"path": "/", "timeout": "soon"},
    {"path": "/", "request_headers": {"set": {"bad name": "x"}}},
    {"path": "/", "request_headers": {"set": {"x": "a\r\nb: c"}}},
    {"path": "/", "request_headers": {"set": {"Connection": "close"}}},
    {"path": "/", "request_headers": {"add": {"Transfer-Encoding": "chunked"}}},
    {"path": "/", "request_headers": {"remove": ["Content-Length"]}},
    {"path": "/", "response_headers": {"replace": {}}},
]


@pytest.mark.parametrize("fields", WRONG)
def test_a_declared_override_that_cannot_work_is_refused(fields):
    """At construction, with pydantic's report."""
    with pytest.raises(ValidationError):
        RouteOverride.model_validate(fields)


def test_a_declared_override_survives_json():
    """It can come from a file or the environment."""
    override = RouteOverride(
        path="/a/{id}",
        methods=["GET"],
        rewrite="/b/{id}",
        request_headers=HeaderEdits(set={"x": "1"}, add={"y": ["1", "2"]}),
        timeout=5,
    )

    assert RouteOverride.model_validate_json(override.model_dump_json()) == override


# --- Hooks -------------------------------------------------------------------------------------


class NewUser(BaseModel):
    """A body that FastAPI validates."""

    name: str = Field(min_length=1, serialization_alias="userName")


async def tenant_of(x_tenant: Annotated[str, Header()]) -> str:
    if x_tenant == "banned":
        raise HTTPException(403, "go away")
    return x_tenant


def hooked(upstream: Served) -> FastAPI:
    proxy = ProxyRouter({"/v1": upstream.url, "/": "http://127.0.0.1:1"}, prefix="/api")

    @proxy.override("/v1/users/{id}", methods=["POST"], tags=["users"])
    async def create_user(
        user: NewUser, id: int, tenant: Annotated[str, Depends(tenant_of)], dry: bool = False
    ) -> Any:
        """Create a user."""
        if dry:
            return JSONResponse({"dry": True})
        return RequestOverride(json=user, headers=HeaderEdits(set={"x-tenant": tenant}))

    @proxy.override("/v1/untouched/{rest:path}", methods=["PUT"])
    def untouched(rest: str, x_token: Annotated[str, Header()]) -> None:
        """A hook may be a plain function."""

    @proxy.override("/v1/everything")
    async def everything() -> RequestOverride:
        return RequestOverride(
            path="/a b",
            query={"q": "1&2"},
            method="PATCH",
            host="other.test",
            body=b"raw",
            response_headers=HeaderEdits(set={"x-seen": "1"}),
            timeout=Timeout(response=5),
        )

    @proxy.override("/v1/wrong")
    async def wrong() -> Any:
        return 5

    app = FastAPI()
    app.include_router(proxy)
    return app


async def post_json(gw: Served, path: str, text: str, *headers: str) -> bytes:
    return await get_raw(
        gw, path, "Content-Type: application/json", *headers, method="POST", body=text.encode()
    )


async def test_a_hook_replaces_the_body_and_the_headers(server):
    """Its parameters come validated, and what it returns is what the upstream gets."""
    async with raw_upstream() as upstream, serve(hooked(upstream), server) as gw:
        answer = await post_json(
            gw, "/api/v1/users/7?x=1", '{"name": "Ann"}', "X-Tenant: t1", "Cookie: a=1"
        )

        assert status(answer) == 200
        sent = upstream.last
        assert sent.line == b"POST /users/7?x=1 HTTP/1.1"
        assert json.loads(sent.body) == {"userName": "Ann"}
        assert sent.values(b"content-length") == [str(len(sent.body)).encode()]
        assert sent.values(b"content-type") == [b"application/json"]
        assert sent.values(b"x-tenant") == [b"t1"]
        assert sent.values(b"cookie") == [b"a=1"]
        assert sent.values(b"x-forwarded-prefix") == [b"/api/v1"]


@pytest.mark.parametrize(
    ("path", "text", "tenant", "code"),
    [
        ("/api/v1/users/7", '{"name": ""}', "t1", 422),
        ("/api/v1/users/7", '{"nam', "t1", 422),
        ("/api/v1/users/x", '{"name": "Ann"}', "t1", 422),
        ("/api/v1/users/7", '{"name": "Ann"}', None, 422),
        ("/api/v1/users/7", '{"name": "Ann"}', "banned", 403),
        ("/api/v1/users/7?dry=1", '{"name": "Ann"}', "t1", 200),
    ],
)
async def test_a_hook_may_answer_instead_of_the_upstream(path, text, tenant, code):
    """A 422, a refusal and a Response of its own never reach the upstream."""
    async with raw_upstream() as upstream, serve(hooked(upstream)) as gw:
        answer = await post_json(gw, path, text, *([f"X-Tenant: {tenant}"] if tenant else []))

        assert status(answer) == code
        assert upstream.connections == 0


async def test_a_hook_that_returns_nothing_leaves_the_request_as_it_came():
    """Also its path, byte for byte, and a body that nobody has read."""
    async with raw_upstream() as upstream, serve(hooked(upstream)) as gw:
        answer = await get_raw(
            gw, "/api/v1/untouched/a%2Fb//c?x", "X-Token: t", method="PUT", body=b"hello"
        )

        assert status(answer) == 200
        assert upstream.last.target == b"/untouched/a%2Fb//c?x"
        assert upstream.last.body == b"hello"


async def test_other_methods_of_a_hooked_path_are_forwarded():
    """The hook takes its methods and leaves the others to the catch-all."""
    async with raw_upstream() as upstream, serve(hooked(upstream)) as gw:
        assert status(await get_raw(gw, "/api/v1/users/7", method="DELETE")) == 200
        assert upstream.last.line == b"DELETE /users/7 HTTP/1.1"


async def test_a_hook_can_change_everything():
    """Path, query, method, host, body, response headers and timeout."""
    async with raw_upstream() as upstream, serve(hooked(upstream)) as gw:
        answer = await get_raw(gw, "/api/v1/everything?x=1")

        assert b"\r\nx-seen: 1\r\n" in answer.lower()
        assert upstream.last.line == b"PATCH /a%20b?q=1%262 HTTP/1.1"
        assert upstream.last.values(b"host") == [b"other.test"]
        assert upstream.last.body == b"raw"


async def test_a_hook_that_returns_something_else_is_our_mistake():
    """It is a 500, and the upstream is left alone."""
    async with raw_upstream() as upstream, serve(hooked(upstream)) as gw:
        assert status(await get_raw(gw, "/api/v1/wrong")) == 500
        assert upstream.connections == 0


async def test_hooks_appear_in_openapi():
    """With their parameters, body and description."""
    async with raw_upstream() as upstream:
        paths = (await asgi_get(hooked(upstream), "/openapi.json")).json()["paths"]

    operation = paths["/api/v1/users/{id}"]["post"]
    names = {parameter["name"] for parameter in operation["parameters"]}
    assert names == {"id", "x-tenant", "dry"}
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "NewUser"
    )
    assert operation["description"] == "Create a user."
    assert operation["tags"] == ["users"]


def test_a_hook_needs_a_pool_that_serves_its_path():
    """A path outside every prefix is a mistake, told at once."""
    with pytest.raises(ConfigurationError, match="no pool serves '/other'"):
        ProxyRouter({"/users": "http://a"}).override("/other")(lambda: None)


@pytest.mark.parametrize(
    "fields",
    [
        {"nonsense": 1},
        {"path": "no-slash"},
        {"path": b"no-slash"},
        {"method": "TRACE"},
        {"path": "/\udc80"},
        {"query": "a=\udc80"},
        {"body": b"x", "json": {}},
        {"host": "a\r\nb"},
        {"timeout": -1},
        {"headers": {"set": {"te": "x"}}},
    ],
)
def test_a_request_override_that_cannot_work_is_refused(fields):
    """Where it is built, with pydantic's report."""
    with pytest.raises(ValidationError):
        RequestOverride(**fields)


def test_proxy_pass_takes_what_a_request_override_has():
    """Its keyword arguments are the same fields, but for the upstream, which is given anyway."""
    fields = {field.alias or name for name, field in RequestOverride.model_fields.items()}

    assert fields - {"upstream"} == set(OverrideOptions.__annotations__)
