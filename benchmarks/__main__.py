"""The command line of the benchmark.

On a slow disk, the program runs itself again under a shim that delays fsync, because SQLite runs inside it.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tests.servers import Shell, die_with_parent

from . import disk, end_to_end, measure, report, results
from .contenders import DATABASES
from .run import LOOPS, Run

_PLAIN_FSYNCS = "SQLSTORE_BENCHMARK_FSYNCS"  # how many the disk does without the shim, for the process under it
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--quick", is_flag=True, help="Fewer workloads, sizes and rounds: within 3 minutes.")
@click.option("--slow-disk", is_flag=True, help="Let each fsync take 2 ms.")
@click.option("--only", default="*", metavar="PATTERN", help='Contenders whose name matches, such as "*asyncpg*".')
@click.option("--database", type=click.Choice(DATABASES), multiple=True, help="Only contenders on this one.")
@click.option("--micro", "part", flag_value="micro", default=None, help="Only the stores by themselves.")
@click.option("--end-to-end", "part", flag_value=end_to_end.PART, help="Only the session middleware, over HTTP.")
@click.option("--loop", type=click.Choice([*LOOPS, "both"]), help="For the stores. [default: both; quick: uvloop]")
@click.option("--concurrency", type=int, multiple=True, help="[default: 1, 16, 64 and 256; quick: fewer]")
@click.option("--rounds", type=click.IntRange(1), help="[default: 5; quick: 3, of the middleware 2]")
@click.option("--seconds", type=float, help="Of each slice of the stores. [default: 0.2; quick: less]")
@click.option("--json", "keep", type=_FILE, help="Keep the results in this file.")
@click.option("--from", "sources", type=_FILE, multiple=True, help="Run nothing, report what --json has kept.")
@click.option("--output", type=_FILE, default=Path("docs/benchmarks.md"), show_default=True, help="The report.")
def main(  # noqa: PLR0913 - one for each option
    *,
    quick: bool,
    slow_disk: bool,
    only: str,
    database: tuple[str, ...],
    part: str | None,
    loop: str | None,
    concurrency: tuple[int, ...],
    rounds: int | None,
    seconds: float | None,
    keep: Path | None,
    sources: tuple[Path, ...],
    output: Path,
) -> None:
    """Measure sqlstore against every peer, and write a report.

    Give --from more than once for a report on several runs.
    """
    if sources:
        report.write([results.Results.read(source) for source in sources], output)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end in good order, as after Ctrl-C
    loop = loop or ("uvloop" if quick else "both")
    run = Run(
        only=only,
        databases=database,
        plans=[
            replace(
                plan,
                concurrency=concurrency or plan.concurrency,
                rounds=rounds or plan.rounds,
                seconds=seconds or plan.seconds,
            )
            for plan in (measure.QUICK if quick else measure.FULL)
            if part != end_to_end.PART and loop in (plan.loop, "both")
        ],
        rounds=0 if part == "micro" else rounds or (2 if quick else 5),
        seconds=1 if quick else 3,
        slow_disk=slow_disk,
    )
    console = Console(stderr=True)
    with closing(Shell()) as shell:
        fsyncs = disk.fsyncs_per_second(shell.directory)
        if slow_disk and not disk.is_slow():
            os.environ[_PLAIN_FSYNCS] = str(fsyncs)
            sys.exit(disk.run_again_slowly())
        if slow_disk:
            die_with_parent()
        speed = results.Disk(
            fsyncs_per_second=float(os.environ.get(_PLAIN_FSYNCS, fsyncs)),
            slow_fsyncs_per_second=fsyncs if slow_disk else None,
        )
        with Progress(SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}"), console=console) as shown:
            task = shown.add_task("")
            outcome = run.carry_out(shell.directory, speed, lambda what: shown.update(task, description=what))
    if keep:
        outcome.write(keep)
    report.write([outcome], output)
    report.show(outcome, Console())
    console.print(f"The report is in {output}.")


if __name__ == "__main__":
    main()
