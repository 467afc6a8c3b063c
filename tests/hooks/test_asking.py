"""What hooks ask for and say that they return, and what a router is given for them: mistakes."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

from functools import partial
from typing import Annotated, Any

import pytest
from fastapi import Request, Response, WebSocket
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from fastapi_proxy_router import (
    ConfigurationError,
    ForwardedResponse,
    GatewayError,
    GatewayTimeout,
    OutboundRequest,
    ProxyRouter,
    RequestOverride,
    ResponseOverride,
    RouteOverride,
    Upstream,
    UpstreamPool,
    WebSocketOverride,
)

pytestmark = [pytest.mark.anyio]


class Trace:
    """A context."""


class Body(BaseModel):
    """A body."""

    number: int


def router(**options: Any) -> ProxyRouter:
    return ProxyRouter("http://127.0.0.1:1", **options)


def mistakes(call: Any) -> list[str]:
    """Return what is wrong with what *call* makes."""
    with pytest.raises(ConfigurationError) as caught:
        call()
    return caught.value.mistakes


def asks_twice(a: Body, b: list[Body]) -> None:
    """Ask for two bodies."""


def needs_response(response: ForwardedResponse, error: GatewayError | None) -> None:
    """Ask for both."""


def needs_body(body: Body, error: GatewayTimeout) -> None:
    """Ask for both."""


def needs_upstream(upstream: Upstream, error: GatewayError) -> None:
    """Ask for both; where nobody is available there is none."""


ASKING = [
    ("override_response", asks_twice, "the response has one body, for one of a, b"),
    ("override_response", needs_response, "there is no response: allow None"),
    ("override_response", needs_body, "there is no body: allow None"),
    ("override_response", needs_upstream, "there is no upstream: allow None"),
    ("on_response", needs_response, "there is no response: allow None"),
    ("on_response", needs_upstream, "there is no upstream: allow None"),
]


@pytest.mark.parametrize(("phase", "hook", "reason"), ASKING)
def test_a_hook_cannot_ask_for_what_is_never_there_together(phase, hook, reason):
    """Where there is an error there is no response."""
    decorate = getattr(router(), phase)
    decorate = decorate("/x") if phase.startswith("override") else decorate
    (mistake,) = mistakes(lambda: decorate(hook))
    assert reason in mistake


def body_of(body: Body) -> None: ...
def number_of(number: int) -> None: ...
def nothing_said(thing) -> None: ...
def of_another_context(trace: Trace) -> None: ...
def of_outbound(outbound: OutboundRequest) -> None: ...
def of_upstream(upstream: Upstream) -> None: ...
def of_websocket(websocket: WebSocket) -> None: ...
def of_request(request: Request) -> None: ...
def of_response(response: ForwardedResponse) -> None: ...
def of_injected(response: Response) -> None: ...


ELSEWHERE = [
    ("on_request", body_of),
    ("on_request", number_of),
    ("on_request", nothing_said),
    ("on_request", of_another_context),
    ("on_request", of_outbound),
    ("on_request", of_upstream),
    ("on_request", of_response),
    ("on_request", of_injected),
    ("on_send", of_response),
    ("on_response", of_outbound),
    ("on_response", of_websocket),
    ("on_response", body_of),
]


@pytest.mark.parametrize(("phase", "hook"), ELSEWHERE)
def test_a_router_wide_hook_asks_only_for_what_is_known_then(phase, hook):
    """The message says what there is."""
    (mistake,) = mistakes(lambda: getattr(router(), phase)(hook))
    assert f"{phase} hook {hook.__name__}: nothing is known for " in mistake
    assert "HTTPConnection" in mistake


FOREIGN = [
    ("override", of_websocket, "WebSocket"),
    ("override_response", of_websocket, "WebSocket"),
    ("override_websocket", of_request, "Request"),
]


@pytest.mark.parametrize(("phase", "hook", "kind"), FOREIGN)
def test_a_hook_of_a_route_asks_for_the_connection_that_there_is(phase, hook, kind):
    """FastAPI would not give it the other one."""
    (mistake,) = mistakes(lambda: getattr(router(), phase)("/x")(hook))
    assert f"there is no {kind} for " in mistake


def test_a_parameter_with_a_default_needs_nothing():
    """A partial binds what it likes, too."""
    proxy = router()

    def hook(connection: HTTPConnection, tag: str, more: int = 1) -> None:
        """Take what is bound."""

    for phase in ("on_request", "on_send", "on_response"):
        getattr(proxy, phase)(partial(hook, tag="t"))


def test_no_connection_is_a_request_and_a_websocket():
    """Such a hook would never be called."""

    def hook(request: Request, websocket: WebSocket) -> None:
        """Ask for both."""

    for phase in ("on_request", "on_send"):
        (mistake,) = mistakes(lambda: getattr(router(), phase)(hook))  # noqa: B023
        assert "no connection is both" in mistake


RETURNS: list[tuple[str, Any]] = [
    ("override", ResponseOverride),
    ("override", WebSocketOverride),
    ("override", dict),
    ("override", list[Body]),
    ("override", str | None),
    ("override_response", RequestOverride),
    ("override_response", list[Body]),
    ("override_response", bytes),
    ("override_websocket", RequestOverride),
    ("override_websocket", Body),
]


@pytest.mark.parametrize(("phase", "annotation"), RETURNS)
def test_what_a_hook_says_it_returns_must_be_of_use(phase, annotation):
    """It would be a 500 for every request."""

    def hook():
        """Return it."""

    hook.__annotations__["return"] = annotation
    (mistake,) = mistakes(lambda: getattr(router(), phase)("/x")(hook))
    assert "it returns" in mistake


@pytest.mark.parametrize(
    "annotation",
    [None, Any, object, RequestOverride | Response | Body | None, Annotated[Body, 1], Response],
)
def test_what_may_be_right_is_not_refused(annotation):
    """Only what is known to be wrong is."""

    def hook():
        """Return it."""

    hook.__annotations__["return"] = annotation
    router().override("/x")(hook)


def needs_arguments(name: str) -> Trace:
    return Trace()


def says_nothing():
    return Trace()


CONTEXTS: list[Any] = [needs_arguments, says_nothing, partial(Trace), 5]


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_context_is_made_of_nothing_and_says_what_it_is(context):
    """A class, or a function annotated with one."""
    (mistake,) = mistakes(lambda: router(context=context))
    assert mistake.startswith("context ")


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), "1"])
def test_a_hook_timeout_is_a_time(seconds):
    """Or None."""
    (mistake,) = mistakes(lambda: router(hook_timeout=seconds))
    assert mistake.startswith("hook_timeout is more than 0 seconds, or None")


def test_all_mistakes_of_a_router_are_told_at_once():
    """Of its upstreams, overrides, context and timeout."""
    found = mistakes(
        lambda: ProxyRouter(
            {"no-slash": "nonsense"},
            overrides=[{"path": "x"}, {"path": "/y", "nonsense": 1}],
            context=CONTEXTS[0],
            hook_timeout=-1,
        )
    )
    for part in ("no-slash", "nonsense", "/y", "context needs_arguments", "hook_timeout"):
        assert any(part in mistake for mistake in found), part


@pytest.mark.parametrize("prefix", ["/{x:nonsense}", "/{x}/{x}", "x", "/x/"])
def test_a_prefix_of_a_mapping_is_a_path(prefix):
    """It may have parameters."""
    (mistake,) = mistakes(lambda: ProxyRouter({prefix: "http://127.0.0.1:1"}))
    assert mistake.startswith(f"prefix {prefix!r}")


def test_named_pools_have_names_of_their_own():
    """And those that overrides name are there; every mistake is told."""
    pools = [
        UpstreamPool("http://127.0.0.1:1", name="twice"),
        UpstreamPool("http://127.0.0.1:2", name="twice"),
        UpstreamPool("http://127.0.0.1:3"),
    ]
    declared = [RouteOverride(path="/x", pool="missing"), RouteOverride(path="/y", pool="twice")]
    found = mistakes(lambda: router(overrides=declared, named_pools=pools))
    assert len(found) == 3
    for part in (
        "two pools are called 'twice'",
        "needs a name",
        "override of /x: there is no pool 'missing'",
    ):
        assert any(part in mistake for mistake in found), part
