"""Rows in the shape that a handler wants, and what a session refuses to do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from typing_extensions import TypedDict

from sqlstore import NotFoundError, SQLStoreError

from .applications import either

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from .applications import AnySession, Site


@dataclass
class AsDataclass:
    """A row."""

    id: int
    name: str
    active: bool
    born: date
    note: str | None


class AsStruct(msgspec.Struct):
    """The same."""

    id: int
    name: str
    active: bool
    born: date
    note: str | None


class AsTypedDict(TypedDict):
    """The same."""

    id: int
    name: str
    active: bool
    born: date
    note: str | None


ROW = "SELECT {id} AS id, 'Ada' AS name, 1 AS active, '1815-12-10' AS born, NULL AS note"


async def _with_session(site: Site, use: Callable[[AnySession], Coroutine[Any, Any, None]]) -> None:
    config = site.config()
    async with config.get_session() as session:
        await site.finish(use(either(session)))
    await config.pool().close()


def _rows(site: Site, *ids: int) -> str:
    end = " FROM dual" if site.adapter.dialect == "oracle" else ""
    return " UNION ALL ".join(ROW.format(id=number) + end for number in ids) + " ORDER BY 1"


@pytest.mark.parametrize("shape", [AsDataclass, AsStruct, AsTypedDict])
async def test_rows_have_the_shape_that_was_asked_for(site: Site, shape: type[Any]) -> None:
    """Whatever the verb; where the database says 1 for true and text for a date, they become what they should be."""
    both = [
        {"id": number, "name": "Ada", "active": True, "born": date(1815, 12, 10), "note": None} for number in (1, 2)
    ]

    async def use(session: AnySession) -> None:
        listed = await session.fetch_all(_rows(site, 1, 2), schema_type=shape)
        first = await session.fetch_one(_rows(site, 1), schema_type=shape)
        none = await session.fetch_all(site.tables.ids, schema_type=shape)
        async with session.stream(_rows(site, 1, 2), schema_type=shape) as rows:
            streamed = [row async for row in rows]

        assert listed == streamed == [shape(**row) for row in both]
        assert first == listed[0]
        assert none == []

    await _with_session(site, use)


async def test_rows_become_models_of_pydantic(site: Site) -> None:
    """Its own rules then hold for each of them."""
    pydantic: Any = pytest.importorskip("pydantic")
    model: Any = pydantic.create_model("Model", id=int, name=str, active=bool, born=date, note=(str | None, ...))

    async def use(session: AnySession) -> None:
        [row] = await session.fetch_all(_rows(site, 1), schema_type=model)

        assert isinstance(row, model)
        assert row.model_dump() == {"id": 1, "name": "Ada", "active": True, "born": date(1815, 12, 10), "note": None}

    await _with_session(site, use)


async def test_rows_are_dictionaries(site: Site) -> None:
    """With the columns' names in lower case where the statement has no other; a value is the first column's."""

    async def use(session: AnySession) -> None:
        await session.execute_many(site.tables.insert, [(1,), (2,), (3,)])
        everything = f"SELECT id, owner FROM {site.tables.item} ORDER BY id"  # noqa: S608

        assert await session.fetch_all(everything) == [{"id": number, "owner": None} for number in (1, 2, 3)]
        assert await session.fetch_one(everything) == {"id": 1, "owner": None}
        assert await session.fetch_one(site.tables.find, (4,), default=None) is None
        assert await session.fetch_value(everything) == 1
        assert await session.fetch_value(site.tables.find, (4,), default=0) == 0
        for fetch in (session.fetch_one, session.fetch_value):
            with pytest.raises(NotFoundError, match="no such row"):
                await fetch(site.tables.find, (4,))

    await _with_session(site, use)

    assert await site.ids() == [1, 2, 3]


async def test_what_cannot_be_meant_is_refused(site: Site) -> None:
    """Two columns of one name, a shape that is none, a mode for a savepoint, a statement while rows stream."""

    async def use(session: AnySession) -> None:
        end = " FROM dual" if site.adapter.dialect == "oracle" else ""
        await _raises(
            ValueError, "same name, give one of them another", session.fetch_all(f"SELECT 1 AS n, 2 AS n{end}")
        )
        await _raises(
            msgspec.ValidationError,
            "schema_type must be a dataclass",
            session.fetch_all(_rows(site, 1), schema_type=Plain),
        )
        with pytest.raises(ValueError, match="a transaction is open, and has its mode"):
            async with session.transaction(read_only=True):
                pass
        async with session.stream(_rows(site, 1, 2)) as rows:
            await _raises(SQLStoreError, "rows are being streamed", session.fetch_all(_rows(site, 1)))
            assert [row["id"] async for row in rows] == [1, 2]
        assert len(await session.fetch_all(_rows(site, 1, 2))) == 2

    await _with_session(site, use)


class Plain:
    """Nothing that a row could become."""


async def _raises(kind: type[Exception], message: str, call: Awaitable[Any]) -> None:
    with pytest.raises(kind, match=message):
        await call


async def test_concurrent_statements_of_a_request_take_turns(site: Site) -> None:
    """They share its one connection, whatever the driver thinks of that."""

    async def use(session: AnySession) -> None:
        await asyncio.gather(*(session.execute(site.tables.insert, (number,)) for number in range(10)))

        assert len(await session.fetch_all(site.tables.ids)) == 10

    if not site.adapter.threaded:
        await _with_session(site, use)

        assert await site.ids() == [*range(10)]
