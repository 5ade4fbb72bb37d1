"""Repurposers that train the network itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from inspect import signature
from numbers import Integral
from typing import Any, ClassVar, TypedDict, TypeVar, Unpack

import numpy as np
from numpy.random import RandomState
from sklearn.utils.class_weight import compute_class_weight

from xfer.checkpoint.convert import output_names
from xfer.checkpoint.edit import (
    OUTPUT_LAYERS,
    add_top,
    data_dependent_nodes,
    drop_top,
    find_layer,
    find_parameters,
)
from xfer.checkpoint.network import Network
from xfer.checkpoint.symbol import MxGraph, Node
from xfer.features import LayerFeatures, stores_parameters
from xfer.meta import CalibratedLogisticRegression
from xfer.meta.calibrated import ScaledScores
from xfer.repurposers import Repurposer, checked_labels
from xfer.sources.batches import check_ids
from xfer.sources.checkpoint import CheckpointSource
from xfer.sources.data import open_data, read_all
from xfer.training.loop import Examples, History, Trainer, TrainingDiverged, check_number

__all__ = [
    "NeuralNetworkFineTuneRepurposer",
    "NeuralNetworkRandomFreezeRepurposer",
    "NeuralNetworkRepurposer",
]

_Self = TypeVar("_Self", bound="NeuralNetworkRepurposer")


class TrainingOptions(TypedDict, total=False):
    """Parameters that every repurposer has that trains its network."""

    batch_size: int
    num_epochs: int | None
    optimizer: str
    optimizer_params: Mapping[str, Any] | None
    learning_rate_schedule: str
    transferred_rate: float
    unfreeze_epochs: int
    validation_fraction: float
    patience: int
    class_weight: Mapping[Any, float] | str | None
    augment: Callable[[Any, RandomState], Any] | None
    random_state: int
    context_function: Callable[[int], Any] | None
    num_devices: int
    progress: bool | None


class NeuralNetworkRepurposer(Repurposer, ABC):
    """A repurposer that trains a network made from the source model; training needs MXNet.

    The source model itself is never changed. Predictions need no MXNet.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or any MXNet network that :func:`xfer.open_source` takes
    target_class_count : int, optional
        Number of classes of the labels, if it is to be checked.
    batch_size : int, default=32
        Examples in a step.
    num_epochs : int, optional
        Passes over the examples; by default as many as give 400 steps, but 6 to 30.
    optimizer : str, default="adam"
        MXNet's name for it.
    optimizer_params : dict, optional
        Its parameters; the default ``learning_rate`` is 0.001.
    learning_rate_schedule : {"cosine", "linear", "constant"}, default="cosine"
        How the learning rate falls to 0 by the end, if it does.
    transferred_rate : float, default=1.0
        Factor of the learning rate for parameters that come from the source model.
    unfreeze_epochs : int, default=0
        Gradual unfreezing [1]_: train the new layer alone for this many epochs, and then one more
        layer from the top after every so many. 0 trains all from the start.
    validation_fraction : float, default=0.0
        Fraction of the examples to hold out. Training keeps the weights with the least log loss on
        them, which may be those of the start, and fits the scale of the probabilities on them.
    patience : int, default=10
        Stop after this many epochs without a lower log loss on the held-out examples.
    class_weight : dict or "balanced", optional
        Weight of an example by its label; "balanced" gives all classes the same weight.
    augment : callable, optional
        Called with the input of a batch, an array of shape (m, ...) or a dict of arrays if there
        are several inputs, and a numpy RandomState; returns other inputs of the same shape to learn
        from. Not saved with the repurposer.
    random_state : int, default=0
        Seed of everything random.
    context_function : callable, optional
        Makes the device of each index to train on, as ``mxnet.cpu`` and ``mxnet.gpu`` do; by
        default the CPU. Not saved with the repurposer.
    num_devices : int, default=1
        How many devices share each batch.
    progress : bool, optional
        Whether to show a bar; by default only in an interactive session.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    history_ : xfer.training.History
        Loss, accuracy and learning rate of the epochs; see :func:`xfer.plots.training_curves`.
    features_ : LayerFeatures
        The scores of the trained network.
    meta_model_ : xfer.meta.scores.ScaledScores
        Turns them into probabilities.

    References
    ----------
    .. [1] Howard and Ruder (2018), Universal Language Model Fine-tuning for Text Classification,
       section 3.3.
    """

    trains_network = True
    _not_saved: ClassVar[tuple[str, ...]] = ("source_model", "context_function", "augment")

    target_class_count: int | None
    progress: bool | None
    history_: History

    @stores_parameters(Trainer)
    def __init__(
        self,
        source_model: Any,
        target_class_count: int | None = None,
        **options: Unpack[TrainingOptions],
    ) -> None: ...

    @abstractmethod
    def _body(self, source: CheckpointSource, random: RandomState) -> tuple[Network, set[str]]:
        """Make the network below the new last layer, and name its fixed parameters.

        This is what a subclass overrides. The network has one output and all of its parameters.
        """

    def fit(self: _Self, X: Any, y: Any = None) -> _Self:
        """Train a network for the new task.

        Parameters
        ----------
        X : array of shape (n, ...), dict of str to array, list, or an iterable of batches
            The examples, which are read into memory.
        y : array-like of shape (n,), optional
            Their labels, of any kind. An iterator carries its own.

        Returns
        -------
        NeuralNetworkRepurposer
            Itself.

        Raises
        ------
        TypeError, ValueError
            If the network, a layer, an option, the data or the labels cannot be used; nothing is
            changed.
        TrainingDiverged
            If scores become NaN or infinite. The repurposer is then fitted with the best weights
            before that.
        ImportError
            If MXNet is not installed.
        """
        trainer = Trainer(**{name: getattr(self, name) for name in signature(Trainer).parameters})
        source = self._open_checkpoint()
        body, fixed = self._body(source, trainer.random)
        inputs, labels = _read(open_data(X, y, checked_labels), source, body)
        classes, targets = np.unique(labels, return_inverse=True)
        if self.target_class_count not in (None, len(classes)):
            raise ValueError(
                f"target_class_count is {self.target_class_count!r}, and the labels have "
                f"{len(classes)} classes: {', '.join(map(repr, classes.tolist()[:10]))}"
            )
        weights = _class_weights(trainer.class_weight, classes, labels)
        examples = Examples(inputs, targets, weights)
        examples, held_out = examples.split(trainer.validation_fraction, trainer.random)
        size = min(trainer.batch_size, len(examples))
        if size < trainer.num_devices:
            raise ValueError(
                f"num_devices={trainer.num_devices} cannot share batches of {size} examples"
            )
        known = source.network.arguments
        transferred = {name for name, array in body.arguments.items() if array is known.get(name)}
        # On layers that still have to learn, the new layer starts at random too.
        random = trainer.random if transferred < body.arguments.keys() else None
        network = _with_head(source.with_network(body), examples, len(classes), random)
        try:
            network, history = trainer.run(source, network, examples, held_out, fixed, transferred)
        except TrainingDiverged as error:
            self._set_trained(source.with_network(error.network), error.history, classes, held_out)
            raise
        return self._set_trained(source.with_network(network), history, classes, held_out)

    def _open_checkpoint(self) -> CheckpointSource:
        """Open the source model, if it is a network that can be trained."""
        if self.source_model is None:
            raise ValueError(
                "this repurposer was loaded without its source model, which training starts from: "
                "give that to xfer.load as source_model"
            )
        source = self._open_source()
        if not isinstance(source, CheckpointSource):
            raise TypeError(
                f"only MXNet networks can be trained, and this is of class {type(source).__name__};"
                " allowed are an mxnet.mod.Module and the path of a checkpoint's .params file"
            )
        return source

    def _set_trained(
        self: _Self,
        source: CheckpointSource,
        history: History,
        classes: np.ndarray,
        held_out: Examples | None,
    ) -> _Self:
        features = LayerFeatures(source, _head_name(source.network), progress=self.progress).fit()
        if held_out is None:
            model = ScaledScores(classes)
        else:
            scores = source.extract(held_out.inputs, features.layers_[0].name, progress=False)
            model = ScaledScores.held_out(classes, scores.matrix, held_out.targets)
        self.history_ = history
        return self._set_fitted(features, model)

    def _meta_model(self) -> ScaledScores:
        return ScaledScores(None)

    def _learned(self) -> dict[str, Any]:
        return {**super()._learned(), "history": vars(self.history_)}

    def _restore(self: _Self, source: Any, layer_names: list[str], learned: dict) -> _Self:
        self.history_ = History(**learned["history"])
        features = LayerFeatures(source, layer_names, progress=self.progress).fit()
        return self._set_fitted(features, learned["meta_model"])


class NeuralNetworkFineTuneRepurposer(NeuralNetworkRepurposer):
    """The network up to one layer with a new last layer, trained together.

    The new layer starts as the logistic regression that :class:`xfer.LrRepurposer` fits on the
    features of that layer.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or any MXNet network that :func:`xfer.open_source` takes
        The network. It is never changed.
    transfer_layer_name : str
        The last layer that is kept; the new one reads its output, flattened.
    target_class_count : int, optional
        Number of classes of the labels, if it is to be checked.
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

    transfer_layer_name: str

    @stores_parameters(NeuralNetworkRepurposer)
    def __init__(
        self,
        source_model: Any,
        transfer_layer_name: str,
        target_class_count: int | None = None,
        **options: Unpack[TrainingOptions],
    ) -> None: ...

    def _body(self, source: CheckpointSource, random: RandomState) -> tuple[Network, set[str]]:
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
    """The network with a new last layer; some layers are fixed, others start at random.

    The outputs of fixed layers at the bottom are computed once, not in every epoch. If no layer
    starts at random, the new layer starts as a logistic regression, as in
    :class:`xfer.NeuralNetworkFineTuneRepurposer`.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or any MXNet network that :func:`xfer.open_source` takes
        The network. It is never changed.
    target_class_count : int, optional
        Number of classes of the labels, if it is to be checked.
    fixed_layers : list of str, default=()
        Layers whose parameters and running statistics do not change.
    random_layers : list of str, default=()
        Layers whose parameters are initialised at random: weights by Glorot and Bengio (2010),
        scales and variances as 1, the rest as 0.
    num_layers_to_drop : int, default=2
        How many layers to drop from the top: in most networks the output layer and the last layer
        with weights.
    **options
        ``batch_size`` and all others of :class:`xfer.NeuralNetworkRepurposer`.
    """

    fixed_layers: Iterable[str]
    random_layers: Iterable[str]
    num_layers_to_drop: int

    @stores_parameters(NeuralNetworkRepurposer)
    def __init__(
        self,
        source_model: Any,
        target_class_count: int | None = None,
        fixed_layers: Iterable[str] = (),
        random_layers: Iterable[str] = (),
        num_layers_to_drop: int = 2,
        **options: Unpack[TrainingOptions],
    ) -> None: ...

    def _body(self, source: CheckpointSource, random: RandomState) -> tuple[Network, set[str]]:
        from xfer.training.mxnet import initial_values

        check_number("num_layers_to_drop", self.num_layers_to_drop, Integral, 1)
        network, count = source.network, int(self.num_layers_to_drop)
        body = network.with_graph(drop_top(network.graph, count, network.input_names))
        fixed = _parameters_of(body, "fixed_layers", self.fixed_layers)
        chosen = _parameters_of(body, "random_layers", self.random_layers)
        if fixed & chosen:
            raise ValueError(
                f"fixed_layers and random_layers share the parameter {min(fixed & chosen)!r}"
            )
        arguments, auxiliary = (
            {
                name: initial_values(name, array.shape, random) if name in chosen else array
                for name, array in values.items()
            }
            for values in (body.arguments, body.auxiliary)
        )
        return replace(body, arguments=arguments, auxiliary=auxiliary), fixed


def _read(data: Any, source: CheckpointSource, body: Network) -> tuple[dict[str, np.ndarray], Any]:
    """Read all data into memory: the inputs that a network reads, and the labels."""
    names = body.input_names
    prepare = partial(source.prepare, needed=names)
    raw = source.inputs is not None
    inputs, labels = read_all(data, source.input_names, names, prepare, raw=raw)
    inputs = {name: inputs[name] for name in names}
    check_ids(inputs, body.id_limits())
    return inputs, labels


def _class_weights(given: Any, classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    known = classes.tolist()
    for label, weight in given.items() if isinstance(given, Mapping) else ():
        if label not in known:
            raise ValueError(
                f"class_weight has {label!r}, which is none of the labels: "
                f"{', '.join(map(repr, known[:10]))}"
            )
        if not isinstance(weight, (int, float, np.number)) or not 0 < weight < np.inf:
            raise ValueError(f"class_weight must be positive numbers, got {weight!r} for {label!r}")
    return compute_class_weight(given, classes=classes, y=labels)


def _with_head(
    source: CheckpointSource,
    examples: Examples,
    n_classes: int,
    random: RandomState | None,
) -> Network:
    """Put a layer with a score for each class on a network.

    It starts as a logistic regression on the network's output, or at random by a given generator.
    """
    from xfer.training.mxnet import initial_values

    network, name = source.network, "scores"
    taken = {node.name for node in network.graph.nodes}
    while taken & {name, f"{name}_weight", f"{name}_bias"}:
        name = f"new_{name}"
    variables = (Node("null", one) for one in ("data", f"{name}_weight", f"{name}_bias"))
    inputs = ((0, 0), (1, 0), (2, 0))
    layer = Node("FullyConnected", name, {"num_hidden": str(n_classes)}, inputs)
    whole = network.with_graph(add_top(network.graph, MxGraph((*variables, layer), ((3, 0),))))
    feature_name = _head_name(network)
    if random is None:
        features = source.extract(examples.inputs, feature_name).matrix
        model = CalibratedLogisticRegression().fit(features, examples.targets)
        weight, bias = model.coef_, model.intercept_
    else:
        first = examples.take(slice(1)).inputs
        size = source.extract(first, feature_name, progress=False).matrix.shape[1]
        weight, bias = initial_values("weight", (n_classes, size), random), np.zeros(n_classes)
    new = {f"{name}_weight": weight.astype(np.float32), f"{name}_bias": bias.astype(np.float32)}
    return replace(whole, arguments={**whole.arguments, **new})


def _head_name(network: Network) -> str:
    ((node_id, i),) = network.graph.heads
    return output_names(network.graph.nodes[node_id])[i]


def _parameters_of(network: Network, option: str, layer_names: Iterable[str]) -> set[str]:
    if isinstance(layer_names, str) or not isinstance(layer_names, Iterable):
        raise TypeError(f"{option} must be a list of names of layers, got {layer_names!r}")
    graph = network.graph
    dependent = data_dependent_nodes(graph, network.input_names)
    node_ids = [find_layer(graph, name) for name in layer_names]
    return {name for node_id in node_ids for name in find_parameters(graph, node_id, dependent)}
