"""Graph and parameters to ONNX: walks the graph and looks each operator up in the registry."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

from xfer.checkpoint.onnx_builder import (
    BATCH,
    Dims,
    Missing,
    OnnxBuilder,
    Tensor,
    UnknownShape,
    describe_shape,
    follows_batch,
)
from xfer.checkpoint.operators import OPERATORS, Unsupported
from xfer.checkpoint.operators.registry import Attributes
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

    def check(self, heads: Iterable[Entry]) -> None:
        """Raise what stands in the way of some heads: Unsupported, UnknownShape or ValueError."""
        needed = needed_nodes(self.graph, heads)
        problems = [(i, error) for i, error in self.problems.items() if i in needed]
        unsupported: dict[str, str] = {}
        for node_id, error in problems:
            if isinstance(error, Unsupported):
                unsupported.setdefault(str(error), self.graph.nodes[node_id].name)
        if unsupported:
            raise Unsupported(
                "no conversion for "
                + ", ".join(f"{what} (layer {layer!r})" for what, layer in unsupported.items())
                + f"; the {len(OPERATORS)} that are supported are listed by "
                "sorted(xfer.checkpoint.operators.OPERATORS)"
            )
        for node_id, error in problems:
            node = self.graph.nodes[node_id]
            kind = UnknownShape if isinstance(error, UnknownShape) else ValueError
            raise kind(f"layer {node.name!r} ({node.operator}): {error}") from error


def convert(
    graph: MxGraph, parameters: Mapping[str, np.ndarray], inputs: Mapping[str, Input]
) -> Conversion:
    """Convert every node that can be converted; floating-point parameters become float32.

    The builder has no outputs yet. What could not be converted is in ``problems``.
    """
    builder = OnnxBuilder()
    conversion = Conversion(graph, builder, {}, {})
    variables: dict[str, Tensor] = {}
    # Inputs first: what is made from nothing, such as an RNN's first state, has as many rows.
    for node_id, node in enumerate(graph.nodes):
        if node.is_variable:
            if node.name not in variables:
                variables[node.name] = _variable(builder, node.name, parameters, inputs)
            conversion.values[node_id, 0] = variables[node.name]
    for node_id, node in enumerate(graph.nodes):
        if node.is_variable:
            continue
        sources = [conversion.values.get(source, _UNKNOWN) for source in node.inputs]
        try:
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


class Call:
    """One operator of MXNet, as its conversion sees it.

    ``op("Relu", x)`` emits an ONNX node and returns its Tensor. ``op.int("num_filter")`` and the
    other methods of :class:`Attributes` read the attributes of the operator.
    """

    def __init__(self, builder: OnnxBuilder, node: Node) -> None:
        self.node = node
        self._builder = builder
        attributes = Attributes(node.attributes)
        self.int, self.ints = attributes.int, attributes.ints
        self.float, self.floats = attributes.float, attributes.floats
        self.text, self.flag = attributes.text, attributes.flag

    def __call__(
        self, kind: str, *inputs: Tensor | None, outputs: int = 1, **attributes: Any
    ) -> Any:
        """Emit an ONNX node: its Tensor, or a list of them where it has several outputs."""
        name = f"{self.node.name}/{kind}"
        found = self._builder.add_node(kind, name, inputs, outputs, **attributes)
        return found[0] if outputs == 1 else found

    def constant(self, value: Any, dtype: Any = None) -> Tensor:
        """Return a Tensor that holds an array, a list or a number (floats as float32)."""
        array = np.asarray(value, dtype)
        if array.dtype.kind == "f":
            array = array.astype(np.float32, copy=False)
        return self._builder.add_constant(f"{self.node.name}/constant", array)

    def sizes(self, values: Sequence[Any]) -> Tensor:
        """Return a 1-D int64 Tensor of sizes; multiples of BATCH follow the batch."""
        if not any(map(follows_batch, values)):
            return self.constant(values, np.int64)
        parts = [
            self(
                "Mul", self._builder.batch_size_tensor(), self.constant([value // BATCH], np.int64)
            )
            if follows_batch(value)
            else self.constant([value], np.int64)
            for value in values
        ]
        # Shape inference goes by this value.
        joined = self("Concat", *parts, axis=0)
        return Tensor(joined.name, joined.dtype, joined.dims, np.array(values, np.int64))

    @property
    def batch_size(self) -> Any:
        """The number of examples of a batch (int); ``BATCH`` where it is free."""
        return self._builder.batch_size

    def reshape(self, x: Tensor, shape: Iterable[Any]) -> Tensor:
        """Return ``x`` in another shape, all of whose sizes are given."""
        sizes = [int(size) for size in shape]
        if list(x.dims or [None]) == sizes:
            return x
        # Inference checks the count only where it has a size to fill in.
        if x.dims and None not in x.dims and math.prod(x.shape) != math.prod(sizes):
            found, wanted = describe_shape(x.dims), describe_shape(tuple(sizes))
            raise ValueError(f"a tensor of shape {found} cannot be reshaped to {wanted}")
        given = list(sizes)
        following = [i for i, size in enumerate(sizes) if follows_batch(size)]
        if len(following) == 1 and 0 not in sizes:
            given[following[0]] = -1
        result = self("Reshape", x, self.sizes(given), allowzero=1 if 0 in sizes else None)
        if list(result.shape) != sizes:
            raise ValueError(f"a tensor of shape {x.shape} cannot be reshaped to {tuple(sizes)}")
        return result

    def cast(self, x: Tensor, dtype: Any) -> Tensor:
        """Return ``x`` converted to a type; itself where it has that type."""
        dtype = np.dtype(dtype)
        if x.dtype == dtype:
            return x
        return self("Cast", x, to=helper.np_dtype_to_tensor_dtype(dtype))

    def unsupported(self, what: str) -> Unsupported:
        """Make the error for a use of the operator that has no conversion, to be raised."""
        return Unsupported(f"operator {self.node.operator} with {what}")


# Stands for the output of a node that did not convert.
_UNKNOWN = Tensor("?", np.dtype(np.float32), None)


def _variable(
    builder: OnnxBuilder,
    name: str,
    parameters: Mapping[str, np.ndarray],
    inputs: Mapping[str, Input],
) -> Any:
    if name in inputs:
        return builder.add_input(name, *inputs[name])
    if name not in parameters:
        return Missing(name)
    array = parameters[name]
    if array.dtype.kind == "f":
        # Networks run in single precision, whatever they were saved in.
        array = array.astype(np.float32, copy=False)
    return builder.add_constant(name, array)


def _convert_node(builder: OnnxBuilder, node: Node, sources: list[Tensor]) -> list[Tensor]:
    if node.operator not in OPERATORS:
        raise Unsupported(f"operator {node.operator}")
    before = len(builder.nodes)
    found = OPERATORS[node.operator].convert(Call(builder, node), *sources)
    outputs = found if isinstance(found, (tuple, list)) else (found,)
    new = {name for emitted in builder.nodes[before:] for name in emitted.output}
    return [
        builder.rename(tensor, name, before) if tensor.name in new else tensor
        for tensor, name in zip(outputs, output_names(node))
    ]
