"""Convolutions that learn where to look."""

import numpy as np

from xfer.checkpoint.operators.layers import agree, read_filters
from xfer.checkpoint.operators.registry import operator


@operator("_contrib_DeformableConvolution")
def deformable_convolution(op, x, offset, weight, *bias):
    """Slide filters whose points are moved, each by an offset of its own.

    What lies before the first pixel is nothing at all to MXNet, and what lies up to a pixel behind
    the last is the last. To ONNX both are between a pixel and nothing; so points are moved there.
    """
    kernel, settings = read_filters(op, weight)
    agree(x, 1, weight, 1, settings["group"])
    groups = op.int("num_deformable_group", 1)
    grid = _grid(offset.shape, kernel, settings, groups)
    limits = np.tile(np.array(x.shape[2:], np.float32), groups * kernel[0] * kernel[1])
    size = op.constant(limits[:, np.newaxis, np.newaxis])
    place = op("Add", offset, op.constant(grid))
    outside = op("Or", op("Less", place, op.constant(0.0)), op("GreaterOrEqual", place, size))
    place = op("Min", place, op("Sub", size, op.constant(1.0)))
    place = op("Where", outside, op.constant(-2.0), place)
    offset = op("Sub", place, op.constant(grid))
    return _convolve(op, x, weight, offset, bias, None, settings, groups)


@operator("_contrib_ModulatedDeformableConvolution")
def modulated_deformable_convolution(op, x, offset, mask, weight, *bias):
    """Slide filters whose points are moved, and each weighed by the mask."""
    _, settings = read_filters(op, weight)
    agree(x, 1, weight, 1, settings["group"])
    groups = op.int("num_deformable_group", 1)
    return _convolve(op, x, weight, offset, bias, mask, settings, groups)


def _grid(shape, kernel, settings, groups):
    """Return the rows and columns where the points are if they are not moved."""
    axes = []
    for axis in (0, 1):
        stride, step, pad = (settings[name][axis] for name in ("strides", "dilations", "pads"))
        starts = np.arange(shape[2 + axis]) * stride - pad
        axes.append(np.arange(kernel[axis])[:, np.newaxis] * step + starts)
    rows = axes[0][:, np.newaxis, :, np.newaxis]
    columns = axes[1][np.newaxis, :, np.newaxis, :]
    both = np.stack(np.broadcast_arrays(rows, columns), axis=2)
    points = both.reshape(2 * kernel[0] * kernel[1], *shape[2:])
    return np.tile(points, (groups, 1, 1)).astype(np.float32)


def _convolve(op, x, weight, offset, bias, mask, settings, groups):
    pads = [*settings.pop("pads")] * 2
    parts = [offset, *(bias or (None,)), mask]
    if mask is None:
        parts.pop()
    return op("DeformConv", x, weight, *parts, pads=pads, offset_group=groups, **settings)
