r"""Gaussian process regression on Dirichlet targets: each label predicted from all the others.

Examples are ordered by class. Noise is that of other classes but for the rows of the own class, so
with :math:`G = (K + \sigma_-^2 I)^{-1}` the precision of class c is, by Woodbury's identity,

.. math:: (K + D_c)^{-1} = G + Q_c^T Q_c, \quad
          Q_c = \mathrm{chol}(I / (\sigma_-^2 - \sigma_+^2) - G_{cc})^{-1} G_{c:}

and the :math:`Q_c` of all classes, one above the other, are one n x n matrix. Everything below
costs a few products of n x n matrices, however many classes there are.
"""

from typing import NamedTuple

import numpy as np

from xfer.meta.posterior import softmax_in_place


class Targets(NamedTuple):
    """Regression targets and noise that stand for labels [1]_.

    References
    ----------
    .. [1] Milios et al. (2018), Dirichlet-based Gaussian Processes for Large-scale Calibrated
       Classification, section 4.
    """

    #: How far the target of the own class lies above that of another.
    gap: float
    #: Noise variance of the own class, and of another: ndarray of shape (2,).
    noise: np.ndarray
    #: Their derivatives by the logarithm of the concentration.
    gap_slope: float
    noise_slope: np.ndarray


def dirichlet_targets(log_concentration):
    """Return the :class:`Targets` for a concentration of the classes that were not seen."""
    concentration = np.exp(log_concentration)
    a = np.array([1.0, 0.0]) + concentration
    noise, noise_slope = np.log1p(1 / a), -concentration / (a * (a + 1))
    target, slope = np.log(a) - noise / 2, concentration / a - noise_slope / 2
    return Targets(target[0] - target[1], noise, slope[0] - slope[1], noise_slope)


class LeftOut:
    """Predictions of each label from all other examples [1]_, and their loss and its gradient.

    Parameters
    ----------
    K : ndarray of shape (n, n)
        Covariance of the scores.
    own : ndarray of shape (n, n_classes), bool
        The class of each example; classes one after the other.
    targets : Targets

    Attributes
    ----------
    means, variances : ndarray of shape (n, n_classes)
        Of the scores of each example, given all others: eq. 5.12 of [1]_.

    References
    ----------
    .. [1] Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, section 5.4.2.
    """

    def __init__(self, K, own, targets):
        self.own, self.targets = own, targets
        ends = own.sum(axis=0).cumsum()
        self.slices = [slice(end - count, end) for end, count in zip(ends, own.sum(axis=0))]
        self.G = _inverse(K, targets.noise[1])
        gap = targets.noise[1] - targets.noise[0]
        self.Q = np.empty_like(self.G)
        for rows in self.slices:
            S = -self.G[rows, rows]
            S[np.diag_indices(len(S))] += 1 / gap
            self.Q[rows] = np.linalg.inv(np.linalg.cholesky(S)) @ self.G[rows]
        y = targets.gap * (own - 1 / own.shape[1])
        self.weights = self._solve(y)
        added = np.add.reduceat(self.Q**2, ends - own.sum(axis=0), axis=0)
        self.precisions = np.diag(self.G)[:, None] + added.T
        self.means = y - self.weights / self.precisions
        noise = np.where(own, *targets.noise)
        self.variances = np.maximum(1 / self.precisions - noise, 1e-12)

    def scores(self, points):
        """Return samples of the scores: ndarray of shape (n, n_points, n_classes)."""
        return self.means[:, None] + np.sqrt(self.variances)[:, None] * points

    def loss(self, points):
        """Return the negative log probability of the labels, summed, and its derivatives.

        Parameters
        ----------
        points : ndarray of shape (n_points, n_classes)
            Standard normal.

        Returns
        -------
        loss : float
            In nats.
        by_K : ndarray of shape (n, n)
        by_log_concentration : float
        """
        p = softmax_in_place(self.scores(points))
        right = p[self.own.nonzero()[0], :, self.own.nonzero()[1]]
        loss = -np.log(right.mean(axis=1)).sum()
        share = right / right.sum(axis=1, keepdims=True)
        p *= share[:, :, None]
        by_mean = p.sum(axis=1) - self.own
        by_deviation = np.einsum("nsc,sc->nc", p, points) - self.own * (share @ points)
        by_variance = by_deviation / (2 * np.sqrt(self.variances))
        return loss, *self._chain(by_mean, by_variance)

    def _chain(self, by_mean, by_variance):
        """Turn derivatives by left-out means and variances into those by K and concentration."""
        g = self.precisions
        a = -by_mean / g
        b = by_mean * self.weights / g**2 - by_variance / g**2
        u = self._solve(a)
        # What G_c diag(b_c) G_c adds up to over the classes, where G_c is the precision of class c.
        # Single precision is enough for a gradient, and takes half the time.
        G, all_Q, b = (array.astype(np.float32) for array in (self.G, self.Q, b))
        half = np.empty_like(G)
        by_noise = (np.square(G) @ b).astype(float)
        for c, rows in enumerate(self.slices):
            Q, Qb = all_Q[rows], all_Q[rows] * b[:, c]
            half[:, rows] = G @ Qb.T + Q.T @ (Qb @ Q.T) / 2
            by_noise[:, c] += 2 * np.einsum("ij,ji->i", half[:, rows], Q)
        by_K = half @ all_Q
        by_K += by_K.T
        by_K += (G * b.sum(axis=1)) @ G
        by_K += (self.weights @ u.T).astype(np.float32)
        by_noise = -(by_noise + self.weights * u) - by_variance
        own = self.own
        by_log_concentration = (
            self.targets.gap_slope * ((u + by_mean) * (own - 1 / own.shape[1])).sum()
            + self.targets.noise_slope[0] * by_noise[own].sum()
            + self.targets.noise_slope[1] * by_noise[~own].sum()
        )
        return -by_K, by_log_concentration

    def _solve(self, columns):
        """Multiply each column by the precision of its class."""
        solved = self.G @ columns
        for c, rows in enumerate(self.slices):
            solved[:, c] += self.Q[rows].T @ (self.Q[rows] @ columns[:, c])
        return solved


def _inverse(K, noise):
    # All by NumPy: SciPy has threads of its own, and those of both would be in each other's way.
    A = K.copy()
    A[np.diag_indices(len(A))] += noise
    root = np.linalg.inv(np.linalg.cholesky(A))
    return root.T @ root
