# Another interpreter, another set of versions: make test PYTHON=python3.10 VENV=.venv-3.10 PINS=constraints-oldest.txt
# make install | demo | test | test-fast | test-plugins | bench | parity | check-data | lint | sanitize | wheel | clean
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PINS   := constraints.txt

.PHONY: install demo test test-fast test-plugins bench parity check-data lint sanitize wheel clean

install: $(STAMP)

# torch first and pinned: an unpinned torch would bring a newer one, and the build of the kernels needs it in place.
$(STAMP): pyproject.toml setup.py $(PINS) $(wildcard csrc/*.cpp csrc/*/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c $(PINS) pip setuptools wheel
	$(BIN)/python -m pip install --quiet -c $(PINS) torch torchvision pybind11 ninja numpy
	$(BIN)/python -m pip install --quiet -c $(PINS) --no-build-isolation -e '.[dev]'
	$(BIN)/python -m pip install --quiet -c $(PINS) --no-build-isolation -e plugins/medrecon-lightglue
	touch $(STAMP)

# Weights are fetched once, on this request; without a network the demo goes on without LPIPS and with SIFT.
# make demo ACCEPT_LICENSE=magicleap runs SuperPoint and SuperGlue, whose weights are for non-commercial research only.
demo: install
	$(BIN)/medrecon weights fetch --optional lpips-alexnet disk-depth lightglue-disk
	$(if $(ACCEPT_LICENSE),$(BIN)/medrecon weights fetch superpoint superglue-outdoor $(ACCEPT_LICENSE:%=--accept-license %))
	$(BIN)/medrecon demo --out runs/demo $(if $(ACCEPT_LICENSE),-o front_end=superpoint+superglue)

# Two processes of one thread finish sooner than one of two, most tests being small; make test TEST_PROCESSES=8 where there are more cores.
TEST_PROCESSES ?= 2
test: install
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

test-fast: install
	$(BIN)/python -m pytest -m 'not slow'

# Every plugin package, and a newly scaffolded one of each kind, passes its own tests in a virtual environment of its own.
test-plugins:
	PYTHON=$(PYTHON) PINS=$(PINS) plugins/check_all.sh

# The paper's tables and figures on one page, runs/bench/index.html; the same command resumes. make bench SEEDS=3
SEEDS ?= 1
bench: install
	$(BIN)/medrecon data fetch --optional colin27
	$(BIN)/medrecon weights fetch --optional lpips-alexnet disk-depth lightglue-disk
	$(if $(ACCEPT_LICENSE),$(BIN)/medrecon weights fetch superpoint superglue-outdoor $(ACCEPT_LICENSE:%=--accept-license %))
	$(BIN)/medrecon bench all --out runs/bench --seeds $(SEEDS)

# The released SuperPoint and SuperGlue weights give what an independent implementation gives. The weights are for
# non-commercial research only: make parity ACCEPT_LICENSE=magicleap
parity: install
	$(BIN)/medrecon weights fetch superpoint superglue-outdoor superglue-indoor $(ACCEPT_LICENSE:%=--accept-license %)
	$(BIN)/python -m pytest -v -n0 tests/features/test_superpoint_parity.py tests/matching/test_superglue_parity.py

# The same chest CT as DICOM and as NIfTI (70 MB, fetched on this request) must be the same volume.
check-data: install
	$(BIN)/medrecon data fetch lidc-idri-0001-dicom lidc-idri-0001-nifti
	$(BIN)/python -m pytest -v tests/ingest/test_volume_files.py -k twin

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Every op on every instruction set under the address, undefined-behaviour and thread sanitizers (GCC; some minutes).
sanitize: install
	$(BIN)/python benchmarks/sanitize.py

wheel: install
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation -w dist .

clean:
	rm -rf build dist runs *.egg-info
