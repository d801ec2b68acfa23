"""The benchmark runs: every contender has results, or the report says why not."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest

from benchmarks import measure, report
from benchmarks.contenders import CONTENDERS
from benchmarks.results import Disk, Results
from benchmarks.run import Run
from benchmarks.workloads import DELETE, WORKLOADS
from tests.servers import Shell

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    # A warning in a peer's code is not ours to fail for; as an error it even blocks the pool of one of them.
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(900),  # five servers start, and 27 contenders
]

PLAN = measure.Plan(
    loop="asyncio",
    groups=tuple({kind.terms.group for kind in CONTENDERS}),
    workloads={200: tuple(WORKLOADS)},
    rounds=1,
    seconds=0.01,
    concurrency=(2,),
)


REFUSED = {"SQLSpec (asyncmy, MariaDB)": "AS new"}  # what only MySQL understands
"""Peers that fail, and what their servers complain about."""


@pytest.fixture(scope="module")
def results() -> Results:
    """Return the results of all contenders of the micro part."""
    run = Run(only="*", plans=[PLAN], rounds=0, seconds=0, slow_disk=False)
    with closing(Shell()) as shell:
        return run.carry_out(shell.directory, Disk(fsyncs_per_second=1), lambda _: None)


def test_every_contender_has_results_without_errors_or_a_reason(results: Results) -> None:
    """A peer that cannot take part is left out, never silently: because of its server, as all packages are here."""
    assert [one.name for one in results.contenders] == [kind.name for kind in CONTENDERS]
    for one in results.contenders:
        rows = [row for row in results.micro if row.contender == one.name]
        if one.skipped:
            assert rows == []
            assert "no " in one.skipped or REFUSED.get(one.name, "no ") in one.skipped
        else:
            assert {row.workload for row in rows} == {*WORKLOADS, DELETE}
            assert [row.error for row in rows if row.errors] == []
            assert all(row.operations_per_second > 0 and 0 < row.p50 <= row.p99 for row in rows)


def test_a_report_can_be_written_again_from_the_kept_results(results: Results, tmp_path: Path) -> None:
    """The JSON has all that the page says, and the same results make the same chart."""
    results.write(tmp_path / "results.json")
    report.write([results], tmp_path / "one.md")
    report.write([Results.read(tmp_path / "results.json")], tmp_path / "two.md")
    one, two = ((tmp_path / name).read_text() for name in ("one.md", "two.md"))

    assert one == two.replace("two.svg", "one.svg")
    assert (tmp_path / "one.svg").read_text() == (tmp_path / "two.svg").read_text()


def test_the_report_says_what_went_wrong(results: Results, tmp_path: Path) -> None:
    """The cell has the number of errors, and the first one is told below."""
    row = msgspec.structs.replace(results.micro[0], errors=12, error="OSError: no\nspace")
    report.write([msgspec.structs.replace(results, micro=[row, *results.micro[1:]])], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()

    assert ", 12 errors)" in page
    assert f"- {row.contender}: OSError: no space ({row.workload}, 200 bytes)" in page


def test_a_run_is_of_the_databases_that_it_names() -> None:
    """The others' contenders and servers stay out."""
    run = Run(only="raw*", databases=("sqlite",), plans=[PLAN], rounds=0, seconds=0, slow_disk=False)
    with closing(Shell()) as shell:
        results = run.carry_out(shell.directory, Disk(fsyncs_per_second=1), lambda _: None)

    assert [one.name for one in results.contenders] == ["raw sqlite3", "raw aiosqlite", "raw aiosqlite (cursors)"]
    assert not any(name.endswith(" server") for name in results.versions)


def test_the_command_line_writes_a_report(tmp_path: Path) -> None:
    """Here on the store that needs nothing, over HTTP, or on why that could not be."""
    settings = ["--quick", "--end-to-end", "--rounds=1", "--only=MemoryStore"]
    files = [f"--json={tmp_path}/results.json", f"--output={tmp_path}/page.md"]
    subprocess.run([sys.executable, "-m", "benchmarks", *settings, *files], check=True, capture_output=True)
    results = Results.read(tmp_path / "results.json")
    (one,) = results.contenders

    assert one.part == "end to end"
    assert bool(results.end_to_end) != bool(one.skipped)
    assert "MemoryStore" in (tmp_path / "page.md").read_text()
