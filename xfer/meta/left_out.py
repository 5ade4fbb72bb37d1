r"""Gaussian process regression on Dirichlet targets: each label predicted from all the others.

Examples are sorted by class and have weights, which divide their noise: W is diagonal. The noise is
:math:`\sigma_-^2`, except :math:`\sigma_+^2` for the rows of class c itself, so with
:math:`G = (K + \sigma_-^2 W^{-1})^{-1}` the precision of class c is, by Woodbury's identity,

.. math:: (K + D_c)^{-1} = G + Q_c^T Q_c, \quad
          Q_c = \mathrm{chol}(W_{cc} / (\sigma_-^2 - \sigma_+^2) - G_{cc})^{-1} G_{c:}

and the :math:`Q_c` of all classes, stacked, are one n x n matrix. Everything below costs a few
products of n x n matrices, for any number of classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xfer.meta.posterior import row_batches, softmax_in_place


class Targets(NamedTuple):
    """Regression targets and noise that stand for labels: Milios et al. (2018), section 4."""

    gap: float  # how far the target of the example's class lies above that of another
    noise: np.ndarray  # variance for the example's class, and for another
    gap_slope: float  # derivatives by the logarithm of the concentration
    noise_slope: np.ndarray


def dirichlet_targets(log_concentration: float) -> Targets:
    """Return the targets for a Dirichlet concentration of the classes that were not seen."""
    concentration = np.exp(log_concentration)
    a = np.array([1.0, 0.0]) + concentration
    noise, noise_slope = np.log1p(1 / a), -concentration / (a * (a + 1))
    target, slope = np.log(a) - noise / 2, concentration / a - noise_slope / 2
    return Targets(target[0] - target[1], noise, slope[0] - slope[1], noise_slope)


class LeftOut:
    """Each label predicted from all other examples, and the loss of that with its gradient.

    `K` is the covariance of the scores; `one_hot` is bool, its rows sorted by class; `w`, of shape
    (n,), are the weights of the examples. `means` and `variances`, of shape (n, n_classes), are
    those of the scores of each example given all others: Rasmussen and Williams (2006), eq. 5.12.
    `rows` are the examples whose class has other members. Without its only member a class is
    unknown, so what is predicted for it then says nothing of how well it will be known.
    """

    def __init__(self, K: np.ndarray, one_hot: np.ndarray, w: np.ndarray, targets: Targets) -> None:
        self.one_hot, self.w, self.targets = one_hot, w[:, None], targets
        counts = one_hot.sum(axis=0)
        ends = counts.cumsum()
        self.labels = one_hot.argmax(axis=1)
        self.rows = np.flatnonzero(counts[self.labels] > 1)
        self.slices = [slice(end - count, end) for end, count in zip(ends, counts)]
        self.G = _inverse(K, targets.noise[1] / w)
        noise_gap = targets.noise[1] - targets.noise[0]
        self.Q = np.empty_like(self.G)
        for rows in self.slices:
            S = -self.G[rows, rows]
            S[np.diag_indices(len(S))] += w[rows] / noise_gap
            self.Q[rows] = np.linalg.inv(np.linalg.cholesky(S)) @ self.G[rows]
        y = targets.gap * (one_hot - 1 / one_hot.shape[1])
        self.weights = self._solve(y)
        added = np.add.reduceat(self.Q**2, ends - counts, axis=0)
        self.precisions = np.diag(self.G)[:, None] + added.T
        self.means = y - self.weights / self.precisions
        noise = np.where(one_hot, *targets.noise) / self.w
        self.variances = np.maximum(1 / self.precisions - noise, 1e-12)

    def scores(self, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Return samples of the scores of some examples, of shape (m, n_points, n_classes)."""
        return self.means[rows, None] + np.sqrt(self.variances[rows, None]) * points

    def loss(self, points: np.ndarray) -> tuple[float, np.ndarray, float]:
        """Return the weighted negative log likelihood of `rows` (nats), and its gradients.

        They are by K and by log concentration. `points`, of shape (n_points, n_classes), are
        standard normal.
        """
        loss, by_mean, by_variance = 0.0, np.zeros_like(self.means), np.zeros_like(self.means)
        for batch in row_batches(len(self.rows), points.size):
            rows = self.rows[batch]
            p = softmax_in_place(self.scores(rows, points))
            w, one_hot = self.w[rows], self.one_hot[rows]
            of_label = p[np.arange(len(rows)), :, self.labels[rows]]
            loss -= np.log(of_label.mean(axis=1)) @ w[:, 0]
            share = w * of_label / of_label.sum(axis=1, keepdims=True)
            p *= share[:, :, None]
            by_mean[rows] = p.sum(axis=1) - w * one_hot
            by_deviation = np.einsum("nsc,sc->nc", p, points) - one_hot * (share @ points)
            by_variance[rows] = by_deviation / (2 * np.sqrt(self.variances[rows]))
        return loss, *self._chain(by_mean, by_variance)

    def _chain(self, by_mean: np.ndarray, by_variance: np.ndarray) -> tuple[np.ndarray, float]:
        """Turn gradients by left-out means and variances into those by K and concentration."""
        g = self.precisions
        a = -by_mean / g
        b = by_mean * self.weights / g**2 - by_variance / g**2
        u = self._solve(a)
        # The sum of G_c diag(b_c) G_c over the classes, where G_c is the precision of class c.
        # Single precision is enough for a gradient, and takes half the time.
        G, Q, b = (array.astype(np.float32) for array in (self.G, self.Q, b))
        half = np.empty_like(G)
        by_noise = (np.square(G) @ b).astype(float)
        for c, rows in enumerate(self.slices):
            Q_c, Qb = Q[rows], Q[rows] * b[:, c]
            half[:, rows] = G @ Qb.T + Q_c.T @ (Qb @ Q_c.T) / 2
            by_noise[:, c] += 2 * np.einsum("ij,ji->i", half[:, rows], Q_c)
        by_K = half @ Q
        by_K += by_K.T
        by_K += (G * b.sum(axis=1)) @ G
        by_K += (self.weights @ u.T).astype(np.float32)
        by_noise = -(by_noise + self.weights * u + by_variance) / self.w
        one_hot, targets = self.one_hot, self.targets
        by_log_concentration = (
            targets.gap_slope * ((u + by_mean) * (one_hot - 1 / one_hot.shape[1])).sum()
            + targets.noise_slope[0] * by_noise[one_hot].sum()
            + targets.noise_slope[1] * by_noise[~one_hot].sum()
        )
        return -by_K, by_log_concentration

    def _solve(self, columns: np.ndarray) -> np.ndarray:
        """Multiply each column by the precision of its class."""
        solved = self.G @ columns
        for c, rows in enumerate(self.slices):
            solved[:, c] += self.Q[rows].T @ (self.Q[rows] @ columns[:, c])
        return solved


def _inverse(K: np.ndarray, noise: np.ndarray) -> np.ndarray:
    # NumPy throughout: SciPy has a BLAS of its own, and two pools of threads slow each other down.
    A = K.copy()
    A[np.diag_indices(len(A))] += noise
    root = np.linalg.inv(np.linalg.cholesky(A))
    return root.T @ root
