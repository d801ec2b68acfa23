"""The fixtures that these tests have in common with those of the contract."""

from ..contract.conftest import connections, run_script

__all__ = ("connections", "run_script")
