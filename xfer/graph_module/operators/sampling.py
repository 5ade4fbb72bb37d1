# ruff: noqa: D103 - functions and inputs have the names of ONNX's, which say what they do
"""Resizing, sampling through a grid, and regions of images."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xfer.graph_module.registry import operator

_MODES = {"linear": "bilinear", "cubic": "bicubic"}


@operator("GridSample")
def GridSample(
    X: Tensor,
    grid: Tensor,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Tensor:
    how = _MODES.get(mode, mode), padding_mode, bool(align_corners)
    return F.grid_sample(X, grid.to(X.dtype), *how)


@operator("AffineGrid", sizes="size")
def AffineGrid(theta: Tensor, size: Any, align_corners: int = 0) -> Tensor:
    return F.affine_grid(theta, size, align_corners=bool(align_corners))


@operator("Upsample", sizes="scales")
def Upsample(X: Tensor, scales: Any, mode: str = "nearest") -> Tensor:
    return Resize(X, scales, mode=mode, opset=10)


@operator("Resize", sizes="roi scales sizes")
def Resize(
    X: Tensor,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    antialias: int = 0,
    axes: Any = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    opset: int = 13,
) -> Tensor:
    pixels = coordinate_transformation_mode
    if opset < 11:
        scales, pixels, nearest_mode = roi, "asymmetric", "floor"
    axes = list(range(X.ndim)) if axes is None else [axis % X.ndim for axis in axes]
    old = [X.shape[axis] for axis in axes]
    if sizes:
        scales = None
        if keep_aspect_ratio_policy != "stretch":
            choose = min if keep_aspect_ratio_policy == "not_larger" else max
            scale = choose(size / had for size, had in zip(sizes, old))
            sizes, scales = [math.floor(scale * had + 0.5) for had in old], [scale] * len(old)
    else:
        sizes = [had if scale == 1 else math.floor(had * scale) for had, scale in zip(old, scales)]
    places = [i for i, size in enumerate(sizes) if old[i] != size or pixels == "tf_crop_and_resize"]
    linear = mode == "linear" and pixels in ("half_pixel", "pytorch_half_pixel", "align_corners")
    linear = linear and (pixels != "pytorch_half_pixel" or all(sizes[i] > 1 for i in places))
    doubled = mode == "nearest" and pixels == "asymmetric" and nearest_mode == "floor"
    doubled = doubled and scales is not None and all(float(s).is_integer() for s in scales)
    maps = 3 <= X.ndim <= 5 and all(axes[i] > 1 for i in places) and X.is_floating_point()
    maps = maps and keep_aspect_ratio_policy == "stretch"
    if maps and not antialias and (linear or doubled):
        new, given = list(X.shape[2:]), [1.0] * (X.ndim - 2)
        for i in places:
            new[axes[i] - 2] = sizes[i]
            given[axes[i] - 2] = scales[i] if scales else 1.0
        how = "nearest" if doubled else ["linear", "bilinear", "trilinear"][X.ndim - 3]
        corners = None if doubled else pixels == "align_corners"
        if scales and not corners:
            return F.interpolate(X, scale_factor=given, mode=how, align_corners=corners)
        return F.interpolate(X, new, mode=how, align_corners=corners)
    y, outside = X if X.is_floating_point() else X.float(), None
    for i in places:
        axis, had, size = axes[i], old[i], sizes[i]
        scale = scales[i] if scales else size / had
        ends = (roi[i], roi[i + len(axes)]) if roi and pixels == "tf_crop_and_resize" else (0, 1)
        x = _origins(size, had, scale, pixels, ends, X.device)
        if pixels == "tf_crop_and_resize":
            shape = [-1 if other == axis else 1 for other in range(X.ndim)]
            beyond = ((x < 0) | (x > had - 1)).reshape(shape)
            outside = beyond if outside is None else outside | beyond
        if mode == "nearest":
            y = y.index_select(axis, _nearest(x, nearest_mode).clamp(0, had - 1).long())
            continue
        reach = min(scale, 1.0) if antialias else 1.0
        a = cubic_coeff_a if mode == "cubic" else None
        weights = _weights(x, had, reach, a, bool(exclude_outside and (a or antialias)))
        y = torch.tensordot(y, weights.to(y.dtype), ([axis], [1])).movedim(-1, axis)
    if outside is not None:
        y = torch.where(outside, extrapolation_value, y)
    return y.to(X.dtype)


def _origins(
    size: int, had: int, scale: float, pixels: str, ends: tuple[float, float], device: Any
) -> Tensor:
    """Return where each new pixel is among the old ones."""
    x = torch.arange(size, device=device, dtype=torch.float32)
    start, end = ends
    if pixels == "asymmetric":
        return x / scale
    if pixels == "align_corners":
        return x * (had - 1) / (size - 1) if size > 1 else x
    if pixels == "tf_crop_and_resize":
        if size == 1:
            return x + 0.5 * (start + end) * (had - 1)
        return start * (had - 1) + x * (end - start) * (had - 1) / (size - 1)
    if pixels == "pytorch_half_pixel" and size == 1:
        return x
    offset: Any = 0.0
    if pixels == "half_pixel_symmetric":
        offset = had / 2 * (1 - x.new_tensor(size) / (x.new_tensor(scale) * had))
    return offset + (x + 0.5) / scale - 0.5


def _nearest(x: Tensor, mode: str) -> Tensor:
    if mode == "round_prefer_floor":
        return torch.ceil(x - 0.5)
    if mode == "round_prefer_ceil":
        return torch.floor(x + 0.5)
    return torch.floor(x) if mode == "floor" else torch.ceil(x)


def _weights(x: Tensor, had: int, reach: float, a: float | None, only_inside: bool) -> Tensor:
    """Return the weight of each old pixel in each new one: linear, or cubic (Keys 1981, eq. 4)."""
    n = math.ceil((1 if a is None else 2) / reach)
    places = torch.floor(x).unsqueeze(1) + torch.arange(1 - n, n + 1, device=x.device)
    t = (x.unsqueeze(1) - places).abs() * reach
    if a is None:
        weights = torch.relu(1 - t)
    else:
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((t - 5) * t + 8) * t * a - 4 * a
        weights = torch.where(t <= 1, near, torch.where(t < 2, far, 0.0))
    if only_inside:
        weights = torch.where((places >= 0) & (places < had), weights, 0.0)
    weights = weights / weights.sum(1, keepdim=True)
    empty = torch.zeros(len(x), had, device=x.device)
    return empty.scatter_add(1, places.clamp(0, had - 1).long(), weights)


@operator("RoiAlign", only={"mode": ["avg"]})  # ONNX Runtime calls its own maximum incorrect
def RoiAlign(
    X: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    coordinate_transformation_mode: str | None = None,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
    opset: int = 16,
) -> Tensor:
    """Average over a grid of points in each part of each region; a point is interpolated."""
    pixels = coordinate_transformation_mode or ("half_pixel" if opset >= 16 else "")
    starts, ends = (rois.to(X.dtype) * spatial_scale - 0.5 * (pixels == "half_pixel")).chunk(2, 1)
    lengths = ends - starts if pixels == "half_pixel" else (ends - starts).clamp(min=1)
    columns, rows = (
        _points(starts[:, axis], lengths[:, axis], count, sampling_ratio, X.shape[3 - axis])
        for axis, count in ((0, output_width), (1, output_height))
    )
    found = [X.new_zeros(0, X.shape[1], output_height, output_width)]
    images = X.index_select(0, batch_indices.long())
    found += [(a @ image @ b.mT).unsqueeze(0) for a, image, b in zip(rows, images, columns)]
    return torch.cat(found)


def _points(start: Tensor, length: Tensor, count: int, ratio: int, size: int) -> Tensor:
    """Return the weights of pixels in each part of each region, as (regions, parts, pixels)."""
    numbers = torch.full_like(length, ratio) if ratio else torch.ceil(length / count)
    most = ratio or max(1, int(numbers.max()) if len(numbers) else 1)
    point = torch.arange(most, device=start.device)
    numbers = numbers.clamp(min=0).reshape(-1, 1, 1)
    part = torch.arange(count, device=start.device).reshape(-1, 1)
    share = part + (point + 0.5) / numbers.clamp(min=1)
    places = start.reshape(-1, 1, 1) + share * length.reshape(-1, 1, 1) / count
    counts = (places >= -1) & (places <= size) & (point < numbers)
    away = places.clamp(0, size - 1).unsqueeze(-1) - torch.arange(size, device=start.device)
    weights = torch.where(counts.unsqueeze(-1), torch.relu(1 - away.abs()), 0.0)
    return weights.sum(2) / numbers.clamp(min=1)


@operator("MaxRoiPool")
def MaxRoiPool(X: Tensor, rois: Tensor, pooled_shape: Any, spatial_scale: float = 1.0) -> Tensor:
    """Compute the maximum of each part of each region; zero if it is empty."""
    corners = rois[:, 1:] * spatial_scale
    corners = torch.sign(corners) * torch.floor(corners.abs() + 0.5)  # halves away from zero
    found = [X.new_zeros(0, X.shape[1], *pooled_shape)]
    rows = _parts(corners[:, 1], corners[:, 3], pooled_shape[0], X.shape[2])
    columns = _parts(corners[:, 0], corners[:, 2], pooled_shape[1], X.shape[3])
    images = X.index_select(0, rois[:, 0].long())
    for image, in_rows, in_columns in zip(images, rows, columns):
        # Along rows, then along columns.
        part = torch.where(in_columns, image.unsqueeze(-2), -math.inf).max(-1).values
        part = torch.where(in_rows, part.mT.unsqueeze(-2), -math.inf).max(-1).values.mT
        found.append(torch.where(part == -math.inf, 0.0, part).unsqueeze(0))
    return torch.cat(found)


def _parts(first: Tensor, last: Tensor, count: int, size: int) -> Tensor:
    """Return which pixels are in each part of each region, as (regions, parts, pixels)."""
    first, share = (
        first.reshape(-1, 1, 1),
        (last - first + 1).clamp(min=1).reshape(-1, 1, 1) / count,
    )
    part = torch.arange(count, device=first.device).reshape(-1, 1)
    pixel = torch.arange(size, device=first.device)
    begin, end = torch.floor(part * share) + first, torch.ceil((part + 1) * share) + first
    return (begin <= pixel) & (pixel < end)


@operator("NonMaxSuppression", sizes="max_output_boxes_per_class iou_threshold score_threshold")
def NonMaxSuppression(
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: Any = 0,
    iou_threshold: Any = 0.0,
    score_threshold: Any = None,
    center_point_box: int = 0,
) -> Tensor:
    """Return image, class and index of the boxes that overlap no better one, best first."""
    most, threshold, lowest = (
        one[0] if isinstance(one, list) and one else one
        for one in (max_output_boxes_per_class, iou_threshold, score_threshold)
    )
    one, other = boxes.chunk(2, -1)
    low, high = torch.minimum(one, other), torch.maximum(one, other)
    if center_point_box:
        low, high = one - other / 2, one + other / 2
    found = []
    for n in range(boxes.shape[0]):
        area = (high[n] - low[n]).prod(-1)
        shared = torch.minimum(high[n, :, None], high[n]) - torch.maximum(low[n, :, None], low[n])
        shared = shared.clamp(min=0).prod(-1)
        union = area[:, None] + area - shared
        overlaps = (shared > 0) & (area > 0) & (shared / union > (threshold or 0.0))
        for c, row in enumerate(scores[n]):
            order = row.argsort(descending=True, stable=True)
            order = order if lowest is None else order[row[order] > lowest]
            left, kept = torch.ones_like(row, dtype=torch.bool), 0
            for i in order.tolist():
                if kept == most:
                    break
                if left[i]:
                    found.append([n, c, i])
                    left, kept = left & ~overlaps[i], kept + 1
    return torch.tensor(found, dtype=torch.int64, device=boxes.device).reshape(-1, 3)
