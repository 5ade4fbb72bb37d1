"""ONNX networks as sources of features."""

import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from xfer.sources.base import SourceModel
from xfer.sources.onnx_batches import BatchRunner
from xfer.sources.onnx_model import OnnxModel, parse, take_apart

_MOST_SESSIONS = 8


class OnnxSource(SourceModel):
    """An ONNX network, read once and run by ONNX Runtime on the CPU.

    Parameters
    ----------
    model : str, path-like, or onnx.ModelProto
        An ``.onnx`` file, whose external data are in its folder or below, or a network in memory.
        It is never changed.

    Raises
    ------
    TypeError
        If ``model`` is something else.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or reads files outside of its folder.

    Notes
    -----
    A network that was written for batches of one size is run on others where its features stay the
    same, and otherwise in batches of its own size. Operators of domains that ONNX Runtime does not
    know are never loaded; layers before them can still be asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import TensorProto, helper
    >>> data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 2])
    >>> out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 2])
    >>> node = helper.make_node("Relu", ["data"], ["out"])
    >>> model = helper.make_model(helper.make_graph([node], "net", [data], [out]), ir_version=8)
    >>> source = OnnxSource(model)
    >>> source
    OnnxSource(1 layers, inputs: data)
    >>> source.extract(np.array([[-1.0, 2.0]]), "out").matrix
    array([[0., 2.]], dtype=float32)
    """

    def __init__(self, model):
        if isinstance(model, onnx.ModelProto):
            graph = OnnxModel(*take_apart(model))
        elif isinstance(model, (str, os.PathLike)):
            graph = _read(Path(model))
        else:
            raise TypeError(
                f"cannot open {type(model).__name__} as an ONNX network; allowed are the path of "
                "an .onnx file and an onnx.ModelProto"
            )
        self._set(graph)

    @classmethod
    def from_parts(cls, description, arrays):
        """Put a network together that :meth:`parts` took apart.

        Parameters
        ----------
        description : dict
        arrays : dict of str to ndarray

        Returns
        -------
        OnnxSource

        Raises
        ------
        ValueError
            If the parts hold no such network, or one that reads files.
        """
        model = parse(np.asarray(arrays["graph"], np.uint8).tobytes())
        parameters = {
            name: arrays[f"parameter/{number}"]
            for number, name in enumerate(description["parameters"])
        }
        source = cls.__new__(cls)
        source.batch_size = int(description["batch_size"])
        source._set(OnnxModel(take_apart(model)[0], parameters))
        return source

    def _set(self, graph):
        self._graph = graph
        self._layers = graph.layers()
        self._runners = OrderedDict()
        self._fingerprints = {}

    def __getstate__(self):
        # Sessions cannot travel to another process; they are opened again there.
        return {**self.__dict__, "_runners": OrderedDict()}

    @property
    def layers(self):
        """Every output of every operator, in topological order (list of Layer)."""
        return self._layers

    @property
    def input_names(self):
        """The declared inputs that are not initializers (list of str)."""
        return [value.name for value in self._graph.model.graph.input]

    def parts(self):
        """Take the network apart, for saving.

        Returns
        -------
        description : dict
            Goes into JSON.
        arrays : dict of str to ndarray
            The graph as bytes, and each of its parameters.
        """
        parameters = self._graph.parameters
        description = {
            "kind": "onnx",
            # Names may hold anything, so that they are no names for files.
            "parameters": list(parameters),
            # Another batch size can round the last digit of a feature another way.
            "batch_size": self.batch_size,
        }
        graph = np.frombuffer(self._graph.model.SerializeToString(), np.uint8)
        numbered = enumerate(parameters.values())
        return description, {"graph": graph, **{f"parameter/{n}": array for n, array in numbered}}

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
            self._fingerprints[names] = self._graph.cut(names).checksums()
        return self._fingerprints[names]

    def _find_layer(self, name):
        if isinstance(name, str) and name not in self.layer_names:
            # Exporters name operators as the network's author did, and their outputs by number.
            outputs = self._graph.outputs_of(name)
            name = outputs[0] if len(outputs) == 1 else name
        return super()._find_layer(name)

    def _inputs_of(self, layers):
        cut = self._graph.cut([layer.name for layer in layers])
        return [value.name for value in cut.model.graph.input] or self.input_names

    def _forward(self, inputs, layers):
        names = tuple(layer.name for layer in layers)
        if names not in self._runners:
            self._runners[names] = BatchRunner(self._graph.cut(names), names)
            if len(self._runners) > _MOST_SESSIONS:
                self._runners.popitem(last=False)
        self._runners.move_to_end(names)
        outputs = self._runners[names].run(inputs)
        if any(layer.shape is None or None in layer.shape for layer in layers):
            # From now on the table of layers can tell these shapes.
            seen = {name: output.shape[1:] for name, output in zip(names, outputs)}
            self._layers = [replace(e, shape=seen.get(e.name, e.shape)) for e in self._layers]
        return outputs


def _read(path):
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return OnnxModel(*take_apart(parse(path.read_bytes()), path.parent))
    except ValueError as error:
        raise ValueError(f"{path} cannot be opened: {error}") from error
