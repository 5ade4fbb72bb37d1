"""Data of every kind, read as batches: arrays, lists of examples, iterators, loaders."""

from collections.abc import Mapping

import numpy as np

from xfer._progress import progress_bar
from xfer.sources.batches import Batch, as_array, check_names, checked, join
from xfer.sources.iterators import IteratorData, is_mxnet_iterator
from xfer.sources.loaders import LoaderData, holds_arrays, is_loader

# Arrays that are read as a whole are one batch.
_MANY = np.iinfo(np.int64).max


def is_iterator(data):
    """Tell what brings its own batches and labels from arrays and lists of examples."""
    return is_mxnet_iterator(data) or is_loader(data)


def open_data(data, input_names, needed, batch_size, *, raw=False):
    """Make data of any kind readable in batches.

    Parameters
    ----------
    data : array, dict of str to array, list of examples, or anything that brings batches
        See :meth:`xfer.sources.SourceModel.extract`.
    input_names : list of str
        The inputs of the network that is to read it.
    needed : list of str
        Those that what is asked of it depends on.
    batch_size : int
        Examples to a batch for arrays and lists.
    raw : bool, default=False
        Whether the examples are to be preprocessed; dicts of inputs never are.

    Returns
    -------
    object
        With ``number``, the examples to come at most or None; ``batch_size``, or None; and
        ``batches(progress)``.

    Raises
    ------
    TypeError, ValueError
        If the data are of no such kind, or do not fit the inputs.
    """
    if is_mxnet_iterator(data):
        if raw:
            raise ValueError(
                "an MXNet iterator brings arrays that are ready for a network, and this one has a "
                "preprocess: give it raw examples, or open the network without"
            )
        return IteratorData(data, input_names, needed)
    if is_loader(data):
        return LoaderData(data, input_names, needed, raw)
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
    if raw and not isinstance(data, Mapping):
        return _RawData(data, batch_size)
    return _ArrayData(data, input_names, needed, batch_size)


def read_all(data, source, needed):
    """Read data of any kind into memory.

    Parameters
    ----------
    data
        See :meth:`xfer.sources.SourceModel.extract`.
    source : SourceModel
        The network that is to read it.
    needed : list of str
        The inputs that what is asked of it depends on.

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
    raw = source.preprocess is not None
    opened = open_data(data, source.input_names, needed, _MANY, raw=raw)
    batches, read = list(opened.batches(progress=False)), []
    for batch in batches:
        inputs = source.prepare(batch.examples, needed)
        read.append({name: array[: batch.rows] for name, array in inputs.items()})
    return join(read), join_labels([batch.labels for batch in batches])


def join_labels(labels):
    """Return the labels of batches as one array; None where some have none."""
    if any(part is None for part in labels):
        return None
    return np.concatenate(labels)


def count_examples(data):
    """Return the number of examples in arrays or a list; None for what brings batches."""
    if is_iterator(data):
        return None
    return len(next(iter(data.values()))) if isinstance(data, Mapping) else len(data)


class _ArrayData:
    def __init__(self, data, input_names, needed, batch_size):
        if not isinstance(data, Mapping):
            if len(needed) > 1:
                raise ValueError(
                    f"the network has {len(needed)} inputs ({', '.join(needed)}): "
                    "give a dict with an array for each"
                )
            if isinstance(data, (list, tuple)) and data and holds_arrays(data[0]):
                raise ValueError(
                    f"a list of examples of several parts, such as {data[0]!r:.80}, is no array: "
                    "give arrays of all examples, and their labels apart, or batches of them"
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
            stop = min(start + self.batch_size, self.number)
            examples = {n: checked(a[start:stop], n, start) for n, a in self.arrays.items()}
            yield Batch(examples, stop - start, None)


class _RawData:
    """Texts, images or anything else that a preprocess takes, in a list or an array."""

    def __init__(self, examples, batch_size):
        if isinstance(examples, (str, bytes)) or not hasattr(examples, "__len__"):
            raise TypeError(
                "data for a network with a preprocess are a list of examples, got "
                f"{type(examples).__name__}: {examples!r:.80}"
            )
        # What is indexed by labels of its own, such as a table's column, is read in its order.
        self.examples = examples.to_numpy() if hasattr(examples, "to_numpy") else examples
        self.number = len(examples)
        if not self.number:
            raise ValueError("the data are empty: no example was given")
        self.batch_size = min(batch_size, self.number)

    def batches(self, progress):
        starts = range(0, self.number, self.batch_size)
        for start in progress_bar(starts, progress, len(starts)):
            examples = list(self.examples[start : start + self.batch_size])
            yield Batch(examples, len(examples), None)
