"""Networks as they are out there, saved as they were in their time, against MXNet."""

import json
import re
import time

import field_networks
import numpy as np
import onnx
import onnxruntime
import pytest

import xfer
from xfer.checkpoint.convert import output_names
from xfer.checkpoint.network import Network
from xfer.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:NTC layout detected")
EPOCH = 7
# What is wrong with layers that are no features.
NO_FEATURES = (
    "features need one row for each example|needs the number of examples|depend on no input"
    "|cannot be computed for another batch|different features in another batch|roi_batch_id"
    "|there is no parameter '.*label', and no such data|no conversion for operator"
)


SLOW = {"arcface_resnet100"}  # arcface_in_training is a small one of its kind


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in field_networks.NETWORKS
    ]
)
def field(request, mx, tmp_path):
    """A network, and the prefix that it is saved under."""
    return load(mx, request.param, tmp_path)


def load(mx, name, folder):
    with mx.name.NameManager():
        network = field_networks.NETWORKS[name](mx)
    prefix = str(folder / name)
    field_networks.save(mx, network, prefix, EPOCH)
    return network, prefix


def draw_batch(network, shapes, rows, seed=1):
    random = np.random.RandomState(seed)
    return {
        name: 1.0 + random.randint(network.ids[name] - 1, size=(rows, *shape))
        if name in network.ids
        else random.uniform(0, 9, size=(rows, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def test_features_are_those_of_mxnet(mx, field):
    network, prefix = field
    source = xfer.load_checkpoint(prefix, EPOCH, engine="onnxruntime")
    reference = xfer.load_checkpoint(prefix, EPOCH, engine="mxnet")
    assert sorted(source.input_names) == sorted(network.shapes)
    rows = network.batch or 5
    data = draw_batch(network, network.shapes, rows)
    names = features(mx, network, prefix, data)
    for shapes in filter(None, (network.shapes, network.other)):
        batch = draw_batch(network, shapes, rows)
        for number in {rows, network.batch or 2}:
            part = {name: array[:number] for name, array in batch.items()}
            found, expected = (
                one.extract(part, names, batch_size=number) for one in (source, reference)
            )
            assert_same(found, expected, network.layers)
    if not network.batch:
        assert all(None not in source.find_layers(name)[0].shape for name in names)
    module = mx.mod.Module.load(
        prefix, EPOCH, data_names=list(network.shapes), label_names=network.labels or None
    )
    assert xfer.open_source(module).fingerprint(names) == source.fingerprint(names)


def test_what_is_no_feature_is_refused(mx, field):
    network, prefix = field
    source = xfer.load_checkpoint(prefix, EPOCH, engine="onnxruntime")
    data = draw_batch(network, network.shapes, network.batch or 5)
    for layer, message in network.refused.items():
        with pytest.raises(ValueError, match=message):
            source.extract(data, layer)


@pytest.mark.slow
def test_the_command_line_takes_them(mx, field, capsys, tmp_path):
    network, prefix = field
    assert main(["layers", prefix]) == 0
    table = capsys.readouterr().out
    assert f"Input {network.told}" in table
    data = draw_batch(network, network.shapes, network.batch or 5)
    names = features(mx, network, prefix, data)
    path = str(tmp_path / "out.onnx")
    options = [part for name in names for part in ("--layer", name)]
    for name, shape in network.shapes.items():
        options += ["--shape", f"{name}={','.join(map(str, shape))}"]
    if network.batch:
        assert main(["convert", prefix, str(EPOCH), path, *options]) == 1
        assert f"cannot be reshaped to ({network.batch}, " in capsys.readouterr().err
        return
    assert main(["convert", prefix, str(EPOCH), path, *options]) == 0, capsys.readouterr().err
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {entry.name for entry in session.get_inputs()}
    source = xfer.load_checkpoint(prefix, EPOCH)
    for rows in (3, 1):
        part = {name: array[:rows].astype(np.float32) for name, array in data.items()}
        found = session.run(None, {name: part[name] for name in given})
        expected = source.extract(part, names)
        found = [as_features(array, expected[name]) for name, array in zip(names, found)]
        assert_same(dict(zip(names, found)), expected, network.layers)


def as_features(array, features):
    """Bring the examples of a layer's output to the front, as its features have them."""
    for axis in range(array.ndim):
        moved = np.moveaxis(array, axis, 0)
        rows = (len(features), -1, *moved.shape[1:])
        for values in (moved, moved.reshape(rows)) if len(moved) % len(features) == 0 else ():
            if values.shape == features.shape and np.allclose(values, features, atol=1e-3):
                return values
    return array


def features(mx, network, prefix, data):
    """Every tenth layer, the heads, and what is known to be used, if it is a feature at all."""
    source = xfer.load_checkpoint(prefix, EPOCH, engine="onnxruntime")
    graph = Network.from_files(prefix, EPOCH).graph
    heads = [output_names(graph.nodes[number])[place] for number, place in graph.heads]
    names = []
    for name in dict.fromkeys([*network.layers, *source.layer_names[::10], *heads]):
        reason = why_refused(source, data, name, network.batch)
        if reason:
            assert re.search(NO_FEATURES, reason)
            assert name not in network.layers
        elif name not in network.beyond:
            names.append(source.find_layers(name)[0].name)
    return names


def why_refused(source, data, name, batch_size):
    try:
        source.extract(data, name, batch_size=batch_size)
    except ValueError as error:
        return str(error)


def assert_same(found, expected, layers):
    assert list(found) == list(expected)
    for name, values in expected.items():
        scale = np.abs(values).max()
        assert scale > 0 or name not in layers
        if name == "detection":
            # Of two boxes that are as likely, either may be left out; how sums are rounded decides.
            assert (np.abs(found[name] - values) > 1e-4 * scale).mean() < 0.005
            continue
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-4 * scale, err_msg=name)


def test_a_label_that_the_graph_computes_has_no_say(mx, tmp_path):
    """MXNet needs the boxes of all objects to give the chances of each class."""
    network, prefix = load(mx, "ssd_in_training", tmp_path)
    source = xfer.load_checkpoint(prefix, EPOCH, engine="onnxruntime")
    found = source.extract(
        draw_batch(network, network.shapes, 3), ["multibox_cls_pred", "cls_prob"]
    )
    powers = np.exp(found["multibox_cls_pred"])
    np.testing.assert_allclose(
        found["cls_prob"], powers / powers.sum(axis=1, keepdims=True), rtol=1e-5
    )
    assert main(["layers", prefix]) == 0


def test_a_network_of_a_hundred_layers_opens_at_once(mx, tmp_path):
    _, prefix = load(mx, "arcface_resnet100", tmp_path)
    start = time.perf_counter()
    str(xfer.load_checkpoint(prefix, EPOCH))
    assert time.perf_counter() - start < 5  # 0.2 where nothing else runs


def test_operators_of_ones_own(mx, tmp_path):
    """Such as make the targets of a detector: what comes before them is of use all the same."""
    x = mx.sym.Activation(mx.sym.var("data"), act_type="relu", name="relu")
    x = mx.sym.SliceChannel(x, num_outputs=2, name="slice")
    x = mx.sym.Group([mx.sym.Flatten(x[1], name="flat"), mx.sym.BlockGrad(x[0], name="kept")])
    graph = json.loads(x.tojson())
    for node in graph["nodes"]:
        if node["name"] == "slice":
            node.update(op="Custom", attrs={"op_type": "targets", "num": "3"})
    (tmp_path / "net-symbol.json").write_text(json.dumps(graph))
    mx.nd.save(str(tmp_path / "net-0000.params"), {"arg:unused": mx.nd.ones((2,))})
    source = xfer.load_checkpoint(tmp_path / "net", engine="onnxruntime")
    assert [layer.operator for layer in source.layers][:2] == ["Activation", "Custom"]
    data = np.ones((3, 2, 4, 4), np.float32)
    np.testing.assert_array_equal(source.extract(data, "relu")["relu"], data)
    with pytest.raises(ValueError, match="no conversion for operator Custom .layer 'slice'.; "):
        source.extract(data, "flat")


def test_parameters_that_do_not_say_what_they_are(mx, tmp_path):
    """As Gluon's `save_parameters` writes them: statistics among what is learned."""
    network, prefix = load(mx, "gender_and_age_of_insightface", tmp_path)
    path = f"{prefix}-{EPOCH:04d}.params"
    arrays = {name[4:]: array for name, array in mx.nd.load(path).items()}
    data = draw_batch(network, network.shapes, 2)
    expected = xfer.load_checkpoint(prefix, EPOCH).extract(data, "fc1")["fc1"]
    mx.nd.save(path, arrays)
    for engine in ("onnxruntime", "mxnet"):
        found = xfer.load_checkpoint(prefix, EPOCH, engine=engine).extract(data, "fc1")["fc1"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_heads_are_told_apart_by_place(mx, tmp_path):
    """Two layers of one name, both of them heads, as a second branch often is."""
    data = mx.sym.var("data")
    heads = [mx.sym.Activation(data, act_type=kind, name="act") for kind in ("relu", "tanh")]
    (tmp_path / "net-symbol.json").write_text(mx.sym.Group(heads).tojson())
    mx.nd.save(str(tmp_path / "net-0000.params"), {"arg:unused": mx.nd.ones((2,))})
    path = str(tmp_path / "net.onnx")
    assert main(["convert", str(tmp_path / "net"), "0", path, "--shape", "data=3"]) == 0
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    data = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    relu, tanh = session.run(None, {"data": data})
    np.testing.assert_array_equal(relu, np.maximum(data, 0))
    np.testing.assert_allclose(tanh, np.tanh(data), rtol=1e-5)
