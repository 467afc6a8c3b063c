"""What hooks return."""

from __future__ import annotations

import inspect
import types
from typing import Any, Final, Union, get_origin

from pydantic import BaseModel
from starlette.responses import Response

from ..overrides import RequestOverride, ResponseOverride, WebSocketOverride
from .signature import is_json, members

__all__ = [
    "check_returns",
    "model_of",
    "request_change",
    "response_change",
    "websocket_change",
]

_OVERRIDES: Final = (RequestOverride, ResponseOverride, WebSocketOverride)
_VALUES: Final = (str, bytes, int, float)
#: What stands for nothing, or says nothing.
_NOTHING: Final = (types.NoneType, inspect.Signature.empty, Any, object)


def request_change(name: str, result: Any) -> RequestOverride | Response | None:
    """Return what a hook of a request wants; a model is the new JSON body.

    Raises:
        TypeError: It has returned something else.
    """
    if result is None or isinstance(result, RequestOverride | Response):
        return result
    if _is_model(type(result)):
        return RequestOverride(json=result)
    raise _wrong(name, result, "a RequestOverride, a pydantic model, a Response or None")


def websocket_change(name: str, result: Any) -> WebSocketOverride | Response | None:
    """Return what a hook of a WebSocket wants.

    Raises:
        TypeError: It has returned something else.
    """
    if result is None or isinstance(result, WebSocketOverride | Response):
        return result
    raise _wrong(name, result, "a WebSocketOverride, a Response or None")


def response_change(name: str, result: Any) -> ResponseOverride | Response | None:
    """Return what a hook of a response wants; a model is the new JSON body.

    Raises:
        TypeError: It has returned something else.
    """
    if result is None or isinstance(result, ResponseOverride | Response):
        return result
    if _is_model(type(result)):
        return ResponseOverride(json=result)
    raise _wrong(name, result, "a ResponseOverride, a pydantic model, a Response or None")


def _wrong(name: str, result: Any, allowed: str) -> TypeError:
    return TypeError(f"hook {name} returned {type(result).__name__}; it may return {allowed}")


def check_returns(annotation: Any, override: type | None) -> None:
    """Refuse an annotation by which a hook returns what is never taken from it.

    Args:
        annotation: What the hook says it returns; what is not known to be wrong may be right.
        override: The only class of overrides that it may return; ``None``: it returns nothing.

    Raises:
        ValueError: It returns something else.
    """
    wrong = [part for part in members(annotation) if _is_wrong(part, override)]
    if wrong:
        names = ", ".join(getattr(part, "__name__", str(part)) for part in wrong)
        own = override and f"a {override.__name__}, a pydantic model, a Response or None"
        raise ValueError(f"it returns {names}; it may return {own or 'nothing'}")


def _is_wrong(part: Any, override: type | None) -> bool:
    if override is None:
        return isinstance(part, type) and part not in _NOTHING
    if not isinstance(get_origin(part) or part, type) or part is override:
        return False
    if is_json(part):
        return not _is_model(part) or override is WebSocketOverride
    return isinstance(part, type) and issubclass(part, (*_OVERRIDES, *_VALUES))


def model_of(annotation: Any) -> Any:
    """Return the models that a hook returns, as a union; ``None`` if it returns none."""
    found = tuple(part for part in members(annotation) if _is_model(part))
    return Union[found] if found else None  # noqa: UP007 - of what is only known here


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in _OVERRIDES
