"""Images looked at through a grid, against MXNet."""

import numpy as np
import pytest
from operator_checks import check, convert_all, one_operator

from xfer.checkpoint.onnx_builder import BATCH
from xfer.checkpoint.operators import Unsupported
from xfer.checkpoint.symbol import MxGraph


def affine_maps(scale):
    """Maps that look beyond the edges, as far as the scale says; the first changes nothing."""
    maps = np.random.RandomState(0).normal(size=(4, 6), scale=scale)
    maps[0] = 0
    return (maps + np.eye(2, 3).ravel()).astype(np.float32)


@pytest.mark.parametrize("target", [(4, 5), (2, 7), (6, 3)])
def test_affine_grid(mx, target):
    symbol = mx.sym.GridGenerator(mx.sym.var("data"), transform_type="affine", target_shape=target)
    check(mx, symbol, {"data": affine_maps(0.5)})


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (3, 2, 2, 7)])
def test_flow(mx, shape):
    symbol = mx.sym.GridGenerator(mx.sym.var("data"), transform_type="warp")
    check(mx, symbol, {"data": np.random.RandomState(0).normal(size=shape).astype(np.float32)})


@pytest.mark.parametrize("scale", [0.1, 0.5, 2])
@pytest.mark.parametrize(("shape", "places"), [((4, 3, 5, 4), (6, 2)), ((4, 1, 2, 7), (3, 3))])
def test_bilinear_sampler(mx, scale, shape, places):
    random = np.random.RandomState(0)
    data = {"data": random.normal(size=shape), "grid": random.normal(size=(4, 2, *places))}
    data = {"data": data["data"].astype("f"), "grid": (data["grid"] * scale).astype("f")}
    symbol = mx.sym.BilinearSampler(mx.sym.var("data"), mx.sym.var("grid"))
    check(mx, symbol, data)


@pytest.mark.parametrize("scale", [0.1, 0.5, 2])
@pytest.mark.parametrize("target", [(4, 5), (2, 7)])
def test_spatial_transformer(mx, scale, target):
    random = np.random.RandomState(1)
    data = {"data": random.normal(size=(4, 3, 6, 5)).astype("f"), "map": affine_maps(scale)}
    symbol = mx.sym.SpatialTransformer(
        *map(mx.sym.var, data),
        target_shape=target,
        transform_type="affine",
        sampler_type="bilinear",
    )
    check(mx, symbol, data)


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((BATCH, 6), {"transform_type": "affine", "target_shape": "(1, 5)"}),
        ((BATCH, 2, 1, 5), {"transform_type": "warp"}),
    ],
)
def test_one_row_of_pixels_is_refused(shape, attributes):
    graph = MxGraph.from_json(one_operator("GridGenerator", ["data"], **attributes))
    with pytest.raises(Unsupported, match="GridGenerator"):
        convert_all(graph, {}, {"data": (np.dtype(np.float32), shape)})
