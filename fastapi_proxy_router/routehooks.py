"""The hooks of one route: what they are given, and what is made of what they return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Set
from typing import Any, Final, get_args

from fastapi import Request, Response, WebSocket, params

from .answering import RESPONSE_KINDS, Outcome, Responder, seen
from .core.changes import NO_CHANGES, Changes
from .core.guard import is_bodyless
from .core.headers import When, applies
from .exceptions import BadGateway, GatewayError, ProxyError
from .forwarder import ForwardedResponse
from .hooks import (
    Hook,
    JsonParameter,
    check_returns,
    is_json,
    is_marked,
    members,
    model_of,
    request_change,
    websocket_change,
)
from .log import reported
from .overrides import RequestOverride, ResponseOverride, WebSocketOverride
from .plan import Plan

__all__ = [
    "MARKERS",
    "REQUEST_LIMIT",
    "RESPONSE_LIMIT",
    "RequestHook",
    "ResponseHook",
    "WebSocketHook",
]

#: Bytes that are read of a body for a hook, by default: nginx's ``client_max_body_size``, and as
#: much as a WebSocket's message may have.
REQUEST_LIMIT: Final = 1024 * 1024
RESPONSE_LIMIT: Final = 16 * 1024 * 1024
#: With these FastAPI is told what a parameter is.
MARKERS: Final = (params.Param, params.Body, params.Depends)


class RequestHook:
    """A hook that decides what is sent.

    Args:
        hook: The function.
        body_limit: How many bytes of the request's body are read for it.

    Attributes:
        name: How messages call it.
        body_limit: How many bytes of the request's body are read for it.
        parameters: What FastAPI has to solve for it.

    Raises:
        ValueError: Its signature cannot be used.
    """

    _override: type = RequestOverride
    _foreign: type = WebSocket
    _change: Callable[[str, Any], Any] = staticmethod(request_change)

    def __init__(self, hook: Hook, body_limit: int = 0) -> None:
        _check_limit(body_limit)
        check_returns(hook.signature.returns, self._override)
        _check_connection(hook.signature.others, self._foreign)
        _check_connection(hook.signature.others, ForwardedResponse)
        self.name = hook.name
        self.body_limit = body_limit
        self.parameters = hook.signature.others
        self._hook = hook

    async def ask(self, plan: Plan, values: Mapping[str, Any]) -> None:
        """Let it decide, unless the answer is known.

        Raises:
            Exception: What it raises.
        """
        if plan.answer is None:
            plan.take(self._change(self.name, await self._hook(plan.supply(), values)))


class WebSocketHook(RequestHook):
    """A hook that decides how a WebSocket is relayed."""

    _override = WebSocketOverride
    _foreign = Request
    _change = staticmethod(websocket_change)


class ResponseHook:
    """A hook that sees the response.

    Args:
        hook: The function.
        path_names: The parameters of the route's path.
        when: Which responses it sees.
        body_limit: How many bytes of the response's body are read for it, decoded.
        reads_response: It reads the body although it has no parameter that does.

    Attributes:
        name: How messages call it.
        model: What it returns as the new body, for OpenAPI; ``None`` if it does not say.
        parameters: What FastAPI has to solve for it.
        needs: What it changes of the request: a body that is read has to be in a coding we know.

    Raises:
        ValueError: Its signature cannot be used.
    """

    def __init__(
        self,
        hook: Hook,
        path_names: Set[str],
        *,
        when: When,
        body_limit: int,
        reads_response: bool,
    ) -> None:
        _check_limit(body_limit)
        if when not in get_args(When):
            raise ValueError(f"when is one of {', '.join(get_args(When))}, not {when!r}")
        check_returns(hook.signature.returns, ResponseOverride)
        _check_connection(hook.signature.others, WebSocket)
        others = hook.signature.others
        self._body = _json_parameter(others, path_names)
        self.name = hook.name
        self.model = model_of(hook.signature.returns)
        own = self._body and self._body.name
        self.parameters = {name: one for name, one in others.items() if name != own}
        reads = reads_response or self._body is not None
        self.needs = Changes(reads_response=True) if reads else NO_CHANGES
        self._hook = hook
        self._when = when
        self._limit = body_limit
        if nothing := ", ".join(self._never_both()):
            raise ValueError(f"where there is an error there is no {nothing}: allow None")

    def _never_both(self) -> list[str]:
        signature, body = self._hook.signature, self._body
        lacking = signature.never_both(RESPONSE_KINDS)
        if body is None or body.optional or signature.takes(ProxyError) is None:
            return lacking
        return [*lacking, body.name]

    def responder(self, plan: Plan) -> Responder:
        """Return it as what sees the response to one request."""

        async def see(outcome: Outcome) -> ResponseOverride | Response | None:
            response, body = outcome.response, self._body
            if response is not None and not self._wants(plan, response):
                return None
            values = dict(plan.values)
            if body is not None:
                try:
                    values[body.name] = response and await self._read(plan, body, response)
                except GatewayError as error:
                    answer = await see(Outcome(None, error))
                    if answer is None:
                        raise
                    return answer
            return await seen(self._hook, plan, outcome, values)

        return see

    def _wants(self, plan: Plan, response: ForwardedResponse) -> bool:
        status = response.status_code
        has_none = 300 <= status < 400 or is_bodyless(plan.connection.scope["method"], status)
        return applies(self._when, status) and not (has_none and self._body is not None)

    async def _read(self, plan: Plan, body: JsonParameter, response: ForwardedResponse) -> Any:
        data = await response.read(self._limit)
        with reported(plan.connection.scope):
            try:
                return body.read(data)
            except ValueError as error:
                reason = f"hook {self.name} cannot use the response: {error}"
                raise BadGateway(reason, upstream=response.upstream, stage="body") from None


def _json_parameter(
    parameters: Mapping[str, inspect.Parameter], path_names: Set[str]
) -> JsonParameter | None:
    """Return what FastAPI would read from a body, without being told to."""
    bodies = [
        one
        for one in parameters.values()
        if one.name not in path_names and is_json(one.annotation) and not is_marked(one, MARKERS)
    ]
    if len(bodies) > 1:
        names = ", ".join(one.name for one in bodies)
        raise ValueError(f"the response has one body, for one of {names}")
    return JsonParameter(bodies[0]) if bodies else None


def _check_connection(parameters: Mapping[str, inspect.Parameter], foreign: type) -> None:
    if names := [name for name, one in parameters.items() if foreign in members(one.annotation)]:
        raise ValueError(f"there is no {foreign.__name__} for {', '.join(names)}")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _check_limit(body_limit: int) -> None:
    if not _is_size(body_limit):
        raise ValueError(f"body_limit is a number of bytes, not {body_limit!r}")
