"""Say in Markdown what was found."""

from __future__ import annotations

import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from .compare import (
    DIRECT,
    ECHO,
    LATE,
    NO_RESULT,
    RANKS,
    Case,
    Difference,
    Outcome,
    Results,
)
from .suite import FULL, VERSION

SECTIONS = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "closing",
    9: "limits and performance",
    10: "fragments of one message",
    12: "compression, by payload",
    13: "compression, by parameters",
}
PACKAGES = (
    "fastapi-proxy-router",
    "fastapi",
    "starlette",
    "websockets",
    "uvicorn",
    "wsproto",
    "hypercorn",
    "granian",
)
PROXY = "proxy"
TITLES = {
    DIRECT: "upstream",
    ECHO: "server",
    LATE: "server, late",
    PROXY: "proxy",
}
HOW = """\
The fuzzing client plays its cases against an echo. A column says where that is:

- *upstream*: on websockets' own server, without a proxy; it answers in fragments of 1 KiB;
- *server*: in a bare ASGI app on the server on which the proxy runs;
- *server, late*: the same, but it answers after 50 ms, and excuses only what the suite allows;
- *proxy*: on the upstream, through a FastAPI app with a `ProxyRouter`, on that server.

A proxy is a client of the upstream and an application of the server, so it can be no better than
the worse of the two. It must be no worse, or `make conformance` fails: neither in what happens to
messages nor in how the connection is closed. The order is {ranks}.
"""
#: Why an outcome differs.
REASONS = {
    "overtaken": "The client sends a message and then breaks a rule. The server ends the "
    "connection when it reads that, and the echo may still be on its way from the upstream. The "
    "suite allows it, and any application that answers late meets it.",
    "better": "The proxy does what neither of the others does.",
    "unknown": "Not explained yet.",
}


def markdown(results: Results, messages: int) -> str:
    """Return the whole summary."""
    cases = results.cases
    return "\n".join(
        [
            "# Conformance",
            "",
            f"`make conformance` ran {len(cases)} cases of the Autobahn test suite {VERSION} on "
            f"{datetime.now(UTC):%Y-%m-%d}, with Python {platform.python_version()}, "
            f"{', '.join(f'{name} {version(name)}' for name in PACKAGES)}."
            + _shortened(cases, messages),
            "",
            _verdict(results),
            "",
            HOW.format(ranks=", ".join(RANKS[:-1])),
            *_tables(results, cases),
            *_differences(list(results.differences())),
        ]
    )


def counted(outcomes: Iterable[Outcome]) -> str:
    """Return how many there are of each outcome, as in "14 OK, 2 NON-STRICT"."""
    found = Counter(outcomes)
    return ", ".join(f"{found[one]} {one}" for one in sorted(found, key=lambda one: one.ranks))


def _shortened(cases: Sequence[Case], messages: int) -> str:
    if messages == FULL or not any(case.section in (12, 13) for case in cases):
        return ""
    return (
        f" Each case of sections 12 and 13 sent {messages} messages, not {FULL} "
        f"(`make conformance MESSAGES={FULL}`)."
    )


def _verdict(results: Results) -> str:
    proxied = sum(len(runs.keys() - {ECHO, LATE}) for runs in results.servers.values())
    compared = proxied * len(results.cases)
    worse = sum(one.is_worse for one in results.differences())
    return f"**Worse through the proxy than without it: {worse or 'none'} of {compared} outcomes.**"


def _tables(results: Results, cases: Sequence[Case]) -> Iterator[str]:
    for server, runs in results.servers.items():
        yield from (f"## {server}", "")
        columns = {DIRECT: results.direct, **runs}
        yield from _header("section", *(TITLES.get(name, name) for name in columns))
        for section in sorted({case.section for case in cases}):
            part = [case for case in cases if case.section == section]
            cells = [
                counted(found.get(case, NO_RESULT) for case in part)
                if name != LATE or part[0] in found
                else ""
                for name, found in columns.items()
            ]
            yield _row(f"{section} {SECTIONS.get(section, '')}", *cells)
        yield ""


def _differences(found: Sequence[Difference]) -> Iterator[str]:
    yield from ("## What differs", "")
    if not found:
        yield "No case came out otherwise than on the upstream and on the server itself."
        return
    yield from ("Cases that came out otherwise than on the upstream and on the server itself:", "")
    yield from _header("cases", "server", *TITLES.values(), "why")
    grouped: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for one in found:
        others = [str(one.others.get(name, "")) for name in (DIRECT, ECHO, LATE)]
        through = f"{one.proxied}{', **worse**' if one.is_worse else ''}"
        where = one.server if one.proxy == PROXY else f"{one.server}, {one.proxy}"
        grouped[where, *others, through, _reason(one)].append(str(one.case))
    for (where, *cells), cases in grouped.items():
        yield _row(", ".join(cases), where, *cells)
    yield ""
    used = {key[-1] for key in grouped}
    yield from (f"- *{reason}*: {text}" for reason, text in REASONS.items() if reason in used)
    yield ""


def _reason(one: Difference) -> str:
    if one.is_worse:
        return "unknown"
    if one.proxied.ranks < min(one.others[name].ranks for name in (DIRECT, ECHO)):
        return "better"
    return "overtaken" if one.proxied == one.others.get(LATE) else "unknown"


def _header(*cells: str) -> Iterator[str]:
    yield _row(*cells)
    yield "|" + "---|" * len(cells)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
