# `make study` and `make test` each do all of their own set-up: a virtual environment, then the package.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: study test test-slow docs lint clean install-c check-all coverage test-torch test-edge test-x86

study: $(STAMP)
	$(BIN)/bitskip study --preset quick --out runs/quick

# One process a core, with one thread each: with more, processes wait for each other's threads.
test: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow --timeout 7200

# What takes too long for `make test`: slow tests, kernels and mutants under sanitizers, a million mutants on every reader.
MUTANTS ?= 1000000
check-all: test test-slow
	$(CMAKE) -S . -B build/sanitized -DBITSKIP_PYTHON=OFF -DBITSKIP_TESTS=ON -DBITSKIP_SANITIZE=ON -DBITSKIP_WERROR=ON
	$(CMAKE) --build build/sanitized
	build/sanitized/bitskip_parity 2000
	build/sanitized/bitskip_mutants $(MUTANTS) 1 src/bitskip/zoo/models/*x0.25*.bitskip
	cd tests && ../$(BIN)/python mutants.py $(MUTANTS) 1 ../src/bitskip/zoo/models/*x0.25*.bitskip

# Which lines the quick tests run; a figure a file.
coverage: $(STAMP)
	$(BIN)/python -m pip install --quiet coverage
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage report --skip-covered

# The tests of training against another torch, in an environment of its own: make test-torch VERSION=2.11.0
TORCH_ENV = build/torch-$(VERSION)
test-torch:
	@test -n "$(VERSION)" || { echo "make test-torch needs VERSION, e.g. VERSION=2.11.0"; exit 2; }
	$(PYTHON) -m venv $(TORCH_ENV)
	$(TORCH_ENV)/bin/python -m pip install --quiet 'torch==$(VERSION)' -e '.[dev]'
	$(TORCH_ENV)/bin/python -c "import torch; print('torch', torch.__version__)"
	$(TORCH_ENV)/bin/python -m pytest tests/training tests/nn/test_compiled_gradients.py

# Exported C on emulated boards, after installing compilers and emulators by apt
EDGE_TOOLS := gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm qemu-system-misc gcc-riscv64-unknown-elf \
              picolibc-riscv64-unknown-elf gcc-multilib clang cppcheck

test-edge: $(STAMP)
	command -v apt-get >/dev/null || { echo "test-edge installs its tools by apt-get; on other systems install: $(EDGE_TOOLS)"; exit 1; }
	dpkg -s $(EDGE_TOOLS) >/dev/null 2>&1 || { $$(command -v sudo) apt-get update && $$(command -v sudo) apt-get install -y $(EDGE_TOOLS); }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/edge -m "slow or not slow" --timeout 7200 -n auto --dist worksteal

# Kernels for AVX-512 and AMX in an emulator. BOCHS names a Bochs that is there; else one is built (10 minutes) from BOCHS_SOURCES,
# a copy of its repository.
BOCHS_SOURCES ?= build/bochs-sources
BOCHS ?= $(BOCHS_SOURCES)/bochs/bochs
test-x86: $(STAMP)
	test -x "$(BOCHS)" || test -d $(BOCHS_SOURCES) || git clone --quiet --depth 1 https://github.com/bochs-emu/Bochs $(BOCHS_SOURCES)
	test -x "$(BOCHS)" || benchmarks/boards/x86/build_bochs.sh $(BOCHS_SOURCES)
	OMP_NUM_THREADS=1 BOCHS="$(abspath $(BOCHS))" $(BIN)/python -m pytest tests/emulated -m "slow or not slow" --timeout 7200

# The documentation site in site/; a warning or a broken link is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# bitskip_ops.h is generated; the .inc files are tables.
C_SOURCES := $(filter-out %/bitskip_ops.h, $(sort $(shell find native examples/c -name '*.[ch]' -o -name '*.?pp' -o -name '*.inl')))
lint: $(STAMP)
	$(BIN)/ruff check src tests tools benchmarks examples
	$(BIN)/ruff format --check --quiet src tests tools benchmarks examples
	$(BIN)/clang-format --dry-run --Werror $(C_SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'bitskip needs Python 3.11 or newer, got ' + sys.version.split()[0] + '; set PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# The library for C and C++ (libbitskip, its headers and a pkg-config file) in PREFIX.
PREFIX ?= /usr/local
CMAKE  ?= cmake
C_BUILD ?= build/c-library
install-c:
	$(CMAKE) -S . -B $(C_BUILD) -DBITSKIP_PYTHON=OFF -DCMAKE_INSTALL_PREFIX=$(PREFIX)
	$(CMAKE) --build $(C_BUILD)
	$(CMAKE) --install $(C_BUILD)

clean:
	rm -rf $(VENV) build dist
