"""Repurposers by the classifier that they put on the features."""

from xfer.meta.logistic_regression import CalibratedLogisticRegression
from xfer.meta.support_vector_machine import CalibratedSvm
from xfer.repurposer import MetaModelRepurposer

__all__ = ["LrRepurposer", "SvmRepurposer"]


class LrRepurposer(MetaModelRepurposer):
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
    pooling, context_function, num_devices, progress
        See :class:`xfer.MetaModelRepurposer`.

    Examples
    --------
    >>> import numpy as np
    >>> import mxnet as mx
    >>> hidden = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=4, name="hidden")
    >>> module = mx.mod.Module(mx.sym.softmax(hidden, name="out"), label_names=None)
    >>> module.bind(data_shapes=[("data", (10, 8))], for_training=False)
    >>> module.init_params()
    >>> X, y = np.eye(8)[[0, 0, 0, 1, 1, 1]], ["bike"] * 3 + ["car"] * 3
    >>> repurposer = LrRepurposer(module, ["hidden"]).fit(X, y)
    >>> repurposer.predict(X[[0, 5]])
    array(['bike', 'car'], dtype='<U4')
    """

    def __init__(
        self,
        source_model,
        feature_layer_names,
        *,
        c=10.0,
        tol=1e-4,
        n_jobs=None,
        random_state=0,
        pooling="flatten",
        context_function=None,
        num_devices=1,
        progress=None,
    ):
        self.source_model = source_model
        self.feature_layer_names = feature_layer_names
        self.c = c
        self.tol = tol
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.pooling = pooling
        self.context_function = context_function
        self.num_devices = num_devices
        self.progress = progress

    def _meta_model(self):
        return CalibratedLogisticRegression(
            self.c, tol=self.tol, n_jobs=self.n_jobs, random_state=self.random_state
        )


class SvmRepurposer(MetaModelRepurposer):
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
    pooling, context_function, num_devices, progress
        See :class:`xfer.MetaModelRepurposer`.
    """

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
        pooling="flatten",
        context_function=None,
        num_devices=1,
        progress=None,
    ):
        self.source_model = source_model
        self.feature_layer_names = feature_layer_names
        self.c = c
        self.kernel = kernel
        self.gamma = gamma
        self.enable_probability_estimates = enable_probability_estimates
        self.random_state = random_state
        self.pooling = pooling
        self.context_function = context_function
        self.num_devices = num_devices
        self.progress = progress

    def _meta_model(self):
        return CalibratedSvm(
            self.c,
            kernel=self.kernel,
            gamma=self.gamma,
            probability=self.enable_probability_estimates,
            random_state=self.random_state,
        )
