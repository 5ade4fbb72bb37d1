"""Decoded pictures to the inputs of a network, as ``ImageInputs`` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from xfer.checkpoint.onnx_builder import OnnxBuilder
from xfer.export.expression import Value
from xfer.inputs import ImageInputs

NAME = "pictures"


def add_pictures(builder: OnnxBuilder, settings: ImageInputs) -> Value:
    """Add the input ``pictures`` (n, height, width, channels) of uint8, and prepare it.

    The pictures of a batch have one size; there is one channel for gray, and otherwise three, RGB.
    """
    dims = (None, None, None, settings._n_channels)
    given = Value(builder, builder.add_input(NAME, np.uint8, dims))
    pixels = given.apply("Transpose", perm=[0, 3, 1, 2]).astype(np.float32)
    if settings.size is not None:
        pixels = _resized(pixels, settings)
    if settings.channels == "bgr":
        pixels = pixels.take(np.array([2, 1, 0]), axis=1)
    mean, std = (np.reshape(one, (-1, 1, 1)) for one in (settings.mean, settings.std))
    pixels = (pixels * settings.scale - mean) / std
    return pixels if settings.layout == "NCHW" else pixels.apply("Transpose", perm=[0, 2, 3, 1])


def random_pictures(settings: ImageInputs, n: int, share: float) -> np.ndarray:
    """Return smooth pictures, whose sides are a share of what the network takes."""
    size = cast("Sequence[int]", settings.size or (32, 32))
    sides = [max(2, round(share * side)) for side in size]
    random = np.random.RandomState(0)
    rows, columns = (np.linspace(0, 3, side) for side in sides)
    waves = random.uniform(0.5, 2, (n, 2, 1, 1, settings._n_channels))
    found = np.sin(waves[:, 0] * rows[:, None, None] + waves[:, 1] * columns[:, None] + waves[:, 0])
    return (127.5 * (found + 1)).astype(np.uint8)


def _resized(pixels: Value, settings: ImageInputs) -> Value:
    """Resize as Pillow does: along the width, then along the height, each rounded to bytes."""
    final = cast("Sequence[int]", settings.size)
    size = [settings.resize] * 2 if settings.resize else final
    shape = pixels.apply("Shape")
    sides = [shape.take(np.array([axis]), axis=0) for axis in (2, 3)]
    covering = [shape.constant([side]) for side in size]
    if settings.crop == "center":
        # The larger of the two that keep the proportions covers the size.
        across = [sides[0] * size[1] / sides[1], sides[1] * size[0] / sides[0]]
        covering = [one.at_least(other) for one, other in zip(across, covering)]
    is_cubic = settings.interpolation == "bicubic"
    weights = [_weights(*each, is_cubic) for each in zip(sides, covering, final)]
    pixels = _bytes(pixels @ weights[1].apply("Transpose", perm=[1, 0]))
    return _bytes(weights[0].apply("MatMul", pixels))


def _weights(side: Value, covering: Value, length: int, is_cubic: bool) -> Value:
    """Return how much each pixel of a side counts for each of the result, (length, side).

    The result is the middle of the resized side.
    """
    side, covering = side.astype(np.float64), covering.astype(np.float64)
    scale = side / covering
    start = ((covering - length) * 0.5).apply("Round")  # ties to even, as in Python
    centers = (start + (np.arange(length) + 0.5)) * scale
    ends = side.reshape().astype(np.int64)
    pixels = side.constant(0, np.int64).apply("Range", ends, side.constant(1, np.int64))
    away = centers.add_axis(1) - (pixels.astype(np.float64) + 0.5)
    away = away.apply("Abs") / scale.at_least(1.0)
    weights = _cubic(away) if is_cubic else (1.0 - away).at_least(0.0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _cubic(away: Value) -> Value:
    """Return Pillow's weight at a distance: Keys (1981), Cubic Convolution Interpolation, a=-0.5.

    The two pieces, for distances up to 1 and from 1 to 2, meet at 1 with the value 0.
    """
    near, far = away.at_most(1.0), away.at_least(1.0).at_most(2.0)
    return ((near * 1.5 - 2.5) * near * near + 1.0) + ((far * -0.5 + 2.5) * far - 4.0) * far + 2.0


def _bytes(pixels: Value) -> Value:
    # Pillow rounds halves up.
    return (pixels + 0.5).apply("Floor").at_least(0.0).at_most(255.0)
