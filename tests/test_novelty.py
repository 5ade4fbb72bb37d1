"""Novelty against refits without each example, and in degenerate cases."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.utils import shuffle

import xfer
from xfer.meta import BayesianNetwork, DirichletGaussianProcess
from xfer.meta.novelty import Novelty, novelty_scores


def brute_force(X, y, w, new):
    """Distances by the dense covariance."""
    labels = np.unique(y)
    means = np.array([np.average(X[y == c], axis=0, weights=w[y == c]) for c in labels])
    residuals = X - means[np.searchsorted(labels, y)]
    scatter, n, d = (residuals.T * w) @ residuals, w.sum(), np.count_nonzero(np.ptp(X, axis=0))
    shrinkage = d / (d + n)
    covariance = (1 - shrinkage) * scatter / n + shrinkage * np.trace(scatter) / n / d * np.eye(
        X.shape[1]
    )
    gaps = new[:, None] - means
    squares = np.einsum("mkd,de,mke->mk", gaps, np.linalg.inv(covariance), gaps)
    return np.sqrt(squares.min(axis=1))


@pytest.mark.parametrize("d", [4, 60])
@pytest.mark.parametrize("positive", [False, True])
def test_distances_are_those_of_the_dense_covariance_and_of_refits(d, positive):
    random = np.random.RandomState(0)
    y = np.resize([0, 1, 1, 2], 31)
    X, w = random.normal(size=(31, d)) + y[:, None], random.uniform(0.5, 2, 31)
    X = np.square(X) if positive else X
    X[:, 1] = 3  # constant
    X[-1], y[-1] = X[0], y[0]  # a copy
    roots = np.sqrt(X) if positive else X
    model = Novelty().fit(X, np.array(list("abc"))[y], w)
    np.testing.assert_allclose(model.distance(X), brute_force(roots, y, w, roots), rtol=1e-6)
    for row in range(31):
        rest = (X[row] != X).any(axis=1)
        expected = brute_force(roots[rest], y[rest], w[rest], roots[[row]])
        np.testing.assert_allclose(model.left_out_distances_[row], expected[0], rtol=1e-6)


def test_a_copy_counts_as_a_weight():
    random = np.random.RandomState(0)
    X, y, copies = random.normal(size=(20, 5)), np.arange(20) % 3, random.randint(1, 4, 20)
    once, repeated = (
        Novelty().fit(X, y, copies),
        Novelty().fit(X.repeat(copies, 0), y.repeat(copies)),
    )
    np.testing.assert_allclose(once.distance(X), repeated.distance(X))
    np.testing.assert_allclose(
        once.left_out_distances_.repeat(copies), repeated.left_out_distances_
    )


def test_an_example_of_weight_zero_counts_for_nothing():
    X, y = np.random.RandomState(0).normal(size=(20, 5)), np.arange(20) % 3
    rest, new = y != 1, np.ones((1, 5))
    model = Novelty().fit(X, y, rest)
    np.testing.assert_allclose(model.distance(new), Novelty().fit(X[rest], y[rest]).distance(new))
    assert np.isnan(model.left_out_distances_).tolist() == (~rest).tolist()


def test_degenerate_examples_have_finite_distances():
    X, new = np.random.RandomState(0).normal(size=(6, 40)), np.ones((2, 40))
    single = Novelty().fit(X, np.arange(6))
    assert np.isnan(single.left_out_distances_).all() and (single.distance(new) > 0).all()
    mixed = Novelty().fit(X, [0, 0, 0, 0, 1, 2])
    assert np.isnan(mixed.left_out_distances_).tolist() == [False] * 4 + [True] * 2
    pair = Novelty().fit(X[:3], [0, 0, 1])
    assert np.isnan(pair.left_out_distances_).all() and np.isfinite(pair.distance(new)).all()
    equal = Novelty().fit(np.ones((4, 3)), [0, 0, 1, 1])
    assert equal.distance(np.ones((1, 3))) == 0 and equal.distance(np.zeros((1, 3))) > 0
    assert np.isfinite(novelty_scores(np.zeros(1), np.array([[0.5, 0.5]]))).all()


@pytest.mark.parametrize("model", [DirichletGaussianProcess(), BayesianNetwork(num_epochs=40)])
def test_classes_that_were_not_learned_are_novel(model):
    X, y = shuffle(*load_digits(return_X_y=True), random_state=0)
    known, new = np.flatnonzero(y < 6), np.flatnonzero(y >= 6)
    X_known, labels = X[known], np.array(list("abcdef"))[y[known]]
    model = clone(model).fit(X_known[:120], labels[:120])
    scores = np.r_[model.novelty(X_known[120:]), model.novelty(X[new])]
    truth = np.r_[np.zeros(len(known) - 120), np.ones(len(new))]
    assert roc_auc_score(truth, scores) > 0.9
    for false_alarms in (0.05, 0.2):
        found = model.is_novel(X_known[120:], false_alarms=false_alarms)
        # Networks of folds have seen fewer labels and doubt more, so that less is called novel.
        assert found.dtype == bool and 0.25 * false_alarms < found.mean() < false_alarms + 0.05
    assert not model.is_novel(X[new], false_alarms=0.001).any()  # of 120 examples, none tells that
    with pytest.raises(ValueError, match="false_alarms must be a number > 0 and < 1, got 5"):
        model.is_novel(X, false_alarms=5)
    np.testing.assert_allclose(
        model.novelty(X[:9]),
        novelty_scores(
            Novelty().fit(X_known[:120], labels[:120]).distance(X[:9]), model.predict_proba(X[:9])
        ),
    )


@pytest.mark.parametrize("model", [DirichletGaussianProcess(), BayesianNetwork(num_epochs=40)])
def test_with_one_label_per_class_nothing_is_called_novel(model):
    X, y = shuffle(*load_digits(return_X_y=True), random_state=0)
    first = np.unique(y, return_index=True)[1]
    model = clone(model).fit(X[first], y[first])
    assert np.isfinite(model.novelty(X[10:20])).all()
    assert not model.is_novel(X[10:20], 0.5).any()


def test_a_repurposer_tells_what_is_novel():
    images, digits = xfer.example.digits()
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    known, new = images[(digits >= 5) & (digits < 9)], images[digits == 9]
    labels = digits[(digits >= 5) & (digits < 9)]
    repurposer = xfer.GpRepurposer(source, "relu2", pooling="max").fit(known[:80], labels[:80])
    assert np.median(repurposer.novelty(new)) > np.median(repurposer.novelty(known[80:]))
    found = [repurposer.is_novel(part, false_alarms=0.2).mean() for part in (new, known[80:])]
    assert found[0] > found[1]
    assert not hasattr(xfer.LrRepurposer(source, "relu2"), "is_novel")
