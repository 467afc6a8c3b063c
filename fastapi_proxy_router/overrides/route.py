"""Declared changes to the requests of a route, and to their responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import to_json

from ..core.changes import NO_CHANGES, Changes, ResponseChange
from ..core.headers import Edits
from ..core.inverse import inverse_of
from ..core.matching import Conditions
from ..core.patterns import PathPattern, Rewrite
from ..core.policy import as_timeout
from ..core.query import QueryChange
from ..core.retry import Retry
from ..core.setcookie import CookieRules
from ..reading import fields_of
from .bodies import Base64Bytes, Bodied, Form, label_of, one_source
from .compiled import CompiledOverride, Declared
from .edits import (
    HeaderEdits,
    OneOrMoreCookieEdits,
    OneOrMoreHeaderEdits,
    QueryEdits,
    RequestHeaderEdits,
    several,
)
from .fields import (
    ByName,
    Count,
    Forwarded,
    Host,
    HostPattern,
    MatchName,
    Method,
    Pattern,
    StatusMap,
    Template,
    Text,
    Wait,
    WantedHeader,
    WantedText,
)
from .naming import named, route_name
from .response import OneOrMoreErrorPages, ResponseOverride, whole

__all__ = ["RouteOverride"]

#: Which requests it is for. All else but ``answer`` needs an upstream.
_MATCHERS = frozenset({"path", "methods", "hosts", "match_headers", "match_query"})


class RouteOverride(Bodied):
    """A declared change to every request that matches, and to its response.

    Of the overrides of a router, the first that matches applies.

    Attributes:
        path: The path it is for, in Starlette's syntax, below the router's prefix.
        methods: The methods it is for. Default: all.
        hosts: The hosts it is for, without a port; ``*.example.org`` is all below that. Default:
            all.
        match_headers: What the client's headers must be: a text or one of several, byte for byte;
            ``True``: there; ``False``: not there.
        match_query: What the parameters of the query must be, likewise, decoded.
        rewrite: The path for the upstream; ``{name}`` takes the parameter byte for byte.
        method: The method for the upstream. ``GET`` and ``HEAD`` drop the client's body.
        query: Edits of the query.
        request_headers: Edits of the request's headers.
        host: The ``Host``.
        preserve_host: Whether the client's ``Host`` is sent, instead of what the pool says.
        forwarded: Which forwarding headers are sent, likewise: ``True`` is ``Forwarded`` as well as
            ``X-Forwarded-*``, ``False`` these alone, ``"none"`` none at all.
        body_limit: The largest body that is forwarded, in bytes; a client with a larger one gets a
            413.
        timeout: Seconds for every deadline, or the fields of ``Timeout``, of which those that are
            not given have their defaults.
        retry: What is tried again, instead of what the pool says: the fields of ``Retry``.
        pool: The name of the pool that serves it instead.
        status: The status for the client, or a mapping from some of the upstream's to others.
        response_headers: Edits of the response's headers, one or several in order.
        rewrite_urls: Turn ``Location``, ``Content-Location``, ``Refresh`` and ``Link`` back to the
            public side, also through the inverse of ``rewrite``.
        cookies: Edits of the cookies that the upstream sets, one or several in order.
        error_pages: What to serve in place of some statuses, the upstream's and our own; one or
            several, of which the first that fits.
        body: The body for the upstream, as bytes; as base64 where it comes from JSON or the
            environment. They are what the headers say: set ``content-type`` in
            ``request_headers``.
        text: The same as text, in UTF-8; ``text/plain`` unless ``request_headers`` sets another.
        form: The same as a form: ``application/x-www-form-urlencoded``.
        json_body: The same as JSON, as ``json=``; ``None`` is null. Of these four, one may be
            given.
        answer: The response, without an upstream; 200 unless it says otherwise.

    Raises:
        pydantic.ValidationError: Something cannot work; every mistake is reported and names the
            route.
    """

    path: Pattern
    methods: Annotated[list[Method], Field(min_length=1)] | None = None
    hosts: Annotated[list[HostPattern], Field(min_length=1)] | None = None
    match_headers: Annotated[Mapping[MatchName, WantedHeader], ByName] = Field(default={})
    match_query: Mapping[Text, WantedText] = Field(default={})
    rewrite: Template | None = None
    method: Method | None = None
    query: QueryEdits = QueryEdits()
    request_headers: RequestHeaderEdits = HeaderEdits()
    host: Host | None = None
    preserve_host: bool | None = None
    forwarded: Forwarded | None = None
    body_limit: Count | None = None
    timeout: Wait | None = None
    retry: Annotated[Retry, fields_of(Retry)] | None = None
    pool: Annotated[str, Field(min_length=1)] | None = None
    status: StatusMap | None = None
    response_headers: OneOrMoreHeaderEdits = HeaderEdits()
    rewrite_urls: bool = False
    cookies: OneOrMoreCookieEdits = Field(default=[])
    error_pages: OneOrMoreErrorPages = Field(default=[])
    body: Base64Bytes | None = None
    text: Text | None = None
    form: Form | None = None
    answer: ResponseOverride | None = None
    json_body: Any = Field(default=None, alias="json")

    _one_source = one_source

    @model_validator(mode="wrap")
    @classmethod
    def _named(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            raise named(error, value, cls.model_fields) from None

    @field_validator("rewrite")
    @classmethod
    def _fillable(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and "path" in info.data:
            unknown = Rewrite(value).names - PathPattern(info.data["path"]).names
            if unknown:
                raise ValueError(f"rewrite names {sorted(unknown)}, which path lacks")
        return value

    @field_validator("preserve_host")
    @classmethod
    def _one_host(cls, value: bool | None, info: ValidationInfo) -> bool | None:  # noqa: FBT001
        if value and info.data.get("host") is not None:
            raise ValueError("give host or preserve_host, not both")
        return value

    @field_validator("error_pages")
    @classmethod
    def _servable(cls, value: OneOrMoreErrorPages) -> OneOrMoreErrorPages:
        for page in several(value):
            page.compile()
        return value

    @field_validator("answer")
    @classmethod
    def _alone(
        cls, value: ResponseOverride | None, info: ValidationInfo
    ) -> ResponseOverride | None:
        if value is None:
            return value
        if value.transform is not None:
            raise ValueError("an answer has no upstream whose body a transform could see")
        whole(value.headers)
        value.answer(200)
        others = [
            name
            for name, given in info.data.items()
            if name not in _MATCHERS and given != cls.model_fields[name].default
        ]
        if others:
            raise ValueError(f"an answer asks no upstream, so it leaves {', '.join(others)} no use")
        return value

    @field_validator("json_body")
    @classmethod
    def _writable(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("answer") is not None:
            raise ValueError("an answer asks no upstream, so it leaves json no use")
        to_json(value, by_alias=True)
        return value

    def compile(self) -> CompiledOverride:
        """Return the same, ready to be matched."""
        return CompiledOverride(
            PathPattern(self.path),
            None if self.methods is None else frozenset(self.methods),
            self.conditions(),
            None if self.rewrite is None else Rewrite(self.rewrite),
            Declared(
                self._changes(),
                self.pool,
                None if self.answer is None else self.answer.answer(200),
            ),
            self.label,
        )

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return route_name(self.path, self.methods)

    def conditions(self) -> Conditions:
        """Return what a request has to meet besides path and method; equal ones are equal."""
        return Conditions(
            tuple(sorted({host.encode() for host in self.hosts or ()})),
            tuple(
                (name.encode(), _wanted_bytes(wanted))
                for name, wanted in sorted(self.match_headers.items())
            ),
            tuple((name, _wanted(wanted)) for name, wanted in sorted(self.match_query.items())),
        )

    def _changes(self) -> Changes:
        """Return all but the rewritten path; ``NO_CHANGES`` itself if there is nothing."""
        body, edits = self.new_body(), self.request_headers.compile()
        query, response = self.query.compile(), self._response()
        changes = Changes(
            query_changes=() if query == QueryChange() else (query,),
            method=self.method,
            host=None if self.host is None else self.host.encode(),
            preserve_host=self.preserve_host,
            forwarded=self.forwarded,
            body=None if body is None else body.content,
            body_limit=self.body_limit,
            # What is said of the headers goes before what the body says.
            request=label_of(body) + (() if edits == Edits() else (edits,)),
            response=() if response == ResponseChange() else (response,),
            pages=tuple(page.compile() for page in several(self.error_pages)),
            timeout=None if self.timeout is None else as_timeout(self.timeout),
            retry=self.retry,
        )
        return NO_CHANGES if changes == NO_CHANGES else changes

    def _response(self) -> ResponseChange:
        edits = [given.compile() for given in several(self.response_headers)]
        rules = [given.compile() for given in several(self.cookies)]
        inverse = None
        if self.rewrite is not None and (
            self.rewrite_urls or any(each.path is True for each in rules)
        ):
            inverse = inverse_of(PathPattern(self.path), self.path, Rewrite(self.rewrite))
        return ResponseChange(
            public=self.rewrite_urls,
            inverse=inverse,
            cookies=tuple(each for each in rules if each._replace(names=None) != CookieRules()),
            edits=tuple(each for each in edits if each != Edits()),
            status=self.status,
        )


def _wanted(wanted: bool | str | list[str]) -> bool | frozenset[str]:  # noqa: FBT001
    return wanted if isinstance(wanted, bool) else frozenset(several(wanted))


def _wanted_bytes(wanted: bool | str | list[str]) -> bool | frozenset[bytes]:  # noqa: FBT001
    if isinstance(wanted, bool):
        return wanted
    return frozenset(value.encode() for value in several(wanted))
