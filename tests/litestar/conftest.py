"""The fixtures that these tests have in common with those of the contract."""

from ..contract.conftest import connections

__all__ = ("connections",)
