"""How well features separate the classes, without training a classifier: H-score and LogME."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import svd
from scipy.optimize import minimize_scalar
from sklearn.utils import check_X_y

__all__ = ["h_score", "logme"]


def h_score(X: ArrayLike, y: ArrayLike) -> float:
    r"""Measure how much of the features' variance lies between the classes.

    This is the H-score with a shrunk covariance [1]_, :math:`(1 - \alpha)\,\mathrm{tr}(
    \Sigma_\alpha^{-1} \Sigma_B)`: :math:`\Sigma_B` is the covariance of the class means, and
    :math:`\alpha` the shrinkage of Ledoit and Wolf [2]_.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Features.
    y : array-like of shape (n_samples,)
        Labels, of at least two classes.

    Returns
    -------
    float
        From 0 to the number of classes - 1; higher is better. Comparable between features of the
        same examples only.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or the arrays do not fit.

    References
    ----------
    .. [1] Ibrahim et al. (2021), Newer is not always better: Rethinking transferability metrics,
           their peculiarities, stability and performance, section 3.
    .. [2] Ledoit and Wolf (2004), A well-conditioned estimator for large-dimensional covariance
           matrices.

    Examples
    --------
    >>> round(h_score([[0.0], [0.1], [1.0], [1.1]], ["a", "a", "b", "b"]), 2)
    0.99
    """
    X, members = _checked(X, y)
    n, d = X.shape
    # All happens in the span of the examples, so that no matrix is of shape (d, d).
    u, s, _ = svd(X - X.mean(axis=0), full_matrices=False)
    variances = s**2 / n
    shrinkage = _shrinkage(u * s, variances, d)
    shrunk = (1 - shrinkage) * variances + shrinkage * variances.sum() / d
    counts = members.sum(axis=0)
    means = (members.T @ (u * s)) / counts[:, None]
    between = counts @ means**2 / n
    seen = shrunk > 1e-12 * shrunk.max(initial=0)
    return float((1 - shrinkage) * (between[seen] / shrunk[seen]).sum())


def logme(X: ArrayLike, y: ArrayLike) -> float:
    """Measure how well Bayesian linear regression explains the labels (LogME).

    For each class against the others, this is the log evidence per example, maximised over the
    precisions of the weights and of the noise [1]_; their mean over the classes.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Features.
    y : array-like of shape (n_samples,)
        Labels, of at least two classes.

    Returns
    -------
    float
        In nats per example; higher is better.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or the arrays do not fit.

    References
    ----------
    .. [1] You et al. (2021), LogME: Practical assessment of pre-trained models for transfer
           learning, section 4.

    Examples
    --------
    >>> X = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]
    >>> logme(X, ["a", "a", "b", "b"]) > logme(X, ["a", "b", "a", "b"])
    True
    """
    X, members = _checked(X, y)
    u, s, _ = svd(X, full_matrices=False)
    squares = s**2
    return float(np.mean([_evidence(squares, u.T @ one, one @ one, len(X)) for one in members.T]))


def _checked(X: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the features, and a matrix (n, classes) of ones and zeros."""
    matrix, labels = check_X_y(X, y, dtype=np.float64, ensure_min_samples=2)
    classes, index = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels of at least two classes are needed, got only {classes[0]!r}")
    return matrix, np.eye(len(classes))[index]


def _shrinkage(centred: np.ndarray, variances: np.ndarray, d: int) -> float:
    """Return the share of Ledoit and Wolf (2004); scikit-learn's takes matrices (d, d)."""
    n = len(centred)
    mean = variances.sum() / d
    spread = (variances**2).sum() / d - mean**2
    noise = (((centred**2).sum(axis=1) ** 2).sum() / n - (variances**2).sum()) / (d * n)
    return float(min(noise, spread) / spread) if spread > 0 and noise > 0 else 0.0


def _evidence(squares: np.ndarray, projected: np.ndarray, square: float, n: int) -> float:
    """Maximise the log evidence per example, for squared singular values and u.T @ target.

    The best precision of the noise has a closed form for each ratio of the two precisions, so that
    one number is left to search for. Fixed-point steps would divide by a residual of zero where
    there are more features than examples.
    """
    rest = max(square - float(projected @ projected), 0.0)

    def negative(log_ratio: float) -> float:
        ratio = np.exp(log_ratio) * max(squares.max(), np.finfo(float).tiny)
        quadratic = (projected**2 * ratio / (squares + ratio)).sum() + rest
        log_determinant = np.log1p(squares / ratio).sum()
        return 0.5 * (np.log(2 * np.pi * quadratic / n) + 1 + log_determinant / n)

    # The grid finds the best valley; the search its floor.
    grid = np.linspace(-25, 10, 71)
    best = grid[np.argmin([negative(one) for one in grid])]
    found = minimize_scalar(negative, bounds=(best - 0.5, best + 0.5), method="bounded")
    return -float(found.fun)
