"""An ONNX graph as a PyTorch module: one submodule for each operator, called by generated code."""

import inspect
import keyword
import operator as python
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from xfer.graph_module import host
from xfer.graph_module.registry import OPERATORS, Definition

# Integers as small as these are shapes, axes and the like.
_MOST_SIZES = 64


class Unsupported(ValueError):
    """An operator, or a use of it, that has no counterpart in PyTorch here."""


class Operator(torch.nn.Module):
    """One operator of ONNX; its inputs, parameters included, are those of the call."""

    def __init__(self, kind: str, definition: Definition, options: dict[str, Any], n: int) -> None:
        super().__init__()
        self.kind, self.options = kind, options
        self._function, self._several = definition.function, n > 1
        self._reads_mode = "training" in inspect.signature(definition.function).parameters

    def forward(self, *inputs: Any) -> Any:
        """Compute the operator's output, or a tuple of several."""
        mode = {"training": self.training} if self._reads_mode else {}
        found = self._function(*inputs, **self.options, **mode)
        return found[0] if isinstance(found, tuple) and not self._several else found

    def _get_name(self) -> str:
        return self.kind

    def extra_repr(self) -> str:
        """Show the options."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class Constant(torch.nn.Module):
    """An array that belongs to the graph and is not learned: moved with the module, not saved."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=False)

    def forward(self) -> torch.Tensor:
        """Return the array."""
        return self.value


def build_module(
    model: onnx.ModelProto,
    parameters: Mapping[str, np.ndarray],
    learned: Collection[str],
    statistics: Collection[str] = (),
) -> torch.fx.GraphModule:
    """Make a module of a graph, whose arrays are given beside it.

    Those that are `learned` become parameters and `statistics` buffers, under their own names; the
    others are constants. The module returns the graph's output, or a tuple of several.
    """
    return _Builder(model, parameters, learned, statistics).module.eval()


class _Builder:
    def __init__(
        self,
        model: onnx.ModelProto,
        parameters: Mapping[str, np.ndarray],
        learned: Collection[str],
        statistics: Collection[str],
    ) -> None:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        inner = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.arrays = {**inner, **parameters}
        self.learned, self.statistics = learned, statistics
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self.root, self.graph = torch.nn.Module(), torch.fx.Graph()
        self.values: dict[str, Any] = {}  # nodes of the new graph by name
        self.sizes: dict[str, Any] = {}  # what is computed in Python: a number, or a list of them
        inputs = [value.name for value in model.graph.input if value.name not in self.arrays]
        for name in inputs:
            self.values[name] = self.graph.placeholder(_identifier(name))
        self.first = next(iter(self.values.values()), None)
        for node in model.graph.node:
            self._add(node)
        outputs = [self._tensor(value.name) for value in model.graph.output]
        self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        self.module = torch.fx.GraphModule(self.root, self.graph)
        self.module.meta["input_names"] = inputs

    def _add(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Constant" and not node.domain:
            self.arrays[node.output[0]] = _constant(node)
            return
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        options = dict(_options(node))
        if self._add_sizes(node, options):
            return
        definition = OPERATORS.get(kind)
        if definition is None:
            raise Unsupported(
                f"operator {kind} (layer {node.output[0]!r}) has no counterpart in PyTorch here; "
                "those that do are listed by sorted(xfer.graph_module.OPERATORS)"
            )
        names = list(inspect.signature(definition.function).parameters)
        if "n_outputs" in names:
            options["n_outputs"] = len(node.output)
        if "opset" in names:
            options["opset"] = self.opset
        unknown = sorted(options.keys() - {*names})
        if unknown and "kwargs" not in names:
            raise Unsupported(f"operator {kind} (layer {node.output[0]!r}) with {unknown[0]}")
        is_list = "inputs" in names
        args = [
            None if not name else self._read(name, not is_list and names[i] in definition.sizes)
            for i, name in enumerate(node.input)
        ]
        name = next(filter(None, node.output))
        target = self._place(name, Operator(kind, definition, options, len(node.output)))
        found = self.graph.call_module(target, tuple(args))
        for i, output in enumerate(node.output):
            if output:
                several = len(node.output) > 1
                self.values[output] = (
                    self.graph.call_function(python.getitem, (found, i)) if several else found
                )

    def _add_sizes(self, node: onnx.NodeProto, options: dict[str, Any]) -> bool:
        """Compute what is made of shapes in Python, as far as it is."""
        if node.op_type in ("Shape", "Size") and not node.domain:
            data = self._tensor(node.input[0])
            function = getattr(host, node.op_type)
            self.sizes[node.output[0]] = self.graph.call_function(function, (data,), options)
            return True
        if node.domain or not hasattr(host, node.op_type) or len(node.output) > 1:
            return False
        known = [self.sizes.get(name, _small(self.arrays.get(name))) for name in node.input if name]
        if not all(self._is_size(name) for name in node.input if name) or not known:
            return False
        function = getattr(host, node.op_type)
        if any(isinstance(value, torch.fx.Node) for value in known):
            found = self.graph.call_function(function, tuple(known), options)
        else:
            found = function(*known, **options)
        self.sizes[node.output[0]] = found
        return True

    def _is_size(self, name: str) -> bool:
        return name in self.sizes or _small(self.arrays.get(name)) is not None

    def _read(self, name: str, as_sizes: bool) -> Any:
        if not as_sizes:
            return self._tensor(name)
        if name in self.sizes:
            return self.sizes[name]
        if name in self.arrays and name not in self.learned:
            return self.arrays[name].tolist()
        return self.graph.call_function(host.to_list, (self._tensor(name),))

    def _tensor(self, name: str) -> Any:
        if name in self.values:
            return self.values[name]
        if name in self.sizes:
            value = self.sizes[name]
            self.values[name] = self.graph.call_function(host.to_tensor, (value, self.first))
            return self.values[name]
        if name not in self.arrays:
            raise ValueError(f"nothing gives {name!r}")
        array = self.arrays[name]
        tensor = torch.from_numpy(np.array(array, order="C"))
        if name in self.learned and tensor.is_floating_point():
            where = self._place(name, torch.nn.Parameter(tensor))
            self.values[name] = self.graph.get_attr(where)
        elif name in self.learned or name in self.statistics:
            self.values[name] = self.graph.get_attr(self._place(name, tensor))
        else:
            self.values[name] = self.graph.call_module(self._place(name, Constant(tensor)))
        return self.values[name]

    def _place(self, name: str, value: Any) -> str:
        """Put a module, a parameter or a buffer where its dotted name says; return that name."""
        parts = name.split(".")
        if not all(parts) or any(hasattr(torch.nn.Module, part) for part in parts):
            parts = [re.sub(r"\W", "_", name) + "_"]
        place = self.root
        for index, part in enumerate(parts[:-1]):
            inner = place._modules.get(part)
            if inner is None and hasattr(place, part):
                place, parts = self.root, [*parts[:index], "_".join(parts[index:])]
                return self._place("_".join(parts), value)
            if inner is None:
                inner = torch.nn.Module()
                place.add_module(part, inner)
            place = inner
        last = parts[-1]
        taken = place._modules.get(last)
        if isinstance(value, torch.nn.Module) and type(taken) is torch.nn.Module:
            # A layer under the name of its parameters' folder takes them in.
            for kind in ("_parameters", "_buffers", "_modules"):
                getattr(value, kind).update(getattr(taken, kind))
            place._modules[last] = value
        elif hasattr(place, last):
            return self._place(f"{name}_", value)
        elif isinstance(value, torch.nn.Module):
            place.add_module(last, value)
        elif isinstance(value, torch.nn.Parameter):
            place.register_parameter(last, value)
        else:
            place.register_buffer(last, value)
        return ".".join(parts)


def _small(array: np.ndarray | None) -> Any:
    """Return a small array of integers, or a number, as Python has them; None for all others."""
    if array is None or array.ndim > 1 or array.size > _MOST_SIZES:
        return None
    return array.tolist() if array.dtype.kind in "iub" or not array.ndim else None


def _constant(node: onnx.NodeProto) -> np.ndarray:
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if attribute.name.startswith("value_") and "string" not in attribute.name:
        return np.array(value, np.int64 if "int" in attribute.name else np.float32)
    raise Unsupported(f"a constant of {attribute.name}")


def _options(node: onnx.NodeProto) -> Iterator[tuple[str, Any]]:
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, onnx.TensorProto):
            value = numpy_helper.to_array(value).tolist()
        elif isinstance(value, onnx.GraphProto):
            name = node.output[0]
            raise Unsupported(f"operator {node.op_type} (layer {name!r}): it holds another graph")
        elif isinstance(value, Sequence) and value and isinstance(value[0], bytes):
            value = [one.decode() for one in value]
        yield (
            attribute.name,
            list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value,
        )


def _identifier(name: str) -> str:
    name = re.sub(r"\W", "_", name)
    return f"_{name}" if keyword.iskeyword(name) or name[:1].isdigit() or not name else name
