"""How Sphinx makes the site of these pages: ``make docs``."""

import os
from pathlib import Path

import xfer

os.environ.setdefault("XFER_TEST_DATA", str(Path(__file__).parents[2] / "shared"))

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
suppress_warnings = ["config.cache"]  # of the gallery's classes

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
html_theme_options = {"light_css_variables": _OKABE_ITO}

# The pages of the gallery, in this order. Two of them want the folder of real models and data.
GALLERY = [
    "text_transfer",
    "image_transfer",
    "learning_curve",
    "choosing_a_layer",
    "probabilities",
    "features_in_2d",
    "looking_into_a_network",
    "fine_tuning",
    "next_label",
]
if not Path(os.environ["XFER_TEST_DATA"]).is_dir():
    GALLERY = GALLERY[2:]
    print("XFER_TEST_DATA names no folder: the gallery goes without the two tutorials.")


class InOrder:
    """Sort the gallery's pages as they stand in the list above."""

    def __init__(self, folder):
        pass

    def __call__(self, file):
        """Return the place of a script."""
        return GALLERY.index(Path(file).stem)

    def __repr__(self):
        return f"InOrder({', '.join(GALLERY)})"  # so that another order makes the pages anew


sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": rf"/({'|'.join(GALLERY)})\.py$",
    "ignore_pattern": rf"/(?!({'|'.join(GALLERY)})\.py$)[^/]+\.py$",
    "within_subsection_order": InOrder,
    "copyfile_regex": r".*\.rst",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1,
    "abort_on_example_error": True,
    "thumbnail_size": (400, 280),
    "image_scrapers": ("matplotlib",),
    "matplotlib_animations": False,
}


def setup(app):
    """Leave out of the reference what scikit-learn's base classes bring along."""
    app.connect(
        "autodoc-skip-member",
        lambda app, what, name, thing, skip, options: True if not _is_ours(thing) else None,
    )


def _is_ours(thing):
    function = getattr(thing, "fget", thing)
    return str(getattr(function, "__module__", "xfer")).startswith("xfer")
