"""What repurposers that train the network itself have in common."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real
from types import NoneType

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from xfer.checkpoint.convert import output_names
from xfer.checkpoint.edit import add_top
from xfer.checkpoint.flow import find_flow, find_parameters
from xfer.checkpoint.symbol import Graph, Node
from xfer.features import LayerFeatures
from xfer.meta.logistic_regression import CalibratedLogisticRegression
from xfer.meta.scores import ScaledScores
from xfer.repurposer import FeatureRepurposer
from xfer.sources import open_source
from xfer.sources.batches import check_ids
from xfer.sources.checkpoint import CheckpointSource
from xfer.sources.data import read_all
from xfer.targets import checked_labels, given_labels
from xfer.training import SCHEDULES, Examples, History, Trainer, TrainingDiverged

__all__ = ["NeuralNetworkRepurposer"]

# An epoch is never too many steps, nor training too few.
_STEPS, _FEWEST_EPOCHS, _MOST_EPOCHS = 400, 6, 30


class NeuralNetworkRepurposer(FeatureRepurposer):
    """A repurposer that trains a network made from the source model; MXNet has to be installed.

    The source model itself is never changed. Predictions come from the engine that features come
    from, and need no MXNet.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or anything of MXNet's that :func:`xfer.open_source` takes
    target_class_count : int, optional
        How many classes the labels have, where that is to be checked.
    batch_size : int, default=32
        Examples in a step.
    num_epochs : int, optional
        Passes over the examples; by default as many as give 400 steps, but 6 to 30.
    optimizer : str, default="adam"
        As MXNet knows it.
    optimizer_params : dict, optional
        What to tell it; by default a ``learning_rate`` of 0.001.
    learning_rate_schedule : {"cosine", "linear", "constant"}, default="cosine"
        How the rate goes down to 0 by the end, or does not.
    transferred_rate : float, default=1.0
        What the rate is multiplied by for parameters that come from the source model.
    unfreeze_epochs : int, default=0
        Gradual unfreezing [1]_: train the new layer alone for so many epochs, then with one more
        layer after every so many, from the top. 0 trains all from the start.
    validation_fraction : float, default=0.0
        Share of the examples to hold out. The weights of the epoch with the least log loss on them
        are kept, the start among them, and the scale of the probabilities is learned from them.
    patience : int, default=10
        Stop after so many epochs without a lesser log loss on what is held out.
    class_weight : dict or "balanced", optional
        What an example of each class counts, by label; "balanced" gives classes the same weight.
    augment : callable, optional
        Called with the input of a batch, as an array of shape (m, ...) or a dict of them where
        there are several, and a numpy RandomState; returns others of the same shape to learn from.
        Not saved with the repurposer.
    random_state : int, default=0
        Seed of everything random.
    context_function : callable, optional
        Makes the device of each number, as ``mxnet.cpu`` and ``mxnet.gpu`` do, to train on; by
        default the CPU. Not saved with the repurposer.
    num_devices : int, default=1
        How many devices share each batch.
    progress : bool, optional
        Whether to show a bar; by default only in an interactive session.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    history_ : xfer.training.History
        Loss, accuracy and learning rate of the epochs; see :func:`xfer.plots.training_curves`.
    features_ : LayerFeatures
        The scores of the trained network.
    meta_model_ : xfer.meta.scores.ScaledScores
        Makes probabilities of them.

    References
    ----------
    .. [1] Howard and Ruder (2018), Universal Language Model Fine-tuning for Text Classification,
       section 3.3.
    """

    trains_network = True
    _not_saved = ("source_model", "context_function", "augment")

    def __init__(
        self,
        source_model,
        target_class_count=None,
        *,
        batch_size=32,
        num_epochs=None,
        optimizer="adam",
        optimizer_params=None,
        learning_rate_schedule="cosine",
        transferred_rate=1.0,
        unfreeze_epochs=0,
        validation_fraction=0.0,
        patience=10,
        class_weight=None,
        augment=None,
        random_state=0,
        context_function=None,
        num_devices=1,
        progress=None,
    ):
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
    def _body(self, source, random):
        """Make what the new last layer is put on; what a subclass overrides.

        Parameters
        ----------
        source : CheckpointSource
        random : numpy.random.RandomState

        Returns
        -------
        body : Network
            With one output and values for all parameters, those of the source or others.
        fixed : set of str
            Parameters that are not to be learned.
        """

    def fit(self, X, y=None):
        """Train a network for the new task.

        Parameters
        ----------
        X : array of shape (n, ...), dict of str to array, or mxnet.io.DataIter
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
            If the scores become NaN. The weights of the last good epoch are kept: the repurposer is
            fitted with them.
        ImportError
            If MXNet is not installed.
        """
        self._check_options()
        source = self._open_source()
        random = np.random.RandomState(self.random_state)
        body, fixed = self._body(source, random)
        labels = given_labels(X, y)
        inputs, found = read_all(X, source, body.input_names)
        inputs = {name: inputs[name] for name in body.input_names}
        check_ids(inputs, body.id_limits())
        labels = checked_labels(found if labels is None else labels)
        classes, targets = np.unique(labels, return_inverse=True)
        self._check_classes(classes)
        examples = Examples(inputs, targets, self._class_weights(classes, labels))
        examples, held_out = self._split(examples, random)
        trainer = self._trainer(source, len(examples), random)
        known = source.network.arguments
        transferred = {name for name, array in body.arguments.items() if array is known.get(name)}
        drawn = random if transferred < body.arguments.keys() else None
        network = _with_head(source.with_network(body), examples, len(classes), drawn)
        stages = self._stages(network, fixed, transferred)
        rates = dict.fromkeys(transferred, self.transferred_rate)
        try:
            network, history = trainer.run(network, examples, held_out, stages, rates)
        except TrainingDiverged as error:
            self._set_trained(source.with_network(error.network), error.history, classes, held_out)
            raise
        return self._set_trained(source.with_network(network), history, classes, held_out)

    def _check_options(self):
        least = {"batch_size": 1, "num_epochs": 1, "patience": 1, "unfreeze_epochs": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if name == "num_epochs" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or value < smallest:
                raise ValueError(f"{name} must be an integer from {smallest} on, got {value!r}")
        if self.learning_rate_schedule not in [*SCHEDULES]:
            raise ValueError(
                f"learning_rate_schedule must be one of {', '.join(SCHEDULES)}, got "
                f"{self.learning_rate_schedule!r}"
            )
        for name, end in {"transferred_rate": np.inf, "validation_fraction": 1}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < end:
                most = "on" if end == np.inf else f"to below {end}"
                raise ValueError(f"{name} must be a number from 0 {most}, got {value!r}")
        if self.augment is not None and not callable(self.augment):
            raise TypeError(f"augment must be callable, got {type(self.augment).__name__}")
        if not isinstance(self.optimizer_params, (Mapping, NoneType)):
            raise TypeError(
                "optimizer_params must be a dict or None, got "
                f"{type(self.optimizer_params).__name__}"
            )
        rate = self._optimizer_params()["learning_rate"]
        if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 <= rate < np.inf:
            raise ValueError(
                f"the learning_rate in optimizer_params must be a number from 0 on, got {rate!r}"
            )
        if "lr_scheduler" in self._optimizer_params():
            raise ValueError(
                "optimizer_params may not have an lr_scheduler: give learning_rate_schedule, one "
                f"of {', '.join(SCHEDULES)}"
            )

    def _check_classes(self, classes):
        if self.target_class_count not in (None, len(classes)):
            raise ValueError(
                f"target_class_count is {self.target_class_count!r}, and the labels have "
                f"{len(classes)} classes: {', '.join(map(repr, classes.tolist()[:10]))}"
            )

    def _open_source(self):
        try:
            from xfer.sources.mxnet_training import check_optimizer
        except ImportError as error:
            raise ImportError(
                "training a network needs MXNet, which predicting does not: pip install "
                f"mxnet==1.9.1, which has wheels up to Python 3.11 ({error})"
            ) from error
        check_optimizer(self.optimizer, self._optimizer_params())
        if self.source_model is None:
            raise ValueError(
                "this repurposer was loaded without its source model, which training starts from: "
                "give that to xfer.load as source_model"
            )
        source = open_source(
            self.source_model,
            context_function=self.context_function,
            num_devices=self.num_devices,
        )
        if not isinstance(source, CheckpointSource):
            raise TypeError(
                f"only networks of MXNet can be trained, and this is a {type(source).__name__}; "
                "allowed are an mxnet.mod.Module and the path of a checkpoint's .params file"
            )
        return source

    def _class_weights(self, classes, labels):
        if isinstance(self.class_weight, dict):
            known = classes.tolist()
            unknown = [label for label in self.class_weight if label not in known]
            if unknown:
                raise ValueError(
                    f"class_weight has {unknown[0]!r}, which is none of the labels: "
                    f"{', '.join(map(repr, known[:10]))}"
                )
            for label, weight in self.class_weight.items():
                if not isinstance(weight, Real) or not 0 < weight < np.inf:
                    raise ValueError(
                        f"class_weight must be positive numbers, got {weight!r} for {label!r}"
                    )
        elif self.class_weight not in (None, "balanced"):
            raise ValueError(
                f'class_weight must be a dict, "balanced" or None, got {self.class_weight!r}'
            )
        return compute_class_weight(self.class_weight, classes=classes, y=labels)

    def _split(self, examples, random):
        """Hold examples out, of each class its share, but never the last one."""
        if not self.validation_fraction:
            return examples, None
        counts = np.bincount(examples.targets)[examples.targets]
        order = random.permutation(len(examples))
        order = order[np.argsort(examples.targets[order], kind="stable")]
        first = np.searchsorted(examples.targets[order], examples.targets)
        rank = np.argsort(order) - first
        share = np.where(rank < counts - 1, (rank + random.uniform(size=len(rank))) / counts, 1)
        number = min(round(self.validation_fraction * len(examples)), (share < 1).sum())
        if not number:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of {len(examples)} examples, and "
                "at least one of each class to learn from, leave none to hold out"
            )
        order = np.argsort(share)
        return examples.take(np.sort(order[number:])), examples.take(np.sort(order[:number]))

    def _trainer(self, source, count, random):
        if min(self.batch_size, count) < self.num_devices:
            raise ValueError(
                f"num_devices={self.num_devices} cannot share batches of "
                f"{min(self.batch_size, count)} examples"
            )
        steps = -(-count // self.batch_size)
        few_enough = int(np.clip(_STEPS // steps, _FEWEST_EPOCHS, _MOST_EPOCHS))
        return Trainer(
            num_epochs=few_enough if self.num_epochs is None else self.num_epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            optimizer_params=self._optimizer_params(),
            schedule=SCHEDULES[self.learning_rate_schedule],
            patience=self.patience,
            augment=self.augment,
            random=random,
            contexts=self._contexts(source),
            open_network=source.with_network,
            progress=self.progress,
        )

    def _optimizer_params(self):
        return {"learning_rate": 0.001, **(self.optimizer_params or {})}

    def _contexts(self, source):
        if self.context_function is None and self.num_devices == 1:
            return source.contexts
        from mxnet import cpu

        return [(self.context_function or cpu)(number) for number in range(self.num_devices)]

    def _stages(self, network, fixed, transferred):
        """Tell which parameters are fixed from which epoch on."""
        if not self.unfreeze_epochs:
            return {0: fixed}
        graph, layers = network.graph, []
        flow = find_flow(graph, network.input_names)
        for number in sorted(flow):
            if graph.nodes[number].is_variable:
                continue
            names = {*find_parameters(graph, number, flow)} & transferred - fixed
            if layers and all(network.arguments[name].ndim < 2 for name in names):
                layers[-1] |= names  # a batch norm goes with the weights below it
            else:
                layers.append(names)
        layers = [names for names in reversed(layers) if names]
        return {
            number * self.unfreeze_epochs: fixed.union(*layers[number:])
            for number in range(len(layers) + 1)
        }

    def _set_trained(self, source, history, classes, held_out):
        graph = source.network.graph
        (name,) = (output_names(graph.nodes[number])[place] for number, place in graph.heads)
        features = LayerFeatures(source, name, progress=self.progress).fit()
        if held_out is None:
            model = ScaledScores(classes)
        else:
            scores = source.extract(held_out.inputs, name, progress=False).matrix
            model = ScaledScores.held_out(classes, scores, held_out.targets)
        self.history_ = history
        return self._set_fitted(features, model)

    def _meta_model(self):
        return ScaledScores(None)

    def _learned(self):
        return {**super()._learned(), "history": vars(self.history_)}

    def _restore(self, source, layer_names, learned):
        """Become fitted with what a file holds."""
        self.history_ = History(**learned["history"])
        features = LayerFeatures(source, layer_names, progress=self.progress).fit()
        return self._set_fitted(features, learned["meta_model"])


def _with_head(source, examples, count, random):
    """Put a layer with a score for each class on a network.

    It starts as the logistic regression on what the network puts out; or is drawn, where there is a
    generator, because the network is still to learn.
    """
    from xfer.sources.mxnet_module import draw_parameter

    network = source.network
    name, taken = "scores", {node.name for node in network.graph.nodes}
    while taken & {name, f"{name}_weight", f"{name}_bias"}:
        name = f"new_{name}"
    head = Graph(
        (
            Node("null", "data"),
            Node("null", f"{name}_weight"),
            Node("null", f"{name}_bias"),
            Node("FullyConnected", name, {"num_hidden": str(count)}, ((0, 0), (1, 0), (2, 0))),
        ),
        ((3, 0),),
    )
    whole = network.with_graph(add_top(network.graph, head))
    (entry,) = network.graph.heads
    feature_name = output_names(network.graph.nodes[entry[0]])[entry[1]]
    if random is None:
        features = source.extract(examples.inputs, feature_name).matrix
        model = CalibratedLogisticRegression().fit(features, examples.targets)
        weight, bias = model.coef_, model.intercept_
    else:
        first = {name: array[:1] for name, array in examples.inputs.items()}
        size = source.extract(first, feature_name, progress=False).matrix.shape[1]
        weight, bias = draw_parameter("weight", (count, size), random), np.zeros(count)
    new = {f"{name}_weight": weight.astype(np.float32), f"{name}_bias": bias.astype(np.float32)}
    return replace(whole, arguments={**whole.arguments, **new})
