"""Object detection: features of regions, and arithmetic of boxes.

Operators that select boxes, such as ``box_nms``, are left out: they come after the layers with
useful features, and ONNX breaks ties differently.
"""

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor
from xfer.checkpoint.operators.registry import Call, operator


@operator("ROIPooling", "_npx_roi_pooling")
def roi_pooling(op: Call, x: Tensor, regions: Tensor) -> Tensor:
    """Compute the maxima over a grid in each region (index of the image, then its corners)."""
    return op(
        "MaxRoiPool",
        x,
        regions,
        pooled_shape=op.ints("pooled_size"),
        spatial_scale=op.float("spatial_scale"),
    )


@operator("_contrib_ROIAlign")
def roi_align(op: Call, x: Tensor, regions: Tensor) -> Tensor:
    """Compute interpolated means over a grid in each region."""
    if op.flag("position_sensitive", False):
        raise op.unsupported("position_sensitive=True")
    images, boxes = op("Split", regions, op.constant([1, 4], np.int64), axis=1, outputs=2)
    images = op("Squeeze", op.cast(images, np.int64), op.constant([1], np.int64))
    height, width = op.ints("pooled_size")
    return op(
        "RoiAlign",
        x,
        boxes,
        images,
        mode="avg",
        output_height=height,
        output_width=width,
        spatial_scale=op.float("spatial_scale"),
        sampling_ratio=max(op.int("sample_ratio", -1), 0),
        coordinate_transformation_mode=(
            "half_pixel" if op.flag("aligned", False) else "output_half_pixel"
        ),
    )


@operator("_contrib_box_iou")
def box_iou(op: Call, one: Tensor, other: Tensor) -> Tensor:
    """Compute intersection over union of all pairs of boxes."""
    others = [one.rank - 1 + place for place in range(other.rank - 1)]
    one = op("Unsqueeze", one, op.constant(others, np.int64)) if others else one
    corners, areas = [], []
    for boxes in (one, other):
        first, second = _halves(op, boxes)
        if op.text("format", "corner") == "center":
            size, reach = second, op("Mul", second, op.constant(0.5))
            first, second = op("Sub", first, reach), op("Add", first, reach)
        else:
            size = op("Sub", second, first)
        corners.append((first, second))
        areas.append(_area(op, size))
    firsts, seconds = zip(*corners)
    shared = _area(op, op("Sub", op("Min", *seconds), op("Max", *firsts)))
    ratio = op("Div", shared, op("Sub", op("Add", *areas), shared))
    zero = op.constant(0.0)
    return op("Where", op("Greater", shared, zero), ratio, zero)


@operator("_contrib_box_decode")
def box_decode(op: Call, x: Tensor, anchors: Tensor) -> Tensor:
    """Return the corners of boxes, given their offsets from anchors."""
    scales = [op.float(f"std{place}", 1.0) for place in range(4)]
    centre, size = _halves(op, anchors)
    if op.text("format", "center") == "corner":
        size = op("Sub", size, centre)
        centre = op("Add", centre, op("Mul", size, op.constant(0.5)))
    shift, growth = _halves(op, op("Mul", x, op.constant(scales)))
    if (limit := op.float("clip", -1.0)) > 0:
        growth = op("Min", growth, op.constant(limit))
    centre = op("Add", op("Mul", shift, size), centre)
    reach = op("Mul", op("Exp", growth), op("Mul", size, op.constant(0.5)))
    return op("Concat", op("Sub", centre, reach), op("Add", centre, reach), axis=-1)


def _halves(op: Call, boxes: Tensor) -> list[Tensor]:
    return op("Split", boxes, op.constant([2, 2], np.int64), axis=-1, outputs=2)


def _area(op: Call, size: Tensor) -> Tensor:
    return op("ReduceProd", op("Relu", size), op.constant([-1], np.int64), keepdims=0)
