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
from xfer.meta.base import MetaClassifier, assign_folds
from xfer.meta.whitening import PartialWhitening


class CalibratedClassifier(MetaClassifier):
    """Scores s become probabilities softmax(a s (I + D) + b) by a map learned on held-out scores.

    The scores of every example come from a fit that has not seen it (5 folds). The inverse
    temperature a is learned first, with a prior (Guo et al. 2017, On Calibration of Modern Neural
    Networks, eq. 9), then D and b with a ridge (Kull et al. 2019, Beyond temperature scaling,
    sections 3 and 4). A label is the class of the largest probability, so the two always agree.
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
            held_out = np.flatnonzero(fold >= 0)
            scores = self._held_out_scores(Z, y, w, fold)[held_out]
            known = y[held_out], w[held_out], len(self.classes_)
            matrix, shift = self._calibration(scores, *known)
            weights, intercept = matrix.T @ weights, intercept @ matrix + shift
        return Z, weights, intercept + np.log(self.prior_ratio_)

    def _probabilities(self, X: np.ndarray) -> np.ndarray:
        return softmax(self._class_scores(X), axis=1)

    def _held_out_scores(
        self, Z: np.ndarray, y: np.ndarray, w: np.ndarray, fold: np.ndarray
    ) -> np.ndarray:
        def score(index: int) -> tuple[np.ndarray, np.ndarray]:
            train, test = fold != index, fold == index
            weights, intercept = self._fit_scores(Z[train], y[train], w[train])
            return test, self._basis(Z[test], Z[train]) @ weights.T + intercept

        scores = np.zeros((len(y), y.max() + 1))
        parallel = Parallel(n_jobs=self.n_jobs, prefer="threads")
        for test, result in parallel(delayed(score)(i) for i in np.unique(fold[fold >= 0])):
            scores[test] = result
        return scores

    def _calibration(
        self, scores: np.ndarray, y: np.ndarray, w: np.ndarray, n_classes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the matrix and the shift that calibrate scores of shape (n, n_classes)."""
        matrix = np.exp(self._expected_log_scale) * np.eye(n_classes)
        shift = np.zeros(n_classes)
        # Classes never held out are left out, or the map would learn that they never occur.
        seen, target = np.unique(y, return_inverse=True)
        if len(seen) > 1:
            scores = scores[:, seen]
            scale = fit_inverse_temperature(scores, target, w, self._expected_log_scale)
            change, shift[seen] = _fit_map(scale * scores, target, w, self._ridge)
            matrix = scale * np.eye(n_classes)
            matrix[np.ix_(seen, seen)] += scale * change
        return matrix, shift


class ScaledScores(ClassifierMixin, BaseEstimator):
    """Probabilities from the class scores of a network: softmax(inverse_temperature * scores).

    The temperature is learned on held-out scores (Guo et al. 2017, On Calibration of Modern Neural
    Networks, eq. 9), and does not change labels.

    >>> ScaledScores(np.array(["bike", "car"])).predict_proba([[0.0, 2.0]]).round(2)
    array([[0.12, 0.88]])
    """

    classes: Any  # an array; None only in a model that is described and never predicts

    def __init__(self, classes: ArrayLike | None, inverse_temperature: float = 1.0) -> None:
        self.classes = classes
        self.inverse_temperature = inverse_temperature

    @classmethod
    def held_out(cls, classes: np.ndarray, scores: np.ndarray, targets: np.ndarray) -> Self:
        """Learn the temperature from held-out scores of shape (n, n_classes) and class indices."""
        return cls(classes, fit_inverse_temperature(scores, targets, np.ones(len(targets)), 0.0))

    @property
    def classes_(self) -> np.ndarray:
        """The class of each column."""
        return self.classes

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the class of the largest score."""
        return self.classes[np.argmax(X, axis=1)]

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Return the probability of each class, of shape (n, n_classes)."""
        return softmax(self.inverse_temperature * np.asarray(X, dtype=np.float64), axis=1)


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
