"""MySQL 8.0.19 and later, and MariaDB 10.6 and later: one text for both.

Where they differ, the text itself asks the server which one it is: MariaDB skips comments that begin with the number of
a MySQL version from 5.7 on, and MySQL skips those that begin with ``M!``.
https://mariadb.com/kb/en/comment-syntax/#executable-comment-syntax

Neither has RETURNING for everything, so that a write is followed by a SELECT in its transaction. It finds what the
write did by the version, which the client draws anew for each call. Columns have no alias in front, because DELETE
takes none before MariaDB 11.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._dialect import Dialect, Script, Statement
from ._examination import Examination

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("MYSQL",)

_NOW = "UTC_TIMESTAMP(6)"
_EXPIRED = f"expires_at <= {_NOW}"
_LIVE = f"(expires_at IS NULL OR expires_at > {_NOW})"
_EXPIRY = f"{_NOW} + INTERVAL %s SECOND"
_SECONDS_LEFT = f"TIMESTAMPDIFF(MICROSECOND, {_NOW}, expires_at) / 1e6"

# Keys are bytes to the database, and strings to the stores.
_KEY = "CONVERT(session_id USING utf8mb4)"
_ROWS = "namespace = %s\n   AND session_id IN ({key*})"
_ROW = "namespace = %s\n   AND session_id = %s"
# Through another index, or none, rows would be locked that nobody asked for.
_BY_KEY = "{table} FORCE INDEX (PRIMARY)"


def _new(column: str) -> str:
    """Return the inserted row's *column*: MySQL warns of VALUES(), and MariaDB knows no other way."""
    return f"/*!80019 new.{column} *//*M! VALUES({column}) */"


_INSERT = """
INSERT INTO {table} (namespace, session_id, data, expires_at, version, created_at, updated_at)"""
_ROW_VALUES = f"(%s, %s, %s, {_EXPIRY}, %s, {_NOW}, {_NOW})"
_CONFLICT = "/*!80019 AS new */\nON DUPLICATE KEY UPDATE"

# The column of the row that is there; a bare name could be the new row's.
_OLD = "{table}."
_OLD_EXPIRED = f"{_OLD}{_EXPIRED}"
# Assignments take effect from left to right: what a condition tests is assigned after it.
_NEW_BIRTH = f"created_at = IF({_OLD_EXPIRED}, {_new('created_at')}, {_OLD}created_at)"
_NEW_LIFE = f"""principal = IF({_OLD_EXPIRED}, NULL, {_OLD}principal),
       {_NEW_BIRTH}"""
_NEW_EXPIRY = f"expires_at = IF({_OLD_EXPIRED}, {_new('expires_at')}, {_OLD}expires_at)"
# After the version has been assigned, or has not.
_TAKEN = f"{_OLD}version = {_new('version')}"

_WRITTEN = Statement(
    f"""
SELECT {_KEY}
  FROM {{table}}
 WHERE {_ROW}
   AND version = %s""",
    ("namespace", "key", "version"),
)

# A counter is what increment itself writes. Its digits are looked at in hexadecimal, because MySQL refuses to match
# bytes, and casting what is no number is an error. A number and its sign have 20 bytes at most.
_IS_COUNT = f"HEX(LEFT({_OLD}data, 21)) REGEXP '^(30|(2D)?3[1-9](3[0-9]){{0,18}})$'"
_SUM = f"(CAST({_OLD}data AS DECIMAL(20)) + CAST({_new('data')} AS DECIMAL(20)))"
_RANGE = "BETWEEN -9223372036854775808 AND 9223372036854775807"
_COUNTS = f"CASE WHEN {_IS_COUNT} THEN CAST({_OLD}data AS DECIMAL(20)) {_RANGE} AND {_SUM} {_RANGE} END"

# Not (namespace, session_id) > (…), for which no index is used.
_PAGE = """(namespace = %s AND session_id > %s
    OR namespace > %s AND namespace < %s)"""
_PAGE_VALUES = ("after_namespace", "after_key", "after_namespace", "end")

# A row that somebody holds is left for the next round instead of waiting for it.
_FREE = f"""
  FROM {_BY_KEY}
 WHERE {_ROWS}
   AND {_EXPIRED}"""


def _epoch(instant: str) -> str:
    return f"TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {instant}) / 1e6"


_SESSION = f"""
SELECT {_KEY}, data, version, CONVERT(principal USING utf8mb4),
       {_epoch("created_at")}, {_epoch("updated_at")},
       {_epoch("expires_at")}, {_epoch(_NOW)}
  FROM {{table}}"""
_OF_PRINCIPAL = f"namespace = %s\n   AND principal = %s\n   AND {_LIVE}"
_SESSION_EXPIRY = f"LEAST({_EXPIRY}, created_at + INTERVAL %s SECOND)"

_OF_TABLE = """table_schema = IF(LOCATE('.', %s), SUBSTRING_INDEX(%s, '.', 1), DATABASE())
   AND table_name = SUBSTRING_INDEX(%s, '.', -1)"""


def _begin(isolation_level: str | None, read_only: bool) -> Sequence[str]:  # noqa: FBT001 - see Dialect
    level = (f"SET TRANSACTION ISOLATION LEVEL {isolation_level}",) if isolation_level else ()
    return (*level, f"START TRANSACTION{' READ ONLY' if read_only else ''}")


_EXAMINATION = Examination(
    server=Statement(
        f"""
SELECT CONCAT(IF(LOCATE('MariaDB', VERSION()), 'MariaDB ', 'MySQL '), SUBSTRING_INDEX(VERSION(), '-', 1)),
       IF(@@time_zone = 'SYSTEM', @@system_time_zone, @@time_zone), {_epoch(_NOW)}, @@max_connections""",
        (),
    ),
    role=Statement(
        """
SELECT CURRENT_USER(),
       EXISTS(SELECT 1
                FROM information_schema.user_privileges
               WHERE grantee = CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''')
                 AND privilege_type = 'SUPER')""",
        (),
    ),
    comparison=Statement(
        f"""
SELECT column_name, IFNULL(collation_name, 'binary')
  FROM information_schema.columns
 WHERE {_OF_TABLE}
   AND column_name IN ('namespace', 'session_id', 'principal')
 ORDER BY ordinal_position""",
        ("table",) * 3,
    ),
    bytewise=frozenset({"binary"}),
    # A server without a binary log has nothing to sync.
    durability=Statement(
        """
SELECT 'innodb_flush_log_at_trx_commit', CAST(@@GLOBAL.innodb_flush_log_at_trx_commit AS CHAR)
 UNION ALL
SELECT 'innodb_doublewrite', CAST(@@GLOBAL.innodb_doublewrite AS CHAR)
 UNION ALL
SELECT 'sync_binlog', IF(@@GLOBAL.log_bin, CAST(@@GLOBAL.sync_binlog AS CHAR), '1')""",
        (),
    ),
    durable={
        "innodb_flush_log_at_trx_commit": ("1",),
        "innodb_doublewrite": ("ON", "1", "DETECT_AND_RECOVER", "fast"),
        "sync_binlog": ("1",),
    },
    durable_fix="set {name} = {value} in the server's configuration",
    # As of the last day: MySQL remembers it, see information_schema_stats_expiry.
    bloat=Statement(
        f"""
SELECT data_free, data_length + index_length,
       CONCAT(data_free, ' bytes free, ', data_length + index_length, ' used')
  FROM information_schema.tables
 WHERE {_OF_TABLE}""",
        ("table",) * 3,
    ),
    bloat_fix="OPTIMIZE TABLE {table}, when little is written",
)

MYSQL = Dialect(
    name="mysql",
    system="mysql",
    schemas=True,
    process_clock=False,
    largest_value=2**30 - 2**20,  # max_allowed_packet is 1 GB at most
    select=Statement(
        f"""
SELECT {_KEY}, data, version, {_SECONDS_LEFT}
  FROM {{table}}
 WHERE {_ROWS}
   AND {_LIVE}""",
        ("namespace", "key*"),
        placeholder="%s",
    ),
    select_expiry=Statement(
        f"""
SELECT {_KEY}, {_SECONDS_LEFT}
  FROM {{table}}
 WHERE {_ROWS}
   AND {_LIVE}""",
        ("namespace", "key*"),
        placeholder="%s",
    ),
    renew=Statement(
        f"""
SELECT {_KEY}, data, version
  FROM {_BY_KEY}
 WHERE {_ROWS}
   AND expires_at > {_NOW}
   FOR UPDATE""",
        ("namespace", "key*"),
        placeholder="%s",
        then=Statement(
            f"""
UPDATE {_BY_KEY}
   SET expires_at = GREATEST(expires_at, {_EXPIRY})
 WHERE {_ROWS}
   AND expires_at > {_NOW}""",
            ("lifetime", "namespace", "key*"),
            placeholder="%s",
        ),
    ),
    # Versions are random, so that no other key's version is mistaken for this one's.
    touch=Statement(
        f"""
UPDATE {_BY_KEY}
   SET expires_at = GREATEST(expires_at, {_EXPIRY})
 WHERE {_ROWS}
   AND version IN ({{version*}})
   AND expires_at > {_NOW}""",
        ("lifetime", "namespace", "key*", "version*"),
        placeholder="%s",
    ),
    upsert=Statement(
        f"""{_INSERT}
VALUES {{rows}} {_CONFLICT}
       data = {_new("data")},
       version = {_new("version")},
       updated_at = {_new("updated_at")},
       {_NEW_LIFE},
       expires_at = {_new("expires_at")}""",
        ("namespace", "key", "data", "lifetime", "version"),
        row=_ROW_VALUES,
    ),
    delete=Statement(
        f"""
DELETE gone
  FROM {{table}} AS gone FORCE INDEX (PRIMARY)
 WHERE {_ROWS}""",
        ("namespace", "key*"),
        placeholder="%s",
    ),
    add=Statement(
        f"""
INSERT INTO {{table}} (namespace, session_id, data, expires_at, version, principal, created_at, updated_at)
VALUES (%s, %s, %s, {_EXPIRY}, %s, %s, {_NOW}, {_NOW}) {_CONFLICT}
       version = IF({_OLD_EXPIRED}, {_new("version")}, {_OLD}version),
       data = IF({_TAKEN}, {_new("data")}, {_OLD}data),
       principal = IF({_TAKEN}, {_new("principal")}, {_OLD}principal),
       updated_at = IF({_TAKEN}, {_new("updated_at")}, {_OLD}updated_at),
       {_NEW_BIRTH},
       {_NEW_EXPIRY}""",
        ("namespace", "key", "data", "lifetime", "version", "principal"),
        then=_WRITTEN,
    ),
    # Marked with a version that no value has, so that what is deleted is what has been read.
    pop=Statement(
        f"""
UPDATE {{table}}
   SET version = -1
 WHERE {_ROW}
   AND {_LIVE}""",
        ("namespace", "key"),
        then=Statement(
            f"""
SELECT {_KEY}, data
  FROM {{table}}
 WHERE {_ROW}
   AND version = -1""",
            ("namespace", "key"),
            then=Statement(
                f"""
DELETE FROM {{table}}
 WHERE {_ROW}
   AND version = -1""",
                ("namespace", "key"),
            ),
        ),
    ),
    increment=Statement(
        f"""{_INSERT}
VALUES (%s, %s, CAST(%s AS CHAR), {_EXPIRY}, %s, {_NOW}, {_NOW}) {_CONFLICT}
       version = IF({_OLD_EXPIRED} OR {_COUNTS}, {_new("version")}, {_OLD}version),
       data = IF({_OLD_EXPIRED}, {_new("data")}, IF({_TAKEN}, CAST({_SUM} AS CHAR), {_OLD}data)),
       updated_at = IF({_TAKEN}, {_new("updated_at")}, {_OLD}updated_at),
       {_NEW_LIFE},
       {_NEW_EXPIRY}""",
        ("namespace", "key", "amount", "lifetime", "version"),
        then=Statement(
            f"""
SELECT {_KEY}, data
  FROM {{table}}
 WHERE {_ROW}
   AND version = %s""",
            ("namespace", "key", "version"),
        ),
    ),
    compare_and_set=Statement(
        f"""
UPDATE {{table}}
   SET data = %s,
       version = %s,
       updated_at = {_NOW}
 WHERE {_ROW}
   AND version IN (%s, %s)
   AND {_LIVE}""",
        ("data", "version", "namespace", "key", "version", "expected"),
        then=_WRITTEN,
    ),
    walk=Statement(
        f"""
SELECT CONVERT(namespace USING utf8mb4), {_KEY}, FALSE
  FROM {{table}}
 WHERE {_PAGE}
 ORDER BY namespace, session_id
 LIMIT %s""",
        (*_PAGE_VALUES, "limit"),
    ),
    walk_expired=Statement(
        f"""
SELECT CONVERT(namespace USING utf8mb4), {_KEY}, TRUE
  FROM {{table}}
 WHERE {_PAGE}
   AND {_EXPIRED}
 ORDER BY namespace, session_id
 LIMIT %s""",
        (*_PAGE_VALUES, "limit"),
    ),
    # The answer are those that this transaction then holds; what becomes free before the second step goes uncounted.
    delete_expired=Statement(
        f"""
SELECT {_KEY}{_FREE}
   FOR UPDATE SKIP LOCKED""",
        ("namespace", "key*"),
        placeholder="%s",
        # LIMIT, or MariaDB would merge the two, and lock what it should skip.
        then=Statement(
            f"""
DELETE gone
  FROM (
       SELECT namespace, session_id{_FREE}
        LIMIT 18446744073709551615
          FOR UPDATE SKIP LOCKED) AS free
 STRAIGHT_JOIN {{table}} AS gone
    ON gone.namespace = free.namespace
   AND gone.session_id = free.session_id""",
            ("namespace", "key*"),
            placeholder="%s",
        ),
    ),
    load_sessions=Statement(
        f"""{_SESSION}
 WHERE {_ROWS}
   AND {_LIVE}""",
        ("namespace", "key*"),
        placeholder="%s",
    ),
    principal_sessions=Statement(
        f"""{_SESSION}
 WHERE {_OF_PRINCIPAL}""",
        ("namespace", "principal"),
    ),
    # A repetition changes nothing, and finds what the first attempt wrote. To look for the new key here, too, would
    # lock the gap where it belongs, and two transactions would wait for each other.
    save_session=Statement(
        f"""
UPDATE {_BY_KEY}
   SET session_id = %s,
       data = %s,
       version = %s,
       principal = %s,
       updated_at = IF(%s = 1, {_NOW}, updated_at),
       expires_at = {_SESSION_EXPIRY}
 WHERE {_ROW}
   AND version = %s
   AND {_LIVE}""",
        (
            *("new_key", "data", "version", "principal", "told", "lifetime", "longest"),
            *("namespace", "key", "expected"),
        ),
        then=Statement(_WRITTEN.text, ("namespace", "new_key", "version")),
    ),
    touch_sessions=Statement(
        f"""
SELECT {_KEY}
  FROM {_BY_KEY}
 WHERE {_ROWS}
   AND {_LIVE}
   FOR UPDATE""",
        ("namespace", "key*"),
        placeholder="%s",
        then=Statement(
            f"""
UPDATE {_BY_KEY}
   SET updated_at = {_NOW},
       expires_at = {_SESSION_EXPIRY}
 WHERE {_ROWS}
   AND {_LIVE}""",
            ("lifetime", "longest", "namespace", "key*"),
            placeholder="%s",
        ),
    ),
    delete_principal=Statement(
        f"""
SELECT {_KEY}
  FROM {{table}}
 WHERE {_OF_PRINCIPAL}
   AND session_id <> %s
   FOR UPDATE""",
        ("namespace", "principal", "kept"),
        then=Statement(
            f"""
DELETE FROM {{table}}
 WHERE {_OF_PRINCIPAL}
   AND session_id <> %s""",
            ("namespace", "principal", "kept"),
        ),
    ),
    statistics=Statement(
        f"""
SELECT CONVERT(namespace USING utf8mb4), COUNT(*), COUNT(IF({_EXPIRED}, 1, NULL)), COUNT(DISTINCT principal),
       SUM(LENGTH(data)), {_epoch("MIN(created_at)")}
  FROM {{table}}
 WHERE namespace >= %s
   AND namespace < %s
 GROUP BY namespace
 ORDER BY namespace""",
        ("namespace", "end"),
    ),
    tables="""
SELECT table_name AS name, CONCAT('SELECT * FROM `', REPLACE(table_name, '`', '``'), '`') AS query
  FROM information_schema.tables
 WHERE table_schema = DATABASE()
   AND table_type = 'BASE TABLE'
 ORDER BY table_name""",
    # MariaDB says bigint(20), and of no default that it is 'NULL'.
    columns=Statement(
        f"""
SELECT column_name, REPLACE(column_type, 'bigint(20)', 'bigint'), is_nullable = 'NO',
       NULLIF(column_default, 'NULL') IS NOT NULL OR extra REGEXP 'auto_increment|GENERATED'
  FROM information_schema.columns
 WHERE {_OF_TABLE}
 ORDER BY ordinal_position""",
        ("table",) * 3,
    ),
    # In an engine without transactions they would not keep two writers apart.
    indexes=Statement(
        f"""
SELECT NULLIF(index_name, 'PRIMARY'), NOT non_unique,
       CONCAT('(', GROUP_CONCAT(column_name, IFNULL(CONCAT('(', sub_part, ')'), '') ORDER BY seq_in_index
                                SEPARATOR ', '), ')',
              (SELECT IF(engine = 'InnoDB', '', CONCAT(' ENGINE = ', engine))
                 FROM information_schema.tables
                WHERE {_OF_TABLE}))
  FROM information_schema.statistics
 WHERE {_OF_TABLE}
 GROUP BY index_name, non_unique
 ORDER BY index_name""",
        ("table",) * 6,
    ),
    script=Script(
        # Not what looks like a comment, and is for servers of some versions.
        comment=r"#[^\n]*|--(?=\s|\Z)[^\n]*|/\*(?!M?!).*?(?:\*/|\Z)",
        # Possessive, or matching a string would take a hundred times its size in memory.
        quoted=r"""'(?:[^'\\]|\\.)*+(?:'|\Z)|"(?:[^"\\]|\\.)*+(?:"|\Z)|`[^`]*(?:`|\Z)""",
        directive=r"^[ \t]*(?i:DELIMITER)[ \t]+\S+[ \t]*$",
    ),
    # Each transaction ends with the first DDL in it. A store's own timeouts are too short for a table in use.
    transactional_ddl=False,
    migration_settings=("SET SESSION lock_wait_timeout = 60, innodb_lock_wait_timeout = 60",),
    # It ends with its connection, too.
    lock=Statement("SELECT GET_LOCK(%s, 0)", ("lock",)),
    # Nothing is sent over it while a migration runs: the server would close it, by many hosts' settings in a minute.
    lock_settings=("SET SESSION wait_timeout = 2147483",),
    migration_end=("COMMIT", "SET SESSION autocommit = 1"),
    lock_end="DO RELEASE_ALL_LOCKS()",
    history=Statement(
        f"""
SELECT version, name, checksum, {_epoch("applied_at")}, duration, running
  FROM {{table}}
 WHERE source = %s
 ORDER BY version""",
        ("source",),
    ),
    record=Statement(
        f"""
INSERT INTO {{table}} (source, version, name, checksum, applied_at, duration, running)
VALUES (%s, %s, %s, %s, {_NOW}, %s, %s)""",
        ("source", "version", "name", "checksum", "duration", "running"),
    ),
    mark=Statement(
        f"""
UPDATE {{table}}
   SET applied_at = {_NOW},
       duration = %s,
       running = %s
 WHERE source = %s
   AND version = %s""",
        ("duration", "running", "source", "version"),
    ),
    forget=Statement(
        """
DELETE FROM {table}
 WHERE source = %s
   AND version = %s""",
        ("source", "version"),
    ),
    recorded=Statement("SELECT version FROM {table} WHERE source <> %s", ("lock",)),
    isolation_levels=frozenset({"READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"}),
    begin=_begin,
    grants="""
GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role};
""",
    examination=_EXAMINATION,
)
