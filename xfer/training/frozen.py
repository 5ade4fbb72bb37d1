"""What of a network is fixed in training, and the part that need not be computed in every step."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from xfer.checkpoint.convert import output_names
from xfer.checkpoint.edit import data_dependent_nodes, find_parameters, rewire
from xfer.checkpoint.network import Network
from xfer.checkpoint.operators import OPERATORS
from xfer.checkpoint.symbol import Entry, MxGraph, Node

_NORMALIZES_BATCHES = re.compile(r"(_contrib_(Sync)?|_npx_)?batch_?norm(_v1|WithReLU)?", re.I)
# In training, their output differs from one step to the next.
_RANDOM = re.compile(r"dropout|RNN|LeakyReLU|leaky_relu|random|sample|shuffle|KLSparseReg", re.I)


def find_stages(
    network: Network, fixed: set[str], transferred: set[str], epochs: int
) -> dict[int, set[str]]:
    """Return the fixed parameters by the epoch from which they apply, in gradual unfreezing.

    Every so many `epochs` one more layer with transferred parameters is trained, from the top.
    """
    if not epochs:
        return {0: fixed}
    layers: list[set[str]] = []
    dependent = data_dependent_nodes(network.graph, network.input_names)
    for node_id in sorted(dependent):
        names = {*find_parameters(network.graph, node_id, dependent)} & transferred - fixed
        if layers and all(network.arguments[name].ndim < 2 for name in names):
            layers[-1] |= names  # a batch norm goes with the weights below it
        else:
            layers.append(names)
    layers = [names for names in reversed(layers) if names]
    return {i * epochs: fixed.union(*layers[i:]) for i in range(len(layers) + 1)}


def freeze_statistics(graph: MxGraph, fixed: Collection[str]) -> MxGraph:
    """Let batch norms whose scale and shift are fixed use and keep their running statistics."""
    nodes = tuple(
        replace(node, attributes={**node.attributes, "use_global_stats": "True"})
        if _normalizes_batches(node)
        and {graph.nodes[source].name for source, _ in node.inputs[1:3]} <= {*fixed}
        else node
        for node in graph.nodes
    )
    return MxGraph(nodes, graph.heads)


def uses_running_statistics(node: Node) -> bool:
    """Return whether a batch norm uses its running statistics in training too."""
    return node.attributes.get("use_global_stats", "False").lower() in ("true", "1")


def find_fixed_outputs(
    graph: MxGraph, fixed: Collection[str], input_names: Collection[str]
) -> dict[str, Entry]:
    """Find the outputs where the part of the graph ends that training does not change.

    They depend only on the data and on fixed parameters, and are read by layers that do change.
    None are found if everything changes or nothing does. Call :func:`freeze_statistics` first.
    """
    dependent, changing = data_dependent_nodes(graph, input_names), set()
    for node_id, node in enumerate(graph.nodes):
        inputs = node.inputs
        if node.is_variable:
            changes = node.name not in fixed and node.name not in input_names
        elif _normalizes_batches(node):
            # Its running statistics, inputs 3 and 4, change only if it does itself.
            inputs, changes = inputs[:3], not uses_running_statistics(node)
        else:
            changes = node.operator not in OPERATORS or bool(_RANDOM.search(node.operator))
        if changes or any(source in changing for source, _ in inputs):
            changing.add(node_id)
    read = {entry for node_id in changing for entry in graph.nodes[node_id].inputs}
    return {
        output_names(graph.nodes[source])[i]: (source, i)
        for source, i in sorted(read)
        if source in dependent and source not in changing and not graph.nodes[source].is_variable
    }


def start_at(graph: MxGraph, entries: Mapping[str, Entry]) -> MxGraph:
    """Replace outputs of layers by new inputs of these names."""
    new_ids = enumerate(entries.values(), len(graph.nodes))
    inputs = [Node("null", name) for name in entries]
    graph = MxGraph((*graph.nodes, *inputs), graph.heads)
    graph = rewire(graph, {entry: (node_id, 0) for node_id, entry in new_ids})
    return graph.prune(graph.heads)


def _normalizes_batches(node: Node) -> bool:
    return bool(_NORMALIZES_BATCHES.fullmatch(node.operator))
