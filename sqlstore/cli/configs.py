"""Which database a command is for."""

from __future__ import annotations

import asyncio
import difflib
import importlib
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from ..config import BaseConfig
from ..exceptions import SQLStoreError
from .urls import config_of_url

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

__all__ = ("Databases", "explained", "from_options", "run")

T = TypeVar("T")
Load = Callable[[], Mapping[str, BaseConfig]]


@dataclass(frozen=True)
class Databases:
    """The configs that a command may be for; they are loaded when the first command asks."""

    load: Load | None
    """Returns the configs by their bind_key; None if the command line names none."""
    bind_key: str | None = None

    def config(self) -> BaseConfig:
        """Return the config that the command is for.

        Raises:
            click.UsageError: there is none, or there are several and no ``--bind-key``.
        """
        if self.load is None:
            msg = "which database? Give --config MODULE:NAME or --url URL, or set SQLSTORE_CONFIG or SQLSTORE_URL"
            raise click.UsageError(msg)
        configs = self.load()
        bind_key = next(iter(configs)) if self.bind_key is None and len(configs) == 1 else self.bind_key
        if bind_key is None or bind_key not in configs:
            problem = "there are several configs" if bind_key is None else f"no config is {bind_key!r}"
            msg = f"{problem}: choose --bind-key {' or '.join(configs)}, before the command's name"
            raise click.UsageError(msg)
        return configs[bind_key]


@contextmanager
def explained() -> Generator[None, None, None]:
    """Make a line for the user of what the database says in this block.

    Raises:
        click.ClickException: the database, or a migration, said no.
    """
    try:
        yield
    except SQLStoreError as error:
        raise click.ClickException(" ".join(str(error).split())) from error


def run(work: Coroutine[Any, Any, T]) -> T:
    """Return what *work* returns.

    Raises:
        click.ClickException: the database, or a migration, said no.
    """
    with explained():
        return asyncio.run(work)


def from_options(ctx: click.Context, *, config: str | None, url: str | None, **of_url: str | None) -> Load | None:
    """Return what loads the configs that the command line names, or else the environment; None if neither does.

    Raises:
        click.UsageError: the options contradict each other.
    """
    if config and url:
        typed = [name for name in ("config", "url") if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if len(typed) != 1:
            msg = "give either --config or --url (SQLSTORE_CONFIG and SQLSTORE_URL stand for them)"
            raise click.UsageError(msg)
        config, url = (config, None) if typed == ["config"] else (None, url)
    options = {name: value for name, value in of_url.items() if value is not None}
    if url:
        return lambda: {"default": config_of_url(url, **options)}
    if options:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in options)
        msg = f"{names}: only with --url; a config of --config has its own, in extension_config"
        raise click.UsageError(msg)
    return (lambda: _configs_at(config)) if config else None


def _configs_at(path: str) -> Mapping[str, BaseConfig]:
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        msg = f"--config {path}: write MODULE:NAME, for instance myapp.database:config"
        raise click.UsageError(msg)
    module = _import(module_name)
    anything: Any
    try:
        found = anything = getattr(module, name)
    except AttributeError:
        nearest = difflib.get_close_matches(name, vars(module), n=1)
        advice = nearest or [key for key, value in vars(module).items() if isinstance(value, BaseConfig)]
        msg = f"--config: the module {module_name} has no {name!r}" + (f"; is it {advice[0]!r}?" if advice else "")
        raise click.UsageError(msg) from None
    if isinstance(found, Mapping):
        named: list[tuple[str, Any]] = [(str(key), each) for key, each in anything.items()]
    else:
        several = anything if isinstance(found, (list, tuple)) else [anything]
        named = [(getattr(each, "bind_key", ""), each) for each in several]
    if not named or not all(isinstance(each, BaseConfig) for _, each in named):
        msg = f"--config {path} is a {type(anything).__name__}: name a config, or a list or mapping of configs"
        raise click.UsageError(msg)
    if len(dict(named)) < len(named):
        msg = f'--config {path}: two configs have the same bind_key: set others in extension_config["litestar"]'
        raise click.UsageError(msg)
    return dict(named)


def _import(name: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the module does
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            msg = f"--config: there is no module {error.name!r} in {here}, and none is installed"
            raise click.UsageError(msg) from None
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(here)]
        where = f" at {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
        what = traceback.format_exception_only(error)[-1].strip()
        msg = f"--config: the module {name} cannot be imported: {what}{where}"
        raise click.ClickException(msg) from error
