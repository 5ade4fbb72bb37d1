"""The notebooks of the tutorials, and the tool that makes them."""

import importlib.util
import runpy
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = ["text_transfer", "image_transfer"]

SMALL = '''"""
A title
=======

Of `a page <https://example.org/>`_ with ``code``.
"""

import matplotlib.pyplot as plt
from tqdm.auto import tqdm

# sphinx_gallery_thumbnail_number = 1
# %%
# Next
# ----
# What comes out.

for _ in tqdm(range(3)):
    print("one")
plt.plot([1, 2])
plt.show()
'''


@pytest.fixture(scope="module")
def tool():
    # Not imported: where ipykernel is, bars are shown.
    for package in ("nbclient", "ipykernel", "sphinx_gallery"):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}")
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_notebook_is_that_of_its_script_and_was_run(tool, name):
    script = ROOT / "examples" / f"{name}.py"
    path = script.with_suffix(".ipynb")
    there = tool.nbformat.read(path, as_version=4)
    tool.nbformat.validate(there)
    made = tool.converted(script)
    assert [tool.outline(cell) for cell in there.cells] == [
        tool.outline(cell) for cell in made.cells
    ]
    cells = tool.code_cells(there)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert ("image/png" in str(tool.kinds(cell))) == ("plt.show()" in cell.source)
        assert "stderr" not in tool.kinds(cell)
    assert path.stat().st_size < 300 * 1024
    text = path.read_text(encoding="utf-8")
    for what in ("/home/", "/root/", "/tmp/", "site-packages", "0x7f"):
        assert what not in text


def test_a_script_becomes_a_notebook_with_outputs(tool, script, capsys):
    assert tool.main([str(script)]) == 0
    made = tool.nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    assert [cell.cell_type for cell in made.cells] == ["markdown", "code", "markdown", "code"]
    assert made.cells[0].source.startswith("# A title\n\nOf [a page](https://example.org/) with")
    assert made.cells[1].source.endswith("import tqdm")  # not what is for the gallery
    assert made.cells[2].source == "## Next\nWhat comes out."
    assert tool.kinds(made.cells[3]) == ["stdout", "image/png/text/plain"]  # and no bar
    assert made.cells[3].outputs[0].text == "one\n" * 3
    assert capsys.readouterr().err == ""


def test_a_check_finds_what_is_not_so_any_more(tool, script):
    path = script.with_suffix(".ipynb")
    made = tool.converted(script)
    assert tool.differences(made, path) == ["there is none: python docs/notebooks.py makes it"]
    assert tool.executed(made, script.parent) == []
    tool.nbformat.write(made, path)
    assert tool.differences(made, path) == []
    script.write_text(SMALL.replace('"one"', '"two"'))
    assert "not those of the script" in tool.differences(tool.converted(script), path)[0]
    script.write_text(SMALL.replace("What comes", "What goes"))
    assert "not those of the script" in tool.differences(tool.converted(script), path)[0]
    del made.cells[3].outputs[1]
    (fault,) = tool.differences(made, path)
    assert fault.startswith(
        "the cell that begins 'for _ in tqdm(range(3)):' puts out ['stdout'], in"
    )


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("import warnings; warnings.warn('old')", "old"),
        ("import os; os.write(2, b'a log line')", "a log line"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_cell_that_complains_is_a_fault(tool, script, line, fault, monkeypatch, capsys):
    # With this, kernels do not look at what C++ writes.
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    script.write_text(f'"""\nA title\n=======\n"""\n\n{line}\n')
    assert tool.main([str(script)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("small.ipynb: ")
    assert fault in said
    assert not script.with_suffix(".ipynb").exists()


def test_image_transfer(shared, tmp_path, monkeypatch, capsys):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    monkeypatch.setenv("XFER_TEST_DATA", str(shared))
    monkeypatch.setenv("HOME", str(tmp_path))
    found = runpy.run_path(str(ROOT / "examples" / "image_transfer.py"))
    assert found["as_it_is"] > 0.92
    assert np.unique(found["y_train"], return_counts=True)[1].tolist() == [10] * 10
    pixels, last, best, gaussian_process = found["found"]["accuracy"].values()
    assert pixels + 0.1 < last < best - 0.05
    assert gaussian_process > last + 0.05
    pixels, last, best, gaussian_process = found["found"]["log loss"].values()
    assert max(best, gaussian_process) < last - 0.2 < pixels - 1
    assert "stage3" in found["best"]["feature_layer_names"]
    assert found["told_apart"] > 0.65
    plt.close("all")
    assert "accuracy on 1,000 pictures of CIFAR-10: 0.93" in capsys.readouterr().out


def test_image_transfer_says_what_it_wants(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.delenv("XFER_TEST_DATA", raising=False)
    with pytest.raises(SystemExit, match="XFER_TEST_DATA must name a folder with the files"):
        runpy.run_path(str(ROOT / "examples" / "image_transfer.py"))
