"""Data to a feature matrix: a frozen network as a scikit-learn transformer."""

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from xfer.sources import open_source

__all__ = ["LayerFeatures"]


class SharesSource(BaseEstimator):
    """A scikit-learn estimator whose clones share one network instead of copying it."""

    def get_params(self, deep=True):
        """Get the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Whether those of a meta-model come too, as ``meta_model__name``.

        Returns
        -------
        dict of str to object
        """
        # A Module has a get_params of its own, of another kind: the network is not looked into.
        parameters = super().get_params(deep=False)
        for name, value in list(parameters.items()) if deep else ():
            if isinstance(value, BaseEstimator) and name != "source_model":
                inner = value.get_params().items()
                parameters.update({f"{name}__{key}": item for key, item in inner})
        return parameters

    def __sklearn_clone__(self):
        parameters = self.get_params(deep=False)
        source_model = parameters.pop("source_model")
        copies = {name: clone(value, safe=False) for name, value in parameters.items()}
        return type(self)(source_model=source_model, **copies)


class LayerFeatures(TransformerMixin, SharesSource):
    """What named layers of a frozen network put out, as a matrix.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or anything :func:`xfer.open_source` takes
        The network.
    feature_layer_names : str or list of str
        The layers, in the order of the columns.
    pooling : {"flatten", "mean", "max"}, default="flatten"
        What to do with convolutional maps of shape (channels, ...): keep every position, or reduce
        the positions of each channel to one number.
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

    Examples
    --------
    >>> import numpy as np
    >>> import mxnet as mx
    >>> hidden = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=4, name="hidden")
    >>> module = mx.mod.Module(mx.sym.softmax(hidden, name="out"), label_names=None)
    >>> module.bind(data_shapes=[("data", (10, 8))], for_training=False)
    >>> module.init_params()
    >>> LayerFeatures(module, ["hidden"]).fit_transform(np.ones((25, 8))).shape
    (25, 4)
    """

    def __init__(
        self,
        source_model,
        feature_layer_names,
        *,
        pooling="flatten",
        context_function=None,
        num_devices=1,
        progress=None,
    ):
        self.source_model = source_model
        self.feature_layer_names = feature_layer_names
        self.pooling = pooling
        self.context_function = context_function
        self.num_devices = num_devices
        self.progress = progress

    def fit(self, X=None, y=None):
        """Open the network and look the layers up; the data are not needed.

        Parameters
        ----------
        X, y : ignored

        Returns
        -------
        LayerFeatures
            Itself.

        Raises
        ------
        TypeError, ValueError
            If the network cannot be opened, or has no such layer.
        """
        source = open_source(
            self.source_model,
            context_function=self.context_function,
            num_devices=self.num_devices,
        )
        self.layers_ = source.find_layers(self.feature_layer_names)
        self.source_ = source
        return self

    def extract(self, X):
        """Compute the features, and keep them apart by layer and together with their labels.

        Parameters
        ----------
        X : mxnet.io.DataIter, array of shape (n, ...), or dict of str to array

        Returns
        -------
        Features
        """
        check_is_fitted(self)
        names = [layer.name for layer in self.layers_]
        return self.source_.extract(X, names, pooling=self.pooling, progress=self.progress)

    def transform(self, X):
        """Compute the features.

        Parameters
        ----------
        X : mxnet.io.DataIter, array of shape (n, ...), or dict of str to array

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
        for layer in self.source_.find_layers([layer.name for layer in self.layers_]):
            if layer.shape is None or None in layer.shape:
                raise ValueError(f"the shape of layer {layer.name!r} is not known before transform")
            shape = layer.shape if self.pooling == "flatten" else layer.shape[:1]
            names.extend(f"{layer.name}_{number}" for number in range(int(np.prod(shape))))
        return np.array(names, dtype=object)
