"""Support vector machines for few labels."""

from numbers import Real

import numpy as np
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.svm import SVC
from sklearn.utils import gen_batches
from sklearn.utils.metaestimators import available_if

from xfer.meta.calibrated import CalibratedClassifier

_KERNELS = ("linear", "poly", "rbf", "sigmoid")
_ROWS_AT_A_TIME = 4096


def _has_probabilities(classifier):
    if classifier.probability:
        return True
    raise AttributeError(
        "to have probabilities, make the classifier with probability=True, "
        "or the SvmRepurposer with enable_probability_estimates=True"
    )


class CalibratedSvm(CalibratedClassifier):
    """One-vs-rest support vector machines on partly whitened features, calibrated.

    The machines share one kernel matrix of n x n numbers, which bounds the examples to some ten
    thousand.

    Parameters
    ----------
    c : float, default=5.0
        Price of a violated margin.
    kernel : {"rbf", "linear", "poly", "sigmoid"}, default="rbf"
        As in scikit-learn's SVC: of degree 3 and without a constant.
    gamma : float, "scale" or "auto", default=0.3
        Width of the kernel, on features of mean squared norm 1; "scale" is 1 and "auto" is one by
        the number of features.
    probability : bool, default=True
        Whether to calibrate, which takes five more fits. Without it there is no
        ``predict_proba``.
    random_state : int, default=0
        Seed of the folds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    mean_ : ndarray of shape (d,)
    components_ : ndarray of shape (d, rank)
        They whiten the features.
    support_vectors_ : ndarray of shape (n_support, rank)
        Whitened examples.
    dual_coef_ : ndarray of shape (n_classes, n_support)
    intercept_ : ndarray of shape (n_classes,)

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = CalibratedSvm().fit(X[:, :2], y)
    >>> model.predict_proba(X[[0, 60, 140], :2]).round(2)
    array([[0.99, 0.01, 0.01],
           [0.04, 0.79, 0.17],
           [0.01, 0.22, 0.77]])
    """

    _expected_log_scale = 1.0
    _ridge = 30.0

    def __init__(self, c=5.0, *, kernel="rbf", gamma=0.3, probability=True, random_state=0):
        self.c = c
        self.kernel = kernel
        self.gamma = gamma
        self.probability = probability
        self.random_state = random_state

    def check_parameters(self):
        """Refuse parameters that are out of range.

        Returns
        -------
        CalibratedSvm
            Itself.

        Raises
        ------
        ValueError
            Naming the parameter.
        """
        if self.kernel not in _KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(_KERNELS)}, got {self.kernel!r}")
        named = isinstance(self.gamma, str) and self.gamma in ("scale", "auto")
        if not named and not (isinstance(self.gamma, Real) and self.gamma > 0):
            raise ValueError(
                f"gamma must be a positive number, 'scale' or 'auto', got {self.gamma!r}"
            )
        return super().check_parameters()

    @available_if(_has_probabilities)
    def predict_proba(self, X):
        """Predict the probability of each label.

        Parameters
        ----------
        X : array-like of shape (m, d)

        Returns
        -------
        ndarray of shape (m, n_classes)
            Columns follow ``classes_``; rows sum to 1.
        """
        return super().predict_proba(X)

    def _calibrates(self):
        return self.probability

    def _fit_scores(self, Z, y):
        kernel, classes = self._basis(Z, Z), range(y.max() + 1)
        dual, intercept = np.zeros((len(classes), len(y))), np.zeros(len(classes))
        for number in classes[-1:] if len(classes) == 2 else classes:
            machine = SVC(C=self.c, kernel="precomputed").fit(kernel, y == number)
            dual[number, machine.support_] = machine.dual_coef_[0]
            intercept[number] = machine.intercept_[0]
        if len(classes) == 2:
            dual[0], intercept[0] = -dual[1], -intercept[1]
        return dual, intercept

    def _basis(self, new, Z):
        gamma = {"scale": 1.0, "auto": 1 / self.n_features_in_}.get(self.gamma, self.gamma)
        options = {"gamma": gamma, "coef0": 0.0, "degree": 3}
        return pairwise_kernels(new, Z, self.kernel, filter_params=True, **options)

    def _keep(self, whitening, Z, weights, intercept):
        used = np.abs(weights).sum(axis=0) > 0
        self.mean_, self.components_ = whitening.mean_, whitening.components_
        self.support_vectors_ = Z[used]
        self.dual_coef_, self.intercept_ = weights[:, used], intercept

    def _scores(self, X):
        scores = np.empty((len(X), len(self.classes_)))
        for rows in gen_batches(len(X), _ROWS_AT_A_TIME):
            new = (X[rows] - self.mean_) @ self.components_
            scores[rows] = self._basis(new, self.support_vectors_) @ self.dual_coef_.T
        return scores + self.intercept_
