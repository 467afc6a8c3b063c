"""Whom to believe about the client: ``X-Forwarded-*``, ``Forwarded`` and ``Via``.

Rules (Caddy's and YARP's, which agree on the safe half):

* These headers grant trust, so what a peer outside ``trusted_proxies`` sent is replaced. That holds
  for every ``X-Forwarded-`` name, for ``X-Real-IP`` and ``Forwarded``, and for their spellings with
  underscores.
* From a trusted peer, ``X-Forwarded-For`` and ``Forwarded`` are appended to, ``X-Forwarded-Prefix``
  is put in front of ours, and the last ``-Proto``, ``-Host`` and ``-Port`` are kept.
* A peer without an address (a unix socket) has nothing to append. Untrusted, its forwarding
  headers are removed and none but the prefix, which is ours, is sent; trusted (the word ``unix``
  in ``trusted_proxies``), they are kept as they are. A peer whose address is not an IP address is
  treated as an untrusted one without.
* The peer is ``scope["client"]``. uvicorn's ``--proxy-headers`` (on by default for 127.0.0.1) has
  then already replaced it by the address it believes.
* ``X-Forwarded-Proto`` is ``http`` or ``https`` for WebSockets too, as all but Traefik have it.
* IPv4-mapped IPv6 addresses are written as IPv4; an IPv6 address stands bare in ``X-Forwarded-For``
  and quoted in brackets in ``Forwarded`` (RFC 7239, 6); a zone identifier is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, NamedTuple

from .headers import Header, field_values, spelled

__all__ = ["Peer", "TrustedProxies", "forwarding_headers", "via_headers"]

Address = IPv4Address | IPv6Address

_FOR = b"x-forwarded-for"
_PROTO = b"x-forwarded-proto"
_HOST = b"x-forwarded-host"
_PORT = b"x-forwarded-port"
_PREFIX = b"x-forwarded-prefix"
_FORWARDED = b"forwarded"
_SECURE = ("https", "wss")


class TrustedProxies:
    """The peers whose forwarding headers are believed.

    Args:
        entries: Addresses, networks in CIDR notation, or ``"unix"`` for peers without an address.

    Raises:
        ValueError: An entry is none of these.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        names = tuple(entries)
        self.unix = "unix" in names
        self.networks: list[IPv4Network | IPv6Network] = [
            ip_network(name) for name in names if name != "unix"
        ]

    def trusts(self, peer: Peer) -> bool:
        """Tell whether *peer* is believed."""
        if peer.address is None:
            return peer.unix and self.unix
        return any(peer.address in network for network in self.networks)


class Peer(NamedTuple):
    """Who sent the request, as the server saw it.

    Attributes:
        address: Its IP address, or ``None`` where there is none.
        unix: Whether the server gave it no address at all, as for a unix socket.
        secure: Whether it used TLS.
        host: The ``Host`` it asked for.
    """

    address: Address | None
    unix: bool
    secure: bool
    host: bytes

    @classmethod
    def of(cls, scope: Any) -> Peer:
        """Read the peer from an ASGI scope."""
        name = (scope.get("client") or ("",))[0]
        hosts = field_values(scope["headers"], b"host")
        return cls(
            _address(name),
            not name,
            scope.get("scheme") in _SECURE,
            hosts[0] if hosts else b"",
        )

    @property
    def proto(self) -> bytes:
        """The scheme the client used."""
        return b"https" if self.secure else b"http"

    @property
    def port(self) -> bytes:
        """The port the client asked for: the one in ``Host``, or the scheme's own."""
        port = self.host.rpartition(b":")[2]
        return port if port.isdigit() and port != self.host else (b"443" if self.secure else b"80")


def _address(text: str) -> Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _grants_trust(name: bytes) -> bool:
    key = spelled(name)
    return key.startswith(b"x-forwarded-") or key in (_FORWARDED, b"x-real-ip")


def forwarding_headers(
    headers: Sequence[Header],
    peer: Peer,
    *,
    trusted: TrustedProxies,
    prefix: bytes,
    forwarded: bool,
) -> list[Header]:
    """Return *headers* with the forwarding headers that are true of *peer*.

    Args:
        headers: The client's headers, hop-by-hop ones already gone, so that no ``Connection`` line
            can name ours.
        peer: Who sent them.
        trusted: Whose words are kept.
        prefix: The path that was stripped, raw; announced in ``X-Forwarded-Prefix``.
        forwarded: Send RFC 7239 ``Forwarded`` too.
    """
    if trusted.trusts(peer):
        return _extended(headers, peer, prefix=prefix, forwarded=forwarded)
    kept = [pair for pair in headers if not _grants_trust(pair[0])]
    if peer.address is not None:
        kept += [
            (_FOR, str(peer.address).encode()),
            (_PROTO, peer.proto),
            (_HOST, peer.host),
            (_PORT, peer.port),
        ]
        if forwarded:
            kept.append((_FORWARDED, _element(peer)))
    if prefix:
        kept.append((_PREFIX, prefix))
    return kept


def _extended(
    headers: Sequence[Header], peer: Peer, *, prefix: bytes, forwarded: bool
) -> list[Header]:
    ours = {_PREFIX: b"".join([*field_values(headers, _PREFIX)[-1:], prefix])}
    if peer.address is not None:
        address = str(peer.address).encode()
        ours[_FOR] = b", ".join([*field_values(headers, _FOR), address])
        for name, value in ((_PROTO, peer.proto), (_HOST, peer.host), (_PORT, peer.port)):
            ours[name] = [value, *field_values(headers, name)][-1]
        if forwarded:
            ours[_FORWARDED] = b", ".join([*field_values(headers, _FORWARDED), _element(peer)])
    kept = [pair for pair in headers if spelled(pair[0]) not in ours]
    return kept + [(name, value) for name, value in ours.items() if value]


def _element(peer: Peer) -> bytes:
    """Return one element of ``Forwarded`` (RFC 7239, 4)."""
    node = f'"[{peer.address}]"' if isinstance(peer.address, IPv6Address) else str(peer.address)
    host = peer.host.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'for=%s;host="%s";proto=%s' % (node.encode(), host, peer.proto)


def via_headers(headers: list[Header], via: bytes, http_version: str) -> list[Header]:
    """Return *headers* with our entry in ``Via`` (RFC 9110, 7.6.3); an empty *via* adds none."""
    if via:
        headers.append((b"via", http_version.encode() + b" " + via))
    return headers
