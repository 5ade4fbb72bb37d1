"""What the classifiers share: checks of data, whitening, folds, and the threads of small fits."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from scipy.sparse import sparray, spmatrix

    Matrix: TypeAlias = ArrayLike | sparray | spmatrix

_FOLDS = 5
# Entries of X up to which one BLAS thread is at least as fast as two: measured by
# benchmarks/meta_models.py --threads.
_SMALL = 1_000_000
_limit = threading.Lock()  # held while BLAS is limited to one thread
_threadpools = cache(ThreadpoolController)  # finding the BLAS libraries takes some 10 ms


class MetaClassifier(ClassifierMixin, BaseEstimator, ABC):
    """A classifier of dense or sparse features; sparse ones are made dense."""

    classes_: np.ndarray

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def check_parameters(self) -> Self:
        """Raise ValueError if a parameter is out of range; return self."""
        return self

    def fit(self, X: Matrix, y: ArrayLike) -> Self:
        """Fit to features of shape (n, d) and labels of any kind, at least two classes.

        A class with one example (or copies of one) takes no part in the calibration. A parameter
        out of range, features that are not finite and labels of one class raise ValueError.
        """
        self.check_parameters()
        matrix, labels = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
        check_classification_targets(labels)
        classes, indices = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y must have at least 2 classes, got one class: {classes.tolist()}")
        self.classes_ = classes
        matrix = matrix.toarray() if issparse(matrix) else matrix
        with small_fit_threads(*matrix.shape):
            self._fit(matrix, indices)
        return self

    def predict(self, X: Matrix) -> np.ndarray:
        """Predict the labels of X, of shape (m, d): members of ``classes_``, of shape (m,)."""
        scores = self._compute(self._class_scores, X)
        return self.classes_[scores.argmax(axis=1)]

    def predict_proba(self, X: Matrix) -> np.ndarray:
        """Predict probabilities of shape (m, n_classes), in the order of ``classes_``."""
        return self._compute(self._probabilities, X)

    @abstractmethod
    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        """Fit on checked features and class indices."""

    @abstractmethod
    def _probabilities(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities of shape (m, n_classes) for checked features."""

    def _class_scores(self, X: np.ndarray) -> np.ndarray:
        """Return scores of shape (m, n_classes), the largest at the predicted class."""
        return self._probabilities(X)

    def _compute(self, function: Callable[..., Any], X: Matrix, **options: Any) -> Any:
        """Check the features of new examples, and call a function with them as a dense matrix."""
        check_is_fitted(self)
        matrix = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)
        matrix = matrix.toarray() if issparse(matrix) else matrix
        with small_fit_threads(*matrix.shape):
            return function(matrix, **options)


def assign_folds(X: np.ndarray, y: np.ndarray, random_state: Any) -> np.ndarray:
    """Return the fold of each example; -1 (always in training) for a class of one distinct row.

    Equal rows share a fold: a copy in training would make its held-out twin look too easy.
    """
    distinct, row = np.unique(np.column_stack([y, X]), axis=0, return_inverse=True)
    label = distinct[:, 0].astype(int)
    order = np.random.RandomState(random_state).permutation(len(label))
    order = order[np.argsort(label[order], kind="stable")]
    fold = np.empty(len(label), dtype=int)
    fold[order] = np.arange(len(label)) % _FOLDS
    fold[np.bincount(label)[label] == 1] = -1
    return fold[row.ravel()]


def partial_whitening(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (d,) and components (d, rank) of a whitening: Z = (X - mean) @ components.

    Full whitening trusts the noisiest directions as much as any other, and raw features leave a few
    of large variance in charge. In between, each feature is divided by the square root of its
    standard deviation (Pareto scaling: van den Berg et al. 2006, Centering, scaling, and
    transformations, BMC Genomics 7:142), and each principal axis is multiplied by its variance,
    shrunk to (n v + d mean(v)) / (n + d), to the power of -1/8. The exponent was chosen on the
    tasks of ``benchmarks/meta_models.py``. The result has mean squared norm 1.
    """
    mean = X.mean(axis=0)
    Z = X - mean
    deviation = Z.std(axis=0)
    varies = deviation > 1e-7 * np.abs(X).max(axis=0)
    scale = np.divide(1, np.sqrt(deviation), out=np.zeros_like(deviation), where=varies)
    Z *= scale
    n, d = len(Z), np.count_nonzero(varies)
    if not d:
        return mean, np.zeros((X.shape[1], 1))
    _, singular_values, axes = np.linalg.svd(Z, full_matrices=False)
    rank = np.count_nonzero(singular_values > 1e-7 * singular_values[0])
    variance, axes = singular_values[:rank] ** 2 / n, axes[:rank]
    shrunk = (n * variance + d * (variance.sum() / d)) / (n + d)
    factors = shrunk**-0.125
    norm = np.sqrt((variance * factors**2).sum())
    return mean, scale[:, None] * axes.T * (factors / norm)


def squash(Z: np.ndarray) -> np.ndarray:
    """Divide each row z by sqrt((1 + |z|^2) / 2), so that none is far away by its length alone."""
    return Z / np.sqrt((1 + np.square(Z).sum(axis=1, keepdims=True)) / 2)


@contextmanager
def small_fit_threads(n_rows: int, n_columns: int) -> Iterator[None]:
    """Run on one BLAS thread if the matrix is small: two would mostly wait for each other."""
    # The limit holds for the whole process, so only the first of fits that overlap sets it: if each
    # did, the one that ends last would restore the limit of another.
    if n_rows * n_columns > _SMALL or not _limit.acquire(blocking=False):
        yield
        return
    try:
        with _threadpools().limit(limits=1, user_api="blas"):
            yield
    finally:
        _limit.release()
