"""A box for each node that is drawn, and what it says.

Parameters have none: they are told of in the box of their layer.
"""

import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field

from xfer.checkpoint.convert import inputs_that_are_read, needed_nodes, output_names
from xfer.checkpoint.network import ENDINGS_OF_PARAMETERS
from xfer.diagram.operators import TIMES, find_family, told_settings

CODE = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
PROSE = "system-ui, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
#: From one line of text to the next.
LINE = 16
# Layers of which all inputs but the first are parameters, whatever they are called.
_OWN_PARAMETERS = re.compile("convolution|fully_?connected|embedding|norm(_v1|withrelu)?$", re.I)
_MOST_OUTPUTS = 6


@dataclass(eq=False, repr=False)
class Place:
    """Where an edge passes a row; measured in pixels.

    Parameters
    ----------
    key : tuple
        Rows are sorted by it at first.
    row : int
        How many are above.
    half : float
        Half of the width.
    above, below : dict of Place to bool
        What it is linked with in the rows next to its own, and whether that edge is only on its way
        past the others: those run straight, and it makes room for them.
    order : int
        How many places of the row are on its left.
    x : float
        The middle.
    """

    key: tuple
    row: int = 0
    half: float = 4.0
    above: dict = field(default_factory=dict)
    below: dict = field(default_factory=dict)
    order: int = 0
    x: float = 0.0

    def link(self, other, past):
        """Lead an edge on to a place of the next row.

        Parameters
        ----------
        other : Place
        past : bool
            Whether the edge is only on its way past the others.
        """
        self.below[other] = other.above[self] = past


@dataclass(eq=False, repr=False)
class Box(Place):
    """What is drawn of a node: its text from the start, its place when the layout is made.

    Parameters
    ----------
    family : str
        What kind of operator it is, which its colour shows.
    sources : list of (int, int, bool)
        A node, which of its outputs, and whether that has a say in inference.
    lines : list of (str, str)
        Fonts and what is written in them.
    hover : list of str
        Lines to be shown where the mouse rests.
    shape : str
        Of one example of what comes out.
    height, y : float
        `y` is that of the middle.
    idle : bool
        Whether it has no say in inference.
    fed : bool
        Whether data come in.
    head : bool
        Whether it is an output of the network.
    """

    family: str = "other"
    sources: list = field(default_factory=list)
    lines: list = field(default_factory=list)
    hover: list = field(default_factory=list)
    shape: str = ""
    height: float = 0.0
    y: float = 0.0
    idle: bool = False
    fed: bool = False
    head: bool = False


def make_boxes(graph, shapes, input_names):
    """Make a box for each node that is drawn.

    Parameters
    ----------
    graph : xfer.checkpoint.symbol.Graph
    shapes : dict of str to tuple of (int or None)
        Shapes of one example, by the names of outputs.
    input_names : set of str or None
        Which variables are data, if that is known.

    Returns
    -------
    dict of int to Box
        By the number of the node; each after its sources.
    """
    readers = defaultdict(list)
    for node in graph.nodes:
        for place, (source, _) in enumerate(node.inputs):
            readers[source].append((place, node))
    needed, heads = needed_nodes(graph), {number for number, _ in graph.heads}
    boxes = {}
    for number, node in enumerate(graph.nodes):
        role = _role(node, readers[number], number in needed, input_names)
        if role == "parameter" and number not in heads:
            continue
        used = inputs_that_are_read(node)
        box = boxes[number] = Box((number,), idle=role == "idle", head=number in heads)
        box.sources = [(*entry, entry in used) for entry in node.inputs if entry[0] in boxes]
        fed = [boxes[source].fed for source, _, use in box.sources if use]
        box.fed = role == "data" or any(fed)
        box.family = find_family(node.operator)
        if box.family == "other" and len(fed) > 1:
            box.family = "combination"
        hidden = {graph.nodes[k].name: readers[k] for k, _ in node.inputs if k not in boxes}
        _write(box, node, hidden)
        _tell_outputs(box, node, shapes)
    return boxes


def _role(node, readers, needed, input_names):
    """Tell data, parameters, operators and what has no say in inference apart (str)."""
    if node.is_variable and node.name not in (input_names or ()):
        own = [place and _OWN_PARAMETERS.search(reader.operator) for place, reader in readers]
        if node.name.endswith(ENDINGS_OF_PARAMETERS) or (own and all(own)):
            return "parameter"
        if node.name.endswith("label"):
            return "idle"
        if needed and input_names is not None:
            return "parameter"
    if not needed:
        return "idle"
    return "data" if node.is_variable else "operator"


def _write(box, node, parameters):
    """Put the text into a box: name, what it does and is told, which parameters are not its own."""
    box.lines = [(CODE, node.name)]
    box.hover = [f"{node.name} ({'input' if node.is_variable else node.operator})"]
    box.hover += [f"{key} = {value}" for key, value in node.attributes.items()]
    box.hover += [f"parameter {name}" for name in parameters]
    if node.is_variable:
        return
    settings = ", ".join(filter(None, told_settings(node)))
    box.lines.append((PROSE, f"{node.operator} {settings}".rstrip()))
    sharing = {other.name: 0 for found in parameters.values() for _, other in found}
    others = [name for name in sharing if name != node.name]
    if others:
        more = f" and {len(others) - 1} more" * (len(others) > 1)
        box.lines.append((PROSE, f"shares parameters with {others[0]}{more}"))
    elif parameters and (not box.sources or box.family == "other"):
        box.lines.append((PROSE, f"with {', '.join(parameters)}"))


def _tell_outputs(box, node, shapes):
    """Add names and shapes of the outputs, and make the box as large as its text."""
    outputs = []
    for name in output_names(node):
        shape = shapes.get(name)
        sizes = () if shape is None else ["?" if size is None else f"{size:,}" for size in shape]
        box.shape = f" {TIMES} ".join(sizes) or "one number" * (shape is not None)
        outputs.append(f"{name}  {box.shape}".rstrip())
    box.hover += [f"output {line}" for line in outputs]
    if len(outputs) > 1:
        box.shape = ""
        box.lines += [(CODE, line) for line in outputs[:_MOST_OUTPUTS]]
        if len(outputs) > _MOST_OUTPUTS:
            box.lines.append((PROSE, f"and {len(outputs) - _MOST_OUTPUTS} more outputs"))
    # Wide enough for fonts wider than most; letters of East Asia take the place of two.
    widths = [
        (7.3 if font is CODE else 6.5)
        * sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in line)
        for font, line in box.lines
    ]
    box.half = max((0.6 if node.is_variable else 0.5) * max(widths) + 14, 32)
    box.height = LINE * len(box.lines) + 14
