"""Support vector machines for few labels."""

from __future__ import annotations

from numbers import Real
from typing import Any, Self

import numpy as np
import sklearn
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.svm import SVC
from sklearn.utils import gen_batches
from sklearn.utils.metaestimators import available_if

from xfer.meta.base import ClassPrior, ClassWeight
from xfer.meta.calibrated import CalibratedClassifier
from xfer.meta.whitening import PartialWhitening

_KERNELS = ("linear", "poly", "rbf", "sigmoid")
_BATCH_SIZE = 4096


def _has_probabilities(classifier: Any) -> bool:
    if classifier.probability:
        return True
    raise AttributeError(
        "predict_proba needs probability=True (CalibratedSvm) or enable_probability_estimates=True "
        "(SvmRepurposer)"
    )


class CalibratedSvm(CalibratedClassifier):
    """One-vs-rest support vector machines on partly whitened features, calibrated.

    They share one kernel matrix of shape (n, n), which limits the examples to some ten thousand.

    Parameters
    ----------
    c : float, default=5.0
        Price of a violated margin.
    kernel : {"rbf", "linear", "poly", "sigmoid"}, default="rbf"
        As in scikit-learn's SVC: of degree 3 and without a constant.
    gamma : float, "scale" or "auto", default=0.3
        Inverse width of the kernel, on features of mean squared norm 1; "scale" is 1 and "auto" is
        1 / n_features.
    probability : bool, default=True
        Whether to calibrate, which takes five more fits. Without it there is no
        ``predict_proba``.
    class_weight : "balanced" or dict, optional
        The weight of each class's examples; "balanced" gives all classes the same total weight.
    class_prior : "balanced" or dict, optional
        The probability of each class where predictions are made, if it is not its share of the
        labels; "balanced" makes all classes equally probable.
    random_state : int, default=0
        Seed of the folds.

    Attributes
    ----------
    classes_, intercept_ : ndarray of shape (n_classes,)
    whitening_ : PartialWhitening
    support_vectors_ : ndarray of shape (n_support, rank)
        Whitened examples.
    dual_coef_ : ndarray of shape (n_classes, n_support)

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = CalibratedSvm().fit(X[:, :2], y)
    >>> model.predict_proba(X[[60], :2]).round(2)
    array([[0.07, 0.76, 0.17]])
    """

    _expected_log_scale = 1.0
    _ridge = 30.0

    def __init__(
        self,
        c: float = 5.0,
        *,
        kernel: str = "rbf",
        gamma: float | str = 0.3,
        probability: bool = True,
        class_weight: ClassWeight = None,
        class_prior: ClassPrior = None,
        random_state: int = 0,
    ) -> None:
        self.c = c
        self.kernel = kernel
        self.gamma = gamma
        self.probability = probability
        self.class_weight = class_weight
        self.class_prior = class_prior
        self.random_state = random_state

    def check_parameters(self) -> Self:
        """Raise ValueError, naming the parameter, if one is out of range; return self."""
        if self.kernel not in _KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(_KERNELS)}, got {self.kernel!r}")
        gamma = self.gamma
        named = isinstance(gamma, str) and gamma in ("scale", "auto")
        if not named and not (isinstance(gamma, Real) and gamma > 0):
            raise ValueError(f"gamma must be a positive number, 'scale' or 'auto', got {gamma!r}")
        return super().check_parameters()

    predict_proba = available_if(_has_probabilities)(CalibratedClassifier.predict_proba)

    def _fit(self, X: np.ndarray, y: np.ndarray, w: np.ndarray) -> None:
        self.whitening_ = PartialWhitening()
        Z, weights, intercept = self._fit_and_calibrate(self.whitening_, X, y, w)
        used = np.abs(weights).sum(axis=0) > 0
        self.support_vectors_ = Z[used]
        self.dual_coef_, self.intercept_ = weights[:, used], intercept

    def _fit_scores(
        self, Z: np.ndarray, y: np.ndarray, w: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        kernel, classes = self._basis(Z, Z), range(y.max() + 1)
        dual, intercept = np.zeros((len(classes), len(y))), np.zeros(len(classes))
        # To check again that the kernel is finite would take most of the time with many classes.
        with sklearn.config_context(assume_finite=True):
            for c in classes[-1:] if len(classes) == 2 else classes:
                machine = SVC(C=self.c, kernel="precomputed").fit(kernel, y == c, w)
                dual[c, machine.support_] = machine.dual_coef_[0]
                intercept[c] = machine.intercept_[0]
        if len(classes) == 2:
            dual[0], intercept[0] = -dual[1], -intercept[1]
        return dual, intercept

    def _basis(self, new: np.ndarray, Z: np.ndarray) -> np.ndarray:
        named: dict[Any, float] = {"scale": 1.0, "auto": 1 / self.n_features_in_}
        gamma = named.get(self.gamma, self.gamma)
        options = {"gamma": gamma, "coef0": 0.0, "degree": 3}
        return pairwise_kernels(new, Z, self.kernel, filter_params=True, **options)

    def _class_scores(self, X: np.ndarray) -> np.ndarray:
        scores = np.empty((len(X), len(self.classes_)))
        for rows in gen_batches(len(X), _BATCH_SIZE):
            new = self.whitening_.transform(X[rows])
            scores[rows] = self._basis(new, self.support_vectors_) @ self.dual_coef_.T
        return scores + self.intercept_
