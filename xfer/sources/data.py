"""Whatever users hand over, opened once: what kind of data it is, its labels, its length."""

import os
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from numbers import Number
from os import PathLike
from typing import Any
from weakref import WeakSet

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.validation import check_array, column_or_1d

from xfer._checks import check_integer
from xfer._io import progress_bar

Examples = dict[str, np.ndarray] | list[Any]
Names = Sequence[str]
CheckLabels = Callable[[np.ndarray], np.ndarray]
#: Tells a raw example from a batch of them; None where data are the network's ready inputs.
IsExample = Callable[[Any], bool] | None

# Names of the labels in batches that are dicts.
_LABELS = ("label", "labels")
_TORCH_DATASET = "torch.utils.data.dataset.Dataset"
# What is checked elsewhere, for scikit-learn's check_array.
_ANY_ARRAY: Any = {"ensure_2d": False, "ensure_all_finite": False, "ensure_min_samples": 0}
# Iterators that the last pass did not leave at their start.
_displaced: WeakSet = WeakSet()
# Iterators that leave out an incomplete last batch.
_dropping: WeakSet = WeakSet()


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
    #: Whether each pass makes the batches anew, so that what varies the examples does so too.
    is_stream: bool = False
    #: Labels given beside the examples, checked; None where batches bring them or there are none.
    labels: np.ndarray | None = None

    def __init__(self, given: Any, check_labels: CheckLabels | None) -> None:
        self.given = given
        self._check_labels = check_labels

    @abstractmethod
    def batches(
        self,
        input_names: Names,
        needed: Names,
        is_example: IsExample,
        batch_size: int,
        progress: bool | None,
    ) -> Iterator[Batch]:
        """Check that the data fit a network, then return an iterator of batches.

        The layers depend on the `needed` inputs. With `is_example`, examples are raw, and are made
        into inputs later.
        """

    def join_labels(self, parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
        """Return the labels of all examples, given those that the batches brought."""
        if self.labels is not None:
            return self.labels
        found = None if any(part is None for part in parts) else np.concatenate(list(parts))
        if self._check_labels is None:
            return found
        if found is None:
            raise ValueError("the iterator has no labels: make it with both data and labels")
        return self._check_labels(found)


def open_data(X: Any, y: Any = None, check_labels: CheckLabels | None = None) -> Data:
    """Open data of any kind, with the labels given beside it.

    `check_labels` refuses labels that cannot be used; where it is given, labels are required.
    Labels given as `y` are checked at once, those of an iterator when it has been read.
    """
    if isinstance(X, Data):
        return X
    if hasattr(type(X), "forward") or hasattr(type(X), "extract"):
        raise TypeError(f"data must be examples, got a network: {type(X).__name__}")
    if any(f"{kind.__module__}.{kind.__name__}" == _TORCH_DATASET for kind in type(X).__mro__):
        raise TypeError(
            f"wrap the {type(X).__name__} in a torch.utils.data.DataLoader, or in a list"
        )
    if brings_batches(X):
        if y is not None:
            raise ValueError(
                "an iterator has its own labels: leave out y, or give X as an array or a list"
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
            pair = "; a pair of examples and labels is given as fit(*pair)"
            raise ValueError(
                "requires y to be passed, but the target y is None: these data carry no labels; "
                "give them as y, or use an iterator that carries them"
                f"{pair if isinstance(X, tuple) and len(X) == 2 else ''}"
            )

    def batches(  # noqa: D102  (see Data)
        self,
        input_names: Names,
        needed: Names,
        is_example: IsExample,
        batch_size: int,
        progress: bool | None,
    ) -> Iterator[Batch]:
        check_integer("batch_size", batch_size)
        if is_example and not isinstance(self.given, Mapping):
            examples: Any = self.raw(is_example)
        else:
            examples = self._arrays(input_names, needed)
        if not count(examples):
            raise ValueError("the data are empty: no example was given")
        return self._batches(examples, batch_size, progress)

    def raw(self, is_example: Callable[[Any], bool]) -> Any:
        """Return raw examples, one per row: of a table, its only column."""
        examples = _column(self.given)
        sides: tuple[int, ...] = getattr(examples, "shape", ())
        if len(sides) == 2 and _is_raw_column(examples):
            return examples[:, 0]
        if len(sides) in (2, 3) and is_example(examples):
            names = ", ".join(map(str, getattr(self.given, "columns", ())))
            if names:
                raise TypeError(
                    f"data must be one column of examples, got a table of {sides[1]}: {names}"
                )
            if len(sides) == 2 or sides[2] in (1, 3, 4):
                raise TypeError(f"data must be a list of examples, got one of shape {sides}")
        return examples

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
                    f"the examples have several parts, such as {data[0]!r:.80}: give all examples "
                    "as one array and all labels as another, or give batches"
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
        self.is_stream = not isinstance(loader, (list, tuple, Iterator))
        # The sampler, and not the dataset: it may pick a few of many examples.
        batches = getattr(loader, "batch_sampler", getattr(loader, "_batch_sampler", None))
        self.n_examples = length_of(getattr(batches, "sampler", getattr(batches, "_sampler", None)))

    def batches(  # noqa: D102  (see Data)
        self,
        input_names: Names,
        needed: Names,
        is_example: IsExample,
        batch_size: int,
        progress: bool | None,
    ) -> Iterator[Batch]:
        # Progress bars start an iterator of their own, and with it a DataLoader's workers.
        total, given = length_of(self.given), iter(self.given)
        if is_example:
            first = list(islice(given, 1))
            given = chain(first, given)
            if first and is_example(first[0]):
                total, given = None, _in_lists(given, batch_size)
        start = 0
        for one in progress_bar(given, progress, total):
            try:
                batch = self._read(one, start, input_names, needed, is_example)
            except ValueError as error:
                if is_example and isinstance(self.given, (list, tuple)):
                    raise ValueError(
                        f"{error}. A list of dicts or of tuples of arrays is read as batches; "
                        "write raw examples that hold several things as lists"
                    ) from error
                raise
            yield batch
            start += batch.n_examples
        if not start:
            raise ValueError(
                f"the data are empty: {self.given!r:.80}; a generator can be read only once, so "
                "make a new one for each pass"
            )

    def _read(
        self, given: Any, start: int, input_names: Names, needed: Names, is_example: IsExample
    ) -> Batch:
        examples, labels = _split_batch(given, input_names, needed, is_example)
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


def _in_lists(examples: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while some := list(islice(examples, size)):
        yield some


def _split_batch(
    batch: Any, input_names: Names, needed: Names, is_example: IsExample
) -> tuple[Any, Any]:
    """Return a batch's examples and its labels or None."""
    if isinstance(batch, Mapping):
        extra = [name for name in batch if name in _LABELS and name not in input_names]
        examples = {name: values for name, values in batch.items() if name not in extra}
        return examples, batch[extra[0]] if extra else None
    if is_example:
        is_sequence = isinstance(batch, (list, tuple))
        if isinstance(batch, tuple) and batch and is_example(batch[0]):
            raise ValueError(
                f"{batch!r:.80} looks like one example and its label: give all examples as one "
                "list and their labels as another, or batches of them"
            )
        if is_sequence and len(batch) == 2 and not is_example(batch[0]):
            return list(batch[0]), batch[1]
        return list(batch), None
    if not isinstance(batch, (list, tuple)):
        batch = [batch]
    n_inputs = len(needed)
    if isinstance(batch, list) and n_inputs == 1 and all(map(_is_flat_list, batch)):
        raise ValueError(
            f"a batch of lists of numbers, {batch!r:.80}, may be rows, or inputs and labels: make "
            "it an array, or a tuple of two arrays"
        )
    if len(batch) not in (n_inputs, n_inputs + 1):
        raise ValueError(
            f"a batch must hold the inputs ({', '.join(needed)}) and optionally labels, got "
            f"{len(batch)} arrays"
        )
    labels = batch[n_inputs] if len(batch) > n_inputs else None
    return dict(zip(needed, batch)), labels


def _is_flat_list(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, Number) for value in values)


class IteratorData(Data):
    """An MXNet iterator as batches of a network's inputs."""

    def __init__(self, iterator: Any, check_labels: CheckLabels | None) -> None:
        super().__init__(iterator, check_labels)
        self.n_examples = getattr(iterator, "num_data", None)
        self.is_stream = all(kind.__name__ != "NDArrayIter" for kind in type(iterator).__mro__)
        #: Whether a pass may start in the middle of the data, as where only the batches matter.
        self.starts_anywhere = False

    def batches(  # noqa: D102  (see Data)
        self,
        input_names: Names,
        needed: Names,
        is_example: IsExample,
        batch_size: int,
        progress: bool | None,
    ) -> Iterator[Batch]:
        if is_example:
            raise ValueError(
                "an MXNet iterator yields arrays, but this network takes raw examples: give raw "
                "examples, or open the network without inputs"
            )
        names = [_name(description) for description in self.given.provide_data]
        if len(names) == len(needed) == 1 and names[0] not in input_names:
            names = list(needed)
        check_names(names, input_names, needed)
        is_displaced = _is_native(self.given) and self.given in _displaced
        if is_displaced and not self.starts_anywhere:
            raise ValueError(
                "this iterator would now start in the middle of its data: with round_batch=True, "
                "MXNet's iterators continue after the padding of their last batch. Make a new "
                "iterator for each pass"
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
                    batch = _read_batch(given, names, start, ends)
                except ValueError:
                    # What was refused may be leftover memory at the end, not an example.
                    if next(self.given, None) is None:
                        ends.check_last()
                    raise
                yield batch
                start += batch.n_examples
        finally:
            rewind(self.given)
        if not self.starts_anywhere:
            ends.check(start)
        if not start:
            raise ValueError(f"the iterator is empty: {self.given!r:.80}")


def _read_batch(batch: Any, names: list[str], start: int, ends: "_Ends") -> Batch:
    if len(batch.data) != len(names):
        raise ValueError(
            f"a batch must hold the inputs of provide_data ({', '.join(names)}), got "
            f"{len(batch.data)} arrays"
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
        raise ValueError(f"the iterator has {len(batch.label)} labels per example; give one")
    labels = to_numpy(batch.label[0])
    if labels.ndim == 0 or len(labels) < n:
        raise ValueError(f"labels have shape {labels.shape}; one per example is needed")
    return Batch(inputs, n, batch_labels(labels, n))


def rewind(iterator: Any) -> None:
    """Bring an iterator to its start.

    MXNet's C++ iterators, such as CSVIter, read ahead in a thread. Resetting one before its end
    leaves it in a random place. So it is read to the end first, or left alone if it is at its
    start.
    """
    if _is_native(iterator):
        if iterator.first_batch is not None or iterator._debug_at_begin:
            return
        deque(iterator, maxlen=0)
    # An NDArrayIter that rolls over would start with the rest of the last pass.
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
            raise ValueError(f"the iterator has more examples than its num_data, {self.num_data}")
        return min(n, self.num_data - start)

    def check(self, n_examples: int) -> None:
        """Refuse a doubtful end; remember iterators that will start in the middle."""
        self.check_last()
        missing = 0 if self.counts or self.num_data is None else self.num_data - n_examples
        size = 0 if self.last is None else len(self.last)
        if 0 < missing < size == self.stop and (not self.was_read or self.iterator in _dropping):
            # MNISTIter, for example, drops an incomplete last batch, then starts over.
            _dropping.add(self.iterator)
            warnings.warn(
                f"the iterator leaves out the last {missing} of its {self.num_data} examples, as "
                f"they do not fill a batch of {size}: use a batch_size that divides "
                f"{self.num_data}",
                stacklevel=2,
            )
            return
        if missing:
            raise ValueError(
                f"the iterator gave {n_examples} examples, but its num_data is {self.num_data}; "
                "with round_batch=True, make a new iterator for each pass"
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
                "this iterator was read before and may have started in the middle of its data: "
                "with round_batch=True, MXNet's iterators continue after the padding of their last "
                "batch. Make a new iterator for each pass",
                stacklevel=2,
            )

    def check_last(self) -> None:
        """Refuse a last batch that may hold more than examples."""
        full = self.last is not None and self.stop == len(self.last)
        if not self.counts and self.num_data is None and full:
            raise ValueError(
                "this iterator does not report the padding of its last batch: with "
                "round_batch=False, MXNet's image iterators fill it with leftover memory. Set its "
                "num_data to the number of examples in its file, or make it with round_batch=True "
                "and a batch_size that does not divide that number"
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


def read_all(
    data: Data,
    input_names: Names,
    needed: Names,
    prepare: Callable[[Examples], dict[str, np.ndarray]],
    is_example: IsExample,
    watch: Callable[[Examples], None] | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Read all data into memory: the network's inputs by name, and the labels.

    ``watch`` is called with the examples of each batch, as by ``SourceModel.extract``.
    """
    size = max(data.n_examples or 1, 1)
    found, labels = [], []
    batches = data.batches(input_names, needed, is_example, batch_size=size, progress=False)
    for batch in batches:
        if watch is not None:
            watch(take(batch.examples, slice(batch.n_examples)))
        inputs = prepare(batch.examples)
        found.append({name: array[: batch.n_examples] for name, array in inputs.items()})
        labels.append(batch.labels)
    inputs = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    return inputs, data.join_labels(labels)


def checked_array(X: Any) -> Any:
    """Refuse arrays that no network takes (sparse, complex, without columns), as scikit-learn does.

    Only NumPy arrays and what turns into one are looked at: not tables, lists, iterators, tensors.
    """
    refuse_masked(X)
    is_array = isinstance(X, np.ndarray)
    if is_array and _is_raw_column(X):
        return X
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


def _is_raw_column(X: np.ndarray) -> bool:
    """Return whether this is an array of texts, paths and the like, of shape (n,) or (n, 1)."""
    is_column = X.ndim == 1 or (X.size == len(X) > 0 and not isinstance(X.flat[0], Number))
    return is_column and X.dtype.kind in "OUST"


def _given_labels(y: Any, n_examples: int) -> np.ndarray:
    refuse_masked(y)
    if is_tensor(y) or (isinstance(y, (list, tuple)) and y and is_tensor(y[0])):
        y = to_numpy(y)
    labels = check_array(_column(y), dtype=None, input_name="y", **_ANY_ARRAY)
    if labels.dtype == object and all(isinstance(one, (Number, np.bool_)) for one in labels.flat):
        labels = np.array(labels.tolist())
    if labels.ndim != 2 or labels.shape[1] == 1:
        labels = column_or_1d(labels, warn=True)
    missing = [i for i, label in enumerate(labels) if labels.dtype == object and is_missing(label)]
    if missing:
        raise ValueError(
            f"the labels hold {labels[missing[0]]} at example {missing[0]}; leave out unlabelled "
            "examples"
        )
    if len(labels) != n_examples:
        raise ValueError(f"X has {n_examples} examples and y has {len(labels)} labels")
    return labels


def _column(values: Any) -> Any:
    """Return a column of pandas, polars or Arrow in its own order and type as an array."""
    try:
        return values.to_numpy() if hasattr(values, "to_numpy") else values
    except ValueError:  # Arrow's own way copies nothing, which texts need
        return np.asarray(values)


def _length(data: Any) -> int:
    if isinstance(data, (str, bytes, PathLike)):
        advice = "use xfer.image_folder" if os.path.isdir(data) else "give a list, even of one"
        given = f"{type(data).__name__}: {data!r:.80}"
        raise TypeError(f"data must be a list of examples, got {given}; {advice}")
    values = next(iter(data.values()), ()) if isinstance(data, Mapping) else data
    if not hasattr(values, "__len__") or getattr(values, "ndim", 1) == 0:
        raise TypeError(f"data must be an array, a dict, a list or an iterable, got {values!r:.80}")
    return len(values)


def is_raw_example(value: Any) -> bool:
    """Return whether this is an example, such as a text or an image, and not a batch of them."""
    return not _has_axes(value)


def length_of(values: Any) -> int | None:
    """Return the length, or None where there is none; a DataLoader may have one and not know it."""
    try:
        return len(values)
    except TypeError:
        return None


def is_missing(label: Any) -> bool:
    """Return whether this is None or a missing value of pandas; NaN is a number."""
    return label is None or type(label).__name__ in ("NAType", "NaTType")


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


def is_mxnet_iterator(data: Any) -> bool:
    """Return whether this is an MXNet iterator, which brings its own batches and labels."""
    return hasattr(data, "provide_data") and hasattr(data, "reset")


def take(examples: Examples, index: slice | np.ndarray) -> Examples:
    """Pick some of a batch's examples."""
    if isinstance(examples, dict):
        return {name: array[index] for name, array in examples.items()}
    return examples[index] if isinstance(index, slice) else [examples[i] for i in index]


def take_first(data: Any, n: int) -> Any:
    """Return the first examples of an array, a table, a dict of arrays or a list."""
    if isinstance(data, Mapping):
        return {name: values[:n] for name, values in data.items()}
    return data[:n]


def first_examples(data: Data, n: int = 8) -> Any:
    """Return the first examples of data; None where reading them would use them up."""
    if isinstance(data, ExampleData):
        return take_first(data.given, n)
    if is_mxnet_iterator(data.given) or iter(data.given) is data.given:
        return None
    batch = next(iter(data.given))
    return [tuple(batch) if isinstance(batch, list) else batch]  # a list would be of examples


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


def is_tensor(values: Any) -> bool:
    """Return whether this is a tensor of MXNet or torch, which NumPy cannot read by itself."""
    return hasattr(values, "asnumpy") or hasattr(values, "detach")


def to_numpy(values: Any) -> np.ndarray:
    """Return a NumPy array of anything like an array, and of tensors of MXNet and torch."""
    if hasattr(values, "asnumpy"):
        return values.asnumpy()
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        return (values.float() if values.is_floating_point() else values).numpy()
    if isinstance(values, (list, tuple)) and values and all(map(is_tensor, values)):
        values = [to_numpy(value) for value in values]
    if isinstance(values, (list, tuple)) and all(isinstance(one, np.ndarray) for one in values):
        for one in values:
            refuse_masked(one)
        shapes = sorted({one.shape for one in values})
        if len(shapes) > 1:
            raise ValueError(
                f"examples must have one shape, got {', '.join(map(str, shapes[:5]))}: resize them "
                "first, images with xfer.ImageInputs"
            )
    refuse_masked(values)
    array = np.asarray(values)
    if array.dtype == object and array.ndim == 1 and _is_of_arrays(array):
        return to_numpy(list(array))  # a column of arrays
    if array.dtype == object and all(isinstance(one, (Number, np.bool_)) for one in array.flat):
        return array.astype(np.float64)  # a table whose columns differ in type
    return array


def _is_of_arrays(column: np.ndarray) -> bool:
    return len(column) > 0 and all(isinstance(one, np.ndarray) for one in column)


def refuse_masked(values: Any) -> None:
    """Refuse an array with masked entries, which would lose its mask."""
    if np.ma.is_masked(values):
        raise ValueError("the data have masked values: fill them, or drop those examples")


def as_array(values: Any, name: str) -> np.ndarray:
    """Return the data of one input as an array of numbers with one row per example."""
    array = to_numpy(values)
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        others = (one for one in array.flat if not isinstance(one, (Number, np.bool_)))
        other = next(others, None) if array.dtype.kind in "OUS" else None
        advice = "; for files or texts, open the network with inputs: xfer.ImageInputs, TextInputs"
        raise ValueError(
            f"input {name!r} must be an array of numbers with one row for each example, got "
            f"shape {array.shape} of {array.dtype}"
            + ("" if other is None else f", such as {other!r:.80}")
            + (advice if isinstance(other, (str, PathLike)) else "")
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
                    f"the iterator stores label {whole.flat[np.abs(whole).argmax()]} as a 32-bit "
                    "float, which is exact only below 2**24; use smaller labels"
                )
            return whole
    return values


def check_ids(inputs: Mapping[str, np.ndarray], limits: Iterable[tuple[str, str, int]]) -> None:
    """Refuse word ids that embeddings lack, given input, layer and table size of each."""
    for name, layer, size in limits:
        ids = inputs.get(name)
        if ids is not None and ids.dtype.kind == "f" and (wrong := ids[ids != np.trunc(ids)]).size:
            raise ValueError(f"layer {layer!r} takes word ids; the data hold {wrong[0]}")
        if ids is not None and ids.size and (ids.min() < 0 or ids.max() >= size):
            found = ids.min() if ids.min() < 0 else ids.max()
            raise ValueError(
                f"the data have id {found:.0f}, but layer {layer!r} has only ids 0 to {size - 1}: "
                "was the corpus made with the network's own vocabulary?"
            )
