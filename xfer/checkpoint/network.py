"""An MXNet network as plain data: its graph and its parameters."""

import hashlib
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from xfer._io import atomic_write
from xfer.checkpoint.convert import (
    Conversion,
    Input,
    convert,
    inputs_that_are_read,
    needed_nodes,
    output_names,
)
from xfer.checkpoint.data_shape import read_shapes
from xfer.checkpoint.edit import data_dependent_nodes
from xfer.checkpoint.legacy import upgrade
from xfer.checkpoint.onnx_builder import BATCH, Dims, UnknownShape
from xfer.checkpoint.operators import Unsupported
from xfer.checkpoint.operators.registry import TYPES, Attributes
from xfer.checkpoint.params import check_is_no_pointer, read_params, split_params
from xfer.checkpoint.symbol import Entry, MxGraph, Node

if TYPE_CHECKING:
    import torch

# The endings of MXNet's names of parameters; any other variable without values is data.
_ENDINGS_OF_PARAMETERS = ("_weight", "_bias", "_gamma", "_beta", "_mean", "_var", "_parameters")
# The index of the first input that is an auxiliary parameter.
_FIRST_AUXILIARY = {
    **dict.fromkeys(("BatchNorm", "BatchNorm_v1", "_npx_batch_norm"), 3),
    **dict.fromkeys(("_contrib_BatchNormWithReLU", "_contrib_SyncBatchNorm"), 3),
    "IdentityAttachKLSparseReg": 1,
}
# Without a calibrated range, the range is that of the values.
_FIND_A_RANGE = {
    *("_contrib_quantize", "_contrib_quantize_v2", "_contrib_quantize_asym", "_contrib_requantize")
}
# Trying a batch size takes a conversion.
_MOST_BATCH_SIZES = 16


@dataclass(frozen=True, eq=False)
class Network:
    """A graph with its parameters.

    ``auxiliary`` holds running statistics (MXNet's auxiliary parameters), ``input_names`` are the
    data, and ``idle_names`` are inputs that play no part in inference, such as labels.
    """

    graph: MxGraph
    arguments: dict[str, np.ndarray]
    auxiliary: dict[str, np.ndarray]
    input_names: list[str]
    idle_names: list[str]

    @classmethod
    def from_files(cls, prefix: str | os.PathLike[str], epoch: int) -> "Network":
        """Read a checkpoint; its inputs are what inference reads and the parameters do not hold.

        The prefix is what comes before ``-symbol.json``, or the whole name of that file.
        """
        prefix = str(prefix).removesuffix("-symbol.json")
        if match := re.fullmatch(r"(.+)-(\d{4,})\.params", prefix):
            raise ValueError(
                f"give the prefix and the epoch of {prefix} apart: {match[1]!r}, {int(match[2])}"
            )
        graph_path = Path(f"{prefix}-symbol.json")
        parameter_path = Path(f"{prefix}-{epoch:04d}.params")
        for path in (graph_path, parameter_path):
            if not path.is_file():
                found = sorted(path.parent.glob(f"{Path(prefix).name}-*"))
                found = found or sorted(path.parent.glob("*-symbol.json"))
                files = ", ".join(one.name for one in found[:8]) or "no checkpoint"
                raise FileNotFoundError(f"there is no file {path}; in that folder: {files}")
        return cls.read(graph_path, parameter_path)

    @classmethod
    def read(
        cls, graph_path: str | os.PathLike[str], parameter_path: str | os.PathLike[str]
    ) -> "Network":
        """Read the two files of a checkpoint, whatever their names are."""
        check_is_no_pointer(graph_path)
        text = Path(graph_path).read_text(encoding="utf-8", errors="replace")
        try:
            graph = MxGraph.from_json(text)
        except ValueError as error:
            raise ValueError(f"{graph_path}: {error}") from None
        arguments, auxiliary = split_params(read_params(parameter_path))
        for name in auxiliary_names(graph) & arguments.keys() - auxiliary.keys():
            auxiliary[name] = arguments.pop(name)
        known = {**arguments, **auxiliary}
        names = [name for name in _variables(graph) if name not in known]
        read = _variables_that_are_read(graph)
        data = _data_of_every_head(graph, known)
        labels = {name for name in names if name.endswith("label") and name not in data}
        inputs = [name for name in names if name in read and name not in labels]
        missing = [name for name in inputs if name.endswith(_ENDINGS_OF_PARAMETERS)]
        if missing:
            found = f"{parameter_path} lacks {', '.join(missing[:5])}; it has "
            found += ", ".join(list(known)[:5]) or "nothing"
            if known.keys().isdisjoint(_variables(graph)):
                raise ValueError(f"{found}. Does it belong to another network?")
            warnings.warn(f"{found}. Layers that need the missing ones are refused", stacklevel=4)
        inputs = [name for name in inputs if name not in missing]
        idle = [name for name in names if name not in {*inputs, *missing}]
        return cls(graph, arguments, auxiliary, inputs, idle)

    @classmethod
    def from_state(cls, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "Network":
        """Make a network of what :meth:`to_state` returned."""
        graph = MxGraph.from_json(json.dumps(state["graph"]))
        names = list(state["input_names"]), list(state["idle_names"])
        return cls(graph, *split_params(arrays), *names)

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what goes into JSON, and the parameters as ``arg:name`` and ``aux:name``."""
        state = {
            "kind": "mxnet",
            "graph": json.loads(self.graph.to_json(), strict=False),
            "input_names": self.input_names,
            "idle_names": self.idle_names,
        }
        arrays = {f"arg:{name}": array for name, array in self.arguments.items()}
        arrays.update({f"aux:{name}": array for name, array in self.auxiliary.items()})
        return state, arrays

    def with_graph(self, graph: MxGraph) -> "Network":
        """Replace the graph, and drop the parameters that the new one does not have.

        New variables are labels, or parameters that have no values yet.
        """
        variables = _variables(graph)
        return Network(
            graph,
            {name: array for name, array in self.arguments.items() if name in variables},
            {name: array for name, array in self.auxiliary.items() if name in variables},
            [name for name in self.input_names if name in variables],
            self._idle_in(graph),
        )

    @cached_property
    def label_names(self) -> list[str]:
        """Variables of the graph that are neither data nor parameters."""
        return self._idle_in(self.graph)

    def _idle_in(self, graph: MxGraph) -> list[str]:
        read = _variables_that_are_read(graph)
        known = {*self.parameters, *self.input_names}
        return [
            name
            for name in _variables(graph)
            if name not in known
            and (name not in read or name.endswith("label") or name in self.idle_names)
        ]

    @cached_property
    def parameters(self) -> dict[str, np.ndarray]:
        """Arguments and auxiliary parameters."""
        return {**self.arguments, **self.auxiliary}

    @cached_property
    def layer_names(self) -> dict[Entry, str]:
        """The name of each layer by node and output; equal names end in ``:0``, ``:1``, ...."""
        found = {
            (node_id, i): name
            for node_id, node in enumerate(self.graph.nodes)
            if not node.is_variable
            for i, name in enumerate(output_names(node))
        }
        uses, seen = Counter(found.values()), Counter[str]()
        for entry, name in found.items():
            if uses[name] > 1:
                found[entry] = f"{name}:{seen[name]}"
                seen[name] += 1
        return found

    @cached_property
    def positions(self) -> dict[str, Entry]:
        """Node and output index of each layer by name."""
        return {name: entry for entry, name in self.layer_names.items()}

    @cached_property
    def head_names(self) -> list[str]:
        """The outputs of the network, as layers."""
        nodes, names = self.graph.nodes, self.layer_names
        return [names.get(head, nodes[head[0]].name) for head in self.graph.heads]

    def prune(self, layer_names: Iterable[str]) -> MxGraph:
        """Cut the graph at layers of these names, which become its heads."""
        return self.graph.prune([self.positions[name] for name in layer_names])

    def inputs_of(self, layer_names: Iterable[str]) -> list[str]:
        """Name the inputs that layers of these names depend on."""
        read = _variables_that_are_read(self.prune(layer_names))
        return [name for name in self.input_names if name in read]

    @cached_property
    def data_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """What is known of the shapes of batches, by input."""
        return read_shapes(self)

    @cached_property
    def data_types(self) -> dict[str, np.dtype]:
        """The type that each input is converted to: as declared, or float32."""
        return {
            node.name: TYPES.get(Attributes(node.attributes).int("__dtype__", None), TYPES[0])
            for node in self.graph.nodes
            if node.is_variable and node.name in self.input_names
        }

    @cached_property
    def batch_sizes(self) -> list[int]:
        """List the batch sizes that the network may be written for, the likeliest first."""
        attributes = [Attributes(node.attributes) for node in self.graph.nodes]
        keys = "shape", "target_shape", "newshape", "__shape__"
        shapes = [one.ints(key, None) or () for one in attributes for key in keys]
        sizes = [*(shape[0] for shape in shapes if shape), *(s for shape in shapes for s in shape)]
        return list(dict.fromkeys(size for size in sizes if size and size > 0))[:_MOST_BATCH_SIZES]

    def typed(self, shapes: Mapping[str, Dims]) -> dict[str, Input]:
        """Return type and shape of every input, as :func:`convert` takes them."""
        return {name: (dtype, shapes.get(name)) for name, dtype in self.data_types.items()}

    def layers(self, conversion: Conversion | None) -> list[tuple[str, str, Dims, int]]:
        """List name, operator, batch shape and number of learned parameters of every layer.

        Shapes are known from a conversion of the whole graph.
        """
        found = []
        for node_id, node in enumerate(self.graph.nodes):
            if node.is_variable:
                continue
            owned = {self.graph.nodes[source].name for source, _ in node.inputs}
            count = sum(self.arguments[name].size for name in owned & self.arguments.keys())
            for i in range(len(output_names(node))):
                name = self.layer_names[node_id, i]
                tensor = conversion.values.get((node_id, i)) if conversion else None
                dims = None if tensor is None else tensor.dims
                # The parameters of an operator with several outputs are counted with the first.
                found.append((name, node.operator, dims, 0 if i else count))
        return found

    def id_limits(self) -> Iterator[tuple[str, str, int]]:
        """Yield input, layer and number of ids of each Embedding that reads an input."""
        for node in self.graph.nodes:
            if node.operator == "Embedding":
                source = self.graph.nodes[node.inputs[0][0]]
                if source.name in self.input_names:
                    yield source.name, node.name, int(node.attributes["input_dim"])

    def quantizes_by_batch(self, layer_names: Iterable[str]) -> bool:
        """Return whether values are quantized by their range in a batch."""
        graph = self.prune(layer_names)
        dependent = data_dependent_nodes(graph, self.input_names)
        for node in (graph.nodes[node_id] for node_id in dependent):
            ends = {source for source, _ in node.inputs[1:]}
            is_given = node.operator == "_contrib_quantize" and dependent.isdisjoint(ends)
            if _finds_a_range(node) and not is_given:
                return True
        return False

    def fingerprint(self, layer_names: Iterable[str]) -> dict[str, Any]:
        """Return checksums of the graph up to some layers, and of each parameter in it."""
        graph = self.prune(layer_names)
        nodes = [
            (node.operator, node.name, sorted(node.attributes.items()), node.inputs, node.subgraphs)
            for node in graph.nodes
        ]
        used = [node.name for node in graph.nodes if node.name in self.parameters]
        return {
            "graph": hashlib.sha256(json.dumps([nodes, graph.heads]).encode()).hexdigest(),
            "parameters": {name: _checksum(self.parameters[name]) for name in used},
        }

    def to_torch(
        self, inputs: Mapping[str, Input], layer_names: str | Sequence[str] | None = None
    ) -> "torch.fx.GraphModule":
        """Return the network as a PyTorch module, cut at layers or whole.

        ``inputs`` are type and shape of every input, as :func:`convert` takes them.
        """
        from xfer.graph_module import build_module

        if isinstance(layer_names, str):
            layer_names = [layer_names]
        for name in layer_names or ():
            if name not in self.positions:
                near = get_close_matches(name, self.positions, cutoff=0.0)
                raise ValueError(f"the network has no layer {name!r}; nearest: {', '.join(near)}")
        graph = self.graph if layer_names is None else self.prune(layer_names)
        conversion = convert(graph, self.parameters, inputs, training=True)
        try:
            conversion.check(graph.heads)
        except UnknownShape as error:
            advice = "run the network on an example first, or give the shapes"
            raise UnknownShape(f"{error}: {advice}") from None
        for name, head in zip(layer_names or self.head_names, graph.heads):
            conversion.builder.add_output(name, conversion.values[head])
        return build_module(*conversion.builder.build(), {*self.arguments}, {*self.auxiliary})

    def export(
        self,
        path: str | os.PathLike[str],
        shapes: Mapping[str, Dims],
        layer_names: Sequence[str] | None = None,
    ) -> list[str]:
        """Write an ``.onnx`` file, cut at layers or whole; return the names of its outputs."""
        if layer_names:
            graph = self.prune(layer_names)
        else:
            nodes = self.graph.nodes
            graph = self.graph.prune(
                head for head in dict.fromkeys(self.graph.heads) if not nodes[head[0]].is_variable
            )
        network = self.with_graph(graph)
        names = list(layer_names or network.head_names)
        conversion = convert(graph, self.parameters, network.typed(shapes))
        try:
            conversion.check(graph.heads)
            # ONNX files cannot hold tensors of unknown rank.
            outputs = [conversion.values[head] for head in graph.heads]
            for tensor in [*conversion.builder.inputs, *outputs]:
                _ = tensor.rank
        except UnknownShape as error:
            raise UnknownShape(f"{error}: give the sizes of one example (--shape)") from None
        except Unsupported as error:
            hint = _last_that_converts(network, conversion)
            raise Unsupported(f"{error}{hint}") from None
        except ValueError as error:
            if BATCH not in [dims[0] for dims in shapes.values() if dims]:
                raise
            hint = "if the network is written for a fixed batch size, give that"
            raise ValueError(f"{error}; {hint} (--batch)") from error
        if len(set(names)) < len(names) or not names:
            found = ", ".join(names) or "none"
            raise ValueError(f"outputs must have different names, got {found}")
        for name, tensor in zip(names, outputs):
            conversion.builder.add_output(name, tensor)
        model = conversion.builder.to_model()
        onnx.checker.check_model(model, full_check=True)
        with atomic_write(path) as file:
            file.write(model.SerializeToString())
        return names


def _last_that_converts(network: Network, conversion: Conversion) -> str:
    for name, entry in reversed(network.positions.items()):
        with suppress(ValueError):
            conversion.check([entry])
            return f"; cut the network before it with --layer, such as --layer {name}"
    return ""


def auxiliary_names(graph: MxGraph) -> set[str]:
    """Name the auxiliary parameters, such as running means: not all files mark them."""
    return {
        graph.nodes[source].name
        for node in graph.nodes
        if node.operator in _FIRST_AUXILIARY
        for source, _ in node.inputs[_FIRST_AUXILIARY[node.operator] :]
    }


def _variables(graph: MxGraph) -> dict[str, None]:
    """Name the variables, each once and in order."""
    return dict.fromkeys(node.name for node in graph.nodes if node.is_variable)


def _variables_that_are_read(graph: MxGraph) -> set[str]:
    needed = (graph.nodes[node_id] for node_id in needed_nodes(graph))
    return {node.name for node in needed if node.is_variable}


def _data_of_every_head(graph: MxGraph, parameters: Collection[str]) -> set[str]:
    """Name the variables that every output reads through a layer with parameters."""
    found: list[set[str]] = []  # by node: what it reads
    weighted: list[set[str]] = []  # by node: what it reads through such a layer
    for node in graph.nodes:
        sources = [source for source, _ in inputs_that_are_read(node)]
        found.append(
            {node.name} if node.is_variable else set().union(*map(found.__getitem__, sources))
        )
        own = any(graph.nodes[source].name in parameters for source in sources)
        weighted.append(
            found[-1] if own else set().union(*(weighted[source] for source in sources))
        )
    return set.intersection(*(weighted[node_id] for node_id, _ in graph.heads))


def _finds_a_range(node: Node) -> bool:
    """Return whether a node, or one in the bodies that it holds, needs the range of its values."""
    if node.operator in _FIND_A_RANGE:
        attributes = Attributes(node.attributes)
        return None in [attributes.float(f"{end}_calib_range", None) for end in ("min", "max")]
    inner = (Node(*one) for body in node.subgraphs for one in upgrade(body)[0])
    return any(map(_finds_a_range, inner))


def _checksum(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
