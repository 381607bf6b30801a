# `make` alone prints this help. Every target installs what it needs; only Python >= 3.11 must be present.
.DEFAULT_GOAL := help
.PHONY: help install measured test test-long test-latest test-browser lint types format figures report tutorial docs \
	bench bench-entk torch-monitor constraints clean

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

help:  ## print this list
	@echo "stepwise: how self-supervised learning learns, step by step"
	@echo
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo
	@for file in $(FILES); do name=$${file##*/}; name=$${name%.py}; \
		printf '  make %-12s %s\n' "$${name%%_*}" "$$(sed -n '1s/^"""//p' $$file)"; done
	@echo
	@echo "  PRESET=smoke|laptop|paper   takes seconds, takes minutes (default), has the paper's scale"
	@echo "  DATA=photos|cifar10|stl10|folder:PATH|npz:PATH   DATA_DIR=folder of cifar10 or stl10"
	@echo "  SET='lr_gamma=0.01 starts=4'   values of other fields of the figure's Config"

# uv is fast but can fail behind a proxy with its own certificates, where pip still works.
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt $(1) \
	|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(1)
DEV     := --editable ".[dev,figures]"
# --no-deps leaves out TensorFlow, which its metadata requires and nothing here imports.
KERNELS := --no-deps "neural-tangents>=0.6.5,<0.7" "frozendict>=2.3.8"

install: $(READY)  ## create .venv and install the package into it

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 on the PATH; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5,<1"
	$(call INSTALL,$(DEV))
	$(call INSTALL,$(KERNELS))
	@touch $(READY)

# The suite's time is that of compiling. The flag shortens it, and is known to the pinned version of JAX.
test: export XLA_FLAGS := --xla_cpu_use_fusion_emitters=false
test: $(READY)  ## run the test suite, without the tests of test-long
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder --durations=20

test-long: $(READY)  ## run the tests that are too long for the suite
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder --durations=20 -m long

# The newest interpreter on the PATH or of pyenv, with the newest JAX that the version ranges allow.
LATEST ?= $(shell for p in python3.16 python3.15 python3.14 python3.13 python3.12 $(PYTHON) \
	$$(ls -d $$HOME/.pyenv/versions/3.*/bin/python 2>/dev/null); do \
	$$p -c 'import sys; print(*sys.version_info[:3], sys.executable)' 2>/dev/null; done | sort -n -k1 -k2 -k3 | tail -1 | cut -d" " -f4)

.venv-latest/.ready: pyproject.toml
	$(LATEST) -m venv .venv-latest
	.venv-latest/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.5,<1"
	.venv-latest/bin/uv pip install --quiet --upgrade --python .venv-latest/bin/python $(DEV)
	.venv-latest/bin/uv pip install --quiet --python .venv-latest/bin/python $(KERNELS)
	@touch $@

test-latest: .venv-latest/.ready  ## run the suite on the newest Python and JAX available, with all of XLA's optimisations
	.venv-latest/bin/python -c 'import sys, jax; print("Python", sys.version.split()[0], "JAX", jax.__version__)'
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 .venv-latest/bin/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

# Extras for the browser tests and for the documentation; Chromium must be installed on the system.
$(VENV)/.browser: $(READY)
	$(call INSTALL,--editable ".[browser]")
	@touch $@

$(VENV)/.docs: $(READY)
	$(call INSTALL,--editable ".[docs]")
	@touch $@

test-browser: $(VENV)/.browser  ## test the report page in the system's Chromium (apt-get install chromium)
	$(BIN)/python -m pytest tests/browser

# Build the package, install it with pip into a new environment, and test it there.
.PHONY: test-wheel
test-wheel: $(READY)  ## build the wheel, install it into a new environment, and test it there
	rm -rf dist .venv-wheel
	$(BIN)/python -m build --outdir dist . > dist.log 2>&1 || { cat dist.log; rm -f dist.log; exit 1; }
	rm -f dist.log
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	STEPWISE_WHEEL_PYTHON=$(CURDIR)/.venv-wheel/bin/python $(BIN)/python -m pytest tests/wheel

docs: $(VENV)/.docs  ## build docs/build/html: guide, theory and API reference; warnings are errors
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs docs/build/html
	@echo docs/build/html/index.html

lint: $(READY)  ## check style and format with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## check types with mypy
	$(BIN)/mypy

format: $(READY)  ## fix style and format with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: $(READY)  ## compute every figure and table; resumes if interrupted, and only draws what is computed
	$(BIN)/python -m experiments.run_all --preset $(PRESET) $(if $(DATA),--data "$(DATA)") $(if $(DATA_DIR),--data-dir "$(DATA_DIR)")

# Without PRESET, the report shows the largest preset available of each figure.
report: $(READY)  ## write results/report/index.html: one page of all figures, claims and training runs
	$(BIN)/python -m experiments.report $(if $(filter file,$(origin PRESET)),,--preset $(PRESET))

tutorial: $(READY)  ## run docs/tutorial.py: prediction, training, eNTK and alignment (DATA=folder:PATH: on your images)
	$(BIN)/python docs/tutorial.py $(DATA)

# Folders of results to copy; the last measurement of a figure or benchmark counts.
RESULTS ?= results
measured: $(READY)  ## update docs/measured and the tables of the documentation from RESULTS (default: results)
	$(BIN)/python docs/measured.py $(RESULTS)

# Each file in experiments/figures has a target, named after the part before the first underscore.
FILES := $(wildcard experiments/figures/[a-z]*.py)
NAMES := $(sort $(foreach file,$(FILES),$(firstword $(subst _, ,$(basename $(notdir $(file)))))))
.PHONY: $(NAMES)

$(NAMES): $(READY)
	$(FIGURE) $@ $(FLAGS)

# Only the training, monitor and eNTK benchmarks compare with PyTorch, in its own environment; without it those rows say so.
TORCH ?= torch==2.13.0

.venv-torch/.ready:
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) numpy \
		&& touch $@ || echo "PyTorch could not be installed: the benchmarks run without it" >&2

bench: $(READY) .venv-torch/.ready  ## measure speed and memory against alternatives
	$(BIN)/python -m benchmarks

torch-monitor: $(READY) .venv-torch/.ready  ## train a network in PyTorch, and forecast its steps from the arrays that it logs
	.venv-torch/bin/python -m benchmarks.torch_monitor results/torch-monitor
	$(BIN)/stepwise watch results/torch-monitor --lr 0.002 --momentum 0.9 --batch-size 128 --once

bench-entk: $(READY) .venv-torch/.ready  ## measure the empirical NTK: alternatives, growth, the largest case, estimates (hours; reads fig3's runs)
	$(BIN)/python -m benchmarks entk --output results/bench/entk.json

constraints: $(READY)  ## update constraints.txt to the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --all-extras --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --output-file constraints.txt pyproject.toml
	@# remove the packages that pyproject.toml overrides
	sed -i.old "/sys_platform == 'never'/d" constraints.txt && rm constraints.txt.old

clean:  ## remove the environment, results and caches
	rm -rf $(VENV) .venv-latest .venv-torch .venv-wheel dist results docs/build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
