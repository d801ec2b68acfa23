"""The pages in docs/, as the tests read them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text("utf-8")
    for path in sorted([*DOCS.glob("*.md"), *DOCS.glob("adapters/*.md")])
}


class Fence(NamedTuple):
    """A fenced block: what follows the opening fence, and the lines in it."""

    info: str
    body: str


def fences(page: str, info: str = "") -> list[Fence]:
    """Return the blocks of *page* whose info begins with *info*."""
    found = re.findall(r"^```(\S.*?)\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)
    return [Fence(*fence) for fence in found if fence[0].startswith(info)]


def table(page: str, first: str) -> list[list[str]]:
    """Return the rows of the table whose first heading is *first*, its heading left out; all of them, if several."""
    rows: list[list[str]] = []
    for text in re.findall(r"^\| .*?(?=\n\n|\Z)", PAGES[page], re.DOTALL | re.MULTILINE):
        cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines()]
        if cells[0][0] == first:
            rows += cells[2:]
    return rows


def codes(cell: str) -> list[str]:
    """Return what stands in backticks in *cell*."""
    return re.findall(r"`([^`]+)`", cell)
