"""What the pictures share: new figures, colours, and how names are written."""

#: The palette of Okabe and Ito (2008), which the colour-blind can tell apart; without its yellow,
#: which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv"
GREY = "#999999"
#: In points; the smallest that a notebook shows legibly.
SMALL = 8


def new_axes(width, height):
    """Make a figure with one Axes.

    Parameters
    ----------
    width, height : float
        In inches.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If there is no matplotlib.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'xfer[plots]'") from error
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def look(number):
    """Return colour and marker of one of several things drawn beside each other.

    Parameters
    ----------
    number : int
        How many are before it. The first seven differ in colour, the first 35 in either.

    Returns
    -------
    dict
        Arguments of ``plot`` and ``scatter``.
    """
    rounds, colour = divmod(number, len(COLOURS))
    return {"color": COLOURS[colour], "marker": MARKERS[rounds % len(MARKERS)]}


def plain(name):
    r"""Return a name as matplotlib has to be told of it, so that it is shown as it is.

    Parameters
    ----------
    name : object

    Returns
    -------
    str

    Examples
    --------
    >>> plain("from $5 to $10")
    'from \\$5 to \\$10'
    """
    # What is between dollars would be set as a formula, and what begins with an underscore would
    # be left out of the legend: a space of no width goes before it.
    text = str(name).replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def legend_beside(ax, **options):
    """Put the legend to the right of an Axes, where it covers nothing.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    **options
        More arguments of ``Axes.legend``.
    """
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    ax.legend(**place, fontsize=SMALL + 1, frameon=False, **options)
