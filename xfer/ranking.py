"""Ranks layers by how well their features separate the classes, without training a classifier."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import ArrayLike
from sklearn.utils import check_consistent_length

from xfer._html import Rows
from xfer.features import look_up
from xfer.meta.transferability import h_score, logme
from xfer.sources import open_source
from xfer.sources.candidates import candidate_layers
from xfer.sources.data import first_examples, open_data

__all__ = ["LayerRanking", "LayerScore", "rank_layers"]


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
    """Layers by descending LogME: a list of :class:`xfer.ranking.LayerScore`.

    ``print`` shows it as a table, ``pandas.DataFrame(ranking)`` makes a data frame of it, and
    :func:`xfer.plots.layer_ranking` draws it.
    """

    _title = "layers by LogME"


def rank_layers(
    source: Any,
    X: Any,
    y: ArrayLike,
    layers: Mapping[str, str] | Sequence[str] | None = None,
) -> LayerRanking:
    """Rank layers of a frozen network for a task, in one pass and without training a classifier.

    The order is that of LogME, which found better layers than the H-score on eight tasks with 2, 5
    and 20 labels per class. Both scores are of the labelled examples themselves: they compare
    layers, and say nothing of the accuracy to expect. With two labels per class, both are often
    wrong; the H-score also if there are more features than examples.

    Parameters
    ----------
    source : network, str, path-like or SourceModel
        What :func:`xfer.open_source` takes.
    X : array, dict of arrays, or list
        The labelled examples.
    y : array-like of shape (n_samples,)
        Their labels, of at least two classes.
    layers : list of str, or dict of str to str, optional
        Layers, or layers and the pooling of each; by default, those that xfer finds worth trying:
        ends of blocks, the last pooled layer, and the class scores.

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
    ['pool2', 'pool3', 'relu3', 'fc1', 'pool1']
    """
    source = open_source(source)
    if isinstance(layers, Mapping):
        pooling = dict(layers)
    else:
        names = None if layers is None else [layer.name for layer in look_up(source, layers)]
        pooling = candidate_layers(source, first_examples(open_data(X)), names).pooling
    features = source.extract(X, list(pooling), pooling=pooling)
    check_consistent_length(features.matrix, y)
    rows = []
    for name, columns in features.columns.items():
        matrix = features.matrix[:, columns]
        scores = h_score(matrix, y), logme(matrix, y)
        rows.append(LayerScore(name, pooling[name], matrix.shape[1], *scores))
    return LayerRanking(sorted(rows, key=lambda row: -row.logme))
