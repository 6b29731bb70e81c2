# Lethe. `make` alone lists the targets.
#
# PYTHON       interpreter for the virtual environment (3.11 or 3.12)
# TORCH_INDEX  package index to take torch and torchvision from, e.g. one that holds CPU builds;
#              empty: the default index
# ARGS         extra arguments of the command behind a target
PYTHON      ?= python3
TORCH_INDEX ?=
VENV        ?= .venv
ARGS        ?=
BIN         := $(VENV)/bin
PIP         := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install demo serve test check contract bench clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Lethe needs Python 3.11 or 3.12, not %d.%d; set PYTHON=" % sys.version_info[:2] if sys.version_info[:2] not in ((3, 11), (3, 12)) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt --no-deps torchvision
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/.installed  ## make the virtual environment from pinned versions

demo: install  ## the main job, end to end, on this machine
	$(BIN)/lethe demo $(ARGS)

serve: install  ## the service on its embedded defaults, in ./lethe-data
	$(BIN)/lethe serve $(ARGS)

test: install  ## the tests, three files at a time; what needs a server that is not there, or takes long, is left out and named
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: install  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

contract: install  ## hold the API to its OpenAPI document; minutes
	$(BIN)/python -m tests.contract $(ARGS)

bench: install  ## measure what benchmarks/ claims
	$(BIN)/python -m benchmarks $(ARGS)

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
