"""Hold the README to what is in the repository."""

import re
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT.joinpath("README.md").read_text("utf-8")
BLOCKS: list[str] = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
LINKS: list[str] = re.findall(r"\]\((?!https?:)([^)#]+)", README)
TARGETS: list[str] = re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE)


def sources() -> dict[str, str]:
    """Return the text of each example and of each ``# region`` in it, by name."""
    texts: dict[str, str] = {}
    for path in ROOT.joinpath("examples").glob("*.py"):
        text = texts[path.name] = path.read_text("utf-8")
        for name, region in re.findall(r"^ *# region (\w+)\n(.*?)^ *# endregion", text, re.DOTALL | re.MULTILINE):
            texts[f"{path.name}, {name}"] = dedent(region).rstrip() + "\n"
    return texts


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_a_block_of_python_is_a_file_that_the_tests_run(block: str) -> None:
    """It is a whole example, or a region of one."""
    assert block in sources().values()


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_a_link_leads_somewhere(link: str) -> None:
    """The file or folder is there."""
    assert ROOT.joinpath(link).exists()


def test_the_commands_are_targets_of_the_makefile() -> None:
    """``make help`` lists each that the README tells to type."""
    assert set(TARGETS) <= set(re.findall(r"^([a-z]+):.* ## ", ROOT.joinpath("Makefile").read_text(), re.MULTILINE))
