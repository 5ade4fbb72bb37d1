"""An MXNet network as plain data: its graph, its parameters, and what there is to tell of them."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from xfer.checkpoint.convert import convert, needed_nodes, output_names
from xfer.checkpoint.data_shape import told_shapes
from xfer.checkpoint.operators.registry import TYPES, Attributes
from xfer.checkpoint.params import read_params, split_params
from xfer.checkpoint.symbol import Graph, write_json

# As MXNet names what is learned or observed; whatever else has no values is data.
ENDINGS_OF_PARAMETERS = ("_weight", "_bias", "_gamma", "_beta", "_mean", "_var", "_parameters")
# From which of their inputs on operators only observe.
_OBSERVED = {
    "BatchNorm": 3,
    "BatchNorm_v1": 3,
    "IdentityAttachKLSparseReg": 1,
    "_contrib_BatchNormWithReLU": 3,
    "_contrib_SyncBatchNorm": 3,
    "_npx_batch_norm": 3,
}


@dataclass(frozen=True, eq=False)
class Network:
    """A graph with its parameters.

    Parameters
    ----------
    json : str
        The graph as MXNet writes it.
    arguments, statistics : dict of str to ndarray
        Learned parameters; and what was only observed, such as the means of batch norm.
    input_names : list of str
        The data.
    idle_names : list of str
        Inputs that have no say in inference, such as labels.
    """

    json: str
    arguments: dict
    statistics: dict
    input_names: list
    idle_names: list

    @classmethod
    def of_files(cls, prefix, epoch):
        """Read a checkpoint.

        Parameters
        ----------
        prefix : str or path-like
            What comes before ``-symbol.json``, or the whole name of that file.
        epoch : int
            The number in ``-0000.params``.

        Returns
        -------
        Network
            Its inputs are the variables that have no parameters and play a part in inference.

        Raises
        ------
        FileNotFoundError
            If there is no such file; the message tells which there are.
        ValueError
            If a file is broken.
        """
        prefix = str(prefix).removesuffix("-symbol.json")
        graph_path = Path(f"{prefix}-symbol.json")
        parameter_path = Path(f"{prefix}-{epoch:04d}.params")
        for path in (graph_path, parameter_path):
            if not path.is_file():
                found = sorted(path.parent.glob(f"{Path(prefix).name}-*"))
                names = ", ".join(one.name for one in found[:8]) or "nothing of that prefix"
                raise FileNotFoundError(f"there is no file {path}; in that folder: {names}")
        text = graph_path.read_text(encoding="utf-8", errors="replace")
        try:
            graph = Graph.from_json(text)
        except ValueError as error:
            raise ValueError(f"{graph_path}: {error}") from None
        arguments, statistics = split_params(read_params(parameter_path))
        for name in observed_names(graph) & arguments.keys() - statistics.keys():
            statistics[name] = arguments.pop(name)
        known = {**arguments, **statistics}
        variables = dict.fromkeys(node.name for node in graph.nodes if node.is_variable)
        names = [name for name in variables if name not in known]
        read = {graph.nodes[number].name for number in needed_nodes(graph)}
        inputs = [name for name in names if name in read and not name.endswith("label")]
        missing = [name for name in inputs if name.endswith(ENDINGS_OF_PARAMETERS)]
        if missing:
            raise ValueError(
                f"{parameter_path} has no {', '.join(missing[:5])}; it holds "
                f"{', '.join(list(known)[:5]) or 'nothing'}: is it of another network?"
            )
        idle = [name for name in names if name not in inputs]
        return cls(text, arguments, statistics, inputs, idle)

    def with_graph(self, graph):
        """Put another graph in place of this one; parameters that it does not have are dropped.

        Parameters
        ----------
        graph : Graph
            Its variables go by the names that they have here. New ones are labels, or parameters
            that have no values yet.

        Returns
        -------
        Network

        Raises
        ------
        ValueError
            If the graph cannot be written.
        """
        variables = {node.name for node in graph.nodes if node.is_variable}
        return Network(
            graph.to_json(),
            {name: array for name, array in self.arguments.items() if name in variables},
            {name: array for name, array in self.statistics.items() if name in variables},
            [name for name in self.input_names if name in variables],
            self._idle_in(graph),
        )

    @cached_property
    def label_names(self):
        """Variables of the graph that are neither data nor parameters (list of str)."""
        return self._idle_in(self.graph)

    def _idle_in(self, graph):
        read = {graph.nodes[number].name for number in needed_nodes(graph)}
        known = {*self.parameters, *self.input_names}
        variables = dict.fromkeys(node.name for node in graph.nodes if node.is_variable)
        return [
            name
            for name in variables
            if name not in known
            and (name not in read or name.endswith("label") or name in self.idle_names)
        ]

    @cached_property
    def graph(self):
        """The graph (Graph)."""
        return Graph.from_json(self.json)

    @cached_property
    def parameters(self):
        """All that was saved, learned or observed (dict of str to ndarray)."""
        return {**self.arguments, **self.statistics}

    @cached_property
    def positions(self):
        """Number of the node, and which of its outputs, of each layer by name (dict)."""
        return {
            name: (number, place)
            for number, node in enumerate(self.graph.nodes)
            if not node.is_variable
            for place, name in enumerate(output_names(node))
        }

    def prune(self, layer_names):
        """Cut the graph at layers of these names, which become its heads (Graph)."""
        return self.graph.prune([self.positions[name] for name in layer_names])

    def inputs_of(self, layer_names):
        """Name the inputs that have a say in layers of these names (list of str)."""
        graph = self.prune(layer_names)
        read = {graph.nodes[number].name for number in needed_nodes(graph)}
        return [name for name in self.input_names if name in read]

    @cached_property
    def data_shapes(self):
        """What is known of the shapes of batches (dict of str to tuple of (int or None))."""
        return told_shapes(self)

    @cached_property
    def data_types(self):
        """What each input is computed with, float32 or as declared (dict of str to numpy.dtype)."""
        variables = {node.name: node for node in self.graph.nodes if node.is_variable}
        declared = {
            name: Attributes(variables[name].attributes).int("__dtype__", None) or 0
            for name in self.input_names
            if name in variables
        }
        return {name: TYPES.get(flag, TYPES[0]) for name, flag in declared.items()}

    def typed(self, shapes):
        """Return type and shape of every input, as :func:`convert` takes them (dict)."""
        return {name: (kind, shapes.get(name)) for name, kind in self.data_types.items()}

    def layers(self, inputs):
        """List the layers, with the shapes that can be told.

        Parameters
        ----------
        inputs : dict of str to (numpy.dtype, tuple of (int or None) or None)
            Type and shape of a batch of each input.

        Returns
        -------
        list of (str, str, tuple or None, int)
            Name, operator, shape of a batch and number of learned parameters of each.
        """
        _, values = convert(self.graph, self.parameters, inputs, partial=True)
        found = []
        for number, node in enumerate(self.graph.nodes):
            if node.is_variable:
                continue
            owned = {self.graph.nodes[source].name for source, _ in node.inputs}
            count = sum(self.arguments[name].size for name in owned & self.arguments.keys())
            for place, name in enumerate(output_names(node)):
                tensor = values.get((number, place))
                dims = None if tensor is None else tensor.dims
                # The parameters of an operator with several outputs are counted with the first.
                found.append((name, node.operator, dims, 0 if place else count))
        return found

    def id_limits(self):
        """Yield input, layer and number of ids of each Embedding that reads an input."""
        for node in self.graph.nodes:
            if node.operator == "Embedding":
                source = self.graph.nodes[node.inputs[0][0]]
                if source.name in self.input_names:
                    yield source.name, node.name, int(node.attributes["input_dim"])

    def fingerprint(self, layer_names):
        """Tell what decides the values of some layers.

        Parameters
        ----------
        layer_names : list of str

        Returns
        -------
        dict
            Checksums of the graph up to the layers, and of each parameter in it.
        """
        graph = self.prune(layer_names)
        nodes = [
            (node.operator, node.name, sorted(node.attributes.items()), node.inputs)
            for node in graph.nodes
        ]
        used = [node.name for node in graph.nodes if node.name in self.parameters]
        return {
            "graph": _checksum(json.dumps([nodes, graph.heads]).encode()),
            "parameters": {name: _checksum_array(self.parameters[name]) for name in used},
        }

    def parts(self):
        """Take the network apart, for saving.

        Returns
        -------
        description : dict
            Goes into JSON.
        arrays : dict of str to ndarray
            The parameters, named as in MXNet's own files: ``arg:`` or ``aux:`` and the name.
        """
        description = {
            "kind": "mxnet",
            "graph": json.loads(self.json, strict=False),
            "input_names": self.input_names,
            "idle_names": self.idle_names,
        }
        arrays = {f"arg:{name}": array for name, array in self.arguments.items()}
        arrays.update({f"aux:{name}": array for name, array in self.statistics.items()})
        return description, arrays

    @classmethod
    def from_parts(cls, description, arrays):
        """Put a network together that :meth:`parts` took apart.

        Parameters
        ----------
        description : dict
        arrays : dict of str to ndarray

        Returns
        -------
        Network
        """
        return cls(
            write_json(description["graph"]),
            *split_params(arrays),
            list(description["input_names"]),
            list(description["idle_names"]),
        )


def observed_names(graph):
    """Name what is observed and not learned: files without prefixes do not say so.

    Parameters
    ----------
    graph : Graph

    Returns
    -------
    set of str
        The running statistics of batch norms, and the like.
    """
    return {
        graph.nodes[source].name
        for node in graph.nodes
        if node.operator in _OBSERVED
        for source, _ in node.inputs[_OBSERVED[node.operator] :]
    }


def _checksum(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _checksum_array(array):
    return _checksum(f"{array.dtype} {array.shape}".encode(), np.ascontiguousarray(array))
