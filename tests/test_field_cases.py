"""Networks of public repositories that went wrong, in small: right numbers, or what to do."""

import json

import numpy as np
import pytest
from operator_checks import check

import xfer
from xfer.checkpoint import write_params

RANDOM = np.random.RandomState(0)


def floats(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Write a checkpoint `net` into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(nodes, heads, parameters=None):
        """Save nodes (operator, name, attributes, inputs), inputs and heads by name or index."""
        found, places = [], {}
        for operator, name, attributes, inputs in nodes:
            entries = [entry if isinstance(entry, tuple) else (entry, 0) for entry in inputs]
            inputs = [[places[source], output, 0] for source, output in entries]
            places[name] = len(found)
            found.append({"op": operator, "name": name, "attrs": attributes, "inputs": inputs})
        entries = [entry if isinstance(entry, tuple) else (entry, 0) for entry in heads]
        heads = [[places.get(source, source), output, 0] for source, output in entries]
        variables = [place for place, node in enumerate(found) if node["op"] == "null"]
        graph = {"nodes": found, "arg_nodes": variables, "heads": heads}
        graph["attrs"] = {"mxnet_version": ["int", 10901]}
        with open("net-symbol.json", "w") as file:
            json.dump(graph, file)
        write_params("net-0000.params", parameters or {"arg:unused": floats(1)})
        return "net"

    return write


def variable(name, **attributes):
    return "null", name, attributes, []


@pytest.mark.parametrize("steps", [65, 130])
def test_a_network_unrolled_over_many_steps(mx, tmp_path, steps):
    cell = mx.rnn.LSTMCell(4, prefix="lstm_")
    outputs, _ = cell.unroll(steps, mx.sym.Variable("data"), layout="NTC", merge_outputs=False)
    scores = mx.sym.FullyConnected(outputs[-1], num_hidden=2, name="scores")
    module = mx.mod.Module(scores, label_names=None)
    module.bind([("data", (3, steps, 4))], for_training=False)
    module.init_params(mx.init.Normal(0.5))
    module.save_checkpoint(str(tmp_path / "net"), 0)
    data = floats(3, steps, 4)
    found, expected = (
        xfer.load_checkpoint(tmp_path / "net", engine=engine).extract(data, "scores").matrix
        for engine in ("onnxruntime", "mxnet")
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("operator", ["_zeros", "_ones", "_full"])
def test_a_shape_that_mxnet_infers(mx, operator):
    x, value = mx.sym.Variable("x"), {"value": 2} if operator == "_full" else {}
    filled = getattr(mx.sym._internal, operator)(shape=(0, 0), **value)
    chosen = mx.sym.where(x > 0, x, filled)
    parts = [chosen, chosen + filled, filled - x, mx.sym.add_n(filled, x, filled)]
    check(mx, mx.sym.Group(parts), {"x": floats(5, 4)})


@pytest.mark.parametrize("operator", ["sum", "tanh"])
def test_a_shape_that_nothing_tells(save, operator):
    nodes = [
        variable("data"),
        ("_ones", "ones", {"shape": "(0, 0)"}, []),
        (operator, "same", {}, ["ones"]),
        ("broadcast_add", "added", {}, ["data", "same"]),
    ]
    source = xfer.load_checkpoint(save(nodes, ["added"]))
    with pytest.raises(ValueError, match="infers more than the number of examples"):
        source.extract(floats(5, 4), "added")
    assert source.layers[0].shape is None
