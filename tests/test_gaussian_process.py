"""The Gaussian process classifier against brute force: refits, dense algebra, quadrature."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.metrics.pairwise import euclidean_distances

from xfer import _io
from xfer.meta import gaussian_process
from xfer.meta.gaussian_process import DirichletGaussianProcess, _negative_objective
from xfer.meta.left_out import LeftOut, dirichlet_targets
from xfer.meta.posterior import (
    choose_inverse_temperature,
    expected_softmax,
    standard_normal_points,
)


@pytest.fixture
def problem():
    """Features of 30 examples of three classes in order, their classes and their weights."""
    y, random = np.sort(np.resize([0, 1, 1, 2], 30)), np.random.RandomState(0)
    X = random.normal(size=(30, 5)) + y[:, None]
    return X, y[:, None] == np.arange(3), random.uniform(0.2, 3, size=30)


@pytest.fixture
def digits():
    """100 labelled digits of 0 to 4 and 100 to test on, and digits that were never seen."""
    X, y = load_digits(return_X_y=True)
    known, new = np.flatnonzero(y < 5), np.flatnonzero(y >= 5)
    return X[known[:100]], y[known[:100]], X[known[100:400]], y[known[100:400]], X[new[:300]]


def covariance(X):
    return 4 * np.exp(-euclidean_distances(X, squared=True) / 8)


def noise(one_hot, targets):
    return np.where(one_hot, *targets.noise)


def regression_targets(one_hot, targets):
    return targets.gap * (one_hot - 1 / one_hot.shape[1])


def test_targets_have_the_moments_of_a_gamma_variable():
    targets = dirichlet_targets(np.log(0.02))
    a, variance = np.array([1.02, 0.02]), targets.noise
    location = np.log(a) - variance / 2
    np.testing.assert_allclose(np.exp(location + variance / 2), a)
    np.testing.assert_allclose(np.expm1(variance) * np.exp(2 * location + variance), a)
    assert targets.gap == pytest.approx(location[0] - location[1])


def test_left_out_predictions_are_those_of_fits_without_the_example(problem):
    X, one_hot, w = problem
    K, targets = covariance(X), dirichlet_targets(np.log(0.01))
    left_out = LeftOut(K, one_hot, w, targets)
    for row in (0, 7, 29):
        rest = np.arange(30) != row
        for c in range(3):
            A = K[np.ix_(rest, rest)] + np.diag((noise(one_hot, targets)[:, c] / w)[rest])
            weights = np.linalg.solve(A, K[rest, row])
            mean = weights @ regression_targets(one_hot, targets)[rest, c]
            np.testing.assert_allclose(left_out.means[row, c], mean, atol=1e-10)
            variance = K[row, row] - weights @ K[rest, row]
            np.testing.assert_allclose(left_out.variances[row, c], variance, atol=1e-10)


def test_the_gradient_of_the_objective(problem):
    X, one_hot, w = problem
    distances = [euclidean_distances(X[:, some], squared=True) for some in ([0, 1], [2, 3, 4])]
    points, prior_mean = standard_normal_points(16, 3, 0), np.array([0.5, 0.7, 1.0, 2.0, -4.0])
    at = np.array([0.3, 0.8, 1.2, 0.7, -3.0])

    def objective(parameters):
        return _negative_objective(parameters, distances, one_hot, w, points, prior_mean)

    steps = 1e-5 * np.eye(5)
    expected = [(objective(at + step)[0] - objective(at - step)[0]) / 2e-5 for step in steps]
    np.testing.assert_allclose(objective(at)[1], expected, rtol=1e-4, atol=1e-4)


def test_the_posterior_is_that_of_dense_regressions(digits):
    X, y, test, *_ = digits
    w = np.random.RandomState(0).uniform(0.2, 3, size=100)
    model = DirichletGaussianProcess().fit(X, y, w)
    targets = dirichlet_targets(np.log(model.concentration_))
    train, new = model._whitened(X)[0], model._whitened(test)[0]
    kernels = [
        model.variances_[0]
        * np.exp(-euclidean_distances(a, train, squared=True) / (2 * model.length_scales_[0] ** 2))
        for a in (train, new)
    ]
    one_hot = y[:, None] == np.arange(5)
    samples = model._score_samples(test) / model.inverse_temperature_
    for c in range(5):
        A = kernels[0] + np.diag(noise(one_hot, targets)[:, c] / w)
        mean = kernels[1] @ np.linalg.solve(A, regression_targets(one_hot, targets)[:, c])
        explained = (kernels[1] * np.linalg.solve(A, kernels[1].T).T).sum(axis=1)
        np.testing.assert_allclose(samples[..., c].mean(axis=1), mean, atol=1e-8)
        variance = model.variances_[0] - explained
        np.testing.assert_allclose(samples[..., c].var(axis=1), variance, atol=1e-8)


def test_probabilities_are_the_integral_over_the_posterior(digits):
    """Two classes: the difference of the scores is one normal variable."""
    X, y, test, *_ = digits
    model = DirichletGaussianProcess().fit(X, y > 1)
    samples = model._score_samples(test)
    mean, variance = samples.mean(axis=1), samples.var(axis=1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    difference = mean[:, 1] - mean[:, 0]
    spread = np.sqrt(variance.sum(axis=1))
    values = 1 / (1 + np.exp(-(difference[:, None] + spread[:, None] * nodes)))
    expected = values @ weights / weights.sum()
    np.testing.assert_allclose(model.predict_proba(test)[:, 1], expected, atol=1e-3)


@pytest.mark.parametrize("deviation", [0, 1, 5, 30])
def test_an_average_of_a_softmax_is_that_of_many_samples(deviation):
    random = np.random.RandomState(0)
    means, deviations = random.normal(size=(3, 6)) * 3, np.full((3, 6), float(deviation))
    deviations[1:, 0] = 0.2  # one class is well known, the others are not
    found = expected_softmax(means, deviations**2)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    points = standard_normal_points(2**16, 6, 0)
    expected = [softmax(m + s * points, axis=1).mean(axis=0) for m, s in zip(means, deviations)]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_with_one_label_of_each_of_many_classes_the_nearest_is_the_likeliest():
    random = np.random.RandomState(0)
    X = random.normal(size=(100, 20))
    new = X + 0.3 * random.normal(size=X.shape)
    model = DirichletGaussianProcess().fit(X, np.arange(100))
    expected = euclidean_distances(model._whitened(new)[0], model._whitened(X)[0]).argmin(axis=1)
    np.testing.assert_array_equal(model.predict(new), expected)


def test_an_example_without_companions_is_not_in_the_objective(problem):
    """With one more class of one example, the others are predicted, and that one is not."""
    X, one_hot, w = problem
    one_hot = np.column_stack([one_hot, np.zeros(30, bool)])
    one_hot[-1] = [False, False, False, True]
    left_out = LeftOut(covariance(X), one_hot, w, dirichlet_targets(np.log(0.01)))
    points = standard_normal_points(64, 4, 0)
    samples = left_out.means[:, None] + np.sqrt(left_out.variances)[:, None] * points
    p = softmax(samples, axis=2).mean(axis=1)[one_hot]
    assert left_out.loss(points)[0] == pytest.approx(-w[:-1] @ np.log(p[:-1]))


def test_many_classes_need_little_memory(monkeypatch):
    """Blocks of the posterior have the size of a class, and kernels are learned from a part."""
    random, y = np.random.RandomState(0), np.repeat(np.arange(120), 3)
    centres = random.normal(size=(120, 30))
    X = centres[y] + 0.3 * random.normal(size=(360, 30))
    new = centres + 0.3 * random.normal(size=centres.shape)
    seen = []
    learn = DirichletGaussianProcess._learn
    monkeypatch.setattr(
        DirichletGaussianProcess, "_learn", lambda *given: seen.append(given[2]) or learn(*given)
    )
    exact = DirichletGaussianProcess(max_function_evaluations=3).fit(X, y)
    assert seen[0].shape == (150, 50) and (seen[0].sum(axis=0) == 3).all()
    monkeypatch.setattr(gaussian_process, "_EXACT_ROWS", 100)
    sparse = DirichletGaussianProcess(max_function_evaluations=3).fit(X, y)
    for model in (exact, sparse):
        assert model.class_roots_.shape == (360, 360)
        assert log_loss(np.arange(120), model.predict_proba(new)) < 0.2
    np.testing.assert_allclose(sparse.predict_proba(new), exact.predict_proba(new), atol=1e-4)


def test_inducing_points_at_every_example_change_nothing(digits, monkeypatch):
    X, y, test, *_ = digits
    w = np.random.RandomState(0).uniform(0.2, 3, size=100)
    exact = DirichletGaussianProcess().fit(X, y, w)
    monkeypatch.setattr(gaussian_process, "_EXACT_ROWS", 10)
    sparse = DirichletGaussianProcess().fit(X, y, w)
    assert len(exact.roots_) == 1 and len(sparse.roots_) == 2
    np.testing.assert_allclose(sparse.predict_proba(test), exact.predict_proba(test), atol=1e-4)
    expected = exact.predict_uncertainty(test).epistemic
    np.testing.assert_allclose(sparse.predict_uncertainty(test).epistemic, expected, atol=1e-3)


def test_inducing_points_give_the_posterior_of_titsias(digits, monkeypatch):
    """Equation 6, in dense algebra, with fewer points than a class has examples."""
    X, y, test, *_ = digits
    monkeypatch.setattr(gaussian_process, "_EXACT_ROWS", 10)
    monkeypatch.setattr(gaussian_process, "_INDUCING_POINTS", 12)
    monkeypatch.setattr(gaussian_process, "_BATCH_SIZE", 7)
    w = np.random.RandomState(0).uniform(0.2, 3, size=100)
    model = DirichletGaussianProcess().fit(X, y, w)
    train, new = model._whitened(X), model._whitened(test)
    inner = model._covariance(model.basis_, model.basis_)
    outer, across = (model._covariance(model.basis_, layers) for layers in (train, new))
    targets, one_hot = dirichlet_targets(np.log(model.concentration_)), y[:, None] == np.arange(5)
    factor = model.inverse_temperature_
    means, variances = model._moments(test)
    for c in range(5):
        weighted = outer * (w / noise(one_hot, targets)[:, c])
        solved = np.linalg.solve(inner + weighted @ outer.T, across)
        mean = solved.T @ weighted @ regression_targets(one_hot, targets)[:, c]
        variance = model.variances_[0] - (across * np.linalg.solve(inner, across)).sum(axis=0)
        variance += (across * solved).sum(axis=0)
        np.testing.assert_allclose(means[:, c], factor * mean, atol=1e-5)
        np.testing.assert_allclose(variances[:, c], factor**2 * variance, atol=1e-5)


def test_the_more_inducing_points_the_nearer_to_the_exact_posterior(digits, monkeypatch):
    X, y, test, *_ = digits
    exact = DirichletGaussianProcess().fit(X, y).predict_proba(test)
    monkeypatch.setattr(gaussian_process, "_EXACT_ROWS", 10)
    errors = []
    for count in (10, 20, 80):
        monkeypatch.setattr(gaussian_process, "_INDUCING_POINTS", count)
        found = DirichletGaussianProcess().fit(X, y)
        assert len(found.basis_[0]) == count
        errors.append(np.abs(found.predict_proba(test) - exact).mean())
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.01


def test_kernels_can_be_learned_from_a_part(digits, monkeypatch):
    X, y, test, truth, _ = digits
    monkeypatch.setattr(gaussian_process, "_LEARNED_ROWS", 40)
    y = np.append(y[:-1], 7)  # a class of one example, which the part has to hold
    model = DirichletGaussianProcess().fit(X, y)
    assert model.classes_.tolist() == [0, 1, 2, 3, 4, 7]
    assert (model.predict(test) == truth).mean() > 0.8


def test_the_order_of_rows_and_columns_does_not_matter(digits):
    X, y, test, *_ = digits
    expected = DirichletGaussianProcess().fit(X, y).predict_proba(test)
    random = np.random.RandomState(0)
    rows, columns = random.permutation(len(X)), random.permutation(X.shape[1])
    found = DirichletGaussianProcess().fit(X[rows], y[rows]).predict_proba(test)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    found = DirichletGaussianProcess().fit(X[:, columns], y).predict_proba(test[:, columns])
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_each_layer_has_a_kernel_of_its_own(digits):
    X, y, test, truth, _ = digits
    noise = np.random.RandomState(0).normal(size=(len(X) + len(test), 30))
    train = np.hstack([X, noise[: len(X)]])
    new = np.hstack([test, noise[len(X) :]])
    columns = [np.arange(64), np.arange(64, 94)]
    layered = DirichletGaussianProcess(columns).fit(train, y)
    assert layered.length_scales_.shape == (2,)
    assert layered.variances_[0] > 4 * layered.variances_[1], "the layer of noise is told"
    plain = DirichletGaussianProcess().fit(train, y)
    losses = [log_loss(truth, model.predict_proba(new)) for model in (layered, plain)]
    assert losses[0] < losses[1]
    swapped = DirichletGaussianProcess(columns[::-1]).fit(train, y)
    np.testing.assert_allclose(swapped.predict_proba(new), layered.predict_proba(new), atol=0.01)


def test_rows_can_be_scaled_to_length_one(digits):
    X, y, test, *_ = digits
    model = DirichletGaussianProcess(apply_l2_norm=True).fit(X, y)
    louder = np.random.RandomState(0).uniform(0.1, 10, size=(len(test), 1))
    np.testing.assert_allclose(
        model.predict_proba(test * louder), model.predict_proba(test), atol=1e-9
    )


def test_uncertainty_adds_up_and_tells_what_was_never_seen(digits):
    X, y, test, _, new = digits
    model = DirichletGaussianProcess().fit(X, y)
    known = model.predict_uncertainty(test)
    for part in known:
        assert part.shape == (300,) and (part >= 0).all()
    np.testing.assert_allclose(known.total, known.aleatoric + known.epistemic)
    assert known.total.max() <= np.log(5)
    probabilities = model.predict_proba(test)
    entropy = -(probabilities * np.log(probabilities)).sum(axis=1)
    np.testing.assert_allclose(known.total, entropy)
    assert known.epistemic.mean() < model.predict_uncertainty(new).epistemic.mean()


def test_more_labels_leave_less_unknown(digits):
    X, y, test, *_ = digits
    few = DirichletGaussianProcess().fit(X[:20], y[:20]).predict_uncertainty(test)
    many = DirichletGaussianProcess().fit(X, y).predict_uncertainty(test)
    assert many.epistemic.mean() < 0.75 * few.epistemic.mean()


def test_evaluations_are_bounded(digits):
    X, y, *_ = digits
    free = DirichletGaussianProcess().fit(X, y)
    bound = DirichletGaussianProcess(max_function_evaluations=1).fit(X, y)
    assert bound.n_evaluations_ < free.n_evaluations_ < 100
    assert bound.objective_ < free.objective_


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"max_function_evaluations": 0},
            "max_function_evaluations must be an integer >= 1, got 0",
        ),
        ({"max_function_evaluations": 9.5}, "max_function_evaluations must be .* got 9.5"),
        ({"columns": []}, r"columns must give each layer at least one column, got \[\]"),
        ({"columns": [[0, 1], []]}, "columns must give each layer at least one column"),
    ],
)
def test_parameters_out_of_range_are_refused(digits, parameters, message):
    with pytest.raises(ValueError, match=message):
        DirichletGaussianProcess(**parameters).fit(*digits[:2])


def test_points_are_standard_normal():
    points = standard_normal_points(128, 5, 0)
    assert points.shape == (128, 5)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(points.T @ points / 128, np.eye(5), atol=1e-12)


def test_the_temperature_is_not_the_luck_of_a_few():
    """Scores twice too small or large: seen on many examples, not dared on few."""
    random = np.random.RandomState(0)
    scores = 3 * random.normal(size=(4000, 1, 4)) + 0.5 * random.normal(size=(4000, 16, 4))
    chances = softmax(scores, axis=2).mean(axis=1).cumsum(axis=1)
    y = (random.uniform(size=(4000, 1)) > chances[:, :-1]).sum(axis=1)
    w = np.ones(4000)
    assert choose_inverse_temperature(scores, y, w) < 1.1
    assert 1.7 < choose_inverse_temperature(scores / 2, y, w) < 2.3
    assert 0.45 < choose_inverse_temperature(scores * 2, y, w) < 0.6
    assert choose_inverse_temperature(scores[:0], y[:0], w[:0]) == 1
    few = [
        choose_inverse_temperature(scores[i : i + 20] / 1.3, y[i : i + 20], w[:20])
        for i in range(0, 2000, 20)
    ]
    assert np.median(few) == 1


def test_a_bar_counts_the_evaluations(digits, monkeypatch):
    bars = []

    class Bar(_io.tqdm):
        def close(self):
            bars.append((self.disable, self.n))
            super().close()

    monkeypatch.setattr(_io, "tqdm", Bar)
    model = DirichletGaussianProcess(progress=True).fit(*digits[:2])
    assert (False, model.n_evaluations_) in bars
    DirichletGaussianProcess().fit(*digits[:2])
    assert bars[-1] == (True, 0)
