"""Run the examples that the README shows."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_quickstart_counts_on_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The visits of a browser are in the file, whichever process counts them."""
    monkeypatch.chdir(tmp_path)

    def restarted() -> Litestar:
        app: Litestar = runpy.run_path(str(EXAMPLES / "quickstart.py"))["app"]
        return app

    with TestClient(restarted()) as browser:
        assert [browser.get("/").text for _ in range(2)] == ["Visit 1", "Visit 2"]
        cookies = browser.cookies
    with TestClient(restarted(), cookies=cookies) as browser:
        assert browser.get("/").text == "Visit 3"


def test_the_verbs_answer_what_the_comments_beside_them_say() -> None:
    """Each ``print(…)  # answer`` prints that answer."""
    example = EXAMPLES / "verbs.py"
    answers = re.findall(r"print\(.*\)  # (.*)", example.read_text())
    printed = subprocess.run([sys.executable, example], capture_output=True, text=True, check=True).stdout

    assert answers
    assert printed.splitlines() == answers
