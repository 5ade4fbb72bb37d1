"""The scaling of features, against a singular value decomposition."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import estimator_checks_generator

from xfer.meta import PartialWhitening


def name_of(value):
    return getattr(getattr(value, "func", value), "__name__", type(value).__name__)


@pytest.mark.parametrize(
    ("estimator", "check"), [*estimator_checks_generator(PartialWhitening())], ids=name_of
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture
def digits():
    """Pixels of 100 digits and of 200 others, some of them constant among the 100."""
    X = load_digits().data
    return X[:100], X[100:300]


def by_decomposition(X, new, w):
    """Whiten new rows step by step as documented."""
    if X.min() >= 0:
        X, new = np.sqrt(X), np.sign(new) * np.sqrt(np.abs(new))
    n, mean = w.sum(), np.average(X, axis=0, weights=w)
    variance = np.average((X - mean) ** 2, axis=0, weights=w)
    varies = np.ptp(X, axis=0) > 0
    variance = variance[varies]
    scale = 1 / np.sqrt((n * variance + 2 * variance.mean()) / (n + 2))
    train, new = ((part - mean)[:, varies] * scale for part in (X, new))
    _, s, axes = np.linalg.svd(np.sqrt(w)[:, None] * train, full_matrices=False)
    s, axes = s[s > 1e-6 * s[0]], axes[s > 1e-6 * s[0]]
    u, d = s**2 / n, len(variance)
    factors = ((n * u + u.sum()) / (n + d)) ** -0.125
    Z = train @ axes.T * factors
    size = np.sqrt(np.average((Z**2).sum(axis=1), weights=w))
    return new @ axes.T * factors / size


def wide(random):
    return random.gamma(0.5, size=(40, 300)), random.gamma(0.5, size=(9, 300)) - 0.1


def signed(random):
    return random.normal(size=(40, 300)), random.normal(size=(9, 300))


def tall(random):
    return random.gamma(0.5, size=(40, 6)), random.gamma(0.5, size=(9, 6))


def uneven(random):
    """Duplicate rows and columns, nearly equal columns, a constant one, and very unlike scales."""
    X = random.normal(size=(49, 60)) * 10.0 ** random.uniform(-3, 3, size=60)
    X = np.hstack([X, X[:, :5], X[:, 5:9] * (1 + 1e-7), np.full((49, 1), 3.7)])
    X[10:20] = X[:10]
    return X[:40], X[40:]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("make", [wide, signed, tall, uneven])
def test_it_is_what_a_singular_value_decomposition_gives(make, weighted):
    random = np.random.RandomState(0)
    X, new = make(random)
    w = random.uniform(0.2, 3, size=len(X)) if weighted else np.ones(len(X))
    model = PartialWhitening().fit(X, sample_weight=w if weighted else None)
    assert model.square_root_ == (X.min() >= 0)
    for rows in (X, new):
        found, expected = model.transform(rows), by_decomposition(X, rows, w)
        assert found.shape == expected.shape
        # Axes may be mirrored, and those of equal variance rotated.
        np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=1e-9, atol=1e-9)


def test_whitening_is_gentle(digits):
    train, _ = digits
    Z = PartialWhitening().fit_transform(train)
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-12)
    covariance = Z.T @ Z / len(Z)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-12)
    np.testing.assert_allclose(np.trace(covariance), 1)
    scaled = np.sqrt(train) - np.sqrt(train).mean(axis=0)
    before = np.linalg.svd(scaled, compute_uv=False) ** 2
    after = np.sort(np.diag(covariance))[::-1]
    assert 1 < after[0] / after[9] < before[0] / before[9], "less uneven, not even"


def test_units_and_constant_columns_do_not_matter(digits):
    train, new = digits
    expected = PartialWhitening().fit(train).transform(new)
    for change in (lambda X: 1e3 * X, lambda X: np.insert(X, 0, 7.3, axis=1)):
        found = PartialWhitening().fit(change(train)).transform(change(new))
        np.testing.assert_allclose(found, expected, atol=1e-8)


def test_roots_are_taken_only_if_no_example_that_counts_is_negative(digits):
    train, _ = digits
    model = PartialWhitening().fit(train)
    assert model.square_root_ and not PartialWhitening(square_root=False).fit(train).square_root_
    below = np.vstack([train, -np.ones(64)])
    assert not PartialWhitening().fit(below).square_root_
    again = PartialWhitening().fit(below, sample_weight=np.append(np.ones(100), 0))
    np.testing.assert_array_equal(again.components_, model.components_)
    # Just below zero is near just above: the root of a negative value has its sign.
    signed = model.transform(np.array([[-4.0], [0.0], [4.0]]) * np.ones(64))
    np.testing.assert_allclose(signed[0] + signed[2], 2 * signed[1])


@pytest.mark.parametrize("n", [1, 5])
def test_without_variation_all_is_zero(n):
    X = np.full((n, 3), 0.1)
    assert (PartialWhitening().fit_transform(X) == 0).all()
