"""What notebooks show of networks and of training."""

import re
import textwrap

import numpy as np
import pytest

import xfer
from xfer.training import History


def cells(html):
    """Return the cells of the rows of a table."""
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


class Network(xfer.sources.SourceModel):
    """One layer with an awkward name."""

    layers = [xfer.sources.Layer("a<b>", "Maps", (8, None), 1234)]
    input_names = ["data"]

    def _forward(self, inputs, layers):
        return [np.ones((len(inputs["data"]), 8, 2)) for _ in layers]


def test_a_source_shows_its_layers():
    html = Network()._repr_html_()
    assert cells(html) == [
        ["layer", "operator", "output shape", "parameters", "features"],
        ["a&lt;b&gt;", "Maps", "(8, ?)", "1,234", "default"],
    ]
    assert "?: known once the network has run on an example" in html
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    names, marks = list(zip(*cells(source._repr_html_())[1:]))[::4]
    assert list(names) == source.layer_names
    good = dict.fromkeys(["pool1", "pool2", "relu3", "fc1"], "good")
    assert {n: m for n, m in zip(names, marks) if m} == {**good, "pool3": "default"}


def test_layers_are_a_table_for_pandas():
    pandas = pytest.importorskip("pandas")
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    frame = pandas.DataFrame(source.layers)
    assert list(frame.columns) == ["name", "operator", "shape", "parameter_count"]
    assert list(frame.name) == source.layer_names


def test_a_history_shows_its_epochs():
    history = History([0.1, 0.05], [1.2, 0.7], [0.5, 0.8], best_epoch=2)
    assert cells(history._repr_html_())[1:] == [
        ["1", "0.1", "1.200", "0.500"],
        ["2", "0.05", "0.700", "0.800"],
    ]
    history.validation_loss, history.validation_accuracy = [1.5, 1.3, 1.4], [0.3, 0.6, 0.7]
    head, *rows = cells(history._repr_html_())
    assert len(head) == 6
    assert rows == [
        ["0", "", "", "", "1.500", "0.300"],
        ["1", "0.1", "1.200", "0.500", "1.300", "0.600"],
        ["2", "0.05", "0.700", "0.800", "1.400", "0.700"],
    ]


def test_a_notebook_without_widgets_is_quiet():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    code = """
        import xfer
        images, digits = xfer.example.digits()
        source = xfer.load_checkpoint(xfer.example.checkpoint())
        xfer.GpRepurposer(source, "pool3").fit(images[:100], digits[:100])
        source
        """
    cell = nbformat.v4.new_code_cell(textwrap.dedent(code))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, kernel_name="python3").execute()
    assert [output.output_type for output in cell.outputs] == ["execute_result"], cell.outputs
    assert "text/html" in cell.outputs[0].data
