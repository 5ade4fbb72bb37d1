"""The contract of a source: a frozen network that turns data into features of its named layers."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from xfer.sources.batches import as_array, check_names, checked, to_numpy
from xfer.sources.data import open_data
from xfer.sources.extraction import Extraction
from xfer.sources.pooling import check_poolings, pool


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
    #: Turns a list of examples into what the network takes; None where the data are ready.
    preprocess = None
    #: The word id that fills up short sequences; None where there is none or it is not known.
    padding_id = None
    #: Whether short batches are filled up, because another shape costs time.
    one_batch_size = True
    #: How many batches a device computes while the one before is written.
    batches_under_way = 0

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

    def extract(
        self,
        data,
        layer_names,
        *,
        pooling="flatten",
        batch_size=None,
        progress=None,
        cache=None,
    ):
        """Run data through the network and keep what the named layers put out.

        Parameters
        ----------
        data : array of shape (n, ...), dict of str to array, list, or what brings batches
            The examples: an array for a network with one input, a dict by the names of several, or
            a list (of texts, of images) for ``preprocess``. Or their batches: an MXNet iterator,
            which is reset, read once, and reset again; a DataLoader of torch or Gluon; a generator
            or list of batches, each an array, a tuple of the inputs and maybe labels, or a dict of
            inputs and maybe ``"labels"``.
        layer_names : str or list of str
            The layers, in the order of the columns.
        pooling : str or dict of str to str, default="flatten"
            How to reduce a layer's output, for all layers or by name. Of maps of shape
            (channels, ...): ``"mean"``, ``"max"`` or ``"mean+max"`` of each channel's positions.
            Of tokens of shape (tokens, features): the ``"first_token"``, or the ``"masked_mean"``
            of those that are not padding. ``"flatten"`` keeps everything. Layers without positions
            are left as they are.
        batch_size : int, optional
            Examples to a batch for arrays and lists; iterators bring their own.
        progress : bool, optional
            Whether to show a bar; by default only in an interactive session.
        cache : xfer.FeatureCache, optional
            Keeps features by example, so that each is computed once.

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
        layers = self.find_layers(layer_names)
        poolings = check_poolings(pooling, layers)
        batch_size = self.batch_size if batch_size is None else batch_size
        raw = self.preprocess is not None
        needed = self._inputs_of(layers)
        data = open_data(data, self.input_names, needed, batch_size, raw=raw)
        with Extraction(self, layers, poolings, data.number, data.batch_size, cache) as work:
            for batch in data.batches(progress):
                work.add(batch)
            matrix, labels = work.finish()
        return Features(matrix.values, matrix.columns, matrix.shapes, labels)

    def start(self, examples, layers, poolings):
        """Compute one batch, or begin to: what goes to :meth:`finish`.

        Parameters
        ----------
        examples : dict of str to ndarray of shape (rows, ...), or list of examples
        layers : tuple of Layer
        poolings : list of str
            One for each layer.

        Returns
        -------
        object
        """
        inputs = self.prepare(examples, self._inputs_of(layers))
        mask = self._mask(inputs)
        outputs = zip(self._forward(inputs, layers), poolings, layers)
        return [pool(output, pooling, layer.name, mask) for output, pooling, layer in outputs]

    def finish(self, started):
        """Wait for what :meth:`start` began.

        Parameters
        ----------
        started : object

        Returns
        -------
        list of ndarray of shape (rows, ...)
            One for each layer, pooled.
        """
        return started

    def prepare(self, examples, needed):
        """Turn examples into the network's inputs.

        Parameters
        ----------
        examples : dict of str to ndarray of shape (rows, ...), or list of examples
            A dict is ready, and returned as it is; a list goes through ``preprocess``.
        needed : list of str
            The inputs that are needed.

        Returns
        -------
        dict of str to ndarray of shape (rows, ...)

        Raises
        ------
        ValueError
            If ``preprocess`` gives something else than an array, or a list or dict of arrays, with
            a row for each example.
        """
        if isinstance(examples, dict):
            return examples
        found = self.preprocess(examples)
        if not isinstance(found, Mapping):
            if len(needed) > 1:
                raise ValueError(
                    f"preprocess must return a dict with an array for each of {', '.join(needed)}; "
                    f"it returned {type(found).__name__}"
                )
            found = {needed[0]: found}
        check_names(found, self.input_names, needed)
        inputs = {name: _stack(values, name) for name, values in found.items()}
        for name, array in inputs.items():
            if len(array) != len(examples):
                raise ValueError(
                    f"preprocess gave {len(array)} rows of input {name!r} for {len(examples)} "
                    "examples: it is called with a list of examples, and returns a row for each"
                )
        return {name: checked(array, name) for name, array in inputs.items()}

    def cache_keys(self, layers, poolings):
        """Tell what decides the features of layers beside the example.

        Parameters
        ----------
        layers : sequence of Layer
        poolings : list of str
            One for each layer.

        Returns
        -------
        list of dict
            One for each layer, to go into JSON.

        Raises
        ------
        ValueError
            If the network has no ``fingerprint`` to be known by, or one ``preprocess`` cannot be
            told from another.
        """
        from xfer.cache import code_digest

        if not hasattr(self, "fingerprint"):
            raise ValueError(
                f"features of a {type(self).__name__} cannot be kept: it has no method "
                "fingerprint(layer_names) that tells one network from another"
            )
        shared = {
            "source": type(self).__name__,
            "padding_id": self.padding_id,
            "preprocess": self.preprocess and code_digest(self.preprocess),
        }
        each = zip(layers, poolings, self._fingerprint_each(layers))
        return [
            {**shared, "network": network, "layer": layer.name, "pooling": pooling}
            for layer, pooling, network in each
        ]

    def _fingerprint_each(self, layers):
        return [self.fingerprint([layer.name]) for layer in layers]

    def _mask(self, inputs):
        """Tell words from padding: an array (rows, tokens) that is not 0 where a word is."""
        if "attention_mask" in inputs:
            return inputs["attention_mask"]
        if self.padding_id is None:
            return None
        return next((ids != self.padding_id for ids in inputs.values() if ids.ndim == 2), None)

    def __deepcopy__(self, memo):
        # A network that nobody changes need not be there twice.
        return self

    def __repr__(self):
        inputs = ", ".join(self.input_names)
        return f"{type(self).__name__}({len(self.layers)} layers, inputs: {inputs})"

    def __str__(self):
        """Lay the layers out as a table."""
        rows, notes = self._table()
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([repr(self), *lines, *notes])

    def _repr_html_(self):
        from xfer._html import table

        (head, *rows), notes = self._table()
        return table(repr(self), head, rows, notes)

    def _table(self):
        """Return the rows of the table of layers, the first of which names the columns."""
        rows = [("layer", "operator", "output shape", "parameters")]
        for layer in self.layers:
            shape = "?" if layer.shape is None else str(layer.shape).replace("None", "?")
            rows.append((layer.name, layer.operator, shape, f"{layer.parameter_count:,}"))
        unknown = any("?" in row[2] for row in rows)
        return rows, ["?: not known before the network is bound or has seen data"] * unknown


def _shorten(names, most=12):
    return ", ".join(names if len(names) <= most else [*names[:most], f"... ({len(names)} in all)"])


def _stack(values, name):
    """Return what a preprocess made as one array: of a list, the arrays of its examples."""
    if isinstance(values, (list, tuple)):
        try:
            return as_array(np.stack([to_numpy(value) for value in values]), name)
        except ValueError as error:
            raise ValueError(
                f"preprocess must give arrays of one shape and numbers for input {name!r}: {error}"
            ) from error
    return as_array(values, name)
