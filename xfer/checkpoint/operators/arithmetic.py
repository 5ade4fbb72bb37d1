"""Arithmetic of two tensors, or of a tensor and a number; comparisons, logic and choice.

MXNet has each of these up to five times: on tensors of equal shape, on tensors that broadcast,
for NumPy's rules, with a number on the right, and with a number on the left. Each is written once,
as a formula on two tensors of one type, and ``_family`` registers all its uses.
"""

from functools import reduce
from typing import Any

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor, Unsized
from xfer.checkpoint.operators.registry import Call, Formula, emit, operator
from xfer.checkpoint.operators.shapes import filled_like

_FLOAT, _WHOLE = np.dtype(np.float32), np.dtype(np.int32)


def widened(dtype: Any) -> np.dtype:
    """Return the type to compute in: ONNX Runtime lacks most operators for small integers."""
    return dtype if dtype in (np.float32, np.int32, np.int64) else _WHOLE


def _family(
    formula: Formula,
    same_shape: str = "",
    broadcast: str = "",
    number: str = "",
    number_first: str = "",
    result: Any = None,
) -> None:
    """Register a formula under the names of its uses; `result` is the type of its output."""

    @operator(*same_shape.split())
    def on_one_shape(op: Call, a: Tensor, b: Tensor) -> Tensor:
        return _calculate(op, formula, *_of_one_shape(op, a, b), result)

    operator(*broadcast.split())(lambda op, a, b: _calculate(op, formula, a, b, result))
    operator(*number.split())(
        lambda op, x: _calculate(op, formula, *_with_number(op, x, result), result)
    )
    operator(*number_first.split())(
        lambda op, x: _calculate(op, formula, *_with_number(op, x, result)[::-1], result)
    )


def _calculate(op: Call, formula: Formula, a: Tensor, b: Tensor, result: Any = None) -> Tensor:
    # Only NumPy's operators mix types, and floats are float32.
    mixed = _FLOAT if "f" in (a.dtype.kind, b.dtype.kind) else np.result_type(a.dtype, b.dtype)
    working = widened(mixed)
    found = formula(op, op.cast(a, working), op.cast(b, working))
    return op.cast(found, mixed if result is None else result)


def _of_one_shape(op: Call, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Refuse tensors of different shapes; one without a shape gets that of the other."""
    if isinstance(a, Unsized):
        return filled_like(op, b, a.value, a.dtype), b
    if isinstance(b, Unsized):
        return a, filled_like(op, a, b.value, b.dtype)
    # A state may have one row where MXNet would give it as many as the data.
    if None not in (a.dims, b.dims) and (
        len(a.dims) != len(b.dims)
        or any(p != q and None not in (p, q) for p, q in zip(a.dims[1:], b.dims[1:]))
    ):
        raise ValueError(f"shapes {a.dims} and {b.dims} are to be equal")
    return a, b


def _with_number(op: Call, x: Tensor, result: Any) -> tuple[Tensor, Tensor]:
    """Return a tensor and the scalar of the operator, both of the type that MXNet computes in."""
    value, kind = op.float("scalar", 1.0), x.dtype
    if kind == result:  # booleans are compared with True for any scalar but 0
        return x, op.constant(value != 0)
    if kind != np.float32 and not op.flag("is_int", True):
        kind = _FLOAT
    elif kind == np.bool_:
        kind = np.dtype(np.int64)
    if kind.kind != "f":
        if not abs(value) < 2 ** (8 * widened(kind).itemsize - 1):
            raise op.unsupported(f"scalar={value} on {kind}")
        # Wraps around, as in C.
        value = np.array(int(value), widened(kind)).astype(kind)
    return op.cast(x, kind), op.constant(value, kind)


def _without_zeros(op: Call, x: Tensor) -> Tensor:
    """Replace zeros by ones: dividing an integer by zero ends the process."""
    if x.value is not None and x.value.all():
        return x
    one = op.constant(1, x.dtype)
    return op("Where", op("Equal", x, op.constant(0, x.dtype)), one, x)


def _mod(op: Call, a: Tensor, b: Tensor) -> Tensor:
    """Compute the remainder with the sign of the divisor; it is zero if the divisor is."""
    if a.dtype != np.float32:
        return op("Mod", a, _without_zeros(op, b))
    zero = op.constant(0.0)
    rest = op("Mod", a, b, fmod=1)  # as in C, with the sign of the dividend
    opposite = op("Equal", op("Add", op("Sign", rest), op("Sign", b)), zero)
    found = op("Where", opposite, op("Add", rest, b), rest)
    if b.value is not None and b.value.all():
        return found
    return op("Where", op("Equal", b, zero), zero, found)


def _power(op: Call, a: Tensor, b: Tensor) -> Tensor:
    if b.value is not None and b.value.ndim == 0 and b.value == 0.5:
        return op("Sqrt", a)
    return op("Pow", a, b)


def _hypot(op: Call, a: Tensor, b: Tensor) -> Tensor:
    squares = [op("Mul", x, x) for x in (op.cast(a, np.float32), op.cast(b, np.float32))]
    return op("Sqrt", op("Add", *squares))


def _logic(kind: str) -> Formula:
    """Make the formula of a logical operator, for which every value but zero is true."""
    return lambda op, a, b: op(kind, op.cast(a, bool), op.cast(b, bool))


_family(
    emit("Add"),
    "elemwise_add _grad_add _sparse_elemwise_add",
    "broadcast_add _sparse_broadcast_add _sparse_broadcast_plus _npi_add",
    "_plus_scalar _scatter_plus_scalar _npi_add_scalar",
)
_family(
    emit("Sub"),
    "elemwise_sub _sparse_elemwise_sub",
    "broadcast_sub _sparse_broadcast_sub _sparse_broadcast_minus _npi_subtract",
    "_minus_scalar _scatter_minus_scalar _npi_subtract_scalar",
    "_rminus_scalar _npi_rsubtract_scalar",
)
_family(
    emit("Mul"),
    "elemwise_mul _sparse_elemwise_mul",
    "broadcast_mul _sparse_broadcast_mul _npi_multiply",
    "_mul_scalar _npi_multiply_scalar",
)
_family(
    lambda op, a, b: op("Div", a, b if a.dtype == np.float32 else _without_zeros(op, b)),
    "elemwise_div _sparse_elemwise_div _scatter_elemwise_div",
    "broadcast_div _sparse_broadcast_div",
    "_div_scalar",
    "_rdiv_scalar",
)
for _formula, _name, _first in (
    (_mod, "mod", "_rmod_scalar _npi_rmod_scalar"),
    (_power, "power", "_rpower_scalar _npi_rpower_scalar"),
    (emit("Max"), "maximum", ""),
    (emit("Min"), "minimum", ""),
    (_hypot, "hypot", ""),
):
    _uses = f"_{_name}", f"broadcast_{_name} _npi_{_name}", f"_{_name}_scalar _npi_{_name}_scalar"
    _family(_formula, *_uses, _first)

# The name of the old operator, and that of NumPy's.
for _formula, _name, _numpy in (
    (emit("Equal"), "equal", "equal"),
    (lambda op, a, b: op("Not", op("Equal", a, b)), "not_equal", "not_equal"),
    (emit("Greater"), "greater", "greater"),
    (emit("GreaterOrEqual"), "greater_equal", "greater_equal"),
    (emit("Less"), "lesser", "less"),
    (emit("LessOrEqual"), "lesser_equal", "less_equal"),
    (_logic("And"), "logical_and", None),
    (_logic("Or"), "logical_or", None),
    (_logic("Xor"), "logical_xor", None),
):
    _family(_formula, f"_{_name}", f"broadcast_{_name}", f"_{_name}_scalar")
    if _numpy:
        _family(_formula, "", f"_npi_{_numpy}", f"_npi_{_numpy}_scalar", result=np.bool_)


@operator("_npi_true_divide")
def true_divide(op: Call, a: Tensor, b: Tensor) -> Tensor:
    """Divide as floats, whatever the types are."""
    return op("Div", op.cast(a, np.float32), op.cast(b, np.float32))


def _scalar(op: Call) -> Tensor:
    return op.constant(op.float("scalar", 1.0))


operator("_npi_true_divide_scalar")(lambda op, x: true_divide(op, x, _scalar(op)))
operator("_npi_rtrue_divide_scalar")(lambda op, x: true_divide(op, _scalar(op), x))


@operator("add_n", "_sparse_add_n", "_sparse_ElementWiseSum")
def add_n(op: Call, first: Tensor, *others: Tensor) -> Tensor:
    """Add several tensors."""
    return reduce(lambda a, b: _calculate(op, emit("Add"), *_of_one_shape(op, a, b)), others, first)


@operator("where", "_sparse_where")
def where(op: Call, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Choose by a condition of the same shape, or by one value for each row."""
    x, y = _of_one_shape(op, x, y)
    if condition.rank == 1 < x.rank:
        others = op.constant(range(1, x.rank), np.int64)
        condition = op("Unsqueeze", op.cast(condition, bool), others)
    else:
        _of_one_shape(op, condition, x)
    return _choose(op, condition, x, y)


@operator("_npi_where")
def _choose(op: Call, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Choose between tensors that broadcast."""
    chosen = op.cast(condition, bool)
    return _calculate(op, lambda op, x, y: op("Where", chosen, x, y), x, y)


operator("_npi_where_lscalar")(
    lambda op, condition, y: _choose(op, condition, op.constant(op.float("scalar"), y.dtype), y)
)
operator("_npi_where_rscalar")(
    lambda op, condition, x: _choose(op, condition, x, op.constant(op.float("scalar"), x.dtype))
)
operator("_npi_where_scalar2")(
    lambda op, condition: _choose(
        op, condition, op.constant(op.float("x")), op.constant(op.float("y"))
    )
)


@operator("clip", "_sparse_clip", "_npi_clip")
def clip(op: Call, x: Tensor) -> Tensor:
    """Limit values to a range."""
    low, high = op.float("a_min"), op.float("a_max")
    if x.dtype == np.float32:
        return op("Clip", x, op.constant(low), op.constant(high))
    range_ = np.iinfo(x.dtype)
    low, high = (int(min(max(end, range_.min), range_.max)) for end in (low, high))
    return op("Clip", x, op.constant(low, x.dtype), op.constant(high, x.dtype))
