"""``python -m sqlstore`` is the command ``sqlstore``."""

from __future__ import annotations

from .cli import main

main()
