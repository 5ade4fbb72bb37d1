"""Sets of labels with a coverage, and suspicious labels, from left-out predictions.

Left-out probabilities, of shape (n, n_classes), are those of labelled examples by models that have
not seen them; labels are class indices of shape (n,). A row of NaN stands for an example that was
never left out: it is not used.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np


def calibrate(left_out_probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return how unlikely the label of each example is when left out: 1 - p, of shape (n,).

    These scores give the smallest sets on average (Sadinle, Lei and Wasserman 2019, Least Ambiguous
    Set-Valued Classifiers with Bounded Error Levels, theorem 1), and need no random number to have
    the coverage asked for, as the adaptive ones of Romano, Sesia and Candes (2020) do.
    """
    return 1 - left_out_probabilities[np.arange(len(y)), y]


def sets(
    probabilities: np.ndarray, scores: np.ndarray, coverage: float, w: np.ndarray | None = None
) -> np.ndarray:
    """Return which labels are in the set of each row: bool, of shape (m, n_classes).

    ``scores`` are those of ``calibrate``, and ``w`` counts the copies of each example. If new rows
    are like the labelled ones, their sets hold the right label with probability ``coverage``, on
    average over rows and over samples of labels. A set is empty if no label is likely enough, and
    holds all labels if there are too few examples to promise the coverage.
    """
    check_share("coverage", coverage)
    return 1 - probabilities <= quantile(scores, coverage, w)


def suspicious(left_out_probabilities: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of examples, the most suspicious label first, and which labels are flagged.

    Both have shape (n,); the flags, bool, are in the order of the examples. Examples are in the
    order of the probability of their label less that of the likeliest other one. A label is
    flagged if another class is likelier and at least as likely as it is on average for its own
    members (Northcutt, Jiang and Chuang 2021, Confident Learning, eq. 2).
    """
    p, rows = left_out_probabilities, np.arange(len(y))
    known = np.isfinite(p).all(axis=1)
    own = p[rows, y]
    others = p.copy()
    others[rows, y] = -np.inf
    margins = own - others.max(axis=1)
    order = np.argsort(margins, kind="stable")  # NaN comes last
    counts = np.bincount(y[known], minlength=p.shape[1])
    sums = np.bincount(y[known], own[known], minlength=p.shape[1])
    usual = np.divide(sums, counts, out=np.full(len(counts), np.inf), where=counts > 0)
    flagged = (margins < 0) & (others >= usual).any(axis=1)
    return order, flagged


def quantile(scores: np.ndarray, level: float, w: np.ndarray | None = None) -> float:
    """Return a number that the score of a new example is at most with probability `level`.

    The new example counts as one more, with an infinite score (Vovk, Gammerman and Shafer 2005,
    Algorithmic Learning in a Random World, section 2.2). Scores that are NaN are not used.
    """
    known = np.isfinite(scores)
    values, weights = scores[known], np.ones(known.sum()) if w is None else w[known]
    order = np.argsort(values, kind="stable")
    reached = weights[order].cumsum()
    index = np.searchsorted(reached, level * (weights.sum() + 1) * (1 - 1e-12))
    return float(values[order[index]]) if index < len(values) else np.inf


def check_share(name: str, value: Any) -> None:
    """Refuse what is not a number between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < 1:
        raise ValueError(f"{name} must be a number > 0 and < 1, got {value!r}")
