# ruff: noqa: D103 - functions have the names of ONNX's operators, which say what they do
"""Arithmetic of shapes, in Python: numbers and lists, as ONNX's operators of the same names.

Sizes stay what they are while a module is exported, where some have no value yet.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch

from xfer.graph_module.dtypes import Array

#: The functions by name. `to_list` and `to_tensor` are not ONNX's.
HOST: dict[str, Callable[..., Any]] = {}


class Size(NamedTuple):
    """A number or a list of numbers, or the node that computes it; their type, and 0 or 1 axes."""

    value: Any
    dtype: torch.dtype
    rank: int


def result_of(kind: str, given: Sequence[Size], options: Mapping[str, Any]) -> Size | None:
    """Return type and rank of what a function returns; None where it has more axes than one."""
    values = [size.value for size in given]
    dtype, rank = given[0].dtype, max(size.rank for size in given)
    if kind == "Cast":
        dtype = options["to"]
    elif kind == "Equal":
        dtype = torch.bool
    elif kind == "Where":
        dtype = given[1].dtype
    elif kind == "ReduceProd":
        rank = options.get("keepdims", 1)
    elif kind == "Gather":
        rank = given[1].rank
    elif kind in ("Unsqueeze", "Squeeze"):
        rank = 1 - given[0].rank if given[0].rank == (kind == "Squeeze") else 2
    elif kind in ("Reshape", "ConstantOfShape"):
        shape = values[-1]
        rank = len(shape) if isinstance(shape, list) else 2
        if kind == "ConstantOfShape":
            dtype = options["value"].dtype if "value" in options else torch.float32
    known = dtype.is_floating_point <= (dtype == torch.float32)
    return Size(None, dtype, rank) if rank < 2 and known else None


def _on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    HOST[function.__name__] = function
    return function


@_on_host
def to_list(tensor: torch.Tensor) -> Any:
    """Read numbers out of a tensor."""
    return tensor.tolist()


@_on_host
def to_tensor(like: torch.Tensor | None, value: Any, dtype: torch.dtype) -> torch.Tensor:
    """Make a tensor of numbers, on another one's device."""
    return torch.tensor(value, dtype=dtype, device=None if like is None else like.device)


@_on_host
def Shape(data: torch.Tensor, start: int = 0, end: int | None = None) -> list[int]:
    return list(data.shape)[start:end]


def _size(data: torch.Tensor) -> int:
    return data.numel()


HOST["Size"] = _size


@_on_host
def Identity(x: Any) -> Any:
    return x


@_on_host
def Cast(x: Any, to: torch.dtype, saturate: int = 1, round_mode: str = "up") -> Any:
    if to == torch.bool:
        return _each(bool, x)
    return _each(_single if to.is_floating_point else _whole, x)


def _whole(value: Any) -> Any:
    return value if isinstance(value, torch.SymInt) else int(value)


def _single(value: Any) -> Any:
    """Round to single precision (Dekker 1971), which decides what Floor makes of a product."""
    value = value * 1.0
    if not isinstance(value, float):  # not known yet
        return value
    large = value * (2.0**29 + 1)
    return large - (large - value)


@_on_host
def ConstantOfShape(shape: list[int], value: Array | None = None) -> Any:
    number = value.values[0] if value else 0.0
    return [number] * shape[0] if shape else number


@_on_host
def Reshape(x: Any, shape: list[int], allowzero: int = 0) -> Any:
    flat = x if isinstance(x, list) else [x]
    return flat if shape else flat[0]


@_on_host
def Gather(x: list[Any], index: Any, axis: int = 0) -> Any:
    return _each(x.__getitem__, index)


@_on_host
def Concat(*parts: list[Any], axis: int = 0) -> list[Any]:
    return [one for part in parts for one in part]


@_on_host
def Unsqueeze(x: Any, axes: Any = None) -> list[Any]:
    return [x]


@_on_host
def Squeeze(x: list[Any], axes: Any = None) -> Any:
    (value,) = x
    return value


@_on_host
def Slice(x: list[Any], starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> list[Any]:
    return x[starts[0] : ends[0] : steps[0] if steps else None]


@_on_host
def ReduceProd(x: Any, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    found = math.prod(x) if isinstance(x, list) else x
    return [found] if keepdims else found


@_on_host
def Floor(x: Any) -> Any:
    return _each(lambda one: math.floor(one) * 1.0, x)


@_on_host
def Ceil(x: Any) -> Any:
    return _each(lambda one: math.ceil(one) * 1.0, x)


@_on_host
def Where(condition: Any, x: Any, y: Any) -> Any:
    return _each(lambda a, b, c: b if a else c, condition, x, y)


def _each(function: Callable[..., Any], *values: Any) -> Any:
    """Apply a function to numbers, or to each of some lists, of which any may have one item."""
    lists = [value for value in values if isinstance(value, list)]
    if not lists:
        return function(*values)
    n = next((len(one) for one in lists if len(one) != 1), 1)
    rows = (value if isinstance(value, list) else [value] for value in values)
    return [function(*row) for row in zip(*(row * n if len(row) == 1 else row for row in rows))]


def _divide(a: Any, b: Any) -> Any:
    if _is_real(a) or _is_real(b):
        return a / b
    negative = type(a) is type(b) is int and (a < 0) != (b < 0)
    return -(abs(a) // abs(b)) if negative else a // b


def _is_real(value: Any) -> bool:
    return isinstance(value, float | torch.SymFloat)


def _arithmetic(name: str, function: Callable[[Any, Any], Any]) -> None:
    def of_two(a: Any, b: Any) -> Any:
        found = function(a, b)
        return _single(found) if _is_real(found) else found

    HOST[name] = lambda *values: reduce(lambda a, b: _each(of_two, a, b), values)


_arithmetic("Add", operator.add)
_arithmetic("Sub", operator.sub)
_arithmetic("Mul", operator.mul)
_arithmetic("Div", _divide)
_arithmetic("Min", min)
_arithmetic("Max", max)
_arithmetic("Equal", operator.eq)
