"""What is to be done with one request, decided step by step before an upstream hears of it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from .core.changes import NO_CHANGES, Changes, Sender
from .core.choice import Choice
from .core.outbound import Outbound
from .core.pool import UpstreamPool
from .core.split import Split
from .core.target import Location
from .core.upstream import Upstream
from .exceptions import ConfigurationError, NoUpstreamAvailable
from .hooks import HOOK_TIMEOUT, Hook, check_returns, name_of, request_change
from .mistakes import Mistakes
from .outgoing import OutboundRequest
from .overrides import RequestOverride, WebSocketOverride

__all__ = ["CONNECTIONS", "Plan", "RouterHooks"]

#: The annotations by which a hook asks for the client's request.
CONNECTIONS = frozenset({HTTPConnection, Request, WebSocket})


class RouterHooks:
    """The hooks of a router, which see all that it forwards.

    Args:
        context: Makes the object that the hooks of one request share.
        timeout: Seconds that a hook may take; ``None`` is no limit.

    Raises:
        ConfigurationError: The context needs arguments or does not say what it makes, or the
            timeout is none.

    Attributes:
        requests: See requests before an upstream is picked.
        senders: See what is about to be sent, in every try.
        responses: See responses, or what went wrong.
        timeout: Seconds that a hook may take.
    """

    def __init__(
        self, context: Callable[[], Any] | None = None, timeout: float | None = HOOK_TIMEOUT
    ) -> None:
        self._make_context = context
        mistakes = Mistakes()
        self.context_kinds: frozenset[type] = frozenset()
        with mistakes.noted():
            self.context_kinds = frozenset() if context is None else frozenset([_made_by(context)])
        if timeout is not None and not (isinstance(timeout, Real) and 0 < timeout < math.inf):
            mistakes.found.append(f"hook_timeout is more than 0 seconds, or None, not {timeout!r}")
        mistakes.report()
        self.timeout = timeout
        self.requests: list[Hook] = []
        self.senders: list[Hook] = []
        self.responses: list[Hook] = []

    def __bool__(self) -> bool:
        return bool(self.requests or self.senders or self.responses)

    def compiled(
        self,
        phase: str,
        function: Callable[..., Any],
        kinds: frozenset[type],
        connections: frozenset[type] = CONNECTIONS,
        returns: type | None = None,
    ) -> Hook:
        """Return *function* as a hook of *phase*.

        Args:
            phase: What messages call it.
            function: The user's.
            kinds: What it may ask for besides the context.
            connections: What it may ask for the client's request by.
            returns: The class of overrides that it may return; ``None``: it returns nothing.

        Raises:
            ConfigurationError: It asks for something else, or for both of two that exclude each
                other, or it says that it returns what it may not.
        """
        known = kinds | connections | self.context_kinds
        label = f"{phase} hook {name_of(function)}"
        try:
            hook = Hook(function, known, self.timeout)
        except ValueError as error:
            raise ConfigurationError([f"{label}: {error}"]) from None
        signature = hook.signature
        found = Mistakes(label)
        mistakes = found.found
        with found.noted():
            check_returns(signature.returns, returns)
        if others := [one.name for one in signature.others.values() if one.default is one.empty]:
            names = ", ".join(sorted(kind.__name__ for kind in known))
            mistakes.append(f"nothing is known for {', '.join(others)}; there are {names}")
        if nothing := signature.never_both(kinds):
            mistakes.append(f"where there is an error there is no {', '.join(nothing)}: allow None")
        if not (signature.is_for(Request) or signature.is_for(WebSocket)):
            mistakes.append("no connection is both a Request and a WebSocket")
        found.report()
        return hook

    def new_context(self) -> Any:
        """Return a new object for the hooks of one request."""
        return None if self._make_context is None else self._make_context()


def _made_by(context: Callable[[], Any]) -> type:
    """Return what a class or function makes.

    Raises:
        ConfigurationError: It needs arguments, or does not say.
    """
    try:
        signature = inspect.signature(context, eval_str=True)
        signature.bind()
        kind = context if isinstance(context, type) else signature.return_annotation
    except (TypeError, ValueError, NameError) as error:
        raise ConfigurationError([f"context {name_of(context)}: {error}"]) from None
    if not isinstance(kind, type) or kind is inspect.Signature.empty:
        mistake = f"context {name_of(context)} must be a class, or a function annotated with one"
        raise ConfigurationError([mistake])
    return kind


class Plan:
    """What is to be done with one request.

    Args:
        connection: The client's request or handshake.
        location: The parts of its path.
        pool: Where it goes, unless somebody decides otherwise.
        hooks: The router's.

    Attributes:
        changes: What changes.
        choice: The pool that is to pick an upstream.
        upstream: The upstream, if a hook has chosen one.
        answer: The answer, if it is known already.
        values: What the hook of the route is given that sees the response.
    """

    def __init__(
        self,
        connection: HTTPConnection,
        location: Location,
        pool: UpstreamPool | Split,
        hooks: RouterHooks,
    ) -> None:
        self.connection = connection
        self.location = location
        self.changes = NO_CHANGES
        self.choice = Choice(pool)
        self.upstream: Upstream | None = None
        self.answer: Response | None = None
        self.hooks = hooks
        self.values: Mapping[str, Any] = {}
        self._context: Any = hooks.new_context()

    def supply(self) -> dict[type, Any]:
        """Return what hooks may ask for, by its annotation."""
        return {
            **dict.fromkeys(filter(self._is, CONNECTIONS), self.connection),
            **dict.fromkeys(self.hooks.context_kinds, self._context),
        }

    def _is(self, kind: type) -> bool:
        return isinstance(self.connection, kind)

    async def prepare(self) -> None:
        """Let the router's hooks have their say.

        Raises:
            Exception: What a hook raises.
        """
        for hook in self.hooks.requests:
            if self.answer is None and self._is_for(hook):
                self.take(request_change(hook.name, await hook(self.supply(), {})))
        senders = [hook for hook in self.hooks.senders if self._is_for(hook)]
        if senders and self.answer is None:
            self.changes = self.changes.then(Changes(senders=(self._sender(senders),)))

    def _is_for(self, hook: Hook) -> bool:
        return hook.signature.is_for(type(self.connection))

    def take(self, change: RequestOverride | WebSocketOverride | Response | None) -> None:
        """Take over what a hook of the request wants."""
        if isinstance(change, Response):
            self.decide(change)
        elif change is not None:
            self.changes = self.changes.then(change.compile())
            chosen = change.upstream
            if isinstance(chosen, Upstream):
                self.upstream, self.choice.pool = chosen, None
            elif chosen is not None:
                self.upstream, self.choice.pool = None, chosen

    def decide(self, answer: Response) -> None:
        """Answer without an upstream."""
        self.answer, self.choice.pool = answer, None

    def destination(self, picked: Upstream | None) -> Upstream:
        """Return where the request goes: what a hook has chosen, or a pool has *picked*.

        Raises:
            NoUpstreamAvailable: Nobody has.
        """
        upstream = self.upstream or picked
        if upstream is None:
            refusal = self.choice.refusal
            raise refusal or NoUpstreamAvailable("no pool has picked one", stage="pick")
        return upstream

    def _sender(self, hooks: list[Hook]) -> Sender:
        async def send(sent: Outbound, upstream: Upstream) -> Outbound:
            outbound = OutboundRequest(sent)
            supply = {**self.supply(), OutboundRequest: outbound, Upstream: upstream}
            for hook in hooks:
                result = await hook(supply, {})
                if result is not None:
                    raise TypeError(f"on_send hook {hook.name} returned something")
            return outbound.sealed()

        return send
