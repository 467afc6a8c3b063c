"""Hooks in a module whose annotations are text."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from fastapi_proxy_router import HeaderEdits, RequestOverride


async def hook(number: Annotated[int, Query()]) -> RequestOverride:
    """Tell the upstream the next number."""
    return RequestOverride(headers=HeaderEdits(set={"x-got": f"t {number + 1}"}))


class Hook:
    """The same as an object."""

    def __call__(self, number: Annotated[int, Query()]) -> RequestOverride:
        """Tell the upstream the next number."""
        return RequestOverride(headers=HeaderEdits(set={"x-got": f"t {number + 1}"}))
