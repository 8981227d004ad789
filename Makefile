# Needs Python 3.11 or newer, make and pip. Everything is installed into .venv, nothing elsewhere.

PYTHON ?= python3
PORT ?= 8600
NODES ?= 9
WORKERS ?= 1
LOST_AFTER ?= 900
GRACE ?= 3600
SCALE ?= 1
SEED ?= 42

VENV := .venv
BIN := $(VENV)/bin
# Without the venv's own pip (Debian's python3-venv is missing), the system's installs into it.
PIP = $(shell $(BIN)/python -m pip --version >/dev/null 2>&1 \
	&& echo $(BIN)/python -m pip || echo $(PYTHON) -m pip --python $(BIN)/python)
INSTALL = $(PIP) install --quiet --disable-pip-version-check -c deploy/constraints.txt
INPUTS := pyproject.toml deploy/constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help up test load bench bench-micro bench-scale torture compose-test clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(VENV)/installed ## Run a cluster here until Ctrl-C [PORT=8600] [NODES=9] [WORKERS=1] [LOST_AFTER=900] [GRACE=3600]
	@exec $(BIN)/sixfold up --dir .sixfold --nodes $(NODES) --port $(PORT) --workers $(WORKERS) \
		--lost-after $(LOST_AFTER) --grace $(GRACE)

test: $(VENV)/installed-dev ## Lint, check types, run every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

load: $(VENV)/installed-dev ## Load a cluster that it starts; print rates and percentiles
	@exec $(BIN)/python -m bench.load

bench: $(VENV)/installed-dev ## Measure beside a floor, about ten minutes; bench/results/latest.json
	@exec $(BIN)/python -m bench.run

bench-micro: $(VENV)/installed-dev ## Measure each piece by itself, a minute
	@exec $(BIN)/python -m bench.micro

bench-scale: $(VENV)/installed-dev ## Measure with a million segments and a thousand nodes
	@exec $(BIN)/python -m bench.scale

torture: $(VENV)/installed-dev ## Test every promise under faults at full length, or make torture-NAME [SCALE=1] [SEED=42]
	@exec $(BIN)/python -m tests.torture --scale $(SCALE) --seed $(SEED)

torture-%: $(VENV)/installed-dev
	@exec $(BIN)/python -m tests.torture $* --scale $(SCALE) --seed $(SEED)

compose-test: ## Prove compose.yml with docker: store, stop three nodes, read back
	@exec deploy/compose-test.sh

clean: ## Remove what make has made, but never the data in .sixfold
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'sixfold needs Python 3.11 or newer: make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || $(PYTHON) -m venv --clear --without-pip $(VENV)

$(VENV)/installed: $(INPUTS) | $(BIN)/python
	@echo 'installing into $(VENV) …'
	@$(INSTALL) -e .
	@touch $@

$(VENV)/installed-dev: $(INPUTS) | $(BIN)/python
	@echo 'installing into $(VENV), with the tools for tests …'
	@$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/installed
