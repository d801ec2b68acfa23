"""Configure Sphinx, which `make docs` runs with every warning an error."""

from importlib import metadata

project = "sqlstore"
author = "sqlstore contributors"
release = metadata.version("sqlstore")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "sqlstore"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]

# The docstrings' single backticks link where the name is on the page, and are code where it is another package's.
default_role = "py:obj"
autoclass_content = "both"  # the class and its __init__
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
# Pygments' own styles: to find the theme's it would load those of every package, and sqlspec's is not in its wheel.
pygments_style = "friendly"
pygments_dark_style = "monokai"
