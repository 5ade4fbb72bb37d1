"""Sets and suspicious labels from left-out predictions, on data whose law is known."""

import numpy as np
import pytest

from xfer.meta.conformal import calibrate, quantile, sets, suspicious


def sample(n, random, n_classes=6):
    """Return probabilities that are too sure of themselves, and labels."""
    scores = 2 * random.normal(size=(n, n_classes))
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    y = np.array([random.choice(n_classes, p=row) for row in p])
    return p**2 / (p**2).sum(axis=1, keepdims=True), y


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_have_the_coverage_asked_for(coverage):
    random, found = np.random.RandomState(0), []
    p, y = sample(6000, random)
    for _ in range(200):
        rows = random.permutation(len(y))
        old, new = rows[:99], rows[99:1000]
        chosen = sets(p[new], calibrate(p[old], y[old]), coverage)
        found.append(chosen[np.arange(len(new)), y[new]].mean())
    # With 99 scores, (99 + 1) * coverage is an integer, and the expected coverage is exact.
    assert np.mean(found) == pytest.approx(coverage, abs=4 * np.std(found) / np.sqrt(200))


def test_the_quantile_is_an_order_statistic_and_weights_count_copies():
    scores = np.array([0.3, 0.1, 0.2, 0.5, 0.4, 0.9, 0.6, 0.8, 0.7])
    assert quantile(scores, 0.9) == 0.9 and quantile(scores, 0.8) == 0.8
    assert quantile(scores, 0.05) == 0.1 and quantile(scores, 0.91) == np.inf
    copies = np.arange(9) % 3 + 1
    for level in (0.2, 0.5, 0.9):
        assert quantile(scores, level, copies) == quantile(scores.repeat(copies), level)
    assert quantile(np.append(scores, np.nan), 0.9) == 0.9


def test_too_few_labels_promise_nothing_less_than_all():
    p, y = sample(8, np.random.RandomState(0))
    assert sets(p, calibrate(p, y), 0.9).all() and not sets(p, calibrate(p, y), 0.8).all()
    assert sets(p, calibrate(p[:0], y[:0]), 0.5).all()


@pytest.mark.parametrize("coverage", [0, 1, -0.1, 90, np.nan, True, "0.9"])
def test_a_coverage_that_is_no_share_is_refused(coverage):
    p, y = sample(8, np.random.RandomState(0))
    with pytest.raises(ValueError, match="coverage must be a number > 0 and < 1, got"):
        sets(p, calibrate(p, y), coverage)


def test_labels_that_were_changed_are_flagged():
    random = np.random.RandomState(0)
    y = random.randint(4, size=200)
    p = np.full((200, 4), 0.02)
    p[np.arange(200), y] = 0.94
    p[:10] = 0.25  # in doubt
    p[10] = np.nan  # never left out
    changed = y.copy()
    changed[100:110] = (y[100:110] + 1) % 4
    order, flagged = suspicious(p, changed)
    assert set(order[:10]) == set(range(100, 110)) and order[-1] == 10
    assert np.flatnonzero(flagged).tolist() == list(range(100, 110))
