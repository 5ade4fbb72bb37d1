"""An MXNet network as a Module that can be trained, with what has no values drawn."""

import io
from contextlib import redirect_stdout
from difflib import get_close_matches

import mxnet as mx
import numpy as np

from xfer.checkpoint.flow import ModelError, describe
from xfer.checkpoint.frozen import freeze_statistics
from xfer.checkpoint.network import observed_names
from xfer.sources.batches import check_names
from xfer.sources.mxnet_binding import quiet_binding
from xfer.sources.mxnet_training import seeded

# By the ends of their names, as MXNet draws them.
_ZERO, _ONE = ("bias", "beta", "mean"), ("gamma", "var")


def make_module(network, iterator, contexts, fixed=(), random=(), random_state=0):
    """Make a Module of a network, bound for training.

    Parameters
    ----------
    network : Network
    iterator : mxnet.io.DataIter
        Tells the shapes of batches and labels.
    contexts : list of mxnet.Context
        Share each batch.
    fixed : list of str, default=()
        Parameters that training leaves alone. Where those of a batch norm are among them, so are
        its statistics.
    random : list of str, default=()
        Parameters to draw anew; those that have no values are drawn too.
    random_state : int, RandomState instance or None, default=0

    Returns
    -------
    mxnet.mod.Module

    Raises
    ------
    ModelError
        If the iterator does not fit the network, or a parameter does not fit what it brings.
    ValueError
        If there is no such parameter.
    """
    graph = network.graph.prune(network.graph.heads)
    variables = dict.fromkeys(node.name for node in graph.nodes if node.is_variable)
    labels = [name for name in variables if name in network.label_names]
    known = [name for name in variables if name not in {*network.input_names, *labels}]
    for names in (fixed, random):
        _check_known(names, known)
    data, labels = _descriptions(iterator, network.input_names, labels)
    graph = _freeze(graph, {*fixed})
    symbol = mx.sym.load_json(graph.to_json())
    kept = {name: array for name, array in network.parameters.items() if name not in {*random}}
    shapes = _infer_shapes(symbol, [*data, *labels], kept)
    values = _draw(graph, {name: shapes[name] for name in known}, kept, random_state)
    arguments = {*symbol.list_arguments()}
    module = mx.mod.Module(
        symbol,
        data_names=[one.name for one in data],
        label_names=[one.name for one in labels],
        context=contexts,
        fixed_param_names=[name for name in fixed if name in arguments],
    )
    with quiet_binding():
        module.bind(data, labels or None, for_training=True)
    module.set_params(
        {name: array for name, array in values.items() if name in arguments},
        {name: array for name, array in values.items() if name not in arguments},
    )
    return module


def _check_known(names, known):
    if isinstance(names, str):
        raise TypeError(f"parameters are given as a list of names, got the string {names!r}")
    for name in names:
        if name not in known:
            near = get_close_matches(str(name), known, n=5, cutoff=0.4) or known[:5]
            raise ValueError(f"the network has no parameter {name!r}; nearest: {', '.join(near)}")


def _descriptions(iterator, input_names, label_names):
    """Return the shapes that an iterator brings, by the network's own names."""
    data = [_description(one) for one in iterator.provide_data]
    labels = [_description(one) for one in iterator.provide_label or ()]
    brought = ", ".join(one.name for one in labels) or "none"
    if len(data) == len(input_names) == 1:
        data = [_description(data[0], input_names[0])]
    if len(labels) == len(label_names) == 1:
        labels = [_description(labels[0], label_names[0])]
    check_names([one.name for one in data], input_names, input_names)
    missing = [name for name in label_names if name not in {one.name for one in labels}]
    if missing:
        raise ModelError(
            f"the network has the label {missing[0]!r}, and the labels of the iterator are "
            f"{brought}"
        )
    return data, [one for one in labels if one.name in label_names]


def _description(one, name=None):
    one = one if isinstance(one, mx.io.DataDesc) else mx.io.DataDesc(*one)
    return mx.io.DataDesc(name or one.name, one.shape, one.dtype, one.layout)


def _freeze(graph, fixed):
    """Let batch norms whose parameters are fixed use the statistics that they have."""
    frozen, observed = freeze_statistics(graph, fixed), observed_names(graph)
    for node in frozen.nodes:
        names = {frozen.nodes[source].name for source, _ in node.inputs} & fixed
        moving = sorted(names & observed)
        if moving and node.attributes.get("use_global_stats", "False").lower() not in ("true", "1"):
            raise ModelError(
                f"{moving[0]!r} is observed by layer {describe(node)}, not learned: it stays as it "
                "is only where all learned parameters of that layer are fixed too"
            )
    return frozen


def _infer_shapes(symbol, descriptions, kept):
    """Infer the shapes of all parameters, and see that those with values fit."""
    given = {one.name: one.shape for one in descriptions}
    found = _inferred(symbol, given)
    for name, array in kept.items():
        shape = found.get(name) or array.shape
        if len(shape) != array.ndim or any(
            told > 0 and told != size for told, size in zip(shape, array.shape)
        ):
            raise ModelError(
                f"parameter {name!r} has shape {array.shape}, and data of shapes {given} need "
                f"{shape}; to have it drawn anew, name it in random_layer_parameters"
            )
    arguments = {*symbol.list_arguments()}
    shapes = {name: array.shape for name, array in kept.items() if name in arguments}
    found = _inferred(symbol, {**shapes, **given})
    unknown = [name for name, shape in found.items() if not shape or 0 in shape]
    if unknown:
        raise ModelError(f"data of shapes {given} do not tell the shape of {', '.join(unknown)}")
    return found


def _inferred(symbol, given):
    """Return the shapes of all variables, as far as they follow from those of some."""
    try:
        # MXNet prints what it was given before it raises.
        with redirect_stdout(io.StringIO()):
            arguments, _, statistics = symbol.infer_shape_partial(**given)
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"such shapes do not fit the network, {given}: {reason}") from error
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    return dict(zip(names, [*arguments, *statistics]))


def _draw(graph, shapes, kept, random_state):
    """Return values of all parameters: those that there are, and others drawn (dict of NDArray)."""
    if not isinstance(random_state, np.random.RandomState):
        random_state = np.random.RandomState(random_state)
    hints = {node.name: node.training.get("__init__") for node in graph.nodes if node.is_variable}
    values = {}
    for name, shape in shapes.items():
        if name in kept:
            values[name] = mx.nd.array(kept[name], dtype=kept[name].dtype)
        elif hints[name]:
            values[name] = _draw_as_told(name, shape, hints[name], random_state)
        else:
            values[name] = mx.nd.array(draw_parameter(name, shape, random_state))
    return values


def draw_parameter(name, shape, random_state):
    """Draw first values of a parameter, by what its name tells of it.

    Parameters
    ----------
    name : str
        Weights are drawn uniformly as in [1]_, scales and variances are 1, and the rest is 0.
    shape : tuple of int
    random_state : RandomState

    Returns
    -------
    ndarray of that shape, float32

    Raises
    ------
    ModelError
        If the name does not tell what it is.

    References
    ----------
    .. [1] Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward
       neural networks, eq. 16.

    Examples
    --------
    >>> bool(draw_parameter("fc_weight", (2, 4), np.random.RandomState(0)).max() <= 1)
    True
    >>> draw_parameter("fc_bias", (2,), None)
    array([0., 0.], dtype=float32)
    """
    if name.endswith(_ZERO):
        return np.zeros(shape, np.float32)
    if name.endswith(_ONE):
        return np.ones(shape, np.float32)
    if len(shape) < 2 and not name.endswith(("weight", "parameters")):
        raise ModelError(
            f"parameter {name!r} of shape {shape} has no values, and its name does not tell how to "
            f"draw them: it should end in weight, {', '.join(_ZERO + _ONE)}, or be made with "
            "mx.sym.var(name, init=...)"
        )
    # Each position of a kernel is an input and an output of its own.
    rows, columns, *kernel = (*shape, 1)
    limit = np.sqrt(6 / ((rows + columns) * np.prod(kernel, dtype=float)))
    return random_state.uniform(-limit, limit, shape).astype(np.float32)


def _draw_as_told(name, shape, hint, random_state):
    """Draw by an initialiser of MXNet's own, whose generators are seeded for it."""
    array, before = mx.nd.zeros(shape), np.random.get_state()
    np.random.seed(random_state.randint(2**31))
    try:
        with seeded(random_state.randint(2**31)):
            mx.init.Xavier()(mx.init.InitDesc(name, {"__init__": hint}), array)
            array.wait_to_read()
    finally:
        np.random.set_state(before)
    return array
