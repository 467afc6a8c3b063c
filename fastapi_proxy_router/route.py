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

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import BaseRoute, Match, request_response
from starlette.types import Receive, Scope, Send

from .client import ClientStream
from .core.changes import Changes
from .core.pool import UpstreamPool
from .core.split import Split
from .core.target import Location
from .core.upstream import Upstream
from .exceptions import GatewayError, RequestRefused
from .failover import Forwarding
from .forwarder import run, send_request

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

#: Finds the parts of a request's path and the changes that are declared for it.
Plan = Callable[[Scope, str], tuple[Location, Changes]]


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
        plan: Says how.
    """

    def __init__(self, pool: UpstreamPool | Split, plan: Plan) -> None:
        self.pool = pool
        self._plan = plan

    def endpoint(self) -> Callable[..., Any]:
        """Return the path operation function, which forwards with what FastAPI has injected."""

        async def forward(request: Request, upstream: Upstream = Depends(self.pool)) -> Response:
            location, changes = self._plan(request.scope, request.method)
            return await send_request(
                request,
                upstream,
                policy=upstream.policy or self.pool.policy,
                location=location,
                changes=changes,
            )

        # Older versions of FastAPI make routes of their own of it.
        setattr(forward, _CATCH_ALL, self)
        return forward

    async def straight(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward without FastAPI."""
        try:
            upstream = self.pool.choose(Request(scope, receive))
            location, changes = self._plan(scope, scope["method"])
            client = ClientStream(scope, receive)
            policy = upstream.policy or self.pool.policy
            await run(Forwarding(client, upstream, policy, location, changes), send)
        except (GatewayError, RequestRefused) as error:
            # It is worded where FastAPI would do that: inside of what a mount is wrapped in.
            await request_response(_raising(error))(scope, receive, send)


class CatchAllRoute(APIRoute):
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
            if catch_all is not None and self._is_known_bare(scope, catch_all.pool):
                child_scope[STRAIGHT] = catch_all.straight
                # Tracers and metrics read there what the route's whole path is.
                if _SCOPE_KEY in scope:
                    child_scope[_SCOPE_KEY] = dict(scope[_SCOPE_KEY])
        return match, child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go straight to the forwarder if that was noted."""
        await scope.pop(STRAIGHT, super().handle)(scope, receive, send)

    def _is_known_bare(self, scope: Scope, pool: UpstreamPool | Split) -> bool:
        try:
            return self._is_bare(scope, pool)
        except AttributeError:
            # FastAPI keeps its record in another way than this module knows.
            return False

    def _is_bare(self, scope: Scope, pool: UpstreamPool | Split) -> bool:
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
            and _injects_only(record.dependant, pool)
            and not getattr(provider, "dependency_overrides", None)
            and getattr(record, "max_body_size", None) is None
            and "fastapi.telemetry" not in scope
        )


def _raising(error: Exception) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_request: Request) -> Response:
        raise error

    return answer


def _injects_only(dependant: Any, pool: UpstreamPool | Split) -> bool:
    """Tell whether FastAPI would call *pool* and nothing else before the endpoint."""
    return (
        len(dependant.dependencies) == 1
        and dependant.dependencies[0].call is pool
        and type(pool).__call__ in (UpstreamPool.__call__, Split.__call__)
    )
