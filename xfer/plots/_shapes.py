"""Boxes, arrows and words in the units of a layout; imported when a network is drawn."""

import re

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Ellipse, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from xfer.diagram.boxes import CODE, LINE
from xfer.diagram.operators import FAMILIES

_INK, _GREY = "#222222", "#666666"
_DASHED = (0, (4, 3))


class ScaledText(Text):
    """Text whose size is in the units of the data, so that it stays in its box at any size.

    Parameters
    ----------
    x, y : float
    text : str
    height : float
        Of the font, in units of the y axis.
    **options
        More arguments of `matplotlib.text.Text`.
    """

    def __init__(self, x, y, text, height, **options):
        super().__init__(x, y, text, **options, parse_math=False, clip_on=True)
        self._height = height

    def draw(self, renderer):
        """Draw it, as large as the axes are now."""
        (_, low), (_, high) = self.axes.transData.transform([(0, 0), (0, self._height)])
        self.set_fontsize(abs(high - low) / renderer.points_to_pixels(1))
        super().draw(renderer)


def write(ax, x, y, text, height, *, halo=False, **options):
    """Write a line of text.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    x, y : float
        The middle of its height.
    text : str
    height : float
        Of the font.
    halo : bool, default=False
        Whether to keep what is behind it away from the letters.
    **options
        More arguments of `matplotlib.text.Text`.
    """
    if halo:
        options["path_effects"] = [withStroke(linewidth=2, foreground="white")]
    options = {"va": "center", "color": _INK, **options}
    ax.add_artist(ScaledText(x, y, text, height, **options))


def draw_box(ax, box):
    """Draw a box, its text and, of an output of the network, a second outline.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    box : xfer.diagram.boxes.Box
    """
    # What stands for no family, as in a legend, is white.
    is_mark = not box.lines and (box.head or box.idle)
    colour = np.array(to_rgb(_GREY if is_mark else FAMILIES[box.family][0]))
    fill = "white" if is_mark else 0.16 * colour + 0.84
    style = {"edgecolor": colour, "linewidth": 1.2, "linestyle": _DASHED if box.idle else "-"}
    ax.add_patch(_outline(box, 0, facecolor=fill, **style))
    if box.head:
        ax.add_patch(_outline(box, 3, facecolor="none", edgecolor=_INK, linewidth=0.8))
    top = box.y - box.height / 2 + 7 + LINE / 2
    for row, (font, line) in enumerate(box.lines):
        look = {"weight": "normal" if row else "bold", "ha": "center"}
        look["family"] = "monospace" if font is CODE else "sans-serif"
        write(ax, box.x, top + LINE * row, line, 11 if row else 12, **look)


def _outline(box, inset, **style):
    wide, high = 2 * (box.half - inset), box.height - 2 * inset
    if box.family == "input":
        return Ellipse((box.x, box.y), wide, high, **style)
    corner = box.x - wide / 2, box.y - high / 2
    return FancyBboxPatch(
        corner, wide, high, boxstyle=f"round,pad=0,rounding_size={6 - inset}", **style
    )


def draw_edge(ax, edge):
    """Draw an edge with its arrow.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    edge : xfer.diagram.layout.Edge
    """
    style = _DASHED if edge.idle else "-"
    way = _read_path(edge.path)
    ax.add_patch(PathPatch(way, fill=False, edgecolor=_GREY, linewidth=1, linestyle=style))
    x, y = edge.tip
    ax.add_patch(Polygon([(x, y), (x - 3.5, y - 7), (x + 3.5, y - 7)], color=_GREY, linewidth=0))


def _read_path(text):
    """Read the path of an SVG that has M, V and C of absolute places, as those of layouts do."""
    points, codes = [], []
    for letter, numbers in re.findall("([MVC])([^MVC]+)", text):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        if letter == "V":
            numbers = [points[-1][0], *numbers]
        pairs = list(zip(numbers[::2], numbers[1::2]))
        points += pairs
        codes += [{"M": Path.MOVETO, "V": Path.LINETO, "C": Path.CURVE4}[letter]] * len(pairs)
    return Path(points, codes)
