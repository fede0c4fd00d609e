# make lab: the course in JupyterLab.   make test: every test, notebooks included.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Small nets: one thread is as fast as two, and much faster on a busy machine.
export OMP_NUM_THREADS ?= 1
# Each module is compiled when it is first imported, instead of all of them while installing.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install lab test test-oldest lint notebooks docs site slides clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

install: $(VENV)/installed ## create .venv and install the course into it

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "kdcourse needs Python 3.10 or newer: make PYTHON=python3.11 ...")'
	@$(PYTHON) -c 'import ensurepip, venv' || (echo "this Python has no venv module; on Debian and Ubuntu: apt install python3-venv" && false)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e ".[test]"
	@touch $@

lab: install ## open the notebooks in JupyterLab (ARGS="--no-browser --port 8890", say)
	$(BIN)/python -m kdcourse lab $(ARGS)

test: install lint ## run the unit tests and every notebook
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --nbval --nbval-current-env --nbval-cell-timeout=240 notebooks tests

# The lower bounds of pyproject.toml, exactly: what they promise is tried here, outside `make test`.
OLDEST := .venv-oldest
test-oldest: ## run the unit tests with the oldest supported versions (another 6 GB)
	$(PYTHON) -m venv $(OLDEST)
	sed -n 's/^ *"\([a-zA-Z-]*\)>=\([0-9.]*\).*/\1==\2/p' pyproject.toml > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --disable-pip-version-check --no-compile -c $(OLDEST)/oldest.txt -e ".[test]"
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile tests --ignore=tests/homework --ignore=tests/browser --ignore=tests/test_setup.py

lint: install ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: install ## run all notebooks, store their outputs, map them
	$(BIN)/python -m kdcourse notebooks

docs: install ## write what was measured into README and docs
	$(BIN)/python -m kdcourse docs

site: install ## build the course as a web site in build/site
	$(BIN)/python -m kdcourse site

slides: install ## write the notebooks as slides, to be shown offline, into build/slides
	$(BIN)/python -m kdcourse slides

clean: ## remove the environment and caches
	rm -rf $(VENV) $(OLDEST) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
