"""New bodies: as bytes, as text, as JSON or as a form; and what changes one chunk by chunk."""

from __future__ import annotations

import base64
import inspect
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import to_json

from ..core.changes import Transform
from ..core.headers import Edits
from .fields import Model, Text, Texts

__all__ = [
    "Base64Bytes",
    "Bodied",
    "BodyTransform",
    "Form",
    "NewBody",
    "label_of",
    "labelled",
    "one_source",
    "with_charset",
]

#: What is said of the bytes that were there, and is not true of others (RFC 9110, 8.4; RFC 9530).
_OF_THE_BYTES = frozenset(
    {b"content-encoding", b"content-md5", b"content-digest", b"repr-digest", b"digest"}
)

Form = Mapping[Text, Texts]


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError("body is not base64; if it is text, give it as text") from None


#: Bytes, which are written as base64 where there is only text: in JSON and in the environment.
Base64Bytes = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(lambda value: base64.b64encode(value).decode(), when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]


def _transform(value: Transform) -> Transform:
    # An object may be called too.
    calls = (value, type(value).__call__)
    if any(map(inspect.iscoroutinefunction, calls)) or any(map(inspect.isgeneratorfunction, calls)):
        raise ValueError("transform must be an async generator function: async def with yield")
    try:
        inspect.signature(value).bind(object())
    except TypeError:
        raise ValueError("transform must take one argument: the chunks") from None
    return value


BodyTransform = SkipJsonSchema[Annotated[Transform, AfterValidator(_transform)]]


class NewBody(NamedTuple):
    """A body and what it is; no media type leaves the one that is there."""

    content: bytes
    media_type: str | None


def _one_source(value: Any, info: ValidationInfo) -> Any:
    """Refuse a second body. JSON comes last of the fields, and an explicit null is a body too."""
    sources = ("body", "text", "form", "transform")
    if value is not None or info.field_name == "json_body":
        for name in sources:
            if name != info.field_name and info.data.get(name) is not None:
                mine = "json" if info.field_name == "json_body" else info.field_name
                raise ValueError(f"give {name} or {mine}, not both")
    return value


#: For the fields of a model that has several of these, ``json_body`` behind the others.
one_source = field_validator("text", "form", "transform", "json_body", check_fields=False)(
    _one_source
)


class Bodied(Model):
    """A model with some of the fields body, text, form and json, of which one may be given."""

    def new_body(self) -> NewBody | None:
        """Return the body that is given, if one is.

        Raises:
            ValueError: The JSON cannot be written.
        """
        fields = self.__dict__
        if (body := fields.get("body")) is not None:
            return NewBody(body, None)
        if (text := fields.get("text")) is not None:
            return NewBody(text.encode(), "text/plain; charset=utf-8")
        if (form := fields.get("form")) is not None:
            encoded = urlencode(form, doseq=True).encode()
            return NewBody(encoded, "application/x-www-form-urlencoded")
        if "json_body" in self.model_fields_set:
            return NewBody(to_json(fields["json_body"], by_alias=True), "application/json")
        return None

    @model_serializer(mode="wrap")
    def _dumped(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``json`` out unless it is given: null is a body."""
        values: dict[str, Any] = handler(self)
        if "json_body" not in self.model_fields_set:
            values.pop("json_body", None)
            values.pop("json", None)
        return values


def with_charset(media_type: str) -> str:
    """Return *media_type* with the charset that text is written in, unless it names one."""
    if media_type.startswith("text/") and "charset=" not in media_type.lower():
        return f"{media_type}; charset=utf-8"
    return media_type


def labelled(media_type: str | None) -> Edits:
    """Return the edits of the headers that a new body needs."""
    kind = () if media_type is None else ((b"content-type", media_type.encode()),)
    return Edits(set=kind, remove=_OF_THE_BYTES)


def label_of(body: NewBody | None) -> tuple[Edits, ...]:
    """Return the edits of a request's headers that its new body needs.

    Raw bytes are what its other headers say: they may be the client's own, perhaps compressed.
    """
    if body is None or body.media_type is None:
        return ()
    return (labelled(body.media_type)._replace(of_body=True),)
