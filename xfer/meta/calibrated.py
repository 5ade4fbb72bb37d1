"""Calibrated probabilities: class scores rescaled on held-out examples."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from xfer._checks import check_positive
from xfer.meta.base import MetaClassifier, assign_folds, held_out_parts
from xfer.meta.whitening import PartialWhitening

_MAP_CLASSES = 100
_HELD_OUT = 1000


class CalibratedClassifier(MetaClassifier):
    """Scores s become probabilities softmax(a s (I + D) + b) by a map learned on held-out scores.

    The scores of every example come from a fit that has not seen it (5 folds). The inverse
    temperature a is learned first, with a prior (Guo et al. 2017, On Calibration of Modern Neural
    Networks, eq. 9), then D and b with a ridge (Kull et al. 2019, Beyond temperature scaling,
    sections 3 and 4). A label is the class of the largest probability, so the two always agree.

    With more than 100 classes, D would have more entries than the labels can tell, and take most of
    the time: only the temperature is learned, on as many folds as hold 1,000 examples.
    """

    c: float
    random_state: int
    n_jobs: int | None = None
    probability: bool = True
    _expected_log_scale: float  # mean of the prior on the logarithm of the inverse temperature
    _ridge: float

    @abstractmethod
    def _fit_scores(
        self, Z: np.ndarray, y: np.ndarray, w: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return weights of shape (n_classes, k) and intercepts of shape (n_classes,)."""

    @abstractmethod
    def _basis(self, new: np.ndarray, Z: np.ndarray) -> np.ndarray:
        """Return what the weights multiply for new examples, of shape (m, k)."""

    def check_parameters(self) -> Self:
        """Raise ValueError, naming the parameter, if one is out of range; return self."""
        check_positive("c", self.c, finite=False)
        if self.class_prior is not None and not self.probability:
            raise ValueError(
                "class_prior needs probability=True (CalibratedSvm) or "
                "enable_probability_estimates=True (SvmRepurposer)"
            )
        return super().check_parameters()

    def _fit_and_calibrate(
        self, whitening: PartialWhitening, X: np.ndarray, y: np.ndarray, w: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fit the whitening; return whitened X, weights and intercepts."""
        Z = whitening.fit(X, sample_weight=w).transform(X)
        weights, intercept = self._fit_scores(Z, y, w)
        if self.probability:
            fold = assign_folds(X, y, self.random_state)
            # Classes never held out are left out, or the map would learn that they never occur.
            known = np.unique(y[fold >= 0])
            parts = held_out_parts(fold, np.inf if len(known) <= _MAP_CLASSES else _HELD_OUT)
            rows = np.concatenate([np.empty(0, int), *map(np.flatnonzero, parts)])
            scores = self._held_out_scores(Z, y, w, parts)[:, known]
            weights, intercept = self._calibrate(
                weights, intercept, scores, y[rows], w[rows], known
            )
        return Z, weights, intercept + np.log(self.prior_ratio_)

    def _probabilities(self, X: np.ndarray) -> np.ndarray:
        return softmax(self._class_scores(X), axis=1)

    def _held_out_scores(
        self, Z: np.ndarray, y: np.ndarray, w: np.ndarray, parts: list[np.ndarray]
    ) -> np.ndarray:
        """Return scores of shape (n_held_out, n_classes), part by part."""

        def score(test: np.ndarray) -> np.ndarray:
            weights, intercept = self._fit_scores(Z[~test], y[~test], w[~test])
            return self._basis(Z[test], Z[~test]) @ weights.T + intercept

        scores = Parallel(n_jobs=self.n_jobs, prefer="threads")(map(delayed(score), parts))
        return np.concatenate([np.zeros((0, y.max() + 1)), *scores])

    def _calibrate(
        self,
        weights: np.ndarray,
        intercept: np.ndarray,
        scores: np.ndarray,
        y: np.ndarray,
        w: np.ndarray,
        known: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return weights and intercepts of calibrated scores.

        ``scores``, of shape (n, n_known), are those of held-out examples, for the known classes.
        """
        scale, target = np.exp(self._expected_log_scale), np.searchsorted(known, y)
        if len(known) > 1:
            scale = fit_inverse_temperature(scores, target, w, self._expected_log_scale)
        weights, intercept = scale * weights, scale * intercept
        if 1 < len(known) <= _MAP_CLASSES:
            change, shift = _fit_map(scale * scores, target, w, self._ridge)
            weights[known] += change.T @ weights[known]
            intercept[known] += intercept[known] @ change + shift
        return weights, intercept


class ScaledScores(ClassifierMixin, BaseEstimator):
    """Probabilities from class scores: softmax(inverse_temperature * scores).

    The scores are linear in the features, or the features themselves. The temperature is learned on
    held-out scores (Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 9), and does not
    change labels.

    >>> ScaledScores(np.array(["bike", "car"])).predict_proba([[0.0, 2.0]]).round(2)
    array([[0.12, 0.88]])
    """

    classes: Any  # an array; None only in a model that is described and never predicts
    # Files from before these were parameters lack them.
    coef: Any = None
    intercept: Any = None

    def __init__(
        self,
        classes: ArrayLike | None,
        inverse_temperature: float = 1.0,
        coef: ArrayLike | None = None,
        intercept: ArrayLike | None = None,
    ) -> None:
        self.classes = classes
        self.inverse_temperature = inverse_temperature
        self.coef = coef
        self.intercept = intercept

    @property
    def classes_(self) -> np.ndarray:
        """The class of each column."""
        return self.classes

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Return the score of each class, of shape (n, n_classes)."""
        scores = np.asarray(X, dtype=np.float64)
        if self.coef is not None:
            scores = scores @ np.transpose(self.coef) + self.intercept
        return self.inverse_temperature * scores

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the class of the largest score."""
        return self.classes[np.argmax(self.decision_function(X), axis=1)]

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Return the probability of each class, of shape (n, n_classes)."""
        return softmax(self.decision_function(X), axis=1)


def fit_inverse_temperature(
    scores: np.ndarray, target: np.ndarray, w: np.ndarray, expected_logarithm: float
) -> float:
    """Return the factor of least log loss; its prior has the weight of one example."""

    def loss(logarithm: float) -> float:
        log_probabilities = log_softmax(np.exp(logarithm) * scores, axis=1)
        log_likelihoods = log_probabilities[np.arange(len(target)), target]
        return (logarithm - expected_logarithm) ** 2 - w @ log_likelihoods

    return float(np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))


def _fit_map(
    scores: np.ndarray, target: np.ndarray, w: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return D and b of least log loss for softmax(s + sD + b), with a ridge on both."""
    n, k = scores.shape
    inputs, truth = np.column_stack([scores, np.ones(n)]), np.eye(k)[target]
    of_example = w[:, None]

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        log_probabilities = log_softmax(scores + inputs @ flat.reshape(k + 1, k), axis=1)
        gradient = inputs.T @ (of_example * (np.exp(log_probabilities) - truth))
        loss = ridge / 2 * flat @ flat - (of_example * truth * log_probabilities).sum()
        return loss, gradient.ravel() + ridge * flat

    start = np.zeros((k + 1) * k)
    result = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B").x.reshape(k + 1, k)
    return result[:k], result[k]
