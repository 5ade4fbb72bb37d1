"""H-score and LogME against their definitions."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf

from xfer.meta.transferability import h_score, logme


def draw(n, d, seed=0):
    random = np.random.RandomState(seed)
    y = np.array(["a", "b", "c"])[np.arange(n) % 3]
    means = random.normal(size=(3, d))
    return means[np.arange(n) % 3] + random.normal(size=(n, d)) * random.uniform(0.5, 3, d), y


@pytest.mark.parametrize(("n", "d"), [(60, 5), (20, 40)])
def test_h_score_by_definition(n, d):
    X, y = draw(n, d)
    centred = X - X.mean(axis=0)
    covariance = LedoitWolf().fit(centred)
    means = np.stack([centred[y == one].mean(axis=0) for one in y])
    between = means.T @ means / n
    inverse = np.linalg.inv(covariance.covariance_)
    expected = (1 - covariance.shrinkage_) * np.trace(inverse @ between)
    assert h_score(X, y) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(40, 5), (12, 30)])
def test_logme_is_the_maximised_evidence(n, d):
    X, y = draw(n, d)

    def negative(logs, target):
        alpha, beta = np.exp(np.clip(logs, -14, 14))
        covariance = np.eye(n) / beta + X @ X.T / alpha
        return -multivariate_normal.logpdf(target, np.zeros(n), covariance) / n

    found = []
    for one in "abc":
        target = (y == one).astype(float)
        starts = [(a, b) for a in (0.0, 4.0) for b in (1.0, 5.0)]
        tries = [minimize(negative, start, (target,), "Nelder-Mead") for start in starts]
        found.append(-min(one.fun for one in tries))
    assert logme(X, y) == pytest.approx(np.mean(found), abs=1e-4)


@pytest.mark.parametrize("measure", [h_score, logme])
def test_labels_that_features_tell_apart_are_better(measure):
    X, y = draw(90, 8)
    assert measure(X, y) > measure(X, np.random.RandomState(0).permutation(y))


def test_neither_depends_on_rotations_and_scale():
    X, y = draw(40, 6)
    rotation = np.linalg.qr(np.random.RandomState(1).normal(size=(6, 6)))[0]
    for measure in (h_score, logme):
        assert measure(7 * X @ rotation, y) == pytest.approx(measure(X, y), abs=1e-6)


def test_h_score_is_below_the_number_of_classes():
    X, y = draw(30, 4)
    far = X + 1e4 * np.eye(4)[np.arange(30) % 3]
    assert 1.9 < h_score(far, y) <= 2


@pytest.mark.parametrize("measure", [h_score, logme])
def test_odd_features(measure):
    assert np.isfinite(measure(np.ones((6, 3)), list("aabbcc")))
    assert np.isfinite(measure(np.zeros((6, 3)), list("aabbcc")))
    assert np.isfinite(measure(np.eye(4), [1, 2, 3, 4]))


@pytest.mark.parametrize("measure", [h_score, logme])
def test_one_class_is_refused(measure):
    with pytest.raises(ValueError, match="at least two classes are needed, got only"):
        measure([[1.0], [2.0]], ["a", "a"])
