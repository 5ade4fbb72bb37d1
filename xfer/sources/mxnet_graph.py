"""The graph of an MXNet symbol: its layers, their shapes, and what decides their values."""

import hashlib
import io
import json
from contextlib import redirect_stdout

import mxnet as mx
import numpy as np

from xfer.sources.base import Layer


class SymbolGraph:
    """A symbol with its layers by name.

    A layer is an output of an operator. An operator with one output gives it its own name; the
    outputs of one with several are layers by the names that MXNet gives them.

    Parameters
    ----------
    symbol : mxnet.sym.Symbol
    parameter_shapes : dict of str to tuple
        Shapes of the arguments that are parameters.
    """

    def __init__(self, symbol, parameter_shapes):
        self.symbol = symbol
        self._parameter_shapes = parameter_shapes
        self._internals = symbol.get_internals()
        self._entries = self._internals.list_outputs()
        self._nodes = json.loads(symbol.tojson())["nodes"]
        self._outputs = list(self._list_outputs())
        self._positions = {name: position for name, position, _ in self._outputs}

    def layers(self, data_shapes):
        """List the layers in topological order.

        Parameters
        ----------
        data_shapes : dict of str to tuple
            Shapes of batches, as far as they are known.

        Returns
        -------
        list of Layer
        """
        shapes = self._known_shapes(self.symbol, data_shapes)
        try:
            _, found, _ = self._internals.infer_shape_partial(**shapes)
        except mx.MXNetError:
            found = None
        found = found or [()] * len(self._entries)
        layers, counted = [], set()
        for name, position, node in self._outputs:
            inputs = [self._nodes[source[0]]["name"] for source in node["inputs"]]
            sizes = [np.prod(self._parameter_shapes.get(name, 0), dtype=int) for name in inputs]
            # The parameters of an operator with several outputs are counted with the first.
            count = 0 if id(node) in counted else int(sum(sizes))
            counted.add(id(node))
            # MXNet says 0 for a size, and () for a shape, that it could not infer.
            shape = tuple(size or None for size in found[position][1:]) or None
            shape = () if len(found[position]) == 1 else shape
            layers.append(Layer(name, node["op"], shape, count))
        return layers

    def group(self, names):
        """Cut the symbol at the layers of these names: a symbol with an output for each."""
        return mx.sym.Group([self._internals[self._positions[name]] for name in names])

    def infer(self, names, data_shapes):
        """Infer shapes for a batch, and see that each layer gives one row for each example.

        Parameters
        ----------
        names : sequence of str
            Of layers.
        data_shapes : dict of str to tuple
            Shapes of a batch.

        Returns
        -------
        dict of str to tuple
            Shapes of the arguments up to the layers.

        Raises
        ------
        ValueError
            If such data do not fit the network, or a layer mixes examples.
        """
        symbol = self.group(names)
        rows = next(iter(data_shapes.values()))[0]
        examples = {name: shape[1:] for name, shape in data_shapes.items()}
        examples = next(iter(examples.values())) if len(examples) == 1 else examples
        try:
            shapes, outputs = self._infer_shape(symbol, data_shapes)
        except mx.MXNetError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"data of shape {examples} for one example do not fit the network: {reason}"
            ) from error
        if shapes is None:
            raise ValueError(f"data of shape {examples} do not tell every shape in the network")
        self._check_rows(zip(names, outputs), rows, examples)
        # Their number may be the batch's by chance: with another batch it has to change likewise.
        more = {name: (rows + 1, *shape[1:]) for name, shape in data_shapes.items()}
        try:
            _, others = self._infer_shape(symbol, more)
        except mx.MXNetError:
            others = outputs  # the graph is written for this one size
        changed = [pair for pair, shape in zip(zip(names, others), outputs) if pair[1] != shape]
        self._check_rows(changed, rows + 1, examples)
        return dict(zip(symbol.list_arguments(), shapes))

    def takes(self, rows, data_shapes):
        """Tell whether batches of so many rows do as well as those of these shapes."""
        follows = []
        for number in (next(iter(data_shapes.values()))[0], rows):
            shapes = {name: (number, *shape[1:]) for name, shape in data_shapes.items()}
            try:
                _, outputs = self._infer_shape(self.symbol, shapes)
            except mx.MXNetError:
                return False
            follows.append([shape[:1] == (number,) for shape in outputs or ()])
        return follows[0] == follows[1]

    def id_limits(self):
        """Yield input, layer and number of ids of each Embedding that reads an input."""
        for node in self._nodes:
            if node["op"] == "Embedding":
                source = self._nodes[node["inputs"][0][0]]
                yield source["name"], node["name"], int(node["attrs"]["input_dim"])

    def fingerprint(self, names, arrays):
        """Tell what decides the values of some layers.

        Parameters
        ----------
        names : list of str
            Of layers.
        arrays : dict of str to mxnet.nd.NDArray
            Every parameter.

        Returns
        -------
        dict
            Checksums of the graph up to the layers, and of each parameter in it.
        """
        graph = json.loads(self.group(names).tojson())
        # Attributes in underscores, such as learning-rate factors, play no part in inference.
        attributes = [
            sorted((key, value) for key, value in node.get("attrs", {}).items() if key[:2] != "__")
            for node in graph["nodes"]
        ]
        nodes = [(node["op"], node["name"], node["inputs"]) for node in graph["nodes"]]
        used = [node["name"] for node in graph["nodes"] if node["name"] in arrays]
        return {
            "graph": _checksum(json.dumps([nodes, attributes, graph["heads"]]).encode()),
            "parameters": {
                name: _checksum(
                    f"{arrays[name].dtype} {arrays[name].shape}".encode(), arrays[name].asnumpy()
                )
                for name in used
            },
        }

    def _list_outputs(self):
        """Yield name, position in the internals, and node of each operator's outputs."""
        owners = [self._internals[position].name for position in range(len(self._entries))]
        position = 0
        for node in self._nodes:
            first = position
            position += 1
            while (
                position < len(owners)
                and owners[position] == node["name"]
                and self._entries[position] not in self._entries[first:position]
            ):
                position += 1
            if node["op"] == "null":
                continue
            for place in range(first, position):
                name = self._entries[place] if position - first > 1 else node["name"]
                yield name, place, node

    def _infer_shape(self, symbol, data_shapes):
        # MXNet prints what it was given before it raises.
        with redirect_stdout(io.StringIO()):
            arguments, outputs, _ = symbol.infer_shape(**self._known_shapes(symbol, data_shapes))
        return arguments, outputs

    def _known_shapes(self, symbol, data_shapes):
        known = {**self._parameter_shapes, **data_shapes}
        return {name: known[name] for name in symbol.list_arguments() if name in known}

    @staticmethod
    def _check_rows(outputs, rows, examples):
        for name, shape in outputs:
            if not shape or shape[0] != rows:
                raise ValueError(
                    f"layer {name!r} has output shape {shape} for a batch of {rows} examples of "
                    f"shape {examples}; features need one row for each example on the first axis"
                )


def load_graph(graph):
    """Make a symbol of a graph that comes from a file.

    Parameters
    ----------
    graph : dict
        Parsed JSON of a symbol.

    Returns
    -------
    mxnet.sym.Symbol

    Raises
    ------
    ValueError
        If a node does not follow what it needs: MXNet would follow the index out of bounds.
    """
    nodes = graph["nodes"]
    for number, node in enumerate(nodes):
        if any(not 0 <= source[0] < number for source in node["inputs"]):
            raise ValueError(f"node {number} of the graph takes inputs that do not come before it")
    for indices in (graph["arg_nodes"], [head[0] for head in graph["heads"]]):
        if any(not 0 <= index < len(nodes) for index in indices):
            raise ValueError(f"the graph names nodes that are not among its {len(nodes)}")
    return mx.sym.load_json(json.dumps(graph))


def _checksum(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
