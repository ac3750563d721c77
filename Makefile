# `make quickstart` runs the whole system on the embedded models; `make test-all` runs every check.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/quickstart
# One more than cores, since many tests wait for processes that they start. A test that hangs ends its
# worker, which is named and replaced; after three of them the run ends.
CORES := $(shell getconf _NPROCESSORS_ONLN)
WORKERS := -n $(shell expr $(CORES) + 1) --maxprocesses 4 --dist worksteal --max-worker-restart 2
# Compiled before the tests: otherwise, where Python may write no bytecode, each of the hundred processes
# that they start compiles what it imports. pip compiles on one core only, so it is not to. A package may
# have files for a later Python, which do not compile.
COMPILE := $(BIN)/python -m compileall -q -j 0
COMPILE_ALL := $(COMPILE) -q $(BIN)/../lib || true
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: quickstart showcase test test-all test-thorough test-long test-oldest test-newest test-vllm test-processors test-weakest lint docs docs-serve install clean

quickstart: $(BIN)/.installed
	@$(BIN)/evomerge search configs/quickstart.yaml --run $(RUN) --resume
	@if [ ! -e $(RUN)/model ]; then $(BIN)/evomerge export $(RUN) --out $(RUN)/model; fi
	@echo "the searched merge is an ordinary checkpoint in $(RUN)/model"

# Real experts, real searches, the table: hours on one core. Interrupt it and call it again at will.
showcase: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[encoders,showcase]"
	OMP_NUM_THREADS=1 $(BIN)/python -m scripts.real

install: $(BIN)/.installed

test: $(BIN)/.tested lint
	$(COMPILE) evomerge
	$(BIN)/python -m pytest $(WORKERS)

# The others too: attacks and fuzzing, Ray, browsers, the commands of the documentation, whole searches.
# The checks of `lint` run beside them, since mypy uses one core only.
test-all: $(BIN)/.tested
	$(MAKE) --jobs 2 lint test-thorough

test-thorough: $(BIN)/.tested
	$(COMPILE) evomerge
	$(BIN)/python -m pytest $(WORKERS) -m "not long"

# What takes minutes each, and the property tests once more: with new draws in each run, and more.
test-long: $(BIN)/.tested
	$(BIN)/python -m pytest $(WORKERS) -m "long or hypothesis" --hypothesis-profile long \
	-o faulthandler_timeout=7200

# The quickstart and the core tests, on the oldest and on the newest releases that pyproject.toml allows.
CORE := tests/evaluation tests/merging tests/models tests/optimize tests/run tests/space tests/strategy \
	tests/trust

test-oldest: .venv-oldest/.installed
	rm -rf runs/oldest && .venv-oldest/bin/evomerge search configs/quickstart.yaml --run runs/oldest
	.venv-oldest/bin/python -m pytest $(WORKERS) $(CORE)

test-newest: .venv-newest/.installed
	rm -rf runs/newest && .venv-newest/bin/evomerge search configs/quickstart.yaml --run runs/newest
	.venv-newest/bin/python -m pytest $(WORKERS) $(CORE)

.venv-%/.installed: pyproject.toml scripts/versions_environment.sh
	PYTHON=$(PYTHON) scripts/versions_environment.sh $* .venv-$*
	@touch $@

# The quick tests as on two other kinds of processor: by the instructions that torch, numba, MKL, oneDNN
# and OpenBLAS may use (on AMD, MKL heeds only MKL_CBWR), and by the number of threads; `test-weakest`
# runs the thorough ones, too.
WEAKEST := ATEN_CPU_CAPABILITY=default NUMBA_CPU_NAME=x86-64-v2 MKL_CBWR=COMPATIBLE \
	MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 OPENBLAS_CORETYPE=Nehalem OMP_NUM_THREADS=1 \
	NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL"
AVX2 := ATEN_CPU_CAPABILITY=avx2 NUMBA_CPU_NAME=x86-64-v3 MKL_CBWR=AVX2 \
	MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell OMP_NUM_THREADS=2

test-processors: $(BIN)/.tested
	$(COMPILE) evomerge
	$(WEAKEST) $(BIN)/python -m pytest $(WORKERS)
	$(AVX2) $(BIN)/python -m pytest $(WORKERS)

test-weakest: $(BIN)/.tested
	$(COMPILE) evomerge
	$(WEAKEST) $(BIN)/python -m pytest $(WORKERS) -m "not long"

# vLLM needs its own versions of torch and transformers, so it has an environment of its own.
test-vllm: .venv-vllm/.installed
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest tests/evaluation/inference/test_real_vllm.py

.venv-vllm/.installed: pyproject.toml scripts/vllm_environment.sh
	PYTHON=$(PYTHON) scripts/vllm_environment.sh .venv-vllm
	@touch $@

lint: $(BIN)/.tested
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Pages of docs/reference are written from the code, and all are a site in site/; `make docs-serve`
# shows it at http://127.0.0.1:8000.
docs: $(BIN)/.tested
	$(BIN)/python -m scripts.site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: $(BIN)/.tested
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "evomerge needs Python 3.11 or newer; try make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv

$(BIN)/.installed: pyproject.toml | $(BIN)/python
	@echo "pip installs evomerge and what it needs into .venv, which takes some minutes"
	$(PIP) -e .
	@$(COMPILE_ALL)
	@touch $@

$(BIN)/.tested: pyproject.toml | $(BIN)/python
	$(PIP) -e ".[test]"
	@$(COMPILE_ALL)
	@touch $@ $(BIN)/.installed

clean:
	rm -rf site .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
