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
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, Literal, NamedTuple

from .headers import field_values, lowered
from .names import Header, grants_trust, spelled

__all__ = [
    "ForwardedMode",
    "Peer",
    "TrustedProxies",
    "client_address",
    "forwarding_headers",
    "is_secure",
    "via_headers",
]

Address = IPv4Address | IPv6Address

#: Which headers tell the upstream of the client: ``False`` is ``X-Forwarded-*``, ``True`` is these
#: and RFC 7239's ``Forwarded``, and ``"none"`` is none at all, for an upstream of somebody else's.
ForwardedMode = bool | Literal["none"]

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

    Attributes:
        nobody: No peer at all is believed.

    Raises:
        ValueError: An entry is none of these.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        if isinstance(entries, str):
            # Like any other entry that is none.
            raise ValueError(f"give a list, as in [{entries!r}]")  # noqa: TRY004
        names = tuple(entries)
        self.nobody = not names
        self.unix = "unix" in names
        self.networks: list[IPv4Network | IPv6Network] = [
            ip_network(name) for name in names if name != "unix"
        ]

    def trusts(self, peer: Peer) -> bool:
        """Tell whether *peer* is believed."""
        if peer.address is None:
            return peer.unix and self.unix
        return self.covers(peer.address)

    def covers(self, address: Address) -> bool:
        """Tell whether *address* is that of a peer that is believed."""
        return any(address in network for network in self.networks)


class Peer(NamedTuple):
    """Who sent the request, as the server saw it.

    Attributes:
        address: Its IP address, or ``None`` where there is none.
        text: The same, written down.
        unix: Whether the server gave it no address at all, as for a unix socket.
        secure: Whether it used TLS.
        host: The ``Host`` it asked for.
    """

    address: Address | None
    text: bytes
    unix: bool
    secure: bool
    host: bytes

    @classmethod
    def of(cls, scope: Any, headers: Sequence[Header]) -> Peer:
        """Read the peer from an ASGI scope and its headers, which are in lower case."""
        name = (scope.get("client") or ("",))[0]
        hosts = [value for key, value in headers if key == b"host"]
        secure = scope.get("scheme") in _SECURE
        return cls(*_address(name), not name, secure, hosts[0] if hosts else b"")

    @property
    def proto(self) -> bytes:
        """The scheme the client used."""
        return b"https" if self.secure else b"http"

    @property
    def port(self) -> bytes:
        """The port the client asked for: the one in ``Host``, or the scheme's own."""
        port = self.host.rpartition(b":")[2]
        return port if port.isdigit() and port != self.host else (b"443" if self.secure else b"80")


@lru_cache(maxsize=1024)
def _address(text: str) -> tuple[Address | None, bytes]:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None, b""
    address = getattr(address, "ipv4_mapped", None) or address
    return address, str(address).encode()


def client_address(scope: Any, trusted: TrustedProxies) -> bytes:
    """Return the address of the client: the peer's, or what peers in *trusted* say it is.

    ``X-Forwarded-For`` is read from its end, and the first that is not trusted is the client; where
    all are trusted, it is the first of all. Empty if there is no address.
    """
    name: str = (scope.get("client") or ("",))[0]
    if trusted.nobody:
        return _address(name)[1] or name.encode()
    ours = Peer.of(scope, ())
    found, believed = ours.text or name.encode(), trusted.trusts(ours)
    said = b",".join(field_values(scope["headers"], _FOR)).split(b",") if believed else []
    for entry in reversed([part.strip() for part in said if part.strip()]):
        address, text = _address(entry.decode("latin-1"))
        found = text or entry
        if address is None or not trusted.covers(address):
            break
    return found


def forwarding_headers(
    headers: Sequence[Header],
    peer: Peer,
    *,
    trusted: TrustedProxies,
    prefix: bytes,
    forwarded: ForwardedMode,
    claims: bool = True,
) -> list[Header]:
    """Return *headers* with the forwarding headers that are true of *peer*.

    Args:
        headers: The client's headers, hop-by-hop ones already gone, so that no ``Connection`` line
            can name ours.
        peer: Who sent them.
        trusted: Whose words are kept.
        prefix: The path that was stripped, raw; announced in ``X-Forwarded-Prefix``.
        forwarded: Which of them are sent.
        claims: There may be such headers among them.
    """
    if forwarded == "none":
        return [pair for pair in headers if not grants_trust(pair[0])]
    if trusted.trusts(peer):
        return _extended(headers, peer, prefix=prefix, forwarded=forwarded)
    kept = list(headers)
    if claims:
        kept = [pair for pair in headers if not grants_trust(pair[0])]
    if peer.address is not None:
        kept += [
            (_FOR, peer.text),
            (_PROTO, peer.proto),
            (_HOST, peer.host),
            (_PORT, peer.port),
        ]
        if forwarded:
            kept.append((_FORWARDED, _element(peer)))
    if prefix:
        kept.append((_PREFIX, prefix))
    return kept


def is_secure(scope: Any, trusted: TrustedProxies) -> bool:
    """Tell whether the client uses TLS, by the word of the peer if it is *trusted* and says so."""
    peer = Peer.of(scope, lowered(scope["headers"]))
    claims = field_values(scope["headers"], _PROTO)
    if claims and trusted.trusts(peer):
        # Of a list, only the last entry is the peer's own.
        return claims[-1].rpartition(b",")[2].strip().lower() in (b"https", b"wss")
    return peer.secure


def _extended(
    headers: Sequence[Header], peer: Peer, *, prefix: bytes, forwarded: ForwardedMode
) -> list[Header]:
    ours = {_PREFIX: b"".join([*field_values(headers, _PREFIX)[-1:], prefix])}
    if peer.address is not None:
        ours[_FOR] = b", ".join([*field_values(headers, _FOR), peer.text])
        for name, value in ((_PROTO, peer.proto), (_HOST, peer.host), (_PORT, peer.port)):
            ours[name] = [value, *field_values(headers, name)][-1]
        if forwarded:
            ours[_FORWARDED] = b", ".join([*field_values(headers, _FORWARDED), _element(peer)])
    kept = [
        (name, value)
        for name, value in headers
        # A trusted peer has no need of a second spelling; what crosses with one, it did not write.
        if spelled(name) not in ours and not (b"_" in name and grants_trust(name))
    ]
    return kept + [(name, value) for name, value in ours.items() if value]


def _element(peer: Peer) -> bytes:
    """Return one element of ``Forwarded`` (RFC 7239, 4)."""
    node = b'"[%b]"' % peer.text if isinstance(peer.address, IPv6Address) else peer.text
    host = peer.host.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'for=%s;host="%s";proto=%s' % (node, host, peer.proto)


def via_headers(headers: list[Header], via: bytes, http_version: str) -> list[Header]:
    """Return *headers* with our entry in ``Via`` (RFC 9110, 7.6.3); an empty *via* adds none."""
    if via:
        headers.append((b"via", http_version.encode() + b" " + via))
    return headers
