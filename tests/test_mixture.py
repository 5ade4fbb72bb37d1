"""The mixture: weights, honest estimates, and what follows from left-out predictions."""

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.sparse import csr_matrix
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import estimator_checks_generator

from xfer.meta import MixtureClassifier, mixture
from xfer.meta.mixture import pool_weights


def name_of(value):
    return getattr(getattr(value, "func", value), "__name__", type(value).__name__)


@pytest.mark.parametrize(
    ("estimator", "check"), [*estimator_checks_generator(MixtureClassifier())], ids=name_of
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    """Pixels and labels as strings, in a random order."""
    X, y = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(y))
    return X[order], np.array([f"digit {label}" for label in y[order]])


@pytest.fixture(scope="module")
def fitted(digits):
    X, y = digits
    return MixtureClassifier().fit(X[:100], y[:100], unlabelled=X[600:1000])


def test_the_gradient_of_the_weights(monkeypatch):
    random = np.random.RandomState(0)
    left_out = np.log(random.dirichlet(np.ones(3), size=(4, 20)))
    found = {}

    def minimize(function, start, **_):
        found["error"] = check_grad(
            lambda at: function(at)[0], lambda at: function(at)[1], random.uniform(0, 2, 4)
        )
        return type("Result", (), {"x": start})

    monkeypatch.setattr(mixture, "minimize", minimize)
    y, w, prior = np.arange(20) % 3, random.uniform(1, 2, 20), np.array([0.1, 0.2, 0.3, 0.4])
    pool_weights(left_out, y, w, prior)
    assert found["error"] < 1e-4


def test_heads_that_are_right_get_the_weight():
    y = np.arange(60) % 3
    good = np.full((60, 3), np.log(0.1))
    good[np.arange(60), y] = np.log(0.8)
    bad = np.roll(good, 1, axis=1)
    weights = pool_weights(np.stack([good, bad]), y, np.ones(60), np.array([0.5, 0.5]))
    assert weights[0] > 1
    assert weights[1] < 0.1


def test_without_company_the_weights_are_the_prior():
    left_out = np.log(np.full((2, 3, 3), 1 / 3))
    weights = pool_weights(left_out, np.arange(3), np.ones(3), np.array([0.25, 0.75]))
    np.testing.assert_allclose(weights, mixture._TOTAL * np.array([0.25, 0.75]))


def test_it_is_better_than_its_parts(digits, fitted):
    X, y = digits
    indices = np.searchsorted(fitted.classes_, y[1000:])
    blocks = {mixture._ONLY: X[1000:]}
    alone = [p for name, heads in fitted.heads_.items() for p in heads.log_proba(blocks[name])]
    best = max((p.argmax(axis=1) == indices).mean() for p in alone)
    assert fitted.score(X[1000:], y[1000:]) >= best
    p = fitted.predict_proba(X[1000:])
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(fitted.predict(X[1000:]), fitted.classes_[p.argmax(axis=1)])


def test_unlabelled_rows_help(digits, fitted):
    X, y = digits
    without = MixtureClassifier().fit(X[:100], y[:100])
    assert fitted.score(X[1000:], y[1000:]) > without.score(X[1000:], y[1000:]) + 0.02


def test_a_prediction_does_not_depend_on_other_rows_or_on_batches(digits, fitted, monkeypatch):
    X, _ = digits
    together = fitted.predict_proba(X[1000:1100])
    np.testing.assert_allclose(fitted.predict_proba(X[1007:1008])[0], together[7], atol=1e-6)
    monkeypatch.setattr(mixture, "_FLOATS_PER_BATCH", 40_000)
    np.testing.assert_allclose(fitted.predict_proba(X[1000:1100]), together, atol=1e-6)


def test_the_order_of_examples_does_not_matter(digits):
    X, y = digits
    order = np.random.RandomState(1).permutation(60)
    one = MixtureClassifier().fit(X[:60], y[:60], unlabelled=X[60:100])
    other = MixtureClassifier().fit(X[:60][order], y[:60][order], unlabelled=X[60:100][::-1])
    np.testing.assert_allclose(
        one.predict_proba(X[100:200]), other.predict_proba(X[100:200]), atol=1e-4
    )


def test_copies_are_weights(digits):
    X, y = digits
    copies = np.r_[0:60, 0:20, 0:20]
    weights = np.r_[np.full(20, 3.0), np.ones(40)]
    copied = MixtureClassifier().fit(X[copies], y[copies])
    weighted = MixtureClassifier().fit(X[:60], y[:60], sample_weight=weights)
    np.testing.assert_allclose(
        copied.predict_proba(X[100:200]), weighted.predict_proba(X[100:200]), atol=1e-6
    )
    np.testing.assert_allclose(copied.left_out_[60:80], copied.left_out_[:20])
    assert copied.score_estimate_ == pytest.approx(weighted.score_estimate_)
    assert copied.score_estimate_.n_examples <= 60


def test_several_matrices(digits):
    X, y = digits
    halves = {"left": X[:, :32], "right": X[:, 32:], "words": csr_matrix(X)}
    few = {name: block[:100] for name, block in halves.items()}
    shares = {"left": 2, "right": 1, "words": 1}
    model = MixtureClassifier(shares).fit(few, y[:100], unlabelled=few)
    new = {name: block[1000:] for name, block in halves.items()}
    assert model.score(new, y[1000:]) > 0.85
    assert {row.layer for row in model.explain()} == {*halves, "all layers"}
    assert [row.weight for row in model.explain()] == sorted(model.weights_, reverse=True)
    for wrong, message in {
        "columns": ({**new, "left": X[1000:]}, "is expecting 32 features"),
        "a name": ({"left": X[1000:]}, "but those of the fit are"),
        "rows": ({**new, "left": X[:5, :32]}, "the same number of rows"),
    }.values():
        with pytest.raises(ValueError, match=message):
            model.predict(wrong)
    with pytest.raises(ValueError, match="X is an empty dict"):
        model.fit({}, y[:100])
    with pytest.raises(ValueError, match="shares names"):
        MixtureClassifier({"top": 1}).fit(few, y[:100])
    model.set_params(shares=None).fit(X[:100], y[:100])  # nothing is left of the dict
    assert model.predict(X[:5]).shape == (5,)
    assert not model.graphs_


@pytest.mark.parametrize("n", [0, 1, 3])
def test_few_unlabelled_rows(digits, n):
    X, y = digits
    model = MixtureClassifier().fit(X[:50], y[:50], unlabelled=X[60 : 60 + n])
    without = MixtureClassifier().fit(X[:50], y[:50])
    assert model.score(X[1000:], y[1000:]) > without.score(X[1000:], y[1000:]) - 0.03


def test_foreign_unlabelled_rows_do_little_harm(digits):
    X, y = digits
    foreign = np.random.RandomState(0).uniform(0, 16, size=(500, 64))
    model = MixtureClassifier().fit(X[:50], y[:50], unlabelled=foreign)
    without = MixtureClassifier().fit(X[:50], y[:50])
    assert model.score(X[1000:], y[1000:]) > without.score(X[1000:], y[1000:]) - 0.03


def test_estimates_are_those_of_new_examples(digits):
    X, y = digits
    rows = []
    for seed in range(15):
        order = np.random.RandomState(seed).permutation(len(y))
        few, new = order[:60], order[60:560]
        model = MixtureClassifier().fit(X[few], y[few])
        p, indices = model.predict_proba(X[new]), np.searchsorted(model.classes_, y[new])
        sets = model.predict_set(X[new], 0.9)
        estimate = model.score_estimate_
        rows.append(
            (
                estimate.accuracy - (p.argmax(axis=1) == indices).mean(),
                estimate.log_loss + np.log(p[np.arange(500), indices]).mean(),
                sets[np.arange(500), indices].mean() - 0.9,
            )
        )
        assert estimate.n_examples <= 60
    mean, error = np.mean(rows, axis=0), np.std(rows, axis=0) / np.sqrt(15)
    assert (np.abs(mean) < np.maximum(3 * error, [0.03, 0.1, 0.03])).all()


def test_chance_is_not_more_than_chance():
    random = np.random.RandomState(0)
    X, y = random.normal(size=(600, 20)), random.randint(2, size=600)
    estimates = [
        MixtureClassifier().fit(X[i : i + 60], y[i : i + 60]).score_estimate_.accuracy
        for i in range(0, 600, 60)
    ]
    assert 0.42 < np.mean(estimates) < 0.58


def test_one_label_of_each_of_many_classes():
    random = np.random.RandomState(0)
    centres = random.normal(size=(100, 30))
    X = centres + 0.5 * random.normal(size=(100, 30))
    model = MixtureClassifier().fit(X, np.arange(100))
    new = centres + 0.5 * random.normal(size=(100, 30))
    assert model.score(new, np.arange(100)) > 0.8
    assert np.isnan(model.left_out_).all()
    assert np.isnan(model.score_estimate_.accuracy)
    assert model.score_estimate_.n_examples == 0
    assert model.predict_set(new).all()  # nothing is known of coverage
    assert not model.suspicious_labels()
    assert not model.is_novel(new).any()


def test_wrong_labels_are_suspicious(digits):
    X, y = digits
    wrong = y[:200].copy()
    flipped = [3, 50, 120]
    wrong[flipped] = np.where(y[flipped] == "digit 0", "digit 1", "digit 0")
    found = MixtureClassifier().fit(X[:200], wrong).suspicious_labels()
    assert {one.row for one in found} >= set(flipped)
    assert [one.likeliest for one in found if one.row == 3] == [y[3]]
    assert [one.label for one in found if one.row == 3] == [wrong[3]]


def test_what_to_label_next(digits, fitted):
    X, _ = digits
    pool = np.concatenate([X[:50], X[600:700], X[600:700]])  # labelled ones, and copies
    chosen = fitted.next_to_label(pool, 10)
    assert len(chosen) == len({row.tobytes() for row in pool[chosen]}) == 10
    assert (chosen >= 50).all()
    with pytest.raises(ValueError, match="n must be an integer >= 1"):
        fitted.next_to_label(pool, 0)


def test_noise_is_novel(digits, fitted):
    X, _ = digits
    noise = np.random.RandomState(0).uniform(0, 16, size=(200, 64))
    assert fitted.is_novel(noise).mean() > 0.9
    assert fitted.is_novel(X[1000:]).mean() < 0.15
    assert fitted.novelty(noise).mean() > fitted.novelty(X[1000:]).mean()


def test_a_class_prior(digits):
    X, y = digits
    rare = np.flatnonzero(y == "digit 0")
    few = np.r_[rare[:3], np.flatnonzero(y == "digit 8")[:30], np.flatnonzero(y == "digit 9")[:30]]
    plain = MixtureClassifier().fit(X[few], y[few])
    adjusted = MixtureClassifier(class_prior="balanced").fit(X[few], y[few])
    ratio = np.array([21 / 3, 21 / 30, 21 / 30])
    expected = plain.predict_proba(X[1000:]) * ratio
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(adjusted.predict_proba(X[1000:]), expected, atol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.predict_set(np.zeros((2, 3))),
        lambda model: model.suspicious_labels(),
        lambda model: model.explain(),
        lambda model: model.novelty(np.zeros((2, 3))),
        lambda model: model.next_to_label(np.zeros((2, 3)), 1),
    ],
)
def test_nothing_before_a_fit(call):
    with pytest.raises(NotFittedError):
        call(MixtureClassifier())


def test_a_coverage_that_is_none(digits, fitted):
    with pytest.raises(ValueError, match="coverage must be a number > 0 and < 1, got 90"):
        fitted.predict_set(digits[0][:2], 90)


def test_what_is_refused_changes_nothing(digits):
    X, y = digits
    model = MixtureClassifier().fit(X[:60], y[:60])
    expected = model.predict_proba(X[100:120])
    for wrong in (
        {"X": {}, "y": y[:60]},
        {"X": {"a": X[:60]}, "y": y[:50]},
        {"X": {"a": X[:60]}, "y": np.zeros(60)},
        {"X": {"a": X[:60]}, "y": y[:60], "unlabelled": {"b": X[60:]}},
        {"X": X[:60], "y": y[:60], "unlabelled": X[60:, :5]},
    ):
        with pytest.raises(ValueError, match="."):
            model.fit(**wrong)
        np.testing.assert_array_equal(model.predict_proba(X[100:120]), expected)
    assert model.n_features_in_ == 64


def test_a_class_with_one_label_among_others(digits):
    X, y = digits
    few = np.r_[np.flatnonzero(y == "digit 0")[:1], np.flatnonzero(y != "digit 0")[:80]]
    model = MixtureClassifier().fit(X[few], y[few])
    assert np.isnan(model.left_out_).all(axis=1).tolist() == [True] + [False] * 80
    assert model.score_estimate_.n_examples == 80
    zeros = X[1000:][y[1000:] == "digit 0"]
    assert (model.predict(zeros) == "digit 0").mean() > 0.5


@pytest.mark.slow
def test_a_thousand_classes():
    random = np.random.RandomState(0)
    centres = random.normal(size=(1000, 64))
    X = np.repeat(centres, 3, axis=0) + 0.3 * random.normal(size=(3000, 64))
    model = MixtureClassifier().fit(X, np.repeat(np.arange(1000), 3))
    assert model.score(centres, np.arange(1000)) > 0.99


@pytest.mark.parametrize("n", [4, 12, 60])
def test_few_labels_leave_doubt(n):
    """Even if all left-out predictions are right, the next one may be wrong."""
    y = np.arange(n) % 2
    X = np.random.RandomState(0).normal(size=(n, 5)) + 20 * y[:, None]
    model = MixtureClassifier().fit(X, y)
    assert model.score_estimate_.accuracy == 1
    surest = model.predict_proba(X).max()
    assert 1 - 1 / (n + 2) < surest <= 1 - 0.5 / (n + 2)
    # A prior of the classes still multiplies their odds.
    prior = MixtureClassifier(class_prior={0: 0.9, 1: 0.1}).fit(X, y).predict_proba(X)
    odds = model.predict_proba(X) * [0.9, 0.1]
    np.testing.assert_allclose(prior, odds / odds.sum(axis=1, keepdims=True), rtol=1e-9)


def test_ten_examples_decide_nothing():
    X, y = load_digits(n_class=3, return_X_y=True)
    order = np.random.RandomState(0).permutation(len(y))
    for n, are_prior in (10, True), (30, False):
        model = MixtureClassifier().fit(X[order[:n]], y[order[:n]])
        assert np.allclose(model.weights_, mixture._TOTAL / len(model.weights_)) == are_prior
