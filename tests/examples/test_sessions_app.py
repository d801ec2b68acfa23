"""Drive the example as a visitor does: the served process, over HTTP."""

import re
import runpy
import signal
import socket
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from ..conftest import Adapter
from ..servers import Server
from .served import EXAMPLE, address_of, served, start


def logged_in(page: httpx.Response) -> str:
    """Return when the only device that *page* lists was logged in."""
    [since] = re.findall(r'datetime="([^"]+)"', page.raise_for_status().text)
    return str(since)


@pytest.mark.adapters("asyncpg", "sqlite")
def test_a_login_outlives_the_server(adapter: Adapter, fresh_database: str, tmp_path: Path) -> None:
    """Who has logged in is still logged in, in the same session, after the server was killed and started again."""
    url = fresh_database if adapter.networked else f"sqlite:///{fresh_database}"
    with httpx.Client(follow_redirects=True) as browser:
        with served(tmp_path, DATABASE_URL=url) as address:
            assert "Log in" in browser.get(address).text
            since = logged_in(browser.post(f"{address}/login", data={"name": "Ada"}))
        with served(tmp_path, DATABASE_URL=url) as address:
            page = browser.get(address)
            assert "Hello, Ada" in page.text
            assert logged_in(page) == since
            assert "Log in" in browser.post(f"{address}/logout").text

            assert "Log in" in browser.get(address).text


@pytest.mark.adapters("asyncpg")
def test_visitors_are_told_while_the_database_is_away(private_server: Server, tmp_path: Path) -> None:
    """A page says so instead of a bare error, and the session is there again as soon as the database is."""
    with httpx.Client(follow_redirects=True) as browser, served(tmp_path, DATABASE_URL=private_server.dsn) as address:
        since = logged_in(browser.post(f"{address}/login", data={"name": "Ada"}))
        private_server.stop()
        away = browser.get(address)
        assert away.status_code == 503
        assert "The database is away" in away.text
        private_server.start()

        assert logged_in(browser.get(address)) == since


def test_what_a_visitor_sends_is_shown_as_it_is(tmp_path: Path) -> None:
    """HTML in a name or a user agent is text, and so is what looks like a placeholder of the template."""
    agent = {"User-Agent": "<i>$mark"}
    with httpx.Client(follow_redirects=True, headers=agent) as browser, served(tmp_path) as address:
        page = browser.post(f"{address}/login", data={"name": "<b>$place"})

        assert "Hello, &lt;b&gt;$place" in page.text
        assert "&lt;i&gt;$mark" in page.text


def test_a_page_is_kept_by_no_browser(tmp_path: Path) -> None:
    """After logging out, nobody can go back to it."""
    with served(tmp_path) as address:
        assert httpx.get(address).headers["Cache-Control"] == "no-store"


@pytest.mark.adapters("asyncpg", "sqlite")
def test_any_name_is_no_error(adapter: Adapter, fresh_database: str, tmp_path: Path) -> None:
    """Without one, the visitor is asked again."""
    url = fresh_database if adapter.networked else f"sqlite:///{fresh_database}"
    names = ["", " ", "\0", "A\0B", "Ada\ud800", "é" * 41]
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    with served(tmp_path, DATABASE_URL=url) as address:
        for name in names:
            content = urlencode({"name": name.encode(errors="surrogatepass")})
            page = httpx.post(f"{address}/login", content=content, headers=headers)

            assert (page.status_code, "session" in page.cookies) == (303, bool(name.strip())), name


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/138.0 Safari/537.36 Edg/138.0", "Edge on Windows"),
        ("Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/138.0 Safari/537.36", "Chrome on Android"),
        ("Mozilla/5.0 (iPad; CPU OS 18_5 like Mac OS X) AppleWebKit/605.1 CriOS/138.0 Safari/604.1", "Chrome on iPad"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1 Safari/605.1", "Safari on Mac OS"),
        ("curl/8.14.1", "curl/8.14.1"),
        ("", "Unknown browser"),
    ],
)
def test_a_device_has_the_name_of_its_browser(agent: str, name: str) -> None:
    """And of its system; what is no browser is called what it calls itself."""
    assert runpy.run_path(str(EXAMPLE))["described"](agent) == name


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "just now"), (5, "just now"), (60, "1 minute ago"), (7000, "1 hour ago"), (200_000, "2 days ago")],
)
def test_times_are_told_from_now_on(seconds: int, text: str) -> None:
    """In the largest unit that fits, with the instant beside it; a clock of the database that is ahead is no error."""
    moment = datetime.now(UTC) - timedelta(seconds=seconds)
    told = runpy.run_path(str(EXAMPLE))["ago"](moment)

    assert told.endswith(f">{text}</time>")
    assert moment.isoformat() in told


def test_nobody_logs_out_the_device_of_another(tmp_path: Path) -> None:
    """Although he knows what its button sends."""
    with ExitStack() as stack:
        address = stack.enter_context(served(tmp_path))
        ada, too, bob = (stack.enter_context(httpx.Client(follow_redirects=True)) for _ in range(3))
        for browser, name in ((ada, "Ada"), (too, "Ada"), (bob, "Bob")):
            browser.post(f"{address}/login", data={"name": name})
        [device] = re.findall(r'name="device" value="([^"]+)"', too.get(address).text)
        bob.post(f"{address}/revoke", data={"device": device})
        assert "Hello, Ada" in ada.get(address).text

        too.post(f"{address}/revoke", data={"device": device})
        assert "Log in" in ada.get(address).text


def test_a_button_of_a_page_from_before_is_no_error(tmp_path: Path) -> None:
    """Who is not logged in any more is asked for a name."""
    with served(tmp_path) as address:
        for action in ("logout", "revoke", "revoke-others"):
            for form in ({"device": "x"}, {}):
                page = httpx.post(f"{address}/{action}", data=form, follow_redirects=True)

                assert "Who is there?" in page.raise_for_status().text


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
