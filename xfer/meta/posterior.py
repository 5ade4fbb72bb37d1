"""What Bayesian classifiers share: averages over a posterior, and its uncertainty."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import entr
from scipy.stats import norm, qmc
from sklearn.utils import gen_batches

from xfer.meta.base import MetaClassifier
from xfer.meta.novelty import TellsNovelty

if TYPE_CHECKING:
    from xfer.meta.base import Matrix

_FLOATS_PER_BATCH = 2_000_000


class Uncertainty(NamedTuple):
    """How uncertain predictions are, and why: arrays of shape (m,), in nats.

    ``total``, the entropy of the predicted probabilities, is the sum of ``aleatoric``, which would
    stay with any number of labels, and ``epistemic``, which more labels would resolve.
    """

    total: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray


class BayesianClassifier(TellsNovelty, MetaClassifier):
    """A classifier with a posterior over its class scores f.

    Probabilities are the softmax of f, averaged over the posterior. Their entropy is split in two:
    H[E p(y|f)] = E H[p(y|f)] + I[y; f] (Depeweg et al. 2018, Decomposition of Uncertainty in
    Bayesian Deep Learning for Efficient and Risk-sensitive Learning, eq. 4).
    """

    @abstractmethod
    def _fit_posterior(
        self, X: np.ndarray, y: np.ndarray, w: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fit the model; return indices of examples that were left out, and their probabilities."""

    @abstractmethod
    def _score_samples(self, X: np.ndarray) -> np.ndarray:
        """Sample class scores from the posterior, of shape (m, n_samples, n_classes)."""

    @property
    @abstractmethod
    def _floats_per_row(self) -> int:
        """How many floats a prediction holds in memory for each row."""

    def predict_uncertainty(self, X: Matrix) -> Uncertainty:
        """Return how uncertain each prediction is, and how much of it more labels would resolve."""
        probabilities, aleatoric = self._compute(self._average, X, entropies=True)
        total = entr(probabilities).sum(axis=1)
        # By Jensen's inequality it is at most the total, except for rounding.
        aleatoric = np.minimum(aleatoric, total)
        return Uncertainty(total, aleatoric, total - aleatoric)

    def _fit(self, X: np.ndarray, y: np.ndarray, w: np.ndarray) -> None:
        rows, probabilities = self._fit_posterior(X, y, w)
        self._fit_novelty(X, y, w, rows, probabilities)

    def _probabilities(self, X: np.ndarray) -> np.ndarray:
        return self._average(X)[0]

    def _average(self, X: np.ndarray, entropies: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return mean probabilities, of shape (m, n_classes), and mean entropies, of shape (m,)."""
        probabilities = np.empty((len(X), len(self.classes_)))
        mean_entropies = np.empty(len(X))
        for rows in gen_batches(len(X), max(1, _FLOATS_PER_BATCH // self._floats_per_row)):
            p = softmax_in_place(self._score_samples(X[rows]))
            p *= self.prior_ratio_
            probabilities[rows] = p.mean(axis=1, dtype=np.float64)
            if entropies:
                # With a class prior, rows do not sum to 1, and a sample weighs as much as its sum.
                sums = p.sum(axis=2)
                weighted = (entr(p).sum(axis=2) - entr(sums)).mean(axis=1, dtype=np.float64)
                mean_entropies[rows] = weighted / sums.mean(axis=1, dtype=np.float64)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return probabilities, mean_entropies


def softmax_in_place(scores: np.ndarray) -> np.ndarray:
    """Turn scores into probabilities along the last axis, in their own memory."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def standard_normal_points(n_points: int, dimensions: int, seed: Any) -> np.ndarray:
    """Return quasi-random standard normal points of shape (n_points, dimensions); an even count.

    They are scrambled Sobol points (Owen 1998, Scrambling Sobol' and Niederreiter-Xing Points) and
    their mirror images. Columns have variance 1, and are uncorrelated if there are enough points.
    """
    half = 1 << (n_points // 2 - 1).bit_length()
    points = norm.ppf(qmc.Sobol(dimensions, seed=seed).random(half)[: n_points // 2])
    if len(points) >= dimensions:
        factor = np.linalg.cholesky(points.T @ points / len(points))
        points = np.linalg.solve(factor, points.T).T
    points = np.concatenate([points, -points])
    return points / points.std(axis=0)


def choose_inverse_temperature(scores: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """Choose a factor from 1 to about 12 for sampled scores of shape (n, n_samples, n_classes).

    Averages over a posterior can be too cautious. On left-out examples, this is the least factor
    whose log loss, with a prior, is within two standard errors of the best (Breiman et al. 1984,
    Classification and Regression Trees, section 3.4.3): a few lucky examples do not decide.
    """
    factors, losses, best = np.exp(np.linspace(0, 2.5, 51)), list[np.ndarray](), 0
    for factor in factors:
        p = softmax_in_place(factor * scores)[np.arange(len(y)), :, y].mean(axis=1)
        # The prior is worth one example: even if all are right, the next one may not be.
        prior = np.log(factor) ** 2 / w.sum()
        losses.append(prior - np.log(np.maximum(p, np.finfo(p.dtype).tiny)))
        if w @ losses[-1] < w @ losses[best]:
            best = len(losses) - 1
        elif len(losses) - best > 3:
            break
    excess, error = mean_and_error(np.array(losses) - losses[best], w)
    return float(factors[np.argmax(excess <= 2 * error)])


def mean_and_error(values: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weighted means of values of shape (k, n), and their standard errors."""
    mean = values @ w / w.sum()
    return mean, np.linalg.norm((values - mean[:, None]) * w, axis=1) / w.sum()
