"""Label spreading: labels travel between neighbours, by way of unlabelled examples.

Rows that occur more than once are one node of the graph: copies do not take the places of other
neighbours, and a label is left out together with the labels of its copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.sparse import csr_array, issparse, vstack
from scipy.special import log_softmax
from sklearn.base import BaseEstimator
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import gen_batches
from sklearn.utils.extmath import row_norms

from xfer.meta.base import distinct_rows
from xfer.meta.calibrated import fit_inverse_temperature
from xfer.meta.whitening import (
    PartialWhitening,
    column_means,
    signed_root,
    takes_root,
    unit_rows,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    Features: TypeAlias = np.ndarray | csr_matrix

_NEIGHBOURS = 10
_POWER = 3  # of the cosine, which gives the weight of an edge
_ALPHA = 0.9  # how much of a node's score comes from its neighbours
_FLOOR = 0.01  # added to scores, as a fraction of their mean over all nodes
_AXES_POWER = -0.22  # of the variance of whitened axes; of axes before whitening, it is about -0.3
_ITERATIONS = 25  # leave errors below 1e-6 of a label
_ROUNDING = 1e-6  # of cosines; nodes are in single precision
_LABELS_AT_ONCE = 64


class GraphSpreading(BaseEstimator):
    """Label spreading on a graph of labelled and unlabelled examples (Zhou et al. 2004).

    Each example has edges to its 10 nearest neighbours by cosine. ``scaling`` says of what: "unit",
    features minus their mean; or "whitened", their principal axes, scaled by about the variance **
    -0.3. If no feature is negative, square roots are taken first. Sparse features, for "unit" only,
    stay sparse and are not centred.
    """

    def __init__(self, scaling: str = "unit") -> None:
        self.scaling = scaling

    def fit_left_out(
        self, X: Features, y: np.ndarray, w: np.ndarray, n_classes: int, pool: Features
    ) -> np.ndarray:
        """Fit, and return log probabilities (n, n_classes) by models without the example's label.

        ``X`` (n, d) has class indices ``y`` and weights ``w``; ``pool`` (m, d) has no labels.
        Copies of an example lose their labels with it. If its class then has no label left, it
        could only be got wrong: its probabilities are equal, and it does not count for the
        temperature.
        """
        rows = vstack([X, pool], format="csr") if issparse(X) else np.concatenate([X, pool])
        first, node = distinct_rows(rows)
        node = node[: len(y)]
        self._fit_scaling(rows[first])
        nodes = self._unit_vectors(rows[first])
        self.nodes_ = pack(nodes)
        # Nodes are in the order of their first rows: the labelled ones come before the others.
        labels = np.zeros((node.max() + 1, n_classes))
        np.add.at(labels, (node, y), w)
        edges = _edges(nodes)
        edges = csr_array(edges + edges.T)
        self.degrees_ = edges.sum(axis=1)
        scores, left_out = _spread(_normalized(edges, self.degrees_, self.degrees_), labels)
        # Classes get equal shares, whatever their number of labels.
        totals = labels.sum(axis=0)
        alone = (labels > 0) & (np.count_nonzero(labels, axis=0) == 1)
        left_out /= np.where(alone, 1, totals - labels)
        self.scores_ = (scores / totals).astype(np.float32)
        self.floor_ = _FLOOR / len(first)
        log_scores = np.log(left_out[node] + self.floor_)
        alone = alone[node, y]
        log_scores[alone] = 0
        self.inverse_temperature_ = fit_inverse_temperature(
            log_scores[~alone], y[~alone], w[~alone], expected_logarithm=0.0
        )
        return log_softmax(self.inverse_temperature_ * log_scores, axis=1)

    def log_proba(self, X: Features) -> np.ndarray:
        """Return log probabilities (m, n_classes) of new examples: unlabelled nodes, one by one."""
        edges = _edges(unpack(self.nodes_), self._unit_vectors(X))
        scores = _ALPHA * _normalized(edges, edges.sum(axis=1), self.degrees_) @ self.scores_
        return log_softmax(self.inverse_temperature_ * np.log(scores + self.floor_), axis=1)

    def _fit_scaling(self, rows: Features) -> None:
        self.mean_ = self.whitening_ = self.axes_ = None
        self.square_root_ = False
        if self.scaling == "whitened":
            self.whitening_ = PartialWhitening()
            variance = self.whitening_.fit_transform(rows).var(axis=0)
            n, d = rows.shape
            # Shrunk as in the whitening, whose variances sum to 1.
            self.axes_ = ((n * variance + 1) / (n + d)) ** _AXES_POWER
        elif not issparse(rows):
            self.square_root_ = takes_root(rows)
            roots = signed_root(rows) if self.square_root_ else rows
            self.mean_ = column_means(roots, np.ones(len(rows)))

    def _unit_vectors(self, X: Features) -> Features:
        if self.whitening_ is not None:
            X = self.whitening_.transform(X) * self.axes_
        elif self.mean_ is not None:
            X = (signed_root(X) if self.square_root_ else X) - self.mean_
        return unit_rows(X).astype(np.float32)


def pack(rows: Any) -> Any:
    """Turn a sparse matrix into plain arrays, which a file can hold; others stay as they are."""
    return [rows.data, rows.indices, rows.indptr, rows.shape] if issparse(rows) else rows


def unpack(rows: np.ndarray | list) -> Features:
    """Undo :func:`pack`; indices out of range, as in a forged file, are an error."""
    if not isinstance(rows, list):
        return rows
    matrix = csr_array(tuple(rows[:3]), shape=tuple(rows[3]))
    matrix.check_format(full_check=True)
    return matrix


def _edges(nodes: Features, new: Features | None = None) -> csr_array:
    """Return the weights of edges from new rows, or from each node, to the nearest (other) nodes.

    Rows have norm 1, or 0.
    """
    available = nodes.shape[0] - (new is None)
    if not available:
        return csr_array((1, 1))
    neighbours = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, available), algorithm="brute")
    # Not metric="cosine", which takes more than twice as long.
    found = neighbours.fit(nodes).kneighbors_graph(new, mode="distance")
    edges = csr_array(found, dtype=np.float64)
    from_norms = row_norms(nodes if new is None else new, squared=True)
    norms = (
        np.repeat(from_norms, np.diff(edges.indptr)) + row_norms(nodes, squared=True)[edges.indices]
    )
    cosines = (norms - edges.data**2) / 2
    edges.data = np.where(cosines > _ROUNDING, cosines, 0) ** _POWER
    return edges


def _normalized(edges: csr_array, of_rows: np.ndarray, of_columns: np.ndarray) -> csr_array:
    """Divide each edge by the roots of the degrees of its ends."""
    # A node without neighbours has degree 0 until a new row has an edge to it.
    to_degrees = np.maximum(of_columns[edges.indices], edges.data)
    from_degrees = np.repeat(of_rows, np.diff(edges.indptr))
    roots = np.sqrt(np.where(edges.data > 0, from_degrees * to_degrees, 1))
    return csr_array((edges.data / roots, edges.indices, edges.indptr), shape=edges.shape)


def _spread(S: csr_array, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of all nodes, and of labelled ones without their own labels.

    Labels are those of the first nodes. The scores are M = 0.1 inv(I - 0.9 S) times the labels;
    without the label of node i, those of node i lack the term of M[i, i].
    """
    n, S = len(labels), S.astype(np.float32)
    scores, left_out = np.zeros((S.shape[0], labels.shape[1])), np.empty_like(labels)
    for some in gen_batches(n, _LABELS_AT_ONCE):
        columns = np.arange(n)[some]
        M = _spread_each(S, columns)
        scores += M @ labels[some]
        M[columns, columns - some.start] = 0
        left_out[some] = M[:n].T @ labels
    return scores, left_out


def _spread_each(S: csr_array, nodes: np.ndarray) -> np.ndarray:
    """Return columns of M, by Chebyshev's iteration (Golub and Varga 1961): S is within [-1, 1]."""
    alpha = np.float32(_ALPHA)
    target = np.zeros((S.shape[0], len(nodes)), dtype=np.float32)
    target[nodes, np.arange(len(nodes))] = 1 - alpha
    before, M, omega = np.zeros_like(target), target, np.float32(2)
    for _ in range(_ITERATIONS):
        omega = 1 / (1 - alpha**2 * omega / 4)
        after = S @ M
        after *= alpha
        after += target
        after -= before
        after *= omega
        after += before
        before, M = M, after
    return np.maximum(M, 0)
