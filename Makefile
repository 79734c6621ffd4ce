# Two commands on a machine that has Python 3.11 or newer, git and make:
#   make demo    sets up and runs the main job on real images, offline
#   make test    sets up and runs the checks and the tests
# Nothing needs to be activated; everything is installed into .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/.core
	$(BIN)/regraft demo

test: $(VENV)/.dev lint
	$(BIN)/pytest -n 2 --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable .
	@touch $@

# compiled once, as the tests start hundreds of processes; a file for a newer Python does not compile, which is no matter
$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
