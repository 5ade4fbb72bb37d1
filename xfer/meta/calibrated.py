"""Probabilities that mean what they say: class scores, calibrated on held-out examples."""

from abc import ABC, abstractmethod
from numbers import Real

import numpy as np
from joblib import Parallel, delayed
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from xfer.meta.sparse import TakesSparse
from xfer.meta.whitening import PartialWhitening

_FOLDS = 5


class CalibratedClassifier(ClassifierMixin, TakesSparse, ABC):
    r"""A classifier whose scores become probabilities by a map learned on held-out scores.

    The scores :math:`s` of every example come from a fit that has not seen it (5 folds). From them
    are learned first a scale :math:`a` (temperature scaling [1]_), drawn towards a prior, then a
    matrix and a shift near to doing nothing (matrix scaling with a ridge [2]_):

    .. math:: p = \mathrm{softmax}(a s (I + D) + b)

    A label is the class of the largest probability, so the two always agree.

    References
    ----------
    .. [1] Guo et al. (2017), On Calibration of Modern Neural Networks, eq. 9.
    .. [2] Kull et al. (2019), Beyond temperature scaling: Obtaining well-calibrated multi-class
       probabilities with Dirichlet calibration, sections 3 and 4.
    """

    #: Logarithm of the scale that is expected before any example has been seen.
    _expected_log_scale: float
    #: Weight of the ridge on the matrix and the shift.
    _ridge: float

    @abstractmethod
    def _fit_scores(self, Z, y):
        """Fit a model of the class scores.

        Parameters
        ----------
        Z : ndarray of shape (n, rank)
            Whitened features.
        y : ndarray of shape (n,)
            Class numbers, each of which occurs.

        Returns
        -------
        weights : ndarray of shape (n_classes, k)
        intercept : ndarray of shape (n_classes,)
        """

    @abstractmethod
    def _basis(self, new, Z):
        """Return what the weights multiply for new examples: ndarray of shape (m, k)."""

    @abstractmethod
    def _keep(self, whitening, Z, weights, intercept):
        """Store the fitted model as attributes."""

    @abstractmethod
    def _scores(self, X):
        """Return the calibrated scores of raw features: ndarray of shape (m, n_classes)."""

    def _calibrates(self):
        return True

    def check_parameters(self):
        """Refuse parameters that are out of range.

        Returns
        -------
        CalibratedClassifier
            Itself.

        Raises
        ------
        ValueError
            Naming the parameter.
        """
        if isinstance(self.c, bool) or not isinstance(self.c, Real) or not self.c > 0:
            raise ValueError(f"c must be a positive number, got {self.c!r}")
        return self

    def fit(self, X, y):
        """Fit the scores, then their calibration.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, d)
        y : array-like of shape (n,)
            Labels of any kind, of two classes or more. A class of a single example is never held
            out, and has no part in the calibration.

        Returns
        -------
        CalibratedClassifier
            Itself.
        """
        self.check_parameters()
        X, y = self._validated(X, y)
        check_classification_targets(y)
        self.classes_, y = np.unique(y, return_inverse=True)
        number = len(self.classes_)
        if number < 2:
            raise ValueError(
                "Classifier needs samples of at least 2 classes; the data contains only one "
                f"class: {self.classes_.tolist()[0]!r}"
            )
        whitening = PartialWhitening().fit(X)
        Z = whitening.transform(X)
        weights, intercept = self._fit_scores(Z, y)
        if self._calibrates():
            fold = _folds(X, y, self.random_state)
            held = np.flatnonzero(fold >= 0)
            scores = self._held_out_scores(Z, y, fold)[held]
            matrix, shift = self._calibration(scores, y[held], number)
            weights, intercept = matrix.T @ weights, intercept @ matrix + shift
        self._keep(whitening, Z, weights, intercept)
        return self

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : array-like of shape (m, d)

        Returns
        -------
        ndarray of shape (m,)
            Members of ``classes_``.
        """
        numbers = self._calibrated_scores(X).argmax(axis=1)
        return self.classes_[numbers]

    def predict_proba(self, X):
        """Predict the probability of each label.

        Parameters
        ----------
        X : array-like of shape (m, d)

        Returns
        -------
        ndarray of shape (m, n_classes)
            Columns follow ``classes_``; rows sum to 1.
        """
        return softmax(self._calibrated_scores(X), axis=1)

    def _calibrated_scores(self, X):
        check_is_fitted(self)
        return self._scores(self._validated(X, dtype=np.float64, reset=False))

    def _held_out_scores(self, Z, y, fold):
        def score(number):
            train, test = fold != number, fold == number
            weights, intercept = self._fit_scores(Z[train], y[train])
            return test, self._basis(Z[test], Z[train]) @ weights.T + intercept

        scores = np.zeros((len(y), y.max() + 1))
        numbers = np.unique(fold[fold >= 0])
        parallel = Parallel(n_jobs=getattr(self, "n_jobs", None), prefer="threads")
        for test, found in parallel(delayed(score)(number) for number in numbers):
            scores[test] = found
        return scores

    def _calibration(self, scores, y, number):
        matrix, shift = np.exp(self._expected_log_scale) * np.eye(number), np.zeros(number)
        # Classes that were never held out stay out, or it would learn that they never occur.
        seen, target = np.unique(y, return_inverse=True)
        if len(seen) > 1:
            scale = fit_scale(scores[:, seen], target, self._expected_log_scale)
            change, shift[seen] = _fit_map(scale * scores[:, seen], target, self._ridge)
            matrix = scale * np.eye(number)
            matrix[np.ix_(seen, seen)] += scale * change
        return matrix, shift


def _folds(X, y, random_state):
    """Tell the fold of each example: classes spread evenly, equal rows together.

    A copy that stays in training would flatter its twin. A class without a second distinct row gets
    -1, always in training.
    """
    distinct, row = np.unique(np.column_stack([y, X]), axis=0, return_inverse=True)
    label = distinct[:, 0].astype(int)
    order = np.random.RandomState(random_state).permutation(len(label))
    order = order[np.argsort(label[order], kind="stable")]
    fold = np.empty(len(label), dtype=int)
    fold[order] = np.arange(len(label)) % _FOLDS
    fold[np.bincount(label)[label] == 1] = -1
    return fold[row.ravel()]


def fit_scale(scores, target, expected_log_scale):
    """Find the scale of least log loss, drawn to the expected one by the weight of one example.

    Parameters
    ----------
    scores : ndarray of shape (n, n_classes)
    target : ndarray of shape (n,)
        Columns.
    expected_log_scale : float

    Returns
    -------
    float
    """

    def loss(log_scale):
        log_probabilities = log_softmax(np.exp(log_scale) * scores, axis=1)
        right = log_probabilities[np.arange(len(target)), target]
        return (log_scale - expected_log_scale) ** 2 - right.sum()

    return np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x)


def _fit_map(scores, target, ridge):
    """Find D and b of least log loss for softmax(s + sD + b), with a ridge on both."""
    n, k = scores.shape
    inputs, truth = np.column_stack([scores, np.ones(n)]), np.eye(k)[target]

    def loss_and_gradient(flat):
        log_probabilities = log_softmax(scores + inputs @ flat.reshape(k + 1, k), axis=1)
        gradient = inputs.T @ (np.exp(log_probabilities) - truth)
        loss = ridge / 2 * flat @ flat - (truth * log_probabilities).sum()
        return loss, gradient.ravel() + ridge * flat

    start = np.zeros((k + 1) * k)
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B").x.reshape(k + 1, k)
    return found[:k], found[k]
