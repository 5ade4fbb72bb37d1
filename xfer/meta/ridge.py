"""Regression on features of few examples."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.linear_model import RidgeCV
from sklearn.utils.validation import check_is_fitted, validate_data

from xfer.meta.whitening import PartialWhitening, signed_root

# Less than 0.1 never helps much. With 20 to 50 examples, the errors of those left out may favour it
# by chance, and predictions are then far worse than a constant: benchmarks/regression.py.
_STRENGTHS = np.logspace(-1, 4, 11)


class WhitenedRidge(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Ridge regression on partly whitened features, with the strength that predicts best.

    Features are scaled by :class:`xfer.meta.PartialWhitening`. With few examples, scaling each to
    unit variance instead may predict far worse than a constant: features that hardly vary among the
    labelled examples become large in others. scikit-learn's ``RidgeCV`` chooses the strength of the
    ridge by the errors of left-out examples, for each target.

    Attributes
    ----------
    coef_ : ndarray of shape (d,) or (k, d)
    intercept_ : float or ndarray of shape (k,)
    square_root_ : bool
        Whether these are for the signed square roots of the features.
    alpha_ : float or ndarray of shape (k,)
        The strength of the ridge, on features of mean squared norm 1.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> round(WhitenedRidge().fit(X[:100], y[:100]).score(X[100:], y[100:]), 1)
    0.5
    """

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to features of shape (n, d) and numbers of shape (n,) or (n, k)."""
        checked: Any = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=2
        )
        matrix, targets = checked
        whitening = PartialWhitening().fit(matrix, sample_weight=sample_weight)
        ridge = RidgeCV(_STRENGTHS, alpha_per_target=targets.ndim > 1)
        ridge.fit(whitening.transform(matrix), targets, sample_weight)
        self.square_root_, self.alpha_ = whitening.square_root_, ridge.alpha_
        self.coef_ = ridge.coef_ @ whitening.components_.T
        self.intercept_ = ridge.intercept_ - self.coef_ @ whitening.mean_
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predict numbers of shape (m,) or (m, k) for features of shape (m, d)."""
        check_is_fitted(self)
        matrix: Any = validate_data(self, X, dtype=np.float64, reset=False)
        return (
            signed_root(matrix) if self.square_root_ else matrix
        ) @ self.coef_.T + self.intercept_
