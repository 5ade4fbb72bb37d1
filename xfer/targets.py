"""What is to be learned: labels, several labels to an example, numbers."""

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, column_or_1d

from xfer.sources.data import count_examples, is_iterator


def given_labels(X, y):
    """Return the targets given beside the data, or None where the data bring them.

    Parameters
    ----------
    X : array, dict of str to array, list, or what brings batches
    y : array-like of shape (n,) or (n, k), optional

    Returns
    -------
    ndarray of shape (n,) or (n, k), or None

    Raises
    ------
    TypeError, ValueError
        If they are missing, given twice, of another number, or no array.
    """
    if is_iterator(X):
        if y is not None:
            raise ValueError(
                "an iterator carries its own labels: give it without y, or give arrays as X and y"
            )
        return None
    if y is None:
        raise ValueError(
            "requires y to be passed, but the target y is None: these data carry no labels: give "
            "them as y, or use an iterator with them"
        )
    labels = check_array(
        y,
        dtype=None,
        ensure_2d=False,
        ensure_all_finite=False,
        ensure_min_samples=0,
        input_name="y",
    )
    if labels.ndim != 2 or labels.shape[1] == 1:
        labels = column_or_1d(labels, warn=True)
    if len(labels) != count_examples(X):
        raise ValueError(f"X has {count_examples(X)} examples and y has {len(labels)} labels")
    return labels


def checked_labels(labels, several=False):
    """Refuse labels that no classifier can learn.

    Parameters
    ----------
    labels : ndarray of shape (n,), or of shape (n, k) with a 1 for each label that applies; or None
    several : bool, default=False
        Whether an example may have several labels.

    Returns
    -------
    ndarray of the same shape

    Raises
    ------
    ValueError
        If there are none, they are NaN, infinity or no labels, or all the same.
    """
    labels = _present(labels)
    if labels.ndim > 1:
        if not several:
            raise ValueError(
                f"one label to an example is needed, and y has shape {labels.shape}; several are "
                "learned by MetaModelRepurposer with a meta-model that takes them, such as "
                "OneVsRestClassifier(LogisticRegression())"
            )
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


def checked_numbers(numbers):
    """Refuse targets that no regressor can learn.

    Parameters
    ----------
    numbers : ndarray of shape (n,) or (n, k), or None

    Returns
    -------
    ndarray of the same shape, float64

    Raises
    ------
    ValueError
        If there are none, or they are NaN, infinity or no numbers.
    """
    numbers = _present(numbers)
    try:
        return numbers.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"a regressor learns numbers, and y holds {numbers.dtype} that are none: {error}"
        ) from None


def _present(targets):
    if targets is None:
        raise ValueError("the iterator carries no labels: make it with both data and labels")
    if not len(targets):
        raise ValueError("the data are empty: no example was given")
    try:
        assert_all_finite(targets, input_name="y")
    except ValueError as error:
        raise ValueError(f"the labels hold NaN or infinity: {error}") from None
    return targets


def _indicators(labels):
    try:
        numbers = labels.astype(np.int64)
        same = (numbers == labels).all() and np.isin(numbers, [0, 1]).all()
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError(
            f"labels of shape {labels.shape} must be 1 where a label applies and 0 where not; "
            "sklearn.preprocessing.MultiLabelBinarizer makes them from sets of labels"
        )
    return numbers
