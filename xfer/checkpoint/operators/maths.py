"""Elementwise functions: rounding, powers, logarithms, trigonometry, and casts."""

import math

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor
from xfer.checkpoint.operators.arithmetic import widened
from xfer.checkpoint.operators.registry import Call, Formula, emit, numbered_outputs, operator


def _function(names: str, formula: Formula, whole: Formula | None = None) -> None:
    """Register a formula for floats; `whole` is the formula for integers, if it is another one.

    Otherwise integers are computed as floats and the fraction is cut off, as in MXNet.
    """

    @operator(*names.split())
    def convert(op: Call, x: Tensor) -> Tensor:
        if x.dtype == np.float32:
            return formula(op, x)
        if whole is None:
            return op.cast(formula(op, op.cast(x, np.float32)), x.dtype)
        return op.cast(whole(op, op.cast(x, widened(x.dtype))), x.dtype)


def _times(factor: float) -> Formula:
    """Make the formula of a product with a constant."""
    return lambda op, x: op("Mul", x, op.constant(factor))


def _same(op: Call, x: Tensor) -> Tensor:
    return x


def _square(op: Call, x: Tensor) -> Tensor:
    return op("Mul", x, x)


def _relu(op: Call, x: Tensor) -> Tensor:
    return op("Max", x, op.constant(0, x.dtype))


def _logarithm(base: float) -> Formula:
    return lambda op, x: op("Mul", op("Log", x), op.constant(1 / math.log(base)))


def _cbrt(op: Call, x: Tensor) -> Tensor:
    return op("Mul", op("Sign", x), op("Pow", op("Abs", x), op.constant(1 / 3)))


def _log1p(op: Call, x: Tensor) -> Tensor:
    # The second form is exact where 1 + x loses the digits of x.
    near = op("Less", op("Abs", x), op.constant(0.5))
    small = op("Atanh", op("Div", x, op("Add", x, op.constant(2.0))))
    plain = op("Log", op("Add", x, op.constant(1.0)))
    return op("Where", near, op("Mul", small, op.constant(2.0)), plain)


def _expm1(op: Call, x: Tensor) -> Tensor:
    # exp(x) - 1 = 2 sinh(x/2) exp(x/2) loses no digits of a small x. It is -1 long before -80.
    half = op("Mul", op("Max", x, op.constant(-80.0)), op.constant(0.5))
    return op("Mul", op("Mul", op("Sinh", half), op("Exp", half)), op.constant(2.0))


def _truncate(op: Call, x: Tensor) -> Tensor:
    negative = op("Less", x, op.constant(0.0))
    return op("Where", negative, op("Ceil", x), op("Floor", x))


def _round(op: Call, x: Tensor) -> Tensor:
    # Halves are rounded away from zero. Floor(x + 0.5) would be wrong just below 0.5.
    size = _round_up_if(op, op("Abs", x), "GreaterOrEqual")
    return op("Where", op("Less", x, op.constant(0.0)), op("Neg", size), size)


def _rint(op: Call, x: Tensor) -> Tensor:
    # Halves are rounded down, in both of MXNet's rints.
    return _round_up_if(op, x, "Greater")


def _round_up_if(op: Call, x: Tensor, comparison: str) -> Tensor:
    """Round up if the comparison of the fraction with one half holds, and down otherwise."""
    low = op("Floor", x)
    up = op(comparison, op("Sub", x, low), op.constant(0.5))
    return op("Where", up, op("Ceil", x), low)


_function("abs _npi_abs _npi_absolute _sparse_abs", emit("Abs"), emit("Abs"))
_function(
    "sign _npi_sign _sparse_sign _contrib_sign_ste _sparse__contrib_sign_ste",
    emit("Sign"),
    emit("Sign"),
)
_function("negative _npi_negative _sparse_negative", emit("Neg"), emit("Neg"))
_function("square _npi_square _sparse_square", _square, _square)
_function("relu _npx_relu _sparse_relu", emit("Relu"), _relu)

_function("floor _npi_floor _sparse_floor", emit("Floor"), _same)
_function("ceil _npi_ceil _sparse_ceil", emit("Ceil"), _same)
_function("round _sparse_round _contrib_round_ste _sparse__contrib_round_ste", _round, _same)
_function("rint _npi_rint _sparse_rint", _rint, _same)
_function("trunc _npi_trunc _sparse_trunc fix _npi_fix _sparse_fix", _truncate, _same)

_function("reciprocal _npi_reciprocal", emit("Reciprocal"))
_function("rsqrt _sparse_rsqrt", lambda op, x: op("Reciprocal", op("Sqrt", x)))
_function("cbrt _npi_cbrt _sparse_cbrt", _cbrt)
_function("rcbrt", lambda op, x: op("Reciprocal", _cbrt(op, x)))
_function("expm1 _npi_expm1 _sparse_expm1", _expm1)
_function("log2 _npi_log2 _sparse_log2", _logarithm(2))
_function("log10 _npi_log10 _sparse_log10", _logarithm(10))
_function("log1p _npi_log1p _sparse_log1p", _log1p)

_ONE_TO_ONE = """
    sqrt=Sqrt exp=Exp log=Log sin=Sin cos=Cos tan=Tan arcsin=Asin arccos=Acos arctan=Atan
    sinh=Sinh cosh=Cosh tanh=Tanh arcsinh=Asinh arccosh=Acosh arctanh=Atanh
"""
for _name, _kind in (pair.split("=") for pair in _ONE_TO_ONE.split()):
    _function(f"{_name} _npi_{_name} _sparse_{_name}", emit(_kind))
_function("degrees _npi_degrees _sparse_degrees", _times(180 / math.pi))
_function("radians _npi_radians _sparse_radians", _times(math.pi / 180))

_function("sigmoid _npx_sigmoid _sparse_sigmoid", emit("Sigmoid"))
_function("softsign", emit("Softsign"))
_function("erf _npx_erf", emit("Erf"))


operator("hard_sigmoid")(
    lambda op, x: op("HardSigmoid", x, alpha=op.float("alpha", 0.2), beta=op.float("beta", 0.5))
)


@operator("smooth_l1", "_npx_smooth_l1")
def smooth_l1(op: Call, x: Tensor) -> Tensor:
    """Square values near zero, and continue linearly."""
    if x.dtype != np.float32:
        raise op.unsupported(str(x.dtype))
    squared_sigma = op.float("scalar", 1.0) ** 2
    if not squared_sigma:
        raise op.unsupported("scalar=0")
    size = op("Abs", x)
    near = op("Less", size, op.constant(1 / squared_sigma))
    square = op("Mul", op("Mul", x, x), op.constant(squared_sigma / 2))
    return op("Where", near, square, op("Sub", size, op.constant(0.5 / squared_sigma)))


operator("_contrib_div_sqrt_dim")(lambda op, x: op("Div", x, op.constant(math.sqrt(x.shape[-1]))))


@operator("_npi_around")
def around(op: Call, x: Tensor) -> Tensor:
    """Round to some decimals, halves to even."""
    if x.dtype != np.float32:
        raise op.unsupported(str(x.dtype))
    decimals = op.int("decimals", 0)
    if decimals == 0:
        return op("Round", x)
    scale = op.constant(float(f"1e{decimals}"))
    return op("Div", op("Round", op("Mul", x, scale)), scale)


operator("logical_not")(lambda op, x: op.cast(op("Not", op.cast(x, bool)), x.dtype))
operator("_npi_logical_not")(lambda op, x: op("Not", op.cast(x, bool)))
operator("_npi_isnan")(lambda op, x: op("IsNaN", op.cast(x, np.float32)))
operator("_npi_isinf")(lambda op, x: op("IsInf", op.cast(x, np.float32)))
operator("_npi_isposinf")(lambda op, x: op("IsInf", op.cast(x, np.float32), detect_negative=0))
operator("_npi_isneginf")(lambda op, x: op("IsInf", op.cast(x, np.float32), detect_positive=0))


@operator("_npi_isfinite")
def isfinite(op: Call, x: Tensor) -> Tensor:
    """Return whether values are finite."""
    x = op.cast(x, np.float32)
    return op("Not", op("IsNaN", op("Sub", x, x)))


@operator("Cast", "_npi_cast", "_npx_cast")
def cast(op: Call, x: Tensor) -> Tensor:
    """Convert to another type; fractions are cut off."""
    dtype = op.dtype()
    if x.dtype == np.float32 and dtype.itemsize == 1 and dtype.kind in "iu":
        # Values out of range wrap around, which C does not define for floats.
        x = op.cast(x, np.int32)
    return op.cast(x, dtype)


@operator("amp_cast")
def amp_cast(op: Call, x: Tensor) -> Tensor:
    """Return the input: all floats are float32 here."""
    if op.dtype() != np.float32:
        raise op.unsupported(f"dtype={op.text('dtype')!r}")
    return x


operator("amp_multicast", outputs=numbered_outputs(lambda op: op.int("num_outputs")))(
    lambda op, *inputs: inputs
)
