"""A row for each step from the inputs, and an order within rows that crosses few edges.

The layout is that of Sugiyama et al. [1]_. An edge that passes a row has a place in it too, so that
it runs between boxes and never through one.

References
----------
.. [1] Sugiyama, Tagawa and Toda (1981), Methods for Visual Understanding of Hierarchical System
   Structures.
"""

from bisect import bisect
from collections import defaultdict
from itertools import chain
from math import inf

from xfer.diagram.boxes import Place


def make_rows(boxes):
    """Give each box a row, and each edge that passes rows a place in them.

    Parameters
    ----------
    boxes : dict of int to Box
        Are linked to what is above and below.

    Returns
    -------
    rows : list of list of Place
        From the top; from left to right.
    trunks : dict of (int, int) to list of Place
        The places that all edges from an output share, from its box on down, by number of the node
        and which output.
    """
    readers = defaultdict(list)
    for box in boxes.values():
        for source, output, _ in box.sources:
            readers[source, output].append(box)
    _choose_rows(boxes)
    rows = [[] for _ in range(1 + max((box.row for box in boxes.values()), default=-1))]
    for box in boxes.values():
        rows[box.row].append(box)
    trunks = {}
    for output, found in readers.items():
        trunks[output] = _link(boxes, *output, found)
        for place in trunks[output][1:]:
            rows[place.row].append(place)
    _order(rows)
    return rows, trunks


def _choose_rows(boxes):
    for box in boxes.values():
        box.row = max((boxes[source].row + 1 for source, *_ in box.sources), default=0)
    nearest = {}
    for number, box in reversed(boxes.items()):
        # What waits for no data stands just above its first reader, not at the far top.
        if number in nearest and (not box.fed or not box.sources):
            box.row = nearest[number] - 1
        for source, *_ in box.sources:
            nearest[source] = min(nearest.get(source, box.row), box.row)


def _link(boxes, number, output, readers):
    """Link an output to its readers, through a place in each row between (list of Place)."""
    source = boxes[number]
    past = {reader: _goes_past(boxes, number, reader) for reader in readers}
    far = [reader for reader in readers if reader.row > source.row + 1]
    # As many networks are written, this has skip connections on the right, nested.
    key = max((reader.key for reader in far if past[reader]), default=source.key)
    trunk = [source]
    for row in range(source.row + 1, max(reader.row for reader in readers)):
        trunk.append(Place((*key, -number, output), row))
        trunk[-2].link(trunk[-1], trunk[-2] is source and all(map(past.get, far)))
    for reader in readers:
        trunk[reader.row - source.row - 1].link(reader, past[reader])
    return trunk


def _goes_past(boxes, number, reader):
    """Tell whether an edge is a skip connection (another way leads there), or brings no data."""
    source = boxes[number]
    if reader.fed and not source.fed:
        return True
    waiting, seen = [reader], {number}
    while waiting:
        place = waiting.pop()
        for other, *_ in place.sources:
            if other == number and place is not reader:
                return True
            if other not in seen and boxes[other].row > source.row:
                seen.add(other)
                waiting.append(boxes[other])
    return False


def _order(rows):
    """Order rows by the barycentres of their neighbours, down and up, as long as edges cross."""
    for row in rows:
        _sort(row, lambda place: place.key)
    best, fewest = {}, inf
    # Networks take none or a few; of a tangle of thousands of edges, no order makes a picture.
    sweeps = max(3, min(12, 20_000 // (1 + sum(map(len, rows)))))
    for sweep in range(1 + sweeps):
        if sweep:
            _sweep(rows, down=sweep % 2 == 1)
        crossed = sum(map(_crossings, rows))
        if crossed < fewest:
            best, fewest = {place: place.order for place in chain(*rows)}, crossed
        if not fewest:
            break
    for row in rows:
        _sort(row, best.get)


def _sort(row, key):
    row.sort(key=key)
    for order, place in enumerate(row):
        place.order = order


def _sweep(rows, down):
    def barycentre(place):
        near = [other.order for other in (place.above if down else place.below)]
        return sum(near) / len(near) if near else place.order

    for row in rows if down else reversed(rows):
        _sort(row, barycentre)


def _crossings(row):
    passed, crossed = [], 0
    for place in row:
        ends = sorted(other.order for other in place.below)
        crossed += sum(len(passed) - bisect(passed, end) for end in ends)
        passed = sorted(passed + ends)
    return crossed
