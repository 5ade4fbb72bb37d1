"""What the classifiers share: checks of data, whitening, folds, and the threads of small fits."""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import ThreadpoolController

from xfer._checks import check_number

if TYPE_CHECKING:
    from scipy.sparse import sparray, spmatrix

    Matrix: TypeAlias = ArrayLike | sparray | spmatrix

ClassWeight: TypeAlias = Mapping[Any, float] | str | None

_BRING_BLAS = ("mxnet", "scipy.linalg", "torch")
_FOLDS = 5
# Entries of X up to which one BLAS thread is at least as fast as two: measured by
# benchmarks/meta_models.py --threads.
_SMALL = 1_000_000
_limit = threading.Lock()  # held while BLAS is limited to one thread


class MetaClassifier(ClassifierMixin, BaseEstimator, ABC):
    """A classifier of dense or sparse features; sparse ones are made dense."""

    classes_: np.ndarray
    class_weight: ClassWeight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def check_parameters(self) -> Self:
        """Raise ValueError, naming the parameter, if one is out of range; return self."""
        given = self.class_weight
        if isinstance(given, Mapping):
            for label, weight in given.items():
                check_number(f"class_weight of {label!r}", weight, 0)
        elif given is not None and not (isinstance(given, str) and given == "balanced"):
            raise ValueError(f"class_weight must be None, 'balanced' or a dict, got {given!r}")
        return self

    def fit(self, X: Matrix, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to features of shape (n, d) and labels of any kind, at least two classes.

        Classes with one example (or copies of one) are left out of the calibration.
        ``sample_weight``, of shape (n,), says how many copies an example counts as; 0 drops it. A
        parameter or a weight out of range, features that are not finite and labels of one class
        raise ValueError.
        """
        self.check_parameters()
        counts = _example_counts(sample_weight, y)
        matrix, labels = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
        check_classification_targets(labels)
        weights = self._example_weights(labels, counts)
        kept = weights > np.finfo(float).eps * weights.max()  # less is lost in rounding
        if not kept.all():
            matrix, labels, weights = (part[kept] for part in (matrix, labels, weights))
        classes, indices = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            weighted = "" if kept.all() else " with a weight above 0"
            raise ValueError(
                f"y must have at least 2 classes{weighted}, got one class: {classes.tolist()}"
            )
        self.classes_ = classes
        matrix = matrix.toarray() if issparse(matrix) else matrix
        with small_fit_threads(*matrix.shape):
            self._fit(matrix, indices, weights)
        return self

    def check_weights(self, labels: np.ndarray, sample_weight: Any) -> None:
        """Raise ValueError if weights of examples or of classes cannot be used with the labels."""
        self._example_weights(labels, _example_counts(sample_weight, labels))

    def _example_weights(self, labels: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
        """Return how much each example counts, of shape (n,): its weight times that of its class.

        Class weights do not change the sum, so the strength of the regularization stays the same.
        """
        counts, given = np.ones(len(labels)) if counts is None else counts, self.class_weight
        if given is None:
            return counts
        classes, indices = np.unique(labels, return_inverse=True)
        totals, known = np.bincount(indices, counts), classes.tolist()
        if isinstance(given, Mapping):
            for label in given:
                if label not in known:
                    names = ", ".join(map(repr, known[:10]))
                    raise ValueError(f"class_weight has {label!r}, but the labels are {names}")
            by_class = np.array([given.get(label, 1.0) for label in known], dtype=float)
        else:
            by_class = np.divide(1, totals, out=np.zeros_like(totals), where=totals > 0)
        by_class /= by_class.max() or 1
        if not (total := totals @ by_class):
            raise ValueError("class_weight leaves every example with weight 0")
        return counts * by_class[indices] * (totals.sum() / total)

    def predict(self, X: Matrix) -> np.ndarray:
        """Predict the labels of X, of shape (m, d): members of ``classes_``, of shape (m,)."""
        scores = self._compute(self._class_scores, X)
        return self.classes_[scores.argmax(axis=1)]

    def predict_proba(self, X: Matrix) -> np.ndarray:
        """Predict probabilities of shape (m, n_classes), in the order of ``classes_``."""
        return self._compute(self._probabilities, X)

    @abstractmethod
    def _fit(self, X: np.ndarray, y: np.ndarray, w: np.ndarray) -> None:
        """Fit on checked features, class indices and positive weights of examples."""

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


def _example_counts(sample_weight: Any, y: ArrayLike) -> np.ndarray | None:
    """Return checked weights of examples."""
    if sample_weight is None:
        return None
    shape = np.asarray(y).shape[:1]
    options = {"ensure_2d": False, "allow_nd": True, "ensure_min_samples": 0}
    given = check_array(sample_weight, dtype=np.float64, input_name="sample_weight", **options)
    if given.shape != shape:
        raise ValueError(f"sample_weight must have shape {shape}, got {given.shape}")
    if (given < 0).any():
        raise ValueError(f"sample_weight must be >= 0, got {given.min()} at {given.argmin()}")
    if not given.any():
        raise ValueError("sample_weight is zero for every example")
    return given


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


def distinct_rows(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the first of equal rows, and which of these each row equals."""
    # By hash: np.unique sorts field by field, which takes minutes with tens of thousands of them.
    first, copies = dict[bytes, int](), np.empty(len(X), dtype=int)
    rows = list[int]()
    for index, row in enumerate(np.ascontiguousarray(X) + 0.0):  # -0.0 becomes 0.0
        copies[index] = first.setdefault(row.tobytes(), len(first))
        if copies[index] == len(rows):
            rows.append(index)
    return np.array(rows, dtype=int), copies


def partial_whitening(X: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (d,) and components (d, rank) of a whitening: Z = (X - mean) @ components.

    ``w``, of shape (n,), are the weights of the examples.

    Full whitening gives noisy directions the same weight as all others; without whitening, a few
    features of large variance dominate. As a compromise, each feature is divided by the square root
    of its standard deviation (Pareto scaling: van den Berg et al. 2006, Centering, scaling, and
    transformations, BMC Genomics 7:142), and each principal axis is multiplied by its variance,
    shrunk to (n v + d mean(v)) / (n + d), to the power of -1/8. The exponent was chosen on the
    tasks of ``benchmarks/meta_models.py``. The result has mean squared norm 1.
    """
    n, roots = w.sum(), np.sqrt(w)[:, None]
    mean = w @ X / n
    Z = X - mean
    deviation = np.sqrt(w @ np.square(Z) / n)
    varies = deviation > 1e-7 * np.abs(X).max(axis=0)
    scale = np.divide(1, np.sqrt(deviation), out=np.zeros_like(deviation), where=varies)
    Z *= scale
    Z *= roots
    d = np.count_nonzero(varies)
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


@cache
def _threadpools(*loaded: bool) -> ThreadpoolController:
    """Find the BLAS libraries, which takes some 10 ms; again where others may have been loaded."""
    return ThreadpoolController()


@contextmanager
def small_fit_threads(n_rows: int, n_columns: int) -> Iterator[None]:
    """Run on one BLAS thread if the matrix is small: two would mostly wait for each other."""
    # The limit holds for the whole process, so only the first of fits that overlap sets it: if each
    # did, the one that ends last would restore the limit of another.
    if n_rows * n_columns > _SMALL or not _limit.acquire(blocking=False):
        yield
        return
    try:
        pools = _threadpools(*(name in sys.modules for name in _BRING_BLAS))
        with pools.limit(limits=1, user_api="blas"):
            yield
    finally:
        _limit.release()
