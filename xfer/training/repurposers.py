"""Repurposers that train the network itself."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from inspect import signature
from numbers import Integral
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.random import RandomState
from sklearn.utils.class_weight import compute_class_weight

from xfer._checks import check_integer
from xfer.checkpoint import edit
from xfer.checkpoint.network import Network
from xfer.checkpoint.symbol import MxGraph, Node
from xfer.features import LayerFeatures, stores_parameters
from xfer.meta import CalibratedLogisticRegression
from xfer.meta.calibrated import ScaledScores
from xfer.repurposers import Repurposer, checked_labels
from xfer.sources.checkpoint import CheckpointSource
from xfer.sources.data import check_ids, open_data, read_all
from xfer.training.loop import Examples, History, Trainer, TrainingDiverged

_Self = TypeVar("_Self", bound="NeuralNetworkRepurposer")


class NeuralNetworkRepurposer(Repurposer, ABC):
    """A repurposer that trains a network made from the source model.

    Training needs MXNet, and predictions do not.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or any MXNet network that :func:`xfer.open_source` takes
        The network. It is never changed.
    target_class_count : int, optional
        Number of classes, by default that of the labels. If it is larger, labels must be integers,
        and the classes are 0 to ``target_class_count - 1``.
    batch_size, num_epochs : int, int, default=32, as many as give 400 steps, but 6 to 30
        Examples in a step, and passes over the examples.
    optimizer, optimizer_params : str, dict, default="adam", ``{"learning_rate": 0.001}``
        MXNet's name for it, and its parameters.
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
    context_function, num_devices, progress
        See :class:`xfer.MetaModelRepurposer`; training too runs on these devices.

    Attributes
    ----------
    history_ : xfer.training.History
        Loss, accuracy and learning rate of the epochs; see :func:`xfer.plots.training_curves`.
    classes_, features_, meta_model_
        See :class:`xfer.Repurposer`; the features are the scores of the trained network.

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
        self, source_model: Any, target_class_count: int | None = None, **options: Any
    ) -> None: ...

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if hasattr(cls, "_create_target_module"):
            raise TypeError(
                f"{cls.__name__} defines _create_target_module, which only xfer-ml calls: instead, "
                "edit the network with xfer.ModelHandler and pass handler.source to a "
                "NeuralNetworkFineTuneRepurposer, or override _body"
            )

    @abstractmethod
    def _body(self, source: CheckpointSource, random: RandomState) -> tuple[Network, set[str]]:
        """Make the network below the new last layer, and name its fixed parameters.

        This is what a subclass overrides. The network has one output and all of its parameters.
        """

    def fit(self: _Self, X: Any, y: Any = None) -> _Self:
        """Train a network for the new task; see :meth:`xfer.MetaModelRepurposer.fit`.

        The examples are read into memory. If scores become NaN or infinite,
        :class:`xfer.TrainingDiverged` is raised, and the repurposer is fitted with the best weights
        before that.
        """
        trainer = Trainer(**{name: getattr(self, name) for name in signature(Trainer).parameters})
        source = self._open_checkpoint()
        body, fixed = self._body(source, trainer.random)
        names, data = body.input_names, open_data(X, y, checked_labels)
        prepare = partial(source.prepare, needed=names)
        labels: Any
        inputs, labels = read_all(data, source.input_names, names, prepare, source._is_example)
        inputs = {name: inputs[name] for name in names}
        check_ids(inputs, body.id_limits())
        known = np.unique(labels)
        classes = _all_classes(known, self.target_class_count)
        weights = np.ones(len(classes))
        at = np.searchsorted(classes, known)
        weights[at] = _class_weights(trainer.class_weight, known, labels)
        examples = Examples(inputs, np.searchsorted(classes, labels), weights)
        examples, held_out = examples.split(trainer.validation_fraction, trainer.random)
        size = min(trainer.batch_size, len(examples))
        if size < trainer.num_devices:
            count = trainer.num_devices
            raise ValueError(f"num_devices={count} cannot share batches of {size} examples")
        known = source.network.arguments
        transferred = {name for name, array in body.arguments.items() if array is known.get(name)}
        # On layers that still have to learn, the new layer starts at random too.
        random = trainer.random if transferred < body.arguments.keys() else None
        network = _with_head(source.with_network(body), examples, len(classes), random)

        def set_trained(network: Network, history: History) -> None:
            trained = source.with_network(network)
            features = LayerFeatures(trained, network.head_names, progress=self.progress).fit()
            model = ScaledScores(classes)
            if held_out is not None:
                scores = trained.extract(held_out.inputs, network.head_names, progress=False)
                model = ScaledScores.held_out(classes, scores.matrix, held_out.targets)
            self.history_ = history
            self._set_fitted(features, model)

        try:
            set_trained(*trainer.run(source, network, examples, held_out, fixed, transferred))
        except TrainingDiverged as error:
            set_trained(error.network, error.history)
            raise
        return self

    def _open_checkpoint(self) -> CheckpointSource:
        """Open the source model, if it is a network that can be trained."""
        if self.source_model is None:
            reason = "this repurposer was loaded without its source model, which training needs"
            raise ValueError(f"{reason}: give that to xfer.load as source_model")
        source = self._open_source()
        if not isinstance(source, CheckpointSource):
            allowed = "allowed are an mxnet.mod.Module and the path of a checkpoint's .params file"
            found = f"this is of class {type(source).__name__}; {allowed}"
            raise TypeError(f"only MXNet networks can be trained, and {found}")
        return source

    def _meta_model(self) -> ScaledScores:
        return ScaledScores(np.empty(0))

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
    transfer_layer_name : str
        The last layer that is kept; the new one reads its output, flattened.
    source_model, target_class_count, **options
        See :class:`xfer.NeuralNetworkRepurposer`.

    Examples
    --------
    >>> import mxnet as mx
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> repurposer = NeuralNetworkFineTuneRepurposer(source, "pool3", num_epochs=1)
    >>> repurposer.fit(images[:50], digits[:50]).predict(images[:3])
    array([0, 1, 2])
    """

    transfer_layer_name: str

    @stores_parameters(NeuralNetworkRepurposer)
    def __init__(
        self,
        source_model: Any,
        transfer_layer_name: str,
        target_class_count: int | None = None,
        **options: Any,
    ) -> None: ...

    def _body(self, source: CheckpointSource, random: RandomState) -> tuple[Network, set[str]]:
        name = self.transfer_layer_name
        if not isinstance(name, str):
            raise TypeError(f"transfer_layer_name must be the name of a layer, got {name!r}")
        (layer,) = source.find_layers(name)
        if layer.operator in edit.OUTPUT_LAYERS:
            found = f"{layer.name!r} ({layer.operator})"
            raise ValueError(f"transfer_layer_name must be before the output layer, got {found}")
        return source.network.with_graph(source.network.prune([layer.name])), set()


class NeuralNetworkRandomFreezeRepurposer(NeuralNetworkRepurposer):
    """The network with a new last layer; some layers are fixed, others start at random.

    The outputs of fixed layers at the bottom are computed once, not in every epoch. If no layer
    starts at random, the new layer starts as a logistic regression, as in
    :class:`xfer.NeuralNetworkFineTuneRepurposer`.

    Parameters
    ----------
    fixed_layers, random_layers : list of str, default=()
        Layers whose parameters and running statistics do not change; and layers whose parameters
        are initialised at random: weights by Glorot and Bengio (2010), scales and variances as 1,
        the rest as 0.
    num_layers_to_drop : int, default=2
        From the top: in most networks the output layer and the last layer with weights.
    source_model, target_class_count, **options
        See :class:`xfer.NeuralNetworkRepurposer`.
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
        **options: Any,
    ) -> None: ...

    def _body(self, source: CheckpointSource, random: RandomState) -> tuple[Network, set[str]]:
        from xfer.training.mxnet import initial_values

        check_integer("num_layers_to_drop", self.num_layers_to_drop)
        network, count = source.network, int(self.num_layers_to_drop)
        body = network.with_graph(edit.drop_top(network.graph, count, network.input_names))
        fixed = _parameters_of(body, "fixed_layers", self.fixed_layers, network)
        chosen = _parameters_of(body, "random_layers", self.random_layers, network)
        if fixed & chosen:
            shared = min(fixed & chosen)
            raise ValueError(f"fixed_layers and random_layers share the parameter {shared!r}")

        def start(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            new = {n: initial_values(n, values[n].shape, random) for n in values if n in chosen}
            return {**values, **new}

        arguments, auxiliary = start(body.arguments), start(body.auxiliary)
        return replace(body, arguments=arguments, auxiliary=auxiliary), fixed


def _all_classes(known: np.ndarray, count: int | None) -> np.ndarray:
    """Return the classes of the outputs: the labels, or 0 to `count` - 1."""
    if count is None or count == len(known):
        return known
    more = isinstance(count, Integral) and count > len(known) and known.dtype.kind in "iu"
    if more and known[0] >= 0 and known[-1] < count:
        return np.arange(count)
    found = f"{len(known)} classes: {', '.join(map(repr, known.tolist()[:10]))}"
    needed = "a larger number needs labels that are integers from 0 to target_class_count - 1"
    raise ValueError(f"target_class_count is {count!r}, but the labels have {found}; {needed}")


def _class_weights(given: Any, classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    names = ", ".join(map(repr, classes.tolist()[:10]))
    for label, weight in given.items() if isinstance(given, Mapping) else ():
        if label not in classes.tolist():
            raise ValueError(f"class_weight has {label!r}, but the labels are {names}")
        if not isinstance(weight, (int, float, np.number)) or not 0 < weight < np.inf:
            raise ValueError(f"class_weight must be positive numbers, got {weight!r} for {label!r}")
    return compute_class_weight(given, classes=classes, y=labels)


def _with_head(
    source: CheckpointSource, examples: Examples, n_classes: int, random: RandomState | None
) -> Network:
    """Put a layer with a score for each class on a network.

    It starts as a logistic regression on the network's output, or at random by a given generator.
    """
    from xfer.training.mxnet import initial_values

    network, name = source.network, "scores"
    taken = {node.name for node in network.graph.nodes}
    while taken & {name, f"{name}_weight", f"{name}_bias"}:
        name = f"new_{name}"
    names = [f"{name}_weight", f"{name}_bias"]
    variables = (Node("null", one) for one in ("data", *names))
    inputs = (0, 0), (1, 0), (2, 0)
    layer = Node("FullyConnected", name, {"num_hidden": str(n_classes)}, inputs)
    head = MxGraph((*variables, layer), ((3, 0),))
    whole = network.with_graph(edit.add_top(network.graph, head))
    seen = examples if random is None else examples.take(slice(1))
    features = source.extract(seen.inputs, network.head_names).matrix
    if random is None:
        model = CalibratedLogisticRegression(square_root=False).fit(features, seen.targets)
        # Classes without examples start below every score.
        lowest = (features @ model.coef_.T + model.intercept_).min()
        values = np.zeros((n_classes, features.shape[1])), np.full(n_classes, lowest)
        values[0][model.classes_], values[1][model.classes_] = model.coef_, model.intercept_
    else:
        shape = n_classes, features.shape[1]
        values = initial_values("weight", shape, random), np.zeros(n_classes)
    new = {name: array.astype(np.float32) for name, array in zip(names, values)}
    return replace(whole, arguments={**whole.arguments, **new})


def _parameters_of(
    network: Network, option: str, layer_names: Iterable[str], whole: Network
) -> set[str]:
    if isinstance(layer_names, str) or not isinstance(layer_names, Iterable):
        raise TypeError(f"{option} must be a list of names of layers, got {layer_names!r}")
    graph, layer_names = network.graph, list(layer_names)
    dropped = {node.name for node in whole.graph.nodes} - {node.name for node in graph.nodes}
    if gone := [name for name in layer_names if name in dropped]:
        raise ValueError(f"{option} has layer {gone[0]!r}, which num_layers_to_drop drops")
    dependent = edit.data_dependent_nodes(graph, network.input_names)
    node_ids = [edit.find_layer(graph, name) for name in layer_names]
    return {n for node_id in node_ids for n in edit.find_parameters(graph, node_id, dependent)}
