"""What is to be learned: labels, several labels per example, numbers."""

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets


def checked_labels(labels: np.ndarray) -> np.ndarray:
    """Refuse labels that no classifier can learn, and several labels per example."""
    if labels.ndim > 1:
        raise ValueError(
            f"one label per example is needed, and y has shape {labels.shape}; several are "
            "learned by MetaModelRepurposer with a meta-model that takes them, such as "
            "OneVsRestClassifier(LogisticRegression())"
        )
    return checked_multilabels(labels)


def checked_multilabels(labels: np.ndarray) -> np.ndarray:
    """Refuse labels that no classifier can learn; (n, k) holds a 1 for each label that applies."""
    _check_present(labels)
    if labels.ndim > 1:
        labels = _indicators(labels)
    try:
        check_classification_targets(labels)
    except ValueError as error:
        if "continuous" not in str(error):
            raise
        raise ValueError(f"{error} xfer.MetaModelRegressor learns such numbers.") from None
    found = np.unique(labels)
    if len(found) < 2:
        raise ValueError(
            f"a classifier needs at least 2 classes; every label is {found.tolist()[0]!r}, "
            "which is 1 class"
        )
    return labels


def checked_numbers(numbers: np.ndarray) -> np.ndarray:
    """Return numbers that a regressor can learn as float64, or refuse them."""
    _check_present(numbers)
    try:
        return numbers.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"a regressor learns numbers, and y holds {numbers.dtype} that are not: {error}"
        ) from None


def _check_present(targets: np.ndarray) -> None:
    if not len(targets):
        raise ValueError("the data are empty: no example was given")
    try:
        assert_all_finite(targets, input_name="y")
    except ValueError as error:
        raise ValueError(f"the labels hold NaN or infinity: {error}") from None


def _indicators(labels: np.ndarray) -> np.ndarray:
    try:
        integers = labels.astype(np.int64)
        same = (integers == labels).all() and np.isin(integers, [0, 1]).all()
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError(
            f"labels of shape {labels.shape} must be 1 where a label applies and 0 where not; "
            "sklearn.preprocessing.MultiLabelBinarizer makes them from sets of labels"
        )
    return integers
