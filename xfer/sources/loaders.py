"""Loaders of batches: of PyTorch, of Gluon, generators, and lists of batches."""

from collections.abc import Mapping

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

# What labels are called in batches that are dicts.
_LABELS = ("label", "labels")


def is_loader(data):
    """Tell what brings batches: loaders, generators, lists of dicts or of (inputs, labels)."""
    if isinstance(data, (list, tuple)):
        return len(data) > 0 and _is_batch(data[0])
    return hasattr(data, "__iter__") and not hasattr(data, "__getitem__")


def holds_arrays(first):
    """Tell dicts, and tuples that begin with an array: batches, or single examples."""
    inputs = first[0] if isinstance(first, tuple) and first else first
    return isinstance(inputs, Mapping) or (inputs is not first and _has_axes(inputs))


def _is_batch(first):
    # An example may look like a batch, but where it has a number or a word there are no rows.
    values = first.values() if isinstance(first, Mapping) else first
    return holds_arrays(first) and all(_has_axes(value) for value in values)


def _has_axes(value):
    return isinstance(value, (list, tuple, Mapping)) or len(getattr(value, "shape", ())) > 0


class LoaderData:
    """Batches of a network's inputs, with labels or without.

    Parameters
    ----------
    loader : iterable
        Of batches, each of which is the data of one input; a tuple or list of those of all inputs,
        in their order, and maybe labels; or a dict by the names of the inputs, and maybe
        ``"label"`` or ``"labels"``. Data are arrays of NumPy, MXNet or torch.
    input_names, needed : list of str
        The network's inputs, and those that what is asked of it depends on.
    raw : bool, default=False
        Whether a batch is a list of examples to be preprocessed, or (examples, labels).

    Attributes
    ----------
    number : int or None
        Examples to come at most, where the loader tells.
    batch_size : None
        Each batch has its own.
    """

    batch_size = None

    def __init__(self, loader, input_names, needed, raw=False):
        self.loader, self.input_names, self.needed, self.raw = loader, input_names, needed, raw
        dataset = getattr(loader, "dataset", getattr(loader, "_dataset", None))
        self.number = len(dataset) if hasattr(dataset, "__len__") else None

    def batches(self, progress):
        """Yield batches, in the loader's order."""
        total = len(self.loader) if hasattr(self.loader, "__len__") else None
        start = 0
        for batch in progress_bar(self.loader, progress, total):
            try:
                read = self._read(batch, start)
            except ValueError as error:
                if self.raw and isinstance(self.loader, (list, tuple)):
                    raise ValueError(
                        f"{error}. A list of dicts or of tuples of arrays is read as batches: "
                        "examples for a preprocess that hold several things are written as lists"
                    ) from error
                raise
            yield read
            start += read.rows
        if not start:
            raise ValueError(
                f"the data brought no example: {self.loader!r:.80}; a generator can be read only "
                "once, so make it anew for each reading"
            )

    def _read(self, batch, start):
        examples, labels = self._split(batch)
        if isinstance(examples, list):
            rows = len(examples)
        else:
            check_names(examples, self.input_names, self.needed)
            examples = {n: checked(as_array(v, n), n, start) for n, v in examples.items()}
            lengths = {name: len(array) for name, array in examples.items()}
            rows = next(iter(lengths.values()))
            if len({*lengths.values()}) > 1:
                raise ValueError(f"a batch has inputs of different numbers of examples: {lengths}")
        if not rows:
            raise ValueError(f"a batch after {start} examples is empty")
        if labels is not None:
            labels = to_numpy(labels)
            if labels.ndim == 0 or len(labels) != rows:
                raise ValueError(
                    f"a batch has {rows} examples and labels of shape {labels.shape}; one row of "
                    "labels to an example is needed"
                )
            labels = read_labels(labels, rows)
        return Batch(examples, rows, labels)

    def _split(self, batch):
        """Return a batch's examples and labels."""
        if isinstance(batch, Mapping):
            extra = [n for n in batch if n in _LABELS and n not in self.input_names]
            examples = {name: values for name, values in batch.items() if name not in extra}
            return examples, batch[extra[0]] if extra else None
        if self.raw:
            if isinstance(batch, (list, tuple)) and len(batch) == 2 and _is_list(batch[0]):
                return list(batch[0]), batch[1]
            return list(batch), None
        if not isinstance(batch, (list, tuple)):
            batch = [batch]
        inputs = len(self.needed)
        if len(batch) not in (inputs, inputs + 1):
            raise ValueError(
                f"a batch holds {len(batch)} arrays; {inputs} inputs ({', '.join(self.needed)}) "
                "and maybe labels are needed"
            )
        labels = batch[inputs] if len(batch) > inputs else None
        return dict(zip(self.needed, batch)), labels


def _is_list(values):
    return isinstance(values, (list, tuple, np.ndarray)) or hasattr(values, "ndim")
