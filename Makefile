# The commands of the house. `make up` and `make test` work on a fresh clone and need nothing before them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
ARGS ?=

.PHONY: help install up down test unit e2e nightly lint format types proto docs deploy lock sbom

help:  ## this list
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

install:  ## make .venv (quick when nothing changed)
	@requirements/install.sh

up: install  ## start a cluster: make up [MODEL=id-or-folder] [INSTANCES=2] [ARGS='--any.key value']
	@$(BIN)/shoal up $(if $(MODEL),--model $(MODEL)) $(if $(INSTANCES),--instances $(INSTANCES)) $(ARGS)

down: install  ## stop it and leave nothing behind
	@$(BIN)/shoal down

test: unit e2e  ## all tests but the large counts of `make nightly`

unit: install  ## tests without the shared real cluster
	tests/unit.sh $(ARGS)

e2e: install  ## tests against one real cluster that they share
	@if [ -n "$$(find tests/e2e -name 'test_*.py' 2>/dev/null)" ]; then $(PYTEST) tests/e2e $(ARGS); fi

nightly: install  ## everything, with large counts
	SHOAL_NIGHTLY=1 $(PYTEST) tests -m "slow or not slow" --timeout 3600 $(ARGS)

lint: install  ## ruff: rules and layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install  ## ruff: mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy must see the folders under their import name; setuptools' mapping is run-time only, so a tree of links says it again.
types: install  ## mypy, strict for proto/, router/ and cluster/
	@rm -rf build/types && mkdir -p build/types/shoal
	@for part in proto router instance cluster bench; do ln -s ../../../$$part build/types/shoal/$$part; done
	MYPYPATH=build/types $(BIN)/mypy -p shoal.proto -p shoal.router -p shoal.cluster

proto: install  ## regenerate proto/v1 from the .proto files
	proto/generate.sh

docs: install  ## regenerate the tables in docs/ that come from code
	$(BIN)/python docs/config_table.py

deploy: install  ## regenerate what the chart, the dashboards and the alerts take from code
	$(BIN)/python deploy/values_schema.py
	$(BIN)/python deploy/monitoring/generate.py

sbom: install  ## bill of materials and lock with hashes, for a release, into build/release
	requirements/sbom.sh

lock: ## resolve all dependencies anew into requirements/constraints.txt
	requirements/lock.sh
