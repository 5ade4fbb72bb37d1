# ruff: noqa: D103 - functions and inputs have the names of ONNX's, which say what they do
"""Random numbers; their seeds mean nothing to PyTorch, whose own is set by torch.manual_seed."""

from typing import Any

import torch
from torch import Tensor

from xfer.graph_module.operators.shapes import device_of
from xfer.graph_module.registry import operator


@operator("RandomNormal")
def RandomNormal(
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float = 0.0,
    shape: Any = None,
    dtype: torch.dtype = torch.float32,
    like: Tensor | None = None,
) -> Tensor:
    return torch.randn(shape, dtype=dtype, device=device_of(like)) * scale + mean


@operator("RandomUniform")
def RandomUniform(
    low: float = 0.0,
    high: float = 1.0,
    seed: float = 0.0,
    shape: Any = None,
    dtype: torch.dtype = torch.float32,
    like: Tensor | None = None,
) -> Tensor:
    return torch.rand(shape, dtype=dtype, device=device_of(like)) * (high - low) + low


@operator("RandomNormalLike")
def RandomNormalLike(
    input: Tensor,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float = 0.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    return torch.randn_like(input, dtype=dtype) * scale + mean


@operator("RandomUniformLike")
def RandomUniformLike(
    input: Tensor,
    low: float = 0.0,
    high: float = 1.0,
    seed: float = 0.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    return torch.rand_like(input, dtype=dtype) * (high - low) + low


@operator("Bernoulli")
def Bernoulli(input: Tensor, dtype: torch.dtype | None = None, seed: float = 0.0) -> Tensor:
    return torch.bernoulli(input).to(dtype or input.dtype)


@operator("Multinomial")
def Multinomial(
    input: Tensor, dtype: torch.dtype = torch.int32, sample_size: int = 1, seed: float = 0.0
) -> Tensor:
    shares = torch.softmax(input, -1)  # they are given as logarithms
    return torch.multinomial(shares, sample_size, replacement=True).to(dtype)
