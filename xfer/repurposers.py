"""Repurposers by the classifier that they put on the features."""

import numpy as np

from xfer._options import with_options_of
from xfer.features import OnLayers
from xfer.meta.bayesian_network import BayesianNetwork
from xfer.meta.gaussian_process import DirichletGaussianProcess
from xfer.meta.logistic_regression import CalibratedLogisticRegression
from xfer.meta.support_vector_machine import CalibratedSvm
from xfer.repurposer import MetaModelRepurposer
from xfer.targets import checked_labels

__all__ = ["BnnRepurposer", "GpRepurposer", "LrRepurposer", "SvmRepurposer"]


class OwnRepurposer(MetaModelRepurposer):
    """A repurposer that makes its meta-model: one label to an example, and no weights."""

    __init__ = OnLayers.__init__

    def fit(self, X, y=None):
        """Learn the new task.

        Parameters
        ----------
        X : array, dict of str to array, list, or what brings batches
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
        return super().fit(X, y)

    def _checked_targets(self, labels):
        return checked_labels(labels)


class LrRepurposer(OwnRepurposer):
    """Logistic regression on layers of a frozen network.

    The classifier is :class:`xfer.meta.logistic_regression.CalibratedLogisticRegression`.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or anything :func:`xfer.open_source` takes
        The network. It is never changed.
    feature_layer_names : str or list of str
        The layers to take features from.
    c : float, default=10.0
        Inverse strength of the ridge on the weights, on features of mean squared norm 1.
    tol : float, default=1e-4
        Stop when no component of the gradient is larger.
    n_jobs : int, optional
        Threads that share the folds of the calibration.
    random_state : int, default=0
        Seed of these folds.
    pooling, cache, context_function, num_devices, progress
        See :class:`xfer.MetaModelRepurposer`.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> images, digits = images[digits >= 5], digits[digits >= 5]
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> repurposer = xfer.LrRepurposer(source, "relu2", pooling="max")
    >>> repurposer.fit(images[:50], digits[:50]).predict(images[50:55])
    array([6, 7, 5, 7, 8])
    >>> bool(repurposer.score(images[50:], digits[50:]) > 0.7)
    True
    """

    @with_options_of(OnLayers)
    def __init__(
        self,
        source_model,
        feature_layer_names,
        *,
        c=10.0,
        tol=1e-4,
        n_jobs=None,
        random_state=0,
        **options,
    ):
        super().__init__(source_model, feature_layer_names, **options)
        self.c = c
        self.tol = tol
        self.n_jobs = n_jobs
        self.random_state = random_state

    def _meta_model(self):
        return CalibratedLogisticRegression(
            self.c, tol=self.tol, n_jobs=self.n_jobs, random_state=self.random_state
        )


class SvmRepurposer(OwnRepurposer):
    """Support vector machines on layers of a frozen network.

    The classifier is :class:`xfer.meta.support_vector_machine.CalibratedSvm`.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or anything :func:`xfer.open_source` takes
        The network. It is never changed.
    feature_layer_names : str or list of str
        The layers to take features from.
    c : float, default=5.0
        Price of a violated margin.
    kernel : {"rbf", "linear", "poly", "sigmoid"}, default="rbf"
        What measures the likeness of two examples.
    gamma : float, "scale" or "auto", default=0.3
        Width of the kernel, on features of mean squared norm 1.
    enable_probability_estimates : bool, default=True
        Whether ``predict_proba`` is to be had; learning then takes five more fits.
    random_state : int, default=0
        Seed of the folds of the calibration.
    pooling, cache, context_function, num_devices, progress
        See :class:`xfer.MetaModelRepurposer`.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> images, digits = images[digits >= 5], digits[digits >= 5]
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> repurposer = xfer.SvmRepurposer(source, "relu2", pooling="max")
    >>> probabilities = repurposer.fit(images[:50], digits[:50]).predict_proba(images[50:])
    >>> probabilities.shape
    (846, 5)
    """

    @with_options_of(OnLayers)
    def __init__(
        self,
        source_model,
        feature_layer_names,
        *,
        c=5.0,
        kernel="rbf",
        gamma=0.3,
        enable_probability_estimates=True,
        random_state=0,
        **options,
    ):
        super().__init__(source_model, feature_layer_names, **options)
        self.c = c
        self.kernel = kernel
        self.gamma = gamma
        self.enable_probability_estimates = enable_probability_estimates
        self.random_state = random_state

    def _meta_model(self):
        return CalibratedSvm(
            self.c,
            kernel=self.kernel,
            gamma=self.gamma,
            probability=self.enable_probability_estimates,
            random_state=self.random_state,
        )


class GpRepurposer(OwnRepurposer):
    """Gaussian processes on layers of a frozen network, with a kernel for each layer.

    The classifier is :class:`xfer.meta.gaussian_process.DirichletGaussianProcess`. Besides
    probabilities it has ``predict_uncertainty``.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or anything :func:`xfer.open_source` takes
        The network. It is never changed.
    feature_layer_names : str or list of str
        The layers to take features from.
    max_function_evaluations : int, default=100
        The most evaluations of the objective that the kernels are learned by.
    apply_l2_norm : bool, default=False
        Whether the features of each layer of an example are scaled to length 1 first.
    random_state : int, default=0
        Seed of the samples that probabilities are averaged over.
    pooling, cache, context_function, num_devices, progress
        See :class:`xfer.MetaModelRepurposer`.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> images, digits = images[digits >= 5], digits[digits >= 5]
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> repurposer = xfer.GpRepurposer(source, "relu2", pooling="max")
    >>> repurposer = repurposer.fit(images[:50], digits[:50])
    >>> known = repurposer.predict_uncertainty(images[50:]).epistemic.mean()
    >>> unknown = repurposer.predict_uncertainty(1 - images[50:]).epistemic.mean()
    >>> bool(known < unknown)
    True
    """

    @with_options_of(OnLayers)
    def __init__(
        self,
        source_model,
        feature_layer_names,
        *,
        max_function_evaluations=100,
        apply_l2_norm=False,
        random_state=0,
        **options,
    ):
        super().__init__(source_model, feature_layer_names, **options)
        self.max_function_evaluations = max_function_evaluations
        self.apply_l2_norm = apply_l2_norm
        self.random_state = random_state

    def _meta_model(self):
        return DirichletGaussianProcess(
            max_function_evaluations=self.max_function_evaluations,
            apply_l2_norm=self.apply_l2_norm,
            random_state=self.random_state,
            progress=self.progress,
        )

    def _fit_meta_model(self, meta_model, features, labels):
        numbers = np.arange(features.matrix.shape[1])
        meta_model.columns = [numbers[some] for some in features.columns.values()]
        meta_model.fit(features.matrix, labels)


class BnnRepurposer(OwnRepurposer):
    """A Bayesian neural network on layers of a frozen network.

    The classifier is :class:`xfer.meta.bayesian_network.BayesianNetwork`, which tells more of the
    options. Besides probabilities it has ``predict_uncertainty``.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or anything :func:`xfer.open_source` takes
        The network. It is never changed.
    feature_layer_names : str or list of str
        The layers to take features from.
    sigma : float, default=3.0
        Prior standard deviation of what enters a unit.
    num_layers, n_hidden : int
        Hidden layers of the Bayesian network, and units of each.
    num_samples_mc, num_samples_mc_prediction : int
        Samples in a step of the fit, and in a prediction.
    learning_rate : float
    batch_size, num_epochs : int
        Examples in a step, and the most passes over all of them.
    start_annealing, end_annealing : int
        Epochs between which the prior gets its weight.
    verbose : bool, default=False
        Whether to print the bound of the epochs.
    bnn_context_function : optional
        Accepted for the sake of existing scripts. The fit needs no device.
    random_state : int, default=0
        Seed of everything random.
    pooling, cache, context_function, num_devices, progress
        See :class:`xfer.MetaModelRepurposer`.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> images, digits = images[digits >= 5], digits[digits >= 5]
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> repurposer = xfer.BnnRepurposer(source, "relu2", pooling="max")
    >>> repurposer = repurposer.fit(images[:50], digits[:50])
    >>> total, aleatoric, epistemic = repurposer.predict_uncertainty(images[50:])
    >>> bool((abs(total - aleatoric - epistemic) < 1e-6).all())
    True
    """

    @with_options_of(OnLayers)
    def __init__(
        self,
        source_model,
        feature_layer_names,
        *,
        sigma=3.0,
        num_layers=1,
        n_hidden=30,
        num_samples_mc=2,
        learning_rate=0.02,
        batch_size=200,
        num_epochs=200,
        start_annealing=20,
        end_annealing=40,
        num_samples_mc_prediction=80,
        verbose=False,
        bnn_context_function=None,
        random_state=0,
        **options,
    ):
        super().__init__(source_model, feature_layer_names, **options)
        self.sigma = sigma
        self.num_layers = num_layers
        self.n_hidden = n_hidden
        self.num_samples_mc = num_samples_mc
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.num_epochs = num_epochs
        self.start_annealing = start_annealing
        self.end_annealing = end_annealing
        self.num_samples_mc_prediction = num_samples_mc_prediction
        self.verbose = verbose
        self.bnn_context_function = bnn_context_function
        self.random_state = random_state

    def _meta_model(self):
        return BayesianNetwork(
            self.sigma,
            num_layers=self.num_layers,
            n_hidden=self.n_hidden,
            num_samples_mc=self.num_samples_mc,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            num_epochs=self.num_epochs,
            start_annealing=self.start_annealing,
            end_annealing=self.end_annealing,
            num_samples_mc_prediction=self.num_samples_mc_prediction,
            verbose=self.verbose,
            random_state=self.random_state,
            progress=self.progress,
        )
