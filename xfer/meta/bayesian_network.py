"""A Bayesian neural network for few labels."""

from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_random_state

from xfer._io import progress_bar
from xfer.meta.calibrated import _folds
from xfer.meta.posterior import BayesianClassifier, softmax_in_place
from xfer.meta.whitening import PartialWhitening, drawn_in

_LINEAR = 0.5  # prior standard deviation of the linear path, in those of a layer
_START = 0.2  # standard deviations before training, in prior ones
_BETAS = 0.9, 0.999  # of Adam
_AVERAGED_STEPS = 200  # that the average of the posteriors remembers
_PATIENCE = 10  # epochs in which the smoothed bound must rise ...
_TOLERANCE = 0.01  # ... by this part of itself
_HELD_OUT = 300  # predictions that suffice to choose one number
_SPREADS = np.exp(-np.linspace(0, 2, 21))
# With two, an odd sample of a hundred labels narrowed a posterior that was right.
_STANDARD_ERRORS = 3
_EPOCHS_A_LINE = 10  # when reporting


class BayesianNetwork(BayesianClassifier):
    r"""A neural network whose weights are independent Gaussians, on partly whitened features.

    The features are drawn in, :math:`z / \sqrt{(1 + |z|^2) / 2}`, as for the Gaussian process.

    Hidden layers of rectified linear units have a linear path beside them, from the features
    straight to the class scores. With :math:`k` inputs to a layer, the prior and the posterior of a
    weight are [1]_, where the linear path has half the :math:`\sigma`,

    .. math:: p(w) = N(0, \sigma^2 / k), \qquad q(w) = N(\mu, \rho^2)

    and Adam [2]_ raises the lower bound

    .. math:: \mathrm{E}_q \log p(y | w) - \beta \, \mathrm{KL}(q \| p)

    of the log-likelihood of the labels. The weight :math:`\beta` grows from 0 to 1 during the first
    epochs, lest the weights return to their prior before they have learned anything [3]_. The
    expectation is over the sums that enter the units instead of over the weights, for which an
    example :math:`x` has its own noise [4]_:

    .. math:: \sum_i x_i \mu_i + \epsilon \sqrt{\sum_i x_i^2 \rho_i^2}, \qquad \epsilon \sim N(0, 1)

    It ends when the smoothed bound has risen by less than a hundredth in ten epochs; then the
    average of the latest posteriors is kept.

    A posterior of independent weights is often wider than the labels call for, and a colder one
    predicts better [5]_. The sampled scores are therefore drawn towards their mean,

    .. math:: \bar f + \tau (f - \bar f), \qquad 0 < \tau \le 1,

    where :math:`\tau` is chosen on examples that the network has not seen (5 folds, or as many as
    hold 300): the largest whose log loss is within three standard errors of the least [6]_.

    Parameters
    ----------
    sigma : float, default=3.0
        Prior standard deviation of the sum that enters a unit whose inputs have mean square 1.
    num_layers : int, default=1
        Hidden layers.
    n_hidden : int, default=30
        Units of each.
    num_samples_mc : int, default=2
        Samples of every sum in a step; in pairs of mirrored noise.
    learning_rate : float, default=0.02
        Of Adam.
    batch_size : int, default=200
        Examples in a step.
    num_epochs : int, default=200
        Most passes over the examples.
    start_annealing, end_annealing : int, default=20, 40
        Epochs between which the weight of the divergence grows from 0 to 1.
    num_samples_mc_prediction : int, default=80
        Samples whose probabilities are averaged.
    verbose : bool, default=False
        Whether to print the bound now and then.
    random_state : int, RandomState or None, default=0
        Seed of everything random.
    progress : bool, optional
        Whether a fit of more than a second shows a bar; by default in an interactive session.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    mean_ : ndarray of shape (d,)
        Of the features.
    components_ : ndarray of shape (d, rank)
        What centred features are multiplied by to enter the network.
    weights_, standard_deviations_ : list of ndarray
        Of the posterior, one per hidden layer, of shape (inputs + 1, n_hidden) and the bias last;
        one of the output layer, (n_hidden + 1, n_classes); and one of the linear path,
        (rank + 1, n_classes).
    noise_ : ndarray of shape (num_samples_mc_prediction, num_layers * n_hidden + n_classes)
        That every prediction uses.
    spread_ : float
        :math:`\tau`.
    n_iter_ : int
        Epochs.
    log_likelihood_curve_, divergence_curve_, loss_curve_ : ndarray of shape (epochs,)
        Per example: the two parts of the bound (with weight 1), and the bound with the opposite
        sign.

    References
    ----------
    .. [1] Blundell et al. (2015), Weight Uncertainty in Neural Networks, section 3.
    .. [2] Kingma and Ba (2015), Adam: A Method for Stochastic Optimization, algorithm 1.
    .. [3] Sønderby et al. (2016), Ladder Variational Autoencoders, section 2.3.
    .. [4] Kingma, Salimans and Welling (2015), Variational Dropout and the Local
       Reparameterization Trick, eq. 6.
    .. [5] Wenzel et al. (2020), How Good is the Bayes Posterior in Deep Neural Networks Really?
    .. [6] Breiman et al. (1984), Classification and Regression Trees, section 3.4.3 (with one
       standard error).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = BayesianNetwork().fit(X[:, :2], y)
    >>> model.predict_proba(X[[0, 53, 77], :2]).round(1)
    array([[1. , 0. , 0. ],
           [0. , 0.8, 0.2],
           [0. , 0.3, 0.7]])
    """

    def __init__(
        self,
        sigma=3.0,
        *,
        num_layers=1,
        n_hidden=30,
        num_samples_mc=2,
        learning_rate=0.02,
        batch_size=200,
        num_epochs=200,
        start_annealing=20,
        end_annealing=40,
        num_samples_mc_prediction=80,
        verbose=False,
        random_state=0,
        progress=None,
    ):
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
        self.verbose = verbose
        self.random_state = random_state
        self.progress = progress

    def check_parameters(self):
        """Refuse parameters that are out of range.

        Returns
        -------
        BayesianNetwork
            Itself.

        Raises
        ------
        ValueError
            Naming the parameter.
        """
        for name in ("sigma", "learning_rate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < np.inf:
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        counts = ("num_layers", "n_hidden", "num_samples_mc", "batch_size", "num_epochs")
        for name in (*counts, "num_samples_mc_prediction", "start_annealing", "end_annealing"):
            value, least = getattr(self, name), 0 if name.endswith("annealing") else 1
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        if self.end_annealing < self.start_annealing:
            raise ValueError(
                f"end_annealing must not come before start_annealing, {self.start_annealing}, "
                f"got {self.end_annealing}"
            )
        return self

    def fit(self, X, y):
        """Fit the posterior, then its spread.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,)
            Labels of any kind, of two classes or more.

        Returns
        -------
        BayesianNetwork
            Itself.
        """
        self.check_parameters()
        X, y = self._checked(X, y)
        seed = check_random_state(self.random_state).randint(2**31)
        whitening = PartialWhitening().fit(X)
        self.mean_ = whitening.mean_
        self.components_ = whitening.components_
        units = self.num_layers * self.n_hidden + len(self.classes_)
        self.noise_ = _balanced_noise(self.num_samples_mc_prediction, units, _generator(seed))
        parts = _held_out_parts(_folds(X, y, seed))
        inputs = self._inputs(X)
        total = (1 + len(parts)) * self.num_epochs
        with progress_bar(None, self.progress, total, "network", "epoch") as bar:
            posterior, curves = self._train(inputs, y, seed, bar, self.verbose)
            self.spread_ = self._choose_spread(inputs, y, parts, seed, bar)
        self.weights_, self.standard_deviations_ = posterior
        self.log_likelihood_curve_, self.divergence_curve_ = curves
        self.loss_curve_ = self.divergence_curve_ - self.log_likelihood_curve_
        self.n_iter_ = len(self.loss_curve_)
        return self

    @property
    def _numbers_a_row(self):
        return 4 * self.noise_.size

    def _score_samples(self, X):
        scores = self._sample(self._inputs(X), self.weights_, self.standard_deviations_)
        return _shrink(scores, self.spread_)

    def _inputs(self, X):
        Z = drawn_in((X - self.mean_) @ self.components_)
        inputs = np.ones((len(Z), Z.shape[1] + 1), np.float32)
        inputs[:, :-1] = Z * np.sqrt(Z.shape[1])  # of mean square 1
        return inputs

    def _sample(self, inputs, means, deviations):
        """Sample scores: array of shape (m, n_samples, n_classes)."""
        # Every row meets the same noise, so that a prediction does not depend on its company.
        ends = np.cumsum([mean.shape[1] for mean in means[:-2]])
        noises = np.split(self.noise_[:, None], ends, axis=2)
        scores, _ = _forward(inputs, means, [np.square(part) for part in deviations], noises)
        return scores.transpose(1, 0, 2)

    def _divergence_weight(self, epoch):
        if epoch >= self.end_annealing:
            return 1.0
        length = self.end_annealing - self.start_annealing
        return max(0.0, (epoch - self.start_annealing) / length)

    def _train(self, inputs, y, seed, bar, verbose=False):
        """Raise the bound until it rises no more.

        Returns
        -------
        posterior : list of list of ndarray
            Means and standard deviations, each as a list of layers.
        curves : ndarray of shape (2, epochs)
            Log-likelihood and divergence per example.
        """
        random, n = _generator(seed), len(y)
        hidden = [self.n_hidden] * self.num_layers
        shapes = _shapes(inputs.shape[1] - 1, hidden, len(self.classes_))
        prior = _prior_deviations(shapes, self.sigma)
        adam = _Adam(_start(shapes, prior, random), self.learning_rate)
        curves, smoothed = [], []
        for epoch in range(1, self.num_epochs + 1):
            weight, log_likelihood = self._divergence_weight(epoch), 0.0
            order = random.permutation(n) if n > self.batch_size else np.arange(n)
            for batch in np.array_split(order, -(-n // self.batch_size)):
                noises = _mirrored_noises(self.num_samples_mc, len(batch), shapes, random)
                found, gradient = _log_likelihood(
                    adam.point, shapes, inputs[batch], y[batch], noises
                )
                divergence, slope = _divergence(adam.point, prior)
                adam.step(weight * len(batch) / n * slope - gradient)
                log_likelihood += found
            curves.append((log_likelihood / n, divergence / n))
            bound = (log_likelihood - divergence) / n
            smoothed.append(bound + 0.9 * (smoothed[-1] - bound) if smoothed else bound)
            bar.update()
            if verbose and epoch % _EPOCHS_A_LINE == 0:
                print(f"epoch {epoch}: bound {bound:.4f} per example")
            if epoch > self.end_annealing + _PATIENCE and _has_settled(smoothed):
                break
        bar.update(self.num_epochs - epoch)
        means, log_deviations = adam.average
        posterior = [_layers(means, shapes), _layers(np.exp(log_deviations), shapes)]
        return posterior, np.transpose(curves)

    def _choose_spread(self, inputs, y, parts, seed, bar):
        scores = []
        for part in parts:
            posterior, _ = self._train(inputs[~part], y[~part], seed, bar)
            scores.append(self._sample(inputs[part], *posterior))
        if not scores:
            return 1.0
        return _largest_spread(np.concatenate(scores), np.concatenate([y[part] for part in parts]))


def _has_settled(smoothed):
    return smoothed[-1] - smoothed[-1 - _PATIENCE] < _TOLERANCE * abs(smoothed[-1])


def _generator(seed):
    return np.random.Generator(np.random.SFC64(seed))


def _balanced_noise(samples, units, random):
    """Draw noise whose samples have nearly the moments of a standard normal.

    The second half mirrors the first, so that odd moments vanish, and the noises of different units
    are orthogonal as far as there are samples enough. Averages are as exact as with four times as
    many quasi-random points.
    """
    half = (samples + 1) // 2
    drawn = random.standard_normal((max(half, units), min(half, units)))
    noise = np.linalg.qr(drawn)[0] * np.sqrt(max(half, units))
    noise = noise if half >= units else noise.T
    return np.concatenate([noise, -noise])[:samples].astype(np.float32)


def _held_out_parts(fold):
    """Return masks of the examples to be held out in turn."""
    parts = [fold == number for number in np.unique(fold[fold >= 0])]
    sizes = np.cumsum([0, *(np.count_nonzero(part) for part in parts)])
    return [part for part, before in zip(parts, sizes) if before < _HELD_OUT]


def _shapes(width, hidden, number):
    """Return the shapes of the hidden layers, the output layer and the path around them."""
    inputs, units = [width, *hidden, width], [*hidden, number, number]
    return [(k + 1, out) for k, out in zip(inputs, units)]


def _layers(flat, shapes):
    """View all weights as a list of matrices."""
    ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes)]


def _prior_deviations(shapes, sigma):
    parts = [np.full(rows * units, sigma / np.sqrt(rows - 1)) for rows, units in shapes]
    parts[-1] *= _LINEAR
    return np.concatenate(parts).astype(np.float32)


def _start(shapes, prior, random):
    """Return means and logarithms of standard deviations: array of shape (2, weights)."""
    means = 0.3 * prior * random.standard_normal(len(prior), dtype=np.float32)
    _layers(means, shapes)[-1][:] = 0
    return np.stack([means, np.log(_START * prior)])


def _mirrored_noises(samples, rows, shapes, random):
    """Draw the noise of every layer, half of it the mirror image of the other half."""
    noises = []
    for _, units in shapes[:-1]:
        half = random.standard_normal(((samples + 1) // 2, rows, units), dtype=np.float32)
        noises.append(np.concatenate([half, -half])[:samples])
    return noises


def _divergence(point, prior):
    """Return the Kullback-Leibler divergence from the prior, and its derivative."""
    means, log_deviations = point
    ratio = np.square(np.exp(log_deviations) / prior)
    terms = ratio + np.square(means / prior) - 1 + 2 * (np.log(prior) - log_deviations)
    return terms.sum(dtype=np.float64) / 2, np.stack([means / np.square(prior), ratio - 1])


def _log_likelihood(point, shapes, inputs, y, noises):
    """Return the expected log-likelihood of a batch, and its derivative by the posterior."""
    means, variances = _layers(point[0], shapes), _layers(np.exp(2 * point[1]), shapes)
    scores, passes = _forward(inputs, means, variances, noises)
    p = softmax_in_place(scores)
    rows = np.arange(len(y))
    value = np.log(np.maximum(p[:, rows, y], 1e-30)).sum(dtype=np.float64) / len(p)
    p[:, rows, y] -= 1
    by_means, by_variances = _backward(p / -len(p), means, variances, passes)
    return value, np.stack([by_means, 2 * by_variances * np.exp(2 * point[1])])


def _forward(inputs, means, variances, noises):
    """Sample scores by sampling the sums that enter the units.

    Parameters
    ----------
    inputs : ndarray of shape (n, rank + 1)
        The last column is 1.
    means, variances : list of ndarray
    noises : list of ndarray
        One per layer, that broadcast to (n_samples, n, units).

    Returns
    -------
    scores : ndarray of shape (n_samples, n, n_classes)
    passes : list of tuple
        Of each layer the inputs, the standard deviations of the sums, and the noise.
    """
    passes, units = [], inputs
    for number, noise in enumerate(noises):
        mean = _times(units, means[number])
        variance = _times(np.square(units), variances[number])
        last = number == len(noises) - 1
        if last:
            mean += inputs @ means[-1]
            variance += np.square(inputs) @ variances[-1]
        deviation = np.sqrt(variance + 1e-12, out=variance)
        passes.append((units, deviation, noise))
        sums = noise * deviation
        sums += mean
        if not last:
            units = np.ones((*sums.shape[:-1], sums.shape[-1] + 1), sums.dtype)
            np.maximum(sums, 0, out=units[..., :-1])
    return sums, passes


def _backward(by_sums, means, variances, passes):
    """Turn the derivative by the scores into those by the means and the variances."""
    by_means, by_variances = [None] * len(means), [None] * len(means)
    inputs, last = passes[0][0], len(passes) - 1
    for number, (units, deviation, noise) in reversed(list(enumerate(passes))):
        by_squares = by_sums * noise / (2 * deviation)
        if number == last:
            by_means[-1] = _products(inputs, by_sums)
            by_variances[-1] = _products(np.square(inputs), by_squares)
        by_means[number] = _products(units, by_sums)
        by_variances[number] = _products(np.square(units), by_squares)
        if number:
            by_units = 2 * units * _times(by_squares, variances[number].T)
            by_units += _times(by_sums, means[number].T)
            by_sums = (by_units * (units > 0))[..., :-1]
    return [np.concatenate([part.ravel() for part in parts]) for parts in (by_means, by_variances)]


def _times(rows, matrix):
    """Multiply a stack of matrices by a matrix, as one product."""
    return (rows.reshape(-1, rows.shape[-1]) @ matrix).reshape(*rows.shape[:-1], -1)


def _products(units, by_sums):
    """Sum what a weight carried, times the derivative by what it went to."""
    if units.ndim == 2:  # alike in all samples
        by_sums = by_sums.sum(axis=0)
    return units.reshape(-1, units.shape[-1]).T @ by_sums.reshape(-1, by_sums.shape[-1])


class _Adam:
    """Steps of Adam, and the average of the latest points."""

    def __init__(self, point, rate):
        self.point, self.rate, self.count = point, rate, 0
        self.first, self.second, self.average = (np.zeros_like(point) for _ in range(3))

    def step(self, gradient):
        self.count += 1
        self.first += (1 - _BETAS[0]) * (gradient - self.first)
        self.second += (1 - _BETAS[1]) * (np.square(gradient) - self.second)
        first, second = (1 - beta**self.count for beta in _BETAS)
        size = np.sqrt(self.second / second) + 1e-8
        self.point -= (self.rate / first) * self.first / size
        self.average += max(1 / self.count, 1 / _AVERAGED_STEPS) * (self.point - self.average)


def _shrink(scores, spread):
    """Draw sampled scores towards their mean, in their own memory."""
    mean = scores.mean(axis=1, keepdims=True)
    scores *= spread
    scores += (1 - spread) * mean
    return scores


def _largest_spread(scores, y):
    """Choose how far the samples spread, by their log loss on examples that were held out.

    Parameters
    ----------
    scores : ndarray of shape (n, n_samples, n_classes)
    y : ndarray of shape (n,)

    Returns
    -------
    float
        The largest on a grid whose loss exceeds the least by no more than three standard errors.
    """
    losses = []
    for spread in _SPREADS:
        p = softmax_in_place(_shrink(scores.copy(), spread)).mean(axis=1)
        losses.append(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)))
    excess = np.array(losses) - losses[np.argmin(np.sum(losses, axis=1))]
    error = excess.std(axis=1, ddof=1) / np.sqrt(len(y))
    return float(_SPREADS[np.argmax(excess.mean(axis=1) <= _STANDARD_ERRORS * error)])
