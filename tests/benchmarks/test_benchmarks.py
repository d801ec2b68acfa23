"""The benchmark runs: every contender has results, or the report says why not."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from benchmarks import measure, report
from benchmarks.contenders import CONTENDERS
from benchmarks.results import Disk, Results
from benchmarks.run import Run
from benchmarks.workloads import DELETE, WORKLOADS
from tests.servers import Shell

if TYPE_CHECKING:
    from pathlib import Path

# A warning in a peer's code is not ours to fail for; as an error it even blocks the pool of one of them.
pytestmark = pytest.mark.filterwarnings("default")

PLAN = measure.Plan(
    rounds=1,
    seconds=0.01,
    concurrency=(2,),
    workloads={200: tuple(WORKLOADS)},
    groups=("PostgreSQL", "SQLite", "Litestar"),
)


@pytest.fixture(scope="module")
def results() -> Results:
    """Return the results of all contenders of the micro part."""
    run = Run(only="*", plans={"asyncio": PLAN}, rounds=0, seconds=0, slow_disk=False)
    with closing(Shell()) as shell:
        return run.carry_out(shell.directory, Disk(fsyncs_per_second=1), lambda _: None)


def test_every_contender_has_results_without_errors_or_a_reason(results: Results) -> None:
    """A peer whose server or package is missing is left out, never silently; on this machine all packages are there."""
    assert [one.name for one in results.contenders] == [kind.name for kind in CONTENDERS]
    for one in results.contenders:
        rows = [row for row in results.micro if row.contender == one.name]
        if one.skipped:
            assert rows == []
            assert "no " in one.skipped, "only servers may be missing here"
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
