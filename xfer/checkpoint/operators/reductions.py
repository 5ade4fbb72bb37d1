"""What makes one number of many: sums, norms, extremes; and orderings: sort, top k."""

from collections.abc import Iterable

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor, follows_batch
from xfer.checkpoint.operators.arithmetic import widened
from xfer.checkpoint.operators.maths import read_dtype
from xfer.checkpoint.operators.registry import Attributes, Call, Formula, Result, operator

# None are all axes, and () are none.
Axes = tuple[int, ...] | None


def _axes(op: Call, x: Tensor) -> Axes:
    """Return the axes that one of the old operators reduces (tuple, or None for all)."""
    axes = op.ints("axis", None)
    if not axes:  # () is all of them, and so is all but ()
        return None
    axes = checked_axes(axes, x.rank)
    if op.flag("exclude", False):
        axes = tuple(axis for axis in range(x.rank) if axis not in axes)
    return axes


def checked_axes(axes: Iterable[int], rank: int) -> tuple[int, ...]:
    """Return axes counted from the first (tuple of int); raises ValueError for what is none."""
    for axis in axes:
        if not -rank <= axis < rank:
            raise ValueError(f"axis {axis} of {rank} dimensions")
    return tuple(axis % rank for axis in axes)


def _reduce(op: Call, kind: str, x: Tensor, axes: Axes, keep: bool | None = None) -> Tensor:
    """Emit an ONNX reduction over axes, of which None are all, and () are none."""
    if axes == ():
        return x
    places = None if axes is None else op.constant(axes, np.int64)
    keep = op.flag("keepdims", False) if keep is None else keep
    return op(kind, x, places, keepdims=int(keep))


def one_dimensional(op: Call, x: Tensor) -> Tensor:
    """Return a single number as MXNet had it before NumPy's rules, which is of shape (1,)."""
    return op.reshape(x, (1,)) if x.dims == () else x


def _without_nan(neutral: float) -> Formula:
    def replaced(op: Call, x: Tensor) -> Tensor:
        return op("Where", op("IsNaN", x), op.constant(neutral), x) if x.dtype == np.float32 else x

    return replaced


def _old(names: str, kind: str, prepare: Formula = lambda op, x: x) -> None:
    @operator(*names.split())
    def convert(op: Call, x: Tensor) -> Tensor:
        if kind == "ReduceMean" and x.dtype == np.bool_:
            raise op.unsupported("truth values")
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
    """Register a reduction of NumPy's, with the types it makes of truth values and of integers."""

    @operator(*names.split())
    def convert(op: Call, x: Tensor) -> Tensor:
        if op.text("initial", None) not in (None, "None"):
            raise op.unsupported(f"initial={op.text('initial')}")
        default = {"f": np.float32, "b": from_bool}.get(x.dtype.kind, from_whole or x.dtype)
        result = read_dtype(op, default)
        working = op.cast(op.cast(x, result), widened(result))
        return op.cast(_reduce(op, kind, working, _numpy_axes(op, x)), result)


_numpy("_np_sum", "ReduceSum", np.int64)
_numpy("_np_prod _np_product", "ReduceProd", np.int64)
_numpy("_np_max _np_amax", "ReduceMax", np.bool_)
_numpy("_np_min _np_amin", "ReduceMin", np.bool_)
_numpy("_npi_mean", "ReduceMean", np.float32, np.float32)


@operator("_np_any", "_np_sometrue")
def numpy_any(op: Call, x: Tensor) -> Tensor:
    """Tell whether any number is not zero."""
    return _reduce(op, "ReduceMax", op.cast(x, bool), _numpy_axes(op, x))


@operator("_np_all")
def numpy_all(op: Call, x: Tensor) -> Tensor:
    """Tell whether no number is zero."""
    return _reduce(op, "ReduceMin", op.cast(x, bool), _numpy_axes(op, x))


@operator("norm", "_sparse_norm")
def norm(op: Call, x: Tensor) -> Tensor:
    """Take the 1-norm or the 2-norm of the numbers along axes, as of one vector."""
    if op.text("out_dtype", None) not in (None, "None"):
        read_dtype(op, np.float32, "out_dtype")
    return one_dimensional(op, _norm(op, x, op.int("ord", 2), _axes(op, x)))


@operator("_npi_norm")
def numpy_norm(op: Call, x: Tensor) -> Tensor:
    """Take a norm of vectors; the norms of matrices that need their singular values are refused."""
    order, flag, axes = op.float("ord", 2.0), op.int("flag", -1), _numpy_axes(op, x)
    # What the caller asked for: -2 nothing, 1 Frobenius, -1 a vector's norm, others a matrix's.
    if flag not in (-2, 1) and (flag != -1 or axes is None or len(axes) != 1):
        raise op.unsupported(f"ord={order}, flag={flag}, axis={axes}")
    return _norm(op, x, order if flag == -1 else 2, None if flag == -2 else axes)


def _norm(op: Call, x: Tensor, order: float, axes: Axes) -> Tensor:
    kinds = {1.0: "ReduceL1", 2.0: "ReduceL2"}
    if order not in kinds or x.dtype != np.float32:
        raise op.unsupported(f"ord={order} of {x.dtype}")
    return _reduce(op, kinds[order], x, axes)


@operator("moments", outputs=lambda _: ("output0", "output1"))
def moments(op: Call, x: Tensor) -> Result:
    """Return mean and variance over axes."""
    axes = checked_axes(op.ints("axes"), x.rank)
    return tuple(one_dimensional(op, found) for found in _moments(op, x, axes, 0))


@operator("_npi_var")
def variance(op: Call, x: Tensor) -> Tensor:
    """Return the variance over axes."""
    return _numpy_variance(op, x)


@operator("_npi_std")
def deviation(op: Call, x: Tensor) -> Tensor:
    """Return the standard deviation over axes."""
    return op("Sqrt", _numpy_variance(op, x))


def _numpy_variance(op: Call, x: Tensor) -> Tensor:
    # Of whole numbers, MXNet's mean is a whole number too.
    if x.dtype != np.float32 or read_dtype(op, x.dtype) != np.float32:
        raise op.unsupported("whole numbers")
    axes = _numpy_axes(op, x)
    axes = tuple(range(x.rank)) if axes is None else axes
    return _moments(op, x, axes, op.int("ddof", 0))[1]


def _moments(op: Call, x: Tensor, axes: tuple[int, ...], ddof: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance, of which the latter is divided by `ddof` less than there are."""
    mean = _reduce(op, "ReduceMean", x, axes, keep=True)
    centred = op("Sub", x, mean)
    if ddof == 0:
        squares = op("Mul", centred, centred)
        spread = _reduce(op, "ReduceMean", squares, axes)
    else:
        sizes = [x.dims[axis] if x.dims else None for axis in axes]
        if None in sizes or any(map(follows_batch, sizes)):
            raise ValueError("the number of rows is to be known")
        number = float(np.prod(sizes) - ddof)
        spread = op("Div", _reduce(op, "ReduceSumSquare", centred, axes), op.constant(number))
    if axes and not op.flag("keepdims", False):
        mean = op("Squeeze", mean, op.constant(axes, np.int64))
    return mean, spread


@operator("argmax")
def argmax(op: Call, x: Tensor) -> Tensor:
    """Return the place of the largest number, in numbers of the same type."""
    return op.cast(one_dimensional(op, _index(op, "ArgMax", x)), x.dtype)


@operator("argmin")
def argmin(op: Call, x: Tensor) -> Tensor:
    """Return the place of the smallest number, in numbers of the same type."""
    return op.cast(one_dimensional(op, _index(op, "ArgMin", x)), x.dtype)


@operator("_npi_argmax")
def numpy_argmax(op: Call, x: Tensor) -> Tensor:
    """Return the place of the largest number."""
    return _index(op, "ArgMax", x)


@operator("_npi_argmin")
def numpy_argmin(op: Call, x: Tensor) -> Tensor:
    """Return the place of the smallest number."""
    return _index(op, "ArgMin", x)


@operator("argmax_channel")
def argmax_channel(op: Call, x: Tensor) -> Tensor:
    """Return the place of the largest number along the second axis."""
    return op.cast(op("ArgMax", x, axis=1, keepdims=0), x.dtype)


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
    """Add up along an axis."""
    axis = op.int("axis", None)
    result = read_dtype(op, np.int64 if x.dtype == np.bool_ else x.dtype)
    x = op.cast(op.cast(x, result), widened(result))
    if axis is None:
        x, axis = _flat(op, x), 0
    (axis,) = checked_axes((axis,), x.rank)
    return op.cast(op("CumSum", x, op.constant(axis, np.int64)), result)


def _topk_outputs(attributes: Attributes) -> tuple[str, ...]:
    several = attributes.text("ret_typ", "indices") in ("value", "both")
    return ("output0", "output1") if several else ("output",)


@operator("topk", "_npx_topk", outputs=_topk_outputs)
def topk(op: Call, x: Tensor) -> Result:
    """Return the places of the largest numbers, the numbers, both, or ones where they are."""
    kind = op.text("ret_typ", "indices")
    values, places, given, axis = _order(op, x, op.int("k", 1), op.flag("is_ascend", False))
    if kind == "mask":
        # Nothing is less than itself: zeros without knowing the shape; and likewise ones.
        zeros = op.cast(op("Less", given, given), x.dtype)
        ones = op.cast(op("Equal", places, places), x.dtype)
        found = op("ScatterElements", zeros, places, ones, axis=axis)
        return found if given is x else op.reshape(found, x.shape)
    numbers = op.cast(places, read_dtype(op, np.float32))
    return numbers if kind == "indices" else (values, numbers)


@operator("sort", "_npi_sort")
def sort(op: Call, x: Tensor) -> Tensor:
    """Sort along an axis."""
    return _order(op, x, 0, op.flag("is_ascend", True))[0]


@operator("argsort", "_npi_argsort")
def argsort(op: Call, x: Tensor) -> Tensor:
    """Return the places of the numbers in their order."""
    places = _order(op, x, 0, op.flag("is_ascend", True))[1]
    return op.cast(places, read_dtype(op, np.float32))


def _order(op: Call, x: Tensor, count: int, ascending: bool) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return the first numbers in order (all, if less than one), their places, and among what."""
    axis = op.int("axis", -1)
    if axis is None:
        x, axis = _flat(op, x), 0
    (axis,) = checked_axes((axis,), x.rank)
    size = _size(op, x, axis)
    if count > 0 and size.value is not None and count > size.value[0]:
        raise ValueError(f"k={count} of {size.value[0]}")
    first = op.constant([count], np.int64) if count > 0 else size
    values, places = op("TopK", x, first, axis=axis, largest=int(not ascending), outputs=2)
    return values, places, x, axis


def _size(op: Call, x: Tensor, axis: int) -> Tensor:
    """Return the size of an axis (Tensor of shape (1,))."""
    known = x.dims[axis]
    return op("Shape", x, start=axis, end=axis + 1) if known is None else op.sizes([known])
