"""The graph of an MXNet symbol: its layers by name, and their shapes."""

import io
import json
from contextlib import redirect_stdout

import mxnet as mx

from xfer.checkpoint.symbol import write_json


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
        self._positions = dict(self._list_outputs())

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

    def _list_outputs(self):
        """Yield name and position in the internals of each operator's outputs."""
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
                yield name, place

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
    return mx.sym.load_json(write_json(graph))
