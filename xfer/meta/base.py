"""What the classifiers share: checks of data, folds, and the threads of small fits."""

from __future__ import annotations

import sys
import threading
import warnings
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

from xfer._checks import check_number, check_positive

if TYPE_CHECKING:
    from scipy.sparse import sparray, spmatrix

    Matrix: TypeAlias = ArrayLike | sparray | spmatrix

ClassWeight: TypeAlias = Mapping[Any, float] | str | None
ClassPrior: TypeAlias = Mapping[Any, float] | str | None

_BRING_BLAS = ("mxnet", "scipy.linalg", "torch")
_FOLDS = 5
_MOST_COPIES = 1e12  # beyond it, sums lose what is compared
# Entries of X up to which one BLAS thread is at least as fast as two: measured by
# benchmarks/meta_models.py --threads.
_SMALL = 1_000_000
_limit = threading.Lock()  # held while BLAS is limited to one thread


class MetaClassifier(ClassifierMixin, BaseEstimator, ABC):
    """A classifier of dense or sparse features; sparse ones are made dense."""

    classes_: np.ndarray
    class_weight: ClassWeight
    class_prior: ClassPrior
    prior_ratio_: np.ndarray  # of shape (n_classes,)

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
        prior = self.class_prior
        if isinstance(prior, Mapping):
            for label, probability in prior.items():
                check_positive(f"class_prior of {label!r}", probability)
            if not np.isclose(total := sum(prior.values()), 1):
                raise ValueError(f"class_prior must sum to 1, got {total:.6g}: divide each by it")
        elif prior is not None and not (isinstance(prior, str) and prior == "balanced"):
            raise ValueError(f"class_prior must be None, 'balanced' or a dict, got {prior!r}")
        return self

    def fit(self, X: Matrix, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to features of shape (n, d) and labels of any kind, at least two classes.

        Classes with one example (or copies of one) are left out of the calibration.
        ``sample_weight``, of shape (n,), says how many copies an example counts as; 0 drops it.
        With ``class_prior``, probabilities are multiplied by the prior of each class over its share
        of the weights, which is ``prior_ratio_``, and made to sum to 1 (Saerens et al. 2002,
        Adjusting the Outputs of a Classifier to New a Priori Probabilities, eq. 2.4). A parameter
        or a weight out of range, features that are not finite and labels of one class raise
        ValueError.
        """
        self.check_parameters()
        counts = example_counts(sample_weight, y)
        matrix, labels = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
        indices, weights = self._learn_classes(labels, counts)
        kept = weights > 0
        if not kept.all():
            matrix, indices, weights = (part[kept] for part in (matrix, indices, weights))
        matrix = matrix.toarray() if issparse(matrix) else matrix
        with small_fit_threads(*matrix.shape):
            self._fit(matrix, indices, weights)
        return self

    def _learn_classes(
        self, labels: np.ndarray, counts: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Set the classes, and return class indices and weights of examples, each of shape (n,).

        A class whose examples all have weight 0 is none; their indices mean nothing.
        """
        with warnings.catch_warnings():
            # One label of each class is no sign of a regression.
            warnings.filterwarnings("ignore", "The number of unique classes")
            check_classification_targets(labels)
        weights = self._example_weights(labels, counts)
        ratio = self._prior_ratio(labels, weights)
        kept = weights > 0
        classes = np.unique(labels[kept])
        if len(classes) < 2:
            weighted = "" if kept.all() else " with a weight above 0"
            raise ValueError(
                f"y must have at least 2 classes{weighted}, got one class: {classes.tolist()}"
            )
        self.classes_, self.prior_ratio_ = classes, ratio
        return np.searchsorted(classes, labels), weights

    def check_weights(self, labels: np.ndarray, sample_weight: Any) -> None:
        """Raise ValueError if weights or the class prior cannot be used with the labels."""
        weights = self._example_weights(labels, example_counts(sample_weight, labels))
        self._prior_ratio(labels, weights)

    def _example_weights(self, labels: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
        """Return how much each example counts, of shape (n,): its weight times that of its class.

        Class weights do not change the sum, so the strength of the regularization stays the same.
        """
        counts, given = np.ones(len(labels)) if counts is None else counts, self.class_weight
        if given is None:
            return _without_rounding(counts)
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
        return _without_rounding(counts * by_class[indices] * (totals.sum() / total))

    def _prior_ratio(self, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the prior of each class over its share of the weights, of shape (n_classes,)."""
        given = self.class_prior
        classes, indices = np.unique(labels[weights > 0], return_inverse=True)
        known = classes.tolist()
        if given is None:
            return np.ones(len(known))
        if isinstance(given, Mapping):
            names = ", ".join(map(repr, known[:10]))
            for label in given:
                if label not in known:
                    raise ValueError(f"class_prior has {label!r}, but the labels are {names}")
            for label in known:
                if label not in given:
                    raise ValueError(f"class_prior has no {label!r}, but the labels are {names}")
            prior = np.array([given[label] for label in known], dtype=float)
        else:
            prior = np.full(len(known), 1 / len(known))
        totals = np.bincount(indices, weights[weights > 0])
        return prior * (totals.sum() / totals)

    def predict(self, X: Matrix) -> np.ndarray:
        """Predict the labels of X, of shape (m, d): members of ``classes_``, of shape (m,)."""
        scores = self._compute(self._class_scores, X)
        return self.classes_[scores.argmax(axis=1)]

    def predict_proba(self, X: Matrix) -> np.ndarray:
        """Predict probabilities of shape (m, n_classes), in the order of ``classes_``."""
        return self._compute(self._probabilities, X)

    @abstractmethod
    def _fit(self, X: Any, y: np.ndarray, w: np.ndarray) -> Any:
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


def _without_rounding(weights: np.ndarray) -> np.ndarray:
    """Return weights with 0 in place of those that sums would lose in rounding."""
    return np.where(weights > np.finfo(float).eps * weights.max(), weights, 0)


def example_counts(sample_weight: Any, y: ArrayLike) -> np.ndarray | None:
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
    if not 1 / _MOST_COPIES <= given.sum() <= _MOST_COPIES:
        limits = f"{1 / _MOST_COPIES} to {_MOST_COPIES:.0e}"
        raise ValueError(f"sample_weight must have a sum of {limits}, got {given.sum()}")
    return given


def assign_folds(X: np.ndarray, y: np.ndarray, random_state: Any) -> np.ndarray:
    """Return the fold of each example; -1 (always in training) for a class of one distinct row.

    Equal rows share a fold: a copy in training would make its held-out twin look too easy. The
    order of rows and columns, and the names of classes, do not matter.
    """
    distinct, row = np.unique(np.column_stack([y, X]), axis=0, return_inverse=True)
    label = distinct[:, 0].astype(int)
    by_values = np.lexsort(np.sort(distinct[:, 1:], axis=1).T)
    first = np.unique(label[by_values], return_index=True)[1]
    order = by_values[np.random.RandomState(random_state).permutation(len(label))]
    order = order[np.argsort(first[label[order]], kind="stable")]
    fold = np.empty(len(label), dtype=int)
    fold[order] = np.arange(len(label)) % _FOLDS
    fold[np.bincount(label)[label] == 1] = -1
    return fold[row.ravel()]


def held_out_parts(fold: np.ndarray, enough: float = np.inf) -> list[np.ndarray]:
    """Return masks of the folds to hold out in turn: all, or as many as hold enough examples."""
    parts = [fold == index for index in np.unique(fold[fold >= 0])]
    sizes = np.cumsum([0, *(np.count_nonzero(part) for part in parts)])
    return [part for part, before in zip(parts, sizes) if before < enough]


def distinct_rows(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the first of each set of equal rows, and the set of each row."""
    if issparse(rows):
        rows.sum_duplicates()
        rows.eliminate_zeros()
        parts = [slice(*ends) for ends in zip(rows.indptr, rows.indptr[1:])]
        keys = [rows.indices[part].tobytes() + rows.data[part].tobytes() for part in parts]
    else:
        keys = [(row + 0.0).tobytes() for row in rows]  # -0.0 becomes 0.0
    seen: dict[bytes, int] = {}
    node = np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=int)
    return np.unique(node, return_index=True)[1], node


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
