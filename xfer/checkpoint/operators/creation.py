"""Tensors made without inputs, or from the shape of another."""

import math
from typing import Any

import numpy as np
from onnx import numpy_helper

from xfer.checkpoint.onnx_builder import Tensor, follows_batch
from xfer.checkpoint.operators.registry import Call, operator
from xfer.checkpoint.operators.shapes import sizes_of

# Types by MXNet's flags; networks run in single precision.
_KINDS = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool")
# Larger tensors are made when the network runs.
_MOST_WRITTEN_OUT = 2**20


def _dtype(op: Call, default: str = "float32") -> np.dtype:
    text = op.text("dtype", None) or default
    if text in ("bfloat16", "-1"):
        text = "float32"
    dtype = np.dtype(_KINDS[int(text)] if text.isdigit() else text)
    return np.dtype(np.float32) if dtype.kind == "f" else dtype


def _filled(op: Call, sizes: Any, value: float, dtype: np.dtype) -> Tensor:
    """Return a tensor filled with one value; ``sizes`` are integers or a Tensor."""
    if isinstance(sizes, (tuple, list)):
        if not any(map(follows_batch, sizes)) and math.prod(sizes) <= _MOST_WRITTEN_OUT:
            return op.constant(np.full(sizes, value, dtype))
        sizes = op.sizes(sizes)
    # NumPy wraps -1 around where the type is unsigned.
    number = np.array([value], np.float64).astype(dtype)
    return op("ConstantOfShape", sizes, value=numpy_helper.from_array(number))


@operator("_zeros", "_zeros_without_dtype")
def zeros(op: Call) -> Tensor:
    """Return zeros; MXNet infers a size of 0, which is that of the batch in the state of an RNN."""
    return _filled(op, _sizes(op), 0, _dtype(op))


operator("_ones")(lambda op: _filled(op, _sizes(op), 1, _dtype(op)))
operator("_full")(lambda op: _filled(op, _sizes(op), op.float("value"), _dtype(op)))


def _sizes(op: Call) -> list[int]:
    sizes = op.ints("shape", None)
    if not sizes:
        raise op.unsupported("no shape")
    return [size or op.batch_size for size in sizes]


operator("_npi_zeros")(lambda op: _filled(op, op.ints("shape", ()), 0, _dtype(op)))
operator("_npi_ones")(lambda op: _filled(op, op.ints("shape", ()), 1, _dtype(op)))
operator("_npi_full")(lambda op: _filled(op, op.ints("shape", ()), op.float("value"), _dtype(op)))
operator("zeros_like", "_sparse_zeros_like")(lambda op, x: _filled_like(op, x, 0, x.dtype))
operator("ones_like")(lambda op, x: _filled_like(op, x, 1, x.dtype))
operator("_npi_full_like")(
    lambda op, x: _filled_like(op, x, op.float("fill_value"), _dtype(op, x.dtype.name))
)


def _filled_like(op: Call, x: Tensor, value: float, dtype: np.dtype) -> Tensor:
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
    start, step = np.array([start, step]).astype(_dtype(op))
    values = start + np.arange(max(count, 0), dtype=_dtype(op)) * step
    return op.constant(np.repeat(values, repeats))


@operator("_contrib_arange_like", "_npx_arange_like")
def arange_like(op: Call, x: Tensor) -> Tensor:
    """Return a range as long as a tensor has elements, or as one of its axes."""
    axis, repeats = op.int("axis", None), op.int("repeat", 1)
    count: Any
    if axis is None:
        count = math.prod(x.shape)
    else:
        count = x.dims[axis % x.rank] if x.dims[axis % x.rank] is not None else (x, axis % x.rank)
    values = _count(op, count)
    if repeats > 1:
        values = op("Div", values, op.constant(repeats, np.int64))
    start, step = op.float("start", 0.0), op.float("step", 1.0)
    values = op.cast(values, x.dtype)
    if step != 1:
        values = op("Mul", values, op.constant(np.array(step).astype(x.dtype)))
    if start != 0:
        values = op("Add", values, op.constant(np.array(start).astype(x.dtype)))
    return values if axis is not None else op.reshape(values, x.shape)


def _count(op: Call, size: Any) -> Tensor:
    """Return the integers below a size, which is given as `sizes_of` takes it."""
    if isinstance(size, int) and not follows_batch(size):
        return op.constant(np.arange(size))
    one = numpy_helper.from_array(np.ones(1, np.int64))
    ones = op("ConstantOfShape", sizes_of(op, [size]), value=one)
    return op("CumSum", ones, op.constant(0, np.int64), exclusive=1)


@operator("_linspace", "_npi_linspace")
def linspace(op: Call) -> Tensor:
    """Return a given count of evenly spaced values."""
    start, stop, count = op.float("start"), op.float("stop"), op.int("num")
    values = np.linspace(start, stop, count, op.flag("endpoint", True))
    return op.constant(values.astype(_dtype(op)))


@operator("_eye", "_npi_eye")
def eye(op: Call) -> Tensor:
    """Return a matrix with ones on a diagonal."""
    rows = op.int("N")
    columns = op.int("M", 0) or rows
    return op.constant(np.eye(rows, columns, op.int("k", 0), dtype=_dtype(op)))


@operator("_npi_identity")
def identity(op: Call) -> Tensor:
    """Return a square matrix with ones on the diagonal."""
    return op.constant(np.eye(*op.ints("shape")).astype(_dtype(op)))


@operator("_npi_indices")
def indices(op: Call) -> Tensor:
    """Return the indices of all elements of a shape, axis by axis."""
    return op.constant(np.indices(op.ints("dimensions"), dtype=_dtype(op, "int32")))


@operator("_contrib_index_array")
def index_array(op: Call, x: Tensor) -> Tensor:
    """Return the indices of all elements of a tensor, along some axes or all."""
    axes = op.ints("axes", None)
    axes = range(x.rank) if axes is None else [axis % x.rank for axis in axes]
    shape = op.sizes([*x.shape, 1])
    places = []
    for axis in axes:
        along = [1] * (x.rank + 1)
        along[axis] = x.shape[axis]
        places.append(op("Expand", op.reshape(_count(op, x.shape[axis]), along), shape))
    return op("Concat", *places, axis=-1)


@operator("_contrib_MultiBoxPrior", "_npx_multibox_prior")
def anchor_boxes(op: Call, x: Tensor) -> Tensor:
    """Return the anchor boxes of a feature map: several sizes and ratios around each pixel.

    The boxes are (left, top, right, bottom) as fractions of the image. All sizes are used with
    the first ratio, and the first size with all other ratios [1]_.

    References
    ----------
    .. [1] Liu et al. (2016), SSD: Single Shot MultiBox Detector, section 2.2.
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
