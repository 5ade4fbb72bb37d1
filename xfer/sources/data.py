"""Data of every kind, read as batches: arrays, dicts of arrays, MXNet iterators."""

from collections.abc import Mapping

import numpy as np

from xfer.sources.batches import Batch, as_array, check_names, checked, progress_bar
from xfer.sources.iterators import IteratorData, is_iterator

# Arrays that are read as a whole are one batch.
_MANY = np.iinfo(np.int64).max


def open_data(data, input_names, needed, batch_size):
    """Make data of any kind readable in batches.

    Parameters
    ----------
    data : mxnet.io.DataIter, array of shape (n, ...), or dict of str to array
    input_names : list of str
        The inputs of the network that is to read it.
    needed : list of str
        Those that what is asked of it depends on.
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
        return IteratorData(data, input_names, needed)
    return _ArrayData(data, input_names, needed, batch_size)


def read_all(data, input_names, needed):
    """Read data of any kind into memory.

    Parameters
    ----------
    data : mxnet.io.DataIter, array of shape (n, ...), or dict of str to array
    input_names, needed
        See :func:`open_data`.

    Returns
    -------
    inputs : dict of str to ndarray of shape (n, ...)
    labels : ndarray of shape (n,) or None
        Those that an iterator brought.

    Raises
    ------
    TypeError, ValueError
        If the data are of no such kind, do not fit the inputs, or hold NaN or infinity.
    """
    opened = open_data(data, input_names, needed, _MANY)
    batches = list(opened.batches(progress=False))
    inputs = {
        name: np.concatenate([batch.inputs[name][: batch.rows] for batch in batches])
        for name in batches[0].inputs
    }
    return inputs, join_labels([batch.labels for batch in batches])


def join_labels(labels):
    """Return the labels of batches as one array; None where some have none."""
    if any(part is None for part in labels):
        return None
    return np.concatenate(labels)


def count_examples(data):
    """Return the number of examples in arrays; None for an iterator."""
    if is_iterator(data):
        return None
    return len(next(iter(data.values()))) if isinstance(data, Mapping) else len(data)


class _ArrayData:
    def __init__(self, data, input_names, needed, batch_size):
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
        if not isinstance(data, Mapping):
            if len(needed) > 1:
                raise ValueError(
                    f"the network has {len(needed)} inputs ({', '.join(needed)}): "
                    "give a dict with an array for each"
                )
            data = {needed[0]: data}
        check_names(data, input_names, needed)
        self.arrays = {name: as_array(values, name) for name, values in data.items()}
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the inputs have different numbers of examples: {lengths}")
        self.number = next(iter(lengths.values()))
        if not self.number:
            raise ValueError("the data are empty: no example was given")
        self.batch_size = min(batch_size, self.number)

    def batches(self, progress):
        starts = range(0, self.number, self.batch_size)
        for start in progress_bar(starts, progress, len(starts)):
            rows = min(self.batch_size, self.number - start)
            # A short last batch is filled up, so that every batch has one shape.
            rest = -(-self.batch_size // self.number) if rows < self.batch_size else 0
            index = np.arange(start, start + self.batch_size) % self.number if rest else None
            inputs = {}
            for name, array in self.arrays.items():
                part = array[index] if rest else array[start : start + rows]
                inputs[name] = checked(part, name, start)
            yield Batch(inputs, rows, None)
