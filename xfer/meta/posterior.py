"""What Bayesian classifiers share: averages over a posterior, and what it does not know."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from scipy.special import entr
from scipy.stats import norm, qmc
from sklearn.base import ClassifierMixin
from sklearn.utils import gen_batches
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from xfer.meta.sparse import TakesSparse

_NUMBERS_AT_A_TIME = 2_000_000


class Uncertainty(NamedTuple):
    """How unsure a prediction is, and why; in nats.

    ``total`` is at most the logarithm of the number of classes, and is the sum of the other two.
    """

    #: Entropy of the predicted probabilities: ndarray of shape (m,).
    total: np.ndarray
    #: What would stay unknown however many labels there were: ndarray of shape (m,).
    aleatoric: np.ndarray
    #: What more labels would tell: ndarray of shape (m,).
    epistemic: np.ndarray


class BayesianClassifier(ClassifierMixin, TakesSparse, ABC):
    r"""A classifier with a posterior over its class scores.

    Probabilities are the softmax of the scores :math:`f`, averaged over the posterior. Their
    entropy is split in two [1]_:

    .. math:: H[\mathrm{E}\,p(y|f)] = \mathrm{E}\,H[p(y|f)] + I[y; f]

    References
    ----------
    .. [1] Depeweg et al. (2018), Decomposition of Uncertainty in Bayesian Deep Learning for
       Efficient and Risk-sensitive Learning, eq. 4.
    """

    @abstractmethod
    def _score_samples(self, X):
        """Draw class scores from the posterior: float array of shape (m, n_samples, n_classes)."""

    @property
    @abstractmethod
    def _numbers_a_row(self):
        """How many numbers prediction holds for each row."""

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : array-like of shape (m, d)

        Returns
        -------
        ndarray of shape (m,)
            Members of ``classes_``: those of the largest probability.
        """
        numbers = self.predict_proba(X).argmax(axis=1)
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
        return self._average(X)[0]

    def predict_uncertainty(self, X):
        """Tell how unsure each prediction is, and how much of it more labels would mend.

        Parameters
        ----------
        X : array-like of shape (m, d)

        Returns
        -------
        Uncertainty
            ``total``, ``aleatoric`` and ``epistemic``, each of shape (m,), in nats.
        """
        probabilities, aleatoric = self._average(X, entropies=True)
        total = entr(probabilities).sum(axis=1)
        # Jensen's inequality holds but for rounding.
        aleatoric = np.minimum(aleatoric, total)
        return Uncertainty(total, aleatoric, total - aleatoric)

    def _average(self, X, entropies=False):
        """Return mean probabilities, of shape (m, n_classes), and mean entropies, of shape (m,)."""
        check_is_fitted(self)
        X = self._validated(X, dtype=np.float64, reset=False)
        probabilities = np.empty((len(X), len(self.classes_)))
        aleatoric = np.empty(len(X))
        for rows in gen_batches(len(X), max(1, _NUMBERS_AT_A_TIME // self._numbers_a_row)):
            p = softmax_in_place(self._score_samples(X[rows]))
            probabilities[rows] = p.mean(axis=1, dtype=np.float64)
            if entropies:
                aleatoric[rows] = entr(p).sum(axis=2).mean(axis=1, dtype=np.float64)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return probabilities, aleatoric

    def _checked(self, X, y):
        """Validate training data; set ``classes_``; return X and class numbers."""
        X, y = self._validated(X, y, dtype=np.float64)
        check_classification_targets(y)
        classes, numbers = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                "Classifier needs samples of at least 2 classes; the data contains only one "
                f"class: {classes.tolist()[0]!r}"
            )
        self.classes_ = classes
        return X, numbers


def softmax_in_place(scores):
    """Turn scores into probabilities along the last axis, in their own memory."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def standard_normal_points(number, dimensions, seed):
    """Spread points as a standard normal: quasi-random [1]_, each with its mirror image.

    Parameters
    ----------
    number : int
        Of points, even.
    dimensions : int
    seed : int, RandomState or Generator
        Of the scrambling.

    Returns
    -------
    ndarray of shape (number, dimensions)
        Columns have mean 0 and variance 1, and are uncorrelated where there are points enough.

    References
    ----------
    .. [1] Owen (1998), Scrambling Sobol' and Niederreiter-Xing Points.
    """
    half = 1 << (number // 2 - 1).bit_length()
    points = norm.ppf(qmc.Sobol(dimensions, seed=seed).random(half)[: number // 2])
    if len(points) >= dimensions:
        factor = np.linalg.cholesky(points.T @ points / len(points))
        points = np.linalg.solve(factor, points.T).T
    points = np.concatenate([points, -points])
    return points / points.std(axis=0)


def choose_sharpness(scores, y):
    r"""Choose what to multiply scores by, so that probabilities are as sure as they may be.

    Averages over a posterior can be too cautious. Among the factors from 1 up, the least one is
    chosen whose log loss is within two standard errors of the least loss, as by the rule of
    Breiman et al. [1]_ that guards against the luck of few examples. The loss includes a prior.

    Parameters
    ----------
    scores : ndarray of shape (n, n_samples, n_classes)
        Sampled scores of examples that had no part in the fit.
    y : ndarray of shape (n,)
        Their class numbers.

    Returns
    -------
    float
        From 1 to about 12.

    References
    ----------
    .. [1] Breiman et al. (1984), Classification and Regression Trees, section 3.4.3.
    """
    factors, losses, best = np.exp(np.linspace(0, 2.5, 51)), [], 0
    for factor in factors:
        p = softmax_in_place(factor * scores)[np.arange(len(y)), :, y].mean(axis=1)
        # The prior is worth one example: even if all are right, more will not be.
        prior = np.log(factor) ** 2 / len(y)
        losses.append(prior - np.log(np.maximum(p, np.finfo(p.dtype).tiny)))
        if losses[-1].mean() < losses[best].mean():
            best = len(losses) - 1
        elif len(losses) - best > 3:
            break
    excess = np.array(losses) - losses[best]
    error = excess.std(axis=1) / np.sqrt(len(y))
    return float(factors[np.argmax(excess.mean(axis=1) <= 2 * error)])
