"""ProxyRouter: an APIRouter whose last routes forward whatever no other route took."""

# No "from __future__ import annotations" here: FastAPI reads the annotations of the endpoints.

import gc
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from fastapi import APIRouter, Depends, Request, Response, WebSocket
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection
from starlette.routing import Match
from starlette.types import Lifespan, Receive, Scope, Send

from .core.changes import NO_CHANGES, Changes, PathPattern
from .core.options import PoolOptions
from .core.pool import UpstreamLike, UpstreamPool
from .core.split import Split, contested
from .core.target import Location, locate
from .core.upstream import Upstream
from .exceptions import ConfigurationError
from .forwarder import send_request
from .log import reported
from .overrides import RequestOverride, RouteOverride, WebSocketOverride
from .route import METHODS, REST, STRAIGHT, CatchAll, CatchAllRoute, Routes
from .serving import serving
from .settings import ProxySettings
from .upgrade import relay_websocket

__all__ = ["PoolLike", "ProxyRouter"]

PoolLike = UpstreamLike | UpstreamPool | Split | Sequence[UpstreamLike]

_MATCHED = "fastapi_proxy_router.matched"


class ProxyRouter(APIRouter):
    """An ``APIRouter`` that forwards what its other routes do not take, HTTP and WebSocket.

    Args:
        upstreams: A URL, an ``Upstream``, an ``UpstreamPool``, a ``Split``, a sequence of the first
            two, or a mapping of path prefixes to any of these. The longest prefix wins, and one
            matches whole segments only.
        strip_prefix: Do not send the prefix to the upstream (``prefix=``, the including call's and
            the mapping's) but announce it in ``X-Forwarded-Prefix``. ``root_path`` and the path of
            a mount are never sent. Default: yes.
        overrides: Declared changes to matching requests, of which the first applies. To a WebSocket
            those for GET apply; what they say of method and body has no meaning for it.
        methods: The methods that are forwarded. Default: ``METHODS``.
        options: Whatever else ``APIRouter`` takes, such as ``prefix`` and ``dependencies``.

    Attributes:
        pools: The pool of every prefix, longest prefix first.

    Raises:
        ConfigurationError: The arguments cannot work; every mistake is reported.
    """

    def __init__(
        self,
        upstreams: PoolLike | Mapping[str, PoolLike],
        *,
        strip_prefix: bool = True,
        overrides: Iterable[RouteOverride] = (),
        methods: Iterable[str] = METHODS,
        **options: Any,
    ) -> None:
        self.pools = _pools(upstreams, options)
        super().__init__(**options)
        self._strip_prefix = strip_prefix
        self._overrides = [override.compile() for override in overrides]
        declared, listed = len(self.routes), list(methods)
        for prefix, pool in self.pools.items():
            self._add_catch_alls(prefix, pool, listed)
        self.routes = routes = Routes(self.routes)
        routes.catch_alls = len(routes) - declared
        self.lifespan_context = self._with_pools(self.lifespan_context)

    @classmethod
    def from_settings(cls, settings: ProxySettings | None = None, **options: Any) -> "ProxyRouter":
        """Build a router from ``PROXY_*`` environment variables and ``.env``, or from *settings*.

        Args:
            settings: Settings that were read already. Default: read them now.
            options: Whatever else ``APIRouter`` takes.

        Raises:
            pydantic.ValidationError: The environment is wrong; every mistake is reported.
            ConfigurationError: The upstreams cannot work together.
        """
        settings = settings or ProxySettings()
        return cls(
            settings.build(),
            strip_prefix=settings.strip_prefix,
            overrides=settings.overrides,
            **{"prefix": settings.prefix, **options},
        )

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match, as FastAPI asks an included router, and keep a straight way for ``handle``."""
        # What an earlier match has left is not about this one: others match too, such as tracers.
        scope.pop(_MATCHED, None)
        match, child_scope = super().matches(scope)
        if match is Match.FULL and STRAIGHT in child_scope:
            scope[_MATCHED] = (self, child_scope)
        return match, child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go the straight way if there is one; FastAPI would match once more to find it."""
        router, matched = scope.pop(_MATCHED, (None, None))
        if router is not self:
            await super().handle(scope, receive, send)
        else:
            scope.update(matched)
            await scope.pop(STRAIGHT)(scope, receive, send)

    def override(
        self, path: str, *, methods: Sequence[str] = ("GET",), **options: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Declare a hook that decides what is sent upstream for *path*.

        The hook is an ordinary path operation function: FastAPI validates its parameters, answers
        422 before the upstream hears anything, and documents the route. It returns a
        ``RequestOverride``, a ``Response`` to answer at once, or ``None`` to forward the request
        as it came.

        Args:
            path: The path below the router's prefix, in Starlette's syntax.
            methods: The methods it takes; others are forwarded untouched.
            options: Whatever else ``add_api_route`` takes, such as ``tags`` and ``response_model``.

        Raises:
            ConfigurationError: No pool serves the path.
        """
        prefix, pool = self._pool_of(path)
        pattern = PathPattern(path)

        def register(hook: Callable[..., Any]) -> Callable[..., Any]:
            async def endpoint(
                request: Request, change: Any = Depends(hook), upstream: Upstream = Depends(pool)
            ) -> Response:
                if isinstance(change, Response):
                    return change
                slashes = _slashes(pattern, request) - prefix.count("/")
                with reported(request.scope):
                    location = self._location(request.scope, slashes)
                return await send_request(
                    request,
                    upstream,
                    policy=upstream.policy or pool.policy,
                    location=location,
                    changes=_changes(hook, change, RequestOverride),
                )

            names = {"name": hook.__name__, "description": inspect.getdoc(hook) or ""}
            self.add_api_route(path, endpoint, methods=list(methods), **{**names, **options})
            return hook

        return register

    def override_websocket(self, path: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Declare a hook that decides how a WebSocket to *path* is relayed.

        The hook is an ordinary dependency: FastAPI validates its parameters for every handshake,
        and refuses with 403 what does not fit before the upstream hears anything. It returns a
        ``WebSocketOverride``, which may hold hooks for the messages, or ``None`` to relay as it is.

        Args:
            path: The path below the router's prefix, in Starlette's syntax.

        Raises:
            ConfigurationError: No pool serves the path.
        """
        prefix, pool = self._pool_of(path)
        pattern = PathPattern(path)

        def register(hook: Callable[..., Any]) -> Callable[..., Any]:
            async def endpoint(
                websocket: WebSocket,
                change: Any = Depends(hook),
                upstream: Upstream = Depends(pool),
            ) -> None:
                slashes = _slashes(pattern, websocket) - prefix.count("/")
                with reported(websocket.scope):
                    location = self._location(websocket.scope, slashes)
                changes = _changes(hook, change, WebSocketOverride)
                await relay_websocket(
                    websocket,
                    upstream,
                    policy=upstream.policy or pool.policy,
                    location=location,
                    changes=changes,
                )

            self.add_api_websocket_route(path, endpoint, name=hook.__name__)
            return hook

        return register

    def _pool_of(self, path: str) -> tuple[str, UpstreamPool | Split]:
        for prefix, pool in self.pools.items():
            if f"{path}/".startswith(f"{prefix}/"):
                return prefix, pool
        raise ConfigurationError([f"no pool serves {path!r}; prefixes are {list(self.pools)}"])

    def _add_catch_alls(self, prefix: str, pool: UpstreamPool | Split, methods: list[str]) -> None:
        def plan(scope: Scope, method: str) -> tuple[Location, Changes]:
            slashes = scope["path_params"][REST].count("/")
            with reported(scope):
                changes = self._declared_changes(scope, method, slashes + prefix.count("/"))
                return self._location(scope, slashes), changes

        async def relay(websocket: WebSocket, upstream: Upstream = Depends(pool)) -> None:
            location, changes = plan(websocket.scope, "GET")
            await relay_websocket(
                websocket,
                upstream,
                policy=upstream.policy or pool.policy,
                location=location,
                changes=changes,
            )

        path = f"{prefix}{{{REST}:proxy_rest}}"
        name = f"proxy {pool.name or prefix or '/'}"
        custom = self.route_class is not APIRoute
        self.add_api_route(
            path,
            CatchAll(pool, plan).endpoint(),
            methods=methods,
            name=name,
            include_in_schema=False,
            route_class_override=None if custom else CatchAllRoute,
        )
        if isinstance(route := self.routes[-1], CatchAllRoute):
            route.template = True
        self.add_api_websocket_route(path, relay, name=f"{name} websocket")

    def _location(self, scope: Scope, slashes: int) -> Location:
        location = locate(scope, slashes)
        if self._strip_prefix:
            return location
        return Location(location.root, b"", location.prefix + location.rest)

    def _declared_changes(self, scope: Scope, method: str, slashes: int) -> Changes:
        if self._overrides:
            path = locate(scope, slashes).rest
            for override in self._overrides:
                if (changes := override.changes_for(method, path)) is not None:
                    return changes
        return NO_CHANGES

    def _with_pools(self, inner: Lifespan[Any]) -> Lifespan[Any]:
        """Return *inner* within all that runs beside the pools."""

        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[Any]:
            async with serving(*self.pools.values()), inner(app) as state:
                with _frozen():
                    yield state

        return lifespan


@contextmanager
def _frozen() -> Iterator[None]:
    """Keep what is loaded out of the garbage collector's sight, unless somebody has done so.

    It is there to stay, and looking through all of it in the middle of traffic holds every request
    up for tens of milliseconds.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _slashes(pattern: PathPattern, connection: HTTPConnection) -> int:
    """Return how many slashes the decoded path has that *pattern* matched."""
    values = (str(connection.path_params[name]) for name in pattern.names)
    return pattern.slashes + sum(value.count("/") for value in values)


def _changes(
    hook: Callable[..., Any], change: Any, kind: type[RequestOverride | WebSocketOverride]
) -> Changes:
    if change is None:
        return NO_CHANGES
    if isinstance(change, kind):
        return change.compile()
    raise TypeError(
        f"override hook {hook.__qualname__} returned {type(change).__name__}; "
        f"it may return a {kind.__name__} or None"
    )


def _pools(
    upstreams: PoolLike | Mapping[str, PoolLike], options: Mapping[str, Any]
) -> dict[str, UpstreamPool | Split]:
    """Return the pools by prefix, the deepest first, so that the first that matches is right."""
    given = upstreams if isinstance(upstreams, Mapping) else {"": upstreams}
    mistakes = [] if given else ["a ProxyRouter needs at least one upstream"]
    mistakes += [
        f"{name} is for a pool: ProxyRouter(UpstreamPool(..., {name}=...))"
        for name in options
        if name in PoolOptions.__annotations__
    ]
    pools: dict[str, UpstreamPool | Split] = {}
    for path, entry in given.items():
        prefix = "" if path == "/" else path
        if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
            mistakes.append(f"prefix {path!r} must begin with / and not end with it")
        if prefix in pools:
            mistakes.append(f"prefix {path!r} is given twice")
        try:
            pools[prefix] = (
                entry
                if isinstance(entry, UpstreamPool | Split)
                else UpstreamPool(entry, name=prefix)
            )
        except ConfigurationError as error:
            mistakes += error.mistakes
    if mistakes := mistakes or contested(pools):
        raise ConfigurationError(mistakes)
    return dict(sorted(pools.items(), key=lambda item: (-item[0].count("/"), "{" in item[0])))
