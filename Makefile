# make demo   trains on sample_data, predicts scan.tif, evaluates, and says where everything lies
# make test   installs what it needs and runs the tests
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test slow pipelines bench compare gpu fuzz mutants lint clean

# The environment is made anew when the packages that the project asks for change.
$(READY): pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e ".[dev]"
	touch $(READY)

demo: $(READY)
	mkdir -p demo
	$(BIN)/unet train sample_data/train -o demo/unet.safetensors --features 16 --depth 3 --max-time 170s --overwrite
	$(BIN)/unet infer sample_data/scan.tif -m demo/unet.safetensors -o demo/scan_mask.tif \
	    --overlay demo/scan_overlay.png --objects demo/scan_objects.csv
	$(BIN)/unet infer sample_data/test/images -m demo/unet.safetensors -o demo/masks/
	$(BIN)/unet evaluate demo/masks sample_data/test/masks --json demo/scores.json --csv demo/scores.csv
	@echo
	@echo "The trained model          demo/unet.safetensors   (its course: demo/unet.run/report.html)"
	@echo "The cells of the scan      demo/scan_mask.tif      (open it in Fiji)"
	@echo "The same as a picture      demo/scan_overlay.png"
	@echo "A table of its cells       demo/scan_objects.csv"
	@echo "Masks of the test images   demo/masks/"
	@echo "Their scores               demo/scores.csv, demo/scores.json"

# As many processes as cores, four at most: each computes with several threads at times.
test: $(READY)
	$(PYTEST) -n auto --maxprocesses 4 --dist worksteal

slow: $(READY)
	$(PYTEST) -m slow

# Runs the examples of tests/pipelines with the real Snakemake, which has an environment of its own.
PIPELINES := $(VENV)/pipelines
$(PIPELINES)/.ready: $(READY)
	$(PYTHON) -m venv $(PIPELINES)
	$(PIPELINES)/bin/python -m pip install --quiet --disable-pip-version-check "snakemake>=9" "groovy-parser>=0.2"
	touch $(PIPELINES)/.ready

pipelines: $(PIPELINES)/.ready
	$(PYTEST) -m slow tests/pipelines

bench: $(READY)
	$(PYTEST) -m bench --benchmark-enable --benchmark-only

# DATA is a folder images/ + instances/ with a split.csv (id, split); each network trains SECONDS_EACH on it.
SECONDS_EACH ?= 120
compare: $(READY)
	$(BIN)/python tests/bench/compare.py $(DATA) $(SECONDS_EACH) 90

gpu: $(READY)
	$(PYTEST) -m gpu

# Sends damaged files through the command; a find names its number, and FIRST=number FILES=1 runs that one alone.
FILES ?= 5000
FIRST ?= 0
fuzz: $(READY)
	$(BIN)/python tests/faults/fuzz.py $(FILES) $(FIRST)

# Plants defects in a copy of the code, each of which a named test must find.
mutants: $(READY)
	$(BIN)/python tests/mutants.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build dist *.egg-info
