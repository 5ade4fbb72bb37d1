# ruff: noqa: D103 - functions and inputs have the names of ONNX's, which say what they do
"""Shapes, slices, joins and lookups."""

from typing import Any

import onnx
import torch
from torch import Tensor

from xfer.graph_module.registry import operator

#: PyTorch's types by ONNX's numbers.
TYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.BOOL: torch.bool,
}


@operator("Cast")
def Cast(input: Tensor, to: int = 1, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return input.to(TYPES[to])


@operator("Reshape", sizes="shape")
def Reshape(data: Tensor, shape: Any, allowzero: int = 0) -> Tensor:
    sizes = shape if allowzero else [data.shape[i] if s == 0 else s for i, s in enumerate(shape)]
    return data.reshape(sizes)


@operator("Flatten")
def Flatten(input: Tensor, axis: int = 1) -> Tensor:
    axis = axis + input.ndim if axis < 0 else axis
    if axis == 0:
        return input.reshape(1, -1)
    return input.flatten(axis).flatten(0, axis - 1) if axis < input.ndim else input.reshape(-1, 1)


@operator("Transpose")
def Transpose(data: Tensor, perm: Any = None) -> Tensor:
    return data.permute(perm or list(range(data.ndim))[::-1])


@operator("Concat")
def Concat(*inputs: Tensor, axis: int = 1) -> Tensor:
    return torch.cat(inputs, axis)


@operator("Unsqueeze", sizes="axes")
def Unsqueeze(data: Tensor, axes: Any) -> Tensor:
    axes = [axes] if isinstance(axes, int) else axes
    rank = data.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        data = data.unsqueeze(axis)
    return data


@operator("Squeeze", sizes="axes")
def Squeeze(data: Tensor, axes: Any = None) -> Tensor:
    axes = [axes] if isinstance(axes, int) else axes
    return data.squeeze() if axes is None else data.squeeze(tuple(axes))


@operator("Slice", sizes="starts ends axes steps")
def Slice(data: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    axes = axes or range(len(starts))
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts)):
        if step > 0:
            index: list[Any] = [slice(None)] * data.ndim
            index[axis] = slice(start, end, step)
            data = data[tuple(index)]
        else:
            places = range(data.shape[axis])[slice(start, end, step)]
            data = data.index_select(axis, torch.tensor(list(places), device=data.device))
    return data


@operator("Gather")
def Gather(data: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    indices = torch.where(indices < 0, indices + data.shape[axis], indices)
    if axis == 0 and data.ndim == 2:
        return torch.nn.functional.embedding(indices, data)
    axis = axis % data.ndim
    found = data.index_select(axis, indices.reshape(-1).long())
    return found.reshape(*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])


@operator("Expand", sizes="shape")
def Expand(input: Tensor, shape: Any) -> Tensor:
    return input.expand(torch.broadcast_shapes(input.shape, tuple(shape)))


@operator("Split", sizes="split")
def Split(
    input: Tensor, split: Any = None, axis: int = 0, num_outputs: int = 0, n_outputs: int = 1
) -> tuple[Tensor, ...]:
    size = input.shape[axis]
    return torch.split(input, split or -(-size // n_outputs), axis)
