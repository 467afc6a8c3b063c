"""What a declared override looks at besides path and method: the host, headers and the query.

* ``Host`` is compared without its port and its trailing dot, in lower case, and as a whole: a
  ``Host`` that merely contains the pattern does not match. An IPv6 address may be spelled in any
  way.
* A header with several lines matches if one of them is equal, byte for byte. Lists are not split:
  ``x-version: 1, 2`` is neither ``1`` nor ``2``.
* A client's ``X_Debug`` is not its ``X-Debug``, so it meets no rule that wants one. But for a rule
  that wants none it is there, because many upstreams cannot tell them apart.
* Queries are read as ``query`` reads them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .headers import field_values
from .names import Header, spelled
from .query import query_values

__all__ = ["Conditions", "Wanted", "WantedText", "host_mistake"]

#: True: it is there. False: it is not. Texts: it equals one of these.
Wanted = bool | frozenset[bytes]
#: The same of a query, whose values are compared decoded.
WantedText = bool | frozenset[str]

_PORT = re.compile(rb":[0-9]*\Z")
_LABELS = re.compile(r"(\*\.)?[0-9A-Za-z_~-]+(\.[0-9A-Za-z_~-]+)*")
#: What people write instead of a host, and why it would never match; the first that fits is told.
_MISTAKES = (
    (re.compile(r"^$"), "is empty"),
    (re.compile(r"^(\w[\w+.-]*:)?//"), "must have no scheme"),
    (re.compile(r"[/?#]"), "must have no path"),
    (re.compile(r"@"), "must have no user"),
    (re.compile(r"[^\x00-\x7f]"), "must be in ASCII, as clients send it (xn--...)"),
    (re.compile(r"[\x00-\x20\x7f]"), "must have no blanks"),
    (re.compile(r"^[^:]*:[0-9]*$|\]:"), "must have no port, which is not compared"),
    (re.compile(r"^\*\.?$"), "would match every host: leave it out"),
    (re.compile(r"(?!^)\*|^\*(?!\.)"), "may have a * only as the whole first label, as in *.a.b"),
    (re.compile(r"\.$"), "must have no trailing dot, which is not compared"),
)


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions on a request, which must all hold. Without any it is falsy and always holds.

    Attributes:
        hosts: Patterns, in lower case, of which one must match the ``Host``: a host, or
            ``*.example.org`` for those a label or more below ``example.org``.
        headers: Names in lower case, and what is wanted of each.
        query: Names, decoded, and what is wanted of each.
    """

    hosts: tuple[bytes, ...] = ()
    headers: tuple[tuple[bytes, Wanted], ...] = ()
    query: tuple[tuple[str, WantedText], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.hosts or self.headers or self.query)

    def hold(self, headers: Sequence[Header], query: bytes) -> bool:
        """Tell whether a request with these headers and this raw query meets all of them."""
        return (
            (not self.hosts or _is_for(self.hosts, headers))
            and all(_has_header(headers, name, wanted) for name, wanted in self.headers)
            and all(_has_value(query, name, wanted) for name, wanted in self.query)
        )


def _has_header(headers: Sequence[Header], name: bytes, wanted: Wanted) -> bool:
    if wanted is False:
        shunned = spelled(name)
        return all(spelled(key) != shunned for key, _ in headers)
    values = field_values(headers, name)
    return bool(values) if wanted is True else not wanted.isdisjoint(values)


def _has_value(query: bytes, name: str, wanted: WantedText) -> bool:
    values = query_values(query, name)
    if isinstance(wanted, bool):
        return bool(values) is wanted
    return not wanted.isdisjoint(values)


def _is_for(patterns: Sequence[bytes], headers: Sequence[Header]) -> bool:
    hosts = [_bare(value) for value in field_values(headers, b"host")]
    return any(_fits(pattern, host) for host in hosts for pattern in patterns)


def _bare(host: bytes) -> bytes:
    return _PORT.sub(b"", host).removesuffix(b".").lower()


def _fits(pattern: bytes, host: bytes) -> bool:
    if pattern.startswith(b"*"):
        return host.endswith(pattern[1:]) and not host.startswith(b".")
    if pattern.startswith(b"["):
        return _address(pattern) == _address(host)
    return pattern == host


def _address(host: bytes) -> ipaddress.IPv6Address | bytes:
    """Return the address, or *host* if it is none."""
    try:
        return ipaddress.IPv6Address(host.decode("latin-1").removeprefix("[").removesuffix("]"))
    except ValueError:
        return host


def host_mistake(text: str) -> str | None:
    """Return why *text*, in any case, cannot be a pattern of ``Conditions.hosts``, or ``None``."""
    for shape, reason in _MISTAKES:
        if shape.search(text):
            return f"host {text!r} {reason}"
    if ":" in text or "[" in text:
        return _address_mistake(text)
    return None if _LABELS.fullmatch(text) else f"host {text!r} is not the name of a host"


def _address_mistake(text: str) -> str | None:
    # An interface, as in fe80::1%eth0, means nothing to anybody else.
    if "%" in text or isinstance(_address(text.encode()), bytes):
        return f"host {text!r} is not the name of a host"
    in_brackets = text.startswith("[") and text.endswith("]")
    return None if in_brackets else f"host {text!r} is an IPv6 address: it needs brackets"
