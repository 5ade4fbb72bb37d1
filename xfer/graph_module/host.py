# ruff: noqa: D103 - functions have the names of ONNX's operators, which say what they do
"""Arithmetic of shapes, in Python: numbers and lists, as ONNX's operators of the same names.

Sizes stay what they are while a module is exported, where some have no value yet.
"""

import operator
from collections.abc import Callable
from itertools import zip_longest
from math import floor, prod
from typing import Any

import torch


def to_list(tensor: torch.Tensor) -> Any:
    """Read numbers out of a tensor."""
    return tensor.tolist()


def to_tensor(value: Any, like: torch.Tensor) -> torch.Tensor:
    """Make a tensor of numbers, on another one's device."""
    return torch.tensor(value, device=like.device)


def Shape(data: torch.Tensor, start: int = 0, end: int | None = None) -> list[int]:
    return list(data.shape)[start:end]


def Size(data: torch.Tensor) -> int:
    return data.numel()


def Identity(x: Any) -> Any:
    return x


def Cast(x: Any, to: int = 0, saturate: int = 1, round_mode: str = "") -> Any:
    if to in (6, 7):  # integers of 32 and 64 bits
        return [_whole(one) for one in x] if isinstance(x, list) else _whole(x)
    if to in (1, 10, 11):
        return [one * 1.0 for one in x] if isinstance(x, list) else x * 1.0
    if to == 9:
        return [bool(one) for one in x] if isinstance(x, list) else bool(x)
    raise ValueError(f"a shape cannot become of type {to}")


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, (float, bool)) else value


def Gather(x: list[Any], index: Any, axis: int = 0) -> Any:
    return [x[i] for i in index] if isinstance(index, list) else x[index]


def Concat(*parts: list[Any], axis: int = 0) -> list[Any]:
    return [size for part in parts for size in part]


def Unsqueeze(x: Any, axes: Any = None) -> list[Any]:
    return [x]


def Squeeze(x: list[Any], axes: Any = None) -> Any:
    (value,) = x
    return value


def Slice(x: list[Any], starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> list[Any]:
    return x[starts[0] : ends[0] : steps[0] if steps else None]


def ReduceProd(x: list[Any], axes: Any = None, keepdims: int = 1) -> Any:
    return [prod(x)] if keepdims else prod(x)


def Floor(x: Any) -> Any:
    return [floor(one) for one in x] if isinstance(x, list) else floor(x)


def Range(start: int, limit: int, delta: int) -> list[int]:
    return list(range(start, limit, delta))


def Where(condition: Any, x: Any, y: Any) -> Any:
    return _each(lambda a, b, c: b if a else c, condition, x, y)


def _each(function: Callable[..., Any], *values: Any) -> Any:
    lists = [value for value in values if isinstance(value, list)]
    if not lists:
        return function(*values)
    n = max(map(len, lists))
    rows = (v * n if isinstance(v, list) and len(v) == 1 else v for v in values)
    wide = [value if isinstance(value, list) else [value] * n for value in rows]
    return [function(*row) for row in zip_longest(*wide)]


def Add(a: Any, b: Any) -> Any:
    return _each(operator.add, a, b)


def Sub(a: Any, b: Any) -> Any:
    return _each(operator.sub, a, b)


def Mul(a: Any, b: Any) -> Any:
    return _each(operator.mul, a, b)


def Div(a: Any, b: Any) -> Any:
    return _each(_divide, a, b)


def _divide(a: Any, b: Any) -> Any:
    return a / b if isinstance(a, float) or isinstance(b, float) else a // b


def Min(*parts: Any) -> Any:
    return _each(min, *parts)


def Max(*parts: Any) -> Any:
    return _each(max, *parts)


def Equal(a: Any, b: Any) -> Any:
    return _each(operator.eq, a, b)
