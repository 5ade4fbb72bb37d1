"""Convolutions, dense layers and activations."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor, describe_shape
from xfer.checkpoint.operators.registry import Attributes, Call, operator


@operator("Convolution", "Convolution_v1", "_npx_convolution")
def convolution(op: Call, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    """Convolve along one, two or three axes."""
    kernel, settings = read_filters(op, weight)
    agree(x, 1, weight, 1, settings["group"])
    _check_fit(x, kernel, settings)
    pads = [*settings.pop("pads")] * 2
    return op("Conv", x, weight, *bias, pads=pads, **settings)


@operator("Deconvolution", "_npx_deconvolution")
def deconvolution(op: Call, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    """Compute the transpose of a convolution."""
    kernel, settings = read_filters(op, weight)
    agree(x, 1, weight, 0)
    begins = ends = settings.pop("pads")
    target = op.ints("target_shape", ()) or ()
    extra = op.ints("adj", ()) or None
    if any(target):
        if not all(target):
            raise op.unsupported(f"target_shape={target}")
        # What exceeds the target is cut off, the larger half at the front.
        sizes = zip(x.shape[2:], target, kernel, settings["strides"], settings["dilations"])
        cuts = [s * (size - 1) + d * (k - 1) + 1 - aim for size, aim, k, s, d in sizes]
        if min(cuts) < 0:
            raise ValueError(f"target_shape={target} is larger than all of the output")
        begins, ends, extra = [(cut + 1) // 2 for cut in cuts], [cut // 2 for cut in cuts], None
    pads = [*begins, *ends]
    return op("ConvTranspose", x, weight, *bias, pads=pads, output_padding=extra, **settings)


def read_filters(op: Call, weight: Tensor) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Return the kernel of a convolution, and its attributes in ONNX."""
    layout = op.text("layout", None)
    if layout and layout[1] != "C":
        # MXNet itself runs these only on GPUs.
        raise op.unsupported(f"layout={layout!r}")
    kernel = op.ints("kernel")
    if weight.dims is not None and tuple(weight.dims[2:]) != kernel:
        raise ValueError(
            f"kernel={kernel} does not go with a weight of {describe_shape(weight.dims)}"
        )
    ones = (1,) * len(kernel)
    return kernel, {
        "kernel_shape": kernel,
        "strides": op.ints("stride", None) or ones,
        "dilations": op.ints("dilate", None) or ones,
        "pads": op.ints("pad", None) or (0,) * len(kernel),
        "group": op.int("num_group", 1),
    }


def agree(x: Tensor, axis: int, parameter: Tensor, place: int = 0, times: int = 1) -> None:
    """Refuse data whose size does not match a parameter; ONNX's inference does not check it."""
    if x.dims is None or parameter.dims is None:
        return
    found, meant = x.dims[axis : axis + 1], parameter.dims[place : place + 1]
    if None in (*found, *meant):
        return
    if not found or tuple(found) != tuple(size * times for size in meant):
        data, shape = describe_shape(x.dims), describe_shape(parameter.dims)
        raise ValueError(f"data of {data} does not go with a parameter of {shape}")


def _check_fit(x: Tensor, kernel: tuple[int, ...], settings: dict[str, Any]) -> None:
    for size, k, p, d in zip((x.dims or ())[2:], kernel, settings["pads"], settings["dilations"]):
        if size is not None and size + 2 * p < d * (k - 1) + 1:
            raise ValueError(f"kernel={kernel} is larger than data of {describe_shape(x.dims)}")


@operator("_contrib_DeformableConvolution")
def deformable_convolution(
    op: Call, x: Tensor, offset: Tensor, weight: Tensor, *bias: Tensor
) -> Tensor:
    """Convolve with filters whose points are moved by offsets.

    A point before the first pixel counts as zero in MXNet, and one up to a pixel behind the last
    counts as the last. ONNX interpolates both with zero, so such points are moved.
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
    return _convolve(op, x, weight, offset, bias)


@operator("_contrib_ModulatedDeformableConvolution")
def modulated_deformable_convolution(
    op: Call, x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *bias: Tensor
) -> Tensor:
    """Convolve with filters whose points are moved by offsets and weighted by a mask."""
    return _convolve(op, x, weight, offset, bias, mask)


def _grid(
    shape: tuple[int, ...], kernel: tuple[int, ...], settings: dict[str, Any], groups: int
) -> np.ndarray:
    """Return the rows and columns of the points before they are moved."""
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


def _convolve(
    op: Call,
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Sequence[Tensor],
    mask: Tensor | None = None,
) -> Tensor:
    _, settings = read_filters(op, weight)
    agree(x, 1, weight, 1, settings["group"])
    pads, groups = [*settings.pop("pads")] * 2, op.int("num_deformable_group", 1)
    parts = [offset, *(bias or (None,)), *([mask] if mask else [])]
    return op("DeformConv", x, weight, *parts, pads=pads, offset_group=groups, **settings)


@operator("FullyConnected", "_npx_fully_connected", "_sparse_FullyConnected")
def fully_connected(op: Call, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    """Multiply by a matrix and add a vector."""
    flatten = op.flag("flatten", True)
    if flatten or x.rank == 2:
        rows = x if x.rank == 2 else op("Flatten", x, axis=1)
        return op("Gemm", rows, weight, *bias, transB=1)
    product = op("MatMul", x, op("Transpose", weight, perm=(1, 0)))
    return op("Add", product, *bias) if bias else product


@operator("Activation", "_npx_activation")
def activation(op: Call, x: Tensor) -> Tensor:
    """Apply the named function to every element."""
    kind = op.text("act_type")
    if kind == "softrelu":
        # Four times faster than ONNX Runtime's Softplus.
        small = op("Exp", op("Neg", op("Abs", x)))
        return op("Add", op("Relu", x), op("Log", op("Add", small, op.constant(1.0))))
    kinds = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softsign": "Softsign"}
    if kind not in kinds:
        raise op.unsupported(f"act_type={kind!r}")
    return op(kinds[kind], x)


def _with_mask(attributes: Attributes) -> tuple[str, ...]:
    """Name the outputs; with random slopes there is a second one, unset in inference."""
    random = attributes.text("act_type", "leaky") == "rrelu"
    return ("output", "mask") if random else ("output",)


@operator("LeakyReLU", "_npx_leaky_relu", outputs=_with_mask)
def leaky_relu(op: Call, x: Tensor, *gamma: Tensor) -> Tensor:
    """Scale negative values instead of cutting them off."""
    kind = op.text("act_type", "leaky")
    if kind == "leaky":
        return op("LeakyRelu", x, alpha=op.float("slope", 0.25))
    if kind == "rrelu":
        # The slope is random only in training.
        mean = (op.float("lower_bound", 0.125) + op.float("upper_bound", 0.334)) / 2
        return op("LeakyRelu", x, alpha=mean)
    if kind == "elu":
        return op("Elu", x, alpha=op.float("slope", 0.25))
    if kind == "prelu":
        return _prelu(op, x, *gamma)
    kinds = {"selu": "Selu", "gelu": "Gelu"}
    if kind not in kinds:
        raise op.unsupported(f"act_type={kind!r}")
    return op(kinds[kind], x)


def _prelu(op: Call, x: Tensor, gamma: Tensor) -> Tensor:
    if gamma.value is not None and gamma.value.size == 1:
        return op("LeakyRelu", x, alpha=gamma.value.item())
    # The last axis of the slopes is the channel, the second axis of the data.
    leading = min(x.rank, 2)
    pairs = zip(reversed(gamma.shape), reversed(x.dims[:leading]))
    if len(gamma.shape) > leading or any(size not in (1, meant) for size, meant in pairs):
        shapes = f"{describe_shape(gamma.dims)} do not go with data of {describe_shape(x.dims)}"
        raise ValueError(f"slopes of {shapes}")
    slopes = op.reshape(gamma, [*gamma.shape, *[1] * (x.rank - leading)])
    if gamma.value is None or (gamma.value > 1).any():
        return op("PRelu", x, slopes)
    return op("Max", x, op("Mul", x, slopes))  # eight times faster in ONNX Runtime
