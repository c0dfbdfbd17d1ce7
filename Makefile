# Every target sets up what it needs: a fresh clone and Python 3.11 or later are enough.
# PYTHON picks the interpreter the environment is made with; EXTRA passes arguments on (make bench-overhead EXTRA="--secs 2").
PYTHON ?= python3
BIN := .venv/bin
EXTRA ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo serve test check format settings bench bench-server bench-overhead soak bench-schedulers bench-engine bench-workers bench-archives bench-management sequences examples-archives quickstart digits clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# A stamp each: installing again happens only when pyproject.toml has changed.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Headrace needs Python 3.11 or later, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/installed: $(BIN)/python pyproject.toml src/headrace/version.py
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/installed-test: .venv/installed pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@# The archivers of both old servers, to test ours against. Both are the package model_archiver, so each has a place of its own.
	$(BIN)/python -m pip install --quiet --upgrade --target .venv/archivers/torch torch-model-archiver==0.12.0
	$(BIN)/python -m pip install --quiet --upgrade --target .venv/archivers/mms model-archiver==1.0.3
	@touch $@

demo: .venv/installed ## classify 360 handwritten digits over HTTP and say how well and how fast
	$(BIN)/python examples/digits/demo.py $(EXTRA)

serve: .venv/installed ## leave a server with the digits model running on 127.0.0.1:8080
	$(BIN)/headrace serve $(EXTRA)

test: check ## everything: format, lint, types, tests (the first time it makes .venv-torch and .venv-mxnet, which some handlers need: about two minutes)
	@# These are made while the tests run that need neither; those that do wait for them.
	$(BIN)/python tests/other_environments.py & $(BIN)/python -m pytest $(EXTRA); failed=$$?; wait; exit $$failed

check: .venv/installed-test ## format, lint and types only
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed-test ## rewrite the code as the format check wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

settings: .venv/installed ## write docs/settings.md and docs/metrics.md from what is declared
	$(BIN)/python -m headrace.server.options > docs/settings.md
	$(BIN)/python -m headrace.server.declared > docs/metrics.md

bench: bench-server bench-schedulers bench-engine ## all benchmarks

bench-server: .venv/installed-test ## the server beside the bare HTTP stack and the peers that are installed, with gates (about 18 minutes)
	$(BIN)/python benchmarks/server.py $(EXTRA)

soak: .venv/installed-test ## half an hour of load of all kinds: memory, descriptors and threads must not grow (EXTRA="--minutes 1")
	$(BIN)/python benchmarks/soak.py $(EXTRA)

bench-overhead: .venv/installed-test ## the short one: no-op over HTTP beside the bare HTTP stack, and any peer that is named
	$(BIN)/python benchmarks/overhead.py $(EXTRA)

bench-schedulers: .venv/installed-test ## ResNet-18 under each scheduler beside bare loops, DeepSparse and theory (about 18 minutes)
	$(BIN)/python benchmarks/schedulers.py $(EXTRA)

bench-engine: .venv/installed-test ## the engine itself beside asyncio, executors and bare threads (about 7 minutes)
	$(BIN)/python benchmarks/engine.py $(EXTRA)

bench-workers: .venv/installed-test ## worker processes: no-op over HTTP beside the peers, round trips, kills, faults (about 5 minutes)
	$(BIN)/python benchmarks/workers.py $(EXTRA)

bench-archives: .venv/installed-test ## a hundred archives with handlers, loaded and unloaded ten times: nothing may be left (about 3 minutes)
	$(BIN)/python benchmarks/archives.py $(EXTRA)

bench-management: .venv/installed-test ## models that come and go beside ResNet-18, versions exchanged, kills, lists of 1,000 (about 7 minutes)
	$(BIN)/python benchmarks/management.py $(EXTRA)

sequences: .venv/installed ## hundreds of requests from one thread: completion order against submission order
	$(BIN)/python -m pip install --quiet --editable '.[examples]'
	$(BIN)/python examples/sequences/in_completion_order.py --plot examples/sequences/latency.png $(EXTRA)

quickstart: .venv/installed ## docs/quickstart.md, command by command: two models, one of them while the server serves
	$(BIN)/python -m pip install --quiet --editable '.[examples]'
	$(BIN)/python examples/quickstart/run.py

examples-archives: .venv/installed ## three archives made by the old servers' own tools, each served with a picture sent by curl
	$(BIN)/python examples/archives/mms/serve_mms.py
	$(BIN)/python examples/archives/torchserve/serve_torchserve.py
	$(BIN)/python examples/archives/gluon/serve_gluon.py

digits: .venv/installed-test ## train the digits model again (installs torch and scikit-learn)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet scikit-learn
	$(BIN)/python examples/digits/train.py $(EXTRA)

clean: ## remove the environment and caches
	rm -rf .venv .venv-torch .venv-mxnet .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find src tests benchmarks examples -name __pycache__ -type d -exec rm -rf {} +
