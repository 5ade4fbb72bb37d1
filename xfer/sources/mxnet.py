"""Apache MXNet Modules as sources of features."""

import json
from collections import OrderedDict

import mxnet as mx
import numpy as np

from xfer.sources.base import SourceModel
from xfer.sources.mxnet_binding import bind_for_inference
from xfer.sources.mxnet_graph import SymbolGraph, load_graph

_MOST_EXECUTORS = 8


class ModuleSource(SourceModel):
    """An MXNet Module, read once.

    Parameters
    ----------
    module : mxnet.mod.Module
        With parameters; bound or not. It is never changed.
    context_function : callable, optional
        Makes the device of each number; by default the Module's first device is used.
    num_devices : int, default=1
        How many devices share each batch.

    Raises
    ------
    TypeError
        If ``module`` is another kind of MXNet model.
    ValueError
        If the Module has no parameters.
    """

    def __init__(self, module, *, context_function=None, num_devices=1):
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
        data_shapes, data_types = {}, {}
        if module.binded:
            parameters, statistics = module.get_params()
            data_shapes = {data.name: tuple(data.shape) for data in module.data_shapes}
            data_types = {data.name: data.dtype for data in module.data_shapes}
        else:
            # A Module that was loaded and not bound has its parameters nowhere else.
            parameters, statistics = module._arg_params, module._aux_params
        contexts = module._context[:1]
        if context_function is not None:
            contexts = [context_function(number) for number in range(num_devices)]
        elif num_devices > 1:
            contexts = [mx.Context(contexts[0].device_type, n) for n in range(num_devices)]
        self._set(
            module.symbol,
            # Copies, so that training the Module further does not change features under a
            # classifier that was fitted on them.
            {name: array.copy() for name, array in parameters.items()},
            {name: array.copy() for name, array in statistics.items()},
            module.data_names,
            # Labels and states are inputs that have no say in inference: they are fed zeros.
            [*module.label_names, *module._state_names],
            contexts,
            data_shapes,
            data_types,
        )

    @classmethod
    def from_parts(cls, description, arrays):
        """Put a network together that :meth:`parts` took apart.

        Parameters
        ----------
        description : dict
        arrays : dict of str to ndarray

        Returns
        -------
        ModuleSource
            On the first CPU.
        """
        source = cls.__new__(cls)
        source.batch_size = int(description["batch_size"])
        arrays = {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()}
        source._set(
            load_graph(description["graph"]),
            {name[4:]: array for name, array in arrays.items() if name.startswith("arg:")},
            {name[4:]: array for name, array in arrays.items() if name.startswith("aux:")},
            description["input_names"],
            description["idle_names"],
            [mx.cpu()],
        )
        return source

    def _set(
        self,
        symbol,
        parameters,
        statistics,
        input_names,
        idle_names,
        contexts,
        data_shapes=None,
        data_types=None,
    ):
        self._parameters = parameters
        self._statistics = statistics
        self._input_names = list(input_names)
        self._idle_names = list(idle_names)
        self._contexts = contexts
        self._data_types = data_types or {}
        self._graph = SymbolGraph(symbol, {n: array.shape for n, array in parameters.items()})
        self._id_limits = list(self._graph.id_limits())
        self._executors = OrderedDict()
        self._set_data_shapes(data_shapes or {})
        if data_shapes:
            bound = next(iter(data_shapes.values()))[0]
            # Many a Module is bound for one example, and few graphs are written for one size.
            if bound > self.batch_size or not self._graph.takes(self.batch_size, data_shapes):
                self.batch_size = bound

    def _set_data_shapes(self, data_shapes):
        self._data_shapes = data_shapes
        self._layers = self._graph.layers(data_shapes)

    @property
    def layers(self):
        """Every operator of the graph, in topological order (list of Layer)."""
        return self._layers

    @property
    def input_names(self):
        """The Module's data names (list of str)."""
        return self._input_names

    def parts(self):
        """Take the network apart, for saving.

        Returns
        -------
        description : dict
            Goes into JSON.
        arrays : dict of str to ndarray
            The parameters, named as in MXNet's own files: ``arg:`` or ``aux:`` and the name.
        """
        description = {
            "kind": "mxnet",
            "graph": json.loads(self._graph.symbol.tojson()),
            "input_names": self._input_names,
            "idle_names": self._idle_names,
            # Another batch size can round the last digit of a feature another way.
            "batch_size": self.batch_size,
        }
        arrays = {f"arg:{name}": array.asnumpy() for name, array in self._parameters.items()}
        arrays.update({f"aux:{name}": array.asnumpy() for name, array in self._statistics.items()})
        return description, arrays

    def fingerprint(self, layer_names):
        """Tell what decides the features of some layers, to know the same network again.

        Parameters
        ----------
        layer_names : list of str

        Returns
        -------
        dict
            Checksums of the graph up to the layers, and of each parameter in it.
        """
        names = [layer.name for layer in self.find_layers(layer_names)]
        return self._graph.fingerprint(names, {**self._parameters, **self._statistics})

    def _find_layer(self, name):
        if isinstance(name, str) and name.endswith("_output") and name not in self.layer_names:
            name = name.removesuffix("_output")
        return super()._find_layer(name)

    def _forward(self, inputs, layers):
        self._check_ids(inputs)
        rows = len(next(iter(inputs.values())))
        share = -(-rows // len(self._contexts))
        shapes = {name: (share, *array.shape[1:]) for name, array in inputs.items()}
        executors = self._executors_for(tuple(layer.name for layer in layers), shapes)
        for number, executor in enumerate(executors):
            # The last device may get less than its share: it computes the last row again.
            index = np.minimum(np.arange(number * share, (number + 1) * share), rows - 1)
            for name, array in inputs.items():
                if name in executor.arg_dict:
                    executor.arg_dict[name][:] = array if len(executors) == 1 else array[index]
            executor.forward(is_train=False)
        if len(executors) == 1:
            return [output.asnumpy() for output in executors[0].outputs]
        outputs = zip(*(executor.outputs for executor in executors))
        return [np.concatenate([part.asnumpy() for part in parts])[:rows] for parts in outputs]

    def _check_ids(self, inputs):
        """Refuse word ids that an Embedding does not have: MXNet would take the nearest it has."""
        for name, layer, number in self._id_limits:
            ids = inputs.get(name)
            if ids is not None and (ids.min() < 0 or ids.max() >= number):
                found = ids.min() if ids.min() < 0 else ids.max()
                raise ValueError(
                    f"the data hold id {found:.0f}; layer {layer!r} knows ids 0 to {number - 1}: "
                    "was the corpus made with the network's own vocabulary?"
                )

    def _executors_for(self, names, shapes):
        key = (names, tuple(sorted(shapes.items())))
        if key not in self._executors:
            self._executors[key] = self._bind(names, shapes)
            if len(self._executors) > _MOST_EXECUTORS:
                self._executors.popitem(last=False)
        self._executors.move_to_end(key)
        return self._executors[key]

    def _bind(self, names, shapes):
        argument_shapes = self._graph.infer(names, shapes)
        symbol = self._graph.group(names)
        self._check_parameters(symbol)
        types = dict.fromkeys(self._input_names, np.float32)
        types.update({name: array.dtype for name, array in self._parameters.items()})
        types.update(self._data_types)
        arguments = symbol.list_arguments()
        found, _, _ = symbol.infer_type(**{n: types[n] for n in arguments if n in types})
        argument_types = dict(zip(arguments, found))
        executors = []
        for context in self._contexts:
            arrays = {
                name: self._parameters[name].as_in_context(context)
                if name in self._parameters
                else mx.nd.zeros(shape, ctx=context, dtype=argument_types[name])
                for name, shape in argument_shapes.items()
            }
            statistics = {
                name: self._statistics[name].as_in_context(context)
                for name in symbol.list_auxiliary_states()
            }
            executors.append(bind_for_inference(symbol, context, arrays, statistics))
        if not self._data_shapes:
            # From now on the table of layers can tell their shapes.
            self._set_data_shapes(shapes)
        return executors

    def _check_parameters(self, symbol):
        needed = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
        given = {*self._parameters, *self._statistics, *self._input_names, *self._idle_names}
        if needed - given:
            missing = sorted(needed - given)
            raise ValueError(
                f"the Module has no parameters named {', '.join(missing)}; if one is a label, make "
                f"the Module with label_names={missing[:1]}"
            )
