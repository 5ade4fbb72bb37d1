# ruff: noqa: D103 - functions and inputs have the names of ONNX's, which say what they do
"""Arithmetic, comparisons, reductions and products."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from xfer.graph_module.registry import operator


def _of_one(name: str, function: Callable[[Tensor], Tensor]) -> None:
    @operator(name)
    def compute(X: Tensor) -> Tensor:
        return function(X)


def _of_two(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    @operator(name)
    def compute(A: Tensor, B: Tensor) -> Tensor:
        return function(A, B)


def _of_many(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    @operator(name)
    def compute(*inputs: Tensor) -> Tensor:
        return reduce(function, inputs)


_of_one("Abs", torch.abs)
_of_one("Ceil", torch.ceil)
_of_one("Erf", torch.erf)
_of_one("Exp", torch.exp)
_of_one("Floor", torch.floor)
_of_one("Log", torch.log)
_of_one("Neg", torch.neg)
_of_one("Not", torch.logical_not)
_of_one("Reciprocal", torch.reciprocal)
_of_one("Round", torch.round)
_of_one("Sign", torch.sign)
_of_one("Sqrt", torch.sqrt)
_of_two("Add", torch.add)
_of_two("Sub", torch.sub)
_of_two("Mul", torch.mul)
_of_two("Equal", torch.eq)
_of_two("Less", torch.lt)
_of_two("LessOrEqual", torch.le)
_of_two("Greater", torch.gt)
_of_two("GreaterOrEqual", torch.ge)
_of_many("Max", torch.maximum)
_of_many("Min", torch.minimum)
_of_many("Sum", torch.add)


@operator("Div")
def Div(A: Tensor, B: Tensor) -> Tensor:
    return A / B if A.is_floating_point() else torch.div(A, B, rounding_mode="trunc")


@operator("Pow")
def Pow(X: Tensor, Y: Tensor) -> Tensor:
    return torch.pow(X, Y).to(X.dtype)


@operator("Clip")
def Clip(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    return input if min is None and max is None else torch.clamp(input, min, max)


@operator("Where")
def Where(condition: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    return torch.where(condition, X, Y)


@operator("MatMul")
def MatMul(A: Tensor, B: Tensor) -> Tensor:
    return torch.matmul(A.to(B.dtype), B)


@operator("Gemm")
def Gemm(
    A: Tensor,
    B: Tensor,
    C: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    A = (A.T if transA else A).to(B.dtype)
    if alpha == beta == 1 and (C is None or C.ndim == 1):
        return torch.nn.functional.linear(A, B if transB else B.T, C)
    product = alpha * torch.matmul(A, B.T if transB else B)
    return product if C is None else product + beta * C


def _axes(axes: Any, x: Tensor) -> list[int]:
    axes = [axes] if isinstance(axes, int) else axes
    return list(axes) if axes else list(range(x.ndim))


def _reduction(name: str, function: Callable[[Tensor, list[int], bool], Tensor]) -> None:
    @operator(name, sizes="axes")
    def compute(
        data: Tensor, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Tensor:
        if not axes and noop_with_empty_axes:
            return data
        return function(data, _axes(axes, data), bool(keepdims))


_reduction("ReduceMax", lambda x, axes, keep: torch.amax(x, axes, keep))
_reduction("ReduceMin", lambda x, axes, keep: torch.amin(x, axes, keep))
_reduction("ReduceMean", lambda x, axes, keep: torch.mean(x, axes, keep))
_reduction("ReduceSum", lambda x, axes, keep: torch.sum(x, axes, keep, dtype=x.dtype))
_reduction("ReduceSumSquare", lambda x, axes, keep: torch.sum(x * x, axes, keep, dtype=x.dtype))
