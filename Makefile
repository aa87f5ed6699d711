# `make demo` and `make test` need nothing but Python >= 3.10 and a package index.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
TORCH := 2.13.0
CPU_INDEX := https://download.pytorch.org/whl/cpu
# Two processes test on two cores: threads that wait for each other must not spin.
THREADS := OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
# Modules are compiled to bytecode as they are imported: most of these packages never are.
# Where the environment forbids that, every process of the tests would compile them again.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL := $(VENV)/bin/pip install -qq --no-compile

.PHONY: demo environment test lint warm clean
.DELETE_ON_ERROR:

demo: $(VENV)/convert.stamp
	$(BIN)/python demo/demo.py

environment: $(VENV)/test.stamp

# Types are checked on one core while the other compiles what both test processes need.
test: $(VENV)/test.stamp
	@$(MAKE) --no-print-directory -j 2 lint warm
	$(THREADS) $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What fails in here is told by the tests.
warm: $(VENV)/test.stamp
	@$(BIN)/python -c 'from csaq_runtime.warmup import *; compile_modules(missing_modules(all_modules()))'
	@$(BIN)/pytest --collect-only -qq >/dev/null 2>&1 || true

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.10 with venv and pip found" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The default torch wheel of the package index brings gigabytes of CUDA libraries:
# without a GPU the CPU build is asked for by name, first from the configured sources.
$(VENV)/torch.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -qq --upgrade 'pip>=25'
	@if command -v nvidia-smi >/dev/null; then \
		$(PIP_INSTALL) 'torch==$(TORCH)'; \
	else \
		$(PIP_INSTALL) 'torch==$(TORCH)+cpu' 2>/dev/null \
		|| $(PIP_INSTALL) --index-url $(CPU_INDEX) 'torch==$(TORCH)'; \
	fi
	@touch $@

$(VENV)/convert.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP_INSTALL) --editable '.[convert]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP_INSTALL) --editable '.[convert,test]'
	@touch $(VENV)/convert.stamp $@

clean:
	rm -rf $(VENV) demo/out dist .mypy_cache .ruff_cache .pytest_cache
