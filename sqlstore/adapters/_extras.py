"""What an adapter says when its driver is not installed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ("driver_of",)


@contextmanager
def driver_of(extra: str) -> Generator[None, None, None]:
    """Import a driver in this block, and tell whoever has not installed it which *extra* brings it.

    Raises:
        ImportError: the driver, or what it needs, is not installed.
    """
    try:
        yield
    except ImportError as error:
        msg = f'{error}: install the driver with pip install "sqlstore[{extra}]"'
        raise ImportError(msg, name=error.name) from error
