"""ONNX graphs: their layers, their shapes, what decides their values, and what files may hold."""

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from xfer.checkpoint.params import check_is_no_pointer
from xfer.sources.base import Layer
from xfer.sources.onnx_session import with_placeholders

# The types that NumPy has itself.
_NUMBERS = {
    onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
}
# The axis of the channels in the output of operators.
_CHANNELS = {
    **dict.fromkeys(("Conv", "ConvTranspose", "BatchNormalization", "MaxPool"), "first"),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LRN"), "first"),
    **dict.fromkeys(("MatMul", "Gemm", "LayerNormalization", "SkipLayerNormalization"), "last"),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), "first"),
    "Gather": "last",  # of an embedding
}
# Operators that leave the axes where they are.
_KEEP_AXES = {
    *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Erf", "Tanh", "Sigmoid", "Clip", "Cast"),
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Softplus", "Gelu", "HardSigmoid", "HardSwish"),
    *("Concat", "Pad", "Resize", "Slice", "Softmax", "Split", "Upsample"),
    *("Identity", "Dropout", "Neg", "Abs", "Where", "Max", "Min"),
}
_MOST_VALUES = 100_000  # that are followed to find shapes
# The domains of the operators that ONNX Runtime brings.
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}


class OnnxGraph:
    """The graph of an ONNX network, without its parameters, and these beside it."""

    def __init__(self, model: onnx.ModelProto, parameters: Mapping[str, np.ndarray]) -> None:
        self.model = model
        self.parameters = parameters
        graph = model.graph
        known = {*parameters, *(value.name for value in [*graph.input, *graph.initializer])}
        known.update(tensor.values.name for tensor in graph.sparse_initializer)
        for node in graph.node:
            missing = [name for name in node.input if name and name not in known]
            if missing:
                raise ValueError(
                    f"operator {node.op_type} {node.name!r} takes {missing[0]!r}, which nothing "
                    "before it gives"
                )
            outputs = _named(node.output)
            if not known.isdisjoint(outputs):
                raise ValueError(f"the network gives {known.intersection(outputs)} more than once")
            known.update(outputs)
        if not graph.node:
            raise ValueError("the network has no operators")

    def layers(self) -> list[Layer]:
        """List every output of every operator, with the shapes that can be inferred."""
        try:
            listed, _ = with_placeholders(self.model, self.parameters)
            follows = _most_values(listed.graph) <= _MOST_VALUES
            graph = onnx.shape_inference.infer_shapes(listed, data_prop=follows).graph
        except Exception:
            graph = self.model.graph  # what the file says
        shapes = {
            value.name: tuple(dim.dim_value or None for dim in _dims(value)[1:])
            for value in [*graph.value_info, *graph.output]
            if _dims(value)
        }
        layers, left = [], dict(self.parameters)
        for node in self.model.graph.node:
            if node.op_type == "Constant":
                continue
            inputs = node.input[:3] if node.op_type == "BatchNormalization" else node.input
            arrays = [left.pop(name) for name in inputs if name in left]
            # Shapes, axes and indices are 64-bit integers, and nothing that is learned is.
            count = sum(array.size for array in arrays if array.dtype not in (np.int64, np.bool_))
            for name in _named(node.output):
                layers.append(Layer(name, node.op_type, shapes.get(name), count))
                count = 0
        return layers

    def outputs_of(self, name: str) -> list[str]:
        """List the outputs of the operators of some name."""
        nodes = [node for node in self.model.graph.node if node.name == name]
        return [output for node in nodes for output in _named(node.output)]

    @property
    def input_names(self) -> list[str]:
        """The declared inputs that are not initializers."""
        return [value.name for value in self.model.graph.input]

    def below_top(self, count: int) -> str:
        """Name the output that is left when operators are dropped from the end, one by one."""
        makers = {output: node for node in self.model.graph.node for output in node.output}
        outputs = [value.name for value in self.model.graph.output]
        dependent = {*self.input_names}
        for node in self.model.graph.node:
            if not dependent.isdisjoint(node.input):
                dependent.update(node.output)
        for _ in range(count + 1):
            found = [name for name in dict.fromkeys(outputs) if name in dependent]
            if len(found) != 1 or found[0] not in makers:
                what = ", ".join(found) or "nothing"
                raise ValueError(f"cannot drop {count} layers from the top: it comes to {what}")
            outputs = list(makers[found[0]].input)
        return found[0]

    def statistics(self) -> set[str]:
        """Name the parameters that are running statistics of batch norms."""
        norms = [node for node in self.model.graph.node if node.op_type == "BatchNormalization"]
        return {name for node in norms for name in node.input[3:5] if name in self.parameters}

    def learned(self) -> set[str]:
        """Name the parameters that training may change: numbers on their own are settings."""
        return {
            name
            for name, array in self.parameters.items()
            if array.dtype.kind == "f" and array.ndim and np.isfinite(array).all()
        } - self.statistics()

    def input_types(self) -> dict[str, np.dtype]:
        """Return the dtype of each input; refuse inputs that are not arrays of numbers."""
        types = {}
        for value in self.model.graph.input:
            kind = value.type.tensor_type.elem_type
            if kind not in _NUMBERS:
                name = onnx.TensorProto.DataType.Name(kind)
                raise ValueError(f"input {value.name!r} is of {name}, not an array of numbers")
            types[value.name] = onnx.helper.tensor_dtype_to_np_dtype(kind)
        return types

    def input_dims(self, name: str) -> tuple[int | None, ...]:
        """Return the shape of one example of an input, as far as it is known."""
        (value,) = (one for one in self.model.graph.input if one.name == name)
        return tuple(dim.dim_value or None for dim in _dims(value)[1:])

    def batch_size(self) -> int | None:
        """Return the batch size that the inputs were written for; None if any will do."""
        sizes = {dims[0].dim_value for dims in map(_dims, self.model.graph.input) if dims}
        return sizes.pop() or None if len(sizes) == 1 else None

    def free_batch_size(self) -> None:
        """Let the inputs take batches of any size."""
        if self.batch_size() is not None:
            for value in self.model.graph.input:
                _dims(value)[0].dim_param = "batch"

    def cut(self, names: Iterable[str]) -> "OnnxGraph":
        """Cut the graph after some outputs: what they do not need is left out."""
        graph = self.model.graph
        names = list(dict.fromkeys(names))
        needed, nodes = set(names), []
        for node in reversed(graph.node):
            if not needed.isdisjoint(node.output):
                nodes.append(node)
                needed.update(reads_of(node))
        cut = onnx.GraphProto(
            name=graph.name,
            node=nodes[::-1],
            input=[value for value in graph.input if value.name in needed],
            output=[onnx.ValueInfoProto(name=name) for name in names],
            initializer=[tensor for tensor in graph.initializer if tensor.name in needed],
            sparse_initializer=[t for t in graph.sparse_initializer if t.values.name in needed],
        )
        model = _model(self.model, cut)
        return OnnxGraph(model, {n: a for n, a in self.parameters.items() if n in needed})

    def id_limits(self) -> Iterator[tuple[str, str, int]]:
        """Yield input, layer and table size of each embedding that reads an input."""
        source = {name: name for name in self.input_names}
        for node in self.model.graph.node:
            if node.op_type in ("Cast", "Identity") and node.input[0] in source:
                source[node.output[0]] = source[node.input[0]]
            if node.op_type != "Gather" or any(a.name == "axis" and a.i for a in node.attribute):
                continue
            table = self.parameters.get(node.input[0])
            if table is not None and node.input[1] in source:
                yield source[node.input[1]], node.output[0], len(table)

    def quantizes_by_batch(self) -> bool:
        """Return whether values are quantized by their range in a batch."""
        nodes = (part for part in _parts(self.model) if isinstance(part, onnx.NodeProto))
        return any(node.op_type.startswith("DynamicQuantize") for node in nodes)

    def foreign_operators(self) -> list[str]:
        """Name the operators that belong to none of ONNX Runtime's domains."""
        own = {(function.domain, function.name) for function in self.model.functions}
        nodes = [part for part in _parts(self.model) if isinstance(part, onnx.NodeProto)]
        used = {(node.domain, node.op_type) for node in nodes} - own
        return sorted(f"{domain}:{kind}" for domain, kind in used if domain not in _DOMAINS)

    def checksums(self, names: Iterable[str]) -> dict[str, Any]:
        """Return checksums of what decides the values of some outputs: graph and each parameter."""
        cut = self.cut(names)
        model, graph = cut.model, cut.model.graph
        for node in graph.node:
            node.ClearField("name")
        for part in _parts(graph):
            for field in ("doc_string", "metadata_props"):
                if field in part.DESCRIPTOR.fields_by_name:
                    part.ClearField(field)
        operators = sorted((entry.domain, entry.version) for entry in model.opset_import)
        outputs = [value.name for value in graph.output]
        inputs = [(value.name, value.type.tensor_type.elem_type) for value in graph.input]
        rest = [*graph.node, *graph.initializer, *graph.sparse_initializer, *model.functions]
        return {
            "graph": checksum(
                repr([operators, inputs, outputs]).encode(),
                *(part.SerializeToString(deterministic=True) for part in rest),
            ),
            "parameters": {
                name: checksum(f"{array.dtype} {array.shape}".encode(), np.ascontiguousarray(array))
                for name, array in cut.parameters.items()
            },
        }


def channels_axis(
    nodes: Iterable[onnx.NodeProto], name: str, parameters: Collection[str]
) -> str | None:
    """Return whether a value's channels are on its "first" or "last" axis after the examples'."""
    makers = {output: node for node in nodes for output in node.output}
    moved = None  # by a transposition on the way
    while name in makers:
        node = makers[name]
        if node.op_type == "MatMul" and node.input[0] in parameters:
            return None  # the other way round: weights times values
        if node.op_type in _CHANNELS:
            return _CHANNELS[node.op_type] if moved is None else moved[_CHANNELS[node.op_type]]
        if node.op_type == "Transpose" and moved is None:
            perm = next((list(one.ints) for one in node.attribute if one.name == "perm"), [])
            last = len(perm) - 1
            moved = {
                "first": {1: "first", last: "last"}.get(perm.index(1)) if last > 0 else None,
                "last": {1: "first", last: "last"}.get(perm.index(last)) if last > 0 else None,
            }
        elif node.op_type not in _KEEP_AXES:
            return None
        name = next((one for one in node.input if one in makers), "")
    return None


def take_apart(
    model: onnx.ModelProto, path: Path | None = None
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Separate a network's parameters from a copy of its graph without names of producers.

    The network may read files that lie beside it at `path`. Initializers that NumPy has no dtype
    for stay in the graph.
    """
    graph, parameters, kept = model.graph, {}, []
    used = {name for entry in graph.node for name in reads_of(entry)}
    for tensor in graph.initializer:
        if tensor.name not in used:
            continue
        if tensor.data_type not in _NUMBERS:
            kept.append(_loaded(tensor, path))
        elif tensor.name in parameters:
            raise ValueError(f"initializer {tensor.name!r} is listed twice")
        else:
            try:
                parameters[tensor.name] = numpy_helper.to_array(_loaded(tensor, path))
            except Exception as error:
                raise ValueError(f"initializer {tensor.name!r} cannot be read: {error}") from error
    constant = {tensor.name for tensor in graph.initializer}
    bare = _model(
        model,
        onnx.GraphProto(
            name=graph.name,
            node=graph.node,
            # Before IR 4 every initializer is an input too, which keeps it from being constant.
            input=[value for value in graph.input if value.name not in constant],
            output=graph.output,
            value_info=graph.value_info,
            initializer=kept,
            sparse_initializer=graph.sparse_initializer,
        ),
    )
    for part in _parts(bare):
        if isinstance(part, onnx.TensorProto) and uses_external_data(part):
            part.CopyFrom(_loaded(part, path))
        for field, value in part.ListFields():
            # Text that is not UTF-8 comes as bytes.
            values = value if field.type == field.TYPE_STRING else ()
            if isinstance(values, bytes) or any(isinstance(entry, bytes) for entry in values):
                raise ValueError(f"its {field.name} {value!r} is not text")
    return bare, parameters


def _most_values(graph: onnx.GraphProto) -> int:
    """Return how many integers a tensor may have whose values are followed to find shapes.

    A chain of Concat doubles them with each operator: 1 KB of a forged file would become gigabytes.
    """
    integers = onnx.TensorProto.INT32, onnx.TensorProto.INT64
    sizes = {t.name: math.prod(t.dims) for t in graph.initializer if t.data_type in integers}
    for node in graph.node:
        given = [0, *(sizes.get(name, 0) for name in node.input)]
        size = sum(given) if node.op_type == "Concat" else max(given)
        if node.op_type == "Shape":
            size = 8
        for one in node.attribute:
            if one.t.data_type in integers:
                size = max(size, math.prod(one.t.dims))
            size = max(size, len(one.ints)) if node.op_type == "Constant" else size
        sizes.update(dict.fromkeys(node.output, size))
    return max(sizes.values(), default=0)


def parse(content: bytes) -> onnx.ModelProto:
    """Read a model from bytes."""
    try:
        return onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ValueError(f"it is damaged, or not an ONNX file ({error})") from error


def checksum(*parts: Any) -> str:
    """Return the SHA-256 of some bytes or arrays."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _loaded(tensor: onnx.TensorProto, path: Path | None) -> onnx.TensorProto:
    """Return a tensor with its values, which may be in a file beside the network's."""
    if not uses_external_data(tensor):
        return tensor
    entry = next((one for one in tensor.external_data if one.key == "location"), None)
    location = entry.value if entry else ""
    if path is None:
        raise ValueError(
            f"the values of {tensor.name!r} are in the file {location!r}: give the path of the "
            ".onnx file"
        )
    file = (path.parent / location).resolve()
    # In the cache of a model hub, both are links into another folder.
    if not any(file.is_relative_to(one) for one in (path.parent.resolve(), path.resolve().parent)):
        raise ValueError(f"the values of {tensor.name!r} are in {location!r}, outside its folder")
    if file.exists() and not file.is_file():  # reading a named pipe would wait for ever
        raise ValueError(f"the values of {tensor.name!r} are in {location!r}, which is no file")
    loaded = onnx.TensorProto()
    loaded.CopyFrom(tensor)
    for one in loaded.external_data:
        one.value = file.name if one.key == "location" else one.value
    try:
        check_is_no_pointer(file)
        load_external_data_for_tensor(loaded, str(file.parent))
    except Exception as error:
        raise ValueError(f"the file {location!r} cannot be read: {error}") from error
    # Before onnx 1.23 it still says that its values are elsewhere.
    loaded.ClearField("data_location")
    del loaded.external_data[:]
    return loaded


def _model(like: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    return onnx.ModelProto(
        ir_version=max(like.ir_version, 4),
        opset_import=like.opset_import,
        functions=like.functions,
        graph=graph,
    )


def _parts(message: Message) -> Iterator[Message]:
    """Yield a message and all that it is made of."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                yield from _parts(part)


def reads_of(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that an operator takes, and those in the bodies of loops and conditions."""
    for part in _parts(node):
        if isinstance(part, onnx.NodeProto):
            yield from part.input
        elif isinstance(part, onnx.GraphProto):
            yield from (value.name for value in part.output)


def _dims(value: Any) -> Any:
    return value.type.tensor_type.shape.dim


def _named(outputs: Sequence[str]) -> list[str]:
    return [name for name in outputs if name]
