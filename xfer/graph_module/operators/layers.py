# ruff: noqa: D103 - functions and inputs have the names of ONNX's, which say what they do
"""Convolutions, pooling, normalization, activations and dropout."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xfer.graph_module.registry import operator


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
    n = W.ndim - 2
    strides, dilations = strides or [1] * n, dilations or [1] * n
    sizes = [d * (k - 1) + 1 for k, d in zip(W.shape[2:], dilations)]
    X, padding = pad_windows(X.to(W.dtype), sizes, strides, auto_pad, pads)
    return getattr(F, f"conv{n}d")(X, W, B, strides, padding, dilations, group)


def pad_windows(
    x: Tensor, sizes: list[int], strides: list[int], auto_pad: str, pads: Any, value: float = 0.0
) -> tuple[Tensor, list[int]]:
    """Return data and the padding of both ends that is left to do, for windows of some sizes."""
    n = len(sizes)
    begins, ends = (list(pads[:n]), list(pads[n:])) if pads else ([0] * n, [0] * n)
    if auto_pad.startswith("SAME"):
        steps = zip(x.shape[2:], strides, sizes)
        more = [max((-(-size // s) - 1) * s + k - size, 0) for size, s, k in steps]
        small, large = [m // 2 for m in more], [m - m // 2 for m in more]
        begins, ends = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    if begins == ends:
        return x, begins
    widths = [w for pair in zip(reversed(begins), reversed(ends)) for w in pair]
    return F.pad(x, widths, value=value), [0] * n


@operator("BatchNormalization")
def BatchNormalization(
    X: Tensor,
    scale: Tensor,
    B: Tensor,
    input_mean: Tensor,
    input_var: Tensor,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
    training: bool = False,
) -> Tensor:
    """Normalise channels; in training by the batch, whose statistics the running ones follow."""
    if not training:
        return F.batch_norm(X, input_mean, input_var, scale, B, False, 0.0, epsilon)
    y, mean, inverse = torch.native_batch_norm(X, scale, B, None, None, True, 0.0, epsilon)
    with torch.no_grad():
        # The variance is the batch's own, as in MXNet and ONNX, not PyTorch's n / (n - 1) of it.
        input_mean.lerp_(mean.to(input_mean.dtype), 1 - momentum)
        input_var.lerp_((inverse**-2 - epsilon).to(input_var.dtype), 1 - momentum)
    return y


@operator("Dropout", sizes="ratio training_mode")
def Dropout(
    data: Tensor, ratio: Any = 0.5, training_mode: Any = None, seed: int = 0, training: bool = False
) -> tuple[Tensor, Tensor]:
    """Drop a share of the numbers in training; there is no mask."""
    return F.dropout(data, ratio, training), torch.ones_like(data, dtype=torch.bool)


@operator("Relu")
def Relu(X: Tensor) -> Tensor:
    return F.relu(X)


@operator("Sigmoid")
def Sigmoid(X: Tensor) -> Tensor:
    return torch.sigmoid(X)


@operator("Tanh")
def Tanh(X: Tensor) -> Tensor:
    return torch.tanh(X)


@operator("Softmax")
def Softmax(input: Tensor, axis: int | None = None, opset: int = 13) -> Tensor:
    return _along(F.softmax, input, axis, opset)


@operator("LogSoftmax")
def LogSoftmax(input: Tensor, axis: int | None = None, opset: int = 13) -> Tensor:
    return _along(F.log_softmax, input, axis, opset)


def _along(function: Any, x: Tensor, axis: int | None, opset: int) -> Tensor:
    if opset >= 13:
        return function(x, dim=-1 if axis is None else axis)
    # Before, all axes from the given one on counted as one.
    return function(x.flatten(1 if axis is None else axis), dim=-1).reshape(x.shape)


@operator("GlobalAveragePool")
def GlobalAveragePool(X: Tensor) -> Tensor:
    return X.mean(list(range(2, X.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def GlobalMaxPool(X: Tensor) -> Tensor:
    return X.amax(list(range(2, X.ndim)), keepdim=True)


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
) -> Tensor:
    n = len(kernel_shape)
    strides, dilations = strides or [1] * n, dilations or [1] * n
    sizes = [d * (k - 1) + 1 for k, d in zip(kernel_shape, dilations)]
    X, padding = pad_windows(X, sizes, strides, auto_pad, pads, -torch.inf)
    pool = getattr(F, f"max_pool{n}d")
    return pool(X, kernel_shape, strides, padding, dilations, bool(ceil_mode))


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
    strides = strides or [1] * n
    X, padding = pad_windows(X, kernel_shape, strides, auto_pad, pads)
    pool = getattr(F, f"avg_pool{n}d")
    return pool(X, kernel_shape, strides, padding, bool(ceil_mode), bool(count_include_pad))
