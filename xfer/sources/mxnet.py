"""Apache MXNet Modules and Gluon blocks, as networks and as sources of features."""

import inspect

import mxnet as mx

from xfer.checkpoint.network import Network
from xfer.checkpoint.onnx_graph import BATCH
from xfer.sources.checkpoint import CheckpointSource


class ModuleSource(CheckpointSource):
    """An MXNet Module, read once.

    Parameters
    ----------
    module : mxnet.mod.Module
        With parameters; bound or not. It is never changed.
    engine : {"auto", "onnxruntime", "mxnet"}, default="auto"
        What runs it: ``"auto"`` is ONNX Runtime, and MXNet where an operator has no conversion or
        the two disagree on the first examples.
    context_function : callable, optional
        Makes the device of each number, for MXNet; by default the Module's first device is used.
    num_devices : int, default=1
        How many devices share each batch, on MXNet.

    Raises
    ------
    TypeError
        If ``module`` is another kind of MXNet model.
    ValueError
        If the Module has no parameters, or ONNX Runtime is to run on devices of MXNet.
    """

    def __init__(self, module, *, engine="auto", context_function=None, num_devices=1):
        network, data_shapes, data_types = read_module(module)
        if not module.params_initialized:
            raise ValueError(
                "the Module has no parameters: load them with mx.mod.Module.load(prefix, epoch), "
                "or bind it and call set_params(arg_params, aux_params)"
            )
        contexts, engine = _choose(module._context[0], engine, context_function, num_devices)
        super().__init__(
            network,
            engine=engine,
            data_shapes=data_shapes,
            data_types=data_types,
            contexts=contexts,
            compare=True,
        )
        if module.binded:
            bound = module.data_shapes[0].shape[0]
            # Many a Module is bound for one example, and few graphs are written for one size.
            if bound > self.batch_size or not self._takes_any_number():
                self.batch_size = bound


class BlockSource(CheckpointSource):
    """A Gluon block, read once.

    Its input is called ``data``; several are called what its ``hybrid_forward`` calls them.

    Parameters
    ----------
    block : mxnet.gluon.HybridBlock
        With parameters. It is never changed.
    engine, context_function, num_devices
        See :class:`ModuleSource`.

    Raises
    ------
    TypeError
        If ``block`` cannot be hybridized.
    ValueError
        If it makes no graph, its parameters have no values yet, or ONNX Runtime is to run on
        devices of MXNet.
    """

    def __init__(self, block, *, engine="auto", context_function=None, num_devices=1):
        network = read_block(block, _input_names(block))
        devices = [device for one in block.collect_params().values() for device in one.list_ctx()]
        contexts, engine = _choose(
            devices[0] if devices else mx.cpu(), engine, context_function, num_devices
        )
        super().__init__(network, engine=engine, contexts=contexts, compare=True)


def _choose(own, engine, context_function, num_devices):
    """Return the devices of MXNet that are to run a network, and what runs it."""
    contexts = [own]
    if context_function is not None:
        contexts = [context_function(number) for number in range(num_devices)]
    elif num_devices > 1:
        contexts = [mx.Context(own.device_type, number) for number in range(num_devices)]
    if context_function is None and contexts == [mx.cpu()]:
        return contexts, engine
    if engine == "onnxruntime":
        raise ValueError(
            f"engine='onnxruntime' runs on the CPU and chooses its own threads; {contexts} "
            "are devices of MXNet: leave out context_function and num_devices, and give "
            "the network context=mx.cpu()"
        )
    # Who names devices wants them used.
    return contexts, "mxnet" if engine == "auto" else engine


def read_module(module):
    """Read a Module.

    Parameters
    ----------
    module : mxnet.mod.Module
        Bound or not, with parameters or without.

    Returns
    -------
    network : Network
        With copies of the parameters, so that training the Module further does not change features
        under a classifier that was fitted on them.
    data_shapes : dict of str to tuple
        Of a batch of each input, where the Module is bound.
    data_types : dict of str to numpy.dtype
        What each input is computed with, where the Module is bound.

    Raises
    ------
    TypeError
        If ``module`` is another kind of MXNet model.
    """
    if not isinstance(module, mx.mod.Module):
        raise TypeError(
            f"cannot open {type(module).__module__}.{type(module).__name__} as a source "
            "model; allowed is an mxnet.mod.Module or an mxnet.gluon.HybridBlock, which a "
            "ModelHandler takes by ModelHandler.from_gluon(block)"
        )
    data = module.data_shapes if module.binded else ()
    arguments, statistics = {}, {}
    if module.params_initialized:
        # A Module that was loaded and not bound has its parameters nowhere else.
        unbound = module._arg_params, module._aux_params
        arguments, statistics = module.get_params() if module.binded else unbound
    network = Network(
        module.symbol.tojson(),
        {name: array.asnumpy() for name, array in arguments.items()},
        {name: array.asnumpy() for name, array in statistics.items()},
        list(module.data_names),
        # Labels and states are inputs that have no say in inference.
        [*module.label_names, *module._state_names],
    )
    shapes = {one.name: (BATCH, *one.shape[1:]) for one in data}
    return network, shapes, {one.name: one.dtype for one in data}


def read_block(block, input_names):
    """Read a Gluon block.

    Parameters
    ----------
    block : mxnet.gluon.HybridBlock
        With parameters.
    input_names : list of str
        What to call its inputs, in their order.

    Returns
    -------
    Network
        With copies of the parameters by their names in the block.

    Raises
    ------
    TypeError
        If ``block`` is something else.
    ValueError
        If it does not take that many inputs, or its parameters have no values yet.
    """
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
    needed = [*outputs.list_arguments(), *outputs.list_auxiliary_states()]
    for name in needed:
        if name in parameters:
            try:
                values[name] = parameters[name].data(parameters[name].list_ctx()[0]).asnumpy()
            except RuntimeError:  # also of shapes that wait for the first batch
                raise ValueError(
                    f"parameter {name!r} of the block has no values yet: call block.initialize() "
                    "and run one batch through it, or load_parameters(path)"
                ) from None
    statistics = {*outputs.list_auxiliary_states()}
    return Network(
        outputs.tojson(),
        {name: array for name, array in values.items() if name not in statistics},
        {name: array for name, array in values.items() if name in statistics},
        list(input_names),
        [],
    )


def _input_names(block):
    """Name the inputs of a block, as its author did where there are several."""
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


def _flat(outputs):
    nested = isinstance(outputs, (list, tuple))
    return [one for part in outputs for one in _flat(part)] if nested else [outputs]
