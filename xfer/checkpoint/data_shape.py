"""What the parameters of a network tell of the shape of its data."""

import re

from xfer.checkpoint.convert import convert, inputs_that_are_read
from xfer.checkpoint.onnx_graph import BATCH
from xfer.checkpoint.operators import OPERATORS, Unsupported
from xfer.checkpoint.operators.registry import Attributes

# Heights and widths that networks are made for, the most usual first.
_SIZES = (224, 112, 32, 28, 299, 227, 256, 128, 64, 96, 160, 192, 300, 331, 416, 512, 608, 640)
_SIZES += (48, 24, 12, 100, 120, 16, 8)
# No network is made for these; one that takes them takes any.
_ODD_SIZES = (1031, 71)
# What comes before the first layer with weights and keeps the number of dimensions and channels.
_KEEPS_CHANNELS = re.compile(
    r"_\w+_scalar|Cast|amp_cast|_copy|BatchNorm(_v1)?|clip|Pad|Dropout|Activation|LeakyReLU"
    r"|BlockGrad|(broadcast|elemwise)_(add|sub|mul|div)"
)


def told_shapes(network):
    """Tell the shapes of batches from the graph, or else from the first layer with weights.

    Parameters
    ----------
    network : Network

    Returns
    -------
    dict of str to tuple of (int or None)
        For each input of which anything can be told, with ``BATCH`` as the number of examples.
    """
    shapes = {}
    for number, node in enumerate(network.graph.nodes):
        if node.is_variable and node.name in network.input_names:
            declared = Attributes(node.attributes).ints("__shape__", None)
            if declared and len(declared) > 1:
                sizes = (size if size and size > 0 else None for size in declared[1:])
                shapes[node.name] = (BATCH, *sizes)
            else:
                found = _shape_from_weights(network, number)
                if found:
                    shapes[node.name] = found
    return shapes


def guess_sizes(network, shapes):
    """Guess the heights and widths that are not told, where the network does not take any.

    Parameters
    ----------
    network : Network
    shapes : dict of str to tuple of (int or None)

    Returns
    -------
    dict of str to tuple of int, or None
        Shapes with the most usual size that goes through; None where any does, or no usual one.
    """
    graph = _part_that_converts(network)
    if all(_goes_through(network, graph, _filled(shapes, size)) for size in _ODD_SIZES):
        return None
    guesses = (_filled(shapes, size) for size in _SIZES)
    return next((guess for guess in guesses if _goes_through(network, graph, guess)), None)


def _part_that_converts(network):
    """Leave out what needs a label, or has no conversion, whatever the sizes."""
    known = {*network.parameters, *network.input_names}
    nodes, kept = network.graph.nodes, set()
    for number, node in enumerate(nodes):
        if node.is_variable:
            converts = node.name in known
        else:
            sources = {source for source, _ in inputs_that_are_read(node)}
            converts = node.operator in OPERATORS and sources <= kept
        if converts:
            kept.add(number)
    return network.graph.prune([(number, 0) for number in sorted(kept)])


def _goes_through(network, graph, shapes):
    try:
        convert(graph, network.parameters, network.typed(shapes))
    except Unsupported:
        return True
    except ValueError:
        return False
    return True


def _filled(shapes, size):
    return {
        name: tuple(size if known is None else known for known in shape)
        for name, shape in shapes.items()
    }


def _shape_from_weights(network, number):
    """Follow an input to the first layers with weights, which know its channels."""
    nodes = network.graph.nodes
    reached = {number: 1}  # and how many times as many channels the input has
    for place, node in enumerate(nodes):
        sources = [source for source, _ in node.inputs]
        times = max((reached[source] for source in sources if source in reached), default=None)
        if times is None:
            continue
        attributes = Attributes(node.attributes)
        if _KEEPS_CHANNELS.fullmatch(node.operator):
            reached[place] = times
        elif node.operator == "SliceChannel" and attributes.int("axis", 1) == 1:
            reached[place] = times * attributes.int("num_outputs")
        elif sources[0] in reached and len(sources) > 1:
            weight = network.parameters.get(nodes[sources[1]].name)
            if weight is not None and node.operator in _WEIGHTED:
                found = _WEIGHTED[node.operator](attributes, weight)
                return (BATCH, *_times(found, times)) if found else None
    return None


def _times(shape, times):
    return (shape[0] and shape[0] * times, *shape[1:])


def _of_convolution(attributes, weight):
    kernel = attributes.ints("kernel")
    layout = attributes.text("layout", None) or "NC"
    if weight.ndim != len(kernel) + 2 or not layout.startswith("NC"):
        return None
    channels = weight.shape[1] * attributes.int("num_group", 1)
    return (channels, *(None for _ in kernel))


_WEIGHTED = {
    "Convolution": _of_convolution,
    "FullyConnected": lambda attributes, weight: weight.shape[1:],
    "Embedding": lambda attributes, weight: (None,),
}
