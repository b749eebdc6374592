# Each target stands alone on a fresh clone: the virtual environment is made on first use.
PYTHON ?= python3
PORT ?= 5000
BIN := .venv/bin

.PHONY: run test lint bench
run: .venv/example
	$(BIN)/flask --app example_app run --port $(PORT)

test: .venv/installed
	$(BIN)/python -m pytest $(ARGS)

bench: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The shop needs little, and whoever looks at it should not wait for what the tests need.
.venv/example: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[example]'
	touch $@

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch .venv/example $@
