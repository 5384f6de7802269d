# Each target sets up .venv itself, from nothing. `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-

.PHONY: demo test test-slow lint bench study docs clean

demo: $(STAMP)run
	$(BIN)/rvdflow demo

test: $(STAMP)test
	$(BIN)/python -m pytest

test-slow: $(STAMP)test
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)test
	$(BIN)/python benchmarks/run.py

# A study of configs/study: NAME=skill, samplers, ablation. Stopped at any moment, the same command goes on; options of
# `rvdflow study` go into STUDY, as in make study NAME=skill STUDY="--threads 1 --part 1/2" (docs/how-to/study.md).
STUDIES ?= studies
NAME ?= ablation
STUDY ?=
study: $(STAMP)run $(STUDIES)/.simulated
	$(BIN)/rvdflow study configs/study/$(NAME).toml --data $(STUDIES)/wake_unsteady.zarr -o $(STUDIES)/$(NAME) $(STUDY)

$(STUDIES)/.simulated: | $(STAMP)run
	mkdir -p $(STUDIES)
	$(BIN)/lbm simulate --config configs/lbm/wake_unsteady.toml --save-states 20 -o $(STUDIES)/wake_unsteady.zarr \
		$$(test -e $(STUDIES)/wake_unsteady.zarr && echo --resume)
	touch $@

docs: $(STAMP)docs
	$(BIN)/python -m sphinx -W -b html docs docs/_build/html

clean:
	rm -rf $(VENV) docs/_build .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP)run: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(STAMP)test: $(STAMP)run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

$(STAMP)lint: $(STAMP)test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lint]'
	touch $@

$(STAMP)docs: $(STAMP)run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@
