"""Ranks layers by how well their features separate the classes, without training a classifier."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import ArrayLike
from sklearn.utils import check_consistent_length

from xfer._html import Rows
from xfer.meta.transferability import h_score, logme
from xfer.sources import open_source
from xfer.sources.candidates import candidate_layers
from xfer.sources.data import take_first

__all__ = ["LayerRanking", "LayerScore", "rank_layers"]

# So many examples show which layers give features.
_FEW = 8


class LayerScore(NamedTuple):
    """One row of a :class:`xfer.ranking.LayerRanking`.

    Parameters
    ----------
    layer : str
        Name of the layer.
    pooling : str
        How its output was reduced.
    n_features : int
        Number of columns after pooling.
    h_score : float
        See :func:`xfer.meta.h_score`; higher is better.
    logme : float
        See :func:`xfer.meta.logme`, in nats per example; higher is better.
    """

    layer: str
    pooling: str
    n_features: int
    h_score: float
    logme: float


class LayerRanking(Rows[LayerScore]):
    """Layers by falling H-score: a list of :class:`xfer.ranking.LayerScore`.

    ``print`` shows it as a table, ``pandas.DataFrame(ranking)`` makes a data frame of it, and
    :func:`xfer.plots.layer_ranking` draws it.
    """

    _title = "layers by H-score"


def rank_layers(
    source: Any,
    X: Any,
    y: ArrayLike,
    layers: Mapping[str, str] | None = None,
) -> LayerRanking:
    """Rank layers of a frozen network for a task, in one pass and without training a classifier.

    The order is that of the H-score. Both scores are of the labelled examples themselves: they
    compare layers, and say nothing of the accuracy to expect. With two labels per class, both are
    often wrong.

    Parameters
    ----------
    source : network, str, path-like or SourceModel
        What :func:`xfer.open_source` takes.
    X : array, dict of arrays, or list
        The labelled examples.
    y : array-like of shape (n_samples,)
        Their labels, of at least two classes.
    layers : dict of str to str, optional
        Layers and the pooling of each; by default, those that xfer finds worth trying: ends of
        blocks, the last pooled layer, and the class scores.

    Returns
    -------
    LayerRanking
        The best layer first.

    Raises
    ------
    ValueError
        If there are fewer than two classes, the lengths differ, or a layer gives no features.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> new = digits >= 5
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> ranking = rank_layers(source, images[new][:50], digits[new][:50])
    >>> [row.layer for row in ranking]
    ['relu3', 'pool2', 'pool3', 'pool1', 'fc1']
    """
    source = open_source(source)
    pooling = (
        candidate_layers(source, take_first(X, _FEW)).pooling if layers is None else dict(layers)
    )
    features = source.extract(X, list(pooling), pooling=pooling)
    check_consistent_length(features.matrix, y)
    rows = []
    for name, columns in features.columns.items():
        matrix = features.matrix[:, columns]
        scores = h_score(matrix, y), logme(matrix, y)
        rows.append(LayerScore(name, pooling[name], matrix.shape[1], *scores))
    return LayerRanking(sorted(rows, key=lambda row: -row.h_score))
