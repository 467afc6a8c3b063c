"""What a hook asks for: its parameters, by their annotations."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Set
from dataclasses import is_dataclass
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, is_typeddict

from pydantic import BaseModel
from starlette.requests import HTTPConnection

__all__ = ["Asked", "Signature", "is_json", "is_marked", "members", "signature_of"]

_UNUSABLE = {
    inspect.Parameter.VAR_POSITIONAL: "takes *{name}, which nothing can be given to",
    inspect.Parameter.VAR_KEYWORD: "takes **{name}, which nothing can be given to",
    inspect.Parameter.POSITIONAL_ONLY: "takes {name} by its place only",
}


class Asked(NamedTuple):
    """A parameter that this library fills in.

    Attributes:
        kinds: The classes that it is annotated with.
        optional: It may be ``None``.
    """

    kinds: tuple[type, ...]
    optional: bool

    def is_kind_of(self, kind: type) -> bool:
        """Tell whether all that it may be is of *kind*."""
        return all(issubclass(one, kind) for one in self.kinds)


class Signature(NamedTuple):
    """The parameters of a hook.

    Attributes:
        asked: Those that this library fills in, by name.
        others: All others.
        returns: The annotation of what it returns.
    """

    asked: Mapping[str, Asked]
    others: Mapping[str, inspect.Parameter]
    returns: Any

    def takes(self, kind: type) -> Asked | None:
        """Return the first parameter of *kind* or a kind of it."""
        return next((one for one in self.asked.values() if one.is_kind_of(kind)), None)

    def is_for(self, connection: type[HTTPConnection]) -> bool:
        """Tell whether it can be called for a *connection* of this class."""
        asked = [one for one in self.asked.values() if one.is_kind_of(HTTPConnection)]
        return all(issubclass(connection, one.kinds) for one in asked)

    def never_both(self, kinds: Set[type]) -> list[str]:
        """Return who has to allow ``None``, because there is either an error or one of *kinds*."""
        if self.takes(Exception) is None:
            return []
        there = {name: one for name, one in self.asked.items() if not one.is_kind_of(Exception)}
        return [name for name, one in there.items() if kinds & {*one.kinds} and not one.optional]


def signature_of(
    hook: Callable[..., Any], kinds: Set[type], markers: tuple[type, ...] = ()
) -> Signature:
    """Return what *hook* asks for.

    Args:
        hook: The user's function.
        kinds: What this library can fill in; also what is derived from one that is an exception.
        markers: Classes of metadata, or defaults, with which a parameter says that it is filled in
            otherwise.

    Raises:
        ValueError: It is no function, or one that cannot be called so.
    """
    signature = _inspected(hook)
    asked, others = {}, {}
    mistakes = []
    for name, parameter in signature.parameters.items():
        one = None if is_marked(parameter, markers) else _asked(parameter.annotation, kinds)
        if parameter.kind in _UNUSABLE:
            mistakes.append(_UNUSABLE[parameter.kind].format(name=name))
        elif one is not None:
            asked[name] = one
        else:
            others[name] = parameter
    if mistakes:
        raise ValueError("it " + " and ".join(mistakes))
    return Signature(asked, others, signature.return_annotation)


def _inspected(hook: Any) -> inspect.Signature:
    if not callable(hook) or isinstance(hook, type):
        raise ValueError("it is no function")  # noqa: TRY004 - one kind of error for every mistake
    call = getattr(hook, "__call__", None)  # noqa: B004 - the method of an object
    for one in (hook, call):
        if inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one):
            raise ValueError("it yields; a hook returns")
    try:
        return inspect.signature(hook, eval_str=True)
    except NameError as error:
        raise ValueError(f"{error} in its annotations") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"its parameters cannot be read: {error}") from None
    except Exception as error:
        raise ValueError(f"its annotations cannot be read: {error!r}") from error


def is_marked(parameter: inspect.Parameter, markers: tuple[type, ...]) -> bool:
    """Tell whether one of *markers* stands at *parameter*."""
    annotation = parameter.annotation
    metadata = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return any(isinstance(one, markers) for one in (parameter.default, *metadata))


def _asked(annotation: Any, kinds: Set[type]) -> Asked | None:
    parts = members(annotation)
    found = tuple(part for part in parts if _is_one_of(part, kinds))
    return Asked(found, types.NoneType in parts) if found else None


def _is_one_of(part: Any, kinds: Set[type]) -> bool:
    exception = isinstance(part, type) and issubclass(part, Exception)
    return part in kinds or (exception and any(issubclass(part, kind) for kind in kinds))


def members(annotation: Any) -> tuple[Any, ...]:
    """Return what a union is of, or the annotation alone, without its metadata."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(part for member in get_args(annotation) for part in members(member))
    return (annotation,)


def is_json(annotation: Any) -> bool:
    """Tell whether FastAPI would read a parameter with this annotation from a JSON body."""
    return any(_is_object(get_origin(part) or part) for part in members(annotation))


def _is_object(kind: Any) -> bool:
    if not isinstance(kind, type):
        return False
    collection = issubclass(kind, list | tuple | set | frozenset | dict)
    return collection or issubclass(kind, BaseModel) or is_dataclass(kind) or is_typeddict(kind)
