"""Whatever users hand over, opened once: what kind of data it is, its labels, its length."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.validation import check_array, column_or_1d

from xfer._checks import check_integer
from xfer._io import progress_bar
from xfer.sources.batches import (
    Batch,
    CheckLabels,
    Data,
    Examples,
    Names,
    as_arrays,
    batch_labels,
    check_names,
    checked_input,
    count,
    is_mxnet_iterator,
    to_numpy,
)
from xfer.sources.iterators import IteratorData

# Names of the labels in batches that are dicts.
_LABELS = ("label", "labels")
# What is checked elsewhere, for scikit-learn's check_array.
_ANY_ARRAY: Any = {"ensure_2d": False, "ensure_all_finite": False, "ensure_min_samples": 0}


def open_data(X: Any, y: Any = None, check_labels: CheckLabels | None = None) -> Data:
    """Open data of any kind, with the labels given beside it.

    `check_labels` refuses labels that cannot be used; where it is given, labels are required.
    Labels given as `y` are checked at once, those of an iterator when it has been read.
    """
    if isinstance(X, Data):
        return X
    if brings_batches(X):
        if y is not None:
            raise ValueError(
                "an iterator carries its own labels: give it without y, or give arrays as X and y"
            )
        if is_mxnet_iterator(X):
            return IteratorData(X, check_labels)
        return LoaderData(X, check_labels)
    return ExampleData(X, y, check_labels)


def brings_batches(data: Any) -> bool:
    """Return whether data bring their own batches (and labels) rather than single examples."""
    if is_mxnet_iterator(data):
        return True
    if isinstance(data, (list, tuple)):
        return len(data) > 0 and _is_batch(data[0])
    # Some sparse matrices cannot be indexed, like iterators.
    return hasattr(data, "__iter__") and not hasattr(data, "__getitem__") and not issparse(data)


class ExampleData(Data):
    """Arrays, dicts of arrays, tables, or a list of raw examples such as texts or images."""

    def __init__(self, X: Any, y: Any, check_labels: CheckLabels | None) -> None:
        super().__init__(checked_array(X), check_labels)
        n = self.n_examples = _length(self.given)
        if y is not None:
            labels = _given_labels(y, n)
            self.labels = labels if check_labels is None else check_labels(labels)
        elif check_labels is not None:
            raise ValueError(
                "requires y to be passed, but the target y is None: these data carry no labels; "
                "give them as y, or use an iterator that carries them"
            )

    def batches(  # noqa: D102  (see Data)
        self, input_names: Names, needed: Names, raw: bool, batch_size: int, progress: bool | None
    ) -> Iterator[Batch]:
        check_integer("batch_size", batch_size)
        if raw and not isinstance(self.given, Mapping):
            examples: Any = _raw_examples(self.given)
        else:
            examples = self._arrays(input_names, needed)
        if not count(examples):
            raise ValueError("the data are empty: no example was given")
        return self._batches(examples, batch_size, progress)

    def _arrays(self, input_names: Names, needed: Names) -> dict[str, np.ndarray]:
        data = self.given
        if not isinstance(data, Mapping):
            if len(needed) > 1:
                raise ValueError(
                    f"the network has {len(needed)} inputs ({', '.join(needed)}): "
                    "give a dict with an array for each"
                )
            if isinstance(data, (list, tuple)) and data and _holds_arrays(data[0]):
                raise ValueError(
                    f"a list of examples of several parts, such as {data[0]!r:.80}, is not an "
                    "array: give arrays of all examples and their labels apart, or batches of them"
                )
            data = {needed[0]: data}
        check_names(data, input_names, needed)
        return as_arrays(data, "the inputs have")

    def _batches(self, examples: Any, size: int, progress: bool | None) -> Iterator[Batch]:
        n = count(examples)
        for start in progress_bar(range(0, n, size), progress, -(-n // size)):
            some = slice(start, min(start + size, n))
            if isinstance(examples, dict):
                batch: Any = {k: checked_input(a[some], k, start) for k, a in examples.items()}
            else:
                batch = list(examples[some])
            yield Batch(batch, some.stop - start)


class LoaderData(Data):
    """DataLoaders of PyTorch or Gluon, generators and lists of batches.

    A batch is the data of one input; a tuple or list of those of all inputs in their order, then
    maybe labels; or a dict by the inputs' names and maybe "label" or "labels".
    """

    def __init__(self, loader: Any, check_labels: CheckLabels | None) -> None:
        super().__init__(loader, check_labels)
        dataset: Any = getattr(loader, "dataset", getattr(loader, "_dataset", None))
        self.n_examples = len(dataset) if hasattr(dataset, "__len__") else None

    def batches(  # noqa: D102  (see Data)
        self, input_names: Names, needed: Names, raw: bool, batch_size: int, progress: bool | None
    ) -> Iterator[Batch]:
        total = len(self.given) if hasattr(self.given, "__len__") else None
        start = 0
        for given in progress_bar(self.given, progress, total):
            try:
                batch = self._read(given, start, input_names, needed, raw)
            except ValueError as error:
                if raw and isinstance(self.given, (list, tuple)):
                    raise ValueError(
                        f"{error}. A list of dicts or of tuples of arrays is read as batches; "
                        "write raw examples that hold several things as lists"
                    ) from error
                raise
            yield batch
            start += batch.n_examples
        if not start:
            raise ValueError(
                f"the data gave no example: {self.given!r:.80}; a generator can be read only once, "
                "so make a new one for each reading"
            )

    def _read(self, given: Any, start: int, input_names: Names, needed: Names, raw: bool) -> Batch:
        examples, labels = _split_batch(given, input_names, needed, raw)
        if not isinstance(examples, list):
            check_names(examples, input_names, needed)
            arrays = as_arrays(examples, "a batch has inputs of")
            examples = {k: checked_input(a, k, start) for k, a in arrays.items()}
        n = count(examples)
        if not n:
            raise ValueError(f"a batch after {start} examples is empty")
        if labels is not None:
            labels = to_numpy(labels)
            if labels.ndim == 0 or len(labels) != n:
                raise ValueError(
                    f"a batch has {n} examples and labels of shape {labels.shape}; one row of "
                    "labels per example is needed"
                )
            labels = batch_labels(labels, n)
        return Batch(examples, n, labels)


def _split_batch(batch: Any, input_names: Names, needed: Names, raw: bool) -> tuple[Any, Any]:
    """Return a batch's examples and its labels or None."""
    if isinstance(batch, Mapping):
        extra = [name for name in batch if name in _LABELS and name not in input_names]
        examples = {name: values for name, values in batch.items() if name not in extra}
        return examples, batch[extra[0]] if extra else None
    if raw:
        first: Any = batch[0] if isinstance(batch, (list, tuple)) and len(batch) == 2 else None
        if isinstance(first, (list, tuple)) or hasattr(first, "ndim"):
            return list(first), batch[1]
        return list(batch), None
    if not isinstance(batch, (list, tuple)):
        batch = [batch]
    n_inputs = len(needed)
    if len(batch) not in (n_inputs, n_inputs + 1):
        raise ValueError(
            f"a batch holds {len(batch)} arrays; {n_inputs} inputs ({', '.join(needed)}) "
            "and maybe labels are needed"
        )
    labels = batch[n_inputs] if len(batch) > n_inputs else None
    return dict(zip(needed, batch)), labels


def read_all(
    data: Data,
    input_names: Names,
    needed: Names,
    prepare: Callable[[Examples], dict[str, np.ndarray]],
    *,
    raw: bool,
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Read all data into memory: the network's inputs by name, and the labels."""
    size = max(data.n_examples or 1, 1)
    found, labels = [], []
    batches = data.batches(input_names, needed, raw=raw, batch_size=size, progress=False)
    for batch in batches:
        inputs = prepare(batch.examples)
        found.append({name: array[: batch.n_examples] for name, array in inputs.items()})
        labels.append(batch.labels)
    inputs = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    return inputs, data.join_labels(labels)


def checked_array(X: Any) -> Any:
    """Refuse arrays that no network takes (sparse, complex, without columns), as scikit-learn does.

    Only NumPy arrays and what turns into one are looked at: not tables, lists, iterators, tensors.
    """
    is_array = isinstance(X, np.ndarray)
    if is_array and X.ndim == 1 and X.dtype.kind in "OUST":
        return X  # texts
    # What has no length can only be read as an array.
    is_like_one = hasattr(X, "__array__") and not hasattr(X, "__len__")
    if not (is_array or is_like_one or issparse(X)):
        return X
    try:
        return check_array(X, allow_nd=True, **_ANY_ARRAY)
    except ValueError as error:
        if "setting an array element" not in str(error):
            raise
        raise ValueError(
            f"data must be an array of numbers with one row per example, or a list of raw "
            f"examples; got an array of objects such as {X.flat[0]!r:.80}"
        ) from None


def _given_labels(y: Any, n_examples: int) -> np.ndarray:
    labels = check_array(y, dtype=None, input_name="y", **_ANY_ARRAY)
    if labels.ndim != 2 or labels.shape[1] == 1:
        labels = column_or_1d(labels, warn=True)
    if labels.dtype == object and any(label is None for label in labels.flat):
        index = next(i for i, label in enumerate(labels.flat) if label is None)
        raise ValueError(f"the labels hold None at example {index}; leave out unlabelled examples")
    if len(labels) != n_examples:
        raise ValueError(f"X has {n_examples} examples and y has {len(labels)} labels")
    return labels


def _raw_examples(examples: Any) -> Any:
    if isinstance(examples, (str, bytes)) or not hasattr(examples, "__len__"):
        raise TypeError(
            "data for a network that takes raw examples are a list of examples, got "
            f"{type(examples).__name__}: {examples!r:.80}"
        )
    # What has an index of its own, such as a table's column, is read in its order.
    return examples.to_numpy() if hasattr(examples, "to_numpy") else examples


def _length(data: Any) -> int:
    values = next(iter(data.values()), ()) if isinstance(data, Mapping) else data
    if not hasattr(values, "__len__") or getattr(values, "ndim", 1) == 0:
        raise TypeError(f"data must be an array, a dict, a list or an iterable, got {values!r:.80}")
    return len(values)


def _holds_arrays(first: Any) -> bool:
    """Return whether this is a dict, or a tuple that begins with an array."""
    inputs = first[0] if isinstance(first, tuple) and first else first
    return isinstance(inputs, Mapping) or (inputs is not first and _has_axes(inputs))


def _is_batch(first: Any) -> bool:
    # An example may look like a batch, but where it has a number or a word there are no rows.
    values = first.values() if isinstance(first, Mapping) else first
    return _holds_arrays(first) and all(_has_axes(value) for value in values)


def _has_axes(value: Any) -> bool:
    return isinstance(value, (list, tuple, Mapping)) or len(getattr(value, "shape", ())) > 0
