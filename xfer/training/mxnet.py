"""Training on MXNet: networks that learn step by step, and Modules to be trained by their users."""

import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import mxnet as mx
import numpy as np
from numpy.random import RandomState

from xfer.checkpoint.edit import ModelError, describe_node
from xfer.checkpoint.network import Network, auxiliary_names
from xfer.checkpoint.symbol import MxGraph
from xfer.sources.data import check_names
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
        raise ValueError(f"optimizer {name!r} does not accept optimizer_params: {error}") from error


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
        fixed: Collection[str],
        rates: Mapping[str, float],
        optimizer: str,
        optimizer_params: Mapping[str, Any],
        rate: Callable[[int], float],
        contexts: list[Any] | None = None,
    ) -> None:
        self._network = network
        self._batch_size = next(iter(shapes.values()))[0]
        types = network.data_types
        data = [mx.io.DataDesc(name, shape, types[name]) for name, shape in shapes.items()]
        values = {name: mx.nd.array(array) for name, array in network.parameters.items()}
        contexts = contexts or [mx.cpu()]
        self._module = _bind(load_symbol(network.graph), data, [], contexts, fixed, values)
        self._module.init_optimizer(optimizer=optimizer, optimizer_params=dict(optimizer_params))
        self._module._optimizer.set_lr_mult(dict(rates))
        self._module._optimizer.lr_scheduler = lambda update: rate(update - 1)

    def forward(self, inputs: Mapping[str, np.ndarray], training: bool = True) -> np.ndarray:
        """Compute the scores of one batch, as in training or in inference mode."""
        batch = mx.io.DataBatch([mx.nd.array(array) for array in inputs.values()])
        self._module.forward(batch, is_train=training)
        return self._module.get_outputs()[0].asnumpy()

    def learn(self, gradient: np.ndarray) -> None:
        """Learn from the last batch, given the gradient of each example's loss by its scores."""
        self._module.backward([mx.nd.array(gradient)])
        self._module.update()

    def scores(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Compute scores in inference mode, an array of shape (n, n_classes)."""
        n, found = len(next(iter(inputs.values()))), []
        for start in range(0, n, self._batch_size):
            index = np.minimum(np.arange(start, start + self._batch_size), n - 1)
            batch = {name: array[index] for name, array in inputs.items()}
            found.append(self.forward(batch, training=False))
        return np.concatenate(found)[:n]

    def network(self) -> Network:
        """Return the network as it is now; FloatingPointError if a parameter is NaN or infinite."""
        # Reading running statistics does not wait for the step that still writes them.
        mx.nd.waitall()
        parts = self._module.get_params()
        arguments, auxiliary = ({name: a.asnumpy() for name, a in part.items()} for part in parts)
        network = replace(self._network, arguments=arguments, auxiliary=auxiliary)
        for name, array in network.parameters.items():
            if not np.isfinite(array).all():
                raise FloatingPointError(f"the parameter {name!r} is NaN or infinite")
        return network


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed MXNet's generator, which dropout uses; afterwards it gets a seed of its own."""
    after = int(mx.nd.random.randint(0, (1 << 31) - 1, shape=(1,), dtype="int32").asscalar())
    mx.random.seed(seed)
    try:
        yield
    finally:
        mx.random.seed(after)


def _bind(
    symbol: Any,
    data: list[Any],
    labels: list[Any],
    contexts: Sequence[Any],
    fixed: Collection[str],
    values: Mapping[str, Any],
) -> Any:
    """Make a Module bound for training, with these values of its parameters."""
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
    module.set_params(values, values)  # it takes from each what it needs
    return module


def make_module(
    network: Network,
    iterator: Any,
    contexts: Sequence[Any],
    fixed: Collection[str] | None,
    random: Collection[str] | None,
    random_state: int | RandomState | None,
) -> Any:
    """Make a Module bound for training; see :meth:`xfer.ModelHandler.get_module`."""
    graph = network.graph.prune(network.graph.heads)
    variables = dict.fromkeys(node.name for node in graph.nodes if node.is_variable)
    label_names = [name for name in variables if name in network.label_names]
    known = [name for name in variables if name not in {*network.input_names, *label_names}]
    fixed, random = _checked_names(fixed, known), _checked_names(random, known)
    data = _descriptions(iterator.provide_data, network.input_names)
    check_names([one.name for one in data], network.input_names, network.input_names)
    labels = _descriptions(iterator.provide_label, label_names)
    given = [one.name for one in labels]
    if missing := [name for name in label_names if name not in given]:
        found = f"the labels of the iterator are {', '.join(given) or 'none'}"
        raise ModelError(f"the network has the label {missing[0]!r}, and {found}")
    labels = [one for one in labels if one.name in label_names]
    graph = _freeze(graph, fixed)
    symbol = load_symbol(graph)
    kept = {name: array for name, array in network.parameters.items() if name not in random}
    shapes = _infer_shapes(symbol, {one.name: one.shape for one in [*data, *labels]}, kept)
    values = _values(graph, {name: shapes[name] for name in known}, kept, random_state)
    return _bind(symbol, data, labels, contexts, fixed, values)


def _checked_names(names: Collection[str] | None, known: list[str]) -> set[str]:
    if isinstance(names, str):
        raise TypeError(f"parameters must be a list of names, got the string {names!r}")
    chosen = set() if names is None else set(names)
    for name in chosen - set(known):
        near = get_close_matches(str(name), known, n=5, cutoff=0.4) or known[:5]
        raise ValueError(f"the network has no parameter {name!r}; nearest: {', '.join(near)}")
    return chosen


def _descriptions(given: Any, names: list[str]) -> list[Any]:
    """Return the shapes of an iterator's data or labels; a single one by the network's own name."""
    kind = mx.io.DataDesc
    found = [one if isinstance(one, kind) else kind(*one) for one in given or ()]
    if len(found) == len(names) == 1:
        found = [kind(names[0], found[0].shape, found[0].dtype, found[0].layout)]
    return found


def _freeze(graph: MxGraph, fixed: set[str]) -> MxGraph:
    """Let batch norms whose parameters are fixed use their running statistics."""
    frozen, auxiliary = freeze_statistics(graph, fixed), auxiliary_names(graph)
    for node in frozen.nodes:
        names = {frozen.nodes[source].name for source, _ in node.inputs} & fixed & auxiliary
        if names and not uses_running_statistics(node):
            found = f"{min(names)!r} is a running statistic of layer {describe_node(node)}"
            raise ModelError(f"{found}: it can be fixed only together with all learned parameters")
    return frozen


def _infer_shapes(
    symbol: Any, given: Mapping[str, tuple[int, ...]], kept: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, ...]]:
    """Infer the shapes of all parameters from those of the data; check those that have values."""
    try:
        with redirect_stdout(io.StringIO()):  # MXNet prints what it was given before it raises
            shapes, _, auxiliary = symbol.infer_shape_partial(**given)
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"data of shapes {given} do not fit the network: {reason}") from error
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    found = dict(zip(names, [*shapes, *auxiliary]))
    if unknown := ", ".join(name for name, shape in found.items() if not shape or 0 in shape):
        raise ModelError(f"data of shapes {given} do not determine the shape of {unknown}")
    for name, shape in found.items():
        if name in kept and kept[name].shape != shape:
            needed = f"data of shapes {given} need {shape}"
            advice = "to initialise it again, name it in random_layer_parameters"
            unfit = f"parameter {name!r} has shape {kept[name].shape}"
            raise ModelError(f"{unfit}, and {needed}; {advice}")
    return found


def _values(
    graph: MxGraph,
    shapes: Mapping[str, tuple[int, ...]],
    kept: Mapping[str, np.ndarray],
    random_state: int | RandomState | None,
) -> dict[str, Any]:
    """Return all parameters as MXNet's arrays; those without values are initialised."""
    random = random_state if isinstance(random_state, RandomState) else RandomState(random_state)
    hints = {node.name: node.training.get("__init__") for node in graph.nodes}
    values = {}
    for name, shape in shapes.items():
        if name not in kept and hints[name]:
            values[name] = _values_by_hint(name, shape, hints[name], random)
        else:
            array = kept[name] if name in kept else initial_values(name, shape, random)
            values[name] = mx.nd.array(array, dtype=array.dtype)
    return values


def initial_values(name: str, shape: tuple[int, ...], random: RandomState) -> np.ndarray:
    """Initialise a parameter by its name: as 0 or 1, or a weight as Glorot and Bengio (2010)."""
    if name.endswith(_ZERO):
        return np.zeros(shape, np.float32)
    if name.endswith(_ONE):
        return np.ones(shape, np.float32)
    if len(shape) < 2 and not name.endswith(("weight", "parameters")):
        endings = f"weight, {', '.join(_ZERO + _ONE)}"
        raise ModelError(
            f"cannot choose initial values for parameter {name!r} of shape {shape}: end its name "
            f"in {endings}, or use mx.sym.var(name, init=...)"
        )
    # Eq. 16 of Understanding the difficulty of training deep feedforward neural networks; each
    # position of a kernel is an input and an output of its own.
    rows, columns, *kernel = (*shape, 1)
    limit = np.sqrt(6 / ((rows + columns) * np.prod(kernel, dtype=float)))
    return random.uniform(-limit, limit, shape).astype(np.float32)


def _values_by_hint(name: str, shape: tuple[int, ...], hint: Any, random: RandomState) -> Any:
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
