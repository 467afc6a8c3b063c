"""Settings of splits between pools, and of what binds clients to upstreams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from ..core.affinity import CookieAffinity, HeaderAffinity
from ..core.binding import Affinity
from ..core.pool import UpstreamPool
from ..core.split import Canary, Split
from ..reading import listed, weighted
from .sections import Section

__all__ = ["AffinitySettings", "CanarySettings", "SplitSettings"]


class AffinitySettings(Section):
    """The fields of ``CookieAffinity``, or of ``HeaderAffinity`` where a header is named.

    Attributes:
        cookie: The name of the cookie.
        header: The name of the header, instead of a cookie.
        secret: What keys are made with. Set it wherever there is more than one process.
        failure: What happens when the upstream that a client is bound to cannot serve.
        path: The cookie's ``Path``.
        domain: The cookie's ``Domain``.
        max_age: The cookie's ``Max-Age``, in seconds.
        http_only: Hide the cookie from scripts.
        secure: Send the cookie over TLS only.
        same_site: The cookie's ``SameSite``.
    """

    cookie: str = "proxy_affinity"
    header: str | None = None
    secret: SecretStr | None = None
    failure: Literal["redistribute", "refuse"] = "redistribute"
    path: str = "/"
    domain: str | None = None
    max_age: int | None = None
    http_only: bool = True
    secure: bool | None = None
    same_site: Literal["lax", "strict", "none"] | None = "lax"

    @model_validator(mode="after")
    def _usable(self) -> AffinitySettings:
        if self.header is not None and self.model_fields_set - {"header", "secret", "failure"}:
            raise ValueError("what is said of a cookie has no meaning for a header")
        self.build()
        return self

    def build(self) -> Affinity:
        """Return the affinity."""
        secret = self.secret.get_secret_value() if self.secret is not None else None
        if self.header is not None:
            return HeaderAffinity(self.header, secret=secret, failure=self.failure)
        return CookieAffinity(
            self.cookie,
            secret=secret,
            failure=self.failure,
            path=self.path,
            domain=self.domain,
            max_age=self.max_age,
            http_only=self.http_only,
            secure=self.secure,
            same_site=self.same_site,
        )


class CanarySettings(Section):
    """The fields of ``Canary``; the pool by its name."""

    pool: str
    header: str | None = None
    cookie: str | None = None
    value: str | None = None
    fallback: bool = False

    def build(self, pools: Mapping[str, UpstreamPool]) -> Canary:
        """Return the rule."""
        return Canary(
            pools[self.pool],
            header=self.header,
            cookie=self.cookie,
            value=self.value,
            fallback=self.fallback,
        )


class SplitSettings(Section):
    """Traffic that several pools share.

    Attributes:
        pools: Their weights, by their names, as a line like ``stable:95,canary:5`` or as JSON.
        canaries: Who gets which of them by a header or a cookie, as JSON.
        prefix: The path prefix; empty is everything.
    """

    pools: Annotated[dict[str, int], NoDecode, BeforeValidator(weighted), Field(min_length=1)]
    canaries: Annotated[tuple[CanarySettings, ...], NoDecode, BeforeValidator(listed)] = ()
    prefix: str = Field(default="", pattern=r"^(/[^/]+)*$")

    @property
    def used(self) -> set[str]:
        """The names of the pools that it needs."""
        return {*self.pools, *(canary.pool for canary in self.canaries)}

    def build(self, name: str, pools: Mapping[str, UpstreamPool]) -> Split:
        """Return the split.

        Raises:
            ConfigurationError: Its weights or canaries cannot work.
        """
        return Split(
            {pools[pool]: weight for pool, weight in self.pools.items()},
            rules=[canary.build(pools) for canary in self.canaries],
            name=name,
        )
