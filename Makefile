# make setup   a virtual environment in .venv with everything installed (again only when the requirements change)
# make demo    one picture to a 3D object with the embedded models: no GPU, no downloads beyond wheels
# make demo-text   a sentence to a textured mesh in three stages; PROMPT="a teal owl" for another one
# make demo-full   one picture to a textured mesh through every stage; PICTURE=my.png for another one
# make full-size   the real models' true sizes in every published layout, two training steps (docs/real-models.md)
# make claims  every claim of the paper against ground truth (docs/claims.md): hours, and the same call goes on
# make docs    the documentation site, outputs/docs/index.html
# make style   the numbers that tell how the code reads, beside their limits
# make test    lint, formatting, types, tests; make test-slow runs those that take minutes (a Ray cluster, a compiled UNet)
#
# On Linux the default torch wheel brings CUDA along (about 3 GB). Without a GPU a smaller one does:
#   make setup PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_FLAGS ?=
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed
DOCS_STAMP := .venv/.docs-installed

.PHONY: setup demo demo-text demo-full full-size claims docs style test test-slow lint types clean

setup: $(STAMP)

$(STAMP): requirements.txt requirements-dev.txt constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -r requirements-dev.txt
	touch $@

demo: setup
	$(BIN)/python -m usd.demo

demo-text: setup
	$(BIN)/python -m usd.demo_text $(if $(PROMPT),"$(PROMPT)")

demo-full: setup
	$(BIN)/python -m usd.demo_full $(if $(PICTURE),"$(PICTURE)")

full-size: setup
	$(BIN)/python -m benchmarks.full_size

claims: setup
	$(BIN)/python -m benchmarks.claims $(CLAIMS)

docs: setup $(DOCS_STAMP)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs outputs/docs
	@echo outputs/docs/index.html

$(DOCS_STAMP): requirements-docs.txt constraints.txt | setup
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -r requirements-docs.txt
	touch $@

style: setup
	$(BIN)/python -m benchmarks.style

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

test: lint types
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(WORKERS) -q -m "not slow"

test-slow: setup $(DOCS_STAMP)
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -q -m slow

clean:
	rm -rf .venv .mypy_cache .ruff_cache outputs
