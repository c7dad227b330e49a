# Two commands are all that anyone needs: `make demo` and `make test`. Both create .venv, install
# into it what pyproject.toml asks for, and run; a second run starts at once.

PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; print("$(p)") if (3,11) <= sys.version_info[:2] < (3,14) else None' 2>/dev/null)))
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
HOOK := rsvlm_jax,data_zarr,beartype.beartype
ARGS ?=
# The compiler of TPUs, for tests alone and beside the environment, not in it: JAX would look for a
# TPU at every start, and say that there is none. Half a gigabyte; there is one for this system only.
ifeq ($(shell uname -sm),Linux x86_64)
LIBTPU := $(VENV)/libtpu/.installed
else
NO_TPU := and not tpu
endif

.DEFAULT_GOAL := help
.PHONY: help demo demo-radar test test-full test-tpu test-py312 test-transformers4 lint format bench plans install install-dev clean

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: install  ## the main job on a shipped real cube: train, evaluate, map, ask (ARGS="--story radar")
	$(BIN)/rsvlm demo $(ARGS)

demo-radar: install  ## the second story: greenness from radar alone
	$(BIN)/rsvlm demo --story radar $(ARGS)

test: install-dev lint $(LIBTPU)  ## lint, types, contracts and every test file (short repetitions)
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m "not slow $(NO_TPU)" --jaxtyping-packages=$(HOOK) $(ARGS)

test-full: install-dev lint $(LIBTPU)  ## the same with full sizes and repetitions, and new random examples
	RSVLM_EXAMPLES=search $(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder $(if $(NO_TPU),-m "not tpu") --jaxtyping-packages=$(HOOK) $(ARGS)

test-tpu: install-dev $(LIBTPU)  ## what is compiled for TPUs that are not here, by their own compiler
	$(PYTEST) -m tpu --jaxtyping-packages=$(HOOK) $(ARGS)

plans: install-dev $(LIBTPU)  ## the kept plans of 7B and 13B, compiled again (a quarter of an hour)
	$(BIN)/python -m experiments.plans $(ARGS)

test-py312:  ## the same suite on Python 3.12 with the newest JAX
	@command -v python3.12 >/dev/null || { echo "python3.12 not found"; exit 1; }
	$(MAKE) test PYTHON=python3.12 VENV=.venv-py312

test-transformers4: install-dev $(VENV)/transformers4/.installed  ## what we export, read by transformers 4.57
	$(BIN)/python tests/parity/old_transformers.py $(VENV)/transformers4

lint: install-dev  ## ruff, import contracts, pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright --pythonpath $(BIN)/python

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install-dev  ## the figures of the README, each with its goal
	$(BIN)/python -m experiments.bench $(ARGS)

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[geo]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[geo,dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/transformers4/.installed: | $(VENV)/.installed-dev
	$(BIN)/python -m pip install -q --disable-pip-version-check --target $(@D) --upgrade --no-deps \
		'transformers==4.57.6' 'huggingface_hub<1' 'tokenizers<0.23'
	$(BIN)/python -m pip install -q --disable-pip-version-check --target $(@D) requests
	@touch $@

$(VENV)/libtpu/.installed: | $(VENV)/.installed-dev
	$(BIN)/python -m pip install -q --disable-pip-version-check --target $(@D) --upgrade --no-deps \
		'libtpu>=0.0.52'
	@touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache demo_out
