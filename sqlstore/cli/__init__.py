"""The ``sqlstore`` command: migrations, and what an operator does about the stores' tables.

`configs` finds the database that a command is for; `migrations`, `dump` and `stores` have the commands, which
``litestar database`` has too.
"""

from __future__ import annotations

import click

from . import migrations, stores
from .configs import Databases, from_options
from .dump import dump_data

__all__ = ("COMMANDS", "main")

COMMANDS = (*migrations.COMMANDS, dump_data, *stores.COMMANDS)


@click.group("sqlstore", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config", envvar="SQLSTORE_CONFIG", show_envvar=True, metavar="MODULE:NAME", help="A config, or several."
)
@click.option("--url", envvar="SQLSTORE_URL", show_envvar=True, help="A database: postgresql+asyncpg://user@host/name.")
@click.option("--bind-key", metavar="KEY", help="Which one of several configs.")
@click.option("--table", help="With --url: the stores' table, litestar_session if not given.")
@click.option("--script-location", metavar="DIR", help="With --url: the folder of the application's migrations.")
@click.option("--version-table", metavar="TABLE", help="With --url: the history of migrations, sqlstore_migrations.")
@click.pass_context
def main(ctx: click.Context, /, bind_key: str | None, **options: str | None) -> None:
    """Migrate a database by plain SQL files, and look after the stores' tables.

    Exit codes: 0, all is well; 1, the database or a migration says no, or check or doctor found something; 2, the
    command line is wrong.
    """
    ctx.obj = Databases(from_options(ctx, **options), bind_key)


for _command in COMMANDS:
    main.add_command(_command)
