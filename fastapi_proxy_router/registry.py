"""The hooks that a router has for single routes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import HTTPConnection

from .answering import RESPONSE_KINDS
from .core.names import is_name
from .core.patterns import PathPattern, shape_of_path
from .exceptions import ConfigurationError
from .hooks import Hook, name_of
from .mistakes import Mistakes
from .operations import Operation, limited_route, websocket_endpoint
from .picking import Begin
from .plan import Plan
from .planner import Planner, Pool
from .routehooks import MARKERS, RequestHook, ResponseHook, WebSocketHook

__all__ = ["Operations", "needs_path"]

_REFUSED: Final = frozenset({"CONNECT", "TRACE"})


class Operations:
    """The path operations of a router that have hooks.

    Args:
        router: The router.
        pools: Its pools by prefix, the longest first.
        planner: Plans its requests.

    Attributes:
        route_class: The class of routes with hooks.
    """

    def __init__(self, router: APIRouter, pools: Mapping[str, Pool], planner: Planner) -> None:
        self._router = router
        self._pools = pools
        self._planner = planner
        self._known: dict[tuple[str, str], Operation] = {}
        self._websockets: dict[str, str] = {}
        self.route_class = limited_route(router.route_class)

    def add_request(
        self,
        path: str,
        methods: Sequence[str],
        function: Callable[..., Any],
        body_limit: int,
        options: Mapping[str, Any],
    ) -> None:
        """Add a hook that decides what is sent; see ``ProxyRouter.override``."""

        def make() -> RequestHook:
            return RequestHook(self._hook(function, frozenset()), body_limit)

        self._add("sending", path, methods, function, make, options)

    def add_response(
        self,
        path: str,
        methods: Sequence[str],
        function: Callable[..., Any],
        limits: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        """Add a hook that sees the response; see ``ProxyRouter.override_response``."""

        def make() -> ResponseHook:
            own = self._hook(function, RESPONSE_KINDS)
            return ResponseHook(own, set(re.findall(r"\{(\w+)", path)), **limits)

        self._add("seeing", path, methods, function, make, options)

    def add_websocket(self, path: str, function: Callable[..., Any]) -> None:
        """Add a hook for WebSockets; see ``ProxyRouter.override_websocket``."""
        mistakes = _mistakes("WebSocket", path, function)
        prefix = self._prefix_of(path, mistakes)
        with mistakes.noted():
            hook = WebSocketHook(self._hook(function, frozenset()))
        if known := self._websockets.get(shape_of_path(path)):
            mistakes.found.append(f"the hook {known} has this route already")
        mistakes.report()
        with mistakes.noted(Exception):
            begin = self._begin(path, prefix)
            endpoint = websocket_endpoint(hook, begin, self._pools_of(prefix))
            self._router.add_api_websocket_route(path, endpoint, name=_title(function))
        mistakes.report()
        self._websockets[shape_of_path(path)] = name_of(function)

    def _hook(self, function: Callable[..., Any], kinds: frozenset[type]) -> Hook:
        hooks = self._planner.hooks
        return Hook(function, kinds | hooks.context_kinds, hooks.timeout, MARKERS)

    def _add(
        self,
        slot: str,
        path: str,
        methods: Sequence[str],
        function: Callable[..., Any],
        make: Callable[[], RequestHook | ResponseHook],
        options: Mapping[str, Any],
    ) -> None:
        several = [methods] if isinstance(methods, str) else methods
        listed = sorted({method.upper() for method in several})
        mistakes = _mistakes(", ".join(listed) or "no method", path, function)
        prefix = self._prefix_of(path, mistakes)
        with mistakes.noted():
            hook = make()
        known = [self._known.get((shape_of_path(path), method)) for method in listed]
        mistakes.found += _about(listed, options)
        if several is not methods:
            mistakes.found.append(f"methods is a list of methods, not {methods!r}")
        for operation in filter(None, known):
            mistakes.found += operation.objections(path, slot)
        mistakes.report()
        said = {"name": _title(function), "description": inspect.getdoc(function) or "", **options}
        bare = Operation(path, self._begin(path, prefix), self._pools_of(prefix))
        with mistakes.noted(Exception):
            for method, before in zip(listed, known, strict=True):
                operation = (before or bare).and_hook(slot, hook, said)
                self._known[shape_of_path(path), method] = self._routed(operation, method)
        mistakes.report()

    def _routed(self, operation: Operation, method: str) -> Operation:
        """Add the route of an operation, in the place of the one that it had before."""
        routes, endpoint = self._router.routes, operation.endpoint()
        self._router.add_api_route(
            operation.path,
            endpoint,
            methods=[method],
            route_class_override=self.route_class,
            **operation.options,
        )
        route = next(one for one in routes if getattr(one, "endpoint", None) is endpoint)
        if operation.route is not None:
            routes.remove(route)
            routes[routes.index(operation.route)] = route
        return replace(operation, route=route)

    def _prefix_of(self, path: str, mistakes: Mistakes) -> str:
        """Return the prefix of the pool that serves *path*."""
        with mistakes.noted():
            PathPattern(path)
        prefix = next((one for one in self._pools if f"{path}/".startswith(f"{one}/")), None)
        if prefix is None:
            mistakes.found.append(f"no pool serves {path!r}; prefixes are {list(self._pools)}")
        return prefix or ""

    def _pools_of(self, prefix: str) -> list[Pool]:
        """Return the pools that requests below *prefix* may go to, its own first."""
        pool = self._pools[prefix]
        return [pool, *(one for one in self._planner.pools if one is not pool)]

    def _begin(self, path: str, prefix: str) -> Begin:
        """Return what plans the requests for *path*."""
        pattern, pool, depth = PathPattern(path), self._pools[prefix], prefix.count("/")

        def begin(connection: HTTPConnection) -> Plan:
            slashes = _slashes(pattern, connection) - depth
            return self._planner.begin(connection, pool, slashes, depth)

        return begin


def needs_path(path: object, decorator: str) -> None:
    """Refuse a decorator that is used without its parentheses: it would declare nothing.

    Raises:
        ConfigurationError: *path* is none.
    """
    if not isinstance(path, str):
        name = name_of(path) if callable(path) else repr(path)
        mistake = f"{decorator} needs a path, such as @proxy.{decorator}('/users'), not {name}"
        raise ConfigurationError([mistake])


def _about(methods: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the methods of a hook."""
    mistakes = [f"{method} is never forwarded" for method in methods if method in _REFUSED]
    mistakes += [f"{one!r} is no method" for one in methods if not is_name(one.encode())]
    if not methods:
        mistakes.append("it needs a method")
    if len(methods) > 1 and options.get("operation_id"):
        mistakes.append("operation_id is of one method only")
    return mistakes


def _mistakes(kind: str, path: str, function: Callable[..., Any]) -> Mistakes:
    return Mistakes(f"override of {kind} {path} by {name_of(function)}")


def _title(function: Callable[..., Any]) -> str:
    """Return what a route is called that a hook is for."""
    return str(getattr(function, "__name__", None) or type(function).__name__)


def _slashes(pattern: PathPattern, connection: HTTPConnection) -> int:
    """Return how many slashes the decoded path has that *pattern* matched."""
    values = (str(connection.path_params[name]) for name in pattern.names)
    return pattern.slashes + sum(value.count("/") for value in values)
