"""Pictures of learning: with more labels, and in more epochs."""

import numpy as np

from xfer.plots._shared import COLOURS, GREY, SMALL, look, new_axes, plain

_CURVE = "learning curve"


def learning_curve(sizes, scores, *, name=None, ax=None):
    """Draw how the score grows with the number of labels.

    Parameters
    ----------
    sizes : array-like of shape (n_sizes,)
        Numbers of labels, which are drawn on a logarithmic scale.
    scores : array-like of shape (n_sizes,) or (n_sizes, n_draws)
        The score with so many labels. Of several draws the mean is a line, and a standard deviation
        each way a band.
    name : str, optional
        Of the line.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure. Call again with the same to compare.

    Returns
    -------
    matplotlib.axes.Axes
        Its y axis says accuracy; ``ax.set_ylabel`` says something else.

    Raises
    ------
    ValueError
        If the shapes do not fit, a size is not positive, or a score is not finite.

    Examples
    --------
    >>> ax = learning_curve([10, 50], [[0.4, 0.5], [0.8, 0.7]], name="relu2")
    >>> ax.lines[0].get_ydata().round(2)
    array([0.45, 0.75])
    """
    sizes, scores = np.asarray(sizes, float), np.asarray(scores, float)
    if sizes.ndim != 1 or scores.ndim not in (1, 2) or len(sizes) != len(scores) or not scores.size:
        raise ValueError(
            "sizes must have shape (n_sizes,) and scores (n_sizes,) or (n_sizes, n_draws), got "
            f"{sizes.shape} and {scores.shape}"
        )
    if not (sizes.min() > 0 and np.isfinite(sizes).all() and np.isfinite(scores).all()):
        raise ValueError(
            f"sizes must be positive and scores finite, got {sizes.tolist()} and {scores.tolist()}"
        )
    order = sizes.argsort()
    sizes, scores = sizes[order], scores[order].reshape(len(sizes), -1)
    mean, deviation = scores.mean(axis=1), scores.std(axis=1)
    if ax is None:
        ax = new_axes(6, 4)
    curves = [line for line in ax.lines if line.get_gid() == _CURVE]
    style = look(len(curves))
    label = None if name is None else plain(name)
    curves += ax.plot(sizes, mean, **style, markersize=5, label=label, gid=_CURVE)
    if scores.shape[1] > 1:
        band = mean - deviation, mean + deviation
        ax.fill_between(sizes, *band, color=style["color"], alpha=0.15, linewidth=0)
    _mark_sizes(ax, np.unique(np.concatenate([line.get_xdata() for line in curves])))
    if not ax.get_ylabel():
        ax.set(xlabel="labels", ylabel="accuracy")
    if scores.shape[1] > 1 and ax.get_ylabel() == "accuracy":
        ax.set_ylabel("accuracy ± standard deviation")
    ax.spines[["top", "right"]].set_visible(False)
    if name is not None:
        ax.legend(fontsize=SMALL + 1, frameon=False)
    return ax


def _mark_sizes(ax, sizes):
    """Put ticks at the sizes, the largest first, but for those too close to another."""
    ax.set_xscale("log")
    least = 0.07 * np.log(sizes[-1] / sizes[0])
    marked = []
    for size in sizes[::-1]:
        if not marked or np.log(marked[-1] / size) >= least:
            marked.append(size)
    ax.set_xticks(marked, [f"{size:,.6g}" for size in marked])
    ax.set_xticks([], minor=True)


def training_curves(history, *, ax=None):
    """Draw how loss and accuracy went while a network was trained.

    Parameters
    ----------
    history : xfer.training.History
        ``history_`` of a repurposer that trains its network.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Of the loss; the accuracy is on an axis of its own on the right.

    Raises
    ------
    ValueError
        If loss and accuracy are not of the same epochs, or there is none.

    Examples
    --------
    >>> from xfer.training import History
    >>> ax = training_curves(History([0.1, 0.05], [1.2, 0.7], [0.5, 0.8], best_epoch=2))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('epoch', 'log loss, nats (solid)')
    """
    if not history.loss or len(history.loss) != len(history.accuracy):
        raise ValueError(
            "history must have the loss and the accuracy of each epoch, got "
            f"{len(history.loss)} and {len(history.accuracy)}"
        )
    if ax is None:
        ax = new_axes(6, 4)
    right = ax.twinx()
    epochs = np.arange(1, len(history.loss) + 1)
    ax.plot(epochs, history.loss, color=COLOURS[0], marker=".", label="learned from")
    right.plot(epochs, history.accuracy, color=COLOURS[0], marker=".", linestyle=":")
    if history.validation_loss:
        # What is held out is looked at before the first epoch too.
        epochs = np.arange(len(history.validation_loss))
        ax.plot(epochs, history.validation_loss, color=COLOURS[1], marker=".", label="held out")
        right.plot(epochs, history.validation_accuracy, color=COLOURS[1], marker=".", linestyle=":")
    label = f"kept: epoch {history.best_epoch}"
    ax.axvline(history.best_epoch, color=GREY, linewidth=1, linestyle="--", label=label)
    ax.set(xlabel="epoch", ylabel="log loss, nats (solid)")
    ax.set_ylim(bottom=0)
    ax.xaxis.get_major_locator().set_params(integer=True)
    right.set(ylabel="accuracy (dotted)", ylim=(0, 1.02))
    # Where curves rarely are, and in front of all: losses have fallen, and accuracies risen.
    right.legend(*ax.get_legend_handles_labels(), loc="center right", fontsize=SMALL + 1)
    ax.spines["top"].set_visible(False)
    right.spines["top"].set_visible(False)
    return ax
