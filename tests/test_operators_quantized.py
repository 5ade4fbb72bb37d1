"""Networks in 8 bits, made by MXNet's quantization, layer by layer against MXNet."""

import re
from pathlib import Path

import numpy as np
import pytest
from operator_checks import bind, check, check_operator, convert_all, one_operator, open_session

from xfer.checkpoint.network import Network
from xfer.checkpoint.onnx_builder import BATCH
from xfer.checkpoint.operators import Unsupported
from xfer.checkpoint.symbol import MxGraph

# Instructions that sum products of 8-bit integers in 32 bits.
CPU = Path("/proc/cpuinfo")
HAS_VNNI = "vnni" in (CPU.read_text() if CPU.exists() else "vnni")
SHAPE = (8, 3, 8, 8)


def branches(mx):
    """Convolutions side by side, joined; and dense layers."""
    net = convolution(mx, mx.sym.Variable("data"), "one", 3)
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.Pooling(net, kernel=(2, 2), stride=(2, 2), pool_type="max", name="largest")
    parts = convolution(mx, net, "two", 1), convolution(mx, net, "three", 1, no_bias=True)
    net = mx.sym.Concat(*parts, dim=1, name="joined")
    net = mx.sym.FullyConnected(mx.sym.Flatten(net), num_hidden=6, name="dense")
    net = mx.sym.Activation(net, act_type="relu")
    return mx.sym.FullyConnected(net, num_hidden=5, name="scores")


def residual(mx):
    """Normalization, and a shortcut, both fused with convolutions; means of windows."""
    net = convolution(mx, mx.sym.Variable("data"), "one", 3)
    net = mx.sym.Activation(mx.sym.BatchNorm(net, fix_gamma=False, name="bn1"), act_type="relu")
    other = convolution(mx, net, "two", 3, no_bias=True)
    other = mx.sym.BatchNorm(other, fix_gamma=False, name="bn2")
    net = mx.sym.Activation(other + net, act_type="relu")
    net = mx.sym.Pooling(net, kernel=(2, 2), stride=(2, 2), pool_type="avg", name="means")
    return mx.sym.FullyConnected(net, num_hidden=5, name="scores")


def convolution(mx, x, name, size, **attributes):
    pad = (size // 2,) * 2
    return mx.sym.Convolution(
        x, kernel=(size, size), pad=pad, num_filter=4, name=name, **attributes
    )


def draw(random, name, shape):
    """Draw a parameter; its largest number is positive, as -127.5 is rounded by its last digit."""
    values = random.normal(size=shape) * 0.3
    if name.endswith("gamma"):
        return abs(values)
    rows = values.reshape(len(values), -1)
    rows *= np.sign(rows[np.arange(len(rows)), abs(rows).argmax(axis=1)])[:, np.newaxis]
    return values


@pytest.mark.parametrize("kind", ["auto", "int8"])
@pytest.mark.parametrize("network", [branches, residual])
def test_every_layer(mx, tmp_path, network, kind):
    random = np.random.RandomState(0)
    symbol = network(mx)
    shapes, _, others = symbol.infer_shape(data=SHAPE)
    names, states = symbol.list_arguments(), symbol.list_auxiliary_states()
    arguments = {n: mx.nd.array(draw(random, n, s)) for n, s in zip(names, shapes)}
    auxiliary = {n: mx.nd.array(random.uniform(0.5, 1, s)) for n, s in zip(states, others)}
    data = arguments.pop("data").asnumpy()
    quantized, arguments, auxiliary = mx.contrib.quantization.quantize_model(
        symbol.get_backend_symbol("MKLDNN_QUANTIZE"),
        arguments,
        auxiliary,
        label_names=None,
        ctx=mx.cpu(),
        calib_mode="naive",
        calib_data=mx.io.NDArrayIter(data, None, len(data)),
        quantized_dtype=kind,
        logger=None,
    )
    quantized = quantized.get_backend_symbol("MKLDNN_QUANTIZE")
    mx.model.save_checkpoint(str(tmp_path / "net"), 0, quantized, arguments, auxiliary)
    network = Network.from_files(tmp_path / "net", 0)
    operators = {node.operator for node in network.graph.nodes}
    assert {"_sg_mkldnn_conv", "_sg_mkldnn_fully_connected"} <= operators
    known = {*quantized.get_internals().list_outputs(), network.head_names[0]}
    assert set(network.positions) <= known
    ends = re.compile("_(min|max|min_output|max_output|output[12])$")
    names = [name for name in network.positions if not ends.search(name)]
    graph = network.prune(names)
    builder, values = convert_all(
        graph, network.parameters, {"data": (data.dtype, (BATCH, *SHAPE[1:]))}
    )
    for name, head in zip(names, graph.heads):
        builder.add_output(name, values[head])
    outputs = open_session(builder).run(None, {"data": data})
    for name, found in zip(names, outputs):
        one = mx.sym.load_json(network.prune([name]).to_json())
        given = {**arguments, "data": mx.nd.array(data)}
        arrays = {key: given[key] for key in one.list_arguments()}
        states = {key: auxiliary[key] for key in one.list_auxiliary_states()}
        expected = bind(mx, one, arrays, states).forward(is_train=False)[0].asnumpy()
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        error = np.abs(found.astype(float) - expected)
        if expected.dtype == np.float32:
            assert error.max() < (0.01 if HAS_VNNI else 0.05) * np.abs(expected).max()
        elif HAS_VNNI:  # sums are rounded in another order
            assert error.max() <= 1 and (error > 0).sum() < 3 + error.size / 100, name
        else:  # MXNet's sums of products in 8 bits overflow
            assert error.mean() < 2, name


@pytest.mark.parametrize("kind", ["int8", "uint8", "auto"])
@pytest.mark.parametrize("ends", [(-1.0, 3.0), (0.0, 2.0), (-4.0, 1.0)])
def test_rounding(mx, kind, ends):
    data = np.random.RandomState(0).uniform(-3, 3, size=(50, 4)).astype(np.float32)
    low, high = ends
    limits = {"min_calib_range": max(low, 0.0) if kind == "uint8" else low, "max_calib_range": high}
    check_operator(mx, "_contrib_quantize_v2", data, out_type=kind, **limits)


def test_what_is_refused():
    inputs = {"x": (np.dtype(np.float32), (BATCH, 4))}
    graph = MxGraph.from_json(one_operator("_contrib_quantize_v2", ["x"]))
    with pytest.raises(Unsupported, match="no calibrated range"):
        convert_all(graph, {}, inputs)


def test_fused_layers_in_single_precision(mx):
    """A network that was saved after MXNet had fused it, but not rounded it."""
    fused = branches(mx).get_backend_symbol("MKLDNN")
    assert "_sg_mkldnn_conv" in fused.tojson()
    check(mx, fused, {"data": np.random.RandomState(0).normal(size=SHAPE).astype(np.float32)})
