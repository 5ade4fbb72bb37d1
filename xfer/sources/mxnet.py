"""Apache MXNet Modules and Gluon blocks, read as networks and opened as sources."""

import inspect
from collections.abc import Callable
from typing import Any

import mxnet as mx
import numpy as np

from xfer.checkpoint.network import Network
from xfer.checkpoint.onnx_builder import BATCH, Dims
from xfer.checkpoint.symbol import MxGraph
from xfer.sources.checkpoint import CheckpointSource

_ContextFunction = Callable[[int], Any] | None


def open_module(
    module: Any, engine: str, context_function: _ContextFunction, num_devices: int
) -> CheckpointSource:
    """Open a Module, bound or not, with parameters; it is read once and never changed."""
    network, data_shapes, data_types = read_module(module)
    if not module.params_initialized:
        raise ValueError(
            "the Module has no parameters: load them with mx.mod.Module.load(prefix, epoch), "
            "or bind it and call set_params(arg_params, aux_params)"
        )
    contexts, engine = _choose(module._context[0], engine, context_function, num_devices)
    source = CheckpointSource(
        network,
        engine=engine,
        data_shapes=data_shapes,
        data_types=data_types,
        contexts=contexts,
        compare=True,
    )
    if module.binded:
        bound = module.data_shapes[0].shape[0]
        # Many Modules are bound for one example, and few graphs are written for one batch size.
        if bound > source.batch_size or not source.takes_any_batch_size():
            source.batch_size = bound
    return source


def open_block(
    block: Any, engine: str, context_function: _ContextFunction, num_devices: int
) -> CheckpointSource:
    """Open a Gluon HybridBlock with parameters; it is read once and never changed."""
    network = read_block(block, _input_names(block))
    devices = [device for one in block.collect_params().values() for device in one.list_ctx()]
    contexts, engine = _choose(
        devices[0] if devices else mx.cpu(), engine, context_function, num_devices
    )
    return CheckpointSource(network, engine=engine, contexts=contexts, compare=True)


def _choose(
    own: Any, engine: str, context_function: _ContextFunction, num_devices: int
) -> tuple[list[Any], str]:
    """Return MXNet's devices for a network, and the engine that runs it."""
    contexts = [own]
    if context_function is not None:
        contexts = [context_function(index) for index in range(num_devices)]
    elif num_devices > 1:
        contexts = [mx.Context(own.device_type, index) for index in range(num_devices)]
    if context_function is None and contexts == [mx.cpu()]:
        return contexts, engine
    if engine == "onnxruntime":
        raise ValueError(
            f"engine='onnxruntime' runs on the CPU and chooses its own threads; {contexts} "
            "are devices of MXNet: leave out context_function and num_devices, and give "
            "the network context=mx.cpu()"
        )
    # Whoever names devices wants them used.
    return contexts, "mxnet" if engine == "auto" else engine


def read_module(module: Any) -> tuple[Network, dict[str, Dims], dict[str, np.dtype]]:
    """Read a Module: its network with copied parameters; shapes and types where it is bound."""
    if not isinstance(module, mx.mod.Module):
        raise TypeError(
            f"cannot open {type(module).__module__}.{type(module).__name__} as a source "
            "model; allowed is an mxnet.mod.Module or an mxnet.gluon.HybridBlock, which a "
            "ModelHandler takes by ModelHandler.from_gluon(block)"
        )
    data = module.data_shapes if module.binded else ()
    arguments: dict[str, Any] = {}
    auxiliary: dict[str, Any] = {}
    if module.params_initialized:
        # A Module that was loaded and not bound has its parameters nowhere else.
        unbound = module._arg_params, module._aux_params
        arguments, auxiliary = module.get_params() if module.binded else unbound
    network = Network(
        MxGraph.from_json(module.symbol.tojson()),
        {name: array.asnumpy() for name, array in arguments.items()},
        {name: array.asnumpy() for name, array in auxiliary.items()},
        list(module.data_names),
        # Labels and states are inputs that play no part in inference.
        [*module.label_names, *module._state_names],
    )
    shapes: dict[str, Dims] = {one.name: (BATCH, *one.shape[1:]) for one in data}
    return network, shapes, {one.name: one.dtype for one in data}


def read_block(block: Any, input_names: list[str]) -> Network:
    """Read a Gluon block with copies of its parameters, naming its inputs in their order."""
    if not isinstance(block, mx.gluon.HybridBlock):
        raise TypeError(
            f"cannot read {type(block).__module__}.{type(block).__name__} as a network; allowed is "
            "an mxnet.gluon.HybridBlock, such as nn.HybridSequential"
        )
    try:
        outputs = block(*map(mx.sym.var, input_names))
    except Exception as error:  # a block's own code may fail in any way
        raise ValueError(
            f"the block makes no graph of {len(input_names)} inputs ({', '.join(input_names)}); "
            f"data_names should name each of its inputs: {error}"
        ) from error
    if not isinstance(outputs, mx.sym.Symbol):
        outputs = mx.sym.Group(_flat(outputs))
    parameters, values = block.collect_params(), {}
    auxiliary = {*outputs.list_auxiliary_states()}
    for name in [*outputs.list_arguments(), *auxiliary]:
        if name in parameters:
            try:
                values[name] = parameters[name].data(parameters[name].list_ctx()[0]).asnumpy()
            except RuntimeError:  # also of shapes that wait for the first batch
                raise ValueError(
                    f"parameter {name!r} of the block has no values yet: call block.initialize() "
                    "and run one batch through it, or load_parameters(path)"
                ) from None
    return Network(
        MxGraph.from_json(outputs.tojson()),
        {name: array for name, array in values.items() if name not in auxiliary},
        {name: array for name, array in values.items() if name in auxiliary},
        list(input_names),
        [],
    )


def _input_names(block: Any) -> list[str]:
    """Name a block's inputs: ``data``, or as its ``hybrid_forward`` does where it has several."""
    if isinstance(block, mx.gluon.SymbolBlock):
        return [symbol.name for symbol in block._cached_graph[0]]
    taken = {"F", *getattr(block, "_reg_params", ())}
    parameters = inspect.signature(getattr(block, "hybrid_forward", block)).parameters.values()
    names = [
        one.name
        for one in parameters
        if one.name not in taken
        and one.default is one.empty
        and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    return names if len(names) > 1 else ["data"]


def _flat(outputs: Any) -> list[Any]:
    nested = isinstance(outputs, (list, tuple))
    return [one for part in outputs for one in _flat(part)] if nested else [outputs]
