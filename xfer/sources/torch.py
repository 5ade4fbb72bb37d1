"""PyTorch networks as sources of features."""

import copy
import inspect
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from xfer._dot import Box, Diagram
from xfer.sources.base import (
    Layer,
    OnnxLayers,
    SourceModel,
    channels_advice,
    check_rows,
    example_shapes,
)
from xfer.sources.candidates import Ends
from xfer.sources.data import check_ids, count, to_numpy
from xfer.sources.table import pool, with_axis
from xfer.sources.torch_fingerprint import fingerprint, tensors_of
from xfer.sources.torch_flow import Flow, Watch, hook, tensors_in

# Hooks see every pass of a module, so there must be only one at a time.
_one_pass = threading.RLock()
_RECURRENT = (torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN)
_EMBEDDINGS = (torch.nn.Embedding, torch.nn.EmbeddingBag)
# Modules that give no scores: they repeat them, or make probabilities of them.
_NO_SCORES = ("Softmax", "LogSoftmax", "Sigmoid", "Dropout", "Flatten", "Unflatten", "Identity")
# A module, which of its calls, and where in its output: lstm:0[1][0].
_NAME = re.compile(r"(.+?)(?::(\d+))?((?:\[[^][]*\])*)")


class TorchSource(SourceModel):
    """A PyTorch network, run where it is.

    The network is neither copied nor moved, and its mode is restored after each pass. Wrappers that
    distribute or compile it are removed. ``autocast`` is a dtype, such as ``torch.bfloat16``, to
    compute in instead of that of the parameters.

    Layers have the dotted names of their modules, and ``"output"`` is the output of the whole
    network. Where a module is called more than once, name the call: ``"relu:0"``. Where it returns
    several tensors, name the tensor: ``"lstm[1][0]"`` or ``"output[logits]"``.

    Inputs are the parameters of the network's ``forward``. Integers stay integers if the network
    has an embedding or does not accept floats; otherwise, they become floats, like pixels.
    ``keep_integers``, True or False, overrides this.

    The first batch of each shape runs through the whole network, which shows how often each layer
    is called; later ones end after the last requested layer. If a network calls a layer more often
    for some values than for others, request single calls of it.

    Examples
    --------
    >>> import numpy as np
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    >>> source = TorchSource(network)
    >>> source.extract(np.ones((5, 4)), ["1"])["1"].shape
    (5, 3)
    >>> source
    TorchSource(3 layers, inputs: input)
    """

    # The layers that are the network's own output.
    _whole_outputs: tuple[str, ...] = ("output",)
    # Whether layers may be called more or less often for other shapes of data.
    _calls_follow_shapes = True

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        autocast: torch.dtype | None = None,
        keep_integers: bool | None = None,
    ) -> None:
        if not isinstance(module, torch.nn.Module):
            raise TypeError(
                f"cannot open {type(module).__name__} as a PyTorch network: {module!r:.80}; a "
                "torch.nn.Module is needed"
            )
        self.module = unwrap(module)
        self.autocast = autocast
        _check_ready(self.module)
        named = dict(self.module.named_modules(remove_duplicate=False))
        uncalled = _uncalled(named)
        self._modules = {name: named[name] for name in named if name and name not in uncalled}
        self._whole = [name for name in self._whole_outputs if name not in self._modules]
        self._names = dict.fromkeys([*self._modules, *self._whole])
        self._inputs, self._needed, self._by_position = _parameters_of(self.module.forward)
        self._embeddings = _embeddings(named)
        self._booleans_as_floats = False
        # None until the first integers show it.
        self._keep_integers = True if keep_integers is None and self._embeddings else keep_integers
        self._given_integers = keep_integers
        padding_ids = {getattr(table, "padding_idx", None) for table in self._embeddings.values()}
        padding_ids -= {None}
        self.padding_id = padding_ids.pop() if len(padding_ids) == 1 else None
        kinds = {type(part).__module__ for part in self.module.modules()}
        self._quantizes_by_batch = any("quantized.dynamic" in kind for kind in kinds)
        # The inputs that embeddings were seen to read; all hold ids, but maybe not of words.
        self._seen_ids: dict[str, int] = {}
        self._shapes: dict[str, tuple[int | None, ...]] = {}
        #: The modules in the order in which the first batch called them.
        self._called: dict[str, None] = {}
        #: How the first batch went through them; None until one has reached the end.
        self._flow: Flow | None = None
        self._seen_whole: set[tuple] = set()

    @property
    def layers(self) -> list[Layer]:
        """Every named module, and the whole network's output."""
        return [self._find_layer(name) for name in self._names]

    @property
    def input_names(self) -> list[str]:
        """The parameters of ``forward``."""
        return self._inputs

    def with_module(self, module: torch.nn.Module) -> "TorchSource":
        """Return a copy of the source that runs another module of the same structure."""
        source = copy.copy(self)
        source.module = module
        named = dict(module.named_modules(remove_duplicate=False))
        source._modules = {name: named[name] for name in self._modules}
        source._embeddings = {name: named[name] for name in self._embeddings}
        source._shapes, source._called, source._seen_whole = {}, {}, set()
        source._flow = None
        vars(source).pop("_checked", None)
        return source

    def to_weights(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the arrays of the network, but not its code, as what JSON can hold, and arrays."""
        # Buffers that the module does not save may have been trained.
        state = {**self.module.state_dict(), **dict(self.module.named_buffers())}
        for name, value in state.items():
            if not isinstance(value, torch.Tensor):
                kind = type(value).__name__
                raise TypeError(f"{name!r} of the network is of class {kind} and cannot be saved")
        arrays = {f"array/{i}": _exact(value) for i, value in enumerate(state.values())}
        # A name may hold anything, so it cannot name a file.
        return {"kind": "torch", "names": list(state), "batch_size": self.batch_size}, arrays

    def with_weights(
        self, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> "TorchSource":
        """Return a copy of the network with the arrays that `to_weights` returned."""
        module = copied(self.module)
        named = enumerate(state["names"])
        tensors = {name: torch.from_numpy(np.array(arrays[f"array/{i}"])) for i, name in named}
        buffers, known = dict(module.named_buffers()), module.state_dict()
        try:
            for name in [*tensors]:
                if name in buffers and name not in known:
                    buffers[name].copy_(tensors.pop(name))
            module.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"source_model is not the network it was fitted on: {reason}"
            ) from None
        source = self.with_module(module)
        source.batch_size = int(state["batch_size"])
        return source

    def parameters_of(self, layer_name: str) -> list[str]:
        """Name the parameters and buffers of a module and of all modules in it.

        A layer of a graph, as `to_torch` makes them, has those that the graph gives to it.
        """
        if layer_name not in self._modules:
            super()._find_layer(layer_name)
            raise ValueError(f"layer {layer_name!r} is not a module with parameters of its own")
        state = self._modules[layer_name].state_dict(keep_vars=True)
        return [*(f"{layer_name}.{name}" for name in state), *self._given_to(layer_name)]

    def _given_to(self, layer_name: str) -> list[str]:
        """Name the parameters that graphs around a layer give to it."""
        found = []
        for name, module in {"": self.module, **self._modules}.items():
            start = f"{name}." if name else ""
            if isinstance(module, torch.fx.GraphModule) and layer_name.startswith(start):
                target = layer_name.removeprefix(start)
                for node in module.graph.find_nodes(op="call_module", target=target):
                    given = [one.target for one in node.all_input_nodes if one.op == "get_attr"]
                    found += [f"{start}{one}" for one in given]
        return found

    def run(self, inputs: Mapping[str, np.ndarray], layer_name: str) -> torch.Tensor:
        """Run the network on arrays, up to a layer; see `run_to`."""
        args, kwargs = self._arguments({name: self._send(a) for name, a in inputs.items()})
        return self.run_to(self.module, layer_name, args, kwargs)

    def outputs_of(
        self, names: Sequence[str], tensors: dict[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        """Call the whole network and return the outputs of layers."""
        outputs = [output for name in names if (output := _read_name(name, self._names))]
        args, kwargs = self._arguments(tensors)
        capture = _Capture(outputs, lambda output, tensor, is_last: tensor.clone(), may_stop=False)
        with ExitStack() as hooks:
            for name in {output.module for output in outputs} & self._modules.keys():
                hook(hooks, self._modules[name], partial(capture.take, name))
            for name, value in self._outputs(self.module(*args, **kwargs)).items():
                capture.take(name, self.module, (), value)
        return capture.finish()

    def run_to(
        self, module: torch.nn.Module, layer_name: str, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """Call the network or a copy of it, in its mode, up to a layer; gradients can flow back."""
        output = _read_name(layer_name, self._names)
        assert output is not None
        capture = _Capture([output], lambda output, tensor, is_last: tensor, may_stop=True)
        with _one_pass, ExitStack() as hooks:
            if output.module in self._modules:
                inner = module.get_submodule(output.module)
                hook(hooks, inner, partial(capture.take, output.module))
            try:
                for name, value in self._outputs(module(*args, **kwargs)).items():
                    capture.take(name, module, (), value)
            except _Stop as end:
                end.raise_unless_of(capture)
        return capture.finish()[0]

    def to_onnx(self, layer_names: Sequence[str], inputs: Mapping[str, np.ndarray]) -> OnnxLayers:
        """Return the network up to some layers as an ONNX model, traced on such inputs."""
        from xfer.sources.torch_onnx import export

        names = [layer.name for layer in self._look_up(layer_names)]
        tensors = {name: self._send(array) for name, array in inputs.items()}
        with _one_pass, _at_rest(self.module, self.autocast):
            return export(self, names, tensors)

    def visualize_net(self) -> Diagram:
        """Draw the network; a notebook shows the result, and ``.save("net.svg")`` writes it.

        Arrows are what ``torch.fx`` finds when it traces the network. Where it cannot, the modules
        are drawn as a tree, in the order in which they are defined.
        """
        try:
            return Diagram(self._traced_boxes())
        except Exception:  # whatever the network does with what torch.fx gives it
            return Diagram(self._tree(), is_tree=True)

    def _traced_boxes(self) -> dict[torch.fx.Node, Box]:
        module = self.module
        if not isinstance(module, torch.fx.GraphModule):
            # A network may keep what it computes; the copy has the same parameters.
            module = copy.deepcopy(module, {id(one): one for one in module.parameters()})
        with _one_pass, _at_rest(module, None):
            graph = module.graph if module is self.module else torch.fx.Tracer().trace(module)
        called = Counter(node.target for node in graph.find_nodes(op="call_module"))
        seen: Counter[Any] = Counter()
        boxes: dict[torch.fx.Node, Box] = {}
        heads = {one for node in graph.find_nodes(op="output") for one in node.all_input_nodes}
        for node in graph.nodes:
            reads, is_output = [one for one in node.all_input_nodes if one in boxes], node in heads
            if node.op == "placeholder" and node.users:
                boxes[node] = Box(str(node.target), "input")
            elif node.op == "call_module":
                name, part = str(node.target), module.get_submodule(str(node.target))
                name += f":{seen[name]}" if called[name] > 1 else ""
                seen[node.target] += 1
                layer = Box(name, _class_name(part), vars(part), [self._shapes.get(name)], reads)
                boxes[node] = layer._replace(is_output=is_output)
            elif node.op.startswith("call_") and reads:
                operator = getattr(node.target, "__name__", str(node.target))
                boxes[node] = Box(f"({node.name})", operator, reads=reads, is_output=is_output)
        return boxes

    def _tree(self) -> dict[str, Box]:
        boxes = {"": Box(self._whole[0] if self._whole else "", _class_name(self.module))}
        for name, part in self._modules.items():
            around = name
            while (around := around.rpartition(".")[0]) not in boxes:
                pass
            shapes = [self._shapes.get(name)]
            boxes[name] = Box(name, _class_name(part), vars(part), shapes, [around])
        return boxes

    def layer_below_top(self, count: int) -> str:
        """Name the innermost module that is left when the last ones are dropped, as defined."""
        leaves = [name for name, one in self._modules.items() if not list(one.children())]
        if count >= len(leaves):
            raise ValueError(f"cannot drop {count} layers from the top: there are {len(leaves)}")
        return leaves[-1 - count]

    def fingerprint(self, layer_names: Sequence[str]) -> dict[str, Any]:
        """Return checksums of all that decides the features, the same for all layers."""
        with _one_pass:  # or it would see the hooks of a pass
            given = {"autocast": str(self.autocast), "keep_integers": self._given_integers}
            return {**self._describe(), **given}

    def version(self) -> Any:
        """Return what changes when the network does, or where that is not known, a new object."""
        try:
            return self.fingerprint([])
        except ValueError:
            return object()

    def _describe(self) -> dict[str, Any]:
        return fingerprint(self.module, self.cache_key)

    def _fingerprints(self, layers: Sequence[Layer]) -> list[Any]:
        # All parameters are read for one layer already.
        return [self.fingerprint([])] * len(layers)

    def _find_layer(self, name: str) -> Layer:
        output = _read_name(name, self._names)
        if output is None:
            return super()._find_layer(name)
        module = self._modules.get(output.module, self.module)
        count = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        return Layer(output.name, _class_name(module), self._shapes.get(output.name), count)

    def _inputs_of(self, layers: Sequence[Layer]) -> list[str]:
        return self._needed

    @property
    def _tolerance(self) -> float:
        # 16-bit floats have 3 digits or less. Padding is part of what some networks round by.
        if self._quantizes_by_batch:
            return 0.05
        return 0.1 if self.autocast or _dtype_of(self.module).itemsize < 4 else super()._tolerance

    def _forward(
        self, inputs: dict[str, np.ndarray], layers: tuple[Layer, ...]
    ) -> list[np.ndarray]:
        return self._pooled(inputs, layers, ["flatten"] * len(layers))

    def _pooled(
        self, inputs: dict[str, np.ndarray], layers: tuple[Layer, ...], poolings: Sequence[str]
    ) -> list[np.ndarray]:
        names = [layer.name for layer in layers]
        shapes = [(name, array.shape[1:]) for name, array in inputs.items()]
        kind = (*names, *(shapes if self._calls_follow_shapes else ()))
        # Some quantized networks round by the range that values have in a batch.
        size = 1 if self._quantizes_by_batch else max(count(inputs), 1)
        parts = []
        with _one_pass, _at_rest(self.module, self.autocast):
            for start in range(0, count(inputs), size):
                part = {name: array[start : start + size] for name, array in inputs.items()}
                may_stop = kind in self._seen_whole
                parts.append(self._run_either(part, dict(zip(names, poolings)), may_stop))
                self._seen_whole.add(kind)
        return [torch.cat(outputs).numpy() for outputs in zip(*parts)]

    def _run_either(self, inputs: dict[str, np.ndarray], *options: Any) -> list[torch.Tensor]:
        """Compute one batch, with integers as they are if the network does not take floats."""
        kinds = {array.dtype.kind for array in inputs.values()}
        if kinds == {"b"} and not self._booleans_as_floats:
            try:
                return self._run(inputs, *options)
            except ValueError as error:
                self._booleans_as_floats = True
                try:
                    return self._run(inputs, *options)
                except ValueError:
                    self._booleans_as_floats = False
                    raise error from None
        if self._keep_integers is not None or kinds.isdisjoint("iu"):
            return self._run(inputs, *options)
        found, errors = {}, []
        for keep in (False, True):
            self._keep_integers = keep
            try:
                found[keep] = self._run(inputs, *options)
            except ValueError as error:
                errors.append(error)
        self._keep_integers = None
        if not found:
            raise errors[0]
        # Where the network takes both and tells them apart, integers are what was given.
        same = len(found) == 2 and all(map(torch.equal, *found.values()))
        self._keep_integers = True in found and not same
        return found[self._keep_integers]

    def _run(
        self, inputs: dict[str, np.ndarray], poolings: Mapping[str, str], may_stop: bool
    ) -> list[torch.Tensor]:
        """Compute one batch, up to the last of some layers if the pass may stop there."""
        tensors = {name: self._send(array) for name, array in inputs.items()}

        def keep(output: _Output, tensor: torch.Tensor, is_last: bool) -> torch.Tensor:
            found = self._mask(inputs, [poolings[output.name]])
            mask = None if found is None else self._send(found)
            name, pooling = output.name, poolings[output.name]
            check_rows(name, tensor.shape, inputs)
            self._check_output(name, tensor, pooling, mask)
            pooling = with_axis(pooling, name, tuple(tensor.shape), self._channels)
            return _pool(tensor, pooling, name, mask, is_last)

        outputs = [output for name in poolings if (output := _read_name(name, self._names))]
        capture = _Capture(outputs, keep, may_stop)
        with ExitStack() as hooks:
            self._watch_ids(capture, hooks, tensors)
            for name in {output.module for output in outputs} & self._modules.keys():
                hook(hooks, self._modules[name], partial(capture.take, name))
            watch = Watch(tensors.values()) if self._flow is None else None
            if watch:
                for name, module in self._modules.items():
                    hook(hooks, module, partial(self._note_shape, name))
                    watch.follow(name, module, hooks)
            try:
                args, kwargs = self._arguments(tensors)
                with watch or nullcontext():
                    found = self._outputs(self.module(*args, **kwargs))
                if watch:
                    self._flow = watch.flow(found)
                for name, value in found.items():
                    if watch:
                        self._note_shape(name, self.module, (), value)
                    capture.take(name, self.module, (), value)
            except _Stop as end:
                end.raise_unless_of(capture)
            except (torch.cuda.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:
                if not (may_stop and capture.complete) and capture.error is None:
                    reason = next(iter(str(error).strip().splitlines()), "")
                    raise ValueError(
                        f"data of shape {example_shapes(inputs)} for one example do not fit the "
                        f"network: {reason or type(error).__name__}{channels_advice(inputs)}"
                    ) from error
        return capture.finish()

    def _arguments(self, tensors: dict[str, torch.Tensor]) -> tuple[list[Any], dict[str, Any]]:
        """Return what the network is called with."""
        # Hooks of the user's may expect inputs by position, as far as that goes without a gap.
        args, kwargs = [], dict(tensors)
        for name in self._by_position:
            if name not in kwargs:
                break
            args.append(kwargs.pop(name))
        return args, kwargs

    def _outputs(self, found: Any) -> dict[str, Any]:
        """Return the network's output by the name of the layer."""
        return dict.fromkeys(self._whole, found)

    def _send(self, array: np.ndarray) -> torch.Tensor:
        """Copy an array, which the network may change in place, to the network's device."""
        dtype = _dtype_of(self.module)
        if array.dtype.kind == "b" and not self._booleans_as_floats:
            dtype = torch.bool
        elif array.dtype.kind in "iu" and self._keep_integers:
            # Pixels beside ids; an embedding that reads them makes integers of them again.
            is_picture = array.dtype == np.uint8 and array.ndim > 3 and self._embeddings
            dtype = dtype if is_picture else torch.int64
        # NumPy knows no bfloat16.
        held = {torch.bool: bool, torch.int64: np.int64, torch.float64: np.float64}
        copied = array.astype(held.get(dtype, np.float32), order="C")
        return torch.from_numpy(copied).to(_device_of(self.module), dtype)

    def _channels(self, name: str, shape: tuple) -> str | None:
        output = _read_name(name, self._names)
        module = self._modules.get(output.module, self.module) if output else self.module
        if isinstance(module, _OF_MAPS):
            return "first"
        whole = list(self.module.modules())
        # The modules of the layer decide; if they do not, those of the whole network.
        for parts in (list(module.modules()), whole):
            last = _channels_of(parts, _CHANNELS_LAST)
            has_maps = any(isinstance(part, _CONVOLUTIONS.get(len(shape), ())) for part in parts)
            is_first = shape[0] in _channels_of(parts, _CHANNELS_FIRST)
            is_last = shape[-1] in last and shape[0] not in last | _channels_of(parts, _READ_LAST)
            if is_first and (has_maps or not is_last):
                return "first"
            if is_last and not is_first and not has_maps:
                return "last"
        # Pictures are mostly square.
        is_square = len(shape) == 3 and shape[0] == shape[1] != shape[2]
        return "last" if is_square and shape[-1] in _channels_of(whole, _CHANNELS_LAST) else None

    def _id_sizes(self) -> Iterable[tuple[str, int]]:
        return self._seen_ids.items()

    def _block_ends(self) -> Ends:
        """Find blocks by their class, which occurs several times, and what is between them."""
        # In the order of their calls where that is known: others may be defined in any order.
        modules = {n: self._modules[n] for n in self._called if n in self._modules} or self._modules
        classes = Counter(type(module) for module in modules.values() if _is_block(module))
        repeated = {kind for kind, n in classes.items() if n > 1}
        blocks = [n for n, module in modules.items() if type(module) in repeated]
        blocks = [n for n in blocks if not any(n.startswith(f"{other}.") for other in blocks)]
        flow = self._flow or Flow()
        ends, scores, before, dropped = list[str](), None, None, None
        for name, module in modules.items():
            kind = _class_name(module)
            inside = any(name.startswith(f"{block}.") for block in blocks)
            if inside or (name not in blocks and next(module.children(), None) is not None):
                continue
            is_activated = before is not None and before in flow.activated
            if before and is_activated and name not in blocks and not _is_dense(modules[before]):
                # No module is behind its activation or pooling, which are functions.
                ends.append(before)
            if _is_dense(module) and before is not None:
                # What a dense layer reads. It does not read maps: functions reduced them first, and
                # a dropout behind these shows the result.
                is_map = isinstance(modules.get(before), torch.nn.modules.conv._ConvNd)
                is_map |= is_activated and isinstance(modules[before], tuple(_CHANNELS_FIRST))
                is_part = bool(flow.heads) and before.removesuffix("[0]") not in flow.common
                ends.append(dropped if dropped and (is_map or is_part) else before)
            if isinstance(module, _RECURRENT):
                name = f"{name}[0]"
            if name in blocks or "Pool" in kind or name.endswith("[0]"):
                ends.append(name)
            if kind.startswith("Dropout"):
                dropped = name
            if not kind.startswith(_NO_SCORES) and not isinstance(module, _EMBEDDINGS):
                scores, before, dropped = name, name, None
        classifier = modules.get(scores or "")
        is_classifier = classifier is not None and _is_dense(classifier)
        scores = scores if is_classifier else self._whole[0] if self._whole else scores
        ends = [name for name in dict.fromkeys(ends) if name != scores]
        # Several heads on one body: what they all read.
        shared = ends
        if len(flow.heads) > 1:
            shared = [n for n in ends if n.removesuffix("[0]") in flow.common - flow.heads]
        ends = [*ends, scores] if scores else ends
        last = ((is_classifier and shared) or ends or [""])[-1]
        stages = {name: stage for stage, name in enumerate(ends)}
        return Ends(stages, last, (scores or "") if is_classifier else "")

    def _watch_ids(
        self, capture: "_Capture", hooks: ExitStack, tensors: Mapping[str, torch.Tensor]
    ) -> None:
        """Let embeddings check the ids that they get, which may have become floats."""
        padded = any(getattr(t, "padding_idx", None) is not None for t in self._embeddings.values())

        def check(name: str, size: int | None, ids: torch.Tensor) -> torch.Tensor:
            whole = ids.long() if ids.is_floating_point() else ids
            if size is not None and ids.numel():
                if (whole != ids).any():
                    raise ValueError(f"layer {name!r} takes integer ids; the data have fractions")
                limits = torch.stack([whole.min(), whole.max()]).cpu().numpy()
                check_ids({name: limits}, [(name, name, size)])
            return whole

        def hook(name: str, table: torch.nn.Module, args: Any, kwargs: Any) -> tuple:
            ids = args[0] if args else kwargs["input"]
            if not padded or getattr(table, "padding_idx", None) is not None:
                read, size = ids.untyped_storage().data_ptr(), getattr(table, "num_embeddings", 0)
                for given, tensor in tensors.items():
                    if tensor.untyped_storage().data_ptr() == read:
                        self._seen_ids[given] = max(size, self._seen_ids.get(given, 0))
            ids = capture.attempt(check, name, getattr(table, "num_embeddings", None), ids)
            return ((ids, *args[1:]), kwargs) if args else (args, {**kwargs, "input": ids})

        for name, table in self._embeddings.items():
            if not isinstance(table, torch.jit.ScriptModule):
                handle = table.register_forward_pre_hook(partial(hook, name), with_kwargs=True)
                hooks.callback(handle.remove)

    def _check_output(self, name: str, tensor: torch.Tensor, pooling: str, mask: Any) -> None:
        """Refuse what cannot be features; note the shape."""
        if tensor.is_complex():
            raise ValueError(f"layer {name!r} gives {tensor.dtype}, not real numbers")
        shape: tuple[int | None, ...] = tuple(tensor.shape[1:])
        seen = self._shapes.get(name, shape)
        if len(seen) == len(shape):
            shape = tuple(a if a == b else None for a, b in zip(seen, shape))
        self._shapes[name] = shape

    def _note_shape(self, name: str, module: torch.nn.Module, inputs: Any, value: Any) -> None:
        """Note the shape of a layer, for the table of layers, and when it was called."""
        self._called.setdefault(name)
        if isinstance(value, torch.Tensor) and value.ndim:
            self._shapes.setdefault(name, tuple(value.shape[1:]))


@dataclass(frozen=True)
class _Output:
    """One tensor of a pass: which call of which module (None: its only one), and where in it."""

    name: str
    module: str
    call: int | None
    path: str  # such as "[1][0]"; "" where the module returns a single tensor


def _read_name(name: str, modules: Collection[str]) -> _Output | None:
    """Return the output that a name means, or None if there is no such module."""
    if name in modules:
        return _Output(name, name, None, "")
    found = _NAME.fullmatch(name)
    if found is None or found[1] not in modules:
        return None
    return _Output(name, found[1], None if found[2] is None else int(found[2]), found[3])


class _Stop(BaseException):
    """Ends a pass; a BaseException, so that no network takes it for an error of its own."""

    def raise_unless_of(self, capture: "_Capture") -> None:
        """Let a pass around this one end: a trained network may be part of another."""
        if self.args[0] is not capture:
            raise self


@dataclass
class _Capture:
    """Takes the requested outputs out of one pass, which may stop after the last of them.

    `keep` gets an output, its tensor, and whether the pass ends there; it returns what is kept. The
    tensor may change once it has returned.
    """

    outputs: Sequence[_Output]
    keep: Callable[[_Output, torch.Tensor, bool], Any]
    may_stop: bool
    kept: dict[str, Any] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    error: Exception | None = None

    @property
    def complete(self) -> bool:
        """Whether everything has been taken, and without an error."""
        return self.error is None and len(self.kept) == len(self.outputs)

    def take(self, name: str, module: torch.nn.Module, inputs: Any, value: Any) -> None:
        """Take what a module has returned; a forward hook but for the name."""
        if self.error or (self.may_stop and self.complete):
            return  # the network caught what was to end the pass
        call = self.calls[name]
        self.calls[name] += 1
        for output in self.outputs:
            if output.module == name and (output.call or 0) == call:
                is_last = self.may_stop and len(self.kept) + 1 == len(self.outputs)
                tensor = self.attempt(_tensor_of, output, value)
                self.kept[output.name] = self.attempt(self.keep, output, tensor, is_last)
        if self.may_stop and self.complete:
            raise _Stop(self)

    def attempt(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of ours inside the pass; the network must not catch its error."""
        try:
            return function(*args)
        except Exception as error:
            self.error = error
            raise _Stop(self) from error

    def finish(self) -> list[Any]:
        """Return what was taken, in the order of the outputs."""
        if self.error:
            raise self.error
        for output in self.outputs:
            calls = self.calls[output.module]
            if output.call is None and calls > 1:
                raise ValueError(
                    f"layer {output.name!r} is called {calls} times in a pass: ask for one call, "
                    f"{output.module}:0{output.path} to {output.module}:{calls - 1}{output.path}"
                )
            if output.name in self.kept:
                continue
            how = f"called {calls} times in a pass with these data; there is no {output.name!r}"
            if not calls:
                how = (
                    "never called in a pass with these data; the module around it may do its "
                    "work, or it is compiled"
                )
            raise ValueError(f"layer {output.module!r} is {how}")
        return [self.kept[output.name] for output in self.outputs]


def _tensor_of(output: _Output, value: Any) -> torch.Tensor:
    found = {path: tensor for path, tensor in tensors_in(value) if path.startswith(output.path)}
    if len(found) == 1:
        return next(iter(found.values()))
    stem = output.name.removesuffix(output.path)
    if found:
        names = ", ".join(stem + path for path in found)
        raise ValueError(
            f"layer {output.name!r} gives {len(found)} tensors: ask for one of {names}"
        )
    others = ", ".join(stem + path for path, _ in tensors_in(value))
    raise ValueError(
        f"layer {stem!r} gives {others or f'no tensor, but {type(value).__name__}'}; "
        f"there is no {output.name!r}"
    )


def _pool(
    tensor: torch.Tensor, pooling: str, name: str, mask: torch.Tensor | None, is_last: bool
) -> torch.Tensor:
    """Pool a layer's output and bring it where the network cannot change it any more."""
    values = tensor.detach()
    if values.is_quantized:
        values = values.dequantize()
    if values.layout != torch.strided:
        values = values.to_dense()
    # 16-bit floats would overflow in sums, and integers have no mean.
    pooled = pool(values.to(torch.float32), pooling, name, mask).cpu()
    shared = pooled.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    return pooled.clone() if shared and not is_last else pooled


def _is_block(module: torch.nn.Module) -> bool:
    """Return whether a module is a block of layers: of a class of its own, or a transformer's."""
    is_own = not type(module).__module__.startswith("torch.nn.")
    is_encoder = isinstance(module, (torch.nn.TransformerEncoderLayer,))
    return is_encoder or (is_own and next(module.children(), None) is not None)


def _uncalled(modules: Mapping[str, torch.nn.Module]) -> set[str]:
    """Name the modules whose calls cannot be seen: compiled to TorchScript, or only in a graph."""
    found = set()
    for name, module in modules.items():
        below = [one for one in modules if one.startswith(f"{name}." if name else "")]
        if isinstance(module, torch.jit.ScriptModule):
            found.update([name, *below])
        elif isinstance(module, torch.fx.GraphModule):
            start = f"{name}." if name else ""
            called = [f"{start}{node.target}" for node in module.graph.find_nodes(op="call_module")]
            found.update(
                one
                for one in below
                if one != name and not any(f"{one}.".startswith(f"{this}.") for this in called)
            )
    return found


def unwrap(module: torch.nn.Module) -> torch.nn.Module:
    """Return the network in a wrapper that distributes or compiles it, which hides its layers."""
    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    inner: Any = module
    while isinstance(inner, wrappers) or hasattr(inner, "_orig_mod"):
        inner = inner.module if isinstance(inner, wrappers) else inner._orig_mod
    return inner


def _exact(tensor: torch.Tensor) -> np.ndarray:
    """Return the values of a tensor; NumPy has no bfloat16."""
    return tensor.detach().cpu().numpy() if tensor.dtype == torch.float64 else to_numpy(tensor)


def copied(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a network, which shares nothing with it."""
    try:
        return copy.deepcopy(module)
    except Exception as error:  # whatever a network may hold
        raise ValueError(
            f"the network is trained in a copy, and cannot be copied: {error}"
        ) from error


@contextmanager
def _at_rest(module: torch.nn.Module, autocast: torch.dtype | None) -> Iterator[None]:
    """Set a module to inference mode; put it, its flags and the random generators back after."""
    device = _device_of(module)
    # Flags, and not eval(): that may be a method of the network's own with other effects.
    parts = list(module.modules())
    training = [part for part in parts if getattr(part, "training", False)]
    # Transformers of torch have a fast path that skips layers, unless they have hooks.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    compiled = any(
        part._compiled_call_impl is not None or "_orig_mod" in part._modules for part in parts
    )
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.no_grad(),
        torch.autocast(device.type, autocast) if autocast else nullcontext(),
        # Compiled code has no layers.
        torch.compiler.set_stance("force_eager") if compiled else nullcontext(),
    ):
        try:
            for part in training:
                part.training = False
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for part in training:
                part.training = True


def _check_ready(module: torch.nn.Module) -> None:
    for name, tensor in tensors_of(module):
        if torch.nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"{name!r} of the network has no values yet: lazy modules get them when they "
                "first run, so run the network on some data, and train or load it"
            )
        if tensor.is_meta:
            raise ValueError(f"{name!r} of the network is on the meta device, without values")


def _parameters_of(forward: Callable[..., Any]) -> tuple[list[str], list[str], list[str]]:
    """Return the names of all inputs, of those needed, and of those that go by position."""
    schema = getattr(forward, "schema", None)
    if schema is not None:  # of a scripted module
        names = [one.name for one in schema.arguments[1:]]
        needed = [one.name for one in schema.arguments[1:] if not one.has_default_value()]
        return names, needed or names[:1], names
    found = inspect.signature(forward).parameters.values()
    named = [one for one in found if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    names = [one.name for one in named] or ["input"]
    needed = [one.name for one in named if one.default is one.empty]
    by_keyword = [one.name for one in named if one.kind is one.KEYWORD_ONLY]
    return names, needed or names[:1], [name for name in names if name not in by_keyword]


def _embeddings(modules: Mapping[str, torch.nn.Module]) -> dict[str, torch.nn.Module]:
    found: dict[str, torch.nn.Module] = {}
    for name, module in modules.items():
        classes = {_class_name(module), *(kind.__name__ for kind in type(module).__mro__)}
        if {"Embedding", "EmbeddingBag"} & classes and module not in found.values():
            found[name] = module
    return found


# Modules, and their attribute that holds the number of channels of their output.
_CHANNELS_FIRST = {
    torch.nn.modules.conv._ConvNd: "out_channels",
    torch.nn.modules.batchnorm._BatchNorm: "num_features",
    torch.nn.GroupNorm: "num_channels",
}
_READ_LAST = {torch.nn.Linear: "in_features"}
# Convolutions by the axes of what they give for one example.
_CONVOLUTIONS: dict[int, Any] = {
    2: (torch.nn.Conv1d, torch.nn.ConvTranspose1d),
    3: (torch.nn.Conv2d, torch.nn.ConvTranspose2d),
    4: (torch.nn.Conv3d, torch.nn.ConvTranspose3d),
}
_CHANNELS_LAST = {
    torch.nn.Linear: "out_features",
    torch.nn.LayerNorm: "normalized_shape",
    torch.nn.Embedding: "embedding_dim",
    torch.nn.MultiheadAttention: "embed_dim",
    torch.nn.RNNBase: "hidden_size",
}


# Modules of maps, which have their channels first.
_OF_MAPS = (
    *_CHANNELS_FIRST,
    *(torch.nn.modules.pooling._MaxPoolNd, torch.nn.modules.pooling._AvgPoolNd),
    *(torch.nn.modules.pooling._AdaptiveAvgPoolNd, torch.nn.modules.pooling._AdaptiveMaxPoolNd),
    *(torch.nn.modules.instancenorm._InstanceNorm, torch.nn.LocalResponseNorm),
    *(torch.nn.Dropout1d, torch.nn.Dropout2d, torch.nn.Dropout3d),
    *(torch.nn.Upsample, torch.nn.PixelShuffle, torch.nn.PixelUnshuffle),
)


def _channels_of(parts: list[torch.nn.Module], kinds: Mapping[type, str]) -> set[int]:
    found = (getattr(part, kinds[k]) for part in parts for k in kinds if isinstance(part, k))
    return {one[-1] if isinstance(one, tuple) else one for one in found}


def _class_name(module: torch.nn.Module) -> str:
    # A scripted module knows the class it was made of, and one of ours the operator.
    return getattr(module, "original_name", module._get_name())


def _is_dense(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear) or _class_name(module) in ("Gemm", "MatMul")


def _device_of(module: torch.nn.Module) -> torch.device:
    return next((tensor.device for _, tensor in tensors_of(module)), torch.device("cpu"))


def _dtype_of(module: torch.nn.Module) -> torch.dtype:
    floats = (tensor.dtype for _, tensor in tensors_of(module) if tensor.is_floating_point())
    return next(floats, torch.float32)
