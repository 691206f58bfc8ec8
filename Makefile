# The only thing a machine must have is Python 3.11, 3.12 or 3.13 (and make). Everything else comes as pinned packages into .venv.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup up down demo test check bench sbom audit

PYTHON := $(firstword $(foreach name,python3.11 python3.12 python3.13 python3 python,$(shell \
	$(name) -c 'import sys; print(sys.executable if (3, 11) <= sys.version_info < (3, 14) else "")' 2>/dev/null)))
UV := $(firstword $(shell command -v uv) .uv/bin/uv)
RUN := .venv/bin
# Extra arguments of `make test`, for example: make test ARGS="-k as_of"
ARGS ?=
# The world of `make demo`, where several have a demo: a folder of simulator/.
DEMO ?=

# The Python of this machine is used, none is downloaded.
export UV_PYTHON_DOWNLOADS := never
export UV_HTTP_TIMEOUT := 180
# Container images often set this; each start of a program would take twice as long.
unexport PYTHONDONTWRITEBYTECODE
# Another environment that happens to be active is not touched.
unexport VIRTUAL_ENV

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

setup: $(UV) ## Install everything into .venv (the other targets do it themselves)
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 found. Install one, then run make again." >&2; exit 1; }
	@for attempt in 1 2 3; do \
		"$(UV)" sync --frozen --quiet --python "$(PYTHON)" && \
			$(RUN)/python -m pipeline_assets.processing.cleaning.manifest && exit 0; \
		echo "Installing the packages failed (attempt $$attempt of 3)." >&2; \
	done; \
	echo "Run make again: what was downloaded is kept." >&2; exit 1

.uv/bin/uv:
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 found. Install one, then run make again." >&2; exit 1; }
	@echo "Installing uv into .uv …"
	@rm -rf .uv
	@for attempt in 1 2 3; do \
		if "$(PYTHON)" -m venv .uv >/dev/null 2>&1; then install=".uv/bin/python -m pip install"; \
		elif "$(PYTHON)" -m pip --version >/dev/null 2>&1; then install="$(PYTHON) -m pip install --target .uv"; \
		else echo "$(PYTHON) has neither venv nor pip. Install them (on Debian: the package python3-venv), or install uv." >&2; exit 1; fi; \
		$$install --quiet --require-hashes -r tools/uv.txt && test -x .uv/bin/uv && exit 0; \
		echo "Installing uv failed (attempt $$attempt of 3)." >&2; rm -rf .uv; \
	done; exit 1

up: setup ## Start the services on this machine and wait until they work
	@$(RUN)/pipeline up

down: ## Stop the services; their data stays
	@if test -x $(RUN)/pipeline; then $(RUN)/pipeline down; fi

demo: setup ## Build the whole asset graph of a use case from its simulated world, and print what came out
	@$(RUN)/pipeline demo $(DEMO)

test: setup ## Run all tests, against real services of their own
	@$(RUN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup ## Check format, lint, types, architecture and the lock file
	$(RUN)/ruff format --check
	$(RUN)/ruff check
	$(RUN)/mypy
	$(RUN)/python -m pytest -q pipeline_assets_tests/architecture
	"$(UV)" lock --check

bench: setup ## Measure, each against a peer
	@for bench in benchmarks/*.py; do echo "== $$bench"; $(RUN)/python "$$bench" || exit 1; done

sbom: setup ## List all wheels and jars with their hashes, as CycloneDX, in sbom.cdx.json
	@$(RUN)/python tools/sbom.py --uv "$(UV)"

audit: sbom ## Ask the OSV database for known weaknesses of these
	@$(RUN)/python tools/audit.py
