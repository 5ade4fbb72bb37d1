"""Reductions, orderings and products of matrices against MXNet."""

import numpy as np
import pytest
from operator_checks import check, check_operator, one_operator, run_converted

from xfer.checkpoint.onnx_builder import BATCH

OLD = "sum mean prod nansum nanprod max min"
NUMPY = "_np_sum _np_prod _np_max _np_min _npi_mean _npi_var _npi_std _np_any _np_all"
PLACES = ["argmax", "argmin", "_npi_argmax", "_npi_argmin"]
AXES = [
    *({}, {"axis": 1}, {"axis": -1}, {"axis": 0}, {"axis": "(0, 2)"}, {"axis": "(-1, 1)"}),
    *({"axis": "(0, 1, 2)"}, {"axis": "None"}, {"axis": "(2,)"}),
]


def normal(*shape, seed=0):
    return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


def distinct(*shape, seed=0):
    """Numbers none of which come twice, since MXNet leaves the order of equal ones open."""
    order = np.random.RandomState(seed).permutation(np.prod(shape))
    return (order.reshape(shape) - 5).astype(np.float32)


def refused(name, *inputs, match, dims=None, **attributes):
    data = {f"x{place}": array for place, array in enumerate(inputs)}
    with pytest.raises(ValueError, match=match):
        run_converted(one_operator(name, data, **attributes), data, dims)


@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(mx, keepdims):
    x = normal(3, 4, 5)
    for axes in AXES:
        for name in [*OLD.split(), *NUMPY.split(), "norm"]:
            check_operator(mx, name, x, keepdims=keepdims, **axes)
        check_operator(mx, "norm", x, ord=1, keepdims=keepdims, **axes)
        for name in OLD.split():
            check_operator(mx, name, x, keepdims=keepdims, exclude=True, **axes)
    for name in [*OLD.split(), "norm"]:
        check_operator(mx, name, x, axis="()", keepdims=keepdims)
    for name in NUMPY.split():
        check_operator(mx, name, x, axis="()", keepdims=keepdims)


def test_reductions_of_few_dimensions(mx):
    for x in (normal(3), normal(3, 1), normal(2, 1, 1, 2)):
        for name in [*OLD.split(), *NUMPY.split(), "norm", *PLACES, "sort", "argsort"]:
            check_operator(mx, name, x, axis=0)
            check_operator(mx, name, x, axis=-1)


def test_reductions_of_whole_numbers(mx):
    for kind in (np.int32, np.int64, np.uint8, np.bool_):
        x = np.random.RandomState(0).randint(0, 4, size=(3, 4, 2)).astype(kind)
        for name in [*OLD.split(), "norm", *NUMPY.split()]:
            if name in ("_npi_std", "_npi_var", "norm") or (name == "mean" and kind == np.bool_):
                # MXNet gives numbers off by one, or refuses.
                refused(name, x, axis=1, match=f"{name} with")
                continue
            check_operator(mx, name, x, axis=1)
            check_operator(mx, name, x, axis="(1, 2)", keepdims=True)
        signed = x if kind in (np.uint8, np.bool_) else x - 2
        for name in ("sum", "mean", "prod", "max", "min", "_np_sum", "_npi_mean"):
            if name == "mean" and kind == np.bool_:
                continue
            check_operator(mx, name, signed, axis=1)
        check_operator(mx, "cumsum", signed, axis=1)


def test_numbers_that_are_none_are_left_out(mx):
    x = normal(3, 4)
    x[0, 1] = x[2, 3] = x[1] = np.nan
    for name in ("nansum", "nanprod"):
        for axes in ({}, {"axis": 1}, {"axis": 0}):
            check_operator(mx, name, x, **axes)


def test_types_of_numpys_reductions(mx):
    x = normal(3, 4) * 3
    for name in ("_np_sum", "_np_prod", "_npi_mean"):
        check_operator(mx, name, x, axis=1, dtype="float64")
        check_operator(mx, name, x.astype(np.int32), axis=1, dtype="float32")
    check_operator(mx, "_np_sum", x.astype(np.int32), axis=1, dtype="int64")
    refused("_np_sum", x, axis=1, initial=2.0, match="initial=2.0")


def test_spread(mx):
    x = normal(3, 4, 5)
    for name in ("_npi_var", "_npi_std"):
        for ddof in (0, 1, 2):
            check_operator(mx, name, x, axis="(1, 2)", ddof=ddof)
            check_operator(mx, name, x, axis=-1, ddof=ddof, keepdims=True)
        check_operator(mx, name, x, ddof=1, free_batch=False)
        with pytest.raises(ValueError, match="needs the size of the axes"):
            check_operator(mx, name, x, axis=0, ddof=1)


def test_moments(mx):
    for axes in ("(1,)", "(0, 2)", "(-1,)", "(0, 1, 2)"):
        for keepdims in (False, True):
            x = mx.sym.var("x")
            both = mx.sym.moments(x, axes=eval(axes), keepdims=keepdims)
            check(mx, mx.sym.Group([both[0], both[1]]), {"x": normal(3, 4, 5)})


def test_numpys_norm(mx):
    x = normal(3, 4, 5)
    for keepdims in (False, True):
        options = {"keepdims": keepdims, "ord": 2}
        check_operator(mx, "_npi_norm", x, flag=-2, **options)
        for axis in (1, "(-1,)", "(0, 2)"):
            check_operator(mx, "_npi_norm", x, flag=1, axis=axis, **options)
        check_operator(mx, "_npi_norm", x, flag=-1, axis=1, **options)
        check_operator(mx, "_npi_norm", x, flag=-1, axis="(2,)", keepdims=keepdims, ord=1)
    refused("_npi_norm", x, axis="(0, 1)", ord=2, flag=2, match="flag=2")
    refused("_npi_norm", x, axis="(0,)", ord=3, flag=-1, match="ord=3")


def test_square_sum():
    """MXNet has it for sparse matrices only."""
    x = normal(3, 4)
    for keepdims in (False, True):
        text = one_operator("_square_sum", ["x"], axis=1, keepdims=keepdims)
        expected = np.square(x).sum(1, keepdims=keepdims)
        assert np.allclose(run_converted(text, {"x": x}), expected)


def test_axes_that_are_none():
    x = normal(3, 4)
    for name in ("sum", "_np_sum", "norm", "sort", "topk", "cumsum"):
        refused(name, x, axis=2, match="axis 2 of 2 dimensions")
        refused(name, x, axis=-3, match="axis -3 of 2 dimensions")


@pytest.mark.parametrize("name", PLACES)
def test_places_of_extremes(mx, name):
    x = distinct(3, 4, 5)
    for axis in ({}, {"axis": "None"}, {"axis": 0}, {"axis": 1}, {"axis": -1}):
        for keepdims in (False, True):
            # The place among all the numbers of a batch needs their shape only to keep dimensions.
            check_operator(mx, name, x, keepdims=keepdims, **axis)
    for kind in (np.int32, np.int64, np.uint8):
        check_operator(mx, name, np.abs(x).astype(kind) % 7, axis=1)  # the first of equal ones
    check_operator(mx, name, np.zeros((2, 3), np.float32), axis=1)


def test_argmax_channel(mx):
    check_operator(mx, "argmax_channel", distinct(3, 4))
    check_operator(mx, "argmax_channel", distinct(3, 4, 5))


def test_cumsum(mx):
    x = normal(3, 4, 5)
    for axis in (0, 1, 2):
        check_operator(mx, "cumsum", x, axis=axis)
        check_operator(mx, "cumsum", x * 3, axis=axis, dtype="int32")
    check_operator(mx, "cumsum", x)
    check_operator(mx, "cumsum", x, axis="None", dtype="float64")


@pytest.mark.parametrize("ascending", [False, True])
def test_topk(mx, ascending):
    x = distinct(3, 4, 5)
    for kind in ("indices", "value", "both", "mask"):
        for axis, most in [-1, 5], [1, 4], [0, 2], ["None", 40], [2, 5]:
            for k in (1, 2, most, 0):
                if k in (most, 0) and axis in (0, "None") and kind != "indices":
                    continue
                options = {"axis": axis, "k": k, "ret_typ": kind, "is_ascend": ascending}
                check_operator(mx, "topk", x, **options)
        check_operator(mx, "topk", x, ret_typ=kind)
        check_operator(mx, "topk", x, ret_typ=kind, dtype="int32")
        check_operator(mx, "topk", x, ret_typ=kind, dtype="float64")
        check_operator(mx, "topk", x.astype(np.int32), ret_typ=kind, k=3)
    x = mx.sym.var("x")
    both = mx.sym.topk(x, k=2, ret_typ="both")
    check(mx, mx.sym.Group([both[1], both[0]]), {"x": distinct(3, 4)})
    refused("topk", distinct(3, 4), k=5, match="k=5 of 4")


@pytest.mark.parametrize("name", ["sort", "argsort"])
def test_sort(mx, name):
    for kind in (np.float32, np.int32, np.int64, np.uint8):
        x = np.abs(distinct(3, 4, 5)).astype(kind)
        x = distinct(3, 4, 5).astype(kind) if kind != np.uint8 else x[:, :, ::-1].cumsum(1) % 251
        x = x.astype(kind)
        for axis in ({}, {"axis": 1}, {"axis": -1}, {"axis": 0}, {"axis": "None"}):
            if kind == np.uint8 and name == "argsort":
                continue  # equal numbers
            check_operator(mx, name, x, **axis)
            check_operator(mx, name, x, is_ascend=False, **axis)
            check_operator(mx, name, x, is_ascend=True, **axis)
    if name == "argsort":
        check_operator(mx, name, distinct(3, 4), dtype="int32")
        check_operator(mx, name, distinct(3, 4), dtype="int64", is_ascend=0)


def test_sizes_that_are_not_known():
    """Most need no sizes, neither of the axes they work along nor of the others."""
    x = distinct(3, 5, 4)
    for name, attributes, expected in (
        ("sort", {"axis": 1}, np.sort(x, 1)),
        ("argsort", {"axis": -1}, np.argsort(x, -1)),
        ("topk", {"axis": 1, "k": 0, "ret_typ": "value"}, -np.sort(-x, 1)),
        ("topk", {"axis": 1, "k": 1, "ret_typ": "mask"}, x == x.max(1, keepdims=True)),
        ("sort", {"axis": "None"}, np.sort(x.ravel())),
        ("argmax", {"axis": "None"}, [x.argmax()]),
        ("sum", {"axis": -1, "exclude": True}, x.sum((0, 1))),
        ("norm", {}, [np.sqrt(np.square(x).sum())]),
        ("_npi_var", {}, x.var()),
        ("batch_dot", {"transpose_b": True}, x @ x.transpose(0, 2, 1)),
        ("linalg_syrk", {}, x @ x.transpose(0, 2, 1)),
    ):
        data = {"x": x, "y": x} if name == "batch_dot" else {"x": x}
        found = run_converted(one_operator(name, data, **attributes), data, (BATCH, None, None))
        assert np.allclose(found, expected), name
    refused("topk", x, axis="None", ret_typ="mask", dims=(BATCH, None, 4), match="needs the shape")


def test_dot(mx):
    for one, other in [(2, 3), (3, 4)], [(2, 3), (3,)], [(2, 4, 3), (3, 2)]:
        check_operator(mx, "dot", normal(*one), parameters={"w": normal(*other, seed=1)})
    for one, other, a, b in (
        *(((2, 3), (2, 4), 1, 0), ((2, 3), (4, 3), 0, 1), ((2, 3), (4, 2), 1, 1)),
        *(((2, 4, 3), (5, 3), 0, 1), ((2, 4, 3), (2, 5), 1, 0), ((2, 4, 3), (5, 2), 1, 1)),
        *(((2, 3), (3, 4, 5), 0, 0), ((2, 3), (4, 5, 3), 0, 1), ((2, 3), (2, 4, 5), 1, 0)),
        *(((2, 3, 4), (4, 5, 2), 0, 0), ((4, 3, 2), (5, 2, 4), 1, 1), ((2, 3), (3,), 0, 1)),
        *(((3,), (3, 4, 2), 0, 0), ((3, 2, 4), (4,), 0, 0), ((3,), (3,), 0, 0)),
    ):
        x, w = normal(*one), {"w": normal(*other, seed=1)}
        options = {"transpose_a": bool(a), "transpose_b": bool(b)}
        free = not a and x.ndim > 1
        check_operator(mx, "dot", x, parameters=w, free_batch=free, **options)
    # Both from the data: everything with everything.
    check_operator(mx, "dot", normal(3, 4), normal(3, 4), transpose_b=True)
    check_operator(mx, "dot", normal(3, 4), normal(3, 4), transpose_a=True)
    refused("dot", normal(2, 3), normal(4, 5, 6), match="do not go together")


def test_batch_dot(mx):
    for a in (False, True):
        for b in (False, True):
            one = normal(3, *((5, 2) if a else (2, 5)))
            other = normal(3, *((4, 5) if b else (5, 4)), seed=1)
            for name in ("batch_dot", "_npx_batch_dot"):
                check_operator(mx, name, one, other, transpose_a=a, transpose_b=b)


def test_gemm2(mx):
    for a in (False, True):
        for b in (False, True):
            shapes = ((5, 2) if a else (2, 5)), ((4, 5) if b else (5, 4))
            options = {"transpose_a": a, "transpose_b": b}
            one, other = normal(3, *shapes[0]), normal(3, *shapes[1], seed=1)
            check_operator(mx, "linalg_gemm2", one, other, alpha=0.5, **options)
            check_operator(mx, "_linalg_gemm2", one, other, **options)
            third = normal(3, 2, 4, seed=2)
            check_operator(mx, "linalg_gemm", one, other, third, **options)
            check_operator(mx, "linalg_gemm", one, other, third, alpha=2, beta=-0.5, **options)
            # Rows on an axis before the last but one.
            moved = [np.stack([x, 2 * x], 2).copy() for x in (one, other, third)]
            check_operator(mx, "linalg_gemm2", *moved[:2], axis=1, alpha=3, **options)
            check_operator(mx, "linalg_gemm", *moved, axis=-3, beta=3, **options)
            check_operator(mx, "linalg_gemm2", *moved[:2], axis=-3, **options)


def test_syrk(mx):
    for transpose in (False, True):
        check_operator(mx, "linalg_syrk", normal(3, 2, 5), transpose=transpose)
        check_operator(mx, "linalg_syrk", normal(3, 2, 4, 5), transpose=transpose, alpha=0.3)


def test_numpys_products(mx):
    for one, other in (
        *([(3, 4), (4, 2)], [(3, 4), (4,)], [(3, 2, 4), (4, 5)], [(3, 2, 4), (4,)]),
        *([(2, 3, 4), (5, 4, 2)], [(3, 4), (2, 4, 5)]),
    ):
        x, w = normal(*one), {"w": normal(*other, seed=1)}
        check_operator(mx, "_np_dot", x, parameters=w)
        if one[:1] != (2,):
            check_operator(mx, "_npi_matmul", x, parameters=w)
    check_operator(mx, "_npi_matmul", normal(3, 1, 2, 4), normal(3, 5, 4, 2))
    check_operator(mx, "_npi_matmul", normal(4), parameters={"w": normal(4)}, free_batch=False)
    check_operator(mx, "_np_dot", normal(4), parameters={"w": normal(4)}, free_batch=False)
    data = {"x": normal(3, 4), "y": np.array(2, np.float32)}
    assert np.array_equal(run_converted(one_operator("_np_dot", data), data), 2 * data["x"])
    for axes in (0, 1, 2):
        w = {"w": normal(*(4, 5)[2 - axes :], 2)}
        check_operator(mx, "_npi_tensordot_int_axes", normal(3, 4, 5), parameters=w, axes=axes)
    x, w = normal(3, 4, 5), {"w": normal(5, 2, 4)}
    options = {"a_axes_summed": "(1, 2)", "b_axes_summed": "(2, 0)"}
    check_operator(mx, "_npi_tensordot", x, parameters=w, **options)
    options = {"a_axes_summed": "(-1,)", "b_axes_summed": "(-3,)"}
    check_operator(mx, "_npi_tensordot", x, parameters=w, **options)


def test_einsum(mx):
    x, y = normal(3, 4, 5), normal(3, 5, 2)
    for subscripts in (
        "nij,njk->nik",
        "nij,njk->n",
        "nij,njk->kni",
        "nij, njk",
        "...ij,...jk->...ik",
    ):
        check_operator(mx, "_npi_einsum", x, y, num_args=2, subscripts=subscripts)
    check_operator(mx, "_npi_einsum", x, num_args=1, subscripts="nij->nj")


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_interleaved_attention(mx, heads):
    """BERT of GluonNLP: sequences first, the batch second."""
    length, rows, width = 5, 3, 8
    joined = normal(length, rows, 3 * width)
    attention = normal(rows * heads, length, length)
    name = "_contrib_interleaved_matmul_selfatt"
    check_operator(mx, f"{name}_qk", joined, heads=heads, free_batch=False)
    check_operator(mx, f"{name}_valatt", joined, attention, heads=heads, free_batch=False)
    queries, joined = normal(4, rows, width), normal(length, rows, 2 * width)
    attention = normal(rows * heads, 4, length)
    name = "_contrib_interleaved_matmul_encdec"
    check_operator(mx, f"{name}_qk", queries, joined, heads=heads, free_batch=False)
    check_operator(mx, f"{name}_valatt", joined, attention, heads=heads, free_batch=False)


def test_interleaved_attention_on_examples_first(mx):
    x = mx.sym.var("x")
    turned = mx.sym.transpose(x, axes=(1, 0, 2))
    scores = mx.sym.contrib.interleaved_matmul_selfatt_qk(turned, heads=2)
    weights = mx.sym.softmax(scores)
    found = mx.sym.contrib.interleaved_matmul_selfatt_valatt(turned, weights, heads=2)
    check(mx, mx.sym.transpose(found, axes=(1, 0, 2)), {"x": normal(3, 5, 24)})
    refused(
        "_contrib_interleaved_matmul_selfatt_qk", normal(5, 3, 24), heads=5, match="not a multiple"
    )


def test_ways_that_are_refused():
    refused("norm", normal(3, 4), out_dtype="complex", match="out_dtype='complex'")
    refused("norm", normal(3, 4), ord=3, match="ord=3")
    refused("_npi_var", normal(3, 4), dtype="int32", match="integers")
