"""Hooks as routes: order, prefixes, includes, mounts, and what must not be skipped."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel

from fastapi_proxy_router import (
    HeaderEdits,
    ProxyRouter,
    RequestOverride,
    ResponseOverride,
    RouteOverride,
)
from tests.hooks.helping import app_of, json_answer, lines, proxied, tell, text
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


class Number(BaseModel):
    """What the upstream says."""

    number: int


@pytest.mark.parametrize("first", ["request", "response"])
async def test_both_hooks_of_a_route_are_one_operation_in_either_order(first):
    """One is asked before, the other after, with parameters of their own."""
    async with proxied(json_answer('{"number": 1}')) as one:

        def declare_request() -> None:
            @one.router.override("/x/{name}", methods=["POST", "PUT"], tags=["a"])
            async def send(name: str, a: int) -> RequestOverride:
                return tell(got=f"{name} {a}")

        def declare_response() -> None:
            @one.router.override_response("/x/{name}", methods=["PUT", "PATCH"], tags=["b"])
            async def seen(number: Number, name: str, b: int) -> Number:
                return Number(number=number.number + b)

        declarers = [declare_request, declare_response]
        for declare in declarers if first == "request" else reversed(declarers):
            declare()
        async with one.serve() as gw:
            assert status(await get_raw(gw, "/x/n?a=1", method="PUT")) == 422
            assert text(await get_raw(gw, "/x/n?a=1&b=2", method="PUT")) == b'{"number":3}'
            assert one.upstream.last.values(b"x-got") == [b"n 1"]
            assert text(await get_raw(gw, "/x/n?b=2", method="PATCH")) == b'{"number":3}'
            assert one.upstream.last.values(b"x-got") == []
            assert text(await get_raw(gw, "/x/n?a=2", method="POST")) == b'{"number": 1}'
            assert one.upstream.last.values(b"x-got") == [b"n 2"]


async def test_a_hook_comes_before_the_catch_all_and_after_routes_that_are_older():
    """Though the catch-all was there first; other paths and methods go to that."""
    async with proxied() as one:

        @one.router.get("/own/{name}")
        async def own(name: str) -> str:
            return name

        @one.router.override("/own/{name}")
        async def shadowed(name: str) -> None:
            pytest.fail("it was called")

        @one.router.override("/first")
        async def first() -> RequestOverride:
            return tell(which="first")

        @one.router.override("/{any}")
        async def second() -> RequestOverride:
            return tell(which="second")

        async with one.serve() as gw:
            assert text(await get_raw(gw, "/own/a")) == b'"a"'
            for target, method, which in [
                ("/first", "GET", [b"first"]),
                ("/other", "GET", [b"second"]),
                ("/first", "POST", []),
                ("/first", "HEAD", []),
                ("/first/", "GET", []),
            ]:
                await get_raw(gw, target, method=method)
                assert one.upstream.last.values(b"x-which") == which


async def test_two_paths_that_overlap_are_taken_in_the_order_of_their_first_declaration():
    """A second hook for a route does not put it behind others."""
    async with proxied() as one:

        @one.router.override("/a")
        async def first() -> RequestOverride:
            return tell(which="first")

        @one.router.override("/{name}")
        async def other() -> RequestOverride:
            return tell(which="other")

        @one.router.override_response("/a")
        async def later() -> None:
            """Change nothing."""

        async with one.serve() as gw:
            await get_raw(gw, "/a")
        assert one.upstream.last.values(b"x-which") == [b"first"]


async def guard(x_key: Annotated[str, Header()] = "") -> None:
    if x_key != "k":
        raise HTTPException(401, "no key")


def nested(proxy: ProxyRouter, where: str) -> FastAPI:
    """Return an application that asks for a key, somewhere above the hooks of *proxy*."""
    key = [Depends(guard)]
    if where == "app":
        app = FastAPI(dependencies=key)
        app.include_router(proxy)
    elif where == "include":
        app = app_of(proxy, dependencies=key)
    elif where == "outer router":
        outer, inner = APIRouter(dependencies=key), APIRouter(prefix="/inner")
        inner.include_router(proxy, prefix="/{tenant}")
        outer.include_router(inner, prefix="/outer")
        app = app_of(outer)
    else:
        app = app_of(proxy)
    if where == "mounted":
        outside = FastAPI()
        outside.mount("/mnt", app)
        return outside
    return app


PLACES = {
    "router": "/p",
    "app": "/p",
    "include": "/p",
    "outer router": "/outer/inner/acme/p",
    "mounted": "/mnt/p",
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("hook", ["override", "override_response", "on_request", "on_response"])
async def test_dependencies_above_a_hook_are_never_skipped(where, hook):
    """Whoever declares them; they come first, and the hook is not called without them."""
    called: list[str] = []
    async with raw_upstream() as upstream:
        dependencies = [Depends(guard)] if where in ("router", "mounted") else []
        proxy = ProxyRouter(upstream.url, prefix="/p", dependencies=dependencies)
        decorate: Any = getattr(proxy, hook)

        def note() -> None:
            called.append(hook)

        (decorate("/x/{rest:path}") if hook.startswith("over") else decorate)(note)
        target = PLACES[where] + "/x/a%2Fb"
        async with serve(nested(proxy, where)) as gw:
            assert status(await get_raw(gw, target)) == 401
            assert (called, upstream.connections) == ([], 0)
            assert status(await get_raw(gw, target, "X-Key: k")) == 200
        assert called == [hook]
        assert upstream.last.target == b"/x/a%2Fb"
        prefix = PLACES[where].encode()
        assert upstream.last.values(b"x-forwarded-prefix") == [prefix]


async def test_path_parameters_of_the_including_call_reach_hooks():
    """As they reach any path operation."""
    async with proxied() as one:

        @one.router.override("/x/{name}")
        async def hook(tenant: str, name: str) -> RequestOverride:
            return tell(got=f"{tenant} {name}")

        async with one.serve(app_of(one.router, prefix="/{tenant}")) as gw:
            await get_raw(gw, "/acme/x/n")
        assert one.upstream.last.values(b"x-got") == [b"acme n"]
        assert one.upstream.last.target == b"/x/n"


@pytest.mark.parametrize("hook", ["on_request", "on_send", "on_response"])
@pytest.mark.parametrize("depends", [True, False])
async def test_router_wide_hooks_work_for_routers_that_were_included_before(hook, depends):
    """They are found when requests come."""
    seen: list[str] = []
    async with proxied(dependencies=[Depends(lambda: None)] if depends else []) as one:
        app = app_of(one.router)

        def note() -> None:
            seen.append(hook)

        getattr(one.router, hook)(note)
        async with one.serve(app) as gw:
            assert status(await get_raw(gw, "/x")) == 200
        assert seen == [hook]


async def test_a_hook_may_be_declared_after_its_router_was_included():
    """Where FastAPI includes routers as they are; before, it put copies of their routes there."""
    async with proxied() as one:
        app = app_of(one.router)
        copied = len(app.routes) > len(FastAPI().routes) + 1

        @one.router.override("/x")
        async def hook() -> RequestOverride:
            return tell(hooked=1)

        async with one.serve(app) as gw:
            assert status(await get_raw(gw, "/x")) == 200
        assert one.upstream.last.values(b"x-hooked") == ([] if copied else [b"1"])


class Tracing(APIRoute):
    """A user's class of routes, which says that it has been there."""

    def get_route_handler(self) -> Callable[..., Any]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Any:
            response = await handler(request)
            response.headers["x-traced"] = self.path_format
            return response

        return handle


async def test_a_routers_own_class_of_routes_is_used_for_hooks_too():
    """And for the catch-all, with and without hooks."""
    async with proxied(route_class=Tracing) as one:

        @one.router.override("/x/{name}", methods=["POST"])
        async def hook(name: str, number: Number) -> RequestOverride:
            return tell(got=f"{name} {number.number}")

        async with one.serve() as gw:
            kind = "Content-Type: application/json"
            body = b'{"number": 1}'
            answer = await get_raw(gw, "/x/a", kind, method="POST", body=body)
            assert lines(answer, "x-traced") == ["/x/{name}"]
            assert (one.upstream.last.body, one.upstream.last.values(b"x-got")) == (body, [b"a 1"])
            assert lines(await get_raw(gw, "/y"), "x-traced")

            @one.router.on_request
            async def read(request: Request) -> None:
                async for _ in request.stream():
                    pass

            assert lines(await get_raw(gw, "/y", method="POST", body=b"b"), "x-traced")
            assert one.upstream.last.body == b"b"


async def test_one_function_may_be_the_hook_of_several_routes():
    """The decorator returns it as it is."""
    async with proxied() as one:

        @one.router.override("/a")
        @one.router.override("/b/{name}")
        async def hook(name: str = "none") -> RequestOverride:
            return tell(name=name)

        assert hook.__name__ == "hook"
        async with one.serve() as gw:
            await get_raw(gw, "/a")
            assert one.upstream.last.values(b"x-name") == [b"none"]
            await get_raw(gw, "/b/c")
            assert one.upstream.last.values(b"x-name") == [b"c"]


async def test_what_is_declared_applies_beneath_hooks():
    """The hook edits what is left of it."""
    declared = RouteOverride(
        path="/x/{id}",
        rewrite="/v2/{id}",
        request_headers=HeaderEdits(set={"x-a": "declared", "x-b": "declared"}),
        status=201,
    )
    async with proxied(overrides=[declared]) as one:

        @one.router.override("/x/{id}")
        async def hook() -> RequestOverride:
            return RequestOverride(headers=HeaderEdits(set={"x-b": "hook"}))

        @one.router.override_response("/x/{id}")
        async def seen() -> ResponseOverride:
            return ResponseOverride(headers=HeaderEdits(set={"x-c": "hook"}))

        async with one.serve() as gw:
            answer = await get_raw(gw, "/x/a%207")
        assert status(answer) == 201
        assert lines(answer, "x-c") == ["hook"]
        assert one.upstream.last.values(b"x-a") == [b"declared"]
        assert one.upstream.last.values(b"x-b") == [b"hook"]
        assert one.upstream.last.target == b"/v2/a%207"
