"""One batch of data, what all kinds of data share, and what every batch is checked for."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Examples = dict[str, np.ndarray] | list[Any]
Names = Sequence[str]
CheckLabels = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Batch:
    """Inputs of a network, each (m, ...), or m raw examples; the first n_examples count."""

    examples: Examples
    n_examples: int
    labels: np.ndarray | None = None


class Data(ABC):
    """Examples of one kind, with their labels, readable in batches."""

    #: How many examples there are at most; None where that is not known before they are read.
    n_examples: int | None = None
    #: Labels given beside the examples, checked; None where batches bring them or there are none.
    labels: np.ndarray | None = None

    def __init__(self, given: Any, check_labels: CheckLabels | None) -> None:
        self.given = given
        self._check_labels = check_labels

    @abstractmethod
    def batches(
        self, input_names: Names, needed: Names, raw: bool, batch_size: int, progress: bool | None
    ) -> Iterator[Batch]:
        """Check that the data fit a network, then return an iterator of batches.

        The layers depend on the `needed` inputs; `raw` examples are made into inputs later.
        """

    def join_labels(self, parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
        """Return the labels of all examples, given those that the batches brought."""
        if self.labels is not None:
            return self.labels
        found = None if any(part is None for part in parts) else np.concatenate(list(parts))
        if self._check_labels is None:
            return found
        if found is None:
            raise ValueError("the iterator carries no labels: make it with both data and labels")
        return self._check_labels(found)


def is_mxnet_iterator(data: Any) -> bool:
    """Return whether this is an MXNet iterator, which brings its own batches and labels."""
    return hasattr(data, "provide_data") and hasattr(data, "reset")


def take(examples: Examples, index: slice | np.ndarray) -> Examples:
    """Pick some of a batch's examples."""
    if isinstance(examples, dict):
        return {name: array[index] for name, array in examples.items()}
    return examples[index] if isinstance(index, slice) else [examples[i] for i in index]


def count(examples: Examples) -> int:
    """Return how many examples a batch holds, padding included."""
    return len(next(iter(examples.values())) if isinstance(examples, dict) else examples)


def check_names(
    names: Sequence[str] | Mapping[str, Any], input_names: Sequence[str], needed: Sequence[str]
) -> None:
    """Refuse data that lack a needed input, or hold something that is not an input."""
    if not {*needed} <= {*names} <= {*input_names}:
        which = "" if len(needed) == len(input_names) else f"; needed here: {', '.join(needed)}"
        raise ValueError(
            f"the data are named {', '.join(names)}; the network's inputs are "
            f"{', '.join(input_names)}{which}"
        )


def to_numpy(values: Any) -> np.ndarray:
    """Return a NumPy array of anything like an array, tensors of MXNet and torch included."""
    if hasattr(values, "asnumpy"):
        return values.asnumpy()
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def as_array(values: Any, name: str) -> np.ndarray:
    """Return the data of one input as an array of numbers with one row per example."""
    array = to_numpy(values)
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"input {name!r} must be an array of numbers with one row for each example, got "
            f"shape {array.shape} of {array.dtype}"
        )
    return array


def as_arrays(values: Mapping[str, Any], whose: str) -> dict[str, np.ndarray]:
    """Return the data of all inputs as arrays with equally many rows."""
    arrays = {name: as_array(one, name) for name, one in values.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len({*lengths.values()}) > 1:
        raise ValueError(f"{whose} different numbers of examples: {lengths}")
    return arrays


def checked_input(array: np.ndarray, name: str, start: int | None = None) -> np.ndarray:
    """Return an input as float32 or integers, after a check for NaN and infinity."""
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        example = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0]
        where = f"{example} of a batch" if start is None else f"{start + example}"
        raise ValueError(
            f"input {name!r} has NaN, infinity or a number beyond 32-bit floats at example {where}"
        )
    return array


def batch_labels(values: np.ndarray, n_examples: int) -> np.ndarray:
    """Return the labels of a batch's first examples, of shape (n,) or (n, k).

    Whole numbers that a framework carries as floats become integers again.
    """
    values = values.reshape(-1) if values.size == len(values) else values
    if values.ndim > 2:
        raise ValueError(f"labels have shape {values.shape}; one row per example is needed")
    values = values[:n_examples]
    if values.dtype.kind == "f" and (np.abs(values) < 2**63).all():
        whole = values.astype(np.int64)
        if (whole == values).all():
            if values.dtype == np.float32 and (np.abs(whole) >= 2**24).any():
                raise ValueError(
                    f"the iterator carries label {whole.flat[np.abs(whole).argmax()]} as a 32-bit "
                    "float, which cannot tell it from its neighbours; use smaller labels"
                )
            return whole
    return values


def check_ids(inputs: Mapping[str, np.ndarray], limits: Iterable[tuple[str, str, int]]) -> None:
    """Refuse word ids that embeddings lack, given input, layer and table size of each."""
    for name, layer, size in limits:
        ids = inputs.get(name)
        if ids is not None and ids.size and (ids.min() < 0 or ids.max() >= size):
            found = ids.min() if ids.min() < 0 else ids.max()
            raise ValueError(
                f"the data hold id {found:.0f}; layer {layer!r} knows ids 0 to {size - 1}: "
                "was the corpus made with the network's own vocabulary?"
            )
