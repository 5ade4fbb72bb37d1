"""Deformable convolutions against MXNet, above all where points leave the picture."""

import itertools

import numpy as np
import pytest
from operator_checks import check, run_converted

CASES = list(itertools.product((1, 3), (1, 2), (0, 1, 2), (1, 2), (1, 2), (1, 2), (False, True)))


def shifts(random, shape):
    """Offsets that also meet pixels and edges exactly, and leave the picture by far."""
    offsets = random.normal(size=shape, scale=3)
    whole = random.random_sample(shape) < 0.3
    return np.where(whole, np.round(offsets), offsets).astype(np.float32)


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolutions(mx, modulated):
    operator = "ModulatedDeformableConvolution" if modulated else "DeformableConvolution"
    random = np.random.RandomState(0)
    for kernel, stride, pad, dilate, groups, parts, no_bias in CASES:
        height, width = random.randint(5, 9, size=2)
        out = [(n + 2 * pad - dilate * (kernel - 1) - 1) // stride + 1 for n in (height, width)]
        data = {"x": random.normal(size=(3, 4, height, width)).astype(np.float32)}
        data["offset"] = shifts(random, (3, 2 * parts * kernel**2, *out))
        if modulated:
            data["mask"] = random.random_sample((3, parts * kernel**2, *out)).astype(np.float32)
        symbol = getattr(mx.sym.contrib, operator)(
            *map(mx.sym.var, data),
            kernel=(kernel, kernel),
            stride=(stride, stride),
            pad=(pad, pad),
            dilate=(dilate, dilate),
            num_filter=2 * groups,
            num_group=groups,
            num_deformable_group=parts,
            no_bias=no_bias,
        )
        check(mx, symbol, data)


def test_a_kernel_that_is_not_square(mx):
    random = np.random.RandomState(0)
    data = {"x": random.normal(size=(2, 2, 6, 7)).astype(np.float32)}
    data["offset"] = shifts(random, (2, 2 * 1 * 3, 5, 3))
    symbol = mx.sym.contrib.DeformableConvolution(
        *map(mx.sym.var, data),
        kernel=(1, 3),
        stride=(2, 2),
        pad=(2, 0),
        dilate=(1, 1),
        num_filter=3,
    )
    check(mx, symbol, data)


def test_channels_that_do_not_go_together(mx):
    x, offset, weight = map(mx.sym.var, ("x", "offset", "weight"))
    symbol = mx.sym.contrib.DeformableConvolution(
        x, offset, weight, kernel=(1, 1), num_filter=2, no_bias=True
    )
    data = {"x": np.zeros((1, 3, 4, 4), np.float32), "offset": np.zeros((1, 2, 4, 4), np.float32)}
    data["weight"] = np.zeros((2, 4, 1, 1), np.float32)
    with pytest.raises(ValueError, match="data of .* does not match a parameter"):
        run_converted(symbol.tojson(), data)
