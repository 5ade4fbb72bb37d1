"""How unlike the labelled examples of every class a new example is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr
from sklearn.base import BaseEstimator
from sklearn.metrics import euclidean_distances
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from xfer._checks import check_share
from xfer.meta.base import distinct_rows
from xfer.meta.conformal import quantile
from xfer.meta.whitening import column_means, signed_root, takes_root

if TYPE_CHECKING:
    from xfer.meta.base import Matrix

_LEAST_SHARE = 1e-9  # of the scatter; with less left, no distance can be told


class Novelty(BaseEstimator):
    r"""Distance to the nearest class, together with the doubt which class it is.

    The score of an example is :math:`\log D + H / \log K`: :math:`D` is the Mahalanobis distance to
    the nearest of :math:`K` class means, with one covariance for all classes [1]_, and :math:`H`
    the entropy of the predicted probabilities, in nats. The covariance is shrunk towards a multiple
    of the identity with weight :math:`d / (d + n)`. If no feature is negative, square roots are
    taken first.

    Attributes
    ----------
    left_out_distances_ : ndarray of shape (n,)
        The distance of each labelled example, itself taken out with its copies from mean and
        covariance. It is NaN if its class has no other member.

    References
    ----------
    .. [1] Lee et al. (2018), A Simple Unified Framework for Detecting Out-of-Distribution Samples
       and Adversarial Attacks, eq. 1 and 2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = Novelty().fit(X[:100], y[:100])
    >>> bool(model.distance(X[100:]).mean() > 2 * model.distance(X[:100]).mean())
    True
    """

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to features of shape (n, d) and labels of any kind; weights count copies, 0 drops."""
        matrix, labels = validate_data(self, X, y, dtype=np.float64)
        w = _check_sample_weight(sample_weight, matrix, dtype=np.float64, ensure_non_negative=True)
        self.left_out_distances_ = np.full(len(matrix), np.nan)
        used = np.flatnonzero(w)
        self.roots_ = takes_root(matrix[used])
        matrix, w = self._roots(matrix[used]), w[used]
        self.center_ = column_means(matrix, w)
        matrix = matrix - self.center_
        classes = np.unique(np.asarray(labels)[used], return_inverse=True)[1]
        # A copy would make its twin look near when that is left out.
        rows, copies = distinct_rows(np.column_stack([classes, matrix]))
        distinct = matrix[rows], classes[rows], np.bincount(copies, w)
        self._fit_distinct(*distinct)
        self.left_out_distances_[used] = self._left_out_distances(*distinct)[copies]
        return self

    def distance(self, X: ArrayLike) -> np.ndarray:
        """Return the distance of each row to the nearest class mean, of shape (m,)."""
        check_is_fitted(self)
        matrix = validate_data(self, X, dtype=np.float64, reset=False)
        matrix = self._roots(matrix) - self.center_
        whole = np.array([self.total_weight_]), np.array([self.trace_])
        squares = self._squares(matrix, self._project(matrix), *whole)
        return np.sqrt(squares.min(axis=1))

    def _roots(self, X: np.ndarray) -> np.ndarray:
        return signed_root(X) if self.roots_ else X

    def _fit_distinct(self, X: np.ndarray, y: np.ndarray, w: np.ndarray) -> None:
        totals = np.bincount(y, w)
        self.means_ = np.stack([w[y == c] @ X[y == c] / totals[c] for c in range(len(totals))])
        residuals = X - self.means_[y]
        if (np.bincount(y) == 1).all():  # then only the spread of all examples is known
            residuals = X
        self.n_varying_ = max(1, np.count_nonzero(np.ptp(X, axis=0)))
        self.total_weight_ = w.sum()
        rows = np.sqrt(w)[:, None] * residuals
        self.trace_ = float(np.square(rows).sum()) or 1.0  # if all are equal: plain distances
        # The smaller of the two products: its eigenvalues are those of the scatter.
        wide = rows.shape[0] < rows.shape[1]
        eigenvalues, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
        kept = eigenvalues > 1e-10 * self.trace_
        self.eigenvalues_, vectors = eigenvalues[kept], vectors[:, kept]
        # Onto the axes in two steps: their product would take as long again as all the rest.
        self.projections_ = [rows.T, vectors / np.sqrt(self.eigenvalues_)] if wide else [vectors]

    def _project(self, X: np.ndarray) -> np.ndarray:
        """Return coordinates along the axes of the scatter, of shape (m, n_axes)."""
        for matrix in self.projections_:
            X = X @ matrix
        return X

    def _precisions(self, totals: np.ndarray, traces: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the inverse variances along the axes and elsewhere, and the share of the scatter.

        They are of the shrunk covariance for these total weights and traces, of shape (m,).
        """
        d = self.n_varying_
        shrinkage = d / (d + totals)
        share = (1 - shrinkage) / totals
        elsewhere = shrinkage * traces / (totals * d)
        along = share[:, None] * self.eigenvalues_ + elsewhere[:, None]
        return 1 / along, 1 / elsewhere[:, None], share

    def _squares(
        self, X: np.ndarray, Z: np.ndarray, totals: np.ndarray, traces: np.ndarray
    ) -> np.ndarray:
        """Return squared distances to all class means, of shape (m, n_classes)."""
        along, elsewhere, _ = self._precisions(totals, traces)
        means, excess = self._project(self.means_), along - elsewhere
        squares = elsewhere * euclidean_distances(X, self.means_, squared=True)
        squares += (np.square(Z) * excess).sum(axis=1, keepdims=True)
        squares += excess @ np.square(means).T - 2 * (Z * excess) @ means.T
        return np.maximum(squares, 0)

    def _left_out_distances(self, X: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Return the distance of each distinct example to the means of all others.

        Without an example, the mean of its class moves away by w / (W - w) times its residual r,
        and the scatter loses g r r' with g = w W / (W - w), where W is the weight of the class. The
        inverse follows by the formula of Sherman and Morrison.
        """
        distances = np.full(len(y), np.nan)
        of_class = np.bincount(y, w)[y]
        residuals = X - self.means_[y]
        with np.errstate(divide="ignore", invalid="ignore"):
            lost = w * of_class / (of_class - w)
            traces = self.trace_ - lost * np.square(residuals).sum(axis=1)
        told = (np.bincount(y)[y] > 1) & (traces > _LEAST_SHARE * self.trace_)
        if not told.any():
            return distances
        X, y, w, lost, of_class = X[told], y[told], w[told], lost[told], of_class[told]
        totals, traces = self.total_weight_ - w, traces[told]
        Z, means = self._project(X), self._project(self.means_)
        squares = self._squares(X, Z, totals, traces)
        along, _, share = self._precisions(totals, traces)
        R = Z - means[y]  # of the residuals
        weighted = R * along
        own = (R * weighted).sum(axis=1)
        cross = (Z * weighted).sum(axis=1, keepdims=True) - weighted @ means.T
        left = 1 - share * lost * own
        squares += (share * lost / left)[:, None] * np.square(cross)
        squares[np.arange(len(y)), y] = np.square(of_class / (of_class - w)) * own / left
        distances[told] = np.sqrt(squares.min(axis=1))
        return distances


class TellsNovelty:
    """A classifier that fits a :class:`Novelty` beside itself."""

    predict_proba: Callable[[Any], np.ndarray]
    _compute: Callable[..., Any]
    _novelty: Any

    def novelty(self, X: Matrix) -> np.ndarray:
        r"""Return how unlike the examples of every class each row is: log D + H / log K.

        :math:`D` is the Mahalanobis distance to the nearest of :math:`K` class means and :math:`H`
        the entropy of the predicted probabilities: see :class:`xfer.meta.novelty.Novelty`. Of shape
        (m,).
        """
        return novelty_scores(self._compute(self._distance, X), self.predict_proba(X))

    def is_novel(self, X: Matrix, false_alarms: float = 0.05) -> np.ndarray:
        """Return which rows belong to no known class: bool, of shape (m,).

        ``false_alarms`` is the share of new examples of known classes that are called novel, as
        left-out labelled examples tell. With n of them it must be at least 1 / (n + 1): below that,
        no row is called novel.
        """
        check_share("false_alarms", false_alarms)
        threshold = quantile(self.left_out_novelty_, 1 - false_alarms, self._left_out_weights)
        return self.novelty(X) > threshold

    def _fit_novelty(
        self, X: Any, y: np.ndarray, w: np.ndarray, rows: Any, probabilities: np.ndarray
    ) -> None:
        """Fit to examples, some of which have left-out probabilities."""
        self._novelty = self._new_novelty(X, y, w)
        distances = self._left_out_distances()[rows]
        self.left_out_novelty_ = novelty_scores(distances, probabilities)
        self._left_out_weights = w[rows]

    def _new_novelty(self, X: Any, y: np.ndarray, w: np.ndarray) -> Any:
        return Novelty().fit(X, y, w)

    def _left_out_distances(self) -> np.ndarray:
        return self._novelty.left_out_distances_

    def _distance(self, X: Any) -> np.ndarray:
        return self._novelty.distance(X)


def novelty_scores(distances: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return log D + H / log K for distances of shape (m,) and predicted probabilities."""
    entropies = entr(probabilities).sum(axis=1) / np.log(probabilities.shape[1])
    return np.log(np.maximum(distances, np.finfo(float).tiny)) + entropies
