"""Features on one scale, without labels: a gentle whitening."""

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data


class PartialWhitening(TransformerMixin, BaseEstimator):
    r"""Centre, damp loud features, then damp loud directions; mean squared norm 1.

    Full whitening gives every direction the same variance and so trusts the noisiest; raw features
    leave a few loud ones in charge. In between, each feature is divided by the square root of its
    standard deviation (Pareto scaling [1]_), and each principal axis of variance :math:`v` is
    multiplied by :math:`\tilde v^{-1/8}`, where

    .. math:: \tilde v = \frac{n}{n + d} v + \frac{d}{n + d} \bar v

    is the variance shrunk towards the mean variance :math:`\bar v`, the more the fewer the examples
    are. The exponent was chosen on the tasks of ``benchmarks/meta_models.py``.

    Attributes
    ----------
    mean_ : ndarray of shape (d,)
        Of the training data.
    components_ : ndarray of shape (d, rank)
        What centred features are multiplied by. Constant features have a row of zeros.

    References
    ----------
    .. [1] van den Berg et al. (2006), Centering, scaling, and transformations, BMC Genomics 7:142.

    Examples
    --------
    >>> X = np.array([[0.0, 100.0], [1.0, -100.0], [2.0, 0.0]])
    >>> Z = PartialWhitening().fit_transform(X)
    >>> round(float((Z**2).sum(axis=1).mean()), 6)
    1.0
    """

    def fit(self, X, y=None):
        """Learn the scales.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : ignored

        Returns
        -------
        PartialWhitening
            Itself.
        """
        X = validate_data(self, X, dtype=np.float64)
        self.mean_ = X.mean(axis=0)
        Z = X - self.mean_
        deviation = Z.std(axis=0)
        varies = deviation > 1e-7 * np.abs(X).max(axis=0)
        weight = np.divide(1, np.sqrt(deviation), out=np.zeros_like(deviation), where=varies)
        Z *= weight
        n, d = len(Z), np.count_nonzero(varies)
        if not d:
            self.components_ = np.zeros((X.shape[1], 1))
            return self
        _, singular, axes = np.linalg.svd(Z, full_matrices=False)
        rank = np.count_nonzero(singular > 1e-7 * singular[0])
        variance, axes = singular[:rank] ** 2 / n, axes[:rank]
        shrunk = (n * variance + d * (variance.sum() / d)) / (n + d)
        damping = shrunk**-0.125
        size = np.sqrt((variance * damping**2).sum())
        self.components_ = weight[:, None] * axes.T * (damping / size)
        return self

    def transform(self, X):
        """Centre and scale.

        Parameters
        ----------
        X : array-like of shape (m, d)

        Returns
        -------
        ndarray of shape (m, rank)
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return (X - self.mean_) @ self.components_


def drawn_in(Z):
    """Draw whitened features in, so that no example is far from all others by its length alone.

    Parameters
    ----------
    Z : ndarray of shape (n, rank)
        Features of mean squared norm 1.

    Returns
    -------
    ndarray of shape (n, rank)
        Rows are divided by the root of the mean of 1 and their squared norm.
    """
    return Z / np.sqrt((1 + np.square(Z).sum(axis=1, keepdims=True)) / 2)
