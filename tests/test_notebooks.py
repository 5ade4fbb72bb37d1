"""The notebooks of the tutorials; test_examples runs their scripts."""

import json
import re
from pathlib import Path

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
