"""The tables of a run in Markdown, which is also what the terminal shows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .contenders import CONTENDERS, DIRECT, THIS, THREE, VARIANTS
from .load import LOADS, OVERRIDES, Load, Round, median
from .picking import SIZES
from .results import Results, noise, verdicts
from .sockets import ECHOES, FLOODS, IDLE, IDLE_OF, Echo
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
        _echoes(results),
        _echo_clients(results),
        _sockets(results),
        *(_overrides(results, load) for load in OVERRIDES),
        _picking(results),
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
    names, rows = _rates(results, LOADS)
    if not names:
        return
    if {"get-32", "get-512"} <= results.loads.keys():
        rows.append(["512 clients over 32 clients", *(_many(results, name) for name in names)])
    yield from table(["Requests per second", *names], rows)


def _rates(results: Results, works: Mapping[str, Load | Echo]) -> tuple[list[str], list[list[str]]]:
    """Return the contenders of these *works*, and a line for each work that was measured."""
    measured = {row: results.loads[row] for row in works if row in results.loads}
    names = _columns(measured.values())
    return names, [
        [works[row].title, *(_rate(found.get(name)) for name in names)]
        for row, found in measured.items()
    ]


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
    yield from _details(results, "get-32", "Small GETs, 32 clients", "request")
    yield ""
    yield from _details(results, "black-hole", LOADS["black-hole"].title, "request", THREE)


def _details(results: Results, load: str, title: str, what: str, this: str = THIS) -> Iterator[str]:
    row = results.loads.get(load, {})
    if this not in row:
        return
    ours = median(row[this], "requests_per_second")
    yield from table(
        [title, f"{what}s/s", "this, times", "p50 ms", "p99 ms", "CPU", f"CPU µs/{what}"],
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


def _echoes(results: Results) -> Iterator[str]:
    names, rows = _rates(results, ECHOES)
    if names:
        yield from table(["WebSocket echoes per second", *names], rows)


def _echo_clients(results: Results) -> Iterator[str]:
    for row in ("ws-64-32", "ws-16k-32"):
        lines = list(_details(results, row, f"Echoes of {ECHOES[row].title}", "message"))
        yield from ["", *lines] if row != "ws-64-32" and lines else lines


def _sockets(results: Results) -> Iterator[str]:
    names = _columns([*results.floods.values(), results.idle])
    if not names:
        return
    rows = [
        [
            FLOODS[who].title.format(results.size_mib),
            *(_stream(row.get(name), name) for name in names),
        ]
        for who, row in results.floods.items()
    ]
    if results.idle:
        cells = [_idle(results.idle.get(name), name) for name in names]
        rows.insert(0, [f"each of {IDLE:,} idle connections", *cells])
    yield from table(["WebSockets: memory growth, speed", *names], rows)


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


def _idle(kib: float | None, name: str) -> str:
    if kib is None:
        return NOTHING
    return f"{kib:.1f} KiB" + (f" ({IDLE_OF[name]:,})" if name in IDLE_OF else "")


def _event(results: Results, name: str) -> str:
    times = results.events.get(name)
    return f"{statistics.median(times):.1f} ms" if times else NOTHING


def _overrides(results: Results, load: str) -> Iterator[str]:
    row = results.loads.get(load, {})
    if not row.get(THIS):
        return
    ours = median(row[THIS], "cpu_us")
    yield from table(
        [OVERRIDES[load].title, "requests/s", "share", "rounds", "CPU µs/request", "more"],
        (
            [
                "no override" if name == THIS else name,
                _rate(rounds),
                f"{statistics.median(shares):.2f}",
                " ".join(f"{share:.2f}" for share in shares),
                f"{median(rounds, 'cpu_us'):.0f}",
                NOTHING if name == THIS else f"{median(rounds, 'cpu_us') - ours:+.0f}",
            ]
            for name, rounds in row.items()
            if (shares := results.shares(load, name))
        ),
    )


def _picking(results: Results) -> Iterator[str]:
    if results.picking:
        yield from table(
            ["µs to pick one of", *(f"{size:,}" for size in SIZES)],
            (
                [name, *(f"{statistics.median(row[str(size)]):.2f}" for size in SIZES)]
                for name, row in results.picking.items()
            ),
        )


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
