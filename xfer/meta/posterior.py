"""What Bayesian classifiers share: averages over a posterior, and its uncertainty."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import entr
from scipy.stats import norm, qmc

from xfer.meta.base import MetaClassifier
from xfer.meta.novelty import TellsNovelty

if TYPE_CHECKING:
    from xfer.meta.base import Matrix

_FLOATS_PER_BATCH = 2_000_000
# Weight, mean and deviation of normal distributions whose mixture is nearly a Gumbel distribution:
# least squares, with errors below 0.0005.
_GUMBEL = (
    (0.122010, -0.777994, 0.465296),
    (0.328650, -0.085144, 0.600868),
    (0.340103, 0.753765, 0.800948),
    (0.173976, 1.854347, 1.126988),
    (0.035262, 3.415745, 1.750048),
)
_INTEGRAL_POINTS = 80


class Uncertainty(NamedTuple):
    """How uncertain predictions are, and why: arrays of shape (m,), in nats.

    Attributes
    ----------
    total : ndarray of shape (m,)
        The entropy of the predicted probabilities: the sum of the two others.
    aleatoric : ndarray of shape (m,)
        What would stay with any number of labels.
    epistemic : ndarray of shape (m,)
        What more labels would resolve.
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
        """Fit the model; return indices of left-out examples, and their probabilities.

        Rows of these need not sum to 1, nor have columns for all classes.
        """

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
        rows, p = self._fit_posterior(X, y, w)
        probabilities = p / p.sum(axis=1, keepdims=True)
        self._fit_novelty(X, y, w, rows, probabilities)

    def _probabilities(self, X: np.ndarray) -> np.ndarray:
        return self._average(X)[0]

    def _average(self, X: np.ndarray, entropies: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return mean probabilities, of shape (m, n_classes), and mean entropies, of shape (m,)."""
        probabilities = np.empty((len(X), len(self.classes_)))
        mean_entropies = np.empty(len(X))
        for rows in row_batches(len(X), self._floats_per_row):
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


def row_batches(n_rows: int, floats_per_row: int) -> Iterator[slice]:
    """Cut rows into slices that need a bounded amount of memory."""
    size = max(1, _FLOATS_PER_BATCH // floats_per_row)
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def expected_softmax(means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    r"""Average a softmax over independent normal scores, of shape (m, n_classes).

    The softmax is the probability that :math:`x_c = f_c + g_c` is the largest, where :math:`g_c`
    has a Gumbel distribution. Averaged over :math:`f`, that is one integral,
    :math:`\int F_c'(x) \prod_{j \neq c} F_j(x) dx` with the distribution functions :math:`F_j`
    of the :math:`x_j`: here a sum over points, the same for all classes of a row.
    """
    probabilities = np.empty_like(means)
    for rows in row_batches(len(means), 8 * _INTEGRAL_POINTS * means.shape[1]):
        probabilities[rows] = _largest_of_normals_plus_gumbels(means[rows], variances[rows])
    return probabilities


def _largest_of_normals_plus_gumbels(means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    deviations = np.sqrt(variances)
    low = (means - 4 * deviations).max(axis=1) - 2.5
    high = (means + 4.5 * deviations).max(axis=1) + 8 + np.log(means.shape[1])
    x = np.linspace(low, high, _INTEGRAL_POINTS)[:, :, None]
    values, slopes = np.zeros((2, _INTEGRAL_POINTS, *means.shape))
    for weight, mean, deviation in _GUMBEL:
        spread = np.sqrt(variances + deviation**2)
        z = x - (means + mean)
        z /= spread
        np.clip(z, -9, 9, out=z)
        # A normal distribution function with errors below 0.0002, five times as fast as ndtr: Page
        # (1977), Approximations to the Cumulative Normal Function and its Inverse.
        square = np.square(z)
        z *= -1.5976 - 0.070566 * square
        below = 1 / (1 + np.exp(z, out=z))
        square *= 3 * 0.070566
        square += 1.5976
        square *= below
        square *= 1 - below
        square *= weight / spread
        slopes += square
        below *= weight
        values += below
    slopes /= values
    slopes *= np.exp(np.log(values, out=values).sum(axis=2))[:, :, None]
    p = slopes.sum(axis=0)
    return p / p.sum(axis=1, keepdims=True)


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
    """Choose a factor from 1/3 to 12 for sampled scores of shape (n, n_samples, n_classes).

    Averages over a posterior can be too cautious, or too sure. On left-out examples, this is the
    factor nearest to 1 whose log loss, with a prior, is within two standard errors of the best
    (Breiman et al. 1984, Classification and Regression Trees, section 3.4.3): a few lucky examples
    do not decide.
    """
    if not len(y):
        return 1.0

    def losses(logarithm: float) -> np.ndarray:
        p = softmax_in_place(np.exp(logarithm) * scores)[np.arange(len(y)), :, y].mean(axis=1)
        # The prior is worth one example: even if all are right, the next one may not be.
        prior = logarithm**2 / w.sum()
        return prior - np.log(np.maximum(p, np.finfo(p.dtype).tiny))

    path = [losses(0.0)]
    for logarithms in (np.linspace(0, 2.5, 51), np.linspace(0, -1.1, 23)):
        best, path = 0, path[:1]
        for logarithm in logarithms[1:]:
            path.append(losses(logarithm))
            if w @ path[-1] < w @ path[best]:
                best = len(path) - 1
            elif len(path) - best > 3:
                break
        if best:  # on this side of 1
            break
    excess, error = mean_and_error(np.array(path) - path[best], w)
    return float(np.exp(logarithms[np.argmax(excess <= 2 * error)]))


def mean_and_error(values: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weighted means of values of shape (k, n), and their standard errors."""
    mean = values @ w / w.sum()
    return mean, np.linalg.norm((values - mean[:, None]) * w, axis=1) / w.sum()
