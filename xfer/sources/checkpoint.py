"""MXNet networks as sources of features, with MXNet or without it."""

import warnings

import numpy as np

from xfer.checkpoint.convert import convert
from xfer.checkpoint.network import Network
from xfer.checkpoint.onnx_graph import BATCH, follows_batch
from xfer.checkpoint.operators import Unsupported
from xfer.sources.base import Layer, SourceModel
from xfer.sources.batches import check_ids
from xfer.sources.onnx_engine import OnnxEngine

# The two engines are compared on so many examples: enough to see every channel, and few enough
# that the slower one is not felt.
_MOST_COMPARED = 4
# How far they may be apart, as a share of the layer's largest number. Rounding is below a tenth.
_TOLERANCE = 1e-3


class CheckpointSource(SourceModel):
    """An MXNet network, read once and run by ONNX Runtime.

    Parameters
    ----------
    network : Network
    engine : {"auto", "onnxruntime", "mxnet"}, default="auto"
        What runs it: ``"auto"`` is ONNX Runtime, and MXNet where an operator has no conversion.
    data_shapes : dict of str to tuple, optional
        Shapes of batches, as far as they are known.
    data_types : dict of str to numpy.dtype, optional
        What the inputs are computed with; by default float32.
    contexts : list of mxnet.Context, optional
        Where MXNet runs; by default on the first CPU.
    compare : bool, default=False
        Whether ``"auto"`` also runs the first examples on MXNet, and leaves layers to it on which
        the two disagree.

    Attributes
    ----------
    data_shapes : dict of str to tuple of (int or None)
        Shapes of batches by input; what was not known before is, once data were seen.
    """

    def __init__(
        self,
        network,
        *,
        engine="auto",
        data_shapes=None,
        data_types=None,
        contexts=None,
        compare=False,
    ):
        self._network = network
        self._engine = engine
        self._contexts = contexts
        self._compare = compare
        self._compared = set()
        self._left_to_mxnet = set()
        self._data_types = {**network.data_types, **(data_types or {})}
        self.data_shapes = data_shapes or network.data_shapes
        self._id_limits = list(network.id_limits())
        self._onnx = OnnxEngine(network, self._data_types)
        self._mxnet = None
        self._layers = None
        self._fingerprints = {}

    def __getstate__(self):
        return {**self.__dict__, "_mxnet": None}

    @property
    def layers(self):
        """Every operator of the graph, in topological order (list of Layer)."""
        if self._layers is None:
            inputs = {
                name: (self._data_types[name], self.data_shapes.get(name))
                for name in self.input_names
            }
            self._layers = [
                Layer(name, operator, _example_shape(dims), count)
                for name, operator, dims, count in self._network.layers(inputs)
            ]
        return self._layers

    @property
    def input_names(self):
        """Names of the data (list of str)."""
        return self._network.input_names

    @property
    def network(self):
        """Graph and parameters, which are never changed (Network)."""
        return self._network

    @property
    def contexts(self):
        """Where MXNet runs; None is the first CPU (list of mxnet.Context or None)."""
        return self._contexts

    def with_network(self, network):
        """Open another network, to be run where this one is, and compared on its first examples.

        Parameters
        ----------
        network : Network

        Returns
        -------
        CheckpointSource
        """
        shapes, types = (
            {name: known[name] for name in network.input_names if name in known}
            for known in (self.data_shapes, self._data_types)
        )
        source = CheckpointSource(
            network,
            engine=self._engine,
            data_shapes=shapes,
            data_types=types,
            contexts=self._contexts,
            compare=True,
        )
        source.preprocess, source.padding_id = self.preprocess, self.padding_id
        return source

    def parts(self):
        """Take the network apart, for saving.

        Returns
        -------
        description : dict
            Goes into JSON.
        arrays : dict of str to ndarray
            The parameters, named as in MXNet's own files: ``arg:`` or ``aux:`` and the name.
        """
        description, arrays = self._network.parts()
        # Another batch size can round the last digit of a feature another way.
        return {**description, "batch_size": self.batch_size}, arrays

    @classmethod
    def from_parts(cls, description, arrays):
        """Put a network together that :meth:`parts` took apart.

        Parameters
        ----------
        description : dict
        arrays : dict of str to ndarray

        Returns
        -------
        CheckpointSource
        """
        source = CheckpointSource(Network.from_parts(description, arrays))
        source.batch_size = int(description["batch_size"])
        return source

    def fingerprint(self, layer_names):
        """Tell what decides the features of some layers, to know the same network again.

        Parameters
        ----------
        layer_names : list of str

        Returns
        -------
        dict
            Checksums of the graph up to the layers, and of each parameter in it.
        """
        names = tuple(layer.name for layer in self.find_layers(layer_names))
        if names not in self._fingerprints:
            self._fingerprints[names] = self._network.fingerprint(names)
        return self._fingerprints[names]

    def _find_layer(self, name):
        if isinstance(name, str) and name.endswith("_output") and name not in self.layer_names:
            name = name.removesuffix("_output")
        return super()._find_layer(name)

    def _inputs_of(self, layers):
        return self._network.inputs_of([layer.name for layer in layers]) or self.input_names

    def _forward(self, inputs, layers):
        check_ids(inputs, self._id_limits)
        outputs = self._run(inputs, tuple(layer.name for layer in layers))
        if any(None in self.data_shapes.get(name, (None,)) for name in inputs):
            # From now on the table of layers can tell their shapes.
            seen = {name: (BATCH, *array.shape[1:]) for name, array in inputs.items()}
            self.data_shapes = {**self.data_shapes, **seen}
            self._layers = None
        return outputs

    def _takes_any_number(self):
        """Tell whether every layer takes batches of any number of examples."""
        inputs = {name: (self._data_types[name], dims) for name, dims in self.data_shapes.items()}
        try:
            convert(self._network.graph, self._network.parameters, inputs)
        except ValueError:
            return False
        return True

    def _run(self, inputs, names):
        if self._engine == "mxnet" or names in self._left_to_mxnet:
            return self._run_mxnet(inputs, names)
        try:
            outputs = self._onnx.run(inputs, names)
        except ValueError as error:
            if self._engine != "auto" or not (self._compare or isinstance(error, Unsupported)):
                raise
            outputs = self._run_mxnet(inputs, names, error)
            self._leave_to_mxnet(names, str(error))
            return outputs
        if self._engine == "auto" and self._compare and names not in self._compared:
            return self._compare_engines(inputs, names, outputs)
        return outputs

    def _compare_engines(self, inputs, names, outputs):
        rows = min(len(outputs[0]), _MOST_COMPARED)
        if not self._onnx.takes_any_number(inputs, names):
            rows = len(outputs[0])
        few = {name: array[:rows] for name, array in inputs.items()}
        for name, found, expected in zip(names, outputs, self._run_mxnet(few, names)):
            scale = float(np.abs(expected).max(initial=0, where=np.isfinite(expected)))
            close = found[:rows].shape == expected.shape and np.allclose(
                found[:rows], expected, rtol=0, atol=_TOLERANCE * scale, equal_nan=True
            )
            if not close:
                self._leave_to_mxnet(names, _describe_disagreement(name, found[:rows], expected))
                return self._run_mxnet(inputs, names)
        self._compared.add(names)
        self._mxnet = None
        return outputs

    def _leave_to_mxnet(self, names, reason):
        self._left_to_mxnet.add(names)
        warnings.warn(f"MXNet runs the network, slower: {reason}", stacklevel=5)

    def _run_mxnet(self, inputs, names, cause=None):
        if self._mxnet is None:
            try:
                from xfer.sources.mxnet_engine import MxnetEngine
            except ImportError as error:
                raise ValueError(
                    f"{cause or 'its engine is mxnet'}; MXNet, which would run it, cannot be "
                    "imported here: install mxnet==1.9.1, which has wheels up to Python 3.11 "
                    f"({error})"
                ) from error
            try:
                self._mxnet = MxnetEngine(self._network, self._data_types, self._contexts)
            except ValueError as error:
                raise ValueError(f"{cause}; {error}" if cause else str(error)) from error
        return self._mxnet.run(inputs, names)


def _example_shape(dims):
    if not dims:
        return None
    return tuple(None if follows_batch(size) else size for size in dims[1:])


def _describe_disagreement(name, found, expected):
    if found.shape != expected.shape:
        how = f"shape {found.shape} against {expected.shape}"
    else:
        with np.errstate(invalid="ignore"):
            how = (
                f"{np.nanmax(np.abs(found - expected)):.3g} apart where its largest number is "
                f"{np.nanmax(np.abs(expected)):.3g}"
            )
    return f"ONNX Runtime and MXNet disagree on layer {name!r}: {how}"
