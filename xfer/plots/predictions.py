"""Pictures of predicted classes."""

import numpy as np

from xfer.plots._shared import COLOURS, GREY, SMALL, new_axes, plain

# An inch of an axis has room for so many letters of the names on it.
_LETTERS_AN_INCH = 13


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
    names = [plain(name) for name in classes]
    if not names or probabilities.shape != (len(names),):
        raise ValueError(
            f"probabilities must have shape ({len(names)},), one for each class, got "
            f"{probabilities.shape}"
        )
    if ax is None:
        ax = new_axes(6, 0.9 + 0.3 * len(names))
    places = np.arange(len(names))
    colours = np.where(places == probabilities.argmax(), COLOURS[0], "#9ecae1")
    ax.barh(places, probabilities, color=colours)
    for place, value in enumerate(probabilities):
        ax.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize=SMALL + 1)
    ax.set_yticks(places, names)
    ax.set(xlim=(0, 1.12), xticks=np.linspace(0, 1, 6), xlabel="probability", ylabel="class")
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def confusion_matrix(labels, predicted, classes=None, *, ax=None):
    """Draw how often each class was taken for each.

    Rows are true classes and columns predicted ones; a cell tells how many examples there are, and
    its colour their share of the row.

    Parameters
    ----------
    labels : array-like of shape (n,)
        The true ones.
    predicted : array-like of shape (n,)
        What ``predict_label`` returned.
    classes : sequence, optional
        The classes in the order to be drawn, such as ``repurposer.classes_``; some may have no
        examples. By default those that occur, sorted.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The colour bar is an Axes of its own.

    Raises
    ------
    ValueError
        If the shapes do not fit, there are no examples, a label is not among the classes, or a
        class is there twice.

    Examples
    --------
    >>> ax = confusion_matrix(["cat", "dog", "dog"], ["cat", "dog", "cat"])
    >>> [text.get_text() for text in ax.texts]
    ['1', '0', '1', '1']
    """
    counts, classes = _count(np.asarray(labels), np.asarray(predicted), classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(classes)
    names = [plain(name) for name in classes]
    if ax is None:
        side, room = max(2.6, 0.45 * size), max(map(len, names)) / _LETTERS_AN_INCH
        ax = new_axes(side + room + 1.4, side + room + 0.5)
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(size, size):
        count, share = counts[row, column], shares[row, column]
        colour = ("white" if share > 0.5 else "black") if count else GREY
        look = {"color": colour, "fontsize": SMALL + (size <= 12), "ha": "center", "va": "center"}
        ax.text(column, row, f"{count:,}", **look)
    ax.set_yticks(range(size), names)
    inches = ax.get_window_extent().width / ax.figure.dpi
    long = max(map(len, names)) > _LETTERS_AN_INCH * inches / size
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if long else {}
    ax.set_xticks(range(size), names, **turned)
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.figure.colorbar(image, ax=ax, label="share of the true class").outline.set_visible(False)
    return ax


def _count(labels, predicted, classes):
    """Count examples by true and predicted class; return the counts and the classes."""
    if labels.ndim != 1 or labels.shape != predicted.shape or not labels.size:
        raise ValueError(
            "labels and predicted must have the shape (n,), n at least 1, got "
            f"{labels.shape} and {predicted.shape}"
        )
    labels, predicted = labels.tolist(), predicted.tolist()
    found = dict.fromkeys([*labels, *predicted])
    if classes is None:
        if len({isinstance(name, str) for name in found}) > 1:
            raise ValueError(
                "labels and predicted must be both strings or both numbers, got "
                f"{labels[0]!r} and {predicted[0]!r}"
            )
        classes = sorted(found)
    classes = np.asarray(classes).tolist()
    places = {name: place for place, name in enumerate(classes)}
    if len(places) < len(classes):
        raise ValueError(f"each class should be there once, got {classes}")
    strange = [name for name in found if name not in places]
    if strange:
        raise ValueError(
            f"labels and predicted should be among the classes {classes}, got {strange[:5]}"
        )
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, ([places[x] for x in labels], [places[x] for x in predicted]), 1)
    return counts, classes
