"""An ONNX graph built node by node, with types and shapes inferred on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

#: The version of ONNX's operators that graphs are written in.
OPSET = 21
#: Stands for the number of examples while shapes are inferred: a prime beyond every real size, so
#: that what follows the batch, and only that, is a multiple of it. ONNX's inference counts some
#: sizes in 32 bits, which leaves room for a few examples' worth.
BATCH = 134_217_689

#: A shape as far as it is known; multiples of ``BATCH`` follow the batch.
Dims = tuple[int | None, ...] | None

#: What a protocol buffer holds, less some room for the graph.
MOST_BYTES = 2**31 - 2**24
_OPSETS = [helper.make_opsetid("", OPSET)]
# Operators that only move values are evaluated at once on constants: the weights of a recurrent
# network are then known, though they were saved in pieces.
_MOVES = {"Concat", "Flatten", "Gather", "Reshape", "Slice", "Split"}
_MOVES |= {"Squeeze", "Transpose", "Unsqueeze"}
# Inference looks at the values of small integer arrays: shapes, axes, pads.
_MOST_SHAPE_ENTRIES = 64
_NO_BATCH = "needs the number of examples, but no input has a known shape"


class UnknownShape(ValueError):
    """A shape that the parameters and what is known of the data do not determine."""


def follows_batch(size: Any) -> bool:
    """Tell whether a size is a multiple of the number of examples."""
    return isinstance(size, int) and size > 0 and size % BATCH == 0


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value in the graph; ``value`` is its array where that does not depend on the data."""

    name: str
    dtype: np.dtype
    dims: Any  # Dims, and not None where a conversion indexes it
    value: np.ndarray | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """All of its shape; raises UnknownShape where that is not known."""
        if self.dims is None or None in self.dims:
            raise UnknownShape(f"needs the shape of {self.name!r}")
        return self.dims

    @property
    def rank(self) -> int:
        """Its number of dimensions; raises UnknownShape where that is not known."""
        if self.dims is None:
            raise UnknownShape(f"needs the number of dimensions of {self.name!r}")
        return len(self.dims)


class Unsized(Tensor):
    """A number whose shape MXNet infers from the tensor that it is combined with."""


class Missing:
    """A variable without data or parameters: an error only where it is used."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, attribute: str) -> NoReturn:
        raise ValueError(f"there is no parameter {self.name!r}, and no such data")


class OnnxBuilder:
    """An ONNX graph that is being built: nodes, initializers, inputs and outputs.

    A graph for `training` keeps what differs from inference only there, such as dropout, and is
    true for all values of its parameters.
    """

    def __init__(self, training: bool = False) -> None:
        self.training = training
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        #: Names that are taken.
        self.names: set[str] = set()
        self._learned: set[str] = set()
        self._batch_size: Tensor | None = None

    def add_input(self, name: str, dtype: Any, dims: Dims) -> Tensor:
        """Declare an input of the network."""
        self.inputs.append(Tensor(self._unique(name), np.dtype(dtype), dims))
        return self.inputs[-1]

    def add_constant(self, name: str, value: np.ndarray) -> Tensor:
        """Add an array that does not depend on the data."""
        tensor = Tensor(self._unique(name), value.dtype, value.shape, value)
        self.initializers[tensor.name] = value
        return tensor

    def add_parameter(self, name: str, value: np.ndarray) -> Tensor:
        """Add an array whose value is not known if the graph is for training."""
        tensor = self.add_constant(name, value)
        if not self.training:
            return tensor
        self._learned.add(tensor.name)
        return replace(tensor, value=None)

    def add_node(
        self,
        kind: str,
        name: str,
        inputs: Sequence[Tensor | None],
        outputs: int = 1,
        **attributes: Any,
    ) -> list[Tensor]:
        """Add an operator of ONNX; inputs and attributes that are None are left out."""
        if any(isinstance(tensor, Unsized) for tensor in inputs):
            raise UnknownShape("needs a shape that only MXNet infers")
        names = [self._unique(name) for _ in range(outputs)]
        node = helper.make_node(
            kind,
            ["" if tensor is None else tensor.name for tensor in inputs],
            names,
            name=names[0],
            **{key: value for key, value in attributes.items() if value is not None},
        )
        types = _infer(node, inputs)
        if kind in _MOVES and all(t is None or self._is_fixed(t) for t in inputs):
            given = {tensor.name: tensor.value for tensor in inputs if tensor is not None}
            found: Any = ReferenceEvaluator(node, opsets={"": OPSET}).run(None, given)
            self.initializers.update(zip(names, found))
            return [Tensor(name, v.dtype, v.shape, v) for name, v in zip(names, found)]
        self.nodes.append(node)
        return [Tensor(name, *types[name]) for name in names]

    def _is_fixed(self, tensor: Tensor) -> bool:
        return tensor.name in self.initializers and tensor.name not in self._learned

    def fixed(self, tensor: Tensor) -> Tensor:
        """Return a tensor with its value, if it is a parameter."""
        return replace(tensor, value=self.initializers.get(tensor.name, tensor.value))

    def add_output(self, name: str, tensor: Tensor) -> None:
        """Declare an output of the network, under the name of its layer."""
        if tensor.name != name or tensor in self.outputs:
            tensor = self.add_node("Identity", name, [tensor])[0]
        self.outputs.append(tensor)

    def build(self) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        """Return what the outputs need: a model without arrays, and the arrays by name."""
        used, nodes = {tensor.name for tensor in self.outputs}, []
        for node in reversed(self.nodes):
            if not used.isdisjoint(node.output):
                used.update(node.input)
                nodes.append(node)
        arrays = {name: array for name, array in self.initializers.items() if name in used}
        needed = [tensor for tensor in self.inputs if tensor.name in used]
        graph = helper.make_graph(
            nodes[::-1],
            "xfer",
            [_value_info(tensor) for tensor in needed],
            [_value_info(tensor) for tensor in self.outputs],
        )
        model = helper.make_model(graph, producer_name="xfer", opset_imports=_OPSETS, ir_version=10)
        return model, arrays

    def to_model(self) -> onnx.ModelProto:
        """Return the model with its arrays, which may be up to 2 GB."""
        model, arrays = self.build()
        size = sum(array.nbytes for array in arrays.values())
        if size > MOST_BYTES:
            found = f"its parameters are {size:,} bytes"
            raise ValueError(f"an ONNX model holds less than 2 GB; {found}")
        model.graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in arrays.items()
        )
        return model

    def rename(self, tensor: Tensor, name: str, since: int) -> Tensor:
        """Rename an output of the nodes from index `since` on."""
        renamed = Tensor(self._unique(name), tensor.dtype, tensor.dims, tensor.value)
        for node in self.nodes[since:]:
            for names in (node.input, node.output):
                for i, old in enumerate(names):
                    if old == tensor.name:
                        names[i] = renamed.name
        return renamed

    @property
    def batch_size(self) -> int:
        """The number of examples of a batch; ``BATCH`` where it is free."""
        sizes = [
            next(filter(follows_batch, tensor.dims), tensor.dims[0])
            for tensor in self.inputs
            if tensor.dims
        ]
        if BATCH in sizes:
            return BATCH
        if not sizes or sizes[0] is None:
            raise UnknownShape(_NO_BATCH)
        return sizes[0]

    def batch_size_tensor(self) -> Tensor:
        """Return the number of examples of a batch, of shape (1,) and type int64."""
        if self._batch_size is None:
            following = (
                (tensor, axis)
                for tensor in self.inputs
                for axis, size in enumerate(tensor.dims or ())
                if follows_batch(size)
            )
            data, axis = next(following, (None, 0))
            if data is None:
                raise UnknownShape(_NO_BATCH)
            ends = {"start": axis, "end": axis + 1}
            self._batch_size = self.add_node("Shape", "batch_size", [data], **ends)[0]
        return self._batch_size

    def _unique(self, name: str) -> str:
        unique, count = name, 1
        while unique in self.names or not unique:
            count += 1
            unique = f"{name}.{count}"
        self.names.add(unique)
        return unique


def _value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    dims = tensor.dims
    if dims is not None:
        dims = ["batch" if size == BATCH else size for size in dims]
        # A multiple of the batch has a name that says so.
        dims = [f"{size // BATCH}*batch" if follows_batch(size) else size for size in dims]
    kind = helper.np_dtype_to_tensor_dtype(tensor.dtype)
    return helper.make_tensor_value_info(tensor.name, kind, dims)


def _infer(
    node: onnx.NodeProto, inputs: Sequence[Tensor | None]
) -> dict[str, tuple[np.dtype, Dims]]:
    schema = onnx.defs.get_schema(node.op_type, OPSET, "")
    types, values = {}, {}
    for tensor in inputs:
        if tensor is None:
            continue
        kind = helper.np_dtype_to_tensor_dtype(tensor.dtype)
        types[tensor.name] = helper.make_tensor_type_proto(kind, tensor.dims)
        value = tensor.value
        if value is not None and value.ndim < 2 and value.size <= _MOST_SHAPE_ENTRIES:
            values[tensor.name] = numpy_helper.from_array(np.asarray(value))
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema, node, types, values, opset_imports=_OPSETS
        )
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        shapes = ", ".join("-" if t is None else describe_shape(t.dims) for t in inputs)
        reason = str(error).strip().rpartition("] ")[2]
        raise ValueError(f"{node.op_type} does not take {shapes}: {reason}") from None
    return {name: _read_type(node, kind.tensor_type) for name, kind in found.items()}


def _read_type(node: onnx.NodeProto, kind: Any) -> tuple[np.dtype, Dims]:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    if not kind.HasField("shape"):
        return dtype, None
    dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    # Beyond the prime, and no multiple of it: the batch was mixed with something else.
    if any(size is not None and size > BATCH // 2 and size % BATCH for size in dims):
        raise ValueError(f"{node.op_type} mixes the number of examples with another size")
    return dtype, dims


def describe_shape(dims: Dims) -> str:
    """Print a shape with ``n`` for the number of examples and ``?`` for what is not known."""
    if dims is None:
        return "?"
    known = {None: "?", BATCH: "n"}
    sizes = [
        known.get(size) or (f"{size // BATCH}n" if size and follows_batch(size) else str(size))
        for size in dims
    ]
    return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"
