"""Mistakes in hooks, and in what a router is given for them: told at once, all of them."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Annotated, Any

import pytest
from fastapi import Depends
from fastapi.routing import APIRoute
from pydantic import BaseModel

from fastapi_proxy_router import (
    ConfigurationError,
    ForwardedResponse,
    ProxyRouter,
    RequestOverride,
    ResponseOverride,
    UpstreamPool,
)
from tests.hooks.helping import app_of, proxied, tell
from tests.servers import get_raw, status

pytestmark = [pytest.mark.anyio]


class Trace:
    """A context."""


class Body(BaseModel):
    """A body."""

    number: int


class Unreadable:
    """Nothing that FastAPI or pydantic could make."""


def router(**options: Any) -> ProxyRouter:
    return ProxyRouter("http://127.0.0.1:1", **options)


def mistakes(call: Any) -> list[str]:
    """Return what is wrong with what *call* makes."""
    with pytest.raises(ConfigurationError) as caught:
        call()
    return caught.value.mistakes


def variadic(*args: int, **kwargs: int) -> None:
    """Take anything."""


def positional(a: int, /) -> None:
    """Take something by its place."""


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Yielding:
    """An object whose call is a generator."""

    def __call__(self) -> Iterator[int]:
        yield 1


def unknown_name(request: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Ask for what is not there."""


def bad_annotation(request: "1/0") -> None:  # type: ignore[valid-type]
    """Ask for what cannot be evaluated."""


UNUSABLE: dict[str, tuple[Any, list[str]]] = {
    "variadic": (variadic, [r"takes \*args", r"takes \*\*kwargs"]),
    "positional": (positional, ["takes a by its place only"]),
    "generator": (generator, ["it yields"]),
    "async generator": (async_generator, ["it yields"]),
    "an object that yields": (Yielding(), ["it yields"]),
    "a partial that yields": (partial(generator), ["it yields"]),
    "a class": (Body, ["it is no function"]),
    "no function": (5, ["it is no function"]),
    "an unknown name": (unknown_name, ["Nowhere"]),
    "an annotation that fails": (bad_annotation, ["annotations"]),
}
PHASES = ["override", "override_response", "override_websocket"]
PHASES += ["on_request", "on_send", "on_response"]


@pytest.mark.parametrize("case", UNUSABLE)
@pytest.mark.parametrize("phase", PHASES)
def test_a_signature_that_no_hook_can_have_is_refused(case, phase):
    """By all decorators alike, with the name of the hook and the route."""
    hook, expected = UNUSABLE[case]
    decorate = getattr(router(), phase)
    if phase.startswith("override"):
        decorate = decorate("/x/{id}")
    (mistake,) = mistakes(lambda: decorate(hook))
    assert all(re.search(part, mistake) for part in expected)
    label = "/x/{id} by " if phase.startswith("override") else f"{phase} hook "
    assert label in mistake


def test_all_mistakes_of_a_hook_are_told_at_once():
    """Of its path, methods, limit, signature and options."""
    proxy = ProxyRouter({"/users": "http://127.0.0.1:1"})
    decorate = proxy.override(
        "/{a}/{a}", methods=["CONNECT", "trace", "GET"], operation_id="x", body_limit=-1
    )
    found = mistakes(lambda: decorate(lambda: None))
    assert len(found) == 6
    for part in (
        "no pool serves",
        "CONNECT is never forwarded",
        "TRACE is never forwarded",
        "operation_id is of one method only",
        "body_limit is a number of bytes, not -1",
        "Duplicated param name a",
    ):
        assert any(part in mistake for mistake in found), part
    assert all("CONNECT, GET, TRACE /{a}/{a} by" in mistake for mistake in found)


@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("/x", {"methods": []}, "it needs a method"),
        ("x", {}, "must begin with /"),
        ("/{x:nonsense}", {}, "Unknown path convertor"),
        ("/other", {}, "no pool serves '/other'"),
        ("/x", {"nonsense": 1}, "nonsense"),
        ("/x", {"body_limit": "1"}, "body_limit is a number of bytes"),
        ("/x", {"response_model": Unreadable}, "response field"),
        ("/x", {"status_code": 204, "response_model": Body}, "204"),
    ],
)
def test_a_route_that_cannot_be_is_refused(path, options, reason):
    """With FastAPI's reason where it is FastAPI that cannot make it."""
    proxy = ProxyRouter({"/x": "http://127.0.0.1:1"})
    found = mistakes(lambda: proxy.override(path, **options)(lambda: None))
    assert any(reason in mistake for mistake in found)
    assert all(path in mistake for mistake in found)


@pytest.mark.parametrize("when", ["sucess", None, 200])
def test_a_when_that_does_not_exist_is_refused(when):
    """It would never be true."""
    decorate = router().override_response("/x", when=when)
    (mistake,) = mistakes(lambda: decorate(lambda: None))
    assert "when is one of always, success, failure" in mistake


def test_a_parameter_that_fastapi_cannot_read_is_refused():
    """In a hook of a request, and beside the body in one of a response."""

    def hook(value: Unreadable) -> None:
        """Ask for it."""

    for decorator in ("override", "override_response"):
        (mistake,) = mistakes(lambda: getattr(router(), decorator)("/x")(hook))  # noqa: B023
        assert "GET /x by " in mistake


def test_after_a_refusal_the_route_is_as_it_was():
    """Nothing of it stays, so the right one can be declared."""
    proxy = router()

    def wrong(value: Unreadable) -> None:
        """Ask for it."""

    before = len(proxy.routes)
    for _ in range(2):
        mistakes(lambda: proxy.override("/x")(wrong))
    assert len(proxy.routes) == before
    proxy.override("/x")(lambda: None)


@pytest.mark.parametrize("phase", ["override", "override_response", "override_websocket"])
@pytest.mark.parametrize("second", ["/x/{id}", "/x/{other}", "/x/{other:str}"])
def test_two_hooks_for_one_route_are_refused(phase, second):
    """Whatever the parameters are called; the message says who was first."""
    proxy = router()

    def first() -> None:
        """Be the first."""

    getattr(proxy, phase)("/x/{id}")(first)
    (mistake,) = mistakes(lambda: getattr(proxy, phase)(second)(lambda: None))
    assert "first has this route already" in mistake
    assert second in mistake


def test_the_hooks_of_one_route_are_spelled_alike():
    """A parameter has one name in OpenAPI."""
    proxy = router()
    proxy.override("/x/{id}")(lambda: None)
    (mistake,) = mistakes(lambda: proxy.override_response("/x/{other}")(lambda: None))
    assert "spelled /x/{id}" in mistake


def test_other_methods_and_other_patterns_are_other_routes():
    """So they may have hooks of their own."""
    proxy = router()
    proxy.override("/x/{id}", methods=["GET", "PUT"])(lambda: None)
    proxy.override("/x/{id}", methods=["POST"])(lambda: None)
    proxy.override("/x/{id:int}")(lambda: None)
    (mistake,) = mistakes(lambda: proxy.override("/x/{id}", methods=["PUT", "PATCH"])(lambda: None))
    assert "PATCH, PUT /x/{id}" in mistake


async def test_a_hook_that_is_refused_leaves_the_router_working():
    """What was declared before goes on."""
    async with proxied() as one:
        one.router.override("/x")(lambda: tell(first=1))
        mistakes(lambda: one.router.override("/x")(lambda: None))
        mistakes(lambda: one.router.override("/x")(variadic))
        mistakes(lambda: one.router.on_request(variadic))
        async with one.serve(app_of(one.router)) as gw:
            assert status(await get_raw(gw, "/x")) == 200
        assert one.upstream.last.values(b"x-first") == [b"1"]


def test_a_custom_class_of_routes_may_refuse_by_itself():
    """Its reason is told with the route."""

    class Strict(APIRoute):
        def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
            if "forbidden" in path:
                raise RuntimeError("not here")
            super().__init__(path, endpoint, **options)

    (mistake,) = mistakes(lambda: router(route_class=Strict).override("/forbidden")(lambda: None))
    assert "/forbidden" in mistake
    assert "not here" in mistake


def test_a_websockets_hook_depends_on_what_it_likes():
    """Dependencies with parameters are fine; what is wrong with them is told."""

    def dependency(value: Unreadable) -> None:
        """Ask for it."""

    def hook(value: Annotated[Any, Depends(dependency)]) -> None:
        """Depend."""

    (mistake,) = mistakes(lambda: router().override_websocket("/x")(hook))
    assert "WebSocket /x by" in mistake


@pytest.mark.parametrize("phase", ["override", "override_response", "override_websocket"])
def test_a_decorator_without_its_path_is_refused(phase):
    """As ``@proxy.override`` without parentheses it would declare nothing, and say nothing."""
    (mistake,) = mistakes(lambda: getattr(router(), phase)(generator))
    assert mistake == f"{phase} needs a path, such as @proxy.{phase}('/users'), not generator"


@pytest.mark.parametrize("phase", ["override", "override_response"])
def test_methods_that_are_one_text_are_refused(phase):
    """Its letters would be the methods."""
    (mistake,) = mistakes(lambda: getattr(router(), phase)("/x", methods="POST")(lambda: None))
    assert "POST /x by" in mistake
    assert "methods is a list of methods, not 'POST'" in mistake


def test_a_method_that_is_none_is_refused():
    """No client can ask for it."""
    (mistake,) = mistakes(lambda: router().override("/x", methods=["GE T"])(lambda: None))
    assert "'GE T' is no method" in mistake


def test_the_methods_of_a_router_are_no_text():
    """It would forward G, E and T, and answer 405 to all there is."""
    assert mistakes(lambda: router(methods="GET")) == ["methods is a list of methods, not 'GET'"]


@pytest.mark.parametrize("phase", ["override", "override_response", "override_websocket"])
@pytest.mark.parametrize("path", ["/x/{id", "/x/id}", "/x/{1d}", "/x/{}"])
def test_a_brace_that_belongs_to_no_parameter_is_refused(phase, path):
    """Starlette takes it for a part of the path, which nobody asks for."""
    (mistake,) = mistakes(lambda: getattr(router(), phase)(path)(lambda: None))
    assert f"path {path!r} has a brace that belongs to no parameter" in mistake


@pytest.mark.parametrize("phase", ["override", "override_websocket"])
@pytest.mark.parametrize("annotation", [ForwardedResponse, ForwardedResponse | None])
def test_a_hook_of_a_request_has_no_upstreams_response(phase, annotation):
    """FastAPI would give it a response of its own, in which there is nothing."""

    def hook(response: annotation) -> None:  # type: ignore[valid-type]
        """Ask for it."""

    (mistake,) = mistakes(lambda: getattr(router(), phase)("/x")(hook))
    assert "there is no ForwardedResponse for response" in mistake


def on_request() -> ResponseOverride:
    return ResponseOverride()


def on_send() -> RequestOverride:
    return RequestOverride()


def on_response() -> dict[str, int]:
    return {}


@pytest.mark.parametrize("hook", [on_request, on_send, on_response])
def test_a_hook_for_every_route_says_that_it_returns_what_it_may(hook):
    """The annotation shows it before the first request does."""
    (mistake,) = mistakes(lambda: getattr(router(), hook.__name__)(hook))
    assert mistake.startswith(f"{hook.__name__} hook {hook.__name__}: it returns ")
    assert ("it may return nothing" in mistake) == (hook is on_send)


@pytest.mark.parametrize("phase", ["on_request", "on_send", "on_response"])
@pytest.mark.parametrize("annotation", [None, type(None), Any, object])
def test_a_hook_for_every_route_may_say_that_it_returns_nothing(phase, annotation):
    """Or leave open what it returns."""

    def hook() -> annotation:  # type: ignore[valid-type]
        """Do nothing."""

    assert getattr(router(), phase)(hook) is hook


@pytest.mark.parametrize(
    "pools",
    [
        ["http://127.0.0.1:1"],
        {"canary": UpstreamPool("http://127.0.0.1:1", name="canary")},
        UpstreamPool("http://127.0.0.1:1", name="canary"),
        "canary",
    ],
)
def test_named_pools_are_a_list_of_pools(pools):
    """Nothing else has a name that overrides can use."""
    (mistake,) = mistakes(lambda: router(named_pools=pools))
    assert mistake.startswith("named_pools is a list of pools and splits that have names")
