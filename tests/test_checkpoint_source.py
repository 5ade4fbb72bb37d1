"""MXNet networks on ONNX Runtime: the same features, with MXNet and without it."""

import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import bound_module, cifar_input, load_module

import xfer
from xfer.checkpoint.network import Network
from xfer.checkpoint.operators import OPERATORS
from xfer.checkpoint.operators.registry import Operator
from xfer.checkpoint.symbol import MxGraph
from xfer.sources.checkpoint import CheckpointSource

LAYERS = ["relu1", "halves_output1", "dropout0", "softmax"]
SHARED = {
    "newsgroups_cnn": (0, (300,)),
    "cifar_resnet20_v1": (0, (3, 32, 32)),
    "cifar_resnet20_v2": (0, (3, 32, 32)),
    "mnist_lenet": (10, (1, 28, 28)),
}


@pytest.fixture
def checkpoint(module, tmp_path):
    """The small image network, saved."""
    module.save_checkpoint(str(tmp_path / "net"), 3)
    return str(tmp_path / "net")


@pytest.mark.parametrize("name", SHARED)
def test_every_layer_of_real_checkpoints_is_that_of_mxnet(mx, shared, name):
    epoch, shape = SHARED[name]
    random = np.random.RandomState(0)
    data = (
        random.normal(size=(5, *shape)) if len(shape) > 1 else random.randint(30000, size=(5, 300))
    )
    prefix = shared / "models" / name
    source = xfer.load_checkpoint(prefix, epoch, engine="onnxruntime")
    names = source.layer_names
    found = source.extract(data, names)
    expected = xfer.load_checkpoint(prefix, epoch, engine="mxnet").extract(data, names)
    for layer in names:
        scale = np.abs(expected[layer]).max()
        np.testing.assert_allclose(found[layer], expected[layer], rtol=0, atol=2e-5 * scale)
    module = load_module(mx, shared, name, epoch, label_names=None)
    assert xfer.open_source(module).fingerprint(names) == source.fingerprint(names)


@pytest.mark.parametrize(
    ("name", "accuracy"), [("cifar_resnet20_v1", 0.92), ("cifar_resnet20_v2", 0.93)]
)
def test_real_checkpoints_are_right_without_mxnet(shared, name, accuracy):
    data = np.load(shared / "data" / "cifar10_test_1000.npz")
    source = xfer.load_checkpoint(shared / "models" / name)
    scores = source.extract(cifar_input(data["x"]), source.layer_names[-1]).matrix
    assert (scores.argmax(axis=1) == data["y"]).mean() >= accuracy


def test_nothing_imports_mxnet(shared):
    code = f"""
import sys
import numpy as np
import xfer
source = xfer.open_source({str(shared / "models/mnist_lenet-0010.params")!r})
print(source)
images = np.random.RandomState(0).normal(size=(20, 1, 28, 28))
repurposer = xfer.LrRepurposer(source, ["activation2"]).fit(images, np.arange(20) % 2)
repurposer.predict_proba(images)
assert "mxnet" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_engines_agree(module, images):
    expected = xfer.open_source(module, engine="mxnet").extract(images, LAYERS).matrix
    for engine in ("auto", "onnxruntime"):
        found = xfer.open_source(module, engine=engine).extract(images, LAYERS).matrix
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="engine must be one of auto, onnxruntime, mxnet, got 'x'"):
        xfer.open_source(module, engine="x")


def test_mxnet_leaves_the_parameters_as_they_are(mx, images):
    """It would turn weights into a layout of its own where they are, were it lent them."""
    net = mx.sym.Convolution(mx.sym.var("data"), kernel=(3, 3), num_filter=32, name="conv")
    module = bound_module(mx, net, {"data": (8, 2, 6, 6)}, label_names=None)
    source = xfer.open_source(module)
    before = source.fingerprint("conv")
    features = source.extract(images, "conv").matrix
    assert source.fingerprint("conv") == before
    again = xfer.sources.source_from_state(*source.to_state()).extract(images, "conv").matrix
    np.testing.assert_array_equal(again, features)


def test_the_first_examples_are_computed_by_both_and_no_others(mx, module, images, monkeypatch):
    binds = []
    bind = mx.sym.Symbol.bind
    monkeypatch.setattr(
        mx.sym.Symbol, "bind", lambda *args, **kwargs: binds.append(args) or bind(*args, **kwargs)
    )
    source = xfer.open_source(module)
    for _ in range(3):
        source.extract(images, LAYERS, batch_size=4)
    assert len(binds) == 1
    source.extract(images, "relu1")
    assert len(binds) == 2, "other layers are compared for themselves"


def test_mxnet_takes_over_where_the_engines_disagree(module, images, monkeypatch):
    def wrong(op, x):
        return op("LeakyRelu", x, alpha=0.1)

    right = OPERATORS["Activation"]
    monkeypatch.setitem(OPERATORS, "Activation", Operator(wrong, right.outputs, right.idle))
    source = xfer.open_source(module)
    expected = xfer.open_source(module, engine="mxnet").extract(images, LAYERS).matrix
    with pytest.warns(
        UserWarning,
        match=r"MXNet runs the network, .*: ONNX Runtime and MXNet disagree on layer 'relu1': "
        r"the largest difference is 0\.\d+, the largest value \d\.\d+",
    ) as told:
        found = source.extract(images, LAYERS, batch_size=4).matrix
    assert [warning.category for warning in told].count(UserWarning) == 1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        source.extract(images, LAYERS).matrix, expected, rtol=1e-5, atol=1e-6
    )
    insisted = xfer.open_source(module, engine="onnxruntime").extract(images, "relu1").matrix
    assert (insisted < 0).any()


def test_mxnet_takes_over_where_there_is_no_conversion(mx, images, tmp_path):
    net = mx.sym.contrib.quadratic(mx.sym.var("data"), a=1, b=2, c=3, name="square")
    net = mx.sym.linalg.inverse(mx.sym.Flatten(net, name="flat").reshape((-1, 2, 6, 6)))
    module = bound_module(mx, net, {"data": (8, 2, 6, 6)}, label_names=None)
    source = xfer.open_source(module)
    with pytest.warns(UserWarning, match="no conversion for operator _contrib_quadratic") as told:
        found = source.extract(images, "flat", batch_size=4)["flat"]
    assert [warning.category for warning in told].count(UserWarning) == 1
    np.testing.assert_allclose(found, (images**2 + 2 * images + 3).reshape(21, -1), rtol=1e-5)
    source = xfer.open_source(module, engine="onnxruntime")
    with pytest.raises(
        ValueError,
        match=r"operator _contrib_quadratic .*operator _linalg_inver.*; the .* supported",
    ):
        source.extract(images, source.layer_names[-1])
    module.save_checkpoint(str(tmp_path / "net"), 0)
    with pytest.warns(UserWarning, match="no conversion for operator _contrib_quadratic"):
        loaded = xfer.load_checkpoint(tmp_path / "net").extract(images, "flat")
    np.testing.assert_array_equal(loaded["flat"], found)


def test_without_mxnet_an_operator_without_conversion_is_an_error(
    mx, images, tmp_path, monkeypatch
):
    net = mx.sym.contrib.quadratic(mx.sym.var("data"), a=1, b=2, c=3, name="square")
    module = bound_module(mx, net, {"data": (8, 2, 6, 6)}, label_names=None)
    module.save_checkpoint(str(tmp_path / "net"), 0)
    monkeypatch.setitem(sys.modules, "xfer.sources.mxnet_engine", None)
    with pytest.raises(
        ValueError, match="no conversion for operator _contrib_quadratic .*pip install mxnet"
    ):
        xfer.load_checkpoint(tmp_path / "net").extract(images, "square")


def test_devices_of_mxnet_are_for_mxnet(mx, module, images, monkeypatch):
    with pytest.raises(ValueError, match="engine='onnxruntime' runs on the CPU"):
        xfer.open_source(module, engine="onnxruntime", num_devices=2)
    source = xfer.open_source(module, num_devices=2)
    monkeypatch.delattr("xfer.sources.checkpoint.CheckpointSource._run_onnx")
    assert source.extract(images, "relu1").matrix.shape == (21, 4 * 36)


def test_a_checkpoint_is_the_module_that_it_was_saved_from(module, images, checkpoint):
    expected = xfer.open_source(module)
    source = xfer.load_checkpoint(checkpoint, 3)
    assert source.input_names == ["data"], "the label is none"
    assert repr(source) == "CheckpointSource(13 layers, inputs: data)"
    conv1 = source.find_layers("conv1")[0]
    assert (conv1.operator, conv1.shape, conv1.parameter_count) == (
        "Convolution",
        (4, None, None),
        76,
    )
    found = source.extract(images, LAYERS).matrix
    np.testing.assert_array_equal(found, expected.extract(images, LAYERS).matrix)
    assert [layer.shape for layer in source.layers] == [layer.shape for layer in expected.layers]
    assert "?" not in str(source)
    for same in (
        xfer.open_source(checkpoint + "-0003.params"),
        xfer.load_checkpoint(checkpoint + "-symbol.json", 3),
    ):
        assert same.layer_names == source.layer_names


def test_shapes_are_those_that_mxnet_infers(mx, module):
    internals = module.symbol.get_internals()
    _, shapes, _ = internals.infer_shape(data=(8, 2, 6, 6))
    expected = dict(zip(internals.list_outputs(), shapes))
    for layer in xfer.open_source(module).layers:
        name = layer.name if layer.name.startswith("halves") else f"{layer.name}_output"
        assert layer.shape == expected[name][1:], layer


def test_checkpoints_that_cannot_be_read(mx, module, checkpoint, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="there is no file .*net-0004.params; in that folder: net-0003.params",
    ):
        xfer.load_checkpoint(checkpoint, 4)
    with pytest.raises(FileNotFoundError, match="no-such-symbol.json; in that folder: net-symbol"):
        xfer.load_checkpoint(tmp_path / "no-such")
    for epoch in (-1, 1.5, True, "3"):
        with pytest.raises(ValueError, match="epoch must be an integer >= 0, got"):
            xfer.load_checkpoint(checkpoint, epoch)
    others = {"other": mx.nd.ones((2,))}
    mx.model.save_checkpoint(str(tmp_path / "other"), 0, module.symbol, others, {})
    with pytest.raises(
        ValueError, match="other-0000.params lacks conv1_weight.*; it has other. .* another net"
    ):
        xfer.load_checkpoint(tmp_path / "other")
    (tmp_path / "net-symbol.json").write_text("{}")
    with pytest.raises(ValueError, match="net-symbol.json: "):
        xfer.load_checkpoint(checkpoint, 3)


def test_data_that_do_not_fit_are_refused(checkpoint, images):
    source = xfer.load_checkpoint(checkpoint, 3)
    with pytest.raises(
        ValueError,
        match=r"shape \(3, 6, 6\) for one example do not fit the network: layer 'conv1' \(Conv",
    ):
        source.extract(np.zeros((4, 3, 6, 6)), "dropout0")
    with pytest.raises(ValueError, match=r"shape \(6,\) for one example do not fit the network"):
        source.extract(np.zeros((4, 6)), "dropout0")
    assert source.extract(images, "dropout0").matrix.shape == (21, 2), "and it still works"


def test_variables_of_one_name_are_one(mx, images):
    data, weight = mx.sym.var("data"), mx.sym.var("weight")
    first = mx.sym.FullyConnected(data, weight, num_hidden=4, no_bias=True, name="first")
    data, weight = mx.sym.var("data"), mx.sym.var("weight")
    second = mx.sym.FullyConnected(data, weight, num_hidden=4, no_bias=True, name="second")
    parameters = {"weight": np.random.RandomState(0).normal(size=(4, 72)).astype(np.float32)}
    text = mx.sym.elemwise_add(first, second, name="sum").tojson()
    source = CheckpointSource(Network(MxGraph.from_json(text), parameters, {}, ["data"], []))
    expected = 2 * images.reshape(21, 72) @ parameters["weight"].T
    np.testing.assert_allclose(source.extract(images, "sum")["sum"], expected, rtol=1e-4, atol=1e-5)


def test_a_graph_for_one_number_of_examples(mx, images, tmp_path):
    fixed = mx.sym.Reshape(mx.sym.var("data"), shape=(8, 72), name="fixed")
    turned = mx.sym.transpose(fixed, name="turned")
    bound_module(mx, turned, {"data": (8, 2, 6, 6)}, label_names=None).save_checkpoint(
        str(tmp_path / "net"), 0
    )
    source = xfer.load_checkpoint(tmp_path / "net")
    for batch_size in (None, 8, 5):
        features = source.extract(images, "fixed", batch_size=batch_size)
        np.testing.assert_array_equal(features["fixed"], images.reshape(21, -1))
    with pytest.raises(ValueError, match=r"'turned' has output shape \(72, 8\) for a batch of 8"):
        source.extract(images, "turned", batch_size=8)


@pytest.mark.slow
def test_repurposers_of_a_module_work_where_there_is_no_mxnet(module, images, tmp_path):
    labels = np.array(["a", "b", "c"])[np.arange(21) % 3]
    repurposer = xfer.LrRepurposer(module, ["relu1"]).fit(images, labels)
    repurposer.save_repurposer("saved", tmp_path)
    np.save(tmp_path / "images.npy", images)
    code = f"""
import sys
sys.modules["mxnet"] = None
import numpy as np, xfer
folder = {str(tmp_path)!r}
probabilities = xfer.load("saved", folder).predict_proba(np.load(folder + "/images.npy"))
np.save(folder + "/found.npy", probabilities)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_array_equal(found, repurposer.predict_proba(images))


def test_a_saved_repurposer_takes_the_checkpoint_as_its_network(
    module, images, checkpoint, tmp_path
):
    repurposer = xfer.LrRepurposer(module, ["relu1"]).fit(images, np.arange(21) % 3)
    repurposer.save_repurposer("small", tmp_path, save_source_model=False)
    loaded = xfer.load("small", tmp_path, source_model=xfer.load_checkpoint(checkpoint, 3))
    np.testing.assert_array_equal(loaded.predict_proba(images), repurposer.predict_proba(images))


def test_an_operator_that_nobody_has(images, checkpoint):
    path = pathlib.Path(checkpoint + "-symbol.json")
    path.write_text(path.read_text().replace('"op": "Activation"', '"op": "Unheard"'))

    def extract(layer, **options):
        return xfer.load_checkpoint(checkpoint, 3, **options).extract(images, layer)

    assert extract("conv1").shapes == {"conv1": (4, 6, 6)}
    lacking = "no conversion for operator Unheard .layer 'relu1'.; the .* supported"
    unread = "MXNet cannot read the graph: .*Unheard"
    for options, message in (
        ({}, f"{lacking}.*; {unread}"),
        ({"engine": "onnxruntime"}, lacking),
        ({"engine": "mxnet"}, f"^{unread}"),
    ):
        with pytest.raises(ValueError, match=message):
            extract("relu1", **options)


@pytest.mark.parametrize("engine", ["auto", "mxnet"])
def test_sources_travel_to_other_processes(module, images, checkpoint, engine):
    for source in (
        xfer.open_source(module, engine=engine),
        xfer.load_checkpoint(checkpoint, 3, engine=engine),
    ):
        features = source.extract(images, LAYERS).matrix
        again = pickle.loads(pickle.dumps(source)).extract(images, LAYERS).matrix
        np.testing.assert_array_equal(again, features)


def test_a_checkpoint_in_half_precision(mx, module, images, checkpoint, tmp_path):
    arrays = mx.nd.load(checkpoint + "-0003.params")
    halves = {name: array.astype("float16") for name, array in arrays.items()}
    mx.nd.save(str(tmp_path / "half-0000.params"), halves)
    shutil.copy(checkpoint + "-symbol.json", tmp_path / "half-symbol.json")
    found = xfer.load_checkpoint(tmp_path / "half").extract(images, "dropout0")["dropout0"]
    expected = xfer.open_source(module).extract(images, "dropout0")["dropout0"]
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_no_parameters_are_copied_for_an_embedding(mx, tmp_path):
    embed = mx.sym.Embedding(mx.sym.var("data"), input_dim=9, output_dim=4, name="embed")
    bound_module(mx, embed, {"data": (8, 3)}, label_names=None).save_checkpoint(
        str(tmp_path / "n"), 0
    )
    source = xfer.load_checkpoint(tmp_path / "n")
    assert source.extract(np.arange(9).reshape(3, 3), "embed").shapes == {"embed": (3, 4)}
    with pytest.raises(ValueError, match="id 9, but layer 'embed' has only ids 0 to 8"):
        source.extract(np.arange(1, 10).reshape(3, 3), "embed")
