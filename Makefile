# `make demo` and `make test` need nothing but Python >= 3.10 and a package index.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
TORCH := 2.13.0
CPU_INDEX := https://download.pytorch.org/whl/cpu
THREADS := OMP_NUM_THREADS=2

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/convert.stamp
	$(BIN)/python demo/demo.py

test: lint
	$(THREADS) $(BIN)/pytest -n 2 --dist loadfile

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.10 with venv and pip found" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The default torch wheel of the package index brings gigabytes of CUDA libraries:
# without a GPU the CPU build is asked for by name, first from the configured sources.
$(VENV)/torch.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -qq --upgrade 'pip>=25'
	@if command -v nvidia-smi >/dev/null; then \
		$(BIN)/pip install -qq 'torch==$(TORCH)'; \
	else \
		$(BIN)/pip install -qq 'torch==$(TORCH)+cpu' 2>/dev/null \
		|| $(BIN)/pip install -qq --index-url $(CPU_INDEX) 'torch==$(TORCH)'; \
	fi
	@touch $@

$(VENV)/convert.stamp: $(VENV)/torch.stamp pyproject.toml
	$(BIN)/pip install -qq --editable '.[convert]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/torch.stamp pyproject.toml
	$(BIN)/pip install -qq --editable '.[convert,test]'
	@touch $(VENV)/convert.stamp $@

clean:
	rm -rf $(VENV) demo/out dist .mypy_cache .ruff_cache .pytest_cache
