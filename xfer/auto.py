"""AutoRepurposer: layers found, classifiers mixed, weighted by left-out predictions."""

from collections.abc import Collection, Mapping, Sequence
from inspect import signature
from typing import Any, Self, Unpack

import numpy as np
from scipy.sparse import csr_matrix, vstack
from sklearn.utils.validation import check_is_fitted

from xfer.features import LayerFeatures, NetworkOptions, look_up, stores_parameters
from xfer.meta.base import ClassPrior, ClassWeight
from xfer.meta.mixture import Explanation, MixtureClassifier, Score, SuspiciousLabel
from xfer.meta.words import WordWeights, count_words
from xfer.repurposers import Repurposer, call_meta_model, checked_labels
from xfer.sources.base import SourceModel
from xfer.sources.candidates import Candidates, candidate_layers
from xfer.sources.data import (
    Data,
    ExampleData,
    Examples,
    brings_batches,
    is_mxnet_iterator,
    is_tensor,
    open_data,
    take_first,
    to_numpy,
)
from xfer.sources.table import Features

__all__ = ["AutoRepurposer"]

_FEW = 8  # examples that show which layers give features
_WORDS = "words"
_OF_WORDS = 0.2  # prior share of the words
# Each layer further away from the last has this share of the weight of the one before it: the last
# tokens are trained to be compared, earlier ones are not.
_DECAY, _DECAY_OF_TOKENS = 0.7, 0.3
_TOKENS = ("masked_mean", "first_token")
_SHORTEST = 5  # words of a text; shorter rows of ids are something else


class AutoRepurposer(Repurposer):
    """A mixture of classifiers on all layers worth trying; nothing has to be chosen.

    Layers are found from the structure of the network. Where examples are texts, or ids of words,
    their words are one more layer. Each layer has several classifiers in closed form, of which
    left-out predictions of the labelled examples decide the weights: see
    :class:`xfer.meta.mixture.MixtureClassifier`. Unlabelled examples help most where labels are
    few.

    Parameters
    ----------
    feature_layer_names : str or list of str, optional
        The layers to use; by default, those that xfer finds.
    pooling : str or dict of str to str, optional
        How to reduce a layer's output, for all layers or by name. By default, maps are reduced by
        ``"mean+max"`` and tokens by ``"masked_mean"``.
    class_weight : "balanced" or dict, optional
        The weight of each class's examples; "balanced" gives all classes the same total weight.
    class_prior : "balanced" or dict, optional
        The shares of the classes among new examples, if they differ from those in training.
    source_model, cache, context_function, num_devices, progress
        See :class:`xfer.MetaModelRepurposer`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    score_estimate_ : xfer.meta.mixture.Score
        Accuracy and log loss to expect on new examples, from left-out predictions of the labelled
        ones.
    features_, meta_model_
        See :class:`xfer.Repurposer`.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> images, digits = images[digits >= 5], digits[digits >= 5]
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> auto = xfer.AutoRepurposer(source).fit(images[:50], digits[:50], unlabelled=images[50:])
    >>> auto.predict(images[50:55])
    array([6, 7, 5, 7, 8])
    """

    features_: LayerFeatures
    meta_model_: MixtureClassifier

    @stores_parameters(LayerFeatures)
    def __init__(
        self,
        source_model: Any,
        feature_layer_names: str | Sequence[str] | None = None,
        *,
        pooling: str | Mapping[str, str] | None = None,
        class_weight: ClassWeight = None,
        class_prior: ClassPrior = None,
        **options: Unpack[NetworkOptions],
    ) -> None: ...

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, unlabelled: Any = None) -> Self:
        """Learn the new task.

        Parameters
        ----------
        X, y, sample_weight
            See :meth:`xfer.MetaModelRepurposer.fit`.
        unlabelled : data of the same kind as X, optional
            Examples without labels. They may be those that are predicted later, but need not be.

        Raises
        ------
        TypeError, ValueError
            If the network, a layer, the data or the labels cannot be used; nothing is changed.
        """
        weights = to_numpy(sample_weight) if is_tensor(sample_weight) else sample_weight
        if weights is not None and brings_batches(X):
            raise ValueError("sample_weight needs X and y as arrays, not an iterator")
        data = open_data(X, y, checked_labels)
        model = self._meta_model().check_parameters()
        if data.labels is not None:
            model.check_weights(data.labels, weights)
        source = self._open_source()
        found = self._candidates(source, data)
        features = self._layer_features(source, found.pooling).fit(data)
        table, counts = _extract(features, data)
        assert table.labels is not None
        features.note_fit_data(table.shapes, table.ranges)
        pool, pool_counts, words = None, None, None
        if unlabelled is not None and not _is_empty(unlabelled):
            pool, pool_counts = _extract(features, open_data(unlabelled))
        if counts is not None:
            words = WordWeights().fit(counts if pool is None else vstack([counts, pool_counts]))
        model.shares = self._shares(found, words)
        given = None if pool is None else _blocks(pool, words, pool_counts)
        model.fit(_blocks(table, words, counts), table.labels, weights, unlabelled=given)
        self.words_ = words
        return self._set_fitted(features, model)

    def repurpose(self, train_iterator: Any, unlabelled: Any = None) -> Self:
        """Learn the new task from an iterable of batches with labels; see :meth:`fit`.

        Labels that ``unlabelled`` brings are not looked at.
        """
        return self.fit(train_iterator, unlabelled=unlabelled)

    @property
    def score_estimate_(self) -> Score:
        """Accuracy and log loss to expect on new examples."""
        check_is_fitted(self)
        return self.meta_model_.score_estimate_

    def explain(self) -> Explanation:
        """Return the weight and the left-out scores of each classifier of each layer.

        ``print`` shows a table, and :func:`xfer.plots.explanation` draws it.
        """
        check_is_fitted(self)
        return self.meta_model_.explain()

    def suspicious_labels(self) -> list[SuspiciousLabel]:
        """Return the labelled examples whose label is unlikely when left out, the worst first.

        Listed are those whose label has less than a twentieth of the likeliest label's probability.
        """
        check_is_fitted(self)
        return self.meta_model_.suspicious_labels()

    def predict_set(self, X: Any, coverage: float = 0.9) -> np.ndarray:
        """Return which labels may be right: bool, of shape (n, n_classes), like ``classes_``.

        The right label of a new example is in its set with probability ``coverage``, as left-out
        examples tell. A set may be empty, where no label is likely enough, and holds all labels if
        there are too few examples to promise the coverage.
        """
        return call_meta_model(self, "predict_set", X, coverage=coverage)

    def novelty(self, X: Any) -> np.ndarray:
        """Return how unlike the labelled examples of every class each example is, of shape (n,)."""
        return call_meta_model(self, "novelty", X)

    def is_novel(self, X: Any, false_alarms: float = 0.05) -> np.ndarray:
        """Return which examples belong to no known class: bool, of shape (n,).

        ``false_alarms`` is the share of new examples of known classes that are called novel. With n
        labelled examples it must be at least 1 / (n + 1): below that, none is called novel.
        """
        return call_meta_model(self, "is_novel", X, false_alarms=false_alarms)

    def next_to_label(self, pool: Any, n: int) -> np.ndarray:
        """Return indices of ``n`` examples of a pool to label next, the most useful first.

        Copies and labelled examples are never chosen, so there may be fewer than ``n``.
        """
        return call_meta_model(self, "next_to_label", pool, n=n)

    def _meta_model(self) -> MixtureClassifier:
        return MixtureClassifier(class_weight=self.class_weight, class_prior=self.class_prior)

    def _layer_features(self, source: Any, pooling: Mapping[str, str]) -> LayerFeatures:
        given = {name: getattr(self, name) for name in signature(LayerFeatures).parameters}
        changed = {"source_model": source, "feature_layer_names": [*pooling], "pooling": pooling}
        return LayerFeatures(**{**given, **changed})

    def _candidates(self, source: Any, data: Data) -> Candidates:
        """Return the layers to use with their poolings, and the most important one."""
        names = self.feature_layer_names
        given = None if names is None else [layer.name for layer in look_up(source, names)]
        found = candidate_layers(source, _few(data), given)
        if self.pooling is None:
            return found
        if isinstance(self.pooling, str):
            return found._replace(pooling=dict.fromkeys(found.pooling, self.pooling))
        return found._replace(pooling={**found.pooling, **self.pooling})

    def _shares(self, found: Candidates, words: WordWeights | None) -> dict[str, float]:
        """Return the prior shares of the layers and the words; layers given by name are equal."""
        names = [*found.pooling]
        last = names.index(found.last)
        decay = _DECAY_OF_TOKENS if found.pooling[names[0]] in _TOKENS else _DECAY
        decay = decay if self.feature_layer_names is None else 1.0
        weights = [decay ** abs(index - last) for index in range(len(names))]
        rest = 1.0 if words is None else 1 - _OF_WORDS
        shares = {name: rest * one / sum(weights) for name, one in zip(names, weights)}
        return shares if words is None else {**shares, _WORDS: _OF_WORDS}

    def _learned(self) -> dict[str, Any]:
        pooling = dict(zip(self.features_.feature_layer_names, self.features_.poolings_))
        return {**super()._learned(), "pooling": pooling, "words": self.words_}

    def _restore(self, source: Any, layer_names: list[str], learned: dict) -> Self:
        features = self._layer_features(source, learned["pooling"]).fit()
        features.fit_data_ = learned["fit_data"]
        self.source_model, self.words_ = source, learned["words"]
        return self._set_fitted(features, learned["meta_model"])

    def _read(self, X: Any) -> tuple[Any, np.ndarray | None]:
        table, counts = _extract(self.features_, X)
        return _blocks(table, self.words_, counts), table.labels


def _extract(features: LayerFeatures, X: Any) -> tuple[Features, csr_matrix | None]:
    """Return the features of data, and the counts of their words, if there are words."""
    counts: list[csr_matrix | None] = []
    of_ids = getattr(features.source_, "_id_inputs", frozenset[str])()

    def count(examples: Examples) -> None:
        documents = _documents(examples, of_ids)
        counts.append(None if documents is None else count_words(documents))

    # Your own source need not know how to be watched.
    watch = count if isinstance(features.source_, SourceModel) else None
    table = features.extract(X, watch)
    found = [one for one in counts if one is not None]
    return table, vstack(found, format="csr") if found and len(found) == len(counts) else None


def _documents(examples: Examples, of_ids: Collection[str]) -> Any:
    """Return the texts of a batch, or its ids of words; None if there are none."""
    if isinstance(examples, list):
        return examples if all(isinstance(one, str) for one in examples) else None
    found = [examples[name] for name in of_ids if name in examples]
    is_text = len(found) == 1 and found[0].ndim == 2 and found[0].shape[1] >= _SHORTEST
    return found[0] if is_text else None


def _blocks(table: Features, words: WordWeights | None, counts: csr_matrix | None) -> dict:
    blocks: dict[str, Any] = {name: table.matrix[:, part] for name, part in table.columns.items()}
    if words is not None:
        if counts is None:
            raise ValueError("the fit had texts, or ids of words, and these data have none")
        blocks[_WORDS] = words.transform(counts)
    return blocks


def _few(data: Data) -> Any:
    """Return a few of the examples; None where reading them would use them up."""
    if isinstance(data, ExampleData):
        return take_first(data.given, _FEW)
    if is_mxnet_iterator(data.given) or iter(data.given) is data.given:
        return None
    return [next(iter(data.given))]


def _is_empty(data: Any) -> bool:
    return hasattr(data, "__len__") and not isinstance(data, Mapping) and not len(data)
