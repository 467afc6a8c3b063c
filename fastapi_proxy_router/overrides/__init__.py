"""Overrides: pydantic models that say what changes on a route, and what they compile to."""

from __future__ import annotations

from .compiled import CompiledOverride, Declared
from .edits import CookieEdits, HeaderEdits, QueryEdits
from .fields import Forwarded, Seconds
from .request import (
    OverrideOptions,
    RequestOverride,
    WebSocketOverride,
    WebSocketOverrideOptions,
)
from .response import CompiledResponse, ErrorPage, ResponseOverride
from .route import RouteOverride
from .together import compiled, duplicates

__all__ = [
    "CompiledOverride",
    "CompiledResponse",
    "CookieEdits",
    "Declared",
    "ErrorPage",
    "Forwarded",
    "HeaderEdits",
    "OverrideOptions",
    "QueryEdits",
    "RequestOverride",
    "ResponseOverride",
    "RouteOverride",
    "Seconds",
    "WebSocketOverride",
    "WebSocketOverrideOptions",
    "compiled",
    "duplicates",
]
