# `make demo` and `make test` need nothing but Python 3.11 or later: they install the rest in .venv.
# PYTHON=/path/to/python picks an interpreter; otherwise it is the first of CANDIDATES that fits.
.PHONY: demo test test-all test-numpy2 test-numpy2-mxnet test-base test-lowest test-coming campaigns lint docs notebooks wheel clean

# Real models and data, in a folder beside the checkout or in the one that XFER_TEST_DATA names.
ifneq ($(wildcard ../shared/models),)
export XFER_TEST_DATA ?= $(abspath ../shared)
export SCIKIT_LEARN_DATA ?= $(XFER_TEST_DATA)/data/scikit_learn_data
endif

# Python 3.11 comes first because it is the last for which MXNet has wheels.
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python)
NEWEST := $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python)
first = $(firstword $(foreach candidate,$(1),$(shell \
	$(candidate) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(candidate))))
# Modules are compiled when they are first imported: compiling all is two thirds of an installation.
PIP := -m pip install --quiet --disable-pip-version-check --no-compile
# Tools of the project itself, from files that name their hashes.
hashed = $(PIP) --require-hashes $(1:%=--requirement .ci/%.txt)
# One process per core, each with one thread of BLAS. OPTIONS=--cov reports the coverage.
PYTEST := -m pytest -n 2 $(OPTIONS)
# Where a package is left out on purpose, so are the docstrings of modules that import it.
PARTLY := $(PYTEST) -p no:cacheprovider --doctest-ignore-import-errors
export OMP_NUM_THREADS := 1
unexport PYTHONDONTWRITEBYTECODE  # with it, every process would compile all that it imports

demo: .venv/ready
	.venv/bin/python examples/demo.py

test: .venv/ready-to-test lint
	.venv/bin/python $(PYTEST) -m "not slow"

test-all: .venv/ready-to-test lint
	.venv/bin/python $(PYTEST)

lint: .venv/ready-to-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# The newest NumPy, PyTorch and pandas, and xfer beside them, which must change none: the tests that
# test-base, which has the newest NumPy too, leaves out, but for some that take long and have little
# to do with NumPy. Then what needs MXNet, beside that NumPy.
LONG := gallery examples pages command_line export typing torch_fingerprint training_steps sentence_source \
	default_layer diagrams site card cli repurposer html fine_tuning bottom verbs
WITH_EXTRAS = $(filter-out $(LONG:%=tests/test_%.py),$(shell grep -lE 'torch|pandas|matplotlib' tests/test_*.py))
test-numpy2: .venv-numpy2/ready
	.venv-numpy2/bin/python $(PARTLY) -m "not slow" $(WITH_EXTRAS)

test-numpy2-mxnet: .venv-numpy2/ready
	.venv-numpy2/bin/python $(PIP) --no-deps --target .venv-numpy2/mxnet mxnet==1.9.1 graphviz==0.8.4
	.venv-numpy2/bin/python $(PIP) requests
	PYTHONPATH=$(CURDIR)/.venv-numpy2/mxnet .venv-numpy2/bin/python $(PARTLY) -m "mxnet and not slow"

# The newest Python, with nothing but what `pip install xfer-learn` brings. What takes long and has
# little to do with that runs in `make test`.
test-base: .venv-base/ready
	.venv-base/bin/python $(PARTLY) -m "not slow" \
	--ignore=tests/test_campaigns.py --ignore=tests/test_bayesian_network.py

# The lowest versions that pyproject.toml allows of what xfer cannot do without.
test-lowest: .venv-lowest/ready
	.venv-lowest/bin/python $(PARTLY) -m "not slow"

# Versions that are about to be released.
test-coming: .venv-coming/ready
	.venv-coming/bin/python $(PARTLY) -m "not slow"

# All faults of docs/reliability.md, which take hours.
campaigns: .venv/ready-to-test
	.venv/bin/python $(PIP) atheris
	for one in crash many hostile fuzz networks; do .venv/bin/python campaigns/$$one.py || exit 1; done

docs: .venv/ready-for-docs
	.venv/bin/python -m sphinx -W --keep-going -b html docs build/site
	@echo "Open build/site/index.html."

# examples/*.ipynb from the scripts of the same name, with their output, but without progress bars
# and settings of the gallery.
NOTEBOOKS := examples/text_transfer examples/image_transfer
notebooks: .venv/ready-for-docs
	.venv/bin/sphinx_gallery_py2jupyter $(addsuffix .py,$(NOTEBOOKS))
	for one in $(addsuffix .ipynb,$(NOTEBOOKS)); do \
	sed 's/# sphinx_gallery[^\\]*\\n//g' $$one >$$one.part && mv $$one.part $$one || exit 1; done
	TQDM_DISABLE=1 .venv/bin/jupyter nbconvert --to notebook --execute --inplace $(addsuffix .ipynb,$(NOTEBOOKS))

# The archives to upload; the wheel is made from the source archive and tried in an empty environment,
# to which README.md adds what it says: PyTorch and a sentence transformer.
wheel: .venv/ready-to-test
	rm -rf dist .venv-wheel
	$(call make_venv,.venv-wheel,$(CANDIDATES))
	.venv-wheel/bin/python $(call hashed,build)
	.venv-wheel/bin/python -m build >/dev/null
	.venv-wheel/bin/python $(PIP) "$$(echo dist/*.whl)[plots]"
	.venv-wheel/bin/python -P tests/try_wheel.py dist \
	"$$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

define make_venv
@test -n "$(call first,$(2))" || { \
	echo "xfer needs Python 3.11 or later, and none of these is one: $(2)."; \
	echo "Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python"; exit 1; }
$(call first,$(2)) -m venv $(1)
endef

# EXTRAS=docs installs all at once, which is quicker than one after the other.
EXTRAS := plots
tools = .venv/bin/python $(call hashed,lint pytest)
more = $(if $(filter docs,$(EXTRAS)),,.venv/bin/python $(PIP) --editable '.[mxnet,$(1)]')
# The extra mxnet installs nothing where MXNet has no wheels.
.venv/ready: pyproject.toml
	$(call make_venv,.venv,$(CANDIDATES))
	$(if $(filter docs,$(EXTRAS)),$(tools))
	.venv/bin/python $(PIP) --editable '.[mxnet,$(EXTRAS)]'
	@.venv/bin/python -c 'import importlib.util, platform; \
	python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"; \
	print("MXNet 1.9.1 is installed, with NumPy 1.23." if importlib.util.find_spec("mxnet") else \
	f"MXNet is not installed: it has no wheels for {python}. What needs it is left out.")'
	touch $@

# Only the tests need PyTorch and what else is large.
.venv/ready-to-test: .venv/ready
	$(tools)
	$(call more,test)
	touch $@

.venv/ready-for-docs: .venv/ready-to-test
	$(call more,docs)
	touch $@

.venv-numpy2/ready: pyproject.toml
	rm -rf .venv-numpy2
	$(call make_venv,.venv-numpy2,$(CANDIDATES))
	.venv-numpy2/bin/python $(PIP) 'numpy>=2' 'pandas>=3' torch==2.13.0
	.venv-numpy2/bin/python -m pip freeze >.venv-numpy2/before
	.venv-numpy2/bin/python $(PIP) .
	.venv-numpy2/bin/python -m pip freeze | grep -vxFf - .venv-numpy2/before && { \
	echo "Installing xfer changed these packages."; exit 1; } || true
	.venv-numpy2/bin/python $(call hashed,lint pytest)
	.venv-numpy2/bin/python $(PIP) --editable '.[test]'
	touch $@

.venv-lowest/ready: pyproject.toml
	$(call make_venv,.venv-lowest,$(CANDIDATES))
	sed -n '/^dependencies/,/^]/ s/ *"\(.*\)>=\(.*\)",.*/\1==\2/p' pyproject.toml >.venv-lowest/constraints
	.venv-lowest/bin/python $(call hashed,pytest)
	.venv-lowest/bin/python $(PIP) --constraint .venv-lowest/constraints --editable .
	touch $@

.venv-coming/ready: pyproject.toml
	$(call make_venv,.venv-coming,$(NEWEST))
	.venv-coming/bin/python $(call hashed,pytest)
	.venv-coming/bin/python $(PIP) --pre --editable .
	touch $@

.venv-base/ready: pyproject.toml
	$(call make_venv,.venv-base,$(NEWEST))
	.venv-base/bin/python $(call hashed,pytest)
	.venv-base/bin/python $(PIP) --editable .
	touch $@

clean:
	rm -rf .venv .venv-* build dist *.egg-info .coverage .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
