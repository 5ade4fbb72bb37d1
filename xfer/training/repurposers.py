"""Repurposers that train the network itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.random import RandomState
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_is_fitted

from xfer._checks import check_integer
from xfer.cache import DataHash
from xfer.checkpoint.edit import OUTPUT_LAYERS
from xfer.checkpoint.initial import initial_values
from xfer.features import LayerFeatures, note_inputs, stores_parameters
from xfer.inputs import ImageInputs
from xfer.meta import CalibratedLogisticRegression
from xfer.meta.calibrated import ScaledScores, fit_inverse_temperature
from xfer.repurposers import Repurposer, checked_labels
from xfer.sources.data import Data, ExampleData, open_data, read_all
from xfer.sources.table import Features
from xfer.training.examples import Batch, Examples, Stream, split
from xfer.training.history import History, TrainingDiverged
from xfer.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch

# Inputs made of raw examples are kept if they take no more bytes, and else made in every epoch.
_MOST_KEPT = 1 << 30
# The most examples that the new layer starts from.
_MOST_OF_HEAD = 10_000


class NeuralNetworkRepurposer(Repurposer, ABC):
    """A repurposer that trains the source model up to one layer, and a new last layer.

    PyTorch trains a copy. An MXNet network or an ONNX file then predicts with its new parameters on
    ONNX Runtime.

    Parameters
    ----------
    source_model : network, str or path-like
        What :func:`xfer.open_source` takes: a PyTorch module, a SentenceTransformer, an MXNet
        Module, an ONNX file, an open source. It is not changed. Parameters of a PyTorch module with
        ``requires_grad=False`` stay fixed.
    target_class_count : int, optional
        Number of classes, by default that of the labels. If it is larger, labels must be integers,
        and the classes are 0 to ``target_class_count - 1``.
    pooling : str, default="flatten"
        How the new layer reads the output of the last layer that is kept. ``"mean"``, ``"max"``
        and ``"mean+max"`` reduce each channel, ``"first_token"`` and ``"masked_mean"`` the tokens;
        ``"flatten"`` keeps everything.
    batch_size, num_epochs : int, int, default=32, as many as give 400 steps, but 6 to 30
        (to 100 with ``augment="images"``)
        Examples in a step, and passes over the examples. Loaders bring their own batches.
    optimizer, optimizer_params : str, dict, default="adam", ``{"learning_rate": 0.001}``
        The name of a class of ``torch.optim``, or MXNet's name (``"nag"``), and its parameters
        by PyTorch's or MXNet's names. The default learning rate of transformers is 0.0001.
        Elsewhere, with more than 50 examples, word vectors learn up to 10 times as fast, and decay.
    learning_rate_schedule : {"cosine", "linear", "constant"}, default="cosine"
        How the learning rate falls to 0 by the end, if it does.
    transferred_rate : float, default=1.0
        Factor of the learning rate for parameters that come from the source model.
    validation_fraction : float, default=0.0
        Fraction of the examples to hold out. Training keeps the weights with the least log loss on
        them, which may be those of the start, and fits the scale of the probabilities on them.
        Examples of a loader are then read into memory.
    patience : int, default=10
        Stop after this many epochs without a lower log loss on the held-out examples.
    class_weight : dict or "balanced", optional
        Weight of an example by its label; "balanced" gives all classes the same weight.
    augment : "images", "words" or callable, optional
        ``"images"`` flips images left to right and shifts them by up to 4 pixels. ``"words"``
        replaces up to 30% of the word ids by others at random, and none with 50 examples or fewer.
        A function is called with the input of a batch, an array of shape (m, ...) or a dict of
        arrays if there are several inputs, and a numpy RandomState; it returns other inputs (arrays
        or tensors) of the same shape to learn from. Not saved with the repurposer.
    device : str, default="auto"
        The PyTorch device to train on; "auto" is an NVIDIA GPU if there is one, which computes in
        mixed precision.
    random_state : int, default=0
        Seed of everything random.
    context_function, num_devices : callable, int, default=None, 1
        Only for MXNet Modules: see :class:`xfer.MetaModelRepurposer`.
    progress : bool, optional
        Whether to show a progress bar; by default only in an interactive session.

    Attributes
    ----------
    history_ : xfer.training.History
        Loss, accuracy and learning rate of the epochs; see :func:`xfer.plots.training_curves`.
    classes_, features_, meta_model_
        See :class:`xfer.Repurposer`; the features are those of the trained network, and the
        meta-model is the new last layer.
    """

    trains_network = True
    _not_saved: ClassVar[tuple[str, ...]] = ("source_model", "context_function", "augment")

    _removed: ClassVar[tuple[str, ...]] = ("unfreeze_epochs",)

    target_class_count: int | None
    pooling: str
    progress: bool | None
    history_: History

    @stores_parameters(TrainingOptions)
    def __init__(
        self, source_model: Any, target_class_count: int | None = None, **options: Any
    ) -> None: ...

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if hasattr(cls, "_create_target_module"):
            raise TypeError(
                f"{cls.__name__} defines _create_target_module, which only xfer-ml calls: instead, "
                "edit the network with xfer.ModelHandler and pass handler.source to a "
                "NeuralNetworkFineTuneRepurposer, or override _last_layer"
            )

    @abstractmethod
    def _last_layer(self, source: Any) -> str:
        """Name the last layer that is kept; this is what a subclass defines."""

    def _fixed_layers(self) -> list[str]:
        """Name the layers whose parameters do not change."""
        return _names("fixed_layers", getattr(self, "fixed_layers", ()))

    def _random_layers(self) -> list[str]:
        """Name the layers whose parameters start at random."""
        return _names("random_layers", getattr(self, "random_layers", ()))

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train a network for the new task; see :meth:`xfer.MetaModelRepurposer.fit`.

        DataLoaders, and MXNet's iterators of files, are read in every epoch, so that what varies
        their examples does so anew; all other data are read into memory. If the loss becomes NaN or
        infinite, :class:`xfer.TrainingDiverged` is raised. Both then and after an interruption
        (Ctrl-C), the repurposer is fitted with the best weights before.
        """
        given = {name: getattr(self, name) for name in signature(TrainingOptions).parameters}
        options, loop = TrainingOptions(**given), _import_loop()
        loop.check_options(options)
        source = self._open_trainable()
        (layer,) = source.find_layers(self._last_layer(source))
        random = RandomState(options.random_state)
        of_data, data = DataHash(), open_data(X, y, checked_labels)
        with note_inputs(source):
            examples, table = _read(source, layer, options, data, of_data)
        assert table.labels is not None
        matrix, labels = table.matrix, table.labels
        known = np.unique(labels)
        classes = _all_classes(known, self.target_class_count)
        weights = np.ones(len(classes))
        seen = np.searchsorted(classes, known)
        weights[seen] = _class_weights(options.class_weight, known, labels)
        targets = np.searchsorted(classes, labels)
        rows, held_out = split(targets, options.validation_fraction, random)
        to_learn, unseen = examples(classes, targets), None
        if held_out is not None:
            to_learn, unseen = to_learn.take(rows), to_learn.take(held_out)
        # On layers that still have to learn, the new layer starts at random too.
        make_head = _random_head if self._random_layers() else _logistic_head
        head = make_head(matrix[rows], targets[rows], len(classes), random)
        network = loop.Network(source, layer, options.pooling, *head)
        new = loop.prepare(network, source, self._fixed_layers(), self._random_layers(), random)
        history = History()

        def remember(features: LayerFeatures) -> None:
            features.remember(table, of_data, source)

        try:
            loop.Training(
                network, source, options, to_learn, unseen, new, weights, random, history
            ).run()
        except TrainingDiverged:
            self._set_trained(network, classes, history, unseen, remember)
            raise
        return self._set_trained(network, classes, history, unseen, remember)

    def _set_trained(
        self,
        network: Any,
        classes: np.ndarray,
        history: History,
        held_out: Examples | None,
        remember: Callable[[LayerFeatures], None],
    ) -> Self:
        coef, intercept = network.head()
        model = ScaledScores(classes, 1.0, coef, intercept)
        if held_out is not None:
            scores = _import_loop().score_all(network, held_out, self.batch_size)
            ones = np.ones(len(scores))
            model.inverse_temperature = fit_inverse_temperature(
                scores.astype(np.float64), held_out.targets, ones, 0.0
            )
        self.history_ = history
        source, layer = network.trained_source(), network.layer.name
        features = self._features_of(source, layer)
        remember(features)
        return self._set_fitted(features, model)

    def _features_of(self, source: Any, layer_name: str) -> LayerFeatures:
        pooling, progress = self.pooling, self.progress
        return LayerFeatures(source, layer_name, pooling=pooling, progress=progress).fit()

    def to_torch(self) -> "torch.nn.Module":
        """Return the trained network as a PyTorch module, in inference mode.

        It takes what the network takes and returns a score for each class, of shape (n,
        n_classes); their softmax is :meth:`predict_proba`. Its arrays are copies.
        """
        check_is_fitted(self)
        model, features = self.meta_model_, self.features_
        (layer,), n_classes = features.layers_, len(self.classes_)
        coef = np.eye(n_classes) if model.coef is None else np.asarray(model.coef)
        intercept = np.zeros(n_classes) if model.coef is None else np.asarray(model.intercept)
        scale = model.inverse_temperature
        network = _import_loop().Network(
            features.source_, layer, features.poolings_[0], scale * coef, scale * intercept
        )
        return network.eval()

    def _open_trainable(self) -> Any:
        """Open the source model, if it is a network that can be trained."""
        if self.source_model is None:
            reason = "this repurposer was loaded without its source model, which training needs"
            raise ValueError(f"{reason}: give that to xfer.load as source_model")
        source = self._open_source()
        if not hasattr(source, "parameters_of"):
            raise TypeError(
                f"a source of class {type(source).__name__} cannot be trained; allowed are MXNet "
                "networks, ONNX files, PyTorch modules and sentence transformers"
            )
        return source

    def _meta_model(self) -> ScaledScores:
        return ScaledScores(np.empty(0))

    def _learned(self) -> dict[str, Any]:
        return {**super()._learned(), "history": vars(self.history_)}

    def _restore(self, source: Any, layer_names: list[str], learned: dict) -> Self:
        self.history_ = History(**learned["history"])
        features = self._features_of(source, layer_names[0])
        features.fit_data_ = learned.get("fit_data")
        return self._set_fitted(features, learned["meta_model"])


class NeuralNetworkFineTuneRepurposer(NeuralNetworkRepurposer):
    """The network up to one layer with a new last layer, trained together.

    The new layer starts as the logistic regression that :class:`xfer.LrRepurposer` fits on the
    features of that layer.

    Parameters
    ----------
    transfer_layer_name : str
        The last layer that is kept; the new one reads its output.
    fixed_layers : list of str, default=()
        Layers whose parameters and running statistics do not change. What fixed layers at the
        bottom give is computed once, not in every epoch.
    source_model, target_class_count, **options
        See :class:`xfer.NeuralNetworkRepurposer`.

    Attributes
    ----------
    history_ : xfer.training.History
        Loss, accuracy and learning rate of the epochs.
    classes_, features_, meta_model_
        See :class:`xfer.NeuralNetworkRepurposer`.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> repurposer = NeuralNetworkFineTuneRepurposer(source, "pool3", num_epochs=1)
    >>> repurposer.fit(images[:50], digits[:50]).predict(images[:3])
    array([0, 1, 2])
    """

    transfer_layer_name: str
    fixed_layers: Iterable[str]

    @stores_parameters(NeuralNetworkRepurposer)
    def __init__(
        self,
        source_model: Any,
        transfer_layer_name: str,
        target_class_count: int | None = None,
        fixed_layers: Iterable[str] = (),
        **options: Any,
    ) -> None: ...

    def _last_layer(self, source: Any) -> str:
        name = self.transfer_layer_name
        if not isinstance(name, str):
            raise TypeError(f"transfer_layer_name must be the name of a layer, got {name!r}")
        (layer,) = source.find_layers(name)
        if layer.operator in OUTPUT_LAYERS:
            found = f"{layer.name!r} ({layer.operator})"
            raise ValueError(f"transfer_layer_name must be before the output layer, got {found}")
        return name


class NeuralNetworkRandomFreezeRepurposer(NeuralNetworkRepurposer):
    """The network with a new last layer; some layers are fixed, others start at random.

    What fixed layers at the bottom give is computed once, not in every epoch. If no layer starts at
    random, the new layer starts as a logistic regression, as in
    :class:`xfer.NeuralNetworkFineTuneRepurposer`.

    Parameters
    ----------
    fixed_layers, random_layers : list of str, default=()
        Layers whose parameters and running statistics do not change; and layers whose parameters
        are initialised at random: those of a PyTorch module by its ``reset_parameters``, otherwise
        weights by Glorot and Bengio (2010), scales and variances as 1, the rest as 0.
    num_layers_to_drop : int, default=2
        From the top: in most MXNet networks the output layer and the last layer with weights. In a
        PyTorch module, the innermost modules in the order in which they are defined.
    source_model, target_class_count, **options
        See :class:`xfer.NeuralNetworkRepurposer`.

    Attributes
    ----------
    history_ : xfer.training.History
        Loss, accuracy and learning rate of the epochs.
    classes_, features_, meta_model_
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

    def _last_layer(self, source: Any) -> str:
        check_integer("num_layers_to_drop", self.num_layers_to_drop)
        return source.layer_below_top(int(self.num_layers_to_drop))


def _import_loop() -> Any:
    try:
        from xfer.training import loop
    except ImportError as error:
        raise ImportError(
            "training a network needs PyTorch, which prediction of MXNet networks and ONNX files "
            f"does not: pip install torch safetensors ({error})"
        ) from error
    return loop


def _read(
    source: Any, layer: Any, options: TrainingOptions, data: Data, of_data: DataHash
) -> tuple[Callable[[np.ndarray, np.ndarray], Any], Features]:
    """Read all data once; return what makes examples of them, and the features of a layer.

    Examples are made given the classes and the class index of each example.
    """
    n_batches = 0

    def see(examples: Any) -> None:
        nonlocal n_batches
        n_batches += 1
        of_data.see(examples)

    asked: dict[str, Any] = {"pooling": options.pooling, "progress": False, "watch": see}
    needed = source._inputs_of((layer,))
    prepare = partial(source.prepare, needed=needed)
    if data.is_stream and not options.validation_fraction:
        table = source.extract(data, layer.name, **asked)

        def stream(classes: np.ndarray, targets: np.ndarray) -> Stream:
            return Stream(partial(_read_again, source, needed, data, classes), n_batches)

        return stream, table
    is_raw = source.inputs is not None and not isinstance(data.given, Mapping)
    if isinstance(data, ExampleData) and is_raw:
        table = source.extract(data, layer.name, **asked)
        given: Any = list(data.given)
        # Texts stay texts, so that those of a batch are only as long as the longest of them.
        is_text = isinstance(given[0], str) and not isinstance(source.inputs, ImageInputs)
        size = sum(array.nbytes for array in prepare(given[:1]).values())
        if not is_text and size * len(given) <= _MOST_KEPT:
            given = prepare(given)
    else:
        names = source.input_names
        given, labels = read_all(
            data, names, needed, prepare, source._is_example, asked.pop("watch")
        )
        given = {name: given[name] for name in needed}
        table = replace(source.extract(given, layer.name, **asked), labels=labels)
    return lambda classes, targets: Examples(given, targets, prepare), table


def _read_again(
    source: Any, needed: Sequence[str], data: Any, classes: np.ndarray
) -> Iterator[Batch]:
    """Read the batches of a loader in another epoch."""
    data.starts_anywhere = True
    size, names = source.batch_size, source.input_names
    for batch in data.batches(names, needed, source._is_example, size, progress=False):
        inputs = source.prepare(batch.examples, needed)
        labels = np.asarray(batch.labels)
        targets = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
        if (unknown := labels[classes[targets] != labels]).size:
            raise ValueError(
                f"the loader has the label {unknown.tolist()[0]!r}, which it had not before"
            )
        yield Batch({n: array[: batch.n_examples] for n, array in inputs.items()}, targets)


def _logistic_head(
    matrix: np.ndarray, targets: np.ndarray, n_classes: int, random: RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights and intercepts of a logistic regression."""
    if len(matrix) > _MOST_OF_HEAD:
        # With some of each class: the first rows are.
        first = np.unique(targets, return_index=True)[1]
        rows = np.union1d(first, random.permutation(len(matrix))[:_MOST_OF_HEAD])
        matrix, targets = matrix[rows], targets[rows]
    model = CalibratedLogisticRegression(square_root=False).fit(matrix, targets)
    # Classes without examples start below every score.
    lowest = (matrix @ model.coef_.T + model.intercept_).min()
    coef, intercept = np.zeros((n_classes, matrix.shape[1])), np.full(n_classes, lowest)
    coef[model.classes_], intercept[model.classes_] = model.coef_, model.intercept_
    return coef, intercept


def _random_head(
    matrix: np.ndarray, targets: np.ndarray, n_classes: int, random: RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Return random weights and intercepts, as Glorot and Bengio (2010)."""
    shape = n_classes, matrix.shape[1]
    return initial_values("weight", shape, random), np.zeros(n_classes, np.float32)


def _names(option: str, given: Any) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{option} must be a list of names of layers, got {given!r}")
    return list(given)


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
