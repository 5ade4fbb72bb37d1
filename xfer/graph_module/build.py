"""An ONNX graph as a PyTorch module: one submodule for each operator, called by generated code."""

import keyword
import operator as python
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from onnx.inliner import inline_local_functions, inline_selected_functions

from xfer.graph_module.dtypes import TYPES, Array, to_tensor, torch_type
from xfer.graph_module.host import HOST, Size, result_of
from xfer.graph_module.registry import OPERATORS, Definition, Unsupported

# Integers as small as these are shapes, axes and the like.
_MOST_SIZES = 64
_KNOWN = "those that do are listed by sorted(xfer.graph_module.OPERATORS)"
# What xfer.checkpoint writes on an Identity that no gradient passes.
_NO_GRADIENT = "no gradient"
# Attributes that are types.
_TYPED = {"to", "dtype", "output_dtype"}


class Operator(torch.nn.Module):
    """One operator of ONNX; its inputs, parameters included, are those of the call."""

    def __init__(self, kind: str, options: dict[str, Any], n_outputs: int = 1) -> None:
        super().__init__()
        self.kind, self.options, self.n_outputs = kind, options, n_outputs
        self.reads_mode = "training" in OPERATORS[kind].parameters

    @property
    def function(self) -> Callable[..., Any]:
        """The function of tensors that computes it."""
        return OPERATORS[self.kind].function

    def forward(self, *inputs: Any, **given: Any) -> Any:
        """Compute the operator's output, or a tuple of several."""
        if self.reads_mode:
            given["training"] = self.training
        found = self.function(*inputs, **self.options, **given)
        return found[0] if isinstance(found, tuple) and self.n_outputs == 1 else found

    def _get_name(self) -> str:
        return self.kind

    def extra_repr(self) -> str:
        """Show the options."""
        shown = {n: v for n, v in self.options.items() if n not in ("n_outputs", "opset")}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())


class OnHost(torch.nn.Module):
    """An operator of ONNX that is computed in Python, on numbers or the shape of a tensor."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.kind, self.options = kind, options

    @property
    def function(self) -> Callable[..., Any]:
        """The function in Python that computes it."""
        return HOST[self.kind]

    def forward(self, *inputs: Any) -> Any:
        """Compute a number or a list; a tensor if that is what the operator makes of them."""
        return self.function(*inputs, **self.options)

    def extra_repr(self) -> str:
        """Show which operator it is."""
        return self.kind


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
    """Make a module of a graph, whose arrays are given beside it; it is in inference mode.

    Those that are `learned` become parameters and `statistics` buffers, under their own names; the
    others are constants. The module returns the graph's output, or a tuple of several. In its
    ``meta``, ``"input_names"`` are the inputs that it is called with, and ``"places"`` the names of
    parameters and buffers by those of the arrays: a few cannot keep theirs, such as ``training``.
    """
    return _Builder(_inlined(model), parameters, learned, statistics).module.eval()


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace functions, the model's own and those that ONNX defines, by what they are made of."""
    if model.functions:
        model = inline_local_functions(model)
    if not any(_is_composed(node) for node in model.graph.node):
        return model
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for node in whole.graph.node:
        if _is_composed(node):  # the inliner knows no defaults
            given = {attribute.name for attribute in node.attribute}
            known = onnx.defs.get_schema(node.op_type).attributes
            defaults = {name: attribute.default_value for name, attribute in known.items()}
            node.attribute.extend(d for name, d in defaults.items() if d.name and name not in given)
    ours = [("", name) for name in OPERATORS]
    with suppress(RuntimeError):  # a type that is not known; the operator is then refused
        return inline_selected_functions(whole, ours, exclude=True, inline_schema_functions=True)
    return model


def _is_composed(node: onnx.NodeProto) -> bool:
    """Return whether ONNX defines an operator, which we lack, by others."""
    if node.domain or node.op_type in OPERATORS or not onnx.defs.has(node.op_type):
        return False
    schema: Any = onnx.defs.get_schema(node.op_type)  # its types lack some of its properties
    return schema.has_function or schema.has_context_dependent_function


class _Builder:
    def __init__(
        self,
        model: onnx.ModelProto,
        parameters: Mapping[str, np.ndarray],
        learned: Collection[str],
        statistics: Collection[str],
    ) -> None:
        inner = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.arrays = {**inner, **parameters}
        self.learned, self.statistics = learned, statistics
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self.root, self.graph = torch.nn.Module(), torch.fx.Graph()
        self.values: dict[str, Any] = {}  # nodes of the new graph by name
        self.sizes: dict[str, Size] = {}  # what is computed in Python
        self.places: dict[str, str] = {}  # names in the module by those of learned arrays
        inputs = [value.name for value in model.graph.input if value.name not in self.arrays]
        for name in inputs:
            self.values[name] = node = self.graph.placeholder(_identifier(name))
            node.target = node.name  # which is unique
        self.first = next(iter(self.values.values()), None)
        for node in model.graph.node:
            self._add(node)
        outputs = [self._tensor(value.name) for value in model.graph.output]
        self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        self.module = torch.fx.GraphModule(self.root, self.graph)
        self.module.meta.update(input_names=inputs, places=self.places)

    def _add(self, node: onnx.NodeProto) -> None:
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        try:
            if kind == "Constant":
                self.arrays[node.output[0]] = _constant(node)
            elif (size := self._size_of(kind, node)) is not None:
                self.sizes[node.output[0]] = size
            else:
                self._add_operator(kind, node)
        except Unsupported as error:
            name = next(filter(None, node.output), node.name)
            raise Unsupported(f"operator {kind} (layer {name!r}) {error}") from None

    def _add_operator(self, kind: str, node: onnx.NodeProto) -> None:
        options = dict(_options(node))
        definition = OPERATORS.get(kind)
        if definition is None:
            raise Unsupported(f"has no counterpart in PyTorch here; {_KNOWN}")
        names = definition.parameters
        if "n_outputs" in names:
            options["n_outputs"] = len(node.output)
        if "opset" in names:
            options["opset"] = self.opset
        # Its inputs are all that a function of any number has by position.
        places = () if "inputs" in names else names
        unknown = sorted(options.keys() - {*names})
        if unknown or (places and len(node.input) > len(places)):
            what = unknown[0] if unknown else f"{len(node.input)} inputs"
            raise Unsupported(f"has no counterpart in PyTorch here that takes {what}")
        given = {*places[: len(node.input)], *options}
        if missing := sorted(definition.required - given):
            raise Unsupported(f"has no counterpart in PyTorch here without {missing[0]}")
        for name in definition.only.keys() & options.keys():
            values = options[name] if isinstance(options[name], list) else [options[name]]
            for value in values:
                if value not in definition.only[name]:
                    raise Unsupported(f"has no counterpart in PyTorch here with {name}={value!r}")
        if kind == "Identity" and node.doc_string == _NO_GRADIENT:
            options["detached"] = True
        args = [
            self._read(name, place, definition) if name else None
            for name, place in zip(node.input, [*places, *[""] * len(node.input)])
        ]
        name = next(filter(None, node.output))
        where = self._place(name, Operator(kind, options, len(node.output)))
        device = {"like": self.first} if "like" in names else {}
        found = self.graph.call_module(where, tuple(args), device)
        for i, output in enumerate(node.output):
            several = len(node.output) > 1
            if output:
                self.values[output] = (
                    self.graph.call_function(python.getitem, (found, i)) if several else found
                )

    def _call(self, name: str, module: torch.nn.Module, args: Sequence[Any]) -> Any:
        return self.graph.call_module(self._place(name, module), tuple(args))

    def _size_of(self, kind: str, node: onnx.NodeProto) -> Size | None:
        """Compute in Python what is made of shapes, as far as it goes; None for all else."""
        (name, *others), options = node.output, {}
        if kind not in HOST or others:
            return None
        options = dict(_options(node))
        if kind in ("Shape", "Size"):
            data = self._tensor(node.input[0])
            value = self._call(name, OnHost(kind, options), [data])
            return Size(value, torch.int64, int(kind == "Shape"))
        given = [self.sizes.get(one) or self._fixed_size(one) for one in node.input if one]
        if not given or None in given:
            return None
        known: list[Any] = [size for size in given if size is not None]
        depends = any(isinstance(size.value, torch.fx.Node) for size in known)
        # A list of numbers that are not whole is a size only where it meets one.
        if not depends and any(size.rank and size.dtype.is_floating_point for size in known):
            return None
        found = result_of(kind, known, options)
        if found is None:
            return None
        values = [size.value for size in known]
        if depends:
            return found._replace(value=self._call(name, OnHost(kind, options), values))
        return found._replace(value=HOST[kind](*values, **options))

    def _fixed_size(self, name: str) -> Size | None:
        """Return a constant as a number or a list, if it is small and has a type of sizes."""
        array = self.arrays.get(name)
        if array is None or array.ndim > 1 or (name in self.learned and not array.ndim):
            return None
        if array.size > _MOST_SIZES or array.dtype.name not in _TYPES_OF_SIZES:
            return None
        return Size(array.tolist(), torch_type(array.dtype), array.ndim)

    def _read(self, name: str, place: str, definition: Definition) -> Any:
        if place not in (*definition.sizes, *definition.numbers):
            return self._tensor(name)
        if name in self.sizes:
            return self.sizes[name].value
        fixed = name in self.arrays and (place in definition.sizes or name not in self.learned)
        if fixed:
            return self.arrays[name].tolist()
        tensor = self._tensor(name)
        if place in definition.numbers:
            return tensor
        return self._call(f"{name}_list", OnHost("to_list", {}), [tensor])

    def _tensor(self, name: str) -> Any:
        if name not in self.values:
            self.values[name] = self._new_tensor(name)
        return self.values[name]

    def _new_tensor(self, name: str) -> Any:
        if name in self.sizes:
            value, dtype, _ = self.sizes[name]
            module = OnHost("to_tensor", {"dtype": dtype})
            return self._call(f"{name}_tensor", module, [self.first, value])
        if name not in self.arrays:
            raise ValueError(f"nothing gives {name!r}")
        try:
            tensor = to_tensor(self.arrays[name])
        except KeyError:
            dtype = self.arrays[name].dtype
            raise Unsupported(f"reads {name!r}, an array of {dtype}") from None
        if name not in self.learned and name not in self.statistics:
            return self._call(name, Constant(tensor), [])
        is_parameter = name in self.learned and tensor.is_floating_point()
        where = self._place(name, torch.nn.Parameter(tensor) if is_parameter else tensor)
        self.places[name] = where
        return self.graph.get_attr(where)

    def _place(self, name: str, value: Any) -> str:
        """Put a module, a parameter or a buffer where its dotted name says; return that name."""
        parts = [f"{part}_" if part in _RESERVED else part for part in name.split(".")]
        place = self.root
        for index, part in enumerate(parts[:-1]):
            inner = place._modules.get(part)
            if inner is None:
                if hasattr(place, part):  # a parameter has the name of this folder
                    return self._place(".".join([*parts[:index], "_".join(parts[index:])]), value)
                inner = torch.nn.Module()
                place.add_module(part, inner)
            place = inner
        last = parts[-1]
        folder = place._modules.get(last)
        if isinstance(value, torch.nn.Module) and type(folder) is torch.nn.Module:
            # A layer under the name of its parameters' folder takes them in.
            for kind in ("_parameters", "_buffers", "_modules"):
                getattr(value, kind).update(getattr(folder, kind))
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


_TYPES_OF_SIZES = {"int32", "int64", "bool", "float32"}
# What neither a module nor generated code can have as a name.
_RESERVED = {"", "self", *keyword.kwlist, *dir(torch.fx.GraphModule), *vars(torch.nn.Module())}
_RESERVED |= {*vars(torch.fx.GraphModule({}, torch.fx.Graph()))}


def _constant(node: onnx.NodeProto) -> np.ndarray:
    attribute = next(iter(node.attribute), onnx.AttributeProto())
    if attribute.ref_attr_name or not attribute.name:
        raise Unsupported("without a value has no counterpart in PyTorch here")
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if attribute.name.startswith("value_") and "string" not in attribute.name:
        return np.array(value, np.int64 if "int" in attribute.name else np.float32)
    raise Unsupported(f"of {attribute.name} has no counterpart in PyTorch")


def _options(node: onnx.NodeProto) -> Iterator[tuple[str, Any]]:
    for attribute in node.attribute:
        if attribute.ref_attr_name:  # of a function's parameter that was not given
            raise Unsupported(f"has no counterpart in PyTorch here without {attribute.name}")
        value = helper.get_attribute_value(attribute)
        if isinstance(value, onnx.GraphProto):
            raise Unsupported("holds another graph, which has no counterpart in PyTorch here")
        if attribute.name in _TYPED and value not in TYPES:
            if value:
                raise Unsupported(f"has {attribute.name}={value}, a type that PyTorch lacks")
            continue
        if attribute.name in _TYPED:
            value = TYPES[value]
        elif isinstance(value, onnx.TensorProto):
            array = numpy_helper.to_array(value)
            if array.dtype == object:
                raise Unsupported("holds text, which has no counterpart in PyTorch")
            value = Array(array.ravel().tolist(), torch_type(array.dtype))
        elif isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, Sequence):
            value = [one.decode() if isinstance(one, bytes) else one for one in value]
        yield attribute.name, value


def _identifier(name: str) -> str:
    name = re.sub(r"\W", "_", name)
    return f"_{name}" if name in ("self", "") or name[:1].isdigit() else name
