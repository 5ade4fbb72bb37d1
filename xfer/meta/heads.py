"""Classifiers of one feature matrix in closed form, with each example predicted from the others.

A head learns from features (n, d), class indices y (n,) and weights of examples w (n,), and returns
log probabilities (n, n_classes): those of each example are by a model that has not seen its label.
Every example is distinct. If it is the only one of its class, leaving it out can only give a wrong
answer; such examples do not count when a head chooses its strength and its temperature.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix, issparse
from scipy.special import log_softmax
from sklearn.base import BaseEstimator
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils.extmath import safe_sparse_dot

from xfer.meta.whitening import PartialWhitening, column_means, unit_rows

_GAMMA = 0.3
LANDMARKS = 1500  # with more examples, these stand for them in the kernel
_STRENGTHS = 10.0 ** np.arange(-3, 2, 0.5)
_SHRINKAGES = (0.02, 0.1, 0.3, 0.6, 0.9, 0.99)
_SMOOTHINGS = 10.0 ** np.arange(-5.5, -2, 0.5)
_TINY = 1e-12
_TOO_FEW = 10
_CHOSEN_ON = 200_000  # numbers of the score matrix that strength and temperature are chosen on


class FeatureHeads(BaseEstimator):
    """Three heads that share the scaling of one feature matrix.

    They are ridge regression with a Gaussian kernel, and Gaussians with one covariance, on partly
    whitened features; and linear ridge regression on unit vectors. Sparse features are word counts:
    they have linear ridge regression, without centring, and naive Bayes.
    """

    def fit_left_out(
        self, X: Any, y: np.ndarray, w: np.ndarray, n_classes: int
    ) -> dict[str, np.ndarray]:
        """Fit all heads, and return left-out log probabilities (n, n_classes) for each, by name."""
        self.heads_ = {"linear": RidgeHead("linear")}
        self.mean_ = None
        if issparse(X) and X.min() >= 0:
            self.heads_["naive Bayes"] = WordsHead()
        if not issparse(X):
            self.mean_ = column_means(X, w)
            self.whitening_ = PartialWhitening().fit(X, sample_weight=w)
            self.heads_ |= {"kernel": RidgeHead("rbf"), "gaussian": GaussianHead()}
        given = zip(self.heads_.items(), self._scaled(X))
        return {name: head.fit_left_out(Z, y, w, n_classes) for (name, head), Z in given}

    def log_proba(self, X: Any) -> list[np.ndarray]:
        """Return log probabilities (m, n_classes) of new examples for each head."""
        return [head.log_proba(Z) for head, Z in zip(self.heads_.values(), self._scaled(X))]

    def _scaled(self, X: Any) -> list[Any]:
        """Return the features that each head takes."""
        if self.mean_ is None:
            return [unit_rows(X), X]
        Z = self.whitening_.transform(X)
        return [unit_rows(X - self.mean_), Z, Z]


class RidgeHead(BaseEstimator):
    r"""Ridge regression of the labels, whose scores become probabilities by a temperature.

    The score of an example by a model without it is :math:`(f_i - h_i y_i) / (1 - h_i)`, where
    :math:`f_i` is its score by the model with it and :math:`h_i` the diagonal of the hat matrix
    (Rifkin and Lippert 2007, Notes on Regularized Least Squares, section 5). The strength of the
    ridge and the temperature have the least log loss on these, with weak priors.
    """

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel

    def fit_left_out(self, Z: Any, y: np.ndarray, w: np.ndarray, n_classes: int) -> np.ndarray:
        """Fit, and return left-out log probabilities (n, n_classes)."""
        roots = np.sqrt(w)
        targets = roots[:, None] * (np.eye(n_classes)[y] - 1 / n_classes)
        Q, squares, to_coefficients = self._decompose(Z, roots)
        products, known = Q.T @ targets, can_tell(y)
        rows = chosen_rows(len(y), n_classes)
        best = np.inf
        for strength in _STRENGTHS:
            kept = squares / (squares + strength)
            leverage = np.square(Q) @ kept
            left_out = Q @ (kept[:, None] * products) - leverage[:, None] * targets
            left_out /= (roots * (1 - leverage))[:, None]
            # Scaled, so that one prior on the temperature fits all.
            unit = left_out.std() or 1.0
            expected = 1.0 if known.any() else self._expected
            factor, loss = _temperature(left_out / unit, y, w * known, expected, rows)
            loss += (np.log10(strength) + 1) ** 2 / 4
            if loss < best:
                best, chosen, scores = loss, strength, left_out
                self.inverse_temperature_ = factor / unit
        weights = (np.sqrt(squares) / (squares + chosen))[:, None] * products
        self.coefficients_ = to_coefficients(weights)
        return log_softmax(self.inverse_temperature_ * scores, axis=1)

    def log_proba(self, Z: Any) -> np.ndarray:
        """Return log probabilities (m, n_classes) of new examples."""
        features = self._kernel(Z) if self.kernel == "rbf" else Z
        scores = features @ self.coefficients_[:-1] + self.coefficients_[-1]
        return log_softmax(self.inverse_temperature_ * scores, axis=1)

    @property
    def _expected(self) -> float:
        """The logarithm of the temperature where every class has one example."""
        return -0.7 if self.kernel == "rbf" else -0.2

    def _decompose(self, Z: Any, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
        """Return left singular vectors and squared singular values of weighted features.

        The features have a column of ones, for the intercept. The third value turns coefficients of
        the singular vectors into those of the features.
        """
        n = len(roots)
        if self.kernel == "rbf":
            few = n <= LANDMARKS
            self.landmarks_ = Z if few else Z[np.random.RandomState(0).permutation(n)[:LANDMARKS]]
            gram = features = self._kernel(Z)
            basis = None
            if not few:
                squares, vectors = _eigen(self._kernel(self.landmarks_))
                basis = vectors / np.sqrt(squares)
                features = gram @ basis
        else:
            basis, few = None, n <= Z.shape[1]
            if few:
                gram = safe_sparse_dot(Z, Z.T, dense_output=True)
            else:
                features = Z.toarray() if issparse(Z) else Z
        if few:
            squares, Q = _eigen((gram + 1) * np.outer(roots, roots))

            def of_features(weights: np.ndarray) -> np.ndarray:
                dual = roots[:, None] * (Q @ (weights / np.sqrt(squares)[:, None]))
                first = dual if self.kernel == "rbf" else Z.T @ dual
                return np.vstack([first, dual.sum(axis=0)])

            return Q, squares, of_features
        columns = np.column_stack([features, np.ones(n)]) * roots[:, None]
        squares, vectors = _eigen(columns.T @ columns)

        def back(weights: np.ndarray) -> np.ndarray:
            found = vectors @ weights
            return found if basis is None else np.vstack([basis @ found[:-1], found[-1:]])

        return columns @ vectors / np.sqrt(squares), squares, back

    def _kernel(self, Z: np.ndarray) -> np.ndarray:
        distances = euclidean_distances(Z, self.landmarks_, squared=True)
        return np.exp(-_GAMMA * distances, out=distances)


class GaussianHead(BaseEstimator):
    """A Gaussian for each class, with one covariance, shrunk towards a multiple of the identity.

    Leaving an example out moves the mean of its class and takes a matrix of rank one from the
    covariance, so the Sherman-Morrison formula gives its distances; what the covariance is shrunk
    to stays the same. Shrinkage and temperature have the least log loss on these.
    """

    def fit_left_out(
        self, Z: np.ndarray, y: np.ndarray, w: np.ndarray, n_classes: int
    ) -> np.ndarray:
        """Fit, and return left-out log probabilities (n, n_classes)."""
        n, d = Z.shape
        own, totals = (np.arange(n), y), np.bincount(y, w, n_classes)
        one_hot = np.zeros((n, n_classes))
        one_hot[own] = w
        means = one_hot.T @ Z / totals[:, None]
        away = Z - means[y]
        degrees = w.sum() - n_classes
        covariance = (away * w[:, None]).T @ away
        known = can_tell(y)
        if not known.any() or not covariance.any() or degrees <= 0:
            centred = Z - w @ Z / w.sum()
            covariance = np.eye(d) * ((w @ np.square(centred)).mean() / w.sum() or 1.0)
            degrees = 1.0
        variances, axes = np.linalg.eigh(covariance / degrees)
        variances = np.maximum(variances, 0)
        Z, means, away = Z @ axes, means @ axes, away @ axes
        rest = totals[y] - w  # of the class, without the example
        grows = np.divide(totals[y], rest, out=np.ones(n), where=known)
        rows, best = chosen_rows(n, n_classes), np.inf
        for shrinkage in _SHRINKAGES:
            spread = (1 - shrinkage) * variances + shrinkage * variances.mean()
            towards = away / spread
            squares = np.square(Z) @ (1 / spread)
            squares = squares[:, None] - 2 * Z @ (means / spread).T
            squares += np.square(means) @ (1 / spread)
            products = (towards * Z).sum(axis=1)[:, None] - towards @ means.T
            length = (towards * away).sum(axis=1)
            squares[own], products[own] = length * grows**2, length * grows
            taken = (1 - shrinkage) / degrees * w * grows * known
            distances = (
                squares + (taken / np.maximum(1 - taken * length, 1e-6))[:, None] * products**2
            )
            scores = distances / (-2 * np.sqrt(d))
            factor, loss = _temperature(scores, y, w * known, 0.0, rows)
            if loss < best:
                best, left_out, chosen = (
                    loss,
                    factor * scores,
                    (means / spread, factor / np.sqrt(d)),
                )
        weighted, factor = chosen
        self.coefficients_ = axes @ (factor * weighted.T)
        self.intercepts_ = -factor / 2 * (weighted * means).sum(axis=1)
        return log_softmax(left_out, axis=1)

    def log_proba(self, Z: np.ndarray) -> np.ndarray:
        """Return log probabilities (m, n_classes) of new examples."""
        return log_softmax(Z @ self.coefficients_ + self.intercepts_, axis=1)


class WordsHead(BaseEstimator):
    r"""Naive Bayes on the words of all other classes, for weighted counts of words.

    The score of class c is :math:`-\sum_t x_t \log p_t`, where :math:`p_t` is the share of word t
    in all examples that are not of class c (Rennie et al. 2003, Tackling the Poor Assumptions of
    Naive Bayes Text Classifiers, section 3). A number is added to the shares, not to the counts:
    else leaving an example out would favour its class, of which there are then the fewest. This
    number and the temperature have the least log loss on left-out examples.
    """

    def fit_left_out(
        self, X: csr_matrix, y: np.ndarray, w: np.ndarray, n_classes: int
    ) -> np.ndarray:
        """Fit, and return left-out log probabilities (n, n_classes)."""
        others = w[:, None] * (1 - np.eye(n_classes)[y])
        sums = (X.T @ others).T + 0.0  # (n_classes, n_words)
        totals = sums.sum(axis=1)
        known, rows, best = can_tell(y), chosen_rows(len(y), n_classes), np.inf
        for smoothing in _SMOOTHINGS:
            scores = np.empty((len(y), n_classes))
            for i, ends in enumerate(zip(X.indptr, X.indptr[1:])):
                x, words = X.data[slice(*ends)], X.indices[slice(*ends)]
                left = np.maximum(sums[:, words] - others[i][:, None] * x, 0)
                of_all = totals - others[i] * x.sum()
                scores[i] = -np.log(left / np.maximum(of_all, _TINY)[:, None] + smoothing) @ x
            unit = scores.std(axis=1).mean() or 1.0
            expected = 1.0 if known.any() else -0.75
            factor, loss = _temperature(scores / unit, y, w * known, expected, rows)
            if loss < best:
                best, left_out, chosen = loss, factor / unit * scores, smoothing
                self.inverse_temperature_ = factor / unit
        self.coefficients_ = -np.log(sums / np.maximum(totals, _TINY)[:, None] + chosen).T
        return log_softmax(left_out, axis=1)

    def log_proba(self, X: csr_matrix) -> np.ndarray:
        """Return log probabilities (m, n_classes) of new examples."""
        return log_softmax(self.inverse_temperature_ * (X @ self.coefficients_), axis=1)


def has_company(y: np.ndarray) -> np.ndarray:
    """Return whether the class of each example has another one."""
    return np.bincount(y)[y] > 1


def can_tell(y: np.ndarray) -> np.ndarray:
    """Return whether what each example's left-out prediction says may decide anything.

    With ten examples or fewer, it may not: without the example, its class is much smaller than the
    others, and choices that make up for that often predict new examples worse than none.
    """
    known = has_company(y)
    return known & (known.sum() > _TOO_FEW)


def chosen_rows(n: int, n_classes: int) -> np.ndarray:
    """Return the rows that are enough to choose a temperature on."""
    return np.random.RandomState(0).permutation(n)[: max(100, _CHOSEN_ON // n_classes)]


def _temperature(
    scores: np.ndarray, y: np.ndarray, w: np.ndarray, expected: float, rows: np.ndarray
) -> tuple[float, float]:
    """Return the factor of least log loss (weighted), and that loss.

    The prior on its logarithm has the weight of one example.
    """
    if len(rows) < len(y):
        scores, y, w = scores[rows], y[rows], w[rows]
    if not w.any():
        return float(np.exp(expected)), 0.0
    of_label = np.arange(len(y)), y

    def loss(logarithm: float) -> float:
        log_probabilities = log_softmax(np.exp(logarithm) * scores, axis=1)[of_label]
        return (logarithm - expected) ** 2 - w @ log_probabilities

    bounds = expected - 4, expected + 5
    result = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-2})
    return float(np.exp(result.x)), float(result.fun)


def _eigen(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positive eigenvalues of a symmetric matrix, and their vectors as columns."""
    values, vectors = np.linalg.eigh(A)
    kept = values > 1e-10 * values[-1]
    return values[kept], vectors[:, kept]
