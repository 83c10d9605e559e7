# The verbs that people and CI share; `make` alone lists them. Needs Python 3.10 or newer, nothing else.
PYTHON ?= python3
BIN := .venv/bin
# tests/conftest.py says how many workers. A file stays with one: the examples of a page build on one
# another. Files keep their order, in which those that take long come first.
PYTEST := $(BIN)/pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test setup fix check quick cover bench docs matrix lock build

help:  ## List the verbs
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

demo: .venv/run  ## Replay a day of queries through the cache
	@$(BIN)/memora demo

test: check  ## Lint, types, tests, documentation examples
	$(PYTEST)

setup: .venv/dev  ## Make .venv with all development dependencies

.venv/run: scripts/setup.sh pyproject.toml requirements/run.lock
	@sh scripts/setup.sh "$(PYTHON)" requirements/run.lock
	@touch $@

.venv/dev: scripts/setup.sh pyproject.toml requirements/dev.lock
	@sh scripts/setup.sh "$(PYTHON)" requirements/dev.lock
	@touch .venv/run $@

.venv/docs: scripts/setup.sh pyproject.toml requirements/docs.lock
	@sh scripts/setup.sh "$(PYTHON)" requirements/docs.lock
	@touch $@

fix: .venv/dev  ## Format, and mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

check: .venv/dev  ## Lint and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@# At the same time: each keeps one processor busy for half a minute.
	$(BIN)/basedpyright & pyright=$$!; $(BIN)/mypy; mypy=$$?; wait $$pyright && exit $$mypy

quick: .venv/dev  ## Lint, types by mypy, unit tests: before each commit
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYTEST) --quiet tests/unit

cover: .venv/dev  ## Tests with branch coverage
	$(PYTEST) --cov --cov-report=term-missing:skip-covered

bench: .venv/run  ## Benchmarks that need no optional dependency
	$(BIN)/python benchmarks/import_time.py

docs: .venv/docs  ## The documentation site, in build/site, with its links checked (Python 3.11 or newer)
	$(BIN)/python scripts/build_docs.py

matrix: .venv/dev  ## The tests on all supported Pythons that are found
	$(BIN)/nox

# Extras stay in the names, since an older pip looks for the newest `coverage[toml]` where only
# `coverage` is pinned. The smaller locks follow the larger one.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-strip-extras \
	--generate-hashes --no-header --group build --extra cli pyproject.toml
lock: .venv/dev  ## Resolve the locks anew, for all supported Pythons
	$(LOCK) --extra objects --extra redis --extra tuning --group dev \
		--output-file requirements/dev.lock
	$(LOCK) --constraint requirements/dev.lock --output-file requirements/run.lock
	$(LOCK) --group docs --constraint requirements/dev.lock --output-file requirements/docs.lock

build: .venv/dev  ## The wheel, in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
