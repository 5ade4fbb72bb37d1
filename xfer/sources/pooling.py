"""Maps and tokens reduced to sensible columns: arrays of NumPy, and tensors of torch."""

import sys

import numpy as np

#: Of maps (n, channels, ...) the means and maxima; of tokens (n, tokens, features) the others.
POOLINGS = ("flatten", "mean", "max", "mean+max", "first_token", "masked_mean")


def check_poolings(pooling, layers):
    """Return the pooling of each layer.

    Parameters
    ----------
    pooling : str or dict of str to str
        One for all, or by layer; layers that the dict does not name are flattened.
    layers : sequence of Layer

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If there is no such pooling, or the dict names a layer that is not asked for.
    """
    names = [layer.name for layer in layers]
    by_layer = pooling if isinstance(pooling, dict) else dict.fromkeys(names, pooling)
    strangers = [name for name in by_layer if name not in names]
    if strangers:
        raise ValueError(
            f"pooling names {', '.join(map(repr, strangers))}; the layers asked for are "
            f"{', '.join(names)}"
        )
    for one in by_layer.values():
        if not isinstance(one, str) or one not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {one!r}")
    return [by_layer.get(name, "flatten") for name in names]


def pool(output, pooling, layer_name, mask=None):
    """Reduce one layer's output.

    Parameters
    ----------
    output : ndarray or torch.Tensor of shape (rows, ...)
        One without positions, of shape (rows, features), is returned as it is.
    pooling : str
        One of ``POOLINGS``.
    layer_name : str
        For messages.
    mask : ndarray or torch.Tensor of shape (rows, tokens), optional
        Not 0 where a token is no padding; without it all tokens count.

    Returns
    -------
    ndarray or torch.Tensor of shape (rows, ...)

    Raises
    ------
    ValueError
        If the pooling does not fit the shape.
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
            "is of maps of shape (channels, ...): use 'masked_mean' or 'first_token'"
        )
    positions = output.reshape(*output.shape[:2], -1)
    if pooling == "mean":
        return positions.mean(axis=2)
    if pooling == "max":
        return _max(positions)
    return _join(positions.mean(axis=2), _max(positions))


def pooled_shape(shape, pooling):
    """Tell the shape of one example's features after pooling.

    Parameters
    ----------
    shape : tuple of int
        Of one example's output of the layer.
    pooling : str
        One of ``POOLINGS``.

    Returns
    -------
    tuple of int
    """
    if len(shape) < 2 or pooling == "flatten":
        return tuple(shape)
    if pooling in ("first_token", "masked_mean"):
        return tuple(shape[1:])
    return (2 * shape[0] if pooling == "mean+max" else shape[0],)


def _masked_mean(tokens, mask, layer_name):
    if mask is None:
        return tokens.mean(axis=1)
    if tuple(mask.shape) != tuple(tokens.shape[:2]):
        raise ValueError(
            f"layer {layer_name!r} gives {tokens.shape[1]} tokens where the data have "
            f"{mask.shape[1]}: which of them are padding is not known"
        )
    counts = (mask != 0).sum(axis=1)[:, None]
    # Nothing but padding has no mean; it gets zeros.
    kept = (mask != 0)[:, :, None] * tokens
    return kept.sum(axis=1) / counts.clip(1)


def _max(positions):
    # An array's max is what a tensor's amax is.
    return positions.max(axis=2) if isinstance(positions, np.ndarray) else positions.amax(2)


def _join(means, maxima):
    if isinstance(means, np.ndarray):
        return np.concatenate([means, maxima], axis=1)
    return sys.modules["torch"].cat([means, maxima], dim=1)
