"""Tensors made of nothing, against MXNet."""

import numpy as np
import pytest
from operator_checks import assert_close, check, convert_all, one_operator, run_converted, run_mxnet

from xfer.checkpoint.onnx_builder import BATCH, UnknownShape
from xfer.checkpoint.operators import Unsupported
from xfer.checkpoint.symbol import MxGraph

CASES = [
    ("_zeros", {"shape": "(2, 3)"}),
    ("_zeros", {"shape": "(2, 3)", "dtype": "int32", "ctx": "cpu(0)"}),
    ("_zeros", {"shape": "4", "dtype": "bool"}),
    ("_ones", {"shape": "(2,)"}),
    ("_ones", {"shape": "(2, 1)", "dtype": "uint8"}),
    ("_full", {"shape": "(2, 3)", "value": "-1.5"}),
    ("_full", {"shape": "(2, 3)", "value": "7", "dtype": "int64"}),
    ("_npi_zeros", {"shape": "(2, 3)", "dtype": "int8"}),
    ("_npi_ones", {"shape": "(2, 3)"}),
    ("_npi_full", {"shape": "(2, 3)", "value": "0.1", "dtype": "float32"}),
    ("_arange", {"start": "0", "stop": "5"}),
    ("_arange", {"start": "5", "stop": "None", "infer_range": False}),
    ("_arange", {"start": "5", "repeat": "2"}),
    ("_arange", {"start": "1", "stop": "2", "step": "0.1"}),
    ("_arange", {"start": "2.5", "stop": "-3", "step": "-1.1", "repeat": 3}),
    ("_arange", {"start": "0.5", "stop": "9.5", "step": "2.5", "dtype": "int32"}),
    ("_npi_arange", {"start": "1", "stop": "7", "step": "2", "dtype": "int64"}),
    ("_linspace", {"start": "0", "stop": "1", "num": "7"}),
    ("_linspace", {"start": "3", "stop": "-1", "num": "6", "endpoint": False}),
    ("_linspace", {"start": "3", "stop": "9", "num": "1"}),
    ("_npi_linspace", {"start": "0", "stop": "9", "num": "4", "dtype": "int32"}),
    ("_eye", {"N": "3"}),
    ("_eye", {"N": "3", "M": "5", "k": "1"}),
    ("_eye", {"N": "4", "M": "0", "k": "-2", "dtype": "int32"}),
    ("_npi_eye", {"N": "3", "M": "None"}),
    ("_npi_eye", {"N": "3", "M": "2", "k": "-1"}),
    ("_npi_identity", {"shape": "(3, 3)", "dtype": "int32"}),
    ("_npi_indices", {"dimensions": "(2, 3)"}),
    ("_npi_indices", {"dimensions": "(4,)", "dtype": "float32"}),
]


@pytest.mark.parametrize(("name", "attributes"), CASES)
def test_made_of_nothing(mx, name, attributes):
    text = one_operator(name, [], **attributes)
    (expected,) = run_mxnet(mx, mx.sym.load_json(text), {})
    assert_close(run_converted(text, {}), expected, 1e-6)


LIKE = [
    ("zeros_like", {}),
    ("_sparse_zeros_like", {}),
    ("ones_like", {}),
    ("_npi_full_like", {"fill_value": "2.5"}),
    ("_npi_full_like", {"fill_value": "-2", "dtype": "int32"}),
    ("_npi_full_like", {"fill_value": "2", "dtype": "None"}),
    ("_contrib_arange_like", {}),
    ("_contrib_arange_like", {"axis": "None", "start": "0.5", "step": "-1.5", "repeat": "1"}),
    ("_contrib_arange_like", {"axis": "0"}),
    ("_contrib_arange_like", {"axis": "0", "start": "1", "step": "0.1"}),
    ("_contrib_arange_like", {"axis": "-3", "start": "1", "repeat": "2"}),
    ("_contrib_arange_like", {"axis": "1"}),
    ("_npx_arange_like", {"axis": "-1", "start": "-2", "step": "3", "repeat": "2"}),
    ("_contrib_index_array", {}),
    ("_contrib_index_array", {"axes": "(1,)"}),
    ("_contrib_index_array", {"axes": "(-1, 0)"}),
]


@pytest.mark.parametrize(("name", "attributes"), LIKE)
def test_made_in_the_shape_of_another(mx, name, attributes):
    data = np.random.RandomState(0).normal(size=(3, 4, 2)).astype(np.float32)
    data[0, 0, 0] = np.nan
    symbol = mx.sym.load_json(one_operator(name, ["data"], **attributes))
    check(mx, symbol, {"data": data})
    check(mx, symbol, {"data": data}, free_batch=False)


@pytest.mark.parametrize("name", ["zeros_like", "ones_like", "_npi_full_like", "_npx_arange_like"])
def test_whole_numbers_stay_whole(mx, name):
    text = one_operator(name, ["data"], **({"fill_value": 3} if "full" in name else {}))
    for dtype in (np.int32, np.uint8):
        check(mx, mx.sym.load_json(text), {"data": np.ones((3, 4), dtype)})


def test_the_first_state_of_an_rnn_has_as_many_rows_as_the_batch(mx):
    rows = mx.sym.slice_axis(mx.sym.var("data"), axis=1, begin=0, end=1)
    # The zeros come first in the graph, before the data that say how many.
    symbol = mx.sym.zeros((0, 4)) + mx.sym.reshape(rows, (0, -1))
    data = {"data": np.random.RandomState(0).normal(size=(3, 3, 4)).astype(np.float32)}
    check(mx, symbol, data)
    check(mx, symbol, data, free_batch=False)


def test_the_first_state_of_layers_of_rnns(mx):
    data = mx.sym.var("data")
    symbol = mx.sym.zeros((2, 0, 4)) + mx.sym.stack(data, data, axis=0)
    check(mx, symbol, {"data": np.random.RandomState(0).normal(size=(3, 4)).astype(np.float32)})


ANCHORS = [
    ((2, 3, 4, 5), {}),
    ((2, 3, 4, 5), {"sizes": "(0.5, 0.25)", "ratios": "(1, 2, 0.5)"}),
    ((2, 3, 5, 2), {"sizes": "(0.9,)", "ratios": "(1, 3)", "clip": True}),
    ((2, 3, 1, 1), {"sizes": "[0.2, 0.272]", "ratios": "[1, 2, .5, 3, .3333]"}),
    ((2, 3, 3, 4), {"steps": "(0.2, 0.3)", "offsets": "(0.1, 0.7)"}),
    ((2, 3, 3, 4), {"ratios": "(2, 0.5)"}),
]


@pytest.mark.parametrize(("shape", "attributes"), ANCHORS)
def test_anchor_boxes(mx, shape, attributes):
    for name in ("_contrib_MultiBoxPrior", "_npx_multibox_prior"):
        symbol = mx.sym.load_json(one_operator(name, ["data"], **attributes))
        check(mx, symbol, {"data": np.zeros(shape, np.float32)})


def converted(text, inputs):
    graph = MxGraph.from_json(text)
    _, values = convert_all(graph, {}, inputs)
    return values[graph.heads[0]]


@pytest.mark.parametrize(
    ("name", "attributes", "dims"),
    [
        ("zeros_like", {}, (None, None, None)),
        ("_contrib_arange_like", {"axis": "2"}, (None,)),
        ("_contrib_arange_like", {"axis": "0"}, (BATCH,)),
    ],
)
def test_sizes_that_are_not_known(name, attributes, dims):
    inputs = {"data": (np.dtype(np.float32), (BATCH, 3, None))}
    assert converted(one_operator(name, ["data"], **attributes), inputs).dims == dims


def test_scalars_of_the_numpy_interface():
    assert converted(one_operator("_npi_zeros", [], shape="()"), {}).value.shape == ()


def test_half_precision_becomes_single():
    for kind in ("float16", "float64", "bfloat16", "2"):
        text = one_operator("_ones", [], shape="(2,)", dtype=kind)
        assert converted(text, {}).dtype == np.float32


def test_the_number_of_examples_may_not_be_known():
    text = one_operator("_zeros", [], shape="(0, 4)")
    with pytest.raises(UnknownShape, match="needs the number of examples"):
        converted(text, {})


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("_zeros", {}),
        ("_ones", {"shape": "()"}),
        ("_full", {"shape": "None", "value": "1"}),
        ("_arange", {"start": "0", "infer_range": True}),
    ],
)
def test_what_is_refused(name, attributes):
    with pytest.raises(Unsupported, match=name):
        converted(one_operator(name, [], **attributes), {})
