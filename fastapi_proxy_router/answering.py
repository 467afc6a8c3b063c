"""HTTP: carries out what is planned for a request, and lets hooks see what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from copy import copy
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from .client import ClientStream
from .core.changes import Answer
from .core.guard import is_bodyless
from .core.headers import edit
from .core.policy import ForwardPolicy
from .core.upstream import Upstream
from .exceptions import GatewayError, ProxyError, RequestRefused
from .forwarder import ForwardedResponse, left, send_request
from .hooks import Hook, response_change
from .overrides import ResponseOverride
from .plan import Plan
from .upgrade import deny, relay_websocket
from .watch import ClientGone

__all__ = ["RESPONSE_KINDS", "Outcome", "Responder", "carried_out", "fixed", "relayed", "seen"]

#: What a hook of a response may ask for besides the connection and the context.
RESPONSE_KINDS = frozenset({ForwardedResponse, Upstream, ProxyError})

#: What a response has to say with its status, whatever page it comes with (RFC 9110, 15.5).
_REQUIRED = frozenset({b"www-authenticate", b"allow", b"retry-after"})


class Outcome(NamedTuple):
    """What has come of a request: a response, or an error."""

    response: ForwardedResponse | None
    error: ProxyError | None


#: Sees what has come of a request, and returns what its hook has; ``None`` changes nothing.
Responder = Callable[[Outcome], Awaitable[ResponseOverride | Response | None]]


class Fixed(Response):
    """A response of ours, in place of one for which nobody may have read the request's body.

    Attributes:
        client: Who gets it. Its upload is read to the end, for a while, before the response is
            over: a server that closes a connection with unread bytes on it takes away what it has
            just sent.
    """

    client: ClientStream | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        client = self.client
        if client is None or not client.uploads:
            await super().__call__(scope, receive, send)
            return

        async def lingering(message: Message) -> None:
            if message["type"] == "http.response.body":
                if not is_bodyless(scope["method"], self.status_code):
                    await send({**message, "more_body": True})
                await client.linger()
                message = {"type": message["type"], "body": b"", "more_body": False}
            await send(message)

        await super().__call__(scope, receive, lingering)


def fixed(answer: Answer, given: int = 200) -> Fixed:
    """Return *answer* as a response; *given* is the status if it has none of its own."""
    response = Fixed(answer.body, answer.status or given)
    own = {name for name, _ in answer.headers}
    framing = [pair for pair in response.raw_headers if pair[0] not in own]
    response.raw_headers = [*framing, *answer.headers]
    return response


async def carried_out(
    plan: Plan,
    request: Request,
    upstream: Upstream | None,
    *,
    policy: ForwardPolicy | None,
    responders: Iterable[Responder] = (),
) -> Response:
    """Return the response to *request*.

    Args:
        plan: What is to be done.
        request: The client's.
        upstream: Who was picked, if somebody was.
        policy: How it is forwarded if the upstream has no policy of a pool.
        responders: Who sees the response, in order.

    Raises:
        GatewayError: No answer could be had, and nobody has another.
        RequestRefused: The request is not safe to forward, likewise.
        Exception: What a hook raises.
    """
    answer = plan.answer or await _answered(plan, request, upstream, policy, responders)
    if isinstance(answer, Fixed):
        answer.client = ClientStream.of(request)
    return answer


async def _answered(
    plan: Plan,
    request: Request,
    upstream: Upstream | None,
    policy: ForwardPolicy | None,
    responders: Iterable[Responder],
) -> Response:
    # Who has seen the response does not see what goes wrong after that.
    seers = iter([*responders, *_router_responders(plan)])
    try:
        response = await _forwarded(plan, request, upstream, policy)
        return await _shown(response, plan, request, seers)
    except ClientGone:
        return left()
    except (GatewayError, RequestRefused) as error:
        return await _in_place_of(error, plan, seers)


async def relayed(
    plan: Plan, websocket: WebSocket, upstream: Upstream | None, *, policy: ForwardPolicy | None
) -> None:
    """Relay *websocket*, or refuse it, as is planned; the arguments are those of ``carried_out``.

    Raises:
        GatewayError: No upstream accepts it.
        RequestRefused: The handshake is not safe to forward.
    """
    if plan.answer is not None:
        await deny(websocket, plan.answer)
        return
    upstream = plan.destination(upstream)
    await relay_websocket(
        websocket,
        upstream,
        policy=upstream.policy or policy,
        location=plan.location,
        changes=plan.changes,
    )


async def _forwarded(
    plan: Plan, request: Request, upstream: Upstream | None, policy: ForwardPolicy | None
) -> ForwardedResponse:
    upstream = plan.destination(upstream)
    return await send_request(
        request,
        upstream,
        policy=upstream.policy or policy,
        location=plan.location,
        changes=plan.changes,
    )


async def _shown(
    response: ForwardedResponse, plan: Plan, request: Request, responders: Iterable[Responder]
) -> Response:
    """Return what is sent once the hooks have seen *response*."""
    answer: Response | None = None
    try:
        with ClientStream.of(request).watch():
            answer = await _amended(response, plan, responders)
    finally:
        if answer is not response:
            await response.aclose()
    return answer


async def _amended(
    response: ForwardedResponse, plan: Plan, responders: Iterable[Responder]
) -> Response:
    """Return *response* as the hooks have changed it, or what is sent in its place."""
    for responder in responders:
        change = await responder(Outcome(response, None))
        if isinstance(change, Response) and change is not response:
            return change
        if isinstance(change, ResponseOverride):
            _apply(change, response)
    page = _page(plan, response.status_code)
    if page is None:
        return response
    given = {name for name, _ in page.raw_headers}
    kept = [(name, value) for name, value in response.raw_headers if name in _REQUIRED - given]
    page.raw_headers = [*page.raw_headers, *kept]
    return page


def _apply(override: ResponseOverride, response: ForwardedResponse) -> None:
    compiled = override.compile()
    if compiled.body is not None:
        response.replace_body(compiled.body)
    if compiled.transform is not None:
        response.transform(compiled.transform)
    for edits in compiled.change.edits:
        if edits.applies(response.status_code):
            response.raw_headers = edit(response.raw_headers, edits)
    if isinstance(compiled.change.status, int):
        response.status_code = compiled.change.status


async def _in_place_of(
    error: GatewayError | RequestRefused, plan: Plan, responders: Iterable[Responder]
) -> Response:
    """Return what is sent in place of *error*."""
    answer: Response | None = None
    for responder in responders:
        change = await responder(Outcome(None, error))
        if isinstance(change, ResponseOverride):
            answer = fixed(change.answer(error.status_code))
        elif change is not None:
            answer = change
        if answer is not None:
            break
    answer = answer or _page(plan, error.status_code)
    if answer is None:
        raise error
    said = {name.lower() for name, _ in answer.raw_headers}
    of_error = (error.headers or {}).items()
    pairs = [(name.lower().encode(), value.encode()) for name, value in of_error]
    # A hook may return the same one to everybody: what is said of this error stays out of it.
    answer = copy(answer)
    answer.raw_headers = [*answer.raw_headers, *(pair for pair in pairs if pair[0] not in said)]
    return answer


def _page(plan: Plan, status: int) -> Response | None:
    for page in plan.changes.pages:
        if status in page.statuses:
            return fixed(page.answer, status)
    return None


def _router_responders(plan: Plan) -> list[Responder]:
    """Return the router's hooks as those that see what comes of a request."""

    def responder(hook: Hook) -> Responder:
        async def see(outcome: Outcome) -> ResponseOverride | Response | None:
            return await seen(hook, plan, outcome, {})

        return see

    return [responder(hook) for hook in plan.hooks.responses]


async def seen(
    hook: Hook, plan: Plan, outcome: Outcome, values: Mapping[str, Any]
) -> ResponseOverride | Response | None:
    """Let *hook* see what has come of a request, if that is what it asks for.

    Args:
        hook: The hook.
        plan: The plan of the request.
        outcome: What has come of it.
        values: What else the hook is given.

    Raises:
        Exception: What it raises.
    """
    response, error = outcome
    asked = hook.signature.takes(ProxyError)
    if error is None:
        wanted = asked is None or asked.optional
    else:
        wanted = asked is not None and isinstance(error, asked.kinds)
    if not wanted:
        return None
    supply = plan.supply()
    if response is not None:
        supply |= {ForwardedResponse: response, Upstream: response.upstream}
    elif asked is not None:
        supply |= {**dict.fromkeys(asked.kinds, error), Upstream: getattr(error, "upstream", None)}
    return response_change(hook.name, await hook(supply, values))
