"""MXNet as the engine of last resort: right answers, and nothing printed."""

import io
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from types import MappingProxyType
from typing import Any

import mxnet as mx
import numpy as np

from xfer.checkpoint.network import Network
from xfer.sources.base import example_shapes, examples_first

_MOST_EXECUTORS = 8
_BIND_LOCK = threading.Lock()


class MxnetEngine:
    """Runs a network on MXNet, cut at the layers asked for; several devices share each batch."""

    def __init__(
        self,
        network: Network,
        data_types: Mapping[str, np.dtype],
        contexts: Sequence[Any] | None = None,
        batch_axes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._network = network
        self._data_types = data_types
        self._contexts = contexts or [mx.cpu()]
        self._batch_axes = batch_axes
        # Copies: MXNet turns weights into a layout of its own in the memory that it is lent.
        self._arguments, self._auxiliary = (
            {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()}
            for arrays in (network.arguments, network.auxiliary)
        )
        self._executors: OrderedDict[Any, list[Any]] = OrderedDict()
        self._sizes: dict[Any, set[int]] = {}
        self._lock = threading.Lock()

    def run(
        self,
        inputs: dict[str, np.ndarray],
        layer_names: tuple[str, ...],
        places: Sequence[tuple[int, int]] | None = None,
    ) -> list[np.ndarray]:
        """Compute one batch: an array (n, ...) for each layer.

        `places` are the axis of the examples in each layer's output, and its rows per example.
        """
        with self._lock:  # executors hold the batch that they compute
            return self._run(inputs, layer_names, places or [(0, 1)] * len(layer_names))

    def _run(
        self,
        inputs: dict[str, np.ndarray],
        layer_names: tuple[str, ...],
        places: Sequence[tuple[int, int]],
    ) -> list[np.ndarray]:
        n = len(next(iter(inputs.values())))
        # Binding for another batch size takes long, and some graphs are written for one size: a
        # short batch is filled up.
        examples = layer_names, *((name, array.shape[1:]) for name, array in inputs.items())
        sizes = self._sizes.setdefault(examples, set())
        size = min((size for size in sizes if n <= size), default=n)
        sizes.add(size)
        share = -(-size // len(self._contexts))
        shapes = {
            name: np.moveaxis(np.broadcast_to(0, (share, *array.shape[1:])), 0, axis).shape
            for name, array in inputs.items()
            for axis in [self._batch_axes.get(name, 0)]
        }
        key = layer_names, tuple(sorted(shapes.items()))
        if key not in self._executors:
            self._executors[key] = self._bind(layer_names, shapes)
            if len(self._executors) > _MOST_EXECUTORS:
                self._executors.popitem(last=False)
        self._executors.move_to_end(key)
        executors = self._executors[key]
        for index, executor in enumerate(executors):
            rows = np.minimum(np.arange(index * share, (index + 1) * share), n - 1)
            for name, array in inputs.items():
                if name in executor.arg_dict:
                    axis = self._batch_axes.get(name, 0)
                    executor.arg_dict[name][:] = np.moveaxis(array[rows], 0, axis)
            executor.forward(is_train=False)
        outputs = zip(*(executor.outputs for executor in executors))
        parts = [
            [examples_first(part.asnumpy(), *place) for part in parts]
            for parts, place in zip(outputs, places)
        ]
        if len(executors) == 1 and n == size:
            return [part for (part,) in parts]
        for name, (first, *_) in zip(layer_names, parts):
            if first.ndim == 0 or len(first) != share:
                raise ValueError(
                    f"layer {name!r} has output shape {first.shape} for a batch of {share} "
                    f"examples; features need one row for each example on the first axis"
                )
        return [np.concatenate(part)[:n] for part in parts]

    def _bind(self, names: tuple[str, ...], shapes: dict[str, tuple]) -> list[Any]:
        symbol = load_symbol(self._network.prune(names))
        arguments, network = symbol.list_arguments(), self._network
        missing = {*arguments, *symbol.list_auxiliary_states()}
        missing -= {*network.parameters, *network.input_names, *network.idle_names}
        if missing:
            raise ValueError(
                f"the network has no parameters named {', '.join(sorted(missing))}; if one is a "
                f"label, make the Module with label_names={sorted(missing)[:1]}"
            )
        known = {name: array.shape for name, array in self._arguments.items()}
        argument_shapes = dict(zip(arguments, _infer_shapes(symbol, {**known, **shapes}, shapes)))
        types = {name: array.dtype for name, array in self._arguments.items()}
        argument_types, state_types = _infer_types(symbol, types, self._data_types)
        executors = []
        for context in self._contexts:
            arrays = {
                name: self._arguments[name]
                .astype(argument_types[name], copy=False)
                .as_in_context(context)
                if name in self._arguments
                else mx.nd.zeros(shape, ctx=context, dtype=argument_types[name])
                for name, shape in argument_shapes.items()
            }
            states = {
                name: self._auxiliary[name].astype(kind, copy=False).as_in_context(context)
                for name, kind in state_types.items()
            }
            with safe_binding():
                executors.append(symbol.bind(context, arrays, grad_req="null", aux_states=states))
        return executors


def load_symbol(graph: Any) -> Any:
    """Make an MXNet symbol of an MxGraph."""
    try:
        return mx.sym.load_json(graph.to_json())
    except mx.MXNetError as error:
        raise ValueError(f"MXNet cannot read the graph: {_last_line(error)}") from error


def _infer_shapes(symbol: Any, known: Mapping[str, tuple], data: Mapping[str, tuple]) -> list:
    names = symbol.list_arguments()
    examples = example_shapes({name: np.broadcast_to(0, shape) for name, shape in data.items()})
    try:
        with redirect_stdout(io.StringIO()):  # MXNet prints what it was given before it raises
            shapes, _, _ = symbol.infer_shape(**{n: known[n] for n in names if n in known})
    except mx.MXNetError as error:
        raise ValueError(
            f"data of shape {examples} for one example do not fit the network: {_last_line(error)}"
        ) from error
    if shapes is None:
        raise ValueError(f"data of shape {examples} do not determine every shape in the network")
    return shapes


def _infer_types(
    symbol: Any, parameters: Mapping[str, Any], data: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the types of arguments and states: float32 for all floats, or as they are."""
    # MXNet refuses to mix float32 data with weights of another type. If the graph itself declares
    # the types of weights, the data get the same.
    known = {**parameters, **data}
    single = {n: np.float32 if np.dtype(k).kind == "f" else k for n, k in known.items()}
    own = {n: k for n, k in known.items() if n in parameters or np.dtype(k).kind != "f"}
    names, found, states = symbol.list_arguments(), None, None
    for types in (single, own):
        with suppress(mx.MXNetError), redirect_stdout(io.StringIO()):
            found, _, states = symbol.infer_type(**{n: types[n] for n in names if n in types})
        if found is not None:
            break
    if found is None or states is None:
        kinds = sorted({str(np.dtype(kind)) for kind in known.values()})
        raise ValueError(f"MXNet cannot combine data and parameters of {', '.join(kinds)}")
    return dict(zip(names, found)), dict(zip(symbol.list_auxiliary_states(), states))


@contextmanager
def safe_binding() -> Iterator[None]:
    """Bind inside: MXNet then fuses nothing wrongly, and does not say so on each bind.

    Its MKLDNN subgraph backend, the default on a CPU, adds a convolution's output into a tensor
    that is still needed, as the shortcut of every pre-activation ResNet is, and silently gives
    wrong features from there on.
    """
    # The environment and the standard error stream belong to the whole process.
    with _BIND_LOCK, _without_subgraph_backend(), _without_bind_line():
        yield


@contextmanager
def _without_subgraph_backend() -> Iterator[None]:
    name = "MXNET_SUBGRAPH_BACKEND"
    before = os.environ.get(name)
    os.environ[name] = "NONE"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


@contextmanager
def _without_bind_line() -> Iterator[None]:
    """Hold back the line that MXNet's C++ code writes on each such bind, and no other."""
    try:
        stderr = os.dup(2)
    except OSError:  # a process without one
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if b"subgraph backend is not in use" not in line:
                    os.write(2, line)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
