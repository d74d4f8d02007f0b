# Verbs only. `make demo` and `make test` set up all they need by themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DISTS  := core $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
export VENV

.PHONY: help env demo test test-fast coverage check docs bench faults wheels image binary clean
help:
	@echo "make demo       start a control plane, an agent and one desktop session (DEMO_ONCE=1: run through once and exit)"
	@echo "make test       set up engine, Redis and images, and run the whole suite"
	@echo "make test-fast  the tests of the logic alone: no engine, no servers, a minute"
	@echo "make coverage   the whole suite once more, measured: fails below the floor in pyproject.toml"
	@echo "make check      ruff, the layers of imports, and mypy --strict over the product"
	@echo "make docs       the documentation's site, build/docs/index.html; a broken link or an unknown name is an error"
	@echo "make bench      every benchmark; each ends with one line of JSON"
	@echo "make faults     kills, cuts and freezes on three replicas of each backend (ROUNDS=50); ends with one line of JSON"
	@echo "make wheels     every distribution, into dist/, for pip install dist/NAME-*.whl"
	@echo "make image      the agent's image, streamspace/docker-agent, for the files in deployments/"
	@echo "make binary     the agent as one file, dist/docker-agent, for systemd"
	@echo "make clean      stop the private engine, and remove it and $(VENV)"

env: $(BIN)/.ready
$(BIN)/.ready: pyproject.toml constraints.txt $(addsuffix /pyproject.toml,$(DISTS))
	@PYTHON=$(PYTHON) sh lab/env.sh $(DISTS)
	@touch $@

demo: env
	@$(BIN)/python -m lab.demo

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy lab $(addsuffix /src,$(DISTS))

docs: env
	@$(BIN)/python -m sphinx -E -q -W --keep-going -d build/doctrees -c docs . build/docs
	@echo "build/docs/index.html"

test: env
	$(BIN)/python -m lab test $(PYTEST_ARGS)

# What is neither marked `slow` nor, by its fixtures, `live` (conftest.py).
test-fast: env
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n auto -q -m "not live and not slow and not hosts" \
	  tests/core tests/docs plugins $(PYTEST_ARGS)

# Whether tests pass is for `make test` to say: those of processor time fail where every line is traced.
coverage: env
	@$(BIN)/coverage erase
	-$(BIN)/coverage run -m lab test $(PYTEST_ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --skip-covered

# ROUNDS rounds a backend (50), BACKENDS=file,redis,swarm; takes the better part of an hour.
faults: env
	@$(BIN)/python -m lab faults

bench: bench-sessions bench-footprint bench-standby bench-tunnel bench-failover bench-gateway
bench-%: env
	$(BIN)/python -m lab bench $*

wheels: env
	@rm -rf dist/*.whl $(addsuffix /build,$(DISTS)) # what was deleted since would be packed again
	@$(BIN)/python -m pip --quiet --disable-pip-version-check wheel --no-deps --no-build-isolation --wheel-dir dist $(addprefix ./,$(DISTS))
	@rm -rf $(addsuffix /build,$(DISTS))
	@ls dist/*.whl

image: env
	@$(BIN)/python -m lab agent-image

binary: env
	@$(BIN)/python -m lab binary

# Stops the private engine and forgets its images; the next `make test` builds them anew.
clean:
	$(PYTHON) -m lab clean
	rm -rf $(VENV)
