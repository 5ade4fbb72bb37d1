# ruff: noqa: D103 - where the name of a conversion says what it does
"""Slicing, splitting, joining, repeating and padding."""

import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor, describe_shape, follows_batch
from xfer.checkpoint.operators.registry import Call, Result, numbered_outputs, operator
from xfer.checkpoint.operators.shapes import sizes_of

# Beyond the ends of every axis.
_FIRST, _LAST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@operator("slice", "_npi_slice", "_npx_slice", "_sparse_slice")
def slice_axes(op: Call, x: Tensor) -> Tensor:
    begins, ends, steps = op.ints("begin"), op.ints("end"), op.ints("step", ())
    ranges = {}
    for axis, (begin, end, step) in enumerate(itertools.zip_longest(begins, ends, steps)):
        step = 1 if step is None else step
        begin = (_LAST if step < 0 else 0) if begin is None else begin
        end = (_FIRST if step < 0 else _LAST) if end is None else end
        if (begin, end, step) != (0, _LAST, 1):
            ranges[axis] = (begin, end, step)
    return _slice(op, x, ranges)


@operator("slice_axis")
def slice_axis(op: Call, x: Tensor) -> Tensor:
    end = op.int("end")
    return _slice(op, x, {op.int("axis"): (op.int("begin"), _LAST if end is None else end, 1)})


operator("reverse", "_npi_flip")(
    lambda op, x: _slice(op, x, dict.fromkeys(op.ints("axis"), (_LAST, _FIRST, -1)))
)


def _slice(op: Call, x: Tensor, ranges: dict[int, tuple[int, int, int]]) -> Tensor:
    if not ranges:
        return x
    begins, ends, steps = (op.constant(values, np.int64) for values in zip(*ranges.values()))
    return _slice_to(op, x, begins, ends, list(ranges), steps)


def _slice_to(
    op: Call, x: Tensor, begins: Tensor, ends: Tensor, axes: list[int], steps: Tensor | None = None
) -> Tensor:
    result = op("Slice", x, begins, ends, op.constant(axes, np.int64), steps)
    for axis in axes if result.dims is not None else ():
        if follows_batch(x.dims[axis]) and not follows_batch(result.dims[axis]):
            raise ValueError("cuts out some of the examples, but their number is not known")
    return result


@operator("slice_like")
def slice_like(op: Call, x: Tensor, like: Tensor) -> Tensor:
    """Slice the beginning of axes, to the sizes of another tensor."""
    axes = [axis % x.rank for axis in op.ints("axes", ())] or list(range(x.rank))
    if max(axes) >= like.rank:
        raise ValueError(f"{describe_shape(like.dims)} has no axis {max(axes)}")
    axes = [axis for axis in axes if x.dims[axis] is None or x.dims[axis] != like.dims[axis]]
    if not axes:
        return x
    if any(follows_batch(like.dims[axis]) and not follows_batch(x.dims[axis]) for axis in axes):
        raise ValueError("cuts an axis to the number of examples, but that number is not known")
    ends = sizes_of(op, [(like, axis) for axis in axes])
    return _slice_to(op, x, op.constant([0] * len(axes), np.int64), ends, axes)


@operator("SliceChannel", outputs=numbered_outputs(lambda op: op.int("num_outputs")))
def split(op: Call, x: Tensor) -> Result:
    """Split an axis into equal parts."""
    axis, count = op.int("axis", 1), op.int("num_outputs")
    size = x.dims[axis] if x.dims is not None else None
    if size is None:
        parts = op("Split", x, outputs=count, axis=axis, num_outputs=count)
        return _squeezed(op, [parts] if count == 1 else parts, axis)
    if size % count:
        raise ValueError(f"axis {axis} of {describe_shape(x.dims)} cannot be cut into {count}")
    return _split(op, x, [size // count] * count, axis)


@operator(
    *("_split_v2", "_npi_split", "_npi_hsplit", "_npi_dsplit"),
    outputs=numbered_outputs(lambda op: op.int("sections", 0) or len(op.ints("indices", ()))),
)
def split_at(op: Call, x: Tensor) -> Result:
    """Split an axis at given indices (the first is 0), or into parts as equal as possible."""
    # NumPy's horizontal split takes the only axis of a vector.
    axis = 0 if op.node.operator == "_npi_hsplit" and x.rank == 1 else op.int("axis", 1)
    size, count = x.shape[axis], op.int("sections", 0)
    if count:
        small, more = divmod(size, count)
        sizes = [small + (place < more) for place in range(count)]
    else:
        places = [*op.ints("indices"), size]
        sizes = [end - begin for begin, end in itertools.pairwise(places)]
    return _split(op, x, sizes, axis)


def _split(op: Call, x: Tensor, sizes: list[int], axis: int) -> list[Tensor]:
    if follows_batch(sum(sizes)) and not all(map(follows_batch, sizes)):
        raise ValueError("splits the examples, but their number is not known")
    if len(sizes) == 1:
        return _squeezed(op, [x], axis)
    if len(set(sizes)) == 1:
        # There may be so many parts that a list of their sizes would be a large parameter.
        parts = op("Split", x, outputs=len(sizes), axis=axis, num_outputs=len(sizes))
    elif len(sizes) > 64:
        ends = itertools.pairwise(itertools.accumulate(sizes, initial=0))
        parts = [_slice(op, x, {axis: (begin, end, 1)}) for begin, end in ends]
    else:
        parts = op("Split", x, op.sizes(sizes), outputs=len(sizes), axis=axis)
    return _squeezed(op, parts, axis)


def _squeezed(op: Call, parts: list[Tensor], axis: int) -> list[Tensor]:
    if not op.flag("squeeze_axis", False):
        return parts
    axes = op.constant([axis], np.int64)
    return [op("Squeeze", part, axes) for part in parts]


operator("Concat", "_sparse_concat", "_rnn_param_concat", "_npi_rnn_param_concat")(
    lambda op, *parts: _concat(op, parts, op.int("dim", 1))
)


@operator("_npi_concatenate")
def concatenate(op: Call, *parts: Tensor) -> Tensor:
    axis = op.int("axis", 0)
    if axis is None:
        row = op.constant([-1], np.int64)
        return _concat(op, [op("Reshape", part, row) for part in parts], 0)
    return _concat(op, parts, axis)


def _concat(op: Call, parts: Sequence[Tensor], axis: int) -> Tensor:
    return op("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]


@operator("stack", "_npi_stack")
def stack(op: Call, *parts: Tensor) -> Tensor:
    axis = op.int("axis", 0)
    return _concat(op, [_add_axes(op, part, [axis]) for part in parts], axis)


# The axes that NumPy adds to a tensor of rank 0, 1, ..., and the axis along which it joins them.
_STACKS: dict[str, tuple[list[tuple[int, ...]], int]] = {
    "_npi_hstack": ([(0,)], 1),
    "_npi_vstack": ([(0, 1), (0,)], 0),
    "_npi_dstack": ([(0, 1, 2), (0, 2), (2,)], 2),
    "_npi_column_stack": ([(0, 1), (1,)], 1),
}


@operator(*_STACKS)
def stack_numpy(op: Call, *parts: Tensor) -> Tensor:
    """Stack tensors as NumPy does, after adding axes to those that have few."""
    missing, axis = _STACKS[op.node.operator]
    larger = [
        _add_axes(op, part, missing[part.rank]) if part.rank < len(missing) else part
        for part in parts
    ]
    return _concat(op, larger, min(axis, larger[0].rank - 1))


def _add_axes(op: Call, x: Tensor, axes: Iterable[int]) -> Tensor:
    return op("Unsqueeze", x, op.constant(axes, np.int64))


@operator("tile", "_npi_tile")
def tile(op: Call, x: Tensor) -> Tensor:
    """Repeat the tensor along its axes; the last of the repeats is for the last axis."""
    repeats = op.ints("reps")
    if len(repeats) > x.rank:
        x = _add_axes(op, x, range(len(repeats) - x.rank))
    return op("Tile", x, op.constant([1] * (x.rank - len(repeats)) + list(repeats), np.int64))


@operator("repeat", "_np_repeat")
def repeat(op: Call, x: Tensor) -> Tensor:
    axis, repeats = op.int("axis", None), op.int("repeats")
    if axis is None:
        x, axis = op("Reshape", x, op.constant([-1], np.int64)), 0
    axis %= x.rank
    if x.dims[axis] is not None and not follows_batch(x.dims[axis]):
        places = np.repeat(np.arange(x.dims[axis]), repeats)
        return op("Gather", x, op.constant(places), axis=axis)
    shape = list(x.shape)
    counts = [1] * (x.rank + 1)
    shape[axis], counts[axis + 1] = shape[axis] * repeats, repeats
    tiled = op("Tile", _add_axes(op, x, [axis + 1]), op.constant(counts, np.int64))
    return op.reshape(tiled, shape)


@operator("Pad", "_npi_pad")
def pad(op: Call, x: Tensor) -> Tensor:
    mode = op.text("mode", "constant")
    if mode not in ("constant", "edge", "reflect") or op.text("reflect_type", "even") != "even":
        raise op.unsupported(f"mode={mode!r}, reflect_type={op.text('reflect_type', 'even')!r}")
    # One operator writes them flat, the other in pairs.
    widths = [int(width) for width in re.findall(r"-?\d+", op.text("pad_width"))]
    before, after = widths[::2], widths[1::2]
    if len(before) != x.rank or len(after) != x.rank:
        raise ValueError(f"{len(widths)} widths do not pad {describe_shape(x.dims)}")
    for size, *both in zip(x.dims, before, after) if mode == "reflect" else ():
        if size is not None and max(both) >= size:
            raise op.unsupported(f"a reflection of {max(both)} of an axis of size {size}")
    value = None
    if mode == "constant":
        value = op.constant(np.array(op.float("constant_value", 0.0)).astype(x.dtype))
    return op("Pad", x, op.constant(before + after, np.int64), value, mode=mode)


@operator("diag", "_np_diag", "_np_diagonal")
def diagonal(op: Call, x: Tensor) -> Tensor:
    """Return the diagonal of two axes, or a matrix with a vector as its diagonal."""
    offset = op.int("offset", op.int("k", 0))
    if x.rank == 1:
        return _matrix_of(op, x, offset)
    axes = [op.int("axis1", 0) % x.rank, op.int("axis2", 1) % x.rank]
    others = [axis for axis in range(x.rank) if axis not in axes]
    rows, columns = (x.shape[axis] for axis in axes)
    if follows_batch(rows) or follows_batch(columns):
        raise ValueError("takes a diagonal across the examples, but their number is not known")
    row = np.arange(max(0, -offset), min(rows, columns - offset))
    # Each matrix becomes a row, and the indices of the diagonal are gathered.
    matrices = op("Transpose", x, perm=others + axes)
    flat = op.reshape(matrices, [*(x.shape[axis] for axis in others), rows * columns])
    return op("Gather", flat, op.constant(row * columns + row + offset), axis=len(others))


def _matrix_of(op: Call, x: Tensor, offset: int) -> Tensor:
    (size,) = x.shape
    if follows_batch(size):
        raise ValueError("makes a matrix of the examples, but their number is not known")
    size += abs(offset)
    pads = op.constant([max(offset, 0), max(-offset, 0)], np.int64)
    zero = op.constant(0, x.dtype)
    row = op("Pad", x, pads, zero)
    # Chosen, not multiplied: zero times infinity is not zero.
    return op("Where", op.constant(np.eye(size, k=offset, dtype=bool)), row, zero)
