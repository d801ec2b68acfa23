"""SQL text, one module per database: what `Dialect` names, each database spells."""

from ._dialect import Dialect, Row, Script, Statement, Step
from ._examination import PRIVILEGES, Examination
from .mysql import MYSQL
from .oracle import ORACLE
from .postgresql import POSTGRESQL
from .sqlite import SQLITE

__all__ = (
    "MYSQL",
    "ORACLE",
    "POSTGRESQL",
    "PRIVILEGES",
    "SQLITE",
    "Dialect",
    "Examination",
    "Row",
    "Script",
    "Statement",
    "Step",
)
