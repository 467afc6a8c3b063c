"""Settings from the environment: ``PROXY_*`` variables and a ``.env`` file."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from .core.forwarded import TrustedProxies
from .core.policy import Timeout, policy_from
from .core.pool import UpstreamPool
from .core.upstream import Upstream
from .core.websocket import WebSocketOptions
from .overrides import RouteOverride, Seconds

__all__ = [
    "PoolSettings",
    "ProxySettings",
    "TimeoutSettings",
    "UpstreamSettings",
    "WebSocketSettings",
]


def _listed(value: Any) -> Any:
    """Read a list from JSON or, for names and URLs, from a comma-separated line."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"not valid JSON: {error}") from None
    return [part.strip() for part in value.split(",") if part.strip()]


def _proxies(value: tuple[str, ...]) -> tuple[str, ...]:
    TrustedProxies(value)
    return value


def _pseudonym(value: str) -> str:
    policy_from({"via": value})
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeoutSettings(_Section):
    """The deadlines of ``Timeout``, in seconds; ``null`` is no limit."""

    connect: Seconds | None = 5.0
    response: Seconds | None = 60.0
    idle: Seconds | None = 300.0
    pool: Seconds | None = 5.0
    total: Seconds | None = None


def _origins(value: tuple[str, ...]) -> tuple[str, ...]:
    WebSocketOptions(allowed_origins=value)
    return value


class WebSocketSettings(_Section):
    """The fields of ``WebSocketOptions``; ``null`` is no limit, no pings, or any origin."""

    max_message_size: int | None = Field(default=16 * 1024 * 1024, gt=0)
    compression: bool = False
    ping_interval: Seconds | None = 20.0
    ping_timeout: Seconds | None = 20.0
    idle: Seconds | None = None
    lifetime: Seconds | None = None
    allowed_origins: (
        Annotated[tuple[str, ...], BeforeValidator(_listed), AfterValidator(_origins)] | None
    ) = None


class UpstreamSettings(_Section):
    """One upstream: its URL and its share of the traffic."""

    url: str
    weight: int = Field(default=1, ge=0)

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
        return Upstream(self.url, weight=self.weight)


class PoolSettings(_Section):
    """One pool and the prefix it serves.

    Attributes:
        upstreams: URLs, as a comma-separated line or as JSON; in JSON, objects with ``url`` and
            ``weight`` too.
        prefix: The path prefix it serves; empty is everything.
        preserve_host: Send the client's ``Host``.
        forwarded: Send RFC 7239 ``Forwarded`` as well.
        via: The name to give in ``Via``.
        timeout: Its own deadlines; those it does not set are those for all pools.
        websocket: Its own limits for WebSockets, likewise.
    """

    upstreams: Annotated[
        list[UpstreamSettings], NoDecode, BeforeValidator(_listed), Field(min_length=1)
    ]
    prefix: str = Field(default="", pattern=r"^(/[^/]+)*$")
    preserve_host: bool = False
    forwarded: bool = False
    via: Annotated[str, AfterValidator(_pseudonym)] = ""
    timeout: TimeoutSettings = TimeoutSettings()
    websocket: WebSocketSettings = WebSocketSettings()

    def build(self, name: str, settings: ProxySettings) -> UpstreamPool:
        """Return the pool, with what *settings* says for all pools."""
        timeout = settings.timeout.model_copy(update=self.timeout.model_dump(exclude_unset=True))
        websocket = settings.websocket.model_copy(
            update=self.websocket.model_dump(exclude_unset=True)
        )
        return UpstreamPool(
            [upstream.build() for upstream in self.upstreams],
            name=name,
            preserve_host=self.preserve_host,
            forwarded=self.forwarded,
            via=self.via,
            trusted_proxies=settings.trusted_proxies,
            timeout=Timeout(**timeout.model_dump()),
            websocket=WebSocketOptions(**websocket.model_dump()),
        )


def _distinct(pools: dict[str, PoolSettings]) -> dict[str, PoolSettings]:
    if not pools:
        raise ValueError("no pool is set; set PROXY_POOLS__<name>__UPSTREAMS to a URL")
    prefixes = [pool.prefix for pool in pools.values()]
    if twice := {prefix for prefix in prefixes if prefixes.count(prefix) > 1}:
        raise ValueError(f"several pools have the prefix {sorted(twice)}")
    return pools


class _Strict(EnvSettingsSource):
    """Hands unknown ``PROXY_*`` variables to the model, which forbids them, and no others.

    pydantic-settings ignores those of the environment and forbids every unknown line of ``.env``.
    """

    def __call__(self) -> dict[str, Any]:
        values = EnvSettingsSource.__call__(self)
        known = {f"{self.env_prefix}{name}".lower() for name in self.settings_cls.model_fields}
        for variable, value in self.env_vars.items():
            name = variable.lower()
            if name.startswith(self.env_prefix.lower()) and name.partition("__")[0] not in known:
                values[name.upper()] = value
        return values


class _StrictEnvFile(_Strict, DotEnvSettingsSource):
    pass


class ProxySettings(BaseSettings):
    """What a gateway needs to know, from ``PROXY_*`` variables or a ``.env`` file.

    ``__`` goes one level down: ``PROXY_POOLS__USERS__UPSTREAMS=http://a:8000,http://b:8000`` and
    ``PROXY_POOLS__USERS__PREFIX=/users``. A variable that is not known is an error.

    Attributes:
        pools: The pools, by a name of your choice.
        prefix: The router's prefix.
        strip_prefix: Whether prefixes are kept from the upstream.
        trusted_proxies: Addresses and CIDRs of peers whose forwarding headers are believed,
            comma-separated or as JSON.
        timeout: The deadlines for all pools.
        websocket: The limits for WebSockets for all pools.
        overrides: Declared overrides, as JSON.

    Raises:
        pydantic.ValidationError: A value is wrong or unknown; every mistake is reported.
    """

    model_config = SettingsConfigDict(
        env_prefix="PROXY_",
        env_nested_delimiter="__",
        env_parse_none_str="null",
        env_file=".env",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    pools: Annotated[
        dict[str, PoolSettings], AfterValidator(_distinct), Field(validate_default=True)
    ] = {}
    prefix: str = Field(default="", pattern=r"^(/[^/]+)*$")
    strip_prefix: bool = True
    trusted_proxies: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_proxies)
    ] = ()
    timeout: TimeoutSettings = TimeoutSettings()
    websocket: WebSocketSettings = WebSocketSettings()
    overrides: tuple[RouteOverride, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment and its file strictly; the order is pydantic-settings' own."""
        env_file = getattr(dotenv_settings, "env_file", None)
        return (
            init_settings,
            _Strict(settings_cls),
            _StrictEnvFile(settings_cls, env_file),
            file_secret_settings,
        )
