"""The tables of a run in Markdown, which is also what the terminal shows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from .contenders import CONTENDERS, DIRECT, THIS, VARIANTS
from .load import LOADS, Round, median
from .results import Results, noise, verdicts
from .streams import TRANSFERS, Stream

NOTHING = "-"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a table's lines; all columns but the first are aligned to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for line in (lines[0], rule, *lines[1:]):
        first, *others = line
        padded = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield f"| {' | '.join([first.ljust(widths[0]), *padded])} |"


def markdown(results: Results) -> str:
    """Return all tables that this run has figures for."""
    parts = [
        _targets(results),
        _loads(results),
        _clients(results),
        _streams(results),
        _circumstances(results),
    ]
    return "\n\n".join("\n".join(lines) for part in parts if (lines := list(part))) + "\n"


def _targets(results: Results) -> Iterator[str]:
    yield from table(
        ["Target, in one run", "asked", "median", "rounds", ""],
        (
            [
                verdict.target.work,
                verdict.target.asked,
                f"{verdict.median:.3g}" if verdict.rounds else NOTHING,
                " ".join(f"{value:.3g}" for value in verdict.rounds) or NOTHING,
                verdict.word,
            ]
            for verdict in verdicts(results)
        ),
    )


def _columns(rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the contenders that have a figure, in their order, without variants of one."""
    measured = {name for row in rows for name in row}
    return [name for name in CONTENDERS if name in measured and name not in VARIANTS]


def _loads(results: Results) -> Iterator[str]:
    if not results.loads:
        return
    names = _columns(results.loads.values())
    rows = [
        [LOADS[load].title, *(_rate(row.get(name)) for name in names)]
        for load, row in results.loads.items()
    ]
    if {"get-32", "get-512"} <= results.loads.keys():
        rows.append(["512 clients over 32 clients", *(_many(results, name) for name in names)])
    yield from table(["Requests per second", *names], rows)


def _many(results: Results, name: str) -> str:
    few, many = results.rates("get-32", name), results.rates("get-512", name)
    if not few or not many:
        return NOTHING
    return f"{statistics.median(many) / (statistics.median(few) or 1):.2f}"


def _rate(rounds: list[Round] | None) -> str:
    if not rounds:
        return NOTHING
    errors = sum(one.errors for one in rounds)
    rate = f"{median(rounds, 'requests_per_second'):,.0f}"
    return f"{rate} ({errors} errors)" if errors else rate


def _clients(results: Results) -> Iterator[str]:
    row = results.loads.get("get-32", {})
    if THIS not in row:
        return
    ours = median(row[THIS], "requests_per_second")
    yield from table(
        [
            "Small GETs, 32 clients",
            "requests/s",
            "this, times",
            "p50 ms",
            "p99 ms",
            "CPU",
            "CPU µs/request",
        ],
        (
            [
                name,
                _rate(rounds),
                f"{ours / (median(rounds, 'requests_per_second') or 1):.3g}",
                f"{median(rounds, 'p50_ms'):.2f}",
                f"{median(rounds, 'p99_ms'):.2f}",
                f"{median(rounds, 'busy'):.0%}",
                f"{median(rounds, 'cpu_us'):.0f}",
            ]
            for name, rounds in row.items()
        ),
    )


def _streams(results: Results) -> Iterator[str]:
    names = _columns([*results.streams.values(), results.events])
    if not names:
        return
    rows = [
        [
            TRANSFERS[work].title.format(int(results.size_mib * TRANSFERS[work].part)),
            *(_stream(row.get(name), name) for name in names),
        ]
        for work, row in results.streams.items()
    ]
    if results.events:
        rows.append(["time to the first event", *(_event(results, name) for name in names)])
    yield from table(["Memory growth, speed", *names], rows)


def _stream(stream: Stream | None, name: str) -> str:
    if stream is None:
        return NOTHING
    speed = f"{stream.mib_per_second:.0f} MiB/s"
    return speed if name == DIRECT else f"{stream.growth_mib:.1f} MiB, {speed}"


def _event(results: Results, name: str) -> str:
    times = results.events.get(name)
    return f"{statistics.median(times):.1f} ms" if times else NOTHING


def _circumstances(results: Results) -> Iterator[str]:
    yield ", ".join(
        [results.began, *(f"{what} {which}" for what, which in results.machine.items())]
    )
    against = list(noise(results))
    if against:
        yield ""
        yield f"**The machine was too noisy for these figures:** {'; '.join(against)}."
    for note in results.notes:
        yield ""
        yield note
