"""Words as features: weighted counts of the words of texts, or of the ids of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

_COUNTS = HashingVectorizer(n_features=1 << 20, norm=None, alternate_sign=False)
# A word of more documents says little, and where short texts are padded the padding is one.
_MOST = 0.9
_MANY = 10  # documents that are enough to tell


class WordWeights(TransformerMixin, BaseEstimator):
    """Weights words by how rare they are (TF-IDF), on counts of :func:`count_words`.

    Words that occur in more than nine tenths of the documents are left out, and those of new
    documents only.
    """

    def fit(self, X: csr_matrix, y: Any = None) -> Self:
        """Learn from counts of shape (n, n_words) how rare each word is."""
        documents = np.bincount(X.indices, minlength=X.shape[1])
        most = _MOST * X.shape[0] if X.shape[0] >= _MANY else np.inf
        self.columns_ = np.flatnonzero((documents > 0) & (documents <= most))
        if not len(self.columns_):
            self.columns_ = np.flatnonzero(documents)
        self.tfidf_ = TfidfTransformer(sublinear_tf=True).fit(X[:, self.columns_])
        return self

    def transform(self, X: csr_matrix) -> csr_matrix:
        """Return weights of shape (m, n_kept_words), of which each row has length 1."""
        return self.tfidf_.transform(X[:, self.columns_])


def count_words(documents: Sequence[str] | np.ndarray) -> csr_matrix:
    """Count the words of texts, or those of word ids of shape (n, length), by columns up to 2**20.

    Words of texts are hashed, so that nothing has to be learned of texts that are read later.
    """
    if not isinstance(documents, np.ndarray):
        return _COUNTS.transform(documents)
    ids = documents.astype(np.int64)
    rows = np.repeat(np.arange(len(ids)), ids.shape[1])
    shape = len(ids), _COUNTS.n_features
    counts = csr_matrix((np.ones(ids.size), (rows, ids.ravel() % shape[1])), shape=shape)
    counts.sum_duplicates()
    return counts
