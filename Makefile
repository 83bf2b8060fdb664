# `make demo` and `make test` are all a fresh machine with Python 3.11+ needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# a command that is silent for minutes: meanwhile a line every few seconds
SAYING := $(PYTHON) scripts/saying.py

# some images set it: every process would then compile all of torch and transformers again, 10 seconds each
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo fetched test test-slow test-gpu check docs notebook dist bench clean
# tests that share what takes long to make go to one process (`xdist_group`); what took longest is said at the end
PYTEST := HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist loadgroup --durations 20 --durations-min 5

install: $(READY)

# what is never imported needs no bytecode: half of the seconds that installing takes
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lowrise needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(SAYING) $(BIN)/pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/python scripts/demo.py

test: $(READY)
	$(PYTEST) -m 'not slow and not gpu and not network'

# what slow tests need from outside
fetched: $(READY)
	$(BIN)/python scripts/fetch_demo_model.py
	$(BIN)/python scripts/fetch_gemma_model.py
	$(BIN)/python scripts/transformers4.py
	$(BIN)/python scripts/versions.py
	$(BIN)/python scripts/llama_cpp.py

test-slow: $(VENV)/.docs fetched
	$(PYTEST) -m 'slow and not gpu and not network'

# needs an accelerator that torch sees
test-gpu: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m gpu

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/reference.py --check
	$(BIN)/python scripts/estimates.py --check
	$(BIN)/python scripts/results.py --check
	$(BIN)/python scripts/engine_facts.py --check

# what the site is built with is no part of the usual environment
$(VENV)/.docs: $(READY)
	$(BIN)/pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

# into site/, from pages and docstrings alone: links are checked, and nothing is fetched
docs: $(VENV)/.docs
	$(BIN)/python scripts/reference.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'site/index.html is built; with search: $(BIN)/python -m http.server --directory site'

# runs docs/notebooks/quickstart.ipynb on the demo model, and keeps what it shows
notebook: $(VENV)/.docs
	$(BIN)/python scripts/notebook.py

# wheel and sdist into dist/, each installed in an empty environment and run
dist: $(READY)
	$(BIN)/python scripts/dist.py

# tables of all benchmarks that take minutes, into benchmarks/all.md
bench: $(READY)
	$(BIN)/python scripts/fetch_demo_model.py
	$(BIN)/python scripts/bench.py

clean:
	rm -rf $(VENV) .demo .transformers4 .versions .engines .llama-cpp build dist site .pytest_cache .mypy_cache .ruff_cache
