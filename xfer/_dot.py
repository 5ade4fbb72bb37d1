"""A network as DOT, the language of Graphviz, and as a picture where Graphviz is installed."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xfer._html import table
from xfer._io import atomic_write
from xfer.checkpoint.convert import output_names
from xfer.checkpoint.symbol import Node

if TYPE_CHECKING:
    from xfer.sources.checkpoint import CheckpointSource

# By the first pattern found in an operator: shades of the palette of Okabe and Ito (2008), which
# colour-blind readers can tell apart.
_COLOURS = {
    "null": "#ffffff",
    "output": "#bfbfbf",
    "convolution": "#a6cfe6",
    "connected|embedding": "#f2c3a0",
    "norm": "#a6dbc9",
    "activation|relu": "#f7dfa6",
    "pool": "#cfe9f8",
    "concat|add": "#edcfe0",
    "": "#ececec",
}
_SETTINGS = "kernel stride pool_type global_pool num_filter num_hidden output_dim act_type p scalar"


class Diagram:
    """The layers of a network and what each of them reads; parameters are not shown.

    A notebook shows a picture where the program ``dot`` of Graphviz is installed, and a table
    otherwise. The network as DOT text is ``dot``: its outputs have a double outline, and its labels
    a dashed one.
    """

    def __init__(self, source: "CheckpointSource") -> None:
        graph, label_names = source.network.graph, source.network.label_names
        shapes = {layer.name: layer.shape for layer in source.layers}
        shapes |= {name: batch and batch[1:] for name, batch in source.data_shapes.items()}
        self._rows: list[tuple[str, ...]] = []
        heads = {node_id for node_id, _ in graph.heads}
        drawn: dict[int, str] = {}
        look = 'node [shape=box, fontname="Helvetica", fontsize=12, color="#666666"]'
        lines = ["digraph {", look]
        for node_id, node in enumerate(graph.nodes):
            if node.is_variable and node.name not in (*source.input_names, *label_names):
                continue
            drawn[node_id] = node.name
            operator = "input" if node.is_variable else node.operator
            told = ((key, node.attributes.get(key)) for key in _SETTINGS.split())
            settings = ", ".join(f"{key} {value}" for key, value in told if value)
            shape = _output_shapes(node, shapes)
            read = [other for other, _ in node.inputs if other in drawn]
            reads = ", ".join(drawn[other] for other in read)
            self._rows.append((node.name, operator, settings, shape, reads))
            label = r"\n".join(map(_escape, (node.name, f"{operator} {settings}".rstrip(), shape)))
            style = "filled,rounded" + ",dashed" * (node.name in label_names)
            words = node.operator.lower()
            colour = next(_COLOURS[pattern] for pattern in _COLOURS if re.search(pattern, words))
            outline = f'fillcolor="{colour}", peripheries={1 + (node_id in heads)}'
            lines.append(f'n{node_id} [label="{label}", style="{style}", {outline}]')
            lines += [f"n{other} -> n{node_id}" for other in read]
        self.dot = "\n".join([*lines, "}\n"])

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
        """Write the diagram as ``.dot``, or with Graphviz as ``.svg``, ``.pdf`` or ``.png``."""
        kind = Path(path).suffix.lower().lstrip(".")
        if kind not in ("dot", "svg", "pdf", "png"):
            raise ValueError(f"path must end in .dot, .svg, .pdf or .png, got {str(path)!r}")
        content = self.dot.encode() if kind == "dot" else self._render(kind)
        with atomic_write(path) as file:
            file.write(content)

    def _render(self, kind: str) -> bytes:
        program = shutil.which("dot")
        if program is None:
            reason = "there is no program 'dot' on the PATH; a path that ends in .dot needs nothing"
            needs = f"a picture as {kind} needs Graphviz (https://graphviz.org/download)"
            raise RuntimeError(f"{needs}, and {reason}")
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


def _output_shapes(node: Node, shapes: Mapping[str, Any]) -> str:
    """Write the shapes of one example of the outputs, each different one once."""
    names = [node.name] if node.is_variable else output_names(node)
    found = dict.fromkeys(str(shapes[name]) for name in names if shapes.get(name) is not None)
    return ", ".join(found).replace("None", "?")


def _escape(text: str) -> str:
    """Write text as a part of a DOT string, so that it is shown as it is on one line."""
    text = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return text.replace("\\", r"\\").replace('"', r"\"").replace("&", "&amp;")
