"""Apache MXNet Modules as sources of features."""

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
        if not isinstance(module, mx.mod.Module):
            raise TypeError(
                f"cannot open {type(module).__module__}.{type(module).__name__} as a source "
                "model; allowed is an mxnet.mod.Module"
            )
        if not module.params_initialized:
            raise ValueError(
                "the Module has no parameters: load them with mx.mod.Module.load(prefix, epoch), "
                "or bind it and call set_params(arg_params, aux_params)"
            )
        contexts = module._context[:1]
        if context_function is not None:
            contexts = [context_function(number) for number in range(num_devices)]
        elif num_devices > 1:
            contexts = [mx.Context(contexts[0].device_type, n) for n in range(num_devices)]
        if context_function is not None or contexts != [mx.cpu()]:
            if engine == "onnxruntime":
                raise ValueError(
                    f"engine='onnxruntime' runs on the CPU and chooses its own threads; {contexts} "
                    "are devices of MXNet: leave out context_function and num_devices, and give "
                    "the Module context=mx.cpu()"
                )
            # Who names devices wants them used.
            engine = "mxnet" if engine == "auto" else engine
        data_shapes, data_types = {}, {}
        if module.binded:
            arguments, statistics = module.get_params()
            data_shapes = {data.name: (BATCH, *data.shape[1:]) for data in module.data_shapes}
            data_types = {data.name: data.dtype for data in module.data_shapes}
        else:
            # A Module that was loaded and not bound has its parameters nowhere else.
            arguments, statistics = module._arg_params, module._aux_params
        network = Network(
            module.symbol.tojson(),
            # Copies, so that training the Module further does not change features under a
            # classifier that was fitted on them.
            {name: array.asnumpy() for name, array in arguments.items()},
            {name: array.asnumpy() for name, array in statistics.items()},
            list(module.data_names),
            # Labels and states are inputs that have no say in inference.
            [*module.label_names, *module._state_names],
        )
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
