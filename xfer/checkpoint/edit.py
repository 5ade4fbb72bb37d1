"""Edits of a graph: layers dropped from its top or bottom, or added there.

The top is where the data end, and the bottom where they enter. Only *data-dependent nodes* count:
weights, even computed ones, and labels do not.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from itertools import chain

from xfer._checks import check_integer
from xfer.checkpoint.convert import inputs_that_are_read, output_names
from xfer.checkpoint.symbol import Entry, MxGraph, Node

#: They turn scores into what is compared with labels, or are the loss itself.
OUTPUT_LAYERS = {
    *("SoftmaxOutput", "LogisticRegressionOutput", "_sparse_LogisticRegressionOutput"),
    *("LinearRegressionOutput", "_sparse_LinearRegressionOutput", "SVMOutput"),
    *("MAERegressionOutput", "_sparse_MAERegressionOutput", "softmax_cross_entropy"),
    *("MakeLoss", "make_loss", "_sparse_make_loss", "CTCLoss"),
}
# How many of the first inputs of an operator are data; the rest are its parameters.
_ONE_DATA_INPUT = """
    FullyConnected Convolution Convolution_v1 Deconvolution BatchNorm BatchNorm_v1 LayerNorm
    GroupNorm InstanceNorm Embedding LeakyReLU RNN _npx_fully_connected _npx_convolution
    _npx_deconvolution _npx_batch_norm _npx_layer_norm _npx_embedding _npx_leaky_relu _npx_rnn
    _contrib_SyncBatchNorm _contrib_BatchNormWithReLU _contrib_SparseEmbedding
"""
_AMBIGUOUS = "so it is ambiguous which of them to keep"
_DATA_INPUTS = dict.fromkeys(_ONE_DATA_INPUT.split(), 1)
_DATA_INPUTS |= {"_contrib_DeformableConvolution": 2, "_contrib_ModulatedDeformableConvolution": 3}


class ModelError(ValueError):
    """An edit that a network does not allow; it is left as it was."""


def drop_top(graph: MxGraph, count: int, input_names: Iterable[str]) -> MxGraph:
    """Drop the last layers, one after the other; what the last of them read becomes the head."""
    cannot = _check_count(count, "top")
    dependent = data_dependent_nodes(graph, input_names)
    for _ in range(count):
        top = graph.nodes[_only_head(graph, cannot)]
        found = dict.fromkeys(entry for entry in inputs_that_are_read(top) if entry[0] in dependent)
        if len(found) > 1:
            joins = f"layer {describe_node(top)} joins {describe_entries(graph, found)}"
            raise ModelError(f"{cannot}{joins}, {_AMBIGUOUS}")
        if not found or graph.nodes[next(iter(found))[0]].is_variable:
            raise ModelError(f"{cannot}there is no layer below {describe_node(top)}")
        graph = MxGraph(graph.nodes, tuple(found))
    return graph.prune(graph.heads)


def drop_bottom(graph: MxGraph, count: int, input_names: Iterable[str], data_name: str) -> MxGraph:
    """Drop the first layers that read an input, one after the other.

    The data take the place of the output of the last of them. Their declared shape and type are
    dropped: they were those of other data.
    """
    cannot = _check_count(count, "bottom")
    input_names, nodes = list(input_names), list(graph.nodes)
    data_id = find_variable(graph, data_name)
    nodes[data_id] = replace(nodes[data_id], attributes={})
    graph = MxGraph(tuple(nodes), graph.heads)
    for _ in range(count):
        graph = graph.prune(graph.heads)
        data = (find_variable(graph, data_name), 0)
        readers = [node_id for node_id, node in enumerate(graph.nodes) if data in node.inputs]
        if len(readers) != 1:
            layers = " and ".join(describe_node(graph.nodes[node_id]) for node_id in readers)
            read = f"{data_name!r} is read by {layers}, so it is ambiguous which one to drop"
            raise ModelError(cannot + (read if readers else f"no layer reads {data_name!r}"))
        bottom, node = readers[0], graph.nodes[readers[0]]
        layer = describe_node(node)
        for head, _ in graph.heads:
            if head in (bottom, data[0]):
                end = describe_node(graph.nodes[head])
                raise ModelError(f"{cannot}{end} is an output of the network")
        dependent = data_dependent_nodes(graph, input_names)
        if others := [entry for entry in node.inputs if entry[0] in dependent and entry != data]:
            joins = f"layer {layer} joins the data with {describe_entries(graph, others)}"
            raise ModelError(f"{cannot}{joins}, {_AMBIGUOUS}")
        used = sorted({i for other in graph.nodes for k, i in other.inputs if k == bottom})
        if used != [0]:
            several = f"layer {layer} has several outputs, in use: {str(used)[1:-1]}"
            raise ModelError(f"{cannot}{several}; the data can replace output 0 only")
        graph = rewire(graph, {(bottom, 0): data})
    return graph.prune(graph.heads)


def add_top(graph: MxGraph, added: MxGraph, data_name: str = "data") -> MxGraph:
    """Let layers read the only head of a network; :func:`find_input` finds their input."""
    _only_head(added, "cannot add layers with several outputs to the top: ")
    return _stack(graph, added, find_input(added, data_name), "top")


def add_bottom(graph: MxGraph, added: MxGraph, data_name: str = "data") -> MxGraph:
    """Let a network read the only head of layers, which read the data instead."""
    data, entry = find_variable(graph, data_name), find_input(added, data_name)
    nodes = list(added.nodes)
    nodes[entry] = replace(nodes[entry], name=data_name)
    return _stack(MxGraph(tuple(nodes), added.heads), graph, data, "bottom")


def data_dependent_nodes(graph: MxGraph, input_names: Iterable[str]) -> set[int]:
    """Return the nodes that depend on the data, the data among them."""
    names, dependent = set(input_names), set()
    for node_id, node in enumerate(graph.nodes):
        reads_data = any(source in dependent for source, _ in inputs_that_are_read(node))
        if reads_data or (node.is_variable and node.name in names):
            dependent.add(node_id)
    return dependent


def find_input(added: MxGraph, data_name: str = "data") -> int:
    """Return the variable of added layers that stands for what they are put on.

    That is the variable of the given name, or else the only one that is neither a label nor a
    parameter, by its position or a hint how to initialise it (MXNet names it ``fc_data``, say).
    """
    reached = {head for head, _ in added.heads}
    for node_id, node in reversed(list(enumerate(added.nodes))):
        if node_id in reached:
            sources = inputs_that_are_read(node)[: _DATA_INPUTS.get(node.operator)]
            reached.update(source for source, _ in sources)
    found = {
        node_id: node.name
        for node_id, node in enumerate(added.nodes)
        if node_id in reached and node.is_variable
        if not node.name.endswith("label") and "__init__" not in node.training
    }
    named = [node_id for node_id, name in found.items() if name == data_name]
    named = named if len(named) == 1 else list(found)
    layers = ", ".join(describe_node(node) for node in added.nodes if not node.is_variable)
    if not named or not layers:
        raise ModelError(f"added layers must have an input, got {layers or 'no layer'}")
    if len(named) > 1:
        may = f"{' or '.join(map(repr, found.values()))}; name that one {data_name!r}"
        raise ModelError(f"it is ambiguous which input of the added {layers} is the data: {may}")
    return named[0]


def find_parameters(graph: MxGraph, node_id: int, dependent: Collection[int]) -> list[str]:
    """Name the parameters of a layer, given the data-dependent nodes.

    Weights that several layers share belong to each of them, and weights that something is
    computed from belong to the layer that reads the result.
    """
    found: dict[str, None] = {}
    seen, stack = set(dependent), [node_id]
    while stack:
        node = graph.nodes[stack.pop()]
        if node.is_variable:
            found[node.name] = None
        sources = [source for source, _ in inputs_that_are_read(node) if source not in seen]
        seen.update(sources)
        stack.extend(reversed(sources))
    return list(found)


def find_layer(graph: MxGraph, name: str) -> int:
    """Return the only operator of this name, or with an output of this name."""
    layers = ((i, node) for i, node in enumerate(graph.nodes) if not node.is_variable)
    names = {node_id: [node.name, *output_names(node)] for node_id, node in layers}
    # MXNet itself adds this ending to a layer with one output.
    found = [node_id for node_id, own in names.items() if name in (*own, f"{own[0]}_output")]
    return _only(found, name, "layer", [*dict.fromkeys(chain(*names.values()))])


def find_variable(graph: MxGraph, name: str) -> int:
    """Return the only input or parameter of this name."""
    names = {node_id: node.name for node_id, node in enumerate(graph.nodes) if node.is_variable}
    found = [node_id for node_id, own in names.items() if own == name]
    return _only(found, name, "input", list(names.values()))


def describe_node(node: Node) -> str:
    """Return the name of a node and its operator, as in ``'fc1' (FullyConnected)``."""
    return repr(node.name) if node.is_variable else f"{node.name!r} ({node.operator})"


def describe_entries(graph: MxGraph, entries: Iterable[Entry]) -> str:
    """Describe the nodes that some inputs or heads refer to."""
    found = []
    for node_id, i in entries:
        node = graph.nodes[node_id]
        several = not node.is_variable and len(output_names(node)) > 1
        found.append(f"output {i} of {describe_node(node)}" if several else describe_node(node))
    return " and ".join(found)


def _only(found: list[int], name: str, kind: str, names: list[str]) -> int:
    if not isinstance(name, str):
        raise TypeError(f"a name must be a string, got {type(name).__name__}: {name!r:.80}")
    if len(found) > 1:
        raise ModelError(f"the network has {len(found)} {kind}s named {name!r}; rename them")
    if not found:
        near = get_close_matches(name, names, n=5, cutoff=0.4)
        hint = f"nearest: {', '.join(near)}" if near else f"{kind}s: {', '.join(names[:5])}"
        raise ModelError(f"the network has no {kind} {name!r}; {hint}")
    return found[0]


def _stack(lower: MxGraph, upper: MxGraph, entry: int, end: str) -> MxGraph:
    """Put a graph on another, whose only head takes the place of one of its variables."""
    cannot = f"cannot add a layer to the {end}: "
    head = lower.nodes[_only_head(lower, cannot)]
    if head.operator in OUTPUT_LAYERS:
        raise ModelError(f"{cannot}layer {describe_node(head)} is an output layer; drop it first")
    taken = _names(lower.nodes)
    others = [node for node_id, node in enumerate(upper.nodes) if node_id != entry]
    if twice := [name for name in _names(others) if name in taken]:
        advice = "give the added layer another name"
        raise ModelError(f"the network has the name {twice[0]!r} already; {advice}")
    shift = len(lower.nodes)
    shifted = [
        replace(node, inputs=tuple((source + shift, i) for source, i in node.inputs))
        for node in upper.nodes
    ]
    heads = tuple((source + shift, i) for source, i in upper.heads)
    replaced = {(entry + shift, 0): lower.heads[0]}
    joined = rewire(MxGraph((*lower.nodes, *shifted), heads), replaced)
    return joined.prune(joined.heads)


def rewire(graph: MxGraph, replaced: Mapping[Entry, Entry]) -> MxGraph:
    """Let one output of a node take the place of another, wherever it is read."""
    nodes = tuple(
        replace(node, inputs=tuple(replaced.get(entry, entry) for entry in node.inputs))
        for node in graph.nodes
    )
    return MxGraph(nodes, tuple(replaced.get(head, head) for head in graph.heads))


def _only_head(graph: MxGraph, cannot: str) -> int:
    if len(graph.heads) != 1:
        found = describe_entries(graph, graph.heads)
        raise ModelError(f"{cannot}there are {len(graph.heads)} outputs, {found}")
    return graph.heads[0][0]


def _check_count(count: int, end: str) -> str:
    """Check how many layers are to be dropped; return how messages about that begin."""
    check_integer("the number of layers", count)
    return f"cannot drop {count} layer{'s' * (count > 1)} from the {end}: "


def _names(nodes: Collection[Node]) -> dict[str, None]:
    """Name layers, their outputs and variables, the layers first."""
    operators = [node for node in nodes if not node.is_variable]
    outputs = [name for node in operators for name in (node.name, *output_names(node))]
    return dict.fromkeys(outputs + [node.name for node in nodes])
