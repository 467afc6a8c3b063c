"""The kinds of session affinity: where a client keeps the key of its upstream."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, cast

from ..exceptions import ConfigurationError
from .binding import Affinity, Failure, Keys, secret_bytes
from .cookies import LONGEST, cookie_values
from .forwarded import is_secure
from .headers import field_values
from .names import HOP_BY_HOP, Header, grants_trust, is_name
from .policy import DEFAULT_POLICY
from .upstream import Upstream

__all__ = ["CookieAffinity", "HeaderAffinity"]

SameSite = Literal["lax", "strict", "none"]

_SHORTEST_SECRET = 16
_DOMAIN = re.compile(r"\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_PATH = re.compile(r"/[!-:<-~]*")
#: Browsers take cookies with such names only if they are secure (RFC 6265bis, 4.1.3).
_HOST_PREFIX, _SECURE_PREFIXES = "__host-", ("__host-", "__secure-")
_MESSAGES_OWN = frozenset(
    b"content-encoding content-length content-type cookie date expect host server set-cookie "
    b"vary www-authenticate".split()
)


@dataclass(frozen=True, slots=True, eq=False)
class CookieAffinity(Affinity):
    """Bind clients to upstreams by a cookie.

    The cookie goes to the upstream like any other.

    Attributes:
        name: The cookie's name; give each pool its own if they share ``path`` and host. A name that
            begins with ``__Host-`` can be set by this host alone, not by a sibling domain
            (RFC 6265bis, 4.1.3).
        secret: What keys are made with, of 16 bytes or more. Processes with the same secret and the
            same upstreams understand each other's keys, and a restart changes none. ``None``: a
            random one; set it wherever there is more than one process.
        failure: When the upstream that a client is bound to cannot serve: ``"redistribute"``, bind
            the client to another one (YARP's default), or ``"refuse"``, answer 503.
        path: The cookie's ``Path``.
        domain: The cookie's ``Domain``. Default: none, so only this host gets it.
        max_age: The cookie's ``Max-Age`` in seconds, after which the client is bound anew however
            active it was. Default: until the browser is closed.
        http_only: Hide the cookie from scripts.
        secure: Send the cookie over TLS only. Default: if the client uses TLS, as the server or a
            proxy in ``trusted_proxies`` says, or ``name`` or ``same_site`` ask for it.
        same_site: ``"lax"``, ``"strict"``, ``"none"``, or ``None`` to leave it to the browser.

    Raises:
        ConfigurationError: A value cannot be used; every mistake is reported.
    """

    name: str = "proxy_affinity"
    _: KW_ONLY
    secret: str | bytes | None = field(default=None, repr=False)
    failure: Failure = "redistribute"
    path: str = "/"
    domain: str | None = None
    max_age: int | None = None
    http_only: bool = True
    secure: bool | None = None
    same_site: SameSite | None = "lax"
    _keys: Keys = field(init=False, repr=False)
    _name: bytes = field(init=False, repr=False)
    _attributes: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        mistakes = [
            *_common_mistakes("cookie", self.name, self.secret, self.failure),
            *self._mistaken_attributes(),
            *self._mistaken_security(),
        ]
        if mistakes:
            raise ConfigurationError([f"affinity: {mistake}" for mistake in mistakes])
        object.__setattr__(self, "_keys", Keys(self.secret))
        object.__setattr__(self, "_name", self.name.encode())
        object.__setattr__(self, "_attributes", self._joined_attributes())

    @property
    def place(self) -> tuple[str, ...]:
        """Where the client keeps its key."""
        return ("cookie", self.name, self.domain or "", self.path)

    def _values(self, headers: Sequence[Header]) -> list[bytes]:
        return cookie_values(headers, self._name)

    def _issued(self, key: str, scope: Any, upstream: Upstream) -> Header:
        secure = self.secure
        if secure is None:
            policy = upstream.policy or DEFAULT_POLICY
            secure = self._needs_secure or is_secure(scope, policy.trusted_proxies)
        attributes = self._attributes + (b"; Secure" if secure else b"")
        return (b"set-cookie", self._name + b"=" + key.encode() + attributes)

    @property
    def _needs_secure(self) -> bool:
        # Browsers drop such cookies without it, also from a server behind one that has the TLS.
        return self.same_site == "none" or self.name.lower().startswith(_SECURE_PREFIXES)

    def _joined_attributes(self) -> bytes:
        attributes = [f"Path={self.path}"]
        if self.domain is not None:
            attributes.append(f"Domain={self.domain}")
        if self.max_age is not None:
            attributes.append(f"Max-Age={self.max_age}")
        if self.http_only:
            attributes.append("HttpOnly")
        if self.same_site is not None:
            attributes.append(f"SameSite={self.same_site.capitalize()}")
        return "".join(f"; {attribute}" for attribute in attributes).encode()

    def _mistaken_attributes(self) -> list[str]:
        mistakes = []
        path: object = self.path
        domain: object = self.domain
        if not (isinstance(path, str) and _PATH.fullmatch(path)):
            mistakes.append(f"path must begin with / and hold no ; or control, not {path!r}")
        if not (domain is None or (isinstance(domain, str) and _DOMAIN.fullmatch(domain))):
            mistakes.append(f"domain must be a name like app.example, not {domain!r}")
        if self.max_age is not None and not (type(self.max_age) is int and self.max_age > 0):
            mistakes.append(f"max_age must be a whole number from 1, not {self.max_age!r}")
        if self.same_site not in ("lax", "strict", "none", None):
            mistakes.append(
                f"same_site must be 'lax', 'strict', 'none' or None, not {self.same_site!r}"
            )
        return mistakes

    def _mistaken_security(self) -> list[str]:
        mistakes = []
        http_only, secure = cast("object", self.http_only), cast("object", self.secure)
        if not isinstance(http_only, bool):
            mistakes.append(f"http_only must be True or False, not {http_only!r}")
        if not isinstance(secure, bool | None):
            mistakes.append(f"secure must be True, False or None, not {secure!r}")
        name = str(self.name)
        if self.secure is False and self.same_site == "none":
            mistakes.append("browsers drop a cookie with same_site 'none' that is not secure")
        if self.secure is False and name.lower().startswith(_SECURE_PREFIXES):
            mistakes.append(f"browsers drop a cookie called {name!r} that is not secure")
        if name.lower().startswith(_HOST_PREFIX) and (self.path != "/" or self.domain is not None):
            mistakes.append(f"browsers drop a cookie called {name!r} with a path or a domain")
        return mistakes


@dataclass(frozen=True, slots=True, eq=False)
class HeaderAffinity(Affinity):
    """Bind clients to upstreams by a header, for clients that keep no cookies.

    The response has the header when the binding is new; the client sends it with every request from
    then on. It goes to the upstream like any other.

    Attributes:
        name: The header's name, in requests and in responses.
        secret: As of ``CookieAffinity``.
        failure: As of ``CookieAffinity``.

    Raises:
        ConfigurationError: A value cannot be used; every mistake is reported.
    """

    name: str
    _: KW_ONLY
    secret: str | bytes | None = field(default=None, repr=False)
    failure: Failure = "redistribute"
    _keys: Keys = field(init=False, repr=False)
    _name: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        mistakes = _common_mistakes("header", self.name, self.secret, self.failure)
        name = str(self.name).lower().encode("ascii", "replace")
        if name in HOP_BY_HOP or name in _MESSAGES_OWN or grants_trust(name):
            mistakes.append(f"header {self.name!r} has a meaning of its own")
        if mistakes:
            raise ConfigurationError([f"affinity: {mistake}" for mistake in mistakes])
        object.__setattr__(self, "_keys", Keys(self.secret))
        object.__setattr__(self, "_name", name)

    @property
    def place(self) -> tuple[str, ...]:
        """Where the client keeps its key."""
        return ("header", self.name.lower())

    def _values(self, headers: Sequence[Header]) -> list[bytes]:
        return [
            value.strip(b" \t")
            for line in field_values(headers, self._name)
            if len(line) <= LONGEST
            for value in line.split(b",")
        ]

    def _issued(self, key: str, scope: Any, upstream: Upstream) -> Header:
        return (self._name, key.encode())


def _common_mistakes(kind: str, name: object, secret: object, failure: object) -> list[str]:
    mistakes = []
    if not (isinstance(name, str) and name.isascii() and is_name(name.encode())):
        mistakes.append(f"{kind} name must be a token (RFC 9110, 5.6.2), not {name!r}")
    if not (secret is None or (isinstance(secret, str | bytes) and _is_long(secret))):
        # What is wrong is never shown: it may be right but for a letter.
        mistakes.append(f"secret must be a str or bytes of at least {_SHORTEST_SECRET} bytes")
    if failure not in ("redistribute", "refuse"):
        mistakes.append(f"failure must be 'redistribute' or 'refuse', not {failure!r}")
    return mistakes


def _is_long(secret: str | bytes) -> bool:
    return len(secret_bytes(secret)) >= _SHORTEST_SECRET
