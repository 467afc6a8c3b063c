"""Settings from the environment: ``PROXY_*`` variables and a ``.env`` file."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from ..core.forwarded import TrustedProxies
from ..core.pool import UpstreamPool
from ..core.split import Split, contested
from ..overrides import RouteOverride, duplicates
from ..reading import listed
from .pools import PoolSettings
from .sections import TimeoutSettings, WebSocketSettings
from .splits import SplitSettings

__all__ = ["ProxySettings"]


def _proxies(value: tuple[str, ...]) -> tuple[str, ...]:
    TrustedProxies(value)
    return value


def _some(pools: dict[str, PoolSettings]) -> dict[str, PoolSettings]:
    if not pools:
        raise ValueError("no pool is set; set PROXY_POOLS__<name>__UPSTREAMS to a URL")
    return pools


class Built(NamedTuple):
    """What settings describe.

    Attributes:
        routed: The pools and splits by the prefix that they serve.
        named: The pools that overrides name and that serve no prefix.
    """

    routed: dict[str, UpstreamPool | Split]
    named: list[UpstreamPool]


def _routed(settings: ProxySettings) -> dict[str, PoolSettings]:
    """Return the pools that serve a prefix: one that others use has to say so."""
    pools = settings.pools
    used = {pool.mirror.pool for pool in pools.values() if pool.mirror is not None}
    used.update(*(split.used for split in settings.splits.values()))
    used |= _named(settings)
    return {
        name: pool
        for name, pool in pools.items()
        if name not in used or "prefix" in pool.model_fields_set
    }


def _named(settings: ProxySettings) -> set[str]:
    names = {override.pool for override in settings.overrides}
    return {name for name in settings.pools if name in names}


def _mistakes(settings: ProxySettings) -> list[str]:
    """Return what does not fit together, by names, prefixes and routes."""
    pools, splits = settings.pools, settings.splits
    mistakes = [
        f"pool {name!r} is copied to {pool.mirror.pool!r}, which is no other pool without copies"
        for name, pool in pools.items()
        if pool.mirror is not None
        and (pool.mirror.pool not in pools or pools[pool.mirror.pool].mirror is not None)
    ]
    mistakes += [
        f"split {name!r} needs {sorted(split.used - pools.keys())}, which is no pool"
        for name, split in splits.items()
        if split.used - pools.keys()
    ]
    mistakes += [
        f"{override.label}: pool {override.pool!r} is not the name of one pool or split"
        for override in settings.overrides
        if override.pool is not None and (override.pool in pools) == (override.pool in splits)
    ]
    mistakes += duplicates(settings.overrides)
    prefixes = [pool.prefix for pool in _routed(settings).values()]
    prefixes += [split.prefix for split in splits.values()]
    if not prefixes:
        mistakes.append("no pool serves a prefix; set PROXY_POOLS__<name>__PREFIX of one")
    if twice := {prefix for prefix in prefixes if prefixes.count(prefix) > 1}:
        mistakes.append(f"several pools have the prefix {sorted(twice)}")
    return mistakes


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

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Read JSON, but not where text is meant: a health check may look for ``{"ok": true}``."""
        if field_name.lower() == "body":
            return value
        return super().decode_complex_value(field_name, field, value)


class _StrictEnvFile(_Strict, DotEnvSettingsSource):
    pass


class ProxySettings(BaseSettings):
    """What a gateway needs to know, from ``PROXY_*`` variables or a ``.env`` file.

    ``__`` goes one level down: ``PROXY_POOLS__USERS__UPSTREAMS=http://a:8000,http://b:8000`` and
    ``PROXY_POOLS__USERS__PREFIX=/users``. A variable that is not known is an error.

    Attributes:
        pools: The pools, by a name of your choice.
        splits: Traffic that several of the pools share, likewise.
        prefix: The router's prefix.
        strip_prefix: Whether prefixes are kept from the upstream.
        trusted_proxies: Addresses and CIDRs of peers whose forwarding headers are believed,
            comma-separated or as JSON.
        timeout: The deadlines for all pools.
        websocket: The limits for WebSockets for all pools.
        overrides: Declared overrides, as a list in JSON. The pools that they name serve no prefix
            unless they say so.

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
        dict[str, PoolSettings], AfterValidator(_some), Field(validate_default=True)
    ] = {}
    splits: dict[str, SplitSettings] = {}
    prefix: str = Field(default="", pattern=r"^(/[^/]+)*$")
    strip_prefix: bool = True
    trusted_proxies: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(listed), AfterValidator(_proxies)
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

    @model_validator(mode="after")
    def _consistent(self) -> ProxySettings:
        if mistakes := _mistakes(self):
            raise ValueError("; ".join(mistakes))
        if mistakes := contested(self.build()):
            raise ValueError("; ".join(mistakes))
        return self

    def build(self) -> dict[str, UpstreamPool | Split]:
        """Return the pools and splits by the prefix that they serve."""
        return self.build_all().routed

    def build_all(self) -> Built:
        """Return them, and the pools that serve no prefix but are named by overrides."""
        built: dict[str, UpstreamPool] = {}
        # Those that nobody's requests are copied from come first, because some are copied to them.
        for name in sorted(self.pools, key=lambda name: self.pools[name].mirror is not None):
            built[name] = self.pools[name].build(name, self, built)
        routed = _routed(self)
        return Built(
            {
                **{pool.prefix: built[name] for name, pool in routed.items()},
                **{split.prefix: split.build(name, built) for name, split in self.splits.items()},
            },
            [built[name] for name in sorted(_named(self) - routed.keys())],
        )
