# The commands of the house. Each sets itself up in .venv on first use and again when setup.cfg changes.
#   make demo    the whole way: data, three training stages, animation, report   make test    every test
#   make lint    ruff and mypy                                                   make setup   only the environment
#   make evidence   the benchmark's tables and docs/evidence.md, from seeds (an hour; QUICK=1: ten minutes)
#
# PyTorch: the CPU build by default. For a GPU name the index of your CUDA version, as PyTorch's "Get started" page shows it:
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cu130

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
EXTRAS ?= train,data,doubles,eval,dev
BIN = $(VENV)/bin
# The deepspeed launcher starts `python`: the environment's own must come first.
RUN = PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)"
# More threads than cores slow two ranks down tenfold; whoever knows better sets it.
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo evidence test test-processes test-others lint format clean
.DEFAULT_GOAL := setup

setup: $(VENV)/.ready

$(VENV)/.ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v else f"imanim needs Python 3.11 or newer, $(PYTHON) is {v[0]}.{v[1]}: make setup PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --extra-index-url $(TORCH_INDEX) "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e ".[$(EXTRAS)]"
	$(if $(findstring dev,$(EXTRAS)),$(BIN)/python -c 'import configparser; c = configparser.ConfigParser(); c.read("setup.cfg"); print(c["options.extras_require"]["references"])' | $(BIN)/python -m pip install --quiet --no-deps -r /dev/stdin)
	@touch $@

demo: $(VENV)/.ready
	$(RUN) $(BIN)/python launchers/demo.py $(DEMO)

# The benchmark from its seeds, the model's scores, docs/evidence.md; QUICK=1: a fifth of it, compared with the kept result.
evidence: $(VENV)/.ready
	$(if $(QUICK),,-$(RUN) $(BIN)/python -m imanim.weights import all)
	$(RUN) $(BIN)/python launchers/evidence.py --config configs/evidence$(if $(QUICK),_quick).yaml $(EVIDENCE)

# Tests of real networks need their weights; without a network those tests are skipped and say so. Tests that start trainings and
# jobs wait a lot, so all others run beside them, in a process of their own (pytest-xdist's threads and forked loader workers do
# not live together: LOG.md). TEST="tests/models -k codebook" runs what it names, in one process.
STARTS_PROCESSES = tests/cluster tests/launchers tests/training
# Whole lines of either process, so that they do not mix.
LINES = | grep -a --line-buffered ''
test: $(VENV)/.ready
	-$(RUN) $(BIN)/python -m imanim.weights import all
	$(if $(TEST),$(RUN) $(BIN)/python -m pytest $(TEST),$(MAKE) --no-print-directory -j2 test-processes test-others)

test-processes test-others: SHELL = bash
test-processes: $(VENV)/.ready
	@set -o pipefail; $(RUN) $(BIN)/python -m pytest --durations=15 $(STARTS_PROCESSES) $(LINES)

test-others: $(VENV)/.ready
	@set -o pipefail; $(RUN) $(BIN)/python -m pytest --durations=15 $(STARTS_PROCESSES:%=--ignore=%) tests $(LINES)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy imanim data_pipeline evaluation launchers

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
