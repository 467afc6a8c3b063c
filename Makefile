# Every target sets up what it needs in $(VENV), from the package registry.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
# Most tests wait for a socket most of the time.
JOBS ?= 4
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo kill-one test test-lowest lint format types docs check bench bench-against bench-instructions bench-soak conformance clean

help:  ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'

$(VENV)/.%: pyproject.toml | $(BIN)/python
	@echo "Installing the group '$*' into $(VENV)"
	@$(PIP) install --editable . --group $*
	@touch $@

demo: $(VENV)/.demo  ## Run a gateway over two upstreams on 127.0.0.1:$(PORT)
	@exec env PORT=$(PORT) $(BIN)/python -m examples.demo

kill-one: $(VENV)/.demo  ## Run a gateway over three upstreams, to kill by hand and watch
	@exec env PORT=$(PORT) $(BIN)/python -m examples.kill_one

test: $(VENV)/.tests  ## Run the tests
	@$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-lowest:  ## Run the tests on the lowest versions that pyproject.toml allows
	@$(MAKE) --no-print-directory .venv-lowest/.lowest VENV=.venv-lowest
	@.venv-lowest/bin/python -m pytest -n $(JOBS) $(ARGS)

.venv-lowest/.lowest: .venv-lowest/.tests .ci/lowest.py
	@.venv-lowest/bin/python .ci/lowest.py > .venv-lowest/lowest.txt
	@$(PIP) install --requirement .venv-lowest/lowest.txt
	@touch $@

lint: $(VENV)/.lint  ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.lint  ## Mend style and formatting
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/.tests $(VENV)/.lint  ## Check types, strictly
	@$(BIN)/mypy

docs: $(VENV)/.docs  ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: lint types docs test  ## Everything that CI runs, on one Python

bench: $(VENV)/.bench  ## Measure against other proxies (QUICK=1, ROWS=, CONTENDERS=)
	@$(BIN)/python -m benchmarks

bench-against: $(VENV)/.bench  ## Measure against an earlier version (REV=, QUICK=1, ROWS=)
	@$(BIN)/python -m benchmarks.against $(REV)

bench-instructions: $(VENV)/.bench  ## Count the instructions of a request with valgrind (REV=)
	@$(BIN)/python -m benchmarks.instructions $(REV)

bench-soak: $(VENV)/.bench  ## Watch memory and errors over a million requests (REQUESTS=)
	@$(BIN)/python -m benchmarks.soak

conformance: $(VENV)/.conformance  ## Run the Autobahn test suite through the proxy (QUICK=1, SERVERS=, CASES=, PYTHON2=)
	@$(BIN)/python -m conformance

clean:  ## Remove what the targets made
	@rm -rf .venv* site .mypy_cache .pytest_cache .ruff_cache benchmarks/results.md benchmarks/results*.json conformance/reports
