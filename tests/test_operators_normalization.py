"""Layers that bring numbers to a common scale, against MXNet."""

import numpy as np
import onnx
import onnxruntime
import pytest
from operator_checks import check, convert_all, open_session

from xfer.checkpoint.onnx_builder import BATCH
from xfer.checkpoint.operators import Unsupported
from xfer.checkpoint.symbol import MxGraph


def draw(*shape, seed=0):
    return np.random.RandomState(seed + sum(shape)).normal(size=shape).astype(np.float32)


def converted(symbol, dims, parameters):
    graph = MxGraph.from_json(symbol.tojson())
    return convert_all(graph, parameters, {"data": (np.float32, dims)})


STATISTICS = {"bn_beta": draw(4), "bn_moving_mean": draw(4), "bn_moving_var": draw(4) ** 2 + 0.1}


@pytest.mark.parametrize("fix_gamma", [None, True, False])
@pytest.mark.parametrize("output_mean_var", [False, True])
def test_batch_norm(mx, fix_gamma, output_mean_var):
    how = {} if fix_gamma is None else {"fix_gamma": fix_gamma}
    how |= {"output_mean_var": output_mean_var, "name": "bn"}
    for shape in [(3, 4), (3, 4, 5), (3, 4, 5, 2), (3, 4, 1, 3, 2)]:
        symbol = mx.sym.BatchNorm(mx.sym.var("data"), **how)
        check(mx, symbol, {"data": draw(*shape)}, parameters=STATISTICS)
    symbol = mx.sym.BatchNorm_v1(mx.sym.var("data"), **how)
    check(mx, symbol, {"data": draw(3, 4, 5, 2)}, parameters=STATISTICS)
    symbol = mx.sym.contrib.BatchNormWithReLU(mx.sym.var("data"), **how)
    check(mx, symbol, {"data": draw(3, 4, 5, 2)}, parameters=STATISTICS)


@pytest.mark.parametrize("eps", [1e-5, 0.3])
@pytest.mark.parametrize("use_global_stats", [False, True])
def test_batch_norm_settings(mx, eps, use_global_stats):
    how = {"eps": eps, "use_global_stats": use_global_stats, "fix_gamma": False}
    data = {"data": draw(2, 4, 3, 3)}
    check(mx, mx.sym.BatchNorm(mx.sym.var("data"), **how), data)
    check(mx, mx.sym.BatchNorm_v1(mx.sym.var("data"), **how), data)
    symbol = mx.sym.contrib.SyncBatchNorm(mx.sym.var("data"), key="one", **how)
    check(mx, symbol, data)
    names = ["data", "gamma", "beta", "mean", "the_var"]
    arrays = [mx.sym.var(name).as_np_ndarray() for name in names]
    symbol = mx.sym.npx.batch_norm(*arrays, **how)
    check(mx, symbol.as_nd_ndarray(), data)


@pytest.mark.parametrize(
    ("axis", "shape"),
    [
        (-1, (3, 4)),
        (-1, (3, 5, 4)),
        (-1, (2, 5, 6, 4)),
        (3, (2, 5, 6, 4)),
        (2, (2, 3, 4, 5)),
        (-3, (2, 4, 3, 5)),
        (-2, (2, 3, 4, 2)),
    ],
)
@pytest.mark.parametrize("fix_gamma", [True, False])
def test_batch_norm_along_other_axes(mx, axis, shape, fix_gamma):
    for output_mean_var in (False, True):
        symbol = mx.sym.BatchNorm(
            mx.sym.var("data"), axis=axis, fix_gamma=fix_gamma, output_mean_var=output_mean_var
        )
        check(mx, symbol, {"data": draw(*shape)})


def test_batch_norm_along_the_first_axis(mx):
    symbol = mx.sym.BatchNorm(mx.sym.var("data"), axis=0, fix_gamma=False)
    check(mx, symbol, {"data": draw(4, 3, 2)}, free_batch=False)


def test_batch_norm_folds_into_a_convolution(mx, tmp_path):
    symbol = mx.sym.Convolution(
        mx.sym.var("data"), kernel=(3, 3), num_filter=4, no_bias=True, name="conv"
    )
    symbol = mx.sym.Activation(mx.sym.BatchNorm(symbol, name="bn"), act_type="relu")
    parameters = {**STATISTICS, "bn_gamma": draw(4), "conv_weight": draw(4, 3, 3, 3)}
    builder, values = converted(symbol, (BATCH, 3, None, None), parameters)
    assert [node.op_type for node in builder.nodes] == ["Conv", "BatchNormalization", "Relu"]
    builder.add_output("out", values[max(values)])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    whole = builder.to_model().SerializeToString()
    onnxruntime.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(options.optimized_model_filepath)
    assert [node.op_type for node in optimized.graph.node] == ["FusedConv"]


def test_fixed_scales_play_no_part(mx):
    symbol = mx.sym.BatchNorm(mx.sym.var("data"), name="bn")
    builder, _ = converted(symbol, (BATCH, 4, 2, 2), STATISTICS)  # without gamma
    assert builder.nodes[-1].op_type == "BatchNormalization"


@pytest.mark.parametrize(
    ("axis", "shape"),
    [
        (None, (3, 4)),
        (-1, (3, 2, 5)),
        (1, (3, 4)),
        (1, (3, 4, 5)),
        (2, (3, 4, 2, 3)),
        (-2, (3, 4, 2, 3)),
        (-1, (3, 4, 1)),
        (1, (3, 1, 2)),
    ],
)
@pytest.mark.parametrize("output_mean_var", [False, True])
def test_layer_norm(mx, axis, shape, output_mean_var):
    for eps in (1e-5, 0.1):
        how = {"eps": eps, "output_mean_var": output_mean_var}
        how |= {} if axis is None else {"axis": axis}
        data = draw(*shape) * 3 + 1
        check(mx, mx.sym.LayerNorm(mx.sym.var("data"), **how), {"data": data})
    if not output_mean_var:
        arrays = [mx.sym.var(name).as_np_ndarray() for name in ("data", "gamma", "beta")]
        symbol = mx.sym.npx.layer_norm(*arrays, **how)
        check(mx, symbol.as_nd_ndarray(), {"data": data})


def test_layer_norm_along_the_first_axis(mx):
    symbol = mx.sym.LayerNorm(mx.sym.var("data"), axis=0)
    check(mx, symbol, {"data": draw(4, 3, 2)}, free_batch=False)


@pytest.mark.parametrize("shape", [(3, 2, 5), (3, 2, 4, 5), (2, 1, 3, 2), (2, 2, 3, 2, 3)])
def test_instance_norm(mx, shape):
    for how in ({}, {"eps": 0.1}):
        symbol = mx.sym.InstanceNorm(mx.sym.var("data"), **how)
        check(mx, symbol, {"data": draw(*shape) * 2 + 1})


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((3, 6, 5), 3), ((3, 6, 4, 2), 2), ((3, 6, 4, 2), 6), ((2, 4, 3, 2, 2), 1), ((2, 5, 3), 1)],
)
def test_group_norm(mx, shape, groups):
    for how in ({}, {"eps": 0.1, "output_mean_var": True}):
        symbol = mx.sym.GroupNorm(mx.sym.var("data"), num_groups=groups, **how)
        check(mx, symbol, {"data": draw(*shape) * 2 + 1})


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        ("instance", (3, 4)),
        ("instance", (3, 4, 2)),
        ("instance", (3, 4, 2, 5)),
        ("channel", (3, 4, 2)),
        ("channel", (3, 4, 2, 5)),
        ("channel", (3, 1, 2)),
        ("spatial", (3, 4, 2)),
        ("spatial", (3, 4, 2, 5)),
        ("spatial", (3, 4, 2, 2, 2)),
    ],
)
def test_l2_normalization(mx, mode, shape):
    for how in ({"mode": mode}, {"mode": mode, "eps": 0.5}):
        check(mx, mx.sym.L2Normalization(mx.sym.var("data"), **how), {"data": draw(*shape)})
    if mode == "instance":
        check(mx, mx.sym.L2Normalization(mx.sym.var("data")), {"data": draw(*shape)})


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_local_response_norm(mx, size):
    # Even sizes MXNet refuses, or not, by what else it was built with.
    for how in ({}, {"alpha": 0.3, "beta": 0.75, "knorm": 1.5}, {"alpha": 0.3, "beta": 0.6}):
        for shape in [(3, 6, 4, 5), (2, 1, 3, 3)]:
            symbol = mx.sym.LRN(mx.sym.var("data"), nsize=size, **how)
            check(mx, symbol, {"data": draw(*shape) * 3})


def test_local_response_norm_of_unknown_channels(mx):
    symbol = mx.sym.LRN(mx.sym.var("data"), nsize=5, alpha=0.3, knorm=1.5, beta=0.6)
    data = draw(2, 6, 3, 4) * 3
    builder, values = converted(symbol, (BATCH, None, 3, 4), {})
    builder.add_output("out", values[max(values)])
    session = open_session(builder)
    expected = mx.nd.LRN(mx.nd.array(data), nsize=5, alpha=0.3, knorm=1.5, beta=0.6).asnumpy()
    np.testing.assert_allclose(session.run(None, {"data": data})[0], expected, rtol=1e-5)


def test_parameters_of_another_size(mx):
    parameters = {
        **{"layer_gamma": draw(4), "layer_beta": draw(4)},
        **{"layer_moving_mean": draw(4), "layer_moving_var": draw(4) ** 2},
    }
    for operator, how, dims in [
        ("BatchNorm", {}, (BATCH, 5, 2)),
        ("BatchNorm", {"axis": 2}, (BATCH, 4, 2)),
        ("LayerNorm", {}, (BATCH, 4, 2)),
        ("LayerNorm", {"axis": 1}, (BATCH, 5, 2)),
        ("InstanceNorm", {}, (BATCH, 5, 2)),
        ("GroupNorm", {"num_groups": 2}, (BATCH, 4, 2)),
    ]:
        symbol = getattr(mx.sym, operator)(mx.sym.var("data"), name="layer", **how)
        with pytest.raises(ValueError, match=r"parameters? of \(4,\)"):
            converted(symbol, dims, parameters)


@pytest.mark.parametrize(
    ("operator", "how", "dims", "message"),
    [
        ("LRN", {"nsize": 4}, (BATCH, 4, 2, 2), "nsize=4"),
        ("LRN", {"nsize": 3}, (BATCH, 4), "data of 2 dimensions"),
        ("contrib.SyncBatchNorm", {"key": "k", "output_mean_var": True}, (BATCH, 4), "mean_var"),
    ],
)
def test_what_has_no_conversion(mx, operator, how, dims, message):
    place = mx.sym.contrib if operator.startswith("contrib.") else mx.sym
    symbol = getattr(place, operator.split(".")[-1])(mx.sym.var("data"), name="bn", **how)
    with pytest.raises(Unsupported, match=message):
        converted(symbol, dims, {**STATISTICS, "bn_gamma": draw(4)})
