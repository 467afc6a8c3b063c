"""The parameter of a response's hook that is the upstream's JSON."""

from __future__ import annotations

import inspect
import types
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .signature import members

__all__ = ["JsonParameter"]


class JsonParameter:
    """A parameter that is read from JSON.

    Args:
        parameter: The parameter.

    Attributes:
        name: Its name.
        optional: There may be nothing to read.

    Raises:
        ValueError: Nothing can be read as what it is annotated with.
    """

    def __init__(self, parameter: inspect.Parameter) -> None:
        self.name = parameter.name
        self.optional = bool({types.NoneType, Any}.intersection(members(parameter.annotation)))
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(parameter.annotation)
        except Exception as error:
            raise ValueError(f"{self.name} cannot be read from JSON: {error}") from error

    def read(self, data: bytes) -> Any:
        """Return what *data* says.

        Raises:
            ValueError: It is not JSON, or not what is wanted; the message quotes none of it.
        """
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            said = "; ".join(
                f"{'.'.join(map(str, one['loc'])) or 'all'}: {one['msg']}"
                for one in error.errors(include_url=False, include_input=False)[:5]
            )
            raise ValueError(f"mistakes in its JSON: {said}") from None
