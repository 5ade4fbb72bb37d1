"""Data to a feature matrix: a frozen network as a scikit-learn transformer."""

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import date
from functools import wraps
from inspect import Parameter, Signature, isclass, signature
from typing import Any, Self, TypedDict, TypeVar, cast

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from xfer._workers import PickledNetwork
from xfer.cache import DataHash, FeatureCache
from xfer.sources import open_source
from xfer.sources.base import Layer, SourceModel, find_layer, find_layers
from xfer.sources.candidates import default_layer
from xfer.sources.data import first_examples, open_data
from xfer.sources.table import Features, check_poolings, pooled_shape, with_axis

__all__ = ["LayerFeatures"]

# What copies share with the estimator that they were copied from.
_SHARED = ("source_model", "source_", "cache", "cache_")

# Data with numbers this many times larger than in the fit have another scale: pixels of 0 to 255
# instead of 0 to 1.
_OTHER_SCALE = 50
# What to do instead of passing parameters that other classes have.
_INSTEAD = {
    "device": "; a PyTorch network runs on its own device: move it with network.to(device)",
    "class_weight": "; give it to the meta_model",
    "class_prior": "; give it to the meta_model",
    "inputs": "; give it to xfer.open_source or xfer.load_checkpoint",
    "batch_size": "; set it on the source: source = open_source(network); source.batch_size = 8",
}

_Init = TypeVar("_Init", bound=Callable[..., None])


def stores_parameters(options_of: type | None = None) -> Callable[[_Init], _Init]:
    """Make an ``__init__`` that stores each argument under its name, as scikit-learn asks.

    ``**options`` stand for the keyword-only parameters of another class.
    """

    def decorate(init: _Init) -> _Init:
        own = list(signature(init).parameters.values())
        own = [one for one in own if one.kind is not Parameter.VAR_KEYWORD]
        names = {one.name for one in own}
        last = [one.name for one in own if one.kind is Parameter.POSITIONAL_OR_KEYWORD][-1]
        others = signature(options_of).parameters.values() if options_of else ()
        keyword_only = [one for one in others if one.kind is Parameter.KEYWORD_ONLY]
        full = Signature([*own, *(one for one in keyword_only if one.name not in names)])

        @wraps(init)
        def store(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                bound = full.bind(self, *args, **kwargs)
            except TypeError as error:
                advice = f"; give parameters after {last} by name, as in num_devices=1"
                advice = advice if "too many positional" in str(error) else ""
                advice += "".join(_INSTEAD.get(one, "") for one in kwargs)
                raise TypeError(f"{type(self).__name__}.__init__() {error}{advice}") from None
            bound.apply_defaults()
            vars(self).update(list(bound.arguments.items())[1:])

        vars(store)["__signature__"] = full
        return cast(_Init, store)

    return decorate


class SharesNetwork(BaseEstimator):
    """A scikit-learn estimator whose copies share one network instead of copying it.

    A pickle holds the network too. Only joblib's worker processes, which ``n_jobs`` starts, get the
    network in a file of its own: each of them reads it once, however many estimators it is given.
    A source whose network can change while it is open says so by a ``version()`` that changes.
    """

    source_model: Any
    context_function: Any
    num_devices: int

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get the parameters; ``deep`` adds those of a meta-model, as ``meta_model__name``."""
        # A Module has a get_params of its own, of another kind: the network is not looked into.
        parameters = super().get_params(deep=False)
        for name, value in list(parameters.items()) if deep else ():
            if hasattr(value, "get_params") and not isclass(value) and name not in _SHARED:
                inner = value.get_params().items()
                parameters.update({f"{name}__{key}": item for key, item in inner})
        return parameters

    def __sklearn_clone__(self) -> Self:
        parameters = self.get_params(deep=False)
        copies = {
            name: value if name in _SHARED else clone(value, safe=False)
            for name, value in parameters.items()
        }
        return type(self)(**copies)

    def __copy__(self) -> Self:
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        for value in (self.__dict__.get(name) for name in _SHARED):
            memo[id(value)] = value
        copy = memo[id(self)] = type(self).__new__(type(self))
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        return copy

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__()}
        if state.get("source_") is not None:
            state["source_"] = PickledNetwork(state["source_"])
        # A path goes as it is; and what was loaded without its network has none to send.
        if not isinstance(state["source_model"], (str, os.PathLike, type(None))):
            state["source_model"] = PickledNetwork(self._open_source())
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # What the network takes beside matrices. Not texts: to scikit-learn, an estimator that
        # takes arrays of one dimension takes no others.
        tags.input_tags.three_d_array = True
        tags.input_tags.dict = True
        return tags

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        # Where no layer was named, tell which was found.
        features = vars(self).get("features_", self)
        layers = getattr(features, "layers_", ())
        if not layers or getattr(self, "feature_layer_names", "") is not None:
            return super().__repr__(N_CHAR_MAX)
        found = [f"{one.name} ({how})" for one, how in zip(layers, features.poolings_)]
        on = ", ".join(found) if len(found) < 4 else f"{len(found)} layers"
        return f"{super().__repr__(N_CHAR_MAX)} on {on}"

    def _sk_visual_block_(self) -> Any:
        from xfer._html import visual_block

        return visual_block(self)

    def _open_source(self) -> SourceModel:
        return open_source(
            self.source_model, context_function=self.context_function, num_devices=self.num_devices
        )


class NetworkOptions(TypedDict, total=False):
    """Parameters of LayerFeatures that every repurposer has too, with the same default."""

    cache: Any
    context_function: Callable[[int], Any] | None
    num_devices: int
    progress: bool | None


class LayerOptions(NetworkOptions, total=False):
    """Parameters of LayerFeatures that a repurposer with given layers has too."""

    pooling: str | Mapping[str, str] | None


class LayerFeatures(TransformerMixin, SharesNetwork):
    """Outputs of layers of a frozen network, as a matrix; columns are in the order of the layers.

    Parameters
    ----------
    source_model : network, str or path-like
        What :func:`xfer.open_source` takes: a PyTorch module, a SentenceTransformer, an MXNet
        Module, an ONNX file, an open source. It is not changed.
    feature_layer_names : str or list of str, optional
        The layers whose outputs are the features; ``print(xfer.open_source(network))`` lists them.
        By default the last one before the class scores; of a SentenceTransformer, its vector.
    pooling : str or dict of str to str, optional
        How an output becomes columns, for all layers or by name: ``"mean"``, ``"max"`` or
        ``"mean+max"`` of each channel, ``"first_token"`` or ``"masked_mean"`` of tokens, or
        ``"flatten"``, which keeps everything. By default, layers that you name are flattened, and
        one that is found gets what fits it.
    cache : str, path-like or xfer.FeatureCache, optional
        A file that keeps features, so that each is computed once.
    context_function, num_devices : callable, int, default=None, 1
        Only for MXNet Modules: see :class:`xfer.MetaModelRepurposer`.
    progress : bool, optional
        Whether to show a progress bar; by default only in an interactive session.

    Attributes
    ----------
    source_ : SourceModel
        The network, opened.
    layers_ : tuple of Layer
        The layers.
    n_features_in_ : int
        Columns of the data, where the data have two dimensions.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> features = xfer.LayerFeatures(source, ["relu1", "relu2"], pooling="mean")
    >>> features.fit_transform(images).shape
    (1797, 48)
    >>> features.get_feature_names_out()[[0, 15, 16]]
    array(['relu1_0', 'relu1_15', 'relu2_0'], dtype=object)
    """

    @stores_parameters()
    def __init__(
        self,
        source_model: Any,
        feature_layer_names: str | Sequence[str] | None = None,
        *,
        pooling: str | Mapping[str, str] | None = None,
        cache: Any = None,
        context_function: Callable[[int], Any] | None = None,
        num_devices: int = 1,
        progress: bool | None = None,
    ) -> None: ...

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Open the network and look the layers up.

        Parameters
        ----------
        X, y : optional
            Data as :meth:`transform` takes them; y is ignored. If no layer is named, a few examples
            show which one gives features; otherwise only the columns of a table are looked at.

        Returns
        -------
        LayerFeatures
            Itself.

        Raises
        ------
        TypeError, ValueError
            If the network cannot be opened or has no such layer, or the data are not numbers.
        """
        source = self._open_source()
        data = None if X is None else open_data(X)
        names, pooling = self.feature_layer_names, self.pooling
        if names is None:
            names, fits = default_layer(source, None if data is None else first_examples(data))
            pooling = fits if pooling is None else pooling
        layers = look_up(source, names)
        pooling = "flatten" if pooling is None else pooling
        poolings = check_poolings(pooling, [layer.name for layer in layers])
        cache = _open_cache(self.cache)
        given = None if data is None else data.given
        if len(getattr(given, "shape", ())) == 2:
            validate_data(self, given, skip_check_array=True)
        else:
            self.__dict__.pop("n_features_in_", None)
        self.layers_ = layers
        self.poolings_ = poolings
        self.cache_ = cache
        self.source_ = source
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._warned: set[tuple[str, int]] = set()
        self.fit_data_: dict[str, dict[str, Any]] | None = None
        return self

    def extract(self, X: Any, watch: Callable[[Any], None] | None = None) -> Features:
        """Compute the features as :class:`xfer.sources.Features`: by layer, and with the labels.

        ``watch`` is called with the examples of each batch: see ``SourceModel.extract``.
        """
        check_is_fitted(self)
        data = open_data(X)
        self._check_like_fitted(data.given)
        names = [layer.name for layer in self.layers_]
        # Your own source need know neither of a pooling for each layer nor of caches.
        pooling: Any = self.poolings_[0]
        if len(set(self.poolings_)) > 1:
            pooling = dict(zip(names, self.poolings_))
        options: dict[str, Any] = {} if self.cache_ is None else {"cache": self.cache_}
        options.update(pooling=pooling, progress=self.progress)
        if isinstance(self.source_, SourceModel):
            try:
                features = self.source_.extract(data, names, watch=watch, **options)
            except ValueError as error:
                given = [*getattr(data.given, "shape", ())]
                for _, shape, *_ in (self.fit_data_ or {}).get("inputs", {}).values():
                    if given == shape:
                        raise ValueError(
                            f"{error}. If this is one example, give X[None]"
                        ) from error
                    if [1, *given[1:]] == shape:
                        raise ValueError(f"{error}. In fit, it was X[:, None]") from error
                raise
        else:
            found = self.source_.extract(data.given, names, **options)
            labels = data.join_labels([found.labels])
            features = Features(found.matrix, found.columns, found.shapes, labels)
        self._shapes.update(features.shapes)
        if self.fit_data_ is not None:
            # The meta-model refuses another number of columns, as in scikit-learn.
            shapes = {} if hasattr(self, "n_features_in_") else features.shapes
            _check_like_those_of_the_fit(shapes, features.ranges, self.fit_data_, self._warned)
        return features

    def extract_for_fit(self, X: Any, watch: Callable[[Any], None] | None = None) -> Features:
        """Compute the features of a fit, and remember its data, to compare later data with them."""
        of_data = DataHash()

        def see(examples: Any) -> None:
            of_data.see(examples)
            if watch is not None:
                watch(examples)

        self.fit_data_ = None
        with note_inputs(self.source_):
            table = self.extract(X, see)
        self.remember(table, of_data, self.source_)
        return table

    def remember(self, table: Features, of_data: DataHash, source: Any) -> None:
        """Keep what describes the data of a fit, which ``source`` has read."""
        seen = getattr(source, "_seen_inputs", {})
        self.fit_data_ = {
            "inputs": {n: [kind.str, [*shape], *rest] for n, (kind, shape, *rest) in seen.items()},
            "shapes": {name: list(shape) for name, shape in table.shapes.items()},
            "ranges": {name: list(ends) for name, ends in table.ranges.items()},
            "about": _about(table, of_data),
        }

    def transform(self, X: Any) -> np.ndarray:
        """Compute the features.

        Parameters
        ----------
        X : array, dict of str to array, list, or an iterable of batches
            See :meth:`xfer.sources.SourceModel.extract`.

        Returns
        -------
        ndarray of shape (n, d), float32
        """
        return self.extract(X).matrix

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Name the d columns: the layer's name and the index in its flattened output.

        ``input_features`` is ignored. Some shapes are not known before the first data.
        """
        check_is_fitted(self)
        names: list[str] = []
        for layer, pooling in zip(self.layers_, self.poolings_):
            shape: tuple[int | None, ...] | None = self._shapes.get(layer.name)
            if shape is None:
                known = {one.name: one.shape for one in self.source_.layers}
                shape = known.get(layer.name, layer.shape)
                if shape and isinstance(self.source_, SourceModel):
                    batch = (None, *shape)
                    pooling = with_axis(pooling, layer.name, batch, self.source_._channels)
                shape = shape and pooled_shape(shape, pooling)
            sizes = [size for size in shape or () if size is not None]
            if shape is None or len(sizes) < len(shape):
                raise ValueError(f"the shape of layer {layer.name!r} is not known before transform")
            names.extend(f"{layer.name}_{index}" for index in range(math.prod(sizes)))
        return np.array(names, dtype=object)

    def _check_like_fitted(self, X: Any) -> None:
        # The number of columns is not checked here: some networks take sequences of any length.
        if hasattr(X, "columns") and hasattr(self, "feature_names_in_"):
            validate_data(self, X, skip_check_array=True, reset=False)
        if isinstance(X, np.ndarray) and hasattr(self, "n_features_in_") and X.ndim != 2:
            raise ValueError(
                f"the data have shape {X.shape}, where those of the fit had 2 dimensions. Reshape "
                "your data"
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


@contextmanager
def note_inputs(source: Any) -> Iterator[None]:
    """Let a network note what the next data look like, whatever data it has seen before."""
    noted = getattr(source, "__dict__", {})
    earlier = noted.pop("_seen_inputs", None)
    try:
        yield
    finally:
        if earlier and "_seen_inputs" not in noted:  # all features came from a cache
            source._seen_inputs = earlier


def _about(table: Features, of_data: DataHash) -> dict[str, Any]:
    """Describe the data of a fit for a model card; numbers to predict are not counted."""
    labels, counts = table.labels, np.zeros(0, int)
    if labels is not None and (labels.dtype.kind != "f" or (labels % 1 == 0).all()):
        counts = labels.sum(axis=0) if labels.ndim > 1 else np.unique(labels, return_counts=True)[1]
    found = {"n_examples": len(table.matrix), "counts": counts.tolist()}
    return {**found, "date": date.today().isoformat(), "sha256": of_data.hexdigest()}


def _check_like_those_of_the_fit(
    shapes: Mapping[str, tuple],
    ranges: Mapping[str, tuple],
    fit_data: Mapping[str, Mapping[str, Any]],
    warned: set[tuple[str, int]],
) -> None:
    """Refuse features of another shape; warn where numbers are much larger or smaller."""
    for name, shape in shapes.items():
        expected = tuple(fit_data["shapes"].get(name, shape))
        if tuple(shape) != expected:
            raise ValueError(
                f"layer {name!r} gives features of shape {tuple(shape)}, but {expected} in fit: "
                "give examples of the same size, or fit with a pooling such as 'mean'"
            )
    for name, (low, high) in ranges.items():
        ends = fit_data["ranges"].get(name, [low, high])
        found, known = max(-low, high), max(-ends[0], ends[1])
        if not (found > _OTHER_SCALE * known or 0 < found < known / _OTHER_SCALE):
            continue
        # Once is enough, but not if the next data are ten times as far away.
        how_far = name, round(math.log10(found / known)) if known else 0
        if how_far not in warned:
            warned.add(how_far)
            warnings.warn(
                f"input {name!r} has numbers from {low:.3g} to {high:.3g}, but {ends[0]:.3g} to "
                f"{ends[1]:.3g} in fit: are the data scaled in the same way?",
                stacklevel=2,
            )


def look_up(source: Any, names: str | Sequence[str]) -> tuple[Layer, ...]:
    """Look layers of any source up by name."""
    if isinstance(source, SourceModel):
        return source._look_up(names)
    return find_layers(names, lambda name: find_layer(name, source.layers))


def _open_cache(cache: Any) -> Any:
    if isinstance(cache, (str, os.PathLike)):
        return FeatureCache(cache)
    return cache
