"""Which examples of a pool to label next."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from xfer.meta.base import distinct_rows

_NEIGHBOURS = 20
_ENOUGH = 50  # labels from which on doubt tells more than typicality
_MOST_CLUSTERS = 200


def next_to_label(
    labelled: np.ndarray,
    pool: np.ndarray,
    n: int,
    probabilities: np.ndarray | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """Return indices of `n` rows of a pool to label next, the most useful first.

    With fewer than 50 labelled rows these are typical rows, then those whose two likeliest classes
    have the closest ``probabilities``, of shape (len(pool), n_classes). Of equal rows one is
    chosen, and none that is labelled already, so there may be fewer than `n`.
    """
    distinct = _new_rows(labelled, pool)
    if probabilities is None or len(labelled) < _ENOUGH:
        return distinct[typical_rows(labelled, pool[distinct], n, random_state)]
    likeliest = np.sort(probabilities[distinct], axis=1)[:, -2:]
    return distinct[np.argsort(likeliest[:, 1] - likeliest[:, 0], kind="stable")[:n]]


def typical_rows(
    labelled: np.ndarray, pool: np.ndarray, n: int, random_state: int = 0
) -> np.ndarray:
    """Return indices of up to `n` typical rows of a pool of distinct rows, each of another cluster.

    All rows are split into as many clusters as will be labelled. In turn, the largest of those with
    the fewest labels gives its row of highest density, the inverse mean distance to 20 neighbours
    in the cluster (Hacohen, Dekel and Weinshall 2022, Active Learning on a Budget: Opposite
    Strategies Suit High and Low Budgets, section 3.2).
    """
    n = min(n, len(pool))
    if not n:
        return np.empty(0, dtype=int)
    rows = np.concatenate([labelled.reshape(-1, pool.shape[1]), pool])
    n_clusters = min(len(labelled) + n, max(n, _MOST_CLUSTERS))
    model = KMeans(n_clusters, n_init=1, max_iter=20, random_state=random_state)
    cluster = model.fit_predict(rows)
    labels = np.bincount(cluster[: len(labelled)], minlength=n_clusters)
    cluster = cluster[len(labelled) :]
    sizes = np.bincount(cluster, minlength=n_clusters)
    by_density: dict[int, list[int]] = {}
    chosen: list[int] = []
    while len(chosen) < n:
        left = sizes > 0
        best = min(np.flatnonzero(left), key=lambda c: (labels[c], -sizes[c]))
        if best not in by_density:
            members = np.flatnonzero(cluster == best)
            by_density[best] = members[_by_density(pool[members])].tolist()
        chosen.append(by_density[best].pop(0))
        labels[best] += 1
        if not by_density[best]:
            sizes[best] = 0
    return np.array(chosen)


def _by_density(X: np.ndarray) -> np.ndarray:
    """Return the order of rows by density, the densest first."""
    if len(X) == 1:
        return np.zeros(1, dtype=int)
    neighbours = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(X) - 1)).fit(X)
    return np.argsort(neighbours.kneighbors()[0].mean(axis=1), kind="stable")


def _new_rows(labelled: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Return indices of the distinct rows of a pool that are not labelled, in order."""
    first, _ = distinct_rows(np.concatenate([labelled.reshape(-1, pool.shape[1]), pool]))
    return first[first >= len(labelled)] - len(labelled)
