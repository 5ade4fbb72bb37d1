"""Checks of arrays that compiled code of scikit-learn uses as indices without checks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.neighbors._base import NeighborsBase
from sklearn.svm._base import BaseLibSVM


def check_compiled(value: Any) -> None:
    """Raise ValueError if ``value``, from a file, could make compiled code read out of bounds."""
    seen: dict[int, Any] = {}
    left = [value]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen[id(one)] = one  # kept alive, so that its id is not reused
        if isinstance(one, BaseLibSVM) and hasattr(one, "support_"):
            _check_svm(one)
        elif isinstance(one, NeighborsBase) and hasattr(one, "_fit_X"):
            _check_neighbors(one)
        if isinstance(one, Mapping):
            left += one.values()
        elif isinstance(one, (list, tuple, set)):
            left += one
        elif isinstance(one, np.ndarray) and one.dtype == object:
            left += one.ravel().tolist()
        left += getattr(one, "__dict__", {}).values()


def _check_svm(model: Any) -> None:
    kind, is_classifier = type(model).__name__, model._impl in ("c_svc", "nu_svc")
    n, k = len(model.support_), len(model.classes_) if is_classifier else 2
    pairs = k * (k - 1) // 2
    shapes = {
        "_n_support": (model._n_support.shape, (k,)),
        "_intercept_": (model._intercept_.shape, (pairs,)),
        "_dual_coef_": (model._dual_coef_.shape, (k - 1, n)),
    }
    if model.kernel != "precomputed":
        shapes["support_vectors_"] = model.support_vectors_.shape, (n, model.n_features_in_)
    for name in ("_probA", "_probB"):
        if len(getattr(model, name)):
            shapes[name] = getattr(model, name).shape, (pairs,)
    _check_shapes(model, shapes)
    counts, support = model._n_support, model.support_
    if counts.min() < 0 or (is_classifier and counts.sum() != n):
        raise ValueError(f"_n_support of its {kind} must be >= 0 and sum to {n}, got {counts}")
    if n and (support.min() < 0 or support.max() >= model.shape_fit_[0]):
        raise ValueError(
            f"support_ of its {kind} must be >= 0 and < {model.shape_fit_[0]}, got "
            f"{support.min()} to {support.max()}"
        )


def _check_neighbors(model: Any) -> None:
    n, kind = model.n_samples_fit_, type(model).__name__
    _check_shapes(model, {"_fit_X": (model._fit_X.shape, (n, model.n_features_in_))})
    if not hasattr(model, "classes_"):
        return
    y = model._y.reshape(len(model._y), -1)
    classes = model.classes_ if isinstance(model.classes_, list) else [model.classes_]
    _check_shapes(model, {"_y": (y.shape, (n, len(classes)))})
    if y.dtype.kind not in "iu" or (y < 0).any() or (y >= [len(one) for one in classes]).any():
        raise ValueError(f"_y of its {kind} must be indices of classes")
    if not 1 <= (getattr(model, "n_neighbors", None) or 1) <= n:
        raise ValueError(f"n_neighbors of its {kind} must be 1 to {n}, got {model.n_neighbors}")


def _check_shapes(model: Any, shapes: Mapping[str, tuple[Any, tuple[int, ...]]]) -> None:
    for name, (found, expected) in shapes.items():
        if tuple(found) != expected:
            kind = type(model).__name__
            raise ValueError(f"{name} of its {kind} must have shape {expected}, got {found}")
