"""SQLite 3.35 and later (RETURNING).

SQLite runs inside the process, so the process's clock is the database's: instants are bound as epoch seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._dialect import Dialect, Script, Statement
from ._examination import Examination

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("SQLITE",)

_LIVE = "(stored.expires_at IS NULL OR stored.expires_at > ?)"
_ROWS = "stored.namespace = ?\n   AND stored.session_id IN ({key*})"
_ROW = "stored.namespace = ?\n   AND stored.session_id = ?"

_SESSION = """
SELECT stored.session_id, stored.data, stored.version, stored.principal,
       stored.created_at, stored.updated_at, stored.expires_at, ?
  FROM {table} AS stored"""
_OF_PRINCIPAL = f"stored.namespace = ?\n   AND stored.principal = ?\n   AND {_LIVE}"

_INSERT = """
INSERT INTO {table} AS stored (namespace, session_id, data, expires_at, version, created_at, updated_at)"""
_CONFLICT = "ON CONFLICT (namespace, session_id) DO UPDATE"
_ROW_VALUES = ("namespace", "key", "data", "expires_at", "version", "now", "now")

# The new row's updated_at is now, so that one bound instant serves the whole statement.
_EXPIRED = "stored.expires_at <= excluded.updated_at"
_NEW_BIRTH = f"created_at = CASE WHEN {_EXPIRED} THEN excluded.created_at ELSE stored.created_at END"
_NEW_LIFE = f"""principal = CASE WHEN {_EXPIRED} THEN NULL ELSE stored.principal END,
       {_NEW_BIRTH}"""
_NEW_EXPIRY = f"expires_at = CASE WHEN {_EXPIRED} THEN excluded.expires_at ELSE stored.expires_at END"

# A counter is what increment itself writes: a cast there and back changes anything else. A sum that overflows
# becomes a real.
_COUNT = "CAST(CAST(stored.data AS TEXT) AS INTEGER)"
_AMOUNT = "CAST(CAST(excluded.data AS TEXT) AS INTEGER)"


def _begin(isolation_level: str | None, read_only: bool) -> Sequence[str]:  # noqa: ARG001, FBT001 - see Dialect
    # IMMEDIATE, because a transaction that begins with a read may find at its first write that it is too late.
    return ("BEGIN", "PRAGMA query_only = 1") if read_only else ("BEGIN IMMEDIATE",)


_EXAMINATION = Examination(
    server=Statement("SELECT 'SQLite ' || sqlite_version(), 'UTC', NULL, NULL", ()),
    role=Statement("SELECT 'the process', FALSE", ()),
    comparison=Statement(
        """
SELECT DISTINCT columns.name, upper(coll)
  FROM pragma_index_list(?) AS indexes, pragma_index_xinfo(indexes.name) AS columns
 WHERE columns.name IN ('namespace', 'session_id', 'principal')""",
        ("table",),
    ),
    bytewise=frozenset({"BINARY"}),
    durability=Statement(
        """
SELECT 'journal_mode', journal_mode
  FROM pragma_journal_mode
 UNION ALL
SELECT 'synchronous', CAST(synchronous AS TEXT)
  FROM pragma_synchronous""",
        (),
    ),
    durable={"journal_mode": ("wal", "delete", "truncate", "persist"), "synchronous": ("2", "3")},
    durable_fix="give the config pragmas={{'{name}': '{value}'}}",
    bloat=Statement(
        """
SELECT freelist_count * page_size, (page_count - freelist_count) * page_size,
       printf('%d bytes of the file free, of %d', freelist_count * page_size, page_count * page_size)
  FROM pragma_freelist_count, pragma_page_count, pragma_page_size""",
        (),
    ),
    bloat_fix="VACUUM the file, while nothing else uses it",
)


def _is_complete(text: str) -> bool:
    import sqlite3  # noqa: PLC0415 - a driver, which only whoever uses it loads

    return sqlite3.complete_statement(text)  # it knows that a trigger has statements inside


SQLITE = Dialect(
    name="sqlite",
    system="sqlite",
    schemas=False,
    process_clock=True,
    largest_value=10**9 - 2**20,  # SQLITE_MAX_LENGTH, for the whole row: https://www.sqlite.org/limits.html
    select=Statement(
        f"""
SELECT stored.session_id, stored.data, stored.version, stored.expires_at - ?
  FROM {{table}} AS stored
 WHERE {_ROWS}
   AND {_LIVE}""",
        ("now", "namespace", "key*", "now"),
    ),
    select_expiry=Statement(
        f"""
SELECT stored.session_id, stored.expires_at - ?
  FROM {{table}} AS stored
 WHERE {_ROWS}
   AND {_LIVE}""",
        ("now", "namespace", "key*", "now"),
    ),
    renew=Statement(
        f"""
UPDATE {{table}} AS stored
   SET expires_at = max(stored.expires_at, ?)
 WHERE {_ROWS}
   AND stored.expires_at > ?
RETURNING session_id, data, version""",
        ("expires_at", "namespace", "key*", "now"),
    ),
    touch=Statement(
        f"""
UPDATE {{table}} AS stored
   SET expires_at = max(stored.expires_at, ?)
 WHERE {_ROW}
   AND stored.version = ?
   AND stored.expires_at > ?""",
        ("expires_at", "namespace", "key", "version", "now"),
        many=True,
    ),
    upsert=Statement(
        f"""{_INSERT}
VALUES (?, ?, ?, ?, ?, ?, ?)
{_CONFLICT}
   SET data = excluded.data,
       version = excluded.version,
       updated_at = excluded.updated_at,
       expires_at = excluded.expires_at,
       {_NEW_LIFE}""",
        _ROW_VALUES,
        many=True,
    ),
    delete=Statement(
        f"""
DELETE FROM {{table}} AS stored
 WHERE {_ROWS}""",
        ("namespace", "key*"),
    ),
    add=Statement(
        f"""
INSERT INTO {{table}} AS stored (namespace, session_id, data, expires_at, version, principal, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
{_CONFLICT}
   SET data = excluded.data,
       version = excluded.version,
       principal = excluded.principal,
       updated_at = excluded.updated_at,
       {_NEW_EXPIRY},
       {_NEW_BIRTH}
 WHERE {_EXPIRED}
    OR stored.version = excluded.version
RETURNING session_id""",
        ("namespace", "key", "data", "expires_at", "version", "principal", "now", "now"),
    ),
    pop=Statement(
        f"""
DELETE FROM {{table}} AS stored
 WHERE {_ROW}
   AND {_LIVE}
RETURNING session_id, data""",
        ("namespace", "key", "now"),
    ),
    increment=Statement(
        f"""{_INSERT}
VALUES (?, ?, CAST(CAST(? AS TEXT) AS BLOB), ?, ?, ?, ?)
{_CONFLICT}
   SET data = CASE
           WHEN {_EXPIRED} THEN excluded.data
           ELSE CAST(CAST({_COUNT} + {_AMOUNT} AS TEXT) AS BLOB)
       END,
       version = excluded.version,
       updated_at = excluded.updated_at,
       {_NEW_EXPIRY},
       {_NEW_LIFE}
 WHERE {_EXPIRED}
    OR (CAST(CAST({_COUNT} AS TEXT) AS BLOB) = stored.data AND typeof({_COUNT} + {_AMOUNT}) = 'integer')
RETURNING session_id, data""",
        ("namespace", "key", "amount", "expires_at", "version", "now", "now"),
    ),
    compare_and_set=Statement(
        f"""
UPDATE {{table}} AS stored
   SET data = ?,
       version = ?,
       updated_at = ?
 WHERE {_ROW}
   AND stored.version IN (?, ?)
   AND {_LIVE}
RETURNING session_id""",
        ("data", "version", "now", "namespace", "key", "version", "expected", "now"),
    ),
    walk=Statement(
        """
SELECT namespace, session_id, FALSE
  FROM {table}
 WHERE (namespace, session_id) > (?, ?)
   AND namespace < ?
 ORDER BY namespace, session_id
 LIMIT ?""",
        ("after_namespace", "after_key", "end", "limit"),
    ),
    walk_expired=Statement(
        """
SELECT namespace, session_id, TRUE
  FROM {table}
 WHERE (namespace, session_id) > (?, ?)
   AND namespace < ?
   AND expires_at <= ?
 ORDER BY namespace, session_id
 LIMIT ?""",
        ("after_namespace", "after_key", "end", "now", "limit"),
    ),
    delete_expired=Statement(
        f"""
DELETE FROM {{table}} AS stored
 WHERE {_ROWS}
   AND stored.expires_at <= ?
RETURNING session_id""",
        ("namespace", "key*", "now"),
    ),
    load_sessions=Statement(
        f"""{_SESSION}
 WHERE {_ROWS}
   AND {_LIVE}""",
        ("now", "namespace", "key*", "now"),
    ),
    principal_sessions=Statement(
        f"""{_SESSION}
 WHERE {_OF_PRINCIPAL}""",
        ("now", "namespace", "principal", "now"),
    ),
    save_session=Statement(
        f"""
UPDATE {{table}} AS stored
   SET session_id = ?,
       data = ?,
       version = ?,
       principal = ?,
       updated_at = iif(? = 1, ?, stored.updated_at),
       expires_at = min(?, stored.created_at + ?)
 WHERE stored.namespace = ?
   AND stored.session_id IN (?, ?)
   AND stored.version IN (?, ?)
   AND {_LIVE}
RETURNING session_id""",
        (
            *("new_key", "data", "version", "principal", "told", "now", "expires_at", "longest"),
            *("namespace", "key", "new_key", "version", "expected", "now"),
        ),
    ),
    touch_sessions=Statement(
        f"""
UPDATE {{table}} AS stored
   SET updated_at = ?,
       expires_at = min(?, stored.created_at + ?)
 WHERE {_ROWS}
   AND {_LIVE}
RETURNING session_id""",
        ("now", "expires_at", "longest", "namespace", "key*", "now"),
    ),
    delete_principal=Statement(
        f"""
DELETE FROM {{table}} AS stored
 WHERE {_OF_PRINCIPAL}
   AND stored.session_id <> ?
RETURNING session_id""",
        ("namespace", "principal", "now", "kept"),
    ),
    statistics=Statement(
        """
SELECT namespace, count(*), count(*) FILTER (WHERE expires_at <= ?), count(DISTINCT principal),
       sum(length(data)), min(created_at)
  FROM {table}
 WHERE namespace >= ?
   AND namespace < ?
 GROUP BY namespace
 ORDER BY namespace""",
        ("now", "namespace", "end"),
    ),
    tables="""
SELECT name, 'SELECT * FROM "' || replace(name, '"', '""') || '"'
  FROM sqlite_master
 WHERE type = 'table'
   AND name NOT LIKE 'sqlite!_%' ESCAPE '!'
 ORDER BY name""",
    columns=Statement(
        """
SELECT name, lower(type), "notnull", dflt_value
  FROM pragma_table_info(?)""",
        ("table",),
    ),
    # A key column has the collation that its index has.
    indexes=Statement(
        """
SELECT iif(origin = 'pk', NULL, stored.name), "unique",
       (SELECT '(' || group_concat(name || iif("desc", ' DESC', '') || ' COLLATE ' || coll, ', ') || ')'
          FROM pragma_index_xinfo(stored.name)
         WHERE key)
       || iif(partial, substr(sql, instr(sql, ' WHERE ')), '')
  FROM pragma_index_list(?) AS stored
  LEFT JOIN sqlite_master ON sqlite_master.name = stored.name
 ORDER BY stored.name""",
        ("table",),
    ),
    script=Script(
        comment=r"--[^\n]*|/\*.*?(?:\*/|\Z)",
        quoted=r"""'[^']*(?:'|\Z)|"[^"]*(?:"|\Z)|`[^`]*(?:`|\Z)|\[[^\]]*(?:\]|\Z)""",
        is_complete=_is_complete,
        not_in_transaction=(
            r"(?:BEGIN|COMMIT|END|ROLLBACK(?!\s+(?:TRANSACTION\s+)?TO)|PRAGMA\s+(?:\w+\s*\.\s*)?foreign_keys)\b"
        ),
        stop=".bail on",
    ),
    transactional_ddl=True,
    lock_begin=("BEGIN IMMEDIATE",),
    migration_end=("BEGIN", "COMMIT"),  # there is none in another, nor an end of none
    lock_end="ROLLBACK",
    history=Statement(
        """
SELECT version, name, checksum, applied_at, duration, running
  FROM {table}
 WHERE source = ?
 ORDER BY version""",
        ("source",),
    ),
    record=Statement(
        """
INSERT INTO {table} (source, version, name, checksum, applied_at, duration, running)
VALUES (?, ?, ?, ?, ?, ?, ?)""",
        ("source", "version", "name", "checksum", "now", "duration", "running"),
    ),
    mark=Statement(
        """
UPDATE {table}
   SET applied_at = ?,
       duration = ?,
       running = ?
 WHERE source = ?
   AND version = ?""",
        ("now", "duration", "running", "source", "version"),
    ),
    forget=Statement(
        """
DELETE FROM {table}
 WHERE source = ?
   AND version = ?""",
        ("source", "version"),
    ),
    recorded=Statement("SELECT version FROM {table} WHERE source <> ?", ("lock",)),
    one_writer=True,
    isolation_levels=frozenset({"SERIALIZABLE"}),
    begin=_begin,
    grants="""
-- SQLite has no roles: who may write the file and its folder needs no more.
""",
    examination=_EXAMINATION,
)
