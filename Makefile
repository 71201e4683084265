.PHONY: help setup setup-dev run test check fuzz bench clean
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup:  ## set up all that running needs (Debian's packages, .venv, the BPF program)
	@deploy/setup.sh

setup-dev:  ## set up also what tests, checks and benchmarks need
	@deploy/setup.sh dev

run: setup  ## start agent and server on this machine; prints one URL
	@exec .venv/bin/pilotlight run $(ARGS)

test: setup-dev  ## run all tests (as root: they sample this machine)
	$(PYTHON) -m pytest $(ARGS)

check: setup-dev  ## lint, format and type checks
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	clang-format --dry-run -Werror profiler/bpf/*.[ch] bench/*.bpf.c tests/replay/*.c
	$(PYTHON) -m mypy

fuzz: setup-dev  ## fuzz what reads other people's files, for SECONDS of CPU time (600)
	$(PYTHON) -m tests.fuzz $(or $(SECONDS),600) $(ARGS)

bench: setup-dev  ## the benchmarks, each a ratio against a peer in the same run
	@for script in bench/*.py; do echo "== $$script"; $(PYTHON) $$script || exit 1; done

clean:  ## remove what setup and builds made
	rm -rf .venv build dist *.egg-info profiler/bpf/*.o .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
