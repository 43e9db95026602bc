# Everything a stranger needs: `make demo` and `make test` set up their own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
SECONDS := 300

.PHONY: demo test test-long test-all check search verify lint types docs bench clean

demo: $(VENV)/.installed
	$(BIN)/secure-afl run

# Minutes. The same examples at every run, and no end that depends on time.
test: $(VENV)/.installed-dev
	$(PYTEST) -m "not long"

# Networks of real nodes, simulation engines, long runs of state machines.
test-long: $(VENV)/.installed-all
	$(PYTEST) -m long

test-all: test test-long

# While you work.
check: lint types
	$(PYTEST) -m "not slow and not long"

# Properties with random examples, for SECONDS. SEED=N does a search again; a failure prints the line that repeats it.
search: $(VENV)/.installed-dev
	seed=$${SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; \
	HYPOTHESIS_PROFILE=search $(PYTEST) -m "not long" --hypothesis-seed=$$seed --search-seconds=$(SECONDS)

# Takes hours: mutants are most of it.
verify: $(VENV)/.installed-dev
	$(BIN)/python tests/long/fuzz.py --inputs 1000000
	$(BIN)/python tests/long/explore.py --clients 4 --colluders 1 --rounds 2
	$(BIN)/python tests/long/explore.py --clients 4 --colluders 1 --replay --one-key
	$(BIN)/python tests/long/explore.py --clients 3 --rounds 2 --replay --one-key
	$(BIN)/python tests/long/explore.py --clients 6
	$(BIN)/python tests/long/explore.py --attacks
	$(BIN)/python tests/long/killed.py
	$(BIN)/python tests/long/killed_nodes.py
	$(BIN)/python tests/long/killed_superlink.py
	$(BIN)/python tests/long/disturbed.py
	$(BIN)/python tests/long/disturbed_nodes.py
	$(BIN)/python tests/long/mutants.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# The site, in build/site. A warning is an error: links, anchors, names in the reference.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.installed
	$(BIN)/secure-afl bench masking

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "secure-afl needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tables]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

# Also what is too large for a newcomer: Ray, and another library to compare with.
$(VENV)/.installed-all: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,peers,simulation]' || \
		{ echo 'RAY OR DECLEARN CANNOT BE INSTALLED HERE: their tests will say that they are skipped'; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'; }
	@touch $@ $(VENV)/.installed $(VENV)/.installed-dev

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@ $(VENV)/.installed
