"""A picture of a network that needs nothing to be installed: layout and SVG are written here.

What is read of a graph goes one way: boxes with their text, rows and the order in them, positions
and edges, SVG.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from xfer._files import written_whole
from xfer.diagram.boxes import make_boxes
from xfer.diagram.layout import lay_out
from xfer.diagram.svg import write_svg

__all__ = ["Diagram", "draw"]


def draw(graph, shapes=None, title=None, *, input_names=None):
    """Draw a network, from its inputs at the top down to its outputs.

    Layers are boxes with the name to copy, and inputs are ellipses. Parameters are not drawn: what
    matters of them is in the box of their layer, and the rest of what a layer was told is shown
    where the mouse rests on it. Labels, and what else has no say in inference, are dashed.

    Parameters
    ----------
    graph : xfer.checkpoint.symbol.Graph
    shapes : dict of str to tuple of (int or None), optional
        Shapes of one example of layers and inputs by name, to be written where they come out. None
        in a shape is a question mark.
    title : str, optional
        Goes above the picture.
    input_names : iterable of str, optional
        Which variables are data. By default those that, by name and by who reads them, are neither
        parameters nor labels.

    Returns
    -------
    Diagram
        The same for the same arguments.

    Raises
    ------
    ValueError
        If one of `input_names` is no variable of the graph.

    Examples
    --------
    >>> from xfer.checkpoint.symbol import Graph
    >>> graph = Graph.from_json('''{"heads": [[1, 0]], "nodes": [
    ...     {"op": "null", "name": "data", "inputs": []},
    ...     {"op": "Flatten", "name": "flat", "inputs": [[0, 0]]}]}''')
    >>> diagram = draw(graph, {"flat": (784,)})
    >>> diagram
    Diagram(1 layer, 1 input)
    >>> diagram.svg[:4]  # of which diagram.save("network.svg") makes a file
    '<svg'
    """
    if input_names is not None:
        input_names = {*input_names}
        unknown = input_names - {node.name for node in graph.nodes if node.is_variable}
        if unknown:
            raise ValueError(f"input_names should be variables of the graph, got {sorted(unknown)}")
    boxes = make_boxes(graph, shapes or {}, input_names)
    svg = write_svg(boxes, lay_out(boxes), title)
    counts = Counter(box.family == "input" for box in boxes.values())
    return Diagram(svg, counts[False], counts[True])


@dataclass(frozen=True, repr=False)
class Diagram:
    """A picture of a network, which a notebook shows.

    Parameters
    ----------
    svg : str
        A document of its own, which may also be put into a page.
    layers, inputs : int
        How many are drawn.
    """

    svg: str
    layers: int
    inputs: int

    def save(self, path):
        """Write it to a file, whole or not at all.

        Parameters
        ----------
        path : str or path-like
            Ends in ``.svg``.

        Raises
        ------
        ValueError
            If it ends otherwise.
        """
        if Path(path).suffix.lower() != ".svg":
            raise ValueError(
                f"a diagram is saved as SVG: path should end in .svg, got {str(path)!r}"
            )
        with written_whole(path) as file:
            file.write(self.svg.encode())

    def _repr_svg_(self):
        # A notebook may be narrower; some programs that draw files stumble over such a height.
        return self.svg.replace("<svg", '<svg style="max-width:100%;height:auto"', 1)

    def __repr__(self):
        layers, inputs = "s" * (self.layers != 1), "s" * (self.inputs != 1)
        return f"Diagram({self.layers} layer{layers}, {self.inputs} input{inputs})"
