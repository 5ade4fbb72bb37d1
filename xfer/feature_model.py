"""Features of a frozen network and a meta-model on top: what classifiers and regressors share."""

from inspect import isclass

import sklearn
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from xfer._options import with_options_of
from xfer.features import LayerFeatures, OnLayers, checked_data
from xfer.sharing import SharesSource
from xfer.sources.data import is_iterator
from xfer.targets import given_labels


class FeatureModel(SharesSource):
    """A model that, once fitted, puts a meta-model on what layers of a network put out.

    Attributes
    ----------
    features_ : LayerFeatures
        Turns data into what the meta-model takes.
    meta_model_ : classifier or regressor
    """

    #: Whether its network is not the source model, but one that it has trained.
    trains_network = False
    #: Parameters that do not go into a file.
    _not_saved = ("source_model", "cache", "context_function")

    def repurpose(self, train_iterator):
        """Learn the new task from an iterator.

        Parameters
        ----------
        train_iterator : mxnet.io.DataIter, or anything else that brings batches with labels
            An MXNet iterator is reset, read once, and reset again.

        Returns
        -------
        FeatureModel
            Itself.
        """
        return self.fit(train_iterator)

    def predict(self, X):
        """Predict labels, or numbers.

        Parameters
        ----------
        X : array, dict of str to array, list, or what brings batches

        Returns
        -------
        ndarray of shape (n,) or (n, k)
            Of the shape of the targets that were learned; labels are members of ``classes_``.
        """
        matrix = self._extract(X).matrix
        return self.meta_model_.predict(matrix)

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

    @property
    def n_features_in_(self):
        """Columns of the data, where they are of two dimensions (int)."""
        return self._fitted_features().n_features_in_

    @property
    def feature_names_in_(self):
        """Names of these columns, where the data are a table (ndarray of str)."""
        return self._fitted_features().feature_names_in_

    def _fitted_features(self):
        if "features_" not in vars(self):
            raise AttributeError(f"this {type(self).__name__} is not fitted yet")
        return self.features_

    def _extract(self, X):
        check_is_fitted(self)
        return self.features_.extract(X)

    def _score(self, metric, X, y, sample_weight):
        check_is_fitted(self)
        X = checked_data(X)
        targets = given_labels(X, y)
        extracted = self._extract(X)
        targets = extracted.labels if targets is None else targets
        if targets is None:
            raise ValueError("the data carry no labels to compare with")
        predicted = self.meta_model_.predict(extracted.matrix)
        return metric(targets, predicted, sample_weight=sample_weight)

    def _set_fitted(self, features, meta_model):
        self.features_ = features
        self.meta_model_ = meta_model
        return self

    def _learned(self):
        """Return what goes into a file beside the parameters, by name."""
        return {"meta_model": self.meta_model_}


class FitsMetaModel(FeatureModel, OnLayers):
    """A model that is fitted by extracting features once and fitting a meta-model on them."""

    @with_options_of(OnLayers)
    def __init__(self, source_model, feature_layer_names, meta_model, **options):
        OnLayers.__init__(self, source_model, feature_layer_names, **options)
        self.meta_model = meta_model

    def fit(self, X, y=None, sample_weight=None):
        """Learn the new task.

        Parameters
        ----------
        X : array, dict of str to array, list, or what brings batches
            The examples.
        y : array-like of shape (n,) or (n, k), optional
            What to learn of each. An iterator carries its own.
        sample_weight : array-like of shape (n,), optional
            What each example counts, for a meta-model that takes it.

        Returns
        -------
        FitsMetaModel
            Itself.

        Raises
        ------
        TypeError, ValueError
            If the network, a layer, the data or the targets cannot be used, or the meta-model takes
            no weights; nothing is changed.
        """
        # Whatever can be refused is refused before the long work, which is computing features.
        X = checked_data(X)
        features = self._layer_features(X)
        meta_model = self._meta_model()
        self._check_meta_model(meta_model)
        options = _weights(meta_model, X, sample_weight)
        targets = given_labels(X, y)
        if targets is not None:
            targets = self._checked_targets(targets)
        extracted = features.extract(X)
        if targets is None:
            targets = self._checked_targets(extracted.labels)
        self._fit_meta_model(meta_model, extracted, targets, **options)
        return self._set_learned(features, meta_model, targets)

    def _meta_model(self):
        """Make the meta-model that is to be fitted; what a subclass overrides."""
        return clone(self.meta_model)

    def _check_meta_model(self, meta_model):
        if hasattr(meta_model, "check_parameters"):
            meta_model.check_parameters()

    def _fit_meta_model(self, meta_model, features, targets, **options):
        """Fit the meta-model; where a subclass tells it of layers."""
        meta_model.fit(features.matrix, targets, **options)

    def _layer_features(self, X=None):
        return LayerFeatures(
            self.source_model,
            self.feature_layer_names,
            pooling=self.pooling,
            cache=self.cache,
            context_function=self.context_function,
            num_devices=self.num_devices,
            progress=self.progress,
        ).fit(X)

    def _set_learned(self, features, meta_model, targets):
        return self._set_fitted(features, meta_model)

    def _restore(self, source, layer_names, learned):
        """Become fitted with what a file holds."""
        self.source_model = source
        return self._set_fitted(self._layer_features(), learned["meta_model"])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        meta_model = getattr(self, "meta_model", None)
        if hasattr(meta_model, "__sklearn_tags__") and not isclass(meta_model):
            inner = get_tags(meta_model)
            tags.target_tags = inner.target_tags
            if tags.classifier_tags and inner.classifier_tags:
                tags.classifier_tags = inner.classifier_tags
            if tags.regressor_tags and inner.regressor_tags:
                tags.regressor_tags = inner.regressor_tags
        return tags


def _weights(meta_model, X, sample_weight):
    """Return the arguments by which a meta-model takes weights of examples."""
    if sample_weight is None:
        return {}
    if is_iterator(X):
        raise ValueError("sample_weight goes with arrays as X and y, not with an iterator")
    steps, last = "", meta_model
    while isinstance(last, Pipeline):
        step, last = last.steps[-1]
        steps += f"{step}__"
    if not has_fit_parameter(last, "sample_weight"):
        raise ValueError(f"sample_weight was given, and {type(last).__name__} takes none")
    # Where scikit-learn routes metadata, a pipeline finds the step itself.
    steps = "" if sklearn.get_config()["enable_metadata_routing"] else steps
    return {f"{steps}sample_weight": sample_weight}
