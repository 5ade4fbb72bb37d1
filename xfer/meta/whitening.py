"""Features on one scale, without labels."""

import numpy as np


def partial_whitening(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Return mean (d,) and components (d, rank) of a whitening: Z = (X - mean) @ components.

    Full whitening gives every direction the same variance, so it trusts the noisiest; raw features
    leave a few features of large variance in charge. In between, each feature is divided by the
    square root of its standard deviation (Pareto scaling [1]_), and each principal axis of variance
    :math:`v` is multiplied by :math:`\tilde v^{-1/8}`, where

    .. math:: \tilde v = \frac{n}{n + d} v + \frac{d}{n + d} \bar v

    is the variance shrunk towards the mean variance :math:`\bar v`: the fewer examples, the more.
    The exponent was chosen on the tasks of ``benchmarks/meta_models.py``. The result has mean
    squared norm 1. Constant features get components of zero.

    References
    ----------
    .. [1] van den Berg et al. (2006), Centering, scaling, and transformations, BMC Genomics 7:142.

    Examples
    --------
    >>> X = np.array([[0.0, 100.0], [1.0, -100.0], [2.0, 0.0]])
    >>> mean, components = partial_whitening(X)
    >>> Z = (X - mean) @ components
    >>> round(float((Z**2).sum(axis=1).mean()), 6)
    1.0
    """
    mean = X.mean(axis=0)
    Z = X - mean
    deviation = Z.std(axis=0)
    varies = deviation > 1e-7 * np.abs(X).max(axis=0)
    scale = np.divide(1, np.sqrt(deviation), out=np.zeros_like(deviation), where=varies)
    Z *= scale
    n, d = len(Z), np.count_nonzero(varies)
    if not d:
        return mean, np.zeros((X.shape[1], 1))
    _, singular_values, axes = np.linalg.svd(Z, full_matrices=False)
    rank = np.count_nonzero(singular_values > 1e-7 * singular_values[0])
    variance, axes = singular_values[:rank] ** 2 / n, axes[:rank]
    shrunk = (n * variance + d * (variance.sum() / d)) / (n + d)
    factors = shrunk**-0.125
    norm = np.sqrt((variance * factors**2).sum())
    return mean, scale[:, None] * axes.T * (factors / norm)


def squash(Z: np.ndarray) -> np.ndarray:
    """Divide each row z by sqrt((1 + |z|^2) / 2).

    Without it, an example could be far from all others by its length alone.
    """
    return Z / np.sqrt((1 + np.square(Z).sum(axis=1, keepdims=True)) / 2)
