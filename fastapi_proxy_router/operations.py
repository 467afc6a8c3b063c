"""The hooks of one path and method, as one path operation of FastAPI's."""

# No "from __future__ import annotations" here: FastAPI reads the annotations of endpoints.

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from fastapi import Depends, Request, Response, WebSocket
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from .answering import carried_out, relayed
from .core.names import HOP_BY_HOP
from .forwarder import ForwardedResponse
from .incoming import LimitedRequest
from .picking import Begin, deciding, picking
from .planner import Pool
from .routehooks import REQUEST_LIMIT, RequestHook, ResponseHook, WebSocketHook

__all__ = [
    "Operation",
    "limited",
    "limited_route",
    "websocket_endpoint",
]

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

#: The attribute of an endpoint that says how much of a body its hooks may read.
_LIMIT: Final = "__body_limit__"
#: Headers of which a response may have several lines that say different things.
_SEVERAL: Final = frozenset({b"set-cookie", b"vary", b"link", b"www-authenticate", b"warning"})
_MANAGED: Final = HOP_BY_HOP | {b"content-length"}


@dataclass(frozen=True)
class Operation:
    """A path operation that forwards as its hooks say.

    Attributes:
        path: Its path.
        begin: Plans a request.
        pools: All that it may be sent to, the pool of its route first.
        sending: The hook that decides what is sent, if there is one.
        seeing: The hook that sees the response, likewise.
        options: What else is said of the path operation.
        route: Its route, if it has one already.
    """

    path: str
    begin: Begin
    pools: Sequence[Pool]
    sending: RequestHook | None = None
    seeing: ResponseHook | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    route: BaseRoute | None = None

    def objections(self, path: str, slot: str) -> list[str]:
        """Return why a hook of another kind, *slot*, cannot be added for *path*."""
        known: RequestHook | ResponseHook | None = getattr(self, slot)
        if known is not None:
            return [f"the hook {known.name} has this route already"]
        if path != self.path:
            return [f"the route has a hook already that is spelled {self.path}; spell it alike"]
        return []

    def and_hook(self, slot: str, hook: Any, options: Mapping[str, Any]) -> "Operation":
        """Return this with a *hook*.

        What was said of the operation first counts, but for dependencies: they may be what keeps
        others out, so those of both hooks apply.
        """
        model = getattr(hook, "model", None)
        own = {} if model is None else {"response_model": model}
        said = {**own, **options, **self.options}
        given = [one.get("dependencies") for one in (self.options, options)]
        if dependencies := [one for several in given for one in several or ()]:
            said["dependencies"] = dependencies
        return replace(self, **{slot: hook}, options=said)

    def endpoint(self) -> Callable[..., Any]:
        """Return the path operation function."""
        decided = deciding(self.begin, self.sending, self.seeing, self.path)
        picked = picking(self.pools)
        policy, seeing = self.pools[0].policy, self.seeing

        async def forward(
            request: Request,
            injected: Response,
            plan: Any = Depends(decided),
            upstream: Any = Depends(picked),
        ) -> Response:
            responders = () if seeing is None else (seeing.responder(plan),)
            response = await carried_out(
                plan, request, upstream, policy=policy, responders=responders
            )
            return _dressed(response, injected)

        limit = REQUEST_LIMIT if self.sending is None else self.sending.body_limit
        return limited(forward, lambda: limit)


def _dressed(response: Response, injected: Response) -> Response:
    """Return *response* with what hooks and dependencies have set on FastAPI's for the request."""
    own = [pair for pair in injected.raw_headers if pair[0] not in _MANAGED]
    is_forwarded = isinstance(response, ForwardedResponse)
    if not is_forwarded:
        # A hook may return the same one to everybody, who must not get each other's cookies, nor
        # the background tasks that FastAPI adds.
        response = copy(response)
    replaced = {name for name, _ in own} - _SEVERAL
    kept = [pair for pair in response.raw_headers if pair[0] not in replaced]
    response.raw_headers = kept + own
    # FastAPI's has none unless one was set. A whole response of a hook's keeps its own.
    if injected.status_code and is_forwarded:
        response.status_code = injected.status_code
    return response


def websocket_endpoint(
    hook: WebSocketHook, begin: Begin, pools: Sequence[Pool]
) -> Callable[..., Any]:
    """Return the endpoint that relays WebSockets as *hook* says."""
    decided, picked, policy = deciding(begin, hook), picking(pools), pools[0].policy

    async def relay(
        websocket: WebSocket, plan: Any = Depends(decided), upstream: Any = Depends(picked)
    ) -> None:
        await relayed(plan, websocket, upstream, policy=policy)

    return relay


def limited(endpoint: Endpoint, limit: Callable[[], int | None]) -> Endpoint:
    """Return *endpoint* with what tells how many bytes hooks may read of a request's body.

    Args:
        endpoint: The endpoint of a route that is limited.
        limit: Returns that number, or ``None`` as long as there are no hooks.
    """
    setattr(endpoint, _LIMIT, limit)
    return endpoint


def limited_route(base: type[APIRoute]) -> type[APIRoute]:
    """Return a class of routes whose hooks read no more of a body than they may, and keep it."""

    class LimitedRoute(base):  # type: ignore[misc, valid-type]
        def get_route_handler(self) -> Callable[..., Any]:
            handler = super().get_route_handler()
            limit: Callable[[], int | None] = getattr(self.endpoint, _LIMIT)

            async def handle(request: Request) -> Any:
                if (most := limit()) is not None:
                    send = request._send  # noqa: SLF001 - Starlette's way to make a request anew
                    request = LimitedRequest(request.scope, request.receive, send, limit=most)
                return await handler(request)

            return handle

    return LimitedRoute
