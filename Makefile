# Everything runs in an environment of its own, made on first use; nothing has to be active.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs clean help

help:
	@echo "make demo   install, make small checkpoints, merge them by CABS, explain the result"
	@echo "make test   install with the test extra; lint, then the whole test suite"
	@echo "make lint   ruff, mypy --strict and the import contracts alone"
	@echo "make docs   the documentation, with the reference of the API, as web pages in site/"
	@echo "make clean  remove the environment and everything made here"

$(BIN)/dovetail: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[report]"
	@touch $(BIN)/dovetail

$(VENV)/.test: pyproject.toml $(BIN)/dovetail
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $(VENV)/.test

demo: $(BIN)/dovetail
	$(BIN)/dovetail demo

# mypy looks the packages up by their import names, which the folders alone do not have.
.typecheck/dovetail/__main__.py:
	@mkdir -p .typecheck/dovetail
	@ln -sfn ../../api/__init__.py .typecheck/dovetail/__init__.py
	@ln -sfn ../../api/__main__.py .typecheck/dovetail/__main__.py
	@ln -sfn ../../api/py.typed .typecheck/dovetail/py.typed
	@ln -sfn ../../engine .typecheck/dovetail/engine
	@ln -sfn ../../io .typecheck/dovetail/io

lint: $(VENV)/.test .typecheck/dovetail/__main__.py
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd .typecheck && ../$(BIN)/mypy --config-file ../pyproject.toml -p dovetail
	PYTHONPATH=.typecheck $(BIN)/lint-imports --no-cache

# Without the compiler, kernels run as plain Python; what is about processes that compile is not tried again.
test: lint
	$(BIN)/pytest -q -n auto --dist worksteal
	NUMBA_DISABLE_JIT=1 $(BIN)/pytest -q -n auto --dist worksteal tests/engine/kernels tests/engine/methods tests/io/adapters/test_kernels.py \
		--ignore tests/engine/kernels/test_cache.py --ignore tests/engine/kernels/test_machine_code.py \
		--ignore tests/engine/methods/test_plugins.py

$(VENV)/.docs: pyproject.toml $(BIN)/dovetail
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	@touch $(VENV)/.docs

docs: $(VENV)/.docs .typecheck/dovetail/__main__.py
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) .typecheck build site *.egg-info dovetail-demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
