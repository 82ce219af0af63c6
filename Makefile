# Two commands are enough: `make demo` and `make test`. `make help` lists the rest.
#
# PYTHON       the Python to make .venv from, 3.11 or newer:      make demo PYTHON=python3.12
# PIP_ARGS     more arguments for pip, such as another index:     make demo PIP_ARGS="--extra-index-url URL"
# PYTEST_ARGS  more arguments for pytest:                         make test PYTEST_ARGS="-k lineages --run-slow"

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
# torch stands on the same line as everything else: resolved apart from it, pip would first fetch a newer and larger build.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) torch==2.13.0 -c constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint types format install clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed ## pretrain the embedded lineage, trace its traits and write the report
	$(BIN)/traitline demo

test: $(VENV)/.installed-dev ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## check types
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## repair what can be repaired of style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.installed-dev ## make .venv with traitline and the tools of its development

clean: ## remove .venv, caches and build files; runs/ stays
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each is newer than what it was made from, so nothing is installed twice.

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "traitline needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -c 'import sys; print(sys.version.split()[0])' 2>/dev/null || echo 'no Python')." >&2; \
	  echo "Name another one: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) -e '.[dev]'
	@touch $(VENV)/.installed $@
