"""Modules of MXNet for users to train, made of a network that was edited."""

import io
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import mxnet as mx
import numpy as np
from numpy.random import RandomState

from xfer.checkpoint.edit import ModelError, describe_node
from xfer.checkpoint.initial import initial_values
from xfer.checkpoint.network import Network, auxiliary_names
from xfer.checkpoint.symbol import MxGraph, Node
from xfer.sources.data import check_names
from xfer.sources.mxnet_engine import load_symbol, safe_binding

_NORMALIZES_BATCHES = re.compile(r"(_contrib_(Sync)?|_npx_)?batch_?norm(_v1|WithReLU)?", re.I)


def make_contexts(context_function: Callable[[int], Any] | None, num_devices: int) -> list[Any]:
    """Make the devices that share each batch."""
    return [(context_function or mx.cpu)(index) for index in range(num_devices)]


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


def freeze_statistics(graph: MxGraph, fixed: Collection[str]) -> MxGraph:
    """Let batch norms whose scale and shift are fixed use and keep their running statistics."""
    nodes = tuple(
        replace(node, attributes={**node.attributes, "use_global_stats": "True"})
        if _normalizes_batches(node)
        and {graph.nodes[source].name for source, _ in node.inputs[1:3]} <= {*fixed}
        else node
        for node in graph.nodes
    )
    return MxGraph(nodes, graph.heads)


def uses_running_statistics(node: Node) -> bool:
    """Return whether a batch norm uses its running statistics in training too."""
    return node.attributes.get("use_global_stats", "False").lower() in ("true", "1")


def _normalizes_batches(node: Node) -> bool:
    return bool(_NORMALIZES_BATCHES.fullmatch(node.operator))
