"""Sparse matrices, such as those of word counts beside the features of a network."""

from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data


class TakesSparse(BaseEstimator):
    """An estimator that takes sparse matrices, and computes with dense ones."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _validated(self, X, *y, **options):
        """Validate as scikit-learn does; return X dense, with y if there is one."""
        found = validate_data(self, X, *y, accept_sparse="csr", **options)
        X, *y = found if y else (found,)
        X = X.toarray() if issparse(X) else X
        return (X, *y) if y else X
