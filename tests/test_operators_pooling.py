"""Layers that change how large a map is, against MXNet."""

import itertools

import numpy as np
import pytest
from operator_checks import check, convert_all

from xfer.checkpoint.onnx_builder import BATCH, UnknownShape
from xfer.checkpoint.operators import Unsupported
from xfer.checkpoint.symbol import MxGraph


def draw(*shape, seed=0):
    return np.random.RandomState(seed + sum(shape)).normal(size=shape).astype(np.float32)


def converted(symbol, dims, parameters=None):
    graph = MxGraph.from_json(symbol.tojson())
    return convert_all(graph, parameters or {}, {"data": (np.float32, dims)})[0]


def kinds(builder):
    return [node.op_type for node in builder.nodes]


KINDS = [
    {},
    {"pool_type": "max"},
    {"pool_type": "avg"},
    {"pool_type": "avg", "count_include_pad": True},
    {"pool_type": "avg", "count_include_pad": False},
    {"pool_type": "sum"},
    {"pool_type": "lp", "p_value": 1},
    {"pool_type": "lp", "p_value": 2},
    {"pool_type": "lp", "p_value": 3},
]


def windows(sizes, seed):
    """Draw kernels, strides and paddings that fit; the last window always reaches some data."""
    random = np.random.RandomState(seed)
    kernel = [random.randint(1, min(size, 4) + 1) for size in sizes]
    stride = [random.randint(1, 4) for _ in sizes]
    pad = [random.randint(0, k) for k in kernel]
    found = {"kernel": kernel, "stride": stride, "pad": pad}
    for size, k, s, p in zip(sizes, kernel, stride, pad):
        if p + (k - size - 2 * p) % s >= k:
            return windows(sizes, seed + 1000)
    return {name: tuple(map(int, values)) for name, values in found.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("convention", ["valid", "full"])
def test_pooling(mx, kind, convention):
    shapes = [(2, 2, 7), (2, 2, 6, 5), (2, 1, 8, 7), (2, 3, 5, 4), (2, 2, 4, 5, 6)]
    for seed, shape in enumerate(shapes * 2):
        how = windows(shape[2:], seed)
        symbol = mx.sym.Pooling(mx.sym.var("data"), pooling_convention=convention, **kind, **how)
        check(mx, symbol, {"data": draw(*shape)})


@pytest.mark.parametrize("kind", KINDS)
def test_pooling_over_edges(mx, kind):
    # Every way for the last window to reach over one edge.
    for size, k, s, p in itertools.product((5, 6, 7), (2, 3, 4), (1, 2, 3), (0, 1)):
        if p + (k - size - 2 * p) % s >= k:
            continue
        symbol = mx.sym.Pooling(
            mx.sym.var("data"),
            kernel=(k, 1),
            stride=(s, 1),
            pad=(p, 0),
            pooling_convention="full",
            **kind,
        )
        check(mx, symbol, {"data": draw(1, 1, size, 2)}, free_batch=False)


@pytest.mark.parametrize("kind", KINDS)
def test_pooling_of_whole_maps(mx, kind):
    for shape in [(2, 3, 5), (2, 3, 5, 4), (2, 3, 4, 2, 3), (2, 3, 1, 1)]:
        for how in ({}, {"kernel": (2,) * (len(shape) - 2), "pad": (1,) * (len(shape) - 2)}):
            symbol = mx.sym.Pooling(mx.sym.var("data"), global_pool=True, **kind, **how)
            check(mx, symbol, {"data": draw(*shape)})


@pytest.mark.parametrize("layout", ["NCW", "NWC", "NCHW", "NHWC", "NCDHW", "NDHWC"])
@pytest.mark.parametrize("kind", KINDS[1::2])
def test_pooling_layouts(mx, layout, kind):
    dims = len(layout) - 2
    for how in ({"kernel": (3, 2, 2)[:dims], "stride": (2, 1, 2)[:dims]}, {"global_pool": True}):
        symbol = mx.sym.Pooling(mx.sym.var("data"), layout=layout, **kind, **how)
        check(mx, symbol, {"data": draw(*(2, 5, 4, 6, 3)[: dims + 2])})


@pytest.mark.parametrize("kind", ["max", "avg", "sum"])
@pytest.mark.parametrize("convention", ["valid", "full"])
def test_first_pooling(mx, kind, convention):
    for seed, shape in enumerate([(2, 2, 6, 5), (2, 1, 8, 7), (2, 3, 5, 4), (2, 1, 7, 7)]):
        how = windows(shape[2:], seed) | {"pooling_convention": convention}
        data = mx.sym.var("data")
        symbol = mx.sym.Pooling_v1(data, pool_type=kind, **how)
        check(mx, symbol, {"data": draw(*shape)})
        symbol = mx.sym.Pooling_v1(data, pool_type=kind, global_pool=True, **how)
        check(mx, symbol, {"data": draw(*shape)})


def test_first_pooling_divides_by_whole_windows(mx):
    symbol = mx.sym.Pooling_v1(
        mx.sym.var("data"),
        kernel=(3, 3),
        stride=(2, 2),
        pool_type="avg",
        pooling_convention="full",
    )
    check(mx, symbol, {"data": draw(2, 1, 6, 8)})


def test_pooling_of_numpy_arrays(mx):
    data = mx.sym.var("data").as_np_ndarray()
    symbol = mx.sym.npx.pooling(data, kernel=(2, 2), stride=(2, 2), pool_type="avg")
    check(mx, symbol.as_nd_ndarray(), {"data": draw(2, 3, 4, 5)})


def test_usual_pooling_stays_one_node(mx):
    dims = (BATCH, 3, None, None)
    for how, expected in [
        ({"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1)}, ["MaxPool"]),
        ({"kernel": (3, 3), "stride": (2, 2), "pooling_convention": "full"}, ["MaxPool"]),
        ({"kernel": (2, 2), "pool_type": "avg", "pooling_convention": "full"}, ["AveragePool"]),
        ({"kernel": (3, 3), "pad": (1, 1), "pool_type": "avg"}, ["AveragePool"]),
        ({"global_pool": True, "pool_type": "avg"}, ["GlobalAveragePool"]),
    ]:
        assert kinds(converted(mx.sym.Pooling(mx.sym.var("data"), **how), dims)) == expected
    symbol = mx.sym.Pooling(
        mx.sym.var("data"), kernel=(2, 2), stride=(3, 3), pooling_convention="full"
    )
    with pytest.raises(UnknownShape):
        converted(symbol, dims)


@pytest.mark.parametrize(
    ("shape", "output_size"),
    [
        ((2, 3, 7, 5), (3, 2)),
        ((2, 3, 6, 4), (3, 2)),
        ((2, 3, 4, 4), 6),
        ((2, 3, 4, 5), (1, 2)),
        ((2, 3, 4, 5), None),
        ((2, 3, 4, 5), 1),
        ((2, 1, 7, 7), (7, 3)),
        ((2, 3, 5, 5), (2,)),
    ],
)
def test_adaptive_pooling(mx, shape, output_size):
    how = {} if output_size is None else {"output_size": output_size}
    symbol = mx.sym.contrib.AdaptiveAvgPooling2D(mx.sym.var("data"), **how)
    check(mx, symbol, {"data": draw(*shape)})


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_nearest_upsampling(mx, scale):
    symbol = mx.sym.UpSampling(mx.sym.var("data"), scale=scale, sample_type="nearest")
    check(mx, symbol, {"data": draw(2, 3, 4, 5)})


@pytest.mark.parametrize("mode", [None, "concat", "sum"])
def test_upsampling_of_several_maps(mx, mode):
    how = {} if mode is None else {"multi_input_mode": mode}
    symbol = mx.sym.UpSampling(
        *(mx.sym.var(name) for name in "abc"), scale=2, sample_type="nearest", num_args=3, **how
    )
    maps = {"a": draw(2, 3, 4, 6), "b": draw(2, 3, 8, 12), "c": draw(2, 3, 2, 3)}
    check(mx, symbol, maps)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_bilinear_upsampling(mx, scale):
    symbol = mx.sym.UpSampling(
        mx.sym.var("data"), scale=scale, sample_type="bilinear", num_filter=3, num_args=2
    )
    check(mx, symbol, {"data": draw(2, 3, 4, 5)})


RESIZES = [
    {"height": 8, "width": 10},
    {"height": 3, "width": 9},
    {"height": 1, "width": 4},
    {"height": 5},
    {},
    {"scale_height": 2, "scale_width": 0.5},
    {"scale_height": 0.7, "scale_width": 1.3, "mode": "size"},
    {"scale_height": 2, "scale_width": 2, "mode": "odd_scale"},
    {"scale_height": 0.5, "scale_width": 0.7, "mode": "odd_scale"},
    *({"mode": mode} for mode in ("to_even_down", "to_even_up", "to_odd_down", "to_odd_up")),
]


@pytest.mark.parametrize("align_corners", [None, True, False])
@pytest.mark.parametrize("how", RESIZES)
def test_bilinear_resize(mx, how, align_corners):
    how = how if align_corners is None else {"align_corners": align_corners, **how}
    for shape in [(2, 3, 4, 5), (2, 1, 7, 10), (1, 2, 3, 2)]:
        symbol = mx.sym.contrib.BilinearResize2D(mx.sym.var("data"), **how)
        check(mx, symbol, {"data": draw(*shape)}, free_batch=shape[0] > 1)


def test_bilinear_resize_like_another(mx):
    symbol = mx.sym.contrib.BilinearResize2D(mx.sym.var("a"), mx.sym.var("b"), mode="like")
    check(mx, symbol, {"a": draw(2, 3, 4, 5), "b": draw(2, 1, 7, 3)})


@pytest.mark.parametrize(
    "how",
    [
        {"h_w": (3, 4)},
        {"h_w": (3, 4), "offset": (1, 2)},
        {"h_w": (7, 9)},
        {"h_w": (4, 4), "center_crop": True},
        {"h_w": (7, 2), "center_crop": True},
    ],
)
def test_crop(mx, how):
    check(mx, mx.sym.Crop(mx.sym.var("data"), num_args=1, **how), {"data": draw(2, 3, 7, 9)})


@pytest.mark.parametrize("how", [{}, {"offset": (2, 1)}, {"center_crop": True}, {"h_w": (1, 1)}])
def test_crop_like_another(mx, how):
    symbol = mx.sym.Crop(mx.sym.var("a"), mx.sym.var("b"), num_args=2, **how)
    check(mx, symbol, {"a": draw(2, 3, 7, 9), "b": draw(2, 1, 4, 6)})


def test_layers_take_images_of_any_size(mx):
    x = mx.sym.Pooling(mx.sym.var("data"), kernel=(2, 2), stride=(2, 2), pool_type="avg")
    x = mx.sym.UpSampling(x, scale=2, sample_type="nearest")
    x = mx.sym.Crop(x, h_w=(3, 4), offset=(1, 1), num_args=1)
    x = mx.sym.contrib.AdaptiveAvgPooling2D(x)
    builder = converted(x, (BATCH, 3, None, None))
    assert kinds(builder) == ["AveragePool", "Resize", "Slice", "GlobalAveragePool"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"kernel": (3, 3), "pooling_convention": "same"}, "pooling_convention='same'"),
        ({"kernel": (3, 3), "pool_type": "lp", "p_value": 4}, "p_value=4"),
        ({"kernel": (3, 3), "pool_type": "lp"}, "p_value=None"),
        ({"global_pool": True, "pool_type": "lp"}, "p_value=None"),
        # MXNet's answer is the least number that there is.
        (
            {"kernel": (1, 1), "stride": (3, 3), "pooling_convention": "full"},
            "windows that hold no data",
        ),
        (
            {"kernel": (3,) * 2, "stride": (2,) * 2, "pad": (2,) * 2, "pooling_convention": "full"},
            "windows that hold no data",
        ),
    ],
)
def test_pooling_that_has_no_conversion(mx, how, message):
    with pytest.raises(Unsupported, match=message):
        converted(mx.sym.Pooling(mx.sym.var("data"), **how), (BATCH, 3, 8, 8))


def test_sizes_that_do_not_go_together(mx):
    data = mx.sym.var("data")
    for symbol, message in [
        (mx.sym.Pooling(data, kernel=(3, 9)), r"kernel=\(3, 9\) is larger than data of \(n, 3, 8"),
        (mx.sym.Crop(data, h_w=(3, 9), num_args=1), r"\(3, 9\) at \(0, 0\) is not within"),
        (mx.sym.Crop(data, h_w=(9, 9), center_crop=True, num_args=1), "is not within"),
        (mx.sym.contrib.BilinearResize2D(data, scale_height=2), "one scale of two"),
        (
            mx.sym.UpSampling(
                *(data, mx.sym.Pooling(data, kernel=(3, 3))),
                **{"scale": 2, "num_args": 2, "sample_type": "nearest"},
            ),
            r"cannot bring \(n, 3, 6, 6\) to 2 times \(n, 3, 8, 8\)",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            converted(symbol, (BATCH, 3, 8, 8))
