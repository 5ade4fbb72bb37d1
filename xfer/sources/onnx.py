"""ONNX networks as sources of features, run by ONNX Runtime on the CPU."""

import copy
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from xfer._dot import Box, Diagram
from xfer.checkpoint.params import check_is_no_pointer
from xfer.sources.base import Layer, OnnxLayers, SourceModel
from xfer.sources.candidates import Ends, graph_ends
from xfer.sources.data import Examples
from xfer.sources.onnx_model import OnnxGraph, channels_axis, parse, reads_of, take_apart
from xfer.sources.onnx_session import Runner

if TYPE_CHECKING:
    import torch

_MOST_SESSIONS = 8
# Threads that share a source compute at the same time, but convert and open one after another.
one_opens = threading.RLock()


class OnnxSource(SourceModel):
    """An ONNX network, read once and run by ONNX Runtime on the CPU.

    A network exported for a fixed batch size runs with other sizes if its features stay the same,
    and otherwise with its own size. Operators of domains that ONNX Runtime does not know are never
    loaded; you can still use layers before them.
    """

    _quantizes_by_batch = False

    def __init__(self, model: str | os.PathLike[str] | onnx.ModelProto) -> None:
        if isinstance(model, onnx.ModelProto):
            graph = OnnxGraph(*take_apart(model))
        elif isinstance(model, (str, os.PathLike)):
            path = Path(model)
            if not path.is_file():
                raise FileNotFoundError(f"there is no file {path}")
            check_is_no_pointer(path)
            try:
                graph = OnnxGraph(*take_apart(parse(path.read_bytes()), path))
            except ValueError as error:
                raise ValueError(f"{path} cannot be opened: {error}") from error
        else:
            raise TypeError(
                f"cannot open {type(model).__name__} as an ONNX network; allowed are the path of "
                "an .onnx file and an onnx.ModelProto"
            )
        self._set(graph)

    def _set(self, graph: OnnxGraph) -> None:
        self._graph = graph
        self._layers: list[Layer] | None = graph.layers()
        self._quantizes_by_batch = graph.quantizes_by_batch()
        self._set_caches()

    def _set_caches(self) -> None:
        self._runners: OrderedDict[Any, Runner] = OrderedDict()
        self._fingerprint_memo: dict[tuple[str, ...], dict[str, Any]] = {}
        self._inputs_memo: dict[tuple[str, ...], list[str]] = {}
        # The batch size that layers are computed in, where others do not work.
        self._own_sizes: dict[tuple[str, ...], int] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Sessions cannot travel to another process; they are opened again there.
        return {**self.__dict__, "_runners": OrderedDict()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "OnnxSource":
        """Make a source of what `to_state` returned; raises ValueError where it is damaged."""
        model = parse(np.asarray(arrays["graph"], np.uint8).tobytes())
        names = enumerate(state["parameters"])
        parameters = {name: arrays[f"parameter/{index}"] for index, name in names}
        source = cls.__new__(cls)
        source.batch_size = int(state["batch_size"])
        source._set(OnnxGraph(take_apart(model)[0], parameters))
        return source

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the network as what JSON can hold, and arrays."""
        parameters = self._graph.parameters
        state = {
            "kind": "onnx",
            # A name may hold anything, so it cannot name a file.
            "parameters": list(parameters),
            # Another batch size can round the last digit of a feature another way.
            "batch_size": self.batch_size,
        }
        graph = np.frombuffer(self._graph.model.SerializeToString(), np.uint8)
        indexed = enumerate(parameters.values())
        return state, {"graph": graph, **{f"parameter/{i}": array for i, array in indexed}}

    @property
    def layers(self) -> list[Layer]:
        """Every output of every operator, in topological order."""
        assert self._layers is not None
        return self._layers

    @property
    def input_names(self) -> list[str]:
        """The declared inputs that are not initializers."""
        return self._graph.input_names

    def fingerprint(self, layer_names: str | Sequence[str]) -> dict[str, Any]:
        """Return checksums of the graph up to some layers, and of each parameter in it."""
        names = tuple(layer.name for layer in self._look_up(layer_names))
        if names not in self._fingerprint_memo:
            self._fingerprint_memo[names] = self._checksums(names)
        return self._fingerprint_memo[names]

    def to_torch(self, layer_names: str | Sequence[str] | None = None) -> "torch.fx.GraphModule":
        """Return the network as a PyTorch module, with parameters and layers under their own names.

        Parameters
        ----------
        layer_names : str or list of str, optional
            The layers to return instead of the network's own outputs; what they do not need is left
            out.

        Returns
        -------
        torch.fx.GraphModule
            In inference mode. It is called with the network's inputs in their order and returns a
            tensor, or a tuple of several. Its ``code`` can be read; its layers are submodules. In
            training mode it drops out and normalises batches as the network says. Its arrays are
            copies.

        Raises
        ------
        ImportError
            If PyTorch is not installed.
        ValueError
            If there is no such layer, or an operator has no counterpart in PyTorch.
        """
        names = None
        if layer_names is not None:
            names = [layer.name for layer in self._look_up(layer_names)]
        try:
            return self._to_torch(names)
        except ImportError as error:
            raise ImportError(f"to_torch needs PyTorch: pip install torch ({error})") from error

    def _to_torch(self, names: Sequence[str] | None) -> Any:
        from xfer.graph_module import build_module

        graph = self._graph if names is None else self._graph.cut(names)
        return build_module(graph.model, graph.parameters, graph.learned(), graph.statistics())

    def torch_inputs(
        self, inputs: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> "list[torch.Tensor]":
        """Return inputs as the module of `to_torch` takes them."""
        import torch

        types, axes = self._input_types(), getattr(self, "batch_axes", {})
        arrays = (np.moveaxis(inputs[n].astype(types[n]), 0, axes.get(n, 0)) for n in names)
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]

    def example_inputs(
        self, names: Sequence[str], batch_size: int, sizes: Mapping[str, tuple[int, ...]]
    ) -> "list[torch.Tensor]":
        """Return a batch of zeros, as the module of `to_torch` takes it."""
        zeros = {}
        for name in names:
            dims = sizes.get(name, self._input_dims(name))
            if dims is None or None in dims:
                raise ValueError(
                    f"the shape of input {name!r} is not known: give that of one example, such as "
                    f"--shape {name}=3,32,32"
                )
            zeros[name] = np.zeros((batch_size, *(size or 0 for size in dims)))
        return self.torch_inputs(zeros, names)

    def _input_dims(self, name: str) -> tuple[int | None, ...] | None:
        """Return the shape of one example of an input, as far as it is known."""
        return self._graph.input_dims(name)

    def place_of(self, inputs: Mapping[str, np.ndarray], layer_name: str) -> tuple[int, int]:
        """Return the axis of the examples in a layer's output, and its rows per example."""
        return 0, 1

    def _input_types(self) -> Mapping[str, np.dtype]:
        return self._graph.input_types()

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> "OnnxSource":
        """Return a copy of the source whose network has other values of some parameters."""
        source = copy.copy(self)
        vars(source).pop("_checked", None)
        parameters = {n: arrays.get(n, array) for n, array in self._graph.parameters.items()}
        source._set(OnnxGraph(self._graph.model, parameters))
        return source

    def visualize_net(self) -> Diagram:
        """Draw the network; a notebook shows the result, and ``.save("net.svg")`` writes it."""
        return Diagram(self._boxes())

    def _boxes(self) -> dict[Any, Box]:
        """Describe the inputs, and the operators that depend on them."""
        graph, shapes = self._graph.model.graph, {one.name: one.shape for one in self.layers}
        heads = {value.name for value in graph.output}
        boxes: dict[Any, Box] = {}
        boxes |= {n: Box(n, "input", shapes=[self._input_dims(n)]) for n in self.input_names}
        makers: dict[str, Any] = {name: name for name in boxes}  # keys of boxes by output
        for index, node in enumerate(graph.node):
            reads = list(dict.fromkeys(makers[name] for name in reads_of(node) if name in makers))
            if reads:
                names = [name for name in node.output if name]
                makers |= dict.fromkeys(names, index)
                boxes[index] = Box(
                    ", ".join(names),
                    node.op_type,
                    {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute},
                    [shapes.get(name) for name in names],
                    reads,
                    is_output=not heads.isdisjoint(names),
                )
        return boxes

    def layer_below_top(self, count: int) -> str:
        """Name the layer that is the network's output when the last ones are dropped."""
        return self._graph.below_top(count)

    def parameters_of(self, layer_name: str) -> list[str]:
        """Name the parameters of a layer, running statistics included."""
        (layer,) = self._look_up(layer_name)
        nodes = [node for node in self._graph.model.graph.node if layer.name in node.output]
        known = self._graph.learned() | self._graph.statistics()
        return [name for node in nodes for name in node.input if name in known]

    def role_of(self, name: str) -> str:
        """Return what a parameter is, as MXNet would name it: weight, bias, gamma, mean or var."""
        for node in self._graph.model.graph.node:
            if node.op_type.endswith("Normalization") and name in node.input:
                names = ("data", "gamma", "beta", "mean", "var")
                return names[list(node.input).index(name)]
        return "weight" if self._graph.parameters[name].ndim > 1 else "bias"

    def _checksums(self, names: tuple[str, ...]) -> dict[str, Any]:
        return self._graph.checksums(names)

    def _find_layer(self, name: str) -> Layer:
        if name not in self.layer_names:
            # Exporters name operators as the network's author did, and their outputs by index.
            outputs = self._graph.outputs_of(name)
            name = outputs[0] if len(outputs) == 1 else name
        return super()._find_layer(name)

    def _inputs_of(self, layers: Sequence[Layer]) -> list[str]:
        names = tuple(layer.name for layer in layers)
        if names not in self._inputs_memo:
            self._inputs_memo[names] = self._read_inputs(names) or self.input_names
        return self._inputs_memo[names]

    def _id_sizes(self) -> Iterable[tuple[str, int]]:
        return ((name, size) for name, _, size in self._graph.id_limits())

    def _channels(self, name: str, shape: tuple) -> str | None:
        return channels_axis(self._graph.model.graph.node, name, self._graph.parameters)

    def _block_ends(self) -> Ends:
        graph = self._graph.model.graph
        heads = [value.name for value in graph.output]
        names = self.layer_names
        return graph_ends(graph.node, self._graph.parameters, self.input_names, heads, names)

    def _read_inputs(self, names: tuple[str, ...]) -> list[str]:
        return self._graph.cut(names).input_names

    def _compute(
        self, examples: Examples, layers: tuple[Layer, ...], poolings: Sequence[str]
    ) -> list[np.ndarray]:
        """Compute a batch; in batches of the network's own size where others do not work."""
        try:
            return super()._compute(examples, layers, poolings)
        except ValueError:
            names = tuple(layer.name for layer in layers)
            size = self._graph.cut(names).batch_size()
            if size is None or names in self._own_sizes:
                raise
            self._own_sizes[names] = size
            try:
                return super()._compute(examples, layers, poolings)
            except ValueError:
                del self._own_sizes[names]  # the data are wrong, not the batch size
                raise

    def _forward(
        self, inputs: dict[str, np.ndarray], layers: tuple[Layer, ...]
    ) -> Sequence[np.ndarray]:
        names = tuple(layer.name for layer in layers)
        outputs = self._runner_for(inputs, names).run(inputs)
        if any(layer.shape is None or None in layer.shape for layer in layers):
            # From now on the table of layers can show these shapes.
            seen = {name: output.shape[1:] for name, output in zip(names, outputs)}
            self._layers = [replace(e, shape=seen.get(e.name, e.shape)) for e in self.layers]
        return outputs

    def to_onnx(self, layer_names: Sequence[str], inputs: Mapping[str, np.ndarray]) -> OnnxLayers:
        """Return the network that computes some layers for such inputs as an ONNX model."""
        names = tuple(layer.name for layer in self._look_up(layer_names))
        arrays = list(self._forward(dict(inputs), self._look_up(names)))
        runner = self._runner_for(inputs, names)
        if runner.size is not None:
            raise ValueError(
                f"the network computes {', '.join(names)} only in batches of {runner.size}, and a "
                "file is for batches of any size"
            )
        model = onnx.ModelProto()
        model.CopyFrom(runner.model)
        model.graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in runner.parameters.items()
        )
        outputs = [value.name for value in model.graph.output]
        return OnnxLayers(model, outputs, arrays, list(runner.places))

    def sample_inputs(self, n: int) -> dict[str, np.ndarray]:
        """Return random examples like those that were seen, or of the shapes in the network."""
        known = {name: self._input_dims(name) for name in self.input_names}
        if self._seen_inputs or any(dims is None or None in dims for dims in known.values()):
            return super().sample_inputs(n)
        random, types = np.random.default_rng(0), self._input_types()
        return {
            name: random.integers(0, 2, (n, *(size or 0 for size in dims))).astype(types[name])
            for name, dims in known.items()
            if dims is not None
        }

    def _runner_for(self, inputs: Mapping[str, np.ndarray], names: tuple[str, ...]) -> Runner:
        """Return a session that computes layers for such inputs."""
        size = self._own_sizes.get(names)
        return self._runner((names, size), lambda: self._open(names, size))

    def _runner(self, key: Any, open_one: Callable[[], Runner]) -> Runner:
        """Return a session that is open, or open it; those used most recently are kept."""
        with one_opens:
            if key not in self._runners:
                self._runners[key] = open_one()
                if len(self._runners) > _MOST_SESSIONS:
                    self._runners.popitem(last=False)
            self._runners.move_to_end(key)
            return self._runners[key]

    def _open(self, names: tuple[str, ...], size: int | None) -> Runner:
        cut = self._graph.cut(names)
        if size is None:
            cut.free_batch_size()
        if cut.quantizes_by_batch():
            size = 1  # an example's features would depend on the others' range of values
        types, limits = cut.input_types(), cut.id_limits()
        try:
            return Runner(names, cut.model, cut.parameters, types, size, limits)
        except ValueError as error:
            foreign = ", ".join(cut.foreign_operators())
            if not foreign:
                raise
            raise ValueError(f"{error}; it has none of {foreign}") from error

    @property
    def _tolerance(self) -> float:
        # Padding is part of what such networks round by.
        return 0.05 if self._quantizes_by_batch else super()._tolerance
