"""Graph and parameters to ONNX: walks the graph and looks each operator up in the registry."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from xfer.checkpoint.onnx_builder import Dims, Missing, OnnxBuilder, Tensor, UnknownShape
from xfer.checkpoint.operators import OPERATORS, Unsupported
from xfer.checkpoint.operators.registry import Attributes, Call
from xfer.checkpoint.symbol import Entry, MxGraph, Node

#: Type and shape of a batch of an input; ``BATCH`` as the number of examples leaves it free.
Input = tuple[np.dtype, Dims]


@dataclass(frozen=True, eq=False)
class Conversion:
    """What became of a graph; ``problems`` are by node, and ``values`` by node and output."""

    graph: MxGraph
    builder: OnnxBuilder
    values: dict[Entry, Tensor]
    problems: dict[int, Exception]

    def check_outputs(self, entries: Iterable[Entry]) -> None:
        """Refuse outputs that an operator has only in training: conversions lack them."""
        for node_id, i in entries:
            if node_id not in self.problems and (node_id, i) not in self.values:
                node = self.graph.nodes[node_id]
                raise Unsupported(f"output {i} of layer {node.name!r} ({node.operator})")

    def check(self, heads: Sequence[Entry]) -> None:
        """Raise what stands in the way of some heads: Unsupported, UnknownShape or ValueError."""
        needed = needed_nodes(self.graph, heads)
        problems = [(i, error) for i, error in self.problems.items() if i in needed]
        unsupported: dict[str, str] = {}
        for node_id, error in problems:
            if isinstance(error, Unsupported):
                unsupported.setdefault(str(error), self.graph.nodes[node_id].name)
        if unsupported:
            found = ", ".join(f"{what} (layer {layer!r})" for what, layer in unsupported.items())
            known = "that are supported are listed by sorted(xfer.checkpoint.operators.OPERATORS)"
            raise Unsupported(f"no conversion for {found}; the {len(OPERATORS)} {known}")
        try:
            self.check_outputs(heads)
        except Unsupported as missing:
            raise Unsupported(f"no conversion for {missing}") from None
        for node_id, error in problems:
            node = self.graph.nodes[node_id]
            kind = UnknownShape if isinstance(error, UnknownShape) else ValueError
            raise kind(f"layer {node.name!r} ({node.operator}): {error}") from error


def convert(
    graph: MxGraph,
    parameters: Mapping[str, np.ndarray],
    inputs: Mapping[str, Input],
    training: bool = False,
) -> Conversion:
    """Convert every node that can be converted; floating-point parameters become float32.

    The builder has no outputs yet. What could not be converted is in ``problems``. A conversion for
    `training` keeps dropout and the like, and holds for other values of the parameters too.
    """
    builder = OnnxBuilder(training)
    conversion = Conversion(graph, builder, {}, {})

    @cache  # several variables may have one name
    def variable(name: str) -> Any:
        if name in inputs:
            return builder.add_input(name, *inputs[name])
        if name not in parameters:
            return Missing(name)
        array = parameters[name]
        # Networks run in single precision, whatever they were saved in.
        single = array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
        return builder.add_parameter(name, single)

    # Inputs first: what is made from nothing, such as an RNN's first state, has as many rows.
    for node_id, node in enumerate(graph.nodes):
        if node.is_variable:
            conversion.values[node_id, 0] = variable(node.name)
    for node_id, node in enumerate(graph.nodes):
        if node.is_variable:
            continue
        sources = [conversion.values.get(source, _UNKNOWN) for source in node.inputs]
        try:
            conversion.check_outputs(inputs_that_are_read(node))
            outputs = _convert_node(builder, node, sources)
        except Exception as error:  # a broken graph may raise anything
            conversion.problems[node_id] = error
        else:
            conversion.values.update(((node_id, i), tensor) for i, tensor in enumerate(outputs))
    return conversion


def needed_nodes(graph: MxGraph, heads: Iterable[Entry] | None = None) -> set[int]:
    """Return the nodes that the heads depend on; labels and what they are made of are left out."""
    needed = {node_id for node_id, _ in (graph.heads if heads is None else heads)}
    for node_id, node in reversed(list(enumerate(graph.nodes))):
        if node_id in needed:
            needed.update(source for source, _ in inputs_that_are_read(node))
    return needed


def inputs_that_are_read(node: Node) -> list[Entry]:
    """Return the inputs of a node without labels and the like."""
    idle = OPERATORS[node.operator].idle if node.operator in OPERATORS else ()
    return [source for i, source in enumerate(node.inputs) if i not in idle]


def output_names(node: Node) -> list[str]:
    """Name the outputs of an operator as layers."""
    if node.operator not in OPERATORS:
        return [node.name]
    suffixes = OPERATORS[node.operator].outputs(Attributes(node.attributes))
    return [node.name] if len(suffixes) == 1 else [f"{node.name}_{suffix}" for suffix in suffixes]


# Stands for the output of a node that did not convert.
_UNKNOWN = Tensor("?", np.dtype(np.float32), None)


def _convert_node(builder: OnnxBuilder, node: Node, sources: list[Tensor]) -> list[Tensor]:
    if node.operator not in OPERATORS:
        raise Unsupported(f"operator {node.operator}")
    before = len(builder.nodes)
    found = OPERATORS[node.operator].convert(Call(builder, node), *sources)
    outputs = found if isinstance(found, (tuple, list)) else (found,)
    new = {name for emitted in builder.nodes[before:] for name in emitted.output}
    named = []
    for tensor, name in zip(outputs, output_names(node)):
        if tensor.name in new:
            tensor = builder.rename(tensor, name, before)
        elif builder.training and tensor.value is None:
            # Where a layer does nothing, it can still be found by its name.
            tensor = builder.add_node("Identity", name, [tensor])[0]
        named.append(tensor)
    return named
