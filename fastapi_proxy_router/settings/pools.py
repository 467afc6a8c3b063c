"""Settings of pools and their upstreams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from ..core.balancers import balancer_named
from ..core.checks import Ejection, HealthCheck
from ..core.discovery import Resolve
from ..core.limits import Queue, RateLimit
from ..core.mirror import Mirror
from ..core.policy import Timeout, policy_from
from ..core.pool import UpstreamPool
from ..core.retry import Retry
from ..core.upstream import Upstream
from ..core.websocket import WebSocketOptions
from ..overrides import Forwarded, Seconds
from ..reading import fields_of, listed
from .sections import Section, TimeoutSettings, WebSocketSettings
from .splits import AffinitySettings

if TYPE_CHECKING:
    from .proxy import ProxySettings

__all__ = ["MirrorSettings", "PoolSettings", "UpstreamSettings"]


def _pseudonym(value: str) -> str:
    policy_from({"via": value})
    return value


def _balancer(value: str) -> str:
    balancer_named(value)
    return value


class UpstreamSettings(Section):
    """One upstream: its URL, its share of the traffic, and the other arguments of ``Upstream``."""

    url: str
    weight: int = Field(default=1, ge=0)
    backup: bool = False
    max_concurrent: int | None = Field(default=None, gt=0)
    rate_limit: Annotated[RateLimit, fields_of(RateLimit)] | None = None
    address: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _usable(self) -> UpstreamSettings:
        self.build()
        return self

    def build(self) -> Upstream:
        """Return the upstream."""
        return Upstream(
            self.url,
            weight=self.weight,
            backup=self.backup,
            max_concurrent=self.max_concurrent,
            rate_limit=self.rate_limit,
            address=self.address,
        )


class MirrorSettings(Section):
    """The fields of ``Mirror``; the shadow pool by its name."""

    pool: str
    share: float = Field(default=1.0, gt=0, le=1)
    body_limit: int = Field(default=64 * 1024, ge=0)
    max_concurrent: int = Field(default=100, gt=0)
    timeout: Seconds = 30.0


class PoolSettings(Section):
    """One pool and the prefix it serves.

    Attributes:
        upstreams: URLs, as a comma-separated line or as JSON; in JSON, objects with ``url`` and
            the other arguments of ``Upstream`` too.
        prefix: The path prefix it serves; empty is everything. A pool that others copy their
            requests to, that is part of a split, or that an override names, serves none unless it
            says so.
        balancer: The name of its balancer.
        health: The fields of ``HealthCheck``; without any there are no checks.
        ejection: The fields of ``Ejection``; ``null`` is never.
        resolve: The fields of ``Resolve``; without any, names are not looked up at an interval.
        retry: The fields of ``Retry``.
        panic: Whether all upstreams are used when none is healthy.
        affinity: How clients are bound to upstreams: the fields of ``AffinitySettings``; without
            any they are not.
        max_concurrent: The most exchanges of the pool at the same time.
        queue: The fields of ``Queue``; without any nobody waits.
        mirror: Where its requests are copied to.
        preserve_host: Send the client's ``Host``.
        forwarded: Send RFC 7239 ``Forwarded`` as well; ``none`` sends no forwarding headers at all.
        via: The name to give in ``Via``.
        keep_server_headers: Pass the upstream's ``Date`` and ``Server`` on.
        timeout: Its own deadlines; those it does not set are those for all pools.
        websocket: Its own limits for WebSockets, likewise.
    """

    upstreams: Annotated[
        list[UpstreamSettings], NoDecode, BeforeValidator(listed), Field(min_length=1)
    ]
    prefix: str = Field(default="", pattern=r"^(/[^/]+)*$")
    balancer: Annotated[str, AfterValidator(_balancer)] = "two_choices"
    health: Annotated[HealthCheck, fields_of(HealthCheck)] | None = None
    ejection: Annotated[Ejection, fields_of(Ejection)] | None = Ejection()
    resolve: Annotated[Resolve, fields_of(Resolve)] | None = None
    retry: Annotated[Retry, fields_of(Retry)] = Retry()
    affinity: AffinitySettings | None = None
    panic: bool = True
    max_concurrent: int | None = Field(default=None, gt=0)
    queue: Annotated[Queue, fields_of(Queue)] | None = None
    mirror: MirrorSettings | None = None
    preserve_host: bool = False
    forwarded: Forwarded = False
    via: Annotated[str, AfterValidator(_pseudonym)] = ""
    keep_server_headers: bool = False
    timeout: TimeoutSettings = TimeoutSettings()
    websocket: WebSocketSettings = WebSocketSettings()

    def build(
        self, name: str, settings: ProxySettings, shadows: Mapping[str, UpstreamPool]
    ) -> UpstreamPool:
        """Return the pool, with what *settings* says for all pools."""
        timeout = settings.timeout.model_copy(update=self.timeout.model_dump(exclude_unset=True))
        websocket = settings.websocket.model_copy(
            update=self.websocket.model_dump(exclude_unset=True)
        )
        return UpstreamPool(
            [upstream.build() for upstream in self.upstreams],
            name=name,
            balancer=self.balancer,
            health=self.health,
            ejection=self.ejection,
            resolve=self.resolve,
            retry=self.retry,
            affinity=self.affinity.build() if self.affinity is not None else None,
            panic=self.panic,
            max_concurrent=self.max_concurrent,
            queue=self.queue,
            mirror=self._mirror(shadows),
            preserve_host=self.preserve_host,
            forwarded=self.forwarded,
            via=self.via,
            keep_server_headers=self.keep_server_headers,
            trusted_proxies=settings.trusted_proxies,
            timeout=Timeout(**timeout.model_dump()),
            websocket=WebSocketOptions(**websocket.model_dump()),
        )

    def _mirror(self, shadows: Mapping[str, UpstreamPool]) -> Mirror | None:
        if (mirror := self.mirror) is None:
            return None
        return Mirror(
            pool=shadows[mirror.pool],
            share=mirror.share,
            body_limit=mirror.body_limit,
            max_concurrent=mirror.max_concurrent,
            timeout=mirror.timeout,
        )
