# What there is to do here. Two environments, made once and again when what they are made from changes:
#   .venv       everything: both sides, benchmarks, tests
#   .venv-edge  what an edge device installs, and nothing else; tests hold it free of torch
# pip reads its usual settings, so PIP_INDEX_URL or PIP_EXTRA_INDEX_URL choose where torch comes from (CPU or CUDA builds).

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
WORKERS ?= 2

VENV := .venv
EDGE := .venv-edge
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
# With --no-print-directory and @, pytest's closing line is the last line of output.
MAKEFLAGS += --no-print-directory

.PHONY: demo test test-slow test-all check format bench bench-wan proto clean distclean
.DELETE_ON_ERROR:

## demo: both sides on this machine, with the small models that come along
demo: $(VENV)/.ready
	@$(BIN)/python -m scripts.demo

## test: static checks, then every test that is not slow
test: check $(EDGE)/.ready
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

## test-slow: the sweeps alone
test-slow: $(VENV)/.ready $(EDGE)/.ready
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m slow

## test-all: static checks, then every test
test-all: check $(EDGE)/.ready
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

## check: lint, format, types
check: $(VENV)/.ready
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "not formatted: run 'make format'"; exit 1; }
	@$(BIN)/mypy --no-error-summary

## format: what check asks for, done
format: $(VENV)/.ready
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

## bench: every figure of the documentation
bench: $(VENV)/.ready
	@$(BIN)/python -m scripts.bench

## bench-wan: latency over emulated networks, a few minutes; see docs/benchmark.md
bench-wan: $(VENV)/.ready
	@$(BIN)/python -m scripts.bench_latency

## proto: shared/pb from proto/
proto: $(VENV)/.ready
	@$(BIN)/python -m scripts.gen_proto

## clean: caches and build products; distclean: the environments too
clean:
	@rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	@rm -rf $(VENV) $(EDGE)

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(call make_environment,$(VENV))
	@echo "$$($(BIN)/python --version): installing both sides into $(VENV), a few minutes the first time"
	@$(BIN)/python $(INSTALL) --editable '.[edge,cloud,bench,dev]'
	@touch $@

$(EDGE)/.ready: pyproject.toml constraints.txt
	@$(call make_environment,$(EDGE))
	@echo "$$($(EDGE)/bin/python --version): installing the edge alone into $(EDGE)"
	@$(EDGE)/bin/python $(INSTALL) --editable '.[edge]'
	@touch $@

define make_environment
$(1)/bin/python -m pip --version >/dev/null 2>&1 || { \
  test -n "$(PYTHON)" || { echo "no Python found: install Python 3.11, or name one: make PYTHON=/path/to/python3.11"; exit 1; }; \
  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
    echo "$(PYTHON) is not Python 3.11 or newer: install one, or name one: make PYTHON=/path/to/python3.11"; exit 1; }; \
  "$(PYTHON)" -m venv --clear $(1); }
endef
