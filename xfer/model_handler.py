"""An MXNet network whose layers can be listed, dropped and added."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from xfer._checks import check_integer
from xfer._dot import Diagram
from xfer._io import atomic_write
from xfer.checkpoint import edit
from xfer.checkpoint.convert import needed_nodes, output_names
from xfer.checkpoint.edit import ModelError, find_layer
from xfer.checkpoint.legacy import own_name
from xfer.checkpoint.network import Network
from xfer.checkpoint.onnx_builder import Dims
from xfer.checkpoint.params import write_params
from xfer.checkpoint.symbol import MxGraph, Node
from xfer.sources import open_source
from xfer.sources.checkpoint import CheckpointSource

if TYPE_CHECKING:
    import mxnet

__all__ = ["ModelError", "ModelHandler"]

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _renamed(**names: str) -> Callable[[_Method], _Method]:
    """Let a method accept the argument names of xfer-ml."""

    def decorate(method: _Method) -> _Method:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            for old in names.keys() & kwargs.keys():
                advice = f"{method.__name__}: {old} of xfer-ml is now {names[old]}"
                warnings.warn(advice, DeprecationWarning, stacklevel=2)
                kwargs[names[old]] = kwargs.pop(old)
            return method(*args, **kwargs)

        return cast(_Method, call)

    return decorate


class ModelHandler:
    """A copy of an MXNet network whose layers can be listed, dropped and added.

    An edit also drops the parameters that no layer uses any more. An edit that the network does not
    allow raises :class:`xfer.ModelError` and changes nothing. Only :attr:`symbol` and
    :meth:`get_module` need MXNet.

    Parameters
    ----------
    module : mxnet.mod.Module, str, path-like or CheckpointSource
        A Module, bound or not, with or without parameters; the path of a checkpoint's ``.params``
        file; or what :func:`xfer.load_checkpoint` or :func:`xfer.open_source` returned.
    context_function, num_devices : callable, int, default=``mxnet.cpu``, 1
        Returns the device of an index, and how many devices share each batch.
    data_name : str, default="data"
        Name of the input at the bottom of the network.

    Examples
    --------
    >>> import xfer
    >>> import mxnet as mx
    >>> hidden = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=4, name="hidden")
    >>> handler = xfer.ModelHandler(mx.mod.Module(mx.sym.SoftmaxOutput(hidden, name="softmax")))
    >>> handler.drop_layer_top()
    >>> handler.add_layer_top([mx.sym.Activation(act_type="relu", name="relu")])
    >>> handler.layer_type_dict
    OrderedDict([('hidden', 'FullyConnected'), ('relu', 'Activation')])
    """

    def __init__(
        self,
        module: Any,
        context_function: Callable[[int], Any] | None = None,
        num_devices: int = 1,
        data_name: str = "data",
    ) -> None:
        self.context_function = context_function
        self.num_devices = check_integer("num_devices", num_devices)
        self.data_name = data_name
        self._data_shapes: dict[str, Dims] = {}
        self._data_types: dict[str, np.dtype] = {}
        self._batch_size: int | None = None
        self._dropped: set[str] = set()
        self._source: CheckpointSource | None = None
        frameworks = {kind.__module__.split(".")[0] for kind in type(module).__mro__}
        self._is_module = "mxnet" in frameworks
        if self._is_module:
            from xfer.sources.mxnet import read_module

            self._network, self._data_shapes, self._data_types = read_module(module)
            if module.binded:
                self._batch_size = module.data_shapes[0].shape[0]
            return
        source = open_source(module) if isinstance(module, (str, PathLike)) else module
        if not isinstance(source, CheckpointSource):
            raise TypeError(
                f"cannot handle {type(module).__name__}: {module!r:.80}; allowed are an "
                "mxnet.mod.Module, the path of an MXNet checkpoint's .params file, and what "
                "xfer.load_checkpoint returns; ModelHandler.from_gluon takes Gluon blocks"
            )
        self._network, self._batch_size = source.network, source.batch_size

    @classmethod
    def from_gluon(
        cls,
        block: "mxnet.gluon.HybridBlock",
        data_names: str | list[str] = "data",
        context_function: Callable[[int], Any] | None = None,
        num_devices: int = 1,
    ) -> "ModelHandler":
        """Copy the network of a Gluon block, whose parameters must have values.

        `data_names` are for the inputs of the block, in order; the first is at the bottom.
        """
        from xfer.sources.mxnet import read_block

        names = [data_names] if isinstance(data_names, str) else list(data_names)
        source = CheckpointSource(read_block(block, names))
        return cls(source, context_function, num_devices, data_name=names[0])

    @property
    def network(self) -> Network:
        """The graph and its parameters, which are never changed."""
        return self._network

    @property
    def source(self) -> CheckpointSource:
        """The network as it is now, to be given to a repurposer; later edits do not change it."""
        if self._source is None:
            contexts, engine = None, "auto"
            if self.context_function is not None or self.num_devices > 1:
                from xfer._mxnet_module import make_contexts

                contexts = make_contexts(self.context_function, self.num_devices)
                engine = "auto" if contexts == make_contexts(None, 1) else "mxnet"
            shapes = {**self._network.data_shapes, **self._data_shapes}
            data = {"data_shapes": shapes, "data_types": self._data_types}
            options: dict[str, Any] = {"engine": engine, "contexts": contexts, **data}
            self._source = CheckpointSource(self._network, compare=self._is_module, **options)
            self._source.batch_size = self._batch_size or self._source.batch_size
        return self._source

    @property
    def symbol(self) -> "mxnet.sym.Symbol":
        """The graph as MXNet's own type."""
        import mxnet as mx

        return mx.sym.load_json(self._network.graph.to_json())

    @property
    def arg_params(self) -> Mapping[str, np.ndarray]:
        """The learned parameters by name, read-only."""
        return _read_only(self._network.arguments)

    @property
    def aux_params(self) -> Mapping[str, np.ndarray]:
        """The auxiliary parameters, such as the running statistics of batch norms, read-only."""
        return _read_only(self._network.auxiliary)

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers, each after those that it reads."""
        return [node.name for node in self._layers()]

    @property
    def layer_type_dict(self) -> OrderedDict[str, str]:
        """Operators of the layers by name, each after those that it reads."""
        return OrderedDict((node.name, node.operator) for node in self._layers())

    @_renamed(layer_name="name")
    def get_layer_type(self, name: str) -> str:
        """Return the operator of a layer as MXNet 1.9 names it, such as ``"Convolution"``."""
        return self._node(name).operator

    def get_layer_names_matching_type(self, layer_type: str) -> list[str]:
        """List the layers of an operator, given by any of MXNet's names for it, in any case."""
        wanted = own_name(layer_type).lower()
        return [node.name for node in self._layers() if node.operator.lower() == wanted]

    def get_layer_parameters(self, layer_names: Sequence[str]) -> list[str]:
        """List the parameters of layers, each once and in the order of the layers.

        A parameter that several layers share belongs to each of them. Where a weight is computed
        from parameters, these belong to the layer that uses it.
        """
        _check_list(layer_names)
        graph = self._network.graph
        dependent = edit.data_dependent_nodes(graph, self._network.input_names)
        node_ids = [self._find(name) for name in layer_names]
        found = (n for k in node_ids for n in edit.find_parameters(graph, k, dependent))
        return [n for n in dict.fromkeys(found) if n not in self._network.label_names]

    @_renamed(data_iterator="iterator")
    def get_layer_output(
        self, iterator: Any, layer_names: Sequence[str]
    ) -> tuple[OrderedDict[str, np.ndarray], np.ndarray | None]:
        """Compute the features of layers, and return the labels of an iterator that has any.

        Data are what :meth:`xfer.sources.SourceModel.extract` takes. Row i of an array of shape
        (n, d) is example i, flattened. A layer with several outputs stands for all of them.
        """
        _check_list(layer_names)
        names = [one for name in layer_names for one in self._outputs(name)]
        self._check_values(names)
        features = self.source.extract(iterator, names)
        flat = ((name, features.matrix[:, columns]) for name, columns in features.columns.items())
        return OrderedDict(flat), features.labels

    @_renamed(num_layers_to_drop="n")
    def drop_layer_top(self, n: int = 1) -> None:
        """Drop the last `n` layers, but not all.

        A layer that joins branches cannot be dropped.
        """
        self._replace(edit.drop_top(self._network.graph, n, self._network.input_names))

    @_renamed(num_layers_to_drop="n")
    def drop_layer_bottom(self, n: int = 1) -> None:
        """Drop the first `n` layers; the data then replace the output of the last of them.

        A layer can be dropped if it alone reads the data, and reads nothing else.
        """
        network = self._network
        graph = edit.drop_bottom(network.graph, n, network.input_names, self.data_name)
        self._replace(graph, new_data=True)

    @_renamed(layer_list="symbols")
    def add_layer_top(self, symbols: Any) -> None:
        """Add layers that read the output of the network, one symbol or a list in order.

        Each symbol has one input, such as ``mx.sym.FullyConnected(num_hidden=10, name="fc")``.
        Where it is ambiguous which variable is the input, name that variable like the handler's
        `data_name`. New parameters have no values until :meth:`get_module` initialises them.
        """
        graph = self._network.graph
        for added in _graphs(symbols):
            graph = edit.add_top(graph, added, self.data_name)
        self._replace(graph)

    @_renamed(layer_list="symbols")
    def add_layer_bottom(self, symbols: Any) -> None:
        """Add layers between the data and the network; see :meth:`add_layer_top`."""
        graph = self._network.graph
        for added in reversed(_graphs(symbols)):
            graph = edit.add_bottom(graph, added, self.data_name)
        self._replace(graph, new_data=True)

    @_renamed(new_symbol="symbol")
    def update_sym(self, symbol: Any) -> None:
        """Replace the graph by that of a symbol; parameters whose names are in it are kept."""
        (graph,) = _graphs([symbol])
        variables = [node.name for node in graph.nodes if node.is_variable]
        if not {*variables} & {*self._network.input_names}:
            inputs = ", ".join(self._network.input_names)
            found = f"it has {', '.join(variables[:5])}"
            raise ModelError(f"the symbol reads none of the network's inputs ({inputs}); {found}")
        self._replace(graph)

    def get_module(
        self,
        iterator: "mxnet.io.DataIter",
        fixed_layer_parameters: Collection[str] | None = None,
        random_layer_parameters: Collection[str] | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> "mxnet.mod.Module":
        """Make a Module of the network, bound for training on batches like those of an iterator.

        Training does not change ``fixed_layer_parameters``; see :meth:`get_layer_parameters`. The
        running statistics of a batch norm are fixed if all its other parameters are.

        The ``random_layer_parameters`` are initialised again, and those without values in any case.
        The initialiser of the variable is used if it has one. Otherwise weights are sampled as by
        Glorot and Bengio (2010), scales and variances are 1, and the rest is 0.
        """
        from xfer._mxnet_module import make_contexts, make_module

        contexts = make_contexts(self.context_function, self.num_devices)
        chosen = fixed_layer_parameters, random_layer_parameters
        return make_module(self._network, iterator, contexts, *chosen, random_state)

    def visualize_net(self) -> Diagram:
        """Draw the network; a notebook shows the result, and ``.save("net.svg")`` writes it."""
        return self.source.visualize_net()

    def save_symbol(self, model_name: str | PathLike) -> str:
        """Write the graph to ``<model_name>-symbol.json`` and return that path."""
        path = f"{model_name}-symbol.json"
        with atomic_write(path) as file:
            file.write(self._network.graph.to_json().encode())
        return path

    def save_checkpoint(self, prefix: str | PathLike, epoch: int = 0) -> None:
        """Write ``<prefix>-symbol.json`` and ``<prefix>-0000.params``, as MXNet does."""
        self._check_values(self._network.head_names)
        write_params(f"{prefix}-{epoch:04d}.params", self._network.to_state()[1])
        self.save_symbol(prefix)

    def __repr__(self) -> str:
        inputs = ", ".join(self._network.input_names)
        return f"ModelHandler({len(self.layer_names)} layers, inputs: {inputs})"

    def __str__(self) -> str:
        return "\n".join([repr(self), *str(self.source).splitlines()[1:]])

    def _layers(self) -> list[Node]:
        return [node for node in self._network.graph.nodes if not node.is_variable]

    def _node(self, name: str) -> Node:
        return self._network.graph.nodes[self._find(name)]

    def _find(self, name: str) -> int:
        if name in self._dropped:
            left = ", ".join(self.layer_names)
            raise ModelError(f"layer {name!r} was dropped; remaining layers: {left}")
        return find_layer(self._network.graph, name)

    def _outputs(self, name: str) -> list[str]:
        names = output_names(self._node(name))
        return [name] if name in names else names

    def _check_values(self, names: list[str]) -> None:
        """Refuse to compute layers that need a parameter without values."""
        network, graph = self._network, self._network.prune(names)
        known = {*network.parameters, *network.input_names, *network.label_names}
        for node in (graph.nodes[node_id] for node_id in sorted(needed_nodes(graph))):
            if node.is_variable and node.name not in known:
                needed = f"layers {', '.join(names)} need it: get_module(iterator) initialises it"
                raise ModelError(f"parameter {node.name!r} has no values yet, and {needed}")

    def _replace(self, graph: MxGraph, new_data: bool = False) -> None:
        """Put an edited graph in place; new data may have another shape and type."""
        before = self._dropped.union(self.layer_names)
        self._network = self._network.with_graph(graph)
        self._dropped = before.difference(self.layer_names)
        self._source = None
        if new_data:
            self._data_shapes.pop(self.data_name, None)
            self._data_types.pop(self.data_name, None)


def _read_only(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    views = {name: array.view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    return MappingProxyType(views)


def _graphs(symbols: Any) -> list[MxGraph]:
    found = list(symbols) if isinstance(symbols, (list, tuple)) else [symbols]
    for one in found:
        if not isinstance(one, MxGraph) and not hasattr(one, "tojson"):
            kind = type(one).__name__
            raise TypeError(f"a layer must be an mxnet Symbol or an MxGraph, got {kind}")
    if not found:
        raise ValueError("no layer was given: the list is empty")
    return [one if isinstance(one, MxGraph) else MxGraph.from_json(one.tojson()) for one in found]


def _check_list(names: Any) -> None:
    if isinstance(names, str) or not hasattr(names, "__iter__"):
        raise TypeError(f"layer names must be a list, got {type(names).__name__}: {names!r}")
