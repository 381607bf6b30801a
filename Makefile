# `make` alone prints this help. Every target sets up what it needs: only Python >= 3.11 has to be there.
.DEFAULT_GOAL := help
.PHONY: help install test lint types format figures fig1 fig2 bench constraints clean

PRESET   ?= laptop
DATA     ?=
DATA_DIR ?=
SET      ?=

# The first interpreter on the PATH that is new enough.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready
export MPLBACKEND := Agg

FIGURE = $(BIN)/python -m experiments
FLAGS  = --preset $(PRESET) $(if $(DATA),--data "$(DATA)") $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(if $(SET),--set $(SET))

help:  ## this list
	@echo "stepwise: how self-supervised learning learns, step by step"
	@echo
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo
	@echo "  PRESET=smoke|laptop|paper   seconds, minutes (default), the source's scale"
	@echo "  DATA=photos|cifar10|stl10|folder:PATH|npz:PATH   DATA_DIR=where cifar10 and stl10 lie"
	@echo "  SET='lr_gamma=0.01 starts=4'   any other field of the figure's Config"

install: $(READY)  ## make .venv and install the package into it

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 on the PATH; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5,<1"
	@# uv is fast; behind a proxy with certificates of its own, where it can fail, pip still works
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable ".[dev]" \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $(READY)

test: $(READY)  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(READY)  ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy
	$(BIN)/mypy

format: $(READY)  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: fig1 fig2  ## every figure

fig1: $(READY)  ## theory against experiment: the loss falls in steps, the eigenvalues rise one at a time
	$(FIGURE) fig1 $(FLAGS)

fig2: $(READY)  ## symmetry breaking: supervised against self-supervised singular values
	$(FIGURE) fig2 $(FLAGS)

bench: $(READY)  ## ratios against what one would do instead, measured in one run
	$(BIN)/python -m benchmarks

constraints: $(READY)  ## pin anew the versions that the ranges of pyproject.toml allow
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --extra dev --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --output-file constraints.txt pyproject.toml
	@# what pyproject.toml's overrides leave out
	sed -i.old "/sys_platform == 'never'/d" constraints.txt && rm constraints.txt.old

clean:  ## remove the environment, results and caches
	rm -rf $(VENV) results .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
