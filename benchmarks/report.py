"""Write results as a page with tables and charts, and show the short of it on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from rich.table import Table

from . import chart
from .contenders import NAMED
from .end_to_end import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView, Iterable, Iterator, Sequence
    from pathlib import Path

    from rich.console import Console

    from .results import Contender, Micro, Results

K = TypeVar("K")
R = TypeVar("R")
OURS = [name for name in NAMED if name.startswith("sqlstore ")]

HEAD = """\
# Benchmarks

Written by `python -m benchmarks`, which anyone can run: `make bench` (about 40 minutes), or
`make bench ARGS=--quick` (3 minutes), or `make bench ARGS=--database=mysql`. It starts servers of its own, with durable
settings, and removes them; what the machine does not have is left out, and the report says so.

## How to read it

All contenders that are compared are open in one process and take turns: in each round every contender works for a
slice of a second, and the next round begins with another one, so that whatever else the machine does hits all alike. A
slice has a number of concurrent callers, each of which asks, waits for the answer, and asks again. Figures are medians
over the rounds; a ratio is the median of the rounds' own ratios, and so may differ from the quotient of two figures.

Every contender does the same: values of the same size with a lifetime of an hour, under keys like session ids; a read
respects the lifetime, and its answer is checked; a write changes the value. No two callers use one key at a time. The
bare drivers run one hand-written statement a call (two for a renewal on MariaDB and MySQL, where an UPDATE returns no
rows), on a pool of 10 connections, or on one connection to SQLite.

| Workload | A call |
|---|---|
| get-hit, get-miss | reads a value that is there, or one that is not |
| set-new, delete | writes under a new key; deletes what set-new wrote |
| set-overwrite | writes under a key that has a value |
| get+renew | reads, and starts the lifetime anew |
| mixed 90/10 | reads 9 times, then writes once |
| session | reads with renewal, then writes: what Litestar's session middleware does in a request |

## What bounds it

- The database server, the callers and, end to end, the load generator share this machine's CPUs. With more CPUs, those
  gain that keep the server busier.
- One caller waits for one answer: there is nothing to share, and the round trip or the disk is all.
- With many callers, a store that lets them share statements is bound by Python, in its one process. The others are
  bound by the database, their pool or the disk.
- The servers are on the same machine. Over a network each statement costs more, and sharing it saves more.
- `MemoryStore` answers without waiting for anything, so one caller is served until its slice ends.
"""


def write(runs: Sequence[Results], output: Path) -> None:
    """Write the report on *runs* to *output*, with its charts beside it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    parts = [HEAD]
    for results in runs:
        picture = output.with_name(f"{output.stem}{'-slow-disk' * _slow(results)}.svg")
        if results.micro:
            chart.draw(results.micro, OURS, picture)
        parts.append("\n\n".join(_sections(results, picture.name)) + "\n")
    output.write_text("\n".join(parts))


def show(results: Results, console: Console) -> None:
    """Print how many times as fast sqlstore is as each other contender."""
    for title, header, rows in _summaries(results):
        table = Table(*header, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for contender in results.contenders:
        if contender.skipped:
            console.print(f"Left out ({contender.part}): {contender.name}: {contender.skipped}", markup=False)


def _sections(results: Results, picture: str) -> Iterator[str]:
    slow = _slow(results)
    yield f"## {'Where an fsync takes 2 ms' if slow else 'On this disk'}"
    yield f"Measured on {results.date} by `{results.command}`."
    facts = {**results.machine, **results.versions}
    if results.disk:
        facts["Writes made durable per second, one after the other"] = f"{results.disk.fsyncs_per_second:,.0f}"
        if results.disk.slow_fsyncs_per_second:
            facts["… and with the delay"] = f"{results.disk.slow_fsyncs_per_second:,.0f}"
    yield _table(("", ""), facts.items())
    if results.micro:
        yield "### The stores by themselves"
        yield f"![Operations per second against concurrency]({picture})"
    for title, header, rows in _summaries(results):
        yield f"{title}:"
        yield _table(header, rows)
    if results.micro:
        yield from _details(results.micro)
    if results.end_to_end:
        yield "### End to end"
        yield from _end_to_end(results)
    yield "### Who took part, and what it keeps"
    yield from _took_part(results.contenders)


def _summaries(results: Results) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield title, header and rows: sqlstore's ratios to each other contender, one number for each concurrency."""
    group_of = {row.contender: row.group for row in results.micro}
    own = [row for row in results.micro if row.contender in OURS]
    for (loop, size, ours), table in _grouped(own, lambda row: (row.loop, row.size, row.contender)):
        cells = {(row.workload, row.concurrency): row.ratios for row in table}
        workloads = _distinct(row.workload for row in table)
        concurrency = _distinct(row.concurrency for row in table)
        yield (
            f"{ours} ÷ the others, {' / '.join(map(str, concurrency))} callers, {size:,} bytes, {loop}",
            ["", *workloads],
            [
                [
                    f"÷ {peer}",
                    *(
                        " / ".join(_ratio(cells[workload, callers].get(peer)) for callers in concurrency)
                        for workload in workloads
                    ),
                ]
                for peer in _distinct(peer for row in table for peer in row.ratios if peer not in OURS)
                if group_of[peer] in {group_of[ours], "Litestar"}
            ],
        )


def _details(micro: Sequence[Micro]) -> Iterator[str]:
    yield "#### Operations per second, and latency"
    yield "Each cell: operations per second (p50 / p99 in milliseconds)."
    for (loop, size, workload), table in _grouped(micro, lambda row: (row.loop, row.size, row.workload)):
        concurrency = _distinct(row.concurrency for row in table)
        yield f"{workload}, values of {size:,} bytes, {loop}:"
        rows = [
            [contender, *({row.concurrency: _cell(row) for row in own}.get(callers, "") for callers in concurrency)]
            for contender, own in _grouped(table, lambda row: row.contender)
        ]
        yield _table(["callers", *map(str, concurrency)], rows)
    failed = [
        f"- {contender}: {_line(error)} ({', '.join(_distinct(f'{row.workload}, {row.size:,} bytes' for row in rows))})"
        for (contender, error), rows in _grouped(
            (row for row in micro if row.error), lambda row: (row.contender, row.error)
        )
    ]
    if failed:
        yield "The errors, of each slice the first:"
        yield "\n".join(failed)


def _end_to_end(results: Results) -> Iterator[str]:
    yield (
        "Litestar's own session middleware over each store, and ours, SQLSessionConfig, over two of them. One uvicorn "
        "worker (uvloop, httptools) for each contender, driven by wrk, with "
        f"{results.end_to_end[0].connections} connections."
    )
    for workload, rows in _grouped(results.end_to_end, lambda row: row.workload):
        ours = [row for row in rows if row.contender in OURS]
        yield f"{WORKLOADS[workload]}:"
        yield _table(
            (
                *("", "requests/s", "p50 ms", "p99 ms", "errors", "SQL statements per request"),
                *(f"{row.contender} ÷ this" for row in ours),
            ),
            [
                [
                    row.contender,
                    f"{row.requests_per_second:,.0f}",
                    _milliseconds(row.p50),
                    _milliseconds(row.p99),
                    str(row.errors),
                    "" if row.statements_per_request is None else f"{row.statements_per_request:.2f}",
                    *(_ratio(own.ratios.get(row.contender)) for own in ours),
                ]
                for row in rows
            ],
        )
    if results.counted:
        yield f"Statements: {results.counted}"


def _took_part(contenders: Sequence[Contender]) -> Iterator[str]:
    parts: dict[tuple[str, str], list[str]] = {}
    configured: dict[str, list[str]] = {}
    for one in contenders:
        if not one.skipped:
            parts.setdefault((one.name, one.durability), []).append(one.part)
            settings = ", ".join(f"{name} = {value}" for name, value in one.settings.items())
            configured.setdefault(settings, []).append(one.name)
    yield _table(("", "a value is", "part"), [(*who, ", ".join(where)) for who, where in parts.items()])
    for settings, names in configured.items():
        if settings:
            yield f"The server of {', '.join(_distinct(names))}: {settings}."
    left_out = [f"- {one.name} ({one.part}): {_line(one.skipped)}" for one in contenders if one.skipped]
    if left_out:
        yield "Left out:"
        yield "\n".join(left_out)


def _slow(results: Results) -> bool:
    return results.disk is not None and results.disk.slow_fsyncs_per_second is not None


def _grouped(rows: Iterable[R], key: Callable[[R], K]) -> ItemsView[K, list[R]]:
    groups: dict[K, list[R]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups.items()


def _distinct(values: Iterable[K]) -> list[K]:
    return list(dict.fromkeys(values))


def _line(text: str) -> str:
    return " ".join(text.split())


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: Micro) -> str:
    errors = f", {row.errors} errors" if row.errors else ""
    return f"{row.operations_per_second:,.0f} ({_milliseconds(row.p50)} / {_milliseconds(row.p99)}{errors})"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2g}" if ratio < 10 else f"{ratio:,.0f}"  # noqa: PLR2004 - two digits


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g}"
