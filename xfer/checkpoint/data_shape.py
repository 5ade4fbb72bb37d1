"""What a graph and its parameters tell about the shapes of the data."""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from xfer.checkpoint.convert import convert, inputs_that_are_read
from xfer.checkpoint.onnx_builder import BATCH
from xfer.checkpoint.operators import Unsupported
from xfer.checkpoint.operators.registry import Attributes

if TYPE_CHECKING:
    from xfer.checkpoint.network import Network

Shape = tuple[int | None, ...]

# Heights and widths that networks are made for, the most usual first.
_SIZES = [224, 112, 32, 28, 299, 227, 256, 128, 64, 96, 160, 192, 300, 331, 416, 512, 608, 640]
_SIZES += [48, 24, 12, 100, 120, 16, 8]
# No network is made for these; one that takes them takes any.
_ODD_SIZES = (1031, 71)
# Operators before the first layer with weights that keep the number of dimensions and channels.
_KEEPS_CHANNELS = re.compile(
    r"_\w+_scalar|Cast|amp_cast|_copy|BatchNorm(_v1)?|clip|Pad|Dropout|Activation|LeakyReLU"
    r"|BlockGrad|(broadcast|elemwise)_(add|sub|mul|div)"
)


def read_shapes(network: "Network") -> dict[str, Shape]:
    """Return the shapes of batches that the graph declares, or its first weights determine."""
    shapes: dict[str, Shape] = {}
    for node_id, node in enumerate(network.graph.nodes):
        if node.is_variable and node.name in network.input_names:
            declared = Attributes(node.attributes).ints("__shape__", None)
            if declared and len(declared) > 1:
                sizes = (size if size and size > 0 else None for size in declared[1:])
                shapes[node.name] = (BATCH, *sizes)
            elif found := _shape_from_weights(network, node_id):
                shapes[node.name] = found
    return shapes


def guess_sizes(network: "Network", shapes: Mapping[str, Shape]) -> dict[str, Shape] | None:
    """Fill in the most common height and width that the network accepts, or one id.

    None where the network takes any size, or no usual one.
    """
    if all(_goes_through(network, _filled(shapes, size)) for size in _ODD_SIZES):
        return None
    one_id = {name: dims[:1] if dims[1:] == (None,) else dims for name, dims in shapes.items()}
    guesses = [*(_filled(shapes, size) for size in _SIZES), one_id]
    return next((guess for guess in guesses if _goes_through(network, guess)), None)


def _goes_through(network: "Network", shapes: Mapping[str, Shape]) -> bool:
    """Tell whether all converts but what reads labels or has no conversion, whatever the sizes."""
    problems = convert(network.graph, network.parameters, network.typed(shapes)).problems
    known = {*network.parameters, *network.input_names}
    excused: set[int] = set()
    for node_id, node in enumerate(network.graph.nodes):
        unknown = node.is_variable and node.name not in known
        read_excused = any(source in excused for source, _ in inputs_that_are_read(node))
        if unknown or read_excused or isinstance(problems.get(node_id), Unsupported):
            excused.add(node_id)
        elif node_id in problems:
            return False
    return True


def _filled(shapes: Mapping[str, Shape], size: int) -> dict[str, Shape]:
    return {
        name: tuple(size if known is None else known for known in shape)
        for name, shape in shapes.items()
    }


def _shape_from_weights(network: "Network", node_id: int) -> Shape | None:
    """Follow an input to the first layer with weights, which determine its channels."""
    nodes = network.graph.nodes
    reached = {node_id: 1}  # and how many times as many channels the input has
    for index, node in enumerate(nodes):
        sources = [source for source, _ in node.inputs]
        times = max((reached[source] for source in sources if source in reached), default=None)
        if times is None:
            continue
        attributes = Attributes(node.attributes)
        if _KEEPS_CHANNELS.fullmatch(node.operator):
            reached[index] = times
        elif node.operator == "SliceChannel" and attributes.int("axis", 1) == 1:
            if attributes.flag("squeeze_axis", False):
                return None
            reached[index] = times * attributes.int("num_outputs")
        elif sources[0] in reached and len(sources) > 1:
            weight = network.parameters.get(nodes[sources[1]].name)
            if weight is not None and node.operator in _WEIGHTED:
                try:
                    found = _WEIGHTED[node.operator](attributes, weight)
                except ValueError as error:
                    raise ValueError(f"layer {node.name!r}: {error}") from None
                return (BATCH, found[0] and found[0] * times, *found[1:]) if found else None
    return None


def _of_convolution(attributes: Attributes, weight: np.ndarray) -> Shape | None:
    kernel, layout = attributes.ints("kernel"), attributes.text("layout", None) or "NC"
    if weight.ndim != len(kernel) + 2 or not layout.startswith("NC"):
        return None
    return (weight.shape[1] * attributes.int("num_group", 1), *[None] * len(kernel))


_WEIGHTED: dict[str, Callable[[Attributes, np.ndarray], Shape | None]] = {
    "Convolution": _of_convolution,
    "FullyConnected": lambda attributes, weight: weight.shape[1:],
    "Embedding": lambda attributes, weight: (None,),
}
