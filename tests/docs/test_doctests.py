"""Run what the pages show as typed into ``python -m asyncio``."""

from __future__ import annotations

import ast
import inspect
import io
import traceback
from contextlib import redirect_stdout
from doctest import DocTestParser, OutputChecker
from types import FunctionType
from typing import TYPE_CHECKING, Any

from .pages import PAGES, fences

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from sqlstore import BaseSQLSpecStore


async def type_in(page: str, **names: object) -> None:
    """Type the examples of *page* into one console that knows *names*, and compare what it answers."""
    console: dict[str, Any] = dict(names)
    examples = [example for fence in fences(page, "pycon") for example in DocTestParser().get_examples(fence.body)]
    assert examples
    for example in examples:
        answer = await _answer(example.source, console)

        assert OutputChecker().check_output(example.exc_msg or example.want, answer, 0), f"{example.source}{answer}"


async def _answer(source: str, console: dict[str, Any]) -> str:
    # As asyncio.__main__ does it.
    code = compile(source, "<console>", "single", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with redirect_stdout(io.StringIO()) as printed:
        try:
            coroutine = FunctionType(code, console)()
            if inspect.iscoroutine(coroutine):
                await coroutine
        except Exception as error:  # noqa: BLE001 - a console prints it
            return traceback.format_exception_only(error)[-1]
    return printed.getvalue()


async def test_the_quickstart_answers_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store in a file of this directory."""
    monkeypatch.chdir(tmp_path)

    await type_in("quickstart.md")


async def test_the_contract_answers_what_it_shows(store: BaseSQLSpecStore[Any]) -> None:
    """On every adapter."""
    await type_in("contract.md", store=store)


def test_no_other_page_has_examples_to_type() -> None:
    """Or a test above would be missing."""
    assert [page for page in PAGES if fences(page, "pycon")] == ["contract.md", "quickstart.md"]
