"""Diagrams of the same networks as checkpoints, ONNX and PyTorch."""

import re
import warnings

import numpy as np
import pytest

import xfer
from xfer.sources.onnx import OnnxSource


@pytest.fixture
def lenet(shared):
    return xfer.load_checkpoint(shared / "models" / "mnist_lenet", 10)


def reads(diagram):
    """The names that each box reads, by its name."""
    return {name: set(filter(None, read.split(", "))) for name, *_, read in diagram._rows}


def test_a_converted_network_is_drawn_like_its_checkpoint(lenet):
    pytest.importorskip("torch")
    expected = reads(lenet.visualize_net())
    assert expected.pop("softmax_label") == set()  # predictions need none
    expected["softmax"] -= {"softmax_label"}
    assert len(expected) == 12
    diagram = xfer.open_source(lenet.to_torch()).visualize_net()
    assert reads(diagram) == expected


def test_a_diagram_of_an_onnx_file(shared):
    source = xfer.load_checkpoint(shared / "models" / "cifar_resnet20_v1", 0)
    inputs = {"data": np.zeros((2, 3, 32, 32), np.float32)}
    model = source.to_onnx([source.layer_names[-1]], inputs).model
    source = OnnxSource(model)
    diagram = source.visualize_net()
    found = reads(diagram)
    # Every operator that depends on the data, and the data.
    assert found.pop("data") == set()
    assert {*found} <= {*source.layer_names} and len(found) > 60
    for name, read in found.items():
        assert read and read <= {*found, "data"}, name
    makers = {output: node for node in model.graph.node for output in node.output}
    for name, read in found.items():
        assert read == {one for one in makers[name].input if one in {*found, "data"}}
    kinds = [operator for _, operator, *_ in diagram._rows]
    assert kinds.count("Conv") == 21 and "Conv kernel_shape [3, 3]" in diagram.dot
    assert "(16, 32, 32)" in diagram.dot
    assert diagram.dot.count("peripheries=2") == 1
    loose = [one for one in range(len(kinds)) if not re.search(rf"n{one} -> ", diagram.dot)]
    assert len(loose) == 1, "only the output is read by nothing"


def test_a_diagram_of_a_torch_network():
    pytest.importorskip("torch")
    from torch_resnet import resnet18

    network = resnet18().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    source = xfer.open_source(network)
    source.extract(np.zeros((2, 3, 32, 32)), "pool")
    diagram = source.visualize_net()
    found = reads(diagram)
    assert found["stem.0"] == {"images"} and found["stem.1"] == {"stem.0"}
    # A block adds its body to what came in, which is halved in size.
    (added,) = found["stages.1.0.relu"]
    assert found[added] == {"stages.1.0.body.4", "stages.1.0.downsample.1"}
    assert sum(name.startswith("(add") for name in found) == 8
    assert "(512, 1, 1)" in diagram.dot and "Conv2d kernel_size (7, 7)" in diagram.dot
    assert diagram.dot.count("peripheries=2") == 1
    assert network.training
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


def test_calls_of_one_module_are_named_as_layers_are():
    torch = pytest.importorskip("torch")

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = torch.nn.Linear(4, 4)
            self.last = None

        def forward(self, x, mask=None):
            self.last = self.hidden(x)
            return {"scores": self.hidden(self.last)}

    network = Twice()
    source = xfer.open_source(network)
    found = reads(source.visualize_net())
    assert found == {"x": set(), "hidden:0": {"x"}, "hidden:1": {"hidden:0"}}
    assert source.extract(np.ones((2, 4)), "hidden:1").matrix.shape == (2, 4)
    assert network.last is not None and isinstance(network.last, torch.Tensor)


def test_a_network_that_cannot_be_traced_is_drawn_as_its_modules():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Depends(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            x = self.body(x)
            return self.head(x) if x.sum() > 0 else self.head(-x)

    source = xfer.open_source(Depends())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        diagram = source.visualize_net()
    expected = {"output": set(), "body": {"output"}, "body.0": {"body"}, "body.1": {"body"}}
    assert reads(diagram) == {**expected, "head": {"output"}}
    assert "dir=none, style=dashed" in diagram.dot and "arrow" not in diagram.dot
    diagram.__dict__["svg"] = None  # as without Graphviz
    assert ">in</th>" in diagram._repr_html_()
