"""Label spreading against brute force: dense algebra, and refits without each label."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_matrix
from scipy.special import log_softmax, logsumexp
from sklearn.datasets import make_moons
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestCentroid

from xfer.meta import graph
from xfer.meta.graph import GraphSpreading

SCALINGS = ["unit", "whitened"]


@pytest.fixture
def problem():
    """30 labelled examples of three classes with weights, and a pool of 200."""
    random = np.random.RandomState(0)
    y, of_pool = np.resize([0, 1, 1, 2], 30), random.randint(3, size=200)
    centres = random.normal(size=(3, 6))
    X, pool = (centres[c] + random.normal(size=(len(c), 6)) for c in (y, of_pool))
    return X, y, random.uniform(0.2, 3, size=30), pool


def tempered(model, scores):
    return log_softmax(model.inverse_temperature_ * np.log(scores + model.floor_), axis=-1)


def graph_weights(new, nodes):
    cosines = cosine_similarity(new, nodes)
    cosines[cosines > 1 - 1e-9] = -1  # no edge from a node to itself
    nearest = cosines >= np.sort(cosines, axis=1)[:, [-10]]
    return np.where(nearest, np.maximum(cosines, 0) ** 3, 0)


def test_scores_are_those_of_dense_algebra(problem):
    X, y, w, pool = problem
    model = GraphSpreading()
    model.fit_left_out(X, y, w, 3, pool)
    rows = np.concatenate([X, pool])
    W = graph_weights(rows - rows.mean(axis=0), rows - rows.mean(axis=0))
    W += W.T
    S = W / np.sqrt(np.outer(W.sum(axis=0), W.sum(axis=1)))
    labels = np.zeros((230, 3))
    labels[np.arange(30), y] = w
    expected = 0.1 * np.linalg.solve(np.eye(230) - 0.9 * S, labels) / labels.sum(axis=0)
    assert_allclose(model.scores_, expected, atol=1e-6)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_left_out_is_what_a_fit_without_the_label_gives(problem, scaling):
    X, y, w, pool = problem
    model = GraphSpreading(scaling)
    left_out = model.fit_left_out(X, y, w, 3, pool)
    for i in range(len(y)):
        others, refit = np.arange(len(y)) != i, GraphSpreading(scaling)
        refit.fit_left_out(X[others], y[others], w[others], 3, np.concatenate([pool, X[[i]]]))
        assert_allclose(left_out[i], tempered(model, refit.scores_[-1]), atol=2e-3)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_copies_in_the_pool_change_nothing(problem, scaling):
    X, y, w, pool = problem
    model, other = GraphSpreading(scaling), GraphSpreading(scaling)
    left_out = model.fit_left_out(X, y, w, 3, pool)
    copied = other.fit_left_out(X, y, w, 3, np.concatenate([X, pool, pool[:50]]))
    assert_allclose(copied, left_out, atol=1e-4)
    assert_allclose(other.log_proba(pool), model.log_proba(pool), atol=1e-4)


def test_copies_of_labelled_examples_count_as_weight_and_are_left_out_together(problem):
    X, y, w, pool = problem
    model, other = GraphSpreading(), GraphSpreading()
    left_out = model.fit_left_out(X, y, w, 3, pool)
    twice = np.arange(30).repeat(2)
    copied = other.fit_left_out(X[twice], y[twice], w[twice] / 2, 3, pool)
    assert_allclose(copied, left_out[twice], atol=1e-4)


def test_random_labels_are_not_seen_by_the_left_out_predictions(problem):
    X, _, _, pool = problem
    random, right = np.random.RandomState(1), []
    for _ in range(20):
        y = random.permutation(np.resize([0, 1], 30))
        left_out = GraphSpreading().fit_left_out(X, y, np.ones(30), 2, np.concatenate([X, pool]))
        right.append((left_out.argmax(axis=1) == y).mean())
    assert np.mean(right) < 0.55


def test_sparse_features_give_what_dense_ones_do(problem):
    X, y, w, pool = problem
    X, pool = (np.where(np.abs(part) > 0.5, part, 0) for part in (X, pool))
    pool = np.concatenate([pool, -pool, -X])  # so that the mean of all rows is 0
    dense, sparse = GraphSpreading(), GraphSpreading()
    expected = dense.fit_left_out(X, y, w, 3, pool)
    found = sparse.fit_left_out(csr_matrix(X), y, w, 3, csr_matrix(pool))
    assert_allclose(found, expected, atol=1e-3)
    assert_allclose(sparse.log_proba(csr_matrix(pool)), dense.log_proba(pool), atol=1e-3)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_predictions_do_not_depend_on_the_other_rows(problem, scaling):
    X, y, w, pool = problem
    model = GraphSpreading(scaling)
    model.fit_left_out(X, y, w, 3, pool[:100])
    together, each = model.log_proba(pool), [model.log_proba(row[None]) for row in pool[:50]]
    assert_allclose(np.concatenate(each), together[:50], atol=1e-5)
    assert_allclose(logsumexp(together, axis=1), 0, atol=1e-9)


def test_a_new_row_is_one_more_unlabelled_node(problem):
    X, y, w, pool = problem
    model = GraphSpreading()
    model.fit_left_out(X, y, w, 3, pool)
    rows = np.concatenate([X, pool])
    new = np.random.RandomState(1).normal(size=(20, 6))
    weights, W = (
        graph_weights(part - rows.mean(axis=0), rows - rows.mean(axis=0)) for part in (new, rows)
    )
    degrees = (W + W.T).sum(axis=1)
    weights /= np.sqrt(np.outer(weights.sum(axis=1), degrees))
    expected = tempered(model, 0.9 * weights @ model.scores_)
    assert_allclose(model.log_proba(new), expected, atol=1e-3)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("n_pool", [0, 1, 3])
def test_small_and_degenerate_sets(scaling, n_pool):
    random = np.random.RandomState(0)
    few, y = random.normal(size=(3, 4)), np.array([0, 1, 1])
    cases = [few, np.abs(few), np.zeros((3, 4)), np.ones((3, 4)), np.eye(3, 4), few * [1, 0, 0, 0]]
    cases += [few * 1e-12, few * 1e12, few[[0, 0, 1]], few + 1e9, few[:, :1]]
    for X in cases:
        model, pool = GraphSpreading(scaling), np.resize(X[::-1], (n_pool, X.shape[1]))
        left_out = model.fit_left_out(X, y, np.ones(3), 2, pool)
        new = model.log_proba(np.concatenate([X, np.zeros_like(X), -X]))
        for result in (left_out, new):
            assert np.isfinite(result).all()
            assert_allclose(logsumexp(result, axis=1), 0, atol=1e-9)
        assert_allclose(left_out[0], np.log(1 / 2))  # the only one of its class


@pytest.mark.parametrize("n_pool", [0, 1, 50])
def test_sparse_rows_of_zeros(n_pool):
    X, pool = csr_matrix((4, 20)), csr_matrix(np.eye(50, 20))[:n_pool]
    model = GraphSpreading()
    assert np.isfinite(model.fit_left_out(X, np.array([0, 0, 1, 1]), np.ones(4), 2, pool)).all()
    assert_allclose(model.log_proba(X), np.log(1 / 2))


def test_rows_that_point_nowhere_have_no_neighbours(problem):
    X, y, w, pool = problem
    model = GraphSpreading()
    model.fit_left_out(X, y, w, 3, pool)
    assert_allclose(model.log_proba(model.mean_[None]), np.log([[1 / 3] * 3]))


def test_rounding_makes_no_edges():
    values = np.random.RandomState(0).uniform(size=60)
    X = csr_matrix((values, np.arange(60), np.arange(0, 61, 3)))  # rows share no column
    y, nothing = np.arange(20) % 2, csr_matrix((0, 60))
    left_out = GraphSpreading().fit_left_out(X, y, np.ones(20), 2, nothing)
    assert_allclose(left_out, np.log(1 / 2))


def test_a_node_without_neighbours_can_be_the_neighbour_of_a_new_row():
    X = csr_matrix(np.eye(2, 3))
    model = GraphSpreading()
    model.fit_left_out(X, np.array([0, 1]), np.ones(2), 2, csr_matrix((0, 3)))
    new = model.log_proba(csr_matrix([[1.0, 0, 0.5], [0, 1, 0.5]]))
    assert (new.argmax(axis=1) == [0, 1]).all() and np.isfinite(new).all()


def test_classes_of_one_label_are_told_apart(problem):
    X, y, w, pool = problem
    one = np.array([0, 1, 3])
    model = GraphSpreading()
    assert_allclose(model.fit_left_out(X[one], y[one], w[one], 3, pool), np.log(1 / 3))
    assert (model.log_proba(X[one]).argmax(axis=1) == y[one]).all()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_unlabelled_moons_help(scaling):
    X, y = make_moons(600, noise=0.08, random_state=0)
    # Cosines see directions: the circle of centres makes them see positions.
    random = np.random.RandomState(0)
    X = np.cos(X @ random.normal(size=(2, 300)) * 2 + random.uniform(0, 2 * np.pi, size=300))
    gains = []
    for seed in range(5):
        order = np.random.RandomState(seed).permutation(600)
        some = np.concatenate([order[y[order] == c][:3] for c in (0, 1)])
        pool, test = np.array_split(np.setdiff1d(order, some), 2)
        model = GraphSpreading(scaling)
        model.fit_left_out(X[some], y[some], np.ones(6), 2, X[pool])
        nearest_mean = NearestCentroid().fit(X[some], y[some]).score(X[test], y[test])
        gains.append((model.log_proba(X[test]).argmax(axis=1) == y[test]).mean() - nearest_mean)
    assert np.mean(gains) > 0.05


def test_columns_of_many_labels_are_solved_in_blocks(problem, monkeypatch):
    X, y, w, pool = problem
    expected = GraphSpreading().fit_left_out(X, y, w, 3, pool)
    monkeypatch.setattr(graph, "_LABELS_AT_ONCE", 7)
    assert_allclose(GraphSpreading().fit_left_out(X, y, w, 3, pool), expected, atol=1e-4)
