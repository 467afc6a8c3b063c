"""What hooks return: overrides of a request and of a response, and what they become."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from fastapi_proxy_router import (
    HeaderEdits,
    RequestOverride,
    Retry,
    RouteOverride,
    Split,
    Timeout,
    Upstream,
    UpstreamPool,
    WebSocketOverride,
)
from fastapi_proxy_router.core.changes import NO_CHANGES, Changes, ResponseChange
from fastapi_proxy_router.core.headers import Edits
from fastapi_proxy_router.core.query import QueryChange
from fastapi_proxy_router.overrides import (
    CompiledResponse,
    ErrorPage,
    QueryEdits,
    ResponseOverride,
)
from tests.overrides.test_compiling import STALE, TEXT


async def upper(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk.upper()


class User(BaseModel):
    name: str = Field(serialization_alias="userName")


JSON_LABEL = Edits(((b"content-type", b"application/json"),), (), STALE)
REQUESTS: list[tuple[dict[str, Any], Changes]] = [
    ({"path": "/a b"}, Changes(path=b"/a%20b")),
    ({"path": b"/a%2Fb"}, Changes(path=b"/a%2Fb")),
    ({"query": "a=1&b"}, Changes(query=b"a=1&b")),
    ({"query": ""}, Changes(query=b"")),
    ({"query": {"a": "1&2", "b": ["3", "4"]}}, Changes(query=b"a=1%262&b=3&b=4")),
    ({"query": {"remove": ["c"]}}, Changes(query=b"remove=c")),
    (
        {"query": QueryEdits(remove=["c"])},
        Changes(query_changes=(QueryChange(remove=frozenset({"c"})),)),
    ),
    ({"host": "a:1", "preserve_host": False}, Changes(host=b"a:1", preserve_host=False)),
    ({"forwarded": "none"}, Changes(forwarded="none")),
    ({"method": "get"}, Changes(method="GET")),
    ({"timeout": 1}, Changes(timeout=Timeout(1, 1, 1, 1))),
    ({"timeout": Timeout(total=1)}, Changes(timeout=Timeout(total=1))),
    ({"body_limit": 0, "retry": Retry(attempts=1)}, Changes(body_limit=0, retry=Retry(attempts=1))),
    (
        {"headers": HeaderEdits(keep=["a"])},
        Changes(request=(Edits(keep=frozenset({b"a"})),)),
    ),
    (
        {"response_headers": [HeaderEdits(), HeaderEdits(remove=["a"], when="failure")]},
        Changes(
            response=(ResponseChange(edits=(Edits(remove=frozenset({b"a"}), when="failure"),)),)
        ),
    ),
    ({"body": b"\xff"}, Changes(body=b"\xff")),
    ({"body": b""}, Changes(body=b"")),
    (
        {"text": "ü"},
        Changes(
            body="ü".encode(), request=(Edits(((b"content-type", TEXT),), (), STALE, of_body=True),)
        ),
    ),
    (
        {"form": {"a": ["1", "2"]}},
        Changes(
            body=b"a=1&a=2",
            request=(
                Edits(
                    ((b"content-type", b"application/x-www-form-urlencoded"),),
                    (),
                    STALE,
                    of_body=True,
                ),
            ),
        ),
    ),
    (
        {"json": User(name="Ann")},
        Changes(body=b'{"userName":"Ann"}', request=(JSON_LABEL._replace(of_body=True),)),
    ),
    ({"json": None}, Changes(body=b"null", request=(JSON_LABEL._replace(of_body=True),))),
    (
        {"json": {}, "headers": HeaderEdits(set={"content-type": "a/b"})},
        Changes(
            body=b"{}",
            request=(JSON_LABEL._replace(of_body=True), Edits(((b"content-type", b"a/b"),))),
        ),
    ),
    ({"transform": upper}, Changes(transforms=(upper,))),
]


@pytest.mark.parametrize(("fields", "changes"), REQUESTS)
def test_a_request_override_becomes_changes(fields, changes):
    """These and no others."""
    assert RequestOverride(**fields).compile() == changes


@pytest.mark.parametrize("kind", [RequestOverride, WebSocketOverride])
def test_an_override_of_nothing_is_no_changes_itself(kind):
    """Nor is where it goes a change: who forwards asks for that."""
    upstream = Upstream("http://a")

    assert kind(headers=HeaderEdits(), response_headers=[]).compile() is NO_CHANGES
    assert kind(upstream=upstream).compile() is NO_CHANGES
    assert kind(upstream=upstream).upstream is upstream


def test_a_pool_or_a_split_may_be_chosen():
    """As the objects that they are."""
    pool = UpstreamPool("http://a")
    split = Split({pool: 1})

    assert RequestOverride(upstream=pool).upstream is pool
    assert RequestOverride(upstream=split).upstream is split
    with pytest.raises(ValidationError):
        RequestOverride(upstream="http://a")  # type: ignore[arg-type]


def test_a_websocket_override_has_what_a_request_has_but_the_body():
    """Host, forwarding headers, query and headers of the handshake."""
    override = WebSocketOverride(
        query=QueryEdits(set={"a": "1"}), preserve_host=True, forwarded=True, path="/x"
    )

    assert override.compile() == Changes(
        path=b"/x",
        query_changes=(QueryChange((("a", "1"),)),),
        preserve_host=True,
        forwarded=True,
    )


RESPONSES: list[tuple[dict[str, Any], CompiledResponse]] = [
    ({}, CompiledResponse(ResponseChange(), None, None)),
    ({"status": 404}, CompiledResponse(ResponseChange(status=404), None, None)),
    (
        {"headers": HeaderEdits(remove=["a"], when="success")},
        CompiledResponse(
            ResponseChange(edits=(Edits(remove=frozenset({b"a"}), when="success"),)), None, None
        ),
    ),
    (
        {"media_type": "text/css"},
        CompiledResponse(
            ResponseChange(edits=(Edits(((b"content-type", b"text/css"),)),)), None, None
        ),
    ),
    (
        {"body": b"\xff"},
        CompiledResponse(ResponseChange(edits=(Edits(remove=STALE),)), b"\xff", None),
    ),
    (
        {"text": "ü", "headers": HeaderEdits(set={"content-type": "a/b"})},
        CompiledResponse(
            ResponseChange(
                edits=(
                    Edits(((b"content-type", TEXT),), (), STALE),
                    Edits(((b"content-type", b"a/b"),)),
                )
            ),
            "ü".encode(),
            None,
        ),
    ),
    (
        {"json": User(name="Ann")},
        CompiledResponse(ResponseChange(edits=(JSON_LABEL,)), b'{"userName":"Ann"}', None),
    ),
    ({"json": None}, CompiledResponse(ResponseChange(edits=(JSON_LABEL,)), b"null", None)),
    ({"transform": upper}, CompiledResponse(ResponseChange(), None, upper)),
]


@pytest.mark.parametrize(("fields", "compiled"), RESPONSES)
def test_a_response_override_becomes_changes_of_the_head_and_a_body(fields, compiled):
    """A new body takes along what was said of the old one's bytes."""
    assert ResponseOverride(**fields).compile() == compiled


# --- Mistakes ----------------------------------------------------------------------------------


async def coroutine(chunks: AsyncIterator[bytes]) -> bytes:
    return b""


def generator(chunks: Any) -> Any:
    yield b""


async def without_argument() -> AsyncIterator[bytes]:
    yield b""


async def with_two(chunks: AsyncIterator[bytes], key: bytes) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield key + chunk


class Transforming:
    async def __call__(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk


class Awaiting:
    async def __call__(self, chunks: AsyncIterator[bytes]) -> None:
        return None


USABLE = [upper, functools.partial(with_two, key=b"x"), Transforming(), lambda chunks: chunks]
UNUSABLE = [
    (coroutine, "async def with yield"),
    (generator, "async def with yield"),
    (Awaiting(), "async def with yield"),
    (functools.partial(coroutine), "async def with yield"),
    (without_argument, "one argument"),
    (with_two, "one argument"),
    (5, "callable"),
]


@pytest.mark.parametrize("kind", [RequestOverride, ResponseOverride])
@pytest.mark.parametrize("transform", USABLE)
def test_a_transform_takes_chunks_and_yields_chunks(kind, transform):
    """A function, a part of one, an object, or what returns an async iterator."""
    assert kind(transform=transform).transform is transform


@pytest.mark.parametrize("kind", [RequestOverride, ResponseOverride])
@pytest.mark.parametrize(("transform", "words"), UNUSABLE)
def test_a_transform_that_could_not_be_used_is_refused(kind, transform, words):
    """Where it is given, and not when the first chunk comes."""
    with pytest.raises(ValidationError, match=words):
        kind(transform=transform)


BODIES: list[tuple[str, Any]] = [
    ("body", b"a"),
    ("text", "a"),
    ("form", {"a": "b"}),
    ("transform", upper),
    ("json", None),
]


@pytest.mark.parametrize("kind", [RequestOverride, ResponseOverride])
def test_there_is_one_body(kind):
    """Whichever two are given: null as JSON is one, and so is the old one, transformed."""
    bodies = [each for each in BODIES if each[0] != "form" or kind is RequestOverride]
    for index, (first, value) in enumerate(bodies):
        for second, other in bodies[index + 1 :]:
            with pytest.raises(ValidationError, match=f"give {first} or {second}, not both"):
                kind(**{first: value, second: other})


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (RequestOverride, {"headers": {"when": "failure"}}, "when is for the headers of responses"),
        (WebSocketOverride, {"headers": {"when": "failure"}}, "when is for the headers"),
        (RequestOverride, {"host": "a/b"}, "must be a host"),
        (RequestOverride, {"headers": {"set": {"content_length": "5"}}}, "belongs to the connect"),
        (RequestOverride, {"body_limit": -1}, "greater than or equal to 0"),
        (RequestOverride, {"retry": {"attempts": 1}}, "instance of Retry"),
        (ResponseOverride, {"status": 600}, "less than or equal to 599"),
        (ResponseOverride, {"status": 304, "text": "a"}, "status 304 has no body"),
        (ResponseOverride, {"body": "a"}, "not base64"),
        (ResponseOverride, {"headers": {"set": {"connection": "close"}}}, "belongs to the connect"),
    ],
)
def test_what_cannot_be_sent_is_refused(kind, fields, words):
    """Where it is built, so that the hook fails and nothing is sent."""
    with pytest.raises(ValidationError, match=words):
        kind(**fields)


@pytest.mark.parametrize(
    "override",
    [
        RequestOverride(path=b"/x", body=b"a", headers=HeaderEdits(set={"x": "1"}), timeout=1),
        RequestOverride(json=None),
        RequestOverride(text="x", response_headers=[HeaderEdits(when="failure")]),
        ResponseOverride(status=404, body=b"\xff"),
        ResponseOverride(json={"a": None}),
    ],
)
def test_a_dump_is_read_again(override):
    """A body that was not given is not given afterwards."""
    again = type(override).model_validate(override.model_dump())

    assert again == override
    assert again.compile() == override.compile()


def test_mappings_of_texts_are_mappings_of_one_or_several():
    """So type checkers take what has one value for each name, such as ``dict(query_params)``."""
    plain: dict[str, str] = {"a": "1"}
    flags: dict[str, bool] = {"a": True}
    statuses: list[int] = [500]

    override = RouteOverride(
        path="/",
        match_headers=flags,
        match_query=plain,
        query=QueryEdits(set=plain, add=plain),
        request_headers=HeaderEdits(set=plain, add=plain),
        form=plain,
        error_pages=[ErrorPage(statuses=statuses, text="")],
    )
    assert override == RouteOverride.model_validate_json(override.model_dump_json())
    assert RequestOverride(form=plain).compile().body == b"a=1"
    assert RequestOverride(query=plain).compile().query == b"a=1"


def test_a_repr_shows_what_was_given():
    """Under the names by which it is given, so that it can be read, and evaluated."""
    override = RouteOverride(
        path="/a/{id}", json=None, response_headers=HeaderEdits(remove=["server"], when="failure")
    )
    assert repr(override) == (
        "RouteOverride(path='/a/{id}', "
        "response_headers=HeaderEdits(remove=['server'], when='failure'), json=None)"
    )
    assert eval(repr(override)) == override
    assert repr(RequestOverride()) == "RequestOverride()"
