"""The contract of a source: a frozen network that turns data into features of its named layers."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from xfer.sources.data import join_labels, open_data

_POOLING = {
    "flatten": lambda maps: maps,
    "mean": lambda maps: maps.mean(axis=tuple(range(2, maps.ndim))) if maps.ndim > 2 else maps,
    "max": lambda maps: maps.max(axis=tuple(range(2, maps.ndim))) if maps.ndim > 2 else maps,
}


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Parameters
    ----------
    name : str
        What it is asked for by.
    operator : str
        What it computes, in the framework's own word, such as ``"Convolution"``.
    shape : tuple of (int or None), or None
        Shape of its output for one example; None where it cannot be inferred without data.
    parameter_count : int
        Learned numbers that this layer owns: weights, biases, scales; not running statistics.
    """

    name: str
    operator: str
    shape: tuple | None
    parameter_count: int


@dataclass(frozen=True, eq=False)
class Features(Mapping):
    """What a network computed: a mapping from layer name to an array of shape (n, ...).

    Parameters
    ----------
    matrix : ndarray of shape (n, d), float32
        Every layer's features side by side; row i belongs to example i.
    columns : dict of str to slice
        The columns of each layer in ``matrix``.
    shapes : dict of str to tuple of int
        Shape of each layer's features for one example.
    labels : ndarray of shape (n,) or None
        The labels that came with the data.
    """

    matrix: np.ndarray = field(repr=False)
    columns: dict
    shapes: dict
    labels: np.ndarray | None = field(repr=False)

    def __getitem__(self, name):
        return self.matrix[:, self.columns[name]].reshape(len(self.matrix), *self.shapes[name])

    def __iter__(self):
        return iter(self.columns)

    def __len__(self):
        return len(self.columns)


class SourceModel(ABC):
    """A frozen network with named layers.

    A source of one's own gives ``layers`` and ``input_names``, and computes one batch in
    ``_forward``; reading data, checking it, pooling and filling the matrix happen here, once for
    every framework.
    """

    #: Examples to a batch when the data are arrays.
    batch_size = 32

    @property
    @abstractmethod
    def layers(self):
        """Every layer, each after what it needs (list of Layer)."""

    @property
    @abstractmethod
    def input_names(self):
        """Names of the network's inputs (list of str)."""

    @abstractmethod
    def _forward(self, inputs, layers):
        """Compute one batch.

        Parameters
        ----------
        inputs : dict of str to ndarray of shape (rows, ...)
        layers : tuple of Layer

        Returns
        -------
        list of ndarray of shape (rows, ...)
            One for each of ``layers``, in inference mode.
        """

    def _inputs_of(self, layers):
        """Name the inputs that some layers depend on; all, unless a source knows better."""
        return self.input_names

    @property
    def layer_names(self):
        """Names of ``layers`` (list of str)."""
        return [layer.name for layer in self.layers]

    def find_layers(self, names):
        """Look layers up by name.

        Parameters
        ----------
        names : str or list of str

        Returns
        -------
        tuple of Layer

        Raises
        ------
        TypeError
            If a name is not a string.
        ValueError
            If there is no name, a name occurs twice, or there is no such layer; the message lists
            the nearest names.
        """
        names = [names] if isinstance(names, str) else list(names)
        if not names:
            raise ValueError("no layer was asked for: feature_layer_names is empty")
        layers = tuple(self._find_layer(name) for name in names)
        found = [layer.name for layer in layers]
        if len(set(found)) < len(found):
            raise ValueError(f"a layer was asked for more than once: {names}")
        return layers

    def _find_layer(self, name):
        if not isinstance(name, str):
            raise TypeError(f"a layer name must be a string, got {type(name).__name__}: {name!r}")
        found = [layer for layer in self.layers if layer.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"the network has {len(found)} layers named {name!r}; rename them")
        near = difflib.get_close_matches(name, self.layer_names, n=5, cutoff=0.4)
        hint = f"nearest: {', '.join(near)}" if near else f"layers: {_shorten(self.layer_names)}"
        raise ValueError(f"the network has no layer {name!r}; {hint}")

    def extract(self, data, layer_names, *, pooling="flatten", batch_size=None, progress=None):
        """Run data through the network and keep what the named layers put out.

        Parameters
        ----------
        data : mxnet.io.DataIter, array of shape (n, ...), or dict of str to array
            The examples. An iterator is reset, read once, and reset again.
        layer_names : str or list of str
            The layers, in the order of the columns.
        pooling : {"flatten", "mean", "max"}, default="flatten"
            What to do with convolutional maps of shape (channels, ...): keep every position, or
            reduce the positions of each channel to one number.
        batch_size : int, optional
            Examples to a batch for arrays; iterators bring their own.
        progress : bool, optional
            Whether to show a bar; by default only in an interactive session.

        Returns
        -------
        Features
            In the order of the data, without the padding of a last batch.

        Raises
        ------
        ValueError
            If a layer is unknown, the data do not fit the network, are empty, or they or the
            features hold NaN or infinity.
        """
        if pooling not in _POOLING:
            raise ValueError(f"pooling must be one of {sorted(_POOLING)}, got {pooling!r}")
        layers = self.find_layers(layer_names)
        batch_size = self.batch_size if batch_size is None else batch_size
        data = open_data(data, self.input_names, self._inputs_of(layers), batch_size)
        writer = _FeatureWriter(layers, pooling, data.number)
        labels = []
        for batch in data.batches(progress):
            writer.write(self._forward(batch.inputs, layers), batch.rows)
            labels.append(batch.labels)
        return writer.finish(join_labels(labels))

    def __repr__(self):
        inputs = ", ".join(self.input_names)
        return f"{type(self).__name__}({len(self.layers)} layers, inputs: {inputs})"

    def __str__(self):
        """Lay the layers out as a table."""
        rows = [("layer", "operator", "output shape", "parameters")]
        for layer in self.layers:
            shape = "?" if layer.shape is None else str(layer.shape).replace("None", "?")
            rows.append((layer.name, layer.operator, shape, f"{layer.parameter_count:,}"))
        widths = [max(map(len, column)) for column in zip(*rows)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        if any("?" in row[2] for row in rows):
            table.append("?: not known before the network is bound or has seen data")
        return "\n".join([repr(self), *table])


class _FeatureWriter:
    """Fills one matrix batch by batch; it grows in place only if the number was not known."""

    def __init__(self, layers, pooling, number):
        self.layers = layers
        self.pool = _POOLING[pooling]
        self.number = number
        self.matrix = None
        self.written = 0

    def write(self, outputs, rows):
        pooled = [self.pool(self._rows(*pair, rows)) for pair in zip(self.layers, outputs)]
        if self.matrix is None:
            self._allocate(pooled, rows)
        stop = self.written + rows
        if stop > len(self.matrix):
            # A large block grows by moving pages, not bytes, so this costs no second copy.
            room = max(stop, len(self.matrix) * 5 // 4)
            self.matrix.resize((room, self.matrix.shape[1]), refcheck=False)
        for columns, values in zip(self.columns.values(), pooled):
            self.matrix[self.written : stop, columns] = values.reshape(rows, -1)
        self._check_finite(stop)
        self.written = stop

    def finish(self, labels):
        if self.written < len(self.matrix):
            self.matrix.resize((self.written, self.matrix.shape[1]), refcheck=False)
        return Features(self.matrix, self.columns, self.shapes, labels)

    def _rows(self, layer, output, rows):
        if output.ndim == 0 or len(output) < rows:
            raise ValueError(
                f"layer {layer.name!r} gave shape {output.shape} for a batch of {rows} examples; "
                "features need one row for each example"
            )
        return output[:rows]

    def _allocate(self, pooled, rows):
        names = [layer.name for layer in self.layers]
        self.shapes = {name: values.shape[1:] for name, values in zip(names, pooled)}
        stops = np.cumsum([values[0].size for values in pooled]).tolist()
        self.columns = {n: slice(a, b) for n, a, b in zip(names, [0, *stops], stops)}
        self.matrix = np.empty((self.number or rows, stops[-1]), np.float32)

    def _check_finite(self, stop):
        block = self.matrix[self.written : stop]
        if np.isfinite(block.sum()):
            return
        for name, columns in self.columns.items():
            bad = np.flatnonzero(~np.isfinite(block[:, columns]).all(axis=1))
            if len(bad):
                raise ValueError(
                    f"layer {name!r} gave NaN or infinity for example {self.written + bad[0]}; "
                    "the network's parameters or its input are out of range"
                )


def _shorten(names, most=12):
    return ", ".join(names if len(names) <= most else [*names[:most], f"... ({len(names)} in all)"])
