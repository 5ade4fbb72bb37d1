"""Words as features: weighted counts of the words of texts, or of the ids of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

# With few texts, how rare a word is does not tell which words say nothing.
_OPTIONS = {"stop_words": "english", "norm": None, "alternate_sign": False}
_COUNTS = HashingVectorizer(n_features=1 << 20, **_OPTIONS)


class WordWeights(TransformerMixin, BaseEstimator):
    """Weights words by how rare they are (TF-IDF), on counts of :func:`count_words`.

    A word that occurs t times in a document, and in m of the n documents of the fit, has the weight
    (1 + log t) log((n + 1) / (m + 1)). What is in all documents, such as padding, so has none. With
    words that the fit has not seen, which are left out, each document has length 1.
    """

    of_: str  # what the words are counted in

    def fit(self, X: csr_matrix, y: Any = None) -> Self:
        """Learn from counts of shape (n, n_words) how rare each word is."""
        documents = np.bincount(X.indices, minlength=X.shape[1])
        self.columns_ = np.flatnonzero(documents)
        # The last one is that of unseen words.
        self.rarity_ = np.log((X.shape[0] + 1) / (np.append(documents[self.columns_], 0) + 1))
        return self

    def transform(self, X: csr_matrix) -> csr_matrix:
        """Return weights of shape (m, n_known_words)."""
        # Unseen words count in the lengths: left-out documents, too, have words of their own.
        index = np.full(X.shape[1], len(self.columns_))
        index[self.columns_] = np.arange(len(self.columns_))
        weights = X.astype(np.float64)
        weights.data = (1 + np.log(weights.data)) * self.rarity_[index[weights.indices]]
        return normalize(weights)[:, self.columns_]


def count_words(documents: Sequence[str] | np.ndarray) -> csr_matrix:
    """Count the words of texts, or those of word ids of shape (n, length), by columns up to 2**20.

    Words of texts are hashed, so that nothing has to be learned of texts that are read later.
    Common English words are left out.
    """
    if not isinstance(documents, np.ndarray):
        return _COUNTS.transform(documents)
    ids = documents.astype(np.int64)
    rows = np.repeat(np.arange(len(ids)), ids.shape[1])
    shape = len(ids), _COUNTS.n_features
    counts = csr_matrix((np.ones(ids.size), (rows, ids.ravel() % shape[1])), shape=shape)
    counts.sum_duplicates()
    return counts
