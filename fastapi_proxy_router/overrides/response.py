"""What the client gets instead of what the upstream said, or without asking one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, Tag, ValidationInfo, field_validator

from ..core.changes import Answer, Page, ResponseChange, Transform
from ..core.headers import Edits
from .bodies import Base64Bytes, Bodied, BodyTransform, labelled, one_source, with_charset
from .edits import HeaderEdits, raw_pairs
from .fields import HeaderValue, Status, Text, tagged

__all__ = ["CompiledResponse", "ErrorPage", "OneOrMoreErrorPages", "ResponseOverride", "whole"]

_NO_BODY = (204, 205, 304)
_STATUSES = re.compile(r"([0-9]{3})(?:-([0-9]{3}))?")
_BINARY = "application/octet-stream"


class CompiledResponse(NamedTuple):
    """What a ``ResponseOverride`` became.

    Attributes:
        change: What is done with the head of the upstream's response.
        body: The body in place of the upstream's; ``None`` leaves it.
        transform: Sees the chunks of the upstream's body.
    """

    change: ResponseChange
    body: bytes | None
    transform: Transform | None


class _Reply(Bodied):
    status: Status | None = None
    headers: HeaderEdits = HeaderEdits()
    media_type: HeaderValue | None = None
    body: Base64Bytes | None = None
    text: Text | None = None

    _one_source = one_source

    @field_validator("body", "text", "json_body", check_fields=False)
    @classmethod
    def _may_be_there(cls, value: Any, info: ValidationInfo) -> Any:
        status = info.data.get("status")
        if status in _NO_BODY and (value or info.field_name == "json_body"):
            raise ValueError(f"a response with status {status} has no body")
        return value

    def answer(self, default_status: int = 0) -> Answer:
        """Return this as a whole response, with *default_status* unless it has its own.

        A status of 0 is for whoever sends it to replace.

        Raises:
            ValueError: The JSON cannot be written.
        """
        content, kind = self._content()
        headers = [*raw_pairs(self.headers.set), *raw_pairs(self.headers.add)]
        if content is not None and kind is None:
            kind = _BINARY
        if kind is not None and all(name != b"content-type" for name, _ in headers):
            headers.insert(0, (b"content-type", kind.encode()))
        return Answer(self.status or default_status, tuple(headers), content or b"")

    def _content(self) -> tuple[bytes | None, str | None]:
        """Return the body and what it is, as far as that is said."""
        body = self.new_body()
        kind = self.media_type or (body.media_type if body is not None else None)
        if kind is not None and self.text is not None:
            kind = with_charset(kind)
        return (body.content if body is not None else None), kind


def whole(value: HeaderEdits) -> HeaderEdits:
    """Refuse edits of what a response of ours never had."""
    if value.remove or value.keep is not None or value.when != "always":
        raise ValueError("a response of ours has headers to set and to add, and none to remove")
    return value


def _statuses(given: Sequence[int | str]) -> Sequence[int | str]:
    if mistaken := [entry for entry in given if not _expanded(entry)]:
        raise ValueError(
            f"{', '.join(map(repr, mistaken))} cannot be used: there are statuses from 300 to 599 "
            "but for 304, which has no body, and ranges like 500-599"
        )
    return list(given)


def _expanded(entry: int | str) -> range:
    """Return the statuses, or none if there is a mistake."""
    match = _STATUSES.fullmatch(str(entry))
    if match is None:
        return range(0)
    first, last = int(match[1]), int(match[2] or match[1])
    alone_without_body = first == last == 304
    return range(0) if first < 300 or last > 599 or alone_without_body else range(first, last + 1)


class ResponseOverride(_Reply):
    """What to send to the client instead of what the upstream sent. ``None`` changes nothing.

    Attributes:
        status: The status, from 200 to 599.
        headers: Edits of the headers.
        media_type: The ``Content-Type``. Default: that of ``text`` or ``json``. Text is UTF-8, and
            says so.
        body: The body as bytes; as base64 where it comes from JSON or the environment.
        text: The body as text; ``text/plain`` by default.
        transform: An async generator function that is given the chunks of the upstream's body,
            decoded, and yields those that are sent. Nothing is kept back.
        json_body: The body, as ``json=``: anything pydantic can serialise, models by alias. Of
            these four, one may be given.
    """

    transform: BodyTransform | None = None
    json_body: Any = Field(default=None, alias="json")

    def compile(self) -> CompiledResponse:
        """Return the same as bytes.

        Raises:
            ValueError: The JSON cannot be written.
        """
        body, kind = self._content()
        edits = self.headers.compile()
        label = labelled(kind) if body is not None else _kind_only(kind)
        change = ResponseChange(
            edits=tuple(each for each in (label, edits) if each != Edits()), status=self.status
        )
        return CompiledResponse(change, body, self.transform)


def _kind_only(kind: str | None) -> Edits:
    return Edits() if kind is None else Edits(set=((b"content-type", kind.encode()),))


class ErrorPage(_Reply):
    """What to serve in place of some responses, and of our own where there is none.

    It replaces the whole response, but for what its status has to be said with (RFC 9110, 15.5):
    ``WWW-Authenticate``, ``Allow`` and ``Retry-After`` stay.

    Attributes:
        statuses: The statuses that it is served for, from 300 to 599, and ranges such as
            ``"500-599"``. A 304 is never replaced: it has no body.
        status: The status that it has. Default: that which it replaces.
        headers: Headers to set and to add.
        media_type: The ``Content-Type``. Default: that of ``text`` or ``json``. Text is UTF-8, and
            says so.
        body: The body as bytes; as base64 where it comes from JSON or the environment.
        text: The body as text; ``text/plain`` by default.
        json_body: The body, as ``json=``. Of these three, one may be given.
    """

    statuses: Annotated[Sequence[int | str], Field(min_length=1), AfterValidator(_statuses)]
    headers: Annotated[HeaderEdits, AfterValidator(whole)] = HeaderEdits()
    json_body: Any = Field(default=None, alias="json")

    def compile(self) -> Page:
        """Return the same as bytes.

        Raises:
            ValueError: The JSON cannot be written.
        """
        statuses = {status for entry in self.statuses for status in _expanded(entry)}
        return Page(frozenset(statuses - {304}), self.answer(0))


OneOrMoreErrorPages = Annotated[
    Annotated[ErrorPage, Tag("[one]")] | Annotated[list[ErrorPage], Tag("[list]")],
    tagged("[one]", (list, tuple), "[list]"),
]
