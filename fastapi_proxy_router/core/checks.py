"""How the health of a pool's upstreams is judged."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from ..exceptions import ConfigurationError
from .headers import is_value
from .limits import mistaken_count, mistaken_number, mistaken_seconds
from .names import HOP_BY_HOP, is_name

__all__ = ["Ejection", "HealthCheck", "ProbeResult", "mistaken_share", "mistaken_statuses"]

#: What frames a request and rules its connection.
_MANAGED = HOP_BY_HOP - {b"alt-svc", b"upgrade-insecure-requests"} | {b"content-length"}

#: As it is sent: no fragment, nothing that would have to be encoded.
_PATH = re.compile(r"/[!-\"$-~]*")
_SURROGATE = re.compile("[\ud800-\udfff]")


def mistaken_share(name: str, value: object) -> list[str]:
    """Return the mistake in *value* if it is no share, above 0 and up to 1."""
    usable = value != 0 and not mistaken_number(name, value, highest=1)
    return [] if usable else [f"{name} must be above 0 and at most 1, not {value!r}"]


def mistaken_statuses(name: str, values: object) -> list[str]:
    """Return the mistakes in *values* that are no status of a final response."""
    if isinstance(values, str) or not isinstance(values, Collection):
        return [f"{name} must be a set of statuses, not {values!r}"]
    return [
        f"{name}: {value!r} is no status from 200 to 599"
        for value in values
        if type(value) is not int or not 200 <= value <= 599
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """Active health checks: every upstream is asked how it is, at an interval.

    All are asked before the first request is served. A redirect is not followed.

    Attributes:
        path: What is asked for, with a query if there is one. It is not below the upstream's base
            path.
        method: ``HEAD``, which becomes ``GET`` for an upstream that answers it with 405 or 501, or
            ``GET``.
        headers: Headers of the probe; a ``Host`` replaces the upstream's own.
        statuses: What a healthy upstream answers. Default: 200 to 399 (Kubernetes' rule).
        body: Text that must be in the first 64 KiB of the answer's body; ``GET`` is used then.
        interval: Seconds between two probes.
        jitter: The share of the interval by which it varies, so that many gateways do not probe at
            the same moment.
        timeout: Seconds until the answer has to be here.
        rise: Probes in a row that must pass until an unhealthy upstream is healthy.
        fall: Probes in a row that must fail until a healthy upstream is unhealthy (YARP's default).
        port: The port to probe, if it is not the upstream's own.

    Raises:
        ConfigurationError: A value cannot be used; every mistake is reported.
    """

    path: str = "/"
    method: str = "HEAD"
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    statuses: AbstractSet[int] = frozenset(range(200, 400))
    body: str | None = None
    interval: float = 10.0
    jitter: float = 0.1
    timeout: float = 5.0
    rise: int = 1
    fall: int = 2
    port: int | None = None

    def __post_init__(self) -> None:
        mistakes = _mistaken_headers(self.headers)
        if not _is_text(self.path) or not _PATH.fullmatch(self.path):
            mistakes.append(f"path {self.path!r} must begin with / and be percent-encoded")
        if self.method not in ("HEAD", "GET"):
            mistakes.append(f"method must be HEAD or GET, not {self.method!r}")
        mistakes += mistaken_statuses("statuses", self.statuses)
        if not self.statuses:
            mistakes.append("statuses must not be empty")
        if self.body is not None and not (_is_text(self.body) and self.body):
            mistakes.append(f"body must be a text that is not empty, not {self.body!r}")
        mistakes += mistaken_seconds("interval", self.interval)
        mistakes += mistaken_number("jitter", self.jitter, highest=0.99)
        mistakes += mistaken_seconds("timeout", self.timeout)
        mistakes += mistaken_count("rise", self.rise)
        mistakes += mistaken_count("fall", self.fall)
        if self.port is not None and not (type(self.port) is int and 0 < self.port < 65536):
            mistakes.append(f"port must be from 1 to 65535, not {self.port!r}")
        if mistakes:
            raise ConfigurationError([f"health check: {mistake}" for mistake in mistakes])
        # Ours: whoever gave them may change them.
        object.__setattr__(self, "headers", dict(self.headers))
        object.__setattr__(self, "statuses", frozenset(self.statuses))


def _mistaken_headers(headers: object) -> list[str]:
    if not isinstance(headers, Mapping):
        return [f"headers must be a mapping of names to values, not {headers!r}"]
    mistakes = [
        f"header {name!r} cannot be sent"
        for name, value in headers.items()
        if not (_is_text(name) and _is_text(value))
        or not (is_name(name.encode()) and is_value(value.encode()))
        or name.lower().encode() in _MANAGED
    ]
    if len({str(name).lower() for name in headers}) < len(headers):
        mistakes.append("a header is given twice")
    return mistakes


def _is_text(value: object) -> bool:
    """Tell whether *value* is text that has an encoding; half a surrogate pair has none."""
    return isinstance(value, str) and not _SURROGATE.search(value)


class ProbeResult(NamedTuple):
    """What came of one health check.

    Attributes:
        ok: Whether the upstream has passed it.
        seconds: How long it took.
        status: The status of the answer, if one has come.
        reason: Why it has not passed; empty if it has.
        ours: It could not be sent for want of something on our side, such as file descriptors,
            which says nothing about the upstream.
    """

    ok: bool
    seconds: float
    status: int | None = None
    reason: str = ""
    ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ejection:
    """Passive health: an upstream that fails requests is left alone for a while.

    This is also the circuit breaker of each upstream. What counts is what requests meet: no
    connection, no answer in time, a connection that breaks off, an answer that is not HTTP, and the
    statuses that are chosen. A client that leaves and what is our own fault do not count.

    After its time an upstream gets one request as a trial. Its answer brings the upstream back, its
    failure ejects it for twice as long.

    Attributes:
        consecutive: Failures in a row that eject (Envoy's default); ``None``: any number. An
            answer that is still coming ends a row of those that had none.
        rate: The share of failures in the window that ejects; ``None``: any share.
        window: Seconds that the rate looks back. For each that passes without an ejection, one of
            those before is forgotten (Envoy's rule).
        min_requests: Requests in the window below which the rate says nothing.
        statuses: Statuses of responses that count as failures. Default: none, because an answer is
            an answer.
        base_time: Seconds of the first ejection (nginx's ``fail_timeout``). It doubles each time.
            An upstream that probes find unhealthy, and then healthy, gets its trial at once.
        max_time: Seconds of the longest ejection (Envoy's).
        max_share: The share of the pool that may be ejected at the same time, so that the rest is
            not overloaded. Upstreams of weight 0 are not counted. Of a pool of one nothing is
            ejected unless it is 1.
        slow_start: Seconds in which the weight of an upstream that is back grows from a tenth to
            the whole; 0 is none.

    Raises:
        ConfigurationError: A value cannot be used; every mistake is reported.
    """

    consecutive: int | None = 5
    rate: float | None = 0.5
    window: float = 10.0
    min_requests: int = 20
    statuses: AbstractSet[int] = frozenset()
    base_time: float = 10.0
    max_time: float = 300.0
    max_share: float = 0.5
    slow_start: float = 0.0

    def __post_init__(self) -> None:
        mistakes: list[str] = []
        if self.consecutive is not None:
            mistakes += mistaken_count("consecutive", self.consecutive)
        if self.rate is not None:
            mistakes += mistaken_share("rate", self.rate)
        mistakes += mistaken_seconds("window", self.window)
        mistakes += mistaken_count("min_requests", self.min_requests)
        mistakes += mistaken_statuses("statuses", self.statuses)
        mistakes += mistaken_seconds("base_time", self.base_time)
        mistakes += mistaken_seconds("max_time", self.max_time)
        mistakes += mistaken_share("max_share", self.max_share)
        mistakes += mistaken_seconds("slow_start", self.slow_start, or_none=True)
        if not mistakes and self.max_time < self.base_time:
            mistakes.append(f"max_time must be at least base_time, which is {self.base_time}")
        if self.consecutive is None and self.rate is None:
            mistakes.append("consecutive or rate must be given; no Ejection at all is never")
        if mistakes:
            raise ConfigurationError([f"ejection: {mistake}" for mistake in mistakes])
        object.__setattr__(self, "statuses", frozenset(self.statuses))
