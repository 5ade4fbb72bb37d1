"""The reference names everything public, and the version is the same wherever it stands."""

import importlib
import re
from pathlib import Path

import pytest

import xfer

ROOT = Path(__file__).parents[1]
REFERENCE = set(re.findall(r"^   ([\w.]+)$", (ROOT / "docs" / "api.rst").read_text(), re.M))


# What files of xfer are read by, and what makes inputs of what users give.
NOT_FOR_USERS = {"sources.source_from_state"} | {
    f"inputs.{name}" for name in ("FunctionInputs", "Inputs", "as_inputs", "from_state")
}


def public_names():
    """Return every public name as users write it, without the leading ``xfer.``."""
    names = set(xfer.__all__)
    for module in xfer._MODULES:
        there = importlib.import_module(f"xfer.{module}").__dict__.get("__all__", [])
        names |= {f"{module}.{name}" for name in there if name not in names}
    return names - NOT_FOR_USERS


def find(name):
    """Return what a name stands for."""
    thing = xfer
    for part in name.split("."):
        if not hasattr(thing, part):
            importlib.import_module(f"{thing.__name__}.{part}")
        thing = getattr(thing, part)
    return thing


def test_the_reference_names_everything_public():
    assert public_names() - REFERENCE == set()


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_what_the_reference_names_is_there_and_documented(name):
    assert len(find(name).__doc__.splitlines()[0]) > 10


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", citation, re.M)[1] == xfer.__version__
    assert f"version = {{{xfer.__version__}}}" in (ROOT / "README.md").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{xfer.__version__}]" in changelog
