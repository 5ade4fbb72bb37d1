"""Data to a feature matrix: a frozen network as a scikit-learn transformer."""

import os

import numpy as np
from scipy.sparse import issparse
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from xfer.sharing import SharesSource
from xfer.sources import SourceModel
from xfer.sources.pooling import check_poolings, pooled_shape

__all__ = ["LayerFeatures"]


class OnLayers(SharesSource):
    """An estimator on layers of a frozen network: the parameters that all of them have.

    See :class:`xfer.MetaModelRepurposer`.
    """

    def __init__(
        self,
        source_model,
        feature_layer_names,
        *,
        pooling="flatten",
        cache=None,
        context_function=None,
        num_devices=1,
        progress=None,
    ):
        self.source_model = source_model
        self.feature_layer_names = feature_layer_names
        self.pooling = pooling
        self.cache = cache
        self.context_function = context_function
        self.num_devices = num_devices
        self.progress = progress

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # What the network takes beside matrices. Not texts, though: to scikit-learn an estimator
        # that takes arrays of one dimension takes no others.
        tags.input_tags.three_d_array = True
        tags.input_tags.dict = True
        return tags


class LayerFeatures(TransformerMixin, OnLayers):
    """What named layers of a frozen network put out, as a matrix.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or anything :func:`xfer.open_source` takes
        The network.
    feature_layer_names : str or list of str
        The layers, in the order of the columns.
    pooling : str or dict of str to str, default="flatten"
        How to reduce what a layer puts out to columns, for all layers or by name: see
        :meth:`xfer.sources.SourceModel.extract`.
    cache : str, path-like or xfer.FeatureCache, optional
        A folder that keeps features, so that each example passes through the network once.
    context_function : callable, optional
        Makes the device of each number, for MXNet to run a Module on; by default ONNX Runtime
        runs one that is on the CPU, and MXNet one that is elsewhere.
    num_devices : int, default=1
        How many devices share each batch.
    progress : bool, optional
        Whether to show a bar; by default only in an interactive session.

    Attributes
    ----------
    source_ : SourceModel
        The network, opened.
    layers_ : tuple of Layer
        The layers.
    n_features_in_ : int
        Columns of the data, where the data are of two dimensions.

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

    def fit(self, X=None, y=None):
        """Open the network and look the layers up; the data are not needed.

        Parameters
        ----------
        X : optional
            Data as :meth:`transform` takes them; only their columns are looked at.
        y : ignored

        Returns
        -------
        LayerFeatures
            Itself.

        Raises
        ------
        TypeError, ValueError
            If the network cannot be opened, or has no such layer; or the data are no numbers.
        """
        source = self._opened()
        layers = _find_layers(source, self.feature_layer_names)
        poolings = check_poolings(self.pooling, layers)
        cache = _opened_cache(self.cache)
        X = checked_data(X)
        if len(getattr(X, "shape", ())) == 2:
            validate_data(self, X, skip_check_array=True)
        else:
            vars(self).pop("n_features_in_", None)
        self.layers_ = layers
        self.poolings_ = poolings
        self.cache_ = cache
        self.source_ = source
        self._shapes = {}
        return self

    def extract(self, X):
        """Compute the features, and keep them apart by layer and together with their labels.

        Parameters
        ----------
        X : array, dict of str to array, list, or what brings batches
            See :meth:`xfer.sources.SourceModel.extract`.

        Returns
        -------
        Features
        """
        check_is_fitted(self)
        X = checked_data(X)
        self._check_like_fitted(X)
        names = [layer.name for layer in self.layers_]
        # A source of one's own need know neither of several poolings nor of caches.
        pooling = self.poolings_[0]
        if len(set(self.poolings_)) > 1:
            pooling = dict(zip(names, self.poolings_))
        options = {} if self.cache_ is None else {"cache": self.cache_}
        features = self.source_.extract(
            X, names, pooling=pooling, progress=self.progress, **options
        )
        self._shapes.update(features.shapes)
        return features

    def transform(self, X):
        """Compute the features.

        Parameters
        ----------
        X : array, dict of str to array, list, or what brings batches
            See :meth:`xfer.sources.SourceModel.extract`.

        Returns
        -------
        ndarray of shape (n, d), float32
            Row i belongs to example i.
        """
        return self.extract(X).matrix

    def get_feature_names_out(self, input_features=None):
        """Name the columns: the layer's name and the position in its flattened output.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of shape (d,), object

        Raises
        ------
        ValueError
            If a layer's shape cannot be told before the first data have been seen.
        """
        check_is_fitted(self)
        names = []
        for layer, pooling in zip(self.layers_, self.poolings_):
            shape = self._shapes.get(layer.name)
            if shape is None:
                shape = layer.shape and pooled_shape(layer.shape, pooling)
            if shape is None or None in shape:
                raise ValueError(f"the shape of layer {layer.name!r} is not known before transform")
            names.extend(f"{layer.name}_{number}" for number in range(int(np.prod(shape))))
        return np.array(names, dtype=object)

    def _check_like_fitted(self, X):
        # How many columns there may be is the network's to say: sequences may be of any length.
        if hasattr(X, "columns") and hasattr(self, "feature_names_in_"):
            validate_data(self, X, skip_check_array=True, reset=False)
        if isinstance(X, np.ndarray) and hasattr(self, "n_features_in_") and X.ndim != 2:
            raise ValueError(
                f"the data have shape {X.shape}, where those of the fit had 2 dimensions. Reshape "
                "your data"
            )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def checked_data(X):
    """Refuse arrays that no network takes, by scikit-learn's rules.

    Parameters
    ----------
    X : anything that a network reads
        Only what is an array of NumPy's or made to be one is looked at: not tables, lists, texts,
        iterators or tensors.

    Returns
    -------
    object
        ``X``, or the array of numbers that it stands for.

    Raises
    ------
    TypeError, ValueError
        If it is a sparse matrix, complex, or has no columns.
    """
    is_array = isinstance(X, np.ndarray)
    if is_array and X.ndim == 1 and X.dtype.kind in "OUST":
        return X  # texts
    # What has no length can only be read when it is made an array.
    is_like_one = hasattr(X, "__array__") and not hasattr(X, "__len__")
    if not (is_array or is_like_one or issparse(X)):
        return X
    return check_array(
        X, ensure_2d=False, allow_nd=True, ensure_all_finite=False, ensure_min_samples=0
    )


def _find_layers(source, names):
    if hasattr(source, "find_layers"):
        return source.find_layers(names)
    return _Listed(source.layers).find_layers(names)


class _Listed(SourceModel):
    """Layers to be looked up by name, of a source of one's own that only lists them."""

    layers = input_names = ()
    _forward = None

    def __init__(self, layers):
        self.layers = layers


def _opened_cache(cache):
    if isinstance(cache, (str, os.PathLike)):
        from xfer.cache import FeatureCache

        return FeatureCache(cache)
    return cache
