"""Edits of headers, queries and cookies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, Tag, ValidationInfo, field_validator

from ..core.headers import Edits, When
from ..core.names import Header
from ..core.query import QueryChange
from ..core.setcookie import CookieRules
from .fields import (
    ByName,
    CookieName,
    CookiePath,
    HeaderName,
    HeaderValue,
    Model,
    PublicDomain,
    Text,
    Texts,
    UpstreamDomain,
    Values,
    tagged,
)

__all__ = [
    "CookieEdits",
    "HeaderEdits",
    "OneOrMoreCookieEdits",
    "OneOrMoreHeaderEdits",
    "QueryEdits",
    "RequestHeaderEdits",
    "raw_pairs",
    "several",
]

Each = TypeVar("Each")
Given = TypeVar("Given", str, str | list[str])


class HeaderEdits(Model):
    """Changes to headers: first those removed that are not kept, then set, then added.

    Attributes:
        set: Replace every line of the name, however it is spelled, by this one.
        add: Add a line, or several; lines of the name that are there stay.
        remove: Remove every line of the name.
        keep: Remove all but these. What says how the body is to be read, and what this proxy says
            of the client, stays in any case. Default: all stay.
        when: For which responses: ``"always"``, or by the upstream's status ``"success"``, which is
            below 400, or ``"failure"``, which is any other (YARP's rule). Not for requests.
    """

    set: Annotated[dict[HeaderName, HeaderValue], ByName] = Field(default={})
    add: Annotated[Mapping[HeaderName, Values], ByName] = Field(default={})
    remove: list[HeaderName] = Field(default=[])
    keep: list[HeaderName] | None = None
    when: When = "always"

    def compile(self) -> Edits:
        """Return the same as bytes."""
        return Edits(
            tuple(raw_pairs(self.set)),
            tuple(raw_pairs(self.add)),
            frozenset(name.encode() for name in self.remove),
            None if self.keep is None else frozenset(name.encode() for name in self.keep),
            self.when,
        )


class QueryEdits(Model):
    """Changes to a query: removed first, then set, then added. What is not named stays as it is.

    Names are compared decoded. What is set or added comes last in the query.

    Attributes:
        set: Replace every pair of the name by this one, or by several.
        add: Add a pair, or several; pairs of the name that are there stay.
        remove: Remove every pair of the name.
    """

    set: Mapping[Text, Texts] = Field(default={})
    add: Mapping[Text, Texts] = Field(default={})
    remove: list[Text] = Field(default=[])

    def compile(self) -> QueryChange:
        """Return the same for the core."""
        return QueryChange(tuple(_pairs(self.set)), tuple(_pairs(self.add)), frozenset(self.remove))


def _flag(value: object) -> object:
    if isinstance(value, str) and value.startswith("/"):
        raise ValueError(f"it is true, or says which path another replaces: {{'/': {value!r}}}")
    return value


class CookieEdits(Model):
    """Changes to the cookies that an upstream sets, each of which stays a line of its own.

    Attributes:
        domain: The public domain for those of the upstream's, the first that fits, where ``"*"`` is
            any; or one for all of them. ``""`` removes it, so that the cookie goes to this host
            alone. A cookie without a domain gets none.
        path: ``True``: the public path of the upstream's, with the prefix and without the base
            path, also through the inverse of a rewrite. A mapping: what is put in the place of a
            path, by whole segments, the first that fits. Default: it stays.
        secure: Add the flag, or remove it. Default: it stays.
        http_only: The same of ``HttpOnly``.
        same_site: ``"lax"``, ``"strict"`` or ``"none"``; the last needs the flag ``Secure``, or
            browsers drop the cookie.
        names: The cookies that are changed. Default: all.
    """

    domain: (
        Annotated[
            Annotated[PublicDomain, Tag("[domain]")]
            | Annotated[dict[UpstreamDomain, PublicDomain], Tag("[domains]")],
            tagged("[domain]", Mapping, "[domains]"),
        ]
        | None
    ) = None
    path: Annotated[
        Annotated[bool, BeforeValidator(_flag), Tag("[flag]")]
        | Annotated[dict[CookiePath, CookiePath], Tag("[paths]")],
        tagged("[flag]", Mapping, "[paths]"),
    ] = False
    secure: bool | None = None
    http_only: bool | None = None
    same_site: Literal["lax", "strict", "none"] | None = None
    names: Annotated[list[CookieName], Field(min_length=1)] | None = None

    @field_validator("same_site")
    @classmethod
    def _kept_by_browsers(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value == "none" and info.data.get("secure") is False:
            raise ValueError("browsers drop a cookie with same_site none that is not secure")
        return value

    def compile(self) -> CookieRules:
        """Return the same for the core."""
        domain = {"*": self.domain} if isinstance(self.domain, str) else self.domain
        paths = self.path if isinstance(self.path, bool) else tuple(raw_pairs(self.path))
        return CookieRules(
            None if domain is None else tuple(domain.items()),
            paths,
            self.secure,
            self.http_only,
            self.same_site,
            None if self.names is None else frozenset(name.encode() for name in self.names),
        )


def _always(value: HeaderEdits) -> HeaderEdits:
    if value.when != "always":
        raise ValueError("when is for the headers of responses: a request has no status")
    return value


RequestHeaderEdits = Annotated[HeaderEdits, AfterValidator(_always)]
OneOrMoreHeaderEdits = Annotated[
    Annotated[HeaderEdits, Tag("[one]")] | Annotated[list[HeaderEdits], Tag("[list]")],
    tagged("[one]", (list, tuple), "[list]"),
]
OneOrMoreCookieEdits = Annotated[
    Annotated[CookieEdits, Tag("[one]")] | Annotated[list[CookieEdits], Tag("[list]")],
    tagged("[one]", (list, tuple), "[list]"),
]


def several(value: Each | list[Each]) -> list[Each]:
    """Return a list of one where it is not a list yet."""
    return value if isinstance(value, list) else [value]


def raw_pairs(values: Mapping[str, Given]) -> Iterator[Header]:
    """Yield the pairs as bytes, several of a name where there are several values."""
    return ((name.encode(), value.encode()) for name, value in _pairs(values))


def _pairs(values: Mapping[str, Given]) -> Iterable[tuple[str, str]]:
    return ((name, value) for name, given in values.items() for value in several(given))
