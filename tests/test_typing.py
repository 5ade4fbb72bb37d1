"""Type checkers know the public names, and the two lists of them in xfer/__init__.py agree."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import xfer

ROOT = Path(__file__).parents[1]

# What README.md shows, as a user writes it.
SCRIPT = """
import numpy as np
import xfer

images, digits = xfer.example.digits()
source = xfer.open_source(xfer.load_checkpoint(xfer.example.checkpoint()))
repurposer = xfer.LrRepurposer(source, ["relu2"], pooling="max").fit(images, digits)
labels = repurposer.predict(images)
loaded = xfer.load("digits")
reveal_type(repurposer)
reveal_type(labels)
xfer.meta.CalibratedSvm()
xfer.GpRepurposer(source, "relu2").predict_uncertainty(images).epistemic
xfer.MetaModelRepurposer(source, "relu2", xfer.meta.CalibratedSvm())
xfer.LayerFeatures(source, "relu2").fit(images).transform(images)
xfer.ImageInputs(size=224)
xfer.FeatureCache("features")
"""


def check(tmp_path: Path, script: str) -> tuple[int, str]:
    """Run mypy on a script of a user, with xfer as it is here."""
    (tmp_path / "script.py").write_text(script)
    # Not reading large packages saves a minute.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nignore_missing_imports = True\n"
        "[mypy-torch.*,matplotlib.*,scipy.*,sklearn.*,pandas.*]\nfollow_imports = skip\n"
    )
    command = [sys.executable, "-m", "mypy", "--check-untyped-defs", "script.py"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path)
    )
    return done.returncode, done.stdout + done.stderr


def environment(tmp_path: Path) -> dict[str, str]:
    return {"MYPYPATH": str(ROOT), "PATH": "", "MYPY_CACHE_DIR": str(tmp_path.parent / "cache")}


def listed() -> tuple[dict[str, str], dict[str, str]]:
    """Read from xfer/__init__.py what is imported under TYPE_CHECKING, and what is resolved."""
    tree = ast.parse((ROOT / "xfer" / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname or "": str(node.module).removeprefix("xfer").removeprefix(".")
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return imported, {**dict.fromkeys(xfer._MODULES, ""), **xfer._PUBLIC}


def test_editors_and_xfer_have_the_same_names():
    imported, resolved = listed()
    assert imported == resolved


def test_import_xfer_imports_nothing_heavy_and_every_public_name_is_there():
    code = """
import sys
import xfer

heavy = {"mxnet", "numpy", "onnxruntime", "scipy", "skops", "sklearn", "torch"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
for name in [*xfer.__all__, *xfer._MODULES]:
    assert getattr(xfer, name).__doc__, name
    assert name in dir(xfer)
assert "matplotlib" not in sys.modules and "mxnet" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="module 'xfer' has no attribute 'LRRepurposer'"):
        xfer.LRRepurposer  # noqa: B018


def test_mypy_knows_what_a_user_writes(tmp_path):
    pytest.importorskip("mypy")
    code, printed = check(tmp_path, SCRIPT)
    assert code == 0, printed
    assert 'Revealed type is "xfer.repurposers.LrRepurposer"' in printed
    assert 'Revealed type is "Any"' not in printed
    code, printed = check(tmp_path, "import xfer\nxfer.LRRepurposer\nxfer.meta.Svm\n")
    assert code == 1, printed
    assert 'Module has no attribute "LRRepurposer"' in printed
    assert 'Module has no attribute "Svm"' in printed


@pytest.mark.parametrize("name", ["lr_repurposer.py", "model_handler/__init__.py"])
def test_files_of_the_earlier_library_are_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(ImportError, match=r"belongs to xfer-ml.*pip install xfer-learn"):
        xfer._check_for_other_projects(str(tmp_path))


@pytest.mark.parametrize("other", ["xfer-0.2.9.dist-info", "xfer_ml-1.1.0-py3.11.egg-info"])
def test_a_distribution_with_our_import_name_is_reported(tmp_path, other):
    packages = tmp_path / "site-packages"
    for name in ("xfer", "xfer_learn-0.1.0.dist-info", other):
        (packages / name).mkdir(parents=True)
    with pytest.warns(UserWarning, match=rf"^{other} in .*pip install xfer-learn"):
        xfer._check_for_other_projects(str(packages / "xfer"))
    (packages / other).rmdir()
    xfer._check_for_other_projects(str(packages / "xfer"))  # warnings are errors
