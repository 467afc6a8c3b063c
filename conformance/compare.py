"""Judge the outcomes: no case may be worse through the proxy than without it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

#: The suite's words, the best first. The last one is ours.
RANKS = (
    "OK",
    "NON-STRICT",
    "INFORMATIONAL",
    "UNIMPLEMENTED",
    "FAILED BY CLIENT",
    "WRONG CODE",
    "UNCLEAN",
    "FAILED",
    "NO RESULT",
)

#: The outcomes of an implementation that keeps to the RFC.
ALLOWED = frozenset(RANKS[:3])
#: The runs that a proxied one is compared with: the upstream without a proxy, and the server with
#: an echo instead of the proxy, which answers at once or late.
DIRECT, ECHO, LATE = "direct", "echo", "late"


class Case(NamedTuple):
    """The number of a case, such as 7.1.5; they sort as the suite's own list."""

    section: int
    rest: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        section, *rest = (int(number) for number in text.split("."))
        return cls(section, tuple(rest))

    def __str__(self) -> str:
        return ".".join(str(number) for number in (self.section, *self.rest))


class Outcome(NamedTuple):
    """What a case found: how messages were treated, and how the connection ended."""

    behavior: str
    close: str

    def __str__(self) -> str:
        if self.close == "OK" or self.behavior == self.close == "INFORMATIONAL":
            return self.behavior
        return f"{self.behavior} (close: {self.close})"

    @property
    def ranks(self) -> tuple[int, int]:
        return RANKS.index(self.behavior), RANKS.index(self.close)


NO_RESULT = Outcome("NO RESULT", "NO RESULT")


@dataclass(frozen=True)
class Difference:
    """A case that came out otherwise through the proxy than without it."""

    server: str
    proxy: str
    case: Case
    proxied: Outcome
    #: By the name of the run: the upstream, and the server itself.
    others: Mapping[str, Outcome]

    @property
    def is_worse(self) -> bool:
        return is_worse(self.proxied, self.others.values())


def is_worse(proxied: Outcome, others: Iterable[Outcome]) -> bool:
    """Tell whether *proxied* is worse than the worst of *others*, in its messages or its close.

    A proxy is a client of the upstream and an application of the server. It can be no better than
    the worse of the two, and must be no worse.
    """
    limits = zip(*(other.ranks for other in others), strict=True)
    return any(rank > max(limit) for rank, limit in zip(proxied.ranks, limits, strict=True))


@dataclass
class Results:
    """The outcomes of all runs."""

    direct: Mapping[Case, Outcome] = field(default_factory=dict)
    #: By server, then by what ran on it.
    servers: dict[str, dict[str, Mapping[Case, Outcome]]] = field(default_factory=dict)

    @property
    def cases(self) -> Sequence[Case]:
        return sorted(set(self.direct).union(*(found for _, found in self._runs())))

    def others(self, server: str, case: Case) -> dict[str, Outcome]:
        """Return what the upstream and the server itself did.

        A late answer excuses what the suite allows, and no failure.
        """
        runs = self.servers[server]
        found = {
            DIRECT: self.direct.get(case, NO_RESULT),
            ECHO: runs.get(ECHO, {}).get(case, NO_RESULT),
        }
        late = runs.get(LATE, {}).get(case, NO_RESULT)
        if ALLOWED.issuperset(late):
            found[LATE] = late
        return found

    def differences(self) -> Iterator[Difference]:
        """Yield the cases that came out otherwise than directly and than on the server itself."""
        for server, runs in self.servers.items():
            for proxy in runs.keys() - {ECHO, LATE}:
                for case in self.cases:
                    others = self.others(server, case)
                    proxied = runs[proxy].get(case, NO_RESULT)
                    one = Difference(server, proxy, case, proxied, others)
                    if one.is_worse or proxied not in (others[DIRECT], others[ECHO]):
                        yield one

    def incomplete(self) -> Iterator[str]:
        """Name the runs without an outcome for each case, with which nothing can be compared."""
        cases = set(self.cases)
        for name, found in ((DIRECT, self.direct), *self._runs()):
            if not name.endswith(LATE) and (not found or cases - found.keys()):
                yield f"{name}: {len(found)} of {len(cases)} cases have an outcome"

    def _runs(self) -> Iterator[tuple[str, Mapping[Case, Outcome]]]:
        for server, runs in self.servers.items():
            for kind, found in runs.items():
                yield f"{server}, {kind}", found
