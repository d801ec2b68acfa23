"""Notes in a table of the application's own, in the file where its sessions and caches are, too."""

from dataclasses import dataclass

from litestar import Litestar, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from sqlstore.adapters.aiosqlite import AiosqliteConfig
from sqlstore.litestar import DatabaseSession, SQLStorePlugin

config = AiosqliteConfig(pool_config={"database": "notes.db"})


@dataclass
class NewNote:
    """What a client sends."""

    text: str


@dataclass
class Note:
    """A row."""

    id: int
    text: str


@post("/notes")
async def add_note(db_session: NamedDependency[DatabaseSession], data: JSONBody[NewNote]) -> Note:
    """Store a note; the client gets its 201 when that has been committed."""
    return await db_session.fetch_one(
        "INSERT INTO notes (text) VALUES (?) RETURNING id, text", [data.text], schema_type=Note
    )


@get("/notes")
async def list_notes(db_session: NamedDependency[DatabaseSession]) -> list[Note]:
    """Return all notes."""
    return await db_session.fetch_all("SELECT id, text FROM notes ORDER BY id", schema_type=Note)


@get("/notes/{note_id:int}")
async def get_note(db_session: NamedDependency[DatabaseSession], note_id: FromPath[int]) -> Note:
    """Return a note, or 404."""
    return await db_session.fetch_one("SELECT id, text FROM notes WHERE id = ?", [note_id], schema_type=Note)


async def create_notes() -> None:
    """Make the table, unless it is there."""
    async with config.get_session() as db_session:
        await db_session.execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")


app = Litestar(
    [add_note, list_notes, get_note],
    plugins=[SQLStorePlugin(config)],
    on_startup=[create_notes],
)
