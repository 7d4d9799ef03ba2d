# Every target installs what it needs and no more: its first run makes .venv, later runs start at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/installed
DEV := $(VENV)/installed-dev
BENCH := $(VENV)/installed-bench
INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt
LM_EVAL := lm-eval dataproperty mbstrdecoder pytablewriter tabledata typepy # which need chardet below 7, and work with 7
PYTEST := $(BIN)/pytest -n auto --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help run test test-slow check lint bench install clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/make \1|\2/' | column -t -s '|'

run: $(RUN) ## Run the quick start: from real text to evaluated models
	$(BIN)/tokenmill run configs/quickstart.toml

test: $(DEV) ## Run the tests, except the slow ones
	$(PYTEST)

test-slow: $(DEV) ## Run the tests that are marked slow: kills, schedules, fresh environments, long fuzzing
	$(PYTEST) -m slow

check: $(DEV) lint ## Lint and run the unit tests, in about a minute
	$(PYTEST) -x tests/gpt tests/pipelines -m 'not slow and not integration'

lint: $(DEV) ## Check style, types, import layers and known holes in dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if $(BIN)/python -c 'import socket; socket.create_connection(("api.osv.dev", 443), 5)' 2> /dev/null; then \
	  $(INSTALL) pip-audit && \
	  $(BIN)/pip-audit --vulnerability-service osv --disable-pip --no-deps --requirement constraints.txt; \
	else echo "Dependencies were not audited for known holes: api.osv.dev cannot be reached from here."; fi

bench: $(BENCH) ## Measure tokenmill beside its peers
	$(BIN)/python -m benchmarks

install: $(RUN) ## Make .venv with what a run needs

# An installation is repeated when pyproject.toml or constraints.txt changes. `constraints.txt` pins every package to a
# version that was tested. A later stamp adds packages to those of the one before.
$(RUN): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("tokenmill needs Python 3.11 or later; say PYTHON=... to make" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[samples]'
	touch $@

$(DEV): $(RUN)
	$(INSTALL) --editable '.[samples,dev]'
	$(INSTALL) --no-deps $(LM_EVAL)
	touch $@

$(BENCH): $(DEV)
	$(INSTALL) --editable '.[samples,dev,bench]'
	touch $@

clean: ## Remove .venv and caches
	rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
