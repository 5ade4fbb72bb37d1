"""One small network in every framework: what the contract test runs over."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from xfer.sources import Layer, SourceModel

RANDOM = np.random.RandomState(0)
WEIGHTS = {
    "conv1_weight": RANDOM.normal(size=(4, 2, 3, 3)).astype(np.float32),
    "conv1_bias": RANDOM.normal(size=4).astype(np.float32),
    "fc1_weight": RANDOM.normal(size=(3, 64), scale=0.1).astype(np.float32),
    "fc1_bias": RANDOM.normal(size=3).astype(np.float32),
}
IMAGES = RANDOM.normal(size=(21, 2, 6, 6)).astype(np.float32)
PAIR = {"left": IMAGES[:, 0, 0], "right": IMAGES[:, 1, :, 0].copy()}


@dataclass
class Case:
    """A network, the names of its layers, and how to tell whether something has changed it."""

    model: object
    relu: str
    scores: str
    state: object = field(default=lambda: None)


def reference(images):
    """What the network puts out, in plain NumPy: the maps of its convolution, and its scores."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(2, 3))
    maps = np.einsum("ncijkl,ockl->noij", windows, WEIGHTS["conv1_weight"])
    maps = np.maximum(maps + WEIGHTS["conv1_bias"][:, None, None], 0)
    flat = maps.reshape(len(images), -1)
    return maps, flat @ WEIGHTS["fc1_weight"].T + WEIGHTS["fc1_bias"]


def reference_of_pair(left, right):
    """What the network with two inputs puts out."""
    return np.tanh(left) + 2 * right


def _symbol(mx):
    data = mx.sym.var("data")
    net = mx.sym.Convolution(data, kernel=(3, 3), num_filter=4, name="conv1")
    net = mx.sym.Activation(net, act_type="relu", name="relu1")
    return mx.sym.FullyConnected(net, num_hidden=3, name="fc1")


def _module(folder):
    mx = pytest.importorskip("mxnet")
    module = mx.mod.Module(_symbol(mx), label_names=None)
    module.bind([("data", (8, 2, 6, 6))], for_training=False)
    module.set_params({name: mx.nd.array(array) for name, array in WEIGHTS.items()}, {})
    return module


def module(folder):
    made = _module(folder)

    def state():
        return [array.asnumpy().tolist() for array in made.get_params()[0].values()], made.binded

    return Case(made, "relu1", "fc1", state)


def checkpoint(folder):
    _module(folder).save_checkpoint(str(folder / "net"), 3)
    path = folder / "net-0003.params"
    return Case(path, "relu1", "fc1", path.read_bytes)


def onnx_file(folder):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["data", "conv1_weight", "conv1_bias"], ["conv1"]),
        helper.make_node("Relu", ["conv1"], ["relu1"]),
        helper.make_node("Flatten", ["relu1"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc1_weight", "fc1_bias"], ["fc1"], transB=1),
    ]
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 2, 6, 6])
    out = helper.make_tensor_value_info("fc1", TensorProto.FLOAT, ["n", 3])
    weights = [numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()]
    graph = helper.make_graph(nodes, "net", [data], [out], weights)
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, ir_version=8), path)
    return Case(str(path), "relu1", "fc1", path.read_bytes)


def gluon_block(folder):
    mx = pytest.importorskip("mxnet")
    net = mx.gluon.nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(mx.gluon.nn.Conv2D(4, 3, in_channels=2, activation="relu", prefix="conv1_"))
        net.add(mx.gluon.nn.Dense(3, in_units=64, prefix="fc1_"))
    net.initialize()
    for name, parameter in net.collect_params().items():
        parameter.set_data(mx.nd.array(WEIGHTS[name.removeprefix("net_")]))

    def state():
        values = [one.data().asnumpy().tolist() for one in net.collect_params().values()]
        return values, net._active, str(net)

    return Case(net, "net_conv1_relu_fwd", "net_fc1_fwd", state)


def torch_module(folder):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential()
    net.add_module("conv1", torch.nn.Conv2d(2, 4, 3))
    net.add_module("relu1", torch.nn.ReLU(inplace=True))
    net.add_module("drop", torch.nn.Dropout(0.5))
    net.add_module("flat", torch.nn.Flatten())
    net.add_module("fc1", torch.nn.Linear(64, 3))
    weights = {name.replace("_", "."): torch.tensor(array) for name, array in WEIGHTS.items()}
    net.load_state_dict(weights)
    net.flat.eval()

    def state():
        values = {name: array.tolist() for name, array in net.state_dict().items()}
        modes = [(one.training, len(one._forward_hooks)) for one in net.modules()]
        return values, modes, torch.get_rng_state().tolist(), torch.is_grad_enabled()

    return Case(net, "relu1", "fc1", state)


class OwnSource(SourceModel):
    """A source as a user would write it."""

    layers = [Layer("relu1", "maps", (4, 4, 4), 76), Layer("fc1", "scores", (3,), 195)]
    input_names = ["data"]

    def _forward(self, inputs, layers):
        if inputs["data"].shape[1:] != (2, 6, 6):
            raise ValueError(f"data of shape {inputs['data'].shape[1:]} do not fit the network")
        found = dict(zip(["relu1", "fc1"], reference(inputs["data"].astype(np.float32))))
        return [found[layer.name] for layer in layers]

    def fingerprint(self, layer_names):
        return {"weights": {name: float(array.sum()) for name, array in WEIGHTS.items()}}


def own_source(folder):
    return Case(OwnSource(), "relu1", "fc1")


CASES = [module, checkpoint, onnx_file, gluon_block, torch_module, own_source]


def module_pair(folder):
    mx = pytest.importorskip("mxnet")
    left, right = mx.sym.var("left"), mx.sym.var("right")
    both = mx.sym.elemwise_add(mx.sym.tanh(left), right * 2, name="both")
    module = mx.mod.Module(both, data_names=["left", "right"], label_names=None)
    module.bind([("left", (8, 6)), ("right", (8, 6))], for_training=False)
    module.init_params()
    return module, "both"


def gluon_pair(folder):
    mx = pytest.importorskip("mxnet")

    class Pair(mx.gluon.HybridBlock):
        def hybrid_forward(self, F, left, right):
            return F.elemwise_add(F.tanh(left), right * 2, name="both")

    return Pair(prefix=""), "both"


def onnx_pair(folder):
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Tanh", ["left"], ["bent"]),
        helper.make_node("Add", ["right", "right"], ["double"]),
        helper.make_node("Add", ["bent", "double"], ["both"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 6])
        for name in ("left", "right", "both")
    ]
    graph = helper.make_graph(nodes, "net", ends[:2], ends[2:])
    return helper.make_model(graph, ir_version=8), "both"


def torch_pair(folder):
    torch = pytest.importorskip("torch")

    class Pair(torch.nn.Module):
        def forward(self, left, right):
            return left.tanh() + 2 * right

    return Pair(), "output"


PAIRS = [module_pair, gluon_pair, onnx_pair, torch_pair]


WORDS = np.array([[3, 1, 2, 0, 0], [4, 0, 0, 0, 0], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])
TABLE = RANDOM.normal(size=(6, 3)).astype(np.float32)


def module_words(folder):
    mx = pytest.importorskip("mxnet")
    table = mx.sym.Embedding(mx.sym.var("data"), input_dim=6, output_dim=3, name="table")
    module = mx.mod.Module(table, label_names=None)
    module.bind([("data", (4, 5))], for_training=False)
    module.set_params({"table_weight": mx.nd.array(TABLE)}, {})
    return module, "table"


def onnx_words(folder):
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Gather", ["weight", "data"], ["table"])]
    data = helper.make_tensor_value_info("data", TensorProto.INT64, ["n", "t"])
    out = helper.make_tensor_value_info("table", TensorProto.FLOAT, ["n", "t", 3])
    weights = [numpy_helper.from_array(TABLE, "weight")]
    graph = helper.make_graph(nodes, "net", [data], [out], weights)
    return helper.make_model(graph, ir_version=8), "table"


def torch_words(folder):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential()
    net.add_module("table", torch.nn.Embedding.from_pretrained(torch.tensor(TABLE)))
    return net, "table"


WORD_CASES = [module_words, onnx_words, torch_words]
