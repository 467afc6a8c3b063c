"""Hooks of requests: dependencies, security, background tasks and the injected response."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

from typing import Annotated, Any

import pytest
from fastapi import (
    BackgroundTasks,
    Depends,
    HTTPException,
    Response,
    Security,
)
from fastapi.security import APIKeyHeader, OAuth2PasswordBearer, SecurityScopes

from fastapi_proxy_router import RequestOverride
from tests.hooks.helping import app_of, lines, proxied, tell, text
from tests.servers import get_raw, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


async def test_a_dependency_that_yields_is_closed_after_the_response_was_sent():
    """As FastAPI's are: the response has gone when it goes on."""
    order = []

    async def opened():
        order.append("opened")
        yield "value"
        order.append("closed")

    async def stream(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        order.append("answered")

    async with proxied(stream) as one:

        @one.router.override("/x")
        async def hook(value: Annotated[str, Depends(opened)]) -> RequestOverride:
            order.append("hook")
            return tell(value=value)

        async with one.serve() as gw:
            assert text(await get_raw(gw, "/x")) == b"hello"
        assert order == ["opened", "hook", "answered", "closed"]


async def test_a_dependency_may_end_with_the_function():
    """Before the response is sent, if it says so."""
    order = []

    async def opened():
        order.append("opened")
        yield "value"
        order.append("closed")

    async with proxied() as one:

        @one.router.override("/x")
        async def hook(value: Annotated[str, Depends(opened, scope="function")]) -> None:
            order.append(value)

        async with one.serve() as gw:
            assert status(await get_raw(gw, "/x")) == 200
        assert order == ["opened", "value", "closed"]


@pytest.mark.parametrize("failure", ["hook", "gateway"])
async def test_a_dependency_that_yields_sees_what_goes_wrong(failure):
    """What the hook raises, and what the gateway says of its upstream."""
    seen = []

    async def watching():
        try:
            yield
        except HTTPException as error:
            seen.append(error.status_code)
            raise

    async def hang_up(_reader, writer):
        writer.close()

    async with proxied(hang_up) as one:

        @one.router.override("/x", dependencies=[Depends(watching)])
        async def hook() -> None:
            if failure == "hook":
                raise HTTPException(418, "no")

        async with one.serve() as gw:
            answer = await get_raw(gw, "/x")
        assert [status(answer)] == seen == [418 if failure == "hook" else 502]


async def test_a_dependency_is_solved_once_for_both_hooks_of_a_route():
    """FastAPI's cache is that of one request, which both are part of."""
    calls = []

    def counted() -> int:
        calls.append(1)
        return len(calls)

    async with proxied() as one:

        @one.router.override("/x", dependencies=[Depends(counted)])
        async def send(number: Annotated[int, Depends(counted)]) -> RequestOverride:
            return tell(number=number)

        @one.router.override_response("/x")
        async def seen(number: Annotated[int, Depends(counted)]) -> None:
            assert number == 1

        async with one.serve() as gw:
            assert status(await get_raw(gw, "/x")) == 200
        assert len(calls) == 1


async def test_dependency_overrides_stand_in_for_the_dependencies_of_hooks():
    """As in the tests of any application."""

    def real() -> str:
        return "real"

    async with proxied() as one:

        @one.router.override("/x")
        async def send(who: Annotated[str, Depends(real)]) -> RequestOverride:
            return tell(who=who)

        app = app_of(one.router)
        app.dependency_overrides[real] = lambda: "fake"
        async with one.serve(app) as gw:
            await get_raw(gw, "/x")
        assert one.upstream.last.values(b"x-who") == [b"fake"]


async def test_security_schemes_refuse_before_the_upstream_hears_anything(server):
    """OAuth2's with 401 and its challenge, an API key's, and scopes."""
    oauth2 = OAuth2PasswordBearer("token")
    api_key = APIKeyHeader(name="x-api-key")

    async def scoped(scopes: SecurityScopes, token: Annotated[str, Depends(oauth2)]) -> str:
        if token not in scopes.scopes:
            raise HTTPException(403, "not yours")
        return token

    async with proxied(server=server) as one:

        @one.router.override("/token")
        async def by_token(who: Annotated[str, Security(scoped, scopes=["read"])]) -> Any:
            return tell(who=who)

        @one.router.override("/key")
        async def by_key(key: Annotated[str, Security(api_key)]) -> Any:
            return tell(key=key)

        async with one.serve() as gw:
            refused = await get_raw(gw, "/token")
            assert status(refused) == 401
            assert lines(refused, "www-authenticate") == ["Bearer"]
            assert status(await get_raw(gw, "/token", "Authorization: Bearer write")) == 403
            assert status(await get_raw(gw, "/key")) in (401, 403)
            assert one.upstream.connections == 0

            assert status(await get_raw(gw, "/token", "Authorization: Bearer read")) == 200
            assert one.upstream.last.values(b"x-who") == [b"read"]
            assert status(await get_raw(gw, "/key", "X-API-Key: k")) == 200


async def test_background_tasks_run_after_the_response():
    """Those of the hook and of its dependencies."""
    done: list[str] = []

    def dependency(tasks: BackgroundTasks) -> None:
        tasks.add_task(done.append, "dependency")

    async with proxied() as one:

        @one.router.override("/x", dependencies=[Depends(dependency)])
        async def hook(tasks: BackgroundTasks) -> None:
            tasks.add_task(done.append, "hook")

        async with one.serve() as gw:
            assert text(await get_raw(gw, "/x")) == b"ok"
        assert done == ["dependency", "hook"]


async def test_what_is_set_on_the_injected_response_reaches_the_client(server):
    """Cookies are added, and a header replaces the upstream's."""
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX-Who: upstream\r\nContent-Length: 2\r\n\r\nok"
    async with proxied(answer, server) as one:

        def visited(response: Response) -> None:
            response.set_cookie("b", "2")
            response.headers["x-who"] = "gateway"

        @one.router.override("/x", dependencies=[Depends(visited)])
        async def hook(response: Response) -> None:
            response.set_cookie("c", "3")

        async with one.serve() as gw:
            got = await get_raw(gw, "/x")
        cookies = [cookie.partition(";")[0] for cookie in lines(got, "set-cookie")]
        assert cookies == ["a=1", "b=2", "c=3"]
        assert lines(got, "x-who") == ["gateway"]


async def test_the_status_of_the_injected_response_is_that_of_the_answer():
    """Of the upstream's, as FastAPI does it; one that is the hook's own has its own."""
    async with proxied() as one:

        @one.router.override("/x")
        async def hook(response: Response, own: bool = False) -> Response | None:
            response.status_code = 202
            return Response(status_code=204) if own else None

        async with one.serve() as gw:
            assert status(await get_raw(gw, "/x")) == 202
            assert status(await get_raw(gw, "/x?own=1")) == 204


async def test_the_injected_response_cannot_break_the_framing(server):
    """Its length is not that of the upstream's body."""
    async with proxied(server=server) as one:

        @one.router.override("/x")
        async def hook(response: Response) -> None:
            response.headers["content-length"] = "7"
            response.headers["transfer-encoding"] = "chunked"

        async with one.serve() as gw:
            got = await get_raw(gw, "/x")
        assert lines(got, "content-length") == ["2"]
        assert lines(got, "transfer-encoding") == []
        assert text(got) == b"ok"


async def test_the_dependencies_of_both_hooks_of_a_route_apply():
    """Whichever was declared first: one of them may be what keeps others out."""

    def refuse() -> None:
        raise HTTPException(401)

    def allow() -> None:
        return None

    async with proxied() as one:

        @one.router.override_response("/x", dependencies=[Depends(allow)])
        async def seeing() -> None: ...

        @one.router.override("/x", dependencies=[Depends(refuse)])
        async def sending() -> None: ...

        @one.router.override("/y", dependencies=[Depends(refuse)])
        async def sending_too() -> None: ...

        @one.router.override_response("/y", dependencies=[Depends(allow)])
        async def seeing_too() -> None: ...

        async with one.serve() as gw:
            assert status(await get_raw(gw, "/x")) == 401
            assert status(await get_raw(gw, "/y")) == 401
        assert one.upstream.requests == []


async def test_what_is_set_for_one_client_is_not_sent_to_the_next():
    """A hook may return the same response to everybody; cookies are of one request."""
    page = Response("Back soon", 503)

    def session(name: str, response: Response) -> None:
        response.set_cookie("session", name)

    async with proxied() as one:

        @one.router.override("/x", dependencies=[Depends(session)])
        async def hook() -> Response:
            return page

        async with one.serve() as gw:
            answers = [await get_raw(gw, f"/x?name={name}") for name in ("ada", "bob")]
        assert [len(lines(answer, "set-cookie")) for answer in answers] == [1, 1]
        assert "bob" in lines(answers[1], "set-cookie")[0]
        assert "set-cookie" not in page.headers
