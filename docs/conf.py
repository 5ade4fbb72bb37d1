"""Sphinx configuration of the site: ``make docs``."""

import os
from pathlib import Path
from typing import Any

import xfer

project = "xfer"
author = "the xfer developers"
copyright = author
release = version = xfer.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["README.md"]
suppress_warnings = ["config.cache"]  # the gallery configuration holds a class

autodoc_typehints = "none"
autosummary_generate = True
nitpicky = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
myst_heading_anchors = 3

templates_path = ["_templates"]
html_theme = "furo"
html_title = f"xfer {release}"
html_static_path = ["_static"]
html_css_files = ["xfer.css"]
html_show_sourcelink = False
html_copy_source = False
_OKABE_ITO = {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"}
# Where the site will be. A social card needs the whole address of its picture.
html_baseurl = os.environ.get("SITE_URL", "").rstrip("/")
html_theme_options = {"light_css_variables": _OKABE_ITO}

# The pages of the gallery in order.
GALLERY = [
    "text_transfer",
    "image_transfer",
    "learning_curve",
    "choosing_a_layer",
    "probabilities",
    "features_in_2d",
    "looking_into_a_network",
    "fine_tuning",
    "mxnet_to_pytorch",
    "next_label",
]
if os.environ.get("QUICK_SITE"):  # without those that take longest
    GALLERY = GALLERY[2:-1]

# Words to find a page by: main entries of the index, which the search lists before anything else.
WORDS = {
    "auto": ["automatic", "unlabelled examples"],
    "big_data": ["memory", "cache"],
    "choosing_a_layer": ["grid search", "pooling"],
    "command_line": ["csv", "cli", "terminal"],
    "data_frames": ["pandas", "polars", "data frame", "column"],
    "deployment": ["deployment", "serving", "fastapi", "javascript", "docker"],
    "devices": ["gpu", "cuda", "mps", "device"],
    "export": ["onnx", "onnx runtime"],
    "moving_off_mxnet": ["mxnet", "gluon"],
    "past_one_machine": ["ray", "spark", "dask"],
    "picture_folder": ["image folder", "jpeg", "photos"],
    "pytorch": ["pytorch", "torch"],
    "sentence_transformers": ["sentence-transformers", "text", "embedding"],
    "timm": ["timm", "torchvision", "resnet", "vision transformer"],
    "transformers": ["transformers", "hugging face", "bert", "tokenizer"],
    "trusting_a_probability": ["uncertainty", "calibration", "imbalanced labels"],
}


class InOrder:
    """Sort the pages of the gallery in the order of the list above."""

    def __init__(self, folder: str) -> None:
        pass

    def __call__(self, file: str) -> int:
        """Return the position of a script."""
        return GALLERY.index(Path(file).stem)

    def __repr__(self) -> str:
        return f"InOrder({', '.join(GALLERY)})"  # another order builds the pages again


sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": rf"/({'|'.join(GALLERY)})\.py$",
    "ignore_pattern": rf"^(?!({'|'.join(GALLERY)})\.py$)",
    "within_subsection_order": InOrder,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1,
    "abort_on_example_error": True,
    "thumbnail_size": (400, 280),
    "image_scrapers": ("matplotlib",),
    "matplotlib_animations": False,
}


def setup(app: Any) -> None:
    """Adapt pages that are also read in the checkout, and classes that inherit from others."""
    app.connect("autodoc-skip-member", skip_inherited_from_others)
    app.connect("source-read", link_to_pages)
    app.connect("source-read", add_words)


def skip_inherited_from_others(app: Any, what: str, name: str, thing: Any, *_: Any) -> bool | None:
    """Leave members that scikit-learn's base classes define out of the reference."""
    module = getattr(getattr(thing, "fget", thing), "__module__", "xfer")
    return None if str(module).startswith("xfer") else True


def link_to_pages(app: Any, name: str, text: list[str]) -> None:
    """Point links to files of the checkout at the pages of the site that show them."""
    for file, page in {"CONTRIBUTING": "contributing", "CHANGELOG": "changelog"}.items():
        text[0] = text[0].replace(f"](../{file}.md", f"]({page}.md")


def add_words(app: Any, name: str, text: list[str]) -> None:
    """Put the words of a page into the index, below its title."""
    if name in WORDS:
        title, rest = text[0].split("\n", 1)
        entries = ", ".join(f"!{word}" for word in WORDS[name])
        text[0] = f"{title}\n\n```{{index}} {entries}\n```\n{rest}"
