"""The log: one line for every failure, on the logger ``fastapi_proxy_router``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import HTTPConnection

from .exceptions import ProxyError

__all__ = ["log_failure", "logged", "logger"]

logger = logging.getLogger("fastapi_proxy_router")


@contextmanager
def logged(connection: HTTPConnection) -> Iterator[None]:
    """Log the failure that ends the block; it goes on."""
    try:
        yield
    except ProxyError as error:
        log_failure(connection, error)
        raise


def log_failure(connection: HTTPConnection, error: ProxyError) -> None:
    """Write one line that says what failed, where and why, without query, headers or body."""
    level = logging.DEBUG if error.fault == "client" else logging.WARNING
    origin = error.upstream.origin if error.upstream is not None else "-"
    logger.log(
        level,
        "%s %s to %s failed at %s, fault of %s: %s",
        connection.scope.get("method", "WEBSOCKET"),
        ascii(connection.scope["path"]),
        origin,
        error.stage,
        error.fault,
        error.reason,
    )
