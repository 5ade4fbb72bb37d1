"""Lookups and sequences against MXNet."""

import itertools

import numpy as np
import pytest
from operator_checks import check, convert_all, one_operator, run_converted

from xfer.checkpoint.onnx_builder import BATCH
from xfer.checkpoint.operators import Unsupported
from xfer.checkpoint.symbol import MxGraph


def names(mx, symbol, *others):
    """The symbol, whose last operator goes by one name, and under the others that it has."""
    found = symbol.tojson()
    operator = MxGraph.from_json(found).nodes[-1].operator
    yield symbol
    for other in others:
        yield mx.sym.load_json(found.replace(f'"op": "{operator}"', f'"op": "{other}"'))


def normal(*shape, seed=0):
    return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


def floats(*values):
    return np.array(values, np.float32)


OUT_OF_RANGE = floats([-7.5, -1, -0.5, 0], [0.9, 1, 3.99, 4], [5, 6, 7.2, 4e5])


@pytest.mark.parametrize("shape", [(3, 4), (2, 1), (5,), (2, 3, 2)])
def test_embedding(mx, shape):
    embedding = mx.sym.Embedding(mx.sym.var("ids"), input_dim=6, output_dim=3, name="e")
    for symbol in names(
        mx, embedding, "_npx_embedding", "_sparse_Embedding", "_contrib_SparseEmbedding"
    ):
        for dtype in ("float32", "int32", "int64", "uint8"):
            ids = np.random.RandomState(0).randint(0, 6, shape).astype(dtype)
            check(mx, symbol, {"ids": ids})


def test_embedding_out_of_range(mx):
    ids = {"ids": OUT_OF_RANGE}
    check(mx, mx.sym.Embedding(mx.sym.var("ids"), input_dim=6, output_dim=3), ids)
    sparse = mx.sym.Embedding(mx.sym.var("ids"), input_dim=6, output_dim=3, sparse_grad=True)
    check(mx, sparse, ids)


def test_embedding_of_another_size():
    attributes = {"input_dim": 5, "output_dim": 3}
    text = one_operator("Embedding", ["ids"], {"weight": normal(6, 3)}, **attributes)
    inputs = {"ids": (np.dtype(np.float32), (BATCH, 4))}
    with pytest.raises(ValueError, match=r"input_dim=5, and the table is \(6, 3\)"):
        convert_all(MxGraph.from_json(text), {"weight": normal(6, 3)}, inputs)


@pytest.mark.parametrize("mode", ["clip", "wrap"])
def test_take(mx, mode):
    for axis in (0, 1, 2, -1, -3):
        x = mx.sym.var("x", shape=(5, 4, 3))
        taken = mx.sym.take(x, mx.sym.var("ids"), axis=axis, mode=mode, name="t")
        for symbol in names(mx, taken, "_npi_take"):
            check(mx, symbol, {"ids": OUT_OF_RANGE})
            check(mx, symbol, {"ids": np.array([2, 0, 1], np.int32)})


def test_take_of_data(mx):
    for axis, free_batch in itertools.product((1, 2, -1), (True, False)):
        for ids in (np.arange(3, dtype=np.float32), floats([0, 1, 2, 9])):
            symbol = mx.sym.take(mx.sym.var("x"), mx.sym.var("ids", shape=ids.shape), axis=axis)
            data = {"x": normal(3, 4, 5)}
            check(mx, symbol, data, parameters={"ids": ids}, free_batch=free_batch)
    # Along the examples, of which there may be any number.
    symbol = mx.sym.take(mx.sym.var("x"), mx.sym.var("ids"))
    check(mx, symbol, {"x": normal(4, 5), "ids": floats(-1, 9, 1, 0)})
    symbol = mx.sym.take(mx.sym.var("x"), mx.sym.var("ids"), mode="wrap")
    check(mx, symbol, {"x": normal(4, 5), "ids": floats(-1, 9, 1, 0)})


def test_take_that_raises(mx):
    x, ids = mx.sym.var("x", shape=(4, 3)), mx.sym.var("ids")
    for axis in (0, 1):
        symbol = mx.sym.take(x, ids, axis=axis, mode="raise")
        check(mx, symbol, {"ids": floats([0, 1.5], [2, 1])})


@pytest.mark.parametrize("mode", ["clip", "wrap"])
def test_pick(mx, mode):
    x, ids = mx.sym.var("x"), mx.sym.var("ids")
    for axis, keepdims in itertools.product((1, 2, -1, -2), (True, False)):
        picked = mx.sym.pick(x, ids, axis=axis, keepdims=keepdims, mode=mode, name="p")
        shape = [3, 4, 5]
        shape[axis] = 1
        values = np.random.RandomState(0).uniform(-9, 9, shape).astype(np.float32)
        for symbol in names(mx, picked, "_npx_pick", "choose_element_0index"):
            check(mx, symbol, {"x": normal(3, 4, 5), "ids": values})
            check(mx, symbol, {"x": normal(3, 4, 5), "ids": values.squeeze(axis)})
    check(mx, mx.sym.pick(x, ids, mode=mode), {"x": normal(3, 4), "ids": floats(1, -2, 9)})
    along = mx.sym.pick(x, ids, axis=0, mode=mode)
    check(mx, along, {"x": normal(3, 4), "ids": floats(2, 1, 9, -1)}, free_batch=False)


def test_choose_element_0index(mx):
    symbol = mx.sym.choose_element_0index(mx.sym.var("x"), mx.sym.var("ids"))
    check(mx, symbol, {"x": normal(3, 4), "ids": floats(1, 0, 9)})


def test_batch_take(mx):
    symbol = mx.sym.batch_take(mx.sym.var("x"), mx.sym.var("ids"))
    check(mx, symbol, {"x": normal(4, 3), "ids": np.array([2, -1, 9, 0], np.int32)})


def test_gather_nd(mx):
    random = np.random.RandomState(0)
    for depth, places in itertools.product((1, 2, 3), ((1,), (4,), (2, 3))):
        ids = np.stack([random.randint(-size, size, places) for size in (3, 4, 5)[:depth]])
        gathered = mx.sym.gather_nd(
            mx.sym.var("x"), mx.sym.var("ids", shape=ids.shape, dtype="float32"), name="g"
        )
        for symbol in names(mx, gathered, "_npi_gather_nd", "_npx_gather_nd"):
            data, ids = {"x": normal(3, 4, 5)}, ids.astype(np.float32)
            check(mx, symbol, data, parameters={"ids": ids}, free_batch=False)
    # Places that come with the examples, their numbers in front.
    table, ids = mx.sym.var("table", shape=(3, 4)), mx.sym.var("ids")
    symbol = mx.sym.gather_nd(table, mx.sym.transpose(ids))
    check(mx, symbol, {"ids": floats([1.9, 2], [-1, 0], [0, 3])})


def test_scatter_nd(mx):
    x, ids = mx.sym.var("x"), mx.sym.var("ids")
    # A negative place writes into memory that is not its own.
    for places in (floats([1, 0, 2], [0, 3, 2]), floats([1, 0, 2])):
        symbol = mx.sym.scatter_nd(x, ids, shape=(4, 5))
        data = normal(3) if len(places) == 2 else normal(3, 5)
        check(mx, symbol, {"x": data, "ids": places}, free_batch=False)


def test_one_hot(mx):
    for dtype in ("float32", "int32", "int64", "uint8", "int8"):
        for values in ({}, {"on_value": 2.5, "off_value": -1.5}):
            hot = mx.sym.one_hot(mx.sym.var("ids"), depth=4, dtype=dtype, name="o", **values)
            for symbol in names(mx, hot, "_npx_one_hot"):
                check(mx, symbol, {"ids": OUT_OF_RANGE})
                check(mx, symbol, {"ids": np.array([3, 0], np.int32)})
    assert run_converted(
        one_operator("one_hot", ["ids"], depth=2, dtype="float16"), {"ids": floats(1)}
    ).tolist() == [[0, 1]]


SEQUENCES = [(4, 3), (4, 3, 2), (5, 3, 1, 2), (1, 3, 2)]


def swapped(mx, x):
    """Examples as they come, and with the steps in front."""
    return mx.sym.swapaxes(x, dim1=0, dim2=1)


def lengths_of(steps, first, dtype):
    return np.linspace(first, steps, 3).astype(dtype)


@pytest.mark.parametrize("shape", SEQUENCES)
def test_sequence_mask(mx, shape):
    x, lengths = mx.sym.var("x"), mx.sym.var("lengths")
    steps, examples = shape[:2]
    for value, kind, dtype in ((0.0, "float32", "float32"), (-1.7, "int32", "int32")):
        options = {"use_sequence_length": True, "value": value, "name": "m"}
        data = {"x": normal(examples, steps, *shape[2:]).astype(kind)}
        data["lengths"] = lengths_of(steps + 2, 0, dtype)
        inner = mx.sym.SequenceMask(x, lengths, axis=1, **options)
        for symbol in names(mx, inner, "_npx_sequence_mask"):
            check(mx, symbol, data)
        check(mx, mx.sym.SequenceMask(swapped(mx, x), lengths, **options), data)
    check(mx, mx.sym.SequenceMask(x + 0, axis=1), {"x": data["x"]})
    # The steps are what there may be any number of.
    fixed = mx.sym.SequenceMask(x, mx.sym.var("l", shape=(3,)), use_sequence_length=True)
    data, lengths = {"x": normal(4, *shape[1:])}, np.array([1, 0, 9], np.float32)
    check(mx, fixed, data, parameters={"l": lengths})


@pytest.mark.parametrize("shape", SEQUENCES)
def test_sequence_last(mx, shape):
    x, lengths = mx.sym.var("x"), mx.sym.var("lengths")
    steps, examples = shape[:2]
    data = {"x": normal(examples, steps, *shape[2:])}
    check(mx, mx.sym.SequenceLast(x, axis=1), data)
    check(mx, mx.sym.SequenceLast(swapped(mx, x)), data)
    # A length of 0, or beyond the steps, reads memory that is not the data's.
    for dtype in ("float32", "int32"):
        data["lengths"] = lengths_of(steps, 1, dtype)
        options = {"use_sequence_length": True}
        check(mx, mx.sym.SequenceLast(x, lengths, axis=1, **options), data)
        check(mx, mx.sym.SequenceLast(swapped(mx, x), lengths, **options), data)


@pytest.mark.parametrize("shape", SEQUENCES)
def test_sequence_reverse(mx, shape):
    x, lengths = mx.sym.var("x"), mx.sym.var("lengths")
    steps, examples = shape[:2]
    data = {"x": normal(examples, steps, *shape[2:])}
    check(mx, mx.sym.SequenceReverse(swapped(mx, x)), data)
    for dtype, first in (("float32", 0), ("int32", 1)):
        data["lengths"] = lengths_of(steps, first, dtype)
        symbol = mx.sym.SequenceReverse(swapped(mx, x), lengths, use_sequence_length=True)
        check(mx, symbol, data)


def test_whole_numbers_in_sequence(mx):
    x, lengths = mx.sym.var("x"), mx.sym.var("lengths")
    data = {"x": np.arange(24, dtype=np.int32).reshape(3, 4, 2), "lengths": floats(1, 4, 2)}
    for symbol in (
        mx.sym.SequenceLast(x, lengths, axis=1, use_sequence_length=True),
        mx.sym.SequenceReverse(swapped(mx, x), lengths, use_sequence_length=True),
    ):
        check(mx, symbol, data)


def test_refused():
    for name, attributes in (
        ("pick", {"axis": "None"}),
        ("pick", {"mode": "raise"}),
        ("take", {"mode": "nearest"}),
        ("one_hot", {"depth": 2, "dtype": "complex64"}),
    ):
        inputs = ["x"] if name == "one_hot" else ["x", "ids"]
        what = next(word for key, word in attributes.items() if key != "depth")
        with pytest.raises(Unsupported, match=f"operator {name} with .*{what}"):
            run_converted(
                one_operator(name, inputs, **attributes), {name: normal(2, 3) for name in inputs}
            )
