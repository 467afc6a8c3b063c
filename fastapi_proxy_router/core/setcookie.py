"""Cookies that an upstream sets, edited for the public side.

Facts:

* An attribute's name ignores case, a flag counts whatever its value is, and of an attribute that
  comes several times the last counts (RFC 6265, 5.2 and 5.3). So every one of them is edited.
* A line is split at each semicolon, also in quotes; nothing else divides it (RFC 6265, 5.2).
* A cookie without ``Domain`` goes to its host alone, which is the public one already, so it gets
  none. Likewise without ``Path``, or with one that is no path: clients take the request's.
* Browsers drop a cookie called ``__Host-`` that has a domain, a path but ``/`` or no ``Secure``,
  one called ``__Secure-`` without ``Secure`` and one called ``__Http-`` or ``__Host-Http-`` without
  ``Secure`` or ``HttpOnly`` (RFC 6265bis, 4.1.3). They ignore case, so an edit that would do that
  to one is left out.
* Browsers drop a cookie that has ``SameSite=None`` or ``Partitioned`` and no ``Secure``. Nothing is
  added for that: whoever asks for the one says the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .names import Header
from .public import PublicSide, quoted, rest_below

__all__ = ["CookieRules", "edit_cookies"]

_BLANKS = b" \t"
_HOST_PREFIX = b"__host-"
_NEED_SECURE = (_HOST_PREFIX, b"__secure-", b"__http-")
_NEED_HTTP_ONLY = (b"__http-", b"__host-http-")


class CookieRules(NamedTuple):
    """Changes to the cookies that an upstream sets; what is not said stays.

    Attributes:
        domain: Pairs of the upstream's domain and the public one, of which the first that matches
            applies. A leading dot and case are ignored; ``"*"`` is any. An empty public domain
            removes the attribute, so that the cookie goes to this host alone.
        path: Pairs of a path, which ends with a segment, and what is put in its place, of which the
            first that matches applies. ``True``: the public path of the upstream's, so ``/`` is all
            that is below the prefix.
        secure: Add the flag (true) or remove it (false).
        http_only: The same of ``HttpOnly``.
        same_site: ``"strict"``, ``"lax"`` or ``"none"``.
        names: The cookies that are edited, with their case; ``None`` is all.
    """

    domain: tuple[tuple[str, str], ...] | None = None
    path: tuple[tuple[bytes, bytes], ...] | bool = False
    secure: bool | None = None
    http_only: bool | None = None
    same_site: str | None = None
    names: frozenset[bytes] | None = None


def edit_cookies(headers: list[Header], rules: CookieRules, side: PublicSide) -> list[Header]:
    """Return an upstream's headers with every ``Set-Cookie`` edited.

    Every line stays a line of its own, in its order; bytes that no rule touches stay as they are.
    The rules are those of nginx's ``proxy_cookie_domain``, ``proxy_cookie_path`` (by whole
    segments) and ``proxy_cookie_flags``.
    """
    return [
        (name, _edited(value, rules, side) if name.lower() == b"set-cookie" else value)
        for name, value in headers
    ]


def _edited(line: bytes, rules: CookieRules, side: PublicSide) -> bytes:
    pair, *attributes = line.split(b";")
    name = pair.partition(b"=")[0].strip(_BLANKS) if b"=" in pair else b""
    if not pair.strip(_BLANKS) or (rules.names is not None and name not in rules.names):
        return line
    lowered = name.lower()
    if not lowered.startswith(_HOST_PREFIX):
        attributes = _with_domain(attributes, rules.domain or ())
        attributes = _with_path(attributes, rules, side)
    if rules.secure or not lowered.startswith(_NEED_SECURE):
        attributes = _with_flag(attributes, b"Secure", wanted=rules.secure)
    if rules.http_only or not lowered.startswith(_NEED_HTTP_ONLY):
        attributes = _with_flag(attributes, b"HttpOnly", wanted=rules.http_only)
    if rules.same_site is not None:
        attributes = _with_same_site(attributes, rules.same_site.capitalize().encode())
    return b";".join([pair, *attributes])


def _key(attribute: bytes) -> bytes:
    return attribute.partition(b"=")[0].strip(_BLANKS).lower()


def _value(attribute: bytes) -> bytes:
    return attribute.partition(b"=")[2].strip(_BLANKS)


def _with_value(attribute: bytes, value: bytes) -> bytes:
    """Return *attribute* with another value, and what is before that as it was."""
    key, _, old = attribute.partition(b"=")
    blanks = old[: len(old) - len(old.lstrip(_BLANKS))]
    return key + b"=" + blanks + value


def _with_domain(attributes: list[bytes], rules: tuple[tuple[str, str], ...]) -> list[bytes]:
    if not rules:
        return attributes
    domains = [
        _public_domain(_value(attribute), rules) if _key(attribute) == b"domain" else None
        for attribute in attributes
    ]
    # One that is removed takes those before it along: without it, one of them would count.
    removed = max((index for index, domain in enumerate(domains) if domain == b""), default=-1)
    return [
        _with_value(attribute, domain) if domain else attribute
        for index, (attribute, domain) in enumerate(zip(attributes, domains, strict=True))
        if index > removed or _key(attribute) != b"domain"
    ]


def _public_domain(domain: bytes, rules: tuple[tuple[str, str], ...]) -> bytes | None:
    wanted = domain.removeprefix(b".").lower()
    # An empty domain is none (RFC 6265, 5.2.3), which is not to become one.
    if not wanted:
        return None
    for upstream, public in rules:
        if upstream == "*" or upstream.removeprefix(".").lower().encode() == wanted:
            return public.encode()
    return None


def _with_path(attributes: list[bytes], rules: CookieRules, side: PublicSide) -> list[bytes]:
    if not rules.path:
        return attributes
    edited = []
    for given in attributes:
        attribute = given
        path = _value(attribute) if _key(attribute) == b"path" else b""
        public = _public_path(path, rules, side) if path.startswith(b"/") else None
        if public is not None and public != path:
            attribute = _with_value(attribute, public)
        edited.append(attribute)
    return edited


def _public_path(path: bytes, rules: CookieRules, side: PublicSide) -> bytes | None:
    return _own_path(path, side) if isinstance(rules.path, bool) else _mapped(path, rules.path)


def _mapped(path: bytes, rules: tuple[tuple[bytes, bytes], ...]) -> bytes | None:
    for prefix, replacement in rules:
        if path == prefix:
            return replacement or b"/"
        rest = rest_below(prefix.rstrip(b"/"), path)
        if rest is not None:
            return replacement.rstrip(b"/") + rest or b"/"
    return None


def _own_path(path: bytes, side: PublicSide) -> bytes | None:
    """Return the public path below which clients send what the upstream wants below *path*.

    No slash is left at the end where the whole upstream is meant: the bare prefix is part of it.
    """
    rest = rest_below(side.base_path, path)
    if rest is None:
        return None
    below = b"" if rest == b"/" else rest
    inverted = None if side.inverse is None else _inverted(below, side.inverse)
    public = quoted(side.prefix) + below if inverted is None else side.found(inverted)
    # A client may have written parts of the prefix, which must not become an attribute.
    return public.replace(b";", b"%3B") or b"/"


def _inverted(below: bytes, inverse: Callable[[bytes], bytes | None]) -> bytes | None:
    """Return the inverse of a path, or of all that is below it: to cookies they are the same."""
    public = inverse(below)
    if public is None and (public := inverse(below + b"/")) is not None:
        public = public.removesuffix(b"/")
    return public


def _with_flag(attributes: list[bytes], flag: bytes, *, wanted: bool | None) -> list[bytes]:
    if wanted is None:
        return attributes
    others = [attribute for attribute in attributes if _key(attribute) != flag.lower()]
    if not wanted:
        return others
    return attributes if len(others) < len(attributes) else [*attributes, b" " + flag]


def _with_same_site(attributes: list[bytes], value: bytes) -> list[bytes]:
    edited = [
        _with_value(attribute, value)
        if _key(attribute) == b"samesite" and _value(attribute).lower() != value.lower()
        else attribute
        for attribute in attributes
    ]
    has_one = any(_key(attribute) == b"samesite" for attribute in attributes)
    return edited if has_one else [*edited, b" SameSite=" + value]
