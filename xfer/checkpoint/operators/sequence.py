"""Lookups by index, and sequences of different lengths."""

from typing import Any

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor, follows_batch
from xfer.checkpoint.operators.maths import read_dtype
from xfer.checkpoint.operators.registry import Call, operator


@operator("Embedding", "_npx_embedding", "_sparse_Embedding", "_contrib_SparseEmbedding")
def embedding(op: Call, ids: Tensor, weight: Tensor) -> Tensor:
    """Look rows up in a table; ids out of range mean its first or last row."""
    rows = op.int("input_dim")
    if weight.dims is not None and weight.dims[0] not in (None, rows):
        raise ValueError(f"input_dim={rows}, and the table is {weight.dims}")
    return op("Gather", weight, _clip(op, ids, _whole(op, rows - 1)), axis=0)


@operator("take", "_npi_take")
def take(op: Call, x: Tensor, ids: Tensor) -> Tensor:
    """Look entries up along an axis."""
    mode, axis = op.text("mode", "clip"), op.int("axis", 0)
    if mode == "raise":
        # ONNX counts negative ids from the end, where MXNet raises an error.
        return op("Gather", x, op.cast(ids, np.int64), axis=axis)
    return op("Gather", x, _within(op, x, axis, ids, mode), axis=axis)


@operator("pick", "_npx_pick")
def pick(op: Call, x: Tensor, ids: Tensor) -> Tensor:
    """Look up one entry along an axis for each position on the other axes."""
    axis = op.int("axis", -1)
    if axis is None:
        raise op.unsupported("axis=None")
    ids = _within(op, x, axis, ids, op.text("mode", "clip"))
    return _pick(op, x, ids, axis % x.rank, op.flag("keepdims", False))


operator("batch_take")(lambda op, x, ids: _pick(op, x, _within(op, x, 1, ids, "clip"), 1, False))


@operator("gather_nd", "_npi_gather_nd", "_npx_gather_nd")
def gather_nd(op: Call, x: Tensor, ids: Tensor) -> Tensor:
    """Look entries up by their indices on the leading axes, which are on the first axis of ids."""
    return op("GatherND", x, _places(op, ids))


@operator("scatter_nd")
def scatter_nd(op: Call, x: Tensor, ids: Tensor) -> Tensor:
    """Write entries into zeros, at indices as in `gather_nd`."""
    return op("ScatterND", op.constant(np.zeros(op.ints("shape"), x.dtype)), _places(op, ids), x)


@operator("one_hot", "_npx_one_hot")
def one_hot(op: Call, ids: Tensor) -> Tensor:
    """Encode ids one-hot on a new last axis; ids out of range mark nothing."""
    dtype = read_dtype(op, np.float32)
    on, off = op.float("on_value", 1.0), op.float("off_value", 0.0)
    if dtype.kind in "iu":
        # As in C: fractions are cut off, then values out of range wrap around.
        on, off = (np.asarray(int(value)).astype(dtype) for value in (on, off))
    ids = op("Unsqueeze", op.cast(ids, np.int64), _whole(op, [-1]))
    marked = op("Equal", ids, _whole(op, np.arange(op.int("depth"))))
    return op("Where", marked, op.constant(on, dtype), op.constant(off, dtype))


@operator("SequenceMask", "_npx_sequence_mask")
def sequence_mask(op: Call, x: Tensor, lengths: Any = None) -> Tensor:
    """Overwrite the steps after the end of each sequence."""
    axis = op.int("axis", 0)
    if not op.flag("use_sequence_length", False):
        return x
    steps = _along(op, _range(op, x, axis), axis, x.rank)
    lengths = _along(op, op.cast(lengths, np.int64), 1 - axis, x.rank)
    value = op.constant(np.asarray(op.float("value", 0.0)).astype(x.dtype))
    return op("Where", op("Less", steps, lengths), x, value)


@operator("SequenceLast")
def sequence_last(op: Call, x: Tensor, lengths: Any = None) -> Tensor:
    """Return the last step of each sequence."""
    axis = op.int("axis", 0)
    if not op.flag("use_sequence_length", False):
        return op("Gather", x, _whole(op, -1), axis=axis)
    if axis == 0:
        x = op("Transpose", x, perm=(1, 0, *range(2, x.rank)))
    last = op("Sub", op.cast(lengths, np.int64), _whole(op, 1))
    return op("GatherND", x, op("Unsqueeze", last, _whole(op, [1])), batch_dims=1)


@operator("SequenceReverse")
def sequence_reverse(op: Call, x: Tensor, lengths: Any = None) -> Tensor:
    """Reverse each sequence, and keep the steps after its end."""
    if op.flag("use_sequence_length", False):
        lengths = op.cast(lengths, np.int64)
        return op("ReverseSequence", x, lengths, time_axis=0, batch_axis=1)
    start, end = _whole(op, [-1]), _whole(op, [np.iinfo(np.int64).min])
    return op("Slice", x, start, end, _whole(op, [0]), _whole(op, [-1]))


def _whole(op: Call, value: Any) -> Tensor:
    return op.constant(value, np.int64)


def _clip(op: Call, ids: Tensor, last: Tensor) -> Tensor:
    return op("Clip", op.cast(ids, np.int64), _whole(op, 0), last)


def _within(op: Call, x: Tensor, axis: int, ids: Tensor, mode: str) -> Tensor:
    """Return ids as integers within an axis."""
    size = _size(op, x, axis)
    if mode == "clip":
        return _clip(op, ids, op("Sub", size, _whole(op, 1)))
    if mode == "wrap":
        return op("Mod", op.cast(ids, np.int64), size)
    raise op.unsupported(f"mode={mode!r}")


def _size(op: Call, x: Tensor, axis: int) -> Tensor:
    size = None if x.dims is None else x.dims[axis]
    if size is None or follows_batch(size):
        return op("Gather", op("Shape", x), _whole(op, axis))
    return _whole(op, size)


def _range(op: Call, x: Tensor, axis: int) -> Tensor:
    size = _size(op, x, axis)
    if size.value is not None:
        return _whole(op, np.arange(int(size.value.item())))
    return op("Range", _whole(op, 0), size, _whole(op, 1))


def _along(op: Call, vector: Tensor, axis: int, rank: int) -> Tensor:
    others = [place for place in range(rank) if place != axis]
    return op("Unsqueeze", vector, _whole(op, others)) if others else vector


def _pick(op: Call, x: Tensor, ids: Tensor, axis: int, keepdims: bool) -> Tensor:
    if ids.rank < x.rank:
        ids = op("Unsqueeze", ids, _whole(op, [axis]))
    picked = op("GatherElements", x, ids, axis=axis)
    return picked if keepdims else op("Squeeze", picked, _whole(op, [axis]))


def _places(op: Call, ids: Tensor) -> Tensor:
    ids = op.cast(ids, np.int64)
    return op("Transpose", ids, perm=(*range(1, ids.rank), 0))
