"""The one place where features of a frozen network meet a classifier."""

import numpy as np
from sklearn.base import ClassifierMixin, clone
from sklearn.metrics import accuracy_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from xfer.features import LayerFeatures, SharesSource
from xfer.sources.data import count_examples
from xfer.sources.iterators import is_iterator

__all__ = ["MetaModelRepurposer", "Repurposer"]


class Repurposer(ClassifierMixin, SharesSource):
    """A classifier for a new task, made of a network that was trained for another.

    Two families of verbs do the same work: ``repurpose``, ``predict_label`` and
    ``predict_probability`` for MXNet iterators that carry labels; ``fit``, ``predict`` and
    ``predict_proba`` for arrays, by scikit-learn's conventions. A subclass gives the latter.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted. Predictions are members of it; columns of probabilities follow it.
    """

    def repurpose(self, train_iterator):
        """Learn the new task from an iterator.

        Parameters
        ----------
        train_iterator : mxnet.io.DataIter
            Examples with labels. It is reset, read once, and reset again.

        Returns
        -------
        Repurposer
            Itself.
        """
        return self.fit(train_iterator)

    def predict_label(self, test_iterator):
        """Predict labels.

        Parameters
        ----------
        test_iterator : mxnet.io.DataIter
            Examples; labels are not needed and not looked at.

        Returns
        -------
        ndarray of shape (n,)
            Members of ``classes_``, in the order of the iterator.
        """
        return self.predict(test_iterator)

    def predict_probability(self, test_iterator):
        """Predict the probability of each label.

        Parameters
        ----------
        test_iterator : mxnet.io.DataIter
            Examples; labels are not needed and not looked at.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Columns follow ``classes_``; rows sum to 1.
        """
        return self.predict_proba(test_iterator)

    def save_repurposer(self, model_name, model_directory="", save_source_model=None):
        """Save everything that prediction needs to one file, ``model_name`` with ``.xfer`` added.

        Parameters
        ----------
        model_name : str
            Name of the file.
        model_directory : str or path-like, default=""
            Where to put it; by default the current folder.
        save_source_model : bool, optional
            Whether the network goes into the file too; by default it does. Without it,
            :func:`xfer.load` has to be given the same network again.

        Returns
        -------
        pathlib.Path
            The file. It is written whole, or not at all.
        """
        from xfer.persistence import save

        return save(self, model_name, model_directory, save_source_model)


def _meta_model_has(name):
    def check(self):
        model = self.meta_model_ if hasattr(self, "meta_model_") else self._meta_model()
        getattr(model, name)  # the classifier's own AttributeError says what is missing
        return True

    return check


class FeatureRepurposer(Repurposer):
    """A repurposer that, once fitted, puts a classifier on what layers of a network put out.

    Attributes
    ----------
    features_ : LayerFeatures
        Turns data into what the classifier takes.
    meta_model_ : classifier
    """

    #: Whether its network is not the source model, but one that it has trained.
    trains_network = False
    #: Parameters that do not go into a file.
    _not_saved = ("source_model", "context_function")

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : array of shape (n, ...), dict of str to array, or mxnet.io.DataIter

        Returns
        -------
        ndarray of shape (n,)
            Members of ``classes_``.
        """
        matrix = self._extract(X).matrix
        return self.meta_model_.predict(matrix)

    @available_if(_meta_model_has("predict_proba"))
    def predict_proba(self, X):
        """Predict the probability of each label.

        Parameters
        ----------
        X : array of shape (n, ...), dict of str to array, or mxnet.io.DataIter

        Returns
        -------
        ndarray of shape (n, n_classes)
            Columns follow ``classes_``; rows sum to 1.
        """
        matrix = self._extract(X).matrix
        return self.meta_model_.predict_proba(matrix)

    def score(self, X, y=None, sample_weight=None):
        """Tell the share of right predictions.

        Parameters
        ----------
        X : array of shape (n, ...), dict of str to array, or mxnet.io.DataIter
        y : array-like of shape (n,), optional
            True labels. An iterator carries its own.
        sample_weight : array-like of shape (n,), optional

        Returns
        -------
        float
            Accuracy, from 0 to 1.
        """
        check_is_fitted(self)
        labels = given_labels(X, y)
        extracted = self._extract(X)
        labels = extracted.labels if labels is None else labels
        if labels is None:
            raise ValueError("the data carry no labels to compare with")
        predicted = self.meta_model_.predict(extracted.matrix)
        return accuracy_score(labels, predicted, sample_weight=sample_weight)

    def _set_fitted(self, features, meta_model):
        self.features_ = features
        self.meta_model_ = meta_model
        self.classes_ = meta_model.classes_
        return self

    def _learned(self):
        """Return what goes into a file beside the parameters, by name."""
        return {"meta_model": self.meta_model_}

    def _extract(self, X):
        check_is_fitted(self)
        return self.features_.extract(X)


class MetaModelRepurposer(FeatureRepurposer):
    """Features of named layers of a frozen network, and a classifier on top.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or anything :func:`xfer.open_source` takes
        The network. It is never changed.
    feature_layer_names : str or list of str
        The layers to take features from.
    meta_model : scikit-learn classifier or pipeline
        Cloned before it is fitted.
    pooling : {"flatten", "mean", "max"}, default="flatten"
        What to do with convolutional maps of shape (channels, ...): keep every position, or reduce
        the positions of each channel to one number.
    context_function : callable, optional
        Makes the device of each number, as ``mxnet.cpu`` and ``mxnet.gpu`` do, for MXNet to run
        a Module on; by default ONNX Runtime runs one that is on the CPU, and MXNet one that is
        elsewhere. Not saved with the repurposer.
    num_devices : int, default=1
        How many devices share each batch.
    progress : bool, optional
        Whether to show a bar while features are computed; by default only in an interactive
        session.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    features_ : LayerFeatures
        Turns data into features.
    meta_model_ : classifier
        Fitted on them.

    Examples
    --------
    >>> import numpy as np
    >>> import mxnet as mx
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> hidden = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=4, name="hidden")
    >>> module = mx.mod.Module(mx.sym.softmax(hidden, name="out"), label_names=None)
    >>> module.bind(data_shapes=[("data", (10, 8))], for_training=False)
    >>> module.init_params()
    >>> X, y = np.eye(8)[[0, 0, 1, 1]], ["bike", "bike", "car", "car"]
    >>> repurposer = MetaModelRepurposer(module, ["hidden"], KNeighborsClassifier(1)).fit(X, y)
    >>> repurposer.predict(X[[0, 3]])
    array(['bike', 'car'], dtype='<U4')
    """

    def __init__(
        self,
        source_model,
        feature_layer_names,
        meta_model,
        *,
        pooling="flatten",
        context_function=None,
        num_devices=1,
        progress=None,
    ):
        self.source_model = source_model
        self.feature_layer_names = feature_layer_names
        self.meta_model = meta_model
        self.pooling = pooling
        self.context_function = context_function
        self.num_devices = num_devices
        self.progress = progress

    def fit(self, X, y=None):
        """Learn the new task.

        Parameters
        ----------
        X : array of shape (n, ...), dict of str to array, or mxnet.io.DataIter
            The examples.
        y : array-like of shape (n,), optional
            Their labels, of any kind. An iterator carries its own.

        Returns
        -------
        MetaModelRepurposer
            Itself.

        Raises
        ------
        TypeError, ValueError
            If the network, a layer, the data or the labels cannot be used; nothing is changed.
        """
        features = self._layer_features()
        meta_model = self._meta_model()
        if hasattr(meta_model, "check_parameters"):
            meta_model.check_parameters()  # before the long work, which is computing features
        labels = given_labels(X, y)
        extracted = features.extract(X)
        labels = checked_labels(extracted.labels if labels is None else labels)
        self._fit_meta_model(meta_model, extracted, labels)
        return self._set_fitted(features, meta_model)

    @available_if(_meta_model_has("predict_uncertainty"))
    def predict_uncertainty(self, X):
        """Tell how unsure each prediction is, and how much of it more labels would mend.

        Of Gaussian processes and Bayesian neural networks only.

        Parameters
        ----------
        X : array of shape (n, ...), dict of str to array, or mxnet.io.DataIter

        Returns
        -------
        xfer.meta.posterior.Uncertainty
            ``total``, ``aleatoric`` and ``epistemic``, each of shape (n,), in nats.
        """
        matrix = self._extract(X).matrix
        return self.meta_model_.predict_uncertainty(matrix)

    def _meta_model(self):
        """Make the classifier that is to be fitted; what a subclass overrides."""
        return clone(self.meta_model)

    def _fit_meta_model(self, meta_model, features, labels):
        """Fit the classifier; where a subclass tells it of layers."""
        meta_model.fit(features.matrix, labels)

    def _layer_features(self):
        return LayerFeatures(
            self.source_model,
            self.feature_layer_names,
            pooling=self.pooling,
            context_function=self.context_function,
            num_devices=self.num_devices,
            progress=self.progress,
        ).fit()

    def _restore(self, source, layer_names, learned):
        """Become fitted with what a file holds."""
        self.source_model = source
        return self._set_fitted(self._layer_features(), learned["meta_model"])


def given_labels(X, y):
    """Return the labels given beside the data, or None where an iterator carries them."""
    if is_iterator(X):
        if y is not None:
            raise ValueError(
                "an iterator carries its own labels: give it without y, or give arrays as X and y"
            )
        return None
    if y is None:
        raise ValueError("these data carry no labels: give them as y, or use an iterator with them")
    labels = column_or_1d(y)
    if len(labels) != count_examples(X):
        raise ValueError(f"X has {count_examples(X)} examples and y has {len(labels)} labels")
    return labels


def checked_labels(labels):
    if labels is None:
        raise ValueError("the iterator carries no labels: make it with both data and labels")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError("the labels hold NaN or infinity")
    check_classification_targets(labels)
    found = np.unique(labels)
    if len(found) < 2:
        raise ValueError(
            f"a classifier needs at least 2 classes; every label is {found.tolist()[0]!r}"
        )
    return labels
