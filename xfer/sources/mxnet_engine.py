"""MXNet networks run by MXNet."""

import json
from collections import OrderedDict

import mxnet as mx
import numpy as np

from xfer.sources.mxnet_binding import bind_for_inference
from xfer.sources.mxnet_graph import SymbolGraph, load_graph

_MOST_EXECUTORS = 8


class MxnetEngine:
    """Runs a network, cut at the layers asked for, on MXNet.

    Parameters
    ----------
    network : Network
    data_types : dict of str to numpy.dtype
        What each input is computed with.
    contexts : list of mxnet.Context, optional
        The devices that share each batch; by default the first CPU.

    Raises
    ------
    ValueError
        If MXNet cannot read the graph, as where it lacks an operator.
    """

    def __init__(self, network, data_types, contexts=None):
        self._network = network
        self._data_types = data_types
        self._contexts = contexts or [mx.cpu()]
        shapes = {name: array.shape for name, array in network.arguments.items()}
        try:
            symbol = load_graph(json.loads(network.json))
        except mx.MXNetError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"MXNet cannot read the graph: {reason}") from error
        self._graph = SymbolGraph(symbol, shapes)
        # Copies: MXNet turns weights into a layout of its own in the memory that it is lent.
        self._parameters = {name: _copy(array) for name, array in network.arguments.items()}
        self._statistics = {name: _copy(array) for name, array in network.statistics.items()}
        self._executors = OrderedDict()

    def run(self, inputs, layer_names):
        """Compute one batch.

        Parameters
        ----------
        inputs : dict of str to ndarray of shape (rows, ...)
        layer_names : tuple of str

        Returns
        -------
        list of ndarray of shape (rows, ...)
            One for each layer.

        Raises
        ------
        ValueError
            If the data do not fit the network, or a layer mixes examples.
        """
        rows = len(next(iter(inputs.values())))
        share = -(-rows // len(self._contexts))
        shapes = {name: (share, *array.shape[1:]) for name, array in inputs.items()}
        executors = self._executors_for(layer_names, shapes)
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
        types = {name: array.dtype for name, array in self._parameters.items()}
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
        return executors

    def _check_parameters(self, symbol):
        needed = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
        network = self._network
        missing = needed - {*network.parameters, *network.input_names, *network.idle_names}
        if missing:
            missing = sorted(missing)
            raise ValueError(
                f"the network has no parameters named {', '.join(missing)}; if one is a label, "
                f"make the Module with label_names={missing[:1]}"
            )


def _copy(array):
    return mx.nd.array(array, dtype=array.dtype)
