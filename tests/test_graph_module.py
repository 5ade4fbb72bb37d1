"""Networks as PyTorch modules: gradients and running statistics against MXNet, and the modules."""

import copy
import pickle
import re

import numpy as np
import pytest
from operator_checks import bind, draw_parameters, run_mxnet, to_torch

from xfer.checkpoint.network import Network
from xfer.checkpoint.symbol import MxGraph

torch = pytest.importorskip("torch")


def normal(*shape, seed=0):
    return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


def check_training(mx, symbol, data, *, parameters=None, tolerance=2e-5, ids=()):
    """Compare a step of training: outputs, gradients of all but `ids`, and running statistics.

    The gradients of the outputs are random.
    """
    arrays = {**(parameters or draw_parameters(symbol, data)), **data}
    names, states = symbol.list_arguments(), symbol.list_auxiliary_states()
    on_mxnet = {name: mx.nd.array(arrays[name]) for name in names}
    learned = {name: mx.nd.zeros(arrays[name].shape) for name in names if name not in ids}
    auxiliary = {name: mx.nd.array(arrays[name]) for name in states}
    executor = bind(mx, symbol, on_mxnet, auxiliary, learned)
    expected = [output.asnumpy() for output in executor.forward(is_train=True)]
    weights = [normal(*array.shape, seed=1) for array in expected]
    executor.backward([mx.nd.array(array) for array in weights])

    graph = MxGraph.from_json(symbol.tojson())
    parameters = {name: array for name, array in arrays.items() if name not in data}
    shapes = {name: (array.dtype, array.shape) for name, array in data.items()}
    module = to_torch(graph, parameters, shapes).train()
    given = module.meta["input_names"]
    inputs = [torch.tensor(data[name], requires_grad=name not in ids) for name in given]
    found = module(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, tolerance)
    torch.autograd.backward(found, [torch.from_numpy(array) for array in weights])
    gradients = dict(zip(given, (one.grad for one in inputs)))
    places, parameters = module.meta["places"], dict(module.named_parameters())
    gradients |= {n: parameters[at].grad for n, at in places.items() if at in parameters}
    for name in learned:
        if gradients.get(name) is None:  # such as the gamma that is fixed
            assert not learned[name].asnumpy().any(), name
        else:
            assert_close(gradients[name], learned[name].asnumpy(), tolerance, name)
    buffers = dict(module.named_buffers())
    for name in states:
        if name in places:
            assert_close(buffers[places[name]], auxiliary[name].asnumpy(), tolerance, name)
    return module


def assert_close(found, expected, tolerance, name=""):
    found = found.detach().numpy()
    assert found.shape == expected.shape
    scale = max(1.0, np.abs(expected).max(initial=0))
    error = np.abs(found - expected)
    if tolerance > 1e-4:  # of whole networks, where rounding may choose another maximum
        scale, error = max(1.0, np.linalg.norm(expected)), np.linalg.norm(error)
    assert error.max(initial=0) <= tolerance * scale, f"{name}: off by {error.max()} of {scale}"


IMAGES, ROWS, STEPS = normal(2, 4, 6, 5), normal(3, 5), normal(4, 2, 3)
POSITIVE = np.abs(normal(3, 5)) + 0.5

# By MXNet's name: data, then attributes. Parameters are drawn.
LAYERS = [
    ("Convolution", IMAGES, {"kernel": (3, 3), "num_filter": 3, "pad": (1, 0), "stride": (2, 1)}),
    ("Convolution", IMAGES, {"kernel": (2, 2), "num_filter": 4, "num_group": 2, "dilate": (2, 1)}),
    ("Convolution", IMAGES[..., 0], {"kernel": (3,), "num_filter": 3, "no_bias": True}),
    ("Deconvolution", IMAGES, {"kernel": (3, 3), "num_filter": 3, "stride": (2, 2), "pad": (1, 1)}),
    ("Deconvolution", IMAGES, {"kernel": (2, 2), "num_filter": 2, "target_shape": (7, 6)}),
    (
        "Deconvolution",
        IMAGES,
        {"kernel": (3, 3), "num_filter": 4, "num_group": 2, "stride": (2, 2), "adj": (1, 1)},
    ),
    ("FullyConnected", IMAGES, {"num_hidden": 3}),
    ("FullyConnected", STEPS, {"num_hidden": 3, "flatten": False}),
    ("FullyConnected", ROWS, {"num_hidden": 3, "no_bias": True}),
    ("BatchNorm", IMAGES, {"fix_gamma": False, "momentum": 0.7}),
    ("BatchNorm", IMAGES, {"fix_gamma": True}),
    ("BatchNorm", IMAGES, {"fix_gamma": False, "use_global_stats": True}),
    ("BatchNorm", IMAGES, {"fix_gamma": False, "axis": -1, "eps": 0.01}),
    ("BatchNorm", IMAGES, {"fix_gamma": False, "axis": 0}),
    ("BatchNorm", ROWS, {"fix_gamma": False}),
    ("LayerNorm", STEPS, {}),
    ("LayerNorm", STEPS, {"axis": 1}),
    ("InstanceNorm", IMAGES, {}),
    ("GroupNorm", IMAGES, {"num_groups": 2}),
    *(("L2Normalization", IMAGES, {"mode": mode}) for mode in ("instance", "channel", "spatial")),
    ("LRN", IMAGES, {"nsize": 3, "alpha": 0.2}),
    *(
        ("Activation", ROWS, {"act_type": kind})
        for kind in ("relu", "sigmoid", "tanh", "softrelu", "softsign")
    ),
    ("Activation", np.zeros((2, 3), np.float32), {"act_type": "softrelu"}),
    *(
        ("LeakyReLU", IMAGES, {"act_type": kind, **options})
        for kind, options in (
            ("leaky", {"slope": 0.1}),
            ("elu", {"slope": 0.4}),
            ("gelu", {}),
            ("prelu", {}),
        )
    ),
    *(
        ("Pooling", IMAGES, {"pool_type": kind, **options})
        for kind in ("max", "avg", "sum")
        for options in (
            {"kernel": (3, 2), "stride": (2, 2), "pad": (1, 0)},
            {"kernel": (3, 3), "stride": (2, 2), "pooling_convention": "full"},
            {"kernel": (1, 1), "global_pool": True},
        )
    ),
    (
        "Pooling",
        IMAGES,
        {"kernel": (3, 2), "pad": (1, 1), "count_include_pad": False, "pool_type": "avg"},
    ),
    ("Pooling", POSITIVE[None], {"kernel": (2,), "pool_type": "lp", "p_value": 2}),
    ("UpSampling", IMAGES, {"scale": 2, "sample_type": "nearest"}),
    (
        "UpSampling",
        IMAGES,
        {"scale": 2, "sample_type": "bilinear", "num_filter": 4, "num_args": 2},
    ),
    ("_contrib_BilinearResize2D", IMAGES, {"height": 9, "width": 7}),
    ("_contrib_AdaptiveAvgPooling2D", IMAGES, {"output_size": (4, 2)}),
    *(("softmax", STEPS, {"axis": axis}) for axis in (1, -1)),
    *(("log_softmax", STEPS, {"axis": axis}) for axis in (1, -1)),
    ("softmax", STEPS, {"temperature": 2.0}),
    ("Flatten", IMAGES, {}),
    ("Reshape", IMAGES, {"shape": (0, -1, 5)}),
    ("transpose", IMAGES, {"axes": (0, 2, 3, 1)}),
    ("slice", IMAGES, {"begin": (0, 1), "end": (2, 4), "step": (1, 2)}),
    ("slice_axis", IMAGES, {"axis": 2, "begin": 1, "end": 4}),
    ("reverse", IMAGES, {"axis": (2,)}),
    ("SliceChannel", IMAGES, {"num_outputs": 2}),
    ("expand_dims", ROWS, {"axis": 1}),
    ("tile", ROWS, {"reps": (2, 3)}),
    ("repeat", ROWS, {"repeats": 2, "axis": 1}),
    ("Pad", IMAGES, {"mode": "edge", "pad_width": (0, 0, 0, 0, 1, 2, 0, 1)}),
    ("Pad", IMAGES, {"mode": "reflect", "pad_width": (0, 0, 0, 0, 1, 2, 0, 1)}),
    ("depth_to_space", IMAGES, {"block_size": 2}),
    *(
        (kind, POSITIVE, options)
        for kind in ("sum", "mean", "prod", "max", "min", "norm")
        for options in ({}, {"axis": 1}, {"axis": 0, "keepdims": True})
    ),
    *(
        (kind, POSITIVE, {})
        for kind in (
            *("exp", "log", "sqrt", "rsqrt", "square", "cbrt", "reciprocal", "abs", "negative"),
            *("sin", "cos", "tan", "arctan", "sinh", "cosh", "arcsinh", "erf", "expm1", "log1p"),
            *("log2", "log10", "sigmoid", "tanh", "relu", "softsign", "smooth_l1"),
        )
    ),
    ("hard_sigmoid", ROWS * 4, {}),
    ("clip", ROWS, {"a_min": -0.5, "a_max": 0.5}),
    *(
        (f"_{kind}_scalar", POSITIVE, {"scalar": 1.7})
        for kind in ("plus", "minus", "rminus", "mul", "div", "rdiv", "power", "rpower", "maximum")
    ),
    ("_contrib_gradientmultiplier", ROWS, {"scalar": -0.3}),
    ("sort", ROWS, {"axis": 1}),
    ("topk", ROWS, {"k": 2, "ret_typ": "value"}),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: f"{layer[0]} {layer[2]}")
def test_gradients_of_layers(mx, layer):
    kind, data, attributes = layer
    options = {key: str(value) for key, value in attributes.items()}
    function = getattr(mx.sym, kind, None) or getattr(mx.sym._internal, kind, None)
    if kind.startswith("_contrib_"):
        function = getattr(mx.sym.contrib, kind.removeprefix("_contrib_"))
    inputs = [mx.sym.var("data")]
    if attributes.get("num_args"):
        inputs.append(mx.sym.var("weight"))
    symbol = function(*inputs, name="layer", **options)
    check_training(mx, symbol, {"data": data})


@pytest.mark.parametrize(
    "kind",
    [
        *(f"elemwise_{kind}" for kind in ("add", "sub", "mul", "div")),
        *(f"broadcast_{kind}" for kind in ("add", "sub", "mul", "div", "power", "hypot")),
        *(f"broadcast_{kind}" for kind in ("maximum", "minimum", "mod")),
    ],
)
def test_gradients_of_arithmetic(mx, kind):
    shape = (3, 5) if kind.startswith("elemwise") else (1, 5)
    data = {"a": POSITIVE, "b": np.abs(normal(*shape, seed=3)) + 0.3}
    check_training(mx, getattr(mx.sym, kind)(mx.sym.var("a"), mx.sym.var("b")), data)


def test_gradients_of_products_and_joins(mx):
    a, b, ids = mx.sym.var("a"), mx.sym.var("b"), mx.sym.var("ids")
    data = {"a": normal(2, 3, 4), "b": normal(2, 4, 5, seed=1)}
    check_training(mx, mx.sym.batch_dot(a, b), data)
    check_training(mx, mx.sym.dot(a, b), {"a": normal(2, 3), "b": normal(3, 4, seed=1)})
    data = {"a": normal(2, 3, 4), "b": normal(2, 3, 4, seed=1)}
    check_training(mx, mx.sym.concat(a, b, dim=1), data)
    check_training(mx, mx.sym.stack(a, b, axis=1), data)
    check_training(mx, mx.sym.add_n(a, b, a), data)
    check_training(mx, mx.sym.where(mx.sym.zeros_like(a) < a, a, b), data)
    data = {"ids": np.array([[1, 0, 2], [2, 2, 9]], np.float32)}
    check_training(mx, mx.sym.Embedding(ids, input_dim=4, output_dim=3), data, ids=["ids"])
    table = {"table": normal(4, 3)}
    check_training(
        mx, mx.sym.take(mx.sym.var("table", shape=(4, 3)), ids), data, parameters=table, ids=["ids"]
    )


def test_no_gradient_passes_a_block(mx):
    x = mx.sym.var("data")
    lower = mx.sym.FullyConnected(x, num_hidden=3, name="lower")
    symbol = mx.sym.FullyConnected(mx.sym.BlockGrad(lower), num_hidden=2, name="upper")
    module = check_training(mx, symbol, {"data": ROWS})
    assert module.get_parameter("lower_weight").grad is None
    assert module.get_parameter("upper_weight").grad.any()


def test_statistics_of_one_number_per_channel(mx):
    """Its variance is zero; PyTorch's own layer refuses it."""
    symbol = mx.sym.BatchNorm(mx.sym.var("data"), fix_gamma=False, momentum=0.7)
    check_training(mx, symbol, {"data": normal(1, 3)})


MODES = ["lstm", "gru", "rnn_tanh", "rnn_relu"]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_recurrent_networks(mx, mode, layers, bidirectional):
    states = [mx.sym.var(name) for name in ("h", "c")[: 1 + (mode == "lstm")]]
    options = {"mode": mode, "num_layers": layers, "bidirectional": bidirectional}
    symbol = mx.sym.RNN(
        mx.sym.var("data"), mx.sym.var("p"), *states, state_size=3, state_outputs=True, **options
    )
    data = {"data": normal(4, 2, 5)}
    for i, state in enumerate(states):
        data[state.name] = normal(layers * (1 + bidirectional), 2, 3, seed=i)
    check_training(mx, symbol, data)


@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_gradients_of_gluon_recurrent_layers(mx, mode):
    """Their parameters are separate, and joined in the graph."""
    layer = {"lstm": mx.gluon.rnn.LSTM, "gru": mx.gluon.rnn.GRU}[mode](3, 2, input_size=5)
    layer.initialize()
    layer.hybridize()
    symbol = layer(mx.sym.var("data"))
    data = {"data": normal(4, 2, 5)}
    check_training(mx, symbol, data)


def module_of(mx, symbol, **data):
    parameters = draw_parameters(symbol, data)
    shapes = {name: (array.dtype, array.shape) for name, array in data.items()}
    return to_torch(MxGraph.from_json(symbol.tojson()), parameters, shapes)


def test_dropout(mx):
    """It drops a share of the numbers in training, and keeps the mean; nothing in inference."""
    x = mx.sym.var("data")
    ones = np.ones((400, 300), np.float32)
    for symbol, along in (
        (mx.sym.Dropout(x, p=0.3), ()),
        (mx.sym.Dropout(x, p=0.3, axes=(1,)), (1,)),
        (mx.sym.Dropout(x, p=0.3, mode="always"), ()),
    ):
        module = module_of(mx, symbol, data=ones)
        given = torch.tensor(ones, requires_grad=True)
        assert torch.equal(module(given), given)
        torch.manual_seed(0)
        found = module.train()(given)
        np.testing.assert_allclose(found.detach().unique(), [0, 1 / 0.7], rtol=1e-6)
        assert abs(found.mean().item() - 1) < (0.1 if along else 0.01)
        if along:
            assert torch.equal(found, found[:, :1].expand(found.shape))
        found.sum().backward()
        assert torch.equal(given.grad, found.detach())


def test_dropout_between_recurrent_layers(mx):
    options = {"mode": "rnn_relu", "num_layers": 2, "state_size": 50, "state_outputs": False}
    symbol = mx.sym.RNN(mx.sym.var("data"), mx.sym.var("p"), mx.sym.var("h"), p=0.5, **options)
    h = np.zeros((2, 8, 50), np.float32)
    module = module_of(mx, symbol, data=normal(3, 8, 20), h=h)
    given = torch.from_numpy(normal(3, 8, 20)), torch.from_numpy(h)
    assert torch.equal(module(*given), module(*given))
    module.train()
    assert not torch.equal(module(*given), module(*given))


def test_gradients_by_finite_differences(mx):
    """In double precision, where autograd is exact."""
    x = mx.sym.var("data")
    image, rows = normal(2, 2, 4, 4), normal(3, 4)
    symbols = [
        (mx.sym.Convolution(x, kernel=(2, 2), num_filter=2), image),
        (mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pool_type="avg", pad=(1, 1)), image),
        (mx.sym.LayerNorm(x), rows),
        (mx.sym.InstanceNorm(x), image),
        (mx.sym.contrib.BilinearResize2D(x, height=7, width=3), image),
        (mx.sym.LRN(x, nsize=3), image),
        (mx.sym.softmax(x), rows),
        (mx.sym.LeakyReLU(x, act_type="selu"), rows),  # of which MXNet's gradient is wrong
    ]
    for symbol, data in symbols:
        module = module_of(mx, symbol, data=data).double()
        assert torch.autograd.gradcheck(module, torch.tensor(data).double().requires_grad_())
        for name, parameter in module.named_parameters():

            def by_parameter(values, module=module, name=name, data=data):
                return torch.func.functional_call(
                    module, {name: values}, torch.tensor(data).double()
                )

            assert torch.autograd.gradcheck(by_parameter, parameter.detach().requires_grad_())


# Layers, parameters and inputs under names that Python or PyTorch uses.
KEPT_NAMES = ["a.b", "a/b:0", "1x", "é è", "torch"]
ODD_NAMES = ["class", "training", "forward", "type", "lambda.if", "graph", "self", "T_destination"]
ODD_NAMES += ["code", "_modules", "."]


@pytest.mark.parametrize("name", [*KEPT_NAMES, *ODD_NAMES])
def test_names(mx, name):
    x, weight = mx.sym.var("x"), mx.sym.var(name)
    first = mx.sym.FullyConnected(x, weight, no_bias=True, num_hidden=4, name=f"{name}_layer")
    last = mx.sym.FullyConnected(first, num_hidden=4, name=f"{name}.last")
    symbol = mx.sym.Group([last, last + mx.sym.var(f"{name} data")])
    module = check_training(mx, symbol, {"x": ROWS, f"{name} data": normal(3, 4)})
    names = {name, f"{name}.last_weight", f"{name}.last_bias"}
    places = module.meta["places"]
    assert places.keys() == names
    assert set(places.values()) == dict(module.named_parameters()).keys()
    if name in KEPT_NAMES:
        assert places[name] == name


def test_names_of_inputs_that_become_equal(mx):
    symbol = mx.sym.var("a/b") - mx.sym.var("a:b") * mx.sym.var("self")
    arrays = {"a/b": normal(3), "a:b": normal(3, seed=1), "self": normal(3, seed=2)}
    shapes = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    module = to_torch(MxGraph.from_json(symbol.tojson()), {}, shapes)
    assert module.meta["input_names"] == list(arrays)
    found = module(*map(torch.from_numpy, arrays.values()))
    np.testing.assert_allclose(found, arrays["a/b"] - arrays["a:b"] * arrays["self"], rtol=1e-6)


@pytest.fixture
def networks(mx):
    """Networks of many kinds of layers, with the shape of a batch and whether it is free."""
    from conftest import convolutional_symbol

    symbol = convolutional_symbol(mx).get_internals()["fc1_output"]
    lstm = mx.gluon.rnn.LSTM(3, 2, bidirectional=True, input_size=5, layout="NTC")
    lstm.hybridize()
    resized = mx.sym.contrib.BilinearResize2D(mx.sym.var("data"), height=7, width=8)
    resized = mx.sym.Reshape(mx.sym.LRN(resized, nsize=3), shape=(0, -1))
    return [
        (symbol, normal(4, 2, 6, 6)),
        (lstm(mx.sym.var("data")), normal(4, 6, 5)),
        (mx.sym.FullyConnected(resized, num_hidden=3), normal(4, 2, 5, 5)),
    ]


def free_module(symbol, data):
    from xfer.checkpoint.onnx_builder import BATCH

    parameters = draw_parameters(symbol, {"data": data})
    shapes = {"data": (data.dtype, (BATCH, *data.shape[1:]))}
    return to_torch(MxGraph.from_json(symbol.tojson()), parameters, shapes)


def test_copies(networks):
    for symbol, data in networks:
        module, given = free_module(symbol, data), torch.from_numpy(data)
        expected = module(given)
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert torch.equal(other(given), expected)
            assert other.state_dict().keys() == module.state_dict().keys()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert not torch.equal(other(given), expected)
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(given), expected)
        assert torch.equal(module(given), expected)


def test_bfloat16_and_double(networks):
    for symbol, data in networks:
        module, given = free_module(symbol, data), torch.from_numpy(data)
        expected = module(given)
        for kind, tolerance in ((torch.float64, 1e-5), (torch.bfloat16, 0.1)):
            other = copy.deepcopy(module).to(kind)
            found = other(given)  # of single precision: layers with weights bring it to theirs
            assert (found.to(torch.float32) - expected).abs().max() < tolerance
            found.float().sum().backward()
            assert all(one.grad.dtype == kind for one in other.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compile(networks):
    for symbol, data in networks:
        module, given = free_module(symbol, data), torch.from_numpy(data)
        torch._dynamo.reset()
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(given), module(given))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_export_with_any_batch_size(networks):
    for symbol, data in networks:
        module, given = free_module(symbol, data), torch.from_numpy(data)
        batch = torch.export.Dim("batch", min=2)
        exported = torch.export.export(module, (given,), dynamic_shapes=[{0: batch}]).module()
        for rows in (given, given[:3]):
            torch.testing.assert_close(exported(rows), module(rows))


# The epoch, the shape of a batch, and how far rounding may reach.
NETWORKS = {
    "mnist_lenet": (10, (4, 1, 28, 28), 2e-5),
    "cifar_resnet20_v1": (0, (4, 3, 32, 32), 1e-3),
    "cifar_resnet20_v2": (0, (4, 3, 32, 32), 1e-3),
    "newsgroups_cnn": (0, (4, 300), 2e-5),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_real_networks(mx, shared, name):
    epoch, shape, tolerance = NETWORKS[name]
    network = Network.from_files(shared / "models" / name, epoch)
    layers = [layer for layer in network.positions if layer != "softmax"]
    is_text = len(shape) == 2
    data = {"data": np.abs(normal(*shape)) * 50 // 1 if is_text else normal(*shape)}
    check_network(mx, network, layers[-1], data, tolerance, ids=["data"] if is_text else ())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18_v2", "mobilenet_v2_0_25", "vgg11_bn"])
def test_networks_of_the_zoo(mx, name):
    from test_zoo import random_network

    size = 224 if name.startswith("squeezenet") else 64
    network = random_network(mx, name, size)
    data = {"data": normal(2, 3, size, size)}
    check_network(mx, network, network.head_names[0], data, 1e-2)


def check_network(mx, network, layer, data, tolerance, ids=()):
    """Check a network up to a layer, without what is random."""
    text = re.sub(r'"p": "0\.\d+"', '"p": "0.0"', network.prune([layer]).to_json())
    symbol = mx.sym.load_json(text)
    check_training(mx, symbol, data, parameters=network.parameters, tolerance=tolerance, ids=ids)
    graph = MxGraph.from_json(text)
    arrays = {**network.parameters, **data}
    shapes = {name: (array.dtype, array.shape) for name, array in data.items()}
    module = to_torch(graph, network.parameters, shapes)
    with torch.no_grad():
        found = module(*(torch.from_numpy(array) for array in data.values()))
    expected = run_mxnet(mx, symbol, arrays)[0]
    assert_close(found, expected, 1e-5)
    assert np.ptp(expected) > 0
