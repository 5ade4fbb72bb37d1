# ruff: noqa: D103 - functions and inputs have the names of ONNX's, which say what they do
"""Normalization, softmax and attention."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xfer.graph_module.registry import operator


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
    is_test: int = 0,
    training: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise channels; in training by the batch, whose statistics the running ones follow."""
    X = X.to(scale.dtype)
    if not training and not training_mode:
        y = F.batch_norm(X, input_mean, input_var, scale, B, False, 0.0, epsilon)
        return y, input_mean, input_var
    mean, variance = torch.zeros_like(input_mean), torch.zeros_like(input_var)
    # Not F.batch_norm, which refuses one number per channel.
    y = torch.batch_norm(X, scale, B, mean, variance, True, 1.0, epsilon, True)
    count = math.prod((X.shape[0], *X.shape[2:]))
    # The variance is the batch's own, as in MXNet and ONNX, and not PyTorch's estimate.
    variance = variance * ((count - 1) / count) if count > 1 else torch.zeros_like(input_var)
    mean = torch.lerp(mean, input_mean, momentum)
    variance = torch.lerp(variance, input_var, momentum)
    if training:
        input_mean.copy_(mean)
        input_var.copy_(variance)
    return y, mean, variance


@operator("InstanceNormalization")
def InstanceNormalization(input: Tensor, scale: Tensor, B: Tensor, epsilon: float = 1e-5) -> Tensor:
    # Not F.instance_norm, which refuses maps of one pixel.
    x = input.to(scale.dtype)
    return torch.instance_norm(x, scale, B, None, None, True, 0.0, epsilon, True)


@operator("GroupNormalization")
def GroupNormalization(
    X: Tensor,
    scale: Tensor,
    bias: Tensor,
    epsilon: float = 1e-5,
    num_groups: int = 1,
    stash_type: int = 1,
    opset: int = 21,
) -> Tensor:
    if opset < 21:  # one number for each group
        scale, bias = (one.repeat_interleave(X.shape[1] // num_groups) for one in (scale, bias))
    return F.group_norm(X.to(scale.dtype), num_groups, scale, bias, epsilon)


@operator("LayerNormalization")
def LayerNormalization(
    X: Tensor,
    Scale: Tensor,
    B: Tensor | None = None,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    n_outputs: int = 1,
) -> tuple[Tensor, ...]:
    shape, X = X.shape[axis:], X.to(Scale.dtype)
    same = Scale.shape == shape and (B is None or B.shape == shape)
    y, mean, inverse = torch.native_layer_norm(
        X, shape, *((Scale, B) if same else (None, None)), epsilon
    )
    if not same:
        y = y * Scale if B is None else y * Scale + B
    return (y, mean, inverse)[:n_outputs]


@operator("RMSNormalization", "SimplifiedLayerNormalization")
def RMSNormalization(
    X: Tensor, scale: Tensor, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    return F.rms_norm(X.to(scale.dtype), X.shape[axis:], None, epsilon) * scale


@operator("com.microsoft::SkipLayerNormalization")
def SkipLayerNormalization(
    input: Tensor,
    skip: Tensor,
    gamma: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    epsilon: float = 1e-12,
) -> tuple[Tensor, None, None, Tensor]:
    x = input + skip if bias is None else input + skip + bias
    return F.layer_norm(x.to(gamma.dtype), gamma.shape, gamma, beta, epsilon), None, None, x


@operator("LRN")
def LRN(
    X: Tensor, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int = 1
) -> Tensor:
    squares = F.pad(X * X, [0, 0] * (X.ndim - 2) + [(size - 1) // 2, size // 2])
    return X / (bias + alpha * squares.unfold(1, size, 1).mean(-1)) ** beta


@operator("LpNormalization")
def LpNormalization(input: Tensor, axis: int = -1, p: int = 2) -> Tensor:
    length = torch.linalg.vector_norm(input, p, axis, keepdim=True)
    return torch.where(length == 0, torch.zeros_like(input), input / length)


@operator("MeanVarianceNormalization")
def MeanVarianceNormalization(X: Tensor, axes: Any = (0, 2, 3)) -> Tensor:
    variance, mean = torch.var_mean(X, tuple(axes), correction=0, keepdim=True)
    return (X - mean) / (variance.sqrt() + 1e-9)


def _along(name: str, function: Any) -> None:
    @operator(name)
    def compute(input: Tensor, axis: int | None = None, opset: int = 13) -> Tensor:
        if opset >= 13:
            return function(input, dim=-1 if axis is None else axis)
        # Before, all axes from the given one on counted as one.
        flat = input.flatten(1 if axis is None else axis % input.ndim)
        return function(flat, dim=-1).reshape(input.shape)


def _hardmax(x: Tensor, dim: int) -> Tensor:
    return torch.zeros_like(x).scatter(dim, x.argmax(dim, keepdim=True), 1)


_along("Softmax", F.softmax)
_along("LogSoftmax", F.log_softmax)
_along("Hardmax", _hardmax)


@operator("Attention")
def Attention(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    attn_mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    nonpad_kv_seqlen: Tensor | None = None,
    is_causal: int = 0,
    kv_num_heads: int = 0,
    q_num_heads: int = 0,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int = 0,
    n_outputs: int = 1,
) -> tuple[Any, ...]:
    """Attend with heads in an axis of their own, or side by side in the last axis."""
    joined = Q.ndim == 3
    if joined:
        heads = (q_num_heads, kv_num_heads, kv_num_heads)
        Q, K, V = (x.unflatten(-1, (n, -1)).transpose(1, 2) for x, n in zip((Q, K, V), heads))
    if past_key is not None and past_value is not None:
        K, V = torch.cat([past_key, K], 2), torch.cat([past_value, V], 2)
    queries, keys, present = Q.shape[2], K.shape[2], (K, V)
    mask = attn_mask
    if mask is not None:  # it may be too short
        missing = keys - mask.shape[-1]
        if missing > 0:
            mask = F.pad(mask, [0, missing], value=False if mask.dtype == torch.bool else -math.inf)
    if nonpad_kv_seqlen is not None:
        inside = torch.arange(keys, device=Q.device) < nonpad_kv_seqlen.reshape(-1, 1, 1, 1)
        mask = _both(mask, inside, Q.dtype)
    if is_causal:
        place = (
            torch.arange(keys, device=Q.device) - torch.arange(queries, device=Q.device)[:, None]
        )
        before: Any = 0 if past_key is None else past_key.shape[2]
        if nonpad_kv_seqlen is not None:
            before = (nonpad_kv_seqlen - queries).reshape(-1, 1, 1, 1)
        mask = _both(mask, place <= before, Q.dtype)
    if K.shape[1] != Q.shape[1]:  # each serves several queries
        K, V = (x.repeat_interleave(Q.shape[1] // x.shape[1], 1) for x in (K, V))
    scores = None
    if softcap or n_outputs > 3:
        y, scores = _attend(Q, K, V, mask, scale, softcap, qk_matmul_output_mode)
    else:
        y = F.scaled_dot_product_attention(Q, K, V, mask, scale=scale)
    y = y.transpose(1, 2).flatten(2) if joined else y
    return (y, *present, scores)[:n_outputs]


def _both(mask: Tensor | None, allowed: Tensor, dtype: torch.dtype) -> Tensor:
    if mask is None:
        return allowed
    if mask.dtype == torch.bool:
        return mask & allowed
    return torch.where(allowed, mask.to(dtype), -math.inf)


def _attend(
    Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None, scale: float | None, cap: float, mode: int
) -> tuple[Tensor, Tensor]:
    product = Q @ K.mT * (Q.shape[-1] ** -0.5 if scale is None else scale)
    capped = cap * torch.tanh(product / cap) if cap else product
    if mask is None:
        masked = capped
    elif mask.dtype == torch.bool:
        masked = torch.where(mask, capped, -math.inf)
    else:
        masked = capped + mask
    shares = torch.softmax(masked, -1)
    # A query that nothing is allowed for gets zeros.
    shares = torch.where(torch.isnan(shares), 0.0, shares) if mask is not None else shares
    return shares @ V, (product, capped, masked, shares)[mode]


@operator("RotaryEmbedding")
def RotaryEmbedding(
    X: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    position_ids: Tensor | None = None,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    joined = X.ndim == 3
    x = X.unflatten(-1, (num_heads, -1)) if joined else X.transpose(1, 2)
    size = rotary_embedding_dim or x.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    caches = (c if position_ids is None else c[position_ids] for c in (cos_cache, sin_cache))
    cos, sin = (c[..., : size // 2].unsqueeze(2) for c in caches)
    if interleaved:
        one, other = turned[..., ::2], turned[..., 1::2]
    else:
        one, other = turned.chunk(2, -1)
    pair = one * cos - other * sin, one * sin + other * cos
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    y = torch.cat([turned, rest], -1)
    return y.flatten(2) if joined else y.transpose(1, 2)
