"""Pictures of what repurposers return; the only importer of matplotlib."""

import numpy as np

__all__ = ["class_probabilities"]


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
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'xfer[plots]'") from error

    probabilities = np.asarray(probabilities)
    names = [str(name) for name in classes]
    if probabilities.shape != (len(names),):
        raise ValueError(
            f"probabilities must have shape ({len(names)},), one for each class, got "
            f"{probabilities.shape}"
        )
    if ax is None:
        height = 0.9 + 0.3 * len(names)
        ax = plt.subplots(figsize=(6, height), layout="constrained")[1]
    best = probabilities.argmax()
    colours = ["#0072B2" if number == best else "#9ecae1" for number in range(len(names))]
    ax.barh(names, probabilities, color=colours)
    for place, value in enumerate(probabilities):
        ax.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize=9)
    ax.set(xlim=(0, 1.1), xticks=np.linspace(0, 1, 6), xlabel="probability")
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    return ax
