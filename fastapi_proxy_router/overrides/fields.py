"""Types of fields that overrides share, with what makes a value usable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from ..core.forwarded import ForwardedMode
from ..core.headers import is_value
from ..core.matching import host_mistake
from ..core.names import HOP_BY_HOP, is_name, spelled
from ..core.patterns import PathPattern, Rewrite
from ..core.policy import Timeout
from ..reading import fields_of

__all__ = [
    "ByName",
    "CookieName",
    "CookiePath",
    "Count",
    "Forwarded",
    "HeaderName",
    "HeaderValue",
    "Host",
    "HostPattern",
    "MatchName",
    "Method",
    "Model",
    "Pattern",
    "PublicDomain",
    "Seconds",
    "Status",
    "StatusMap",
    "Template",
    "Text",
    "Texts",
    "UpstreamDomain",
    "Values",
    "Wait",
    "WantedHeader",
    "WantedText",
    "tagged",
]

# Their values follow from the message and the connection, not from a setting.
_MANAGED = HOP_BY_HOP - {b"alt-svc", b"upgrade-insecure-requests"} | {
    b"content-length",
    b"expect",
    b"host",
}
_COOKIE_PATH = re.compile(r"/[!-:<-~]*")
_AUTHORITY = re.compile(r"([0-9A-Za-z._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


class Model(BaseModel):
    """A model that knows all its fields and does not change.

    What was wrong is not shown with a mistake: a header may hold a key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    # By itself, so that pydantic's plugin for mypy does not see it: that would know ``json=``, as
    # which the field is documented, by its other name alone.
    model_config["populate_by_name"] = True

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Show what was given, under the names by which it is given."""
        fields = type(self).model_fields
        for name, value in super().__repr_args__():
            if name in self.model_fields_set:
                yield fields[name].alias or name, value


def _encodable(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("it has a surrogate, which no bytes stand for") from None
    return value


def _method(value: str) -> str:
    if not is_name(value.encode()) or value.upper() in ("CONNECT", "TRACE"):
        raise ValueError(f"{value!r} is not a method that can be forwarded")
    return value.upper()


def _match_name(value: str) -> str:
    if not is_name(value.encode()):
        raise ValueError(f"{value!r} is not a header name")
    return value.lower()


def _header_name(value: str) -> str:
    # A lenient upstream takes Content_Length for Content-Length.
    key = spelled(_match_name(value).encode())
    if key in _MANAGED or key.startswith(b"sec-websocket-"):
        raise ValueError(f"{value!r} belongs to the connection and cannot be edited")
    return value.lower()


def _header_value(value: str) -> str:
    if not is_value(value.encode()) or value != value.strip():
        raise ValueError("a header value has no control characters and no blanks around it")
    return value


def _host(value: str) -> str:
    if not _AUTHORITY.fullmatch(value):
        raise ValueError(f"host {value!r} must be a host, perhaps with a port")
    return value


def _host_pattern(value: str) -> str:
    if (mistake := host_mistake(value)) is not None:
        raise ValueError(mistake)
    return value.lower()


def _pattern(value: str) -> str:
    PathPattern(value)
    return value


def _template(value: str) -> str:
    Rewrite(value)
    return value


def _cookie_name(value: str) -> str:
    if not is_name(value.encode()):
        raise ValueError(f"{value!r} is not a name of a cookie")
    return value


def _cookie_path(value: str) -> str:
    if not _COOKIE_PATH.fullmatch(value):
        raise ValueError(f"{value!r} is not a path of a cookie: it begins with / and has no ;")
    return value


def _public_domain(value: str) -> str:
    return _domain(value) if value else ""


def _upstream_domain(value: str) -> str:
    return value if value == "*" else _domain(value)


def _domain(value: str) -> str:
    if value.startswith("*") or host_mistake(value.removeprefix(".")) is not None:
        raise ValueError(f"{value!r} is not a domain of a cookie")
    return value.lower()


def _by_name(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Refuse a mapping whose names differ in spelling only: the last would win."""
    result = handler(value)
    if isinstance(value, Mapping) and len(result) < len(value):
        raise ValueError("a name is there twice")
    return result


def tagged(single: str, kind: type | tuple[type, ...], other: str) -> Discriminator:
    """Return what tells two kinds of values apart, so that only mistakes of one are told.

    Their names are in brackets, which no name of a field or a header has.
    """
    return Discriminator(lambda value: other if isinstance(value, kind) else single)


def _forwarded(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        raise ValueError("forwarded must be true, false or 'none'") from None


#: For mappings of names.
ByName = WrapValidator(_by_name)

Text = Annotated[str, AfterValidator(_encodable)]
#: One text or several.
Texts = Annotated[
    Annotated[Text, Tag("[text]")] | Annotated[list[Text], Tag("[list]")],
    tagged("[text]", (list, tuple), "[list]"),
]
CookieName = Annotated[Text, AfterValidator(_cookie_name)]
CookiePath = Annotated[Text, AfterValidator(_cookie_path)]
#: Empty is none.
PublicDomain = Annotated[Text, AfterValidator(_public_domain)]
#: A star is any.
UpstreamDomain = Annotated[Text, AfterValidator(_upstream_domain)]
Method = Annotated[Text, AfterValidator(_method)]
HeaderName = Annotated[Text, AfterValidator(_header_name)]
HeaderValue = Annotated[Text, AfterValidator(_header_value)]
#: One value or several.
Values = Annotated[
    Annotated[HeaderValue, Tag("[text]")] | Annotated[list[HeaderValue], Tag("[list]")],
    tagged("[text]", (list, tuple), "[list]"),
]
Host = Annotated[Text, AfterValidator(_host)]
HostPattern = Annotated[Text, AfterValidator(_host_pattern)]
#: A header that is only looked at.
MatchName = Annotated[Text, AfterValidator(_match_name)]
Pattern = Annotated[Text, AfterValidator(_pattern)]
Template = Annotated[Text, AfterValidator(_template)]
Forwarded = Annotated[ForwardedMode, WrapValidator(_forwarded)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
#: Seconds for every deadline, or some of them by name.
Wait = Annotated[
    Annotated[Seconds, Tag("[seconds]")]
    | Annotated[Timeout, fields_of(Timeout), Tag("[deadlines]")],
    tagged("[seconds]", (Mapping, Timeout, list), "[deadlines]"),
]
Status = Annotated[int, Field(ge=200, le=599)]
#: One status, or another for some of the upstream's.
StatusMap = Annotated[
    Annotated[Status, Tag("[status]")] | Annotated[dict[Status, Status], Tag("[statuses]")],
    tagged("[status]", Mapping, "[statuses]"),
]


def _wanted(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[list]"
    return "[flag]" if isinstance(value, bool) else "[text]"


WantedHeader = Annotated[
    Annotated[bool, Tag("[flag]")]
    | Annotated[HeaderValue, Tag("[text]")]
    | Annotated[list[HeaderValue], Field(min_length=1), Tag("[list]")],
    Discriminator(_wanted),
]
WantedText = Annotated[
    Annotated[bool, Tag("[flag]")]
    | Annotated[Text, Tag("[text]")]
    | Annotated[list[Text], Field(min_length=1), Tag("[list]")],
    Discriminator(_wanted),
]
