# Everything that these targets need they set up themselves, in .venv, with the exact versions of constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# torch comes first and alone: its CPU build must be there before anything else asks for it.
READY := $(VENV)/.ready

export HF_HUB_DISABLE_TELEMETRY = 1
# The workers and the Pythons that tests start need not compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-thorough lint docs clean

help:
	@echo "make demo   compare six methods on two tasks of handwritten digits (a minute), with a report"
	@echo "make test   run the tests, ARGS=\"tests/weights -x\" some of them"
	@echo "make test-thorough  the same, and every case of which make test runs a sample"
	@echo "make lint   ruff, mypy and which room imports which"
	@echo "make docs   write what is made from the code (docs/methods.md, the schemas), and build the guide: site/index.html"
	@echo "make clean  delete the virtual environment and the caches"

$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: $(READY)
	$(BIN)/stockpot compare recipes/quickstart.yaml -o runs/quickstart

PYTEST = HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(READY)
	$(PYTEST) $(ARGS)

test-thorough: $(READY)
	$(PYTEST) -m "thorough or not thorough" $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(READY)
	$(BIN)/python docs/make.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "The guide is in site/index.html."

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
