"""The features of all examples in one preallocated matrix, checked as they come in."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# With a cache, a larger matrix is put into a file, where the system can move out what is not used.
_IN_MEMORY = 2**30


@dataclass(frozen=True, eq=False)
class Features(Mapping):
    """What a network computed: a mapping from layer name to an array of shape (n, ...).

    Parameters
    ----------
    matrix : ndarray of shape (n, d), float32
        The features of all layers side by side; row i belongs to example i.
    columns : dict of str to slice
        The columns of each layer in ``matrix``.
    shapes : dict of str to tuple of int
        Shape of each layer's features for one example.
    labels : ndarray of shape (n,) or (n, k), or None
        The labels that came with the data.
    """

    matrix: np.ndarray = field(repr=False)
    columns: dict[str, slice]
    shapes: dict[str, tuple[int, ...]]
    labels: np.ndarray | None = field(default=None, repr=False)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.matrix[:, self.columns[name]].reshape(len(self.matrix), *self.shapes[name])

    def __iter__(self) -> Any:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


class FeatureTable:
    """One float32 matrix for the features of all layers; grows only if the length is not known.

    With a `folder`, a matrix beyond 1 GiB is kept in a temporary file there.
    """

    def __init__(self, names: Sequence[str], n_examples: int | None, folder: Any = None) -> None:
        self.names = names
        self.n_rows = 0
        self._capacity = n_examples or 0
        self._folder = folder
        self._matrix: np.ndarray | None = None
        self._columns: dict[str, slice] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def append(self, outputs: Sequence[np.ndarray], n: int) -> None:
        """Add the features of the next n examples, an array (>= n, ...) for each layer."""
        outputs = [output[:n] for output in outputs]
        matrix = self._make_room(self.n_rows + n, [output.shape[1:] for output in outputs])
        rows = slice(self.n_rows, self.n_rows + n)
        for name, output in zip(self.names, outputs):
            if output.shape[1:] != self._shapes[name]:
                raise ValueError(
                    f"layer {name!r} gave shape {output.shape[1:]} for example {self.n_rows}, and "
                    f"{self._shapes[name]} for others; features need one shape: reduce them with "
                    "a pooling, such as 'masked_mean' for tokens"
                )
            block = matrix[rows, self._columns[name]]
            with np.errstate(over="ignore", invalid="ignore"):
                block[...] = output.reshape(n, -1)
            _check_finite(name, block, self.n_rows)
        self.n_rows += n

    def finish(self, labels: np.ndarray | None) -> Features:
        """Return what was collected, with the labels of the examples."""
        matrix = self._matrix
        assert matrix is not None  # data without an example were refused while they were read
        if len(matrix) > self.n_rows:
            if matrix.flags.owndata:
                matrix.resize((self.n_rows, matrix.shape[1]), refcheck=False)
            else:
                matrix = matrix[: self.n_rows]
        return Features(matrix, self._columns, self._shapes, labels)

    def _make_room(self, n_rows: int, shapes: list[tuple[int, ...]]) -> np.ndarray:
        if self._matrix is None:
            self._capacity = max(self._capacity, n_rows)
            self._shapes = dict(zip(self.names, shapes))
            stops = np.cumsum([int(np.prod(shape)) for shape in shapes]).tolist()
            self._columns = {n: slice(a, b) for n, a, b in zip(self.names, [0, *stops], stops)}
            self._matrix = self._allocate((self._capacity, stops[-1]))
        elif n_rows > self._capacity:
            self._capacity = max(n_rows, self._capacity * 5 // 4)
            shape = (self._capacity, self._matrix.shape[1])
            if self._matrix.flags.owndata:
                # A large block grows by moving pages, not bytes, so this makes no second copy.
                self._matrix.resize(shape, refcheck=False)
            else:
                smaller, self._matrix = self._matrix, self._allocate(shape)
                self._matrix[: len(smaller)] = smaller
        return self._matrix

    def _allocate(self, shape: tuple[int, int]) -> np.ndarray:
        if self._folder is None or 4 * shape[0] * shape[1] < _IN_MEMORY:
            return np.empty(shape, np.float32)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            return np.memmap(file, np.float32, "w+", shape=shape).view(np.ndarray)


def _check_finite(name: str, block: np.ndarray, start: int) -> None:
    # After the cast to float32: a double of 1e40 is infinite by then. A sum is quick and finds
    # nearly everything; only where it is not finite is a closer look needed.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(block.sum())
    if suspicious:
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad):
            raise ValueError(
                f"layer {name!r} gave NaN or infinity (or a number beyond 32-bit floats) for "
                f"example {start + bad[0]}; the network's parameters or its input are out of range"
            )
