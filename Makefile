# Two commands matter: `make demo` and `make test`. Each sets up what it needs, once.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
KEEP_UP ?= 1
BIN := $(VENV)/bin
UV := $(BIN)/uv
STAMP := $(VENV)/.installed
# A folder of wheels that pip is configured with (`pip config set global.find-links …`) serves uv too.
FIND_LINKS := $(shell $(PYTHON) -m pip config list 2>/dev/null | sed -n "s/.*find-links='\([^']*\)'/\1/p" | head -n 1)
export UV_FIND_LINKS ?= $(FIND_LINKS)
export PYTHONUNBUFFERED := 1

.PHONY: help demo test test-faults train-check lint bench bench-chain lock env clean
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: $(STAMP) ## build a dataset from Common Crawl's format through a real Airflow, offline, and show it (KEEP_UP=0: then exit)
	@$(BIN)/wat2mds demo $(if $(filter 0,$(KEEP_UP)),--no-keep-up,--keep-up)

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder $(PYTEST_ARGS)

test-faults: $(STAMP) ## kill, freeze and starve a distributed Airflow as it builds, in sixteen ways (half an hour); needs Debian's postgresql, redis-server and gcc, and root to fill a disk
	FAULTS=all $(BIN)/python -m pytest tests/dags/test_faults_live.py $(PYTEST_ARGS)

train-check: $(STAMP) ## train a small CLIP on the demo world's filtered pairs, unfiltered ones and shuffled captions; compare them
	$(BIN)/wat2mds train-check --demo .wat2mds/train-check

lint: $(STAMP) ## ruff, the type checker, the Docker files' own checkers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/shellcheck docker/*.sh .ci/run
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	$(BIN)/check-jsonschema --schemafile tests/deploy/airflow_chart_values.schema.json docker/helm-values.yaml

bench: $(STAMP) ## extract beside cc2dataset, download beside img2dataset, convert beside streaming's LAION converter, filter beside clip-retrieval, language beside fastText, subsets beside converting anew, a takedown's list against published rows, a kNN index of a million vectors (20 minutes on two idle cores), training on filtered beside unfiltered pairs, on the real data of ../shared
	$(BIN)/python -m tests.benchmarks.extract
	$(BIN)/python -m tests.benchmarks.download
	$(BIN)/python -m tests.benchmarks.convert
	$(BIN)/python -m tests.benchmarks.clip
	$(BIN)/python -m tests.benchmarks.language
	$(BIN)/python -m tests.benchmarks.subsets
	$(BIN)/python -m tests.benchmarks.takedown
	$(BIN)/python -m tests.benchmarks.search_index
	$(BIN)/python -m tests.benchmarks.train_check

bench-chain: $(STAMP) ## the whole chain from WAT files to MDS: through Airflow, by the command line, and cc2dataset, img2dataset, clip-retrieval and streaming's converter chained by a script, on the real photographs of ../shared (ten minutes on two idle cores)
	$(BIN)/python -m tests.benchmarks.chain $(BENCH_ARGS)

lock: $(UV) ## make requirements.txt anew from pyproject.toml (torch's CUDA packages stay out: the file serves CPU and GPU machines)
	UV_FIND_LINKS= $(UV) pip compile pyproject.toml --extra dev --python-version 3.11 --no-header --no-annotate --quiet $(UPGRADE) \
	  $(foreach p,$(CUDA_PACKAGES),--no-emit-package $(p)) --output-file requirements.txt
CUDA_PACKAGES := triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc nvidia-cuda-runtime \
  nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 \
  nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx

env: $(STAMP) ## only set up the environment in .venv

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "wat2mds needs Python 3.11; $(PYTHON) is another. Install it, or say where it is: make PYTHON=/path/to/python3.11"; exit 78; }
	$(PYTHON) -m venv $(VENV)
	docker/install.sh uv $(BIN)/python

# Installed anew only when the lock, the package's metadata or the steps changed; the image is made by the same steps.
$(STAMP): requirements.txt pyproject.toml docker/install.sh | $(UV)
	@echo 'Setting up $(VENV): about 300 packages, 3 GB; a few minutes the first time.'
	docker/install.sh dependencies $(BIN)/python --quiet
	docker/install.sh package $(BIN)/python --quiet
	@touch $(STAMP)

clean: ## remove the environment and what demo and tests left
	rm -rf $(VENV) .wat2mds .pytest_cache .ruff_cache .mypy_cache .hypothesis
