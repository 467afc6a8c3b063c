"""The head of a response, as overrides change it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .changes import ResponseChange
from .headers import edit, field_values
from .names import Header
from .outbound import Outbound
from .public import PublicSide, public_urls
from .setcookie import edit_cookies
from .upstream import Upstream

__all__ = ["amended", "hinted"]

#: An IPv6 address without a port ends in a bracket.
_HAS_PORT = re.compile(rb":\d+$")


def amended(
    status: int,
    headers: list[Header],
    changes: Iterable[ResponseChange],
    upstream: Upstream,
    sent: Outbound,
) -> tuple[int, list[Header]]:
    """Return a response's status and headers as *changes* make them.

    Args:
        status: The upstream's status.
        headers: Its headers as they may cross.
        changes: What to do, in order.
        upstream: Who has answered.
        sent: What it was sent.
    """
    given = status
    for change in changes:
        if change.public or change.cookies:
            side = _public_side(change, upstream, sent)
            headers = public_urls(headers, side) if change.public else headers
            for rules in change.cookies:
                headers = edit_cookies(headers, rules, side)
        for edits in change.edits:
            if edits.applies(given):
                headers = edit(headers, edits)
        status = _status(change, status)
    return status, headers


def hinted(
    headers: list[Header], changes: Iterable[ResponseChange], upstream: Upstream, sent: Outbound
) -> list[bytes]:
    """Return the links of an early hint (RFC 8297) as they are right for the client.

    Clients take from one what to load, and nothing else. The arguments are those of ``amended``.
    """
    for change in changes:
        if change.public:
            headers = public_urls(headers, _public_side(change, upstream, sent))
    return field_values(headers, b"link")


def _status(change: ResponseChange, status: int) -> int:
    if isinstance(change.status, int):
        return change.status
    return (change.status or {}).get(status, status)


def _public_side(change: ResponseChange, upstream: Upstream, sent: Outbound) -> PublicSide:
    names = {name.lower() for name in (upstream.authority, sent.headers[0][1])}
    port = b":443" if upstream.scheme == "https" else b":80"
    bare = {name.removesuffix(port) for name in names}
    return PublicSide(
        frozenset(names | bare | {name + port for name in bare if not _HAS_PORT.search(name)}),
        upstream.base_path.rstrip(b"/"),
        sent.prefix,
        change.inverse,
        # Else an upstream's way from http to https would lead back to where the client is.
        frozenset({upstream.scheme.encode(), *field_values(sent.headers, b"x-forwarded-proto")}),
        sent.above,
    )
