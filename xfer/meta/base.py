"""What the classifiers share: checked data and labels, folds, and the threads of small fits."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from numbers import Integral, Real
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
_SMALL = 1_000_000  # entries of X up to which one BLAS thread is at least as fast as two
_limit = threading.Lock()  # held while BLAS is limited to one thread


class MetaClassifier(ClassifierMixin, BaseEstimator, ABC):
    """A classifier of dense or sparse features; sparse ones are made dense."""

    classes_: np.ndarray

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def check_parameters(self) -> Self:
        """Raise ValueError, naming the parameter, if one is out of range; return self."""
        return self

    def fit(self, X: Matrix, y: ArrayLike) -> Self:
        """Fit the classifier.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, d)
        y : array-like of shape (n,)
            Labels of any kind, at least two classes. A class with one example (or copies of one)
            is never held out, so it takes no part in the calibration.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range, X is not finite, or y holds a single class.
        """
        self.check_parameters()
        matrix, labels = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
        check_classification_targets(labels)
        classes, indices = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                "Classifier needs samples of at least 2 classes; the data contains only one "
                f"class: {classes.tolist()[0]!r}"
            )
        self.classes_ = classes
        matrix = matrix.toarray() if issparse(matrix) else matrix
        with small_fit_threads(*matrix.shape):
            self._fit(matrix, indices)
        return self

    def predict(self, X: Matrix) -> np.ndarray:
        """Predict labels.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (m, d)

        Returns
        -------
        ndarray of shape (m,)
            The member of ``classes_`` with the largest probability.
        """
        matrix = self._checked(X)
        with small_fit_threads(*matrix.shape):
            return self.classes_[self._class_scores(matrix).argmax(axis=1)]

    def predict_proba(self, X: Matrix) -> np.ndarray:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (m, d)

        Returns
        -------
        ndarray of shape (m, n_classes)
            Columns follow ``classes_``; rows sum to 1.
        """
        matrix = self._checked(X)
        with small_fit_threads(*matrix.shape):
            return self._probabilities(matrix)

    @abstractmethod
    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        """Fit on checked features and class indices."""

    @abstractmethod
    def _probabilities(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities of shape (m, n_classes) for checked features."""

    def _class_scores(self, X: np.ndarray) -> np.ndarray:
        """Return scores of shape (m, n_classes), the largest at the predicted class."""
        return self._probabilities(X)

    def _checked(self, X: Matrix) -> np.ndarray:
        """Check the features of new examples; return them as a dense matrix."""
        check_is_fitted(self)
        matrix = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)
        return matrix.toarray() if issparse(matrix) else matrix


def check_positive(name: str, value: Any, finite: bool = True) -> None:
    """Raise ValueError unless the value is a positive number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    if finite and value == np.inf:
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def check_integer(name: str, value: Any, least: int) -> None:
    """Raise ValueError unless the value is an integer of at least that size."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")


def assign_folds(X: np.ndarray, y: np.ndarray, random_state: Any) -> np.ndarray:
    """Return the fold of each example: classes spread evenly, equal rows together.

    A copy that stayed in training would make its held-out twin look too easy. A class without a
    second distinct row gets -1: always in training.
    """
    distinct, row = np.unique(np.column_stack([y, X]), axis=0, return_inverse=True)
    label = distinct[:, 0].astype(int)
    order = np.random.RandomState(random_state).permutation(len(label))
    order = order[np.argsort(label[order], kind="stable")]
    fold = np.empty(len(label), dtype=int)
    fold[order] = np.arange(len(label)) % _FOLDS
    fold[np.bincount(label)[label] == 1] = -1
    return fold[row.ravel()]


@cache
def _threadpools() -> ThreadpoolController:
    """Find the BLAS libraries that NumPy and SciPy loaded; this takes some 10 ms."""
    return ThreadpoolController()


@contextmanager
def small_fit_threads(n_rows: int, n_columns: int) -> Iterator[None]:
    """Run a fit or a prediction on one BLAS thread if its matrix is small.

    On small matrices two threads mostly wait for each other. The limit comes from the measurement
    ``benchmarks/meta_models.py --threads``.
    """
    # The limit holds for the whole process. Only the thread that set it may lift it again: if two
    # fits that overlap both did, the one that ends last would restore the limit of the other.
    if n_rows * n_columns > _SMALL or not _limit.acquire(blocking=False):
        yield
        return
    try:
        with _threadpools().limit(limits=1, user_api="blas"):
            yield
    finally:
        _limit.release()
