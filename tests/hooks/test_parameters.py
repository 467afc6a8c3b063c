"""Hooks of requests: every kind of parameter that FastAPI has."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import functools
from typing import Annotated, Any

import pytest
from fastapi import (
    Body,
    Cookie,
    Depends,
    File,
    Form,
    Header,
    Path,
    Query,
    Request,
    UploadFile,
)
from pydantic import BaseModel, Field

from fastapi_proxy_router import RequestOverride
from tests.hooks import postponed
from tests.hooks.helping import client_of, proxied, tell
from tests.servers import get_raw, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


class Item(BaseModel):
    """A body with a field whose name on the wire is another."""

    count: int = Field(ge=1, serialization_alias="howMany")


async def test_path_query_header_and_cookie_parameters_are_validated_and_given(server):
    """All of them in one hook, with the names that they have on the wire."""
    async with proxied(server=server) as one:

        @one.router.override("/items/{item_id}/{rest:path}")
        async def hook(
            item_id: Annotated[int, Path(ge=1)],
            rest: str,
            tag: Annotated[list[str], Query(alias="t")],
            x_tenant: Annotated[str, Header()],
            session: Annotated[str, Cookie()],
            page: int = 1,
        ) -> RequestOverride:
            return tell(
                got=f"{item_id} {rest} {tag} {x_tenant} {session} {page}",
            )

        async with one.serve() as gw:
            answer = await get_raw(
                gw, "/items/7/a/b?t=1&t=2", "X-Tenant: acme", "Cookie: session=s1; other=2"
            )
        assert status(answer) == 200
        assert one.upstream.last.values(b"x-got") == [b"7 a/b ['1', '2'] acme s1 1"]
        assert one.upstream.last.target == b"/items/7/a/b?t=1&t=2"
        assert one.upstream.last.values(b"cookie") == [b"session=s1; other=2"]


@pytest.mark.parametrize(
    ("target", "headers", "place"),
    [
        ("/items/0?q=1", ["X-Tenant: a"], ["path", "item_id"]),
        ("/items/x?q=1", ["X-Tenant: a"], ["path", "item_id"]),
        ("/items/1?q=x", ["X-Tenant: a"], ["query", "q"]),
        ("/items/1", ["X-Tenant: a"], ["query", "q"]),
        ("/items/1?q=1", [], ["header", "x-tenant"]),
    ],
)
async def test_what_does_not_fit_is_fastapis_422(target, headers, place):
    """It says where, as FastAPI does, and the upstream hears nothing."""
    async with proxied() as one:

        @one.router.override("/items/{item_id}")
        async def hook(
            item_id: Annotated[int, Path(ge=1)], q: int, x_tenant: Annotated[str, Header()]
        ) -> None:
            pytest.fail("it was called")

        async with one.serve() as gw, client_of(gw) as client:
            given = dict(header.split(": ") for header in headers)
            answer = await client.get(target, headers=given)
        assert answer.status_code == 422
        assert [mistake["loc"] for mistake in answer.json()["detail"]] == [place]
        assert one.upstream.connections == 0


async def test_all_mistakes_of_a_request_are_told_at_once():
    """Those of the body too, and of dependencies."""
    async with proxied() as one:

        def page(page: int) -> int:
            return page

        @one.router.override("/items/{item_id}", methods=["POST"])
        async def hook(item_id: int, item: Item, page: Annotated[int, Depends(page)]) -> None:
            pytest.fail("it was called")

        async with one.serve() as gw, client_of(gw) as client:
            answer = await client.post("/items/x?page=y", json={"count": 0})
        places = {tuple(mistake["loc"]) for mistake in answer.json()["detail"]}
        assert places == {("path", "item_id"), ("query", "page"), ("body", "count")}


async def test_a_request_that_is_wrong_is_a_422_even_if_no_upstream_is_available():
    """Nobody is picked for it, so nobody can be missing."""
    async with proxied() as one:
        one.pool.remove(one.pool.upstreams[0])

        @one.router.override("/items/{item_id}")
        async def hook(item_id: int) -> None:
            """Do nothing."""

        async with one.serve() as gw:
            assert status(await get_raw(gw, "/items/x")) == 422
            assert status(await get_raw(gw, "/items/1")) == 503


async def test_a_json_body_becomes_a_model_and_a_model_the_new_body(server):
    """By alias, with its own length and type."""
    async with proxied(server=server) as one:

        @one.router.override("/items", methods=["POST"])
        async def hook(item: Item) -> Item:
            return Item(count=item.count + 1)

        async with one.serve() as gw, client_of(gw) as client:
            assert (await client.post("/items", json={"count": 1})).status_code == 200
        sent = one.upstream.last
        assert sent.body == b'{"howMany":2}'
        assert sent.values(b"content-length") == [b"13"]
        assert sent.values(b"content-type") == [b"application/json"]


async def test_two_bodies_are_embedded_as_in_fastapi():
    """One in the hook and one in a dependency of it."""
    async with proxied() as one:

        def other(note: Annotated[str, Body()]) -> str:
            return note

        @one.router.override("/items", methods=["PUT"])
        async def hook(item: Item, note: Annotated[str, Depends(other)]) -> RequestOverride:
            return tell(got=f"{item.count} {note}")

        async with one.serve() as gw, client_of(gw) as client:
            await client.put("/items", json={"item": {"count": 3}, "note": "n"})
        assert one.upstream.last.values(b"x-got") == [b"3 n"]


async def test_form_fields_are_given_and_the_form_is_sent_as_it_came():
    """Urlencoded bytes are replayed, not encoded anew."""
    async with proxied() as one:

        @one.router.override("/login", methods=["POST"])
        async def hook(user: Annotated[str, Form()]) -> RequestOverride:
            return tell(user=user)

        form = b"user=a%62c&pass=x+y&&z"
        async with one.serve() as gw:
            kind = "Content-Type: application/x-www-form-urlencoded"
            answer = await get_raw(gw, "/login", kind, method="POST", body=form)
        assert status(answer) == 200
        assert one.upstream.last.values(b"x-user") == [b"abc"]
        assert one.upstream.last.body == form


MULTIPART = (
    b'--sep\r\nContent-Disposition: form-data; name="note"\r\n\r\nhi\r\n'
    b'--sep\r\nContent-Disposition: form-data; name="upload"; filename="a.bin"\r\n'
    b"X-Odd:   kept \r\n\r\n\x00\x01\r\n\xff\r\n--sep--\r\nepilogue"
)


@pytest.mark.parametrize("kind", ["upload", "bytes"])
async def test_files_are_given_and_the_multipart_body_is_sent_as_it_came(kind, server):
    """With its preamble, odd headers and epilogue."""
    async with proxied(server=server) as one:
        if kind == "upload":

            @one.router.override("/files", methods=["POST"])
            async def upload_hook(note: Annotated[str, Form()], upload: UploadFile) -> Any:
                return tell(got=f"{note} {upload.filename} {len(await upload.read())}")

        else:

            @one.router.override("/files", methods=["POST"])
            async def bytes_hook(
                note: Annotated[str, Form()], upload: Annotated[bytes, File()]
            ) -> Any:
                return tell(got=f"{note} a.bin {len(upload)}")

        async with one.serve() as gw:
            header = "Content-Type: multipart/form-data; boundary=sep"
            answer = await get_raw(gw, "/files", header, method="POST", body=MULTIPART)
        assert status(answer) == 200
        assert one.upstream.last.values(b"x-got") == [b"hi a.bin 5"]
        assert one.upstream.last.body == MULTIPART


class Tagging:
    """Hooks that are objects, and methods of one."""

    def __init__(self, tag: str) -> None:
        self._tag = tag

    async def __call__(self, number: int) -> RequestOverride:
        return tell(got=f"{self._tag} {number + 1}")

    def method(self, number: int) -> RequestOverride:
        return tell(got=f"{self._tag} {number + 1}")

    @staticmethod
    async def static(number: int, tag: str = "t") -> RequestOverride:
        return tell(got=f"{tag} {number + 1}")

    @classmethod
    def of_class(cls, number: int) -> RequestOverride:
        return tell(got=f"t {number + 1}")


def sync_hook(number: int) -> RequestOverride:
    return tell(got=f"t {number + 1}")


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapper(**values: Any) -> Any:
        return function(**values)

    return wrapper


KINDS = {
    "sync": sync_hook,
    "object": Tagging("t"),
    "method": Tagging("t").method,
    "static method": Tagging.static,
    "class method": Tagging.of_class,
    "partial": functools.partial(Tagging.static, tag="t"),
    "partial of an object": functools.partial(Tagging("t")),
    "wrapped": wrapped(sync_hook),
    "postponed annotations": postponed.hook,
    "postponed annotations of an object": postponed.Hook(),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hook_may_be_anything_that_can_be_called(kind):
    """Its parameters are read and validated whatever it is."""
    async with proxied() as one:
        one.router.override("/x")(KINDS[kind])
        async with one.serve() as gw:
            assert status(await get_raw(gw, "/x?number=x")) == 422
            assert status(await get_raw(gw, "/x?number=1")) == 200
        assert one.upstream.last.values(b"x-got") == [b"t 2"]


async def test_a_hook_gets_the_request_itself():
    """With its route, state and client."""
    async with proxied() as one:

        @one.router.override("/x/{name}")
        async def hook(request: Request) -> RequestOverride:
            return tell(got=f"{request.method} {request.path_params['name']}")

        async with one.serve() as gw:
            await get_raw(gw, "/x/n")
        assert one.upstream.last.values(b"x-got") == [b"GET n"]
