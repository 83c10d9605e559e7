# The verbs that people and CI share; `make` alone lists them. Needs Python 3.10 or newer, nothing else.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test setup fix check cover bench matrix lock build

help:  ## List the verbs
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

demo: .venv/installed  ## Replay a day of queries through the cache
	@$(BIN)/memora demo

test: check  ## Lint, types, tests, documentation examples
	$(BIN)/pytest

setup: .venv/installed  ## Make .venv with the locked dependencies

.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

fix: .venv/installed  ## Format, and mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

check: .venv/installed  ## Lint and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/basedpyright

cover: .venv/installed  ## Tests with branch coverage
	$(BIN)/pytest --cov --cov-report=term-missing:skip-covered

bench: .venv/installed  ## Benchmarks that need no optional dependency
	$(BIN)/python benchmarks/import_time.py

matrix: .venv/installed  ## The tests on Python 3.10 to 3.13, as far as found
	$(BIN)/nox

lock: .venv/installed  ## Resolve requirements.lock anew, for all supported Pythons
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --extra cli --extra objects \
		--extra redis --extra tuning --group dev \
		--generate-hashes --no-header --output-file requirements.lock pyproject.toml

build: .venv/installed  ## The wheel, in dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
