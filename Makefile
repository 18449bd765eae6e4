# `make run` shows a live three-peer cluster; `make test` checks everything that fits 15 minutes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEV    := $(VENV)/.installed-dev

.PHONY: run test test-full acceptance test-deps lint types picture clean

run: $(STAMP)
	$(BIN)/atoll dev

test: $(DEV) lint types
	$(BIN)/python -m pytest -n 4 --dist loadfile -m "not full"

test-full: $(DEV) lint types
	$(BIN)/python -m pytest

acceptance: $(DEV)
	$(BIN)/python -m pytest -m full tests/test_cluster_*.py

test-deps:
	tests/install-deps.sh

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

# The picture in the README, taken of a live cluster of five (ports from 7500 on).
picture: $(STAMP)
	$(BIN)/python -m tools.picture docs/atoll-top.svg

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Atoll needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(DEV): $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
