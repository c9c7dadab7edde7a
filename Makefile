# Everything runs in .venv, what needs vLLM in .venv-vllm; `make help` lists the targets.
#
#   make setup PYTHON=/path/to/python3.12      when the Python found first is not the one to use

CANDIDATES = $(if $(PYTHON),$(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
BIN = .venv/bin
VLLM_BIN = .venv-vllm/bin
INSTALL = python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-vllm chaos lint docs bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: .venv/installed ## create .venv with everything demo and test need; safe to repeat, quick when nothing changed
	@$(BIN)/python -m fleet.stack.neo4j_server --fetch
	@$(BIN)/fleet models fetch

demo: setup ## run a real plan through a real language model on an embedded fleet, show what came of it, stop everything
	@$(BIN)/fleet demo

test: setup lint ## lint, types, import contracts and every test that needs no GPU and no vLLM
	$(BIN)/pytest -n 2 --dist loadfile

test-fast: setup lint ## lint, types, import contracts, unit and contract tests
	$(BIN)/pytest tests/unit tests/contract

test-vllm: .venv-vllm/installed ## the tests of the GPU workers, on vLLM's build for processors; 6.5 GB in .venv-vllm the first time
	@$(VLLM_BIN)/python -m fleet.stack.neo4j_server --fetch
	@$(VLLM_BIN)/fleet models fetch
	@$(VLLM_BIN)/python -m workers.gpu.smollm2
	$(VLLM_BIN)/pytest tests/vllm

chaos: setup ## N=10000 SEED=1 RATE=15 GAP=12: a fleet under load while everything in it is killed, stopped and misled; audits every deliberation
	@$(BIN)/python -m tests.chaos $(if $(N),--deliberations $(N)) $(if $(SEED),--seed $(SEED)) \
	    $(if $(RATE),--rate $(RATE)) $(if $(GAP),--gap $(GAP))

lint: .venv/installed ## lint, types and import contracts alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed ## write docs/reference from the code
	$(BIN)/python -m docs.generate

bench: setup $(if $(filter gpu_worker,$(NAME)),.venv-vllm/installed) ## NAME=...: one benchmark of benchmarks/, its table printed and its rows in benchmarks/results/NAME.json
	@test -n "$(NAME)" || { echo "which one? make bench NAME=..." >&2; exit 2; }
	@$(if $(filter gpu_worker,$(NAME)),$(VLLM_BIN),$(BIN))/python -m benchmarks.$(NAME)

define create-venv
	@for python in $(CANDIDATES); do \
	    "$$python" -c '$(NEW_ENOUGH)' 2>/dev/null && break; \
	    python=; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "Fleet needs Python 3.11 or newer; none among: $(CANDIDATES). Name one: make setup PYTHON=..." >&2; \
	    exit 1; \
	fi; \
	echo "creating $(@D) with $$($$python --version), a few minutes"; \
	"$$python" -m venv $(@D)
endef

# Made again whenever the dependencies change. The touch comes last, so what was cut off is done again.
.venv/installed: pyproject.toml constraints.txt
	$(create-venv)
	@PYTHONWARNINGS=ignore $(BIN)/$(INSTALL) -c constraints.txt -e '.[local,stack,dev]'
	@touch $@

# constraints-vllm.txt says why without dependencies; fleet's own are all among them, which a test checks.
.venv-vllm/installed: pyproject.toml constraints-vllm.txt
	$(create-venv)
	@$(VLLM_BIN)/$(INSTALL) --no-deps -r constraints-vllm.txt
	@PYTHONWARNINGS=ignore $(VLLM_BIN)/$(INSTALL) --no-deps -e .
	@touch $@
