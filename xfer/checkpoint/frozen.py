"""What a graph computes again and again, step by step, while only some of it is trained."""

import re
from dataclasses import replace

from xfer.checkpoint.convert import output_names
from xfer.checkpoint.edit import data_dependent_nodes
from xfer.checkpoint.operators import OPERATORS
from xfer.checkpoint.symbol import MxGraph, Node

_NORMALIZES_BATCHES = re.compile(r"(_contrib_(Sync)?|_npx_)?batch_?norm(_v1|WithReLU)?", re.I)
# In training they put out something else every time.
_RANDOM = re.compile(r"dropout|RNN|LeakyReLU|leaky_relu|random|sample|shuffle|KLSparseReg", re.I)


def freeze_statistics(graph, fixed):
    """Keep batch norms whose scale and shift are fixed from looking at the batch.

    They go by the statistics that they have, in training as in inference, and do not change them.

    Parameters
    ----------
    graph : MxGraph
    fixed : collection of str
        Parameters that are not to be learned.

    Returns
    -------
    MxGraph
    """
    nodes = tuple(
        replace(node, attributes={**node.attributes, "use_global_stats": "True"})
        if _normalizes_batches(node) and _learned_inputs(graph, node) <= {*fixed}
        else node
        for node in graph.nodes
    )
    return MxGraph(nodes, graph.heads)


def find_fixed_outputs(graph, fixed, input_names):
    """Find where what stays the same in training ends.

    Parameters
    ----------
    graph : MxGraph
        After :func:`freeze_statistics`.
    fixed : collection of str
        Parameters that are not to be learned.
    input_names : list of str
        The data.

    Returns
    -------
    dict of str to (int, int)
        By name, the outputs of layers that depend on the data and on fixed parameters only, and
        are read by what does change. Empty if nothing stays the same, or all does.
    """
    dependent, changing = data_dependent_nodes(graph, input_names), set()
    for number, node in enumerate(graph.nodes):
        if node.is_variable:
            changes = node.name not in fixed and node.name not in input_names
        else:
            changes = _changes(node) or any(s in changing for s, _ in _inputs_that_move(node))
        if changes:
            changing.add(number)
    read = {entry for number in changing for entry in graph.nodes[number].inputs}
    return {
        output_names(graph.nodes[source])[place]: (source, place)
        for source, place in sorted(read)
        if source in dependent and source not in changing and not graph.nodes[source].is_variable
    }


def start_at(graph, entries):
    """Let data take the place of some outputs of layers.

    Parameters
    ----------
    graph : MxGraph
    entries : dict of str to (int, int)
        Number of the node, and which of its outputs, by the name of the new input.

    Returns
    -------
    MxGraph
    """
    new = {entry: (place, 0) for place, entry in enumerate(entries.values())}
    shifted = [
        replace(
            node,
            inputs=tuple(
                new.get((source, place), (source + len(new), place))
                for source, place in node.inputs
            ),
        )
        for node in graph.nodes
    ]
    heads = tuple((source + len(new), place) for source, place in graph.heads)
    joined = MxGraph((*(Node("null", name) for name in entries), *shifted), heads)
    return joined.prune(heads)


def _normalizes_batches(node):
    return bool(_NORMALIZES_BATCHES.fullmatch(node.operator))


def _learned_inputs(graph, node):
    """Name the scale and the shift of a batch norm."""
    return {graph.nodes[source].name for source, _ in node.inputs[1:3]}


def _inputs_that_move(node):
    """Return the inputs of a node, but for statistics: those of a frozen batch norm stay."""
    return node.inputs[:3] if _normalizes_batches(node) else node.inputs


def _changes(node):
    """Tell whether an operator may put out something else in training, for the same input."""
    if _normalizes_batches(node):
        return node.attributes.get("use_global_stats", "False").lower() not in ("true", "1")
    return node.operator not in OPERATORS or bool(_RANDOM.search(node.operator))
