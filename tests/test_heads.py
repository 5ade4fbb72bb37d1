"""Classifiers in closed form: left-out predictions equal those of fits without the example."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.datasets import load_digits, load_iris

from xfer.meta import heads
from xfer.meta.heads import FeatureHeads, GaussianHead, RidgeHead, WordsHead

N_CLASSES = 3
HEADS = {
    "kernel": lambda: RidgeHead("rbf"),
    "linear": lambda: RidgeHead("linear"),
    "gaussian": GaussianHead,
    "naive Bayes": WordsHead,
}


@pytest.fixture
def few():
    """30 flowers of three kinds, and weights."""
    X, y = load_iris(return_X_y=True)
    return X[::5] - X.mean(axis=0), y[::5], np.random.RandomState(0).uniform(0.5, 3, 30)


def features_for(name, X):
    if name != "naive Bayes":
        return X
    counts = np.round(np.maximum(X - X.min(axis=0), 0) * 2)
    return csr_matrix(counts)


def fix_choices(monkeypatch):
    """Leave one strength, shrinkage, smoothing and temperature, so that refits choose the same."""
    monkeypatch.setattr(heads, "_STRENGTHS", np.array([0.3]))
    monkeypatch.setattr(heads, "_SHRINKAGES", (0.3,))
    monkeypatch.setattr(heads, "_SMOOTHINGS", np.array([0.01]))
    monkeypatch.setattr(heads, "_temperature", lambda scores, *_: (1.0, 0.0))


@pytest.mark.parametrize("name", ["kernel", "linear", "naive Bayes"])
@pytest.mark.parametrize("wide", [False, True])
def test_left_out_predictions_are_those_of_a_fit_without_the_example(monkeypatch, few, name, wide):
    fix_choices(monkeypatch)
    X, y, w = few
    if wide:  # more features than examples
        X = np.hstack([X, X**2, X**3, np.random.RandomState(1).normal(size=(len(X), 40))])
    X = features_for(name, X)
    n = len(y)
    left_out = HEADS[name]().fit_left_out(X, y, w, N_CLASSES)
    for i in range(0, n, 7):
        others = np.delete(np.arange(n), i)
        head = HEADS[name]()
        head.fit_left_out(X[others], y[others], w[others], N_CLASSES)
        expected = head.log_proba(X[[i]])[0]
        scale = relative_scale(head, HEADS[name], X, y, w)
        found = left_out[i]
        # Up to the temperature, which is chosen on all examples: compare differences of scores.
        np.testing.assert_allclose(
            (found - found[0]) * scale, expected - expected[0], rtol=1e-6, atol=1e-7
        )


def relative_scale(refitted, make, X, y, w):
    full = make()
    full.fit_left_out(X, y, w, N_CLASSES)
    if not hasattr(full, "inverse_temperature_"):
        return 1.0
    return refitted.inverse_temperature_ / full.inverse_temperature_


def test_gaussians_without_an_example(monkeypatch, few):
    # With its class mean and its part of the covariance gone, by dense algebra.
    fix_choices(monkeypatch)
    X, y, w = few
    head = GaussianHead()
    left_out = head.fit_left_out(X, y, w, N_CLASSES)
    means = np.stack([w[y == c] @ X[y == c] / w[y == c].sum() for c in range(N_CLASSES)])
    away, degrees = X - means[y], w.sum() - N_CLASSES
    scatter = (away * w[:, None]).T @ away
    target = 0.3 * np.trace(scatter) / degrees / X.shape[1] * np.eye(X.shape[1])
    for i in range(0, len(y), 7):
        rest, others = np.arange(len(y)) != i, means.copy()
        own = rest & (y == y[i])
        others[y[i]] = w[own] @ X[own] / w[own].sum()
        residuals = X[rest] - others[y[rest]]
        S = (residuals * w[rest, None]).T @ residuals
        precision = np.linalg.inv(0.7 * S / degrees + target)
        gaps = X[i] - others
        scores = -np.einsum("ki,ij,kj->k", gaps, precision, gaps) / (2 * np.sqrt(X.shape[1]))
        expected = scores - np.log(np.exp(scores).sum())
        np.testing.assert_allclose(left_out[i], expected, rtol=1e-8, atol=1e-10)


def test_landmarks_are_nearly_as_good_as_all_examples(monkeypatch):
    X, y = load_digits(return_X_y=True)
    X, new = X[:400] / 16, X[400:800] / 16
    exact, approximate = RidgeHead("rbf"), RidgeHead("rbf")
    exact.fit_left_out(X, y[:400], np.ones(400), 10)
    monkeypatch.setattr(heads, "LANDMARKS", 300)
    left_out = approximate.fit_left_out(X, y[:400], np.ones(400), 10)
    assert len(approximate.landmarks_) == 300
    assert (left_out.argmax(axis=1) == y[:400]).mean() > 0.9
    same = exact.log_proba(new).argmax(axis=1) == approximate.log_proba(new).argmax(axis=1)
    assert same.mean() > 0.95


@pytest.mark.parametrize("name", HEADS)
def test_one_example_of_every_class(few, name):
    X, y, _ = few
    rows = np.unique(y, return_index=True)[1]
    Z = features_for(name, X)[rows]
    head = HEADS[name]()
    left_out = head.fit_left_out(Z, y[rows], np.ones(3), N_CLASSES)
    assert np.isfinite(left_out).all()
    assert (head.log_proba(Z).argmax(axis=1) == y[rows]).all()


@pytest.mark.parametrize("name", HEADS)
def test_features_that_say_nothing(name):
    X = np.ones((6, 2))
    X = csr_matrix(X) if name == "naive Bayes" else X
    head = HEADS[name]()
    left_out = head.fit_left_out(X, np.array([0, 0, 1, 1, 2, 2]), np.ones(6), 3)
    assert np.isfinite(left_out).all()
    np.testing.assert_allclose(np.exp(head.log_proba(X)), 1 / 3, atol=0.01)


def test_leaving_out_gives_no_hint_of_the_class():
    # Words at random: naive Bayes on counts would guess the class that is one example short.
    random = np.random.RandomState(0)
    hits = []
    for _ in range(20):
        X = csr_matrix((random.uniform(size=(14, 400)) < 0.1).astype(float))
        y = np.arange(14) % 7
        left_out = WordsHead().fit_left_out(X, y, np.ones(14), 7)
        hits.append((left_out.argmax(axis=1) == y).mean())
    assert np.mean(hits) < 0.25  # chance is 0.14


def test_sparse_features_have_the_heads_of_words(few):
    X, y, w = few
    dense = FeatureHeads().fit_left_out(X, y, w, N_CLASSES)
    words = FeatureHeads().fit_left_out(csr_matrix(np.maximum(X, 0)), y, w, N_CLASSES)
    assert list(dense) == ["linear", "kernel", "gaussian"]
    assert list(words) == ["linear", "naive Bayes"]
    signed = FeatureHeads().fit_left_out(csr_matrix(X), y, w, N_CLASSES)
    assert list(signed) == ["linear"]
