"""How Sphinx makes the site of these pages: ``make docs``."""

import os
from pathlib import Path

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
if not os.environ.get("XFER_TEST_DATA"):
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


def setup(app):
    """Make the site of what is written for the checkout and for scikit-learn too."""
    app.connect("autodoc-skip-member", skip_what_is_not_ours)
    app.connect("source-read", link_to_pages)


def skip_what_is_not_ours(app, what, name, thing, skip, options):
    """Leave out of the reference what scikit-learn's base classes bring along."""
    module = getattr(getattr(thing, "fget", thing), "__module__", "xfer")
    return None if str(module).startswith("xfer") else True


def link_to_pages(app, name, text):
    """Lead from links to files of the checkout to the pages of the site that show them."""
    for file, page in {"CONTRIBUTING": "contributing", "CHANGELOG": "changelog"}.items():
        text[0] = text[0].replace(f"](../{file}.md", f"]({page}.md")
