# Everything from a bare clone: `make demo`, `make test`. Needs python3 (3.11 or newer) with venv.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= requirements/constraints.txt
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n 2 -q
ROOT_FILES = $(wildcard *_interest.py)

BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c $(CONSTRAINTS)
OFFLINE = HF_HUB_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help demo demo-quick test test-lowest lint types check wheel clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s:

# PyTorch first and alone, so that no other package's range picks another build of it.
$(VENV)/.torch: $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	@touch $@

$(VENV)/.demo: $(VENV)/.torch setup.cfg
	$(INSTALL) -e '.[offline]'
	@touch $@

$(VENV)/.test: $(VENV)/.torch setup.cfg
	$(INSTALL) -e '.[offline,test]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## generated world -> fine-tuned model -> figures, profile picture and card in runs/demo
	$(OFFLINE) $(BIN)/interest-lm demo --output runs/demo --overwrite

demo-quick: $(VENV)/.demo  ## the same on a tiny world, about a minute
	$(OFFLINE) $(BIN)/interest-lm demo --quick --output runs/demo-quick --overwrite

test: $(VENV)/.test  ## all tests
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

test-lowest:  ## all tests on the oldest versions allowed, in a virtual environment of their own
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=requirements/lowest.txt

lint: $(VENV)/.test  ## ruff, and transformers' own linter on the files that travel to the Hub
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/mlinter_rules.py .ci-cache/mlinter_rules.toml
	$(BIN)/mlinter --no-progress --no-cache --rules-toml .ci-cache/mlinter_rules.toml $(filter-out taxonomy_%,$(ROOT_FILES))

types: $(VENV)/.test  ## pyright on the files that travel to the Hub
	$(BIN)/pyright --pythonpath $(BIN)/python $(ROOT_FILES)

check: test lint types  ## what .ci/run runs before the demo

wheel: $(VENV)/.test  ## dist/*.whl; a stale build folder would go into it, so that is removed first
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build

clean:  ## everything that can be made again, but runs/
	rm -rf $(VENV) .venv-lowest build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
