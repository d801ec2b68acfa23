# Another Python has an environment of its own: make test VENV=.venv-3.13 PYTHON=python3.13
VENV ?= .venv
PYTHON ?= python3
# Options for pytest or the benchmark: make test ARGS="-k sqlite --cov"
ARGS ?=

# Where the tests have their databases, which are gone with them: in memory, if it has room, and not on a disk that may
# take a millisecond or more for each of their commits.
TESTS_DIR = $(or $(TMPDIR),$(shell df --output=avail /dev/shm 2>/dev/null | awk '$$1 + 0 > 4e6 { print "/dev/shm" }'))

# Asked by running it: the shim of a version manager can be on the PATH and yet fail.
HAS_UV = $(shell uv --version 2>/dev/null)

# Otherwise pyright asks the package registry for a newer version of itself at each run.
export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1

.DEFAULT_GOAL := help
.PHONY: help install run test bench lint types docs dist services clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

install: $(VENV)/installed ## make .venv with the package and all that its development needs

run: $(VENV)/installed ## serve the example on SQLite, or on make run DATABASE_URL=postgresql://...
	$(VENV)/bin/python examples/sessions_app.py

test: $(VENV)/installed ## run the tests: make test ARGS="-k sqlite --cov"
	TMPDIR=$(TESTS_DIR) $(VENV)/bin/pytest --numprocesses=auto $(ARGS)

lint: $(VENV)/installed ## check style and layout with ruff
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

bench: $(VENV)/installed ## measure against every peer, and write docs/benchmarks.md: make bench ARGS=--quick
	$(VENV)/bin/python -m benchmarks $(ARGS)

types: $(VENV)/installed ## check types with mypy and pyright, both strict
	$(VENV)/bin/mypy
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

docs: $(VENV)/installed ## build the site in docs/_build, where a warning is an error
	$(VENV)/bin/sphinx-build --fail-on-warning --fresh-env --quiet docs docs/_build

dist: $(VENV)/installed ## build sdist and wheel, and try the wheel in a bare environment
	rm -rf dist
	$(VENV)/bin/uv build
	$(VENV)/bin/python tests/dist/check_wheel.py dist/*.whl

services: ## install what the tests and the benchmark start: servers, Chromium, wrk, cc (Debian or Ubuntu, as root)
	.ci/services

clean: ## remove what these targets made
	rm -rf .venv .venv-* dist docs/_build .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find sqlstore tests examples benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/installed: pyproject.toml requirements-dev.txt | $(VENV)/bin/uv
	$(VENV)/bin/uv pip sync --compile-bytecode --python $(VENV) requirements-dev.txt
	$(VENV)/bin/uv pip install --python $(VENV) --no-deps --editable .
	touch $@

# The environment's own uv, at its pinned version, does the rest; it gets there by the machine's uv, or by pip.
$(VENV)/bin/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sqlstore needs Python 3.11 or newer: make install PYTHON=python3.11")'
	$(if $(HAS_UV),uv venv --allow-existing --python $(PYTHON),$(PYTHON) -m venv) $(VENV)
	sed -n '/^uv==/,/# via/p' requirements-dev.txt | $(if $(HAS_UV),uv pip install --python $(VENV),$(VENV)/bin/python -m pip install) -r /dev/stdin
