# ruff: noqa: D103 - where the name of a conversion says what it does
"""Reductions (sums, norms, extremes) and orderings (sort, top k)."""

import math
from collections.abc import Iterable

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor, follows_batch
from xfer.checkpoint.operators.arithmetic import widened
from xfer.checkpoint.operators.registry import Call, Formula, Result, numbered_outputs, operator
from xfer.checkpoint.operators.shapes import sizes_of

# None are all axes, and () are none.
Axes = tuple[int, ...] | None


def _axes(op: Call, x: Tensor) -> Axes:
    """Return the axes that one of the old operators reduces."""
    axes = op.ints("axis", None)
    if not axes:  # () is all axes, and so is all but ()
        return None
    axes = checked_axes(axes, x.rank)
    if op.flag("exclude", False):
        axes = tuple(axis for axis in range(x.rank) if axis not in axes)
    return axes


def checked_axes(axes: Iterable[int], rank: int) -> tuple[int, ...]:
    """Return axes counted from the first; raise ValueError for one out of range."""
    for axis in axes:
        if not -rank <= axis < rank:
            raise ValueError(f"axis {axis} of {rank} dimensions")
    return tuple(axis % rank for axis in axes)


def _reduce(op: Call, kind: str, x: Tensor, axes: Axes, keep: bool | None = None) -> Tensor:
    """Emit an ONNX reduction over axes."""
    if axes == ():
        return x
    places = None if axes is None else op.constant(axes, np.int64)
    keep = op.flag("keepdims", False) if keep is None else keep
    return op(kind, x, places, keepdims=int(keep))


def one_dimensional(op: Call, x: Tensor) -> Tensor:
    """Return a scalar with shape (1,), as MXNet's old operators do."""
    return op.reshape(x, (1,)) if x.dims == () else x


def _without_nan(neutral: float) -> Formula:
    def replaced(op: Call, x: Tensor) -> Tensor:
        return op("Where", op("IsNaN", x), op.constant(neutral), x) if x.dtype == np.float32 else x

    return replaced


def _old(names: str, kind: str, prepare: Formula = lambda op, x: x) -> None:
    @operator(*names.split())
    def convert(op: Call, x: Tensor) -> Tensor:
        if kind == "ReduceMean" and x.dtype == np.bool_:
            raise op.unsupported("booleans")
        working = prepare(op, op.cast(x, widened(x.dtype)))
        found = one_dimensional(op, _reduce(op, kind, working, _axes(op, x)))
        return op.cast(found, x.dtype)


_old("sum _sparse_sum", "ReduceSum")
_old("mean _sparse_mean", "ReduceMean")
_old("prod", "ReduceProd")
_old("max", "ReduceMax")
_old("min", "ReduceMin")
_old("nansum", "ReduceSum", _without_nan(0.0))
_old("nanprod", "ReduceProd", _without_nan(1.0))
_old("_square_sum", "ReduceSumSquare")


def _numpy_axes(op: Call, x: Tensor) -> Axes:
    axes = op.ints("axis", None)
    return None if axes is None else checked_axes(axes, x.rank)


def _numpy(names: str, kind: str, from_bool: type, from_whole: type | None = None) -> None:
    """Register one of NumPy's reductions, with its result types for booleans and integers."""

    @operator(*names.split())
    def convert(op: Call, x: Tensor) -> Tensor:
        if op.text("initial", None) is not None:
            raise op.unsupported(f"initial={op.text('initial')}")
        default = {"f": np.float32, "b": from_bool}.get(x.dtype.kind, from_whole or x.dtype)
        result = op.dtype(default)
        working = op.cast(op.cast(x, result), widened(result))
        return op.cast(_reduce(op, kind, working, _numpy_axes(op, x)), result)


_numpy("_np_sum", "ReduceSum", np.int64)
_numpy("_np_prod _np_product", "ReduceProd", np.int64)
_numpy("_np_max _np_amax", "ReduceMax", np.bool_)
_numpy("_np_min _np_amin", "ReduceMin", np.bool_)
_numpy("_npi_mean", "ReduceMean", np.float32, np.float32)


operator("_np_any", "_np_sometrue")(
    lambda op, x: _reduce(op, "ReduceMax", op.cast(x, bool), _numpy_axes(op, x))
)
operator("_np_all")(lambda op, x: _reduce(op, "ReduceMin", op.cast(x, bool), _numpy_axes(op, x)))


@operator("norm", "_sparse_norm")
def norm(op: Call, x: Tensor) -> Tensor:
    op.dtype(name="out_dtype")  # refuses what it cannot be
    return one_dimensional(op, _norm(op, x, op.int("ord", 2), _axes(op, x)))


@operator("_npi_norm")
def numpy_norm(op: Call, x: Tensor) -> Tensor:
    """Compute norms of vectors; matrix norms that need singular values are refused."""
    order, flag, axes = op.float("ord", 2.0), op.int("flag", -1), _numpy_axes(op, x)
    # The flag is -2 for the default, 1 for Frobenius, -1 for a vector norm, else for a matrix norm.
    if flag not in (-2, 1) and (flag != -1 or axes is None or len(axes) != 1):
        raise op.unsupported(f"ord={order}, flag={flag}, axis={axes}")
    return _norm(op, x, order if flag == -1 else 2, None if flag == -2 else axes)


def _norm(op: Call, x: Tensor, order: float, axes: Axes) -> Tensor:
    kinds = {1.0: "ReduceL1", 2.0: "ReduceL2"}
    if order not in kinds or x.dtype != np.float32:
        raise op.unsupported(f"ord={order} of {x.dtype}")
    return _reduce(op, kinds[order], x, axes)


@operator("moments", outputs=numbered_outputs(lambda _: 2))
def moments(op: Call, x: Tensor) -> Result:
    axes = checked_axes(op.ints("axes"), x.rank)
    return tuple(one_dimensional(op, found) for found in _moments(op, x, axes, 0))


@operator("_npi_var")
def variance(op: Call, x: Tensor) -> Tensor:
    # MXNet's mean of integers is an integer.
    if x.dtype != np.float32 or op.dtype(x.dtype) != np.float32:
        raise op.unsupported("integers")
    axes = _numpy_axes(op, x)
    axes = tuple(range(x.rank)) if axes is None else axes
    return _moments(op, x, axes, op.int("ddof", 0))[1]


operator("_npi_std")(lambda op, x: op("Sqrt", variance(op, x)))


def _moments(op: Call, x: Tensor, axes: tuple[int, ...], ddof: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance; the divisor of the variance is the count less `ddof`."""
    mean = _reduce(op, "ReduceMean", x, axes, keep=True)
    centred = op("Sub", x, mean)
    if ddof == 0:
        squares = op("Mul", centred, centred)
        spread = _reduce(op, "ReduceMean", squares, axes)
    else:
        sizes = [size for axis in axes if x.dims and (size := x.dims[axis]) is not None]
        if len(sizes) < len(axes) or any(map(follows_batch, sizes)):
            raise ValueError("needs the size of the axes")
        number = float(math.prod(sizes) - ddof)
        spread = op("Div", _reduce(op, "ReduceSumSquare", centred, axes), op.constant(number))
    if axes and not op.flag("keepdims", False):
        mean = op("Squeeze", mean, op.constant(axes, np.int64))
    return mean, spread


operator("argmax")(lambda op, x: op.cast(one_dimensional(op, _index(op, "ArgMax", x)), x.dtype))
operator("argmin")(lambda op, x: op.cast(one_dimensional(op, _index(op, "ArgMin", x)), x.dtype))
operator("_npi_argmax")(lambda op, x: _index(op, "ArgMax", x))
operator("_npi_argmin")(lambda op, x: _index(op, "ArgMin", x))
operator("argmax_channel")(lambda op, x: op.cast(op("ArgMax", x, axis=1, keepdims=0), x.dtype))


def _index(op: Call, kind: str, x: Tensor) -> Tensor:
    axis, keep = op.int("axis", None), op.flag("keepdims", False)
    if axis is not None:
        return op(kind, x, axis=axis, keepdims=int(keep))
    found = op(kind, _flat(op, x), axis=0, keepdims=0)
    return op.reshape(found, (1,) * x.rank) if keep else found


def _flat(op: Call, x: Tensor) -> Tensor:
    return op("Reshape", x, op.constant([-1], np.int64))


@operator("_np_cumsum")
def cumsum(op: Call, x: Tensor) -> Tensor:
    axis = op.int("axis", None)
    result = op.dtype(np.int64 if x.dtype == np.bool_ else x.dtype)
    x = op.cast(op.cast(x, result), widened(result))
    if axis is None:
        x, axis = _flat(op, x), 0
    (axis,) = checked_axes((axis,), x.rank)
    return op.cast(op("CumSum", x, op.constant(axis, np.int64)), result)


@operator(
    *("topk", "_npx_topk"),
    outputs=numbered_outputs(lambda op: 1 + (op.text("ret_typ", "") in ("value", "both"))),
)
def topk(op: Call, x: Tensor) -> Result:
    """Return the indices of the largest values, the values, both, or a mask of them."""
    kind = op.text("ret_typ", "indices")
    values, places, given, axis = _order(op, x, op.int("k", 1), op.flag("is_ascend", False))
    if kind == "mask":
        # No value is less than itself: zeros without knowing the shape, and ones likewise.
        zeros = op.cast(op("Less", given, given), x.dtype)
        ones = op.cast(op("Equal", places, places), x.dtype)
        found = op("ScatterElements", zeros, places, ones, axis=axis)
        return found if given is x else op.reshape(found, x.shape)
    numbers = op.cast(places, op.dtype())
    return numbers if kind == "indices" else (values, numbers)


operator("sort", "_npi_sort")(lambda op, x: _order(op, x, 0, op.flag("is_ascend", True))[0])


@operator("argsort", "_npi_argsort")
def argsort(op: Call, x: Tensor) -> Tensor:
    places = _order(op, x, 0, op.flag("is_ascend", True))[1]
    return op.cast(places, op.dtype())


def _order(op: Call, x: Tensor, count: int, ascending: bool) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return the first `count` values (all if < 1), their indices, the input and its axis."""
    axis = op.int("axis", -1)
    if axis is None:
        x, axis = _flat(op, x), 0
    (axis,) = checked_axes((axis,), x.rank)
    size = sizes_of(op, [(x, axis)])
    if count > 0 and size.value is not None and count > size.value[0]:
        raise ValueError(f"k={count} of {size.value[0]}")
    first = op.constant([count], np.int64) if count > 0 else size
    values, places = op("TopK", x, first, axis=axis, largest=int(not ascending), outputs=2)
    return values, places, x, axis
