"""The request as it is about to be sent to an upstream, for hooks to change."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders

from .core.guard import is_host
from .core.headers import is_value
from .core.names import HOP_BY_HOP, Header, is_name, spelled
from .core.outbound import Outbound
from .core.target import check_path, check_query
from .exceptions import RequestRefused

__all__ = ["OutboundRequest"]

#: They follow from the message and the connection.
_MANAGED = HOP_BY_HOP | {b"content-length", b"expect"}


class OutboundHeaders(MutableHeaders):
    """Headers, of which one that is set replaces every spelling that the client sent."""

    def __setitem__(self, key: str, value: str) -> None:
        del self[key]
        self.append(key, value)

    def setdefault(self, key: str, value: str) -> str:
        if key not in self:
            self[key] = value
        return self[key]

    def __delitem__(self, key: str) -> None:
        gone = spelled(key.encode("latin-1"))
        self._list[:] = [pair for pair in self._list if spelled(pair[0]) != gone]


class OutboundRequest:
    """A request that is about to be sent: hop-by-hop headers gone, ours and all overrides in place.

    What is changed here is sent. The body is not here, and neither headers that follow from it or
    from the connection (``Content-Length``, ``Transfer-Encoding``, ``Connection`` ...) nor the
    method may be changed. It is made anew for each try (Pingora's ``upstream_request_filter``, Go's
    ``Rewrite``).

    Attributes:
        method: The method.
        path: The path, raw, with the upstream's base path.
        query: The query, raw, without its ``?``.
        headers: The headers, ``Host`` among them. One that is set replaces every line of the name,
            however it is spelled.
    """

    def __init__(self, sent: Outbound) -> None:
        self._sent = sent
        self.path, _, self.query = sent.target.partition(b"?")
        self.headers = OutboundHeaders(raw=list(sent.headers))

    @property
    def method(self) -> str:
        """The method."""
        return self._sent.method

    def sealed(self) -> Outbound:
        """Return what is sent.

        Raises:
            ValueError: It would not be one request as HTTP knows it.
        """
        self._check_target()
        headers = [(name.lower(), value) for name, value in self.headers.raw]
        self._check(headers)
        hosts = [pair for pair in headers if pair[0] == b"host"]
        rest = [pair for pair in headers if pair[0] != b"host"]
        target = self.path + b"?" + self.query if self.query else self.path
        return self._sent._replace(target=target, headers=[*hosts, *rest])

    def _check_target(self) -> None:
        if not all(isinstance(part, bytes) for part in (self.path, self.query)):
            raise TypeError("an on_send hook set a path or a query that is not bytes")
        try:
            check_path(self.path or b"?")
            check_query(self.query)
        except RequestRefused as error:
            raise ValueError(f"{error.reason} after an on_send hook") from None

    def _check(self, headers: list[Header]) -> None:
        for name, value in headers:
            if not is_name(name) or not is_value(value):
                raise ValueError(f"an on_send hook set an illegal header: {name!r}")
        if _managed(headers) != _managed(self._sent.headers):
            raise ValueError("an on_send hook changed a header that belongs to the connection")
        hosts = [value for name, value in headers if spelled(name) == b"host"]
        given = self._sent.headers[0][1]
        if len(hosts) != 1 or (hosts[0] != given and not is_host(hosts[0])):
            raise ValueError("an on_send hook left no single Host that can be one")


def _managed(headers: list[Header]) -> list[Header]:
    return [pair for pair in headers if _is_managed(spelled(pair[0]))]


def _is_managed(name: bytes) -> bool:
    # Those of a handshake are ours, and a second key or coding would be another handshake.
    return name in _MANAGED or name.startswith(b"sec-websocket-")
