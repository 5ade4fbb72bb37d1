"""What to label next, where the answer is known."""

import numpy as np
from sklearn.datasets import make_blobs

from xfer.meta.next_to_label import next_to_label


def blobs(sizes=(60, 50, 40, 30), seed=0):
    return make_blobs(list(sizes), 8, cluster_std=0.5, random_state=seed, shuffle=False)


def test_the_largest_clusters_without_a_label_come_first():
    X, y = blobs()
    chosen = next_to_label(X[:0], X, 4)
    assert y[chosen].tolist() == [0, 1, 2, 3]
    chosen = next_to_label(X[[0, 100]], X, 2)  # of the largest and of the third
    assert set(y[chosen]) <= {0, 1, 2, 3} and {1, 3} <= set(y[next_to_label(X[[0, 111]], X, 2)])


def test_the_densest_row_of_a_cluster_is_chosen():
    X, _ = blobs((30, 15))
    chosen = next_to_label(X[:0], X, 2)
    for index, members in zip(chosen, (X[:30], X[30:])):
        distances = np.sort(np.linalg.norm(members[:, None] - members, axis=2), axis=1)
        densest = distances[:, 1:21].mean(axis=1).argmin()
        np.testing.assert_array_equal(X[index], members[densest])


def test_copies_and_labelled_rows_are_not_chosen():
    X, _ = blobs((6, 5))
    pool = np.concatenate([X, X, X])
    chosen = next_to_label(X[:3], pool, 100)
    assert len(chosen) == 8 and len(np.unique(pool[chosen], axis=0)) == 8
    assert not (pool[chosen][:, None] == X[:3]).all(axis=2).any()
    assert len(next_to_label(X, pool, 3)) == 0 and len(next_to_label(X, pool[:0], 3)) == 0


def test_with_fifty_labels_the_closest_decisions_come_first():
    X, _ = blobs()
    p = np.full((80, 3), 0.2)
    p[:, 0] = np.linspace(0.6, 0.2, 80)
    assert next_to_label(X[:60], X[100:], 3, p).tolist() == [79, 78, 77]
    few = next_to_label(X[:49], X[100:], 3, p)
    assert few.tolist() == next_to_label(X[:49], X[100:], 3).tolist()
