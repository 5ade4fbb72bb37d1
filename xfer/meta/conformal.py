"""Sets of labels with a coverage, and suspicious labels, from left-out predictions.

Left-out probabilities, of shape (n, n_classes), are those of labelled examples by models that have
not seen them; labels are class indices of shape (n,). A row of NaN stands for an example that was
never left out: it is not used.
"""

from __future__ import annotations

import numpy as np

from xfer._checks import check_share

_SUSPICIOUS = 1 / 20  # chosen on newsgroups and CIFAR-100, 20 and 50 labels per class


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
    average over rows and over samples of labels. This is measured, not proved: the model of new
    rows has seen more labels than those of left-out ones (Barber et al. 2021, Predictive Inference
    with the Jackknife+, prove 2 * coverage - 1 for a related set that needs all these models). A
    set is empty if no label is likely enough, and holds all labels if there are too few examples to
    promise the coverage.
    """
    check_share("coverage", coverage)
    return 1 - probabilities <= quantile(scores, coverage, w)


def suspicious(left_out_probabilities: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of examples, the most suspicious label first, and which labels are flagged.

    Both have shape (n,); the flags, bool, are in the order of the examples. What counts is the
    probability of the label as a share of the largest; a label with less than a twentieth is
    flagged. With 5% wrong labels, about half of those flagged are wrong: three to four times the
    precision of the thresholds of confident learning (Northcutt, Jiang and Chuang 2021, eq. 2),
    which flag many right labels where classes overlap.
    """
    shares = left_out_probabilities[np.arange(len(y)), y] / left_out_probabilities.max(axis=1)
    return np.argsort(shares, kind="stable"), shares < _SUSPICIOUS  # NaN is last, and not flagged


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
