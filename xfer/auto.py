"""AutoRepurposer: a weighted mixture of classifiers on layers that are found automatically."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Self, Unpack

import numpy as np
from scipy.sparse import csr_matrix, vstack
from sklearn.utils.validation import check_is_fitted

from xfer.features import LayerFeatures, NetworkOptions, look_up, stores_parameters
from xfer.inputs import ImageInputs
from xfer.meta.base import ClassPrior, ClassWeight
from xfer.meta.mixture import Explanation, MixtureClassifier, Score, SuspiciousLabel
from xfer.meta.words import WordWeights, count_words
from xfer.repurposers import Repurposer, call_meta_model, checked_labels, layer_features
from xfer.sources.base import SourceModel
from xfer.sources.candidates import Candidates, candidate_layers
from xfer.sources.data import (
    Data,
    Examples,
    brings_batches,
    first_examples,
    is_tensor,
    open_data,
    to_numpy,
)
from xfer.sources.table import Features
from xfer.tables import is_picture

__all__ = ["AutoRepurposer"]

_WORDS = "words"
_OF_WORDS = 0.2  # prior share of the words
# Each layer further away from the last has this share of the weight of the one before it: the last
# tokens are trained to be compared, earlier ones are not.
_DECAY, _DECAY_OF_TOKENS = 0.7, 0.3
_TOKENS = ("masked_mean", "first_token")
_SHORTEST = 5  # words of a text; shorter rows of ids are something else


class AutoRepurposer(Repurposer):
    """A mixture of classifiers on all layers worth trying; you choose neither.

    Layers are found from the structure of the network. If examples are texts or word ids, word
    counts are one more layer. Each layer gets several classifiers, weighted by their left-out
    predictions of the labelled examples: see :class:`xfer.meta.MixtureClassifier`.
    Unlabelled examples help most if labels are few.

    Parameters
    ----------
    source_model : network, str or path-like
        What :func:`xfer.open_source` takes: a PyTorch module, a SentenceTransformer, an MXNet
        Module, an ONNX file, an open source. It is not changed.
    feature_layer_names : str or list of str, optional
        The layers to use; by default, those that xfer finds: ``features_.feature_layer_names``.
    pooling : str or dict of str to str, optional
        How to reduce a layer's output, for all layers or by name. By default, maps are reduced by
        ``"mean+max"`` and tokens by ``"masked_mean"``.
    class_weight : "balanced" or dict, optional
        The weight of each class's examples; "balanced" gives all classes the same total weight.
    class_prior : "balanced" or dict, optional
        The shares of the classes among new examples, if they differ from those in training.
    cache : str, path-like or xfer.FeatureCache, optional
        A file that keeps features, so that each is computed once.
    context_function, num_devices : callable, int, default=None, 1
        Only for MXNet Modules: see :class:`xfer.MetaModelRepurposer`.
    progress : bool, optional
        Whether to show a progress bar; by default only in an interactive session.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted. Columns of probabilities follow it.
    score_estimate_ : xfer.meta.mixture.Score
        Estimated accuracy and log loss on new examples, from left-out predictions. It holds if the
        labelled examples are a random sample of those to come, and is NaN if every class has one.
    features_ : LayerFeatures
        Turns data into features; ``features_.feature_layer_names`` are the layers.
    meta_model_ : MixtureClassifier
        Classifies the features.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> images, digits = images[digits >= 5], digits[digits >= 5]
    >>> network = xfer.example.network()  # a torch.nn.Module that has learned the digits 0 to 4
    >>> few, others = slice(None, None, 18), slice(1, None, 18)
    >>> auto = xfer.AutoRepurposer(network).fit(images[few], digits[few], unlabelled=images)
    >>> bool(auto.score(images[others], digits[others]) > 0.8)
    True
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

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, unlabelled: Any = None
    ) -> Self:
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
        features = layer_features(
            self, source_model=source, feature_layer_names=[*found.pooling], pooling=found.pooling
        ).fit(data)
        table, counts = _extract(features, data, features.extract_for_fit)
        assert table.labels is not None
        pool, pool_counts, words = None, None, None
        if unlabelled is not None and not _is_empty(unlabelled):
            try:
                pool, pool_counts = _extract(features, open_data(unlabelled))
            except (TypeError, ValueError) as error:
                error.add_note("The error is in the unlabelled examples.")
                raise
        if counts is not None:
            seen = [one.matrix for one in (counts, pool_counts) if one is not None]
            words = WordWeights().fit(vstack(seen, format="csr"))
            words.of_ = counts.of
        model.shares = self._shares(found, words)
        given = None if pool is None else _blocks(pool, words, pool_counts)
        model.fit(_blocks(table, words, counts), table.labels, weights, unlabelled=given)
        self.words_ = words
        return self._set_fitted(features, model)

    def repurpose(self, train_iterator: Any, unlabelled: Any = None) -> Self:
        """Learn the new task from an iterable of batches with labels; see :meth:`fit`.

        Labels in ``unlabelled`` are ignored.
        """
        return self.fit(train_iterator, unlabelled=unlabelled)

    @property
    def score_estimate_(self) -> Score:
        """Estimated accuracy and log loss on new examples."""
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
        """Return a set of plausible labels for each example.

        Parameters
        ----------
        X : array, dict of str to array, list, or an iterable of batches
        coverage : float, default=0.9
            Probability with which the set of a new example holds the right label, estimated from
            left-out predictions. With n labels, it can be at most n / (n + 1): above that, sets
            hold all labels.

        Returns
        -------
        ndarray of bool, of shape (n, n_classes)
            Columns follow ``classes_``. A set is empty if no label is likely enough.
        """
        return call_meta_model(self, "predict_set", X, coverage=coverage)

    def next_to_label(self, pool: Any, n: int) -> np.ndarray:
        """Choose which examples of a pool to label next.

        Parameters
        ----------
        pool : array, dict of str to array, list, or an iterable of batches
        n : int

        Returns
        -------
        ndarray of int
            Indices of up to ``n`` examples, the most useful first. Copies and labelled examples are
            skipped.
        """
        return call_meta_model(self, "next_to_label", pool, n=n)

    def _meta_model(self) -> MixtureClassifier:
        return MixtureClassifier(class_weight=self.class_weight, class_prior=self.class_prior)

    def _candidates(self, source: Any, data: Data) -> Candidates:
        """Return the layers to use with their poolings, and the most important one."""
        names = self.feature_layer_names
        given = None if names is None else [layer.name for layer in look_up(source, names)]
        found = candidate_layers(source, first_examples(data), given)
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
        return {**super()._learned(), "words": self.words_}

    def _restore(self, source: Any, layer_names: list[str], learned: dict) -> Self:
        self.words_ = learned["words"]
        return super()._restore(source, layer_names, learned)

    def _read(self, X: Any) -> tuple[Any, np.ndarray | None]:
        table, counts = _extract(self.features_, X)
        return _blocks(table, self.words_, counts), table.labels


class _Counts(NamedTuple):
    """Counts of words, (n, n_words), and whether they were counted in texts or in ids of words."""

    matrix: csr_matrix
    of: str


def _extract(
    features: LayerFeatures, X: Any, extract: Callable[..., Features] | None = None
) -> tuple[Features, _Counts | None]:
    """Return the features of data, and the counts of their words, if there are words."""
    found: list[_Counts | None] = []
    are_read = isinstance(getattr(features.source_, "inputs", None), ImageInputs)

    def are_pictures(examples: Examples) -> bool:
        # The words of paths are no features: the name of a folder may be the label.
        is_list = isinstance(examples, list)
        return is_list and (are_read or all(isinstance(n, str) and is_picture(n) for n in examples))

    of_ids = getattr(features.source_, "_id_inputs", frozenset[str])()

    def count(examples: Examples) -> None:
        documents, of = (None, "") if are_pictures(examples) else _documents(examples, of_ids)
        found.append(None if documents is None else _Counts(count_words(documents), of))

    # Your own source need not know how to be watched.
    watch = count if isinstance(features.source_, SourceModel) else None
    table = (extract or features.extract)(X, watch)
    counted = [one for one in found if one is not None]
    if not counted or len(counted) < len(found):
        return table, None
    return table, _Counts(vstack([one.matrix for one in counted], format="csr"), counted[0].of)


def _documents(examples: Examples, of_ids: Collection[str]) -> tuple[Any, str]:
    """Return the texts of a batch, or its ids of words; None if there are none."""
    if isinstance(examples, list):
        return (examples if all(isinstance(one, str) for one in examples) else None), "texts"
    found = [examples[name] for name in of_ids if name in examples]
    is_text = len(found) == 1 and found[0].ndim == 2 and found[0].shape[1] >= _SHORTEST
    return (found[0] if is_text else None), "ids of words"


def _blocks(table: Features, words: WordWeights | None, counts: _Counts | None) -> dict:
    blocks: dict[str, Any] = {name: table.matrix[:, part] for name, part in table.columns.items()}
    if words is not None:
        given = "no words" if counts is None else counts.of
        if counts is None or given != words.of_:
            raise ValueError(f"the fit had {words.of_}, and these data have {given}")
        blocks[_WORDS] = words.transform(counts.matrix)
    return blocks


def _is_empty(data: Any) -> bool:
    return hasattr(data, "__len__") and not isinstance(data, Mapping) and not len(data)
