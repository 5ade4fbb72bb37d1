# ruff: noqa: D103 - functions and inputs have the names of ONNX's, which say what they do
"""Convolutions, pooling and dropout."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xfer.graph_module.registry import operator


def pad_ends(x: Tensor, begins: Any, ends: Any, value: float = 0.0) -> Tensor:
    """Pad the last axes before and after; where a width is negative, cut."""
    widths = [w for pair in zip(reversed(begins), reversed(ends)) for w in pair]
    return F.pad(x, widths, value=value) if any(widths) else x


def _pads(
    x: Tensor, extents: list[int], strides: list[int], auto_pad: str, pads: Any
) -> tuple[list[int], list[int]]:
    """Return the padding before and after, for windows of some extents."""
    n = len(extents)
    if not auto_pad.startswith("SAME"):
        return (list(pads[:n]), list(pads[n:])) if pads else ([0] * n, [0] * n)
    steps = zip(x.shape[2:], strides, extents)
    more = [max((-(-size // s) - 1) * s + k - size, 0) for size, s, k in steps]
    small, large = [m // 2 for m in more], [m - m // 2 for m in more]
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


@operator("Conv")
def Conv(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
) -> Tensor:
    n, X = W.ndim - 2, X.to(W.dtype)
    strides, dilations = strides or [1] * n, dilations or [1] * n
    extents = [d * (k - 1) + 1 for k, d in zip(W.shape[2:], dilations)]
    begins, ends = _pads(X, extents, strides, auto_pad, pads)
    if begins != ends:
        X, begins = pad_ends(X, begins, ends), [0] * n
    if n == 2 and group == 1 and 1 < W.shape[3] == X.shape[3] and not begins[1]:
        # Filters as wide as the data, which texts have, need no second axis. That is how they are
        # computed 1.6 times as fast, and their gradients 2.6 times.
        X, W = X.transpose(2, 3).flatten(1, 2), W.transpose(2, 3).flatten(1, 2)
        return F.conv1d(X, W, B, strides[:1], begins[:1], dilations[:1]).unsqueeze(3)
    return getattr(F, f"conv{n}d")(X, W, B, strides, begins, dilations, group)


@operator("ConvTranspose")
def ConvTranspose(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    output_padding: Any = None,
    output_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
) -> Tensor:
    n, X = W.ndim - 2, X.to(W.dtype)
    strides, dilations = strides or [1] * n, dilations or [1] * n
    extra = output_padding or [0] * n
    begins, ends = (pads[:n], pads[n:]) if pads else ([0] * n, [0] * n)
    if auto_pad.startswith("SAME") and not output_shape:
        output_shape = [size * s for size, s in zip(X.shape[2:], strides)]
    if output_shape:
        kernel = zip(X.shape[2:], strides, W.shape[2:], dilations, extra, output_shape[-n:])
        cuts = [s * (size - 1) + d * (k - 1) + 1 + e - o for size, s, k, d, e, o in kernel]
        small, large = [cut // 2 for cut in cuts], [cut - cut // 2 for cut in cuts]
        begins, ends = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    convolve = getattr(F, f"conv_transpose{n}d")
    fits = all(e < max(s, d) for e, s, d in zip(extra, strides, dilations))
    if list(begins) == list(ends) and fits:
        return convolve(X, W, B, strides, begins, extra, group, dilations)
    y = convolve(X, W, None, strides, 0, 0, group, dilations)
    y = pad_ends(y, [-cut for cut in begins], [e - cut for e, cut in zip(extra, ends)])
    return y if B is None else y + B.reshape(-1, *[1] * n)


@operator("DeformConv")
def DeformConv(
    X: Tensor,
    W: Tensor,
    offset: Tensor,
    B: Tensor | None = None,
    mask: Tensor | None = None,
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    offset_group: int = 1,
    pads: Any = None,
    strides: Any = None,
) -> Tensor:
    """Convolve with filters whose points are moved by offsets and weighted by a mask."""
    strides, dilations, pads = strides or [1, 1], dilations or [1, 1], pads or [0] * 4
    n, channels, *sizes = X.shape
    kernel, (rows, columns) = list(W.shape[2:]), offset.shape[2:]
    points = math.prod(kernel)
    X, offset = X.to(W.dtype), offset.to(W.dtype)
    # Where each point of the kernel is in the image, for each place of the output.
    moves = offset.reshape(n * offset_group, points, 2, rows, columns)
    places = []
    for axis, (size, k) in enumerate(zip(sizes, kernel)):
        point = torch.arange(k, device=X.device) * dilations[axis] - pads[axis]
        start = torch.arange(offset.shape[2 + axis], device=X.device) * strides[axis]
        point = point.reshape(-1, 1) if axis == 0 else point.reshape(1, -1)
        start = start.reshape(-1, 1) if axis == 0 else start.reshape(1, -1)
        plain = point.expand(kernel).reshape(points, 1, 1) + start.expand(rows, columns)
        # From pixels to the coordinates of grid_sample.
        places.append((2 * (plain + moves[:, :, axis]) + 1) / size - 1)
    grid = torch.stack(places[::-1], -1).reshape(n * offset_group, points * rows, columns, 2)
    images = X.reshape(n * offset_group, channels // offset_group, *sizes)
    found = F.grid_sample(images, grid, align_corners=False)
    found = found.reshape(n, offset_group, channels // offset_group, points, rows, columns)
    if mask is not None:
        found = found * mask.to(W.dtype).reshape(n, offset_group, 1, points, rows, columns)
    found = found.reshape(n, group, channels // group * points, rows * columns)
    y = (W.reshape(group, W.shape[0] // group, -1) @ found).reshape(n, -1, rows, columns)
    return y if B is None else y + B.reshape(-1, 1, 1)


def _windows(x: Tensor, kernel: Any, strides: Any, dilations: Any) -> Tensor:
    """View the windows of the last axes; each axis of the kernel is a new last axis."""
    n = len(kernel)
    for i, (k, s, d) in enumerate(zip(kernel, strides, dilations)):
        x = x.unfold(2 + i, d * (k - 1) + 1, s)[..., ::d]
    return x.flatten(-n)


def _window_pads(
    X: Tensor, kernel: Any, strides: Any, dilations: Any, auto_pad: str, pads: Any, ceil_mode: int
) -> tuple[list[int], list[int], list[int]]:
    """Return the padding before and after, and how far the last windows reach beyond it."""
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilations)]
    begins, ends = _pads(X, extents, strides, auto_pad, pads)
    beyond = [0] * len(kernel)
    if ceil_mode and not auto_pad.startswith("SAME"):
        for i, (k, s) in enumerate(zip(extents, strides)):
            size = X.shape[2 + i] + begins[i] + ends[i]
            last = -(-(size - k) // s)
            # A window has to begin within the data or the padding before it.
            last -= last * s >= X.shape[2 + i] + begins[i]
            beyond[i] = max(last * s + k - size, 0)
    return begins, ends, beyond


def _is_plain(begins: Any, ends: Any, kernel: Any) -> bool:
    """Return whether PyTorch pads so, too."""
    return begins == ends and all(2 * p <= k for p, k in zip(begins, kernel))


@operator("MaxPool")
def MaxPool(
    X: Tensor,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Any = None,
    kernel_shape: Any = None,
    pads: Any = None,
    storage_order: int = 0,
    strides: Any = None,
    n_outputs: int = 1,
) -> Any:
    n, dtype = len(kernel_shape), X.dtype
    strides, dilations = strides or [1] * n, dilations or [1] * n
    pool, where = getattr(F, f"max_pool{n}d"), (kernel_shape, strides, dilations)
    X = X if X.is_floating_point() else X.float()
    given = _pads(X, [0] * n, strides, "NOTSET", pads)
    plain = not auto_pad.startswith("SAME") and _is_plain(*given, kernel_shape)
    if plain and n_outputs == 1:
        return pool(X, kernel_shape, strides, given[0], dilations, bool(ceil_mode)).to(dtype)
    begins, ends, beyond = _window_pads(X, *where, auto_pad, pads, ceil_mode)
    ends = [e + more for e, more in zip(ends, beyond)]
    padded = pad_ends(X, begins, ends, -math.inf)
    if n_outputs == 1:
        return pool(padded, kernel_shape, strides, 0, dilations).to(dtype)
    y, index = pool(padded, kernel_shape, strides, 0, dilations, return_indices=True)
    # From places in padded maps to places in the whole tensor.
    place, step, order = torch.zeros_like(index), 1, list(range(n))
    for i in reversed(order):
        within = index % padded.shape[2 + i] - begins[i]
        index = index // padded.shape[2 + i]
        step = math.prod(X.shape[2 : 2 + i] if storage_order else X.shape[3 + i :])
        place = place + within * step
    maps = torch.arange(math.prod(X.shape[:2]), device=X.device) * math.prod(X.shape[2:])
    return y.to(dtype), place + maps.reshape(*X.shape[:2], *[1] * n)


@operator("MaxUnpool", sizes="output_shape")
def MaxUnpool(
    X: Tensor,
    I: Tensor,  # noqa: E741 - ONNX's name
    output_shape: Any = None,
    kernel_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
) -> Tensor:
    n = len(kernel_shape)
    strides, pads = strides or [1] * n, pads or [0] * 2 * n
    sizes = [
        (size - 1) * s + k - pads[i] - pads[i + n]
        for i, (size, s, k) in enumerate(zip(X.shape[2:], strides, kernel_shape))
    ]
    count = math.prod((*X.shape[:2], *sizes))
    flat = torch.zeros(count, dtype=X.dtype, device=X.device)
    y = flat.scatter(0, I.flatten(), X.flatten()).reshape(*X.shape[:2], *sizes)
    return (
        pad_ends(y, [0] * n, [a - b for a, b in zip(output_shape[2:], sizes)])
        if output_shape
        else y
    )


@operator("AveragePool")
def AveragePool(
    X: Tensor,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Any = None,
    kernel_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
) -> Tensor:
    n = len(kernel_shape)
    strides, dilations = strides or [1] * n, dilations or [1] * n
    begins, ends = _pads(X, kernel_shape, strides, auto_pad, pads)
    if _is_plain(begins, ends, kernel_shape) and dilations == [1] * n:
        pool = getattr(F, f"avg_pool{n}d")
        return pool(X, kernel_shape, strides, begins, bool(ceil_mode), bool(count_include_pad))
    where = kernel_shape, strides, dilations
    begins, ends, beyond = _window_pads(X, *where, auto_pad, pads, ceil_mode)
    counted = torch.ones_like(X[:1, :1])
    if count_include_pad:
        X, counted = pad_ends(X, begins, ends), pad_ends(counted, begins, ends, 1.0)
        begins = ends = [0] * n
    ends = [e + more for e, more in zip(ends, beyond)]
    sums, counts = (_windows(pad_ends(one, begins, ends), *where).sum(-1) for one in (X, counted))
    return sums / counts


@operator("LpPool")
def LpPool(
    X: Tensor,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Any = None,
    kernel_shape: Any = None,
    p: int = 2,
    pads: Any = None,
    strides: Any = None,
) -> Tensor:
    n = len(kernel_shape)
    where = kernel_shape, strides or [1] * n, dilations or [1] * n
    begins, ends, beyond = _window_pads(X, *where, auto_pad, pads, ceil_mode)
    X = pad_ends(X, begins, [e + more for e, more in zip(ends, beyond)])
    return torch.linalg.vector_norm(_windows(X, *where), p, -1)


@operator("GlobalAveragePool")
def GlobalAveragePool(X: Tensor) -> Tensor:
    return X.mean(list(range(2, X.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def GlobalMaxPool(X: Tensor) -> Tensor:
    # Not amax: of equal maxima, the first gets all of the gradient, as in MXNet.
    return X.flatten(2).max(-1).values.reshape(*X.shape[:2], *[1] * (X.ndim - 2))


@operator("GlobalLpPool")
def GlobalLpPool(X: Tensor, p: int = 2) -> Tensor:
    return torch.linalg.vector_norm(X, p, list(range(2, X.ndim)), keepdim=True)


@operator("Dropout", numbers="ratio")
def Dropout(
    data: Tensor,
    ratio: Any = 0.5,
    training_mode: Any = None,
    seed: int = 0,
    training: bool = False,
    n_outputs: int = 1,
) -> Any:
    """Drop a share of the numbers in training; a second output tells which are kept."""
    ratio = ratio.item() if isinstance(ratio, Tensor) else 0.5 if ratio is None else ratio
    if n_outputs == 1:
        return F.dropout(data, ratio, training)
    if not training:
        return data, torch.ones_like(data, dtype=torch.bool)
    kept = F.dropout(torch.ones_like(data), ratio)
    return data * kept, kept != 0
