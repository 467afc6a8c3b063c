"""What a hook, or an endpoint, sends instead of what the client sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict
from urllib.parse import urlencode

from pydantic import Field, InstanceOf, field_validator

from ..core.changes import NO_CHANGES, Changes, ResponseChange, Transform
from ..core.forwarded import ForwardedMode
from ..core.headers import Edits
from ..core.policy import Timeout, as_timeout
from ..core.pool import UpstreamPool
from ..core.retry import Retry
from ..core.split import Split
from ..core.target import quote_path
from ..core.upstream import Upstream
from ..core.websocket import WebSocketOptions
from ..messages import UserHook, compile_hook
from .bodies import Bodied, BodyTransform, Form, label_of, one_source
from .edits import HeaderEdits, OneOrMoreHeaderEdits, QueryEdits, RequestHeaderEdits, several
from .fields import Count, Forwarded, Host, Method, Model, Seconds, Text, Texts

__all__ = [
    "OverrideOptions",
    "RequestOverride",
    "WebSocketOverride",
    "WebSocketOverrideOptions",
]


_NO_EDITS = Edits()


class _HeadOptions(TypedDict, total=False):
    path: bytes | str
    query: bytes | str | Mapping[str, str | list[str]] | QueryEdits
    host: str
    preserve_host: bool
    forwarded: ForwardedMode
    headers: HeaderEdits
    response_headers: HeaderEdits | list[HeaderEdits]
    timeout: float | Timeout


class OverrideOptions(_HeadOptions, total=False):
    """The fields of ``RequestOverride``, as the keyword arguments of ``proxy_pass``."""

    method: str
    body: bytes
    text: str
    form: Mapping[str, str | list[str]]
    transform: Transform
    json: Any
    body_limit: int
    reads_response: bool
    retry: Retry


class WebSocketOverrideOptions(_HeadOptions, total=False):
    """The fields of ``WebSocketOverride``, as keyword arguments of ``proxy_pass_websocket``."""

    options: WebSocketOptions
    on_client_message: UserHook
    on_upstream_message: UserHook


class _HeadOverride(Model):
    """What a request and a WebSocket handshake have in common."""

    path: bytes | Text | None = None
    query: bytes | Text | Mapping[Text, Texts] | InstanceOf[QueryEdits] | None = None
    host: Host | None = None
    preserve_host: bool | None = None
    forwarded: Forwarded | None = None
    headers: RequestHeaderEdits = Field(default_factory=HeaderEdits)
    response_headers: OneOrMoreHeaderEdits = Field(default_factory=HeaderEdits)
    timeout: Seconds | InstanceOf[Timeout] | None = None
    upstream: InstanceOf[Upstream] | InstanceOf[UpstreamPool] | InstanceOf[Split] | None = None

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: bytes | str | None) -> bytes | str | None:
        if value is not None and value[:1] not in ("/", b"/"):
            raise ValueError("path must begin with /")
        return value

    def _compiled_head(self) -> dict[str, Any]:
        """Return the same as bytes, without empty edits, as fields of ``Changes``."""
        query, edits = self.query, self.headers.compile()
        response = tuple(
            each
            for given in several(self.response_headers)
            if (each := given.compile()) != _NO_EDITS
        )
        return {
            "path": quote_path(self.path) if isinstance(self.path, str) else self.path,
            "query": None if isinstance(query, QueryEdits) else _query(query),
            "query_changes": (query.compile(),) if isinstance(query, QueryEdits) else (),
            "host": self.host.encode() if self.host is not None else None,
            "preserve_host": self.preserve_host,
            "forwarded": self.forwarded,
            "request": () if edits == _NO_EDITS else (edits,),
            "response": (ResponseChange(edits=response),) if response else (),
            "timeout": as_timeout(self.timeout) if self.timeout is not None else None,
        }


class RequestOverride(_HeadOverride, Bodied):
    """What to send to the upstream instead of what the client sent. ``None`` changes nothing.

    Attributes:
        path: The path below the upstream's base path: text is percent-encoded, bytes are raw.
        query: The query: a mapping is encoded, text and bytes are taken as they are, ``""`` sends
            none; ``QueryEdits`` edits what the client sent.
        host: The ``Host``.
        preserve_host: Whether the client's ``Host`` is sent, instead of what the pool says.
        forwarded: Which forwarding headers are sent, likewise: ``True`` is ``Forwarded`` as well as
            ``X-Forwarded-*``, ``False`` these alone, ``"none"`` none at all.
        headers: Edits of the headers.
        response_headers: Edits of the response's headers, one or several in order.
        timeout: Seconds for every deadline, or a ``Timeout``.
        upstream: Where it goes instead: an ``Upstream``, or a pool that picks one.
        method: The method. ``GET`` and ``HEAD`` drop the client's body.
        body_limit: The largest body that is forwarded, in bytes; a client with a larger one gets a
            413.
        reads_response: Somebody reads the response's body, or transforms it: ask the upstream for
            all of it, in gzip or no coding, whatever the client has asked for.
        retry: What is tried again, instead of what the pool says: ``Retry``.
        body: The new body as bytes, which are what the headers say: ``content-type`` and
            ``content-encoding`` stay unless ``headers`` sets or removes them.
        text: The new body as text, in UTF-8; ``text/plain`` unless ``headers`` sets another.
        form: The new body as a form: ``application/x-www-form-urlencoded``.
        transform: An async generator function that is given the chunks of the client's body, and
            yields those that are sent. Nothing is kept back.
        json_body: The new body, as ``json=``: anything pydantic can serialise, models by alias;
            ``None`` is null. Of these five, one may be given.
    """

    method: Method | None = None
    body_limit: Count | None = None
    reads_response: bool = False
    retry: InstanceOf[Retry] | None = None
    body: bytes | None = None
    text: Text | None = None
    form: Form | None = None
    transform: BodyTransform | None = None
    json_body: Any = Field(default=None, alias="json")

    _one_source = one_source

    def compile(self) -> Changes:
        """Return the same as bytes, but for ``upstream``; ``NO_CHANGES`` if there is nothing.

        Raises:
            ValueError: The JSON cannot be written.
        """
        head, body = self._compiled_head(), self.new_body()
        # What is said of the headers goes before what the body says.
        head["request"] = label_of(body) + head["request"]
        changes = Changes(
            **head,
            method=self.method,
            body_limit=self.body_limit,
            reads_response=self.reads_response,
            retry=self.retry,
            transforms=() if self.transform is None else (self.transform,),
            body=None if body is None else body.content,
        )
        return NO_CHANGES if changes == NO_CHANGES else changes


class WebSocketOverride(_HeadOverride):
    """What to change in a relayed WebSocket. ``None`` changes nothing.

    Attributes:
        path: The path below the upstream's base path: text is percent-encoded, bytes are raw.
        query: The query: a mapping is encoded, text and bytes are taken as they are, ``""`` sends
            none; ``QueryEdits`` edits what the client sent.
        host: The ``Host``.
        preserve_host: Whether the client's ``Host`` is sent, instead of what the pool says.
        forwarded: Which forwarding headers are sent, likewise: ``True`` is ``Forwarded`` as well as
            ``X-Forwarded-*``, ``False`` these alone, ``"none"`` none at all.
        headers: Edits of the handshake's headers.
        response_headers: Edits of the headers of the upstream's 101, or of its refusal; one or
            several in order.
        timeout: Seconds for every deadline of the handshake, or a ``Timeout``.
        upstream: Where it goes instead: an ``Upstream``, or a pool that picks one.
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
        """Return the same as bytes and compiled hooks, but for ``upstream``.

        It is ``NO_CHANGES`` if there is nothing.
        """
        from_client, from_upstream = self.on_client_message, self.on_upstream_message
        changes = Changes(
            **self._compiled_head(),
            websocket=self.options,
            on_client_message=from_client and compile_hook(from_client, from_client=True),
            on_upstream_message=from_upstream and compile_hook(from_upstream, from_client=False),
        )
        return NO_CHANGES if changes == NO_CHANGES else changes


def _query(query: bytes | str | Mapping[str, str | list[str]] | None) -> bytes | None:
    if isinstance(query, Mapping):
        return urlencode(query, doseq=True).encode()
    return query.encode() if isinstance(query, str) else query
