"""Scaling of features for classifiers of few labels."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.preprocessing import normalize
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

# Axes whose deviation is below this fraction of the largest hold mostly rounding errors.
_NEGLIGIBLE = 1e-6


class PartialWhitening(TransformerMixin, BaseEstimator):
    r"""Scale features and their principal axes, less than whitening would.

    Full whitening gives noisy directions the same weight as all others; without whitening, a few
    features of large variance dominate. As a compromise:

    1. If no feature is negative, square roots are taken.
    2. Feature :math:`j` is centred and divided by :math:`\sqrt{(n v_j + 2 m) / (n + 2)}`, where
       :math:`v_j` is its variance among :math:`n` examples and :math:`m` the mean variance of
       features that vary.
    3. Principal axis :math:`k` is multiplied by its variance :math:`u_k`, shrunk to
       :math:`(n u_k + \sum_l u_l) / (n + d)`, to the power of -1/8.

    The result has mean squared norm 1. Time and memory grow with the number of features only as the
    matrix itself does.

    Parameters
    ----------
    square_root : bool, default=True
        Whether to take square roots if no feature is negative.

    Attributes
    ----------
    square_root_ : bool
        Whether square roots are taken. A negative value :math:`x` of a new example then becomes
        :math:`-\sqrt{-x}`.
    mean_, components_ : ndarray of shape (d,) and (d, rank)
        Features, or their roots, minus ``mean_`` are multiplied by ``components_``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, _ = load_iris(return_X_y=True)
    >>> PartialWhitening().fit_transform(X).std(axis=0).round(1)
    array([0.8, 0.5, 0.2, 0.1])
    """

    def __init__(self, *, square_root: bool = True) -> None:
        self.square_root = square_root

    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to features of shape (n, d).

        ``sample_weight``, of shape (n,), says how many copies an example counts as.
        """
        matrix = validate_data(self, X, dtype=np.float64)
        w = _check_sample_weight(sample_weight, matrix, ensure_non_negative=True)
        if not w.all():
            matrix, w = matrix[w > 0], w[w > 0]
        self.square_root_ = self.square_root and takes_root(matrix)
        n, Z = w.sum(), self._root(matrix)
        size = np.maximum(Z.max(axis=0), -Z.min(axis=0))
        self.mean_ = w @ Z / n
        Z -= self.mean_
        Z *= np.sqrt(w)[:, None]
        variance = np.einsum("ij,ij->j", Z, Z) / n
        varies = variance > (1e-7 * size) ** 2
        d = np.count_nonzero(varies)
        if not d:
            self.components_ = np.zeros((matrix.shape[1], 1))
            return self
        prior = 2 * variance[varies].mean()
        scale = np.where(varies, np.sqrt((n + 2) / (n * variance + prior)), 0)
        Z *= scale
        variance, axes = _principal_axes(Z, n)
        factors = ((n * variance + variance.sum()) / (n + d)) ** -0.125
        axes *= factors / np.sqrt(variance @ factors**2)
        axes *= scale[:, None]
        self.components_ = axes
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return whitened features, of shape (m, rank)."""
        check_is_fitted(self)
        Z = self._root(validate_data(self, X, dtype=np.float64, reset=False))
        Z -= self.mean_
        return Z @ self.components_

    def _root(self, X: np.ndarray) -> np.ndarray:
        return signed_root(X) if self.square_root_ else X.copy()


def takes_root(X: np.ndarray) -> bool:
    """Return whether no feature that varies is negative, as of counts and activations."""
    low = X.min(axis=0)
    return bool(low[low < X.max(axis=0)].min(initial=0) >= 0)


def column_means(X: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return weighted means of shape (d,), without rounding where a feature is constant."""
    return np.clip(w @ X / w.sum(), X.min(axis=0), X.max(axis=0))


def unit_rows(X: Any) -> Any:
    """Return rows divided by their lengths; rows of zeros stay.

    scikit-learn's ``normalize``, which sparse matrices get, takes lengths below 2e-15 for zero.
    """
    if issparse(X):
        return normalize(X)
    lengths = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64))[:, None]
    return (X / np.where(lengths > 0, lengths, 1)).astype(X.dtype, copy=False)


def signed_root(X: np.ndarray) -> np.ndarray:
    """Return sqrt(|x|), with the sign of x."""
    roots = np.abs(X)
    np.sqrt(roots, out=roots)
    return np.copysign(roots, X, out=roots)


def _principal_axes(Z: np.ndarray, n: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the variances of principal axes, and the axes as columns, for n examples."""
    # The smaller of the two products: a singular value decomposition takes ten times as long.
    wide = Z.shape[1] > Z.shape[0]
    squares, vectors = np.linalg.eigh(Z @ Z.T if wide else Z.T @ Z)
    kept = squares > _NEGLIGIBLE**2 * squares[-1]
    squares, vectors = squares[kept][::-1], vectors[:, kept][:, ::-1]
    axes = Z.T @ (vectors / np.sqrt(squares)) if wide else vectors.copy()
    # An axis and its mirror image are equally good; this makes the result unique.
    axes *= np.where(axes.max(axis=0) < -axes.min(axis=0), -1, 1)
    return squares / n, axes


def squash(Z: np.ndarray) -> np.ndarray:
    """Divide each row z by sqrt((1 + |z|^2) / 2), so that none is far away by its length alone."""
    return Z / np.sqrt((1 + np.square(Z).sum(axis=1, keepdims=True)) / 2)
