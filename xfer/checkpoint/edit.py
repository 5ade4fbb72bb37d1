"""Layers dropped from and put on a graph, at its top and at its bottom.

A layer is at the top if the flow of the data ends in it, and at the bottom if it begins with it.
"""

from dataclasses import replace

from xfer.checkpoint.convert import inputs_that_are_read, output_names
from xfer.checkpoint.flow import (
    ModelError,
    describe,
    describe_entries,
    find_flow,
    find_input,
    find_variable,
)
from xfer.checkpoint.symbol import Graph

#: They turn scores into what is compared with labels, or are the loss itself.
OUTPUT_LAYERS = {
    *("SoftmaxOutput", "LogisticRegressionOutput", "_sparse_LogisticRegressionOutput"),
    *("LinearRegressionOutput", "_sparse_LinearRegressionOutput", "SVMOutput"),
    *("MAERegressionOutput", "_sparse_MAERegressionOutput", "softmax_cross_entropy"),
    *("MakeLoss", "make_loss", "_sparse_make_loss", "CTCLoss"),
}


def drop_top(graph, number, input_names):
    """Drop the layers that end the flow, one after the other.

    Parameters
    ----------
    graph : Graph
        With one head.
    number : int
        How many layers.
    input_names : iterable of str
        The data.

    Returns
    -------
    Graph
        Whose head is what the last of them read.

    Raises
    ------
    ModelError
        If there are several heads, a layer joins branches, or nothing would be left.
    ValueError
        If ``number`` is not a positive integer.
    """
    _check_number(number)
    cannot = f"cannot drop {_count(number)} from the top: "
    flow = find_flow(graph, input_names)
    for _ in range(number):
        top = graph.nodes[_only_head(graph, cannot)]
        found = dict.fromkeys(entry for entry in inputs_that_are_read(top) if entry[0] in flow)
        if len(found) > 1:
            raise ModelError(
                f"{cannot}layer {describe(top)} joins {describe_entries(graph, found)}, and which "
                "of them is to be left is ambiguous"
            )
        if not found or graph.nodes[next(iter(found))[0]].is_variable:
            raise ModelError(f"{cannot}no layer would be left without {describe(top)}")
        graph = Graph(graph.nodes, tuple(found))
    return graph.prune(graph.heads)


def drop_bottom(graph, number, input_names, data_name):
    """Drop the layers that the flow begins with, one after the other.

    Parameters
    ----------
    graph : Graph
    number : int
        How many layers.
    input_names : iterable of str
        All the data.
    data_name : str
        The input whose layers are meant.

    Returns
    -------
    Graph
        In which the data take the place of what the last of them put out. Hints at the shape and
        type of the data are dropped: they were of other data.

    Raises
    ------
    ModelError
        If several layers read the data, a layer reads more than them or has several outputs in
        use, or nothing would be left.
    ValueError
        If ``number`` is not a positive integer, or there is no such input.
    """
    _check_number(number)
    cannot = f"cannot drop {_count(number)} from the bottom: "
    graph = _without_hints(graph, find_variable(graph, data_name))
    for _ in range(number):
        graph = graph.prune(graph.heads)
        data = (find_variable(graph, data_name), 0)
        readers = [place for place, node in enumerate(graph.nodes) if data in node.inputs]
        if len(readers) != 1:
            layers = " and ".join(describe(graph.nodes[place]) for place in readers)
            raise ModelError(
                f"{cannot}{data_name!r} is read by {layers or 'no layer'}, and which of them is "
                "meant is ambiguous"
            )
        bottom = readers[0]
        _check_bottom(graph, bottom, data, find_flow(graph, input_names), cannot)
        graph = _rewire(graph, {(bottom, 0): data})
    return graph.prune(graph.heads)


def add_top(graph, added, data_name="data"):
    """Let layers read what a network puts out.

    Parameters
    ----------
    graph : Graph
        With one head.
    added : Graph
        The layers, with one head and one input; see :func:`find_input`.
    data_name : str, default="data"
        What the input of ``added`` may be named by, where it is not plain which it is.

    Returns
    -------
    Graph
        With the head of ``added``.

    Raises
    ------
    ModelError
        If either has several heads, the network ends in an output layer, or a name would be there
        twice.
    """
    cannot = "cannot add a layer to the top: "
    head = graph.nodes[_only_head(graph, cannot)]
    if head.operator in OUTPUT_LAYERS:
        raise ModelError(
            f"{cannot}layer {describe(head)} is an output layer, which no other can follow; drop "
            "it first, with drop_layer_top()"
        )
    _only_head(added, "cannot add to the top what has several ends: ")
    return _stack(graph, added, find_input(added, data_name))


def add_bottom(graph, added, data_name="data"):
    """Let a network read what layers put out, instead of the data.

    Parameters
    ----------
    graph : Graph
    added : Graph
        The layers, with one head and one input; see :func:`find_input`.
    data_name : str, default="data"
        The data, which the layers are to read; also what the input of ``added`` may be named by,
        where it is not plain which it is.

    Returns
    -------
    Graph
        With the heads of ``graph``.

    Raises
    ------
    ModelError
        If ``added`` has several heads or is an output layer, or a name would be there twice.
    ValueError
        If there is no such input.
    """
    cannot = "cannot add a layer to the bottom: "
    data, entry = find_variable(graph, data_name), find_input(added, data_name)
    end = added.nodes[_only_head(added, cannot)]
    if end.operator in OUTPUT_LAYERS:
        raise ModelError(
            f"{cannot}layer {describe(end)} is an output layer, which no other can follow"
        )
    nodes = list(added.nodes)
    nodes[entry] = replace(nodes[entry], name=data_name)
    return _stack(Graph(tuple(nodes), added.heads), graph, data)


def _check_bottom(graph, bottom, data, flow, cannot):
    node = graph.nodes[bottom]
    for head, _ in graph.heads:
        if head in (bottom, data[0]):
            raise ModelError(f"{cannot}{describe(graph.nodes[head])} is an output of the network")
    others = [entry for entry in node.inputs if entry[0] in flow and entry != data]
    if others:
        raise ModelError(
            f"{cannot}layer {describe(node)} joins the data with "
            f"{describe_entries(graph, others)}, and which of them is to be left is ambiguous"
        )
    used = {place for other in graph.nodes for source, place in other.inputs if source == bottom}
    if used != {0}:
        raise ModelError(
            f"{cannot}layer {describe(node)} has several outputs, and of those in use "
            f"({', '.join(map(str, sorted(used)))}) the data can take the place of 0 alone"
        )


def _stack(lower, upper, entry):
    """Put a graph on another, whose only head takes the place of one of its variables."""
    taken = _names(lower.nodes)
    others = [node for number, node in enumerate(upper.nodes) if number != entry]
    twice = [name for name in _names(others) if name in taken]
    if twice:
        raise ModelError(
            f"the network has the name {twice[0]!r} already; give the added layer another name"
        )
    shift = len(lower.nodes)
    shifted = [
        replace(node, inputs=tuple((source + shift, place) for source, place in node.inputs))
        for node in upper.nodes
    ]
    heads = tuple((source + shift, place) for source, place in upper.heads)
    joined = Graph((*lower.nodes, *shifted), heads)
    joined = _rewire(joined, {(entry + shift, 0): lower.heads[0]})
    return joined.prune(joined.heads)


def _rewire(graph, places):
    """Let one output of a node take the place of another, wherever it is read."""
    nodes = tuple(
        replace(node, inputs=tuple(places.get(entry, entry) for entry in node.inputs))
        for node in graph.nodes
    )
    return Graph(nodes, tuple(places.get(head, head) for head in graph.heads))


def _without_hints(graph, number):
    nodes = list(graph.nodes)
    nodes[number] = replace(nodes[number], attributes={})
    return Graph(tuple(nodes), graph.heads)


def _only_head(graph, cannot):
    if len(graph.heads) != 1:
        raise ModelError(
            f"{cannot}there are {len(graph.heads)} outputs, {describe_entries(graph, graph.heads)}"
        )
    return graph.heads[0][0]


def _check_number(number):
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"the number of layers must be a positive integer, got {number!r}")


def _names(nodes):
    """Name layers, their outputs and variables, the layers first."""
    operators = [node for node in nodes if not node.is_variable]
    outputs = [name for node in operators for name in (node.name, *output_names(node))]
    return dict.fromkeys(outputs + [node.name for node in nodes])


def _count(number):
    return "1 layer" if number == 1 else f"{number} layers"
