"""A network as DOT, the language of Graphviz, and as a picture where Graphviz is installed."""

import re
import shutil
import subprocess
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from xfer._html import table
from xfer._io import atomic_write

# By the first pattern found in an operator: shades of the palette of Okabe and Ito (2008), which
# colour-blind readers can tell apart.
_COLOURS = {
    "^input$": "#ffffff",
    "output": "#bfbfbf",
    "conv": "#a6cfe6",
    "connected|embedding|linear|gemm|matmul": "#f2c3a0",
    "norm": "#a6dbc9",
    "activation|[rgs]elu|sigmoid|tanh|softmax|silu": "#f7dfa6",
    "pool": "#cfe9f8",
    "concat|add|^cat$": "#edcfe0",
    "": "#ececec",
}
# Of operators of MXNet and ONNX, and of modules of PyTorch.
_SETTINGS = (
    *("kernel", "kernel_shape", "kernel_size", "stride", "strides", "pool_type", "global_pool"),
    *("num_filter", "num_hidden", "output_dim", "act_type", "p", "scalar"),
    *("out_channels", "out_features", "embedding_dim", "hidden_size", "num_heads"),
)


class Box(NamedTuple):
    """A layer of a network, or an input, whose operator is ``"input"``."""

    name: str
    operator: str
    settings: Mapping[str, Any] = {}
    shapes: Sequence[tuple[int | None, ...] | None] = ()  # of one example of each output
    reads: Sequence[Hashable] = ()  # keys of other boxes
    is_label: bool = False
    is_output: bool = False


class Diagram:
    """The layers of a network and what each of them reads; parameters are not shown.

    A notebook shows a picture where the program ``dot`` of Graphviz is installed, and a table
    otherwise. The network as DOT text is ``dot``: its outputs have a double outline, and its labels
    a dashed one.

    An arrow leads from what computes an array to what reads it. Where the code of a PyTorch network
    does not show that, dashed lines lead from each module to those inside it. A name in parentheses
    is an operation of PyTorch between the layers; it cannot be requested as a layer.
    """

    def __init__(self, boxes: Mapping[Any, Box], *, is_tree: bool = False) -> None:
        self._rows: list[tuple[str, ...]] = []
        self._reads = "in" if is_tree else "reads"
        look = 'node [shape=box, fontname="Helvetica", fontsize=12, color="#666666"]'
        lines = ["digraph {", look]
        if is_tree:
            lines.append('rankdir=LR; edge [dir=none, style=dashed, color="#666666"]')
        ids = {key: f"n{index}" for index, key in enumerate(boxes)}
        for key, box in boxes.items():
            told = ((key, box.settings.get(key)) for key in _SETTINGS)
            settings = ", ".join(f"{key} {value}" for key, value in told if value)
            shapes = dict.fromkeys(str(shape) for shape in box.shapes if shape is not None)
            shape = ", ".join(shapes).replace("None", "?")
            reads = ", ".join(boxes[other].name for other in box.reads)
            self._rows.append((box.name, box.operator, settings, shape, reads))
            texts = box.name, f"{box.operator} {settings}".rstrip(), shape
            label = r"\n".join(map(_escape, filter(None, texts)))
            style = "filled,rounded" + ",dashed" * box.is_label
            words = box.operator.lower()
            colour = next(_COLOURS[pattern] for pattern in _COLOURS if re.search(pattern, words))
            outline = f'fillcolor="{colour}", peripheries={1 + box.is_output}'
            lines.append(f'{ids[key]} [label="{label}", style="{style}", {outline}]')
            lines += [f"{ids[other]} -> {ids[key]}" for other in box.reads]
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
        head = ["layer", "operator", "settings", "output shape", self._reads]
        return self.svg or table(repr(self), head, self._rows)

    def __repr__(self) -> str:
        n_layers = sum(row[1] != "input" for row in self._rows)
        return f"Diagram({n_layers} layer{'s' * (n_layers != 1)})"


def _escape(text: str) -> str:
    """Write text as a part of a DOT string, so that it is shown as it is on one line."""
    text = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return text.replace("\\", r"\\").replace('"', r"\"").replace("&", "&amp;")
