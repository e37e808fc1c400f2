# `make` prints what there is. Every target makes .venv first and installs into it when pyproject.toml has changed.
#
#   make test ARGS="tests/unit -k saga"     what to run, and how
#   make test JOBS=                         in one process; by default four, each with services of its own
#   make PYTHON=python3.13 setup            another Python
#   make test VENV=.venv313 PYTHON=/path/to/python3.13     another Python beside it

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH := .bench/.installed
EXTRAS := all,dev
ARGS ?=
# What `make run` runs unless it is told: the deployment's example.
APP ?= $(or $(STAGEFLOW_APP),workers.app:engine)
SEEDS ?= 100000
MINUTES ?= 30
# Compose: the plugin, or the older program of its own.
COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
SOURCES = $(wildcard stageflow_durable workers tests)

.PHONY: help
help: ## What there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Make .venv and install the library with every extra

$(STAMP): pyproject.toml
	@.ci/venv $(VENV) $(PYTHON)
	@echo "Installing into $(VENV) (once, a minute or two) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

.PHONY: demo
demo: $(STAMP) ## The product in a minute: orders, flaky services, killed workers, books reconciled
	@$(BIN)/stageflow demo $(ARGS)

.PHONY: run
run: $(STAMP) ## APP=shop:engine: broker, workers, beat and monitor on this machine; Ctrl-C stops all
	@$(BIN)/stageflow --app $(APP) up $(ARGS)

# Four on two cores: while two wait for what they started, the others compute. They start processes by the hundred: without
# bytecode that is kept, each would compile the library again.
.PHONY: test
test: JOBS ?= 4
test: $(STAMP) ## Every test, in one go
	@PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(if $(JOBS),--numprocesses=$(JOBS) --dist=loadgroup --no-loadscope-reorder) $(ARGS)

# The driver of a browser is large, and for these tests alone. SHOTS=docs/images takes the documentation's pictures anew.
BROWSER = $(VENV)/.browser
SHOTS ?=

.PHONY: test-browser
test-browser: $(STAMP) $(BROWSER) ## The pages in a headless Chromium: clicks, accessibility, pictures
	@STAGEFLOW_TEST_BROWSER=1 STAGEFLOW_TEST_SCREENSHOTS=$(SHOTS) $(BIN)/python -m pytest $(or $(ARGS),tests/browser)

$(BROWSER): $(STAMP)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[browser]'
	@touch $@

.PHONY: golden
golden: $(STAMP) ## Record anew what each transaction of the protocol changes (tests/protocol/golden_changes.json)
	@$(BIN)/python -m tests.protocol.golden > tests/protocol/golden_changes.json.new
	@mv tests/protocol/golden_changes.json.new tests/protocol/golden_changes.json

# The oldest versions that pyproject.toml allows, on SQLite and Valkey: the parts that touch other libraries.
LOWEST := .lowest/.installed
OLDEST := tests/unit tests/conformance tests/cli/test_for_real.py tests/integration/delivery tests/integration/engine/test_pools.py

.PHONY: test-lowest
test-lowest: JOBS ?= 3
test-lowest: $(LOWEST) ## A part of the tests with the oldest versions that are allowed
	@PYTHONHASHSEED=0 .lowest/bin/python -m pytest -W default -k "not postgres" $(if $(JOBS),--numprocesses=$(JOBS) --dist=loadgroup --no-loadscope-reorder) $(or $(ARGS),$(OLDEST))

# uv alone can choose the oldest; the tests' own tools stay the newest that go with them.
$(LOWEST): UV = .lowest/bin/python -m uv pip
$(LOWEST): pyproject.toml
	@.ci/venv .lowest $(PYTHON)
	@echo "Installing the oldest versions into .lowest (once, a minute or two) ..."
	@.lowest/bin/python -m pip install -qq --disable-pip-version-check uv
	@$(UV) compile -q --python .lowest/bin/python --resolution lowest-direct --extra all --output-file .lowest/oldest.txt pyproject.toml
	@$(UV) install -q --python .lowest/bin/python --constraint .lowest/oldest.txt --editable '.[all,dev]'
	@touch $@

.PHONY: chaos
chaos: $(STAMP) ## Only the tests that kill processes and services; two minutes of the mix
	@STAGEFLOW_TEST_CHAOS=1 $(BIN)/python -m pytest -m chaos $(ARGS)

.PHONY: soak
soak: $(STAMP) ## MINUTES=30 of faults at random against a stream of sagas, and a verdict
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(ARGS)

# Hostile programs against each backend that has to work on this machine; installs what they need (Debian, as root).
.PHONY: test-sandbox
test-sandbox: $(STAMP) ## Sandboxes against hostile programs; part of .ci/run
	@.ci/sandbox $(BIN)/python -m pytest -p no:cacheprovider tests/sandbox $(ARGS)

.PHONY: simulate
simulate: JOBS ?= 2
simulate: $(STAMP) ## The engine under chance: SEEDS=100000 stories, each checked step by step
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --jobs $(or $(JOBS),1) $(ARGS)

.PHONY: mutants
mutants: $(STAMP) ## Mistakes planted in the engine: the simulation has to find each
	@$(BIN)/python -m tests.simulation --mutants $(ARGS)

.PHONY: check
check: $(STAMP) ## Style, types and the direction of imports
	@$(BIN)/ruff check
	@$(BIN)/mypy $(SOURCES)
	@$(BIN)/lint-imports --no-cache --no-logo || { echo "see [tool.importlinter] in pyproject.toml" >&2; exit 1; }

.PHONY: bench
bench: $(STAMP) $(BENCH) ## Measure against bare Celery, DBOS, Restate, Temporal and the database itself; table, JSON, plots
	@$(BIN)/python -m tests.benchmarks --json .bench/results.json --plots .bench/plots $(ARGS)

.PHONY: bench-compare
bench-compare: $(STAMP) $(BENCH) ## REF=…: the same rows on another commit's library, in turn, and what changed
	@$(BIN)/python -m tests.benchmarks.compare $(or $(REF),$(error which commit? make bench-compare REF=main ARGS="--rows 1,6")) $(ARGS)

.PHONY: bench-peers
bench-peers: $(STAMP) ## Install the other engines into .bench, to be measured beside
	@$(BIN)/python -m tests.benchmarks.installed

# Peers and plots are for benchmarks alone: nobody else waits for them.
$(BENCH): $(STAMP) tests/benchmarks/installed.py
	@echo "Installing the benchmark's peers into .bench (once, a minute or two) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[bench]'
	@$(BIN)/python -m tests.benchmarks.installed
	@touch $@

.PHONY: docs
docs: $(STAMP) ## Run every snippet of the documentation and check its links
	@$(BIN)/python -m pytest -q tests/project $(ARGS)

.env:
	@umask 077 && for name in POSTGRES_PASSWORD REDIS_PASSWORD STAGEFLOW_AUDIT_KEY; do \
	    printf '%s=%s\n' "$$name" "$$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"; done > $@
	@printf 'FLOWER_BASIC_AUTH=admin:%s\n' "$$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')" >> $@
	@echo "Wrote .env with passwords of this installation's own; keep it as long as the volumes."

.PHONY: up
up: .env ## PostgreSQL, Redis, workers, beat and Flower in containers
	@$(COMPOSE) up --build --detach --wait

.PHONY: down
down: ## Stop the containers; the volumes stay
	@$(COMPOSE) down --remove-orphans

.PHONY: clean
clean: ## Remove .venv and everything that was built or cached
	@rm -rf .venv .venv3* .lowest .bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.* htmlcov build dist
	@find stageflow_durable workers tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
