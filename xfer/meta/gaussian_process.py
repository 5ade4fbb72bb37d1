"""Gaussian process classification for few labels, in closed form."""

from numbers import Integral

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils import check_random_state, gen_batches

from xfer._io import progress_bar
from xfer.meta.left_out import LeftOut, dirichlet_targets
from xfer.meta.posterior import (
    BayesianClassifier,
    choose_sharpness,
    standard_normal_points,
)
from xfer.meta.whitening import PartialWhitening, drawn_in

_LEARNED_ROWS = 1000  # the most that kernels are learned from
_EXACT_ROWS = 3000  # beyond which inducing points stand for the examples
_INDUCING_POINTS, _CANDIDATES = 800, 10_000
_ROWS_AT_A_TIME = 4096
_SAMPLES = 128
# What is expected of the logarithms of the parameters before any example has been seen: normal
# distributions, and a Laplace distribution for the concentration.
_LENGTH_SCALE, _LENGTH_SCALE_SPREAD = np.log(2.5), 1.0
_VARIANCE, _VARIANCE_SPREAD = np.log(10.0), 1.5
_CONCENTRATION, _CONCENTRATION_RATE = np.log(0.01), 4.5


class DirichletGaussianProcess(BayesianClassifier):
    r"""Gaussian processes over the class scores, with one RBF kernel for each layer.

    The label of an example is taken for a draw from a Dirichlet distribution of concentration
    :math:`1 + \epsilon` at the label and :math:`\epsilon` at the other classes. Its Gamma variables
    are matched by log-normal ones [1]_, so that each class score :math:`f_c` is a regression on

    .. math:: \tilde y_c = \log a - \tilde\sigma_c^2 / 2, \quad
              \tilde\sigma_c^2 = \log(1 + 1/a), \quad a = [y = c] + \epsilon

    with noise :math:`\tilde\sigma_c^2`, and everything is in closed form. The scores have the prior

    .. math:: f_c \sim GP(0, \textstyle\sum_l v_l \exp(-|z_l - z_l'|^2 / 2 \lambda_l^2))

    where :math:`z_l` are the features of layer :math:`l`, partly whitened and drawn in to
    :math:`z / \sqrt{(1 + |z|^2) / 2}`, so that no example is far from all others by its length
    alone. Variances :math:`v_l`, length scales :math:`\lambda_l` and :math:`\epsilon` are learned
    by the probability of each label given all others [2]_, times weak priors, with analytic
    gradients. The marginal likelihood is a density of :math:`\tilde y`, not a probability of
    labels, and predicted worse when both were tried.

    At the end scores are multiplied by a sharpness of 1 or more, chosen on the same left-out
    predictions. Beyond 3,000 examples, 800 inducing points stand for them [3]_, chosen one after
    the other where most variance is left [4]_, and kernels are learned from 1,000 examples.

    Parameters
    ----------
    columns : list of array-like of int, optional
        The columns of each layer. By default all columns are of one.
    max_function_evaluations : int, default=100
        The most evaluations of the objective and its gradient.
    apply_l2_norm : bool, default=False
        Whether each row of a layer is scaled to length 1 before anything else.
    random_state : int, default=0
        Seed of the samples, and of the choice among many examples.
    progress : bool, optional
        Whether to show a bar while kernels are learned; by default only in an interactive session.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    length_scales_ : ndarray of shape (n_layers,)
    variances_ : ndarray of shape (n_layers,)
    concentration_ : float
        The Dirichlet concentration of classes that were not seen.
    sharpness_ : float
        What scores are multiplied by.
    objective_ : float
        Log probability of the labels, each left out, and of the parameters; summed, in nats.
    n_evaluations_ : int
        Evaluations of the objective.

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
    >>> model.predict_proba(X[[1, 61, 142]]).round(1)
    array([[1. , 0. , 0. ],
           [0. , 1. , 0. ],
           [0. , 0.1, 0.9]])
    >>> model.predict_uncertainty(X[[1, 142]]).total.round(1)
    array([0. , 0.2])
    """

    def __init__(
        self,
        columns=None,
        *,
        max_function_evaluations=100,
        apply_l2_norm=False,
        random_state=0,
        progress=None,
    ):
        self.columns = columns
        self.max_function_evaluations = max_function_evaluations
        self.apply_l2_norm = apply_l2_norm
        self.random_state = random_state
        self.progress = progress

    def check_parameters(self):
        """Refuse parameters that are out of range.

        Returns
        -------
        DirichletGaussianProcess
            Itself.

        Raises
        ------
        ValueError
            Naming the parameter.
        """
        most = self.max_function_evaluations
        if isinstance(most, bool) or not isinstance(most, Integral) or most < 1:
            raise ValueError(
                f"max_function_evaluations must be an integer of at least 1, got {most!r}"
            )
        return self

    def fit(self, X, y):
        """Learn the kernels, then the posterior.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,)
            Labels of any kind, of two classes or more.

        Returns
        -------
        DirichletGaussianProcess
            Itself.
        """
        self.check_parameters()
        X, y = self._checked(X, y)
        random = check_random_state(self.random_state)
        self.points_ = standard_normal_points(_SAMPLES, len(self.classes_), random)
        order = np.argsort(y, kind="stable")
        X, y = X[order], y[order]
        self.columns_ = _columns(self.columns, X.shape[1])
        whitenings = [PartialWhitening().fit(self._layer(X, some)) for some in self.columns_]
        self.means_ = [whitening.mean_ for whitening in whitenings]
        self.components_ = [whitening.components_ for whitening in whitenings]
        layers = self._whitened(X)
        rows = _rows_to_learn_from(X, y, random)
        self._learn([layer[rows] for layer in layers], self._own(y[rows]))
        if len(y) <= _EXACT_ROWS:
            self._condition(layers, self._own(y))
        else:
            self._condition_on_inducing_points(layers, self._own(y), random)
        return self

    def _own(self, y):
        return y[:, None] == np.arange(len(self.classes_))

    def _layer(self, X, columns):
        return _of_length_one(X[:, columns]) if self.apply_l2_norm else X[:, columns]

    def _whitened(self, X):
        """Return the features of each layer: arrays of shape (n, rank)."""
        return [
            drawn_in((self._layer(X, columns) - mean) @ components)
            for columns, mean, components in zip(self.columns_, self.means_, self.components_)
        ]

    def _learn(self, layers, own):
        """Learn the parameters of the kernels and of the likelihood, then the sharpness."""
        distances = [euclidean_distances(layer, squared=True) for layer in layers]
        number = len(layers)
        start = np.repeat([_LENGTH_SCALE, _VARIANCE - np.log(number)], number)
        start = np.append(start, _CONCENTRATION)
        with progress_bar(None, self.progress, None, "kernels", "evaluation") as bar:

            def objective(parameters):
                bar.update()
                return _negative_objective(parameters, distances, own, self.points_, start)

            options = {"maxfun": self.max_function_evaluations, "ftol": 1e-4, "gtol": 1e-2}
            found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        self.length_scales_ = np.exp(found.x[:number])
        self.variances_ = np.exp(found.x[number:-1])
        self.concentration_ = float(np.exp(found.x[-1]))
        self.objective_, self.n_evaluations_ = float(-found.fun), int(found.nfev)
        K = sum(_kernels(distances, self.length_scales_, self.variances_))
        left_out = LeftOut(K, own, dirichlet_targets(found.x[-1]))
        self.sharpness_ = choose_sharpness(left_out.scores(self.points_), own.argmax(axis=1))

    def _covariance(self, layers, others):
        distances = (euclidean_distances(a, b, squared=True) for a, b in zip(layers, others))
        return sum(_kernels(distances, self.length_scales_, self.variances_))

    def _condition(self, layers, own):
        """Store the exact posterior."""
        targets = dirichlet_targets(np.log(self.concentration_))
        K = self._covariance(layers, layers)
        K[np.diag_indices(len(K))] += targets.noise[1]
        root = _inverse_root(K)
        y = root.T @ (targets.gap * (own - 1 / own.shape[1]))
        class_roots, weights = [], []
        for c in range(own.shape[1]):
            rows = root[own[:, c]]
            S = np.eye(len(rows)) / (targets.noise[1] - targets.noise[0]) - rows @ rows.T
            class_roots.append(rows.T @ _inverse_root(S))
            weights.append(y[:, c] + class_roots[-1] @ (class_roots[-1].T @ y[:, c]))
        self._keep(layers, root, weights, class_roots, sign=-1.0)

    def _condition_on_inducing_points(self, layers, own, random):
        """Store the posterior given the scores of some points, the best there is for them."""
        targets = dirichlet_targets(np.log(self.concentration_))
        candidates = random.permutation(len(own))[:_CANDIDATES]
        chosen = self._spread_points([layer[candidates] for layer in layers])
        inducing = [layer[candidates[chosen]] for layer in layers]
        K = self._covariance(inducing, inducing)
        K[np.diag_indices(len(K))] += 1e-8 * self.variances_.sum()
        root = _inverse_root(K)
        products = np.zeros((own.shape[1], len(K), len(K)))
        sums = np.zeros((own.shape[1], len(K)))
        for c in range(own.shape[1]):
            rows = np.flatnonzero(own[:, c])
            for some in gen_batches(len(rows), _ROWS_AT_A_TIME):
                part = [layer[rows[some]] for layer in layers]
                features = self._covariance(part, inducing) @ root
                products[c] += features.T @ features
                sums[c] += features.sum(axis=0)
        own_noise, other_noise = targets.noise
        shared, total, share = products.sum(axis=0) / other_noise, sums.sum(axis=0), len(sums)
        class_roots, weights = [], []
        for product, of_class in zip(products, sums):
            precision = shared + (1 / own_noise - 1 / other_noise) * product
            precision[np.diag_indices(len(K))] += 1
            class_roots.append(_inverse_root(precision))
            pull = (1 - 1 / share) / own_noise * of_class
            pull -= (total - of_class) / (share * other_noise)
            weights.append(class_roots[-1] @ (class_roots[-1].T @ (targets.gap * pull)))
        self._keep(inducing, root, weights, class_roots, sign=1.0)

    def _spread_points(self, layers):
        """Choose points one after the other, each where the ones before leave most variance."""
        n = len(layers[0])
        left = np.full(n, self.variances_.sum())
        factor = np.empty((n, min(n, _INDUCING_POINTS)))
        chosen = []
        while len(chosen) < factor.shape[1] and left.max() > 1e-6 * self.variances_.sum():
            number, point = len(chosen), int(left.argmax())
            column = self._covariance(layers, [layer[[point]] for layer in layers])[:, 0]
            column -= factor[:, :number] @ factor[point, :number]
            factor[:, number] = column / np.sqrt(left[point])
            left -= factor[:, number] ** 2
            left[point] = 0
            chosen.append(point)
        return np.array(chosen)

    def _keep(self, layers, root, weights, class_roots, sign):
        self.basis_ = layers
        self.root_, self.weights_ = root, root @ np.column_stack(weights)
        self.class_roots_ = np.concatenate(class_roots, axis=1)
        self.class_ends_ = np.cumsum([class_root.shape[1] for class_root in class_roots])
        self.sign_ = sign

    @property
    def _numbers_a_row(self):
        return len(self.points_) * len(self.classes_) + 2 * len(self.root_)

    def _score_samples(self, X):
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
        return self.sharpness_ * scores


def _negative_objective(parameters, distances, own, points, middle):
    """Return the negative log probability of labels and parameters, and its gradient."""
    number = len(distances)
    length_scales, variances = np.exp(parameters[:number]), np.exp(parameters[number:-1])
    parts = _kernels(distances, length_scales, variances)
    left_out = LeftOut(sum(parts), own, dirichlet_targets(parameters[-1]))
    loss, by_K, by_log_concentration = left_out.loss(points)
    gradient = np.empty_like(parameters)
    for layer, (part, squares) in enumerate(zip(parts, distances)):
        by_part = by_K * part
        gradient[number + layer] = by_part.sum()
        gradient[layer] = np.vdot(by_part, squares) / length_scales[layer] ** 2
    gradient[-1] = by_log_concentration
    away = parameters - middle
    spread = np.repeat([_LENGTH_SCALE_SPREAD, _VARIANCE_SPREAD], number)
    length = np.hypot(away[-1], 0.1)  # smooth at 0
    loss += (away[:-1] ** 2 / spread**2).sum() / 2 + _CONCENTRATION_RATE * length
    gradient[:-1] += away[:-1] / spread**2
    gradient[-1] += _CONCENTRATION_RATE * away[-1] / length
    return loss, gradient


def _kernels(distances, length_scales, variances):
    return [
        variance * np.exp(squares / (-2 * length_scale**2))
        for squares, length_scale, variance in zip(distances, length_scales, variances)
    ]


def _columns(columns, number):
    if columns is None:
        return [np.arange(number)]
    columns = [np.asarray(some) for some in columns]
    if not columns or not all(len(some) for some in columns):
        raise ValueError("columns must hold, for each layer, the numbers of one column or more")
    return [np.arange(number)[some] for some in columns]


def _rows_to_learn_from(X, y, random):
    """Choose examples of every class, none of them twice: a copy would vouch for its twin."""
    rows = np.unique(np.column_stack([y, X]), axis=0, return_index=True)[1]
    rows = random.permutation(np.sort(rows))
    first = np.unique(y[rows], return_index=True)[1]
    others = np.delete(rows, first)
    return np.sort(np.concatenate([rows[first], others])[: max(_LEARNED_ROWS, len(first))])


def _of_length_one(X):
    length = np.linalg.norm(X, axis=1, keepdims=True)
    return np.divide(X, length, out=np.zeros_like(X), where=length > 0)


def _inverse_root(A):
    """Return R, upper triangular, such that R R' is the inverse of A."""
    return solve_triangular(np.linalg.cholesky(A), np.eye(len(A)), lower=True).T
