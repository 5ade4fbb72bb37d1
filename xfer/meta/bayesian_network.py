"""A Bayesian neural network for few labels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from sklearn.utils import check_random_state

from xfer._checks import check_integer, check_positive
from xfer._io import progress_bar
from xfer.meta.base import ClassPrior, ClassWeight, assign_folds, held_out_parts
from xfer.meta.posterior import BayesianClassifier, mean_and_error, softmax_in_place
from xfer.meta.whitening import PartialWhitening, squash

_LEAST = dict.fromkeys(("num_layers", "n_hidden", "batch_size", "num_epochs"), 1)
_LEAST |= {"num_samples_mc": 1, "num_samples_mc_prediction": 1}
_LEAST |= {"start_annealing": 0, "end_annealing": 0}
_LINEAR = 0.5  # prior standard deviation of the linear path, relative to a layer's
# With more classes it grows as the logarithm of their number, by which a class has to stand out:
# otherwise the hidden units, of which there are far fewer than classes, drown the linear path.
_USUAL_CLASSES = 10
_SHARPENING = 1.5  # logarithm of the inverse temperature with one label per class
_LARGE = 20.0  # with fifty digits, accuracy fell from 0.81 to 0.75, and to 0.37 with 100
_START = 0.2  # standard deviations before training, relative to the prior's
_BETAS = 0.9, 0.999  # of Adam
_AVERAGED_STEPS = 200  # the average of the posteriors covers about the latest 200
_PATIENCE = 10  # epochs in which the smoothed bound must rise ...
_TOLERANCE = 0.01  # ... by this fraction of itself
_HELD_OUT = 300  # enough held-out predictions to choose the temperature
_TEMPERATURES = np.exp(-np.linspace(0, 2, 21))
# With two, an unlucky sample of a hundred labels narrowed a posterior that was right.
_STANDARD_ERRORS = 3
_EPOCHS_PER_REPORT = 10

Layers = list[np.ndarray]
Shapes = list[tuple[int, int]]
_Random = np.random.Generator
# Of each layer: its inputs, the standard deviations of the sums that enter its units, the noise.
Passes = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


class BayesianNetwork(BayesianClassifier):
    r"""A neural network whose weights are independent Gaussians, on partly whitened features.

    The features are squashed, :math:`z / \sqrt{(1 + |z|^2) / 2}`. Beside the hidden layers of
    rectified linear units, a linear path leads from them straight to the class scores. In a layer
    with :math:`k` inputs, the prior of a weight is :math:`p(w) = N(0, \sigma^2 / k)` (half the
    :math:`\sigma` on the linear path, more beyond ten classes), its posterior
    :math:`q(w) = N(\mu, \rho^2)` [1]_, and Adam [2]_ maximizes
    :math:`\mathrm{E}_q \log p(y | w) - \beta \, \mathrm{KL}(q \| p)`. The weight
    :math:`\beta` grows from 0 to 1 during the first epochs, or the weights would return to their
    prior before they have learned anything [3]_. The sums that enter the units are sampled, not the
    weights: :math:`\sum_i x_i \mu_i + \epsilon (\sum_i x_i^2 \rho_i^2)^{1/2}`, with independent
    noise :math:`\epsilon \sim N(0, 1)` for each example :math:`x` [4]_.

    Training ends when the smoothed bound rises by less than one percent in ten epochs; the result
    is the average of the latest posteriors. A posterior of independent weights is often too wide,
    and a colder one predicts better [5]_. Therefore sampled scores :math:`f` are shrunk towards
    their mean, :math:`\bar f + \tau (f - \bar f)`, with a temperature :math:`0 < \tau \le 1` chosen
    on held-out examples (5 folds, or as many as hold 300): the largest whose log loss is within
    three standard errors of the least [6]_. With few labels the scores themselves are too small as
    well. They are multiplied by :math:`\exp(1.5 / m)`, for :math:`m` labels per class: a factor
    learned on so few held-out examples predicted worse.

    Parameters
    ----------
    sigma : float, default=3.0
        Prior standard deviation of the sum that enters a unit whose inputs have mean square 1.
    num_layers, n_hidden : int, default=1, 30
        Number of hidden layers, and of units in each.
    num_samples_mc, num_samples_mc_prediction : int, default=2, 80
        Samples of every sum in a step, in pairs of mirrored noise, and in a prediction.
    learning_rate, batch_size, num_epochs : float, int, int, default=0.02, 200, 200
        Of Adam: its learning rate, examples per step, and the most epochs.
    start_annealing, end_annealing : int, default=20, 40
        Epochs between which :math:`\beta` grows from 0 to 1.
    class_weight : "balanced" or dict, optional
        The weight of each class's examples; "balanced" gives all classes the same total weight.
    class_prior : "balanced" or dict, optional
        The probability of each class where predictions are made, if it is not its share of the
        labels; "balanced" makes all classes equally probable.
    verbose, progress : bool, default=False, in an interactive session
        Whether to print the bound every ten epochs, and whether a fit of more than a second shows a
        bar.
    random_state : int, RandomState or None, default=0
        Seed of everything random.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    whitening_ : PartialWhitening
    weights_, standard_deviations_ : list of ndarray
        The posterior of the hidden layers, the output layer and the linear path, each of shape
        (inputs + 1, units) with the bias last.
    noise_ : ndarray of shape (num_samples_mc_prediction, num_layers * n_hidden + n_classes)
        The noise that every prediction uses.
    temperature_, inverse_temperature_ : float
        The temperature :math:`\tau`, and the factor of the scores.
    n_iter_ : int
        Number of epochs.
    log_likelihood_curve_, divergence_curve_, loss_curve_ : ndarray of shape (iterations,)
        Per example: the two parts of the bound (with weight 1), and the negative bound.

    References
    ----------
    .. [1] Blundell et al. (2015), Weight Uncertainty in Neural Networks, section 3.
    .. [2] Kingma and Ba (2015), Adam: A Method for Stochastic Optimization, algorithm 1.
    .. [3] Sønderby et al. (2016), Ladder Variational Autoencoders, section 2.3.
    .. [4] Kingma, Salimans and Welling (2015), Variational Dropout and the Local
       Reparameterization Trick, eq. 6.
    .. [5] Wenzel et al. (2020), How Good is the Bayes Posterior in Deep Neural Networks Really?
    .. [6] Breiman et al. (1984), Classification and Regression Trees, section 3.4.3, with one.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = BayesianNetwork().fit(X[:, :2], y)
    >>> model.predict_proba(X[[53], :2]).round(1)
    array([[0. , 0.8, 0.2]])
    """

    def __init__(
        self,
        sigma: float = 3.0,
        *,
        num_layers: int = 1,
        n_hidden: int = 30,
        num_samples_mc: int = 2,
        learning_rate: float = 0.02,
        batch_size: int = 200,
        num_epochs: int = 200,
        start_annealing: int = 20,
        end_annealing: int = 40,
        num_samples_mc_prediction: int = 80,
        class_weight: ClassWeight = None,
        class_prior: ClassPrior = None,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = 0,
        progress: bool | None = None,
    ) -> None:
        self.sigma = sigma
        self.num_layers = num_layers
        self.n_hidden = n_hidden
        self.num_samples_mc = num_samples_mc
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.num_epochs = num_epochs
        self.start_annealing = start_annealing
        self.end_annealing = end_annealing
        self.num_samples_mc_prediction = num_samples_mc_prediction
        self.class_weight = class_weight
        self.class_prior = class_prior
        self.verbose = verbose
        self.random_state = random_state
        self.progress = progress

    def check_parameters(self) -> Self:
        """Raise ValueError, naming the parameter, if one is out of range; return self."""
        for name in ("sigma", "learning_rate"):
            check_positive(name, getattr(self, name))
        for name, least in _LEAST.items():
            check_integer(name, getattr(self, name), least)
        start, end = self.start_annealing, self.end_annealing
        if end < start:
            reason = f"end_annealing must be >= start_annealing, which is {start}"
            raise ValueError(f"{reason}, got {end}")
        return super().check_parameters()

    def _fit_posterior(
        self, X: np.ndarray, y: np.ndarray, w: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fit the posterior, then its temperature."""
        if self.sigma > _LARGE:
            warnings.warn(
                f"sigma={self.sigma} makes predictions overconfident: leave it out or try 1 to 10. "
                "In xfer-ml, sigma is the standard deviation of a weight (default 100); here it is "
                "that of a unit's input (default 3)",
                stacklevel=4,
            )
        seed = check_random_state(self.random_state).randint(2**31)
        self.whitening_ = PartialWhitening().fit(X, sample_weight=w)
        units = self.num_layers * self.n_hidden + len(self.classes_)
        random = _Random(np.random.SFC64(seed))
        self.noise_ = _balanced_noise(self.num_samples_mc_prediction, units, random)
        parts = held_out_parts(assign_folds(X, y, seed), _HELD_OUT)
        inputs, total = self._inputs(X), (1 + len(parts)) * self.num_epochs
        with progress_bar(None, self.progress, total, "network", "epoch") as bar:
            posterior, curves = self._train(inputs, y, w, seed, bar, self.verbose)
            rows, scores = self._held_out_scores(inputs, y, w, parts, seed, bar)
        self.temperature_ = _largest_temperature(scores, y[rows], w[rows]) if len(rows) else 1.0
        labels_per_class = max(1.0, w.sum() / len(self.classes_))
        self.inverse_temperature_ = float(np.exp(_SHARPENING / labels_per_class))
        self.weights_, self.standard_deviations_ = posterior
        self.log_likelihood_curve_, self.divergence_curve_ = curves
        self.loss_curve_ = self.divergence_curve_ - self.log_likelihood_curve_
        self.n_iter_ = len(self.loss_curve_)
        scores = self.inverse_temperature_ * _shrink(scores, self.temperature_)
        return rows, softmax_in_place(scores).mean(axis=1) * self.prior_ratio_

    @property
    def _floats_per_row(self) -> int:
        return 4 * self.noise_.size

    def _score_samples(self, X: np.ndarray) -> np.ndarray:
        scores = self._sample(self._inputs(X), self.weights_, self.standard_deviations_)
        scores = _shrink(scores, self.temperature_)
        scores *= self.inverse_temperature_
        return scores

    def _inputs(self, X: np.ndarray) -> np.ndarray:
        Z = squash(self.whitening_.transform(X))
        inputs = np.ones((len(Z), Z.shape[1] + 1), np.float32)
        inputs[:, :-1] = Z * np.sqrt(Z.shape[1])  # of mean square 1
        return inputs

    def _sample(self, inputs: np.ndarray, means: Layers, deviations: Layers) -> np.ndarray:
        """Sample scores, of shape (m, n_samples, n_classes)."""
        # Every row gets the same noise, so that a prediction does not depend on the other rows.
        ends = np.cumsum([mean.shape[1] for mean in means[:-2]])
        noises = np.split(self.noise_[:, None], ends, axis=2)
        scores, _ = _forward(inputs, means, [np.square(part) for part in deviations], noises)
        return scores.transpose(1, 0, 2)

    def _divergence_weight(self, epoch: int) -> float:
        length = max(1, self.end_annealing - self.start_annealing)
        share = (epoch - self.start_annealing) / length
        return 1.0 if epoch >= self.end_annealing else max(0.0, share)

    def _train(
        self,
        inputs: np.ndarray,
        y: np.ndarray,
        w: np.ndarray,
        seed: int,
        bar: Any,
        verbose: bool = False,
    ) -> tuple[tuple[Layers, Layers], np.ndarray]:
        """Maximize the bound; return means and standard deviations by layer, and its two parts."""
        random, n, total = _Random(np.random.SFC64(seed)), len(y), w.sum()
        w = w.astype(inputs.dtype)
        hidden = [self.n_hidden] * self.num_layers
        shapes = _shapes(inputs.shape[1] - 1, hidden, len(self.classes_))
        prior = _prior_deviations(shapes, self.sigma)
        adam = _Adam(_start(shapes, prior, random), self.learning_rate)
        curves, smoothed = list[tuple[float, float]](), list[float]()
        for epoch in range(1, self.num_epochs + 1):
            weight, log_likelihood = self._divergence_weight(epoch), 0.0
            order = random.permutation(n) if n > self.batch_size else np.arange(n)
            for batch in np.array_split(order, -(-n // self.batch_size)):
                noises = _mirrored_noises(self.num_samples_mc, len(batch), shapes, random)
                part = inputs[batch], y[batch], w[batch]
                value, gradient = _log_likelihood(adam.point, shapes, *part, noises)
                divergence, slope = _divergence(adam.point, prior)
                adam.step(weight * len(batch) / n * slope - gradient)
                log_likelihood += value
            curves.append((log_likelihood / total, divergence / total))
            bound = (log_likelihood - divergence) / total
            smoothed.append(bound + 0.9 * (smoothed[-1] - bound) if smoothed else bound)
            bar.update()
            if verbose and epoch % _EPOCHS_PER_REPORT == 0:
                print(f"epoch {epoch}: bound {bound:.4f} per example")
            if epoch > self.end_annealing + _PATIENCE:
                rise = smoothed[-1] - smoothed[-1 - _PATIENCE]
                if rise < _TOLERANCE * abs(smoothed[-1]):
                    break
        bar.update(self.num_epochs - epoch)
        means, log_deviations = adam.average
        posterior = _layers(means, shapes), _layers(np.exp(log_deviations), shapes)
        return posterior, np.transpose(curves)

    def _held_out_scores(
        self,
        inputs: np.ndarray,
        y: np.ndarray,
        w: np.ndarray,
        parts: list[np.ndarray],
        seed: int,
        bar: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return indices of held-out examples, and samples of their scores."""
        rows, scores = [np.empty(0, dtype=int)], [np.empty((0, len(self.noise_), y.max() + 1))]
        for part in parts:
            posterior, _ = self._train(inputs[~part], y[~part], w[~part], seed, bar)
            scores.append(self._sample(inputs[part], *posterior))
            rows.append(np.flatnonzero(part))
        return np.concatenate(rows), np.concatenate(scores)


def _balanced_noise(n_samples: int, units: int, random: _Random) -> np.ndarray:
    """Return noise in mirrored pairs; with enough samples, that of two units is orthogonal."""
    half = (n_samples + 1) // 2
    normal = random.standard_normal((max(half, units), min(half, units)))
    noise = np.linalg.qr(normal)[0] * np.sqrt(max(half, units))
    noise = noise if half >= units else noise.T
    return np.concatenate([noise, -noise])[:n_samples].astype(np.float32)


def _shapes(n_inputs: int, hidden: list[int], n_classes: int) -> Shapes:
    """Return the shapes of the hidden layers, the output layer and the linear path."""
    inputs, units = [n_inputs, *hidden, n_inputs], [*hidden, n_classes, n_classes]
    return [(k + 1, out) for k, out in zip(inputs, units)]


def _layers(flat: np.ndarray, shapes: Shapes) -> Layers:
    ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes)]


def _prior_deviations(shapes: Shapes, sigma: float) -> np.ndarray:
    parts = [np.full(rows * units, sigma / np.sqrt(rows - 1)) for rows, units in shapes]
    n_classes = shapes[-1][1]
    parts[-1] *= _LINEAR * max(1, np.log(n_classes) / np.log(_USUAL_CLASSES))
    return np.concatenate(parts).astype(np.float32)


def _start(shapes: Shapes, prior: np.ndarray, random: _Random) -> np.ndarray:
    """Return means and logarithms of standard deviations, of shape (2, weights)."""
    means = 0.3 * prior * random.standard_normal(len(prior), dtype=np.float32)
    _layers(means, shapes)[-1][:] = 0
    return np.stack([means, np.log(_START * prior)])


def _mirrored_noises(n_samples: int, n_rows: int, shapes: Shapes, random: _Random) -> Layers:
    """Sample the noise of every layer, half of it the mirror image of the other half."""
    noises = []
    for _, units in shapes[:-1]:
        half = random.standard_normal(((n_samples + 1) // 2, n_rows, units), dtype=np.float32)
        noises.append(np.concatenate([half, -half])[:n_samples])
    return noises


def _divergence(point: np.ndarray, prior: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the Kullback-Leibler divergence from the prior, and its gradient."""
    means, log_deviations = point
    ratio = np.square(np.exp(log_deviations) / prior)
    terms = ratio + np.square(means / prior) - 1 + 2 * (np.log(prior) - log_deviations)
    return terms.sum(dtype=np.float64) / 2, np.stack([means / np.square(prior), ratio - 1])


def _log_likelihood(
    point: np.ndarray,
    shapes: Shapes,
    inputs: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    noises: Layers,
) -> tuple[float, np.ndarray]:
    """Return the expected log-likelihood of a weighted batch, and its gradient."""
    means, variances = _layers(point[0], shapes), _layers(np.exp(2 * point[1]), shapes)
    scores, passes = _forward(inputs, means, variances, noises)
    p = softmax_in_place(scores)
    rows = np.arange(len(y))
    value = (np.log(np.maximum(p[:, rows, y], 1e-30)) * w).sum(dtype=np.float64) / len(p)
    p[:, rows, y] -= 1
    by_means, by_variances = _backward(p * (w[:, None] / -len(p)), means, variances, passes)
    return value, np.stack([by_means, 2 * by_variances * np.exp(2 * point[1])])


def _forward(
    inputs: np.ndarray, means: Layers, variances: Layers, noises: Iterable[np.ndarray]
) -> tuple[np.ndarray, Passes]:
    """Sample scores of shape (n_samples, n, n_classes), from noise that broadcasts likewise."""
    passes: Passes = []
    units, last = inputs, len(means) - 2
    for layer, noise in enumerate(noises):
        mean = _times(units, means[layer])
        variance = _times(np.square(units), variances[layer])
        if layer == last:
            mean += inputs @ means[-1]
            variance += np.square(inputs) @ variances[-1]
        deviation = np.sqrt(variance + 1e-12, out=variance)
        passes.append((units, deviation, noise))
        sums = noise * deviation
        sums += mean
        if layer != last:
            units = np.ones((*sums.shape[:-1], sums.shape[-1] + 1), sums.dtype)
            np.maximum(sums, 0, out=units[..., :-1])
    return sums, passes


def _backward(by_sums: np.ndarray, means: Layers, variances: Layers, passes: Passes) -> Layers:
    """Turn the gradient by the scores into those by the means and by the variances."""
    by_means, by_variances = ([np.empty(0)] * len(means) for _ in range(2))
    inputs, last = passes[0][0], len(passes) - 1
    for layer, (units, deviation, noise) in reversed(list(enumerate(passes))):
        by_squares = by_sums * noise / (2 * deviation)
        if layer == last:
            by_means[-1] = _products(inputs, by_sums)
            by_variances[-1] = _products(np.square(inputs), by_squares)
        by_means[layer] = _products(units, by_sums)
        by_variances[layer] = _products(np.square(units), by_squares)
        if layer:
            by_units = 2 * units * _times(by_squares, variances[layer].T)
            by_units += _times(by_sums, means[layer].T)
            by_sums = (by_units * (units > 0))[..., :-1]
    return [np.concatenate([part.ravel() for part in parts]) for parts in (by_means, by_variances)]


def _times(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    # As one product of matrices, whatever the number of axes of the first.
    return (rows.reshape(-1, rows.shape[-1]) @ matrix).reshape(*rows.shape[:-1], -1)


def _products(units: np.ndarray, by_sums: np.ndarray) -> np.ndarray:
    """Return the gradient by the weights that lead from units to sums."""
    if units.ndim == 2:  # the same in all samples
        by_sums = by_sums.sum(axis=0)
    return units.reshape(-1, units.shape[-1]).T @ by_sums.reshape(-1, by_sums.shape[-1])


class _Adam:
    """Adam, and the average of the latest points."""

    def __init__(self, point: np.ndarray, learning_rate: float) -> None:
        self.point, self.learning_rate, self.count = point, learning_rate, 0
        self.first, self.second, self.average = (np.zeros_like(point) for _ in range(3))

    def step(self, gradient: np.ndarray) -> None:
        self.count += 1
        self.first += (1 - _BETAS[0]) * (gradient - self.first)
        self.second += (1 - _BETAS[1]) * (np.square(gradient) - self.second)
        first, second = (1 - beta**self.count for beta in _BETAS)
        size = np.sqrt(self.second / second) + 1e-8
        self.point -= (self.learning_rate / first) * self.first / size
        self.average += max(1 / self.count, 1 / _AVERAGED_STEPS) * (self.point - self.average)


def _shrink(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Shrink sampled scores towards their mean, in their own memory."""
    mean = scores.mean(axis=1, keepdims=True)
    scores *= temperature
    scores += (1 - temperature) * mean
    return scores


def _largest_temperature(scores: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """Return the largest on a grid whose log loss is within three standard errors of the least.

    The scores are samples for held-out examples, of shape (n, n_samples, n_classes).
    """
    losses = []
    for temperature in _TEMPERATURES:
        p = softmax_in_place(_shrink(scores.copy(), temperature)).mean(axis=1)
        losses.append(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)))
    table = np.array(losses)
    excess, error = mean_and_error(table - table[np.argmin(table @ w)], w)
    error *= np.sqrt(len(y) / (len(y) - 1))
    return float(_TEMPERATURES[np.argmax(excess <= _STANDARD_ERRORS * error)])
