"""Repurposers: features of a frozen network and a classifier on top."""

import numpy as np
from sklearn.base import ClassifierMixin, is_regressor
from sklearn.metrics import accuracy_score
from sklearn.utils.metaestimators import available_if

from xfer.feature_model import FeatureModel, FitsMetaModel
from xfer.targets import checked_labels

__all__ = ["MetaModelRepurposer", "Repurposer"]


class Repurposer(ClassifierMixin, FeatureModel):
    """A classifier for a new task, made of a network that was trained for another.

    Two families of verbs do the same work: ``repurpose``, ``predict_label`` and
    ``predict_probability`` for iterators that carry labels; ``fit``, ``predict`` and
    ``predict_proba`` for arrays, by scikit-learn's conventions. A subclass gives the latter.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted. Predictions are members of it; columns of probabilities follow it.
    """

    def predict_label(self, test_iterator):
        """Predict labels.

        Parameters
        ----------
        test_iterator : mxnet.io.DataIter, or anything else that brings batches
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
        test_iterator : mxnet.io.DataIter, or anything else that brings batches
            Examples; labels are not needed and not looked at.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Columns follow ``classes_``; rows sum to 1.
        """
        return self.predict_proba(test_iterator)


def _meta_model_has(name):
    def check(self):
        model = self.meta_model_ if hasattr(self, "meta_model_") else self._meta_model()
        getattr(model, name)  # the classifier's own AttributeError says what is missing
        return True

    return check


class FeatureRepurposer(Repurposer):
    """A repurposer that, once fitted, puts a classifier on what layers of a network put out."""

    @available_if(_meta_model_has("predict_proba"))
    def predict_proba(self, X):
        """Predict the probability of each label.

        Parameters
        ----------
        X : array, dict of str to array, list, or what brings batches

        Returns
        -------
        ndarray of shape (n, n_classes)
            Columns follow ``classes_``; rows sum to 1. Where examples have several labels, shape
            (n, k): the probability that each label applies.
        """
        matrix = self._extract(X).matrix
        found = self.meta_model_.predict_proba(matrix)
        return _of_each_label(found, self.meta_model_) if isinstance(found, list) else found

    @available_if(_meta_model_has("decision_function"))
    def decision_function(self, X):
        """Compute the classifier's scores, which grow with its certainty.

        Parameters
        ----------
        X : array, dict of str to array, list, or what brings batches

        Returns
        -------
        ndarray of shape (n,), or (n, n_classes)
            As the classifier gives them.
        """
        matrix = self._extract(X).matrix
        return self.meta_model_.decision_function(matrix)

    def score(self, X, y=None, sample_weight=None):
        """Tell the share of right predictions.

        Parameters
        ----------
        X : array, dict of str to array, list, or what brings batches
        y : array-like of shape (n,) or (n, k), optional
            True labels. An iterator carries its own.
        sample_weight : array-like of shape (n,), optional

        Returns
        -------
        float
            Accuracy, from 0 to 1; where examples have several labels, all must be right.
        """
        return self._score(accuracy_score, X, y, sample_weight)

    def _set_fitted(self, features, meta_model, classes=None):
        self.classes_ = meta_model.classes_ if classes is None else classes
        return super()._set_fitted(features, meta_model)


class MetaModelRepurposer(FitsMetaModel, FeatureRepurposer):
    """Features of named layers of a frozen network, and a classifier on top.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or anything :func:`xfer.open_source` takes
        The network. It is never changed.
    feature_layer_names : str or list of str
        The layers to take features from.
    meta_model : scikit-learn classifier or pipeline
        Cloned before it is fitted. One that takes several labels to an example is given them.
    pooling : str or dict of str to str, default="flatten"
        How to reduce what a layer puts out to columns, for all layers or by name: see
        :meth:`xfer.sources.SourceModel.extract`.
    cache : str, path-like or xfer.FeatureCache, optional
        A folder that keeps features, so that each example passes through the network once. Not
        saved with the repurposer.
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
    classes_ : ndarray of shape (n_classes,), or (k, 2)
        The labels, sorted; where examples have several of k labels, 0 and 1 for each of them.
    features_ : LayerFeatures
        Turns data into features.
    meta_model_ : classifier
        Fitted on them.

    Examples
    --------
    >>> import numpy as np
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> images, digits = images[digits >= 5], digits[digits >= 5]
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> from sklearn.naive_bayes import GaussianNB
    >>> repurposer = xfer.MetaModelRepurposer(source, "relu2", GaussianNB(), pooling="max")
    >>> repurposer.fit(images[:50], digits[:50]).predict(images[50:55])
    array([6, 5, 5, 7, 8])

    Several labels to an example, here whether it is odd, and whether it is above 7:

    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> several = np.column_stack([digits % 2 == 1, digits > 7]).astype(int)
    >>> repurposer = repurposer.set_params(meta_model=KNeighborsClassifier(5))
    >>> repurposer.fit(images[:50], several[:50]).predict_proba(images[50:52]).shape
    (2, 2)
    """

    @available_if(_meta_model_has("predict_uncertainty"))
    def predict_uncertainty(self, X):
        """Tell how unsure each prediction is, and how much of it more labels would mend.

        Of Gaussian processes and Bayesian neural networks only.

        Parameters
        ----------
        X : array, dict of str to array, list, or what brings batches

        Returns
        -------
        xfer.meta.posterior.Uncertainty
            ``total``, ``aleatoric`` and ``epistemic``, each of shape (n,), in nats.
        """
        matrix = self._extract(X).matrix
        return self.meta_model_.predict_uncertainty(matrix)

    def _check_meta_model(self, meta_model):
        if is_regressor(meta_model):
            raise ValueError(
                f"{type(meta_model).__name__} is a regressor: xfer.MetaModelRegressor takes it"
            )
        super()._check_meta_model(meta_model)

    def _checked_targets(self, labels):
        return checked_labels(labels, several=True)

    def _set_learned(self, features, meta_model, labels):
        classes = np.tile([0, 1], (labels.shape[1], 1)) if labels.ndim > 1 else None
        return self._set_fitted(features, meta_model, classes)

    def _learned(self):
        several = {"classes": self.classes_} if self.classes_.ndim > 1 else {}
        return {**super()._learned(), **several}

    def _restore(self, source, layer_names, learned):
        super()._restore(source, layer_names, learned)
        self.classes_ = learned.get("classes", self.classes_)
        return self


def _of_each_label(probabilities, model):
    """Return the probability of 1 of each label, which not every label need have been seen with."""
    columns = []
    for found, classes in zip(probabilities, model.classes_):
        columns.append(found[:, np.asarray(classes) == 1].sum(axis=1))
    return np.column_stack(columns)
