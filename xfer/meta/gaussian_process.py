"""Gaussian process classification for few labels, in closed form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils import check_random_state, gen_batches

from xfer._checks import check_integer
from xfer._io import progress_bar
from xfer.meta.base import ClassPrior, ClassWeight, distinct_rows
from xfer.meta.left_out import LeftOut, dirichlet_targets
from xfer.meta.posterior import (
    BayesianClassifier,
    choose_inverse_temperature,
    expected_softmax,
    row_batches,
    standard_normal_points,
)
from xfer.meta.whitening import PartialWhitening, squash, unit_rows

# Kernels are learned from at most this many examples, classes, and products of both.
_LEARNED_ROWS, _LEARNED_CLASSES, _LEARNED_SCORES = 1000, 50, 20_000
_EXACT_ROWS = 3000  # with more examples, inducing points stand for them
_INDUCING_POINTS, _MOST_INDUCING_POINTS, _CANDIDATES = 800, 3000, 10_000
_BATCH_SIZE = 4096
_SAMPLES = 128
# Priors on the logarithms of the parameters: normal distributions, and a Laplace distribution for
# the concentration.
_LENGTH_SCALE, _LENGTH_SCALE_DEVIATION = np.log(2.5), 1.0
_VARIANCE, _VARIANCE_DEVIATION = np.log(10.0), 1.5
_CONCENTRATION, _CONCENTRATION_RATE = np.log(0.01), 4.5

Layers = list[np.ndarray]


class DirichletGaussianProcess(BayesianClassifier):
    r"""Gaussian processes over the class scores, with one RBF kernel for each layer.

    The label of an example is treated as a sample from a Dirichlet distribution with concentration
    :math:`1 + \epsilon` at the label and :math:`\epsilon` at the other classes. Its Gamma variables
    are approximated by log-normal ones [1]_, so each class score :math:`f_c` is a regression in
    closed form on :math:`\log a - \sigma_c^2 / 2` with noise :math:`\sigma_c^2 = \log(1 + 1/a)`,
    where :math:`a = [y = c] + \epsilon`, under the prior

    .. math:: f_c \sim GP(0, \textstyle\sum_l v_l \exp(-|z_l - z_l'|^2 / 2 \lambda_l^2))

    on the features :math:`z_l` of layer :math:`l`, partly whitened and squashed to
    :math:`z / \sqrt{(1 + |z|^2) / 2}`. Variances :math:`v_l`, length scales :math:`\lambda_l` and
    :math:`\epsilon` are learned from the probability of each label given all others [2]_, times
    weak priors; the marginal likelihood, which is not a probability of labels, predicted worse.
    An inverse temperature is chosen on the same left-out predictions. An example whose class has no
    other is not among them. Kernels are learned from at most 1,000 examples, or 400 of 50 classes.
    With more than 3,000 examples, 800 inducing points are used [3]_, or as many as there are
    classes, chosen greedily by the largest remaining variance [4]_.

    Parameters
    ----------
    columns : list of array-like of int, optional
        The columns of each layer. By default all columns are one layer.
    max_function_evaluations : int, default=100
        Maximum number of evaluations of the objective and its gradient.
    apply_l2_norm : bool, default=False
        Whether to scale each row of a layer to length 1 first.
    class_weight : "balanced" or dict, optional
        The weight of each class's examples; "balanced" gives all classes the same total weight.
    class_prior : "balanced" or dict, optional
        The probability of each class where predictions are made, if it is not its share of the
        labels; "balanced" makes all classes equally probable.
    random_state : int, default=0
        Seed of the samples, and of the choice among many examples.
    progress : bool, optional
        Whether to show a bar while kernels are learned; by default only in an interactive session.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    whitenings_ : list of PartialWhitening
        That of each layer.
    length_scales_, variances_ : ndarray of shape (n_layers,)
    concentration_, inverse_temperature_ : float
    objective_, n_evaluations_ : float, int
        Log probability of the labels, each left out, plus that of the parameters, in nats; and how
        often it was evaluated.

    References
    ----------
    .. [1] Milios et al. (2018), Dirichlet-based Gaussian Processes for Large-scale Calibrated
       Classification, section 4.
    .. [2] Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, section 5.4.2.
    .. [3] Titsias (2009), Variational Learning of Inducing Variables in Sparse Gaussian Processes,
       eq. 6 and 10.
    .. [4] Burt et al. (2020), Convergence of Sparse Variational Inference in Gaussian Processes
       Regression, section 4.2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DirichletGaussianProcess().fit(X[::3], y[::3])
    >>> model.predict_proba(X[[142]]).round(1)
    array([[0. , 0.1, 0.9]])
    >>> model.predict_uncertainty(X[[1, 142]]).total.round(1)
    array([0. , 0.3])
    """

    def __init__(
        self,
        columns: Sequence[ArrayLike] | None = None,
        *,
        max_function_evaluations: int = 100,
        apply_l2_norm: bool = False,
        class_weight: ClassWeight = None,
        class_prior: ClassPrior = None,
        random_state: int = 0,
        progress: bool | None = None,
    ) -> None:
        self.columns = columns
        self.max_function_evaluations = max_function_evaluations
        self.apply_l2_norm = apply_l2_norm
        self.class_weight = class_weight
        self.class_prior = class_prior
        self.random_state = random_state
        self.progress = progress

    def check_parameters(self) -> Self:
        """Raise ValueError, naming the parameter, if one is out of range; return self."""
        check_integer("max_function_evaluations", self.max_function_evaluations)
        return super().check_parameters()

    def _fit_posterior(
        self, X: np.ndarray, y: np.ndarray, w: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        random = check_random_state(self.random_state)
        self.points_ = standard_normal_points(_SAMPLES, len(self.classes_), random)
        order = np.argsort(y, kind="stable")
        X, y, w = X[order], y[order], w[order]
        self.columns_ = _columns(self.columns, X.shape[1])
        self.whitenings_ = [
            PartialWhitening().fit(self._layer(X, columns), sample_weight=w)
            for columns in self.columns_
        ]
        layers = self._whitened(X)
        one_hot = y[:, None] == np.arange(len(self.classes_))
        rows, sums = _rows_to_learn_from(X, y, w, random)
        known = np.unique(y[rows])
        learned = np.ix_(rows, known)
        left_out, p = self._learn([layer[rows] for layer in layers], one_hot[learned], sums)
        if len(y) <= _EXACT_ROWS:
            posterior = self._condition(layers, one_hot, w)
        else:
            candidates = random.permutation(len(y))[:_CANDIDATES]
            posterior = self._condition_on_inducing_points(layers, one_hot, w, candidates)
        self.basis_, self.roots_, weights, class_roots = posterior
        self.weights_ = self.roots_[-1] @ np.column_stack(weights)
        self.class_roots_ = np.concatenate(class_roots, axis=1)
        self.class_ends_ = np.cumsum([class_root.shape[1] for class_root in class_roots])
        return order[rows[left_out]], p * self.prior_ratio_[known]

    def _layer(self, X: np.ndarray, columns: np.ndarray) -> np.ndarray:
        layer = X[:, columns]
        return unit_rows(layer) if self.apply_l2_norm else layer

    def _whitened(self, X: np.ndarray) -> Layers:
        return [
            squash(whitening.transform(self._layer(X, columns)))
            for columns, whitening in zip(self.columns_, self.whitenings_)
        ]

    def _learn(self, layers: Layers, one_hot: np.ndarray, w: np.ndarray) -> tuple:
        """Learn the parameters; return which rows were left out, and their probabilities."""
        distances = [euclidean_distances(layer, squared=True) for layer in layers]
        n_layers, points = len(layers), self.points_[:, : one_hot.shape[1]]
        start = np.repeat([_LENGTH_SCALE, _VARIANCE - np.log(n_layers)], n_layers)
        start = np.append(start, _CONCENTRATION)
        with progress_bar(None, self.progress, None, "kernels", "evaluation") as bar:

            def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
                bar.update()
                return _negative_objective(parameters, distances, one_hot, w, points, start)

            options = {"maxfun": self.max_function_evaluations, "ftol": 1e-4, "gtol": 1e-2}
            result = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        self.length_scales_ = np.exp(result.x[:n_layers])
        self.variances_ = np.exp(result.x[n_layers:-1])
        self.concentration_ = float(np.exp(result.x[-1]))
        self.objective_, self.n_evaluations_ = float(-result.fun), int(result.nfev)
        K = _sum(_kernels(distances, self.length_scales_, self.variances_))
        left_out = LeftOut(K, one_hot, w, dirichlet_targets(result.x[-1]))
        rows = left_out.rows
        scores = left_out.scores(rows, points)
        self.inverse_temperature_ = factor = choose_inverse_temperature(
            scores, left_out.labels[rows], w[rows]
        )
        means, variances = left_out.means[rows], left_out.variances[rows]
        return rows, expected_softmax(factor * means, factor**2 * variances)

    def _covariance(self, layers: Layers, others: Layers) -> np.ndarray:
        distances = (euclidean_distances(a, b, squared=True) for a, b in zip(layers, others))
        return _sum(_kernels(distances, self.length_scales_, self.variances_))

    def _condition(self, layers: Layers, one_hot: np.ndarray, w: np.ndarray) -> tuple:
        """Return basis, roots, weights and roots of each class of the exact posterior."""
        targets = dirichlet_targets(np.log(self.concentration_))
        K = self._covariance(layers, layers)
        K[np.diag_indices(len(K))] += targets.noise[1] / w
        root = _inverse_root(K)
        y = root.T @ (targets.gap * (one_hot - 1 / one_hot.shape[1]))
        class_roots, weights = [], []
        for c in range(one_hot.shape[1]):
            rows = root[one_hot[:, c]]
            S = np.diag(w[one_hot[:, c]]) / (targets.noise[1] - targets.noise[0]) - rows @ rows.T
            class_roots.append(rows.T @ _inverse_root(S))
            weights.append(y[:, c] + class_roots[-1] @ (class_roots[-1].T @ y[:, c]))
        return layers, [root], weights, class_roots

    def _condition_on_inducing_points(
        self, layers: Layers, one_hot: np.ndarray, w: np.ndarray, candidates: np.ndarray
    ) -> tuple:
        """Return the same of the best posterior given some points (Titsias 2009, eq. 10).

        There are two roots: the first belongs to the prior at the points, the second to a posterior
        in which each example has the noise of other classes.
        """
        own_noise, other_noise = (targets := dirichlet_targets(np.log(self.concentration_))).noise
        chosen = self._choose_inducing_points([layer[candidates] for layer in layers])
        inducing = [layer[candidates[chosen]] for layer in layers]
        K = self._covariance(inducing, inducing)
        K[np.diag_indices(len(K))] += 1e-8 * self.variances_.sum()
        root = _inverse_root(K)
        shared, halves, sums = np.eye(len(K)), Layers(), Layers()
        for of_class in one_hot.T:
            half, total = np.empty((0, len(K))), np.zeros(len(K))
            for batch in gen_batches(np.count_nonzero(of_class), _BATCH_SIZE):
                rows = np.flatnonzero(of_class)[batch]
                features = self._covariance([layer[rows] for layer in layers], inducing) @ root
                half = np.vstack([half, np.sqrt(w[rows, None]) * features])
                total += w[rows] @ features
                if len(half) > len(K):  # fewer rows with the same products of columns
                    half = np.asarray(np.linalg.qr(half, mode="r"))
            shared += half.T @ half / other_noise
            halves.append(half)
            sums.append(total)
        posterior_root = _inverse_root(shared)
        everything, n_classes = np.sum(sums, axis=0), len(sums)
        class_roots, weights = [], []
        for half, total in zip(halves, sums):
            part = posterior_root.T @ half.T
            S = part.T @ part
            S[np.diag_indices(len(S))] += 1 / (1 / own_noise - 1 / other_noise)
            class_roots.append(part @ _inverse_root(S))
            pull = (1 - 1 / n_classes) / own_noise * total
            pull -= (everything - total) / (n_classes * other_noise)
            y = posterior_root.T @ (targets.gap * pull)
            weights.append(y - class_roots[-1] @ (class_roots[-1].T @ y))
        return inducing, [root, root @ posterior_root], weights, class_roots

    def _choose_inducing_points(self, layers: Layers) -> np.ndarray:
        """Return row indices, each chosen where those before leave the most variance."""
        n = len(layers[0])
        left = np.full(n, self.variances_.sum())
        count = min(n, max(_INDUCING_POINTS, min(len(self.classes_), _MOST_INDUCING_POINTS)))
        factor = np.empty((n, count))
        chosen: list[int] = []
        while len(chosen) < factor.shape[1] and left.max() > 1e-6 * self.variances_.sum():
            rank, point = len(chosen), int(left.argmax())
            column = self._covariance(layers, [layer[[point]] for layer in layers])[:, 0]
            column -= factor[:, :rank] @ factor[point, :rank]
            factor[:, rank] = column / np.sqrt(left[point])
            left -= factor[:, rank] ** 2
            left[point] = 0
            chosen.append(point)
        return np.array(chosen)

    @property
    def _floats_per_row(self) -> int:
        return self.points_.size + 2 * len(self.weights_) + self.class_roots_.shape[1]

    def _average(self, X: np.ndarray, entropies: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return mean probabilities as integrals, and mean entropies from samples."""
        mean_entropies = super()._average(X, entropies)[1] if entropies else np.empty(len(X))
        probabilities = np.empty((len(X), len(self.classes_)))
        for rows in row_batches(len(X), self._floats_per_row):
            probabilities[rows] = expected_softmax(*self._moments(X[rows]))
        probabilities *= self.prior_ratio_
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return probabilities, mean_entropies

    def _score_samples(self, X: np.ndarray) -> np.ndarray:
        means, variances = self._moments(X)
        return means[:, None] + np.sqrt(variances)[:, None] * self.points_

    def _moments(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means and variances of the scores, of shape (m, n_classes)."""
        K = self._covariance(self._whitened(X), self.basis_)
        h = [K @ root for root in self.roots_]
        variances = self.variances_.sum() - np.square(h[0]).sum(axis=1)[:, None]
        if len(h) > 1:
            variances += np.square(h[1]).sum(axis=1)[:, None]
        starts = np.append(0, self.class_ends_[:-1])
        squares = np.square(h[-1] @ self.class_roots_)
        variances = np.maximum(variances - np.add.reduceat(squares, starts, axis=1), 0)
        factor = self.inverse_temperature_
        return factor * (K @ self.weights_), factor**2 * variances


def _negative_objective(
    parameters: np.ndarray,
    distances: Layers,
    one_hot: np.ndarray,
    w: np.ndarray,
    points: np.ndarray,
    prior_mean: np.ndarray,
) -> tuple[float, np.ndarray]:
    """Return the negative log probability of labels and parameters, and its gradient."""
    n_layers = len(distances)
    # A line search may try a point so far away that the numbers overflow.
    near = np.clip(parameters, prior_mean - 10, prior_mean + 10)
    length_scales, variances = np.exp(near[:n_layers]), np.exp(near[n_layers:-1])
    parts = _kernels(distances, length_scales, variances)
    left_out = LeftOut(_sum(parts), one_hot, w, dirichlet_targets(near[-1]))
    loss, by_K, by_log_concentration = left_out.loss(points)
    gradient = np.empty_like(parameters)
    for layer, (part, squares) in enumerate(zip(parts, distances)):
        by_part = by_K * part
        gradient[n_layers + layer] = by_part.sum()
        gradient[layer] = np.vdot(by_part, squares) / length_scales[layer] ** 2
    gradient[-1] = by_log_concentration
    away = parameters - prior_mean
    deviation = np.repeat([_LENGTH_SCALE_DEVIATION, _VARIANCE_DEVIATION], n_layers)
    length = np.hypot(away[-1], 0.1)  # smooth at 0
    loss += (away[:-1] ** 2 / deviation**2).sum() / 2 + _CONCENTRATION_RATE * length
    gradient[:-1] += away[:-1] / deviation**2
    gradient[-1] += _CONCENTRATION_RATE * away[-1] / length
    return loss, gradient


def _kernels(
    distances: Iterable[np.ndarray], length_scales: np.ndarray, variances: np.ndarray
) -> Layers:
    return [
        variance * np.exp(squares / (-2 * length_scale**2))
        for squares, length_scale, variance in zip(distances, length_scales, variances)
    ]


def _sum(arrays: Layers) -> np.ndarray:
    return sum(arrays[1:], arrays[0])


def _columns(columns: Sequence[ArrayLike] | None, n_columns: int) -> Layers:
    if columns is None:
        return [np.arange(n_columns)]
    layers = [np.asarray(indices) for indices in columns]
    if not layers or not all(len(indices) for indices in layers):
        raise ValueError(f"columns must give each layer at least one column, got {columns!r}")
    return [np.arange(n_columns)[indices] for indices in layers]


def _rows_to_learn_from(
    X: np.ndarray, y: np.ndarray, w: np.ndarray, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Choose distinct examples of many classes, and sum the weights of the copies of each.

    A copy would make the original look easy to predict. Of each class two are chosen before others,
    because one alone cannot be predicted from the others.
    """
    rows, copies = distinct_rows(np.column_stack([y, X]))
    sums = np.zeros(len(y))
    sums[rows] = np.bincount(copies, w)
    rows = random.permutation(rows)
    if (n_classes := y.max() + 1) > _LEARNED_CLASSES:
        known = np.bincount(y[rows], minlength=n_classes) > 1
        order = random.permutation(n_classes)
        order = order[np.argsort(~known[order], kind="stable")]
        rows = rows[np.isin(y[rows], order[:_LEARNED_CLASSES])]
    first = np.unique(y[rows], return_index=True)[1]
    others = np.delete(rows, first)
    second = np.unique(y[others], return_index=True)[1]
    rows = np.concatenate([rows[first], others[second], np.delete(others, second)])
    rows = np.sort(rows[: min(_LEARNED_ROWS, _LEARNED_SCORES // len(first))])
    return rows, sums[rows]


def _inverse_root(A: np.ndarray) -> np.ndarray:
    """Return an upper triangular R with R R' = inverse of A."""
    return solve_triangular(np.linalg.cholesky(A), np.eye(len(A)), lower=True).T
