# ruff: noqa: D103 - where the name of a conversion says what it does
"""Reshaping, transposing, broadcasting, and tensors made of nothing but a shape."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import numpy_helper

from xfer.checkpoint.onnx_builder import (
    Tensor,
    UnknownShape,
    Unsized,
    describe_shape,
    follows_batch,
)
from xfer.checkpoint.operators.registry import Call, operator

# The special sizes of a reshape in MXNet, and in its NumPy interface.
_CODES = {0: "keep", -1: "infer", -2: "rest", -3: "merge", -4: "split"}
_NUMPY_CODES = {-1: "infer", -2: "keep", -3: "drop", -4: "rest", -5: "merge", -6: "split"}


@operator("Flatten", "_npx_batch_flatten")
def flatten(op: Call, x: Tensor) -> Tensor:
    return x if x.dims is not None and len(x.dims) == 2 else op("Flatten", x, axis=1)


@operator("Reshape")
def reshape(op: Call, x: Tensor) -> Tensor:
    codes = list(op.ints("shape", ()))
    if not codes:
        # The form of MXNet 0.8, in which 0 is the size to be inferred.
        codes = [size or -1 for size in op.ints("target_shape", ())]
        if codes and op.flag("keep_highest", False):
            codes[0] = 0
    if not codes:
        raise op.unsupported("no shape")
    return _reshape(op, x, codes, _CODES)


@operator("_np_reshape", "_npx_reshape", "_npi_reshape")
def reshape_numpy(op: Call, x: Tensor) -> Tensor:
    """Reshape, with the codes of MXNet's NumPy interface."""
    if op.text("order", "C") != "C":
        raise op.unsupported(f"order={op.text('order')!r}")
    return _reshape(op, x, list(op.ints("newshape")), _NUMPY_CODES)


def _reshape(op: Call, x: Tensor, codes: list[int], meanings: dict[int, str]) -> Tensor:
    if op.flag("reverse", False):
        shape = _apply_codes(codes[::-1], x.shape[::-1], meanings)[::-1]
    else:
        shape = _apply_codes(codes, x.dims[: x.rank], meanings)
    if None not in x.dims:
        if -1 in shape:
            others = math.prod(size for size in shape if size != -1)
            shape[shape.index(-1)] = math.prod(x.dims) // max(others, 1)
        return op.reshape(x, shape)
    if shape.count(-1) > 1:
        raise UnknownShape(f"needs the shape of {x.name!r}")
    # ONNX infers one size, too, and 0 keeps the size at the same index.
    old = [*x.dims, *[None] * len(shape)]
    shape = [0 if size == before else size for size, before in zip(shape, old)]
    return op("Reshape", x, op.sizes(shape))


def _apply_codes(codes: list[int], dims: Any, meanings: dict[int, str]) -> list[int]:
    """Apply codes to a shape (which may hold None); -1 is to be inferred, 0 is kept."""
    shape: list[int] = []
    place, remaining = 0, iter(codes)
    for code in remaining:
        meaning = meanings.get(code, "")
        count = {"rest": len(dims) - place, "merge": 2}.get(meaning, 1)
        taken = dims[place : place + count]
        if meaning not in ("", "infer") and len(taken) < count:
            raise ValueError(f"it has no {place + count} axes: {describe_shape(dims)}")
        if meaning in ("keep", "rest"):
            unknown = 0 if place == len(shape) else -1
            shape += [unknown if size is None else size for size in taken]
        elif meaning == "merge":
            shape.append(-1 if None in taken else math.prod(taken))
        elif meaning == "split":
            shape += _split_size(taken[0], next(remaining, 0), next(remaining, 0))
        elif meaning == "infer" or (not meaning and code >= 0):
            shape.append(code)
        elif taken != (1,):
            raise ValueError(f"cannot read {code} for {describe_shape(taken)}")
        place += count
    return shape


def _split_size(size: int | None, left: int, right: int) -> tuple[int, int]:
    if size is not None:
        left, right = (
            size // max(right, 1) if left == -1 else left,
            size // max(left, 1) if right == -1 else right,
        )
        if left * right != size:
            raise ValueError(f"{describe_shape((size,))} is not {left} times {right}")
    return left, right


@operator("reshape_like", "_npx_reshape_like")
def reshape_like(op: Call, x: Tensor, like: Tensor) -> Tensor:
    """Give some axes the sizes that some axes of another tensor have."""
    begin, end, _ = slice(op.int("lhs_begin", None), op.int("lhs_end", None)).indices(x.rank)
    taken = slice(op.int("rhs_begin", None), op.int("rhs_end", None))
    places = [(x, axis) for axis in (*range(begin), *range(end, x.rank))]
    places[begin:begin] = [(like, axis) for axis in range(like.rank)[taken]]
    if None in x.dims or None in [tensor.dims[axis] for tensor, axis in places]:
        return op("Reshape", x, sizes_of(op, places))
    return op.reshape(x, [tensor.dims[axis] for tensor, axis in places])


def sizes_of(op: Call, places: Sequence[Any]) -> Tensor:
    """Return a 1-D Tensor of sizes, each an integer or the size of a tensor's axis."""
    sizes = [place if isinstance(place, int) else place[0].dims[place[1]] for place in places]
    if None not in sizes:
        return op.sizes(sizes)
    parts = [
        op("Shape", place[0], start=place[1], end=place[1] + 1)
        if size is None
        else op.sizes([size])
        for place, size in zip(places, sizes)
    ]
    return op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]


@operator("transpose", "_np_transpose")
def transpose(op: Call, x: Tensor) -> Tensor:
    """Permute the axes; reverse them if no order is given."""
    axes = [axis % x.rank for axis in op.ints("axes", None) or ()]
    return op("Transpose", x, perm=axes or None)


@operator("SwapAxis", "_npi_swapaxes")
def swap_axes(op: Call, x: Tensor) -> Tensor:
    one, other = op.int("dim1", 0), op.int("dim2", 0)
    axes = list(range(x.rank))
    axes[one], axes[other] = axes[other], axes[one]
    return op("Transpose", x, perm=axes)


@operator("_np_moveaxis")
def move_axes(op: Call, x: Tensor) -> Tensor:
    """Move axes, and keep the others in order."""
    sources = [axis % x.rank for axis in op.ints("source")]
    destinations = [axis % x.rank for axis in op.ints("destination")]
    axes = [axis for axis in range(x.rank) if axis not in sources]
    for destination, source in sorted(zip(destinations, sources)):
        axes.insert(destination, source)
    return op("Transpose", x, perm=axes)


operator("expand_dims", "_npi_expand_dims")(
    lambda op, x: op("Unsqueeze", x, op.constant([op.int("axis")], np.int64))
)


@operator("squeeze", "_np_squeeze")
def squeeze(op: Call, x: Tensor) -> Tensor:
    axes = op.ints("axis", None)
    if axes is None:
        axes = [axis for axis, size in enumerate(x.shape) if size == 1]
    if len(axes) == x.rank and op.node.operator == "squeeze":
        # MXNet has scalars only in its NumPy interface.
        return op.reshape(x, [1])
    return op("Squeeze", x, op.constant(axes, np.int64)) if len(axes) else x


@operator("broadcast_to", "_npi_broadcast_to")
def broadcast_to(op: Call, x: Tensor) -> Tensor:
    """Repeat along axes of size one, to given sizes; 0 (in NumPy's interface -2) keeps a size."""
    keep = 0 if op.node.operator == "broadcast_to" else -2
    return op("Expand", x, op.sizes([1 if size == keep else size for size in op.ints("shape")]))


@operator("broadcast_axis")
def broadcast_axis(op: Call, x: Tensor) -> Tensor:
    """Repeat along given axes, which are of size one."""
    shape = [1] * x.rank
    for axis, size in zip(op.ints("axis", ()), op.ints("size", ()), strict=True):
        shape[axis] = size
    return op("Expand", x, op.sizes(shape))


@operator("broadcast_like")
def broadcast_like(op: Call, x: Tensor, like: Tensor) -> Tensor:
    """Repeat along axes of size one, to the sizes that another tensor has."""
    axes, like_axes = op.ints("lhs_axes", None), op.ints("rhs_axes", None)
    if axes is None or like_axes is None:
        axes = like_axes = range(x.rank)
    shape: list[Any] = [1] * x.rank
    for axis, like_axis in zip(axes, like_axes, strict=True):
        shape[axis] = (like, like_axis % like.rank)
    return op("Expand", x, sizes_of(op, shape))


@operator("depth_to_space", "space_to_depth")
def rearrange_blocks(op: Call, x: Tensor) -> Tensor:
    """Move channels into blocks of pixels, or blocks of pixels into channels."""
    block, to_space = op.int("block_size"), op.node.operator == "depth_to_space"
    axes, divisor = ((1,), block * block) if to_space else ((2, 3), block)
    if x.rank != 4 or any(x.dims[axis] is not None and x.dims[axis] % divisor for axis in axes):
        blocks = f"blocks ({divisor}, axes {axes})"
        raise ValueError(f"{describe_shape(x.dims)} cannot be cut into {blocks}")
    if to_space:
        return op("DepthToSpace", x, blocksize=block, mode="DCR")
    return op("SpaceToDepth", x, blocksize=block)


@operator("shape_array", "_npx_shape_array")
def shape_array(op: Call, x: Tensor) -> Tensor:
    if x.dims is None or None in x.dims or any(map(follows_batch, x.dims)):
        return op("Shape", x)
    return op.constant(x.dims, np.int64)


operator("size_array")(lambda op, x: op.reshape(op("Size", x), [1]))


# Larger tensors are made when the network runs.
_MOST_WRITTEN_OUT = 2**20


def _filled(op: Call, sizes: Any, value: float, dtype: np.dtype) -> Tensor:
    """Return a tensor filled with one value; ``sizes`` are integers or a Tensor."""
    if isinstance(sizes, (tuple, list)):
        if not any(map(follows_batch, sizes)) and math.prod(sizes) <= _MOST_WRITTEN_OUT:
            return op.constant(np.full(sizes, value, dtype))
        sizes = op.sizes(sizes)
    # NumPy wraps -1 around where the type is unsigned.
    number = np.array([value], np.float64).astype(dtype)
    return op("ConstantOfShape", sizes, value=numpy_helper.from_array(number))


operator("_zeros", "_zeros_without_dtype")(lambda op: _filled_or_unsized(op, 0))
operator("_ones")(lambda op: _filled_or_unsized(op, 1))
operator("_full")(lambda op: _filled_or_unsized(op, op.float("value")))


def _filled_or_unsized(op: Call, value: float) -> Tensor:
    sizes = list(op.ints("shape", None) or ())
    if not sizes:
        raise op.unsupported("no shape")
    if sizes.count(0) > 1:
        number = np.array(value, op.dtype())
        return Unsized(op.node.name, number.dtype, None, number)
    # MXNet infers a size of 0, which is that of the batch in the first state of an RNN.
    return _filled(op, [size or op.batch_size for size in sizes], value, op.dtype())


operator("_npi_zeros")(lambda op: _filled(op, op.ints("shape", ()), 0, op.dtype()))
operator("_npi_ones")(lambda op: _filled(op, op.ints("shape", ()), 1, op.dtype()))
operator("_npi_full")(lambda op: _filled(op, op.ints("shape", ()), op.float("value"), op.dtype()))
operator("zeros_like", "_sparse_zeros_like")(lambda op, x: filled_like(op, x, 0, x.dtype))
operator("ones_like")(lambda op, x: filled_like(op, x, 1, x.dtype))
operator("_npi_full_like")(
    lambda op, x: filled_like(op, x, op.float("fill_value"), op.dtype(x.dtype))
)


def filled_like(op: Call, x: Tensor, value: Any, dtype: np.dtype) -> Tensor:
    known = x.dims is not None and None not in x.dims
    return _filled(op, x.dims if known else op("Shape", x), value, dtype)


@operator("_arange", "_npi_arange")
def arange(op: Call) -> Tensor:
    """Return an evenly spaced range, each value repeated."""
    start, stop, step = op.float("start", 0.0), op.float("stop", None), op.float("step", 1.0)
    if stop is None:
        if op.flag("infer_range", False):
            raise op.unsupported("infer_range=True")
        start, stop = 0.0, start
    count, repeats = math.ceil((stop - start) / step), op.int("repeat", 1)
    # MXNet converts the start and the step before it counts.
    start, step = np.array([start, step]).astype(op.dtype())
    values = start + np.arange(max(count, 0), dtype=op.dtype()) * step
    return op.constant(np.repeat(values, repeats))


@operator("_contrib_arange_like", "_npx_arange_like")
def arange_like(op: Call, x: Tensor) -> Tensor:
    """Return a range as long as a tensor has elements, or as one of its axes."""
    axis, repeats = op.int("axis", None), op.int("repeat", 1)
    values = integers_below(op, math.prod(x.shape) if axis is None else (x, axis % x.rank))
    if repeats > 1:
        values = op("Div", values, op.constant(repeats, np.int64))
    start, step = op.float("start", 0.0), op.float("step", 1.0)
    values = op.cast(values, x.dtype)
    if step != 1:
        values = op("Mul", values, op.constant(np.array(step).astype(x.dtype)))
    if start != 0:
        values = op("Add", values, op.constant(np.array(start).astype(x.dtype)))
    return values if axis is not None else op.reshape(values, x.shape)


def integers_below(op: Call, size: Any) -> Tensor:
    """Return the integers below a size, which is given as `sizes_of` takes it."""
    known = size if isinstance(size, int) else size[0].dims[size[1]]
    if known is not None and not follows_batch(known):
        return op.constant(np.arange(known))
    one = numpy_helper.from_array(np.ones(1, np.int64))
    ones = op("ConstantOfShape", sizes_of(op, [size]), value=one)
    return op("CumSum", ones, op.constant(0, np.int64), exclusive=1)


@operator("_linspace", "_npi_linspace")
def linspace(op: Call) -> Tensor:
    start, stop, count = op.float("start"), op.float("stop"), op.int("num")
    values = np.linspace(start, stop, count, op.flag("endpoint", True))
    return op.constant(values.astype(op.dtype()))


@operator("_eye", "_npi_eye")
def eye(op: Call) -> Tensor:
    rows = op.int("N")
    columns = op.int("M", 0) or rows
    return op.constant(np.eye(rows, columns, op.int("k", 0), dtype=op.dtype()))


operator("_npi_identity")(lambda op: op.constant(np.eye(*op.ints("shape")).astype(op.dtype())))
operator("_npi_indices")(
    lambda op: op.constant(np.indices(op.ints("dimensions"), dtype=op.dtype(np.int32)))
)


@operator("_contrib_index_array")
def index_array(op: Call, x: Tensor) -> Tensor:
    axes = op.ints("axes", None)
    axes = range(x.rank) if axes is None else [axis % x.rank for axis in axes]
    shape = op.sizes([*x.shape, 1])
    places = []
    for axis in axes:
        along = [1] * (x.rank + 1)
        along[axis] = x.shape[axis]
        places.append(op("Expand", op.reshape(integers_below(op, x.shape[axis]), along), shape))
    return op("Concat", *places, axis=-1)


@operator("_contrib_MultiBoxPrior", "_npx_multibox_prior")
def anchor_boxes(op: Call, x: Tensor) -> Tensor:
    """Return anchor boxes around each pixel (Liu et al. 2016, SSD, section 2.2).

    The boxes are (left, top, right, bottom) as fractions of the image. All sizes are used with
    the first ratio, and the first size with all other ratios.
    """
    height, width = x.shape[2:]
    sizes = np.array(op.floats("sizes", (1.0,)), np.float32)
    ratios = np.sqrt(np.array(op.floats("ratios", (1.0,)), np.float32))
    steps, offsets = op.floats("steps", (-1.0, -1.0)), op.floats("offsets", (0.5, 0.5))
    if min(steps) <= 0:
        steps = (1 / height, 1 / width)
    ys = (np.arange(height) + offsets[0]) * steps[0]
    xs = (np.arange(width) + offsets[1]) * steps[1]
    centres = np.stack(np.meshgrid(xs, ys), axis=-1)[:, :, np.newaxis]
    # A box of ratio 1 is square in pixels, whatever the ratio of the image.
    widths = np.concatenate([sizes * ratios[0], sizes[0] * ratios[1:]]) * height / width / 2
    heights = np.concatenate([sizes / ratios[0], sizes[0] / ratios[1:]]) / 2
    halves = np.stack([widths, heights], axis=-1)
    boxes = np.concatenate([centres - halves, centres + halves], axis=-1).reshape(1, -1, 4)
    if op.flag("clip", False):
        boxes = boxes.clip(0, 1)
    return op.constant(boxes)
