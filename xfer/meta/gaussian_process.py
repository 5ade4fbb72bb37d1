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
from xfer.meta.base import ClassPrior, ClassWeight
from xfer.meta.left_out import LeftOut, dirichlet_targets
from xfer.meta.posterior import (
    BayesianClassifier,
    choose_inverse_temperature,
    softmax_in_place,
    standard_normal_points,
)
from xfer.meta.whitening import PartialWhitening, squash

_LEARNED_ROWS = 1000  # kernels are learned from at most this many examples
_EXACT_ROWS = 3000  # with more examples, inducing points stand for them
_INDUCING_POINTS, _CANDIDATES = 800, 10_000
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
    An inverse temperature of at least 1 is chosen on the same left-out predictions. With more than
    3,000 examples, 800 inducing points are used [3]_, chosen greedily by the largest remaining
    variance [4]_, and kernels are learned from 1,000 examples.

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
    array([0. , 0.2])
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
        left_out = self._learn([layer[rows] for layer in layers], one_hot[rows], sums)
        if len(y) <= _EXACT_ROWS:
            self.sign_ = -1.0
            posterior = self._condition(layers, one_hot, w)
        else:
            self.sign_ = 1.0
            candidates = random.permutation(len(y))[:_CANDIDATES]
            posterior = self._condition_on_inducing_points(layers, one_hot, w, candidates)
        self.basis_, self.root_, weights, class_roots = posterior
        self.weights_ = self.root_ @ np.column_stack(weights)
        self.class_roots_ = np.concatenate(class_roots, axis=1)
        self.class_ends_ = np.cumsum([class_root.shape[1] for class_root in class_roots])
        return order[rows], left_out

    def _layer(self, X: np.ndarray, columns: np.ndarray) -> np.ndarray:
        layer = X[:, columns]
        if not self.apply_l2_norm:
            return layer
        length = np.linalg.norm(layer, axis=1, keepdims=True)
        return np.divide(layer, length, out=np.zeros_like(layer), where=length > 0)

    def _whitened(self, X: np.ndarray) -> Layers:
        return [
            squash(whitening.transform(self._layer(X, columns)))
            for columns, whitening in zip(self.columns_, self.whitenings_)
        ]

    def _learn(self, layers: Layers, one_hot: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Learn the parameters; return the probabilities of each example, left out."""
        distances = [euclidean_distances(layer, squared=True) for layer in layers]
        n_layers = len(layers)
        start = np.repeat([_LENGTH_SCALE, _VARIANCE - np.log(n_layers)], n_layers)
        start = np.append(start, _CONCENTRATION)
        with progress_bar(None, self.progress, None, "kernels", "evaluation") as bar:

            def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
                bar.update()
                return _negative_objective(parameters, distances, one_hot, w, self.points_, start)

            options = {"maxfun": self.max_function_evaluations, "ftol": 1e-4, "gtol": 1e-2}
            result = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        self.length_scales_ = np.exp(result.x[:n_layers])
        self.variances_ = np.exp(result.x[n_layers:-1])
        self.concentration_ = float(np.exp(result.x[-1]))
        self.objective_, self.n_evaluations_ = float(-result.fun), int(result.nfev)
        K = _sum(_kernels(distances, self.length_scales_, self.variances_))
        scores = LeftOut(K, one_hot, w, dirichlet_targets(result.x[-1])).scores(self.points_)
        self.inverse_temperature_ = choose_inverse_temperature(scores, one_hot.argmax(axis=1), w)
        return softmax_in_place(self.inverse_temperature_ * scores).mean(axis=1)

    def _covariance(self, layers: Layers, others: Layers) -> np.ndarray:
        distances = (euclidean_distances(a, b, squared=True) for a, b in zip(layers, others))
        return _sum(_kernels(distances, self.length_scales_, self.variances_))

    def _condition(self, layers: Layers, one_hot: np.ndarray, w: np.ndarray) -> tuple:
        """Return basis, root, weights and roots of each class of the exact posterior."""
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
        return layers, root, weights, class_roots

    def _condition_on_inducing_points(
        self, layers: Layers, one_hot: np.ndarray, w: np.ndarray, candidates: np.ndarray
    ) -> tuple:
        """Return the same of the best posterior given some points (Titsias 2009, eq. 10)."""
        targets = dirichlet_targets(np.log(self.concentration_))
        chosen = self._choose_inducing_points([layer[candidates] for layer in layers])
        inducing = [layer[candidates[chosen]] for layer in layers]
        K = self._covariance(inducing, inducing)
        K[np.diag_indices(len(K))] += 1e-8 * self.variances_.sum()
        root = _inverse_root(K)
        products = np.zeros((one_hot.shape[1], len(K), len(K)))
        sums = np.zeros((one_hot.shape[1], len(K)))
        for c in range(one_hot.shape[1]):
            rows = np.flatnonzero(one_hot[:, c])
            for batch in gen_batches(len(rows), _BATCH_SIZE):
                part = [layer[rows[batch]] for layer in layers]
                features = self._covariance(part, inducing) @ root
                weighted = features * w[rows[batch], None]
                products[c] += features.T @ weighted
                sums[c] += weighted.sum(axis=0)
        own_noise, other_noise = targets.noise
        shared, total, n_classes = products.sum(axis=0) / other_noise, sums.sum(axis=0), len(sums)
        class_roots, weights = [], []
        for product, of_class in zip(products, sums):
            precision = shared + (1 / own_noise - 1 / other_noise) * product
            precision[np.diag_indices(len(K))] += 1
            class_roots.append(_inverse_root(precision))
            pull = (1 - 1 / n_classes) / own_noise * of_class
            pull -= (total - of_class) / (n_classes * other_noise)
            weights.append(class_roots[-1] @ (class_roots[-1].T @ (targets.gap * pull)))
        return inducing, root, weights, class_roots

    def _choose_inducing_points(self, layers: Layers) -> np.ndarray:
        """Return row indices, each chosen where those before leave the most variance."""
        n = len(layers[0])
        left = np.full(n, self.variances_.sum())
        factor = np.empty((n, min(n, _INDUCING_POINTS)))
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
        return len(self.points_) * len(self.classes_) + 2 * len(self.root_)

    def _score_samples(self, X: np.ndarray) -> np.ndarray:
        K = self._covariance(self._whitened(X), self.basis_)
        means = K @ self.weights_
        h = K @ self.root_
        squares = np.square(h @ self.class_roots_)
        starts = np.append(0, self.class_ends_[:-1])
        explained = np.square(h).sum(axis=1)[:, None]
        variances = self.variances_.sum() - explained
        variances = variances + self.sign_ * np.add.reduceat(squares, starts, axis=1)
        deviations = np.sqrt(np.maximum(variances, 0))
        scores = means[:, None] + deviations[:, None] * self.points_
        return self.inverse_temperature_ * scores


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
    """Choose distinct examples of every class, and sum the weights of the copies of each.

    A copy would make the original look easy to predict.
    """
    _, rows, copies = np.unique(
        np.column_stack([y, X]), axis=0, return_index=True, return_inverse=True
    )
    sums = np.zeros(len(y))
    sums[rows] = np.bincount(copies.ravel(), w)
    rows = random.permutation(np.sort(rows))
    first = np.unique(y[rows], return_index=True)[1]
    others = np.delete(rows, first)
    rows = np.sort(np.concatenate([rows[first], others])[: max(_LEARNED_ROWS, len(first))])
    return rows, sums[rows]


def _inverse_root(A: np.ndarray) -> np.ndarray:
    """Return an upper triangular R with R R' = inverse of A."""
    return solve_triangular(np.linalg.cholesky(A), np.eye(len(A)), lower=True).T
