"""An MXNet network to be looked into, rebuilt and trained on."""

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from os import PathLike

from xfer._files import written_whole
from xfer.checkpoint.convert import needed_nodes, output_names
from xfer.checkpoint.edit import add_bottom, add_top, drop_bottom, drop_top
from xfer.checkpoint.flow import ModelError, find_flow, find_layer, find_parameters
from xfer.checkpoint.legacy import own_name
from xfer.checkpoint.symbol import Graph
from xfer.sources import open_source
from xfer.sources.checkpoint import CheckpointSource

__all__ = ["ModelError", "ModelHandler"]


class ModelHandler:
    """An MXNet network whose layers can be listed, dropped and added.

    Looking and dropping need no MXNet, nor do features. A change that is refused leaves everything
    as it was; one that is made drops the parameters that belong to no layer any more.

    Parameters
    ----------
    module : mxnet.mod.Module, str, path-like or CheckpointSource
        The network, which is read once and never changed: a Module, bound or not, with parameters
        or without; the path of an MXNet checkpoint's ``.params``; or what
        :func:`xfer.load_checkpoint` or :func:`xfer.open_source` made of either.
    context_function : callable, optional
        Makes the device of each number, as ``mxnet.cpu`` and ``mxnet.gpu`` do; by default the CPU.
    num_devices : int, default=1
        How many devices share each batch.
    data_name : str, default="data"
        The input at the network's bottom.

    Raises
    ------
    TypeError
        If ``module`` is no MXNet network.
    ValueError
        If a file is broken, or the number of devices is not a positive integer.

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
    >>> handler.get_layer_parameters(["hidden"])
    ['hidden_weight', 'hidden_bias']
    """

    def __init__(self, module, context_function=None, num_devices=1, data_name="data"):
        if isinstance(num_devices, bool) or not isinstance(num_devices, int) or num_devices < 1:
            raise ValueError(f"num_devices must be a positive integer, got {num_devices!r}")
        self.context_function = context_function
        self.num_devices = num_devices
        self.data_name = data_name
        self._network, self._known = _read(module)
        self._source = None

    @classmethod
    def from_gluon(cls, block, data_names="data", context_function=None, num_devices=1):
        """Take the network of a Gluon block.

        Parameters
        ----------
        block : mxnet.gluon.HybridBlock
            With parameters; it is never changed.
        data_names : str or list of str, default="data"
            What to call its inputs, in their order. The first is at the bottom.
        context_function, num_devices
            As for the class.

        Returns
        -------
        ModelHandler
            Its parameters go by their names in the block. Several outputs of the block are so many
            outputs of the network.

        Raises
        ------
        TypeError
            If ``block`` is something else.
        ValueError
            If its parameters have no values yet.
        """
        from xfer.sources.mxnet import read_block

        names = [data_names] if isinstance(data_names, str) else list(data_names)
        source = CheckpointSource(read_block(block, names))
        return cls(source, context_function, num_devices, data_name=names[0])

    @property
    def network(self):
        """The graph and its parameters, which are never changed (Network)."""
        return self._network

    @property
    def source(self):
        """The network as it is now, as a source of features (CheckpointSource).

        It is what repurposers take, and stays the same when the handler's network changes.
        """
        if self._source is None:
            self._source = self._open()
        return self._source

    @property
    def symbol(self):
        """The graph, for which MXNet is needed (mxnet.sym.Symbol)."""
        import mxnet as mx

        return mx.sym.load_json(self._network.json)

    @property
    def arg_params(self):
        """What was learned (dict of str to ndarray)."""
        return dict(self._network.arguments)

    @property
    def aux_params(self):
        """What was observed, such as the means of batch norms (dict of str to ndarray)."""
        return dict(self._network.statistics)

    @property
    def layer_names(self):
        """Names of the layers, each after what it needs (list of str)."""
        return [node.name for node in self._network.graph.nodes if not node.is_variable]

    @property
    def layer_type_dict(self):
        """Operators of the layers by their names, each after what it needs (OrderedDict)."""
        nodes = self._network.graph.nodes
        return OrderedDict((node.name, node.operator) for node in nodes if not node.is_variable)

    def get_layer_type(self, name):
        """Tell the operator of a layer.

        Parameters
        ----------
        name : str

        Returns
        -------
        str
            As MXNet 1.9 names it, such as ``"Convolution"``.

        Raises
        ------
        ModelError
            If there is no such layer, or several.
        """
        return self._node(name).operator

    def get_layer_names_matching_type(self, layer_type):
        """List the layers of one operator.

        Parameters
        ----------
        layer_type : str
            Any of MXNet's names of an operator, in capitals or not.

        Returns
        -------
        list of str
        """
        wanted = own_name(layer_type).lower()
        nodes = (node for node in self._network.graph.nodes if not node.is_variable)
        return [node.name for node in nodes if node.operator.lower() == wanted]

    def get_layer_parameters(self, layer_names):
        """List the parameters of layers, as the graph tells them.

        Parameters
        ----------
        layer_names : list of str

        Returns
        -------
        list of str
            In the order of the layers, each once. Shared weights belong to each layer that uses
            them; those that a weight is computed from, to the layer that uses it.

        Raises
        ------
        TypeError
            If the names are not in a list.
        ModelError
            If there is no such layer, or several.
        """
        _check_list(layer_names)
        graph = self._network.graph
        flow = find_flow(graph, self._network.input_names)
        numbers = [find_layer(graph, name) for name in layer_names]
        found = dict.fromkeys(n for k in numbers for n in find_parameters(graph, k, flow))
        return [name for name in found if name not in self._network.label_names]

    def get_layer_output(self, iterator, layer_names):
        """Compute the features of layers.

        Parameters
        ----------
        iterator : mxnet.io.DataIter, array of shape (n, ...), or dict of str to array
            The examples; see :meth:`xfer.sources.SourceModel.extract`.
        layer_names : list of str
            By the name of an operator with several outputs all of them are meant.

        Returns
        -------
        features : OrderedDict of str to ndarray of shape (n, d)
            One row for each example.
        labels : ndarray of shape (n,) or None
            Those that came with the data.

        Raises
        ------
        TypeError
            If the names are not in a list.
        ValueError
            If a layer is unknown or its parameters have no values yet, or the data do not fit the
            network.
        """
        _check_list(layer_names)
        names = [one for name in layer_names for one in self._outputs(name)]
        self._check_values(names)
        features = self.source.extract(iterator, names)
        flat = ((name, features.matrix[:, columns]) for name, columns in features.columns.items())
        return OrderedDict(flat), features.labels

    def drop_layer_top(self, n=1):
        """Drop the last layers.

        Parameters
        ----------
        n : int, default=1
            How many; all of them are dropped, or none.

        Raises
        ------
        ModelError
            If the network has several outputs, a layer joins branches, or nothing would be left.
        """
        self._replace(drop_top(self._network.graph, n, self._network.input_names))

    def drop_layer_bottom(self, n=1):
        """Drop the first layers: the data take the place of what the last of them put out.

        Parameters
        ----------
        n : int, default=1
            How many; all of them are dropped, or none.

        Raises
        ------
        ModelError
            If several layers read the data, a layer joins the data with something else, or nothing
            would be left.
        """
        names = self._network.input_names
        self._replace(drop_bottom(self._network.graph, n, names, self.data_name), new_data=True)

    def add_layer_top(self, symbols):
        """Add layers that read what the network puts out.

        Parameters
        ----------
        symbols : mxnet.sym.Symbol, Graph, or list of them
            From the network upwards. Each has one or more layers and one input, such as
            ``mx.sym.FullyConnected(num_hidden=10, name="fc")``. An input that is not plainly one,
            as when a layer adds two things, is told from parameters by the handler's
            ``data_name``. Their parameters have no values before :meth:`get_module`.

        Raises
        ------
        ModelError
            If the network has several outputs or ends in an output layer, or what is added has
            several outputs or inputs, or a name that the network has.
        """
        graph = self._network.graph
        for added in _graphs(symbols):
            graph = add_top(graph, added, self.data_name)
        self._replace(graph)

    def add_layer_bottom(self, symbols):
        """Add layers between the data and the network.

        Parameters
        ----------
        symbols : mxnet.sym.Symbol, Graph, or list of them
            From the data upwards; see :meth:`add_layer_top`.

        Raises
        ------
        ModelError
            If what is added is an output layer, has several outputs or inputs, or a name that the
            network has.
        """
        graph = self._network.graph
        for added in reversed(_graphs(symbols)):
            graph = add_bottom(graph, added, self.data_name)
        self._replace(graph, new_data=True)

    def update_sym(self, symbol):
        """Put another graph in place; it keeps the parameters whose names it has.

        Parameters
        ----------
        symbol : mxnet.sym.Symbol or Graph

        Raises
        ------
        ModelError
            If it reads none of the network's inputs.
        """
        (graph,) = _graphs([symbol])
        variables = [node.name for node in graph.nodes if node.is_variable]
        if not {*variables} & {*self._network.input_names}:
            raise ModelError(
                f"the symbol reads none of the network's inputs "
                f"({', '.join(self._network.input_names)}); it has {', '.join(variables[:5])}"
            )
        self._replace(graph)

    def get_module(
        self,
        iterator,
        fixed_layer_parameters=None,
        random_layer_parameters=None,
        random_state=0,
    ):
        """Make a Module of the network, bound for training.

        Parameters
        ----------
        iterator : mxnet.io.DataIter
            Tells the shapes of batches and labels.
        fixed_layer_parameters : list of str, optional
            Parameters that training leaves alone; see :meth:`get_layer_parameters`. The statistics
            of a batch norm are left alone if it has no other parameters.
        random_layer_parameters : list of str, optional
            Parameters to draw anew. Those that have no values are drawn too: by the initialiser
            that their variable was made with; or else weights as Glorot and Bengio (2010) do,
            scales and variances as 1, and the rest as 0.
        random_state : int, RandomState instance or None, default=0
            Decides what is drawn.

        Returns
        -------
        mxnet.mod.Module

        Raises
        ------
        ModelError
            If the iterator does not fit the network, or parameters do not fit its data.
        ValueError
            If there is no such parameter; the message lists the nearest.
        """
        from xfer.sources.mxnet_module import make_module

        return make_module(
            self._network,
            iterator,
            self._contexts(),
            () if fixed_layer_parameters is None else fixed_layer_parameters,
            () if random_layer_parameters is None else random_layer_parameters,
            random_state,
        )

    def visualize_net(self):
        """Draw the network.

        Returns
        -------
        xfer.diagram.Diagram
            Which a notebook shows, and which can be saved.
        """
        from xfer.diagram import draw

        shapes = {layer.name: layer.shape for layer in self.source.layers if layer.shape}
        known = {**self._network.data_shapes, **self._known.shapes}
        shapes.update({name: shape[1:] for name, shape in known.items()})
        return draw(self._network.graph, shapes, input_names=self._network.input_names)

    def save_symbol(self, model_name):
        """Write the graph to ``<model_name>-symbol.json``, whole or not at all.

        Parameters
        ----------
        model_name : str or path-like

        Returns
        -------
        str
            The path.
        """
        path = f"{model_name}-symbol.json"
        with written_whole(path) as file:
            file.write(self._network.json.encode())
        return path

    def __repr__(self):
        inputs = ", ".join(self._network.input_names)
        return f"ModelHandler({len(self.layer_names)} layers, inputs: {inputs})"

    def __str__(self):
        """Lay the layers out as a table."""
        return "\n".join([repr(self), *str(self.source).splitlines()[1:]])

    def _node(self, name):
        return self._network.graph.nodes[find_layer(self._network.graph, name)]

    def _outputs(self, name):
        node = self._node(name)
        names = output_names(node)
        return [name] if name in names else names

    def _check_values(self, names):
        network = self._network
        graph = network.prune(names)
        for number in sorted(needed_nodes(graph)):
            node = graph.nodes[number]
            known = {*network.parameters, *network.input_names, *network.label_names}
            if node.is_variable and node.name not in known:
                raise ModelError(
                    f"parameter {node.name!r} has no values yet, and layers {', '.join(names)} "
                    "need it: get_module(iterator) draws them, and training makes them of use"
                )

    def _open(self):
        known = self._known
        chosen = self.context_function is not None or self.num_devices > 1
        contexts = self._contexts() if chosen else None
        source = CheckpointSource(
            self._network,
            engine="mxnet" if chosen and contexts != [_cpu(0)] else "auto",
            data_shapes={**self._network.data_shapes, **known.shapes},
            data_types=known.types,
            contexts=contexts,
            compare=known.is_module,
        )
        source.batch_size = known.batch_size or source.batch_size
        return source

    def _contexts(self):
        make = self.context_function or _cpu
        return [make(number) for number in range(self.num_devices)]

    def _replace(self, graph, new_data=False):
        self._network = self._network.with_graph(graph)
        self._source = None
        if new_data:
            self._known = self._known.without(self.data_name)


@dataclass(frozen=True)
class _Known:
    """What is known of how a network was run, but for what is in it."""

    shapes: dict = field(default_factory=dict)
    types: dict = field(default_factory=dict)
    batch_size: int | None = None
    is_module: bool = False

    def without(self, name):
        """Forget what one input is like."""
        shapes, types = (
            {key: value for key, value in known.items() if key != name}
            for known in (self.shapes, self.types)
        )
        return replace(self, shapes=shapes, types=types)


def _read(module):
    """Return the network, and what is known of how it was run."""
    if "mxnet" in {kind.__module__.partition(".")[0] for kind in type(module).__mro__}:
        from xfer.sources.mxnet import read_module

        network, shapes, types = read_module(module)
        batch_size = module.data_shapes[0].shape[0] if module.binded else None
        return network, _Known(shapes, types, batch_size, is_module=True)
    source = open_source(module) if isinstance(module, (str, PathLike)) else module
    if not isinstance(source, CheckpointSource):
        raise TypeError(
            f"cannot handle {type(module).__name__}: {module!r:.80}; allowed are an "
            "mxnet.mod.Module, the path of an MXNet checkpoint's .params file, and what "
            "xfer.load_checkpoint gives; ModelHandler.from_gluon takes Gluon blocks"
        )
    return source.network, _Known(batch_size=source.batch_size)


def _cpu(number):
    from mxnet import cpu

    return cpu(number)


def _graphs(symbols):
    found = list(symbols) if isinstance(symbols, (list, tuple)) else [symbols]
    for one in found:
        if not isinstance(one, Graph) and not hasattr(one, "tojson"):
            raise TypeError(f"a layer must be an mxnet Symbol or a Graph, got {type(one).__name__}")
    if not found:
        raise ValueError("no layer was given: the list is empty")
    return [one if isinstance(one, Graph) else Graph.from_json(one.tojson()) for one in found]


def _check_list(names):
    if isinstance(names, str) or not hasattr(names, "__iter__"):
        raise TypeError(f"layer names are given as a list, got {type(names).__name__}: {names!r}")
