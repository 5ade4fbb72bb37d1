"""Data of every kind, read as batches: arrays, dicts of arrays, MXNet iterators."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm


@dataclass(frozen=True)
class Batch:
    """Some examples: inputs of shape (m, ...) of which the first ``rows`` count."""

    inputs: dict
    rows: int
    labels: np.ndarray | None


def open_data(data, input_names, batch_size):
    """Make data of any kind readable in batches.

    Parameters
    ----------
    data : mxnet.io.DataIter, array of shape (n, ...), or dict of str to array
    input_names : list of str
        The inputs of the network that is to read it.
    batch_size : int
        Examples to a batch for arrays.

    Returns
    -------
    object
        With ``number``, the examples to come or None, and ``batches(progress)``.

    Raises
    ------
    TypeError, ValueError
        If the data are of no such kind, or do not fit the inputs.
    """
    if is_iterator(data):
        return _IteratorData(data, input_names)
    return _ArrayData(data, input_names, batch_size)


def is_iterator(data):
    """Tell an MXNet iterator, which brings its own batches and labels, from arrays."""
    return hasattr(data, "provide_data") and hasattr(data, "reset")


def count_examples(data):
    """Return the number of examples in arrays; None for an iterator."""
    if is_iterator(data):
        return None
    return len(next(iter(data.values()))) if isinstance(data, Mapping) else len(data)


class _ArrayData:
    def __init__(self, data, input_names, batch_size):
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
        if not isinstance(data, Mapping):
            if len(input_names) > 1:
                raise ValueError(
                    f"the network has {len(input_names)} inputs ({', '.join(input_names)}): "
                    "give a dict with an array for each"
                )
            data = {input_names[0]: data}
        _check_names(data, input_names)
        self.arrays = {name: _as_array(values, name) for name, values in data.items()}
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the inputs have different numbers of examples: {lengths}")
        self.number = next(iter(lengths.values()))
        if not self.number:
            raise ValueError("the data are empty: no example was given")
        self.batch_size = min(batch_size, self.number)

    def batches(self, progress):
        starts = range(0, self.number, self.batch_size)
        for start in _bar(starts, progress, len(starts)):
            rows = min(self.batch_size, self.number - start)
            # A short last batch is filled up, so that every batch has one shape.
            rest = -(-self.batch_size // self.number) if rows < self.batch_size else 0
            index = np.arange(start, start + self.batch_size) % self.number if rest else None
            inputs = {}
            for name, array in self.arrays.items():
                part = array[index] if rest else array[start : start + rows]
                inputs[name] = _checked(part, name, start)
            yield Batch(inputs, rows, None)


class _IteratorData:
    def __init__(self, iterator, input_names):
        self.iterator = iterator
        self.names = [self._name(description) for description in iterator.provide_data]
        if len(self.names) == len(input_names) == 1:
            self.names = list(input_names)
        _check_names(self.names, input_names)
        # Examples of an NDArrayIter; one that drops its last batch only leaves room unused.
        self.number = getattr(iterator, "num_data", None)

    def batches(self, progress):
        size = getattr(self.iterator, "batch_size", None)
        total = -(-self.number // size) if self.number and size else None
        self._reset()
        start = 0
        try:
            for batch in _bar(self.iterator, progress, total):
                yield (read := self._read(batch, start))
                start += read.rows
        finally:
            self._reset()
        if not start:
            raise ValueError(f"the iterator gave no example: {self.iterator!r:.80}")

    def _read(self, batch, start):
        if len(batch.data) != len(self.names):
            raise ValueError(
                f"a batch holds {len(batch.data)} arrays where {len(self.names)} inputs "
                f"({', '.join(self.names)}) were announced"
            )
        arrays = [_as_array(values, name) for name, values in zip(self.names, batch.data)]
        rows = len(arrays[0]) - (batch.pad or 0)
        if rows < 1 or any(len(array) != len(arrays[0]) for array in arrays):
            shapes = [array.shape for array in arrays]
            raise ValueError(f"a batch has arrays of shapes {shapes} and padding {batch.pad}")
        inputs = {n: _checked(array, n, start) for n, array in zip(self.names, arrays)}
        return Batch(inputs, rows, _read_labels(batch.label, rows))

    def _reset(self):
        # An NDArrayIter that rolls over would begin with what the last reader left.
        getattr(self.iterator, "hard_reset", self.iterator.reset)()

    @staticmethod
    def _name(description):
        layout = getattr(description, "layout", None)
        if layout and layout.find("N") > 0:
            raise ValueError(
                f"input {description[0]!r} has layout {layout!r}: its first axis must be the "
                "example (N)"
            )
        return description[0]


def _read_labels(labels, rows):
    """Labels of one batch; whole numbers that MXNet carries as floats become integers again."""
    if not labels:
        return None
    if len(labels) > 1:
        raise ValueError(f"the iterator carries {len(labels)} labels to an example; one is needed")
    values = _to_numpy(labels[0])
    if values.size != len(values):
        raise ValueError(f"labels have shape {values.shape}; one to an example is needed")
    values = values.reshape(-1)[:rows]
    if values.dtype.kind == "f" and np.isfinite(values).all():
        whole = values.astype(np.int64)
        if (whole == values).all():
            if values.dtype == np.float32 and (np.abs(whole) >= 2**24).any():
                raise ValueError(
                    f"the iterator carries label {whole[np.abs(whole).argmax()]} as a 32-bit "
                    "float, which cannot tell it from its neighbours; use smaller labels"
                )
            return whole
    return values


def _check_names(names, input_names):
    if set(names) != set(input_names):
        raise ValueError(
            f"the data are named {', '.join(names)}; the network's inputs are "
            f"{', '.join(input_names)}"
        )


def _to_numpy(values):
    return values.asnumpy() if hasattr(values, "asnumpy") else np.asarray(values)


def _as_array(values, name):
    array = _to_numpy(values)
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"input {name!r} must be an array of numbers with one row for each example, got "
            f"shape {array.shape} of {array.dtype}"
        )
    return array


def _checked(array, name, start):
    """Return inputs in a dtype that networks take, after a look for NaN and infinity."""
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        example = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0]
        raise ValueError(
            f"input {name!r} has NaN, infinity or a number beyond 32-bit floats at example "
            f"{start + example}"
        )
    return array


def _bar(batches, progress, total):
    if progress is None:
        progress = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    # The delay keeps quick work quiet.
    return tqdm(batches, total=total, disable=not progress, delay=1, desc="features", unit="batch")
