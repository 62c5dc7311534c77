# Every target sets up what it needs; nothing else has to be run first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0

.PHONY: setup demo test test-llama test-ray check docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Steelyard needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (once; a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/lock.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$(BIN)/python -c "from steelyard.codecs import compile_kernels; compile_kernels()"
	@touch $@

demo: setup
	@rm -rf demo-output
	@$(BIN)/steelyard fit reference --ratio 0.25 --curve 2.5,3,4,6,8 --verify load --out demo-output

test: setup check
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

# llama.cpp itself, built from source: loads, generates and quantizes beside ours.
test-llama: setup
	@$(BIN)/python scripts/setup_llama.py
	@$(BIN)/python -m pytest tests/llama

# Merging on a cluster: a local one of two workers, in an environment of its own.
test-ray: build/ray/.ready
	@OMP_NUM_THREADS=1 build/ray/bin/python -m pytest tests/cluster

build/ray/.ready: requirements/lock.txt pyproject.toml
	@$(PYTHON) -m venv build/ray
	@build/ray/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements/lock.txt \
		pytest pytest-xdist safetensors --editable ".[ray]"
	@touch $@

check: setup
	@$(BIN)/ruff check src tests benchmarks scripts
	@$(BIN)/ruff format --check src tests benchmarks scripts
	@$(BIN)/mypy

docs: setup
	@$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) demo-output site build
