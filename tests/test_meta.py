"""Classifiers for few labels, on their own."""

import threading
from functools import cache

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.sparse import csr_matrix
from scipy.special import log_softmax, softmax
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import estimator_checks_generator
from threadpoolctl import threadpool_info, threadpool_limits

import xfer
from xfer.meta import MixtureClassifier, calibrated
from xfer.meta.base import assign_folds, small_fit_threads
from xfer.meta.bayesian_network import BayesianNetwork
from xfer.meta.gaussian_process import DirichletGaussianProcess
from xfer.meta.logistic_regression import CalibratedLogisticRegression
from xfer.meta.support_vector_machine import CalibratedSvm
from xfer.meta.whitening import PartialWhitening

KINDS = [CalibratedLogisticRegression, CalibratedSvm, DirichletGaussianProcess, BayesianNetwork]
CALIBRATED = KINDS[:2]

# The checks of weights allow differences of 1e-7, and shuffle the rows of one of two fits.
ROUNDING = {
    CalibratedSvm: "libsvm stops at a tolerance of 0.001",
    DirichletGaussianProcess: "gradients in single precision depend on the order of rows",
    BayesianNetwork: "each row has noise of its own, so copies have more than one",
}

# Enough for what scikit-learn asks.
FAST = {BayesianNetwork: {"num_epochs": 50, "num_samples_mc": 1, "num_samples_mc_prediction": 10}}


def new(kind):
    return kind(**FAST.get(kind, {}))


def checks():
    for kind in KINDS:
        failing = {}
        if kind in ROUNDING:
            name = "check_sample_weight_equivalence_on_{}_data"
            failing = dict.fromkeys(map(name.format, ("dense", "sparse")), ROUNDING[kind])
        found = estimator_checks_generator(new(kind), expected_failed_checks=failing, mark="xfail")
        for one in found:
            values, marks = getattr(one, "values", one), getattr(one, "marks", ())
            slow = [pytest.mark.slow] * (kind is BayesianNetwork)  # 40 fits by sampling
            yield pytest.param(*values, marks=[*marks, *slow])


def name_of(value):
    return getattr(getattr(value, "func", value), "__name__", type(value).__name__)


@pytest.mark.parametrize(("estimator", "check"), [*checks()], ids=name_of)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    """100 labelled digits, and the others to test on."""
    X, y = load_digits(return_X_y=True)
    return train_test_split(X, y, train_size=100, stratify=y, random_state=0)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_agree_with_probabilities(digits, kind):
    train, test, labels, _ = digits
    model = kind().fit(train, labels)
    probabilities = model.predict_proba(test)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(model.predict(test), probabilities.argmax(axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sparse_matrix_is_a_matrix(digits, kind):
    train, test, labels, _ = digits
    dense = kind().fit(train, labels).predict_proba(test)
    sparse = kind().fit(csr_matrix(train), labels).predict_proba(csr_matrix(test))
    np.testing.assert_array_equal(sparse, dense)


@pytest.mark.filterwarnings("ignore:.*`probability`:FutureWarning")
@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        (CalibratedLogisticRegression, LogisticRegression(max_iter=5000)),
        (CalibratedSvm, SVC(probability=True, random_state=0)),
    ],
)
def test_probabilities_are_worth_more_than_scikit_learns_on_raw_features(kind, plain):
    """On features of a network, for which the scaling was chosen; pixels gain nothing from it."""
    images, digits = xfer.example.digits()
    source, new = xfer.load_checkpoint(xfer.example.checkpoint()), digits >= 5
    X, y = xfer.LayerFeatures(source, "relu3").fit_transform(images[new]), digits[new]
    gains = []
    for seed in range(5):
        train, test, labels, truth = train_test_split(
            X, y, train_size=50, stratify=y, random_state=seed
        )
        expected = log_loss(truth, plain.fit(train, labels).predict_proba(test))
        gains.append(expected - log_loss(truth, kind().fit(train, labels).predict_proba(test)))
    assert np.mean(gains) > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_calibrated(kind):
    """Of many predictions, the mean probability of the chosen class is the share of hits."""
    random = np.random.RandomState(0)
    centres = random.normal(size=(4, 20))
    y = np.resize(np.arange(4), 4200)
    X = 0.55 * centres[y] + random.normal(size=(4200, 20))
    probabilities = kind().fit(X[:200], y[:200]).predict_proba(X[200:])
    hits = probabilities.argmax(axis=1) == y[200:]
    assert 0.5 < hits.mean() < 0.9, "neither trivial nor hopeless"
    assert abs(probabilities.max(axis=1).mean() - hits.mean()) < 0.06


def tolerance(kind):
    # Gradients in single precision enlarge a difference in the last digit to some 1e-6.
    return {DirichletGaussianProcess: 1e-5, BayesianNetwork: 1e-6}.get(kind, 1e-9)


CHANGES = {
    "1e-30": lambda X: X * 1e-30,
    "1e-6": lambda X: X * 1e-6,
    "1e6": lambda X: X * 1e6,
    "1e30": lambda X: X * 1e30,
    "columns": lambda X: X[:, np.random.RandomState(0).permutation(X.shape[1])],
    "twice": lambda X: np.hstack([X, X]),
    "constant": lambda X: np.insert(X, [3, 5], [-3, 1e15], axis=1),
    "very large constant": lambda X: np.insert(X, 0, -1e30, axis=1),
    "Fortran order": np.asfortranarray,
}


@pytest.fixture(scope="module")
def probabilities(digits):
    """Return those of a kind of classifier, fitted once."""
    train, test, labels, _ = digits
    return cache(lambda kind: new(kind).fit(train, labels).predict_proba(test))


@pytest.mark.parametrize("kind", [*KINDS, MixtureClassifier])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_the_features_that_do_not_matter(digits, probabilities, kind, change):
    train, test, labels, _ = digits
    changed = new(kind).fit(CHANGES[change](train), labels).predict_proba(CHANGES[change](test))
    np.testing.assert_allclose(changed, probabilities(kind), atol=tolerance(kind))


#: How much probabilities may change, by libsvm's tolerance or by samples that a class has.
OF_ROWS = {CalibratedSvm: 0.002, DirichletGaussianProcess: 1e-5}
OF_CLASSES = {DirichletGaussianProcess: 0.03}


@pytest.mark.parametrize("kind", [*KINDS[:3], MixtureClassifier])
def test_the_order_of_rows_does_not_matter(digits, kind):
    train, test, labels, _ = digits
    order = np.random.RandomState(0).permutation(len(train))
    model = kind().fit(train, labels)
    expected = model.predict_proba(test)
    found = kind().fit(train[order], labels[order]).predict_proba(test)
    np.testing.assert_allclose(found, expected, atol=OF_ROWS.get(kind, 1e-9))
    one_by_one = [model.predict_proba(row[None])[0] for row in test[:20]]
    np.testing.assert_allclose(one_by_one, expected[:20], atol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS[:3], MixtureClassifier])
def test_the_names_of_classes_do_not_matter(digits, kind):
    train, test, labels, _ = digits
    names = np.random.RandomState(0).permutation(10)
    expected = kind().fit(train, labels).predict_proba(test)
    renamed = kind().fit(train, names[labels]).predict_proba(test)[:, names]
    np.testing.assert_allclose(renamed, expected, atol=OF_CLASSES.get(kind, 1e-9))


def test_in_a_bayesian_network_they_matter_as_little_as_its_seed(digits):
    """Its first weights and its noise are random numbers for each row and class."""
    train, test, labels, _ = digits
    expected = BayesianNetwork().fit(train, labels).predict_proba(test)
    order, names = (np.random.RandomState(0).permutation(n) for n in (len(train), 10))
    of_seed, of_rows, of_names = (
        np.abs(found - expected).mean()
        for found in (
            BayesianNetwork(random_state=1).fit(train, labels).predict_proba(test),
            BayesianNetwork().fit(train[order], labels[order]).predict_proba(test),
            BayesianNetwork().fit(train, names[labels]).predict_proba(test)[:, names],
        )
    )
    assert of_rows < 1.5 * of_seed
    assert of_names < 1.5 * of_seed
    assert of_seed < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_features_that_were_constant_do_not_matter(digits, kind):
    train, test, labels, _ = digits
    expected = new(kind).fit(train, labels).predict_proba(test)
    constant = np.column_stack([train, np.full(len(train), 7.0)])
    noise = np.column_stack([test, np.random.RandomState(0).normal(size=len(test))])
    found = new(kind).fit(constant, labels).predict_proba(noise)
    np.testing.assert_allclose(found, expected, atol=tolerance(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_doubled_examples_do_not_make_it_sure_of_itself(digits, kind):
    train, test, labels, truth = digits
    once = log_loss(truth, kind().fit(train, labels).predict_proba(test))
    twice = kind().fit(np.repeat(train, 2, axis=0), np.repeat(labels, 2)).predict_proba(test)
    assert log_loss(truth, twice) < once + 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [(1, 1), (1, 9), (1, 1, 1), (1, 2, 30), (2, 2)])
def test_few_examples_of_a_class(kind, counts):
    X, y = load_iris(return_X_y=True)
    rows = np.concatenate([np.flatnonzero(y == k)[:count] for k, count in enumerate(counts)])
    probabilities = kind().fit(X[rows], y[rows]).predict_proba(X)
    assert probabilities.shape == (150, len(counts))
    assert np.isfinite(probabilities).all()


@pytest.mark.parametrize("kind", KINDS)
def test_two_classes_are_three_of_which_one_never_comes(kind):
    X, y = load_iris(return_X_y=True)
    X, y = X[50:], y[50:]
    probabilities = kind().fit(X, y).predict_proba(X)
    assert probabilities.shape == (100, 2)
    swapped = kind().fit(X, -y).predict_proba(X)
    np.testing.assert_allclose(swapped, probabilities[:, ::-1], atol=0.1)


def test_logistic_regression_is_one_affine_map(digits):
    train, test, labels, _ = digits
    model = CalibratedLogisticRegression().fit(train, labels)
    assert model.square_root_
    scores = np.sqrt(test) @ model.coef_.T + model.intercept_
    np.testing.assert_allclose(softmax(scores, axis=1), model.predict_proba(test), atol=1e-12)
    model = CalibratedLogisticRegression(square_root=False).fit(train, labels)
    assert not model.square_root_
    scores = test @ model.coef_.T + model.intercept_
    np.testing.assert_allclose(softmax(scores, axis=1), model.predict_proba(test), atol=1e-12)


def test_threads_give_the_same(digits):
    train, test, labels, _ = digits
    one = CalibratedLogisticRegression().fit(train, labels).predict_proba(test)
    two = CalibratedLogisticRegression(n_jobs=2).fit(train, labels).predict_proba(test)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("kernel", ["linear", "poly", "rbf", "sigmoid"])
@pytest.mark.parametrize("gamma", [0.5, "scale", "auto"])
def test_machines_are_those_of_scikit_learn(digits, kernel, gamma):
    train, test, labels, _ = digits
    model = CalibratedSvm(c=2.0, kernel=kernel, gamma=gamma, probability=False).fit(train, labels)
    whitening = PartialWhitening().fit(train)
    value = {"scale": 1.0, "auto": 1 / 64}.get(gamma, gamma)
    for k in (0, 7):
        machine = SVC(C=2.0, kernel=kernel, gamma=value)
        machine.fit(whitening.transform(train), labels == k)
        expected = machine.decision_function(whitening.transform(test))
        np.testing.assert_allclose(model._class_scores(test)[:, k], expected, atol=1e-3)


def test_machines_without_probabilities(digits):
    train, test, labels, truth = digits
    model = CalibratedSvm(probability=False).fit(train, labels)
    assert not hasattr(model, "predict_proba")
    assert model.score(test, truth) > 0.85


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (CalibratedSvm, {"kernel": "cosine"}, "kernel must be one of linear, .*, got 'cosine'"),
        (CalibratedSvm, {"gamma": "wide"}, "gamma must be a positive number, .* got 'wide'"),
        (CalibratedSvm, {"gamma": 0}, "gamma must be a positive number, .* got 0"),
        (CalibratedSvm, {"c": "5"}, "c must be a positive number, got '5'"),
        (CalibratedLogisticRegression, {"c": -1.0}, r"c must be a positive number, got -1\.0"),
        (CalibratedLogisticRegression, {"c": np.nan}, "c must be a positive number, got nan"),
    ],
)
def test_parameters_out_of_range_are_refused(digits, kind, parameters, message):
    with pytest.raises(ValueError, match=message):
        kind(**parameters).fit(digits[0], digits[2])


def test_the_gradient_of_the_calibration_map(monkeypatch):
    random = np.random.RandomState(0)
    scores, target = random.normal(size=(30, 3)), random.randint(3, size=30)
    w = random.uniform(0.2, 3, size=30)
    functions = []
    minimize = calibrated.minimize
    monkeypatch.setattr(
        calibrated, "minimize", lambda f, *a, **k: functions.append(f) or minimize(f, *a, **k)
    )
    matrix, shift = calibrated._fit_map(scores, target, w, ridge=3.0)
    (function,) = functions
    point = random.normal(size=12)
    assert check_grad(lambda x: function(x)[0], lambda x: function(x)[1], point) < 1e-4
    best = np.append(matrix, shift[None], axis=0).ravel()
    assert np.abs(function(best)[1]).max() < 1e-3, "the minimum has no slope"


def test_the_scale_is_the_best_on_a_fine_grid():
    random = np.random.RandomState(0)
    scores, target = random.normal(size=(300, 3)), random.randint(3, size=300)
    scores[np.arange(300), target] += 2
    w = random.uniform(0.2, 3, size=300)
    grid = np.exp(np.linspace(-2, 3, 2001))
    losses = [
        np.log(a) ** 2 - w @ log_softmax(a * scores, axis=1)[np.arange(300), target] for a in grid
    ]
    found = calibrated.fit_inverse_temperature(scores, target, w, 0.0)
    assert abs(np.log(found / grid[np.argmin(losses)])) < 0.01


def test_folds_keep_twins_together_and_classes_apart():
    X = np.arange(40.0)[:, None] // 2
    y = np.repeat([0, 1, 2], [20, 18, 2])
    fold = assign_folds(X, y, 0)
    assert (fold[::2] == fold[1::2]).all()
    assert (fold[y == 2] == -1).all(), "its two examples are one"
    assert np.bincount(fold[y == 0]).tolist() == [4] * 5


@pytest.mark.parametrize("kind", CALIBRATED)
def test_the_calibration_map_mends_what_a_scale_cannot(kind):
    """The scores of classes 0 and 1 are partly exchanged; class 3 was never held out."""
    random = np.random.RandomState(0)
    y = random.randint(3, size=3000)
    scores = random.normal(size=(3000, 4))
    scores[np.arange(3000), y] += 2
    scores[:, 1] += 0.8 * scores[:, 0] + 1
    weights, shift = kind()._calibrate(
        np.eye(4), np.zeros(4), scores[:, :3], y, np.ones(3000), np.arange(3)
    )
    matrix = weights.T
    scale = calibrated.fit_inverse_temperature(scores[:, :3], y, np.ones(3000), 0.0)
    mended = (scores @ matrix + shift)[:, :3]
    assert (
        log_loss(y, softmax(mended, axis=1))
        < log_loss(y, softmax(scale * scores[:, :3], axis=1)) - 0.05
    )
    np.testing.assert_array_equal(matrix[3], [0, 0, 0, matrix[3, 3]])
    assert matrix[3, 3] > 0 and shift[3] == 0


@pytest.mark.parametrize("kind", CALIBRATED)
def test_with_many_classes_the_temperature_alone_is_learned(digits, kind, monkeypatch):
    train, test, labels, _ = digits
    monkeypatch.setattr(calibrated, "_MAP_CLASSES", 9)
    monkeypatch.setattr(calibrated, "_HELD_OUT", 30)  # a fold has about 20
    fits, fit_scores = [], kind._fit_scores

    def spy(model, Z, y, w):
        fits.append(fit_scores(model, Z, y, w))
        return fits[-1]

    monkeypatch.setattr(kind, "_fit_scores", spy)
    model = kind().fit(train, labels)
    assert len(fits) == 3, "one on all examples, and two without a fold"
    scores = kind._basis(model, *whitened(model, train, test)) @ fits[0][0].T + fits[0][1]
    found = model._class_scores(test)
    scale = found[0, 0] / scores[0, 0]
    assert 0.5 < scale < 20 and scale != 1
    np.testing.assert_allclose(found, scale * scores, rtol=1e-9)


def whitened(model, train, test):
    whitening = PartialWhitening().fit(train)
    return whitening.transform(test), whitening.transform(train)


def test_hundreds_of_classes():
    """300 with three labels each are no harder to tell apart than with a map of every two."""
    random = np.random.RandomState(0)
    y, truth = np.repeat(np.arange(300), 3), np.arange(300)
    centres = random.normal(size=(300, 30))
    X, test = (centres[c] + 0.7 * random.normal(size=(len(c), 30)) for c in (y, truth))
    probabilities = CalibratedLogisticRegression().fit(X, y).predict_proba(test)
    hits = probabilities.argmax(axis=1) == truth
    assert hits.mean() > 0.8
    assert abs(probabilities.max(axis=1).mean() - hits.mean()) < 0.06


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_small_fits_take_one_thread_and_large_ones_what_there_is(digits):
    with threadpool_limits(2, "blas"):
        before = blas_threads()
        assert before and set(before) == {2}
        with small_fit_threads(100, 512), small_fit_threads(50, 10):
            assert set(blas_threads()) == {1}
            with small_fit_threads(100_000, 2048):
                assert set(blas_threads()) == {1}, "the small one around it has the say"
        assert blas_threads() == before
        with small_fit_threads(100_000, 2048):
            assert blas_threads() == before
        with pytest.raises(ValueError, match="one class"):
            CalibratedSvm().fit(digits[0], np.zeros(100))
        assert blas_threads() == before


@pytest.mark.parametrize("method", ["_fit", "_probabilities"])
def test_fits_and_predictions_are_inside(digits, monkeypatch, method):
    train, test, labels, _ = digits
    seen = []
    original = getattr(CalibratedLogisticRegression, method)

    def spy(*args):
        seen.extend(blas_threads())
        return original(*args)

    monkeypatch.setattr(CalibratedLogisticRegression, method, spy)
    with threadpool_limits(2, "blas"):
        CalibratedLogisticRegression().fit(train, labels).predict_proba(test)
        assert set(seen) == {1} and set(blas_threads()) == {2}


def test_overlapping_fits_leave_the_threads_as_they_were():
    """The first to begin is the first to end; the other must not put its limit back."""
    inside, go_on = threading.Event(), threading.Event()

    def other():
        with small_fit_threads(100, 100):
            inside.set()
            go_on.wait(10)

    with threadpool_limits(2, "blas"):
        before = blas_threads()
        with small_fit_threads(100, 100):
            thread = threading.Thread(target=other)
            thread.start()
            assert inside.wait(10), "nobody waits for a fit in another thread"
            assert set(blas_threads()) == {1}
        go_on.set()
        thread.join()
        assert blas_threads() == before
        with small_fit_threads(100, 100):
            assert set(blas_threads()) == {1}, "free for the next one"


def test_names_complete():
    assert set(xfer.meta.__all__) <= set(dir(xfer.meta))
    for name in xfer.meta.__all__:
        assert getattr(xfer.meta, name).__name__ == name
    with pytest.raises(AttributeError, match="'xfer.meta' has no attribute 'Calibrated'"):
        _ = xfer.meta.Calibrated


def test_scaled_scores_learn_a_temperature():
    random = np.random.RandomState(0)
    scores = 2 * random.normal(size=(3000, 3))
    y = (random.uniform(size=(3000, 1)) > softmax(scores, axis=1).cumsum(axis=1)[:, :-1]).sum(
        axis=1
    )
    classes = np.array(["a", "b", "c"])
    scale = calibrated.fit_inverse_temperature(scores / 2, y, np.ones(3000), 0.0)
    assert scale == pytest.approx(2, rel=0.1)
    coef, intercept = random.normal(size=(3, 5)), random.normal(size=3)
    features = (scores - intercept) @ np.linalg.pinv(coef).T
    for model, given in (
        (calibrated.ScaledScores(classes, scale), scores),
        (calibrated.ScaledScores(classes, scale, coef, intercept), features),
    ):
        np.testing.assert_allclose(model.decision_function(given), scale * scores)
        np.testing.assert_allclose(model.predict_proba(given), softmax(scale * scores, axis=1))
        np.testing.assert_array_equal(model.predict(given), classes[scores.argmax(axis=1)])
        np.testing.assert_array_equal(model.classes_, classes)
