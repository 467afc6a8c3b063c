"""Message hooks: functions of a user's that see every WebSocket message of one direction."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Annotated, Any, NoReturn, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.exceptions import WebSocketException

from .core.messages import Message, MessageHook, Reply

__all__ = ["UserHook", "compile_hook"]

#: What a user writes: ``async def hook(message: Chat) -> Chat | Reply | None``.
UserHook = Callable[[Any], Awaitable[Any]]

_UNSUPPORTED_DATA = 1003
_POLICY_VIOLATION = 1008
_INTERNAL_ERROR = 1011


def compile_hook(hook: UserHook, *, from_client: bool) -> MessageHook:
    """Return *hook* as a function of raw messages.

    The annotation of its parameter says what it takes: ``str`` is text, ``bytes`` binary, their
    union (or none) both, ``Annotated`` or not; anything else, also what contains these, is read
    from the message's JSON with pydantic. What it returns is passed on: text and bytes as they are,
    anything else as JSON. A message that does not match ends both sides: with 1003 or 1008 if the
    client sent it, with 1011 if the upstream did.

    Args:
        hook: The user's function.
        from_client: Its messages are the client's.

    Raises:
        ValueError: It is not a coroutine function of one parameter, or its annotation cannot be
            used.
    """
    kind = _annotation(hook)
    raw, adapter = _raw(kind), _adapter(kind)
    validate = adapter.validate_python if raw else adapter.validate_json

    async def call(message: Message) -> Message | Reply | None:
        if raw and type(message) not in raw:
            _mismatch(_UNSUPPORTED_DATA, from_client=from_client)
        try:
            value = validate(message)
        except ValidationError:
            _mismatch(_POLICY_VIOLATION, from_client=from_client)
        result = await hook(value)
        if isinstance(result, Reply):
            return Reply(_encoded(result.message, message))
        return None if result is None else _encoded(result, message)

    return call


def _annotation(hook: UserHook) -> Any:
    call = getattr(hook, "__call__", None)  # noqa: B004 - the method of an object
    if not (inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(call)):
        raise ValueError(f"message hook {_name(hook)} must be an async function")
    try:
        parameters = list(inspect.signature(hook, eval_str=True).parameters.values())
    except NameError as error:
        raise ValueError(f"message hook {_name(hook)}: {error} in its annotations") from None
    needed = [
        one
        for one in parameters
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if not parameters or len(needed) > 1 or parameters[0].kind > inspect.Parameter.VAR_POSITIONAL:
        raise ValueError(f"message hook {_name(hook)} must take one argument, the message")
    kind = parameters[0].annotation
    if kind in (inspect.Parameter.empty, Any):
        return str | bytes
    try:
        _adapter(kind)
    except Exception as error:
        raise ValueError(f"message hook {_name(hook)} cannot read {kind!r}: {error}") from error
    return kind


def _raw(kind: Any) -> tuple[type, ...]:
    """Return the kinds of messages that are given as they are; none, if it is their JSON."""
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if base == str | bytes:
        return (str, bytes)
    return (base,) if base in (str, bytes) else ()


@lru_cache(maxsize=256)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _name(hook: object) -> str:
    return str(getattr(hook, "__qualname__", hook))


def _mismatch(code: int, *, from_client: bool) -> NoReturn:
    if from_client:
        raise WebSocketException(code, "The message is not what is expected here")
    raise WebSocketException(_INTERNAL_ERROR, "The upstream sent an unexpected message")


def _encoded(result: Any, message: Message) -> Message:
    """Return what a hook has returned as a message; JSON is of the kind of the one that came."""
    if isinstance(result, str | bytes):
        return result
    data = to_json(result, by_alias=True)
    return data.decode() if isinstance(message, str) else data
