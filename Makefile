# Everything lands below this folder: environments in .venv*, caches in .cache, results in build.
PYTHON ?= python3
OMOKAGE_DATA ?= $(abspath ../shared/data)
export OMOKAGE_DATA
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export XDG_CACHE_HOME := $(CURDIR)/.cache
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
export RUFF_CACHE_DIR := $(CURDIR)/.cache/ruff
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/.cache/hypothesis

.PHONY: demo demo-clips test check prove clean

demo: .venv-demo/ready  ## A name on a video, from what the packages bring (no camera, no download)
	.venv-demo/bin/python device/demo.py --out build/demo

demo-clips: .venv-demo/ready  ## The same on the clips of $OMOKAGE_DATA
	.venv-demo/bin/python device/demo.py --clips "$(OMOKAGE_DATA)" --out build/demo-clips

test: .venv/ready  ## All tests
	.venv/bin/python -m pytest

check: .venv/ready  ## Style, types, import rules
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --cache-dir .cache/import_linter

prove: .venv/ready  ## Every figure of docs/results.md again, from the shipped bundle and $OMOKAGE_DATA
	.venv/bin/python benchmarks/first_light.py --data "$(OMOKAGE_DATA)" --out build/prove

.venv-demo/ready: pyproject.toml
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install --quiet --editable .[device,demo]
	touch $@

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable .[dev]
	touch $@

clean:
	rm -rf .venv .venv-demo .cache build
