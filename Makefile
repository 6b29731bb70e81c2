# Lethe. `make` alone lists the targets.
#
# PYTHON       interpreter for the virtual environment (3.11 or 3.12)
# TORCH_INDEX  package index to take torch and torchvision from, e.g. one that holds CPU builds;
#              empty: the default index
# ARGS         extra arguments of the command behind a target
# STEPS        random steps of `make stateful`, on each database
PYTHON      ?= python3
TORCH_INDEX ?=
VENV        ?= .venv
ARGS        ?=
STEPS       ?= 10000
BIN         := $(VENV)/bin
PIP         := $(BIN)/python -m pip --disable-pip-version-check install --quiet
TORCH       := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements/torch.txt
FAILED      := { echo "Lethe could not install its dependencies; the reason is above. Check the network and the package index (PIP_INDEX_URL, TORCH_INDEX), then run the same command again." >&2; exit 1; }
LOCK        := UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile --quiet --universal --python-version 3.11 \
               --generate-hashes --no-annotate $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help install libraries demo serve secrets test mutants faults fuzz stateful check contract bench lock sbom images clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The service. torch comes first, from its own index and without what it needs; that is locked with all the rest. The
# last step adds the libraries of a CUDA build, whose versions torch itself fixes; a CPU build needs none.
$(VENV)/.service: pyproject.toml hatch_build.py requirements/service.txt requirements/torch.txt
	@$(PYTHON) -c 'import sys; sys.exit("Lethe needs Python 3.11 or 3.12, not %d.%d; set PYTHON=" % sys.version_info[:2] if sys.version_info[:2] not in ((3, 11), (3, 12)) else 0)'
	$(PYTHON) -m venv $(VENV)
	@$(PIP) --no-deps $(TORCH) || $(FAILED)
	@$(PIP) --require-hashes -r requirements/service.txt || $(FAILED)
	@$(PIP) $(TORCH) || $(FAILED)
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

# The tools of checks and tests, on top of it.
$(VENV)/.dev: $(VENV)/.service requirements/dev.txt
	@$(PIP) --require-hashes -r requirements/dev.txt || $(FAILED)
	@touch $@

install: $(VENV)/.dev  ## make the virtual environment from locked versions

demo: $(VENV)/.service  ## the main job from start to end, on this machine
	$(BIN)/lethe demo $(ARGS)

serve: $(VENV)/.service  ## the service on its embedded defaults, in ./lethe-data
	$(BIN)/lethe serve $(ARGS)

secrets:  ## the secrets of docker-compose.yml, in ./secrets; what is there stays
	deploy/secrets.sh secrets

libraries: $(VENV)/.service requirements/libraries.txt  ## timm and transformers, for models of theirs
	@$(PIP) --no-deps --require-hashes -r requirements/libraries.txt || $(FAILED)

test: $(VENV)/.dev  ## the tests, in three processes; slow tests and tests without a server are skipped and listed
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

mutants: $(VENV)/.dev  ## remove each named guard in a copy and check that a named test fails
	$(BIN)/python -m tests.mutants $(ARGS)

faults: $(VENV)/.dev  ## break a running service at random and check that nothing is lost; half an hour
	$(BIN)/python -m faults $(ARGS)

fuzz: $(VENV)/.dev requirements/fuzz.txt  ## fuzz every parser of what clients send; hours, ARGS="--runs N" takes fewer
	@$(PIP) --no-deps --require-hashes -r requirements/fuzz.txt || $(FAILED)
	$(BIN)/python -m tests.fuzz $(ARGS)

stateful: $(VENV)/.dev  ## hold the API to a model of it, in STEPS random steps
	LETHE_TEST_STEPS=$(STEPS) $(BIN)/python -m pytest -n 0 --timeout 0 tests/app/test_stateful.py $(ARGS)

check: $(VENV)/.dev  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

contract: $(VENV)/.dev  ## compare a running API with its OpenAPI document; takes minutes
	$(BIN)/python -m tests.contract $(ARGS)

bench: $(VENV)/.dev  ## measure what docs/results.md says about speed
	$(BIN)/python -m benchmarks $(ARGS)

# For Python 3.11 and later and every platform; kept versions stay, ARGS=--upgrade takes new ones. It needs uv.
lock:  ## lock the dependencies again, with hashes
	$(LOCK) pyproject.toml requirements/api.in -o requirements/api.txt
	$(LOCK) pyproject.toml requirements/service.in -c requirements/api.txt -o requirements/service.txt
	$(LOCK) pyproject.toml requirements/dev.in -c requirements/service.txt -o requirements/dev.txt
	$(LOCK) --no-deps requirements/libraries.in -c requirements/service.txt -o requirements/libraries.txt

sbom:  ## what the images hold, as CycloneDX, in ./build
	mkdir -p build
	$(PYTHON) deploy/sbom.py lethe-api requirements/api.txt > build/lethe-api.cdx.json
	$(PYTHON) deploy/sbom.py lethe-worker requirements/service.txt requirements/torch.txt > build/lethe-worker.cdx.json

images: $(VENV)/.dev  ## the Dockerfile's steps in a bare Debian, and what they make on a read-only root; needs root
	$(BIN)/python -m tests.images $(ARGS)

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
