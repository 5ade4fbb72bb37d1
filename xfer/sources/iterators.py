"""MXNet iterators, read from their start once, and left there."""

import warnings
from collections import deque
from weakref import WeakSet

import numpy as np

from xfer.sources.batches import (
    Batch,
    as_array,
    check_names,
    checked,
    progress_bar,
    read_labels,
    to_numpy,
)

# Iterators that the last reading has left somewhere else than at their start.
_displaced = WeakSet()


def is_mxnet_iterator(data):
    """Tell an MXNet iterator, which brings its own batches and labels, from arrays."""
    return hasattr(data, "provide_data") and hasattr(data, "reset")


class IteratorData:
    """An MXNet iterator as batches of a network's inputs.

    Parameters
    ----------
    iterator : mxnet.io.DataIter
    input_names, needed : list of str
        The network's inputs, and those that what is asked of it depends on.

    Attributes
    ----------
    number : int or None
        Examples to come at most, where the iterator tells.
    batch_size : int or None
        Examples to a batch, where the iterator tells.
    """

    def __init__(self, iterator, input_names, needed):
        self.iterator = iterator
        self.names = [_name(description) for description in iterator.provide_data]
        if len(self.names) == len(needed) == 1 and self.names[0] not in input_names:
            self.names = list(needed)
        check_names(self.names, input_names, needed)
        if _is_native(iterator) and iterator in _displaced:
            raise ValueError(
                "this iterator would now begin in the middle of its data: MXNet's iterators with "
                "round_batch=True go on where the padding of their last batch ended. Make it with "
                "round_batch=False, or make it anew for each reading"
            )
        self.number = getattr(iterator, "num_data", None)
        self.batch_size = getattr(iterator, "batch_size", None) or None

    def batches(self, progress):
        """Yield batches, from the start of the iterator; leave it at its start."""
        size = self.batch_size
        total = -(-self.number // size) if self.number and size else None
        rewind(self.iterator)
        start = 0
        ends = _Ends(self.iterator)
        try:
            for batch in progress_bar(self.iterator, progress, total):
                read = self._read(batch, start)
                ends.see(read)
                yield read
                start += read.rows
        finally:
            rewind(self.iterator)
        ends.check()
        if not start:
            raise ValueError(f"the iterator gave no example: {self.iterator!r:.80}")

    def _read(self, batch, start):
        if len(batch.data) != len(self.names):
            raise ValueError(
                f"a batch holds {len(batch.data)} arrays where {len(self.names)} inputs "
                f"({', '.join(self.names)}) were announced"
            )
        arrays = [as_array(values, name) for name, values in zip(self.names, batch.data)]
        rows = len(arrays[0]) - (batch.pad or 0)
        if rows < 1 or any(len(array) != len(arrays[0]) for array in arrays):
            shapes = [array.shape for array in arrays]
            raise ValueError(f"a batch has arrays of shapes {shapes} and padding {batch.pad}")
        inputs = {n: checked(array, n, start) for n, array in zip(self.names, arrays)}
        return Batch(inputs, rows, _labels_of(batch, rows))


def rewind(iterator):
    """Bring an iterator to its start.

    MXNet's C++ iterators, such as CSVIter, read ahead in a thread. Resetting one that has not come
    to its end leaves it in a random place, even at its start; so it is read to the end first, and
    where it is at its start it is left alone.
    """
    if _is_native(iterator):
        if iterator.first_batch is not None or iterator._debug_at_begin:
            return
        deque(iterator, maxlen=0)
    # An NDArrayIter that rolls over would begin with what the last reader left.
    getattr(iterator, "hard_reset", iterator.reset)()


class _Ends:
    """Tells from the padding of the last batch where a C++ iterator will begin again."""

    def __init__(self, iterator):
        self.iterator = iterator
        self.native = _is_native(iterator)
        self.was_read = self.native and iterator.first_batch is None
        self.first = self.previous = self.last = None

    def see(self, batch):
        if self.native:
            self.first = self.first or batch
            self.previous, self.last = self.last, batch

    def check(self):
        rows = self.last.rows if self.last else 0
        name = next(iter(self.last.examples)) if self.last else None
        padding = self.last.examples[name][rows:] if self.last else ()
        if not len(padding):
            return
        if self.previous is not None and np.array_equal(
            padding, self.previous.examples[name][rows:]
        ):
            return  # round_batch=False: what the batch before had left there
        begun = self.first.examples[name][: self.first.rows]
        if np.array_equal(padding, np.resize(begun, padding.shape)):
            _displaced.add(self.iterator)
        elif self.was_read and self.previous is not None:
            warnings.warn(
                "this iterator had been read before, and may have begun in the middle of its data: "
                "MXNet's iterators with round_batch=True go on where the padding of their last "
                "batch ended. Make it with round_batch=False, or make it anew for each reading",
                stacklevel=2,
            )


def _is_native(iterator):
    return hasattr(iterator, "first_batch") and hasattr(iterator, "_debug_at_begin")


def _name(description):
    layout = getattr(description, "layout", None)
    if layout and layout.find("N") > 0:
        raise ValueError(
            f"input {description[0]!r} has layout {layout!r}: its first axis must be the "
            "example (N)"
        )
    return description[0]


def _labels_of(batch, rows):
    if not batch.label:
        return None
    if len(batch.label) > 1:
        raise ValueError(
            f"the iterator carries {len(batch.label)} labels to an example; one is needed"
        )
    values = to_numpy(batch.label[0])
    if values.ndim == 0 or len(values) < rows:
        raise ValueError(f"labels have shape {values.shape}; one to an example is needed")
    return read_labels(values, rows)
