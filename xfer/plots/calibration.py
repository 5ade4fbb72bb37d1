"""Pictures of how far predictions can be trusted."""

import numpy as np

from xfer.plots._shared import COLOURS, GREY, SMALL, legend_beside, look, new_axes, plain

# The counts of a reliability diagram are below its square, in units of its sides.
_STRIP = {"bounds": (0, -0.36, 1, 0.28), "label": "counts"}


def reliability(probabilities, labels, classes, *, bins=15, name=None, ax=None):
    """Draw how often predictions are right against how sure they are.

    The nearer to the diagonal, the better calibrated. Bars below tell how many predictions each
    point stands for. The legend tells the expected calibration error [1]_: the mean distance from
    the diagonal, each bin weighted by its share.

    Parameters
    ----------
    probabilities : array-like of shape (n, n_classes)
        What ``predict_probability`` returned.
    labels : array-like of shape (n,)
        The true labels.
    classes : array-like of shape (n_classes,)
        ``repurposer.classes_``.
    bins : int, default=15
        Of equal width, from 0 to 1. Empty ones are left out.
    name : str, optional
        Of the line.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure. Call again with the same to compare.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the shapes do not fit, there are no examples, probabilities are not from 0 to 1, or there
        is no bin.

    References
    ----------
    .. [1] Guo et al. (2017), On Calibration of Modern Neural Networks, eq. 3.

    Examples
    --------
    >>> ax = reliability([[0.9, 0.1], [0.3, 0.7]], ["a", "b"], ["a", "b"], name="GP")
    >>> ax.get_legend_handles_labels()[1]
    ['GP: 0.200']
    """
    probabilities, labels, classes = map(np.asarray, (probabilities, labels, classes))
    if labels.ndim != 1 or not labels.size or classes.ndim != 1:
        raise ValueError(
            "labels and classes must have the shapes (n,), n at least 1, and (n_classes,), got "
            f"{labels.shape} and {classes.shape}"
        )
    if probabilities.shape != (len(labels), len(classes)):
        raise ValueError(
            f"probabilities must have shape ({len(labels)}, {len(classes)}), a row for each label "
            f"and a column for each class, got {probabilities.shape}"
        )
    sure = probabilities.max(axis=1)
    if not (sure <= 1 + 1e-6).all() or probabilities.min() < 0:
        raise ValueError(
            f"probabilities must be from 0 to 1, got {probabilities.min():.3g} to {sure.max():.3g}"
        )
    if bins < 1:
        raise ValueError(f"bins must be 1 or more, got {bins!r}")
    right = classes[probabilities.argmax(axis=1)] == labels
    place = np.minimum((sure * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    error = np.abs(np.bincount(place, right - sure, minlength=bins)).sum() / len(labels)
    filled = count > 0
    confidence = np.bincount(place, sure, minlength=bins)[filled] / count[filled]
    accuracy = np.bincount(place, right, minlength=bins)[filled] / count[filled]
    if ax is None:
        ax = new_axes(5, 6)
    strip = next((one for one in ax.child_axes if one.get_label() == _STRIP["label"]), None)
    if strip is None:
        strip = _draw_frame(ax)
    style = look(len(strip.patches) // 2)
    label = f"{plain(name)}: {error:.3f}" if name else f"{error:.3f}"
    ax.plot(confidence, accuracy, **style, markersize=4, label=label)
    # Filled, and the outline again for where others are in front.
    edges = np.linspace(0, 1, bins + 1)
    strip.stairs(count, edges, fill=True, color=style["color"], alpha=0.15)
    strip.stairs(count, edges, color=style["color"], linewidth=1.2)
    # The best place in the square, not over the counts.
    square = {"loc": "best", "bbox_to_anchor": (0, 0, 1, 1), "bbox_transform": ax.transData}
    small = {"fontsize": SMALL, "title_fontsize": SMALL, "handlelength": 1.2, "framealpha": 0.7}
    ax.legend(title="calibration error", **square, **small)
    return ax


def _draw_frame(ax):
    """Draw the diagonal, and make room for counts below; return the Axes of the counts."""
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    ticks = np.linspace(0, 1, 6)
    ax.set(xlim=(0, 1), ylim=(_STRIP["bounds"][1], 1.02), xticks=ticks, yticks=ticks)
    ax.set(xlabel="how sure", aspect="equal")
    bottom, top = ax.get_ylim()
    ax.set_ylabel("how often right", y=(0.5 - bottom) / (top - bottom))
    ax.spines["left"].set_bounds(0, 1)
    ax.hlines(0, 0, 1, color="black", linewidth=0.8)
    strip = ax.inset_axes(**_STRIP, transform=ax.transData, sharex=ax)
    strip.set_ylabel("count", fontsize=SMALL + 1)
    strip.tick_params(bottom=False, labelbottom=False)
    strip.tick_params(axis="y", labelsize=SMALL)
    strip.yaxis.get_major_locator().set_params(nbins=3, integer=True)
    for one in (ax, strip):
        one.spines[["top", "right"]].set_visible(False)
    return strip


def uncertainty_split(uncertainty, groups=None, *, ax=None):
    """Draw how unsure predictions are, and how much of that more labels would mend.

    Parameters
    ----------
    uncertainty : Uncertainty
        What ``predict_uncertainty`` of a `GpRepurposer` or `BnnRepurposer` returned: total,
        aleatoric and epistemic, each of shape (n,), in nats.
    groups : array-like of shape (n,), optional
        A name for each example; each group has a bar, in the order of their first examples. By
        default there is one bar for all.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If `uncertainty` does not have these parts.
    ValueError
        If the shapes do not fit, or there are no examples.

    Examples
    --------
    >>> from xfer.meta.posterior import Uncertainty
    >>> ax = uncertainty_split(Uncertainty([0.3, 0.9], [0.2, 0.3], [0.1, 0.6]), ["seen", "new"])
    >>> [text.get_text() for text in ax.texts]
    ['0.30', '0.90']
    """
    missing = [part for part in ("aleatoric", "epistemic") if not hasattr(uncertainty, part)]
    if missing:
        raise TypeError(
            "uncertainty must be what predict_uncertainty returned, got "
            f"{type(uncertainty).__name__} without {' and '.join(missing)}"
        )
    parts = {part: np.asarray(getattr(uncertainty, part)) for part in ("aleatoric", "epistemic")}
    shape = parts["aleatoric"].shape
    if len(shape) != 1 or not shape[0] or parts["epistemic"].shape != shape:
        raise ValueError(
            "the parts of uncertainty must have the shape (n,), n at least 1, got "
            + " and ".join(str(part.shape) for part in parts.values())
        )
    groups = np.full(shape, "all") if groups is None else np.asarray(groups)
    if groups.shape != shape:
        raise ValueError(
            f"groups must have shape {shape}, a name for each example, got {groups.shape}"
        )
    names, where = np.unique(groups, return_inverse=True)
    firsts = np.argsort([np.argmax(where == place) for place in range(len(names))])
    counts = np.bincount(where)[firsts]
    if ax is None:
        ax = new_axes(6, 1.1 + 0.38 * len(names))
    places, total = np.arange(len(names)), np.zeros(len(names))
    for (part, values), colour in zip(parts.items(), (COLOURS[5], COLOURS[1])):
        means = np.bincount(where, values)[firsts] / counts
        ax.barh(places, means, left=total, label=part, color=colour)
        total = total + means
    for place, value in enumerate(total):
        ax.annotate(
            f"{value:.2f}",
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL + 1,
        )
    ax.set_yticks(
        places, [f"{plain(name)} ({count:,})" for name, count in zip(names[firsts], counts)]
    )
    ax.set(xlabel="mean uncertainty, nats", ylabel="group (examples)")
    ax.margins(x=0.12)
    ax.set_xlim(left=0)
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    legend_beside(ax)
    return ax
