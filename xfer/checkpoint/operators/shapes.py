"""Reshaping, transposing and broadcasting."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor, UnknownShape, describe_shape, follows_batch
from xfer.checkpoint.operators.registry import Call, operator

# The special sizes of a reshape in MXNet, and in its NumPy interface.
_CODES = {0: "keep", -1: "infer", -2: "rest", -3: "merge", -4: "split"}
_NUMPY_CODES = {-1: "infer", -2: "keep", -3: "drop", -4: "rest", -5: "merge", -6: "split"}


@operator("Flatten", "_npx_batch_flatten")
def flatten(op: Call, x: Tensor) -> Tensor:
    """Flatten each example to a row."""
    return x if x.dims is not None and len(x.dims) == 2 else op("Flatten", x, axis=1)


@operator("Reshape")
def reshape(op: Call, x: Tensor) -> Tensor:
    """Reshape, with MXNet's codes for sizes."""
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
    like_begin, like_end, _ = slice(op.int("rhs_begin", None), op.int("rhs_end", None)).indices(
        like.rank
    )
    places = [
        *((x, axis) for axis in range(begin)),
        *((like, axis) for axis in range(like_begin, like_end)),
        *((x, axis) for axis in range(end, x.rank)),
    ]
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
    return op("Concat", *parts, axis=0)


@operator("transpose", "_np_transpose")
def transpose(op: Call, x: Tensor) -> Tensor:
    """Permute the axes; reverse them if no order is given."""
    axes = [axis % x.rank for axis in op.ints("axes", None) or ()]
    return op("Transpose", x, perm=axes or None)


@operator("SwapAxis", "_npi_swapaxes")
def swap_axes(op: Call, x: Tensor) -> Tensor:
    """Swap two axes."""
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


@operator("expand_dims", "_npi_expand_dims")
def expand_dims(op: Call, x: Tensor) -> Tensor:
    """Add an axis of size one."""
    return op("Unsqueeze", x, op.constant([op.int("axis")], np.int64))


@operator("squeeze", "_np_squeeze")
def squeeze(op: Call, x: Tensor) -> Tensor:
    """Remove axes of size one: those given, or all."""
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


@operator("_identity_with_attr_like_rhs", idle=(1,))
def identity_like(op: Call, x: Tensor, like: Tensor | None = None) -> Tensor:
    """Return the first of two tensors of the same shape."""
    return x


@operator("depth_to_space")
def depth_to_space(op: Call, x: Tensor) -> Tensor:
    """Move channels into blocks of pixels."""
    block = op.int("block_size")
    _check_divisible(x, (1,), block * block)
    return op("DepthToSpace", x, blocksize=block, mode="DCR")


@operator("space_to_depth")
def space_to_depth(op: Call, x: Tensor) -> Tensor:
    """Move blocks of pixels into channels."""
    block = op.int("block_size")
    _check_divisible(x, (2, 3), block)
    return op("SpaceToDepth", x, blocksize=block)


def _check_divisible(x: Tensor, axes: tuple[int, ...], divisor: int) -> None:
    if x.rank != 4 or any(x.dims[axis] is not None and x.dims[axis] % divisor for axis in axes):
        raise ValueError(
            f"{describe_shape(x.dims)} cannot be cut into blocks ({divisor}, axes {axes})"
        )


@operator("shape_array", "_npx_shape_array")
def shape_array(op: Call, x: Tensor) -> Tensor:
    """Return the shape as integers."""
    if x.dims is None or None in x.dims or any(map(follows_batch, x.dims)):
        return op("Shape", x)
    return op.constant(x.dims, np.int64)


operator("size_array")(lambda op, x: op.reshape(op("Size", x), [1]))
