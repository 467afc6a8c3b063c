"""The pools of a router, by the prefixes that they serve and by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .core.options import PoolOptions
from .core.patterns import PathPattern
from .core.pool import UpstreamLike, UpstreamPool
from .core.split import Split, contested
from .exceptions import ConfigurationError
from .overrides import CompiledOverride

__all__ = ["Pool", "PoolLike", "as_pools", "by_name", "by_prefix"]

Pool = UpstreamPool | Split
PoolLike = UpstreamLike | UpstreamPool | Split | Sequence[UpstreamLike]


def by_prefix(
    upstreams: PoolLike | Mapping[str, PoolLike], options: Mapping[str, Any]
) -> dict[str, Pool]:
    """Return the pools by prefix, the deepest first, so that the first that matches is right."""
    given = upstreams if isinstance(upstreams, Mapping) else {"": upstreams}
    mistakes = [] if given else ["a ProxyRouter needs at least one upstream"]
    mistakes += [
        f"{name} is for a pool: ProxyRouter(UpstreamPool(..., {name}=...))"
        for name in options
        if name in PoolOptions.__annotations__
    ]
    pools: dict[str, Pool] = {}
    for path, entry in given.items():
        prefix = "" if path == "/" else path
        mistakes += _mistakes_in(prefix)
        if prefix in pools:
            mistakes.append(f"prefix {path!r} is given twice")
        try:
            pools[prefix] = (
                entry
                if isinstance(entry, UpstreamPool | Split)
                else UpstreamPool(entry, name=prefix)
            )
        except ConfigurationError as error:
            mistakes += error.mistakes
    if mistakes := mistakes or contested(pools):
        raise ConfigurationError(mistakes)
    return dict(sorted(pools.items(), key=lambda item: (-item[0].count("/"), "{" in item[0])))


def _mistakes_in(prefix: str) -> list[str]:
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        return [f"prefix {prefix!r} must begin with / and not end with it"]
    try:
        PathPattern(prefix or "/")
    except ValueError as error:
        return [f"prefix {prefix!r}: {error}"]
    return []


def as_pools(named_pools: object) -> tuple[Pool, ...]:
    """Return the pools that serve no prefix.

    Raises:
        ConfigurationError: They are something else.
    """
    given = named_pools if isinstance(named_pools, Iterable) else [named_pools]
    pools, usable = tuple(given), given is named_pools and not isinstance(named_pools, Mapping)
    if not usable or not all(isinstance(pool, UpstreamPool | Split) for pool in pools):
        mistake = "named_pools is a list of pools and splits that have names of their own"
        raise ConfigurationError([f"{mistake}, not {named_pools!r}"])
    return pools


def by_name(
    pools: Iterable[Pool], more: Iterable[Pool], overrides: Iterable[CompiledOverride]
) -> dict[str, Pool]:
    """Return pools by their names.

    Args:
        pools: Those that serve a prefix.
        more: Others.
        overrides: What may use their names.

    Raises:
        ConfigurationError: A name is used that none of them has, or several have.
    """
    named: dict[str, Pool] = {}
    mistakes = []
    for pool in (*pools, *more):
        if not pool.name and pool in more:
            mistakes.append(f"{pool!r} needs a name, by which overrides can name it")
        elif named.setdefault(pool.name, pool) is not pool and pool.name:
            mistakes.append(f"two pools are called {pool.name!r}")
    mistakes += [
        f"{one.label}: there is no pool {name!r}; there are {sorted(filter(None, named))}"
        for one in overrides
        if (name := one.declared.pool) is not None and name not in named
    ]
    if mistakes:
        raise ConfigurationError(mistakes)
    return named
