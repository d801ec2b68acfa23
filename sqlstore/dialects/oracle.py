"""Oracle Database 12.2 and later.

Instants are UTC in a TIMESTAMP without a zone. Each statement that writes comes after one that locks its rows and does
not wait for them: a statement that changes rows waits for other transactions without a bound, and a server cannot be
told otherwise. A row that is not there yet cannot be locked; for one that somebody inserts at the same time, MERGE
waits until that is committed, and then fails with ORA-00001.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._dialect import Dialect, Script, Statement
from ._examination import Examination

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("ORACLE",)

_NOW = "SYS_EXTRACT_UTC(SYSTIMESTAMP)"
_EXPIRED = f"stored.expires_at <= {_NOW}"
_LIVE = f"(stored.expires_at IS NULL OR stored.expires_at > {_NOW})"


def _seconds(interval: str) -> str:
    # An interval has no length in seconds, and a difference of two DATEs none of their fractions.
    return f"""EXTRACT(DAY FROM {interval}) * 86400 + EXTRACT(HOUR FROM {interval}) * 3600
           + EXTRACT(MINUTE FROM {interval}) * 60 + EXTRACT(SECOND FROM {interval})"""


def _epoch(instant: str) -> str:
    return _seconds(f"({instant} - TIMESTAMP '1970-01-01 00:00:00')")


_SECONDS_LEFT = _seconds(f"(stored.expires_at - {_NOW})")

# Values are bound by position, and each placeholder counts; their numbers mean nothing.
_ROWS = "stored.namespace = :1\n   AND stored.session_id IN ({key*})"
_ROW = "stored.namespace = :1\n   AND stored.session_id = :2"
_KEYS = ("namespace", "key*")
_KEY = ("namespace", "key")

_SESSION = f"""
SELECT stored.session_id, stored.data, stored.version, stored.principal,
       {_epoch("stored.created_at")},
       {_epoch("stored.updated_at")},
       {_epoch("stored.expires_at")},
       {_epoch(_NOW)}
  FROM {{table}} stored"""
_OF_PRINCIPAL = f"stored.namespace = :1\n   AND stored.principal = :2\n   AND {_LIVE}"
_SESSION_EXPIRY = f"LEAST({_NOW} + NUMTODSINTERVAL(:7, 'SECOND'), stored.created_at + NUMTODSINTERVAL(:8, 'SECOND'))"

_LOCK_ROWS = f"""
SELECT stored.session_id
  FROM {{table}} stored
 WHERE {_ROWS}
 ORDER BY stored.session_id
   FOR UPDATE NOWAIT"""
_LOCK_ROW = f"""
SELECT stored.session_id
  FROM {{table}} stored
 WHERE {_ROW}
   FOR UPDATE NOWAIT"""

_FRESH = f"""
MERGE INTO {{table}} stored
USING (SELECT :1 AS namespace,
              :2 AS session_id,
              CAST(:3 AS NUMBER(19)) AS version,
              {_NOW} + NUMTODSINTERVAL(:4, 'SECOND') AS expires_at,
              {_NOW} AS now"""
_MATCHED = """
         FROM dual) fresh
   ON (stored.namespace = fresh.namespace AND stored.session_id = fresh.session_id)"""
_INSERT = "INSERT (namespace, session_id, data, expires_at, version, created_at, updated_at)"
_NEW_LIFE = """principal = CASE WHEN stored.expires_at <= fresh.now THEN NULL ELSE stored.principal END,
       created_at = CASE WHEN stored.expires_at <= fresh.now THEN fresh.now ELSE stored.created_at END"""

# Tells whether this call's value is there: versions are random.
_WRITTEN = Statement(
    f"""
SELECT stored.session_id, stored.data
  FROM {{table}} stored
 WHERE {_ROW}
   AND stored.version = :3""",
    ("namespace", "key", "version"),
)

# A counter is what increment itself writes, looked at as hexadecimal digits: no sign but -, no leading zero, no space.
# As text it could be invalid in the database's character set.
_HEX = "RAWTOHEX(DBMS_LOB.SUBSTR(stored.data, 21, 1))"
_COUNT = f"""CASE
           WHEN stored.expires_at <= fresh.now THEN 0
           WHEN REGEXP_LIKE({_HEX}, '^(30|(2D)?3[1-9](3[0-9]){{0,18}})$')
           THEN TO_NUMBER(UTL_RAW.CAST_TO_VARCHAR2(DBMS_LOB.SUBSTR(stored.data, 20, 1)))
       END"""
_FITS = "BETWEEN -9223372036854775808 AND 9223372036854775807"
_COUNTS = f"{_COUNT} {_FITS} AND {_COUNT} + fresh.amount {_FITS}"

# Unquoted names are in upper case. What SUBSTR finds in front of a dot that is not there is NULL.
_SCHEMA = "NVL(UPPER(SUBSTR(:1, 1, INSTR(:2, '.') - 1)), SYS_CONTEXT('USERENV', 'CURRENT_SCHEMA'))"
_TABLE = "UPPER(SUBSTR(:3, INSTR(:4, '.') + 1))"


def _begin(isolation_level: str | None, read_only: bool) -> Sequence[str]:  # noqa: FBT001 - see Dialect
    # A transaction begins with its first statement. One that only reads sees all of it at one instant, as a
    # serializable one does: the two cannot be combined.
    if read_only:
        return ("SET TRANSACTION READ ONLY",)
    return (f"SET TRANSACTION ISOLATION LEVEL {isolation_level}",) if isolation_level else ()


_EXAMINATION = Examination(
    server=Statement(
        f"""
SELECT banner, SESSIONTIMEZONE, {_epoch(_NOW)}, NULL
  FROM v$version
 WHERE ROWNUM = 1""",
        (),
    ),
    role=Statement(
        """
SELECT SYS_CONTEXT('USERENV', 'SESSION_USER'),
       (SELECT COUNT(*)
          FROM session_roles
         WHERE role = 'DBA')
  FROM dual""",
        (),
    ),
    comparison=Statement(
        """
SELECT parameter, value
  FROM nls_session_parameters
 WHERE parameter IN ('NLS_COMP', 'NLS_SORT')
 ORDER BY parameter""",
        (),
    ),
    bytewise=frozenset({"BINARY"}),
    # What a session begins with, and not the store's own setting: the application's transactions have it.
    durability=Statement(
        """
SELECT name, NVL(value, 'the default')
  FROM v$system_parameter
 WHERE name IN ('commit_logging', 'commit_wait')
 ORDER BY name""",
        (),
    ),
    durable={
        "commit_logging": ("IMMEDIATE", "BATCH", "the default"),
        "commit_wait": ("WAIT", "FORCE_WAIT", "the default"),
    },
    durable_fix="ALTER SYSTEM SET {name} = {value}",
)

ORACLE = Dialect(
    name="oracle",
    system="oracle.db",
    schemas=True,
    process_clock=False,
    largest_value=2**30 - 2**20,  # the driver sends at most 1 GB
    select=Statement(
        f"""
SELECT stored.session_id, stored.data, stored.version, {_SECONDS_LEFT}
  FROM {{table}} stored
 WHERE {_ROWS}
   AND {_LIVE}""",
        _KEYS,
        placeholder=":2",
    ),
    select_expiry=Statement(
        f"""
SELECT stored.session_id, {_SECONDS_LEFT}
  FROM {{table}} stored
 WHERE {_ROWS}
   AND {_LIVE}""",
        _KEYS,
        placeholder=":2",
    ),
    renew=Statement(
        f"""
SELECT stored.session_id, stored.data, stored.version
  FROM {{table}} stored
 WHERE {_ROWS}
   AND stored.expires_at > {_NOW}
 ORDER BY stored.session_id
   FOR UPDATE NOWAIT""",
        _KEYS,
        placeholder=":2",
        then=Statement(
            f"""
UPDATE {{table}} stored
   SET expires_at = GREATEST(stored.expires_at, {_NOW} + NUMTODSINTERVAL(:3, 'SECOND'))
 WHERE {_ROWS}
   AND stored.expires_at > {_NOW}""",
            ("lifetime", *_KEYS),
            placeholder=":2",
        ),
    ),
    touch=Statement(
        _LOCK_ROWS,
        _KEYS,
        placeholder=":2",
        then=Statement(
            f"""
UPDATE {{table}} stored
   SET expires_at = GREATEST(stored.expires_at, {_NOW} + NUMTODSINTERVAL(:3, 'SECOND'))
 WHERE {_ROW}
   AND stored.version = :4
   AND stored.expires_at > {_NOW}""",
            ("lifetime", "namespace", "key", "version"),
            many=True,
        ),
    ),
    upsert=Statement(
        _LOCK_ROWS,
        _KEYS,
        placeholder=":2",
        then=Statement(
            f"""{_FRESH}{_MATCHED}
 WHEN MATCHED THEN UPDATE
   SET data = :5,
       version = fresh.version,
       updated_at = fresh.now,
       expires_at = fresh.expires_at,
       {_NEW_LIFE}
 WHEN NOT MATCHED THEN {_INSERT}
VALUES (fresh.namespace, fresh.session_id, :6, fresh.expires_at, fresh.version, fresh.now, fresh.now)""",
            ("namespace", "key", "version", "lifetime", "data", "data"),
            many=True,
        ),
    ),
    delete=Statement(
        _LOCK_ROWS,
        _KEYS,
        placeholder=":2",
        then=Statement(
            f"""
DELETE FROM {{table}} stored
 WHERE {_ROWS}""",
            _KEYS,
            placeholder=":2",
        ),
    ),
    # What has expired makes way, and what an earlier attempt of this call stored.
    add=Statement(
        _LOCK_ROW,
        _KEY,
        then=Statement(
            f"""
DELETE FROM {{table}} stored
 WHERE {_ROW}
   AND ({_EXPIRED} OR stored.version = :3)""",
            ("namespace", "key", "version"),
            then=Statement(
                f"""{_FRESH}{_MATCHED}
 WHEN NOT MATCHED THEN
INSERT (namespace, session_id, data, expires_at, version, principal, created_at, updated_at)
VALUES (fresh.namespace, fresh.session_id, :5, fresh.expires_at, fresh.version, :6, fresh.now, fresh.now)""",
                ("namespace", "key", "version", "lifetime", "data", "principal"),
                then=_WRITTEN,
            ),
        ),
    ),
    pop=Statement(
        f"""
SELECT stored.session_id, stored.data
  FROM {{table}} stored
 WHERE {_ROW}
   AND {_LIVE}
   FOR UPDATE NOWAIT""",
        _KEY,
        then=Statement(
            f"""
DELETE FROM {{table}} stored
 WHERE {_ROW}
   AND {_LIVE}""",
            _KEY,
        ),
    ),
    increment=Statement(
        _LOCK_ROW,
        _KEY,
        then=Statement(
            f"""{_FRESH},
              CAST(:5 AS NUMBER(19)) AS amount{_MATCHED}
 WHEN MATCHED THEN UPDATE
   SET data = CASE
           WHEN {_COUNTS}
           THEN TO_BLOB(UTL_RAW.CAST_TO_RAW(TO_CHAR({_COUNT} + fresh.amount)))
           ELSE stored.data
       END,
       version = CASE WHEN {_COUNTS} THEN fresh.version ELSE stored.version END,
       updated_at = CASE WHEN {_COUNTS} THEN fresh.now ELSE stored.updated_at END,
       expires_at = CASE WHEN stored.expires_at <= fresh.now THEN fresh.expires_at ELSE stored.expires_at END,
       {_NEW_LIFE}
 WHEN NOT MATCHED THEN {_INSERT}
VALUES (fresh.namespace, fresh.session_id, TO_BLOB(UTL_RAW.CAST_TO_RAW(TO_CHAR(fresh.amount))), fresh.expires_at,
        fresh.version, fresh.now, fresh.now)""",
            ("namespace", "key", "version", "lifetime", "amount"),
            then=_WRITTEN,
        ),
    ),
    compare_and_set=Statement(
        f"""
SELECT stored.session_id
  FROM {{table}} stored
 WHERE {_ROW}
   AND stored.version IN (:3, :4)
   AND {_LIVE}
   FOR UPDATE NOWAIT""",
        ("namespace", "key", "version", "expected"),
        then=Statement(
            f"""
UPDATE {{table}} stored
   SET data = :3,
       version = :4,
       updated_at = {_NOW}
 WHERE {_ROW}
   AND stored.version IN (:5, :6)
   AND {_LIVE}""",
            ("data", "version", "namespace", "key", "version", "expected"),
        ),
    ),
    # The first page begins after '', which is NULL; keys begin with something after a space.
    walk=Statement(
        """
SELECT namespace, session_id, 0
  FROM {table}
 WHERE namespace >= :1
   AND (namespace > :2 OR session_id > NVL(:3, ' '))
   AND namespace < :4
 ORDER BY namespace, session_id
 FETCH FIRST :5 ROWS ONLY""",
        ("after_namespace", "after_namespace", "after_key", "end", "limit"),
    ),
    walk_expired=Statement(
        f"""
SELECT namespace, session_id, 1
  FROM {{table}}
 WHERE namespace >= :1
   AND (namespace > :2 OR session_id > NVL(:3, ' '))
   AND namespace < :4
   AND expires_at <= {_NOW}
 ORDER BY namespace, session_id
 FETCH FIRST :5 ROWS ONLY""",
        ("after_namespace", "after_namespace", "after_key", "end", "limit"),
    ),
    # A row that somebody holds is left for the next round instead of waiting for it.
    delete_expired=Statement(
        f"""
SELECT stored.session_id, stored.namespace
  FROM {{table}} stored
 WHERE {_ROWS}
   AND {_EXPIRED}
   FOR UPDATE SKIP LOCKED""",
        _KEYS,
        placeholder=":2",
        then=Statement(
            f"""
DELETE FROM {{table}} stored
 WHERE stored.session_id = :1
   AND stored.namespace = :2
   AND {_EXPIRED}""",
            (),
            many=True,
        ),
    ),
    load_sessions=Statement(
        f"""{_SESSION}
 WHERE {_ROWS}
   AND {_LIVE}""",
        _KEYS,
        placeholder=":2",
    ),
    principal_sessions=Statement(
        f"""{_SESSION}
 WHERE {_OF_PRINCIPAL}""",
        ("namespace", "principal"),
    ),
    save_session=Statement(
        f"""
SELECT stored.session_id
  FROM {{table}} stored
 WHERE stored.namespace = :1
   AND stored.session_id IN (:2, :3)
   AND stored.version IN (:4, :5)
   AND {_LIVE}
   FOR UPDATE NOWAIT""",
        ("namespace", "key", "new_key", "version", "expected"),
        then=Statement(
            f"""
UPDATE {{table}} stored
   SET session_id = :3,
       data = :4,
       version = :5,
       principal = :6,
       expires_at = {_SESSION_EXPIRY},
       updated_at = CASE WHEN :9 = 1 THEN {_NOW} ELSE stored.updated_at END
 WHERE stored.namespace = :10
   AND stored.session_id IN (:11, :12)
   AND stored.version IN (:13, :14)
   AND {_LIVE}""",
            (
                *("new_key", "data", "version", "principal", "lifetime", "longest", "told"),
                *("namespace", "key", "new_key", "version", "expected"),
            ),
        ),
    ),
    touch_sessions=Statement(
        f"""
SELECT stored.session_id
  FROM {{table}} stored
 WHERE {_ROWS}
   AND {_LIVE}
 ORDER BY stored.session_id
   FOR UPDATE NOWAIT""",
        _KEYS,
        placeholder=":2",
        then=Statement(
            f"""
UPDATE {{table}} stored
   SET updated_at = {_NOW},
       expires_at = {_SESSION_EXPIRY}
 WHERE {_ROWS}
   AND {_LIVE}""",
            ("lifetime", "longest", *_KEYS),
            placeholder=":2",
        ),
    ),
    delete_principal=Statement(
        f"""
SELECT stored.session_id
  FROM {{table}} stored
 WHERE {_OF_PRINCIPAL}
   AND stored.session_id <> :3
   FOR UPDATE NOWAIT""",
        ("namespace", "principal", "kept"),
        then=Statement(
            f"""
DELETE FROM {{table}} stored
 WHERE {_OF_PRINCIPAL}
   AND stored.session_id <> :3""",
            ("namespace", "principal", "kept"),
        ),
    ),
    statistics=Statement(
        f"""
SELECT stored.namespace, COUNT(*), COUNT(CASE WHEN {_EXPIRED} THEN 1 END), COUNT(DISTINCT stored.principal),
       SUM(DBMS_LOB.GETLENGTH(stored.data)), {_epoch("MIN(stored.created_at)")}
  FROM {{table}} stored
 WHERE stored.namespace >= :1
   AND stored.namespace < :2
 GROUP BY stored.namespace
 ORDER BY stored.namespace""",
        ("namespace", "end"),
    ),
    tables="""
SELECT table_name,
       CASE WHEN REGEXP_LIKE(table_name, '^[A-Z][A-Z0-9_]*$')
            THEN 'SELECT * FROM ' || table_name
            ELSE 'SELECT * FROM "' || table_name || '"'
       END
  FROM user_tables
 ORDER BY table_name""",
    # By itself, because the default is a LONG, which stands in no expression.
    columns=Statement(
        f"""
SELECT LOWER(column_name),
       LOWER(data_type)
       || CASE char_used WHEN 'B' THEN '(' || char_length || ' byte)' WHEN 'C' THEN '(' || char_length || ' char)' END
       || CASE WHEN data_precision IS NOT NULL THEN '(' || data_precision || ', ' || data_scale || ')' END,
       CASE nullable WHEN 'N' THEN 1 ELSE 0 END, data_default
  FROM all_tab_columns
 WHERE owner = {_SCHEMA}
   AND table_name = {_TABLE}""",
        ("table",) * 4,
    ),
    # A unique index over the key does what the primary key does, whatever it is called. That of a LOB is unique, too.
    indexes=Statement(
        f"""
SELECT CASE WHEN uniqueness = 'NONUNIQUE' OR parts <> 'namespace, session_id' THEN LOWER(index_name) END,
       CASE uniqueness WHEN 'UNIQUE' THEN 1 ELSE 0 END, '(' || parts || ')'
  FROM (SELECT ind.index_name, ind.uniqueness,
               MAX(CASE column_position WHEN 1 THEN LOWER(column_name) END)
               || MAX(CASE column_position WHEN 2 THEN ', ' || LOWER(column_name) END)
               || MAX(CASE column_position WHEN 3 THEN ', and more' END) AS parts
          FROM all_indexes ind
          JOIN all_ind_columns col ON col.index_owner = ind.owner AND col.index_name = ind.index_name
         WHERE ind.table_owner = {_SCHEMA}
           AND ind.table_name = {_TABLE}
           AND ind.index_type <> 'LOB'
         GROUP BY ind.owner, ind.index_name, ind.uniqueness) ours""",
        ("table",) * 4,
    ),
    script=Script(
        comment=r"--[^\n]*|/\*.*?(?:\*/|\Z)",
        quoted=r"""[nN]?[qQ]'(?:\[.*?\]|\{.*?\}|\(.*?\)|<.*?>|(?P<quote>\S).*?(?P=quote))'"""
        r"""|'[^']*(?:'|\Z)|"[^"]*(?:"|\Z)""",
        block=r"""(?:BEGIN|DECLARE|CREATE\s+(?:OR\s+REPLACE\s+)?(?:(?:NON)?EDITIONABLE\s+)?"""
        r"""(?:FUNCTION|PROCEDURE|PACKAGE|TRIGGER|TYPE))\b""",
        stop="WHENEVER SQLERROR EXIT FAILURE ROLLBACK",
    ),
    transactional_ddl=False,
    # An ordinary user has no lock that is not a row's, and DDL gives it back.
    lock=Statement(
        """
SELECT 1
  FROM {table}
 WHERE source = :1
   FOR UPDATE NOWAIT""",
        ("lock",),
    ),
    lock_in_history=True,
    lock_end="ROLLBACK",
    history=Statement(
        f"""
SELECT stored.version, stored.name, stored.checksum, {_epoch("stored.applied_at")}, stored.duration, stored.running
  FROM {{table}} stored
 WHERE stored.source = :1
 ORDER BY stored.version""",
        ("source",),
    ),
    record=Statement(
        f"""
INSERT INTO {{table}} (source, version, name, checksum, applied_at, duration, running)
VALUES (:1, :2, :3, :4, {_NOW}, :5, :6)""",
        ("source", "version", "name", "checksum", "duration", "running"),
    ),
    mark=Statement(
        f"""
UPDATE {{table}}
   SET applied_at = {_NOW},
       duration = :1,
       running = :2
 WHERE source = :3
   AND version = :4""",
        ("duration", "running", "source", "version"),
    ),
    forget=Statement(
        """
DELETE FROM {table}
 WHERE source = :1
   AND version = :2""",
        ("source", "version"),
    ),
    recorded=Statement("SELECT version FROM {table} WHERE source <> :1", ("lock",)),
    isolation_levels=frozenset({"READ COMMITTED", "SERIALIZABLE"}),
    begin=_begin,
    release_savepoint="",
    grants="""
-- {role} also needs CREATE SESSION, and names the table with the schema that it is in.
GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role};
""",
    examination=_EXAMINATION,
)
