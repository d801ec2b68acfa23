"""SQL text, one module per database: what `Dialect` names, each database spells."""

from ._dialect import Dialect, Row, Statement, Step
from .mysql import MYSQL
from .oracle import ORACLE
from .postgresql import POSTGRESQL
from .sqlite import SQLITE

__all__ = ("MYSQL", "ORACLE", "POSTGRESQL", "SQLITE", "Dialect", "Row", "Statement", "Step")
