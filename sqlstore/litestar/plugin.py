"""The plugin: what an application's databases do from its start to its end."""

from __future__ import annotations

import asyncio
import contextvars
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import ImproperlyConfiguredException
from litestar.middleware import DefineMiddleware
from litestar.plugins import CLIPlugin, InitPlugin, ReceiveRoutePlugin
from litestar.stores.registry import StoreRegistry
from litestar.types import Scope  # noqa: TC002 - Litestar reads the providers' annotations
from typing_extensions import override

from ..config import UNITS
from ..database_session import DatabaseSession, SyncDatabaseSession
from ..exceptions import SQLStoreError
from ..pruner import Pruner
from .exception_handlers import HANDLERS
from .sessions.in_application import session_configs
from .sessions.request_session import add_unsent_cookie
from .transactions import TransactionMiddleware, VerdictMiddleware, note_exception

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from click import Group
    from litestar import Litestar
    from litestar.config.app import AppConfig
    from litestar.routes import BaseRoute
    from litestar.stores.base import Store

    from ..config import BaseConfig
    from ..store import BaseSQLSpecStore

__all__ = ("DatabaseHealth", "SQLStorePlugin")

STORES = ("sessions", "response_cache", "rate_limit")
"""The names under which Litestar's own parts look for their stores."""


class DatabaseHealth(NamedTuple):
    """How one of an application's databases is, as this process sees it."""

    error: SQLStoreError | None
    """Why it could not be asked; None if it is well."""
    seconds: float
    """How long it took to answer."""
    connections: int
    """How many of the application's connections are in use."""
    most_connections: int
    """How many there may be."""
    rows_pruned: int
    """Expired rows that this process has deleted in the background."""
    last_pruned: datetime | None
    """When it last went through the whole table, UTC; None if it has not, as where another process does."""
    backlog: int
    """Expired rows that it then left behind, because others held them."""


class SQLStorePlugin(InitPlugin, ReceiveRoutePlugin, CLIPlugin):
    """Opens and closes databases with an application, registers their stores, and gives handlers connections."""

    def __init__(self, *configs: BaseConfig, stores: Mapping[str, Store] | bool = True) -> None:
        """Keep the settings; the application's start opens.

        With *stores*, the application's ``stores`` are namespaces of the first config's store, whatever their names;
        a mapping of names to stores goes before that. With False they are none of this plugin's business.

        Raises:
            ImproperlyConfiguredException: two configs share a ``bind_key``, a ``connection_key`` or a ``session_key``.
        """
        if not configs:
            msg = "SQLStorePlugin needs a config, for instance AsyncpgConfig(pool_config={...})"
            raise ImproperlyConfiguredException(msg)
        _check_unique("bind_key", [config.bind_key for config in configs])
        keys = [key for config in configs for key in (config.connection_key, config.session_key)]
        _check_unique("connection_key or session_key", keys)
        self._configs = {config.bind_key: config for config in configs}
        self._stores = stores
        self.stores: dict[str, BaseSQLSpecStore[Any]] = {config.bind_key: config.new_store() for config in configs}
        """Each config's store, by ``bind_key``."""
        self.pruners = {key: Pruner(store, store.config.prune_interval) for key, store in self.stores.items()}
        """What deletes the expired rows of each, by ``bind_key``."""

    def config(self, bind_key: str | None = None) -> BaseConfig:
        """Return the config with *bind_key*; None is the first one.

        Raises:
            ImproperlyConfiguredException: there is none.
        """
        if bind_key is None:
            return next(iter(self._configs.values()))
        if bind_key not in self._configs:
            msg = f"no config has bind_key {bind_key!r}: there is {', '.join(self._configs)}"
            raise ImproperlyConfiguredException(msg)
        return self._configs[bind_key]

    async def health(self) -> dict[str, DatabaseHealth]:
        """Ask each database for a value that is not there, and return what came of it, by ``bind_key``."""
        answers = await asyncio.gather(*(self._health_of(bind_key) for bind_key in self._configs))
        return dict(zip(self._configs, answers, strict=True))

    async def _health_of(self, bind_key: str) -> DatabaseHealth:
        store, pruner, pool = self.stores[bind_key], self.pruners[bind_key], self._configs[bind_key].pool()
        started = time.perf_counter()
        error: SQLStoreError | None = None
        try:
            await store.exists("health")
        except SQLStoreError as raised:
            error = raised
        return DatabaseHealth(
            error,
            seconds=time.perf_counter() - started,
            connections=pool.in_use,
            most_connections=pool.size,
            rows_pruned=pruner.rows_pruned,
            last_pruned=pruner.last_round,
            backlog=pruner.backlog,
        )

    def provide_connection(self, bind_key: str | None = None) -> AbstractAsyncContextManager[Any]:
        """Give the driver's own connection outside a request; see `BaseConfig.provide_connection`."""
        return self.config(bind_key).provide_connection()

    @override
    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        configs = list(self._configs.values())
        application: Any = app_config  # whose types pyright does not know to the end
        application.lifespan = [self._lifespan, *application.lifespan]
        application.middleware = [DefineMiddleware(TransactionMiddleware, configs=configs), *application.middleware]
        application.before_send = [*application.before_send, add_unsent_cookie]
        application.after_exception = [note_exception, *application.after_exception]
        application.exception_handlers = {**HANDLERS, **application.exception_handlers}
        for cls in (DatabaseSession, SyncDatabaseSession):
            app_config.signature_namespace.setdefault(cls.__name__, cls)
        for config in self._configs.values():
            for key, provider in (
                (config.connection_key, _connection_provider(config)),
                (config.session_key, _session_provider(config)),
            ):
                if key in app_config.dependencies:
                    msg = (
                        f"the application has its own dependency {key!r}: choose another connection_key or session_key"
                    )
                    raise ImproperlyConfiguredException(msg)
                app_config.dependencies[key] = Provide(provider)
        self._register_stores(app_config)
        return app_config

    @override
    def receive_route(self, route: BaseRoute) -> None:
        of_any_kind: Any = route
        handlers: list[Any] = getattr(route, "route_handlers", None) or [of_any_kind.route_handler]
        for handler in handlers:
            for config in self._configs.values():
                config.commit_rule_of(handler.opt)  # so that a mistake is found when the application is made
            if any(config.dialect.one_writer for config in self._configs.values()):
                handler.middleware = [*(handler.middleware or ()), VerdictMiddleware]

    @override
    def on_cli_init(self, cli: Group) -> None:
        from .cli import add_commands  # noqa: PLC0415 - an application that is served needs no command line

        add_commands(cli)

    def _register_stores(self, app_config: AppConfig) -> None:
        if self._stores is False:
            return
        given = {} if self._stores is True else dict(self._stores)
        namespace = next(iter(self.stores.values())).with_namespace
        if isinstance(app_config.stores, StoreRegistry):
            for name in (*given, *STORES):
                with suppress(ValueError):  # it has that name
                    app_config.stores.register(name, given.get(name) or namespace(name))
            return
        app_config.stores = StoreRegistry({**given, **(app_config.stores or {})}, default_factory=namespace)

    def _check_sessions(self, app: Litestar) -> None:
        for sessions in session_configs(app):
            store = sessions.get_store_from_app(app)
            if sessions.same_transaction and store.config not in self._configs.values():
                msg = "same_transaction needs SQLStorePlugin(config) with the config of the sessions' store"
                raise ImproperlyConfiguredException(msg)

    @asynccontextmanager
    async def _lifespan(self, app: Litestar) -> AsyncGenerator[None, None]:
        self._check_sessions(app)
        async with AsyncExitStack() as stack:
            for bind_key, store in self.stores.items():
                try:
                    await stack.enter_async_context(_running(store, self.pruners[bind_key]))
                except Exception as error:
                    error.add_note(f"The database is that of the config with bind_key {bind_key!r}.")
                    raise
            yield


@asynccontextmanager
async def _running(store: BaseSQLSpecStore[Any], pruner: Pruner) -> AsyncGenerator[None, None]:
    config = store.config
    pool = config.pool()
    try:
        try:
            await pool.open()
        except Exception as error:
            explained = config.explained(error, connecting=True)
            if explained is error:
                raise
            raise explained from error
        if config.create_table == "auto":
            await store.create_table()
        elif config.create_table == "check":
            await store.check_table()
        async with store:
            pruning = asyncio.create_task(pruner.run(), context=contextvars.Context())
            try:
                yield
            finally:
                pruning.cancel()
                await asyncio.wait([pruning])
    finally:
        await pool.close()


def _session_provider(config: BaseConfig) -> Callable[..., Any]:
    async def provide(scope: Scope) -> Any:  # noqa: ANN401 - of either kind
        requests = scope["state"][UNITS]
        if config.pool().synchronous and scope["type"] == ScopeType.HTTP:
            # Not on first use, which is in a thread: it would keep that thread while it waits for others, who may
            # need a thread before they can go on.
            await requests.unit(config).connection()
        return requests.session(config)

    return provide


def _connection_provider(config: BaseConfig) -> Callable[..., Any]:
    async def provide(scope: Scope) -> Any:  # noqa: ANN401 - each driver's own
        return await scope["state"][UNITS].unit(config).driver_connection()

    return provide


def _check_unique(what: str, keys: list[str]) -> None:
    if twice := {key for key in keys if keys.count(key) > 1}:
        msg = (
            f"two configs have the same {what}, {', '.join(sorted(twice))}: set others in "
            'extension_config={"litestar": {"bind_key": ..., "connection_key": ..., "session_key": ...}}'
        )
        raise ImproperlyConfiguredException(msg)
