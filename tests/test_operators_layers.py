"""Layers of neural networks against MXNet."""

import numpy as np
import pytest
from operator_checks import check, convert_all

from xfer.checkpoint.convert import output_names
from xfer.checkpoint.onnx_builder import BATCH
from xfer.checkpoint.operators import Unsupported
from xfer.checkpoint.symbol import MxGraph


def draw(*shape, seed=0):
    return np.random.RandomState(seed + sum(shape)).normal(size=shape).astype(np.float32)


def converted(symbol, dims, parameters=None):
    """Convert with a batch of some dims, without MXNet; return the ONNX graph."""
    graph = MxGraph.from_json(symbol.tojson())
    return convert_all(graph, parameters or {}, {"data": (np.float32, dims)})[0]


def kinds(builder):
    return [node.op_type for node in builder.nodes]


CONVOLUTIONS = [
    ((2, 3, 9), {"kernel": (3,)}),
    ((3, 3, 9), {"kernel": (3,), "stride": (2,), "pad": (1,), "no_bias": True}),
    ((2, 4, 9), {"kernel": (3,), "dilate": (2,), "num_group": 2, "layout": "NCW"}),
    ((2, 3, 7, 9), {"kernel": (1, 1)}),
    ((3, 2, 7, 8), {"kernel": (3, 2), "stride": (2, 1), "pad": (0, 1), "layout": "NCHW"}),
    ((2, 2, 7, 8), {"kernel": (3, 3), "dilate": (2, 1), "pad": (2, 1), "no_bias": True}),
    ((2, 6, 7, 8), {"kernel": (3, 3), "num_group": 6, "pad": (1, 1)}),
    ((2, 4, 5, 6), {"kernel": (5, 6), "num_group": 2}),
    ((2, 2, 4, 5, 6), {"kernel": (2, 3, 1), "stride": (1, 2, 3), "layout": "NCDHW"}),
    ((2, 3, 4, 5, 6), {"kernel": (3, 3, 3), "pad": (1, 0, 1), "num_group": 3}),
]


@pytest.mark.parametrize(("shape", "how"), CONVOLUTIONS)
def test_convolution(mx, shape, how):
    symbol = mx.sym.Convolution(mx.sym.var("data"), num_filter=12, name="conv", **how)
    check(mx, symbol, {"data": draw(*shape)})


def test_convolution_of_other_names(mx):
    symbol = mx.sym.Convolution_v1(
        mx.sym.var("data"), num_filter=4, kernel=(3, 2), stride=(2, 1), pad=(1, 1), num_group=2
    )
    check(mx, symbol, {"data": draw(2, 4, 7, 8)})
    data = mx.sym.var("data").as_np_ndarray()
    weight, bias = (mx.sym.var(name).as_np_ndarray() for name in ("weight", "bias"))
    symbol = mx.sym.npx.convolution(data, weight, bias, kernel=(3, 3), num_filter=4)
    check(mx, symbol.as_nd_ndarray(), {"data": draw(2, 3, 7, 8)})
    symbol = mx.sym.npx.deconvolution(data, weight, kernel=(3, 3), num_filter=4)
    check(mx, symbol.as_nd_ndarray(), {"data": draw(2, 3, 4, 5)})


def test_convolution_with_computed_filters(mx):
    symbol = mx.sym.Convolution(
        mx.sym.var("data"),
        mx.sym.transpose(mx.sym.var("filters", shape=(3, 2, 3, 3)), axes=(1, 0, 2, 3)),
        num_filter=2,
        kernel=(3, 3),
        no_bias=True,
    )
    check(mx, symbol, {"data": draw(2, 3, 5, 5)})


DECONVOLUTIONS = [
    ((2, 3, 5), {"kernel": (3,)}),
    ((2, 3, 5), {"kernel": (4,), "stride": (2,), "pad": (1,), "layout": "NCW"}),
    ((2, 3, 5), {"kernel": (3,), "stride": (3,), "pad": (1,), "adj": (2,), "no_bias": False}),
    ((2, 3, 4, 5), {"kernel": (3, 2), "stride": (2, 1), "pad": (1, 0), "adj": (1, 0)}),
    ((2, 4, 4, 5), {"kernel": (3, 2), "dilate": (1, 2), "num_group": 2, "no_bias": False}),
    ((2, 4, 4, 5), {"kernel": (4, 4), "stride": (2, 2), "pad": (1, 1), "target_shape": (8, 10)}),
    ((2, 4, 4, 5), {"kernel": (3, 3), "stride": (2, 2), "target_shape": (0, 0)}),
    ((2, 2, 3, 4, 2), {"kernel": (3, 2, 2), "stride": (2, 1, 2), "pad": (1, 0, 0)}),
]


@pytest.mark.parametrize(("shape", "how"), DECONVOLUTIONS)
def test_deconvolution(mx, shape, how):
    symbol = mx.sym.Deconvolution(mx.sym.var("data"), num_filter=4, name="deconv", **how)
    check(mx, symbol, {"data": draw(*shape)})


@pytest.mark.parametrize(("target", "pad", "adj"), [(9, 1, 1), (8, 1, 0), (7, 2, 1), (10, 0, 0)])
def test_deconvolution_cuts_to_a_target(mx, target, pad, adj):
    # MKL-DNN takes a target only with the padding that leads to it, and as documented that
    # padding is ignored: an uneven cut takes more from the front.
    data = mx.sym.var("data")
    how = {"kernel": (4,), "stride": (2,), "num_filter": 2, "name": "deconv"}
    aimed = mx.sym.Deconvolution(data, target_shape=(target,), pad=(3,), adj=(1,), **how)
    weight = draw(3, 2, 4)
    builder = converted(aimed, (BATCH, 3, 4), {"deconv_weight": weight})
    attributes = {a.name: list(a.ints) for a in builder.nodes[-1].attribute}
    assert attributes["pads"] == [pad, pad - adj] and "output_padding" not in attributes
    padded = mx.sym.Deconvolution(data, pad=(pad,), adj=(adj,), **how)
    check(mx, padded, {"data": draw(2, 3, 4)}, parameters={"deconv_weight": weight})


@pytest.mark.parametrize(
    ("shape", "flatten"),
    [
        ((3, 5), True),
        ((3, 5), False),
        ((3, 2, 5), True),
        ((3, 2, 5), False),
        ((4,), True),
        ((2, 3, 1, 5), True),
        ((2, 3, 1, 5), False),
    ],
)
@pytest.mark.parametrize("no_bias", [False, True])
def test_fully_connected(mx, shape, flatten, no_bias):
    symbol = mx.sym.FullyConnected(
        mx.sym.var("data"), num_hidden=4, flatten=flatten, no_bias=no_bias, name="fc"
    )
    check(mx, symbol, {"data": draw(*shape)})


def test_fully_connected_with_a_computed_weight(mx):
    weight = mx.sym.var("w", shape=(4, 5)) * 2
    for shape, flatten in [((3, 5), True), ((3, 2, 5), False)]:
        symbol = mx.sym.FullyConnected(
            mx.sym.var("data"), weight, num_hidden=4, flatten=flatten, no_bias=True
        )
        check(mx, symbol, {"data": draw(*shape)})


def test_fully_connected_of_other_names(mx):
    arrays = [mx.sym.var(name).as_np_ndarray() for name in ("data", "weight", "bias")]
    symbol = mx.sym.npx.fully_connected(*arrays, num_hidden=4, flatten=False)
    check(mx, symbol.as_nd_ndarray(), {"data": draw(3, 2, 5)})
    symbol = mx.sym.sparse.FullyConnected(mx.sym.var("data"), num_hidden=4)
    check(mx, symbol, {"data": draw(3, 5)})


def test_dense_layers_stay_one_node(mx):
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=4, name="fc")
    parameters = {"fc_weight": draw(4, 5), "fc_bias": draw(4)}
    assert kinds(converted(symbol, (BATCH, 5), parameters)) == ["Gemm"]
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=4, flatten=False, name="fc")
    assert kinds(converted(symbol, (BATCH, None, 5), parameters)) == ["MatMul", "Add"]
    assert kinds(converted(symbol, (BATCH, 5), parameters)) == ["Gemm"]


@pytest.mark.parametrize("kind", ["relu", "sigmoid", "tanh", "softrelu", "softsign"])
def test_activation(mx, kind):
    symbol = mx.sym.Activation(mx.sym.var("data"), act_type=kind)
    far = np.array([[-100, -50, -1e-3], [0, 1e-3, 100]], np.float32)
    for data in (draw(3, 4, 2) * 5, far):
        check(mx, symbol, {"data": data})
    symbol = mx.sym.npx.activation(mx.sym.var("data").as_np_ndarray(), act_type=kind)
    check(mx, symbol.as_nd_ndarray(), {"data": draw(3, 4)})


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"act_type": "leaky", "slope": 0.1},
        {"act_type": "leaky", "slope": 1.5},
        {"act_type": "elu"},
        {"act_type": "elu", "slope": 0.7},
        {"act_type": "selu"},
        {"act_type": "gelu"},
        {"act_type": "rrelu"},
        {"act_type": "rrelu", "lower_bound": 0.2, "upper_bound": 0.8},
    ],
)
def test_leaky_relu(mx, how):
    # Random slopes come with a second output, which MXNet leaves unset in inference.
    symbol = mx.sym.LeakyReLU(mx.sym.var("data"), **how)
    check(mx, symbol[0], {"data": draw(3, 4, 2) * 3})
    assert output_names(MxGraph.from_json(symbol.tojson()).nodes[-1]) == [
        name.removesuffix("_output") if how.get("act_type") != "rrelu" else name
        for name in symbol.list_outputs()
    ]
    symbol = mx.sym.npx.leaky_relu(mx.sym.var("data").as_np_ndarray(), **how)
    symbol = symbol[0] if isinstance(symbol, list) else symbol
    check(mx, symbol.as_nd_ndarray(), {"data": draw(3, 4)})


PRELUS = [
    ((3, 4), [(4,), (1,), (1, 4), (1, 1)]),
    ((3, 4, 3), [(4,), (1,), (1, 4)]),
    ((3, 4, 2, 5), [(4,), (1,), (1, 4), (1, 1)]),
    ((3, 4, 2, 5, 2), [(4,)]),
    ((3, 1, 4), [(1,)]),
]


@pytest.mark.parametrize("largest", [1, 3])
def test_prelu(mx, largest):
    for shape, slopes in PRELUS:
        for size in slopes:
            symbol = mx.sym.LeakyReLU(
                mx.sym.var("data"), mx.sym.var("gamma", shape=size), act_type="prelu"
            )
            gamma = np.clip(draw(*size) * 2, -4, largest)
            gamma.flat[0] = largest
            check(mx, symbol, {"data": draw(*shape)}, parameters={"gamma": gamma})


def test_prelu_with_computed_slopes(mx):
    symbol = mx.sym.LeakyReLU(
        mx.sym.var("data"), mx.sym.var("gamma", shape=(4,)) * 2, act_type="prelu"
    )
    check(mx, symbol, {"data": draw(3, 4, 5)})


def test_slopes_up_to_one_take_the_fast_form(mx):
    symbol = mx.sym.LeakyReLU(mx.sym.var("data"), act_type="prelu", name="p")
    dims = (BATCH, 3, None, None)
    for gamma, expected in [
        ([0.5], ["LeakyRelu"]),
        ([0.5, 1, -3], ["Mul", "Max"]),
        ([0.5, 1.1, 0], ["PRelu"]),
    ]:
        builder = converted(symbol, dims, {"p_gamma": np.array(gamma, np.float32)})
        assert kinds(builder) == expected


def test_layers_take_images_of_any_size(mx):
    x = mx.sym.Convolution(mx.sym.var("data"), kernel=(3, 3), num_filter=2, name="conv")
    x = mx.sym.LeakyReLU(mx.sym.Activation(x, act_type="relu"), act_type="prelu", name="prelu")
    x = mx.sym.Deconvolution(x, kernel=(2, 2), stride=(2, 2), num_filter=2, name="deconv")
    parameters = {
        "conv_weight": draw(2, 3, 3, 3),
        "conv_bias": draw(2),
        "prelu_gamma": draw(2),
        "deconv_weight": draw(2, 2, 2, 2),
    }
    assert kinds(converted(x, (BATCH, 3, None, None), parameters))[-1] == "ConvTranspose"


@pytest.mark.parametrize(
    ("operator", "how", "message"),
    [
        ("Convolution", {"kernel": (3, 3), "layout": "NHWC"}, "layout='NHWC'"),
        ("Deconvolution", {"kernel": (3, 3), "layout": "NHWC"}, "layout='NHWC'"),
        ("Deconvolution", {"kernel": (3, 3), "target_shape": (8, 0)}, r"target_shape=\(8, 0\)"),
    ],
)
def test_what_has_no_conversion(mx, operator, how, message):
    symbol = getattr(mx.sym, operator)(mx.sym.var("data"), num_filter=3, name="layer", **how)
    parameters = {"layer_weight": draw(3, 3, 3, 3), "layer_bias": draw(3)}
    with pytest.raises(Unsupported, match=message):
        converted(symbol, (BATCH, 3, 8, 8), parameters)


@pytest.mark.parametrize("operator", ["Convolution", "Deconvolution"])
def test_shapes_that_do_not_go_together(mx, operator):
    how = {"kernel": (3, 3), "num_filter": 4, "num_group": 2, "no_bias": True, "name": "conv"}
    symbol = getattr(mx.sym, operator)(mx.sym.var("data"), **how)
    for weight, dims in [
        ((4, 2, 3, 3), (BATCH, 6, 8, 8)),
        ((4, 2, 3, 2), (BATCH, 4, 8, 8)),
        ((4, 2, 3), (BATCH, 4, 8, 8)),
        ((4,), (BATCH, 4, 8, 8)),
        ((4, 2, 3, 3), (BATCH,)),
    ]:
        with pytest.raises(ValueError, match=r"does not match|do not go"):
            converted(symbol, dims, {"conv_weight": draw(*weight)})
    if operator == "Convolution":
        with pytest.raises(ValueError, match=r"kernel=\(3, 3\) is larger than data of \(n, 4, 2"):
            converted(symbol, (BATCH, 4, 2, 8), {"conv_weight": draw(4, 2, 3, 3)})
    else:
        aimed = mx.sym.Deconvolution(mx.sym.var("data"), target_shape=(9, 99), **how)
        with pytest.raises(ValueError, match="larger than all of the output"):
            converted(aimed, (BATCH, 4, 8, 8), {"conv_weight": draw(4, 2, 3, 3)})


def test_dense_layers_that_do_not_go_with_their_data(mx):
    for flatten, dims in [(True, (BATCH, 6)), (True, (BATCH, 2, 3)), (False, (BATCH, 2, 6))]:
        symbol = mx.sym.FullyConnected(
            mx.sym.var("data"), num_hidden=4, flatten=flatten, no_bias=True, name="fc"
        )
        with pytest.raises(ValueError, match=r"\(4, 5\)|\(5, 4\)"):
            converted(symbol, dims, {"fc_weight": draw(4, 5)})
    symbol = mx.sym.LeakyReLU(mx.sym.var("data"), act_type="prelu", name="p")
    for gamma in (draw(5), draw(1, 1, 3), draw(2, 3)):
        with pytest.raises(ValueError, match=r"\(n, 3\)"):
            converted(symbol, (BATCH, 3), {"p_gamma": gamma})


def test_a_parameter_that_is_not_there(mx):
    symbol = mx.sym.Convolution(mx.sym.var("data"), kernel=(3, 3), num_filter=4, name="conv")
    with pytest.raises(ValueError, match="no parameter 'conv_weight'"):
        converted(symbol, (BATCH, 3, 8, 8))
