# ruff: noqa: D103 - functions and inputs have the names of ONNX's, which say what they do
"""Shapes, slices, joins, lookups, and tensors made of a shape."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xfer.graph_module.dtypes import Array
from xfer.graph_module.registry import operator


@operator("Reshape", sizes="shape")
def Reshape(data: Tensor, shape: Any, allowzero: int = 0) -> Tensor:
    sizes = shape if allowzero else [data.shape[i] if s == 0 else s for i, s in enumerate(shape)]
    return data.reshape(sizes)


@operator("Flatten")
def Flatten(input: Tensor, axis: int = 1) -> Tensor:
    axis = axis + input.ndim if axis < 0 else axis
    return input.reshape(math.prod(input.shape[:axis]), math.prod(input.shape[axis:]))


@operator("Transpose")
def Transpose(data: Tensor, perm: Any = None) -> Tensor:
    return data.permute(perm or list(range(data.ndim))[::-1])


@operator("Concat")
def Concat(*inputs: Tensor, axis: int = 1) -> Tensor:
    return torch.cat(inputs, axis)


def _listed(axes: Any) -> Any:
    return [axes] if isinstance(axes, int) else axes


@operator("Unsqueeze", sizes="axes")
def Unsqueeze(data: Tensor, axes: Any) -> Tensor:
    axes = _listed(axes)
    rank = data.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        data = data.unsqueeze(axis)
    return data


@operator("Squeeze", sizes="axes")
def Squeeze(data: Tensor, axes: Any = None) -> Tensor:
    return data.squeeze() if axes is None else data.squeeze(tuple(_listed(axes)))


@operator("Slice", sizes="starts ends axes steps")
def Slice(data: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    axes = axes or range(len(starts))
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts)):
        places = slice(start, end, step)
        if step < 0:  # PyTorch does not step backwards
            taken = range(data.shape[axis])[places]
            data, places = data.flip(axis), slice(0, 0)
            if taken:
                last = data.shape[axis] - 1
                places = slice(last - taken[0], last - taken[-1] + 1, -step)
        data = data[(slice(None),) * (axis % data.ndim) + (places,)]
    return data


@operator("Split", sizes="split")
def Split(
    input: Tensor, split: Any = None, axis: int = 0, num_outputs: int = 0, n_outputs: int = 1
) -> tuple[Tensor, ...]:
    """Split into parts of given sizes, or into parts as equal as possible, the last one smaller."""
    return torch.split(input, split or -(-input.shape[axis] // n_outputs), axis)


@operator("Expand", sizes="shape")
def Expand(input: Tensor, shape: Any) -> Tensor:
    return input.expand(torch.broadcast_shapes(input.shape, tuple(shape)))


@operator("Tile", sizes="repeats")
def Tile(input: Tensor, repeats: Any) -> Tensor:
    return input.repeat(repeats)


@operator("Pad", sizes="pads axes paddings", numbers="constant_value")
def Pad(
    data: Tensor,
    pads: Any = None,
    constant_value: Any = None,
    axes: Any = None,
    mode: str = "constant",
    value: float = 0.0,
) -> Tensor:
    axes = range(data.ndim) if axes is None else [axis % data.ndim for axis in axes]
    n = len(pads) // 2
    widths = {axis: (pads[i], pads[i + n]) for i, axis in enumerate(axes)}
    number: Any = value if constant_value is None else constant_value
    if mode == "constant" and not isinstance(number, Tensor):
        flat = [width for axis in reversed(range(data.ndim)) for width in widths.get(axis, (0, 0))]
        number = number[0] if isinstance(number, list) else number
        return data.clone() if not any(flat) else F.pad(data, flat, value=number)
    for axis, (before, after) in widths.items():
        if (before, after) == (0, 0):
            continue
        size = data.shape[axis]
        if mode == "constant":
            both = [
                [size if i != axis else w for i, size in enumerate(data.shape)]
                for w in (before, after)
            ]
            ends = [number.to(data.dtype).reshape(()).expand(shape) for shape in both]
            data = torch.cat([ends[0], data, ends[1]], axis)
            continue
        places = torch.arange(-before, size + after, device=data.device)
        if mode == "edge":
            places = places.clamp(0, size - 1)
        elif mode == "wrap":
            places = places % size
        else:  # as often as it takes
            period = max(2 * size - 2, 1)
            places = places % period
            places = torch.minimum(places, period - places) if size > 1 else places
        data = data.index_select(axis, places)
    return data


@operator("DepthToSpace")
def DepthToSpace(input: Tensor, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = input.shape
    if mode == "CRD":
        return F.pixel_shuffle(input, blocksize)
    blocks = input.reshape(n, blocksize, blocksize, c // blocksize**2, h, w)
    blocks = blocks.permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


@operator("SpaceToDepth")
def SpaceToDepth(input: Tensor, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = input.shape
    if mode == "CRD":
        return F.pixel_unshuffle(input, blocksize)
    blocks = input.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize)
    blocks = blocks.permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


def _counted(indices: Tensor, size: Any) -> Tensor:
    """Return indices counted from the first; negative ones count from the end."""
    return torch.where(indices < 0, indices + size, indices).long()


@operator("Gather")
def Gather(data: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    axis = axis % data.ndim
    indices = _counted(indices, data.shape[axis])
    if axis == 0 and data.ndim == 2:
        return F.embedding(indices, data)
    found = data.index_select(axis, indices.reshape(-1))
    return found.reshape(*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])


@operator("GatherElements")
def GatherElements(data: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    return torch.gather(data, axis, _counted(indices, data.shape[axis]))


@operator("GatherND")
def GatherND(data: Tensor, indices: Tensor, batch_dims: int = 0) -> Tensor:
    sizes, depth = data.shape[:batch_dims], indices.shape[-1]
    # The batch axes are indexed, too: each example by its own number.
    rest = [1] * (indices.ndim - 1 - batch_dims)
    places = [
        torch.arange(size, device=data.device).reshape(
            [size if i == axis else 1 for i in range(batch_dims)] + rest
        )
        for axis, size in enumerate(sizes)
    ]
    places += [_counted(indices[..., i], data.shape[batch_dims + i]) for i in range(depth)]
    return data[tuple(places)]


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("ScatterElements", "Scatter")
def ScatterElements(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, reduction: str = "none"
) -> Tensor:
    indices, updates = _counted(indices, data.shape[axis]), updates.to(data.dtype)
    if reduction == "none":
        return data.scatter(axis, indices, updates)
    return data.scatter_reduce(axis, indices, updates, _REDUCTIONS[reduction])


@operator("ScatterND")
def ScatterND(data: Tensor, indices: Tensor, updates: Tensor, reduction: str = "none") -> Tensor:
    depth, updates = indices.shape[-1], updates.to(data.dtype)
    if reduction == "none":
        places = tuple(_counted(indices[..., i], data.shape[i]) for i in range(depth))
        return data.index_put(places, updates)
    # As rows of the axes that are indexed, joined into one.
    flat: Tensor = data.reshape(-1, *data.shape[depth:])
    row: Any = 0
    for i in range(depth):
        row = row * data.shape[i] + _counted(indices[..., i], data.shape[i])
    updates = updates.reshape(-1, *data.shape[depth:])
    rows = row.reshape(-1, *[1] * (flat.ndim - 1)).expand(updates.shape)
    return flat.scatter_reduce(0, rows, updates, _REDUCTIONS[reduction]).reshape(data.shape)


@operator("ReverseSequence")
def ReverseSequence(
    input: Tensor, sequence_lens: Tensor, batch_axis: int = 1, time_axis: int = 0
) -> Tensor:
    x = input.movedim((time_axis, batch_axis), (0, 1))
    return reversed_steps(x, sequence_lens).movedim((0, 1), (time_axis, batch_axis))


def reversed_steps(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse sequences along the first axis; the steps after the end of each stay."""
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    places = torch.where(steps < lengths, lengths - 1 - steps, steps).long()
    return x[places, torch.arange(x.shape[1], device=x.device)]


@operator("Trilu", sizes="k")
def Trilu(input: Tensor, k: Any = 0, upper: int = 1) -> Tensor:
    k = k[0] if isinstance(k, list) else k
    return torch.triu(input, k) if upper else torch.tril(input, k)


@operator("OneHot", sizes="depth")
def OneHot(indices: Tensor, depth: Any, values: Tensor, axis: int = -1) -> Tensor:
    depth = int(depth[0] if isinstance(depth, list) else depth)
    counted = torch.where(indices < 0, indices + depth, indices).unsqueeze(axis)
    shape = [1] * counted.ndim
    shape[axis] = depth
    marked = counted == torch.arange(depth, device=indices.device).reshape(shape)
    return torch.where(marked, values[1], values[0])


@operator("NonZero")
def NonZero(X: Tensor) -> Tensor:
    return X.nonzero().T


@operator("Compress")
def Compress(input: Tensor, condition: Tensor, axis: int | None = None) -> Tensor:
    places = condition.nonzero().flatten()
    return (input.flatten() if axis is None else input).index_select(axis or 0, places)


@operator("EyeLike")
def EyeLike(input: Tensor, dtype: torch.dtype | None = None, k: int = 0) -> Tensor:
    rows, columns = (torch.arange(size, device=input.device) for size in input.shape)
    return (columns - rows.unsqueeze(1) == k).to(dtype or input.dtype)


@operator("Range", sizes="start limit delta")
def Range(start: Any, limit: Any, delta: Any, like: Tensor | None = None) -> Tensor:
    return torch.arange(start, limit, delta, device=device_of(like))


@operator("ConstantOfShape", sizes="input")
def ConstantOfShape(input: Any, value: Array | None = None, like: Tensor | None = None) -> Tensor:
    number, dtype = (value.values[0], value.dtype) if value else (0.0, torch.float32)
    return torch.full(tuple(input), number, dtype=dtype, device=device_of(like))


def device_of(like: Tensor | None) -> torch.device | None:
    """Return the device of a tensor; None, the default, if there is none."""
    return None if like is None else like.device
