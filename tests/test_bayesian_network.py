"""A Bayesian neural network: its numerics against brute force, then its manners."""

import numpy as np
import pytest
import skops.io
from scipy.integrate import quad
from scipy.optimize import approx_fprime
from scipy.special import softmax
from scipy.stats import norm
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from xfer import _io
from xfer.meta import bayesian_network
from xfer.meta.base import held_out_parts
from xfer.meta.bayesian_network import BayesianNetwork
from xfer.meta.novelty import Novelty
from xfer.meta.whitening import PartialWhitening


@pytest.fixture(scope="module")
def digits():
    """100 labelled digits, and the others to test on."""
    X, y = load_digits(return_X_y=True)
    return train_test_split(X, y, train_size=100, stratify=y, random_state=0)


@pytest.fixture(scope="module")
def fitted(digits):
    """Fitted on the 100; not to be changed."""
    return BayesianNetwork().fit(digits[0], digits[2])


def tiny(hidden, seed=0):
    """Return a random posterior of a network of 3 inputs and 3 classes, in double precision."""
    random = np.random.RandomState(seed)
    shapes = bayesian_network._shapes(3, hidden, 3)
    prior = bayesian_network._prior_deviations(shapes, 2.0).astype(float)
    point = np.stack([random.normal(size=len(prior)), random.normal(-1, 0.3, len(prior))])
    inputs = np.column_stack([random.normal(size=(5, 3)), np.ones(5)])
    return random, shapes, prior, point, inputs


@pytest.mark.parametrize("hidden", [[4], [4, 3]])
def test_the_gradient_of_the_bound_with_the_noise_held_fixed(hidden):
    random, shapes, prior, point, inputs = tiny(hidden)
    y, w = random.randint(3, size=5), random.uniform(0.2, 3, size=5)
    noises = [random.normal(size=(4, 5, units)) for _, units in shapes[:-1]]

    def parts(flat):
        point = flat.reshape(2, -1)
        found, by_point = bayesian_network._log_likelihood(point, shapes, inputs, y, w, noises)
        divergence, slope = bayesian_network._divergence(point, prior)
        return 0.7 * divergence - found, 0.7 * slope - by_point

    numerical = approx_fprime(point.ravel(), lambda flat: parts(flat)[0], 1e-7)
    analytic = parts(point.ravel())[1].ravel()
    np.testing.assert_allclose(analytic, numerical, rtol=1e-4, atol=1e-4)


def test_the_divergence_is_that_of_numerical_integration():
    means, deviations, prior = np.array([[0.3, -1.2], [0.5, 1.4], [1.0, 0.7]])

    def integrand(w, mean, deviation, width):
        log_ratio = norm.logpdf(w, mean, deviation) - norm.logpdf(w, 0, width)
        return norm.pdf(w, mean, deviation) * log_ratio

    expected = sum(quad(integrand, -15, 15, args=one)[0] for one in zip(means, deviations, prior))
    found, _ = bayesian_network._divergence(np.stack([means, np.log(deviations)]), prior)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_sampled_sums_have_the_moments_of_sampled_weights():
    """Kingma, Salimans and Welling (2015), eq. 6."""
    random, shapes, _, point, inputs = tiny([4])
    means = bayesian_network._layers(point[0], shapes)
    variances = bayesian_network._layers(np.exp(2 * point[1]), shapes)
    samples = random.normal(size=(200_000, *shapes[0]))
    weights = means[0] + np.sqrt(variances[0]) * samples
    expected = np.einsum("k,skh->sh", inputs[0], weights)
    noises = [random.normal(size=(200_000, 1, units)) for _, units in shapes[:-1]]
    _, passes = bayesian_network._forward(inputs[:1], means, variances, noises)
    _, deviation, noise = passes[0]
    found = (inputs[:1] @ means[0] + deviation * noise)[:, 0]
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(found.std(axis=0), expected.std(axis=0), rtol=0.01)


@pytest.mark.parametrize("hidden", [[4], [4, 3]])
def test_probabilities_are_those_of_explicitly_sampled_weights(hidden):
    random, shapes, _, point, inputs = tiny(hidden)
    means, deviations = (bayesian_network._layers(p, shapes) for p in (point[0], np.exp(point[1])))

    n_samples = 200_000
    layers = [
        mean + deviation * random.normal(size=(n_samples, *mean.shape))
        for mean, deviation in zip(means, deviations)
    ]
    units = inputs
    for weights in layers[:-2]:
        units = np.maximum(units @ weights, 0)
        units = np.concatenate([units, np.ones((n_samples, 5, 1))], axis=2)
    expected = softmax(units @ layers[-2] + inputs @ layers[-1], axis=2).mean(axis=0)

    model = BayesianNetwork()
    model._inputs = lambda X: inputs
    model.temperature_ = 1.0
    model.inverse_temperature_ = 1.0
    model.weights_, model.standard_deviations_ = means, deviations
    model.noise_ = random.normal(size=(n_samples, sum(hidden) + 3))
    found = softmax(model._score_samples(None), axis=2).mean(axis=1)
    assert np.ptp(expected, axis=1).min() > 0.1, "not trivial"
    np.testing.assert_allclose(found, expected, atol=0.005)


def test_the_noise_of_prediction_is_balanced(fitted):
    """Few samples give the average of many, better than as many independent ones."""
    noise = fitted.noise_
    assert noise.shape == (80, 40)
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(noise.T @ noise / 80, np.eye(40), atol=1e-5)


@pytest.mark.parametrize("samples", [1, 2, 7, 30])
def test_fewer_samples_than_units(digits, samples):
    model = BayesianNetwork(num_samples_mc_prediction=samples, num_epochs=60)
    assert model.fit(digits[0], digits[2]).score(digits[1], digits[3]) > 0.7
    assert model.noise_.shape == (samples, 40)
    np.testing.assert_allclose(model.noise_.std(), 1, atol=0.3 if samples > 1 else 1)


def test_the_bound_rises_once_the_divergence_counts_in_full(fitted):
    assert fitted.n_iter_ == len(fitted.loss_curve_) == len(fitted.divergence_curve_)
    difference = fitted.divergence_curve_ - fitted.log_likelihood_curve_
    np.testing.assert_array_equal(fitted.loss_curve_, difference)
    curve = np.convolve(fitted.loss_curve_, np.full(10, 0.1), mode="valid")[::10]
    assert curve.argmax() < 3, "up while the divergence does not count"
    late = curve[4:]
    assert late[0] < curve[0]
    assert (np.diff(late) < 0.05 * late[:-1]).all() and late[-1] < late[0] / 2


def test_the_divergence_gains_weight_between_two_epochs():
    weights = [BayesianNetwork()._divergence_weight(epoch) for epoch in (1, 20, 25, 30, 40, 200)]
    assert weights == [0, 0, 0.25, 0.5, 1, 1]
    for at, weight in ((0, 1), (20, 0)):
        model = BayesianNetwork(start_annealing=at, end_annealing=at)
        assert model._divergence_weight(1) == weight


def test_a_weight_that_no_label_speaks_of_returns_to_its_prior():
    model = BayesianNetwork(start_annealing=0, end_annealing=400, num_epochs=500)
    model.fit(np.ones((20, 3)), np.arange(20) % 2)
    for layer, prior in ((0, model.sigma), (-1, model.sigma / 2)):
        np.testing.assert_allclose(model.weights_[layer][0], 0, atol=0.5)
        deviations = model.standard_deviations_[layer][0]
        np.testing.assert_allclose(deviations, prior, rtol=0.1, err_msg="of one input")


def test_a_prediction_depends_on_its_row_alone(digits, fitted):
    test = digits[1][:300]
    expected = fitted.predict_proba(test)
    order = np.random.RandomState(0).permutation(300)
    np.testing.assert_allclose(fitted.predict_proba(test[order]), expected[order], atol=1e-6)
    alone = np.concatenate([fitted.predict_proba(row[None]) for row in test[:20]])
    np.testing.assert_allclose(alone, expected[:20], atol=1e-6)


def test_the_order_of_the_features_hardly_matters(digits, fitted):
    train, test, labels, _ = digits
    order = np.random.RandomState(0).permutation(64)
    permuted = BayesianNetwork().fit(train[:, order], labels).predict_proba(test[:, order])
    assert np.abs(permuted - fitted.predict_proba(test)).mean() < 0.02


def test_a_seed_fixes_everything_and_leaves_the_global_one_alone(digits, fitted):
    train, test, labels, _ = digits
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    again = BayesianNetwork().fit(train, labels)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.testing.assert_array_equal(again.predict_proba(test), fitted.predict_proba(test))
    other = BayesianNetwork(random_state=1).fit(train, labels)
    assert np.abs(other.predict_proba(test) - again.predict_proba(test)).max() > 0.01


def test_labels_teach():
    random = np.random.RandomState(0)
    y = np.resize(np.arange(4), 2800)
    X = 0.55 * random.normal(size=(4, 20))[y] + random.normal(size=(2800, 20))
    found = []
    for n in (40, 200, 1000):
        model = BayesianNetwork().fit(X[:n], y[:n])
        unsure = model.predict_uncertainty(X[1000:])
        np.testing.assert_allclose(unsure.aleatoric + unsure.epistemic, unsure.total, atol=1e-12)
        loss = log_loss(y[1000:], model.predict_proba(X[1000:]))
        found.append((loss, unsure.total.mean(), unsure.epistemic.mean()))
    assert (found[1:] < 0.9 * np.array(found[:-1])).all(), found


def test_what_was_never_seen_is_epistemic():
    X, y = load_digits(return_X_y=True)
    known = y < 5
    train, test, labels, _ = train_test_split(X[known], y[known], train_size=200, random_state=0)
    model = BayesianNetwork().fit(train, labels)
    near = model.predict_uncertainty(test).epistemic
    far = model.predict_uncertainty(X[~known]).epistemic
    assert far.mean() > 3 * near.mean()
    assert (far[:, None] > near).mean() > 0.85, "area under the curve"


def scores_of(width, temperature, seed=0):
    """Return samples around right scores, and labels for which that temperature is right."""
    random = np.random.RandomState(seed)
    mean = 2 * random.normal(size=(400, 1, 3))
    samples = mean + width * random.normal(size=(400, 200, 3))
    p = softmax(mean + temperature * (samples - mean), axis=2).mean(axis=1)
    return samples, np.array([random.choice(3, p=row / row.sum()) for row in p])


def test_samples_that_spread_too_far_are_shrunk():
    samples, y = scores_of(width=6, temperature=0.1)
    assert bayesian_network._largest_temperature(samples, y, np.ones(400)) < 0.4


@pytest.mark.parametrize("seed", range(5))
def test_samples_that_spread_rightly_are_left_alone(seed):
    samples, y = scores_of(width=3, temperature=1.0, seed=seed)
    assert bayesian_network._largest_temperature(samples, y, np.ones(400)) == 1


def test_the_temperature_is_the_largest_that_is_not_clearly_worse():
    samples, y = scores_of(width=2, temperature=0.3)

    def losses(temperature):
        shrunk = bayesian_network._shrink(samples.copy(), temperature)
        return -np.log(softmax(shrunk, axis=2).mean(axis=1)[np.arange(400), y])

    table = np.array([losses(temperature) for temperature in bayesian_network._TEMPERATURES])
    best = table.mean(axis=1).argmin()
    chosen = bayesian_network._largest_temperature(samples, y, np.ones(400))
    assert bayesian_network._TEMPERATURES[best] < chosen < 1
    for temperature, row in zip(bayesian_network._TEMPERATURES, table):
        excess = row - table[best]
        within = excess.mean() <= bayesian_network._STANDARD_ERRORS * excess.std(ddof=1) / np.sqrt(
            400
        )
        assert (
            within == (temperature <= chosen) or temperature < bayesian_network._TEMPERATURES[best]
        )


def test_the_temperature_acts_on_what_is_sampled(digits, fitted):
    """Probabilities and uncertainty agree on it, as both come from the same samples."""
    model = clone(fitted).fit(digits[0], digits[2])
    test = digits[1][:50]
    model.temperature_ = 1.0
    model.inverse_temperature_ = 1.0
    wide = model._score_samples(test)
    model.temperature_ = 0.25
    narrow = model._score_samples(test)
    np.testing.assert_allclose(narrow.mean(axis=1), wide.mean(axis=1), atol=1e-4)
    np.testing.assert_allclose(narrow.std(axis=1), 0.25 * wide.std(axis=1), rtol=1e-3)


def test_few_labels_sharpen(digits):
    """A mean-field posterior of a few labels is too cautious."""
    X, y = load_digits(return_X_y=True)
    gains = []
    for seed in range(3):
        train, test, labels, truth = train_test_split(
            X, y, train_size=20, stratify=y, random_state=seed
        )
        model = BayesianNetwork().fit(train, labels)
        assert model.inverse_temperature_ == pytest.approx(np.exp(1.5 / 2))
        sharp = log_loss(truth, model.predict_proba(test))
        model.inverse_temperature_ = 1.0
        gains.append(log_loss(truth, model.predict_proba(test)) - sharp)
    assert min(gains) > 0.05
    weights = np.full(20, 0.01)
    assert model.fit(train, labels, weights).inverse_temperature_ == pytest.approx(np.exp(1.5))


def test_the_linear_path_is_freer_with_many_classes():
    for n_classes, factor in ((2, 1), (10, 1), (100, 2)):
        shapes = bayesian_network._shapes(3, [4], n_classes)
        prior = bayesian_network._layers(bayesian_network._prior_deviations(shapes, 2.0), shapes)
        np.testing.assert_allclose(prior[1], 2 / np.sqrt(4), rtol=1e-6)
        np.testing.assert_allclose(prior[2], factor * 0.5 * 2 / np.sqrt(3), rtol=1e-6)


def test_more_classes_than_hidden_units():
    random = np.random.RandomState(0)
    y, truth = np.repeat(np.arange(100), 3), np.repeat(np.arange(100), 3)
    centres = random.normal(size=(100, 30))
    X, test = (centres[c] + 0.7 * random.normal(size=(len(c), 30)) for c in (y, truth))
    assert BayesianNetwork(n_hidden=10, num_epochs=60).fit(X, y).score(test, truth) > 0.9


def test_held_out_examples_are_300_or_all():
    parts = held_out_parts(np.repeat([0, 1, 2, 3, 4], 30), 300)
    assert np.sum(parts, axis=0).tolist() == [1] * 150
    parts = held_out_parts(np.repeat([0, 1, 2, 3, 4], 150), 300)
    assert np.sum(parts, axis=0).tolist() == [1] * 300 + [0] * 450
    assert held_out_parts(np.full(3, -1), 300) == []


@pytest.mark.parametrize("counts", [(1, 1), (1, 9), (1, 1, 1), (1, 2, 30), (2, 2)])
def test_few_examples_of_a_class(counts):
    X, y = load_iris(return_X_y=True)
    rows = np.concatenate([np.flatnonzero(y == k)[:count] for k, count in enumerate(counts)])
    model = BayesianNetwork().fit(X[rows], np.array(["a", "b", "c"])[y[rows]])
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (150, len(counts))
    assert np.isfinite(probabilities).all()
    assert set(model.predict(X)) <= set("abc")
    assert np.isfinite(model.predict_uncertainty(X).epistemic).all()


def spoiled(kind, X, y):
    if kind == "a constant column":
        return np.column_stack([X, np.full(len(X), 7.0)]), y
    if kind == "constant throughout":
        return np.full_like(X, 3.0), y
    if kind == "duplicates":
        return np.repeat(X[:20], 5, axis=0), np.repeat(y[:20], 5)
    if kind == "random labels":
        return X, np.random.RandomState(0).permutation(y)
    return X * float(kind), y


@pytest.mark.parametrize(
    "kind",
    ["a constant column", "constant throughout", "duplicates", "random labels", "1e6", "1e-6"],
)
def test_awkward_data(digits, kind):
    X, y = spoiled(kind, digits[0], digits[2])
    model = BayesianNetwork().fit(X, y)
    for rows in (X, X + 1e4 * np.abs(X).max()):
        probabilities = model.predict_proba(rows)
        assert np.isfinite(probabilities).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)


@pytest.mark.parametrize(
    "parameters",
    [
        {"num_layers": 2},
        {"num_layers": 3, "n_hidden": 5},
        {"n_hidden": 1},
        {"num_samples_mc": 1},
        {"num_samples_mc": 3},
        {"batch_size": 7, "num_epochs": 60},
        {"start_annealing": 0, "end_annealing": 0},
        {"random_state": None},
        {"random_state": np.random.RandomState(0)},
    ],
)
def test_other_parameters_learn_too(digits, parameters):
    train, test, labels, truth = digits
    assert BayesianNetwork(**parameters).fit(train, labels).score(test, truth) > 0.75


def test_one_epoch_is_a_fit(digits):
    model = BayesianNetwork(num_epochs=1).fit(digits[0], digits[2])
    assert model.n_iter_ == 1
    assert np.isfinite(model.predict_proba(digits[1])).all()


def test_a_hundred_digits_suffice(digits, fitted):
    _, test, _, truth = digits
    assert fitted.score(test, truth) > 0.87
    assert log_loss(truth, fitted.predict_proba(test)) < 0.5


def test_reporting(digits, capsys):
    BayesianNetwork(verbose=1, num_epochs=25).fit(digits[0], digits[2])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 10", "epoch 20"]
    assert "bound -" in lines[0]
    BayesianNetwork(num_epochs=25).fit(digits[0], digits[2])
    assert capsys.readouterr() == ("", "")


def test_a_bar_counts_the_epochs_of_all_networks(digits, monkeypatch, capsys):
    made = []

    class Bar(_io.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "delay": 0})
            made.append(self)

    monkeypatch.setattr(_io, "tqdm", Bar)
    BayesianNetwork(progress=True, num_epochs=100).fit(digits[0], digits[2])
    assert made[0].n == made[0].total == 600
    assert "/600 [" in capsys.readouterr().err
    BayesianNetwork(num_epochs=2).fit(digits[0], digits[2])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.ps1", ">>> ", raising=False)
    BayesianNetwork(num_epochs=2).fit(digits[0], digits[2])
    assert "/12 [" in capsys.readouterr().err


def test_what_is_fitted_is_plain(fitted):
    """Arrays, lists and numbers: what a safe file may hold."""
    state = {name: value for name, value in vars(fitted).items() if name.endswith("_")}
    for name, value in state.items():
        for part in value if isinstance(value, list) else [value]:
            assert isinstance(part, (np.ndarray, int, float, PartialWhitening)), name
    assert [part.shape for part in fitted.weights_] == [
        (fitted.whitening_.components_.shape[1] + 1, 30),
        (31, 10),
        (fitted.whitening_.components_.shape[1] + 1, 10),
    ]


def test_a_saved_one_predicts_the_same(digits, fitted):
    kinds = (BayesianNetwork, Novelty, PartialWhitening)
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in kinds]
    loaded = skops.io.loads(skops.io.dumps(fitted), trusted=names)
    expected, found = (model.predict_uncertainty(digits[1]) for model in (fitted, loaded))
    np.testing.assert_array_equal(loaded.predict_proba(digits[1]), fitted.predict_proba(digits[1]))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sigma": 0}, "sigma must be a positive number, got 0"),
        ({"sigma": np.inf}, "sigma must be a finite number, got inf"),
        ({"learning_rate": "fast"}, "learning_rate must be a positive number, got 'fast'"),
        ({"n_hidden": 2.5}, r"n_hidden must be an integer >= 1, got 2\.5"),
        ({"num_layers": 0}, "num_layers must be an integer >= 1, got 0"),
        ({"num_epochs": True}, "num_epochs must be an integer >= 1, got True"),
        ({"batch_size": None}, "batch_size must be an integer >= 1, got None"),
        ({"num_samples_mc": -1}, "num_samples_mc must be an integer >= 1, got -1"),
        ({"num_samples_mc_prediction": 0}, "num_samples_mc_prediction must be an integer"),
        ({"start_annealing": -1}, "start_annealing must be an integer >= 0, got -1"),
        ({"start_annealing": 50}, "end_annealing must be >= start_annealing, which is 50, got 40"),
    ],
)
def test_parameters_out_of_range_are_refused(digits, parameters, message):
    with pytest.raises(ValueError, match=message):
        BayesianNetwork(**parameters).fit(digits[0], digits[2])
