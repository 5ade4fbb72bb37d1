"""The reference names everything public, and the version is the same wherever it stands."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import xfer

ROOT = Path(__file__).parents[1]
# Pages and modules; what xfer-ml had is in the two that are left out.
TEXTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "xfer").rglob("*.py")]
TEXTS = [path for path in TEXTS if path.stem not in ("coming_from_xfer_ml", "_xfer_ml")]
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


def names_in_texts():
    """Return names of xfer in pages and docstrings, without the leading ``xfer.``."""
    pattern = r"(?<![\w./-])xfer\.([A-Za-z]\w*(?:\.[A-Za-z]\w*)*)"
    return {name for path in TEXTS for name in re.findall(pattern, path.read_text("utf-8"))}


def test_the_reference_names_everything_public():
    assert public_names() - REFERENCE == set()


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_what_the_reference_names_is_there_and_documented(name):
    assert len(find(name).__doc__.splitlines()[0]) > 10


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_what_the_reference_names_is_imported_as_it_is_written(name):
    module, _, last = f"xfer.{name}".rpartition(".")
    try:
        exec(f"from {module} import {last}", {})
    except ModuleNotFoundError:  # a method
        assert inspect.isclass(find(name.rpartition(".")[0]))


@pytest.mark.parametrize("name", sorted(names_in_texts()))
def test_a_name_in_a_text_is_there(name):
    try:
        find(name)
    except ModuleNotFoundError as error:
        if error.name.startswith("xfer"):
            raise
        pytest.skip(f"needs {error.name}")


HEADS = [find(name) for name in REFERENCE if "Repurposer" in name or "Regressor" in name]
HEADS = [one for one in HEADS if one is not xfer.Repurposer and not one.trains_network]


def described(kind):
    """Return what a docstring says of each parameter and attribute, by name."""
    found = re.findall(r"^(\w[\w, ]*) : (.*(?:\n(?: .*)?)*)", inspect.getdoc(kind), re.M)
    return {name: text.strip() for names, text in found for name in names.split(", ")}


def test_heads_say_the_same_of_what_they_share():
    assert len(HEADS) == 7
    for name in ("source_model", "feature_layer_names", "pooling", "cache", "progress"):
        chooses = name in ("feature_layer_names", "pooling")
        kinds = [one for one in HEADS if not (chooses and one is xfer.AutoRepurposer)]
        assert len({described(one)[name] for one in kinds}) == 1, name


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_every_parameter_and_field_is_described(name):
    kind = find(name)
    if not inspect.isclass(kind) or issubclass(kind, (Exception, xfer.sources.SourceModel)):
        return
    fields = {*getattr(kind, "_fields", ()), *getattr(kind, "__dataclass_fields__", ())}
    fields |= set(inspect.signature(kind).parameters) - {"iterable"}
    if issubclass(kind, xfer.NeuralNetworkRepurposer) and kind is not xfer.NeuralNetworkRepurposer:
        fields -= set(inspect.signature(xfer.NeuralNetworkRepurposer).parameters)  # **options
    assert fields - {"_"} <= set(described(kind))


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", citation, re.M)[1] == xfer.__version__
    assert f"version = {{{xfer.__version__}}}" in (ROOT / "README.md").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{xfer.__version__}]" in changelog
