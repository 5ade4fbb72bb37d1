"""The notebooks of the tutorials, and the script of the second (test_examples has the first)."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", ["text_transfer", "image_transfer"])
def test_a_notebook_has_the_code_of_its_script_and_was_run(name):
    script = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").split('"""', 2)[2]
    cells = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    code = [line for cell in cells for line in "".join(cell["source"]).splitlines()]
    # What is left out are the texts between cells, and settings of the gallery.
    expected = re.sub(r"^# (%%|sphinx_gallery).*\n(#.*\n)*", "", script, flags=re.M).splitlines()
    assert [line for line in code if line] == [line for line in expected if line], "make notebooks"
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


@pytest.mark.slow
def test_image_transfer(shared, tmp_path, monkeypatch, capsys):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    monkeypatch.setenv("XFER_TEST_DATA", str(shared))
    monkeypatch.setenv("HOME", str(tmp_path))
    found = runpy.run_path(str(EXAMPLES / "image_transfer.py"))
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
        runpy.run_path(str(EXAMPLES / "image_transfer.py"))
