# Everything installs itself: a target's first run makes .venv, later ones start at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: run test lint bench install clean

run: $(STAMP)
	$(BIN)/tokenmill run configs/quickstart.toml

test: $(STAMP)
	$(BIN)/pytest -n auto --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if $(BIN)/python -c 'import socket; socket.create_connection(("api.osv.dev", 443), 5)' 2> /dev/null; then \
	  $(BIN)/pip install --quiet --constraint constraints.txt pip-audit && \
	  $(BIN)/pip-audit --vulnerability-service osv --disable-pip --no-deps --requirement constraints.txt; \
	else echo "Dependencies were not audited for known holes: api.osv.dev cannot be reached from here."; fi

bench: $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[samples,dev,bench]'
	$(BIN)/python -m benchmarks

install: $(STAMP)

# Installed again when what is wanted changes; `constraints.txt` pins every package to a version that was tested.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("tokenmill needs Python 3.11 or later; say PYTHON=... to make" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[samples,dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
