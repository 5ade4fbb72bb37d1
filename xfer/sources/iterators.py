"""MXNet iterators, read from their start once, and left there."""

import warnings
from collections import deque
from weakref import WeakSet

import numpy as np

from xfer._progress import progress_bar
from xfer.sources.batches import (
    Batch,
    as_array,
    check_names,
    checked,
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
        Examples to come at most, where the iterator tells by its ``num_data``.
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
                "round_batch=True go on where the padding of their last batch ended. Make it anew "
                "for each reading"
            )
        self.number = getattr(iterator, "num_data", None)
        self.batch_size = getattr(iterator, "batch_size", None) or None

    def batches(self, progress):
        """Yield batches, from the start of the iterator; leave it at its start."""
        size = self.batch_size
        total = -(-self.number // size) if self.number and size else None
        rewind(self.iterator)
        start = 0
        ends = _Ends(self.iterator, self.number)
        try:
            for batch in progress_bar(self.iterator, progress, total):
                try:
                    read = self._read(batch, start, ends)
                except ValueError:
                    # What was refused may be leftover memory at the end, and no example.
                    if next(self.iterator, None) is None:
                        ends.check_last()
                    raise
                yield read
                start += read.rows
        finally:
            rewind(self.iterator)
        ends.check(start)
        if not start:
            raise ValueError(f"the iterator gave no example: {self.iterator!r:.80}")

    def _read(self, batch, start, ends):
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
        rows = ends.see(batch, arrays[0], rows, start)
        if rows < len(arrays[0]):  # examples take the place of padding, which may be anything
            arrays = [array[np.arange(len(array)) % rows] for array in arrays]
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
    """Tells from its batches where a C++ iterator ends, and where it begins again."""

    def __init__(self, iterator, number):
        self.iterator, self.number = iterator, number
        self.native = _is_native(iterator)
        self.was_read = self.native and iterator.first_batch is None
        self.first = self.previous = self.last = None
        self.stop, self.counts = 0, True

    def see(self, batch, array, rows, start):
        """Look at the next batch; return how many of its rows are examples."""
        self.first = array[:rows] if self.first is None else self.first
        self.previous, self.last, self.stop = self.last, array, rows
        self.counts = _counts_examples(batch)
        if self.counts or batch.pad or self.number is None:
            return rows
        if start >= self.number:
            raise ValueError(
                f"the iterator has more examples than the {self.number} that its num_data tells"
            )
        return min(rows, self.number - start)

    def check(self, number):
        """Refuse an end that may not be one; remember what will begin in the middle."""
        self.check_last()
        if not self.counts and self.number not in (None, number):
            raise ValueError(
                f"the iterator gave {number} examples where its num_data tells {self.number}; with "
                "round_batch=True it has to be made anew for each reading"
            )
        padding = () if self.last is None else self.last[self.stop :]
        if not self.native or not len(padding):
            return
        several = self.previous is not None
        if self.counts and several and np.array_equal(padding, self.previous[self.stop :]):
            return  # round_batch=False: what the batch before had left there
        from_start = np.array_equal(padding, np.resize(self.first, padding.shape))
        if from_start or several or not self.counts:
            _displaced.add(self.iterator)
        if self.was_read and several and not from_start:
            warnings.warn(
                "this iterator had been read before, and may have begun in the middle of its data: "
                "MXNet's iterators with round_batch=True go on where the padding of their last "
                "batch ended. Make it anew for each reading",
                stacklevel=2,
            )

    def check_last(self):
        """Refuse a last batch that may hold more than examples."""
        if not self.counts and self.number is None and self.stop == len(self.last):
            raise ValueError(
                "this iterator does not tell whether its last batch is full of examples: MXNet's "
                "iterators of images with round_batch=False fill it up with leftover memory, and "
                "say nothing. Set its num_data to the number of examples in its file, or make it "
                "with round_batch=True and a batch_size that leaves a rest"
            )


def _counts_examples(batch):
    """Tell MXNet's iterators that number their examples, and so know which are none."""
    index = getattr(batch, "index", None)
    return index is None or len(index) < 2 or bool(np.any(index))


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
