# On a fresh machine with Python 3.11 and make: `make demo`, `make test`, `make docs`.
# Everything is installed into .venv in this checkout; nothing outside it is touched.

PYTHON ?= python3.11
# A machine that shows an NVIDIA GPU gets TensorFlow with CUDA, any other the smaller CPU wheel. Override: make test ACCELERATOR=cpu
ACCELERATOR ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
BIN := .venv/bin
STAMP := .venv/.installed-$(ACCELERATOR)
DOCS_STAMP := .venv/.installed-docs

.PHONY: help demo test test-all lint docs wheel environment clean

# On a GPU the tests need float32 without TF32, sums in a fixed order, and a card that several processes share.
ifeq ($(ACCELERATOR),gpu)
test test-all: export NVIDIA_TF32_OVERRIDE := 0
test test-all: export TF_DETERMINISTIC_OPS := 1
test test-all: export TF_FORCE_GPU_ALLOW_GROWTH := true
endif

help:
	@echo "make demo      pretrain, fine-tune and evaluate on the embedded data; leaves runs/demo/report.html"
	@echo "make test      lint, types and the default tests"
	@echo "make test-all  the same and the slow tests"
	@echo "make lint      style and types only"
	@echo "make docs      the pages of docs/ as a site in build/site; a dead link fails"
	@echo "make wheel     source distribution and wheel in dist/"
	@echo "make clean     remove .venv, caches and what was built"

environment: $(STAMP)

$(STAMP): setup.py
	@echo "== building .venv ($(ACCELERATOR) build of TensorFlow; this downloads a few hundred megabytes once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip setuptools wheel >.venv/install.log 2>&1 || { tail -n 20 .venv/install.log >&2; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[$(ACCELERATOR),report,dev]" >.venv/install.log 2>&1 || { tail -n 20 .venv/install.log >&2; exit 1; }
	@touch $@

demo: environment
	@echo "== demo: CLD pretraining, fine-tuning and a BCE-only run on the digits scenes, then a report (about 5 minutes on 2 cores)"
	@$(BIN)/python -m mulsupcon_tf.demo --workdir=runs/demo

lint: environment
	@echo "== style (ruff) and types (mypy)"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

$(DOCS_STAMP): $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[docs]" >.venv/install.log 2>&1 || { tail -n 20 .venv/install.log >&2; exit 1; }
	@touch $@

# Not --quiet, by which mkdocs would pass over dead links.
docs: $(DOCS_STAMP)
	@echo "== site of docs/"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site: build/site/index.html"

test: lint
	@echo "== default tests"
	@$(BIN)/python -m pytest

test-all: lint
	@echo "== all tests, the slow ones too"
	@$(BIN)/python -m pytest -m "slow or not slow"

wheel: environment
	@echo "== source distribution and wheel"
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation >.venv/build.log 2>&1 || { tail -n 20 .venv/build.log >&2; exit 1; }
	@$(BIN)/twine check --strict dist/*

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache *.egg-info build dist
