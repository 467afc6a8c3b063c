"""ProxyRouter: an APIRouter whose last routes forward whatever no other route took."""

# No "from __future__ import annotations" here: FastAPI reads the annotations of the endpoints.

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection, Request
from starlette.routing import Match
from starlette.types import Lifespan, Receive, Scope, Send

from .answering import RESPONSE_KINDS
from .core.headers import When
from .core.upstream import Upstream
from .hooks import HOOK_TIMEOUT
from .mistakes import Mistakes
from .outgoing import OutboundRequest
from .overrides import RequestOverride, ResponseOverride, RouteOverride, compiled
from .plan import RouterHooks
from .planner import Planner
from .prefixes import Pool, PoolLike, as_pools, by_name, by_prefix
from .registry import Operations, needs_path
from .route import METHODS, REST, STRAIGHT, CatchAll, CatchAllRoute, Routes
from .routehooks import REQUEST_LIMIT, RESPONSE_LIMIT
from .serving import frozen, serving
from .settings import ProxySettings

__all__ = ["ProxyRouter"]

Hooked = TypeVar("Hooked", bound=Callable[..., Any])
#: A hook of a response asks for the client's request by these; a WebSocket has no response.
_REQUESTS = frozenset({HTTPConnection, Request})
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
        overrides: Declared changes to matching requests, of which the first applies: overrides, or
            mappings of their fields, as from JSON. To a WebSocket those for GET apply; what they
            say of method and body has no meaning for it.
        named_pools: Pools that serve no prefix, but that overrides name, or that hooks choose.
        context: Makes the object that hooks of one request share: a class, or a function annotated
            with the class of what it returns. Hooks ask for it by that class.
        hook_timeout: Seconds that a hook may take, after which it has failed; ``None`` is no limit.
        methods: The methods that are forwarded. Default: ``METHODS``. Without any, only what hooks
            of routes take is forwarded, and no other WebSocket either.
        options: Whatever else ``APIRouter`` takes, such as ``prefix`` and ``dependencies``.

    Attributes:
        pools: The pool of every prefix, longest prefix first.
        named_pools: All pools, by their names; by the prefix for those that were given as URLs.

    Raises:
        ConfigurationError: The arguments cannot work; every mistake is reported.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own
        self,
        upstreams: PoolLike | Mapping[str, PoolLike],
        *,
        strip_prefix: bool = True,
        overrides: Iterable[RouteOverride | Mapping[str, Any]] = (),
        named_pools: Iterable[Pool] = (),
        context: Callable[[], Any] | None = None,
        hook_timeout: float | None = HOOK_TIMEOUT,
        methods: Iterable[str] = METHODS,
        **options: Any,
    ) -> None:
        mistakes = Mistakes()
        if isinstance(methods, str):
            mistakes.found.append(f"methods is a list of methods, not {methods!r}")
        with mistakes.noted():
            more = as_pools(named_pools)
        with mistakes.noted():
            self.pools = by_prefix(upstreams, options)
        with mistakes.noted():
            declared = compiled(overrides)
        with mistakes.noted():
            hooks = RouterHooks(context, hook_timeout)
        mistakes.report()
        self.named_pools = by_name(self.pools.values(), more, declared)
        super().__init__(**options)
        self._methods = list(methods)
        self._planner = Planner(declared, self.named_pools, hooks, more, strip_prefix=strip_prefix)
        self._operations = Operations(self, self.pools, self._planner)
        self.routes = Routes(self.routes)
        self._add_catch_alls()
        self.lifespan_context = self._with_pools(self.lifespan_context)

    @classmethod
    def from_settings(cls, settings: ProxySettings | None = None, **options: Any) -> "ProxyRouter":
        """Build a router from ``PROXY_*`` environment variables and ``.env``, or from *settings*.

        Args:
            settings: Settings that were read already. Default: read them now.
            options: Whatever else a ``ProxyRouter`` takes. Its ``overrides`` come behind those of
                the settings, so that what is deployed wins, and its ``named_pools`` beside theirs.

        Raises:
            pydantic.ValidationError: The environment is wrong; every mistake is reported.
            ConfigurationError: The upstreams cannot work together.
        """
        settings = settings or ProxySettings()
        built = settings.build_all()
        return cls(
            built.routed,
            overrides=[*settings.overrides, *options.pop("overrides", ())],
            named_pools=[*built.named, *options.pop("named_pools", ())],
            **{"prefix": settings.prefix, "strip_prefix": settings.strip_prefix, **options},
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

    # --- Hooks ----------------------------------------------------------------------------------

    def on_request(self, hook: Hooked) -> Hooked:
        """Let *hook* see every request before an upstream is picked, after all dependencies.

        It may be async or not, and asks for what it needs by annotations: ``Request`` (then it sees
        no WebSockets), ``WebSocket``, ``HTTPConnection`` (both), and the router's context. It
        returns a ``RequestOverride``, a pydantic model (the new JSON body), a ``Response`` to
        answer at once, or ``None``. Several are called in the order in which they are declared.

        Raises:
            ConfigurationError: It asks for something else.
        """
        hooks = self._planner.hooks
        hooks.requests.append(
            hooks.compiled("on_request", hook, frozenset(), returns=RequestOverride)
        )
        self._add_catch_alls()
        return hook

    def on_send(self, hook: Hooked) -> Hooked:
        """Let *hook* change what is about to be sent to an upstream, in every try.

        It may ask for what ``on_request`` hooks ask for, for the ``OutboundRequest``, which it may
        change (Go's ``Rewrite``), and for the ``Upstream``. It returns nothing.

        Raises:
            ConfigurationError: It asks for something else.
        """
        hooks = self._planner.hooks
        kinds = frozenset({OutboundRequest, Upstream})
        hooks.senders.append(hooks.compiled("on_send", hook, kinds))
        self._add_catch_alls()
        return hook

    def on_response(self, hook: Hooked) -> Hooked:
        """Let *hook* see the upstream's response to every request, or what went wrong.

        It is not called where somebody else answers: a dependency, a declared ``answer``, or a hook
        before it that returns a ``Response`` or raises.

        It may ask for what ``on_request`` hooks ask for but a ``WebSocket``, which has no response,
        for the ``ForwardedResponse``, for the ``Upstream``, and for the error: with a parameter
        ``error: GatewayError | None`` it is called in either case, with ``error: GatewayTimeout``
        for such errors only, and without one only if there is a response. It returns a
        ``ResponseOverride``, a pydantic model (the new JSON body), a ``Response`` to be sent
        instead, or ``None``.

        Raises:
            ConfigurationError: It asks for something else.
        """
        hooks = self._planner.hooks
        compiled_hook = hooks.compiled(
            "on_response", hook, RESPONSE_KINDS, _REQUESTS, returns=ResponseOverride
        )
        hooks.responses.append(compiled_hook)
        self._add_catch_alls()
        return hook

    def override(
        self,
        path: str,
        *,
        methods: Sequence[str] = ("GET",),
        body_limit: int = REQUEST_LIMIT,
        **options: Any,
    ) -> Callable[[Hooked], Hooked]:
        """Declare a hook that decides what is sent upstream for *path*.

        The hook is an ordinary path operation function: FastAPI validates its parameters, answers
        422 before the upstream hears anything, and documents the route. It returns a
        ``RequestOverride``, a pydantic model (the new JSON body), a ``Response`` to answer at once,
        or ``None`` to forward the request as it came.

        Args:
            path: The path below the router's prefix, in Starlette's syntax.
            methods: The methods it takes; others are forwarded untouched.
            body_limit: The most bytes that are read of a request's body, if the hook or one of its
                dependencies reads it; more is answered with 413. Default: 1 MiB (nginx's).
            options: Whatever else ``add_api_route`` takes, such as ``tags`` and ``response_model``.

        Raises:
            ConfigurationError: No pool serves the path, a hook has it already, or the hook's
                signature cannot be used.
        """

        def register(hook: Hooked) -> Hooked:
            self._operations.add_request(path, methods, hook, body_limit, options)
            return hook

        needs_path(path, "override")
        return register

    def override_response(
        self,
        path: str,
        *,
        methods: Sequence[str] = ("GET",),
        when: When = "success",
        body_limit: int = RESPONSE_LIMIT,
        reads_response: bool = False,
        **options: Any,
    ) -> Callable[[Hooked], Hooked]:
        """Declare a hook that sees the upstream's response on *path*.

        A parameter that FastAPI would take for a JSON body is the upstream's, decompressed and
        validated. Others are FastAPI's, solved before the upstream hears anything, or ask for what
        ``on_response`` hooks ask for. It returns a pydantic model (the new JSON body), a
        ``ResponseOverride``, a ``Response`` or ``None``, which leaves the response as it came.

        Args:
            path: The path below the router's prefix, in Starlette's syntax.
            methods: The methods it takes; others are forwarded untouched.
            when: Which responses it sees: those with a status below 400, all others, or both.
                Redirects and responses without a body are not shown to one that wants JSON.
            body_limit: The most bytes that are read of the response's body, decompressed; more is
                a 502. Default: 16 MiB.
            reads_response: The hook reads the body in another way than by a parameter. The upstream
                is then asked for a coding that can be read, and for all of it.
            options: Whatever else ``add_api_route`` takes; ``response_model`` is what the hook is
                annotated to return.

        Raises:
            ConfigurationError: No pool serves the path, a hook has it already, or the hook's
                signature cannot be used.
        """
        limits = {"when": when, "body_limit": body_limit, "reads_response": reads_response}

        def register(hook: Hooked) -> Hooked:
            self._operations.add_response(path, methods, hook, limits, options)
            return hook

        needs_path(path, "override_response")
        return register

    def override_websocket(self, path: str) -> Callable[[Hooked], Hooked]:
        """Declare a hook that decides how a WebSocket to *path* is relayed.

        The hook is an ordinary dependency: FastAPI validates its parameters for every handshake,
        and refuses with 403 what does not fit before the upstream hears anything. It returns a
        ``WebSocketOverride``, which may hold hooks for the messages, or ``None`` to relay as it is.

        Args:
            path: The path below the router's prefix, in Starlette's syntax.

        Raises:
            ConfigurationError: No pool serves the path, or a hook has it already.
        """

        def register(hook: Hooked) -> Hooked:
            self._operations.add_websocket(path, hook)
            return hook

        needs_path(path, "override_websocket")
        return register

    def _add_catch_alls(self) -> None:
        """Add the last routes, in place of those that knew of fewer hooks."""
        routes = self.routes
        assert isinstance(routes, Routes)
        del routes[len(routes) - routes.catch_alls :]
        routes.catch_alls, declared = 0, len(routes)
        for prefix, pool in self.pools.items() if self._methods else ():
            self._add_catch_all(prefix, pool)
        routes.catch_alls = len(routes) - declared

    def _add_catch_all(self, prefix: str, pool: Pool) -> None:
        path = f"{prefix}{{{REST}:proxy_rest}}"
        name = f"proxy {pool.name or prefix or '/'}"
        custom = self.route_class is not APIRoute
        catch_all = CatchAll(pool, self._planner, prefix.count("/"))
        self.add_api_route(
            path,
            catch_all.endpoint(),
            methods=self._methods,
            name=name,
            include_in_schema=False,
            route_class_override=self._operations.route_class if custom else CatchAllRoute,
        )
        if isinstance(route := self.routes[-1], CatchAllRoute):
            route.template = True
        self.add_api_websocket_route(path, catch_all.websocket_endpoint(), name=f"{name} websocket")

    def _with_pools(self, inner: Lifespan[Any]) -> Lifespan[Any]:
        """Return *inner* within all that runs beside the pools."""

        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[Any]:
            async with serving(*self.named_pools.values()), inner(app) as state:
                with frozen():
                    yield state

        return lifespan
