"""Where FastAPI keeps what ends with a request."""

from __future__ import annotations

from contextlib import AsyncExitStack

from starlette.requests import HTTPConnection

__all__ = ["request_exit_stack"]

# FastAPI's own key for the stack it unwinds when a request is over. Without it what would be closed
# then has to be closed when the response is sent.
_EXIT_STACK_KEY = "fastapi_inner_astack"


def request_exit_stack(connection: HTTPConnection) -> AsyncExitStack | None:
    """Return the stack that is unwound when the request is over, if there is one."""
    stack = connection.scope.get(_EXIT_STACK_KEY)
    return stack if isinstance(stack, AsyncExitStack) else None
