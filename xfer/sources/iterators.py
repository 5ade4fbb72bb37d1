"""MXNet iterators, read once from their start and left there."""

import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import numpy as np

from xfer._io import progress_bar
from xfer.sources.batches import (
    Batch,
    CheckLabels,
    Data,
    Names,
    as_array,
    batch_labels,
    check_names,
    checked_input,
    to_numpy,
)

# Iterators that the last reading left somewhere else than at their start.
_displaced: WeakSet = WeakSet()


class IteratorData(Data):
    """An MXNet iterator as batches of a network's inputs."""

    def __init__(self, iterator: Any, check_labels: CheckLabels | None) -> None:
        super().__init__(iterator, check_labels)
        self.n_examples = getattr(iterator, "num_data", None)

    def batches(  # noqa: D102  (see Data)
        self, input_names: Names, needed: Names, raw: bool, batch_size: int, progress: bool | None
    ) -> Iterator[Batch]:
        if raw:
            raise ValueError(
                "an MXNet iterator brings arrays that are ready for a network, and this network "
                "takes raw examples: give it those, or open the network without inputs"
            )
        names = [_name(description) for description in self.given.provide_data]
        if len(names) == len(needed) == 1 and names[0] not in input_names:
            names = list(needed)
        check_names(names, input_names, needed)
        if _is_native(self.given) and self.given in _displaced:
            raise ValueError(
                "this iterator would now begin in the middle of its data: MXNet's iterators with "
                "round_batch=True continue where the padding of their last batch ended. Make a new "
                "one for each reading"
            )
        return self._batches(names, progress)

    def _batches(self, names: list[str], progress: bool | None) -> Iterator[Batch]:
        size = getattr(self.given, "batch_size", None) or None
        total = -(-self.n_examples // size) if self.n_examples and size else None
        rewind(self.given)
        start = 0
        ends = _Ends(self.given, self.n_examples)
        try:
            for given in progress_bar(self.given, progress, total):
                try:
                    batch = _read(given, names, start, ends)
                except ValueError:
                    # What was refused may be leftover memory at the end, not an example.
                    if next(self.given, None) is None:
                        ends.check_last()
                    raise
                yield batch
                start += batch.n_examples
        finally:
            rewind(self.given)
        ends.check(start)
        if not start:
            raise ValueError(f"the iterator gave no example: {self.given!r:.80}")


def _read(batch: Any, names: list[str], start: int, ends: "_Ends") -> Batch:
    if len(batch.data) != len(names):
        raise ValueError(
            f"a batch holds {len(batch.data)} arrays where {len(names)} inputs "
            f"({', '.join(names)}) were announced"
        )
    arrays = [as_array(values, name) for name, values in zip(names, batch.data)]
    n = len(arrays[0]) - (batch.pad or 0)
    if n < 1 or any(len(array) != len(arrays[0]) for array in arrays):
        shapes = [array.shape for array in arrays]
        raise ValueError(f"a batch has arrays of shapes {shapes} and padding {batch.pad}")
    n = ends.see(batch, arrays[0], n, start)
    if n < len(arrays[0]):  # examples replace the padding, which may be anything
        arrays = [array[np.arange(len(array)) % n] for array in arrays]
    inputs = {k: checked_input(a, k, start) for k, a in zip(names, arrays)}
    if not batch.label:
        return Batch(inputs, n)
    if len(batch.label) > 1:
        raise ValueError(f"the iterator carries {len(batch.label)} labels per example; give one")
    labels = to_numpy(batch.label[0])
    if labels.ndim == 0 or len(labels) < n:
        raise ValueError(f"labels have shape {labels.shape}; one per example is needed")
    return Batch(inputs, n, batch_labels(labels, n))


def rewind(iterator: Any) -> None:
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
    """Works out from an iterator's batches where its examples end, and whether it starts over."""

    def __init__(self, iterator: Any, num_data: int | None) -> None:
        self.iterator, self.num_data = iterator, num_data
        self.native = _is_native(iterator)
        self.was_read = self.native and iterator.first_batch is None
        self.first: np.ndarray | None = None
        self.previous: np.ndarray | None = None
        self.last: np.ndarray | None = None
        self.stop, self.counts = 0, True

    def see(self, batch: Any, array: np.ndarray, n: int, start: int) -> int:
        """Look at the next batch; return how many of its rows are examples."""
        self.first = array[:n] if self.first is None else self.first
        self.previous, self.last, self.stop = self.last, array, n
        self.counts = _counts_examples(batch)
        if self.counts or batch.pad or self.num_data is None:
            return n
        if start >= self.num_data:
            raise ValueError(
                f"the iterator has more examples than its num_data says, {self.num_data}"
            )
        return min(n, self.num_data - start)

    def check(self, n_examples: int) -> None:
        """Refuse an end that may not be one; remember iterators that will start in the middle."""
        self.check_last()
        if not self.counts and self.num_data not in (None, n_examples):
            raise ValueError(
                f"the iterator gave {n_examples} examples where its num_data says {self.num_data}; "
                "with round_batch=True, make a new iterator for each reading"
            )
        if not self.native or self.last is None or self.first is None:
            return
        padding, several = self.last[self.stop :], self.previous is not None
        if not len(padding):
            return
        before = None if self.previous is None else self.previous[self.stop :]
        if self.counts and before is not None and np.array_equal(padding, before):
            return  # round_batch=False: what the batch before had left there
        from_start = np.array_equal(padding, np.resize(self.first, padding.shape))
        if from_start or several or not self.counts:
            _displaced.add(self.iterator)
        if self.was_read and several and not from_start:
            warnings.warn(
                "this iterator had been read before and may have begun in the middle of its data: "
                "MXNet's iterators with round_batch=True continue where the padding of their last "
                "batch ended. Make a new one for each reading",
                stacklevel=2,
            )

    def check_last(self) -> None:
        """Refuse a last batch that may hold more than examples."""
        full = self.last is not None and self.stop == len(self.last)
        if not self.counts and self.num_data is None and full:
            raise ValueError(
                "this iterator does not say whether its last batch is full of examples: MXNet's "
                "image iterators with round_batch=False fill it with leftover memory without "
                "saying so. Set its num_data to the number of examples in its file, or make it "
                "with round_batch=True and a batch_size that does not divide that number"
            )


def _counts_examples(batch: Any) -> bool:
    """Return whether the iterator numbers its examples, and so knows which rows are padding."""
    index = getattr(batch, "index", None)
    return index is None or len(index) < 2 or bool(np.any(index))


def _is_native(iterator: Any) -> bool:
    return hasattr(iterator, "first_batch") and hasattr(iterator, "_debug_at_begin")


def _name(description: Any) -> str:
    layout = getattr(description, "layout", None)
    if layout and layout.find("N") > 0:
        raise ValueError(
            f"input {description[0]!r} has layout {layout!r}: its first axis must be the "
            "example (N)"
        )
    return description[0]
