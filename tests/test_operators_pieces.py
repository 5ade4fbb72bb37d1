"""Operators that cut tensors up and put them together, against MXNet."""

import json

import numpy as np
import pytest
from operator_checks import assert_close, check, convert_all, one_operator, run_converted, run_mxnet

from xfer.checkpoint.convert import output_names
from xfer.checkpoint.onnx_builder import BATCH
from xfer.checkpoint.operators import Unsupported
from xfer.checkpoint.symbol import MxGraph

# Each group: names of one operator, and ways to use it: (shape of the data, attributes).
CASES = {
    ("slice", "crop", "_npi_slice", "_npx_slice", "_sparse_slice"): [
        ((3, 5, 4), {"begin": "(None, 1)", "end": "(None, 4)"}),
        ((3, 5, 4), {"begin": "(None, 1)", "end": "(None, 9)", "step": "()"}),
        ((3, 5, 4), {"begin": "(0, -3, 0)", "end": "(None, -1, None)"}),
        ((3, 5, 4), {"begin": "(None, 0, 1)", "end": "(None, None, None)", "step": "(None, 2, 3)"}),
        ((3, 5, 4), {"begin": "(None, None)", "end": "(None, None)", "step": "(1, -1)"}),
        ((3, 5, 4), {"begin": "(None, 9, -2)", "end": "(None, 0, -9)", "step": "(None, -2, -1)"}),
        ((3, 5, 4), {"begin": "(None, -9, 3)", "end": "(None, 3, None)", "step": "(None, 1, -2)"}),
        ((3, 5, 4), {"begin": "(None,)", "end": "(None,)", "step": "(-1,)"}),
        ((3, 5, 4), {"begin": "(None,)", "end": "(None,)"}),
    ],
    ("slice_axis",): [
        ((3, 5, 4), {"axis": 1, "begin": 1, "end": 4}),
        ((3, 5, 4), {"axis": -1, "begin": -3, "end": "None"}),
        ((3, 5, 4), {"axis": 2, "begin": 0, "end": -1}),
        ((3, 5, 4), {"axis": 0, "begin": 0, "end": "None"}),
    ],
    ("reverse", "flip", "_npi_flip"): [
        ((3, 5, 4), {"axis": "1"}),
        ((3, 5, 4), {"axis": "(0, 2)"}),
    ],
    ("SliceChannel", "split"): [
        ((3, 6, 4), {"num_outputs": 1}),
        ((3, 6, 4), {"num_outputs": 3}),
        ((3, 6, 4), {"num_outputs": 6, "squeeze_axis": True}),
        ((3, 6, 4), {"num_outputs": 4, "axis": -1, "squeeze_axis": 1}),
        ((3, 6, 4), {"num_outputs": 2, "axis": 2, "squeeze_axis": False}),
        ((3, 1, 4), {"num_outputs": 1, "squeeze_axis": True}),
    ],
    ("_split_v2", "_npi_split"): [
        ((3, 7, 4), {"indices": "(0, 2, 6)"}),
        ((3, 7, 4), {"indices": "(0,)"}),
        ((3, 7, 4), {"indices": "()", "sections": 3}),
        ((3, 7, 4), {"indices": "(0, 1, 3)", "axis": -1, "sections": 0}),
        ((3, 7, 3), {"indices": "(0, 1, 2)", "axis": 2, "squeeze_axis": True}),
        ((3, 7, 4), {"indices": "()", "axis": 2, "sections": 4, "squeeze_axis": 1}),
        ((3, 150), {"indices": "()", "sections": 140}),
        ((3, 150), {"indices": f"{(0, *range(3, 140))}", "sections": 0}),
    ],
    ("_npi_hsplit",): [((3, 2, 4), {"indices": "(0, 1)", "axis": 1, "sections": 0})],
    ("_npi_dsplit",): [((3, 2, 4), {"indices": "()", "axis": 2, "sections": 2})],
    ("tile", "_npi_tile"): [
        ((3, 2, 4), {"reps": "(1, 2, 3)"}),
        ((3, 2, 4), {"reps": "(3,)"}),
        ((3, 2, 4), {"reps": "2"}),
        ((3, 2, 4), {"reps": "(2, 1, 1)"}),
        ((3, 2), {"reps": "(2, 3, 1, 2)"}),
        ((3, 2), {"reps": "()"}),
    ],
    ("repeat", "_np_repeat"): [
        ((3, 2, 4), {"repeats": 2}),
        ((3, 2, 4), {"repeats": 3, "axis": "None"}),
        ((3, 2, 4), {"repeats": 3, "axis": 0}),
        ((3, 2, 4), {"repeats": 2, "axis": 1}),
        ((3, 2, 4), {"repeats": 2, "axis": -1}),
        ((3, 2, 4), {"repeats": 1, "axis": -3}),
    ],
    ("Pad", "pad"): [
        ((3, 2, 4, 5), {"mode": "constant", "pad_width": "(0,0,0,0,1,2,3,4)"}),
        (
            (3, 2, 4, 5),
            {"mode": "constant", "pad_width": "(0,0,0,0,0,1,2,0)", "constant_value": -1.5},
        ),
        ((3, 2, 4, 5), {"mode": "edge", "pad_width": "(0,0,0,0,1,2,6,4)"}),
        ((3, 2, 4, 5), {"mode": "reflect", "pad_width": "(0,0,0,0,3,2,1,4)"}),
        ((3, 2, 4, 5, 3), {"mode": "constant", "pad_width": "(0,0,0,0,1,2,3,4,0,1)"}),
        ((3, 2, 4, 5, 3), {"mode": "edge", "pad_width": "(0,0,0,0,1,2,3,4,2,1)"}),
        ((3, 2, 4, 5, 3), {"mode": "reflect", "pad_width": "(0,0,0,0,1,2,3,4,2,1)"}),
    ],
    ("_npi_pad",): [
        ((3, 4), {"pad_width": "((0, 0), (2, 1))"}),
        ((3, 4), {"pad_width": "((0, 0), (2, 1))", "mode": "constant", "constant_value": 2.5}),
        ((3, 4), {"pad_width": "((0, 0), (2, 3))", "mode": "reflect", "reflect_type": "even"}),
        ((3, 4), {"pad_width": "((0, 0), (0, 5))", "mode": "edge"}),
    ],
    ("diag",): [
        ((3, 4, 4), {"axis1": 1, "axis2": 2}),
        ((3, 4, 4), {"k": 1, "axis1": 1, "axis2": 2}),
        ((3, 4, 5), {"k": 1, "axis1": -2, "axis2": -1}),
        ((3, 4, 5, 2), {"k": -2, "axis1": 2, "axis2": 1}),
        ((3, 2, 6), {"k": 3, "axis1": 1, "axis2": 2}),
    ],
    ("_np_diagonal",): [((3, 4, 5), {"offset": 1, "axis1": 1, "axis2": 2})],
}
SINGLES = [(name, ways) for names, ways in CASES.items() for name in names]


def all_outputs(mx, text):
    """A network of one operator with all its outputs as heads."""
    symbol, graph = mx.sym.load_json(text), json.loads(text)
    count = len(symbol.get_internals().list_outputs()) - len(symbol.list_inputs())
    graph["heads"] = [[graph["heads"][0][0], place, 0] for place in range(count)]
    return mx.sym.load_json(json.dumps(graph))


@pytest.mark.parametrize(("name", "ways"), SINGLES)
def test_one_tensor(mx, name, ways):
    for shape, attributes in ways:
        data = np.random.RandomState(0).normal(size=shape, scale=9).astype(np.float32)
        symbol = all_outputs(mx, one_operator(name, ["data"], **attributes))
        check(mx, symbol, {"data": data[:2]})
        check(mx, symbol, {"data": data}, free_batch=False)


def test_names_of_the_parts(mx):
    for name, attributes in (("split", {"num_outputs": 2}), ("_split_v2", {"indices": "(0, 1)"})):
        text = one_operator(name, ["data"], **attributes)
        names = all_outputs(mx, text).list_outputs()
        assert output_names(MxGraph.from_json(text).nodes[-1]) == names


@pytest.mark.parametrize(
    ("name", "shape", "attributes"),
    [
        ("slice", (5, 4), {"begin": "(1,)", "end": "(-1,)"}),
        ("slice_axis", (5, 4), {"axis": 0, "begin": 2, "end": "None"}),
        ("split", (6, 4), {"num_outputs": 3, "axis": 0}),
        ("_split_v2", (7, 4), {"indices": "()", "sections": 3, "axis": 0}),
        ("diag", (4,), {}),
        ("diag", (3,), {"k": 2}),
        ("diag", (3,), {"k": -1}),
        ("diag", (3, 4), {"k": 1}),
        ("diag", (4, 3, 2), {"k": -1}),
        ("_np_diag", (3, 4), {"k": -1}),
        ("_np_diag", (3,), {}),
    ],
)
def test_what_needs_the_number_of_examples(mx, name, shape, attributes):
    data = np.random.RandomState(0).normal(size=shape).astype(np.float32)
    text = one_operator(name, ["data"], **attributes)
    symbol = all_outputs(mx, text)
    check(mx, symbol, {"data": data}, free_batch=False)
    with pytest.raises(ValueError, match="examples|cannot be cut"):
        convert_all(MxGraph.from_json(text), {}, {"data": (data.dtype, (BATCH, *shape[1:]))})


def test_a_matrix_of_an_infinite_diagonal(mx):
    symbol = mx.sym.diag(mx.sym.var("data"))
    check(mx, symbol, {"data": np.array([np.inf, 1, np.nan], np.float32)}, free_batch=False)


def test_rows_of_the_batch_that_are_cut_up_again(mx):
    both = mx.sym.concat(mx.sym.var("a"), mx.sym.var("b"), dim=0)
    halves = mx.sym.split(both, num_outputs=2, axis=0)
    data = {"a": np.ones((3, 4), np.float32), "b": np.zeros((3, 4), np.float32)}
    check(mx, mx.sym.Group([halves[1], mx.sym.slice_like(both, mx.sym.var("a"))]), data)


JOINS = [
    ("Concat", [(3, 2, 4), (3, 5, 4)], {}),
    ("concat", [(3, 2, 4), (3, 2, 1), (3, 2, 2)], {"dim": -1}),
    ("_sparse_concat", [(3, 2), (3, 1)], {"dim": 1}),
    ("_npi_concatenate", [(3, 2), (3, 1)], {"axis": 1}),
    ("_npi_concatenate", [(3, 2), (3, 2)], {}),
    ("_npi_concatenate", [(3, 2), (3, 1)], {"axis": "None"}),
    ("Concat", [(3, 2)], {}),
    ("_rnn_param_concat", [(3, 2), (3, 1)], {"dim": 1}),
    ("_npi_rnn_param_concat", [(3, 2), (3, 4)], {}),
    ("stack", [(3, 2), (3, 2)], {}),
    ("stack", [(3, 2), (3, 2), (3, 2)], {"axis": 1}),
    ("stack", [(3, 2), (3, 2)], {"axis": -1}),
    ("stack", [(3, 2)], {"axis": 2}),
    ("_npi_stack", [(3, 2), (3, 2)], {"axis": -2}),
    ("_npi_vstack", [(3,), (3,)], {}),
    ("_npi_vstack", [(3, 2), (3, 2)], {}),
    ("_npi_column_stack", [(3,), (3, 2)], {}),
]


@pytest.mark.parametrize(("name", "shapes", "attributes"), JOINS)
def test_several_tensors(mx, name, shapes, attributes):
    random = np.random.RandomState(0)
    data = {f"x{k}": random.normal(size=s).astype(np.float32) for k, s in enumerate(shapes)}
    text = one_operator(name, list(data), num_args=len(shapes), **attributes)
    check(mx, mx.sym.load_json(text), data)
    check(mx, mx.sym.load_json(text), data, free_batch=False)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("_npi_hstack", [(3, 2), (3, 4)]),
        ("_npi_hstack", [(3,), (3,)]),
        ("_npi_dstack", [(3,), (3,)]),
        ("_npi_dstack", [(3, 2), (3, 2)]),
        ("_npi_dstack", [(3, 2, 1), (3, 2, 4)]),
    ],
)
def test_stacks_whose_shapes_mxnet_forgets(mx, name, shapes):
    # MXNet runs them, but its inference of shapes overwrites those of their inputs.
    data = {f"x{k}": np.random.RandomState(k).rand(*s).astype("f") for k, s in enumerate(shapes)}
    text = one_operator(name, list(data), num_args=len(shapes))
    (expected,) = run_mxnet(mx, mx.sym.load_json(text), data)
    assert_close(run_converted(text, data), expected, 0)


SLICE_LIKE = [
    ((3, 5, 4), (3, 2, 4), {}),
    ((3, 5, 4), (3, 2, 1), {"axes": "(1, 2)"}),
    ((3, 5, 4), (3, 2, 1), {"axes": "(-1,)"}),
    ((3, 5, 4), (3, 2), {"axes": "(1,)"}),
    ((3, 5, 4), (3, 6, 2, 7), {"axes": "(-1,)"}),
    ((3, 5, 4), (3, 5, 4), {"axes": "()"}),
]


@pytest.mark.parametrize(("shape", "like", "attributes"), SLICE_LIKE)
def test_slice_like(mx, shape, like, attributes):
    data = {"a": np.random.RandomState(0).normal(size=shape), "b": np.ones(like)}
    data = {name: array.astype(np.float32) for name, array in data.items()}
    text = one_operator("slice_like", list(data), **attributes)
    check(mx, mx.sym.load_json(text), data)
    inputs = {"a": (data["a"].dtype, shape), "b": (data["b"].dtype, (BATCH, *like[1:]))}
    if "1" not in attributes.get("axes", ""):
        with pytest.raises(ValueError, match="number is not known"):
            convert_all(MxGraph.from_json(text), {}, inputs)


def converted(text, shape, parameters=None):
    graph = MxGraph.from_json(text)
    _, values = convert_all(graph, parameters or {}, {"data": (np.dtype(np.float32), shape)})
    return values[graph.heads[0]]


@pytest.mark.parametrize(
    ("name", "attributes", "expected"),
    [
        ("slice", {"begin": "(None, 1)", "end": "(None, 3)"}, (BATCH, 2, None)),
        ("slice_axis", {"axis": 2, "begin": 1, "end": "None"}, (BATCH, 4, None)),
        ("reverse", {"axis": "2"}, (BATCH, 4, None)),
        ("split", {"num_outputs": 2}, (BATCH, 2, None)),
        ("split", {"num_outputs": 2, "axis": 2}, (BATCH, 4, None)),
        ("stack", {"num_args": 1, "axis": 1}, (BATCH, 1, 4, None)),
        ("tile", {"reps": "(2, 1)"}, (BATCH, 8, None)),
        ("repeat", {"repeats": 2, "axis": 1}, (BATCH, 8, None)),
        ("pad", {"mode": "edge", "pad_width": "(0, 0, 1, 1, 2, 2)"}, (BATCH, 6, None)),
        ("pad", {"mode": "reflect", "pad_width": "(0, 0, 1, 1, 2, 2)"}, (BATCH, 6, None)),
    ],
)
def test_sizes_that_are_not_known(name, attributes, expected):
    assert converted(one_operator(name, ["data"], **attributes), (BATCH, 4, None)).dims == expected


@pytest.mark.parametrize(
    ("name", "attributes", "match"),
    [
        ("split", {"num_outputs": 3}, "axis 1 of .n, 4. cannot be cut into 3"),
        ("pad", {"mode": "edge", "pad_width": "(0, 0, 0)"}, "3 widths do not pad .n, 4."),
        ("slice", {"begin": "(0,)", "end": "(2,)"}, "cuts out some of the examples"),
        ("slice", {"begin": "(None,)", "end": "(None,)", "step": "(4,)"}, "examples"),
    ],
)
def test_pieces_that_do_not_fit(name, attributes, match):
    with pytest.raises(ValueError, match=match):
        converted(one_operator(name, ["data"], **attributes), (BATCH, 4))


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "symmetric", "pad_width": "((0, 0), (1, 1))"},
        {"mode": "reflect", "pad_width": "((0, 0), (1, 1))", "reflect_type": "odd"},
        {"mode": "reflect", "pad_width": "((0, 0), (4, 1))"},
    ],
)
def test_what_is_refused(attributes):
    with pytest.raises(Unsupported, match="_npi_pad with"):
        converted(one_operator("_npi_pad", ["data"], **attributes), (BATCH, 4))


def test_parameters_stay_known_when_put_together():
    weights = {"v": np.ones((3, 1), np.float32), "w": np.zeros((3, 1), np.float32)}
    for dim in (0, 1):
        text = one_operator("_rnn_param_concat", ["v", "w"], num_args=2, dim=dim)
        found = converted(text, (BATCH, 4), weights).value
        assert np.array_equal(found, np.concatenate(list(weights.values()), dim))
