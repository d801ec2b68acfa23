"""PostgreSQL 12 and later.

Instants are ``statement_timestamp()``: ``now()`` stands still inside a transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._dialect import Dialect, Script, Statement
from ._examination import Examination

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("POSTGRESQL",)

_NOW = "statement_timestamp()"
_EXPIRED = f"stored.expires_at <= {_NOW}"
_LIVE = f"(stored.expires_at IS NULL OR stored.expires_at > {_NOW})"

# Not extract, which makes a slower numeric.
_SECONDS_LEFT = f"date_part('epoch', stored.expires_at - {_NOW})"

# What writing over a row that has expired resets, and writing over a live one keeps.
_NEW_BIRTH = f"created_at = CASE WHEN {_EXPIRED} THEN excluded.created_at ELSE stored.created_at END"
_NEW_LIFE = f"""principal = CASE WHEN {_EXPIRED} THEN NULL ELSE stored.principal END,
       {_NEW_BIRTH}"""
_NEW_EXPIRY = f"expires_at = CASE WHEN {_EXPIRED} THEN excluded.expires_at ELSE stored.expires_at END"

# Not unnest joined with the table, for which a plan made while the table is empty reads all of it; nor = ANY, for which
# such a plan reads the whole namespace: 48 ms instead of 0.1 in a table of 200,000 rows (PostgreSQL 15). OFFSET 0 keeps
# the planner from making a join of it.
_FOUND = f"""
  FROM unnest($2::text[]) AS wanted (session_id)
 CROSS JOIN LATERAL (
       SELECT stored.*
         FROM {{table}} AS stored
        WHERE stored.namespace = $1
          AND stored.session_id = wanted.session_id COLLATE "C"
          AND {_LIVE}
       OFFSET 0) AS stored"""
# Right as long as the plan is made for each call.
_ROWS = "stored.namespace = $1\n   AND stored.session_id = ANY($2)"
_ROW = "stored.namespace = $1\n   AND stored.session_id = $2"

_SESSION = f"""
SELECT stored.session_id, stored.data, stored.version, stored.principal,
       date_part('epoch', stored.created_at), date_part('epoch', stored.updated_at),
       date_part('epoch', stored.expires_at), date_part('epoch', {_NOW})"""
_OF_PRINCIPAL = f"stored.namespace = $1\n   AND stored.principal = $2\n   AND {_LIVE}"

_INSERT = """
INSERT INTO {table} AS stored (namespace, session_id, data, expires_at, version, created_at, updated_at)"""
_CONFLICT = "ON CONFLICT (namespace, session_id) DO UPDATE"

# A counter is what increment itself writes: no sign but -, no leading zero, no space. Checked before the cast,
# because a failed cast is an error and not a NULL.
_COUNT = """CASE
           WHEN encode(stored.data, 'escape') ~ '^(0|-?[1-9][0-9]{0,18})$'
           THEN encode(stored.data, 'escape')::numeric
       END"""
_RANGE = "BETWEEN -9223372036854775808 AND 9223372036854775807"

_WALK = Statement(
    f"""
SELECT stored.namespace, stored.session_id, coalesce({_EXPIRED}, FALSE)
  FROM {{table}} AS stored
 WHERE (stored.namespace, stored.session_id) > ($1, $2)
   AND stored.namespace < $3
 ORDER BY stored.namespace, stored.session_id
 LIMIT $4""",
    ("after_namespace", "after_key", "end", "limit"),
)


def _begin(isolation_level: str | None, read_only: bool) -> Sequence[str]:  # noqa: FBT001 - see Dialect
    level = f" ISOLATION LEVEL {isolation_level}" if isolation_level else ""
    return (f"BEGIN{level}{' READ ONLY' if read_only else ''}",)


# Each with a parameter, because a text without one is not expected to answer.
_EXAMINATION = Examination(
    server=Statement(
        """
SELECT 'PostgreSQL ' || current_setting('server_version'), current_setting('TimeZone'),
       date_part('epoch', clock_timestamp()),
       current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
 WHERE $1 <> ''""",
        ("table",),
    ),
    role=Statement(
        """
SELECT rolname, rolsuper
  FROM pg_roles
 WHERE rolname = current_user
   AND $1 <> ''""",
        ("table",),
    ),
    comparison=Statement(
        """
SELECT attname, collname
  FROM pg_attribute
  JOIN pg_collation ON pg_collation.oid = attcollation
 WHERE attrelid = to_regclass($1)
   AND attname IN ('namespace', 'session_id', 'principal')
 ORDER BY attnum""",
        ("table",),
    ),
    bytewise=frozenset({"C", "POSIX", "ucs_basic"}),
    # What a connection begins with, and not the store's own setting: the application's transactions have it.
    durability=Statement(
        """
SELECT name, reset_val
  FROM pg_settings
 WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit')
   AND $1 <> ''
 ORDER BY name""",
        ("table",),
    ),
    durable={
        "fsync": ("on",),
        "full_page_writes": ("on",),
        "synchronous_commit": ("on", "remote_apply", "remote_write", "local"),
    },
    durable_fix="ALTER SYSTEM SET {name} = {value}, and look for it in ALTER ROLE and ALTER DATABASE",
    bloat=Statement(
        """
SELECT n_dead_tup, n_live_tup,
       format('%s dead rows, %s live ones, last vacuumed: %s', n_dead_tup, n_live_tup,
              coalesce(greatest(last_vacuum, last_autovacuum)::timestamptz(0)::text, 'never'))
  FROM pg_stat_all_tables
 WHERE relid = to_regclass($1)""",
        ("table",),
    ),
    bloat_least=1000,
    bloat_fix="VACUUM {table}, and find what keeps autovacuum away: a transaction that was left open, or its settings",
)

_FLAT = r"/\*(?:(?!/\*|\*/).)*(?:\*/|\Z)"
_NESTED = rf"/\*(?:(?!/\*|\*/).|{_FLAT})*(?:\*/|\Z)"  # comments nest, here to a depth of 3
_SCRIPT = Script(
    comment=rf"--[^\n]*|/\*(?:(?!/\*|\*/).|{_NESTED})*(?:\*/|\Z)",
    # Possessive, or matching a string would take a hundred times its size in memory.
    quoted=r"""[eE]'(?:[^'\\]|\\.|'')*+(?:'|\Z)|'[^']*(?:'|\Z)|"[^"]*(?:"|\Z)"""
    r"""|(?<![\w$])(?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?:(?P=tag)|\Z)""",
    not_in_transaction=(
        r"(?:BEGIN|START\s+TRANSACTION|COMMIT|END|ABORT|PREPARE\s+TRANSACTION"
        r"|ROLLBACK(?!\s+(?:(?:WORK|TRANSACTION)\s+)?TO))\b"
    ),
    stop="\\set ON_ERROR_STOP on",
)

POSTGRESQL = Dialect(
    name="postgresql",
    system="postgresql",
    schemas=True,
    process_clock=False,
    largest_value=2**30 - 2**20,  # a field and a message have at most 1 GB
    select=Statement(
        f"""
SELECT stored.session_id, stored.data, stored.version, {_SECONDS_LEFT}{_FOUND}""",
        ("namespace", "key[]"),
    ),
    select_expiry=Statement(
        f"""
SELECT stored.session_id, {_SECONDS_LEFT}{_FOUND}""",
        ("namespace", "key[]"),
    ),
    renew=Statement(
        f"""
UPDATE {{table}} AS stored
   SET expires_at = greatest(stored.expires_at, {_NOW} + make_interval(secs => $3))
 WHERE {_ROWS}
   AND stored.expires_at > {_NOW}
RETURNING stored.session_id, stored.data, stored.version""",
        ("namespace", "key[]", "lifetime"),
    ),
    # Versions are random, so that no other key's version is mistaken for this one's.
    touch=Statement(
        f"""
UPDATE {{table}} AS stored
   SET expires_at = greatest(stored.expires_at, {_NOW} + make_interval(secs => $4))
 WHERE {_ROWS}
   AND stored.version = ANY($3)
   AND stored.expires_at > {_NOW}""",
        ("namespace", "key[]", "version[]", "lifetime"),
    ),
    upsert=Statement(
        f"""{_INSERT}
SELECT $1, session_id, data, {_NOW} + make_interval(secs => lifetime), version, {_NOW}, {_NOW}
  FROM unnest($2::text[], $3::bytea[], $4::float8[], $5::bigint[]) AS new (session_id, data, lifetime, version)
{_CONFLICT}
   SET data = excluded.data,
       version = excluded.version,
       updated_at = excluded.updated_at,
       expires_at = excluded.expires_at,
       {_NEW_LIFE}""",
        ("namespace", "key[]", "data[]", "lifetime[]", "version[]"),
    ),
    delete=Statement(
        f"""
DELETE FROM {{table}} AS stored
 WHERE {_ROWS}""",
        ("namespace", "key[]"),
    ),
    add=Statement(
        f"""
INSERT INTO {{table}} AS stored (namespace, session_id, data, expires_at, version, principal, created_at, updated_at)
VALUES ($1, $2, $3, {_NOW} + make_interval(secs => $4), $5, $6, {_NOW}, {_NOW})
{_CONFLICT}
   SET data = excluded.data,
       version = excluded.version,
       principal = excluded.principal,
       updated_at = excluded.updated_at,
       {_NEW_EXPIRY},
       {_NEW_BIRTH}
 WHERE {_EXPIRED}
    OR stored.version = excluded.version
RETURNING stored.session_id""",
        ("namespace", "key", "data", "lifetime", "version", "principal"),
    ),
    pop=Statement(
        f"""
DELETE FROM {{table}} AS stored
 WHERE {_ROW}
   AND {_LIVE}
RETURNING stored.session_id, stored.data""",
        ("namespace", "key"),
    ),
    increment=Statement(
        f"""{_INSERT}
VALUES ($1, $2, convert_to($3::bigint::text, 'UTF8'), {_NOW} + make_interval(secs => $4), $5, {_NOW}, {_NOW})
{_CONFLICT}
   SET data = CASE
           WHEN {_EXPIRED} THEN excluded.data
           ELSE convert_to(({_COUNT} + $3)::text, 'UTF8')
       END,
       version = excluded.version,
       updated_at = excluded.updated_at,
       {_NEW_EXPIRY},
       {_NEW_LIFE}
 WHERE {_EXPIRED}
    OR ({_COUNT} {_RANGE} AND {_COUNT} + $3 {_RANGE})
RETURNING stored.session_id, stored.data""",
        ("namespace", "key", "amount", "lifetime", "version"),
    ),
    compare_and_set=Statement(
        f"""
UPDATE {{table}} AS stored
   SET data = $3,
       version = $4,
       updated_at = {_NOW}
 WHERE {_ROW}
   AND stored.version IN ($4, $5)
   AND {_LIVE}
RETURNING stored.session_id""",
        ("namespace", "key", "data", "version", "expected"),
    ),
    walk=_WALK,
    # There is no index on expires_at (it would forbid HOT updates), so pruning reads every key.
    walk_expired=_WALK,
    # A row that somebody holds is left for the next round instead of waiting for it.
    delete_expired=Statement(
        f"""
DELETE FROM {{table}}
 WHERE namespace = $1
   AND session_id IN (
       SELECT stored.session_id
         FROM {{table}} AS stored
        WHERE {_ROWS}
          AND {_EXPIRED}
        ORDER BY stored.session_id
          FOR UPDATE SKIP LOCKED)
RETURNING session_id""",
        ("namespace", "key[]"),
    ),
    load_sessions=Statement(
        f"""{_SESSION}{_FOUND}""",
        ("namespace", "key[]"),
    ),
    principal_sessions=Statement(
        f"""{_SESSION}
  FROM {{table}} AS stored
 WHERE {_OF_PRINCIPAL}""",
        ("namespace", "principal"),
    ),
    save_session=Statement(
        f"""
UPDATE {{table}} AS stored
   SET session_id = $3,
       data = $4,
       version = $5,
       principal = $6,
       updated_at = CASE WHEN $10 = 1 THEN {_NOW} ELSE stored.updated_at END,
       expires_at = least({_NOW} + make_interval(secs => $7), stored.created_at + make_interval(secs => $8))
 WHERE stored.namespace = $1
   AND stored.session_id IN ($2, $3)
   AND stored.version IN ($5, $9)
   AND {_LIVE}
RETURNING stored.session_id""",
        (
            *("namespace", "key", "new_key", "data", "version", "principal"),
            *("lifetime", "longest", "expected", "told"),
        ),
    ),
    save_sessions=Statement(
        f"""
UPDATE {{table}} AS stored
   SET data = new.data,
       version = new.version,
       updated_at = {_NOW},
       expires_at = least({_NOW} + make_interval(secs => $6), stored.created_at + make_interval(secs => $7))
  FROM unnest($2::text[], $3::bytea[], $4::bigint[], $5::bigint[]) AS new (session_id, data, version, expected)
 WHERE {_ROWS}
   AND stored.session_id = new.session_id COLLATE "C"
   AND stored.version IN (new.version, new.expected)
   AND {_LIVE}
RETURNING stored.session_id""",
        ("namespace", "key[]", "data[]", "version[]", "expected[]", "lifetime", "longest"),
    ),
    touch_sessions=Statement(
        f"""
UPDATE {{table}} AS stored
   SET updated_at = {_NOW},
       expires_at = least({_NOW} + make_interval(secs => $3), stored.created_at + make_interval(secs => $4))
 WHERE {_ROWS}
   AND {_LIVE}
RETURNING stored.session_id""",
        ("namespace", "key[]", "lifetime", "longest"),
    ),
    delete_principal=Statement(
        f"""
DELETE FROM {{table}} AS stored
 WHERE {_OF_PRINCIPAL}
   AND stored.session_id <> $3
RETURNING stored.session_id""",
        ("namespace", "principal", "kept"),
    ),
    statistics=Statement(
        f"""
SELECT stored.namespace, count(*), count(*) FILTER (WHERE {_EXPIRED}), count(DISTINCT stored.principal),
       sum(octet_length(stored.data)), date_part('epoch', min(stored.created_at))
  FROM {{table}} AS stored
 WHERE stored.namespace >= $1
   AND stored.namespace < $2
 GROUP BY stored.namespace
 ORDER BY stored.namespace""",
        ("namespace", "end"),
    ),
    # A row of an heir is in the heir's own file, and one of a partition in the file of the whole.
    tables="""
SELECT relname, 'SELECT * FROM ' || CASE relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || quote_ident(relname)
  FROM pg_class
 WHERE relnamespace = current_schema()::regnamespace
   AND relkind IN ('r', 'p')
   AND NOT relispartition
 ORDER BY relname""",
    columns=Statement(
        """
SELECT attname, concat_ws(' ', format_type(atttypid, atttypmod), 'COLLATE "' || collname || '"'),
       attnotnull, atthasdef OR attidentity <> ''
  FROM pg_attribute
  LEFT JOIN pg_collation ON pg_collation.oid = attcollation
 WHERE attrelid = to_regclass($1)
   AND attnum > 0
   AND NOT attisdropped
 ORDER BY attnum""",
        ("table",),
    ),
    # Storage parameters are a matter of taste.
    indexes=Statement(
        """
SELECT CASE WHEN NOT indisprimary THEN relname END, indisunique OR indisexclusion,
       concat_ws(' ', regexp_replace(pg_get_indexdef(indexrelid), '^.* USING | WITH \\([^)]*\\)', '', 'g'),
                 CASE WHEN NOT indimmediate THEN 'DEFERRABLE' END, CASE WHEN NOT indisvalid THEN 'INVALID' END)
  FROM pg_index
  JOIN pg_class ON pg_class.oid = indexrelid
 WHERE indrelid = to_regclass($1)
 ORDER BY relname""",
        ("table",),
    ),
    script=_SCRIPT,
    transactional_ddl=True,
    # The store's own short timeouts do not apply to a migration. A pooler's connection has not got them, and would
    # keep these.
    migration_settings=(
        """
SELECT set_config('lock_timeout', '60s', false), set_config('statement_timeout', '0', false),
       set_config('enable_seqscan', 'on', false), set_config('enable_bitmapscan', 'on', false),
       set_config('plan_cache_mode', 'auto', false)
 WHERE current_setting('plan_cache_mode') = 'force_custom_plan'""",
    ),
    # Concurrent CREATE TABLE raises unique violations in the catalogue even with IF NOT EXISTS.
    lock_begin=("BEGIN ISOLATION LEVEL READ COMMITTED",),
    # A statement that waits would hold a snapshot, for which CREATE INDEX CONCURRENTLY waits.
    lock=Statement("SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))", ("lock",)),
    # Needed after the lock: a query that has been answered holds its snapshot until there is another statement, and
    # these take none.
    lock_settings=(
        "SET LOCAL lock_timeout = '60s'",
        "SET LOCAL statement_timeout = 0",
        "SET LOCAL idle_in_transaction_session_timeout = 0",
        "SET LOCAL enable_seqscan = on",
        "SET LOCAL enable_bitmapscan = on",
        "SET LOCAL plan_cache_mode = auto",
    ),
    lock_end="ROLLBACK",
    history=Statement(
        """
SELECT version, name, checksum, date_part('epoch', applied_at), duration, running
  FROM {table}
 WHERE source = $1
 ORDER BY version""",
        ("source",),
    ),
    record=Statement(
        f"""
INSERT INTO {{table}} (source, version, name, checksum, applied_at, duration, running)
VALUES ($1, $2, $3, $4, {_NOW}, $5, $6)""",
        ("source", "version", "name", "checksum", "duration", "running"),
    ),
    mark=Statement(
        f"""
UPDATE {{table}}
   SET applied_at = {_NOW},
       duration = $1,
       running = $2
 WHERE source = $3
   AND version = $4""",
        ("duration", "running", "source", "version"),
    ),
    forget=Statement(
        """
DELETE FROM {table}
 WHERE source = $1
   AND version = $2""",
        ("source", "version"),
    ),
    recorded=Statement("SELECT version FROM {table} WHERE source <> $1", ("lock",)),
    isolation_levels=frozenset({"READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"}),
    begin=_begin,
    grants="""
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role};
""",
    examination=_EXAMINATION,
)
