# `make demo` and `make test` do all their own set-up, in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
JOBS ?= 2

.PHONY: help demo course notebooks test test-course test-all lint types bench bench-gpu weights tables clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/user: pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module: apt-get install python3-venv"; exit 1; }
	@echo "installing into $(VENV): about a minute"
	@$(INSTALL) -e '.[all]'
	@touch $@

$(VENV)/developer: $(VENV)/user
	@$(INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/learner: $(VENV)/user
	@$(INSTALL) -e '.[course]'
	@$(BIN)/alphabar data fetch fashion-mnist || echo "the pages will show other images"
	@touch $@

$(VENV)/browser: $(VENV)/developer
	@$(INSTALL) -e '.[browser]'
	@touch $@

demo: $(VENV)/user  ## pixels against latents, from nothing to demo/report.html: about 9 minutes on 2 cores
	@$(BIN)/alphabar demo

course: $(VENV)/learner  ## the course: its pages, built, served on 127.0.0.1 and opened in the browser
	@$(BIN)/alphabar course serve

notebooks: $(VENV)/learner  ## the course's notebooks, to solve and solved, run and checked: minutes
	@$(BIN)/alphabar course notebooks --check

test: $(VENV)/developer  ## the fast tests, with coverage
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --cov --cov-report=term

test-course: $(VENV)/browser  ## the course in Chromium, which must be installed
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) -m course tests/course

test-all: $(VENV)/developer  ## the slow tests too
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) -m ''

lint: $(VENV)/developer  ## ruff
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/developer  ## strict mypy on the library
	@$(BIN)/mypy

bench: $(VENV)/developer  ## speed beside diffusers
	@$(BIN)/alphabar bench sampling && $(BIN)/alphabar bench training

bench-gpu: $(VENV)/developer  ## the same on a GPU
	@$(BIN)/alphabar bench sampling --device cuda && $(BIN)/alphabar bench training --device cuda

weights: $(VENV)/user  ## train the weights that ship, as their cards say: over an hour
	@PATH=$(abspath $(BIN)):$$PATH benchmarks/make_weights.sh

tables: $(VENV)/user  ## measure the tables of the README: hours
	@$(BIN)/python benchmarks/quality.py

clean:  ## remove the environment and what the demo made
	@rm -rf $(VENV) demo runs course/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
