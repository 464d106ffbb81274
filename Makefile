PYTHON ?= python3
BIN := .venv/bin
# Most of what is installed is never imported, and the rest is compiled when it is, once for all.
INSTALL := $(BIN)/pip install -q --no-compile -c constraints.txt
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-all test-both check lint types docs clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

demo: .venv/.base ## the trade-off curve of a small network on the bundled digits, and a page about it
	$(BIN)/lissom path digits-path --out runs/demo --jobs 2
	$(BIN)/lissom report runs/demo

check: lint types docs test ## all that must pass before a change is merged

lint: .venv/.ready ## style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/.ready ## static types
	$(BIN)/mypy

docs: .venv/.ready ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: .venv/.ready ## tests, in two processes
	$(BIN)/pytest -n 2 --dist worksteal --durations=15

test-all: .venv/.ready ## the exhaustive rest: full products, the zoo with ONNX, kills and fuzz with all seeds
	$(BIN)/pytest -n 2 --dist worksteal --durations=15 -m exhaustive

test-both: .venv/.ready ## the tests of `test` and of `test-all`, collected once
	$(BIN)/pytest -n 2 --dist worksteal --durations=15 -m ""

clean: ## remove the environment, caches, built documentation and the demo; other runs stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist site runs/demo

$(BIN)/pip:
	$(PYTHON) -m venv --clear .venv

# The demo needs the package alone and does not wait for the tools.
.venv/.base: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e .
	@touch $@

.venv/.ready: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e ".[dev,zoo,docs]"
	@touch .venv/.base $@
