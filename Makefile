# Every target needs only Python >= 3.10: `make setup` installs everything else, once, and runs before the others.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BIOME := @biomejs/biome@2.2.4

.PHONY: setup app test check bench clients format clean
setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(STAMP)

app: setup
	$(BIN)/sparserm app --port 8501

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if command -v npx >/dev/null; then npx --yes $(BIOME) check sparserm/ui; \
	else echo "Skipped Biome, the check of CSS and JavaScript: npx is not installed."; fi
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Takes minutes: each client gets an environment of its own in .clients, and docs/compatibility.md is written.
clients: setup
	$(BIN)/python -m clients

# Takes hours on two cores. `benchmarks.tuning` and `benchmarks.precision` are run separately, to make
# choices again, and so are `benchmarks.dictionaries` and `benchmarks.labels`, whose labels somebody has to write.
bench: setup
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.app
	$(BIN)/python -m benchmarks.heads
	$(BIN)/python -m benchmarks.length
	$(BIN)/python -m benchmarks.faithfulness
	$(BIN)/python -m benchmarks.explanations
	$(BIN)/python -m benchmarks.planted
	$(BIN)/python -m benchmarks.insights
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.quality rankers costs frozen full lora
	$(BIN)/python -m benchmarks.shift
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.server
	$(BIN)/python -m benchmarks.alignment
	$(BIN)/python -m benchmarks.retraining
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.billion
	$(BIN)/python -m benchmarks.readme

clean:
	rm -rf $(VENV) .clients build dist .mypy_cache .ruff_cache .pytest_cache
