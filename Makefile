# Every target is safe to repeat and says what it does. The tools are in .venv/, the running stack's state in .stack/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Settings of the stack; empty means stack/bin/up's own default (stack/README.md lists them).
export ROWS APP_PHASE DB_OWNER RESET POSTGRES_SUITE POSTGRES_IMAGE REDIS_IMAGE BASE_IMAGE
# The runbook watches a production deployment for 900 s; the demonstration does not.
export DEMO_WATCH_SECONDS ?= 20
# The tools call each other by name.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# No other checkout replaces the stack while such a command runs.
HOLD := scripts/hold-stack

.PHONY: all-of-test help venv engine browser clients stack demo lint unit mutations molecule faults test bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: .venv/.stamp ## the Python tools in .venv/, from the lock file

.venv/.stamp: requirements.txt
	@scripts/venv

engine: ## a running container engine; on Debian as root, installed and started if there is none
	@stack/bin/engine

stack: venv ## the reference stack, up and seeded (ROWS=10000, RESET=1, APP_PHASE=B: see stack/README.md)
	@stack/bin/up

demo: stack ## the whole runbook on the stack, and the path of its report
	@$(HOLD) scripts/demo

lint: venv ## yamllint, ansible-lint, ruff, mypy, shellcheck
	@scripts/lint

browser: ## a Chromium for the tests of the report; on Debian as root, installed if there is none
	@scripts/browser

clients: ## PostgreSQL's client tools, openssl and sshd; on Debian as root, installed if there are none
	@scripts/clients

# Most of a test's time passes in its server, in a program that it starts or in a wait: two of them keep a core busy.
WORKERS ?= $(shell expr 2 \* $$(nproc))

unit: stack browser clients ## the Python tests, each worker (WORKERS=4) on a Postgres of its own in memory
	@mkdir -p artifacts/junit
	$(HOLD) pytest --numprocesses=$(WORKERS) --dist=worksteal --junitxml=artifacts/junit/unit.xml --ignore=tests/faults tests/ releases/

# A guard or a safety step is taken out at a time: see docs/testing.md.
MUTATIONS ?=

mutations: stack ## each guard and safety step taken out, in a copy: a test must go red (MUTATIONS="guard.* ..." for some)
	@$(HOLD) python -m tests.mutations $(MUTATIONS)

# What `make test` runs; the others take as long again, and are run by name: SCENARIOS="restore reconcile", or SCENARIOS=all.
SCENARIOS ?= bad_input deploy

molecule: stack clients ## the Molecule scenarios of `make test` (SCENARIOS="restore ..." for others, SCENARIOS=all for all)
	@$(HOLD) scripts/molecule-all $(filter-out all,$(SCENARIOS))

faults: stack ## every row of the table in tests/faults/table.py (QUICK=1: a third of it, as `make test` does)
	@mkdir -p artifacts/junit
	$(HOLD) pytest --junitxml=artifacts/junit/faults.xml $(if $(QUICK),-m quick) tests/faults/

# The linters beside the building of the stack; what shares the stack one after the other.
test: ## everything that CI runs: lint, unit, molecule, the quick third of faults
	@$(HOLD) $(MAKE) all-of-test

all-of-test:
	@$(MAKE) --jobs=2 --output-sync=line lint stack
	@$(MAKE) unit
	@$(MAKE) molecule
	@$(MAKE) faults QUICK=1

bench: stack ## the side-by-side measurements; writes bench/results.json
	$(HOLD) python -m bench

clean: ## everything that the targets above made, gone
	@stack/bin/clean
