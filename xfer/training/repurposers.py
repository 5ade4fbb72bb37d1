"""Repurposers that train the network itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from types import NoneType
from typing import Any, ClassVar, TypedDict, TypeVar, Unpack

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from xfer._estimators import stores_parameters
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
from xfer.features import LayerFeatures
from xfer.meta import CalibratedLogisticRegression
from xfer.meta.scores import ScaledScores
from xfer.repurposers import Repurposer
from xfer.sources.batches import check_ids
from xfer.sources.checkpoint import CheckpointSource
from xfer.sources.data import open_data, read_all
from xfer.targets import checked_labels
from xfer.training.loop import SCHEDULES, Examples, History, Trainer, TrainingDiverged

__all__ = [
    "NeuralNetworkFineTuneRepurposer",
    "NeuralNetworkRandomFreezeRepurposer",
    "NeuralNetworkRepurposer",
]

# By default, the epochs that give so many steps, within these limits.
_STEPS, _FEWEST_EPOCHS, _MOST_EPOCHS = 400, 6, 30

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
    augment: Callable[[Any, np.random.RandomState], Any] | None
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

    history_: History

    def __init__(
        self,
        source_model: Any,
        target_class_count: int | None = None,
        *,
        batch_size: int = 32,
        num_epochs: int | None = None,
        optimizer: str = "adam",
        optimizer_params: Mapping[str, Any] | None = None,
        learning_rate_schedule: str = "cosine",
        transferred_rate: float = 1.0,
        unfreeze_epochs: int = 0,
        validation_fraction: float = 0.0,
        patience: int = 10,
        class_weight: Mapping[Any, float] | str | None = None,
        augment: Callable[[Any, np.random.RandomState], Any] | None = None,
        random_state: int = 0,
        context_function: Callable[[int], Any] | None = None,
        num_devices: int = 1,
        progress: bool | None = None,
    ) -> None:
        self.source_model = source_model
        self.target_class_count = target_class_count
        self.batch_size = batch_size
        self.num_epochs = num_epochs
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.learning_rate_schedule = learning_rate_schedule
        self.transferred_rate = transferred_rate
        self.unfreeze_epochs = unfreeze_epochs
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.class_weight = class_weight
        self.augment = augment
        self.random_state = random_state
        self.context_function = context_function
        self.num_devices = num_devices
        self.progress = progress

    @abstractmethod
    def _body(
        self, source: CheckpointSource, random: np.random.RandomState
    ) -> tuple[Network, set[str]]:
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
        self._check_options()
        source = self._open_checkpoint()
        random = np.random.RandomState(self.random_state)
        body, fixed = self._body(source, random)
        inputs, labels = _read(open_data(X, y, checked_labels), source, body)
        classes, targets = np.unique(labels, return_inverse=True)
        if self.target_class_count not in (None, len(classes)):
            raise ValueError(
                f"target_class_count is {self.target_class_count!r}, and the labels have "
                f"{len(classes)} classes: {', '.join(map(repr, classes.tolist()[:10]))}"
            )
        examples = Examples(inputs, targets, _class_weights(self.class_weight, classes, labels))
        examples, held_out = examples.split(self.validation_fraction, random)
        trainer = self._trainer(source, len(examples), random)
        known = source.network.arguments
        transferred = {name for name, array in body.arguments.items() if array is known.get(name)}
        is_trained = transferred == body.arguments.keys()
        head_source = source.with_network(body)
        network = _with_head(head_source, examples, len(classes), None if is_trained else random)
        stages = self._stages(network, fixed, transferred)
        rates = dict.fromkeys(transferred, self.transferred_rate)
        try:
            network, history = trainer.run(network, examples, held_out, stages, rates)
        except TrainingDiverged as error:
            self._set_trained(source.with_network(error.network), error.history, classes, held_out)
            raise
        return self._set_trained(source.with_network(network), history, classes, held_out)

    def _check_options(self) -> None:
        for name, least in {"batch_size": 1, "patience": 1, "unfreeze_epochs": 0}.items():
            _check_number(name, getattr(self, name), Integral, least)
        if self.num_epochs is not None:
            _check_number("num_epochs", self.num_epochs, Integral, 1)
        _check_number("transferred_rate", self.transferred_rate, Real, 0)
        _check_number("validation_fraction", self.validation_fraction, Real, 0, 1)
        if self.learning_rate_schedule not in [*SCHEDULES]:
            raise ValueError(
                f"learning_rate_schedule must be one of {', '.join(SCHEDULES)}, got "
                f"{self.learning_rate_schedule!r}"
            )
        if self.augment is not None and not callable(self.augment):
            raise TypeError(f"augment must be callable, got {type(self.augment).__name__}")
        if not isinstance(self.optimizer_params, (Mapping, NoneType)):
            raise TypeError(
                "optimizer_params must be a dict or None, got "
                f"{type(self.optimizer_params).__name__}"
            )
        params = self._optimizer_params()
        _check_number("the learning_rate in optimizer_params", params["learning_rate"], Real, 0)
        if "lr_scheduler" in params:
            raise ValueError(
                "optimizer_params may not have an lr_scheduler: give learning_rate_schedule, one "
                f"of {', '.join(SCHEDULES)}"
            )

    def _open_checkpoint(self) -> CheckpointSource:
        """Open the source model, if it and the optimizer are something that MXNet can train."""
        try:
            from xfer.training.mxnet import check_optimizer
        except ImportError as error:
            raise ImportError(
                "training a network needs MXNet, which prediction does not: pip install "
                f"'xfer-learn[mxnet]', on Python 3.11 ({error})"
            ) from error
        check_optimizer(self.optimizer, self._optimizer_params())
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

    def _trainer(
        self, source: CheckpointSource, n_examples: int, random: np.random.RandomState
    ) -> Trainer:
        from xfer.training.mxnet import make_contexts

        size = min(self.batch_size, n_examples)
        if size < self.num_devices:
            raise ValueError(
                f"num_devices={self.num_devices} cannot share batches of {size} examples"
            )
        steps = -(-n_examples // self.batch_size)
        enough = int(np.clip(_STEPS // steps, _FEWEST_EPOCHS, _MOST_EPOCHS))
        own = self.context_function is None and self.num_devices == 1
        return Trainer(
            num_epochs=enough if self.num_epochs is None else self.num_epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            optimizer_params=self._optimizer_params(),
            schedule=SCHEDULES[self.learning_rate_schedule],
            patience=self.patience,
            augment=self.augment,
            random=random,
            contexts=source.contexts
            if own
            else make_contexts(self.context_function, self.num_devices),
            open_network=source.with_network,
            progress=self.progress,
        )

    def _optimizer_params(self) -> dict[str, Any]:
        return {"learning_rate": 0.001, **(self.optimizer_params or {})}

    def _stages(
        self, network: Network, fixed: set[str], transferred: set[str]
    ) -> dict[int, set[str]]:
        """Return the fixed parameters by the epoch from which they apply."""
        if not self.unfreeze_epochs:
            return {0: fixed}
        graph = network.graph
        layers: list[set[str]] = []
        dependent = data_dependent_nodes(graph, network.input_names)
        for node_id in sorted(dependent):
            if graph.nodes[node_id].is_variable:
                continue
            names = {*find_parameters(graph, node_id, dependent)} & transferred - fixed
            if layers and all(network.arguments[name].ndim < 2 for name in names):
                layers[-1] |= names  # a batch norm goes with the weights below it
            else:
                layers.append(names)
        layers = [names for names in reversed(layers) if names]
        return {i * self.unfreeze_epochs: fixed.union(*layers[i:]) for i in range(len(layers) + 1)}

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

    def _body(
        self, source: CheckpointSource, random: np.random.RandomState
    ) -> tuple[Network, set[str]]:
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

    def _body(
        self, source: CheckpointSource, random: np.random.RandomState
    ) -> tuple[Network, set[str]]:
        from xfer.training.mxnet import initial_values

        _check_number("num_layers_to_drop", self.num_layers_to_drop, Integral, 1)
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
        if not isinstance(weight, Real) or not 0 < weight < np.inf:
            raise ValueError(f"class_weight must be positive numbers, got {weight!r} for {label!r}")
    return compute_class_weight(given, classes=classes, y=labels)


def _with_head(
    source: CheckpointSource,
    examples: Examples,
    n_classes: int,
    random: np.random.RandomState | None,
) -> Network:
    """Put a layer with a score for each class on a network.

    It starts as a logistic regression on the network's output; or at random, if there is a
    generator, because the network has parameters that are still random.
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


def _check_number(name: str, value: Any, kind: type, least: float, below: float = np.inf) -> None:
    """Refuse what is not an integer or a number >= `least` and < `below`."""
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value < below:
        what = "an integer" if kind is Integral else "a number"
        end = "" if below == np.inf else f" and < {below}"
        raise ValueError(f"{name} must be {what} >= {least}{end}, got {value!r}")
