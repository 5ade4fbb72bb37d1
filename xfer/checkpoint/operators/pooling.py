"""Layers of maps: pooling, resizing, cropping, sampling through a grid, and regions of images."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor, describe_shape
from xfer.checkpoint.operators.registry import Call, operator


@operator("Pooling", "Pooling_v1", "_npx_pooling")
def pooling(op: Call, x: Tensor) -> Tensor:
    """Compute the maximum, mean, sum or norm of windows, or of whole maps."""
    layout = op.text("layout", None)
    pool = _pool_maps if op.flag("global_pool", False) else _pool_windows
    if not layout or layout[1] == "C":
        return pool(op, x)
    axes = range(1, x.rank - 1)
    y = pool(op, op("Transpose", x, perm=[0, x.rank - 1, *axes]))
    return op("Transpose", y, perm=[0, *(axis + 1 for axis in axes), 1])


def _pool_maps(op: Call, x: Tensor) -> Tensor:
    kind = op.text("pool_type", "max")
    kinds = {"max": "GlobalMaxPool", "avg": "GlobalAveragePool"}
    if kind in kinds:
        return op(kinds[kind], x)
    axes = op.constant(list(range(2, x.rank)))
    return _sums(op, x, lambda powers: op("ReduceSum", powers, axes))


def _sums(op: Call, x: Tensor, add: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute a sum, or the root of a sum of powers."""
    kind = op.text("pool_type")
    if kind == "sum":
        return add(x)
    power = op.int("p_value", None)
    if kind != "lp" or power not in (1, 2, 3):
        raise op.unsupported(f"pool_type={kind!r}, p_value={power}")
    if power == 1:  # with signs, as in MXNet
        return add(x)
    total = add(op("Mul", x, x) if power == 2 else op("Mul", op("Mul", x, x), x))
    if power == 2:
        return op("Sqrt", total)
    return op("Mul", op("Sign", total), op("Pow", op("Abs", total), op.constant(1 / 3)))


def _pool_windows(op: Call, x: Tensor) -> Tensor:
    kind, legacy = op.text("pool_type", "max"), op.node.operator == "Pooling_v1"
    windows = _read_windows(op, x)
    if kind == "max":
        # The first version counts the zeros of the padding as data.
        return _slide(op, "MaxPool", *(_padded(op, x, windows) if legacy else (x, windows)))
    if kind == "avg" and not legacy:
        if op.flag("count_include_pad", None) is False:
            return _slide(op, "AveragePool", x, windows)
        if windows.full:
            # The padding counts, but not what a window reaches beyond it.
            return _slide(op, "AveragePool", *_padded(op, x, windows))
    if windows.full:
        x, windows = _padded(op, x, windows, _full_pads(x, windows))

    def mean(x: Tensor) -> Tensor:
        return _slide(op, "AveragePool", x, windows, count_include_pad=1)

    if kind == "avg":
        return mean(x)
    size = op.constant(float(math.prod(windows.kernel)))
    return _sums(op, x, lambda powers: op("Mul", mean(powers), size))


class _Windows(NamedTuple):
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    full: bool  # whether the last window may reach beyond the end


def _read_windows(op: Call, x: Tensor) -> _Windows:
    convention = op.text("pooling_convention", "valid")
    if convention not in ("valid", "full"):
        # MXNet 1.9 offers "same", but refuses it.
        raise op.unsupported(f"pooling_convention={convention!r}")
    kernel = op.ints("kernel")
    strides = op.ints("stride", None) or (1,) * len(kernel)
    pads = op.ints("pad", None) or (0,) * len(kernel)
    for size, k, p in zip((x.dims or ())[2:], kernel, pads):
        if size is not None and size + 2 * p < k:
            raise ValueError(f"kernel={kernel} is larger than data of {describe_shape(x.dims)}")
    return _Windows(kernel, strides, pads, convention == "full")


def _full_pads(x: Tensor, windows: _Windows) -> tuple[int, ...]:
    """Return how far the last windows reach beyond the data."""
    sizes = zip(x.shape[2:], windows.kernel, windows.strides, windows.pads)
    return tuple(p + (k - size - 2 * p) % s for size, k, s, p in sizes)


def _padded(
    op: Call, x: Tensor, windows: _Windows, ends: tuple[int, ...] = ()
) -> tuple[Tensor, _Windows]:
    """Pad with zeros that count as data; return the windows without padding."""
    ends = ends or windows.pads
    if any(ends):
        x = op("Pad", x, op.constant([0, 0, *windows.pads, 0, 0, *ends]))
    return x, windows._replace(pads=(0,) * len(ends))


def _slide(op: Call, kind: str, x: Tensor, windows: _Windows, **attributes: Any) -> Tensor:
    kernel, strides, pads, full = windows
    ends = pads
    if full and any(s > k - p for k, s, p in zip(kernel, strides, pads)):
        # ONNX leaves out a window that begins beyond the data, and MXNet does not.
        ends = _full_pads(x, windows)
        if any(end >= k for end, k in zip(ends, kernel)):
            raise op.unsupported("windows that hold no data")
        full = False
    attributes |= {"kernel_shape": kernel, "strides": strides, "pads": [*pads, *ends]}
    return op(kind, x, ceil_mode=int(full), **attributes)


@operator("_contrib_AdaptiveAvgPooling2D")
def adaptive_average_pooling(op: Call, x: Tensor) -> Tensor:
    """Compute the means of a given count of windows of about the same size."""
    sizes = op.ints("output_size", None) or [1]
    sizes = tuple(sizes) * 2 if len(sizes) == 1 else sizes
    if sizes == (1, 1):
        return op("GlobalAveragePool", x)
    height, width = x.shape[2:]
    if height % sizes[0] == 0 == width % sizes[1]:
        kernel = [height // sizes[0], width // sizes[1]]
        return op("AveragePool", x, kernel_shape=kernel, strides=kernel)
    # Windows of several sizes: a product with weights of rows and columns.
    rows, columns = _shares(height, sizes[0]), _shares(width, sizes[1])
    return op("MatMul", op.constant(rows), op("MatMul", x, op.constant(columns.T)))


def _shares(size: int, count: int) -> np.ndarray:
    window, place = np.arange(count)[:, None], np.arange(size)
    inside = (window * size // count <= place) & (place < -(-(window + 1) * size // count))
    return inside / inside.sum(axis=1, keepdims=True)


@operator("UpSampling")
def upsampling(op: Call, x: Tensor, *others: Tensor) -> Tensor:
    """Enlarge maps by an integer factor, and bring several to the size of the first."""
    scale = op.int("scale")
    if op.text("sample_type") == "bilinear":
        settings = {"strides": [scale] * 2, "pads": [scale // 2] * 4}
        return op("ConvTranspose", x, *others, group=op.int("num_filter"), **settings)
    scaled = [_repeat(op, x, scale)]
    for other in others:
        times, rest = divmod(x.shape[2] * scale, other.shape[2])
        if rest:
            shapes = f"{describe_shape(other.dims)} to {scale} times {describe_shape(x.dims)}"
            raise ValueError(f"cannot bring {shapes}")
        scaled.append(_repeat(op, other, times))
    if not others:
        return scaled[0]
    if op.text("multi_input_mode", "concat") == "sum":
        return op("Sum", *scaled)
    return op("Concat", *scaled, axis=1)


def _repeat(op: Call, x: Tensor, times: int) -> Tensor:
    if times == 1:
        return x
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return op("Resize", x, None, op.constant([times] * 2, np.float32), axes=[2, 3], **how)


@operator("_contrib_BilinearResize2D")
def bilinear_resize(op: Call, x: Tensor, like: Tensor | None = None) -> Tensor:
    """Resize maps with bilinear interpolation."""
    # A single output pixel is taken from the start, not from the middle.
    pixels = "align_corners" if op.flag("align_corners", True) else "pytorch_half_pixel"
    how = {"mode": "linear", "coordinate_transformation_mode": pixels}
    return op("Resize", x, None, None, op.constant(_resized(op, x, like)), axes=[2, 3], **how)


def _resized(op: Call, x: Tensor, like: Any) -> Sequence[int]:
    mode = op.text("mode", "size")
    if mode == "like":
        return like.shape[2:]
    scales = [op.float("scale_height", None), op.float("scale_width", None)]
    if mode == "size" and scales[0] is None:
        return op.int("height", 1), op.int("width", 1)
    changes = {
        "size": lambda size, scale: size * scale,
        "odd_scale": lambda size, scale: (size - 1) * scale + 1 if size % 2 else size * scale,
        "to_even_down": lambda size, _: size - size % 2,
        "to_even_up": lambda size, _: size + size % 2,
        "to_odd_down": lambda size, _: size - 1 + size % 2,
        "to_odd_up": lambda size, _: size + 1 - size % 2,
    }
    if mode not in changes:
        raise op.unsupported(f"mode={mode!r}")
    if not mode.startswith("to_") and None in scales:
        raise ValueError(f"mode={mode!r} with one scale of two")
    # MXNet multiplies in single precision, which can change the integer part.
    scales = [np.float32(1 if scale is None else scale) for scale in scales]
    sizes = map(np.float32, x.shape[2:])
    return [int(changes[mode](size, scale)) for size, scale in zip(sizes, scales)]


@operator("Crop")
def crop(op: Call, x: Tensor, like: Tensor | None = None) -> Tensor:
    """Crop maps to a size, or to that of other maps."""
    sizes = op.ints("h_w") if like is None else like.shape[2:]
    starts = op.ints("offset", None) or (0, 0)
    if op.flag("center_crop", False):
        starts = [(had - size) // 2 for had, size in zip(x.shape[2:], sizes)]
    ends = [start + size for start, size in zip(starts, sizes)]
    within = zip((x.dims or ())[2:], starts, ends)
    if any(had is not None and not 0 <= start < end <= had for had, start, end in within):
        window = f"a window of {tuple(sizes)} at {tuple(starts)}"
        raise ValueError(f"{window} is not within {describe_shape(x.dims)}")
    return op("Slice", x, *map(op.constant, (list(starts), ends, [2, 3])))


@operator("GridGenerator")
def grid_generator(op: Call, x: Tensor) -> Tensor:
    """Return where each pixel comes from, given an affine map or the shift of each pixel."""
    if op.text("transform_type") == "affine":
        return _affine_grid(op, x)
    height, width = x.shape[2:]
    if min(height, width) < 2:
        raise op.unsupported("an image of one pixel")
    halves = np.array([width - 1, height - 1]).reshape(1, 2, 1, 1) / 2
    moved = op("Add", x, op.constant(_pixels(height, width)[np.newaxis], np.float32))
    return op("Sub", op("Div", moved, op.constant(halves)), op.constant(1.0))


@operator("BilinearSampler")
def bilinear_sampler(op: Call, x: Tensor, grid: Tensor) -> Tensor:
    """Interpolate an image at given points; it is zero beyond its edges."""
    places = op("Transpose", grid, perm=(0, 2, 3, 1))
    return op("GridSample", x, places, mode="linear", padding_mode="zeros", align_corners=1)


operator("SpatialTransformer")(
    lambda op, x, matrix: bilinear_sampler(op, x, _affine_grid(op, matrix))
)


def _affine_grid(op: Call, matrix: Tensor) -> Tensor:
    height, width = op.ints("target_shape")
    if min(height, width) < 2:
        raise op.unsupported(f"target_shape={height, width}")
    # From -1 to 1, with a third coordinate of 1.
    ends = np.array([width - 1, height - 1]).reshape(2, 1, 1)
    places = _pixels(height, width) * (2 / ends) - 1
    places = np.concatenate([places, np.ones((1, height, width))]).reshape(3, -1)
    matrices = op("Reshape", matrix, op.constant([-1, 2, 3], np.int64))
    grid = op("MatMul", matrices, op.constant(places))
    return op("Reshape", grid, op.constant([0, 2, height, width], np.int64))


def _pixels(height: int, width: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)))


@operator("ROIPooling", "_npx_roi_pooling")
def roi_pooling(op: Call, x: Tensor, regions: Tensor) -> Tensor:
    """Compute the maxima over a grid in each region (index of the image, then its corners)."""
    size, scale = op.ints("pooled_size"), op.float("spatial_scale")
    return op("MaxRoiPool", x, regions, pooled_shape=size, spatial_scale=scale)


@operator("_contrib_ROIAlign")
def roi_align(op: Call, x: Tensor, regions: Tensor) -> Tensor:
    """Compute interpolated means over a grid in each region."""
    if op.flag("position_sensitive", False):
        raise op.unsupported("position_sensitive=True")
    images, boxes = op("Split", regions, op.constant([1, 4], np.int64), axis=1, outputs=2)
    images = op("Squeeze", op.cast(images, np.int64), op.constant([1], np.int64))
    height, width = op.ints("pooled_size")
    pixels = "half_pixel" if op.flag("aligned", False) else "output_half_pixel"
    settings = {
        "spatial_scale": op.float("spatial_scale"),
        "sampling_ratio": max(op.int("sample_ratio", -1), 0),
        "coordinate_transformation_mode": pixels,
    }
    sizes = {"output_height": height, "output_width": width}
    return op("RoiAlign", x, boxes, images, mode="avg", **sizes, **settings)


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


@operator("_contrib_box_nms")
def box_nms(op: Call, x: Tensor) -> Tensor:
    """Keep the boxes that overlap no better one of their class, best first; fill up with -1."""
    form, most = op.text("in_format", "corner"), op.int("topk", -1)
    if x.rank != 3 or form != op.text("out_format", "corner"):
        raise op.unsupported(f"{x.rank} dimensions or two formats")
    count, classes = x.shape[1], op.int("id_index", -1)
    most = min(most, count) if most > 0 else count
    scores = _column(op, x, op.int("score_index", 1))
    valid = op("Greater", scores, op.constant(op.float("valid_thresh", 0.0)))
    if classes >= 0:
        background = op.constant(float(op.int("background_id", -1)))
        other = op("Not", op("Equal", _column(op, x, classes), background))
        valid = op("And", valid, other)
    rows, keys = _largest(op, x, op("Where", valid, scores, op.constant(-np.inf)), most)
    by_class = classes >= 0 and not op.flag("force_suppress", False)
    limits = op.int("coord_start", 2), op.float("overlap_thresh", 0.5), form == "center"
    kept = _kept(op, rows, _order(op, keys), classes if by_class else None, *limits)
    rows, keys = _largest(op, rows, kept, most)
    rows = _or_minus_one(op, op("Greater", keys, op.constant(0.0)), rows)
    ends = op.constant([0, 0, 0, 0, count - most, 0], np.int64)
    return op("Pad", rows, ends, op.constant(-1.0))


@operator("_contrib_MultiBoxDetection")
def detection(op: Call, scores: Tensor, moves: Tensor, anchors: Tensor) -> Tensor:
    """Return (class, score, corners), best first; -1 is the class of a box that is suppressed."""
    threshold, most = op.float("nms_threshold", 0.5), op.int("nms_topk", -1)
    if op.int("background_id", 0) != 0 or not 0 < threshold <= 1:
        raise op.unsupported(f"its background_id or nms_threshold={threshold}")
    count = anchors.shape[1]
    begin, end, axis = (op.constant([value], np.int64) for value in (1, 2**31, 1))
    scores = op("Slice", scores, begin, end, axis)
    classes = op.cast(op("ArgMax", scores, axis=1, keepdims=0), np.float32)
    scores = op("ReduceMax", scores, axis, keepdims=0)
    (start, stop), variances = _halves(op, anchors), op.floats("variances", (0.1, 0.1, 0.2, 0.2))
    moves = op("Mul", op("Reshape", moves, op.constant([0, count, 4])), op.constant(variances))
    shift, growth = _halves(op, moves)
    size, half = op("Sub", stop, start), op.constant(0.5)
    centre = op("Add", op("Mul", shift, size), op("Mul", op("Add", start, stop), half))
    reach = op("Mul", op("Exp", growth), op("Mul", size, half))
    boxes = op("Concat", op("Sub", centre, reach), op("Add", centre, reach), axis=2)
    if op.flag("clip", True):
        boxes = op("Clip", boxes, op.constant(0.0), op.constant(1.0))
    rows = op("Concat", *(_add_axis(op, one, 2) for one in (classes, scores)), boxes, axis=2)
    valid = op("GreaterOrEqual", scores, op.constant(op.float("threshold", 0.01)))
    keys = op("Where", valid, scores, op.constant(-np.inf))
    best, keys = _largest(op, rows, keys, count)
    order = used = _order(op, keys)
    if 0 < most < count:
        # The rest are not sorted, and count as suppressed.
        down = np.arange(count, 0, -1, np.float32)[np.newaxis]
        first = op.constant(down > count - most)
        rows, _ = _largest(op, rows, op("Where", valid, op.constant(down), op.constant(0.0)), count)
        best = op("Where", _add_axis(op, first, 2), best, rows)
        used = op("Where", first, order, op.constant(0.0))
    by_class = None if op.flag("force_suppress", False) else 0
    kept = op("Greater", _kept(op, best, used, by_class, 2, threshold), op.constant(0.0))
    ids, rest = op("Split", best, op.constant([1, 5], np.int64), axis=2, outputs=2)
    rest = _or_minus_one(op, op("Greater", order, op.constant(0.0)), rest)
    return op("Concat", _or_minus_one(op, kept, ids), rest, axis=2)


def _kept(
    op: Call,
    rows: Tensor,
    order: Tensor,
    classes: int | None,
    first: int,
    threshold: float,
    center: bool = False,
) -> Tensor:
    """Return the order of the boxes that overlap no better one of their class; 0 for others."""
    own = ids = op.constant([[[0]]], np.int64)
    if classes is not None:
        # One row for each class that there is.
        own = _add_axis(op, op.cast(_column(op, rows, classes), np.int64))
        start, last = (op(kind, own, keepdims=0) for kind in ("ReduceMin", "ReduceMax"))
        one = op.constant(1, np.int64)
        ids = op("Range", start, op("Add", last, one), one)
        ids = op("Unsqueeze", ids, op.constant([0, 2], np.int64))
    found = op(
        "NonMaxSuppression",
        op("Slice", rows, *(op.constant([end], np.int64) for end in (first, first + 4, 2))),
        op("Where", op("Equal", own, ids), _add_axis(op, order), op.constant(0.0)),
        op.constant([rows.shape[1]], np.int64),
        op.constant([threshold]),
        op.constant([0.5]),
        center_point_box=int(center),
    )
    places = op("Gather", found, op.constant([0, 2], np.int64), axis=1)
    nothing = op("Mul", order, op.constant(0.0))
    return op("ScatterND", nothing, places, op("GatherND", order, places))


def _order(op: Call, keys: Tensor) -> Tensor:
    """Count down along sorted keys; -inf, which is not valid, has 0."""
    count = keys.shape[1]
    down = op.constant(np.arange(count, 0, -1)[np.newaxis], np.float32)
    return op("Where", op("Greater", keys, op.constant(-np.inf)), down, op.constant(0.0))


def _or_minus_one(op: Call, chosen: Tensor, rows: Tensor) -> Tensor:
    return op("Where", _add_axis(op, chosen, 2), rows, op.constant(-1.0))


def _add_axis(op: Call, x: Tensor, axis: int = 1) -> Tensor:
    return op("Unsqueeze", x, op.constant([axis], np.int64))


def _column(op: Call, rows: Tensor, index: int) -> Tensor:
    return op("Gather", rows, op.constant(index, np.int64), axis=2)


def _largest(op: Call, rows: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the rows that have the largest keys, and these."""
    keys, places = op("TopK", keys, op.constant([count], np.int64), outputs=2)
    return op("GatherND", rows, _add_axis(op, places, 2), batch_dims=1), keys
