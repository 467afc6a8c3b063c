"""Overrides: pydantic models that say what changes on a route, and what they compile to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, TypedDict
from urllib.parse import urlencode

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    field_validator,
    model_validator,
)
from pydantic_core import to_json

from .core.changes import Changes, PathPattern, Rewrite
from .core.headers import Edits, is_value
from .core.names import HOP_BY_HOP, Header, is_name
from .core.policy import Timeout, as_timeout
from .core.target import quote_path
from .core.websocket import WebSocketOptions
from .messages import UserHook, compile_hook

__all__ = [
    "HeaderEdits",
    "OverrideOptions",
    "RequestOverride",
    "RouteOverride",
    "WebSocketOverride",
    "WebSocketOverrideOptions",
]

# Their values follow from the message and the connection, not from a setting.
_MANAGED = HOP_BY_HOP - {b"alt-svc", b"upgrade-insecure-requests"} | {b"content-length", b"host"}


def _method(value: str) -> str:
    if not is_name(value.encode()) or value.upper() in ("CONNECT", "TRACE"):
        raise ValueError(f"{value!r} is not a method that can be forwarded")
    return value.upper()


def _header_name(value: str) -> str:
    if not is_name(value.encode()):
        raise ValueError(f"{value!r} is not a header name")
    if value.lower().encode() in _MANAGED or value.lower().startswith("sec-websocket-"):
        raise ValueError(f"{value!r} belongs to the connection and cannot be edited")
    return value.lower()


def _header_value(value: str) -> str:
    if not is_value(value.encode()) or value != value.strip():
        raise ValueError("a header value has no control characters and no blanks around it")
    return value


def _pattern(value: str) -> str:
    PathPattern(value)
    return value


def _template(value: str) -> str:
    Rewrite(value)
    return value


def _encodable(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("it has a surrogate, which no bytes stand for") from None
    return value


Text = Annotated[str, AfterValidator(_encodable)]
Method = Annotated[str, AfterValidator(_method)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HeaderEdits(_Model):
    """Changes to headers: removed first, then set, then added.

    Attributes:
        set: Replace every line of the name, however it is spelled, by this one.
        add: Add a line; lines of the name that are there stay.
        remove: Remove every line of the name.
    """

    set: dict[HeaderName, HeaderValue] = {}
    add: dict[HeaderName, HeaderValue | list[HeaderValue]] = {}
    remove: list[HeaderName] = []

    def compile(self) -> Edits:
        """Return the same as bytes."""
        return Edits(
            tuple(_pairs(self.set)),
            tuple(_pairs(self.add)),
            frozenset(name.encode() for name in self.remove),
        )


def _pairs(headers: Mapping[str, str | list[str]]) -> Iterable[Header]:
    for name, values in headers.items():
        for value in [values] if isinstance(values, str) else values:
            yield name.encode(), value.encode()


class _HeadOptions(TypedDict, total=False):
    path: bytes | str
    query: bytes | str | dict[str, str | list[str]]
    host: str
    headers: HeaderEdits
    response_headers: HeaderEdits
    timeout: float | Timeout


class OverrideOptions(_HeadOptions, total=False):
    """The fields of ``RequestOverride``, as the keyword arguments of ``proxy_pass``."""

    method: str
    json: Any
    body: bytes


class WebSocketOverrideOptions(_HeadOptions, total=False):
    """The fields of ``WebSocketOverride``, as keyword arguments of ``proxy_pass_websocket``."""

    options: WebSocketOptions
    on_client_message: UserHook
    on_upstream_message: UserHook


class _HeadOverride(_Model):
    """What a request and a WebSocket handshake have in common."""

    path: bytes | Text | None = None
    query: bytes | Text | dict[Text, Text | list[Text]] | None = None
    host: HeaderValue | None = None
    headers: HeaderEdits = HeaderEdits()
    response_headers: HeaderEdits = HeaderEdits()
    timeout: Seconds | InstanceOf[Timeout] | None = None

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: bytes | str | None) -> bytes | str | None:
        if value is not None and value[:1] not in ("/", b"/"):
            raise ValueError("path must begin with /")
        return value

    def _compiled_head(self) -> Changes:
        return Changes(
            path=quote_path(self.path) if isinstance(self.path, str) else self.path,
            query=_query(self.query),
            host=self.host.encode() if self.host is not None else None,
            request=self.headers.compile(),
            response=self.response_headers.compile(),
            timeout=as_timeout(self.timeout) if self.timeout is not None else None,
        )


class RequestOverride(_HeadOverride):
    """What to send to the upstream instead of what the client sent. ``None`` changes nothing.

    Attributes:
        path: The path below the upstream's base path: text is percent-encoded, bytes are raw.
        query: The query: a mapping is encoded, text and bytes are taken as they are; ``""`` sends
            none.
        method: The method. ``GET`` and ``HEAD`` drop the client's body.
        host: The ``Host``.
        headers: Edits of the headers.
        response_headers: Edits of the response's headers.
        json_body: The new body, as ``json=``: anything pydantic can serialise, models by alias.
        body: The new body as bytes. Not together with ``json``.
        timeout: Seconds for every deadline, or a ``Timeout``.
    """

    method: Method | None = None
    json_body: Any = Field(default=None, alias="json")
    body: bytes | None = None

    @model_validator(mode="after")
    def _consistent(self) -> RequestOverride:
        if self.body is not None and "json_body" in self.model_fields_set:
            raise ValueError("give json or body, not both")
        return self

    def compile(self) -> Changes:
        """Return the same as bytes."""
        changes, body = self._compiled_head(), self.body
        edits = changes.request
        if "json_body" in self.model_fields_set:
            body = to_json(self.json_body, by_alias=True)
            if b"content-type" not in dict(edits.set):
                edits = edits._replace(set=(*edits.set, (b"content-type", b"application/json")))
        return replace(changes, method=self.method, body=body, request=edits)


class WebSocketOverride(_HeadOverride):
    """What to change in a relayed WebSocket. ``None`` changes nothing.

    Attributes:
        path: The path below the upstream's base path: text is percent-encoded, bytes are raw.
        query: The query: a mapping is encoded, text and bytes are taken as they are; ``""`` sends
            none.
        host: The ``Host``.
        headers: Edits of the handshake's headers.
        response_headers: Edits of the headers of the upstream's 101, or of its refusal.
        timeout: Seconds for every deadline of the handshake, or a ``Timeout``.
        options: Limits for this one instead of the pool's; but its ``allowed_origins`` stay, unless
            these name others.
        on_client_message: An async function that is given every message of the client. It returns
            the message to pass on, a ``Reply`` to the sender, or ``None`` to drop it.
        on_upstream_message: The same for every message of the upstream.
    """

    options: InstanceOf[WebSocketOptions] | None = None
    on_client_message: UserHook | None = None
    on_upstream_message: UserHook | None = None

    @field_validator("on_client_message", "on_upstream_message")
    @classmethod
    def _compilable(cls, value: UserHook | None) -> UserHook | None:
        if value is not None:
            compile_hook(value, from_client=True)
        return value

    def compile(self) -> Changes:
        """Return the same as bytes and compiled hooks."""
        from_client, from_upstream = self.on_client_message, self.on_upstream_message
        return replace(
            self._compiled_head(),
            websocket=self.options,
            on_client_message=from_client and compile_hook(from_client, from_client=True),
            on_upstream_message=from_upstream and compile_hook(from_upstream, from_client=False),
        )


def _query(query: bytes | str | dict[str, str | list[str]] | None) -> bytes | None:
    if isinstance(query, dict):
        return urlencode(query, doseq=True).encode()
    return query.encode() if isinstance(query, str) else query


class RouteOverride(_Model):
    """A declared change to every request that matches, and to its response.

    Attributes:
        path: The path it applies to, in Starlette's syntax, below the router's prefix.
        methods: The methods it applies to; ``None`` is all.
        rewrite: The path for the upstream; ``{name}`` takes the parameter byte for byte.
        method: The method for the upstream.
        request_headers: Edits of the request's headers.
        response_headers: Edits of the response's headers.
        timeout: Seconds for every deadline.
    """

    path: Annotated[str, AfterValidator(_pattern)]
    methods: Annotated[list[Method], Field(min_length=1)] | None = None
    rewrite: Annotated[str, AfterValidator(_template)] | None = None
    method: Method | None = None
    request_headers: HeaderEdits = HeaderEdits()
    response_headers: HeaderEdits = HeaderEdits()
    timeout: Seconds | None = None

    @model_validator(mode="after")
    def _consistent(self) -> RouteOverride:
        if self.rewrite is not None:
            unknown = Rewrite(self.rewrite).names - PathPattern(self.path).names
            if unknown:
                raise ValueError(f"rewrite names {sorted(unknown)}, which path lacks")
        return self

    def compile(self) -> CompiledOverride:
        """Return the same, ready to be matched."""
        return CompiledOverride(
            PathPattern(self.path),
            None if self.methods is None else frozenset(self.methods),
            None if self.rewrite is None else Rewrite(self.rewrite),
            Changes(
                method=self.method,
                request=self.request_headers.compile(),
                response=self.response_headers.compile(),
                timeout=None if self.timeout is None else as_timeout(self.timeout),
            ),
        )


class CompiledOverride:
    """A ``RouteOverride`` that can be asked about a request."""

    def __init__(
        self,
        pattern: PathPattern,
        methods: frozenset[str] | None,
        rewrite: Rewrite | None,
        changes: Changes,
    ) -> None:
        self._pattern = pattern
        self._methods = methods
        self._rewrite = rewrite
        self._changes = changes

    def changes_for(self, method: str, path: bytes) -> Changes | None:
        """Return the changes for a request, or ``None`` if it does not match.

        Args:
            method: Its method.
            path: Its raw path below the router's prefix.
        """
        if self._methods is not None and method not in self._methods:
            return None
        parameters = self._pattern.match(path or b"/")
        if parameters is None:
            return None
        if self._rewrite is None:
            return self._changes
        return replace(self._changes, path=self._rewrite.fill(parameters))
