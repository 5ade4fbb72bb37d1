"""The text of the SVG, from boxes and edges that have their places."""

import re
from xml.sax.saxutils import escape

from xfer.diagram.boxes import LINE, PROSE, Box
from xfer.diagram.layout import MARGIN
from xfer.diagram.operators import FAMILIES

_INK, _GREY = "#222222", "#666666"
_DASHED = ' stroke-dasharray="4 3"'
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_svg(boxes, edges, title):
    """Put the picture together; without a style sheet, which in a page would be everybody's.

    Parameters
    ----------
    boxes : dict of int to Box
    edges : list of Edge
    title : str or None

    Returns
    -------
    str
        A document of its own, which may also be put into a page.
    """
    left, right = _sides(boxes, edges)
    width = max(right - left + 2 * MARGIN, 400)
    height = max((box.y + box.height / 2 for box in boxes.values()), default=0) + MARGIN
    heading, top = _heading(boxes, title, width)
    lines = [
        f'<path class="edge" data-from="{edge.source}" data-to="{edge.reader}" d="{edge.path}"'
        f"{_DASHED if edge.idle else ''}/>"
        for edge in edges
    ]
    tips = "".join(f"M{x:.1f},{y:.1f}l-3.5,-7h7z" for x, y in (edge.tip for edge in edges))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" '
            f'height="{top + height:.0f}" viewBox="0 0 {width:.0f} {top + height:.0f}">',
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            heading,
            f'<g transform="translate({(width - right - left) / 2:.1f},{top:.0f})">',
            f'<g fill="none" stroke="{_GREY}" stroke-width="1.3">',
            *lines,
            "</g>",
            f'<path fill="{_GREY}" d="{tips}"/>',
            *(_drawn(number, box) for number, box in boxes.items()),
            "</g>",
            "</svg>\n",
        ]
    )


def _sides(boxes, edges):
    """Tell where the picture begins and ends, with the shapes that are written beside boxes."""
    left, right = MARGIN, max((edge.right + 8 for edge in edges), default=0)
    for box in boxes.values():
        wide = 6.5 * len(box.shape) + 8
        right = max(right, box.x + max(box.half, wide))
        if _is_shape_left(box):
            left = min(left, box.x - wide)
    return left, right


def _is_shape_left(box):
    """Tell whether fewer edges leave to the left, so that a shape is written there (bool)."""
    return sum((other.x > box.x) - (other.x < box.x) for other in box.below) > 0


def _drawn(number, box):
    """Draw a box and its text."""
    x, top = box.x, box.y - box.height / 2
    look = f'{_colours(box.family)} stroke-width="1.5"{_DASHED if box.idle else ""}'
    outline, kind = (_ellipse, "input") if box.family == "input" else (_rectangle, "layer")
    hover = _text("\n".join(box.hover))
    parts = [
        f'<g class="{kind}" data-node="{number}"><title>{hover}</title>{outline(box, 0, look)}'
    ]
    if box.head:
        parts.append(outline(box, 3, f'fill="none" stroke="{_INK}"'))
    for row, (font, line) in enumerate(box.lines):
        look = 'font-size="11"' if row else 'font-size="12" font-weight="600"'
        look += ' text-anchor="middle" xml:space="preserve"'
        parts.append(_words(x, top + 19 + LINE * row, line, look, font))
    if box.shape:
        beside, anchor = (-7, "end") if _is_shape_left(box) else (7, "start")
        look = f'font-size="10.5" text-anchor="{anchor}" stroke="#ffffff" '
        # Before the edges that leave here.
        look += 'stroke-width="3" paint-order="stroke"'
        parts.append(_words(x + beside, top + box.height + 14, box.shape, look))
    return "".join([*parts, "</g>"])


def _ellipse(box, inset, look):
    rx, ry = box.half - inset, box.height / 2 - inset
    return f'<ellipse cx="{box.x:.1f}" cy="{box.y:.1f}" rx="{rx:.1f}" ry="{ry:.1f}" {look}/>'


def _rectangle(box, inset, look):
    x, y = box.x - box.half + inset, box.y - box.height / 2 + inset
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{2 * (box.half - inset):.1f}" '
        f'height="{box.height - 2 * inset:.1f}" rx="{6 - inset}" {look}/>'
    )


def _heading(boxes, title, width):
    """Draw the title and what the colours mean (str, and its height)."""
    parts, x, y = [], MARGIN, MARGIN
    if title is not None:
        parts.append(_words(x, y + 8, title, 'font-size="16" font-weight="600"'))
        y += 32
    families = dict.fromkeys(box.family for box in boxes.values() if box.family != "input")
    marks = {family: _colours(family) for family in families}
    if any(box.head for box in boxes.values()):
        marks["output of the network"] = f'fill="#ffffff" stroke="{_INK}"'
    if any(box.idle for box in boxes.values()):
        marks["no say in inference"] = f'fill="#ffffff" stroke="{_GREY}"{_DASHED}'
    for name, look in marks.items():
        wide = 6.2 * len(name) + 32
        if x > MARGIN and x + wide > width - MARGIN:
            x, y = MARGIN, y + 19
        mark = Box((), x=x + 8, y=y - 2, half=8, height=12)
        parts.append(_rectangle(mark, 0, look))
        if name == "output of the network":
            parts.append(_rectangle(mark, 2, look))
        parts.append(_words(x + 21, y + 2, name, 'font-size="10.5"'))
        x += wide
    return "".join(parts), y + 26


def _colours(family):
    """Return the colour of a family for the border, and mixed with white to fill."""
    colour = FAMILIES[family][0]
    parts = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    mixed = "".join(f"{round(0.16 * part + 0.84 * 255):02x}" for part in parts)
    return f'fill="#{mixed}" stroke="{colour}"'


def _words(x, y, text, look, font=PROSE):
    place = f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text {place} fill="{_INK}" font-family="{font}" {look}>{_text(text)}</text>'


def _text(text):
    """Escape what means something in XML, and replace what may not be in it."""
    return escape(_NOT_IN_XML.sub("\ufffd", text), {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
