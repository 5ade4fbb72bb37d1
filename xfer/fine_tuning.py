"""Repurposers that train the network itself."""

from collections.abc import Iterable
from dataclasses import replace
from numbers import Integral

from xfer._options import with_options_of
from xfer.checkpoint.edit import OUTPUT_LAYERS, drop_top
from xfer.checkpoint.flow import find_flow, find_layer, find_parameters
from xfer.neural_network import NeuralNetworkRepurposer

__all__ = ["NeuralNetworkFineTuneRepurposer", "NeuralNetworkRandomFreezeRepurposer"]


class NeuralNetworkFineTuneRepurposer(NeuralNetworkRepurposer):
    """The network up to one layer with a new last layer, trained together.

    The new layer starts as the logistic regression on the features of that layer that
    :class:`xfer.LrRepurposer` fits, so that training starts where that ends.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or anything of MXNet's that :func:`xfer.open_source` takes
        The network. It is never changed.
    transfer_layer_name : str
        The last layer that is kept; the new one takes its output, flattened.
    target_class_count : int, optional
        How many classes the labels have, where that is to be checked.
    **options
        ``batch_size`` and all others of :class:`xfer.NeuralNetworkRepurposer`.

    Examples
    --------
    >>> import numpy as np
    >>> import mxnet as mx
    >>> hidden = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=4, name="hidden")
    >>> module = mx.mod.Module(mx.sym.softmax(hidden, name="out"), label_names=None)
    >>> module.bind(data_shapes=[("data", (10, 8))], for_training=False)
    >>> module.init_params()
    >>> X, y = np.eye(8)[[0, 0, 0, 1, 1, 1]], ["bike"] * 3 + ["car"] * 3
    >>> repurposer = NeuralNetworkFineTuneRepurposer(module, "hidden", 2).fit(X, y)
    >>> repurposer.predict(X[[0, 5]])
    array(['bike', 'car'], dtype='<U4')
    """

    @with_options_of(NeuralNetworkRepurposer)
    def __init__(self, source_model, transfer_layer_name, target_class_count=None, **options):
        super().__init__(source_model, target_class_count, **options)
        self.transfer_layer_name = transfer_layer_name

    def _body(self, source, random):
        if not isinstance(self.transfer_layer_name, str):
            raise TypeError(
                f"transfer_layer_name must be the name of a layer, got {self.transfer_layer_name!r}"
            )
        (layer,) = source.find_layers(self.transfer_layer_name)
        if layer.operator in OUTPUT_LAYERS:
            raise ValueError(
                f"transfer_layer_name is {layer.name!r}, which is an output layer "
                f"({layer.operator}); name a layer before it"
            )
        return source.network.with_graph(source.network.prune([layer.name])), set()


class NeuralNetworkRandomFreezeRepurposer(NeuralNetworkRepurposer):
    """The network without its last layers and with a new one; some layers fixed, others drawn anew.

    What fixed layers at the bottom put out is computed once, not in every epoch. Where no layer is
    drawn anew, the new one starts as logistic regression, as in
    :class:`xfer.NeuralNetworkFineTuneRepurposer`.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or anything of MXNet's that :func:`xfer.open_source` takes
        The network. It is never changed.
    target_class_count : int, optional
        How many classes the labels have, where that is to be checked.
    fixed_layers : list of str, default=()
        Layers whose parameters and statistics stay as they are.
    random_layers : list of str, default=()
        Layers whose parameters are drawn anew: weights as Glorot and Bengio (2010) do, scales and
        variances as 1, the rest as 0.
    num_layers_to_drop : int, default=2
        How many layers to drop from the top: of most networks the output layer and the last layer
        with weights.
    **options
        ``batch_size`` and all others of :class:`xfer.NeuralNetworkRepurposer`.
    """

    @with_options_of(NeuralNetworkRepurposer)
    def __init__(
        self,
        source_model,
        target_class_count=None,
        fixed_layers=(),
        random_layers=(),
        num_layers_to_drop=2,
        **options,
    ):
        super().__init__(source_model, target_class_count, **options)
        self.fixed_layers = fixed_layers
        self.random_layers = random_layers
        self.num_layers_to_drop = num_layers_to_drop

    def _body(self, source, random):
        from xfer.sources.mxnet_module import draw_parameter

        network, number = source.network, self.num_layers_to_drop
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
            raise ValueError(f"num_layers_to_drop must be a positive integer, got {number!r}")
        body = network.with_graph(drop_top(network.graph, int(number), network.input_names))
        fixed = _parameters_of(body, "fixed_layers", self.fixed_layers)
        drawn = _parameters_of(body, "random_layers", self.random_layers)
        if fixed & drawn:
            raise ValueError(
                f"fixed_layers and random_layers share the parameter {min(fixed & drawn)!r}"
            )
        arguments, statistics = (
            {
                name: draw_parameter(name, array.shape, random) if name in drawn else array
                for name, array in values.items()
            }
            for values in (body.arguments, body.statistics)
        )
        return replace(body, arguments=arguments, statistics=statistics), fixed


def _parameters_of(network, option, layer_names):
    if isinstance(layer_names, str) or not isinstance(layer_names, Iterable):
        raise TypeError(f"{option} must be a list of names of layers, got {layer_names!r}")
    graph = network.graph
    flow = find_flow(graph, network.input_names)
    numbers = [find_layer(graph, name) for name in layer_names]
    return {name for number in numbers for name in find_parameters(graph, number, flow)}
