"""The log: one line for every failure, on the logger ``fastapi_proxy_router``."""

from __future__ import annotations

import logging

from starlette.types import Scope

from .core.guard import announces_body
from .exceptions import ProxyError, RequestRefused

__all__ = ["log_failure", "logger", "report", "reported"]

logger = logging.getLogger("fastapi_proxy_router")


class reported:  # noqa: N801 - reads as what it does, like the context managers of contextlib
    """Log the failure that ends the block, which goes on as it is.

    A refusal asks the server to close the connection if body bytes may be on it, which would
    otherwise be read as the next request.
    """

    __slots__ = ("_scope",)

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ProxyError):
            report(self._scope, error)


def report(scope: Scope, error: ProxyError) -> None:
    """Log *error* as ``reported`` does, which costs what every request would notice."""
    log_failure(scope, error)
    http1 = scope.get("http_version", "1.1").startswith("1")
    if isinstance(error, RequestRefused) and http1 and announces_body(scope["headers"]):
        error.close_connection()


def log_failure(scope: Scope, error: ProxyError) -> None:
    """Write one line that says what failed, where and why, without query, headers or body."""
    level = logging.DEBUG if error.fault == "client" else logging.WARNING
    origin = error.upstream.origin if error.upstream is not None else "-"
    logger.log(
        level,
        "%s %s to %s failed at %s, fault of %s: %s",
        scope.get("method", "WEBSOCKET"),
        ascii(scope["path"]),
        origin,
        error.stage,
        error.fault,
        error.reason,
    )
