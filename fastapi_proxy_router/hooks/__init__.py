"""Hooks: functions of a user's that see requests and responses on their way."""

from __future__ import annotations

from .bodies import JsonParameter
from .calling import HOOK_TIMEOUT, Hook, name_of
from .results import (
    check_returns,
    model_of,
    request_change,
    response_change,
    websocket_change,
)
from .signature import Signature, is_json, is_marked, members, signature_of

__all__ = [
    "HOOK_TIMEOUT",
    "Hook",
    "JsonParameter",
    "Signature",
    "check_returns",
    "is_json",
    "is_marked",
    "members",
    "model_of",
    "name_of",
    "request_change",
    "response_change",
    "signature_of",
    "websocket_change",
]
