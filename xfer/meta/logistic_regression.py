"""Logistic regression for few labels."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from xfer.meta.base import ClassPrior, ClassWeight
from xfer.meta.calibrated import CalibratedClassifier
from xfer.meta.whitening import PartialWhitening, signed_root


class CalibratedLogisticRegression(CalibratedClassifier):
    """Multinomial logistic regression on partly whitened features, calibrated.

    The fitted model, whitening and calibration included, is one affine map: of the square roots of
    the features if none is negative, otherwise of the features themselves.

    Parameters
    ----------
    c : float, default=10.0
        Inverse strength of the ridge on the weights, on features of mean squared norm 1.
    tol : float, default=1e-4
        The solver stops when no component of the gradient is larger.
    max_iter : int, default=1000
        Maximum number of steps of the solver.
    square_root : bool, default=True
        Whether to take square roots if no feature is negative.
    class_weight : "balanced" or dict, optional
        The weight of each class's examples; "balanced" gives all classes the same total weight.
    class_prior : "balanced" or dict, optional
        The probability of each class where predictions are made, if it is not its share of the
        labels; "balanced" makes all classes equally probable.
    n_jobs : int, optional
        Threads that share the folds of the calibration.
    random_state : int, default=0
        Seed of the folds.

    Attributes
    ----------
    classes_, intercept_ : ndarray of shape (n_classes,)
    coef_ : ndarray of shape (n_classes, d)
        Multiplies the features, or their square roots if ``square_root_``. The root of a negative
        value of a new example is that of its size, with its sign.
    square_root_ : bool
        Whether square roots are taken.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = CalibratedLogisticRegression().fit(X[:, :2], y)
    >>> model.predict_proba(X[[60], :2]).round(2)
    array([[0.  , 0.95, 0.05]])
    """

    _expected_log_scale = 0.0
    _ridge = 300.0

    def __init__(
        self,
        c: float = 10.0,
        *,
        tol: float = 1e-4,
        max_iter: int = 1000,
        square_root: bool = True,
        class_weight: ClassWeight = None,
        class_prior: ClassPrior = None,
        n_jobs: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.c = c
        self.tol = tol
        self.max_iter = max_iter
        self.square_root = square_root
        self.class_weight = class_weight
        self.class_prior = class_prior
        self.n_jobs = n_jobs
        self.random_state = random_state

    def _fit(self, X: np.ndarray, y: np.ndarray, w: np.ndarray) -> None:
        whitening = PartialWhitening(square_root=self.square_root)
        _, weights, intercept = self._fit_and_calibrate(whitening, X, y, w)
        self.square_root_ = whitening.square_root_
        self.coef_ = weights @ whitening.components_.T
        self.intercept_ = intercept - self.coef_ @ whitening.mean_

    def _fit_scores(
        self, Z: np.ndarray, y: np.ndarray, w: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        # The solver's tolerance is absolute: with features ten times larger, gradients exceed it.
        model = LogisticRegression(C=self.c / 100, tol=self.tol, max_iter=self.max_iter)
        model.fit(10 * Z, y, w)
        self.n_iter_ = model.n_iter_
        weights, intercept = 10 * model.coef_, model.intercept_
        if len(weights) == 1:
            return np.vstack([-weights, weights]) / 2, np.append(-intercept, intercept) / 2
        return weights, intercept

    def _basis(self, new: np.ndarray, Z: np.ndarray) -> np.ndarray:
        return new

    def _class_scores(self, X: np.ndarray) -> np.ndarray:
        features = signed_root(X) if self.square_root_ else X
        return features @ self.coef_.T + self.intercept_
