"""The house keeps its order: who imports whom, who knows a database's name, and that no SQL is written twice."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sqlstore
from sqlstore import dialects
from sqlstore.dialects import Dialect, Statement

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(sqlstore.__file__).parent
LAYERS = (
    {"exceptions", "dialects", "telemetry"},
    {"connection", "config", "database_session", "dbapi", "migration_files", "names", "pool", "unit_of_work"},
    {"catalogue", "migration_plan", "operations", "order"},
    {"lanes", "migration_run", "migrator", "verbs"},
    {"store"},
    {"pruner", "session_rows"},
    {"doctor"},
    {"adapters", "cli"},
    {"litestar", "__main__"},
)
"""A module imports from its own layer and from earlier ones."""
CORE = (
    "__init__",
    "catalogue",
    "config",
    "connection",
    "database_session",
    "dbapi",
    "doctor",
    "exceptions",
    "lanes",
    "migration_files",
    "migration_plan",
    "migration_run",
    "migrator",
    "names",
    "operations",
    "order",
    "pool",
    "pruner",
    "session_rows",
    "store",
    "telemetry",
    "unit_of_work",
    "verbs",
)
DRIVERS = ("asyncmy", "asyncpg", "aiosqlite", "oracledb", "psycopg", "sqlite3")
DATABASES = re.compile(r"asyncmy|asyncpg|psycopg|oracle|sqlite|postgres|mysql|mariadb|\bpg_", re.IGNORECASE)
STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|MERGE|REPLACE|WITH|CREATE|ALTER|DROP|TRUNCATE)\s+\S", re.ASCII)
DDL = re.compile(r"CREATE|ALTER (?!SESSION|SYSTEM)|DROP|TRUNCATE")

MODULES = {
    ".".join(("sqlstore", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def _imports(module: str) -> Iterator[str]:
    """Return the modules of the package that *module* imports, for type checkers only too."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                if whole in MODULES or source in MODULES:
                    yield whole if whole in MODULES else source


def _layer(module: str) -> int:
    name = module.split(".")[1]
    return next(number for number, layer in enumerate(LAYERS) if name in layer)


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """Replace a string that stands alone: a docstring, of an attribute, too."""
        return ast.Pass() if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


def _code(path: Path) -> ast.Module:
    """Return the code without comments and docstrings."""
    tree = ast.parse(path.read_text())
    _WithoutDocstrings().visit(tree)
    return tree


def _text(node: ast.AST) -> str | None:
    """Return a string, with braces where an f-string has an expression."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _statements(path: Path) -> Iterator[str]:
    """Return the strings in the code that are SQL statements, with white space folded."""
    nodes = list(ast.walk(_code(path)))
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    texts = [_text(node) or "" for node in nodes if id(node) not in parts]
    yield from (" ".join(text.split()) for text in texts if STATEMENT.match(text))


# Layers


def test_the_analysis_sees_the_package() -> None:
    """A rule that finds nothing proves nothing."""
    assert {"sqlstore.store", "sqlstore.dialects", "sqlstore.adapters.asyncpg"} <= MODULES.keys()
    assert {"sqlstore.migrator", "sqlstore.config", "sqlstore.dialects"} <= set(_imports("sqlstore.store"))
    assert "sqlstore.dialects._dialect" in set(_imports("sqlstore.dialects.sqlite"))
    assert "sqlstore.adapters.sqlite" in set(_imports("sqlstore.adapters.aiosqlite"))
    assert "sqlstore.store" in set(_imports("sqlstore"))


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"sqlstore"}))
def test_a_layer_never_imports_a_later_one(module: str) -> None:
    """Exceptions and dialects know nobody, adapters know all."""
    assert [name for name in _imports(module) if name != "sqlstore" and _layer(name) > _layer(module)] == []
    assert "sqlstore" not in set(_imports(module)), "the public names are for users"


def test_nothing_imports_an_adapter() -> None:
    """But the user, and aiosqlite the one that it is built on; what drivers have in common is private."""
    found = {(module, name) for module in MODULES for name in _imports(module) if name.startswith("sqlstore.adapters")}
    private = {name for _, name in found if name.rpartition(".")[2].startswith("_")}

    assert "sqlstore.adapters._extras" in private
    assert [edge for edge in found if edge[1] not in private] == [
        ("sqlstore.adapters.aiosqlite", "sqlstore.adapters.sqlite")
    ]


@pytest.mark.parametrize("driver", ["aiosqlite", "asyncmy", "asyncpg", "oracledb", "psycopg"])
def test_a_driver_that_is_not_installed_is_an_error_that_names_the_extra(driver: str) -> None:
    """What to type is in the message."""
    program = f"import sys; sys.modules[{driver!r}] = None; import sqlstore.adapters.{driver}"
    failed = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, check=False)

    assert f'install the driver with pip install "sqlstore[{driver}]"' in failed.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("module", "drivers"),
    [
        ("sqlstore", []),
        ("sqlstore.adapters", []),
        ("sqlstore.adapters.asyncmy", ["asyncmy"]),
        ("sqlstore.adapters.asyncpg", ["asyncpg"]),
        ("sqlstore.adapters.psycopg", ["psycopg"]),
        ("sqlstore.adapters.sqlite", ["sqlite3"]),
        ("sqlstore.adapters.aiosqlite", ["aiosqlite", "sqlite3"]),
        ("sqlstore.adapters.oracledb", ["oracledb"]),
    ],
)
def test_importing_loads_no_driver_but_the_adapter_s_own(module: str, drivers: list[str]) -> None:
    """Whoever has one driver needs no other."""
    program = f"import sys, {module}; print(*(name for name in {DRIVERS!r} if name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)

    assert loaded.stdout.split() == drivers


# Names


@pytest.mark.parametrize("module", CORE)
def test_the_core_names_no_driver_and_no_database(module: str) -> None:
    """Neither in its code nor in its error messages; comments and docstrings may give a reason."""
    code = ast.unparse(_code(PACKAGE / f"{module}.py"))

    assert DATABASES.findall(code) == []
    assert "import" in code or module == "exceptions", "the code is there"


# SQL


def _dialects() -> list[Dialect]:
    return [each for each in vars(dialects).values() if isinstance(each, Dialect)]


def _texts(value: object) -> Iterator[str]:
    while isinstance(value, Statement):
        yield value.text
        value = value.then


def test_no_statement_is_written_twice() -> None:
    """Neither by two dialects, nor by a dialect and an adapter, nor within one of them."""
    written = {
        id(text): " ".join(text.split())  # a text of several statements is one object, if it is written once
        for dialect in _dialects()
        for field in fields(dialect)
        for text in _texts(getattr(dialect, field.name))
    }
    literals = [text for path in sorted((PACKAGE / "adapters").glob("*.py")) for text in _statements(path)]
    count = Counter([*written.values(), *literals])

    assert len(written) > 20
    assert [text for text, times in count.items() if times > 1] == []


def test_statements_are_written_in_dialects_only() -> None:
    """Nowhere else in the package, but for what an adapter needs to open its connections."""
    elsewhere = [path for path in MODULES.values() if path.parent.name not in {"adapters", "dialects"}]

    assert [text for path in elsewhere for text in _statements(path)] == []


def test_tables_are_made_by_the_migrations_only() -> None:
    """No Python file holds DDL."""
    found = [text for path in MODULES.values() for text in _statements(path)]

    assert len(found) > 20
    assert [text for text in found if DDL.match(text)] == []


# Migrations

FOLDERS = sorted(path for path in (PACKAGE / "migrations").iterdir() if path.is_dir() and path.name != "history")


def test_every_dialect_has_its_migrations() -> None:
    """In a folder of its name; those of databases to come are there already."""
    assert {dialect.name for dialect in _dialects()} <= {folder.name for folder in FOLDERS}
    assert [folder.name for folder in FOLDERS] == ["mysql", "oracle", "postgresql", "sqlite"]


def test_every_dialect_has_its_history() -> None:
    """In a file of its name, which makes the table of the default name; one file drops it everywhere."""
    histories = sorted((PACKAGE / "migrations" / "history").iterdir())

    assert {path.stem for path in histories} == {"drop", *(folder.name for folder in FOLDERS)}
    assert {re.findall(r"(?:TABLE|INTO) (\w+)", path.read_text())[-1] for path in histories} == {"sqlstore_migrations"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_migrations_are_numbered_pairs_of_sql(folder: Path) -> None:
    """Up and down, and what the table then looks like; the same on every database, and nothing else beside them."""
    names = sorted(path.name for path in folder.iterdir())
    steps = sorted({name.partition(".")[0] for name in names})

    assert names == sorted(f"{step}.{kind}" for step in steps for kind in ("catalogue", "down.sql", "up.sql"))
    assert [int(step.partition("_")[0]) for step in steps] == list(range(1, len(steps) + 1))
    assert names == sorted(path.name for path in FOLDERS[0].iterdir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_migrations_name_the_default_table(folder: Path) -> None:
    """So that a database's own client runs them unchanged."""
    for path in folder.glob("*.sql"):
        named = re.findall(r"\b(?:TABLE|INDEX|ON)\s+(\w+)", path.read_text())

        assert named
        assert {re.sub(r"^litestar_session(_\w+)?$", "ours", name) for name in named} == {"ours"}
