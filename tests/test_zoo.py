"""Every architecture of MXNet's model zoo, converted, against MXNet at every tenth layer."""

import numpy as np
import pytest

from xfer.checkpoint.network import Network
from xfer.checkpoint.symbol import MxGraph
from xfer.sources.checkpoint import CheckpointSource

ARCHITECTURES = (
    ["alexnet", "inception_v3", "squeezenet1_0", "squeezenet1_1"]
    + [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
    + [f"resnet{depth}_v{version}" for depth in (18, 34, 50, 101, 152) for version in (1, 2)]
    + [f"densenet{depth}" for depth in (121, 161, 169, 201)]
    + [f"mobilenet{width}" for width in ("1_0", "0_75", "0_5", "0_25")]
    + [f"mobilenet_v2_{width}" for width in ("1_0", "0_75", "0_5", "0_25")]
    + ["mobilenet_v3_small", "mobilenet_v3_large"]
)
# Howard et al. (2019), tables 1 and 2, which MXNet itself lacks: kernel, expansion, channels,
# squeeze and excitation, hard swish, stride of each block; channels of the last convolution.
MOBILENET_V3 = {
    "mobilenet_v3_large": (
        [
            (3, 16, 16, False, False, 1),
            (3, 64, 24, False, False, 2),
            (3, 72, 24, False, False, 1),
            (5, 72, 40, True, False, 2),
            (5, 120, 40, True, False, 1),
            (5, 120, 40, True, False, 1),
            (3, 240, 80, False, True, 2),
            (3, 200, 80, False, True, 1),
            (3, 184, 80, False, True, 1),
            (3, 184, 80, False, True, 1),
            (3, 480, 112, True, True, 1),
            (3, 672, 112, True, True, 1),
            (5, 672, 160, True, True, 2),
            (5, 960, 160, True, True, 1),
            (5, 960, 160, True, True, 1),
        ],
        960,
    ),
    "mobilenet_v3_small": (
        [
            (3, 16, 16, True, False, 2),
            (3, 72, 24, False, False, 2),
            (3, 88, 24, False, False, 1),
            (5, 96, 40, True, True, 2),
            (5, 240, 40, True, True, 1),
            (5, 240, 40, True, True, 1),
            (5, 120, 48, True, True, 1),
            (5, 144, 48, True, True, 1),
            (5, 288, 96, True, True, 2),
            (5, 576, 96, True, True, 1),
            (5, 576, 96, True, True, 1),
        ],
        576,
    ),
}
# Smaller images than they are made for, but where the last pooling asks for all.
SIZES = {"inception_v3": 299, "densenet": 224, "squeezenet": 224, "alexnet": 96}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures_of_the_zoo(mx, architecture):
    size = next((s for name, s in SIZES.items() if architecture.startswith(name)), 64)
    network = random_network(mx, architecture, size)
    images = np.random.RandomState(1).normal(size=(2, 3, size, size)).astype(np.float32)
    ours = CheckpointSource(network, engine="onnxruntime")
    reference = CheckpointSource(network, engine="mxnet")
    names = sorted({*ours.layer_names[::10], ours.layer_names[-1]})
    found, expected = ours.extract(images, names), reference.extract(images, names)
    for name in names:
        # Rounding adds up over as many as 500 layers.
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-4 * scale)
        assert np.ptp(expected[name]) > 0


def random_network(mx, architecture, size, seed=0):
    """A Network of the zoo's architecture with random parameters that keep numbers in range."""
    if architecture in MOBILENET_V3:
        symbol = mobilenet_v3(mx, *MOBILENET_V3[architecture])
    else:
        block = getattr(mx.gluon.model_zoo.vision, architecture)(prefix="")
        symbol = block(mx.sym.var("data"))
    random = np.random.RandomState(seed)
    shapes, _, others = symbol.infer_shape(data=(2, 3, size, size))

    def draw(name, shape):
        if name.endswith("weight"):
            scale = np.sqrt(2 / np.prod(shape[1:]))
        else:
            scale = 0.1
        values = random.normal(size=shape, scale=scale).astype(np.float32)
        return 1 + np.abs(values) if name.endswith(("gamma", "_var")) else values

    arguments = zip(symbol.list_arguments(), shapes)
    statistics = zip(symbol.list_auxiliary_states(), others)
    return Network(
        MxGraph.from_json(symbol.tojson()),
        {name: draw(name, shape) for name, shape in arguments if name != "data"},
        {name: draw(name, shape) for name, shape in statistics},
        ["data"],
        [],
    )


def mobilenet_v3(mx, blocks, last):
    """MobileNetV3 as GluonCV says it: hard functions by clip, means by adaptive pooling."""

    def hard_sigmoid(x):
        return mx.sym.clip(x + 3.0, a_min=0, a_max=6) / 6.0

    def unit(x, channels, kernel=1, stride=1, groups=1):
        pad = kernel // 2
        x = mx.sym.Convolution(
            x,
            num_filter=channels,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            pad=(pad, pad),
            num_group=groups,
            no_bias=True,
        )
        return mx.sym.BatchNorm(x, fix_gamma=False)

    def active(x, hard_swish):
        return x * hard_sigmoid(x) if hard_swish else mx.sym.Activation(x, act_type="relu")

    x = active(unit(mx.sym.var("data"), 16, 3, 2), True)
    width = 16
    for kernel, expansion, channels, excite, hard_swish, stride in blocks:
        y = active(unit(x, expansion), hard_swish)
        y = active(unit(y, expansion, kernel, stride, expansion), hard_swish)
        if excite:
            z = mx.sym.contrib.AdaptiveAvgPooling2D(y, output_size=1)
            z = mx.sym.Convolution(z, num_filter=expansion // 4, kernel=(1, 1))
            z = mx.sym.Activation(z, act_type="relu")
            z = hard_sigmoid(mx.sym.Convolution(z, num_filter=expansion, kernel=(1, 1)))
            y = mx.sym.broadcast_mul(y, z)
        y = unit(y, channels)
        x = x + y if stride == 1 and width == channels else y
        width = channels
    x = active(unit(x, last), True)
    x = mx.sym.Pooling(x, global_pool=True, pool_type="avg", kernel=(1, 1))
    x = mx.sym.Convolution(x, num_filter=1280, kernel=(1, 1), no_bias=True)
    x = mx.sym.Convolution(x * hard_sigmoid(x), num_filter=1000, kernel=(1, 1))
    return mx.sym.Flatten(x)
