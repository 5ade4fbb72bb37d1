"""A place for every box, and a way for every edge."""

from bisect import bisect
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain, count, pairwise

from xfer.diagram.boxes import Box
from xfer.diagram.rows import make_rows

#: Around the picture, in pixels; the leftmost box begins there.
MARGIN = 24


@dataclass(frozen=True)
class Edge:
    """What is drawn of an edge.

    Parameters
    ----------
    source, reader : int
        Numbers of the nodes.
    idle : bool
        Whether it has no say in inference.
    path : str
        As SVG writes it; ends in an arrow.
    tip : (float, float)
        Where the arrow points, in pixels.
    right : float
        How far on the right it comes.
    """

    source: int
    reader: int
    idle: bool
    path: str
    tip: tuple
    right: float


def lay_out(boxes):
    """Give each box its place, and find the way of each edge.

    Parameters
    ----------
    boxes : dict of int to Box
        Get their rows, links, `x` and `y`.

    Returns
    -------
    list of Edge
    """
    rows, trunks = make_rows(boxes)
    _spread(rows)
    bands = _stack(rows)
    edges = []
    for number, box in boxes.items():
        passed = [trunks[s, output][1 : box.row - boxes[s].row] for s, output, _ in box.sources]
        wishes = [p[-1].x if p else boxes[s].x for p, (s, *_) in zip(passed, box.sources)]
        for (s, _, use), places, x in zip(box.sources, passed, _ports(box, wishes)):
            stops = [*(place.x for place in places), x]
            tip = x, box.y - box.height / 2
            path = _path(boxes[s], stops, tip[1], bands)
            edges.append(Edge(s, number, box.idle or not use, path, tip, max(stops)))
    return edges


def _spread(rows):
    """Give each place its x: chains and passing edges straight, branches about their middle.

    What shall be straight is a lane, and has one x.
    """
    lanes = _lanes(rows)
    room, costs = defaultdict(float), defaultdict(float)
    for left, right in chain(*map(pairwise, rows)):
        gap = 26 if isinstance(left, Box) or isinstance(right, Box) else 8
        pair = lanes[left], lanes[right]
        room[pair] = max(room[pair], left.half + gap + right.half)
    for place in lanes:
        for other, past in place.below.items():
            costs[lanes[place], (lanes[other],)] += 0.1 if past else 1
        for near in (place.above, place.below):
            branches = tuple(lanes[other] for other, past in near.items() if not past)
            if len(branches) > 1:
                costs[lanes[place], branches] += 4
    middles = _solve(room, costs, 1 + max(lanes.values(), default=-1))
    left = min((middles[lane] - place.half for place, lane in lanes.items()), default=0)
    for place, lane in lanes.items():
        place.x = float(middles[lane] - left) + MARGIN


def _lanes(rows):
    """Return the number of the lane of each place; as no two cross, one is left of the other."""
    lanes, fresh = {}, count()
    for row in rows:
        straight, taken = [], []
        for place in row:
            if place not in lanes:
                lanes[place] = next(fresh)
            for other, past in place.below.items():
                passing = not isinstance(place, Box) and not isinstance(other, Box)
                ends = [list(near.values()).count(False) for near in (place.below, other.above)]
                if passing or (not past and ends == [1, 1]):
                    straight.append((not passing, place, other))
        for _, place, other in sorted(straight, key=lambda found: found[0]):
            pair = place.order, other.order
            where = bisect(taken, pair)
            near = taken[max(where - 1, 0) : where + 1]
            if all((upper - pair[0]) * (lower - pair[1]) > 0 for upper, lower in near):
                taken.insert(where, pair)
                lanes[other] = lanes[place]
    return lanes


def _solve(room, costs, lanes):
    """Find the middles of lanes with the least sum of distances that leaves room.

    It is a linear program, in which each distance is a variable too.

    Parameters
    ----------
    room : dict of (int, int) to float
        How far the second lane has to be on the right of the first.
    costs : dict of (int, tuple of int) to float
        What it costs by the pixel that a lane is away from the mean of others.
    lanes : int
        How many there are.

    Returns
    -------
    sequence of float
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    entries, bounds = [], []
    for number, (lane, others) in enumerate(costs):
        for sign in (1, -1):
            entries += [(len(bounds), lanes + number, -1), (len(bounds), lane, sign)]
            entries += [(len(bounds), other, -sign / len(others)) for other in others]
            bounds.append(0)
    for (left, right), least in room.items():
        entries += [(len(bounds), left, 1), (len(bounds), right, -1)]
        bounds.append(-least)
    if not bounds:
        return [0.0] * lanes
    lines, columns, values = zip(*entries)
    matrix = csr_array((values, (lines, columns)), shape=(len(bounds), lanes + len(costs)))
    # That being further right costs a little leaves one answer where several would do.
    return linprog([1e-3] * lanes + [*costs.values()], matrix, bounds).x


def _stack(rows):
    """Give each box its y; return top and bottom of each row (list of (float, float))."""
    bands, top = [], 0.0
    for row in rows:
        found = [box for box in row if isinstance(box, Box)]
        bottom = top + max(box.height for box in found)
        bands.append((top, bottom))
        for box in found:
            box.y = (top + bottom) / 2
        furthest = max(
            (abs(place.x - other.x) for place in row for other in place.below), default=0
        )
        shaped = any(box.shape for box in found)
        top = bottom + (40 if shaped else 28) + min(40, furthest / 8)
    return bands


def _ports(box, wishes):
    """Tell where edges come in at the top: as near to the wishes as leaves a distance."""
    if len(wishes) == 1:
        return [box.x]
    room = box.half - 14
    step = min(14, 2 * room / max(len(wishes) - 1, 1))
    ports, least, most = {}, box.x - room, box.x + room - step * (len(wishes) - 1)
    for place in sorted(range(len(wishes)), key=wishes.__getitem__):
        ports[place] = min(max(wishes[place], least), most)
        least, most = ports[place] + step, most + step
    return [ports[place] for place in range(len(wishes))]


def _path(source, stops, end, bands):
    """Write the way from a box through an x in each row below, down to an arrow (str)."""
    at = source.x
    if len(source.below) > 1 and source.family != "input":
        reach = source.half - 14
        at = min(max(stops[0], source.x - reach), source.x + reach)
    path = f"M{at:.1f},{source.y + source.height / 2:.1f}"
    for to, (_, bottom), (top, _) in zip(stops, bands[source.row :], bands[source.row + 1 :]):
        # The last of the way is straight, and so is the arrow.
        top -= 5
        path += f"V{bottom:.1f}"
        if abs(to - at) > 0.05:
            middle = (bottom + top) / 2
            path += f"C{at:.1f},{middle:.1f} {to:.1f},{middle:.1f} {to:.1f},{top:.1f}"
        at = to
    return path + f"V{end - 5:.1f}"
