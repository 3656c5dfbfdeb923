# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

# What the dashboard is made of; installing builds it (hatch_build.py).
UI := $(wildcard web/ui/* web/ui/pages/* web/package-lock.json web/build.mjs)

.PHONY: setup dev demo test chromium check format docs bench simulate chaos clean ui

setup: .venv/.installed
dev: .venv/.installed-dev

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt hatch_build.py $(UI)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/agentcom demo

# The browser tests drive the system's Chromium.
chromium:
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	  { $(if $(filter 0,$(shell id -u)),,sudo) apt-get update -qq && \
	    $(if $(filter 0,$(shell id -u)),,sudo) apt-get install -y -qq chromium; }

ui: setup
	$(BIN)/python hatch_build.py

test: dev chromium
	$(BIN)/pytest

check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: dev
	$(BIN)/python -m docs.pages

bench: setup
	$(BIN)/agentcom bench

# Worlds from seeds: SEEDS=1234, SEEDS=0..10000 (the end apart), or a list of both.
SEEDS ?= 0..1000
simulate: dev
	$(BIN)/python -m tests.simulation $(SEEDS)

# What the suite does ten times, a hundred times, and what takes long altogether.
chaos: dev
	$(BIN)/pytest -m chaos

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
