"""A network as DOT, the language of Graphviz, and as a picture where Graphviz is installed."""

import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path

from xfer._files import written_whole
from xfer._html import table
from xfer.checkpoint.convert import output_names
from xfer.checkpoint.symbol import Graph as MxGraph
from xfer.checkpoint.symbol import Node as MxNode

# A layer has the colour of the first group with a word of its operator: shades of the palette of
# Okabe and Ito (2008), which colour-blind readers can tell apart.
_COLOURS = {
    "^null$": "#ffffff",
    "output$": "#bfbfbf",
    "convolution": "#a6cfe6",
    "connected|embedding|rnn": "#f2c3a0",
    "norm": "#a6dbc9",
    "activation|relu|sigmoid|tanh|softm": "#f7dfa6",
    "pool": "#cfe9f8",
    "concat|_add|_plus$": "#edcfe0",
    "": "#ececec",
}
_SETTINGS = "kernel stride pool_type global_pool num_filter num_hidden output_dim act_type p scalar"
_NOT_IN_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "&": "&amp;"})


class Diagram:
    """The layers of a network and what each of them reads; parameters are not shown.

    A notebook shows a picture where the program ``dot`` of Graphviz is installed, and a table
    otherwise.

    Attributes
    ----------
    dot : str
        The network as DOT text. Its outputs have a double outline, and its labels a dashed one.
    svg : str or None
        The picture as SVG; None where Graphviz is not installed.

    Examples
    --------
    >>> import xfer
    >>> handler = xfer.ModelHandler(xfer.load_checkpoint(xfer.example.checkpoint()))
    >>> handler.visualize_net()
    Diagram(11 layers)
    """

    def __init__(
        self,
        graph: MxGraph,
        shapes: Mapping[str, tuple],
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
            sources = [source for source, _ in node.inputs if source in drawn]
            operator, shape = _describe(node), _output_shapes(node, shapes)
            reads = ", ".join(drawn[source] for source in sources)
            self._rows.append((node.name, operator, shape, reads))
            label = r"\n".join(map(_escape, (node.name, operator, shape)))
            style = "filled,rounded" + ",dashed" * (node.name in label_names)
            nodes.append(
                f'n{node_id} [label="{label}", style="{style}", fillcolor="{_colour(node)}", '
                f"peripheries={1 + (node_id in heads)}]"
            )
            edges += [f"n{source} -> n{node_id}" for source in sources]
        look = 'ranksep=0.3\nnode [shape=box, fontname="Helvetica", fontsize=12, color="#666666"]'
        self.dot = "\n".join(["digraph {", look, *nodes, *edges, "}\n"])

    @cached_property
    def svg(self) -> str | None:
        """The picture as SVG; None where Graphviz is not installed."""
        if shutil.which("dot") is None:
            return None
        text = self._render("svg").decode()
        # A browser would show the titles, such as n7, where the mouse rests.
        return re.sub("<title>.*?</title>\n?", "", text[text.index("<svg") :], flags=re.DOTALL)

    def save(self, path: str | PathLike) -> None:
        """Write the diagram to a file, whole or not at all.

        Parameters
        ----------
        path : str or path-like
            Ends in ``.dot``, or in ``.svg``, ``.pdf`` or ``.png``, for which Graphviz is needed.

        Raises
        ------
        RuntimeError
            If Graphviz is needed and not installed, or cannot draw the network.
        """
        kind = Path(path).suffix.lower().lstrip(".")
        if kind not in ("dot", "svg", "pdf", "png"):
            raise ValueError(f"path must end in .dot, .svg, .pdf or .png, got {str(path)!r}")
        content = self.dot.encode() if kind == "dot" else self._render(kind)
        with written_whole(path) as file:
            file.write(content)

    def _render(self, kind: str) -> bytes:
        """Let Graphviz draw the network in one of its formats."""
        program = shutil.which("dot")
        if program is None:
            raise RuntimeError(
                f"a .{kind} file needs Graphviz, and its program 'dot' is not on the PATH: install "
                "it from https://graphviz.org/download, or save to a path that ends in .dot"
            )
        done = subprocess.run([program, f"-T{kind}"], input=self.dot.encode(), capture_output=True)
        if done.returncode:
            message = done.stderr.decode(errors="replace").strip()
            raise RuntimeError(f"Graphviz cannot draw the network: {message}")
        return done.stdout

    def _repr_svg_(self) -> str | None:
        return self.svg

    def _repr_html_(self) -> str:
        if self.svg:
            return f'<div style="overflow-x:auto">{self.svg}</div>'
        return table(repr(self), ["layer", "operator", "output shape", "reads"], self._rows)

    def __repr__(self) -> str:
        n_layers = sum(operator != "input" for _, operator, *_ in self._rows)
        return f"Diagram({n_layers} layer{'s' * (n_layers != 1)})"


def _describe(node: MxNode) -> str:
    """Name the operator and the settings of it that matter most."""
    settings = ((key, node.attributes.get(key)) for key in _SETTINGS.split())
    told = ", ".join(f"{key} {value}" for key, value in settings if value)
    return "input" if node.is_variable else f"{node.operator} {told}".rstrip()


def _output_shapes(node: MxNode, shapes: Mapping[str, tuple]) -> str:
    """Write the shapes of one example of the outputs, each different one once."""
    names = [node.name] if node.is_variable else output_names(node)
    found = dict.fromkeys(str(shapes[name]) for name in names if shapes.get(name) is not None)
    return ", ".join(found).replace("None", "?")


def _colour(node: MxNode) -> str:
    operator = node.operator.lower()
    return next(colour for words, colour in _COLOURS.items() if re.search(words, operator))


def _escape(text: str) -> str:
    """Write text as a part of a DOT string that is shown as it is, on one line."""
    text = re.sub(r"\s", " ", text)
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text).translate(_ESCAPES)
