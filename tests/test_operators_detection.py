"""Regions and boxes against MXNet."""

import itertools

import numpy as np
import pytest
from operator_checks import check, check_operator, one_operator, run_converted

from xfer.checkpoint.operators import Unsupported


def boxes_of(number, size, seed=0, images=2):
    """Regions of any size, some beyond the image, after the number of the image of each."""
    random = np.random.RandomState(seed)
    corners = random.uniform(-0.3 * size, 1.3 * size, (number, 2, 2))
    corners.sort(axis=1)
    numbers = random.randint(0, images, (number, 1))
    return np.concatenate([numbers, corners.reshape(number, 4)], 1).astype(np.float32)


def normal(*shape, seed=0):
    return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


def test_roi_pooling(mx):
    for (pooled, scale), seed in itertools.product((((2, 3), 1.0), ((1, 1), 0.5)), range(4)):
        symbol = mx.sym.ROIPooling(
            mx.sym.var("x", shape=(2, 3, 7, 9)),
            mx.sym.var("regions"),
            pooled_size=pooled,
            spatial_scale=scale,
        )
        data = {"regions": boxes_of(20, 8 / scale, seed)}
        check(mx, symbol, data)
        text = symbol.tojson().replace('"op": "ROIPooling"', '"op": "_npx_roi_pooling"')
        check(mx, mx.sym.load_json(text), data)


@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align(mx, aligned):
    for (pooled, scale), ratio in itertools.product((((2, 3), 1.0), ((1, 1), 0.5)), (-1, 0, 1, 2)):
        symbol = mx.sym.contrib.ROIAlign(
            mx.sym.var("x", shape=(2, 3, 7, 9)),
            mx.sym.var("regions"),
            pooled_size=pooled,
            spatial_scale=scale,
            sample_ratio=ratio,
            aligned=aligned,
        )
        check(mx, symbol, {"regions": boxes_of(20, 8 / scale, ratio + 1)})


def test_box_iou(mx):
    one, other = mx.sym.var("one"), mx.sym.var("other", shape=(3, 4))
    for kind in ("corner", "center"):
        for shape in ((5, 4), (5, 2, 4)):
            symbol = mx.sym.contrib.box_iou(one, other, format=kind)
            # Not all of them have their corners in order.
            data = {"one": normal(*shape, seed=1)}
            check(mx, symbol, data, parameters={"other": normal(3, 4)})
        two = mx.sym.contrib.box_iou(one, mx.sym.var("two", shape=(2, 3, 4)), format=kind)
        check(mx, two, {"one": normal(5, 4, seed=1)})
        ordered = {"one": boxes_of(9, 4)[:, 1:], "two": boxes_of(6, 4, 1)[:, 1:].reshape(2, 3, 4)}
        check(mx, two, {"one": ordered["one"]}, parameters={"two": ordered["two"]})
    empty = {"one": np.zeros((2, 4), np.float32)}
    check(mx, mx.sym.contrib.box_iou(one, other), empty, parameters={"other": normal(3, 4) * 0})


def test_box_decode(mx):
    scales = {"std0": 0.1, "std1": 0.2, "std2": 0.3, "std3": 0.4}
    for kind, clip, options in itertools.product(("corner", "center"), (-1, 0.1), ({}, scales)):
        anchors = mx.sym.var("anchors", shape=(1, 5, 4))
        symbol = mx.sym.contrib.box_decode(
            mx.sym.var("x"), anchors, format=kind, clip=clip, **options
        )
        check(mx, symbol, {"x": normal(3, 5, 4)})
    check(mx, mx.sym.contrib.box_decode(mx.sym.var("x"), anchors), {"x": normal(2, 5, 4)})


def test_refused():
    options = {"pooled_size": (2, 2), "spatial_scale": 1.0, "position_sensitive": True}
    text = one_operator("_contrib_ROIAlign", ["x", "regions"], **options)
    with pytest.raises(Unsupported, match="ROIAlign with position_sensitive=True"):
        run_converted(text, {"x": normal(2, 4, 5, 5), "regions": boxes_of(3, 5)})
    for options in ({"out_format": "center"}, {"in_format": "center"}):
        with pytest.raises(Unsupported, match="box_nms with 3 dimensions or two formats"):
            run_converted(
                one_operator("_contrib_box_nms", ["x"], **options), {"x": normal(2, 4, 6)}
            )
    data = {"scores": normal(2, 3, 5), "moves": normal(2, 20), "anchors": normal(1, 5, 4)}
    with pytest.raises(Unsupported, match="nms_threshold=-1"):
        run_converted(one_operator("_contrib_MultiBoxDetection", data, nms_threshold=-1), data)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"id_index": 0},
        {"id_index": 0, "force_suppress": True, "overlap_thresh": 0.2},
        {"id_index": 0, "background_id": 0, "valid_thresh": 0.4},
        {"id_index": 0, "topk": 7},
        {"topk": 100, "valid_thresh": 0.5},
        {"valid_thresh": 2},
        {"id_index": 0, "in_format": "center", "out_format": "center"},
        {"id_index": 1, "score_index": 0, "coord_start": 3},
    ],
)
@pytest.mark.parametrize("ties", [False, True])
def test_non_maximum_suppression(mx, options, ties):
    random = np.random.RandomState(0)
    x = random.uniform(size=(3, 40, 7)).astype(np.float32)
    own, score = options.get("id_index", 0), options.get("score_index", 1)
    x[..., own] = random.randint(-1, 3, size=(3, 40))
    if ties:
        x[..., score] = x[..., score].round(1)
    first = options.get("coord_start", 2)
    x[..., first + 2 : first + 4] = x[..., first : first + 2] + random.uniform(0.1, 0.6, (3, 40, 2))
    check_operator(mx, "_contrib_box_nms", x, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"force_suppress": True},
        {"threshold": 0.5},
        {"threshold": 1.5},
        {"clip": False, "nms_threshold": 0.2},
        {"variances": (0.2, 0.1, 0.3, 0.15)},
        {"nms_topk": 5, "threshold": 0.4},
        {"nms_topk": 100},
    ],
)
def test_detection(mx, options):
    random = np.random.RandomState(0)
    scores = random.uniform(size=(3, 4, 30)).astype(np.float32)
    scores /= scores.sum(axis=1, keepdims=True)
    centres, halves = random.uniform(size=(1, 30, 2)), random.uniform(0.05, 0.2, size=(1, 30, 2))
    anchors = np.concatenate([centres - halves, centres + halves], 2).astype(np.float32)
    moves, given = normal(3, 120), {"anchors": anchors}
    check_operator(mx, "_contrib_MultiBoxDetection", scores, moves, parameters=given, **options)
