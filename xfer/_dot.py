"""A network as DOT, the language of Graphviz, and as a picture where Graphviz is installed."""

import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path

from xfer._html import table
from xfer._io import atomic_write
from xfer.checkpoint.convert import output_names
from xfer.checkpoint.symbol import MxGraph, Node

# The colour of a layer is that of the first word found in its operator. The shades are of the
# palette of Okabe and Ito (2008), so that colour-blind readers can tell them apart.
_COLOURS = {
    "null": "#ffffff",
    "output": "#bfbfbf",
    "convolution": "#a6cfe6",
    "connected": "#f2c3a0",
    "embedding": "#f2c3a0",
    "norm": "#a6dbc9",
    "activation": "#f7dfa6",
    "relu": "#f7dfa6",
    "pool": "#cfe9f8",
    "concat": "#edcfe0",
    "add": "#edcfe0",
    "": "#ececec",
}
_SETTINGS = "kernel stride pool_type global_pool num_filter num_hidden output_dim act_type p scalar"
_NOT_IN_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "&": "&amp;"})


class Diagram:
    """The layers of a network and what each of them reads; parameters are not shown.

    A notebook shows a picture where the program ``dot`` of Graphviz is installed, and a table
    otherwise. :meth:`xfer.ModelHandler.visualize_net` makes it.

    Attributes
    ----------
    dot : str
        The network as DOT text. Its outputs have a double outline, and its labels a dashed one.

    Examples
    --------
    >>> import xfer
    >>> handler = xfer.ModelHandler(xfer.load_checkpoint(xfer.example.checkpoint()))
    >>> diagram = handler.visualize_net()
    >>> diagram
    Diagram(11 layers)
    >>> diagram.dot[:9]  # diagram.save("network.dot") writes it to a file
    'digraph {'
    """

    def __init__(
        self,
        graph: MxGraph,
        shapes: Mapping[str, tuple | None],
        input_names: Collection[str],
        label_names: Collection[str],
    ) -> None:
        self._rows: list[tuple[str, ...]] = []
        heads = {node_id for node_id, _ in graph.heads}
        drawn: dict[int, str] = {}
        nodes, edges = [], []
        for node_id, node in enumerate(graph.nodes):
            if node.is_variable and node.name not in (*input_names, *label_names):
                continue
            drawn[node_id] = node.name
            operator = "input" if node.is_variable else node.operator
            settings, shape = _settings(node), _output_shapes(node, shapes)
            sources = [source for source, _ in node.inputs if source in drawn]
            reads = ", ".join(drawn[source] for source in sources)
            self._rows.append((node.name, operator, settings, shape, reads))
            label = r"\n".join(map(_escape, (node.name, f"{operator} {settings}".rstrip(), shape)))
            style = "filled,rounded" + ",dashed" * (node.name in label_names)
            nodes.append(
                f'n{node_id} [label="{label}", style="{style}", fillcolor="{_colour(node)}", '
                f"peripheries={1 + (node_id in heads)}]"
            )
            edges += [f"n{source} -> n{node_id}" for source in sources]
        look = 'node [shape=box, fontname="Helvetica", fontsize=12, color="#666666"]'
        self.dot = "\n".join(["digraph {", look, *nodes, *edges, "}\n"])

    @cached_property
    def svg(self) -> str | None:
        """The picture as SVG; None where Graphviz is not installed."""
        if shutil.which("dot") is None:
            return None
        text = self._render("svg").decode()
        # A browser would show the titles, such as n7, where the mouse rests.
        text = re.sub("<title>.*?</title>\n?", "", text[text.index("<svg") :], flags=re.DOTALL)
        return text.replace("<svg", '<svg style="max-width:100%;height:auto"', 1)

    def save(self, path: str | PathLike) -> None:
        """Write the diagram to a file, whole or not at all.

        Parameters
        ----------
        path : str or path-like
            Ends in ``.dot``, or in ``.svg``, ``.pdf`` or ``.png``, for which Graphviz is needed.

        Raises
        ------
        ValueError
            If `path` has another ending.
        RuntimeError
            If Graphviz is needed and not installed, or cannot draw the network.
        """
        kind = Path(path).suffix.lower().lstrip(".")
        if kind not in ("dot", "svg", "pdf", "png"):
            raise ValueError(f"path must end in .dot, .svg, .pdf or .png, got {str(path)!r}")
        content = self.dot.encode() if kind == "dot" else self._render(kind)
        with atomic_write(path) as file:
            file.write(content)

    def _render(self, kind: str) -> bytes:
        program = shutil.which("dot")
        if program is None:
            raise RuntimeError(
                f"a picture as {kind} needs Graphviz (https://graphviz.org/download), and there is "
                "no program 'dot' on the PATH; a path that ends in .dot needs nothing"
            )
        done = subprocess.run([program, f"-T{kind}"], input=self.dot.encode(), capture_output=True)
        if done.returncode:
            raise RuntimeError(f"Graphviz cannot draw the network: {done.stderr.decode().strip()}")
        return done.stdout

    def _repr_svg_(self) -> str | None:
        return self.svg

    def _repr_html_(self) -> str:
        head = ["layer", "operator", "settings", "output shape", "reads"]
        return self.svg or table(repr(self), head, self._rows)

    def __repr__(self) -> str:
        n_layers = sum(row[1] != "input" for row in self._rows)
        return f"Diagram({n_layers} layer{'s' * (n_layers != 1)})"


def _settings(node: Node) -> str:
    """Name the settings of an operator that matter most."""
    told = ((key, node.attributes.get(key)) for key in _SETTINGS.split())
    return ", ".join(f"{key} {value}" for key, value in told if value)


def _output_shapes(node: Node, shapes: Mapping[str, tuple | None]) -> str:
    """Write the shapes of one example of the outputs, each different one once."""
    names = [node.name] if node.is_variable else output_names(node)
    found = dict.fromkeys(str(shapes[name]) for name in names if shapes.get(name) is not None)
    return ", ".join(found).replace("None", "?")


def _colour(node: Node) -> str:
    return next(colour for word, colour in _COLOURS.items() if word in node.operator.lower())


def _escape(text: str) -> str:
    """Write text as a part of a DOT string, so that it is shown as it is on one line."""
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", re.sub(r"\s", " ", text)).translate(
        _ESCAPES
    )
