"""MXNet networks as sources of features: converted to ONNX once, compared with MXNet once."""

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xfer._dot import Box
from xfer.checkpoint.convert import Conversion, convert, output_names
from xfer.checkpoint.edit import data_dependent_nodes, drop_top, find_parameters
from xfer.checkpoint.edit import find_layer as find_node
from xfer.checkpoint.network import Network
from xfer.checkpoint.onnx_builder import BATCH, Dims, follows_batch
from xfer.checkpoint.operators import Unsupported
from xfer.sources.base import (
    Layer,
    OnnxLayers,
    SourceModel,
    channels_advice,
    check_rows,
    example_shapes,
    find_layer,
)
from xfer.sources.candidates import Ends, graph_ends
from xfer.sources.data import check_ids, take
from xfer.sources.onnx import OnnxSource, one_opens
from xfer.sources.onnx_model import channels_axis
from xfer.sources.onnx_session import Runner

# The engines are compared on so many examples: enough to see every channel, and few enough that the
# slower one is not felt.
_MOST_COMPARED = 4
# How far they may differ, as a share of the layer's largest value. Rounding is below a tenth of it.
_COMPARE_TOLERANCE = 1e-3
_MOST_CONVERSIONS = 8


class CheckpointSource(OnnxSource):
    """An MXNet network, read once and run by ONNX Runtime.

    With ``engine="auto"``, MXNet runs layers that have no conversion. With ``compare``, the first
    examples also run on MXNet, which takes over the layers where the two results differ.
    """

    _advice = (
        ". If the network has its examples on another axis, like an RNN of layout TNC, use "
        "open_source(network, batch_axis=1)"
    )
    # The conversion knows which batch size the network asks for.
    _compute = SourceModel._compute

    def __init__(
        self,
        network: Network,
        *,
        engine: str = "auto",
        data_shapes: Mapping[str, Dims] | None = None,
        data_types: Mapping[str, np.dtype] | None = None,
        contexts: list[Any] | None = None,
        compare: bool = False,
    ) -> None:
        self.network = network
        self._engine = engine
        self.contexts = contexts
        self._compare = compare
        self._compared: set[tuple[str, ...]] = set()
        self._left_to_mxnet: set[tuple[str, ...]] = set()
        declared = {**network.data_types, **(data_types or {})}
        # Parameters are converted to float32, and so are data of another precision.
        self._data_types = {
            name: np.dtype(np.float32) if np.dtype(kind).kind == "f" else np.dtype(kind)
            for name, kind in declared.items()
        }
        #: Shapes of batches by input; what was not known before is known once data were seen.
        self.data_shapes: dict[str, Dims] = dict(data_shapes or network.data_shapes)
        self._id_limits = list(network.id_limits())
        self._conversions: list[tuple[dict[str, Dims], Conversion]] = []
        self._mxnet: Any = None
        #: The axis of the examples by input, if it is not the first.
        self.batch_axes: dict[str, int] = {}
        self._layers = None
        self._set_caches()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_mxnet": None, "_conversions": []}

    @classmethod
    def from_state(
        cls, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> "CheckpointSource":
        """Make a source of what `to_state` returned."""
        source = CheckpointSource(Network.from_state(state, arrays))
        source.batch_size = int(state["batch_size"])
        axes = state.get("batch_axes")
        return source.with_batch_axes(axes) if axes else source

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the network as what JSON can hold, and arrays."""
        state, arrays = self.network.to_state()
        # Another batch size can round the last digit of a feature another way.
        return {**state, "batch_size": self.batch_size, "batch_axes": self.batch_axes}, arrays

    def with_batch_axes(self, axes: Mapping[str, int]) -> "CheckpointSource":
        """Return a copy that gives the network its inputs with the examples on these axes."""
        source = copy.copy(self)
        source.batch_axes = dict(axes)
        source.data_shapes = {}
        for name, dims in self.data_shapes.items():
            if dims:
                sizes: list[int | None] = [None, *dims[1:]]
                sizes[_checked_axis(axes.get(name, 0), name, len(dims))] = BATCH
                source.data_shapes[name] = tuple(sizes)
        source._compared, source._left_to_mxnet = set(), set()
        source._conversions, source._layers, source._mxnet = [], None, None
        vars(source).pop("_checked", None)
        source._set_caches()
        return source

    def with_network(self, network: Network) -> "CheckpointSource":
        """Open another network on this one's engine, compared with MXNet if this one is."""
        names = network.input_names
        source = CheckpointSource(
            network,
            engine=self._engine,
            data_shapes={n: self.data_shapes[n] for n in names if n in self.data_shapes},
            data_types={n: self._data_types[n] for n in names if n in self._data_types},
            contexts=self.contexts,
            compare=self._compare,
        )
        source.inputs, source.padding_id = self.inputs, self.padding_id
        source.batch_axes = {n: axis for n, axis in self.batch_axes.items() if n in names}
        return source

    @property
    def layers(self) -> list[Layer]:
        """Every operator of the graph, in topological order."""
        if self._layers is None:
            conversion = self._conversion(self.data_shapes)
            self._layers = []
            for name, operator, dims, count in self.network.layers(conversion):
                self._layers.append(Layer(name, operator, _example_shape(dims), count))
        return self._layers

    @property
    def layer_names(self) -> list[str]:
        """Names of ``layers``."""
        return list(self.network.positions)

    @property
    def input_names(self) -> list[str]:
        """Names of the data."""
        return self.network.input_names

    def takes_any_batch_size(self) -> bool:
        """Return whether every layer can be computed for batches of any size."""
        conversion = self._conversion(self.data_shapes)
        return not any(
            isinstance(error, ValueError) and not isinstance(error, Unsupported)
            for error in conversion.problems.values()
        )

    def _to_torch(self, names: Sequence[str] | None) -> Any:
        types, shapes = self._data_types, self.data_shapes
        inputs = {name: (types[name], shapes.get(name)) for name in self.input_names}
        return self.network.to_torch(inputs, names)

    def _input_types(self) -> Mapping[str, np.dtype]:
        return self._data_types

    def _input_dims(self, name: str) -> tuple[int | None, ...] | None:
        dims = self.data_shapes.get(name)
        axis = self.batch_axes.get(name, 0)
        return None if dims is None else (*dims[:axis], *dims[axis + 1 :])

    def place_of(self, inputs: Mapping[str, np.ndarray], layer_name: str) -> tuple[int, int]:
        """Return the axis of the examples in a layer's output, and its rows per example."""
        names = (layer_name,)
        return self._places(self._conversion_for(inputs, names)[0], names)[0]

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> "CheckpointSource":
        """Return a copy of the source whose network has other values of some parameters."""
        network = self.network
        new = [
            {name: arrays.get(name, array) for name, array in old.items()}
            for old in (network.arguments, network.auxiliary)
        ]
        return self.with_network(replace(network, arguments=new[0], auxiliary=new[1]))

    def layer_below_top(self, count: int) -> str:
        """Name the layer that is the network's output when the last ones are dropped."""
        graph = drop_top(self.network.graph, count, self.network.input_names)
        return self.network.with_graph(graph).head_names[0]

    def parameters_of(self, layer_name: str) -> list[str]:
        """Name the parameters of a layer, running statistics included."""
        graph = self.network.graph
        dependent = data_dependent_nodes(graph, self.network.input_names)
        return find_parameters(graph, find_node(graph, layer_name), dependent)

    def _boxes(self) -> dict[int, Box]:
        graph, label_names = self.network.graph, self.network.label_names
        shapes = {layer.name: layer.shape for layer in self.layers}
        shapes |= {name: _example_shape(dims) for name, dims in self.data_shapes.items()}
        heads = {node_id for node_id, _ in graph.heads}
        boxes: dict[int, Box] = {}
        for node_id, node in enumerate(graph.nodes):
            if node.is_variable and node.name not in (*self.input_names, *label_names):
                continue
            names = [node.name] if node.is_variable else output_names(node)
            boxes[node_id] = Box(
                node.name,
                "input" if node.is_variable else node.operator,
                node.attributes,
                [shapes.get(name) for name in names],
                [other for other, _ in node.inputs if other in boxes],
                is_label=node.name in label_names,
                is_output=node_id in heads,
            )
        return boxes

    def role_of(self, name: str) -> str:
        """Return what a parameter is, which the end of its name tells."""
        return name

    def _checksums(self, names: tuple[str, ...]) -> dict[str, Any]:
        axes = {"batch_axes": self.batch_axes} if self.batch_axes else {}
        return {**self.network.fingerprint(names), **axes}

    def find_layers(self, names: str | Iterable[str]) -> tuple[Layer, ...]:
        """Look layers up by name; see :meth:`SourceModel.find_layers`."""
        known = {layer.name: layer for layer in self.layers}
        return tuple(known[layer.name] for layer in self._look_up(names))

    def _find_layer(self, name: str) -> Layer:
        if name.endswith("_output") and name not in self.network.positions:
            name = name.removesuffix("_output")
        # Shapes need a conversion, which waits for the shapes of the data where it can.
        layers = self._layers or [
            Layer(name, operator, None, count)
            for name, operator, _, count in self.network.layers(None)
        ]
        return find_layer(name, layers)

    def _channels(self, name: str, shape: tuple) -> str | None:
        if not self._conversions:
            return None
        conversion = self._conversions[-1][1]
        builder, value = conversion.builder, conversion.values.get(self.network.positions[name])
        if value is None:
            return None
        return channels_axis(builder.nodes, value.name, builder.initializers)

    def _block_ends(self) -> Ends:
        conversion = self._conversion(self.data_shapes)
        builder, names = conversion.builder, self.layer_names
        values = [conversion.values.get(head) for head in self.network.graph.heads]
        heads = [value.name for value in values if value is not None]
        return graph_ends(builder.nodes, builder.initializers, self.input_names, heads, names)

    def _id_sizes(self) -> Iterable[tuple[str, int]]:
        return ((name, size) for name, _, size in self._id_limits)

    def _read_inputs(self, names: tuple[str, ...]) -> list[str]:
        return self.network.inputs_of(names)

    def _forward(
        self, inputs: dict[str, np.ndarray], layers: tuple[Layer, ...]
    ) -> Sequence[np.ndarray]:
        check_ids(inputs, self._id_limits)
        outputs = self._run_engine(inputs, tuple(layer.name for layer in layers))
        known = {name: self.data_shapes.get(name) or (None,) for name in inputs}
        # A dense layer tells how many numbers an example has, not how many axes.
        if any(None in known[name] or len(known[name]) != inputs[name].ndim for name in inputs):
            # From now on the table of layers can show their shapes.
            seen = {name: self._dims(name, BATCH, array) for name, array in inputs.items()}
            self.data_shapes = {**self.data_shapes, **seen}
            self._layers = None
        return outputs

    def _run_engine(
        self, inputs: dict[str, np.ndarray], names: tuple[str, ...]
    ) -> Sequence[np.ndarray]:
        if self._engine == "mxnet" or names in self._left_to_mxnet:
            return self._run_mxnet(inputs, names)
        try:
            outputs = self._run_onnx(inputs, names)
        except ValueError as error:
            if self._engine != "auto" or not (self._compare or isinstance(error, Unsupported)):
                raise
            outputs = self._run_mxnet(inputs, names, error)
            for name, output in zip(names, outputs):
                check_rows(name, output.shape, inputs)
            self._leave_to_mxnet(names, str(error))
            return outputs
        if self._engine == "auto" and self._compare and names not in self._compared:
            return self._compare_engines(inputs, names, outputs)
        return outputs

    def to_onnx(self, layer_names: Sequence[str], inputs: Mapping[str, np.ndarray]) -> OnnxLayers:
        """Return the network that computes some layers for such inputs as an ONNX model."""
        layers = self._look_up(layer_names)
        names = tuple(layer.name for layer in layers)
        self._forward(dict(inputs), layers)  # which may leave them to MXNet
        if self._engine == "mxnet" or names in self._left_to_mxnet:
            raise ValueError(f"MXNet computes {', '.join(names)}, and no ONNX network does")
        return super().to_onnx(names, inputs)

    def _run_onnx(self, inputs: dict[str, np.ndarray], names: tuple[str, ...]) -> list[np.ndarray]:
        return self._runner_for(inputs, names).run(inputs)

    def _runner_for(self, inputs: Mapping[str, np.ndarray], names: tuple[str, ...]) -> Runner:
        conversion, shapes = self._conversion_for(inputs, names)
        size = self._own_sizes.get(names)

        def open_one() -> Runner:
            builder = conversion.builder
            builder.outputs = []
            for name in names:
                builder.add_output(name, conversion.values[self.network.positions[name]])
            model, parameters = builder.build()
            for output in model.graph.output:
                output.ClearField("type")  # ONNX Runtime infers it
            read = {value.name for value in model.graph.input}
            types = {tensor.name: tensor.dtype for tensor in builder.inputs if tensor.name in read}
            places = self._places(conversion, names)
            axes = self.batch_axes
            return Runner(names, model, parameters, types, size, batch_axes=axes, places=places)

        return self._runner((names, size, tuple(shapes.items())), open_one)

    def _conversion_for(
        self, inputs: Mapping[str, np.ndarray], names: tuple[str, ...]
    ) -> tuple[Conversion, dict[str, Dims]]:
        """Return a conversion and its shapes: of any batch size, or of the one that it needs."""
        heads = [self.network.positions[name] for name in names]
        n, size = len(next(iter(inputs.values()))), self._own_sizes.get(names)
        error: ValueError | None = None
        found = None
        own = [size] if size else self.network.batch_sizes
        for batch in own if size and n <= size else [BATCH, n, *own]:
            shapes = {name: self._dims(name, batch, array) for name, array in inputs.items()}
            conversion = self._conversion(shapes)
            try:
                conversion.check(heads)
            except Unsupported:
                raise
            except ValueError as problem:
                error = problem if error is None or batch == n else error
                continue
            if batch == BATCH:
                return conversion, shapes
            found = found or (batch, conversion, shapes)
            rows = [dims[0] for head in heads if (dims := conversion.values[head].dims)]
            if all(row in (None, batch) for row in rows):
                found = batch, conversion, shapes
                break
        if found:
            self._own_sizes[names] = found[0]
            return found[1:]
        raise ValueError(
            f"data of shape {example_shapes(inputs)} for one example do not fit the network: "
            f"{error}{channels_advice(inputs)}"
        ) from error

    def _dims(self, name: str, batch: int, array: np.ndarray) -> Dims:
        """Return the dims of an input as the network takes it, for a batch of some size."""
        dims = list(array.shape[1:])
        axis = _checked_axis(self.batch_axes.get(name, 0), name, array.ndim)
        dims.insert(axis, batch)
        return tuple(dims)

    def _places(self, conversion: Conversion, names: tuple[str, ...]) -> list[tuple[int, int]]:
        """Return the axis of the examples in each layer's output, and its rows per example."""
        values = [conversion.values.get(self.network.positions[name]) for name in names]
        return [_place(None if value is None else value.dims) for value in values]

    def _conversion(self, shapes: Mapping[str, Dims]) -> Conversion:
        """Convert the whole network for data of some shapes, once."""
        with one_opens:
            return self._conversion_of(shapes)

    def _conversion_of(self, shapes: Mapping[str, Dims]) -> Conversion:
        # Not one for any size: features could differ in the last digit from those of a process
        # that knew the sizes.
        for known, conversion in self._conversions:
            if all(known.get(name) == dims for name, dims in shapes.items()):
                return conversion
        inputs = {name: (self._data_types[name], shapes.get(name)) for name in self.input_names}
        conversion = convert(self.network.graph, self.network.parameters, inputs)
        kept = self._conversions[1 - _MOST_CONVERSIONS :]
        self._conversions = [*kept, (dict(shapes), conversion)]
        return conversion

    def _compare_engines(
        self, inputs: dict[str, np.ndarray], names: tuple[str, ...], outputs: list[np.ndarray]
    ) -> Sequence[np.ndarray]:
        n = min(len(outputs[0]), self._own_sizes.get(names, _MOST_COMPARED))
        few = {name: array[:n] for name, array in inputs.items()}
        for name, found, expected in zip(names, outputs, self._run_mxnet(few, names)):
            check_rows(name, expected.shape, few)
            scale = float(np.abs(expected).max(initial=0, where=np.isfinite(expected)))
            close = found[:n].shape == expected.shape and np.allclose(
                found[:n], expected, rtol=0, atol=_COMPARE_TOLERANCE * scale, equal_nan=True
            )
            if not close:
                self._leave_to_mxnet(names, _describe_disagreement(name, found[:n], expected))
                return self._run_mxnet(inputs, names)
        self._compared.add(names)
        self._mxnet = None
        return outputs

    def _leave_to_mxnet(self, names: tuple[str, ...], reason: str) -> None:
        self._left_to_mxnet.add(names)
        warnings.warn(f"MXNet runs the network, more slowly: {reason}", stacklevel=5)

    def _run_mxnet(
        self,
        inputs: dict[str, np.ndarray],
        names: tuple[str, ...],
        cause: ValueError | None = None,
    ) -> list[np.ndarray]:
        engine = self._mxnet
        if engine is None:
            try:
                from xfer.sources.mxnet_engine import MxnetEngine
            except ImportError as error:
                raise ValueError(
                    f"{cause or 'its engine is mxnet'}; this needs MXNet, which cannot be imported "
                    f"({error}): pip install mxnet==1.9.1 numpy==1.23.5, on Python 3.11"
                ) from error
            given = self.network, self._data_types, self.contexts, self.batch_axes
            engine = self._mxnet = MxnetEngine(*given)
        try:
            places = self._places(self._conversion_for(inputs, names)[0], names)
        except ValueError:  # no conversion tells where the examples are
            places = None
        n = len(next(iter(inputs.values())))
        alone = self.network.quantizes_by_batch(names)
        size, parts = 1 if alone else self._own_sizes.get(names, n), []
        for start in range(0, n, size):
            # If the network needs a larger batch, the last example is repeated.
            index = np.minimum(np.arange(start, start + size), n - 1)
            try:
                parts.append(engine.run(take(inputs, index), names, places))
            except ValueError as error:
                if cause is None:
                    raise
                raise ValueError(f"{cause}; {error}") from error
        return [np.concatenate(part)[:n] for part in zip(*parts)]


def _checked_axis(axis: int, name: str, n_axes: int) -> int:
    if axis >= n_axes:
        raise ValueError(f"batch_axis must be < {n_axes}, the axes of input {name!r}, got {axis}")
    return axis


def _place(dims: Dims) -> tuple[int, int]:
    """Return the axis that grows with the number of examples, and its rows per example."""
    axes = [axis for axis, size in enumerate(dims or ()) if follows_batch(size)]
    if len(axes) != 1 or dims is None:
        return 0, 1
    return axes[0], (dims[axes[0]] or BATCH) // BATCH


def _example_shape(dims: Dims) -> tuple[int | None, ...] | None:
    """Return the shape of one example's features, as far as it is known."""
    if not dims:
        return None
    axis, count = _place(dims)
    rest = [None if follows_batch(size) else size for size in (*dims[:axis], *dims[axis + 1 :])]
    return (count, *rest) if count > 1 else tuple(rest)


def _describe_disagreement(name: str, found: np.ndarray, expected: np.ndarray) -> str:
    if found.shape != expected.shape:
        how = f"shape {found.shape} against {expected.shape}"
    else:
        with np.errstate(invalid="ignore"):
            how = (
                f"the largest difference is {np.nanmax(np.abs(found - expected)):.3g}, the largest "
                f"value {np.nanmax(np.abs(expected)):.3g}"
            )
    return f"ONNX Runtime and MXNet disagree on layer {name!r}: {how}"
