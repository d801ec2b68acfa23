"""Drive the example as a visitor does: the served process, over HTTP."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ..conftest import Adapter
from ..servers import Server

EXAMPLE = Path(__file__).parents[2] / "examples" / "sessions_app.py"


def start(directory: Path, **settings: str) -> "subprocess.Popen[str]":
    """Start the example in *directory*, with nobody's settings but these."""
    others = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "PORT"}}
    return subprocess.Popen(
        [sys.executable, EXAMPLE],
        cwd=directory,
        env=others | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def address_of(process: "subprocess.Popen[str]") -> str:
    """Wait until *process* says where it serves."""
    assert process.stdout
    said = ""
    while not (found := re.search(r"http://[\w.:]+", said)):
        line = process.stdout.readline()
        assert line, f"it ended: {said}"
        said += line
    return found[0]


@contextmanager
def served(directory: Path, **settings: str) -> Generator[str, None, None]:
    """Serve the example on a free port, give its address, and kill it without warning."""
    with start(directory, PORT="0", **settings) as process:
        try:
            yield address_of(process)
        finally:
            process.kill()


def visits(page: httpx.Response) -> int:
    """Return the number that *page* shows."""
    found = re.search(r"<strong>(\d+)</strong>", page.raise_for_status().text)
    assert found, page.text
    return int(found[1])


@pytest.mark.adapters("asyncpg", "sqlite")
def test_a_login_outlives_the_server(adapter: Adapter, fresh_database: str, tmp_path: Path) -> None:
    """Who has logged in is still logged in, with the same count, after the server was killed and started again."""
    url = fresh_database if adapter.networked else f"sqlite:///{fresh_database}"
    with httpx.Client(follow_redirects=True) as browser:
        with served(tmp_path, DATABASE_URL=url) as address:
            assert "Log in" in browser.get(address).text
            assert visits(browser.post(f"{address}/login", data={"name": "Ada"})) == 1
            assert visits(browser.get(address)) == 2
        with served(tmp_path, DATABASE_URL=url) as address:
            page = browser.get(address)
            assert "Hello, Ada" in page.text
            assert visits(page) == 3
            assert "Log in" in browser.post(f"{address}/logout").text

            assert "Log in" in browser.get(address).text


@pytest.mark.adapters("asyncpg")
def test_visitors_are_told_while_the_database_is_away(private_server: Server, tmp_path: Path) -> None:
    """A page says so instead of a bare error, and the session is there again as soon as the database is."""
    with httpx.Client(follow_redirects=True) as browser, served(tmp_path, DATABASE_URL=private_server.dsn) as address:
        browser.post(f"{address}/login", data={"name": "Ada"})
        private_server.stop()
        away = browser.get(address)
        assert away.status_code == 503
        assert "The database is away" in away.text
        private_server.start()

        assert visits(browser.get(address)) == 2


def test_a_name_is_shown_as_it_was_typed(tmp_path: Path) -> None:
    """HTML in it is text, and so is what looks like a placeholder of the template."""
    with httpx.Client(follow_redirects=True) as browser, served(tmp_path) as address:
        page = browser.post(f"{address}/login", data={"name": "<b>$place"})

        assert "Hello, &lt;b&gt;$place" in page.text


def test_without_settings_the_sessions_are_in_the_working_directory(tmp_path: Path) -> None:
    """The file is ``sessions.db``."""
    with served(tmp_path):
        assert tmp_path.joinpath("sessions.db").is_file()


def test_ctrl_c_is_a_quiet_end(tmp_path: Path) -> None:
    """No traceback, no error, and the database is closed: its write-ahead log is gone."""
    with start(tmp_path, PORT="0") as process:
        httpx.get(address_of(process)).raise_for_status()
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)

    assert (process.returncode, said) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["sessions.db"]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"DATABASE_URL": "mysql://me:s3cret@127.0.0.1/app"}, "DATABASE_URL must be sqlite:///PATH or postgresql://"),
        ({"DATABASE_URL": "postgresql://me:s3cret/more@127.0.0.1/app"}, "DATABASE_URL must be"),
        ({"DATABASE_URL": "sqlite://"}, "DATABASE_URL must be"),
        ({"DATABASE_URL": "postgresql://me:s3cret@127.0.0.1:1/app"}, "Cannot use postgresql://127.0.0.1:1/app: "),
        ({"DATABASE_URL": "sqlite:///no/such/directory.db"}, "Cannot use sqlite:///no/such/directory.db: "),
        ({"PORT": "eighty"}, "Cannot listen on port eighty: "),
    ],
)
def test_what_cannot_work_is_said_in_one_line(settings: dict[str, str], complaint: str, tmp_path: Path) -> None:
    """It ends at once with what to set right, without a traceback and without the password."""
    with start(tmp_path, **settings) as process:
        said, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert said.startswith(complaint)
    assert said.count("\n") == 1
    assert "s3cret" not in said


def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    """The complaint names the port, and how to choose another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with start(tmp_path, PORT=str(port)) as process:
            said, _ = process.communicate(timeout=60)

    assert said.startswith(f"Cannot listen on port {port}: ")
    assert said.endswith("PORT=8001\n")
