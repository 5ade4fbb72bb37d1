"""Layers' outputs, pooled, in one preallocated matrix that is checked as it fills."""

import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Of maps; the network shows which axis holds the channels, or a prefix of the name says it.
_OF_MAPS = ("mean", "max", "mean+max")
_AXES = ("channels_first_", "channels_last_")
#: The last two are for tokens (n, tokens, features).
POOLINGS = (
    *("flatten", *_OF_MAPS, *(axis + name for axis in _AXES for name in _OF_MAPS)),
    *("first_token", "masked_mean"),
)
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
    ranges : dict of str to (float, float)
        The smallest and the largest number of each input of three dimensions or more.
    """

    matrix: np.ndarray = field(repr=False)
    columns: dict[str, slice]
    shapes: dict[str, tuple[int, ...]]
    labels: np.ndarray | None = field(default=None, repr=False)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict, repr=False)

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
        self._ranges: dict[str, tuple[float, float]] = {}

    def see(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Note the range of each input, if it may hold pictures or signals, not word ids."""
        for name, array in inputs.items():
            if array.ndim < 3 or not (array.dtype.kind == "f" or array.dtype == np.uint8):
                continue
            low, high = self._ranges.get(name, (np.inf, -np.inf))
            low, high = min(low, float(array.min())), max(high, float(array.max()))
            self._ranges[name] = low, high

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
        return Features(matrix, self._columns, self._shapes, labels, self._ranges)

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
            value = block[bad[0]][~np.isfinite(block[bad[0]])][0]
            raise ValueError(
                f"layer {name!r} gave NaN or infinity (or a number beyond 32-bit floats) for "
                f"example {start + bad[0]}, such as {value}: the network's parameters or its input "
                "are out of range, or it holds infinity on purpose, as padding does: then use a "
                "later layer"
            )


def check_poolings(pooling: str | Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Return the pooling of each layer; layers that a dict leaves out are flattened."""
    by_layer = dict(pooling) if isinstance(pooling, Mapping) else dict.fromkeys(names, pooling)
    unknown = [name for name in by_layer if name not in names]
    if unknown:
        raise ValueError(
            f"pooling names {', '.join(map(repr, unknown))}; the layers asked for are "
            f"{', '.join(names)}"
        )
    for one in by_layer.values():
        if not isinstance(one, str) or one not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {one!r}")
    return [by_layer.get(name, "flatten") for name in names]


def pool(output: Any, pooling: str, layer_name: str, mask: Any = None) -> Any:
    """Reduce one layer's output (n, ...), an array or a tensor; (n, features) stays as it is.

    `mask` (n, tokens) is 0 where a token is padding; without it all tokens count.
    """
    if output.ndim < 3 or pooling == "flatten":
        return output
    if pooling in ("first_token", "masked_mean"):
        if output.ndim != 3:
            raise ValueError(
                f"pooling {pooling!r} takes tokens of shape (tokens, features); layer "
                f"{layer_name!r} gives shape {tuple(output.shape[1:])}"
            )
        reduce = _first_token if pooling == "first_token" else _masked_mean
        return reduce(output, mask, layer_name)
    has_tokens = mask is not None and output.ndim == 3 and output.shape[1] == mask.shape[1]
    if has_tokens:
        raise ValueError(
            f"layer {layer_name!r} gives tokens of shape (tokens, features); pooling "
            f"{pooling.rpartition('_')[2]!r} is for maps: use 'masked_mean' or 'first_token'"
        )
    is_last = pooling.startswith("channels_last_")
    axis = 1 if is_last else 2
    n, channels = output.shape[0], output.shape[-1 if is_last else 1]
    positions = output.reshape((n, -1, channels) if is_last else (n, channels, -1))
    if pooling.endswith("mean+max"):
        join = np.concatenate if isinstance(positions, np.ndarray) else sys.modules["torch"].cat
        return join([positions.mean(axis=axis), _max(positions, axis)], 1)
    return _max(positions, axis) if pooling.endswith("max") else positions.mean(axis=axis)


def with_axis(
    pooling: str, name: str, shape: tuple, channels: Callable[[str, tuple], str | None]
) -> str:
    """Add the axis of the channels to the name of a pooling of maps.

    `shape` is that of the layer's output. `channels` returns the axis, "first" or "last", or None
    if it is unknown; then it is the first.
    """
    example = shape[1:]
    if pooling not in _OF_MAPS or len(example) < 2:
        return pooling
    known = channels(name, example)
    is_square = len(example) == 3 and example[0] != example[1] == example[2]
    if known is None and (is_square or np.prod(example[1:]) == 1):
        known = "first"  # pictures are mostly square
    if known is None:
        warnings.warn(
            f"pooling {pooling!r} keeps the first axis of layer {name!r}, which gives shape "
            f"{example}. If the channels (or features) are on the last axis, use the pooling "
            f"'channels_last_{pooling}'; otherwise 'channels_first_{pooling}'",
            stacklevel=2,
        )
    return pooling if known is None else f"channels_{known}_{pooling}"


def pooled_shape(shape: tuple, pooling: str) -> tuple:
    """Return the shape of one example's features after pooling."""
    if len(shape) < 2 or pooling == "flatten":
        return tuple(shape)
    if pooling in ("first_token", "masked_mean"):
        return tuple(shape[1:])
    n_channels = shape[-1 if pooling.startswith("channels_last_") else 0]
    return (2 * n_channels if pooling.endswith("mean+max") else n_channels,)


def _first_token(tokens: Any, mask: Any, layer_name: str) -> Any:
    """Take the first token that is not padding: some tokenizers put the padding first."""
    if mask is None or tuple(mask.shape) != tuple(tokens.shape[:2]):
        return tokens[:, 0]
    first = (mask != 0).argmax(1) if isinstance(mask, np.ndarray) else (mask != 0).int().argmax(1)
    return tokens[range(len(tokens)), first]


def _masked_mean(tokens: Any, mask: Any, layer_name: str) -> Any:
    if mask is None:
        return tokens.mean(axis=1)
    if tuple(mask.shape) != tuple(tokens.shape[:2]):
        raise ValueError(
            f"layer {layer_name!r} gives {tokens.shape[1]} tokens but the data have "
            f"{mask.shape[1]}, so it is unknown which are padding; use another pooling"
        )
    counts = (mask != 0).sum(axis=1)[:, None]
    # An example of nothing but padding has no mean; it gets zeros.
    kept = (mask != 0)[:, :, None] * tokens
    return kept.sum(axis=1) / counts.clip(1)


def _max(positions: Any, axis: int) -> Any:
    # NumPy's max over an axis is called amax in torch.
    return positions.max(axis=axis) if isinstance(positions, np.ndarray) else positions.amax(axis)
