"""Authors and their books: an API with raw SQL, over the database session that each handler is given.

python examples/books_app.py                                   in books.db
DATABASE_URL=sqlite:///PATH python examples/books_app.py       in another file

The API's documentation is at http://127.0.0.1:8000/schema. PORT is where it listens: 8000 if not given.
The tables are in examples/books/, as numbered files of plain SQL, which are applied when the application starts, or by:

cd examples && sqlstore --config books_app:config upgrade
"""

import os
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID, uuid4

import msgspec
import uvicorn
from litestar import Controller, Litestar, delete, get, patch, post
from litestar.di import NamedDependency, Provide
from litestar.exceptions import NotFoundException
from litestar.pagination import OffsetPagination
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import UNSET, Meta, Struct, UnsetType

from sqlstore import Migrator
from sqlstore.adapters.aiosqlite import AiosqliteConfig
from sqlstore.litestar import DatabaseSession, SQLStorePlugin

scheme, _, path = os.environ.get("DATABASE_URL", "sqlite:///books.db").partition(":///")
if scheme != "sqlite" or not path:
    sys.exit("DATABASE_URL must be sqlite:///PATH")
config = AiosqliteConfig(
    pool_config={"database": path},
    extension_config={"migrations": {"script_location": Path(__file__).with_name("books")}},
)

Session = NamedDependency[DatabaseSession]
Name = Annotated[str, Meta(min_length=1, max_length=200)]

# A transaction that begins with the first read, so that a page and its total are of the same moment.
READ_ONLY = {"db_session": {"read_only": True}}


class Page(Struct):
    """Which part of a list a client asks for."""

    ids: str | None
    """A JSON array; None for all."""
    search: str
    sort_order: str
    limit: int
    offset: int


def read_page(
    ids: FromQuery[list[UUID] | None] = None,
    search: Annotated[str, QueryParameter(description="A part of the name or title, in upper or lower case")] = "",
    sort_order: FromQuery[Literal["asc", "desc"]] = "asc",
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 20,
    offset: Annotated[int, QueryParameter(ge=0)] = 0,
) -> Page:
    """Read it from the query string, which is refused with 400 if it asks for anything else."""
    return Page(msgspec.json.encode(ids).decode() if ids else None, search, sort_order, limit, offset)


class Author(Struct):
    """An author, as stored."""

    id: UUID
    name: str
    dob: date | None
    created_at: datetime
    updated_at: datetime


class NewAuthor(Struct, forbid_unknown_fields=True):
    """What a client says of a new author."""

    name: Name
    dob: date | None = None


class AuthorChanges(Struct, forbid_unknown_fields=True):
    """What a client changes of an author; what it leaves out stays as it is."""

    name: Name | UnsetType = UNSET
    dob: date | UnsetType | None = UNSET


class AuthorController(Controller):
    """The authors: no two have the same name."""

    path = "/authors"

    @get(opt=READ_ONLY)
    async def list_authors(
        self,
        db_session: Session,
        page: NamedDependency[Page],
        order_by: FromQuery[Literal["name", "dob", "created_at", "updated_at"]] = "name",
    ) -> OffsetPagination[Author]:
        """Return those with *search* in the name and, if there are *ids*, with one of them."""
        where = """
             WHERE instr(lower(name), lower(:search))
               AND (:ids IS NULL OR id IN (SELECT value FROM json_each(:ids)))"""
        parameters = msgspec.to_builtins(page)
        total = await db_session.fetch_value(f"SELECT count(*) FROM authors {where}", parameters)
        authors = await db_session.fetch_all(
            f"""
            SELECT id, name, dob, created_at, updated_at
              FROM authors
            {where}
             ORDER BY {order_by} {page.sort_order}, id
             LIMIT :limit OFFSET :offset""",
            parameters,
            schema_type=Author,
        )
        return OffsetPagination(authors, page.limit, page.offset, total)

    # region create
    @post()
    async def create_author(self, db_session: Session, data: JSONBody[NewAuthor]) -> Author:
        """Store a new author."""
        return await db_session.fetch_one(
            """
            INSERT INTO authors (id, name, dob)
            VALUES (:id, :name, :dob)
            RETURNING id, name, dob, created_at, updated_at""",
            {"id": str(uuid4()), **msgspec.to_builtins(data)},
            schema_type=Author,
        )

    # endregion
    @get("/{author_id:uuid}", raises=[NotFoundException])
    async def get_author(self, db_session: Session, author_id: FromPath[UUID]) -> Author:
        """Return an author."""
        return await db_session.fetch_one(
            "SELECT id, name, dob, created_at, updated_at FROM authors WHERE id = :id",
            {"id": str(author_id)},
            schema_type=Author,
        )

    @patch("/{author_id:uuid}", raises=[NotFoundException])
    async def update_author(
        self, db_session: Session, author_id: FromPath[UUID], data: JSONBody[AuthorChanges]
    ) -> Author:
        """Change an author."""
        changes = {"name": None, "dob": None, **msgspec.to_builtins(data)}
        return await db_session.fetch_one(
            """
            UPDATE authors
               SET name = coalesce(:name, name),
                   dob = CASE WHEN :has_dob THEN :dob ELSE dob END,
                   updated_at = strftime('%Y-%m-%dT%H:%M:%fZ')
             WHERE id = :id
            RETURNING id, name, dob, created_at, updated_at""",
            {"id": str(author_id), **changes, "has_dob": data.dob is not UNSET},
            schema_type=Author,
        )

    @delete("/{author_id:uuid}", raises=[NotFoundException])
    async def delete_author(self, db_session: Session, author_id: FromPath[UUID]) -> None:
        """Delete an author who has no books."""
        await db_session.fetch_value("DELETE FROM authors WHERE id = :id RETURNING id", {"id": str(author_id)})


class Book(Struct):
    """A book, as stored."""

    id: UUID
    title: str
    author_id: UUID
    created_at: datetime
    updated_at: datetime


class NewBook(Struct, forbid_unknown_fields=True):
    """What a client says of a new book."""

    title: Name
    author_id: UUID


class BookChanges(Struct, forbid_unknown_fields=True):
    """What a client changes of a book; what it leaves out stays as it is."""

    title: Name | UnsetType = UNSET
    author_id: UUID | UnsetType = UNSET


class BookController(Controller):
    """The books: an author has no two of the same title."""

    path = "/books"

    @get(opt=READ_ONLY)
    async def list_books(
        self,
        db_session: Session,
        page: NamedDependency[Page],
        author_id: FromQuery[UUID | None] = None,
        order_by: FromQuery[Literal["title", "created_at", "updated_at"]] = "title",
    ) -> OffsetPagination[Book]:
        """Return those with *search* in the title and, if given, of that author and with one of the *ids*."""
        where = """
             WHERE instr(lower(title), lower(:search))
               AND (:author_id IS NULL OR author_id = :author_id)
               AND (:ids IS NULL OR id IN (SELECT value FROM json_each(:ids)))"""
        parameters = {**msgspec.to_builtins(page), "author_id": author_id and str(author_id)}
        total = await db_session.fetch_value(f"SELECT count(*) FROM books {where}", parameters)
        books = await db_session.fetch_all(
            f"""
            SELECT id, title, author_id, created_at, updated_at
              FROM books
            {where}
             ORDER BY {order_by} {page.sort_order}, id
             LIMIT :limit OFFSET :offset""",
            parameters,
            schema_type=Book,
        )
        return OffsetPagination(books, page.limit, page.offset, total)

    @post()
    async def create_book(self, db_session: Session, data: JSONBody[NewBook]) -> Book:
        """Store a new book of an author who is there."""
        return await db_session.fetch_one(
            """
            INSERT INTO books (id, title, author_id)
            VALUES (:id, :title, :author_id)
            RETURNING id, title, author_id, created_at, updated_at""",
            {"id": str(uuid4()), **msgspec.to_builtins(data)},
            schema_type=Book,
        )

    @get("/{book_id:uuid}", raises=[NotFoundException])
    async def get_book(self, db_session: Session, book_id: FromPath[UUID]) -> Book:
        """Return a book."""
        return await db_session.fetch_one(
            "SELECT id, title, author_id, created_at, updated_at FROM books WHERE id = :id",
            {"id": str(book_id)},
            schema_type=Book,
        )

    @patch("/{book_id:uuid}", raises=[NotFoundException])
    async def update_book(self, db_session: Session, book_id: FromPath[UUID], data: JSONBody[BookChanges]) -> Book:
        """Change a book."""
        changes = {"title": None, "author_id": None, **msgspec.to_builtins(data)}
        return await db_session.fetch_one(
            """
            UPDATE books
               SET title = coalesce(:title, title),
                   author_id = coalesce(:author_id, author_id),
                   updated_at = strftime('%Y-%m-%dT%H:%M:%fZ')
             WHERE id = :id
            RETURNING id, title, author_id, created_at, updated_at""",
            {"id": str(book_id), **changes},
            schema_type=Book,
        )

    @delete("/{book_id:uuid}", raises=[NotFoundException])
    async def delete_book(self, db_session: Session, book_id: FromPath[UUID]) -> None:
        """Delete a book."""
        await db_session.fetch_value("DELETE FROM books WHERE id = :id RETURNING id", {"id": str(book_id)})


async def migrate() -> None:
    """Apply the migrations that are pending; of several processes that start at once, one does."""
    await Migrator(config).upgrade()


app = Litestar(
    [AuthorController, BookController],
    dependencies={"page": Provide(read_page, sync_to_thread=False)},
    plugins=[SQLStorePlugin(config)],
    on_startup=[migrate],
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
