# make demo        set up, and run the main commands on images (IMAGES=folder for your own images)
# make notebook    set up, install JupyterLab, and open the first notebook (NOTEBOOK=gradients for another)
# make test        set up, and pass all quick tests, one worker per core (WORKERS=0: one process)
# make test-all    the same with the slow sweeps
# make lint        formatting, style and types
# make javascript  build the runtime for JavaScript and test it; needs node 20.16 or newer, and Chromium for half of the tests
# make bench       the benchmarks, as ratios against peers
# make docs        the documentation as a site, in site/
# make conformance export every family of keras.applications and Keras Hub; write docs/conformance.md
# make PYTHON=python3.12 ...   use another Python

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# tensorflow-cpu is a smaller wheel, but only available for some platforms.
TENSORFLOW_EXTRA := $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),export-cpu,export)

# uv is faster than pip, and used if it is on the path.
INSTALL = $(if $(shell command -v uv),uv pip install --quiet --python $(BIN)/python --compile-bytecode,$(BIN)/python -m pip install --quiet --disable-pip-version-check)

SOURCES := $(wildcard export/layertap_export/*.py export/layertap_export/*/*.py export/layertap_export/*/*/*.py models/layertap_models/*.py)

.PHONY: demo notebook test test-all javascript lint format bench docs conformance clean setup

setup: $(READY)

$(READY): pyproject.toml tests/download_wheels.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "layertap needs Python 3.10 or newer, this is " + sys.version)'
	@echo "setting up $(VENV), once ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e ".[cpu,$(TENSORFLOW_EXTRA),test,lint]"
	@$(INSTALL) --no-deps "tf_keras>=2.18" # it requires `tensorflow`, which tensorflow-cpu also provides
	@$(BIN)/python tests/download_wheels.py .cache
	@touch $@

demo: demo/chest.onnx
	$(BIN)/layertap info demo/chest.onnx
	$(BIN)/layertap layers demo/chest.onnx --layers 'conv5_block16*' --layers bn --layers relu
	$(BIN)/layertap run demo/chest.onnx "$$PICTURES" --layers conv5_block16_concat -o demo/activations.npz --sheet demo/sheets
	$(BIN)/layertap run demo/chest.onnx "$$PICTURES" --top 3
	$(BIN)/python examples/fetch.py demo/chest.onnx conv5_block16_concat "$$PICTURES"
	$(BIN)/layertap cam demo/chest.onnx "$$PICTURES" -o demo/heat_maps
	@echo "model: demo/chest.onnx   activations: demo/activations.npz   pictures: demo/sheets/ demo/heat_maps/"

# The user's own images, or synthetic X-ray images that layertap_models draws.
PICTURES = $(if $(IMAGES),$(IMAGES),demo/images)
# The shell reads the name from its environment, so that it may contain spaces and quotes.
export PICTURES

demo/chest.onnx: $(READY) $(SOURCES)
	$(BIN)/layertap models chest_xray --write demo --samples 3
	$(BIN)/layertap export layertap_models.chest_xray:build -o $@ --labels demo/labels.txt --preprocess demo/preprocess.json --gradients conv5_block16_concat

NOTEBOOK ?= activations

notebook: $(READY)
	@$(BIN)/python -c 'import jupyterlab' 2>/dev/null || $(INSTALL) jupyterlab
	$(BIN)/python -m jupyterlab examples/$(NOTEBOOK).ipynb

# All tests of a file run in one worker, so that their fixtures are made once. The files run in
# order: the short tests of the runtime come last and fill both workers to the end.
WORKERS ?= auto
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(PYTEST)

test-all: $(READY)
	$(PYTEST) -m "slow or not slow" --hypothesis-profile=default

SCRIPT := runtime/javascript
PACKAGES := $(SCRIPT)/node_modules/.ready

javascript: $(READY) $(PACKAGES)
	cd $(SCRIPT) && npm run build
	$(BIN)/python -m pytest tests/javascript

$(PACKAGES): $(SCRIPT)/package-lock.json
	cd $(SCRIPT) && npm ci
	@touch $@

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	@$(BIN)/python -c 'import openvino, polygraphy' 2>/dev/null || $(INSTALL) -e ".[bench]" || echo "continuing without the peers of the bench extra"
	$(BIN)/python -m benchmarks

# Warnings are errors. The variable silences an advertisement of the theme.
docs: $(READY)
	@$(BIN)/python -c 'import material, mkdocstrings' 2>/dev/null || $(INSTALL) -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "wrote site/index.html; with search: $(BIN)/python -m http.server -d site"

# Keras Hub without its dependency tensorflow-text, which requires `tensorflow`, not tensorflow-cpu.
HUB := "keras-hub>=0.24" kagglehub kagglesdk regex tokenizers sentencepiece tqdm PyYAML

conformance: $(READY)
	@$(BIN)/python -c 'import keras_hub' 2>/dev/null || $(INSTALL) --no-deps $(HUB)
	cd tests && ../$(BIN)/python -m conformance

clean:
	rm -rf $(SCRIPT)/node_modules $(SCRIPT)/dist $(VENV) .cache demo build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis
