"""Training on MXNet: networks that learn step by step, and Modules to be trained by their users."""

import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import mxnet as mx
import numpy as np

from xfer.checkpoint.edit import ModelError, describe_node
from xfer.checkpoint.network import Network, auxiliary_names
from xfer.checkpoint.symbol import MxGraph
from xfer.sources.batches import check_names
from xfer.sources.mxnet_engine import load_symbol, safe_binding
from xfer.training.frozen import freeze_statistics, uses_running_statistics

# Parameters that start as 0 or 1, by the endings of MXNet's names.
_ZERO, _ONE = ("bias", "beta", "mean"), ("gamma", "var")


def check_optimizer(name: str, params: Mapping[str, Any]) -> None:
    """Refuse an optimizer that MXNet does not have, or parameters that it does not take."""
    known = mx.optimizer.Optimizer.opt_registry
    if not isinstance(name, str) or name.lower() not in known:
        raise ValueError(f"optimizer must be one of {', '.join(sorted(known))}, got {name!r}")
    try:
        mx.optimizer.create(name, **params)
    except TypeError as error:
        raise ValueError(f"optimizer_params do not suit {name!r}: {error}") from error


def make_contexts(context_function: Callable[[int], Any] | None, num_devices: int) -> list[Any]:
    """Make the devices that share each batch."""
    return [(context_function or mx.cpu)(index) for index in range(num_devices)]


class TrainingModule:
    """Learns the parameters of a network step by step, from gradients of its only output.

    `shapes` are those of a batch of each input, `fixed` the parameters that do not change, `rates`
    factors of the learning rate by parameter; `rate` gives the learning rate of steps 0, 1, ...
    """

    def __init__(
        self,
        network: Network,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        contexts: list[Any] | None = None,
        fixed: Collection[str],
        rates: Mapping[str, float],
        optimizer: str,
        optimizer_params: Mapping[str, Any],
        rate: Callable[[int], float],
    ) -> None:
        self._network = network
        self._batch_size = next(iter(shapes.values()))[0]
        self._module = mx.mod.Module(
            load_symbol(network.graph),
            data_names=list(shapes),
            label_names=None,
            context=contexts or [mx.cpu()],
            fixed_param_names=[name for name in network.arguments if name in fixed],
        )
        types = network.data_types
        with safe_binding():
            self._module.bind(
                [mx.io.DataDesc(name, shape, types[name]) for name, shape in shapes.items()],
                for_training=True,
            )
        self._module.init_params(
            initializer=None,
            arg_params={name: mx.nd.array(array) for name, array in network.arguments.items()},
            aux_params={name: mx.nd.array(array) for name, array in network.auxiliary.items()},
        )
        self._module.init_optimizer(optimizer=optimizer, optimizer_params=dict(optimizer_params))
        self._module._optimizer.set_lr_mult(dict(rates))
        self._module._optimizer.lr_scheduler = lambda update: rate(update - 1)

    def step(
        self, inputs: Mapping[str, np.ndarray], gradient: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        """Learn from one batch, given the gradient of each example's loss by its scores."""
        self._module.forward(_batch(inputs), is_train=True)
        found = gradient(self._module.get_outputs()[0].asnumpy())
        self._module.backward([mx.nd.array(found)])
        self._module.update()

    def scores(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Compute scores in inference mode, an array of shape (n, n_classes)."""
        n, found = len(next(iter(inputs.values()))), []
        for start in range(0, n, self._batch_size):
            index = np.minimum(np.arange(start, start + self._batch_size), n - 1)
            batch = {name: array[index] for name, array in inputs.items()}
            self._module.forward(_batch(batch), is_train=False)
            found.append(self._module.get_outputs()[0].asnumpy())
        return np.concatenate(found)[:n]

    def network(self) -> Network:
        """Return the network as it is now; FloatingPointError if a parameter is NaN or infinite."""
        # Reading running statistics does not wait for the step that still writes them.
        mx.nd.waitall()
        arguments, auxiliary = (
            {name: array.asnumpy() for name, array in values.items()}
            for values in self._module.get_params()
        )
        for name, array in {**arguments, **auxiliary}.items():
            if not np.isfinite(array).all():
                raise FloatingPointError(f"the parameter {name!r} is NaN or infinite")
        return replace(self._network, arguments=arguments, auxiliary=auxiliary)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed MXNet's generator, which dropout uses; afterwards it gets a seed of its own."""
    after = int(mx.nd.random.randint(0, (1 << 31) - 1, shape=(1,), dtype="int32").asscalar())
    mx.random.seed(seed)
    try:
        yield
    finally:
        mx.random.seed(after)


def _batch(inputs: Mapping[str, np.ndarray]) -> Any:
    return mx.io.DataBatch([mx.nd.array(array) for array in inputs.values()])


def make_module(
    network: Network,
    iterator: Any,
    contexts: Sequence[Any],
    fixed: Collection[str] = (),
    random: Collection[str] = (),
    random_state: int | np.random.RandomState | None = 0,
) -> Any:
    """Make a Module bound for training; see :meth:`xfer.ModelHandler.get_module`."""
    graph = network.graph.prune(network.graph.heads)
    variables = dict.fromkeys(node.name for node in graph.nodes if node.is_variable)
    label_names = [name for name in variables if name in network.label_names]
    known = [name for name in variables if name not in {*network.input_names, *label_names}]
    for names in (fixed, random):
        _check_known(names, known)
    data, labels = _descriptions(iterator, network.input_names, label_names)
    graph = _freeze(graph, {*fixed})
    symbol = load_symbol(graph)
    kept = {name: array for name, array in network.parameters.items() if name not in {*random}}
    shapes = _infer_shapes(symbol, [*data, *labels], kept)
    values = _values(graph, {name: shapes[name] for name in known}, kept, random_state)
    arguments = {*symbol.list_arguments()}
    module = mx.mod.Module(
        symbol,
        data_names=[one.name for one in data],
        label_names=[one.name for one in labels],
        context=list(contexts),
        fixed_param_names=[name for name in fixed if name in arguments],
    )
    with safe_binding():
        module.bind(data, labels or None, for_training=True)
    module.set_params(
        {name: array for name, array in values.items() if name in arguments},
        {name: array for name, array in values.items() if name not in arguments},
    )
    return module


def _check_known(names: Collection[str], known: list[str]) -> None:
    if isinstance(names, str):
        raise TypeError(f"parameters must be a list of names, got the string {names!r}")
    for name in names:
        if name not in known:
            near = get_close_matches(str(name), known, n=5, cutoff=0.4) or known[:5]
            raise ValueError(f"the network has no parameter {name!r}; nearest: {', '.join(near)}")


def _descriptions(
    iterator: Any, input_names: list[str], label_names: list[str]
) -> tuple[list[Any], list[Any]]:
    """Return the shapes of an iterator's data and labels, by the network's own names."""
    data = [_description(one) for one in iterator.provide_data]
    labels = [_description(one) for one in iterator.provide_label or ()]
    given = ", ".join(one.name for one in labels) or "none"
    if len(data) == len(input_names) == 1:
        data = [_description(data[0], input_names[0])]
    if len(labels) == len(label_names) == 1:
        labels = [_description(labels[0], label_names[0])]
    check_names([one.name for one in data], input_names, input_names)
    missing = [name for name in label_names if name not in {one.name for one in labels}]
    if missing:
        raise ModelError(
            f"the network has the label {missing[0]!r}, and the labels of the iterator are {given}"
        )
    return data, [one for one in labels if one.name in label_names]


def _description(one: Any, name: str | None = None) -> Any:
    one = one if isinstance(one, mx.io.DataDesc) else mx.io.DataDesc(*one)
    return mx.io.DataDesc(name or one.name, one.shape, one.dtype, one.layout)


def _freeze(graph: MxGraph, fixed: set[str]) -> MxGraph:
    """Let batch norms whose parameters are fixed use their running statistics."""
    frozen, auxiliary = freeze_statistics(graph, fixed), auxiliary_names(graph)
    for node in frozen.nodes:
        names = {frozen.nodes[source].name for source, _ in node.inputs} & fixed & auxiliary
        if names and not uses_running_statistics(node):
            raise ModelError(
                f"{min(names)!r} is a running statistic of layer {describe_node(node)}: it can be "
                "fixed only together with all learned parameters of that layer"
            )
    return frozen


def _infer_shapes(
    symbol: Any, descriptions: list[Any], kept: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, ...]]:
    """Infer the shapes of all parameters, and check that those with values fit."""
    given = {one.name: one.shape for one in descriptions}
    found = _inferred(symbol, given)
    for name, array in kept.items():
        shape = found.get(name) or array.shape
        if len(shape) != array.ndim or any(
            inferred not in (0, size) for inferred, size in zip(shape, array.shape)
        ):
            raise ModelError(
                f"parameter {name!r} has shape {array.shape}, and data of shapes {given} need "
                f"{shape}; to initialise it again, name it in random_layer_parameters"
            )
    arguments = {*symbol.list_arguments()}
    shapes = {name: array.shape for name, array in kept.items() if name in arguments}
    found = _inferred(symbol, {**shapes, **given})
    unknown = [name for name, shape in found.items() if not shape or 0 in shape]
    if unknown:
        raise ModelError(
            f"data of shapes {given} do not determine the shape of {', '.join(unknown)}"
        )
    return found


def _inferred(symbol: Any, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all variables, as far as they follow from those of some."""
    try:
        with redirect_stdout(io.StringIO()):  # MXNet prints what it was given before it raises
            arguments, _, auxiliary = symbol.infer_shape_partial(**given)
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"such shapes do not fit the network, {given}: {reason}") from error
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    return dict(zip(names, [*arguments, *auxiliary]))


def _values(
    graph: MxGraph,
    shapes: Mapping[str, tuple[int, ...]],
    kept: Mapping[str, np.ndarray],
    random_state: int | np.random.RandomState | None,
) -> dict[str, Any]:
    """Return the values of all parameters as MXNet's arrays; those without any are initialised."""
    if not isinstance(random_state, np.random.RandomState):
        random_state = np.random.RandomState(random_state)
    hints = {node.name: node.training.get("__init__") for node in graph.nodes if node.is_variable}
    values = {}
    for name, shape in shapes.items():
        if name in kept:
            values[name] = mx.nd.array(kept[name], dtype=kept[name].dtype)
        elif hint := hints[name]:
            values[name] = _values_by_hint(name, shape, hint, random_state)
        else:
            values[name] = mx.nd.array(initial_values(name, shape, random_state))
    return values


def initial_values(name: str, shape: tuple[int, ...], random: np.random.RandomState) -> np.ndarray:
    """Initialise a parameter at random if it is a weight, and as 0 or 1 if not, by its name.

    Weights are uniform, by Glorot and Bengio (2010), Understanding the difficulty of training deep
    feedforward neural networks, eq. 16.
    """
    if name.endswith(_ZERO):
        return np.zeros(shape, np.float32)
    if name.endswith(_ONE):
        return np.ones(shape, np.float32)
    if len(shape) < 2 and not name.endswith(("weight", "parameters")):
        raise ModelError(
            f"parameter {name!r} of shape {shape} has no values, and its name does not tell how to "
            f"initialise it: it should end in weight, {', '.join(_ZERO + _ONE)}, or be made with "
            "mx.sym.var(name, init=...)"
        )
    # Each position of a kernel is an input and an output of its own.
    rows, columns, *kernel = (*shape, 1)
    limit = np.sqrt(6 / ((rows + columns) * np.prod(kernel, dtype=float)))
    return random.uniform(-limit, limit, shape).astype(np.float32)


def _values_by_hint(
    name: str, shape: tuple[int, ...], hint: str, random: np.random.RandomState
) -> Any:
    """Initialise a parameter by the initialiser that its variable names."""
    array, before = mx.nd.zeros(shape), np.random.get_state()
    np.random.seed(random.randint(2**31))  # MXNet's initialisers use either global generator
    try:
        with seeded(random.randint(2**31)):
            mx.init.Xavier()(mx.init.InitDesc(name, {"__init__": hint}), array)
            array.wait_to_read()
    finally:
        np.random.set_state(before)
    return array
