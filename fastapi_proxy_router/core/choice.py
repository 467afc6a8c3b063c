"""Which pool a router's request goes to, decided before any pool is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from starlette.requests import HTTPConnection

from ..exceptions import NoUpstreamAvailable

if TYPE_CHECKING:
    from .upstream import Upstream

__all__ = ["CHOICE", "Choice", "asked"]

#: The key of a scope under which a router's choice is.
CHOICE = "fastapi_proxy_router.choice"


class _Pool(Protocol):
    def choose(self, connection: HTTPConnection) -> Upstream: ...


class Choice:
    """The pool that a request is for, if it is for one.

    A route has every pool as a dependency that may be wanted, so that each can be replaced in
    tests. Only the one that is wanted picks an upstream, and if it has none, the route may have a
    page for that.

    Attributes:
        pool: The pool.
        refusal: Why it has picked none.
    """

    __slots__ = ("pool", "refusal")

    def __init__(self, pool: _Pool | None) -> None:
        self.pool = pool
        self.refusal: NoUpstreamAvailable | None = None

    def ask(self, pool: _Pool | None, connection: HTTPConnection) -> Upstream | None:
        """Let *pool* pick if it is the one that is wanted."""
        if pool is None or pool is not self.pool:
            return None
        try:
            return pool.choose(connection)
        except NoUpstreamAvailable as error:
            self.refusal = error
            return None


def asked(pool: _Pool, connection: HTTPConnection) -> Upstream | None:
    """Pick as a dependency does: on a router's route, if the router wants this pool."""
    choice: Choice | None = connection.scope.get(CHOICE)
    return pool.choose(connection) if choice is None else choice.ask(pool, connection)
