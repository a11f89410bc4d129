# All commands of this repository. `make` alone lists them.
SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
LOCK := requirements.lock

# Test processes: two for each core, as tests also wait; at most four, as each one starts servers.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN | awk '{ n = $$1 * 2; print (n > 4 ? 4 : n) }')
# `make test TESTS="tests/ledger -k lease"` runs a part of the suite.
TESTS ?=
# `make dev MODULE=my_agents.support` serves the skills of another module.
MODULE ?= examples.librarian
# Duration of `make chaos`; its seed, and that of `make races` and `make mutations` (default: a new one).
SECONDS ?= 600
SEED ?=
# Size of `make endurance`.
STEPS ?= 1000
KILLS ?= 50
# Arguments passed on by `make bench`, `make chaos`, `make races`, `make sessions`, `make mutations`
# and `make lock`.
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo dev check lint format types layers test thorough chaos sessions endurance races mutations helm-test profiles bench bench-search bench-peers build lock generate verify clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- the two commands -------------------------------------------------------------------------

demo: $(STAMP) ## Run the librarian on a folder: make demo FOLDER=/some/folder (default: this one)
	@$(PY) -m examples.demo --folder "$${FOLDER:-.}"

# Tests of one xdist group share a process, so a costly fixture is made once. Bytecode is written
# in any case: the tests start some hundred processes, and each would compile all packages anew.
test: $(STAMP) ## Run the whole test suite, or a part: make test TESTS="tests/ledger -k lease"
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m pytest -n $(JOBS) --dist loadgroup $(TESTS)

# More examples, longer rounds, larger amounts and all install profiles. The tests do not run twice:
# `make test` has the short forms of the same tests.
thorough: $(STAMP) ## Run the thorough forms of tests that `make test` runs in a short form
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m pytest -n $(JOBS) --dist loadgroup -m thorough $(TESTS)

# --- work on the code -------------------------------------------------------------------------

install: $(STAMP) ## Create .venv with the locked dependencies and the project (editable)

dev: $(STAMP) ## Valkey, a reloading worker and Flower in one terminal
	@$(VENV)/bin/skillfleet dev $(MODULE)

check: lint types layers ## Lint, types and import contracts: must pass before a commit

lint: $(STAMP) ## Style, common mistakes and formatting (ruff)
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check

format: $(STAMP) ## Let ruff fix and format what it can
	@$(PY) -m ruff check --fix
	@$(PY) -m ruff format

types: $(STAMP) ## Types of the packages, the tests and the examples (mypy, strict)
	@$(PY) -m mypy

layers: $(STAMP) ## Imports between packages only point down (import-linter)
	@$(VENV)/bin/lint-imports

# Prints its schedule of faults and its seed; SEED=... plays the same schedule again.
chaos: $(STAMP) ## Inject faults while runs execute: make chaos SECONDS=600 SEED=7
	@$(PY) -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

sessions: $(STAMP) ## Kill workers while 50 producers fill 20 sessions with 1000 runs
	@$(PY) -m tests.chaos.sessions $(ARGS)

races: $(STAMP) ## Race answers against parking, time-outs, cancellation and drain: make races SEED=7
	@$(PY) -m tests.ledger.races $(if $(SEED),--seed $(SEED)) $(ARGS)

# All take an hour; ARGS=--missing plays those of changed lines, ARGS=--draw=12 a random dozen.
mutations: $(STAMP) ## Mutate the ledger's scripts one line at a time: does a test fail?
	@$(PY) -m tests.mutations $(if $(SEED),--seed $(SEED)) $(ARGS)

# The worker is killed KILLS times while a run makes STEPS model calls as steps.
endurance: $(STAMP) ## The unkillable agent: make endurance STEPS=1000 KILLS=50 SEED=7
	@$(PY) -m tests.endurance --steps $(STEPS) --kills $(KILLS) $(if $(SEED),--seed $(SEED)) $(ARGS)

helm-test: $(STAMP) ## The chart, the manifests and their containers as processes
	@$(PY) -m pytest tests/helm -n $(JOBS) --dist loadgroup

profiles: $(STAMP) ## Build the wheel and test each install profile
	@$(PY) -m pytest -m packaging

bench: $(STAMP) ## Measure skillfleet and plain Celery; JSON in out/
	@$(PY) -m benchmarks --systems skillfleet,skillfleet-quiet,skillfleet-traced,celery-threads --sleepers 500 $(ARGS)

bench-search: $(STAMP) ## Measure the search of runs in a small and in a large ledger
	@$(PY) -m benchmarks.search $(ARGS)

BENCH_RESULTS := benchmarks/results/peers.json

bench-peers: $(STAMP) ## Measure skillfleet and all its peers; renews docs/performance.md
	@$(PY) -m benchmarks.venvs
	@$(PY) -m benchmarks --systems all --page --output $(BENCH_RESULTS) $(ARGS)

build: $(STAMP) ## Source archive and wheel in dist/
	@$(PY) -m hatchling build --clean

# --- upkeep -----------------------------------------------------------------------------------

UV_COMPILE := $(PY) -m uv --quiet pip compile pyproject.toml --universal --generate-hashes \
  --all-extras $(addprefix --group ,build tests deploy quality) --no-header --no-annotate

lock: $(STAMP) $(VENV)/bin/uv ## Renew the locks: make lock ARGS=--upgrade
	@$(UV_COMPILE) $(ARGS) --output-file $(LOCK)
	@$(MAKE) --no-print-directory install
	@$(PY) -m deploy.image_lock

generate: $(STAMP) ## Write all generated files: image locks, manifests, Redis users, tables of values and settings
	@$(PY) -m deploy.image_lock
	@$(PY) -m deploy.render
	@$(PY) -m deploy.redis_users
	@$(PY) -m deploy.chart_readme
	@$(PY) -m deploy.settings_page

verify: $(STAMP) $(VENV)/bin/uv ## Check that generated files and the lock follow their sources
	@cp $(LOCK) $(VENV)/expected.lock
	@$(UV_COMPILE) --output-file $(VENV)/expected.lock
	@diff -u $(LOCK) $(VENV)/expected.lock || { echo "requirements.lock is stale: make lock" >&2; exit 1; }
	@$(PY) -m deploy.image_lock --check
	@$(PY) -m deploy.render --check
	@$(PY) -m deploy.redis_users --check
	@$(PY) -m deploy.chart_readme --check
	@$(PY) -m deploy.settings_page --check

clean: ## Remove build results and caches; .venv stays
	@rm -rf build dist out .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# --- creation of .venv -------------------------------------------------------------------------

# Up to 3.14 every locked package has a wheel; a newer python3 is the last choice.
PYTHONS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)

define find_python
for python in $(PYTHONS); do \
  "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' \
    2>/dev/null && break; \
  python=; \
done; \
[ -n "$$python" ] || { python=$(firstword $(PYTHONS)); \
  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || python=; }; \
[ -n "$$python" ] || { \
  echo "skillfleet needs Python 3.11 or newer; looked for: $(PYTHONS)" >&2; \
  echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
endef

# A .venv without pip, or whose Python is too old or missing, is created again.
define make_venv
if ! $(PY) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
  $(find_python); \
  echo "Creating $(VENV) with $$("$$python" --version)"; \
  "$$python" -c 'import venv, ensurepip' 2>/dev/null && "$$python" -m venv --clear $(VENV) || { \
    echo "$$python cannot create virtual environments: its venv or ensurepip is missing." >&2; \
    echo "On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }; \
fi
endef

# The stamp comes last: the next call repeats an interrupted installation.
$(STAMP): $(LOCK) pyproject.toml
	@rm -f $@
	@$(make_venv)
	@echo "Installing the locked dependencies into $(VENV) (about half a minute)"
	@$(PIP) install --quiet --require-hashes --requirement $(LOCK)
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/bin/uv: $(STAMP)
	@$(PIP) install --quiet uv
	@touch $@
