"""The route of a catch-all, which leaves out FastAPI's part where that has nothing to do.

What FastAPI does for each request (solving dependencies, exit stacks, a request object) costs more
than the rest of forwarding. A catch-all needs none of it unless somebody has declared a dependency.
So the route goes straight to the forwarder if, and only if, FastAPI's own record of the route says
that the pool is all there is to inject and nothing stands in for it. Where that record is not found
where this module knows it, the public way is taken, which is always right.
"""

# No "from __future__ import annotations" here: FastAPI reads the annotations of endpoints.

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Depends, Request, Response, WebSocket
from fastapi.routing import APIRoute
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match, request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from .answering import carried_out, relayed
from .client import ClientStream
from .core.changes import NO_CHANGES
from .core.pool import UpstreamPool
from .core.split import Split
from .core.upstream import Upstream
from .exceptions import ProxyError
from .failover import Forwarding
from .forwarder import ForwardedResponse, left, run, send_request
from .incoming import LimitedRequest
from .log import report, reported
from .operations import limited, limited_route
from .overrides import Declared
from .picking import deciding, picking
from .plan import Plan
from .planner import Planner, Pool
from .routehooks import REQUEST_LIMIT
from .watch import ClientGone

__all__ = ["METHODS", "REST", "STRAIGHT", "CatchAll", "CatchAllRoute", "Routes"]

#: The parameter of a catch-all's path that takes what follows the prefix.
REST = "upstream_path"

#: The methods a catch-all takes: RFC 9110 and 5789 without CONNECT and TRACE, WebDAV with its
#: versioning, access control, calendar and binding extensions, and QUERY. FastAPI needs a list.
METHODS = tuple(
    "GET HEAD POST PUT PATCH DELETE OPTIONS QUERY "
    "PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH REPORT MKCALENDAR ACL "
    "VERSION-CONTROL CHECKOUT CHECKIN UNCHECKOUT MKWORKSPACE UPDATE LABEL MERGE "
    "BASELINE-CONTROL MKACTIVITY ORDERPATCH BIND UNBIND REBIND LINK UNLINK PURGE "
    "NOTIFY SUBSCRIBE UNSUBSCRIBE M-SEARCH SOURCE".split()
)

#: The key of a scope under which a route that has matched leaves the straight way.
STRAIGHT = "fastapi_proxy_router.straight"

#: Where FastAPI, since it includes routers without copying their routes, keeps what the including
#: calls have added to a route.
_SCOPE_KEY = "fastapi"
_CONTEXT_KEY = "effective_route_context"
_CATCH_ALL = "__catch_all__"


class _RestConvertor(Convertor[str]):
    """What follows a prefix: nothing, or everything from a slash on, so a segment boundary.

    Where there is no prefix it also takes targets that are no path (``*``, ``http://evil/``), so
    that they are refused with a reason instead of not being found.
    """

    regex = r"(?s:/.*)?|(?<![\s\S])(?s:.+)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("proxy_rest", _RestConvertor())


class Routes(list[BaseRoute]):
    """A router's routes, of which the catch-alls stay the last whatever is added later."""

    catch_alls = 0

    def append(self, route: BaseRoute) -> None:
        """Add a route before the catch-alls."""
        self.insert(len(self) - self.catch_alls, route)


class CatchAll:
    """Forwards whatever no other route took.

    Args:
        pool: Where to.
        planner: Says how.
        depth: How many slashes the prefix of the pool has.
    """

    def __init__(self, pool: Pool, planner: Planner, depth: int) -> None:
        self.pool = pool
        self._planner = planner
        self._depth = depth
        self._decided = deciding(self._begin)
        self._picked = picking([pool, *(one for one in planner.pools if one is not pool)])
        #: What FastAPI calls before the endpoint.
        self.dependencies = [pool] if planner.is_plain else [self._decided, self._picked]

    def endpoint(self) -> Callable[..., Any]:
        """Return the path operation function, which forwards with what FastAPI has injected."""
        endpoint = self._plain() if self._planner.is_plain else self._planned()
        # Older versions of FastAPI make routes of their own of it.
        setattr(endpoint, _CATCH_ALL, self)
        return limited(endpoint, lambda: REQUEST_LIMIT if self._planner.hooks else None)

    def _plain(self) -> Callable[..., Any]:
        async def forward(request: Request, upstream: Upstream = Depends(self.pool)) -> Response:
            if self._planner.hooks:
                # They were declared after a FastAPI before its lazy including had put a copy of
                # this route into the application.
                return await self._answer(request, self._begin(request), upstream)
            with reported(request.scope):
                location = self._planner.locate(request.scope, _slashes(request.scope))
            policy = upstream.policy or self.pool.policy
            try:
                return await send_request(request, upstream, policy=policy, location=location)
            except ClientGone:
                return left()

        return forward

    def _planned(self) -> Callable[..., Any]:
        async def forward(
            request: Request,
            plan: Any = Depends(self._decided),
            upstream: Any = Depends(self._picked),
        ) -> Response:
            return await carried_out(plan, request, upstream, policy=self.pool.policy)

        return forward

    def websocket_endpoint(self) -> Callable[..., Any]:
        """Return the endpoint that relays WebSockets."""

        async def relay(
            websocket: WebSocket,
            plan: Any = Depends(self._decided),
            upstream: Any = Depends(self._picked),
        ) -> None:
            await relayed(plan, websocket, upstream, policy=self.pool.policy)

        return relay

    def _begin(self, connection: HTTPConnection) -> Plan:
        slashes = _slashes(connection.scope)
        return self._planner.begin(connection, self.pool, slashes, self._depth)

    async def straight(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward without FastAPI."""
        planner, slashes = self._planner, _slashes(scope)
        try:
            try:
                location = planner.locate(scope, slashes)
                declared = planner.declared(scope, slashes + self._depth)
            except ProxyError as error:
                report(scope, error)
                raise
            if planner.hooks or (declared is not None and _is_special(declared)):
                request = LimitedRequest(scope, receive, send, limit=REQUEST_LIMIT)
                plan = planner.planned(request, location, self.pool, declared)
                app: ASGIApp = await _closing(request, self._answer(request, plan))
            else:
                upstream = self.pool.choose(Request(scope, receive))
                changes = NO_CHANGES if declared is None else declared.changes
                client = ClientStream(scope, receive)
                policy = upstream.policy or self.pool.policy
                await run(Forwarding(client, upstream, policy, location, changes), send)
                return
        except HTTPException as error:
            # It is worded where FastAPI would do that: inside of what a mount is wrapped in.
            app = request_response(_raising(error))
        await app(scope, receive, send)

    async def _answer(
        self, request: Request, plan: Plan, upstream: Upstream | None = None
    ) -> Response:
        await plan.prepare()
        if upstream is None or plan.choice.pool is not self.pool:
            upstream = plan.choice.ask(plan.choice.pool, request)
        return await carried_out(plan, request, upstream, policy=self.pool.policy)


async def _closing(request: Request, answering: Awaitable[Response]) -> Response:
    """Return an answer, and listen to the client no more unless it is the upstream's."""
    answer = None
    try:
        answer = await answering
    finally:
        if not isinstance(answer, ForwardedResponse):
            await ClientStream.of(request).aclose()
    return answer


def _is_special(declared: Declared) -> bool:
    """Tell whether there is more to do than to change a request and its response."""
    return bool(declared.pool or declared.answer or declared.changes.pages)


def _slashes(scope: Scope) -> int:
    rest: str = scope["path_params"][REST]
    return rest.count("/")


class CatchAllRoute(limited_route(APIRoute)):  # type: ignore[misc]
    """The route of a ``CatchAll``.

    Attributes:
        template: It is the router's own. FastAPI before its lazy including put copies of it into
            the application, complete with everything to inject; the template is not.
    """

    template = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._own_app = self.app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match, and take note if nothing is lost by going straight to the forwarder."""
        match, child_scope = super().matches(scope)
        if match is Match.FULL:
            catch_all: CatchAll | None = getattr(self.endpoint, _CATCH_ALL, None)
            if catch_all is not None and self._is_known_bare(scope, catch_all):
                child_scope[STRAIGHT] = catch_all.straight
                # Tracers and metrics read there what the route's whole path is.
                if _SCOPE_KEY in scope:
                    child_scope[_SCOPE_KEY] = dict(scope[_SCOPE_KEY])
        return match, child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go straight to the forwarder if that was noted."""
        await scope.pop(STRAIGHT, super().handle)(scope, receive, send)

    def _is_known_bare(self, scope: Scope, catch_all: CatchAll) -> bool:
        try:
            return self._is_bare(scope, catch_all)
        except AttributeError:
            # FastAPI keeps its record in another way than this module knows.
            return False

    def _is_bare(self, scope: Scope, catch_all: CatchAll) -> bool:
        record: Any = scope.get(_SCOPE_KEY, {}).get(_CONTEXT_KEY)
        if record is None:
            # An application that somebody has wrapped has to be called.
            if self.template or self.app is not self._own_app:
                return False
            record = self
        provider = record.dependency_overrides_provider
        return (
            getattr(record, "original_route", self) is self
            and record.dependant.call is self.endpoint
            and _injects_only(record.dependant, catch_all)
            and not getattr(provider, "dependency_overrides", None)
            and getattr(record, "max_body_size", None) is None
            and "fastapi.telemetry" not in scope
        )


def _raising(error: Exception) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_request: Request) -> Response:
        raise error

    return answer


def _injects_only(dependant: Any, catch_all: CatchAll) -> bool:
    """Tell whether FastAPI would call what *catch_all* asks for, and nothing else."""
    return [one.call for one in dependant.dependencies] == catch_all.dependencies and type(
        catch_all.pool
    ).__call__ in (UpstreamPool.__call__, Split.__call__)
