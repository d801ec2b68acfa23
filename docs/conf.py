"""Configure Sphinx, which `make docs` runs with every warning an error."""

from importlib import metadata

project = "sqlstore"
author = "sqlstore contributors"
release = metadata.version("sqlstore")

extensions = ["myst_parser"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "sqlstore"
