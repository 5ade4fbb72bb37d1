"""Draw the map of the code, `docs/map.svg`, from the table in CONTRIBUTING.md.

    python docs/map.py

Rooms are laid out as layers of a network are. An arrow leads from a room to one that imports it;
those that a longer way implies are left out, and so are helpers, which any room may import.
"""

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import wrap

from xfer.diagram.boxes import CODE, LINE, PROSE, Box
from xfer.diagram.layout import MARGIN, lay_out

DOCS = Path(__file__).parent
PAGE = DOCS.parent / "CONTRIBUTING.md"
PICTURE = DOCS / "map.svg"
#: Of the text of a box, in letters.
WIDTH = 19
#: The palette of Okabe and Ito (2008), which the colour-blind can tell apart.
STEPS = {
    "data": "#9a9a9a",
    "source": "#0072b2",
    "features": "#56b4e9",
    "meta-model": "#009e73",
    "prediction": "#e69f00",
    "training": "#d55e00",
    "tool": "#cc79a7",
}


@dataclass(frozen=True)
class Room:
    """A row of the table.

    Parameters
    ----------
    name : str
        A file of `xfer/`, or a folder if it ends in a slash.
    step : str
        A key of `STEPS`, or ``helper``.
    does : str
        What it does.
    imports : tuple of str
        Names of the rooms that it imports, all in rows above its own.
    later : tuple of str
        Names of those that only its functions import, when they run; of any row.
    """

    name: str
    step: str
    does: str
    imports: tuple = ()
    later: tuple = ()


def read_rows(text, heading):
    """Read a table.

    Parameters
    ----------
    text : str
        A page in Markdown.
    heading : str
        Of the first column.

    Returns
    -------
    list of list of str
        The cells, without the heading.
    """
    table = re.search(rf"^\| {heading} \|.*\n\|[ -|]+\n((?:\|.*\n)+)", text, re.M)[1]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]


def read_rooms(text):
    """Read the rooms.

    Parameters
    ----------
    text : str
        CONTRIBUTING.md.

    Returns
    -------
    list of Room
    """
    rooms = []
    for room, step, does, cell in read_rows(text, "room"):
        now, _, later = cell.partition("; ")
        imports, later = (tuple(re.findall("`(.+?)`", names)) for names in (now, later))
        rooms.append(Room(room.strip("`"), step, does, imports, later))
    return rooms


def draw(rooms):
    """Draw the rooms.

    Parameters
    ----------
    rooms : list of Room

    Returns
    -------
    str
        An SVG, the same for the same rooms.
    """
    rooms = [room for room in rooms if room.step != "helper"]
    places = {room.name: number for number, room in enumerate(rooms)}
    reached, boxes = {}, {}
    for number, room in enumerate(rooms):
        nearest = [places[name] for name in room.imports if name in places]
        further = set().union(*(reached[source] for source in nearest))
        reached[number] = further.union(nearest)
        does = wrap(room.does.replace("`", ""), WIDTH)
        lines = [(CODE, room.name), *((PROSE, line) for line in does)]
        widths = [(7.9 if font is CODE else 6.6) * len(line) for font, line in lines]
        boxes[number] = Box(
            (number,),
            half=max(widths) / 2 + 9,
            family=room.step,
            sources=[(source, 0, True) for source in sorted({*nearest} - further)],
            lines=lines,
            height=LINE * len(lines) + 14,
        )
    return _svg(boxes, lay_out(boxes))


def _svg(boxes, edges):
    width = MARGIN + max(
        *(edge.right for edge in edges), *(box.x + box.half for box in boxes.values())
    )
    height = MARGIN + max(box.y + box.height / 2 for box in boxes.values())
    ways = "".join(f'<path d="{edge.path}"/>\n' for edge in edges)
    tips = "".join(f"M{x:.1f},{y:.1f}l-3.5,-7h7z" for x, y in (edge.tip for edge in edges))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height + 40:.0f}" '
        f'width="{width:.0f}" height="{height + 40:.0f}" role="img">\n'
        "<title>The rooms of xfer, and which imports which</title>\n"
        '<rect width="100%" height="100%" fill="#ffffff"/>\n'
        f"{_legend()}"
        '<g transform="translate(0,40)">\n'
        f'<g fill="none" stroke="#666666" stroke-width="1.3">\n{ways}</g>\n'
        f'<path fill="#666666" d="{tips}"/>\n{"".join(map(_drawn, boxes.values()))}</g>\n</svg>\n'
    )


def _legend():
    parts, x = [], MARGIN
    for step in STEPS:
        parts.append(f'<rect x="{x}" y="12" width="16" height="12" rx="3" {_colours(step)}/>')
        parts.append(_words(x + 22, 22, step, 'font-size="12"', PROSE))
        x += round(46 + 6.4 * len(step))
    return "".join(parts) + "\n"


def _drawn(box):
    top = box.y - box.height / 2
    parts = [
        f'<rect x="{box.x - box.half:.1f}" y="{top:.1f}" width="{2 * box.half:.1f}" '
        f'height="{box.height}" rx="6" stroke-width="1.5" {_colours(box.family)}/>'
    ]
    for row, (font, line) in enumerate(box.lines):
        look = 'font-size="12"' if row else 'font-size="13" font-weight="600"'
        parts.append(
            _words(box.x, top + 19 + LINE * row, line, look + ' text-anchor="middle"', font)
        )
    return "".join(parts) + "\n"


def _colours(step):
    return f'fill="{STEPS[step]}" fill-opacity="0.16" stroke="{STEPS[step]}"'


def _words(x, y, text, look, font):
    place = f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text {place} fill="#222222" font-family="{font}" {look}>{escape(text)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(read_rooms(PAGE.read_text(encoding="utf-8"))), encoding="utf-8")
