"""An env.py by which Alembic's autogenerate leaves sqlstore's tables alone."""

import os

from alembic import context
from sqlalchemy import Column, Integer, MetaData, Table, create_engine

metadata = MetaData()
Table("shop_order", metadata, Column("id", Integer, primary_key=True))  # in place of your models

# region include_object
SQLSTORE_TABLES = {"litestar_session", "sqlstore_migrations"}  # session_table, version_table; no schema


def include_object(_item: object, name: str | None, type_: str, *_: object) -> bool:
    """Leave out sqlstore's tables, and with them their indexes."""
    return type_ != "table" or name not in SQLSTORE_TABLES


# endregion
with create_engine(os.environ["DATABASE_URL"]).connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, include_object=include_object)
    with context.begin_transaction():
        context.run_migrations()
