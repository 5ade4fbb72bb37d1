"""Graph and parameters to ONNX: walks the graph and looks each operator up in the registry."""

import math

import numpy as np
from onnx import helper

from xfer.checkpoint.onnx_graph import (
    BATCH,
    Missing,
    OnnxGraph,
    Tensor,
    UnknownShape,
    describe,
    follows_batch,
)
from xfer.checkpoint.operators import OPERATORS, Unsupported
from xfer.checkpoint.operators.registry import Attributes


def convert(graph, parameters, inputs, *, partial=False):
    """Convert a network to ONNX.

    Parameters
    ----------
    graph : Graph
        Pruned to what is asked for.
    parameters : dict of str to ndarray
        What the variables hold. Floating-point numbers of other sizes become float32.
    inputs : dict of str to (numpy.dtype, tuple of (int or None) or None)
        Type and shape of a batch of each input; ``BATCH`` as the number of examples leaves it free.
    partial : bool, default=False
        Whether to go on where something does not convert, to learn what shapes can be learned.

    Returns
    -------
    made : OnnxGraph
        Without outputs as yet.
    values : dict of (int, int) to Tensor
        What became of each output of each node of ``graph``.

    Raises
    ------
    Unsupported
        If operators have no conversion; all are named.
    UnknownShape
        If the inputs' shapes are needed and not known.
    ValueError
        If parameters are missing, or shapes do not go together.
    """
    made, values, problems, variables = OnnxGraph(), {}, {}, {}
    needed = range(len(graph.nodes)) if partial else needed_nodes(graph)
    # Inputs first: what is made from nothing, such as an RNN's first state, has as many rows.
    for number, node in enumerate(graph.nodes):
        if node.is_variable:
            if node.name not in variables:
                variables[node.name] = _variable(made, node.name, parameters, inputs)
            values[number, 0] = variables[node.name]
    for number, node in enumerate(graph.nodes):
        if node.is_variable or number not in needed:
            continue
        sources = [values.get(source, _UNKNOWN) for source in node.inputs]
        try:
            outputs = _convert_node(made, node, sources)
        except Unsupported as error:
            problems.setdefault(str(error), node.name)
        except Exception as error:  # a graph that makes no sense does so in any way
            # Whatever follows something without conversion has no shapes to go together.
            if not (partial or problems):
                kind = UnknownShape if isinstance(error, UnknownShape) else ValueError
                raise kind(f"layer {node.name!r} ({node.operator}): {error}") from error
        else:
            values.update(((number, place), tensor) for place, tensor in enumerate(outputs))
    if problems and not partial:
        raise Unsupported(
            "no conversion for "
            + ", ".join(f"{what} (layer {layer!r})" for what, layer in problems.items())
            + f"; the {len(OPERATORS)} that are supported are listed by "
            "sorted(xfer.checkpoint.operators.OPERATORS)"
        )
    return made, values


def needed_nodes(graph):
    """Tell which nodes have a say in the heads; labels and what they are made of have none.

    Parameters
    ----------
    graph : Graph

    Returns
    -------
    set of int
        Numbers of nodes.
    """
    needed = {number for number, _ in graph.heads}
    for number, node in reversed(list(enumerate(graph.nodes))):
        if number in needed:
            needed.update(source for source, _ in inputs_that_are_read(node))
    return needed


def inputs_that_are_read(node):
    """Return the inputs of a node, each as (node, output), but for labels and the like."""
    idle = OPERATORS[node.operator].idle if node.operator in OPERATORS else ()
    return [source for place, source in enumerate(node.inputs) if place not in idle]


class Call:
    """One operator of MXNet, as its conversion sees it.

    ``op("Relu", x)`` emits an ONNX node and returns its Tensor. ``op.int("num_filter")`` and the
    other methods of :class:`xfer.checkpoint.operators.registry.Attributes` read what the operator
    was told.
    """

    def __init__(self, made, node):
        self.node = node
        self._made = made
        attributes = Attributes(node.attributes)
        self.int, self.ints = attributes.int, attributes.ints
        self.float, self.floats = attributes.float, attributes.floats
        self.text, self.flag = attributes.text, attributes.flag

    def __call__(self, kind, *inputs, outputs=1, **attributes):
        """Emit an ONNX node: its Tensor, or a list of them where it has several outputs."""
        name = f"{self.node.name}/{kind}"
        found = self._made.add_node(kind, name, inputs, outputs, **attributes)
        return found[0] if outputs == 1 else found

    def constant(self, value, dtype=None):
        """Return a Tensor that holds an array, a list or a number (floats as float32)."""
        array = np.asarray(value, dtype)
        if array.dtype.kind == "f":
            array = array.astype(np.float32, copy=False)
        return self._made.add_constant(f"{self.node.name}/constant", array)

    def sizes(self, values):
        """Return a 1-D int64 Tensor of whole numbers, of which multiples of BATCH follow it."""
        if not any(map(follows_batch, values)):
            return self.constant(values, np.int64)
        parts = [
            self("Mul", self._made.batch_size(), self.constant([value // BATCH], np.int64))
            if follows_batch(value)
            else self.constant([value], np.int64)
            for value in values
        ]
        # The value is what inference is to go by.
        joined = self("Concat", *parts, axis=0)
        return Tensor(joined.name, joined.dtype, joined.dims, np.array(values, np.int64))

    @property
    def examples(self):
        """The number of examples of a batch (int); ``BATCH`` where it is free."""
        return self._made.examples

    def reshape(self, x, shape):
        """Return ``x`` in another shape, all of whose sizes are given."""
        shape = [int(size) for size in shape]
        if list(x.dims or [None]) == shape:
            return x
        # Inference counts only where a size is left for it to tell.
        if x.dims and None not in x.dims and math.prod(x.dims) != math.prod(shape):
            found, wanted = describe(x.dims), describe(tuple(shape))
            raise ValueError(f"a tensor of shape {found} cannot be reshaped to {wanted}")
        given = list(shape)
        following = [place for place, size in enumerate(shape) if follows_batch(size)]
        if len(following) == 1 and 0 not in shape:
            given[following[0]] = -1
        result = self("Reshape", x, self.sizes(given), allowzero=1 if 0 in shape else None)
        if list(result.shape) != shape:
            raise ValueError(f"a tensor of shape {x.shape} cannot be reshaped to {tuple(shape)}")
        return result

    def cast(self, x, dtype):
        """Return ``x`` as numbers of another type; itself where it has that type."""
        dtype = np.dtype(dtype)
        if x.dtype == dtype:
            return x
        return self("Cast", x, to=helper.np_dtype_to_tensor_dtype(dtype))

    def unsupported(self, what):
        """Make the error for a way to use the operator that has no conversion, to be raised."""
        return Unsupported(f"operator {self.node.operator} with {what}")


# Stands for what did not convert, where the rest is looked at all the same.
_UNKNOWN = Tensor("?", np.dtype(np.float32), None)


def _variable(made, name, parameters, inputs):
    if name in inputs:
        return made.add_input(name, *inputs[name])
    if name not in parameters:
        return Missing(name)
    array = parameters[name]
    if array.dtype.kind == "f":
        # Networks run in single precision, whatever they were saved in.
        array = array.astype(np.float32, copy=False)
    return made.add_constant(name, array)


def _convert_node(made, node, sources):
    if node.operator not in OPERATORS:
        raise Unsupported(f"operator {node.operator}")
    before = len(made.nodes)
    found = OPERATORS[node.operator].convert(Call(made, node), *sources)
    outputs = found if isinstance(found, (tuple, list)) else (found,)
    new = {name for emitted in made.nodes[before:] for name in emitted.output}
    names = output_names(node)
    return [
        made.rename(tensor, name, before) if tensor.name in new else tensor
        for tensor, name in zip(outputs, names)
    ]


def output_names(node):
    """Name the outputs of an operator as layers (list of str)."""
    if node.operator not in OPERATORS:
        return [node.name]
    suffixes = OPERATORS[node.operator].outputs(Attributes(node.attributes))
    return [node.name] if len(suffixes) == 1 else [f"{node.name}_{suffix}" for suffix in suffixes]
