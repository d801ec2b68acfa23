"""Draw throughput against concurrency, in colours that are legible on a light and on a dark page."""

# pyright: reportUnknownMemberType=false
# (matplotlib's methods take **kwargs without a type)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from .workloads import MAIN

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from .results import Micro

STYLE: dict[Any, str] = {
    **dict.fromkeys(("text.color", "axes.titlecolor", "axes.labelcolor", "xtick.color", "ytick.color"), "#808080"),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), "#808080"),
    "svg.hashsalt": "sqlstore",  # the same results make the same file
}


def draw(rows: Sequence[Micro], bold: Collection[str], picture: Path) -> None:
    """Write the SVG *picture*, with a row of panels for each group; the lines of *bold* contenders are thick.

    It shows the first event loop and size of *rows*, and the main workloads, if they are there.
    """
    rows = [row for row in rows if (row.loop, row.size) == (rows[0].loop, rows[0].size)]
    rows = [row for row in rows if row.workload in MAIN] or rows
    groups = list(dict.fromkeys(row.group for row in rows))
    workloads = list(dict.fromkeys(row.workload for row in rows))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3 * len(workloads) + 2, 2.6 * len(groups)), layout="constrained")
        panels = figure.subplots(len(groups), len(workloads), squeeze=False)
        for group, across in zip(groups, panels, strict=True):
            for workload, panel in zip(workloads, across, strict=True):
                _draw_panel(panel, [row for row in rows if (row.group, row.workload) == (group, workload)], bold)
                panel.set_title(f"{group}: {workload}")
            across[0].set_ylabel("1,000 operations/s")
            across[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        for panel in panels[-1]:
            panel.set_xlabel("callers")
        figure.savefig(picture, format="svg", transparent=True, metadata={"Date": None})


def _draw_panel(panel: Axes, rows: Sequence[Micro], bold: Collection[str]) -> None:
    for name in dict.fromkeys(row.contender for row in rows):
        line = [row for row in rows if row.contender == name]
        panel.plot(
            [row.concurrency for row in line],
            [row.operations_per_second / 1000 for row in line],
            label=name,
            linewidth=3 if name in bold else 1.5,
            marker="o",
            markersize=4,
        )
    concurrency = list(dict.fromkeys(row.concurrency for row in rows))
    panel.set_xscale("log", base=2)
    panel.set_xticks(concurrency, [str(callers) for callers in concurrency], minor=False)
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.25)
