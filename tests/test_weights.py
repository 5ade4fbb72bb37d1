"""Weights of examples and of classes: a weight says how often an example counts."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.class_weight import compute_sample_weight

import xfer
from xfer.meta import bayesian_network
from xfer.meta.bayesian_network import BayesianNetwork
from xfer.meta.gaussian_process import DirichletGaussianProcess
from xfer.meta.left_out import LeftOut, dirichlet_targets
from xfer.meta.logistic_regression import CalibratedLogisticRegression
from xfer.meta.posterior import choose_inverse_temperature, mean_and_error
from xfer.meta.support_vector_machine import CalibratedSvm
from xfer.meta.whitening import PartialWhitening
from xfer.sources import Layer, SourceModel

HEADS = [
    CalibratedLogisticRegression(),
    CalibratedSvm(),
    DirichletGaussianProcess(),
    BayesianNetwork(num_epochs=60),
]
BY_NAME = {"ids": lambda head: type(head).__name__}
each_head = pytest.mark.parametrize("head", HEADS, **BY_NAME)


@pytest.fixture(scope="module")
def task():
    """60 flowers of three species that overlap, whole weights for them, and others to test on."""
    X, y = load_iris(return_X_y=True)
    order = np.random.RandomState(0).permutation(150)
    X, y = X[order, 1:3], np.array(["a", "b", "c"])[y[order]]
    X += np.random.RandomState(1).normal(scale=0.1, size=X.shape)  # no two are alike
    return X[:60], y[:60], np.random.RandomState(2).randint(1, 4, size=60), X[60:]


@pytest.fixture(scope="module")
def rare():
    """190 examples of one class and 6 of another, and as many of each to test on."""
    random = np.random.RandomState(0)
    y = np.repeat([0, 1], [190, 6])
    truth = np.repeat([0, 1], 1000)
    centres = 0.7 * random.normal(size=(2, 10))
    X, test = (centres[label] + random.normal(size=(len(label), 10)) for label in (y, truth))
    return X, y, test, truth


@each_head
def test_weights_of_one_are_no_weights(head, task):
    X, y, _, test = task
    expected = clone(head).fit(X, y).predict_proba(test)
    for model in (
        clone(head).fit(X, y, np.ones(60)),
        clone(head).set_params(class_weight=dict.fromkeys("abc", 3.0)).fit(X, y),
    ):
        np.testing.assert_array_equal(model.predict_proba(test), expected)


@pytest.mark.parametrize(
    ("head", "tolerance"),
    [
        (CalibratedLogisticRegression(), 1e-9),
        (CalibratedSvm(), 0.005),  # libsvm stops at a tolerance of 0.001
        (DirichletGaussianProcess(), 1e-4),  # gradients in single precision
        (BayesianNetwork(num_samples_mc=10), 0.1),  # each row has noise of its own
    ],
    **BY_NAME,
)
def test_a_weight_is_as_many_copies(head, tolerance, task):
    X, y, counts, test = task
    weighted = clone(head).fit(X, y, counts).predict_proba(test)
    repeated = clone(head).fit(X.repeat(counts, axis=0), y.repeat(counts)).predict_proba(test)
    np.testing.assert_allclose(weighted, repeated, atol=tolerance)
    plain = clone(head).fit(X, y).predict_proba(test)
    assert np.abs(plain - repeated).max() > 2 * np.abs(weighted - repeated).max()


@each_head
def test_a_weight_of_zero_drops_an_example(head, task):
    X, y, _, test = task
    kept = np.arange(60) % 3 > 0
    expected = clone(head).fit(X[kept], y[kept])
    found = clone(head).fit(X, y, kept)
    np.testing.assert_array_equal(found.predict_proba(test), expected.predict_proba(test))
    found.fit(X, y, np.where(kept, 1, 1e-300))
    np.testing.assert_array_equal(found.predict_proba(test), expected.predict_proba(test))
    two = clone(head).set_params(class_weight={"b": 0}).fit(X, y)
    assert two.classes_.tolist() == ["a", "c"]
    expected = clone(head).fit(X[y != "b"], y[y != "b"])
    # Weights of classes leave the sum as it is.
    weights = np.full(np.count_nonzero(y != "b"), 60 / np.count_nonzero(y != "b"))
    expected.fit(X[y != "b"], y[y != "b"], weights)
    np.testing.assert_allclose(two.predict_proba(test), expected.predict_proba(test), atol=1e-4)


@pytest.mark.parametrize("head", HEADS[:2], **BY_NAME)
def test_scores_before_calibration_are_those_of_copies(head, task):
    X, y, counts, test = task
    y = np.unique(y, return_inverse=True)[1]
    found = []
    for rows, w in ((np.arange(60), counts), (np.arange(60).repeat(counts), np.ones(counts.sum()))):
        whitening = PartialWhitening().fit(X[rows], sample_weight=w)
        Z = whitening.transform(X[rows])
        head.n_features_in_ = 2
        weights, intercept = head._fit_scores(Z, y[rows], w)
        new = whitening.transform(test)
        found.append(head._basis(new, Z) @ weights.T + intercept)
    np.testing.assert_allclose(*found, atol=0.005 if isinstance(head, CalibratedSvm) else 1e-8)


def test_whitening_of_weights_is_that_of_copies(task):
    X, _, counts, test = task
    found = []
    for train, w in ((X, counts), (X.repeat(counts, axis=0), np.ones(counts.sum()))):
        found.append(PartialWhitening().fit(train, sample_weight=w).transform(test))
    np.testing.assert_allclose(*found, atol=1e-10)


def test_two_observations_of_a_point_are_one_with_half_the_noise(task):
    """The Gaussian process given its kernel, against dense regressions of every copy."""
    X, y, counts, test = task
    model = DirichletGaussianProcess().fit(X, y, counts)
    targets = dirichlet_targets(np.log(model.concentration_))
    copies = X.repeat(counts, axis=0)
    K = model._covariance(model._whitened(copies), model._whitened(copies))
    new = model._covariance(model._whitened(test), model._whitened(copies))
    samples = model._score_samples(test) / model.inverse_temperature_
    for c, label in enumerate("abc"):
        own = (y == label).repeat(counts)
        A = K + np.diag(np.where(own, *targets.noise))
        mean = new @ np.linalg.solve(A, targets.gap * (own - 1 / 3))
        variance = model.variances_[0] - (new * np.linalg.solve(A, new.T).T).sum(axis=1)
        np.testing.assert_allclose(samples[..., c].mean(axis=1), mean, atol=1e-8)
        np.testing.assert_allclose(samples[..., c].var(axis=1), variance, atol=1e-8)


def test_left_out_losses_are_weighted():
    random = np.random.RandomState(0)
    one_hot = np.arange(10)[:, None] // 5 == np.arange(2)
    X, w, points = (
        random.normal(size=(10, 3)),
        random.uniform(0.2, 3, 10),
        random.normal(size=(9, 2)),
    )
    left_out = LeftOut(np.eye(10) + X @ X.T, one_hot, w, dirichlet_targets(-4.0))
    scores = np.exp(left_out.scores(np.arange(10), points))
    p = (scores / scores.sum(axis=2, keepdims=True)).mean(axis=1)[one_hot]
    np.testing.assert_allclose(left_out.loss(points)[0], -w @ np.log(p))


def test_the_bound_counts_an_example_as_often_as_its_weight_says():
    random = np.random.RandomState(0)
    shapes = bayesian_network._shapes(3, [4], 3)
    size = sum(rows * units for rows, units in shapes)
    point = np.stack([random.normal(size=size), random.normal(-1, 0.3, size)])
    inputs, y, counts = (
        random.normal(size=(5, 4)),
        random.randint(3, size=5),
        np.array([1, 3, 2, 1, 5]),
    )
    noises = [random.normal(size=(4, 5, units)) for _, units in shapes[:-1]]
    weighted = bayesian_network._log_likelihood(point, shapes, inputs, y, 1.0 * counts, noises)
    rows = np.arange(5).repeat(counts)
    noises = [noise[:, rows] for noise in noises]
    repeated = bayesian_network._log_likelihood(
        point, shapes, inputs[rows], y[rows], np.ones(len(rows)), noises
    )
    np.testing.assert_allclose(weighted[0], repeated[0])
    np.testing.assert_allclose(weighted[1], repeated[1], atol=1e-10)


def test_standard_errors_are_those_of_weighted_means():
    random = np.random.RandomState(0)
    w, values = random.uniform(0, 3, 50), random.normal(size=(4000, 50))
    mean, error = mean_and_error(values, w)
    np.testing.assert_allclose(mean, np.average(values, axis=1, weights=w))
    assert error.mean() == pytest.approx(mean.std(), rel=0.05)
    plain = mean_and_error(values, np.ones(50))[1]
    np.testing.assert_allclose(plain, values.std(axis=1) / np.sqrt(50))


def test_the_temperature_is_that_of_the_examples_that_count():
    """Half of the examples have scores that are too small; only these count."""
    random = np.random.RandomState(0)
    scores = 3 * random.normal(size=(2000, 1, 3)) + 0.1 * random.normal(size=(2000, 8, 3))
    p = np.exp(scores.mean(axis=1))
    y = (random.uniform(size=(2000, 1)) > (p / p.sum(axis=1, keepdims=True)).cumsum(axis=1)).sum(1)
    y = np.minimum(y, 2)
    small = np.arange(2000) % 2 == 0
    scores[small] /= 3
    only = choose_inverse_temperature(scores[small], y[small], np.ones(1000))
    assert only > 2
    found = choose_inverse_temperature(scores, y, np.where(small, 1, 1e-9))
    assert found == pytest.approx(only, rel=0.06)


@each_head
def test_balanced_classes_count_the_same(head, rare):
    X, y, test, truth = rare
    plain = clone(head).fit(X, y)
    model = clone(head).set_params(class_weight="balanced").fit(X, y)
    weights = compute_sample_weight("balanced", y)
    found = model.predict_proba(test)
    np.testing.assert_allclose(found, clone(head).fit(X, y, weights).predict_proba(test), atol=1e-4)
    by_dict = clone(head).set_params(class_weight={0: 6, 1: 190}).fit(X, y)
    np.testing.assert_allclose(found, by_dict.predict_proba(test), atol=1e-4)
    before, after = (balanced_accuracy_score(truth, m.predict(test)) for m in (plain, model))
    assert after > before + 0.1


def test_balance_counts_weights_and_not_rows():
    labels, counts = np.array(["a", "a", "b", "b"]), np.array([1.0, 2.0, 1.0, 0.0])
    model = CalibratedLogisticRegression(class_weight="balanced")
    found = model._example_weights(labels, counts)
    np.testing.assert_allclose(found, [2 / 3, 4 / 3, 2, 0])
    assert found.sum() == pytest.approx(counts.sum()), "the regularization keeps its meaning"


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(59), r"sample_weight must have shape \(60,\), got \(59,\)"),
        (np.ones((60, 1)), r"sample_weight must have shape \(60,\), got \(60, 1\)"),
        (2.0, r"sample_weight must have shape \(60,\), got \(\)"),
        (np.full(60, 1e20), r"sample_weight must have a sum of 1e-12 to 1e\+12, got 6e\+21"),
        (np.full(60, 5e-324), r"sample_weight must have a sum of 1e-12 to 1e\+12, got 2.96e-322"),
        (np.append(np.ones(59), -1), r"sample_weight must be >= 0, got -1\.0 at 59"),
        (np.append(np.ones(59), np.nan), "sample_weight contains NaN"),
        (np.append(np.ones(59), np.inf), "sample_weight contains infinity"),
        (np.zeros(60), "sample_weight is zero for every example"),
        (["heavy"] * 60, "could not convert"),
    ],
)
def test_weights_that_mean_nothing_are_refused(task, weight, message):
    X, y, _, _ = task
    model = CalibratedLogisticRegression().fit(X, y)
    before = vars(model).copy()
    with pytest.raises(ValueError, match=message):
        model.fit(X[:, :1], y, weight)
    assert vars(model) == before


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("even", "class_weight must be None, 'balanced' or a dict, got 'even'"),
        ([1, 2], r"class_weight must be None, 'balanced' or a dict, got \[1, 2\]"),
        ({"a": -1}, "class_weight of 'a' must be a number >= 0, got -1"),
        ({"a": np.nan}, "class_weight of 'a' must be a number >= 0, got nan"),
        ({"a": np.inf}, "class_weight of 'a' must be a number >= 0, got inf"),
        ({"d": 2}, "class_weight has 'd', but the labels are 'a', 'b', 'c'"),
        ({"a": 0, "b": 0, "c": 0}, "class_weight leaves every example with weight 0"),
        (
            {"a": 0, "b": 0},
            "y must have at least 2 classes with a weight above 0, got one class: .*c",
        ),
    ],
)
@each_head
def test_weights_of_classes_that_mean_nothing_are_refused(head, task, weight, message):
    X, y, _, _ = task
    with pytest.raises(ValueError, match=message):
        clone(head).set_params(class_weight=weight).fit(X, y)


def test_a_wild_step_of_the_line_search_does_not_overflow():
    random = np.random.RandomState(9)
    y = np.repeat([0, 1], [190, 6])
    X = (0.5 * random.normal(size=(2, 10)))[y] + random.normal(size=(196, 10))
    model = DirichletGaussianProcess(class_weight="balanced").fit(X, y)  # warnings are errors
    assert np.isfinite(model.objective_)


# --- repurposers --------------------------------------------------------------------------------


class Identity(SourceModel):
    """Not a network: matrices as they are."""

    layers = [Layer("same", "identity", (10,), 0)]
    input_names = ["data"]

    def _forward(self, inputs, layers):
        return [inputs["data"]]


REPURPOSERS = [xfer.LrRepurposer, xfer.SvmRepurposer, xfer.GpRepurposer, xfer.BnnRepurposer]


@pytest.mark.parametrize(("kind", "head"), list(zip(REPURPOSERS, HEADS)))
def test_a_repurposer_passes_weights_on(kind, head, rare, tmp_path):
    X, y, test, _ = rare
    X, test = X.astype(np.float32), test.astype(np.float32)
    weights = np.random.RandomState(0).uniform(size=196)
    options = {"num_epochs": 60} if kind is xfer.BnnRepurposer else {}
    repurposer = kind(Identity(), "same", class_weight={0: 1, 1: 20}, **options)
    found = repurposer.fit(X, y, sample_weight=weights).predict_proba(test)
    expected = clone(head).set_params(class_weight={0: 1, 1: 20}).fit(X, y, weights)
    np.testing.assert_array_equal(found, expected.predict_proba(test))
    repurposer.save_repurposer("weighted", tmp_path, save_source_model=False)
    with pytest.warns(UserWarning, match="no fingerprint"):
        loaded = xfer.load("weighted", tmp_path, source_model=Identity())
    assert loaded.class_weight == {0: 1, 1: 20}
    np.testing.assert_array_equal(loaded.predict_proba(test), found)


def test_weights_are_refused_before_features_are_computed(rare):
    X, y, _, _ = rare
    source = Identity()
    source.extract = None
    for weights, class_weight, message in (
        (np.ones(5), None, "sample_weight must have shape"),
        (-np.ones(196), None, "sample_weight must be >= 0"),
        (None, {2: 1}, "class_weight has 2, but the labels are 0, 1"),
        (None, "even", "class_weight must be None, 'balanced' or a dict"),
    ):
        with pytest.raises(ValueError, match=message):
            xfer.LrRepurposer(source, "same", class_weight=class_weight).fit(X, y, weights)
