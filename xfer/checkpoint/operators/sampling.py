"""Images looked at through a grid of places, which the network itself works out."""

import numpy as np

from xfer.checkpoint.operators.registry import operator


@operator("GridGenerator")
def grid_generator(op, x):
    """Return where each pixel comes from: by an affine map, or moved by a flow of pixels."""
    if op.text("transform_type") == "affine":
        return _affine_grid(op, x)
    height, width = x.shape[2:]
    if min(height, width) < 2:
        raise op.unsupported("an image of one pixel")
    halves = np.array([width - 1, height - 1]).reshape(1, 2, 1, 1) / 2
    moved = op("Add", x, op.constant(_pixels(height, width)[np.newaxis], np.float32))
    return op("Sub", op("Div", moved, op.constant(halves)), op.constant(1.0))


@operator("BilinearSampler")
def bilinear_sampler(op, x, grid):
    """Take the pixels at given places between those there are; beyond the edges all is zero."""
    places = op("Transpose", grid, perm=(0, 2, 3, 1))
    return op("GridSample", x, places, mode="linear", padding_mode="zeros", align_corners=1)


@operator("SpatialTransformer")
def spatial_transformer(op, x, matrix):
    """Look at an image through an affine map."""
    return bilinear_sampler(op, x, _affine_grid(op, matrix))


def _affine_grid(op, matrix):
    height, width = op.ints("target_shape")
    if min(height, width) < 2:
        raise op.unsupported(f"target_shape={height, width}")
    # From -1 to 1, whose third coordinate is 1.
    ends = np.array([width - 1, height - 1]).reshape(2, 1, 1)
    places = _pixels(height, width) * (2 / ends) - 1
    places = np.concatenate([places, np.ones((1, height, width))]).reshape(3, -1)
    matrices = op("Reshape", matrix, op.constant([-1, 2, 3], np.int64))
    grid = op("MatMul", matrices, op.constant(places))
    return op("Reshape", grid, op.constant([0, 2, height, width], np.int64))


def _pixels(height, width):
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)))
