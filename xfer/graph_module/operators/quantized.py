# ruff: noqa: D103 - functions and inputs have the names of ONNX's, which say what they do
"""Numbers in a few bits: quantization, and products of integers."""

from typing import Any

import torch
from torch import Tensor

from xfer.graph_module.operators.layers import Conv
from xfer.graph_module.registry import operator


def _shaped(parameter: Tensor, x: Tensor, axis: int, block_size: int = 0) -> Tensor:
    """Shape scales or zero points for x: one of all, or one for each entry or block of an axis."""
    if block_size:
        wide = parameter.repeat_interleave(block_size, axis)
        return wide.narrow(axis, 0, x.shape[axis])
    if parameter.numel() == 1:
        return parameter.reshape([])
    shape = [1] * x.ndim
    shape[axis] = parameter.numel()
    return parameter.reshape(shape)


def _rounded(x: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    limits, x = torch.iinfo(dtype), torch.round(x)
    x = x if zero is None else x + zero.to(x.dtype)
    return torch.clamp(x, limits.min, limits.max).to(dtype)


@operator("QuantizeLinear")
def QuantizeLinear(
    x: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor | None = None,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: torch.dtype | None = None,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    dtype = output_dtype or (torch.uint8 if y_zero_point is None else y_zero_point.dtype)
    zero = None if y_zero_point is None else _shaped(y_zero_point, x, axis, block_size)
    return _rounded(x / _shaped(y_scale, x, axis, block_size), zero, dtype)


@operator("DequantizeLinear")
def DequantizeLinear(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor | None = None,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: torch.dtype | None = None,
) -> Tensor:
    real = x.to(x_scale.dtype)
    if x_zero_point is not None:
        real = real - _shaped(x_zero_point, x, axis, block_size).to(x_scale.dtype)
    return real * _shaped(x_scale, x, axis, block_size)


@operator("DynamicQuantizeLinear")
def DynamicQuantizeLinear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round(torch.clamp(-low / scale, 0, 255))
    return _rounded(x / scale, zero, torch.uint8), scale, zero.to(torch.uint8)


def _centred(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """Return integers less their zero point, as double precision holds them: without error."""
    return x.double() if zero is None else x.double() - _shaped(zero, x, axis).double()


@operator("MatMulInteger")
def MatMulInteger(
    A: Tensor, B: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    return (_centred(A, a_zero_point, A.ndim - 2) @ _centred(B, b_zero_point, -1)).int()


@operator("QLinearMatMul")
def QLinearMatMul(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    product = _centred(a, a_zero_point, a.ndim - 2) @ _centred(b, b_zero_point, -1)
    scale = (
        _shaped(a_scale, a, a.ndim - 2) * _shaped(b_scale, b, -1) / _shaped(y_scale, product, -2)
    )
    return _rounded(product.float() * scale, y_zero_point, y_zero_point.dtype)


@operator("ConvInteger")
def ConvInteger(
    x: Tensor,
    w: Tensor,
    x_zero_point: Tensor | None = None,
    w_zero_point: Tensor | None = None,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
) -> Tensor:
    settings = {"auto_pad": auto_pad, "dilations": dilations, "group": group}
    centred = _centred(x, x_zero_point, 1), _centred(w, w_zero_point, 0)
    return Conv(*centred, pads=pads, strides=strides, **settings).int()


@operator("QLinearConv")
def QLinearConv(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    B: Tensor | None = None,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
) -> Tensor:
    settings = {"auto_pad": auto_pad, "dilations": dilations, "group": group}
    centred = _centred(x, x_zero_point, 1), _centred(w, w_zero_point, 0)
    bias = None if B is None else B.double()
    total = Conv(*centred, bias, pads=pads, strides=strides, **settings)
    scale = x_scale * _shaped(w_scale, total, 1) / y_scale
    return _rounded(total.float() * scale, y_zero_point, y_zero_point.dtype)
