"""Maps and tokens reduced to columns: for NumPy arrays and torch tensors."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: The first three after "flatten" are for maps (n, channels, ...), the last two for tokens
#: (n, tokens, features).
POOLINGS = ("flatten", "mean", "max", "mean+max", "first_token", "masked_mean")


def check_poolings(pooling: str | Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Return the pooling of each layer; layers that a dict leaves out are flattened."""
    by_layer = dict(pooling) if isinstance(pooling, Mapping) else dict.fromkeys(names, pooling)
    unknown = [name for name in by_layer if name not in names]
    if unknown:
        raise ValueError(
            f"pooling names {', '.join(map(repr, unknown))}; the layers asked for are "
            f"{', '.join(names)}"
        )
    for one in by_layer.values():
        if not isinstance(one, str) or one not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {one!r}")
    return [by_layer.get(name, "flatten") for name in names]


def pool(output: Any, pooling: str, layer_name: str, mask: Any = None) -> Any:
    """Reduce one layer's output (n, ...), an array or a tensor; (n, features) stays as it is.

    `mask` (n, tokens) is 0 where a token is padding; without it all tokens count.
    """
    if output.ndim < 3 or pooling == "flatten":
        return output
    if pooling in ("first_token", "masked_mean"):
        if output.ndim != 3:
            raise ValueError(
                f"pooling {pooling!r} takes tokens of shape (tokens, features); layer "
                f"{layer_name!r} gives shape {tuple(output.shape[1:])}"
            )
        return output[:, 0] if pooling == "first_token" else _masked_mean(output, mask, layer_name)
    if mask is not None and output.ndim == 3 and output.shape[1] == mask.shape[1]:
        raise ValueError(
            f"layer {layer_name!r} gives tokens of shape (tokens, features); pooling {pooling!r} "
            "is for maps of shape (channels, ...): use 'masked_mean' or 'first_token'"
        )
    positions = output.reshape(*output.shape[:2], -1)
    if pooling == "mean":
        return positions.mean(axis=2)
    if pooling == "max":
        return _max(positions)
    return _join(positions.mean(axis=2), _max(positions))


def pooled_shape(shape: tuple, pooling: str) -> tuple:
    """Return the shape of one example's features after pooling."""
    if len(shape) < 2 or pooling == "flatten":
        return tuple(shape)
    if pooling in ("first_token", "masked_mean"):
        return tuple(shape[1:])
    return (2 * shape[0] if pooling == "mean+max" else shape[0],)


def _masked_mean(tokens: Any, mask: Any, layer_name: str) -> Any:
    if mask is None:
        return tokens.mean(axis=1)
    if tuple(mask.shape) != tuple(tokens.shape[:2]):
        raise ValueError(
            f"layer {layer_name!r} gives {tokens.shape[1]} tokens where the data have "
            f"{mask.shape[1]}: which of them are padding is not known"
        )
    counts = (mask != 0).sum(axis=1)[:, None]
    # An example of nothing but padding has no mean; it gets zeros.
    kept = (mask != 0)[:, :, None] * tokens
    return kept.sum(axis=1) / counts.clip(1)


def _max(positions: Any) -> Any:
    # NumPy's max over an axis is called amax in torch.
    return positions.max(axis=2) if isinstance(positions, np.ndarray) else positions.amax(2)


def _join(means: Any, maxima: Any) -> Any:
    if isinstance(means, np.ndarray):
        return np.concatenate([means, maxima], axis=1)
    return sys.modules["torch"].cat([means, maxima], dim=1)
