# ruff: noqa: D103 - functions and inputs have the names of ONNX's, which say what they do
"""Arithmetic, comparisons, logic, activations and casts."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xfer.graph_module.registry import operator


def _of_one(name: str, function: Callable[[Tensor], Tensor]) -> None:
    operator(name)(lambda X: function(X))


def _of_two(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    operator(name)(lambda A, B: function(A, B))


def _of_many(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    operator(name)(lambda *inputs: reduce(function, inputs))


_NAMED_ALIKE = """
    Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Neg Reciprocal Round
    Sigmoid Sin Sinh Sqrt Tan Tanh
"""
for _name in _NAMED_ALIKE.split():
    _of_one(_name, getattr(torch, _name.lower()))
_of_one("BitwiseNot", torch.bitwise_not)
_of_one("HardSwish", F.hardswish)
_of_one("IsNaN", torch.isnan)
_of_one("Mish", F.mish)
_of_one("Not", torch.logical_not)
_of_one("Relu", torch.relu)
_of_one("Sign", lambda x: torch.where(x == x, torch.sign(x), x))  # NaN stays
_of_one("Softsign", F.softsign)
# The default threshold of 20 would show in double precision.
_of_one("Softplus", partial(F.softplus, threshold=40.0))

_of_two("Add", torch.add)
_of_two("And", torch.logical_and)
_of_two("BitwiseAnd", torch.bitwise_and)
_of_two("BitwiseOr", torch.bitwise_or)
_of_two("BitwiseXor", torch.bitwise_xor)
_of_two("Equal", torch.eq)
_of_two("Greater", torch.gt)
_of_two("GreaterOrEqual", torch.ge)
_of_two("Less", torch.lt)
_of_two("LessOrEqual", torch.le)
_of_two("Mul", torch.mul)
_of_two("Or", torch.logical_or)
_of_two("Sub", torch.sub)
_of_two("Xor", torch.logical_xor)
_of_many("Max", torch.maximum)
_of_many("Min", torch.minimum)
_of_many("Sum", torch.add)


@operator("Mean")
def Mean(*inputs: Tensor) -> Tensor:
    return reduce(torch.add, inputs) / len(inputs)


@operator("Div")
def Div(A: Tensor, B: Tensor) -> Tensor:
    is_real = A.is_floating_point() or B.is_floating_point()
    return A / B if is_real else torch.div(A, B, rounding_mode="trunc")


@operator("Mod")
def Mod(A: Tensor, B: Tensor, fmod: int = 0) -> Tensor:
    return torch.fmod(A, B) if fmod else torch.remainder(A, B)


@operator("Pow")
def Pow(X: Tensor, Y: Tensor) -> Tensor:
    return torch.pow(X, Y).to(X.dtype)


@operator("BitShift")
def BitShift(X: Tensor, Y: Tensor, direction: str = "LEFT") -> Tensor:
    shift = torch.bitwise_left_shift if direction == "LEFT" else torch.bitwise_right_shift
    # PyTorch shifts no unsigned integers of more than 8 bits.
    return shift(X.long(), Y.long()).to(X.dtype)


@operator("Where")
def Where(condition: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    return torch.where(condition, X, Y)


@operator("Clip", numbers="min max")
def Clip(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    return input if min is None and max is None else torch.clamp(input, min, max)


@operator("IsInf")
def IsInf(X: Tensor, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    found = torch.isinf(X)
    if not detect_negative:
        found = found & (X > 0)
    return found if detect_positive else found & (X < 0)


@operator("Cast")
def Cast(input: Tensor, to: torch.dtype, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return input.to(to)


@operator("CastLike")
def CastLike(
    input: Tensor, target_type: Tensor, saturate: int = 1, round_mode: str = "up"
) -> Tensor:
    return input.to(target_type.dtype)


@operator("Identity")
def Identity(input: Tensor, detached: bool = False) -> Tensor:
    return input.detach() if detached else input


@operator("Elu")
def Elu(X: Tensor, alpha: float = 1.0) -> Tensor:
    return F.elu(X, alpha)


@operator("Celu")
def Celu(X: Tensor, alpha: float = 1.0) -> Tensor:
    return F.celu(X, alpha)


@operator("Selu")
def Selu(X: Tensor, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Tensor:
    return gamma * F.elu(X, alpha)


@operator("LeakyRelu")
def LeakyRelu(X: Tensor, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(X, alpha)


@operator("PRelu")
def PRelu(X: Tensor, slope: Tensor) -> Tensor:
    return torch.where(X < 0, X * slope, X)


@operator("HardSigmoid")
def HardSigmoid(X: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * X + beta, 0, 1)


@operator("ThresholdedRelu")
def ThresholdedRelu(X: Tensor, alpha: float = 1.0) -> Tensor:
    return F.threshold(X, alpha, 0.0)


@operator("Shrink")
def Shrink(input: Tensor, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    moved = torch.where(input > lambd, input - bias, torch.zeros_like(input))
    return torch.where(input < -lambd, input + bias, moved)


@operator("Swish")
def Swish(X: Tensor, alpha: float = 1.0) -> Tensor:
    return F.silu(X) if alpha == 1 else X * torch.sigmoid(alpha * X)


@operator("Gelu", "com.microsoft::Gelu")
def Gelu(X: Tensor, approximate: str = "none") -> Tensor:
    return F.gelu(X, approximate=approximate)


@operator("com.microsoft::BiasGelu")
def BiasGelu(A: Tensor, B: Tensor) -> Tensor:
    return F.gelu(A + B)


@operator("com.microsoft::FastGelu")
def FastGelu(X: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(X if bias is None else X + bias, approximate="tanh")


@operator("com.microsoft::QuickGelu")
def QuickGelu(X: Tensor, alpha: float = 1.702) -> Tensor:
    return Swish(X, alpha)
