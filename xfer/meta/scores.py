"""Probabilities from class scores that a network itself gives."""

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from xfer.meta.calibrated import fit_scale


class ScaledScores(ClassifierMixin, BaseEstimator):
    r"""The softmax of class scores, on a scale on which it means what it says.

    Temperature scaling [1]_, :math:`p = \mathrm{softmax}(a s)`; labels do not depend on it.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        What the columns of the scores stand for.
    scale : float, default=1.0
        :math:`a`.

    References
    ----------
    .. [1] Guo et al. (2017), On Calibration of Modern Neural Networks, eq. 9.

    Examples
    --------
    >>> ScaledScores(np.array(["bike", "car"])).predict_proba([[0.0, 2.0]]).round(2)
    array([[0.12, 0.88]])
    """

    def __init__(self, classes, scale=1.0):
        self.classes = classes
        self.scale = scale

    @classmethod
    def held_out(cls, classes, scores, targets):
        """Learn the scale: the one of least log loss, drawn to 1 by the weight of one example.

        Parameters
        ----------
        classes : ndarray of shape (n_classes,)
        scores : ndarray of shape (n, n_classes)
            Of examples that the network has not learned from.
        targets : ndarray of shape (n,)
            Their columns.

        Returns
        -------
        ScaledScores
        """
        return cls(classes, float(fit_scale(scores, targets, 0.0)))

    @property
    def classes_(self):
        """What the columns stand for (ndarray of shape (n_classes,))."""
        return self.classes

    def predict(self, X):
        """Return the label of the largest score of each row: ndarray of shape (n,)."""
        return self.classes[np.argmax(X, axis=1)]

    def predict_proba(self, X):
        """Return the probability of each class: ndarray of shape (n, n_classes)."""
        return softmax(self.scale * np.asarray(X, dtype=np.float64), axis=1)
