"""Accounts: what a request does is one transaction, unless its route says otherwise."""

import asyncio
from dataclasses import dataclass

from litestar import Litestar, get, post
from litestar.di import NamedDependency
from litestar.exceptions import ClientException
from litestar.params import FromPath, JSONBody

from sqlstore import ContentionError, UniqueViolationError
from sqlstore.adapters.aiosqlite import AiosqliteConfig
from sqlstore.litestar import DatabaseSession, SQLStorePlugin

config = AiosqliteConfig(pool_config={"database": "accounts.db"})
Session = NamedDependency[DatabaseSession]


@dataclass
class Transfer:
    """Money from one account to another."""

    source: str
    target: str
    cents: int


# region autocommit
@post("/transfers")
async def transfer(db_session: Session, data: JSONBody[Transfer]) -> None:
    """Move money: both statements are committed with the 201, or neither is, because the answer is a 400."""
    add = "UPDATE accounts SET cents = cents + ? WHERE name = ? RETURNING cents"
    left = await db_session.fetch_value(add, [-data.cents, data.source])
    await db_session.fetch_value(add, [data.cents, data.target])
    if left < 0:
        raise ClientException(detail="there is not enough in the account")


# endregion
# region savepoints
@post("/accounts")
async def open_accounts(db_session: Session, data: JSONBody[list[str]]) -> list[str]:
    """Open those accounts that are not there; a name that is taken undoes its own savepoint and nothing else."""
    opened: list[str] = []
    for name in data:
        try:
            async with db_session.transaction():
                await db_session.execute("INSERT INTO accounts (name, cents) VALUES (?, 10000)", [name])
                await db_session.execute("INSERT INTO openings (name) VALUES (?)", [name])
        except UniqueViolationError:
            continue
        opened.append(name)
    return opened


# endregion
# region read_only
@get("/total", opt={"db_session": {"read_only": True, "isolation_level": "serializable"}})
async def total(db_session: Session) -> dict[str, int]:
    """Return two sums of the same moment."""
    return {
        "accounts": await db_session.fetch_value("SELECT count(*) FROM accounts"),
        "cents": await db_session.fetch_value("SELECT coalesce(sum(cents), 0) FROM accounts"),
    }


# endregion
# region retry
@post("/interest/{percent:int}", opt={"db_session": {"commit_mode": "manual"}})
async def pay_interest(db_session: Session, percent: FromPath[int]) -> int:
    """Pay it, in a transaction that is begun again when another one was in the way."""
    pauses = [0.05, 0.1, 0.2, 0.4]
    while True:
        try:
            async with db_session.transaction():
                return await db_session.execute("UPDATE accounts SET cents = cents * (100 + ?) / 100", [percent])
        except ContentionError:
            if not pauses:
                raise
            await asyncio.sleep(pauses.pop(0))


# endregion
async def create_tables() -> None:
    """Make the tables, unless they are there."""
    async with config.get_session() as db_session:
        await db_session.execute("CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, cents INTEGER NOT NULL)")
        await db_session.execute("CREATE TABLE IF NOT EXISTS openings (name TEXT NOT NULL)")


app = Litestar(
    [transfer, open_accounts, total, pay_interest],
    plugins=[SQLStorePlugin(config)],
    on_startup=[create_tables],
)
