# ruff: noqa: D103 - functions and inputs have the names of ONNX's, which say what they do
"""Reductions, orderings and products."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xfer.graph_module.registry import operator


def _reduction(name: str, function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> None:
    @operator(name, sizes="axes")
    def compute(
        data: Tensor, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Tensor:
        axes = [axes] if isinstance(axes, int) else axes
        if not data.ndim or (not axes and noop_with_empty_axes):
            # Each number is reduced alone.
            return function(data.unsqueeze(0), (0,), False)
        places = tuple(axis % data.ndim for axis in axes) if axes else tuple(range(data.ndim))
        return function(data, places, bool(keepdims))


def _extreme(function: Callable[..., Tensor], sign: int) -> Callable[..., Tensor]:
    def compute(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
        if all(x.shape[axis] for axis in axes):
            return function(x, axes, keep)
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        found = x.new_full(shape, sign * math.inf if x.is_floating_point() else 0)
        return found if keep else found.squeeze(axes)

    return compute


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keep)
    count = math.prod(x.shape[axis] for axis in axes)
    return torch.div(x.sum(axes, keep), count, rounding_mode="trunc").to(x.dtype)


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keep, dtype=x.dtype)
    return x


def _sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sum(x, axes, keep, dtype=x.dtype)


def _length(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.linalg.vector_norm(x, 2, axes, keep)
    return torch.sqrt(_sum(x * x, axes, keep).double()).to(x.dtype)


_reduction("ReduceMax", _extreme(torch.amax, -1))
_reduction("ReduceMin", _extreme(torch.amin, 1))
_reduction("ReduceMean", _mean)
_reduction("ReduceProd", _product)
_reduction("ReduceSum", _sum)
_reduction("ReduceSumSquare", lambda x, axes, keep: _sum(x * x, axes, keep))
_reduction("ReduceL1", lambda x, axes, keep: _sum(x.abs(), axes, keep))
_reduction("ReduceL2", _length)
_reduction("ReduceLogSum", lambda x, axes, keep: torch.log(_sum(x, axes, keep)))
_reduction("ReduceLogSumExp", torch.logsumexp)


def _index(name: str, function: Callable[..., Tensor]) -> None:
    @operator(name)
    def compute(
        data: Tensor, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
    ) -> Tensor:
        if not select_last_index:
            return function(data, axis, bool(keepdims))
        return data.shape[axis] - 1 - function(data.flip(axis), axis, bool(keepdims))


_index("ArgMax", torch.argmax)
_index("ArgMin", torch.argmin)


@operator("TopK", sizes="K k")
def TopK(
    X: Tensor, K: Any = None, axis: int = -1, largest: int = 1, sorted: int = 1, k: Any = None
) -> tuple[Tensor, Tensor]:
    K = k if K is None else K
    # A stable sort, and not topk: of equal values the first comes first.
    values, indices = torch.sort(X, dim=axis, descending=bool(largest), stable=True)
    count = K[0] if isinstance(K, list) else K
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


def _cumulative(name: str, function: Callable[..., Tensor], neutral: int) -> None:
    @operator(name, sizes="axis")
    def compute(x: Tensor, axis: Any, exclusive: int = 0, reverse: int = 0) -> Tensor:
        axis = axis[0] if isinstance(axis, list) else axis
        x = x.flip(axis) if reverse else x
        if exclusive:
            first = torch.full_like(x.narrow(axis, 0, 1), neutral)
            x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        found = function(x, axis, dtype=x.dtype)
        return found.flip(axis) if reverse else found


_cumulative("CumSum", torch.cumsum, 0)
_cumulative("CumProd", torch.cumprod, 1)


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
    # MXNet's dense layers take examples of any shape, which the parameters do not tell.
    A = A.flatten(1) if A.ndim > 2 else A
    A = (A.T if transA else A).to(B.dtype)
    if alpha == beta == 1 and (C is None or C.shape == B.shape[1 - bool(transB) :][:1]):
        return torch.nn.functional.linear(A, B if transB else B.T, C)
    product = torch.matmul(A, B.T if transB else B)
    product = product if alpha == 1 else alpha * product
    return product if C is None else product + (C if beta == 1 else beta * C)


@operator("Einsum")
def Einsum(*inputs: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *(one.to(inputs[-1].dtype) for one in inputs))


@operator("Det")
def Det(X: Tensor) -> Tensor:
    return torch.linalg.det(X)


@operator("Unique")
def Unique(
    X: Tensor, axis: int | None = None, sorted: int = 1, n_outputs: int = 1
) -> tuple[Tensor, ...]:
    """Return the different values; with n_outputs, where they are first, inverse and counts."""
    x, place = (X.flatten(), 0) if axis is None else (X, axis)
    values, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=place)
    order = torch.arange(inverse.numel(), device=X.device)
    first = torch.full_like(counts, inverse.numel())
    first = first.scatter_reduce(0, inverse, order, "amin")
    if not sorted:  # in the order of the data
        by_place = first.argsort()
        rank = torch.empty_like(by_place).scatter_(0, by_place, torch.arange(len(by_place)))
        values, counts, first = (
            values.index_select(place, by_place),
            counts[by_place],
            first[by_place],
        )
        inverse = rank[inverse]
    return (values, first, inverse, counts)[:n_outputs]
