# Everything runs in .venv, made here from nothing. PYTHON may name any Python from 3.11 on.
PYTHON ?= python3
BIN := .venv/bin
THREADS ?= 1
# One more than two cores: many tests wait for processes, servers and time-outs.
PROCESSES ?= 3
# Threads that wait for each other sleep: spinning, they would hold up the other processes.
export OMP_WAIT_POLICY ?= PASSIVE
# Tests start many processes: without compiled modules each would compile them anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow lint audit bench soak fuzz docs clean

demo: .venv/.installed
	$(BIN)/mergetune demo --output demo-run

test: .venv/.installed-test lint
	OMP_NUM_THREADS=$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/pytest -m "not slow" -n $(PROCESSES) --dist loadfile

test-slow: .venv/.installed-test .venv/.installed-docs
	OMP_NUM_THREADS=$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/pytest -m slow

lint: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Our code for what is dangerous, and what is installed for what is known to be broken; pip-audit asks PyPI.
audit: .venv/.installed-test
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[audit]'
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive basics search_spaces scorers studies optimizer
	$(BIN)/pip-audit --local --skip-editable --progress-spinner off

# Hundreds of trials on SQLite, and again on PostgreSQL, by workers that are killed every few seconds.
soak: .venv/.installed-test
	PYTHONPATH=.:tests $(BIN)/python tests/soak.py $$(mktemp -d) --trials 300

# Thousands of specs, recipes, files and rows that nobody should have written.
fuzz: .venv/.installed-test
	OMP_NUM_THREADS=$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/pytest -m slow tests/acceptance/test_fuzz.py

# The documentation as a site in site/. A broken link or a page that is in no menu ends it.
docs: .venv/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/.installed-test
	$(BIN)/python benchmarks/merge.py
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/trial.py

clean:
	rm -rf .venv demo-run build dist site

.venv/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit("mergetune needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/pip pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/.installed-test: .venv/bin/pip pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@ .venv/.installed

.venv/.installed-docs: .venv/bin/pip pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@ .venv/.installed
