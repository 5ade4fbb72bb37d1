"""What the data flow through in a graph, and which parameters belong to which layer.

The *flow* is all that depends on the data. Weights, even computed ones, and labels are not in it.
"""

from difflib import get_close_matches
from itertools import chain

from xfer.checkpoint.convert import inputs_that_are_read, output_names

# How many of the first inputs of an operator are data; the rest are its parameters.
_DATA_INPUTS = {
    **dict.fromkeys(("FullyConnected", "Convolution", "Convolution_v1", "Deconvolution"), 1),
    **dict.fromkeys(("_npx_fully_connected", "_npx_convolution", "_npx_deconvolution"), 1),
    **dict.fromkeys(("BatchNorm", "BatchNorm_v1", "_npx_batch_norm"), 1),
    **dict.fromkeys(("_contrib_SyncBatchNorm", "_contrib_BatchNormWithReLU"), 1),
    **dict.fromkeys(("LayerNorm", "GroupNorm", "InstanceNorm", "_npx_layer_norm"), 1),
    **dict.fromkeys(("Embedding", "_npx_embedding", "_contrib_SparseEmbedding"), 1),
    **dict.fromkeys(("LeakyReLU", "_npx_leaky_relu", "RNN", "_npx_rnn"), 1),
    "_contrib_DeformableConvolution": 2,
    "_contrib_ModulatedDeformableConvolution": 3,
}


class ModelError(ValueError):
    """An edit that a network does not allow; it is left as it was."""


def find_flow(graph, input_names):
    """Tell which nodes depend on the data.

    Parameters
    ----------
    graph : Graph
    input_names : iterable of str
        The data.

    Returns
    -------
    set of int
        Numbers of nodes, the data among them.
    """
    names, flow = set(input_names), set()
    for number, node in enumerate(graph.nodes):
        if node.is_variable:
            flows = node.name in names
        else:
            flows = any(source in flow for source, _ in inputs_that_are_read(node))
        if flows:
            flow.add(number)
    return flow


def find_input(added, data_name="data"):
    """Tell which variable of some layers stands for what they are put on.

    Parameters
    ----------
    added : Graph
        Such as that of ``mx.sym.FullyConnected(num_hidden=10, name="fc")``, whose input MXNet
        names ``fc_data``.
    data_name : str, default="data"

    Returns
    -------
    int
        Number of the node: the variable of that name, or else the only one that is neither a
        parameter, by its place or a hint how to initialise it, nor a label.

    Raises
    ------
    ModelError
        If there is none, or more than one.
    """
    reached = {head for head, _ in added.heads}
    for number in range(len(added.nodes) - 1, -1, -1):
        node = added.nodes[number]
        if number in reached:
            sources = inputs_that_are_read(node)[: _DATA_INPUTS.get(node.operator)]
            reached.update(source for source, _ in sources)
    found = {
        number: added.nodes[number].name
        for number in sorted(reached)
        if added.nodes[number].is_variable
        and not added.nodes[number].name.endswith("label")
        and "__init__" not in added.nodes[number].training
    }
    named = [number for number, name in found.items() if name == data_name]
    if len(named) != 1:
        named = list(found)
    layers = ", ".join(describe(node) for node in added.nodes if not node.is_variable)
    if not named or not layers:
        raise ModelError(f"what is added has no input or no layer: {layers or 'no layer'}")
    if len(named) > 1:
        raise ModelError(
            f"which input of the added {layers} reads the network is ambiguous: it may be "
            f"{', '.join(map(repr, found.values()))}; name it {data_name!r}"
        )
    return named[0]


def find_parameters(graph, number, flow):
    """Name the parameters of a layer.

    Parameters
    ----------
    graph : Graph
    number : int
        Of the layer.
    flow : set of int
        See :func:`find_flow`.

    Returns
    -------
    list of str
        Weights that several layers share belong to each; those that something is computed from
        belong to the layer that it flows into.
    """
    found, seen, waiting = {}, set(flow), [number]
    while waiting:
        node = graph.nodes[waiting.pop()]
        if node.is_variable:
            found[node.name] = None
        sources = [source for source, _ in inputs_that_are_read(node) if source not in seen]
        seen.update(sources)
        waiting.extend(reversed(sources))
    return list(found)


def find_layer(graph, name):
    """Look a layer up.

    Parameters
    ----------
    graph : Graph
    name : str
        Of an operator, or of one of its outputs.

    Returns
    -------
    int
        Number of the node.

    Raises
    ------
    TypeError
        If the name is not a string.
    ModelError
        If there is none of that name, or several.
    """
    names = {
        number: [node.name, *output_names(node)]
        for number, node in enumerate(graph.nodes)
        if not node.is_variable
    }
    # MXNet itself asks for a layer's only output so.
    found = [number for number, own in names.items() if name in (*own, f"{own[0]}_output")]
    return _only(found, name, "layer", [*dict.fromkeys(chain(*names.values()))])


def find_variable(graph, name):
    """Look an input or a parameter up.

    Parameters
    ----------
    graph : Graph
    name : str

    Returns
    -------
    int
        Number of the node.

    Raises
    ------
    TypeError
        If the name is not a string.
    ModelError
        If there is none of that name, or several.
    """
    names = {number: node.name for number, node in enumerate(graph.nodes) if node.is_variable}
    found = [number for number, own in names.items() if own == name]
    return _only(found, name, "input", list(names.values()))


def describe(node):
    """Name a layer and what it is, as in ``'fc1' (FullyConnected)``.

    Parameters
    ----------
    node : Node

    Returns
    -------
    str
    """
    return repr(node.name) if node.is_variable else f"{node.name!r} ({node.operator})"


def describe_entries(graph, entries):
    """Name what some inputs or heads refer to.

    Parameters
    ----------
    graph : Graph
    entries : iterable of (int, int)
        Number of the node, and which of its outputs.

    Returns
    -------
    str
    """
    found = []
    for number, place in entries:
        node = graph.nodes[number]
        several = not node.is_variable and len(output_names(node)) > 1
        found.append(f"output {place} of {describe(node)}" if several else describe(node))
    return " and ".join(found)


def _only(found, name, kind, names):
    if not isinstance(name, str):
        raise TypeError(f"a name must be a string, got {type(name).__name__}: {name!r:.80}")
    if len(found) > 1:
        raise ModelError(f"the network has {len(found)} {kind}s named {name!r}; rename them")
    if not found:
        near = get_close_matches(name, names, n=5, cutoff=0.4)
        hint = f"nearest: {', '.join(near)}" if near else f"{kind}s: {', '.join(names[:5])}"
        raise ModelError(f"the network has no {kind} {name!r}; {hint}")
    return found[0]
