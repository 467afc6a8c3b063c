"""Dependencies of a router's routes: what is planned, and who is picked for it."""

# No "from __future__ import annotations" here: FastAPI reads the annotations of dependencies.

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Annotated, Any, Final, get_origin
from uuid import UUID

from fastapi import Depends, Path
from starlette.convertors import (
    FloatConvertor,
    IntegerConvertor,
    PathConvertor,
    StringConvertor,
    UUIDConvertor,
)
from starlette.requests import HTTPConnection
from starlette.routing import compile_path

from .core.choice import CHOICE, Choice
from .core.upstream import Upstream
from .plan import Plan
from .planner import Pool
from .routehooks import RequestHook, ResponseHook

__all__ = ["Begin", "deciding", "picking"]

#: Makes the plan for a request.
Begin = Callable[[HTTPConnection], Plan]
#: What Starlette makes of a path's parameters. What a convertor of the user's makes is not known.
_KINDS: Final[Mapping[type, Any]] = {
    StringConvertor: str,
    PathConvertor: str,
    IntegerConvertor: int,
    FloatConvertor: float,
    UUIDConvertor: UUID,
}


def deciding(
    begin: Begin,
    sending: RequestHook | None = None,
    seeing: ResponseHook | None = None,
    path: str = "",
) -> Callable[..., Any]:
    """Return the dependency that plans a request and lets its pool be picked from.

    Whatever the hooks of its route ask for is there, and right, before any hook is called. The
    parameters of its *path* are asked for, too: OpenAPI wants each of them documented.
    """

    async def decided(connection: HTTPConnection, **values: Mapping[str, Any]) -> Any:
        plan = begin(connection)
        if seeing is not None:
            plan.values = values["seeing"]
            plan.changes = plan.changes.then(seeing.needs)
        await plan.prepare()
        if sending is not None:
            await sending.ask(plan, values["sending"])
        connection.scope[CHOICE] = plan.choice
        return plan

    hooks = {"sending": sending, "seeing": seeing}
    solved = {name: _solving(hook) for name, hook in hooks.items() if hook is not None}
    said = {name for hook in hooks.values() if hook is not None for name in hook.parameters}
    return _asking_for(decided, connection=HTTPConnection, **solved, **_unsaid(path, said))


def _unsaid(path: str, said: Set[str]) -> dict[str, Any]:
    """Return the parameters of *path* that nobody asks for; a dependency that does is heard."""
    kinds = {name: _KINDS.get(type(one)) for name, one in compile_path(path)[2].items()}
    return {
        f"path_{name}": Annotated[kind, Path(alias=name)]
        for name, kind in kinds.items()
        if name not in said and kind is not None
    }


def _solving(hook: RequestHook | ResponseHook) -> Any:
    """Return the dependency that has the arguments of *hook*."""

    async def solved(**values: Any) -> Any:
        return values

    _sign(solved, hook.parameters.values())
    return Depends(solved)


def picking(pools: Sequence[Pool]) -> Callable[..., Any]:
    """Return the dependency that has the upstream for a request, picked by one of *pools*.

    It depends on all of them, so that ``dependency_overrides`` may stand in for each.
    """
    names = {f"pool_{index}": pool for index, pool in enumerate(pools)}

    async def picked(
        connection: HTTPConnection, choice: Choice, **upstreams: Upstream | None
    ) -> Upstream | None:
        # From here on a pool that is asked by somebody, such as a hook, picks as ever.
        connection.scope.pop(CHOICE, None)
        for name, pool in names.items():
            if pool is choice.pool and choice.refusal is None:
                return upstreams[name]
        # A hook may have chosen a pool that nobody knew of.
        return choice.ask(choice.pool, connection) if choice.refusal is None else None

    asked = {name: Depends(pool) for name, pool in names.items()}
    return _asking_for(picked, connection=HTTPConnection, choice=Depends(_choice), **asked)


async def _choice(connection: HTTPConnection) -> Any:
    """Return the choice, before any pool is asked for its part in it.

    There is none if a parameter of a hook is wrong: FastAPI goes on to the end before it says so.
    No pool picks then, so none can say that it has no upstream.
    """
    return connection.scope.setdefault(CHOICE, Choice(None))


def _asking_for(function: Callable[..., Any], **asked: Any) -> Callable[..., Any]:
    """Return *function* with a signature that asks FastAPI for classes and dependencies."""
    _sign(
        function,
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=one)
            if isinstance(one, type) or get_origin(one) is Annotated
            else inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, annotation=Any, default=one
            )
            for name, one in asked.items()
        ],
    )
    return function


def _sign(function: Any, parameters: Iterable[inspect.Parameter]) -> None:
    keywords = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    function.__signature__ = inspect.Signature(keywords)
