"""The same commands on Litestar's own command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from click.testing import CliRunner
from litestar import Litestar
from litestar.cli._utils import LitestarEnv
from litestar.cli.main import litestar_group

from sqlstore.adapters.sqlite import SqliteConfig
from sqlstore.cli import COMMANDS
from sqlstore.litestar import SQLStorePlugin

if TYPE_CHECKING:
    from click.testing import Result

    from sqlstore import BaseConfig


@pytest.fixture(autouse=True)
def _fresh_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    group: Any = litestar_group
    monkeypatch.setattr(group, "_prepare_done", False)
    monkeypatch.setattr(group, "commands", {**group.commands})


@pytest.fixture
def config(tmp_path: Path) -> BaseConfig:
    """Return the config of a new file."""
    return of(tmp_path / "app.db", "default")


def of(path: Path, bind_key: str) -> BaseConfig:
    """Return the config of the file at *path*."""
    keys = {"connection_key": f"{bind_key}_connection", "session_key": f"{bind_key}_session"}
    options: Any = {"bind_key": bind_key, **keys}
    return SqliteConfig(pool_config={"database": str(path)}, extension_config={"litestar": options})


def litestar(app: Litestar, *arguments: str) -> Result:
    """Run Litestar's command line."""
    return CliRunner().invoke(litestar_group, arguments, obj=LitestarEnv(app_path="", app=app, cwd=Path()))


@pytest.mark.parametrize("name", ["sqlstore", "database"])
def test_an_application_has_all_commands(config: BaseConfig, name: str) -> None:
    """They are about its own database."""
    app = Litestar(plugins=[SQLStorePlugin(config)])
    assert "pending" in litestar(app, name, "check").stdout
    assert litestar(app, name, "upgrade").stdout.splitlines()[1].startswith("store:litestar_session\t0001_create")
    checked = litestar(app, name, "check")

    assert (checked.exit_code, checked.stdout) == (0, "All migrations are applied, as they were written.\n")
    helped = litestar(app, name, "--help").stdout
    assert all(f"  {command.name} " in helped for command in COMMANDS if not command.hidden)


@pytest.mark.parametrize("ours_first", [True, False])
def test_another_plugin_may_own_the_name_database(config: BaseConfig, *, ours_first: bool) -> None:
    """Advanced Alchemy's does, whichever comes first; ours has its own name beside it."""
    alchemy = SQLAlchemyPlugin(config=SQLAlchemyAsyncConfig(connection_string="sqlite+aiosqlite://"))
    ours = SQLStorePlugin(config)
    plugins: list[Any] = [ours, alchemy] if ours_first else [alchemy, ours]
    app = Litestar(plugins=plugins, dependencies={})

    assert "SQLAlchemy" in litestar(app, "database", "--help").stdout
    assert litestar(app, "sqlstore", "upgrade").exit_code == 0
    assert litestar(app, "sqlstore", "check").exit_code == 0


def test_a_database_of_several_is_chosen_by_its_key(tmp_path: Path) -> None:
    """Also when plugins of their own have them; without a key nothing is done."""
    one, two = of(tmp_path / "one.db", "one"), of(tmp_path / "two.db", "two")
    app = Litestar(plugins=[SQLStorePlugin(one, two)])
    refused = litestar(app, "database", "upgrade")
    assert litestar(app, "database", "--bind-key", "two", "upgrade").exit_code == 0

    assert refused.exit_code == 2
    assert "choose --bind-key one or two" in " ".join(refused.output.split())
    assert [path.name for path in tmp_path.glob("*.db")] == ["two.db"]
