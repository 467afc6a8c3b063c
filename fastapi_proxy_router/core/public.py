"""URLs that an upstream says of itself, turned back to the public side.

An upstream knows neither the public host nor the prefix, so its redirects lead a client past the
proxy or to nowhere. ``Location``, ``Content-Location``, ``Refresh`` and ``Link`` are turned round:

=========================  =====================================================================
``http://upstream/x``      also ``//upstream/x``: becomes ``/prefix/x``, in every status. Without
                           scheme and host it is right however the client reached us, through
                           whatever proxies.
``/x``                     becomes ``/prefix/x``
another host               is left, also the same host at another port, one with credentials, and
                           a scheme that is not the upstream's own
relative reference         is left: the client resolves it below the public path
not below the base path    is left: no public path leads there
control byte, backslash    is left: browsers drop the one and take the other for a slash
=========================  =====================================================================

Query and fragment stay byte for byte. So does the path, but for dot segments, which are resolved
first: ``/../x`` below a prefix would leave it. What begins with two slashes below an empty prefix
would name a host, so ``http://upstream//evil/x`` becomes ``/.//evil/x``, which is what the URL
standard writes for a path of that kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from .names import Header

__all__ = ["PublicSide", "public_path", "public_urls", "quoted", "rest_below"]

_REFERENCE = re.compile(rb"(?:(?:(https?):)?//([^/?#]*))?([^?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_ILLEGAL = re.compile(rb"[^!$&'()*+,\-./0-9:;=@A-Z_a-z~%]")
_DOT_SEGMENT = re.compile(rb"/(?:\.|%2e){1,2}(?![^/])", re.IGNORECASE)
# Seconds, a separator, the word and what may quote the URL: HTML's "shared declarative refresh
# steps". No quantifier here or below can give back what it took: values come from outside.
_REFRESH = re.compile(
    rb"([ \t]*+[0-9.]++(?:[ \t]*+[;,][ \t]*+|[ \t]++)(?:url[ \t]*+=[ \t]*+)?)([\"']?)(.*)",
    re.IGNORECASE | re.DOTALL,
)
# A quoted string, in which nothing is a link, or the beginning of a link (RFC 8288, 3).
_LINK = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|(?:\A|(?<=,))([ \t]*+<)([^<>]*+)>', re.DOTALL)

_BOTH_SCHEMES = frozenset({b"http", b"https"})


class PublicSide(NamedTuple):
    """What an upstream's own URLs look like from the public side, in one exchange.

    Attributes:
        authorities: What the upstream may call itself: its authority and the ``Host`` that it was
            sent, in lower case, each with the default port and without.
        base_path: The upstream's base path, raw, without a slash at its end.
        prefix: What the public side puts before it, raw, without a slash at its end.
        inverse: Turns a path below the base path into the public one below *above*, if a rewrite
            led there; ``None`` for a path that it cannot have led to.
        schemes: The schemes of the upstream's own URLs: its own, and that which it was told the
            client uses. An ``https`` URL of an upstream that knows of ``http`` alone asks the
            client to change over; without its scheme, it would lead round in a circle.
        above: What it puts before what *inverse* finds, likewise, if that is not *prefix*: it is
            shorter where a pool has a prefix of its own, which overrides are matched with.
    """

    authorities: frozenset[bytes]
    base_path: bytes
    prefix: bytes
    inverse: Callable[[bytes], bytes | None] | None = None
    schemes: frozenset[bytes] = _BOTH_SCHEMES
    above: bytes | None = None

    def found(self, path: bytes) -> bytes:
        """Return the public path of what *inverse* has found."""
        return quoted(self.prefix if self.above is None else self.above) + path


def quoted(prefix: bytes) -> bytes:
    """Return a prefix with all that no path may have percent-encoded (RFC 3986, 3.3).

    Where the prefix has parameters, a client has written them, and nothing of it is to end a URL in
    a header and begin what the upstream has not said.
    """
    return _ILLEGAL.sub(_encoded, prefix)


def _encoded(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


def rest_below(base: bytes, path: bytes) -> bytes | None:
    """Return what follows *base* in *path*, or ``None`` if it does not end with a segment there.

    Args:
        base: A path without a slash at its end; the empty one is that of the root.
        path: An absolute path.
    """
    rest = path[len(base) :]
    return rest if path.startswith(base) and rest[:1] in (b"", b"/") else None


def public_path(path: bytes, side: PublicSide) -> bytes | None:
    """Return the public path for one of the upstream's, or ``None`` if none leads there.

    A path that the inverse of the rewrite does not know is reached without one, as a request for
    it would be.

    Args:
        path: Absolute and raw, without a query.
        side: The public side of the exchange.
    """
    if not path.startswith(b"/"):
        return None
    if _DOT_SEGMENT.search(path):
        path = _without_dots(path)
    rest = rest_below(side.base_path, path)
    if rest is None:
        return None
    inverted = side.inverse(rest) if side.inverse is not None else None
    public = quoted(side.prefix) + rest or b"/" if inverted is None else side.found(inverted)
    # Two slashes would name a host (RFC 3986, 4.2), to browsers a backslash is one.
    return b"/." + public if public[1:2] in (b"/", b"\\") else public


def _without_dots(path: bytes) -> bytes:
    """Resolve dot segments as the client would (RFC 3986, 5.2.4), also those of ``%2e``."""
    kept: list[bytes] = []
    dots = b""
    for segment in path[1:].split(b"/"):
        dots = segment.lower().replace(b"%2e", b".")
        if dots == b"..":
            del kept[-1:]
        elif dots != b".":
            kept.append(segment)
    if dots in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def _reference(reference: bytes, side: PublicSide) -> bytes:
    """Return a URI reference (RFC 3986, 4.1) as it is right on the public side."""
    text = reference.strip(b" \t")
    match = _REFERENCE.fullmatch(text)
    if match is None or not text or _CONTROL.search(text):
        return reference
    scheme, authority, path, tail = match.groups()
    if scheme is not None and scheme.lower() not in side.schemes:
        return reference
    if authority is not None:
        # An empty port is the default one (RFC 3986, 6.2.3).
        if authority.lower().removesuffix(b":") not in side.authorities:
            return reference
        path = path or b"/"
    public = None if b"\\" in path else public_path(path, side)
    if public is None:
        return reference
    before, _, after = reference.partition(text)
    return before + public + tail + after


def _refresh(value: bytes, side: PublicSide) -> bytes:
    """Return ``5; url=/x`` with the URL of the public side; seconds alone stay."""
    match = _REFRESH.fullmatch(value)
    if match is None:
        return value
    head, quote, rest = match.groups()
    if not quote:
        return head + _reference(rest, side)
    url, closing, after = rest.partition(quote)
    turned = _reference(url, side).replace(quote, b"%%%02X" % ord(quote))
    return head + quote + turned + closing + after


def _link(value: bytes, side: PublicSide) -> bytes:
    """Return ``<x>; rel=y, ...`` with the targets of the public side; parameters stay."""

    def replaced(match: re.Match[bytes]) -> bytes:
        opening, uri = match.groups()
        return match[0] if uri is None else opening + _reference(uri, side) + b">"

    return _LINK.sub(replaced, value)


_TURNED = {
    b"location": _reference,
    b"content-location": _reference,
    b"refresh": _refresh,
    b"link": _link,
}


def public_urls(headers: list[Header], side: PublicSide) -> list[Header]:
    """Return an upstream's headers with its own URLs turned back to the public side.

    The parameters of a ``Link`` are left, ``anchor`` too. Everything else stays as it is, in its
    order. The rules are those of nginx's ``proxy_redirect default``, for more headers.
    """
    return [
        (name, turn(value, side)) if (turn := _TURNED.get(name.lower())) else (name, value)
        for name, value in headers
    ]
