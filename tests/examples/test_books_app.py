"""Use the example's API as its clients do."""

from __future__ import annotations

import asyncio
import os
import re
import runpy
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient, TestClient

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Client = TestClient[Litestar]
    NewApp = Callable[[], Litestar]

EXAMPLE = Path(__file__).parents[2] / "examples" / "books_app.py"
NOBODY = "/00000000-0000-0000-0000-000000000000"


@pytest.fixture
def new_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NewApp:
    """Return a function that makes the application anew, with ``books.db`` in the test's directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return lambda: runpy.run_path(str(EXAMPLE))["app"]


@pytest.fixture
def client(new_app: NewApp) -> Generator[Client, None, None]:
    """Give a client of an application without authors and books."""
    with TestClient[Litestar](new_app()) as client:
        yield client


def created(client: Client, path: str, **fields: object) -> Any:  # noqa: ANN401 - JSON
    """Create an author or a book, and return it."""
    answer = client.post(path, json=fields)
    assert answer.status_code == 201, answer.text
    return answer.json()


def names(client: Client, path: str, **query: object) -> list[str]:
    """Return the names or titles in a list."""
    answer = client.get(path, params={name: str(value) for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    return [item.get("name") or item["title"] for item in answer.json()["items"]]


@pytest.mark.parametrize(("path", "name"), [("/authors", "name"), ("/books", "title")])
def test_what_is_created_is_read_changed_and_deleted(client: Client, path: str, name: str) -> None:
    """Each answer but the last has the whole of it, as it is now."""
    more = (
        {"dob": "1929-10-21"} if path == "/authors" else {"author_id": created(client, "/authors", name="Ursula")["id"]}
    )
    new = created(client, path, **{name: "first"}, **more)
    place = f"{path}/{new['id']}"
    assert new.items() >= {name: "first", **more}.items()
    assert client.get(place).json() == new
    changed = client.patch(place, json={name: "second"})

    assert changed.json() == {**new, name: "second", "updated_at": changed.json()["updated_at"]}
    assert changed.json()["updated_at"] >= new["updated_at"]
    assert client.get(place).json() == changed.json()
    assert (client.delete(place).status_code, client.get(place).status_code) == (204, 404)


def test_a_change_leaves_what_it_does_not_name(client: Client) -> None:
    """A date of birth is taken away by null, and by nothing else."""
    place = f"/authors/{created(client, '/authors', name='Ursula', dob='1929-10-21')['id']}"
    dobs = [client.patch(place, json=changes).json()["dob"] for changes in ({}, {"name": "U."}, {"dob": None})]

    assert dobs == ["1929-10-21", "1929-10-21", None]
    assert client.get(place).json()["name"] == "U."


def test_a_list_comes_in_pages(client: Client) -> None:
    """With the total of all pages, in an order of the client's."""
    for number in (3, 1, 2):
        created(client, "/authors", name=f"Author {number}", dob=f"200{number}-01-01")
    page = client.get("/authors", params={"limit": 2, "offset": 2}).json()

    assert [item["name"] for item in page["items"]] == ["Author 3"]
    assert (page["limit"], page["offset"], page["total"]) == (2, 2, 3)
    assert names(client, "/authors", limit=2) == ["Author 1", "Author 2"]
    assert names(client, "/authors", order_by="created_at") == ["Author 3", "Author 1", "Author 2"]
    assert names(client, "/authors", order_by="dob", sort_order="desc", limit=1) == ["Author 3"]


def test_a_list_is_searched(client: Client) -> None:
    """By a part of the text in either case, in which nothing has a meaning; by ids; and by author."""
    ursula, percent = (created(client, "/authors", name=name)["id"] for name in ("Ursula", "100 %"))
    book = created(client, "/books", title="The Dispossessed", author_id=ursula)["id"]
    created(client, "/books", title="Percentages", author_id=percent)

    assert names(client, "/authors", search="URS") == ["Ursula"]
    assert names(client, "/authors", search="%") == ["100 %"]
    assert names(client, "/authors", search="'") == []
    assert names(client, "/authors", ids=percent) == ["100 %"]
    assert client.get("/authors", params={"ids": [ursula, percent], "search": "u"}).json()["total"] == 1
    assert names(client, "/books", author_id=ursula) == ["The Dispossessed"]
    assert names(client, "/books", ids=book, author_id=percent) == []


def test_what_a_list_does_not_offer_is_refused(client: Client) -> None:
    """Only columns of the handler's list reach the SQL."""
    orders = ("order_by=id", "order_by=name,dob", "order_by=name;", "sort_order=up")
    parts = ("limit=0", "limit=101", "offset=-1", "ids=1")

    assert {query: client.get(f"/authors?{query}").status_code for query in orders + parts} == dict.fromkeys(
        orders + parts, 400
    )


def test_what_is_no_author_is_refused(client: Client) -> None:
    """And nothing is stored."""
    wrong: list[dict[str, object]] = [
        {},
        {"name": ""},
        {"name": None},
        {"name": "N", "dob": "soon"},
        {"name": "N", "x": 1},
    ]

    assert [client.post("/authors", json=fields).status_code for fields in wrong] == [400] * len(wrong)
    assert names(client, "/authors") == []


@pytest.mark.parametrize("path", ["/authors", "/books"])
def test_what_is_not_there_is_not_found(client: Client, path: str) -> None:
    """Neither read nor changed nor deleted."""
    calls = (client.get(path + NOBODY), client.patch(path + NOBODY, json={}), client.delete(path + NOBODY))

    assert [call.status_code for call in calls] == [404] * 3


def test_a_conflict_changes_nothing(client: Client) -> None:
    """A second author of a name, a second book of a title, a book of nobody, an author who has books."""
    ada, bob = (created(client, "/authors", name=name)["id"] for name in ("Ada", "Bob"))
    book = created(client, "/books", title="One", author_id=ada)
    created(client, "/books", title="One", author_id=bob)
    nobody = NOBODY.removeprefix("/")
    conflicts = (
        client.post("/authors", json={"name": "Ada"}),
        client.patch(f"/authors/{ada}", json={"name": "Bob"}),
        client.post("/books", json={"title": "One", "author_id": ada}),
        client.patch(f"/books/{book['id']}", json={"author_id": bob}),
        client.post("/books", json={"title": "Two", "author_id": nobody}),
        client.delete(f"/authors/{ada}"),
    )

    assert [(answer.status_code, answer.json()["status_code"]) for answer in conflicts] == [(409, 409)] * 6
    assert names(client, "/authors") == ["Ada", "Bob"]
    assert names(client, "/books") == ["One", "One"]
    assert client.get(f"/books/{book['id']}").json() == book


async def test_clients_may_all_come_at_once(new_app: NewApp) -> None:
    """Twenty new authors, and twenty attempts at one name, of which one succeeds."""
    async with AsyncTestClient[Litestar](new_app()) as client:

        async def create(name: str) -> int:
            return (await client.post("/authors", json={"name": name})).status_code

        different = await asyncio.gather(*(create(f"Author {number}") for number in range(20)))
        equal = await asyncio.gather(*(create("Ada") for _ in range(20)))
        total = (await client.get("/authors")).json()["total"]

    assert different == [201] * 20
    assert sorted(equal) == [201] + [409] * 19
    assert total == 21


def test_everything_is_still_there_after_a_restart(new_app: NewApp) -> None:
    """Also when the same application is started again."""
    app = new_app()
    with TestClient[Litestar](app) as client:
        author = created(client, "/authors", name="Ursula")
    with TestClient[Litestar](app) as client:
        book = created(client, "/books", title="The Dispossessed", author_id=author["id"])
    with TestClient[Litestar](new_app()) as client:
        assert client.get(f"/books/{book['id']}").json() == book
        assert client.get("/authors").json()["items"] == [author]


def test_the_documentation_has_every_route(client: Client) -> None:
    """With the columns that a list can be ordered by."""
    paths = client.get("/schema/openapi.json").json()["paths"]
    parameters = {parameter["name"]: parameter["schema"] for parameter in paths["/books"]["get"]["parameters"]}

    assert {path: sorted(methods) for path, methods in paths.items()} == {
        "/authors": ["get", "post"],
        "/authors/{author_id}": ["delete", "get", "patch"],
        "/books": ["get", "post"],
        "/books/{book_id}": ["delete", "get", "patch"],
    }
    assert parameters["order_by"]["enum"] == ["title", "created_at", "updated_at"]


def test_each_down_file_undoes_its_up_file() -> None:
    """In reverse order, they leave an empty database."""
    folder = EXAMPLE.with_name("books")
    tables = "SELECT name FROM sqlite_schema WHERE type = 'table'"
    with closing(sqlite3.connect(":memory:")) as connection:
        for up in sorted(folder.glob("*.up.sql")):
            connection.executescript(up.read_text("utf-8"))
        made = connection.execute(tables).fetchall()
        for down in sorted(folder.glob("*.down.sql"), reverse=True):
            connection.executescript(down.read_text("utf-8"))

        assert (made, connection.execute(tables).fetchall()) == ([("authors",), ("books",)], [])
    assert len(list(folder.iterdir())) == 4


def test_several_processes_start_at_once_over_one_file(tmp_path: Path) -> None:
    """Each finds the tables, or makes them; what one stores, the others see."""
    settings = os.environ | {"DATABASE_URL": f"sqlite:///{tmp_path}/shared.db", "PORT": "0"}
    processes = [
        subprocess.Popen([sys.executable, EXAMPLE], env=settings, stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    try:
        addresses = [address_of(process) for process in processes]
        for number, address in enumerate(addresses):
            httpx.post(f"{address}/authors", json={"name": f"{number} {uuid4()}"}).raise_for_status()
        totals = [httpx.get(f"{address}/authors").json()["total"] for address in addresses]
    finally:
        for process in processes:
            process.kill()
            process.communicate()

    assert totals == [4] * 4


def address_of(process: subprocess.Popen[str]) -> str:
    """Wait until *process* says where it serves."""
    assert process.stderr
    said = ""
    while not (found := re.search(r"http://[\w.:]+", said)):
        line = process.stderr.readline()
        assert line, f"it ended: {said}"
        said += line
    return found[0]


@pytest.mark.parametrize("url", ["postgresql://127.0.0.1/app", "sqlite://", "books.db"])
def test_a_database_that_it_does_not_know_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to write instead."""
    monkeypatch.setenv("DATABASE_URL", url)

    with pytest.raises(SystemExit, match="DATABASE_URL must be sqlite:///PATH"):
        runpy.run_path(str(EXAMPLE))
