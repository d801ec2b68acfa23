"""Examine a database as a store uses it: what is wrong, what will be, and what to do about it.

Nothing is changed. The questions are the dialect's, see `Examination`; here is what the answers mean.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .catalogue import differences
from .dialects import PRIVILEGES
from .exceptions import ReadOnlyError, TableMissingError
from .session_rows import namespace_statistics

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from .config import BaseConfig
    from .connection import StoreConnection
    from .dialects import Statement, Step
    from .store import BaseSQLSpecStore

    Rows = Sequence[Sequence[Any]]

__all__ = ("Finding", "examine")

CLOCK_TOLERANCE = 1.0
"""Seconds that the database's clock may differ from this machine's."""
EXPIRED_LEAST = 1000
"""So many expired rows are none to speak of."""
SMALLEST_SHARE = 3
"""Connections of a shared pool that requests should have."""


Level = Literal["ok", "warning", "error"]
Verdict = tuple[Level, str, str | None]


class Finding(NamedTuple):
    """What one check found."""

    check: str
    level: Level
    """An error is in the way of a store; a warning may be meant."""
    found: str
    fix: str | None = None
    """What to do about it; None if it is well."""


async def examine(store: BaseSQLSpecStore[Any]) -> list[Finding]:
    """Return what there is to say about the database of *store*, and what is in its namespace.

    A check that the role may not make is a warning; of a database that cannot be reached the only finding is an error.
    Each question is given up after the config's ``timeout``. Close the store afterwards.
    """
    try:
        connection = await store.config.open_store_connection()
    except Exception as error:  # noqa: BLE001 - whatever the driver raises
        found = f"the database cannot be reached: {_words(error)}"
        return [Finding("server", "error", found, "check pool_config, and that the server is running")]
    try:
        return [finding async for finding in _Examiner(store, connection).findings()]
    finally:
        await connection.close()


class _Examiner:
    """The checks, over one connection."""

    def __init__(self, store: BaseSQLSpecStore[Any], connection: StoreConnection) -> None:
        self._store = store
        self._config: BaseConfig = store.config
        self._table = store.table_name
        self._asked = self._config.dialect.examination
        self._connection = connection

    async def findings(self) -> AsyncGenerator[Finding, None]:
        checks = {
            "server": self._check_server,
            "clock": self._check_clock,
            "durability": self._check_durability,
            "pool": self._check_pool,
            "table": self._check_table,
            "comparison": self._check_comparison,
            "privileges": self._check_privileges,
            "bloat": self._check_bloat,
            "expired rows": self._check_expired,
        }
        for name, check in checks.items():
            try:
                yield Finding(name, *await check())
            except TableMissingError as error:  # nothing more can be said of it
                yield Finding(name, "error", str(error), "sqlstore upgrade, as a role that may create it")
                return
            except Exception as error:  # noqa: BLE001 - that it fails is a finding
                found = f"cannot be checked: {_words(error)}"
                yield Finding(name, "warning", found, "run doctor as a role that may see it")

    async def _execute(self, step: Step) -> Rows:
        timer = asyncio.get_running_loop().call_later(self._config.timeout, self._connection.kill)
        try:
            return (await self._connection.run([step], atomic=False))[0]
        finally:
            timer.cancel()

    async def _ask(self, statement: Statement) -> Rows:
        return await self._execute(statement.for_table(self._table).bind({"table": self._table}, ()))

    async def _check_server(self) -> Verdict:
        [(name, *_)] = await self._ask(self._asked.server)
        return "ok", str(name), None

    async def _check_clock(self) -> Verdict:
        before = time.time()
        [(_, zone, now, _)] = await self._ask(self._asked.server)
        trip = time.time() - before
        if now is None:
            return "ok", "this process's own", None
        ahead = float(now) - before - trip / 2
        found = f"{abs(ahead):.3f} s {'behind' if ahead < 0 else 'ahead of'} this machine's; time zone {zone}"
        # It was read at some time of the round trip.
        wrong = abs(ahead) - trip / 2 > CLOCK_TOLERANCE
        return _verdict("warning", found, "synchronise both machines' clocks with NTP", wrong=wrong)

    async def _check_durability(self) -> Verdict:
        settings = {str(name): str(value) for name, value in await self._ask(self._asked.durability)}
        durable = self._asked.durable
        weak = [name for name, value in settings.items() if value not in durable[name]]
        found = ", ".join(f"{name} = {value}" for name, value in settings.items())
        if weak:
            found += ": a crash may lose or damage what was committed"
        fix = "; ".join(self._asked.durable_fix.format(name=name, value=durable[name][0]) for name in weak)
        return _verdict("warning", found, fix, wrong=bool(weak))

    async def _check_pool(self) -> Verdict:
        config = self._config
        size, kept = config.pool().size, config.readers + config.writers
        if getattr(config, "pool_instance", None) is not None:  # only a server's config has one
            found = f"of the pool's {size + kept} connections up to {kept} are the stores', {size} the requests'"
            if size < SMALLEST_SHARE:
                return "warning", found, f"give the pool at least {size + kept + 1}, or the config a pool_config"
        else:
            found = f"up to {size} connections for requests, and {kept} for stores"
        [(*_, limit)] = await self._ask(self._asked.server)
        if limit is None:
            return "ok", found, None
        found += f", of each process; the server takes {limit}"
        fix = "make the pool smaller, or raise the server's limit"
        return _verdict("warning", found, fix, wrong=size + kept > int(limit))

    async def _check_table(self) -> Verdict:
        dialect = self._config.dialect
        found = await differences(self._execute, dialect, self._table)
        if found and not await self._ask(dialect.columns):
            raise TableMissingError(found[0])
        if found:
            fix = "undo the difference, or put the table aside and run sqlstore upgrade"
            return "error", "; ".join(found), fix
        return "ok", f"{self._table} is as the migrations make it", None

    async def _check_comparison(self) -> Verdict:
        rules = await self._ask(self._asked.comparison)
        found = ", ".join(f"{name}: {rule}" for name, rule in rules)
        fix = "make the table anew with the bundled migrations: keys that differ are taken for the same"
        wrong = not {rule for _, rule in rules} <= self._asked.bytewise
        return _verdict("error", found, fix, wrong=wrong)

    async def _check_privileges(self) -> Verdict:
        refused: dict[str, str] = {}
        for privilege, statement in PRIVILEGES.items():
            try:
                await self._ask(statement)
            except Exception as error:
                if self._config.classify(error) not in {ReadOnlyError, TableMissingError}:
                    raise
                refused[privilege] = _words(error)
        [(role, administrator)] = await self._ask(self._asked.role)
        if refused:
            found = f"{role} may not {', '.join(refused)}: {next(iter(refused.values()))}"
            return "error", found, f"GRANT {', '.join(refused)} ON {self._table} TO the role; use the primary server"
        found = f"{role} may {', '.join(PRIVILEGES)}" + (", and is an administrator" if administrator else "")
        fix = "use a role with the grants of sqlstore sql --role NAME"
        return _verdict("warning", found, fix, wrong=bool(administrator))

    async def _check_bloat(self) -> Verdict:
        rows = await self._ask(self._asked.bloat) if self._asked.bloat else ()
        if not rows:
            return "ok", "the database keeps no figures", None
        [(waste, used, found)] = rows
        fix = self._asked.bloat_fix.format(table=self._table)
        return _verdict("warning", found, fix, wrong=waste > max(used, self._asked.bloat_least))

    async def _check_expired(self) -> Verdict:
        counted = (await namespace_statistics(self._store)).values()
        rows, expired = sum(each.rows for each in counted), sum(each.expired for each in counted)
        fix = "run sqlstore prune from time to time, or an application whose prune_interval is not 0"
        wrong = expired > max(EXPIRED_LEAST, rows / 2)
        return _verdict("warning", f"{expired} of {rows} rows have expired", fix, wrong=wrong)


def _verdict(level: Level, found: str, fix: str, *, wrong: bool) -> Verdict:
    return (level, found, fix) if wrong else ("ok", found, None)


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
