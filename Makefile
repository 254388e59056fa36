# The four words: make demo, make test, make check, make bench. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev
RIVALS := $(VENV)/.installed-rivals
# two a core: many tests wait for a server or a process to begin or end
WORKERS = $(shell $(BIN)/python -c 'import os; print(2 * (os.cpu_count() or 1))')

.DEFAULT_GOAL := help
.PHONY: help demo test test-deep test-openclaw check fmt bench docs lock clean

help: ## list the words
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(RUN) ## see agent requests decided, approved, executed, recorded and proved
	@$(BIN)/checkrein demo

test: $(DEV) ## run the tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not deep and not openclaw"

test-deep: $(DEV) ## the long runs: thousands of examples, crashes, soaks
	@CHECKREIN_DEEP=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not openclaw" --timeout 3600

test-openclaw: $(DEV) ## against a real OpenClaw Gateway, which npm installs (830 MB) when it is not there yet
	@$(BIN)/python -m pytest -p no:xdist --timeout 300 -m openclaw tests/openclaw tests/demo

check: $(DEV) ## format, lint, types, and the import contract of the house
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fmt: $(DEV) ## format and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(DEV) $(RIVALS) ## measure: decision latency, CPU of a governed request, and others beside it
	@$(BIN)/python -m benchmarks

docs: $(DEV) ## draw the state diagrams and the export tables from the code's tables
	@$(BIN)/python -m checkrein.flow.diagram > docs/flow.md
	@$(BIN)/python -m checkrein.services.mapping > docs/exports.md

lock: ## renew the hashed locks from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --group build pyproject.toml -o requirements/run.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --group build --group dev -c requirements/run.lock pyproject.toml -o requirements/dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --group rivals -o requirements/rivals.lock

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'checkrein needs Python >= 3.11; name one: make demo PYTHON=python3.12' >&2; exit 1; }
	@echo "making the virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(RUN): requirements/run.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing from requirements/run.lock (hashes checked)"
	@$(PIP) install -qq --require-hashes --no-deps -r requirements/run.lock
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@

$(RIVALS): requirements/rivals.lock | $(VENV)/bin/python
	@echo "installing the rivals into an environment of their own from requirements/rivals.lock (hashes checked)"
	@$(PYTHON) -m venv $(VENV)/rivals
	@$(VENV)/rivals/bin/python -m pip --disable-pip-version-check install -qq --require-hashes --no-deps \
	  -r requirements/rivals.lock
	@touch $@

$(DEV): requirements/dev.lock $(RUN) | $(VENV)/bin/python
	@echo "installing from requirements/dev.lock (hashes checked)"
	@$(PIP) install -qq --require-hashes --no-deps -r requirements/dev.lock
	@touch $@
