"""Pictures of what repurposers return; the only importer of matplotlib."""

import numpy as np

__all__ = ["class_probabilities", "reliability", "training_curves"]


def class_probabilities(probabilities, classes, *, ax=None):
    """Draw the class probabilities of one example as a bar chart.

    Parameters
    ----------
    probabilities : array-like of shape (n_classes,)
        One row of ``predict_probability``.
    classes : sequence of length n_classes
        Their names, such as ``repurposer.classes_``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the numbers of probabilities and classes differ.

    Examples
    --------
    >>> ax = class_probabilities([0.7, 0.2, 0.1], ["autos", "electronics", "guns"])
    >>> ax.get_xlabel()
    'probability'
    """
    probabilities = np.asarray(probabilities)
    names = [str(name) for name in classes]
    if probabilities.shape != (len(names),):
        raise ValueError(
            f"probabilities must have shape ({len(names)},), one for each class, got "
            f"{probabilities.shape}"
        )
    if ax is None:
        height = 0.9 + 0.3 * len(names)
        ax = _new_axes((6, height))
    best = probabilities.argmax()
    colours = ["#0072B2" if number == best else "#9ecae1" for number in range(len(names))]
    ax.barh(names, probabilities, color=colours)
    for place, value in enumerate(probabilities):
        ax.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize=9)
    ax.set(xlim=(0, 1.1), xticks=np.linspace(0, 1, 6), xlabel="probability")
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def reliability(probabilities, labels, classes, *, bins=15, name=None, ax=None):
    """Draw how often predictions are right against how sure they are.

    The nearer to the diagonal, the better calibrated. The label of the line tells the expected
    calibration error [1]_: the mean distance from the diagonal, each bin weighted by its share.

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
        If the shapes do not fit.

    References
    ----------
    .. [1] Guo et al. (2017), On Calibration of Modern Neural Networks, eq. 3.

    Examples
    --------
    >>> ax = reliability([[0.9, 0.1], [0.3, 0.7]], ["a", "b"], ["a", "b"], name="GP")
    >>> ax.get_legend_handles_labels()[1]
    ['GP: calibration error 0.200']
    """
    probabilities, labels, classes = map(np.asarray, (probabilities, labels, classes))
    if probabilities.shape != (len(labels), len(classes)):
        raise ValueError(
            f"probabilities must have shape ({len(labels)}, {len(classes)}), a row for each label "
            f"and a column for each class, got {probabilities.shape}"
        )
    sure = probabilities.max(axis=1)
    right = classes[probabilities.argmax(axis=1)] == labels
    place = np.minimum((sure * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    error = np.abs(np.bincount(place, right - sure, minlength=bins)).sum() / len(labels)
    filled = count > 0
    confidence = np.bincount(place, sure, minlength=bins)[filled] / count[filled]
    accuracy = np.bincount(place, right, minlength=bins)[filled] / count[filled]
    if ax is None:
        ax = _new_axes((5, 5))
    if not ax.lines:
        ax.plot([0, 1], [0, 1], color="#999999", linestyle=":", linewidth=1)
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="how sure", ylabel="how often right")
        ax.set_aspect("equal")
        ax.spines[["top", "right"]].set_visible(False)
    label = f"{name}: calibration error {error:.3f}" if name else f"calibration error {error:.3f}"
    line = ax.plot(confidence, accuracy, label=label)[0]
    size = 150 * count[filled] / count.max()
    ax.scatter(confidence, accuracy, size, color=line.get_color(), alpha=0.5, linewidths=0)
    ax.legend(loc="lower right", fontsize=8, frameon=False)
    return ax


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

    Examples
    --------
    >>> from xfer.training import History
    >>> ax = training_curves(History([0.1, 0.05], [1.2, 0.7], [0.5, 0.8], best_epoch=2))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('epoch', 'log loss, nats (solid)')
    """
    if ax is None:
        ax = _new_axes((6, 4))
    right = ax.twinx()
    epochs = np.arange(1, len(history.loss) + 1)
    ax.plot(epochs, history.loss, color="#0072B2", marker=".", label="learned from")
    right.plot(epochs, history.accuracy, color="#0072B2", marker=".", linestyle=":")
    if history.validation_loss:
        # What is held out is looked at before the first epoch too.
        epochs = np.arange(len(history.validation_loss))
        ax.plot(epochs, history.validation_loss, color="#D55E00", marker=".", label="held out")
        right.plot(epochs, history.validation_accuracy, color="#D55E00", marker=".", linestyle=":")
    label = f"kept: epoch {history.best_epoch}"
    ax.axvline(history.best_epoch, color="#999999", linewidth=1, linestyle="--", label=label)
    ax.set(xlabel="epoch", ylabel="log loss, nats (solid)")
    ax.set_ylim(bottom=0)
    ax.xaxis.get_major_locator().set_params(integer=True)
    right.set(ylabel="accuracy (dotted)", ylim=(0, 1.02))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=9, frameon=False)
    ax.spines["top"].set_visible(False)
    right.spines["top"].set_visible(False)
    return ax


def _new_axes(size):
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'xfer[plots]'") from error
    return plt.subplots(figsize=size, layout="constrained")[1]
