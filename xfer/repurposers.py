"""Repurposers: features of a frozen network and a classifier or regressor on top."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from inspect import isclass, signature
from os import PathLike
from pathlib import Path
from types import MethodType
from typing import Any, ClassVar, Self, TypeVar, Unpack, cast

import numpy as np
import sklearn
from sklearn.base import ClassifierMixin, RegressorMixin, clone, is_classifier, is_regressor
from sklearn.metrics import accuracy_score, r2_score
from sklearn.pipeline import Pipeline
from sklearn.utils import assert_all_finite, get_tags
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from xfer.features import LayerFeatures, LayerOptions, SharesNetwork, stores_parameters
from xfer.meta import (
    BayesianNetwork,
    CalibratedLogisticRegression,
    CalibratedSvm,
    DirichletGaussianProcess,
    WhitenedRidge,
)
from xfer.meta.base import ClassPrior, ClassWeight
from xfer.persistence import save
from xfer.sources.data import brings_batches, is_tensor, open_data, to_numpy
from xfer.sources.table import Features

__all__ = [
    "BnnRepurposer",
    "GpRepurposer",
    "LrRepurposer",
    "MetaModelRegressor",
    "MetaModelRepurposer",
    "Repurposer",
    "SvmRepurposer",
]

_Method = TypeVar("_Method", bound=Callable[..., Any])


# Subclasses written for xfer-ml define these, and _train_model_from_features.
_HOOKS = {
    "predict": "_predict_label_from_features",
    "predict_proba": "_predict_probability_from_features",
}


# Which repurposers have a method that not all have.
_HAVE = {
    "predict_uncertainty": "GpRepurposer and BnnRepurposer have it",
    "novelty": "AutoRepurposer, GpRepurposer and BnnRepurposer have it",
    "is_novel": "AutoRepurposer, GpRepurposer and BnnRepurposer have it",
}


class _MethodOfMetaModel:
    """A method that exists only if the meta-model has it; otherwise the error says why."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method

    def __get__(self, model: Any, kind: Any = None) -> Any:
        name = self.method.__name__
        if model is None:
            return self.method
        if not hasattr(model, _HOOKS.get(name, "")):
            try:
                fitted = "meta_model_" in vars(model)
                getattr(model.meta_model_ if fitted else model._meta_model(), name)
            except AttributeError as error:
                missing = f"this {type(model).__name__!r} has no attribute {name!r}"
                reason = _HAVE.get(name, error.__cause__ or error)
                raise AttributeError(f"{missing}: {reason}") from error
        return MethodType(self.method, model)


def _if_meta_model_has_it(method: _Method) -> _Method:
    return cast(_Method, _MethodOfMetaModel(method))


class Repurposer(ClassifierMixin, SharesNetwork):
    """A classifier for a new task, made of a network that was trained for another.

    Two families of methods do the same work: ``repurpose``, ``predict_label`` and
    ``predict_probability`` for iterators that carry labels; ``fit``, ``predict`` and
    ``predict_proba`` for arrays, by scikit-learn's conventions. A subclass gives ``fit``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted. Predictions are members of it; columns of probabilities follow it.
    features_ : LayerFeatures
        Turns data into features.
    meta_model_ : classifier
        Fitted on them.
    """

    #: Whether the network is trained, so that it is not the source model any more.
    trains_network: ClassVar[bool] = False
    #: Parameters that do not go into a file.
    _not_saved: ClassVar[tuple[str, ...]] = ("source_model", "cache", "context_function")

    #: Parameters of older versions, which files may have.
    _removed: ClassVar[tuple[str, ...]] = ()

    features_: LayerFeatures
    meta_model_: Any
    classes_: np.ndarray

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the new task; what a subclass defines."""
        raise NotImplementedError(f"{type(self).__name__} defines no fit")

    def repurpose(self, train_iterator: Any) -> Self:
        """Learn the new task from an iterable of batches with labels; see ``fit``.

        An MXNet iterator is reset, read once, and reset again.
        """
        return self.fit(train_iterator)

    def predict_label(self, test_iterator: Any) -> np.ndarray:
        """Predict labels of an iterable of batches, in its order; see :meth:`predict`."""
        return self.predict(test_iterator)

    def predict_probability(self, test_iterator: Any) -> np.ndarray:
        """Predict probabilities for an iterable of batches; see :meth:`predict_proba`."""
        return self.predict_proba(test_iterator)

    def predict(self, X: Any) -> np.ndarray:
        """Predict labels.

        Parameters
        ----------
        X : array of shape (n, ...), dict of str to array, list, or an iterable of batches
            Examples as in ``fit``.

        Returns
        -------
        ndarray of shape (n,) or (n, k)
            Labels, members of ``classes_``; (n, k) if the fit had k labels per example.
        """
        return call_meta_model(self, "predict", X)

    @_if_meta_model_has_it
    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict the probability of each label.

        Parameters
        ----------
        X : array of shape (n, ...), dict of str to array, list, or an iterable of batches
            Examples as in ``fit``.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Columns follow ``classes_``; rows sum to 1. Where examples have several labels, shape
            (n, k): the probability that each label applies.
        """
        found = call_meta_model(self, "predict_proba", X)
        if not isinstance(found, list):
            return found
        # An array for each label; the fit may have seen one value of it only.
        pairs = zip(found, self.meta_model_.classes_)
        return np.column_stack([one[:, np.asarray(known) == 1].sum(axis=1) for one, known in pairs])

    @_if_meta_model_has_it
    def decision_function(self, X: Any) -> np.ndarray:
        """Return the meta-model's own scores, of shape (n,) or (n, n_classes)."""
        return call_meta_model(self, "decision_function", X)

    @_if_meta_model_has_it
    def predict_uncertainty(self, X: Any) -> Any:
        """Split the uncertainty of each prediction into what more labels would reduce and the rest.

        Only for Gaussian processes and Bayesian neural networks. The result, a
        :class:`xfer.meta.posterior.Uncertainty`, has ``total``, ``aleatoric`` and ``epistemic``,
        each of shape (n,), in nats.
        """
        return call_meta_model(self, "predict_uncertainty", X)

    @_if_meta_model_has_it
    def novelty(self, X: Any) -> np.ndarray:
        """Return how unlike the labelled examples of every class each example is, of shape (n,).

        Only for Gaussian processes, Bayesian neural networks and mixtures. The distance to the
        nearest class counts, and the doubt which class it is: see
        :class:`xfer.meta.novelty.Novelty`.
        """
        return call_meta_model(self, "novelty", X)

    @_if_meta_model_has_it
    def is_novel(self, X: Any, false_alarms: float = 0.05) -> np.ndarray:
        """Return which examples belong to no class that was learned: bool, of shape (n,).

        Parameters
        ----------
        X : array of shape (n, ...), dict of str to array, list, or an iterable of batches
            Examples as in ``fit``.
        false_alarms : float, default=0.05
            The share of examples of known classes that may be called novel. The threshold is that
            of labelled examples, each left out: 0.05 needs 19 of them, or nothing is called novel.
        """
        return call_meta_model(self, "is_novel", X, false_alarms=false_alarms)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the accuracy, from 0 to 1; if examples have several labels, all must be right.

        ``X``, ``y`` and ``sample_weight`` are as in :meth:`xfer.MetaModelRepurposer.fit`.
        """
        return _score(self, accuracy_score, X, y, sample_weight)

    def save_repurposer(
        self,
        model_name: str | PathLike[str],
        model_directory: str | PathLike[str] = "",
        save_source_model: bool | None = None,
        card: bool = False,
    ) -> Path:
        """Save everything that prediction needs to one file, ``model_name`` with ``.xfer`` added.

        Parameters
        ----------
        model_name : str or path-like
            Name of the file.
        model_directory : str or path-like, default=""
            Where to put it; by default the current folder.
        save_source_model : bool, optional
            Whether the network goes into the file too; by default it does. Without it,
            :func:`xfer.load` has to be given the same network again. A repurposer that trains the
            network always saves the trained one, and never the source model.
        card : bool, default=False
            Whether to write a model card beside it, which ends in ``.md``: see :meth:`card`.

        Returns
        -------
        pathlib.Path
            The file. It is written whole, or not at all.
        """
        return _save(self, model_name, model_directory, save_source_model, card)

    def to_onnx(
        self, path: str | PathLike[str], X: Any = None, outputs: Sequence[str] | None = None
    ) -> Path:
        """Write everything that prediction needs to one ONNX file of standard operators.

        Its inputs are those of the network, or ready inputs where the network has ``inputs=`` of
        texts or pictures, in batches of any size. The file is compared with this model on a few
        examples before it is written. ONNX Runtime alone runs it: see :doc:`/export`.

        Parameters
        ----------
        path : str or path-like
            The file.
        X : array, dict of str to array, or list, optional
            Examples to compare on, of which three are used. By default they are random numbers like
            those that the network has seen. With ``ImageInputs``, they are pictures made up.
        outputs : list of str, optional
            Outputs of the file: by default ``"label"``, of shape (n,), and ``"probabilities"``,
            float32 of shape (n, n_classes). Where the model has them, also ``"total"``,
            ``"aleatoric"`` and ``"epistemic"`` (uncertainty in nats) and ``"novelty"``, each of
            shape (n,), which take more time.

        Returns
        -------
        pathlib.Path
            The file. Its metadata ``xfer`` holds classes, layers and the version as JSON.

        Raises
        ------
        ImportError
            If a meta-model of scikit-learn or a PyTorch network needs ``xfer-learn[export]``.
        RuntimeError
            If the file would give other results; nothing is written.
        TypeError, ValueError
            If the network or the meta-model cannot be written as ONNX; nothing is written.
        """
        from xfer.export import to_onnx

        if own := [name for name in _HOOKS.values() if hasattr(self, name)]:
            raise TypeError(f"{type(self).__name__} predicts by its own {own[0]}, not as a graph")
        return to_onnx(self, path, X, outputs)

    def card(self, X: Any = None, y: Any = None, *, path: str | PathLike[str] | None = None) -> str:
        """Describe the fitted repurposer in Markdown: a model card.

        It names the network, the layers, the labels, the date and a hash of the labelled examples,
        the versions of packages, and the accuracy and calibration.

        Parameters
        ----------
        X, y : optional
            Labelled examples that were not in the fit, to measure the accuracy on. Without them, an
            :class:`xfer.AutoRepurposer` estimates it from its labelled examples, and other cards
            say that it was not measured.
        path : str or path-like, optional
            Where to write the card, a file that ends in ``.md``. With Matplotlib, a reliability
            diagram is drawn beside it, as ``.png``.

        Returns
        -------
        str
            The card.
        """
        return _card(self, X, y, path)

    @property
    def n_features_in_(self) -> int:
        """Columns of the data, where they have two dimensions."""
        return _fitted_features(self).n_features_in_

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Names of these columns, where the data are a table."""
        return _fitted_features(self).feature_names_in_

    def _read(self, X: Any) -> tuple[Any, np.ndarray | None]:
        """Return what the meta-model takes of data, and their labels."""
        table = self.features_.extract(X)
        return table.matrix, table.labels

    def _set_fitted(
        self, features: LayerFeatures, meta_model: Any, classes: np.ndarray | None = None
    ) -> Self:
        self.features_, self.meta_model_ = features, meta_model
        self.classes_ = meta_model.classes_ if classes is None else classes
        return self

    def _learned(self) -> dict[str, Any]:
        """Return what goes into a file beside the parameters."""
        # Some classifiers do not store them, and none does if examples have several labels.
        known = hasattr(self.meta_model_, "classes_") and self.classes_.ndim == 1
        learned = _learned(self)
        return learned if known else {**learned, "classes": self.classes_}

    def _restore(self, source: Any, layer_names: list[str], learned: dict) -> Self:
        """Become fitted with what a file holds."""
        features = _restored_features(self, source, layer_names, learned)
        return self._set_fitted(features, learned["meta_model"], learned.get("classes"))


class MetaModelRepurposer(Repurposer):
    """Features of named layers of a frozen network, and a classifier on top.

    Parameters
    ----------
    source_model : network, str or path-like
        What :func:`xfer.open_source` takes: a PyTorch module, a SentenceTransformer, an MXNet
        Module, an ONNX file, an open source. It is not changed.
    feature_layer_names : str or list of str, optional
        The layers whose outputs are the features; ``print(xfer.open_source(network))`` lists them.
        By default the last one before the class scores; of a SentenceTransformer, its vector.
    meta_model : scikit-learn classifier or pipeline
        Cloned before it is fitted. With one that supports it, examples may have several labels.
        Subclasses need none: see :doc:`/new_meta_model` and :doc:`/coming_from_xfer_ml`.
    pooling : str or dict of str to str, optional
        How an output becomes columns, for all layers or by name: ``"mean"``, ``"max"`` or
        ``"mean+max"`` of each channel, ``"first_token"`` or ``"masked_mean"`` of tokens, or
        ``"flatten"``, which keeps everything. By default, layers that you name are flattened, and
        one that is found gets what fits it.
    cache : str, path-like or xfer.FeatureCache, optional
        A file that keeps features, so that each is computed once.
    context_function : callable, optional
        A function from an index to an MXNet device, such as ``mxnet.gpu``: MXNet then runs a Module
        on these devices. By default, ONNX Runtime runs a Module that is on the CPU, and MXNet runs
        any other. Not saved with the repurposer; nor is the cache.
    num_devices : int, default=1
        How many MXNet devices share each batch.
    progress : bool, optional
        Whether to show a progress bar; by default only in an interactive session.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,), or (k, 2)
        The labels, sorted; where examples have several of k labels, 0 and 1 for each of them.
    features_ : LayerFeatures
        Turns data into features.
    meta_model_ : classifier
        Classifies the features.

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

    Several labels per example, here whether it is odd, and whether it is above 7:

    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> several = np.column_stack([digits % 2 == 1, digits > 7]).astype(int)
    >>> repurposer = repurposer.set_params(meta_model=KNeighborsClassifier(5))
    >>> repurposer.fit(images[:50], several[:50]).predict_proba(images[50:52]).shape
    (2, 2)
    """

    #: The classifier class of a subclass, made with the parameters that both have.
    _classifier: ClassVar[Any] = None

    @stores_parameters(LayerFeatures)
    def __init__(
        self,
        source_model: Any,
        feature_layer_names: str | Sequence[str] | None = None,
        meta_model: Any = None,
        **options: Unpack[LayerOptions],
    ) -> None: ...

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn the new task.

        Parameters
        ----------
        X : array of shape (n, ...), dict of str to array, list, or an iterable of batches
            The examples, as the network takes them: an array such as (n, 3, 224, 224) for pictures,
            a dict by name for several inputs, a list of texts or pictures where the network has
            ``inputs`` for them (see :func:`xfer.open_source`), a DataLoader or MXNet iterator.
        y : array-like of shape (n,) or (n, k), optional
            Their labels, of any kind. An iterator carries its own.
        sample_weight : array-like of shape (n,), optional
            How often each example counts; the meta-model must accept it.

        Returns
        -------
        MetaModelRepurposer
            Itself.

        Raises
        ------
        TypeError, ValueError
            If the network, a layer, the data or the labels cannot be used, or the meta-model takes
            no weights; nothing is changed.
        """
        labels, features, meta_model = _fit(self, X, y, sample_weight)
        classes = np.tile([0, 1], (labels.shape[1], 1)) if labels.ndim > 1 else None
        if classes is None and not hasattr(meta_model, "classes_"):
            classes = np.unique(labels)
        return self._set_fitted(features, meta_model, classes)

    @property
    def target_model(self) -> Any:
        """``meta_model_``, by its name in xfer-ml."""
        return self.meta_model_

    def _meta_model(self) -> Any:
        """Make the meta-model that is to be fitted; what a subclass overrides."""
        if self._classifier is None:
            return None if self.meta_model is None else clone(self.meta_model)
        names = signature(self._classifier).parameters
        return self._classifier(**{n: getattr(self, n) for n in names if n in vars(self)})

    def _check_targets(self, labels: np.ndarray) -> np.ndarray:
        return (checked_labels if self._classifier else checked_multilabels)(labels)

    def _fit_meta_model(self, meta_model: Any, table: Features, **options: Any) -> None:
        meta_model.fit(table.matrix, table.labels, **options)

    def __sklearn_tags__(self) -> Any:
        return _tags_of_meta_model(self, super().__sklearn_tags__())


class MetaModelRegressor(RegressorMixin, SharesNetwork):
    """Features of named layers of a frozen network, and a regressor on top.

    Like :class:`xfer.MetaModelRepurposer`, for numbers instead of labels.

    Parameters
    ----------
    source_model : network, str or path-like
        What :func:`xfer.open_source` takes: a PyTorch module, a SentenceTransformer, an MXNet
        Module, an ONNX file, an open source. It is not changed.
    feature_layer_names : str or list of str, optional
        The layers whose outputs are the features; ``print(xfer.open_source(network))`` lists them.
        By default the last one before the class scores; of a SentenceTransformer, its vector.
    meta_model : scikit-learn regressor or pipeline, optional
        Cloned before it is fitted; by default :class:`xfer.meta.WhitenedRidge`. One that takes
        several numbers per example is given them.
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
    features_ : LayerFeatures
        Turns data into features.
    meta_model_ : regressor
        Predicts numbers from the features.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> ink = images.sum(axis=(1, 2, 3))
    >>> regressor = xfer.MetaModelRegressor(source, "relu1", pooling="mean")
    >>> bool(regressor.fit(images[:50], ink[:50]).score(images[50:], ink[50:]) > 0.9)
    True
    """

    trains_network: ClassVar[bool] = False
    _not_saved: ClassVar[tuple[str, ...]] = Repurposer._not_saved
    _removed: ClassVar[tuple[str, ...]] = Repurposer._removed

    features_: LayerFeatures
    meta_model_: Any

    @stores_parameters(LayerFeatures)
    def __init__(
        self,
        source_model: Any,
        feature_layer_names: str | Sequence[str] | None = None,
        meta_model: Any = None,
        **options: Unpack[LayerOptions],
    ) -> None: ...

    _read = Repurposer._read

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn one or several numbers per example; see :meth:`xfer.MetaModelRepurposer.fit`."""
        _, self.features_, self.meta_model_ = _fit(self, X, y, sample_weight)
        return self

    def repurpose(self, train_iterator: Any) -> Self:
        """Learn from an iterator; see :meth:`xfer.Repurposer.repurpose`."""
        return self.fit(train_iterator)

    def predict(self, X: Any) -> np.ndarray:
        """Predict numbers, of shape (n,) or (n, k), as :meth:`xfer.Repurposer.predict` does."""
        return call_meta_model(self, "predict", X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the coefficient of determination, averaged over several numbers per example."""
        return _score(self, r2_score, X, y, sample_weight)

    def save_repurposer(
        self,
        model_name: str | PathLike[str],
        model_directory: str | PathLike[str] = "",
        save_source_model: bool | None = None,
        card: bool = False,
    ) -> Path:
        """Save to one file; see :meth:`xfer.Repurposer.save_repurposer`."""
        return _save(self, model_name, model_directory, save_source_model, card)

    def card(self, X: Any = None, y: Any = None, *, path: str | PathLike[str] | None = None) -> str:
        """Describe the fitted regressor in Markdown; see :meth:`xfer.Repurposer.card`."""
        return _card(self, X, y, path)

    def to_onnx(self, path: str | PathLike[str], X: Any = None) -> Path:
        """Write to one ONNX file, with the output ``variable``; see ``Repurposer.to_onnx``."""
        from xfer.export import to_onnx

        return to_onnx(self, path, X, None)

    n_features_in_: Any = Repurposer.n_features_in_
    feature_names_in_: Any = Repurposer.feature_names_in_
    _fit_meta_model = MetaModelRepurposer._fit_meta_model

    def _meta_model(self) -> Any:
        return WhitenedRidge() if self.meta_model is None else clone(self.meta_model)

    def _check_targets(self, numbers: np.ndarray) -> np.ndarray:
        return checked_numbers(numbers)

    def _learned(self) -> dict[str, Any]:
        return _learned(self)

    def _restore(self, source: Any, layer_names: list[str], learned: dict) -> Self:
        self.features_ = _restored_features(self, source, layer_names, learned)
        self.meta_model_ = learned["meta_model"]
        return self

    def __sklearn_tags__(self) -> Any:
        return _tags_of_meta_model(self, super().__sklearn_tags__())


class LrRepurposer(MetaModelRepurposer):
    """Logistic regression on layers of a frozen network: a fast, simple baseline.

    ``fit`` runs labelled examples through the network, and learns the labels from the outputs of
    its layers. ``predict`` gives labels of new examples, ``predict_proba`` calibrated
    probabilities. The classifier is
    :class:`xfer.meta.logistic_regression.CalibratedLogisticRegression`.

    Parameters
    ----------
    source_model : network, str or path-like
        What :func:`xfer.open_source` takes: a PyTorch module, a SentenceTransformer, an MXNet
        Module, an ONNX file, an open source. It is not changed.
    feature_layer_names : str or list of str, optional
        The layers whose outputs are the features; ``print(xfer.open_source(network))`` lists them.
        By default the last one before the class scores; of a SentenceTransformer, its vector.
    c : float, default=10.0
        Inverse strength of the regularization: smaller values give a simpler model. The features
        are scaled first.
    tol : float, default=1e-4
        Stop when no component of the gradient is larger.
    class_weight : "balanced" or dict, optional
        The weight of each class's examples; "balanced" gives all classes the same total weight.
    class_prior : "balanced" or dict, optional
        The probability of each class where predictions are made, if it is not its share of the
        labels; "balanced" makes all classes equally probable.
    n_jobs : int, optional
        Threads that share the folds of the calibration.
    random_state : int, default=0
        Seed of these folds.
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
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted. Columns of probabilities follow it.
    features_ : LayerFeatures
        Turns data into features.
    meta_model_ : CalibratedLogisticRegression
        Classifies the features.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> images, digits = images[digits >= 5], digits[digits >= 5]
    >>> network = xfer.example.network()  # a torch.nn.Module that has learned the digits 0 to 4
    >>> repurposer = xfer.LrRepurposer(network).fit(images[:50], digits[:50])
    >>> round(repurposer.score(images[50:], digits[50:]), 1)
    0.6

    Another layer has better features for these digits:

    >>> repurposer = xfer.LrRepurposer(network, "relu2", pooling="max")
    >>> round(repurposer.fit(images[:50], digits[:50]).score(images[50:], digits[50:]), 1)
    0.8
    """

    _classifier = CalibratedLogisticRegression

    @stores_parameters(LayerFeatures)
    def __init__(
        self,
        source_model: Any,
        feature_layer_names: str | Sequence[str] | None = None,
        *,
        c: float = 10.0,
        tol: float = 1e-4,
        class_weight: ClassWeight = None,
        class_prior: ClassPrior = None,
        n_jobs: int | None = None,
        random_state: Any = 0,
        **options: Unpack[LayerOptions],
    ) -> None: ...


class SvmRepurposer(MetaModelRepurposer):
    """Support vector machines on layers of a frozen network.

    The classifier is :class:`xfer.meta.support_vector_machine.CalibratedSvm`.

    Parameters
    ----------
    source_model : network, str or path-like
        What :func:`xfer.open_source` takes: a PyTorch module, a SentenceTransformer, an MXNet
        Module, an ONNX file, an open source. It is not changed.
    feature_layer_names : str or list of str, optional
        The layers whose outputs are the features; ``print(xfer.open_source(network))`` lists them.
        By default the last one before the class scores; of a SentenceTransformer, its vector.
    c : float, default=5.0
        Price of a violated margin: smaller values give a simpler model. The features are scaled
        first.
    kernel : {"rbf", "linear", "poly", "sigmoid"}, default="rbf"
        Measures the similarity of two examples.
    gamma : float, "scale" or "auto", default=0.3
        Width of the kernel, on features of mean squared norm 1.
    enable_probability_estimates : bool, default=True
        Whether to offer ``predict_proba``; learning then takes five more fits.
    class_weight : "balanced" or dict, optional
        The weight of each class's examples; "balanced" gives all classes the same total weight.
    class_prior : "balanced" or dict, optional
        The probability of each class where predictions are made, if it is not its share of the
        labels; "balanced" makes all classes equally probable.
    random_state : int, default=0
        Seed of the folds of the calibration.
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
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted. Columns of probabilities follow it.
    features_ : LayerFeatures
        Turns data into features.
    meta_model_ : CalibratedSvm
        Classifies the features.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> images, digits = images[digits >= 5], digits[digits >= 5]
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> repurposer = xfer.SvmRepurposer(source, "relu2", pooling="max")
    >>> repurposer.fit(images[:50], digits[:50]).predict_proba(images[50:]).shape
    (846, 5)
    """

    _classifier = CalibratedSvm

    @stores_parameters(LayerFeatures)
    def __init__(
        self,
        source_model: Any,
        feature_layer_names: str | Sequence[str] | None = None,
        *,
        c: float = 5.0,
        kernel: str = "rbf",
        gamma: float | str = 0.3,
        enable_probability_estimates: bool = True,
        class_weight: ClassWeight = None,
        class_prior: ClassPrior = None,
        random_state: Any = 0,
        **options: Unpack[LayerOptions],
    ) -> None: ...

    def _meta_model(self) -> Any:
        probability = self.enable_probability_estimates
        return super()._meta_model().set_params(probability=probability)


class GpRepurposer(MetaModelRepurposer):
    """Gaussian processes on layers of a frozen network, with a kernel for each layer.

    The classifier is :class:`xfer.meta.gaussian_process.DirichletGaussianProcess`. It also has
    ``predict_uncertainty``, ``novelty`` and ``is_novel``.

    Parameters
    ----------
    source_model : network, str or path-like
        What :func:`xfer.open_source` takes: a PyTorch module, a SentenceTransformer, an MXNet
        Module, an ONNX file, an open source. It is not changed.
    feature_layer_names : str or list of str, optional
        The layers whose outputs are the features; ``print(xfer.open_source(network))`` lists them.
        By default the last one before the class scores; of a SentenceTransformer, its vector.
    max_function_evaluations : int, default=100
        Maximum number of evaluations of the objective when the kernels are fitted.
    apply_l2_norm : bool, default=False
        Whether the features of each layer of an example are scaled to length 1 first.
    class_weight : "balanced" or dict, optional
        The weight of each class's examples; "balanced" gives all classes the same total weight.
    class_prior : "balanced" or dict, optional
        The probability of each class where predictions are made, if it is not its share of the
        labels; "balanced" makes all classes equally probable.
    random_state : int, default=0
        Seed of the samples that probabilities are averaged over.
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
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted. Columns of probabilities follow it.
    features_ : LayerFeatures
        Turns data into features.
    meta_model_ : DirichletGaussianProcess
        Classifies the features.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> images, digits = images[digits >= 5], digits[digits >= 5]
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> repurposer = xfer.GpRepurposer(source, "relu2", pooling="max").fit(images[:50], digits[:50])
    >>> known = repurposer.predict_uncertainty(images[50:]).epistemic.mean()
    >>> unknown = repurposer.predict_uncertainty(1 - images[50:]).epistemic.mean()
    >>> bool(known < unknown)
    True
    """

    _classifier = DirichletGaussianProcess

    @stores_parameters(LayerFeatures)
    def __init__(
        self,
        source_model: Any,
        feature_layer_names: str | Sequence[str] | None = None,
        *,
        max_function_evaluations: int = 100,
        apply_l2_norm: bool = False,
        class_weight: ClassWeight = None,
        class_prior: ClassPrior = None,
        random_state: Any = 0,
        **options: Unpack[LayerOptions],
    ) -> None: ...

    def _fit_meta_model(self, meta_model: Any, table: Features, **options: Any) -> None:
        meta_model.columns = list(_indices(table).values())
        meta_model.fit(table.matrix, table.labels, **options)


class BnnRepurposer(MetaModelRepurposer):
    """A Bayesian neural network on layers of a frozen network.

    The classifier is :class:`xfer.meta.bayesian_network.BayesianNetwork`, which explains the
    parameters. It also has ``predict_uncertainty``, ``novelty`` and ``is_novel``.

    Parameters
    ----------
    source_model : network, str or path-like
        What :func:`xfer.open_source` takes: a PyTorch module, a SentenceTransformer, an MXNet
        Module, an ONNX file, an open source. It is not changed.
    feature_layer_names : str or list of str, optional
        The layers whose outputs are the features; ``print(xfer.open_source(network))`` lists them.
        By default the last one before the class scores; of a SentenceTransformer, its vector.
    sigma : float, default=3.0
        Prior standard deviation of the input of a unit.
    num_layers, n_hidden : int
        Hidden layers of the Bayesian network, and units of each.
    num_samples_mc, num_samples_mc_prediction : int
        Samples in a step of the fit, and in a prediction.
    learning_rate : float
    batch_size, num_epochs : int
        Examples per step, and maximum number of passes over the data.
    start_annealing, end_annealing : int
        Epochs between which the weight of the prior grows from 0 to 1.
    class_weight : "balanced" or dict, optional
        The weight of each class's examples; "balanced" gives all classes the same total weight.
    class_prior : "balanced" or dict, optional
        The probability of each class where predictions are made, if it is not its share of the
        labels; "balanced" makes all classes equally probable.
    verbose : bool, default=False
        Whether to print the bound of each epoch.
    bnn_context_function : optional
        Accepted for existing scripts. The fit needs no device.
    random_state : int, default=0
        Seed of everything random.
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
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted. Columns of probabilities follow it.
    features_ : LayerFeatures
        Turns data into features.
    meta_model_ : BayesianNetwork
        Classifies the features.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> images, digits = images[digits >= 5], digits[digits >= 5]
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> repurposer = xfer.BnnRepurposer(source, "relu2", pooling="max")
    >>> repurposer.fit(images[:50], digits[:50]).predict_uncertainty(images[50:]).total.shape
    (846,)
    """

    _classifier = BayesianNetwork

    @stores_parameters(LayerFeatures)
    def __init__(
        self,
        source_model: Any,
        feature_layer_names: str | Sequence[str] | None = None,
        *,
        sigma: float = 3.0,
        num_layers: int = 1,
        n_hidden: int = 30,
        num_samples_mc: int = 2,
        learning_rate: float = 0.02,
        batch_size: int = 200,
        num_epochs: int = 200,
        start_annealing: int = 20,
        end_annealing: int = 40,
        num_samples_mc_prediction: int = 80,
        class_weight: ClassWeight = None,
        class_prior: ClassPrior = None,
        verbose: bool = False,
        bnn_context_function: Any = None,
        random_state: Any = 0,
        **options: Unpack[LayerOptions],
    ) -> None: ...


def _save(model: Any, name: Any, folder: Any, save_source_model: bool | None, card: bool) -> Path:
    path = save(model, name, folder, save_source_model)
    if card:
        _card(model, None, None, path.with_suffix(".md"))
    return path


def _card(model: Any, X: Any, y: Any, path: str | PathLike[str] | None) -> str:
    from xfer._card import card

    check_is_fitted(model)
    if path is not None and Path(path).suffix != ".md":
        raise ValueError(f"path must end in .md, got {str(path)!r}")
    judged = None
    if X is not None:
        matrix, labels = model._read(open_data(X, y, lambda labels: labels))
        if labels is None:
            raise ValueError("X has no labels: give them as y")
        classes = getattr(model, "classes_", labels)
        if labels.ndim == classes.ndim == 1 and (
            unknown := {*labels.tolist()} - {*classes.tolist()}
        ):
            some = ", ".join(sorted(map(repr, unknown))[:5])
            raise ValueError(f"y has labels that were not in the fit: {some}")
        predicted, probabilities = _apply(model, "predict", matrix), None
        if labels.ndim == 1 and hasattr(model, "predict_proba"):
            probabilities = _apply(model, "predict_proba", matrix)
        judged = labels, predicted, probabilities
    return card(model, judged, path)


def call_meta_model(model: Any, method: str, X: Any, **options: Any) -> Any:
    """Call a method of a fitted model's meta-model with the features of data."""
    check_is_fitted(model)
    return _apply(model, method, model._read(X)[0], **options)


def _apply(model: Any, method: str, matrix: np.ndarray, **options: Any) -> Any:
    hook = getattr(model, _HOOKS.get(method, ""), None)
    return (hook or getattr(model.meta_model_, method))(matrix, **options)


def _fit(model: Any, X: Any, y: Any, sample_weight: Any) -> tuple[np.ndarray, LayerFeatures, Any]:
    """Fit a meta-model on features: return the targets, the features and the meta-model."""
    sample_weight = to_numpy(sample_weight) if is_tensor(sample_weight) else sample_weight
    # Whatever can be refused is refused before the long work, which is computing features.
    data = open_data(X, y, model._check_targets)
    features = layer_features(model).fit(data)
    train = getattr(model, "_train_model_from_features", None)
    meta_model: Any = _checked_meta_model(model) if train is None else None
    options = _weight_options(meta_model, X, sample_weight)
    if hasattr(meta_model, "check_weights") and data.labels is not None:
        meta_model.check_weights(data.labels, sample_weight)
    table = features.extract_for_fit(data)
    assert table.labels is not None
    if train is None:
        model._fit_meta_model(meta_model, table, **options)
    else:
        meta_model = train(table.matrix, table.labels, _indices(table))
    return table.labels, features, meta_model


def _checked_meta_model(model: Any) -> Any:
    given = getattr(model, "meta_model", None)
    if callable(given) and not hasattr(given, "fit"):
        advice = "give a function of devices by name, as context_function=mx.gpu"
        raise TypeError(f"meta_model must be a scikit-learn estimator, got {given!r}; {advice}")
    meta_model = model._meta_model()
    if meta_model is None:
        raise TypeError("meta_model is missing: give a scikit-learn estimator")
    name = type(meta_model).__name__
    if is_classifier(model) and is_regressor(meta_model):
        raise ValueError(f"{name} is a regressor: use xfer.MetaModelRegressor")
    if is_regressor(model) and is_classifier(meta_model):
        raise ValueError(f"{name} is a classifier: use xfer.MetaModelRepurposer")
    if hasattr(meta_model, "check_parameters"):
        meta_model.check_parameters()
    return meta_model


def _indices(table: Features) -> dict[str, np.ndarray]:
    """Return the indices of the columns of each layer."""
    indices = np.arange(table.matrix.shape[1])
    return {name: indices[columns] for name, columns in table.columns.items()}


def layer_features(model: Any, **changed: Any) -> LayerFeatures:
    """Make the transformer that has a repurposer's parameters, but for some."""
    given = {name: getattr(model, name) for name in signature(LayerFeatures).parameters}
    return LayerFeatures(**{**given, **changed})


def _learned(model: Any) -> dict[str, Any]:
    features = model.features_
    pooling = dict(zip([layer.name for layer in features.layers_], features.poolings_))
    return {"meta_model": model.meta_model_, "fit_data": features.fit_data_, "pooling": pooling}


def _restored_features(
    model: Any, source: Any, layer_names: list[str], learned: Mapping[str, Any]
) -> LayerFeatures:
    """Make the features of a file; files written before layers were found have no pooling."""
    model.source_model = source
    pooling = learned.get("pooling", model.pooling)
    features = layer_features(model, feature_layer_names=layer_names, pooling=pooling).fit()
    features.fit_data_ = learned.get("fit_data")
    return features


def _weight_options(meta_model: Any, X: Any, sample_weight: Any) -> dict[str, Any]:
    """Return the arguments by which a meta-model takes weights of examples."""
    if sample_weight is None:
        return {}
    if brings_batches(X):
        raise ValueError("sample_weight needs X and y as arrays, not an iterator")
    steps, last = "", meta_model
    while isinstance(last, Pipeline):
        step, last = last.steps[-1]
        steps += f"{step}__"
    if not has_fit_parameter(last, "sample_weight"):
        raise ValueError(f"{type(last).__name__} does not accept sample_weight")
    # Where scikit-learn routes metadata, a pipeline finds the step itself.
    steps = "" if sklearn.get_config()["enable_metadata_routing"] else steps
    return {f"{steps}sample_weight": sample_weight}


def _score(model: Any, metric: Callable[..., float], X: Any, y: Any, sample_weight: Any) -> float:
    check_is_fitted(model)
    data = open_data(X, y, lambda labels: labels)
    if data.labels is not None:
        return metric(data.labels, model.predict(data.given), sample_weight=sample_weight)
    # An iterator is read once, so that labels and features stay together.
    features, labels = model._read(data)
    return metric(labels, _apply(model, "predict", features), sample_weight=sample_weight)


def _fitted_features(model: Any) -> LayerFeatures:
    if "features_" not in vars(model):
        raise AttributeError(f"this {type(model).__name__} is not fitted yet")
    return model.features_


def _tags_of_meta_model(model: Any, tags: Any) -> Any:
    meta_model = getattr(model, "meta_model", None)
    if hasattr(meta_model, "__sklearn_tags__") and not isclass(meta_model):
        inner = get_tags(meta_model)
        tags.target_tags = inner.target_tags
        if tags.classifier_tags and inner.classifier_tags:
            tags.classifier_tags = inner.classifier_tags
        if tags.regressor_tags and inner.regressor_tags:
            tags.regressor_tags = inner.regressor_tags
    return tags


def checked_labels(labels: np.ndarray) -> np.ndarray:
    """Refuse labels that no classifier can learn, and several labels per example."""
    if labels.ndim > 1:
        raise ValueError(
            f"y must have one label per example, got shape {labels.shape}; for several labels, use "
            "MetaModelRepurposer with a meta-model that supports them, such as "
            "OneVsRestClassifier(LogisticRegression())"
        )
    return checked_multilabels(labels)


def checked_multilabels(labels: np.ndarray) -> np.ndarray:
    """Refuse labels that no classifier can learn; (n, k) holds a 1 for each label that applies."""
    _check_present(labels)
    if labels.ndim > 1:
        try:
            integers = labels.astype(np.int64)
            same = (integers == labels).all() and np.isin(integers, [0, 1]).all()
        except (TypeError, ValueError):
            same = False
        if not same:
            raise ValueError(
                f"labels of shape {labels.shape} must be 1 where a label applies and 0 where not; "
                "sklearn.preprocessing.MultiLabelBinarizer makes them from sets of labels"
            )
        labels = integers
    with warnings.catch_warnings():
        # One label of each class is no sign of a regression.
        warnings.filterwarnings("ignore", "The number of unique classes")
        kind = type_of_target(labels)
    if kind == "unknown":
        raise ValueError(
            f"Unknown label type: y holds objects such as {labels[0]!r}; give it as an array of "
            "strings or of numbers"
        )
    if kind.startswith("continuous"):
        raise ValueError(
            f"Unknown label type: {kind}: y has numbers that are not integers. "
            "For regression, use xfer.MetaModelRegressor"
        )
    found = np.unique(labels)
    if len(found) < 2:
        raise ValueError(
            f"a classifier needs at least 2 classes; every label is {found.tolist()[0]!r} (1 class)"
        )
    return labels


def checked_numbers(numbers: np.ndarray) -> np.ndarray:
    """Return numbers that a regressor can learn as float64, or refuse them."""
    _check_present(numbers)
    try:
        return numbers.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"a regressor learns numbers, and y is of dtype {numbers.dtype}: {error}"
        ) from None


def _check_present(targets: np.ndarray) -> None:
    if not len(targets):
        raise ValueError("the data are empty: no example was given")
    try:
        assert_all_finite(targets, input_name="y")
    except ValueError as error:
        raise ValueError(f"the labels hold NaN or infinity: {error}") from None
