"""Novelty against refits without each example, and in degenerate cases."""

import numpy as np
import pytest

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
        rest = (X != X[row]).any(axis=1)
        expected = brute_force(roots[rest], y[rest], w[rest], roots[[row]])
        np.testing.assert_allclose(model.left_out_distances_[row], expected[0], rtol=1e-6)


def test_a_copy_counts_as_a_weight():
    random = np.random.RandomState(0)
    X, y, copies = random.normal(size=(20, 5)), np.arange(20) % 3, random.randint(1, 4, 20)
    once, repeated = Novelty().fit(X, y, copies), Novelty().fit(X.repeat(copies, 0), y.repeat(copies))
    np.testing.assert_allclose(once.distance(X), repeated.distance(X))
    np.testing.assert_allclose(
        once.left_out_distances_.repeat(copies), repeated.left_out_distances_
    )


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
