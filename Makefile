# `make demo` and `make test` set everything up themselves, in a fresh clone too.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow coverage mutants lint type faults bench readme docs notebooks notebooks-smoke notebooks-write clean

demo: .venv/ready
	$(BIN)/pyro-vaes demo

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

slow: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto -m slow

# The default tests once more, with every branch of pyro_vaes/ that they take or leave out.
coverage: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --cov=pyro_vaes --cov-branch --cov-report=term:skip-covered

# One small wrong thing at a time in variants, models, guides and objectives; hours on two cores, and it goes on where
# it was. MUTANTS="--sample 200" takes some of them, "--only inference/wae" a file, "--again" those that survived.
mutants: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(MUTANTS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: .venv/ready
	$(BIN)/mypy

# An hour of killing: real training processes, ended at random moments and resumed; the numbers of docs/faults.md.
faults: .venv/ready
	$(BIN)/python -m tests.faults --kills 50 --minutes 60 --out results

# Peers are measured if they are there: .venv/bin/python -m pip install --editable ".[bench]"
bench: .venv/ready
	$(BIN)/pyro-vaes bench --quick true

# Writes the tables of the README and of docs/ from results/.
readme: .venv/ready
	$(BIN)/python -m pyro_vaes.experiments.readme README.md docs/*.md docs/howto/*.md

# torch and torchvision come in one command, so that pip chooses a pair that fits.
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch .venv/ready

# The pages, from docs/, results/, notebooks/ and the docstrings, in build/docs.
# From scratch, because listings of the source would keep links to what is gone.
docs: .venv/ready
	rm -rf build/docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "open build/docs/index.html"

# Every notebook from top to bottom; nothing is written.
notebooks: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --nbmake --nbmake-timeout=900 notebooks/*.ipynb

# The same with a few steps of training each: every cell runs, every assertion that needs no training holds.
notebooks-smoke: .venv/ready
	PYRO_VAES_SMOKE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --nbmake --nbmake-timeout=900 notebooks/*.ipynb

# The .ipynb anew from their .py sources, executed: make notebooks-write, or NB=notebooks/01-the-vae.py for one.
NB ?= $(wildcard notebooks/[0-9]*.py)
notebooks-write: .venv/ready
	$(BIN)/python notebooks/write.py $(NB)

clean:
	rm -rf .venv runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache
