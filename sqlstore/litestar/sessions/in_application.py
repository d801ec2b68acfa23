"""Which sessions an application has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar.middleware import DefineMiddleware

from .backend import SQLSessionBackend
from .config import SQLSessionConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from litestar import Litestar

__all__ = ("session_configs",)


def session_configs(app: Litestar) -> Iterator[SQLSessionConfig]:
    """Give the configs of all session middlewares of ours in *app*, from the outermost on, each once.

    Those that are inside of ``SessionAuth``, too, and those of its routers, controllers and handlers.
    """
    handlers: list[Any] = [
        handler
        for route in app.routes
        for handler in getattr(route, "route_handlers", None) or [getattr(route, "route_handler", None)]
    ]
    layers: list[Any] = [app, *(layer for handler in handlers for layer in handler.ownership_layers)]
    seen: dict[int, SQLSessionConfig] = {}
    for layer in layers:
        for middleware in layer.middleware or ():
            config = _config_of(middleware)
            if config is not None and id(config) not in seen:
                seen[id(config)] = config
    return iter(seen.values())


def _config_of(middleware: object) -> SQLSessionConfig | None:
    if not isinstance(middleware, DefineMiddleware):
        return None
    backend = middleware.kwargs.get("backend")
    if isinstance(backend, SQLSessionBackend):
        return backend.config
    auth = middleware.kwargs.get("config")
    config = getattr(auth, "session_backend_config", None)
    return config if isinstance(config, SQLSessionConfig) else None
