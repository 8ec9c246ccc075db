# Needs Python >= 3.10, git and make; everything else goes into .venv.
#
# PyPI's torch brings gigabytes of CUDA. The first install decides, `make clean` lets you decide again:
#   make test TORCH="torch==2.14.1 torchvision==0.29.1"
#   make demo PIP_INSTALL_ARGS="--index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
TORCH ?= torch torchvision  # what to install before the package
PIP_INSTALL_ARGS ?=  # how to install that
PYTEST_ARGS ?=
DEMO ?= jmwst
LOGS ?= runs

BIN := .venv/bin
KERNELS := $(wildcard flash_pl/kernels/csrc/*)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test quick lint types docs dist release-check clean
help:
	@echo "make demo   train JMWST on the handwritten digits that ship with scikit-learn (a minute, no download of data)"
	@echo "make test   run the tests"
	@echo "make quick  run the tests without those that start whole commands or take seconds (2 to 3 minutes on two cores)"
	@echo "make lint   check style and formatting"
	@echo "make types  check type hints"
	@echo "make docs   build the documentation's site into site/"
	@echo "make dist   build the source distribution and this platform's wheel into dist/"
	@echo "make clean  remove .venv and everything generated"

demo: .venv/installed
	$(BIN)/flash-pl fit $(DEMO)
	@echo "Curves: $(BIN)/tensorboard --logdir $(LOGS)"

test: .venv/installed-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Without the tests that train for seconds, start processes of their own or run whole commands.
quick: .venv/installed-dev
	$(BIN)/python -m pytest -m "not slow" -n auto --dist worksteal flash_pl tests \
		--ignore=tests/ranks --ignore=tests/sweep --ignore=tests/compare --ignore=tests/export \
		--ignore=tests/callbacks --ignore=tests/commands --ignore=tests/test_conf.py --ignore=tests/test_docs.py \
		--ignore=tests/test_notebooks.py --ignore=tests/test_bad_input.py --ignore=tests/test_cli.py \
		--ignore=tests/config/test_run_dir.py

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

dist: .venv/installed
	$(INSTALL) build twine
	rm -rf build dist
	$(BIN)/python -W error::DeprecationWarning -m build
	$(BIN)/twine check --strict dist/*

# What a release still lacks; TAG=v1.2.3 must be the version of the package.
release-check:
	@! grep -n FILL-IN pyproject.toml *.md *.cff | grep -v '^RELEASING'
	@test -z "$(TAG)" || grep -qx '__version__ = "$(TAG:v%=%)".*' flash_pl/__init__.py

clean:
	rm -rf .venv build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f flash_pl/kernels/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps let a second `make` skip pip. An editable install follows Python's sources, so only new
# dependencies and the kernels' C renew them.
.venv/torch:
	$(PYTHON) -m venv .venv
	$(INSTALL) $(PIP_INSTALL_ARGS) $(TORCH)
	@touch $@

.venv/installed: pyproject.toml $(KERNELS) .venv/torch
	$(INSTALL) --editable .
	@touch $@

.venv/installed-dev: pyproject.toml $(KERNELS) .venv/torch
	$(INSTALL) --editable ".[dev]"
	@touch $@
