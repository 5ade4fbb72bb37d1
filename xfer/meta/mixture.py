"""A classifier made of several classifiers of several layers, weighted by left-out predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from xfer.meta.heads import _chosen_rows, _has_company

_RIDGE = 3.0
_TOTAL = 1.3
_FLOOR = -30.0  # of log probabilities: one head cannot rule a class out alone


def pool_weights(
    left_out: np.ndarray, y: np.ndarray, w: np.ndarray, shares: np.ndarray
) -> np.ndarray:
    """Return the weight of each head: softmax(sum of weight * log probabilities) fits the labels.

    ``left_out`` are log probabilities of shape (n_heads, n, n_classes). The weights are at least 0,
    of least log loss, and drawn to ``shares`` by a ridge.
    """
    n_classes = left_out.shape[2]
    rows = _chosen_rows(len(y), n_classes)
    rows = rows[(_has_company(y, w))[rows]]
    if not len(rows):
        return shares
    given = np.maximum(left_out[:, rows], _FLOOR).astype(float)
    w, labels = w[rows], (np.arange(len(rows)), y[rows])
    of_label = given[:, labels[0], labels[1]] @ w

    def loss_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        log_p = log_softmax(np.tensordot(weights, given, 1), axis=1)
        away = weights - shares
        loss = _RIDGE / 2 * away @ (away / shares) - w @ log_p[labels]
        p = np.exp(log_p) * w[:, None]
        gradient = np.tensordot(given, p, 2) - of_label + _RIDGE * away / shares
        return loss, gradient

    bounds = [(0, None)] * len(shares)
    return minimize(loss_and_gradient, shares, jac=True, method="L-BFGS-B", bounds=bounds).x
