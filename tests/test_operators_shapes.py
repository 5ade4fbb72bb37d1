"""Operators that change shapes, against MXNet."""

import numpy as np
import pytest
from operator_checks import check, convert_all, one_operator

from xfer.checkpoint.onnx_builder import BATCH, UnknownShape
from xfer.checkpoint.operators import Unsupported
from xfer.checkpoint.symbol import MxGraph

# Each group: names of one operator, and ways to use it: (shape of the data, attributes).
CASES = {
    ("Flatten", "flatten", "_npx_batch_flatten"): [
        ((3,), {}),
        ((3, 4), {}),
        ((3, 2, 4), {}),
        ((3, 1, 2, 5), {}),
    ],
    ("Reshape", "reshape"): [
        ((3, 4, 6), {"shape": "(0,-1)"}),
        ((3, 4, 6), {"shape": "(-1,)"}),
        ((3, 4, 6), {"shape": "(-1,6)"}),
        ((3, 4, 6), {"shape": "(-1, 1, 8, 3)"}),
        ((3, 4, 6), {"shape": "(0, 0, 2, 3)"}),
        ((3, 4, 6), {"shape": "(-2,)"}),
        ((3, 4, 6), {"shape": "(0, -2)"}),
        ((3, 4, 6), {"shape": "(-2, 1, 1)"}),
        ((3, 4, 6), {"shape": "(-3, 0)"}),
        ((3, 4, 6), {"shape": "(-3, -2)"}),
        ((3, 4, 6), {"shape": "(0, -3)"}),
        ((3, 4, 6, 2), {"shape": "(-3, -3)"}),
        ((3, 4, 6), {"shape": "(-4, -1, 1, -2)"}),
        ((3, 4, 6), {"shape": "(-4, 1, -1, -2)"}),
        ((3, 4, 6), {"shape": "(0, -4, 2, 2, 0)"}),
        ((3, 4, 6), {"shape": "(0, -4, -1, 2, -2)"}),
        ((3, 4, 6), {"shape": "(0, 0, -4, 3, -1)"}),
        ((3, 4, 6), {"shape": "(-3, -4, 2, -1)"}),
        ((3, 4, 6), {"shape": "(0, 8, -1)"}),
        ((3, 4, 6), {"shape": "[0, -1, 2]"}),
        ((3, 4, 6), {"shape": "(0L, -1L, 2L)"}),
        ((3, 4, 6), {"shape": "(-1, 0)", "reverse": True}),
        ((3, 4, 6), {"shape": "(-1, 0, 0)", "reverse": True}),
        ((3, 4, 6), {"shape": "(0, -3)", "reverse": True}),
        ((3, 4, 6), {"shape": "(-2, 8, 3)", "reverse": 1}),
        ((3, 5, 1), {"shape": "(-1, 5)", "reverse": False}),
        # MXNet 0.8.
        ((3, 4, 6), {"target_shape": "(0, 8)"}),
        ((3, 4, 6), {"target_shape": "(0, 0)", "keep_highest": True}),
        ((3, 4, 6), {"target_shape": "(7, 3, 0)", "keep_highest": True, "shape": "()"}),
        ((3, 4, 6), {"target_shape": "(0, 4, 3, 2)", "keep_highest": False}),
        ((3, 4, 6), {"target_shape": "(0, 0)", "shape": "(0, -1)"}),
    ],
    ("_np_reshape",): [
        ((3, 4, 6), {"newshape": "(-1,)"}),
        ((3, 4, 6), {"newshape": "(-1, 8)", "order": "C"}),
    ],
    ("_npx_reshape", "_npi_reshape"): [
        ((3, 4, 6), {"newshape": "(-1, 8)"}),
        ((3, 4, 6), {"newshape": "(-2, -1)"}),
        ((3, 1, 6), {"newshape": "(-2, -3, -1)"}),
        ((3, 4, 6), {"newshape": "(-2, -4)"}),
        ((3, 4, 6), {"newshape": "(-4,)"}),
        ((3, 4, 6), {"newshape": "(-5, -2)"}),
        ((3, 4, 6), {"newshape": "(-5, -1)"}),
        ((3, 4, 6), {"newshape": "(-2, -6, 2, -1, -4)"}),
        ((3, 4, 6), {"newshape": "(-6, -1, 1, -4)"}),
        ((3, 4, 6), {"newshape": "(-2, -6, 2, 2, -1)"}),
        ((3, 4, 6), {"newshape": "(-1, -2)", "reverse": True}),
        ((3, 4, 6), {"newshape": "(-2, -5)", "reverse": True}),
    ],
    ("transpose",): [
        ((3, 4), {}),
        ((3, 4, 6), {"axes": "()"}),
        ((3, 4, 6), {"axes": "(0, 2, 1)"}),
        ((3, 4, 6, 2), {"axes": "(2, 0, 3, 1)"}),
    ],
    ("_np_transpose",): [
        ((3, 4, 6), {"axes": "None"}),
        ((3, 4, 6), {"axes": "(0, -1, 1)"}),
    ],
    ("SwapAxis", "swapaxes", "_npi_swapaxes"): [
        ((3, 4, 6), {}),
        ((3, 4, 6), {"dim1": 1, "dim2": 2}),
        ((3, 4, 6), {"dim1": 2}),
        ((3, 4, 6), {"dim1": -1, "dim2": 1}),
    ],
    ("_np_moveaxis",): [
        ((3, 4, 6), {"source": "(0,)", "destination": "(1,)"}),
        ((3, 4, 6, 2), {"source": "(-1, 0)", "destination": "(0, 2)"}),
        ((3, 4, 6, 2), {"source": "(1, 2)", "destination": "(3, -4)"}),
        ((3, 4, 6, 2), {"source": "(0, 1)", "destination": "(2, 0)"}),
    ],
    ("expand_dims", "_npi_expand_dims"): [
        ((3, 4), {"axis": axis}) for axis in (0, 1, 2, -1, -2, -3)
    ],
    ("squeeze",): [
        ((3, 1, 4, 1), {"axis": "None"}),
        ((3, 1, 4, 1), {"axis": "1"}),
        ((3, 1, 4, 1), {"axis": "(1,)"}),
        ((3, 1, 4, 1), {"axis": "(1, -1)"}),
        ((3, 4), {}),
    ],
    ("_np_squeeze",): [((3, 1, 4, 1), {}), ((3, 1, 4, 1), {"axis": "(-1,)"})],
    ("broadcast_to",): [
        ((3, 1, 4, 1), {"shape": "(0, 5, 0, 2)"}),
        ((3, 1), {"shape": "(0, 1)"}),
    ],
    ("_npi_broadcast_to",): [((3, 1, 4), {"shape": "(2, -2, 5, -2)"})],
    ("broadcast_axis", "broadcast_axes"): [
        ((3, 1, 4, 1), {"axis": "1", "size": "5"}),
        ((3, 1, 4, 1), {"axis": "(1, 3)", "size": "(5, 2)"}),
        ((3, 4), {}),
    ],
    ("depth_to_space",): [
        ((3, 8, 2, 3), {"block_size": 2}),
        ((3, 9, 1, 2), {"block_size": 3}),
        ((3, 2, 2, 3), {"block_size": 1}),
    ],
    ("space_to_depth",): [
        ((3, 2, 4, 6), {"block_size": 2}),
        ((3, 1, 3, 6), {"block_size": 3}),
    ],
    ("shape_array", "_npx_shape_array"): [((3, 4, 6), {}), ((3,), {})],
    ("size_array",): [((3, 4, 6), {})],
}
SINGLES = [(name, ways) for names, ways in CASES.items() for name in names]


@pytest.mark.parametrize(("name", "ways"), SINGLES, ids=[name for name, _ in SINGLES])
def test_one_tensor(mx, name, ways):
    for shape, attributes in ways:
        data = np.random.RandomState(0).normal(size=shape).astype(np.float32)
        symbol = mx.sym.load_json(one_operator(name, ["data"], **attributes))
        # Of two rows one is left; MXNet squeezes that axis too, which here is the examples'.
        check(mx, symbol, {"data": data if "squeeze" in name else data[:2]})
        # ONNX Runtime moves blocks of floating-point numbers only.
        if "depth" not in name:
            check(mx, symbol, {"data": data.astype(np.int32)}, free_batch=False)


LIKE = [
    ("reshape_like", (3, 4, 6), (3, 24), {}),
    ("reshape_like", (3, 4, 6), (3, 4, 6), {}),
    ("reshape_like", (3, 6), (3, 2, 3), {"lhs_begin": 1, "rhs_begin": 1}),
    ("reshape_like", (3, 6), (3, 2, 3), {"lhs_begin": -1, "lhs_end": "None", "rhs_begin": 1}),
    ("reshape_like", (6, 7), (6, 4, 2), {"lhs_end": 1, "rhs_end": -2}),
    ("reshape_like", (3, 4, 6), (3, 24, 2), {"lhs_begin": 1, "rhs_begin": 1, "rhs_end": 2}),
    ("_npx_reshape_like", (3, 4, 6), (3, 8, 3), {}),
    ("broadcast_like", (3, 1, 4), (3, 2, 4), {}),
    ("broadcast_like", (3, 1), (3, 5), {"lhs_axes": "(1,)", "rhs_axes": "(-1,)"}),
    ("broadcast_like", (3, 1, 1), (3, 5, 2), {"lhs_axes": "(1, -1)", "rhs_axes": "(2, 1)"}),
    ("broadcast_like", (3, 1), (3, 5), {"lhs_axes": "None", "rhs_axes": "None"}),
    ("_identity_with_attr_like_rhs", (3, 4), (3, 4), {}),
]


@pytest.mark.parametrize(("name", "shape", "like", "attributes"), LIKE)
def test_like_another_tensor(mx, name, shape, like, attributes):
    random = np.random.RandomState(0)
    data = {"a": random.normal(size=shape), "b": random.normal(size=like)}
    data = {name: array.astype(np.float32) for name, array in data.items()}
    symbol = mx.sym.load_json(one_operator(name, list(data), **attributes))
    check(mx, symbol, data)
    check(mx, symbol, data, free_batch=False)


def test_a_weight_is_broadcast_to_the_batch(mx):
    data, weight = mx.sym.var("data"), mx.sym.var("weight", shape=(1, 4))
    symbol = mx.sym.broadcast_like(weight, data)
    check(mx, symbol, {"data": np.ones((3, 4), np.float32)})
    symbol = mx.sym.broadcast_like(weight, data, lhs_axes=(0,), rhs_axes=(0,))
    check(mx, symbol, {"data": np.ones((3, 2), np.float32)})


def test_squeezing_leaves_an_axis(mx):
    data = {"data": np.ones((1, 1, 1), np.float32)}
    for name in ("squeeze", "_np_squeeze"):
        for axis in ("None", "(0, 1, 2)"):
            symbol = mx.sym.load_json(one_operator(name, ["data"], axis=axis))
            check(mx, symbol, data, free_batch=False)


def test_rows_of_words_and_back(mx):
    data = mx.sym.reshape(mx.sym.var("data"), shape=(-1, 1, 5, 4))
    rows = mx.sym.reshape(data, shape=(-1, 4))
    hidden = mx.sym.FullyConnected(rows, num_hidden=3, name="hidden")
    symbol = mx.sym.reshape(mx.sym.reshape(hidden, shape=(-1, 5, 3)), shape=(-3, 0))
    symbol = mx.sym.reshape(symbol, shape=(-4, -1, 5, 0))
    check(mx, symbol, {"data": np.random.RandomState(0).normal(size=(3, 5, 4)).astype("float32")})


def converted(text, shapes, parameters=None):
    graph = MxGraph.from_json(text)
    inputs = {name: (np.dtype(np.float32), shape) for name, shape in shapes.items()}
    _, values = convert_all(graph, parameters or {}, inputs)
    return values[graph.heads[0]]


@pytest.mark.parametrize(
    ("name", "attributes", "shape", "expected"),
    [
        ("Flatten", {}, (BATCH, 3, None, None), (BATCH, None)),
        ("Reshape", {"shape": "(0, -1)"}, (BATCH, 3, None, None), (BATCH, None)),
        ("Reshape", {"shape": "(0, 0, -1)"}, (BATCH, 3, None, None), (BATCH, 3, None)),
        ("Reshape", {"shape": "(-3, -2)"}, (BATCH, 3, 4, None), (3 * BATCH, 4, None)),
        ("Reshape", {"shape": "(0, 0, -3)"}, (BATCH, 3, None, None), (BATCH, 3, None)),
        ("Reshape", {"shape": "(0, -4, 3, 1, -2)"}, (BATCH, 3, 4, None), (BATCH, 3, 1, 4, None)),
        ("Reshape", {"shape": "(-2,)"}, (BATCH, None, None), (BATCH, None, None)),
        ("transpose", {}, (BATCH, 3, None), (None, 3, BATCH)),
        ("expand_dims", {"axis": -1}, (BATCH, None), (BATCH, None, 1)),
        ("broadcast_axis", {"axis": 1, "size": 4}, (BATCH, 1, None), (BATCH, 4, None)),
        ("depth_to_space", {"block_size": 2}, (BATCH, 4, None, 3), (BATCH, 1, None, 6)),
    ],
)
def test_sizes_that_are_not_known(name, attributes, shape, expected):
    found = converted(one_operator(name, ["data"], **attributes), {"data": shape}).dims
    assert found == expected


def test_like_a_tensor_of_unknown_sizes(mx):
    shape, like = (BATCH, 1, 6), (BATCH, None, 6)
    assert converted(one_operator("broadcast_like", "ab"), {"a": shape, "b": like}).rank == 3
    assert converted(one_operator("reshape_like", "ab"), {"a": shape, "b": like}).rank == 3


@pytest.mark.parametrize("shape", ["(0, -3, -1)", "(0, -3, 0)", "(0, -4, -1, 2, -1)"])
def test_unknown_sizes_that_are_needed(shape):
    text = one_operator("Reshape", ["data"], shape=shape)
    with pytest.raises(UnknownShape, match="needs the shape of 'data'"):
        converted(text, {"data": (BATCH, None, None, None)})
    with pytest.raises(UnknownShape, match="needs the number of dimensions of 'data'"):
        converted(text, {"data": None})


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("Reshape", {"shape": "(32, 100)"}),
        ("Reshape", {"shape": "(0, 7, -1)"}),
        ("Reshape", {"shape": "(-1, 7)"}),
        ("Reshape", {"shape": "(-4, 4, 8, 0)"}),
        ("Reshape", {"shape": "(-4, 32, -1, 0)"}),
        ("Reshape", {"shape": "(0, 0, 0)"}),
        ("Reshape", {"shape": "(0, 0, -3)"}),
        ("Reshape", {"shape": "(0, -4)"}),
        ("Reshape", {"shape": "(0, -5)"}),
        ("_npx_reshape", {"newshape": "(-2, -3)"}),
        ("broadcast_to", {"shape": "(32, 100)"}),
        ("squeeze", {"axis": "1"}),
        ("depth_to_space", {"block_size": 2}),
    ],
)
def test_shapes_that_do_not_fit(name, attributes):
    text = one_operator(name, ["data"], **attributes)
    with pytest.raises(ValueError, match="layer 'node'"):
        converted(text, {"data": (BATCH, 100)})


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("Reshape", {"shape": "(-4, 32, -1, -2)"}),
        ("_npx_reshape", {"newshape": "(-2, -3, -4)"}),
        ("_npx_reshape", {"newshape": "(-2, -2, -2, -2)"}),
        ("_npx_reshape", {"newshape": "(-2, -7, -1)"}),
    ],
)
def test_shapes_that_do_not_fit_whatever_the_rest(name, attributes):
    text = one_operator(name, ["data"], **attributes)
    with pytest.raises(ValueError, match="is not 32 times|cannot read|has no 4 axes"):
        converted(text, {"data": (BATCH, 3, None)})


def test_a_shape_that_keeps_its_beginning_is_simple():
    graph = MxGraph.from_json(one_operator("Reshape", ["data"], shape="(0, 0, -1)"))
    builder, _ = convert_all(graph, {}, {"data": (np.dtype(np.float32), (BATCH, 3, None, None))})
    assert [node.op_type for node in builder.nodes] == ["Reshape"]


def test_blocks_that_do_not_fit():
    for name in ("depth_to_space", "space_to_depth"):
        with pytest.raises(ValueError, match=r"\(n, 3, 5, 4\) cannot be cut into blocks"):
            converted(one_operator(name, ["data"], block_size=2), {"data": (BATCH, 3, 5, 4)})


@pytest.mark.parametrize(
    ("name", "attributes"),
    [("Reshape", {}), ("_np_reshape", {"newshape": "(-1,)", "order": "F"})],
)
def test_what_is_refused(name, attributes):
    with pytest.raises(Unsupported, match=name):
        converted(one_operator(name, ["data"], **attributes), {"data": (BATCH, 100)})


def test_parameters_stay_known_when_reshaped():
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = converted(one_operator("Reshape", ["w"], shape="(-1,)"), {}, {"w": weight})
    assert np.array_equal(found.value, weight.ravel())
