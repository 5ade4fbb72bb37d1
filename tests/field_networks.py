"""Networks as well-known public checkpoints of MXNet have them, made small.

Operators, attributes, names and how they are put together are those of the originals; widths and
depths are not. Each builder tells the MXNet of whose age the files are, the shapes of an example,
and what one may expect to be asked of the network.
"""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

#: Builders of networks, by name.
NETWORKS = {}


@dataclass
class FieldNetwork:
    """A network and what is to be seen of it."""

    symbol: object
    shapes: dict  # of one example of each input
    era: str = "1.3"
    layers: list = field(default_factory=list)  # that are known to be used as features
    other: dict | None = None  # shapes of an example of another size, if any will do
    told: str = ""  # how the command line words the inputs
    ids: dict = field(default_factory=dict)  # inputs that hold whole numbers: how many there are
    refused: dict = field(default_factory=dict)  # layers that are no features: what the error says
    batch: int | None = None  # for how many examples the graph is written
    labels: list = field(default_factory=list)
    label_shape: tuple | None = None  # where it does not follow from the graph
    beyond: list = field(default_factory=list)  # features that MXNet does not give


def network(function):
    NETWORKS[function.__name__] = function
    return function


def pair(size):
    return size if isinstance(size, tuple) else (size, size)


def conv(mx, x, name, filters, kernel=3, stride=1, pad=0, **more):
    sizes = {"kernel": pair(kernel), "stride": pair(stride), "pad": pair(pad)}
    return mx.sym.Convolution(x, num_filter=filters, name=name, **sizes, **more)


def pool(mx, x, name, kernel, stride=1, pad=0, kind="max", **more):
    sizes = {"kernel": pair(kernel), "stride": pair(stride), "pad": pair(pad)}
    return mx.sym.Pooling(x, pool_type=kind, name=name, **sizes, **more)


def relu(mx, x, name):
    return mx.sym.Activation(x, act_type="relu", name=name)


def prelu(mx, x, name):
    return mx.sym.LeakyReLU(x, act_type="prelu", name=name)


def norm(mx, x, name, **more):
    return mx.sym.BatchNorm(x, name=name, **{"fix_gamma": False, "eps": 2e-5, **more})


# --- face recognition ---------------------------------------------------------------------------


def arcface_body(mx, depths, width, excite=False):
    x = mx.sym.identity(mx.sym.var("data"), name="id") - 127.5
    x = conv(mx, x * 0.0078125, "conv0", width, 3, 1, 1, no_bias=True, workspace=256)
    x = prelu(mx, norm(mx, x, "bn0", momentum=0.9), "relu0")
    for stage, depth in enumerate(depths, 1):
        for number in range(1, depth + 1):
            name = f"stage{stage}_unit{number}"
            filters, stride = width * 2 ** (stage - 1), 1 if number > 1 else 2
            y = norm(mx, x, f"{name}_bn1")
            y = conv(mx, y, f"{name}_conv1", filters, 3, 1, 1, no_bias=True, workspace=256)
            y = prelu(mx, norm(mx, y, f"{name}_bn2"), f"{name}_relu1")
            y = conv(mx, y, f"{name}_conv2", filters, 3, stride, 1, no_bias=True, workspace=256)
            y = norm(mx, y, f"{name}_bn3")
            if excite:
                z = pool(mx, y, f"{name}_se_pool1", 7, kind="avg", global_pool=True)
                z = prelu(mx, conv(mx, z, f"{name}_se_conv1", 2, 1), f"{name}_se_relu1")
                z = conv(mx, z, f"{name}_se_conv2", filters, 1)
                z = mx.sym.Activation(z, act_type="sigmoid", name=f"{name}_se_sigmoid")
                y = mx.sym.broadcast_mul(y, z)
            if number == 1:
                x = conv(mx, x, f"{name}_conv1sc", filters, 1, stride, no_bias=True)
                x = norm(mx, x, f"{name}_sc")
            x = y + x
    return x


def embedding(mx, x, size=16):
    x = mx.sym.Dropout(norm(mx, x, "bn1"), p=0.4)
    x = mx.sym.FullyConnected(x, num_hidden=size, name="pre_fc1")
    return norm(mx, x, "fc1", fix_gamma=True)


@network
def arcface_resnet100(mx):
    symbol = embedding(mx, arcface_body(mx, (3, 13, 30, 3), 4))
    return FieldNetwork(
        symbol, {"data": (3, 112, 112)}, "0.11", ["bn1", "fc1"], told="data (n, 3, 112, 112)"
    )


@network
def arcface_in_training(mx):
    """The margin's arithmetic on the label is part of the graph; features come before it."""
    features = embedding(mx, arcface_body(mx, (1, 1, 1, 1), 4, excite=True))
    label = mx.sym.var("softmax_label")
    weight = mx.sym.var("fc7_weight", shape=(10, 16), lr_mult=1.0)
    weight = mx.sym.L2Normalization(weight, mode="instance")
    scaled = mx.sym.L2Normalization(features, mode="instance", name="fc1n") * 64.0
    fc7 = mx.sym.FullyConnected(scaled, weight, no_bias=True, num_hidden=10, name="fc7")
    chosen = mx.sym.pick(fc7, label, axis=1)
    angle = mx.sym.arccos(chosen / 64.0)
    change = mx.sym.expand_dims(mx.sym.cos(angle + 0.5) * 64.0 - chosen, 1)
    hot = mx.sym.one_hot(label, depth=10, on_value=1.0, off_value=0.0)
    fc7 = fc7 + mx.sym.broadcast_mul(hot, change)
    loss = mx.sym.SoftmaxOutput(fc7, label, name="softmax", normalization="valid")
    return FieldNetwork(
        mx.sym.Group([mx.sym.BlockGrad(features), loss]),
        {"data": (3, 112, 112)},
        layers=["fc1", "fc1n", "fc7"],
        told="data (n, 3, 112, 112)",
        refused={"softmax": "there is no parameter 'softmax_label'"},
        labels=["softmax_label"],
    )


def separable(mx, x, name, filters, stride, groups, kernel=3, active=True):
    pad = kernel // 2
    shape = {"no_bias": True, "num_group": groups}
    x = conv(mx, x, f"{name}_conv2d", filters, kernel, stride, pad, **shape)
    x = norm(mx, x, f"{name}_batchnorm", momentum=0.9)
    return prelu(mx, x, f"{name}_relu") if active else x


@network
def mobilefacenet(mx):
    x = (mx.sym.identity(mx.sym.var("data"), name="id") - 127.5) * 0.0078125
    x = separable(mx, x, "conv_1", 8, 2, 1)
    x = separable(mx, x, "conv_2_dw", 8, 1, 8)
    for number, (filters, stride, repeats) in enumerate([(8, 2, 2), (16, 2, 2), (16, 2, 1)]):
        name = f"dconv_{number}{number + 1}"
        x = separable(mx, x, f"{name}_conv_sep", filters * 2, 1, 1, 1)
        x = separable(mx, x, f"{name}_conv_dw", filters * 2, stride, filters * 2)
        x = separable(mx, x, f"{name}_conv_proj", filters, 1, 1, 1, active=False)
        for block in range(repeats):
            inner = f"res_{number}_block{block}"
            y = separable(mx, x, f"{inner}_conv_sep", filters * 2, 1, 1, 1)
            y = separable(mx, y, f"{inner}_conv_dw", filters * 2, 1, filters * 2)
            x = separable(mx, y, f"{inner}_conv_proj", filters, 1, 1, 1, active=False) + x
    x = separable(mx, x, "conv_6sep", 32, 1, 1, 1)
    x = conv(mx, x, "conv_6dw7_7_conv2d", 32, 7, no_bias=True, num_group=32)
    x = norm(mx, x, "conv_6dw7_7_batchnorm")
    x = mx.sym.FullyConnected(x, num_hidden=16, name="pre_fc1")
    return FieldNetwork(
        norm(mx, x, "fc1", fix_gamma=True),
        {"data": (3, 112, 112)},
        layers=["fc1", "conv_6dw7_7_batchnorm"],
        told="data (n, 3, 112, 112)",
    )


@network
def mobilefacenet_with_norm_aware_pooling(mx):
    """Its weights of positions are relative to a mean over the whole batch."""
    x = (mx.sym.var("data") - 127.5) * 0.0078125
    x = separable(mx, separable(mx, x, "conv_1", 8, 2, 1), "convx", 16, 2, 1)
    x = norm(mx, x, "bn6f", fix_gamma=True)
    size = mx.sym.sqrt(mx.sym.sum(x * x, axis=1, keepdims=True))
    inverse = mx.sym.tile(mx.sym.broadcast_div(mx.sym.mean(size), size), reps=(1, 16, 1, 1))
    x = mx.sym.Pooling(x * inverse, kernel=(7, 7), global_pool=True, pool_type="avg")
    x = mx.sym.FullyConnected(norm(mx, x, "bn6w", fix_gamma=True), num_hidden=8, name="pre_fc1")
    x = norm(mx, x, "fc1", fix_gamma=True)
    images = {"data": (3, 112, 112)}
    return FieldNetwork(x, images, "0.11", ["fc1"], {"data": (3, 96, 64)}, "data (n, 3, ?, ?)")


@network
def light_cnn(mx):
    """Of Wu et al.: maxima of two halves of the channels, as of MXNet 0.8."""
    x = mx.sym.var("data")

    def halved(x, name, filters, kernel, stride, pad):
        x = conv(mx, x, name, filters, kernel, stride, pad)
        parts = mx.sym.SliceChannel(x, num_outputs=2, name=f"{name}_slice")
        return mx.sym.maximum(parts[0], parts[1])

    x = pool(mx, halved(x, "conv1", 16, 5, 1, 2), "pool1", 2, 2)
    x = halved(x, "conv2a", 16, 1, 1, 0)
    x = pool(mx, halved(x, "conv2", 24, 3, 1, 1), "pool2", 2, 2)
    x = mx.sym.FullyConnected(mx.sym.Flatten(x, name="flatten"), num_hidden=32, name="fc1")
    parts = mx.sym.SliceChannel(x, num_outputs=2, name="slice_fc1")
    x = mx.sym.Dropout(mx.sym.maximum(parts[0], parts[1]), p=0.7, name="drop1")
    x = mx.sym.FullyConnected(x, num_hidden=10, name="fc2")
    return FieldNetwork(
        mx.sym.SoftmaxOutput(x, name="softmax"),
        {"data": (1, 128, 128)},
        "0.8",
        ["drop1", "fc2", "slice_fc1_output1"],
        told="data (n, 1, 128, 128)",
        labels=["softmax_label"],
    )


# --- age and gender -----------------------------------------------------------------------------


@network
def gender_and_age_of_insightface(mx):
    x = (mx.sym.var("data") - 127.5) * 0.0078125
    for number, (filters, stride) in enumerate([(4, 1), (8, 2), (16, 2), (32, 2), (32, 2)], 1):
        if number > 1:
            name = f"conv_{number}_dw"
            groups = filters // 2 if number < 5 else filters
            shape = {"no_bias": True, "num_group": groups}
            x = conv(mx, x, f"{name}_conv2d", groups, 3, stride, 1, **shape)
            x = relu(mx, norm(mx, x, f"{name}_batchnorm", fix_gamma=True), f"{name}_relu")
        kernel = 1 if number > 1 else 3
        x = conv(mx, x, f"conv_{number}_conv2d", filters, kernel, 1, kernel // 2, no_bias=True)
        x = norm(mx, x, f"conv_{number}_batchnorm", fix_gamma=True)
        x = relu(mx, x, f"conv_{number}_relu")
    x = relu(mx, norm(mx, x, "bn1"), "relu1")
    x = pool(mx, x, "pool1", 7, kind="avg", global_pool=True)
    x = mx.sym.FullyConnected(mx.sym.Flatten(x), num_hidden=202, name="pre_fc1")
    return FieldNetwork(
        norm(mx, x, "fc1", fix_gamma=True),
        {"data": (3, 112, 112)},
        layers=["fc1", "pool1"],
        other={"data": (3, 70, 90)},
        told="data (n, 3, ?, ?)",
    )


@network
def ssr_net(mx):
    """Soft stagewise regression of age: parameters that are no weights, means without names."""
    data = mx.sym.var("data")

    def stream(kind, act):
        x, stages = data, []
        for filters, window in ((8, 2), (8, 2), (8, 4)):
            x = mx.sym.Convolution(x, kernel=(3, 3), pad=(1, 1), num_filter=filters)
            x = mx.sym.Activation(mx.sym.BatchNorm(x, fix_gamma=False), act_type=act)
            size = {"kernel": (window, window), "stride": (window, window)}
            x = mx.sym.Pooling(x, pool_type=kind, **size)
            stages.append(x)
        return stages

    def head(x, kind, window):
        x = mx.sym.Convolution(x, kernel=(1, 1), num_filter=4)
        x = mx.sym.Activation(x, act_type="relu")
        size = {"kernel": (window, window), "stride": (window, window)}
        x = mx.sym.Flatten(mx.sym.Pooling(x, pool_type=kind, **size))
        return x, mx.sym.Dropout(x, p=0.2)

    def dense(x, size, act, name=None):
        return mx.sym.Activation(mx.sym.FullyConnected(x, num_hidden=size, name=name), act_type=act)

    total, widths = None, 1
    pairs = zip(stream("avg", "relu"), stream("max", "tanh"), (8, 4, 1))
    for number, (one, other, window) in enumerate(pairs, 1):
        (left, left_dropped), (right, right_dropped) = (
            head(one, "avg", window),
            head(other, "max", window),
        )
        delta = dense(left * right, 1, "tanh", f"delta_s{number}")
        mixed = dense(left_dropped, 3, "relu") * dense(right_dropped, 3, "relu")
        mixed = dense(mixed, 6, "relu")
        shift = dense(mixed, 3, "tanh", f"local_delta_stage{number}") * 1.0
        places = mx.sym.var(f"stage_num{number - 1}", shape=(1, 3), init="zeros", lr_mult=0)
        chosen = dense(mixed, 3, "relu", f"pred_age_stage{number}")
        found = mx.sym.sum(mx.sym.broadcast_add(places, shift) * chosen, axis=1, keepdims=True)
        widths = ((delta * 1.0) + 1) * 3 * widths
        part = found / widths
        total = part if total is None else total + part
    return FieldNetwork(
        total * 101,
        {"data": (3, 64, 64)},
        "1.1",
        ["local_delta_stage2", "pred_age_stage3"],
        told="data (n, 3, 64, 64)",
    )


def of_caffe(mx, groups, classes, last):
    """AlexNet's kind as the converter of 2016 gives it."""
    x = mx.sym.var("data")
    full = {"pooling_convention": "full"}
    response = {"alpha": 0.0001, "beta": 0.75, "knorm": 1, "nsize": 5}
    x = conv(mx, x, "conv1", 8, 11, 4, no_bias=False)
    x = mx.sym.LRN(pool(mx, relu(mx, x, "relu1"), "pool1", 3, 2, **full), name="norm1", **response)
    x = relu(mx, conv(mx, x, "conv2", 16, 5, 1, 2, num_group=groups), "relu2")
    x = mx.sym.LRN(pool(mx, x, "pool2", 3, 2, **full), name="norm2", **response)
    for number in (3, 4, 5):
        grouped = groups if number > 3 else 1
        x = relu(mx, conv(mx, x, f"conv{number}", 16, 3, 1, 1, num_group=grouped), f"relu{number}")
    x = mx.sym.Flatten(pool(mx, x, "pool5", 3, 2, **full), name="flatten_0")
    for number in (6, 7):
        x = mx.sym.FullyConnected(x, num_hidden=16, no_bias=False, name=f"fc{number}")
        x = mx.sym.Dropout(relu(mx, x, f"relu{number}"), p=0.5, name=f"drop{number}")
    x = mx.sym.FullyConnected(x, num_hidden=classes, no_bias=False, name=last)
    return mx.sym.SoftmaxOutput(x, name="prob")


@network
def caffenet(mx):
    layers = ["norm2", "relu7", "fc8", "prob"]
    return FieldNetwork(
        of_caffe(mx, 2, 10, "fc8"),
        {"data": (3, 227, 227)},
        "0.8",
        layers,
        told="data (n, 3, 224, 224)",  # which fits too
        labels=["prob_label"],
    )


@network
def age_net(mx):
    layers = ["pool5", "fc8-age"]
    return FieldNetwork(
        of_caffe(mx, 1, 8, "fc8-age"), {"data": (3, 227, 227)}, "0.8", layers, labels=["prob_label"]
    )


# --- detection ----------------------------------------------------------------------------------


def mtcnn(mx, x, suffix="", widths=(28, 48, 64), last=2):
    x = prelu(mx, conv(mx, x, f"conv1{suffix}", widths[0]), f"prelu1{suffix}")
    x = pool(mx, x, f"pool1{suffix}", 3, 2, pooling_convention="full")
    x = prelu(mx, conv(mx, x, f"conv2{suffix}", widths[1]), f"prelu2{suffix}")
    x = pool(mx, x, f"pool2{suffix}", 3, 2, pooling_convention="full")
    return prelu(mx, conv(mx, x, f"conv3{suffix}", widths[2], last), f"prelu3{suffix}")


@network
def mtcnn_det1(mx):
    x = prelu(mx, conv(mx, mx.sym.var("data"), "conv1", 10), "prelu1")
    x = pool(mx, x, "pool1", 2, 2, pooling_convention="full")
    x = prelu(mx, conv(mx, x, "conv2", 16), "prelu2")
    x = prelu(mx, conv(mx, x, "conv3", 32), "prelu3")
    boxes = conv(mx, x, "conv4_2", 4, 1)
    faces = mx.sym.SoftmaxActivation(conv(mx, x, "conv4_1", 2, 1), mode="channel", name="prob1")
    return FieldNetwork(
        mx.sym.Group([boxes, faces]),
        {"data": (3, 47, 31)},
        "0.8",
        ["prelu3"],
        {"data": (3, 12, 12)},
        told="data (n, 3, ?, ?)",
    )


@network
def mtcnn_det3(mx):
    x = mtcnn(mx, mx.sym.var("data"), widths=(8, 16, 16), last=3)
    x = pool(mx, x, "pool3", 2, 2, pooling_convention="full")
    x = prelu(mx, conv(mx, x, "conv4", 32, 2), "prelu4")
    x = mx.sym.FullyConnected(x, num_hidden=32, name="conv5")
    x = prelu(mx, mx.sym.Dropout(x, p=0.25, name="drop5"), "prelu5")
    heads = [mx.sym.FullyConnected(x, num_hidden=n, name=f"conv6_{k}") for n, k in ((2, 1), (4, 2))]
    heads.append(mx.sym.FullyConnected(x, num_hidden=10, name="conv6_3"))
    heads[0] = mx.sym.SoftmaxOutput(heads[0], name="prob1")
    return FieldNetwork(
        mx.sym.Group([heads[2], heads[1], heads[0]]),
        {"data": (3, 48, 48)},
        "0.8",
        ["prelu5"],
        told="data (n, 3, 48, 48)",
        labels=["prob1_label"],
    )


@network
def mtcnn_det2(mx):
    x = mtcnn(mx, mx.sym.var("data"))
    x = prelu(mx, mx.sym.FullyConnected(x, num_hidden=128, name="conv4"), "prelu4")
    boxes = mx.sym.FullyConnected(x, num_hidden=4, name="conv5_2")
    faces = mx.sym.FullyConnected(x, num_hidden=2, name="conv5_1")
    return FieldNetwork(
        mx.sym.Group([boxes, mx.sym.SoftmaxActivation(faces, name="prob1")]),
        {"data": (3, 24, 24)},
        "0.8",
        ["prelu4"],
        told="data (n, 3, 24, 24)",
    )


@network
def mtcnn_det4(mx):
    """Five patches side by side in the channels, a column of layers for each."""
    patches = mx.sym.SliceChannel(mx.sym.var("data"), num_outputs=5, name="slice")
    columns = [mtcnn(mx, patches[k], f"_{k + 1}", (4, 8, 8)) for k in range(5)]
    x = mx.sym.FullyConnected(mx.sym.Concat(*columns, name="concat"), num_hidden=16, name="fc4")
    x = mx.sym.Dropout(prelu(mx, x, "prelu4"), p=0.25, name="drop4")
    heads = []
    for k in range(1, 6):
        y = prelu(mx, mx.sym.FullyConnected(x, num_hidden=8, name=f"fc4_{k}"), f"prelu4_{k}")
        heads.append(mx.sym.FullyConnected(y, num_hidden=2, name=f"fc5_{k}"))
    return FieldNetwork(
        mx.sym.Group(heads),
        {"data": (15, 24, 24)},
        "0.8",
        ["prelu4", "slice_output3"],
        told="data (n, 15, 24, 24)",
    )


@network
def retinaface(mx):
    """MobileNet, a pyramid, context modules, three heads at each of three strides."""

    def active(x, name, filters, kernel, act=True):
        weight = mx.sym.var(f"{name}_weight", init=mx.init.Normal(0.01), lr_mult=1.0)
        bias = mx.sym.var(f"{name}_bias", init=mx.init.Constant(0.0), lr_mult=2.0, wd_mult=0.0)
        x = conv(mx, x, name, filters, kernel, 1, kernel // 2, weight=weight, bias=bias)
        x = norm(mx, x, f"{name}_bn", momentum=0.9)
        return relu(mx, x, f"{name}_relu") if act else x

    def context(x, filters, name):
        y = active(x, f"{name}_context_conv1", filters // 2, 3)
        z = active(y, f"{name}_context_conv3_1", filters // 2, 3)
        parts = [
            active(x, f"{name}_conv1", filters, 3, False),
            active(y, f"{name}_context_conv2", filters // 2, 3, False),
            active(z, f"{name}_context_conv3_2", filters // 2, 3, False),
        ]
        return relu(mx, mx.sym.concat(*parts, dim=1, name=f"{name}_concat"), f"{name}_concat_relu")

    x, maps = mx.sym.var("data"), []
    for number, (filters, stride) in enumerate([(4, 2), (8, 4), (8, 1), (16, 2), (16, 2)]):
        name = f"mobilenet0_conv{number}"
        x = conv(mx, x, f"{name}_fwd", filters, 3, stride, 1, no_bias=True)
        x = norm(mx, x, f"mobilenet0_batchnorm{number}_fwd", eps=1e-5, use_global_stats=False)
        x = relu(mx, x, f"mobilenet0_relu{number}_fwd")
        maps.append(x)
    fine, middle, coarse = maps[2:]
    coarse = active(coarse, "rf_c3_lateral", 8, 1)
    outputs, above = [(32, context(coarse, 8, "rf_c3_det"))], coarse
    for stride, level, below in ((16, 2, middle), (8, 1, fine)):
        options = {"scale": 2, "sample_type": "nearest", "workspace": 512, "num_args": 1}
        above = mx.sym.UpSampling(above, name=f"rf_c{level + 1}_upsampling", **options)
        below = active(below, f"rf_c{level}_red_conv", 8, 1)
        above = below + mx.sym.Crop(above, below)
        above = active(above, f"rf_c{level}_aggr", 8, 3)
        outputs.append((stride, context(above, 8, f"rf_c{level}_det")))
    heads = []
    for stride, x in outputs:
        score = conv(mx, x, f"face_rpn_cls_score_stride{stride}", 4, 1)
        name = f"face_rpn_cls_score_reshape_stride{stride}"
        score = mx.sym.Reshape(score, shape=(0, 2, -1, 0), name=name)
        name = f"face_rpn_cls_prob_stride{stride}"
        score = mx.sym.SoftmaxActivation(score, mode="channel", name=name)
        name = f"face_rpn_cls_prob_reshape_stride{stride}"
        heads.append(mx.sym.Reshape(score, shape=(0, 4, -1, 0), name=name))
        heads.append(conv(mx, x, f"face_rpn_bbox_pred_stride{stride}", 8, 1))
        heads.append(conv(mx, x, f"face_rpn_landmark_pred_stride{stride}", 20, 1))
    return FieldNetwork(
        mx.sym.Group(heads),
        {"data": (3, 96, 128)},
        layers=["rf_c3_upsampling", "rf_c2_aggr_relu"],
        other={"data": (3, 75, 107)},
        told="data (n, 3, ?, ?)",
    )


def ssd_body(mx):
    x, maps = mx.sym.var("data"), []
    for number, filters in enumerate((4, 8, 8, 8), 1):
        for part in (1, 2):
            name = f"{number}_{part}"
            x = relu(mx, conv(mx, x, f"conv{name}", filters, 3, 1, 1), f"relu{name}")
        if number == 4:
            maps.append(x)
        full = {"pooling_convention": "full"} if number == 3 else {}
        x = pool(mx, x, f"pool{number}", 2, 2, **full)
    x = relu(mx, conv(mx, x, "conv5_1", 8, 3, 1, 1), "relu5_1")
    x = pool(mx, x, "pool5", 3, 1, 1)
    x = relu(mx, conv(mx, x, "fc6", 16, 3, 1, 6, dilate=(6, 6)), "relu6")
    x = relu(mx, conv(mx, x, "fc7", 16, 1), "relu7")
    maps.append(x)
    for number, (stride, pad) in enumerate(((2, 1), (1, 1)), 2):
        name = f"multi_feat_{number}_conv"
        x = relu(mx, conv(mx, x, f"{name}_1x1_conv", 8, 1), f"{name}_1x1_relu")
        x = relu(mx, conv(mx, x, f"{name}_3x3_conv", 12, 3, stride, pad), f"{name}_3x3_relu")
        maps.append(x)
    return maps


def ssd_heads(mx):
    places, classes, anchors = [], [], []
    for k, x in enumerate(ssd_body(mx)):
        name = ["relu4_3", "relu7", "multi_feat_2_conv_3x3_relu", "multi_feat_3_conv_3x3_relu"][k]
        if k == 0:
            x = mx.sym.L2Normalization(x, mode="channel", name=f"{name}_norm")
            options = {"shape": (1, 8, 1, 1), "init": mx.init.Constant(20), "wd_mult": 0.1}
            x = mx.sym.broadcast_mul(mx.sym.var(f"{name}_scale", **options), x)
        for kind, number, found in (("loc", 16, places), ("cls", 12, classes)):
            y = conv(mx, x, f"{name}_{kind}_pred_conv", number, 3, 1, 1)
            found.append(mx.sym.Flatten(mx.sym.transpose(y, axes=(0, 2, 3, 1))))
        boxes = mx.sym.contrib.MultiBoxPrior(
            x,
            sizes=(0.1 * (k + 1), 0.141 * (k + 1)),
            ratios=(1, 2, 0.5),
            clip=False,
            steps=(0.0625, 0.0625) if k == 0 else (-1.0, -1.0),
            name=f"{name}_anchors",
        )
        anchors.append(mx.sym.Flatten(boxes))
    places = mx.sym.Concat(*places, num_args=4, dim=1, name="multibox_loc_pred")
    classes = mx.sym.Reshape(mx.sym.Concat(*classes, num_args=4, dim=1), shape=(0, -1, 3))
    classes = mx.sym.transpose(classes, axes=(0, 2, 1), name="multibox_cls_pred")
    anchors = mx.sym.Concat(*anchors, num_args=4, dim=1)
    return places, classes, mx.sym.Reshape(anchors, shape=(0, -1, 4), name="multibox_anchors")


NO_ROWS = r"has output shape \(1, .* for a batch of n examples"


@network
def ssd(mx):
    places, classes, anchors = ssd_heads(mx)
    classes = mx.sym.SoftmaxActivation(classes, mode="channel", name="cls_prob")
    boxes = mx.sym.contrib.MultiBoxDetection(
        classes, places, anchors, name="detection", nms_threshold=0.5, nms_topk=400
    )
    return FieldNetwork(
        boxes,
        {"data": (3, 96, 96)},
        "0.11",
        ["multibox_loc_pred", "cls_prob", "relu7"],
        {"data": (3, 100, 68)},
        told="data (n, 3, ?, ?)",
        refused={
            "multibox_anchors": NO_ROWS,
            "relu7_anchors": NO_ROWS,
            "detection": "no conversion for operator _contrib_MultiBoxDetection",
        },
    )


@network
def ssd_in_training(mx):
    places, classes, anchors = ssd_heads(mx)
    target = mx.sym.contrib.MultiBoxTarget(
        anchors,
        mx.sym.var("label"),
        classes,
        overlap_threshold=0.5,
        ignore_label=-1,
        negative_mining_ratio=3,
        variances=(0.1, 0.1, 0.2, 0.2),
        name="multibox_target",
    )
    chances = mx.sym.SoftmaxOutput(
        classes,
        target[2],
        ignore_label=-1,
        use_ignore=True,
        multi_output=True,
        normalization="valid",
        name="cls_prob",
    )
    loss = mx.sym.smooth_l1(target[1] * (places - target[0]), scalar=1.0, name="loc_loss_")
    loss = mx.sym.MakeLoss(loss, grad_scale=1.0, normalization="valid", name="loc_loss")
    labels = mx.sym.MakeLoss(target[2], grad_scale=0, name="cls_label")
    boxes = mx.sym.contrib.MultiBoxDetection(chances, places, anchors, name="detection")
    boxes = mx.sym.MakeLoss(boxes, grad_scale=0, name="det_out")
    return FieldNetwork(
        mx.sym.Group([chances, loss, labels, boxes]),
        {"data": (3, 96, 96)},
        layers=["multibox_loc_pred", "relu7"],
        beyond=["cls_prob"],
        told="data (n, 3, ?, ?)",
        refused={"loc_loss": "no conversion for operator _contrib_MultiBoxTarget"},
        labels=["label"],
        label_shape=(3, 6),
    )


@network
def faster_rcnn(mx):
    """Needs sizes of images only from where regions are proposed."""
    x = mx.sym.var("data")
    for name, filters in (("conv1_1", 4), ("conv2_1", 8)):
        x = pool(mx, relu(mx, conv(mx, x, name, filters, 3, 1, 1), f"relu{name[4:]}"), None, 2, 2)
    y = relu(mx, conv(mx, x, "rpn_conv_3x3", 8, 3, 1, 1), "rpn_relu")
    score = conv(mx, y, "rpn_cls_score", 6, 1)
    shifts = conv(mx, y, "rpn_bbox_pred", 12, 1)
    score = mx.sym.Reshape(score, shape=(0, 2, -1, 0), name="rpn_cls_score_reshape")
    score = mx.sym.SoftmaxActivation(score, mode="channel", name="rpn_cls_prob")
    score = mx.sym.Reshape(score, shape=(0, 6, -1, 0), name="rpn_cls_prob_reshape")
    rois = mx.sym.contrib.Proposal(
        score,
        shifts,
        mx.sym.var("im_info"),
        name="rois",
        feature_stride=4,
        scales=(8, 16, 32),
        ratios=(1,),
        rpn_pre_nms_top_n=60,
        rpn_post_nms_top_n=10,
        threshold=0.7,
        rpn_min_size=1,
    )
    x = mx.sym.ROIPooling(x, rois, name="pool5", pooled_size=(3, 3), spatial_scale=0.25)
    x = relu(mx, mx.sym.FullyConnected(mx.sym.Flatten(x), num_hidden=8, name="fc6"), "relu6")
    classes = mx.sym.softmax(mx.sym.FullyConnected(x, num_hidden=3, name="cls_score"))
    classes = mx.sym.Reshape(classes, shape=(1, -1, 3), name="cls_prob_reshape")
    boxes = mx.sym.FullyConnected(x, num_hidden=12, name="bbox_pred")
    boxes = mx.sym.Reshape(boxes, shape=(1, -1, 12), name="bbox_pred_reshape")
    return FieldNetwork(
        mx.sym.Group([rois, classes, boxes]),
        {"data": (3, 64, 48), "im_info": (3,)},
        "0.11",
        ["relu2_1", "rpn_bbox_pred", "rpn_cls_prob_reshape"],
        {"data": (3, 33, 41), "im_info": (3,)},
        refused=dict.fromkeys(("rois", "fc6"), "no conversion for operator _contrib_Proposal"),
    )


@network
def region_heads(mx):
    """Fast R-CNN's second half: rows are regions, of which an image has many or none."""
    x = relu(mx, conv(mx, mx.sym.var("data"), "conv1", 4, 3, 1, 1), "relu1")
    rois = mx.sym.Reshape(mx.sym.var("rois"), shape=(-1, 5), name="rois_reshape")
    x = mx.sym.ROIPooling(x, rois, name="pool5", pooled_size=(2, 2), spatial_scale=1.0)
    x = mx.sym.FullyConnected(mx.sym.Flatten(x), num_hidden=8, name="fc6")
    return FieldNetwork(
        mx.sym.SoftmaxOutput(x, name="cls_prob"),
        {"data": (3, 12, 12), "rois": (4, 5)},
        "0.8",
        ["relu1"],
        told="data (n, 3, ?, ?)",
        refused={"fc6": r"has output shape \(4n, 8\) for a batch of n examples"},
        labels=["cls_prob_label"],
    )


@network
def open_pose(mx):
    """Two branches, refined together."""
    x = relu(mx, conv(mx, mx.sym.var("data"), "conv1_1", 4, 3, 1, 1), "relu1_1")
    trunk = pool(mx, x, "pool1_stage1", 2, 2)
    x, heads = trunk, []
    for stage in (1, 2):
        found = []
        for branch, filters in (("L1", 38), ("L2", 19)):
            start, kernel = ("conv5", 3) if stage == 1 else ("Mconv", 7)
            y = conv(mx, x, f"{start}_1_stage{stage}_{branch}", 8, kernel, 1, kernel // 2)
            y = relu(mx, y, f"{start}_relu1_stage{stage}_{branch}")
            found.append(conv(mx, y, f"{start}_7_stage{stage}_{branch}", filters, 1))
        x = mx.sym.Concat(*found, trunk, name=f"concat_stage{stage + 1}")
        heads = found
    return FieldNetwork(
        mx.sym.Group(heads),
        {"data": (3, 46, 64)},
        "0.8",
        ["concat_stage2"],
        {"data": (3, 31, 20)},
        "data (n, 3, ?, ?)",
    )


# --- segmentation -------------------------------------------------------------------------------


@network
def fcn8s(mx):
    data, pools = mx.sym.var("data"), []
    x = data
    for number, filters in enumerate((4, 8, 8, 8, 8), 1):
        pad = 100 if number == 1 else 1
        x = relu(mx, conv(mx, x, f"conv{number}_1", filters, 3, 1, pad), f"relu{number}_1")
        x = pool(mx, x, f"pool{number}", 2, 2)
        pools.append(x)
    x = mx.sym.Dropout(relu(mx, conv(mx, x, "fc6", 8, 7), "relu6"), p=0.5, name="drop6")
    x = conv(mx, x, "score", 5, 1)

    def larger(x, name, kernel, stride, **more):
        shape = {"kernel": pair(kernel), "stride": pair(stride), "num_filter": 5}
        return mx.sym.Deconvolution(x, name=name, no_bias=True, **shape, **more)

    x = larger(x, "score2", 4, 2, adj=(1, 1))
    for below, name, offset in ((pools[3], "score_pool4", 5), (pools[2], "score_pool3", 9)):
        y = mx.sym.Crop(conv(mx, below, name, 5, 1), x, offset=pair(offset), name=f"{name}c")
        x = x + y
        x = larger(x, "score4", 4, 2) if offset == 5 else larger(x, "bigscore", 16, 8)
    x = mx.sym.Crop(x, data, offset=(31, 31), name="upscore")
    options = {"multi_output": True, "use_ignore": True, "ignore_label": 255}
    return FieldNetwork(
        mx.sym.SoftmaxOutput(x, name="softmax", **options),
        {"data": (3, 64, 48)},
        "0.8",
        ["upscore", "score_pool4c", "drop6"],
        {"data": (3, 32, 75)},
        told="data (n, 3, ?, ?)",
        labels=["softmax_label"],
    )


@network
def deeplab_v2(mx):
    data = mx.sym.var("data")
    x = mx.sym.BatchNorm(data, fix_gamma=True, eps=2e-5, name="bn_data")
    x = pool(
        mx, relu(mx, conv(mx, x, "conv0", 8, 7, 2, 3, no_bias=True), "relu0"), "pool0", 3, 2, 1
    )
    x = relu(mx, norm(mx, x, "res5a_bn", use_global_stats=True, eps=1e-5), "res5a_relu")
    branches = [
        conv(mx, x, f"fc1_voc12_c{k}", 5, 3, 1, rate, dilate=pair(rate))
        for k, rate in enumerate((6, 12, 18))
    ]
    x = mx.sym.ElementWiseSum(*branches, name="fc1_voc12")
    shape = {"kernel": (16, 16), "stride": (4, 4), "pad": (6, 6), "num_filter": 5, "num_group": 5}
    x = mx.sym.Deconvolution(x, name="upsampling", no_bias=True, workspace=512, **shape)
    x = mx.sym.Crop(x, data, center_crop=True, name="crop")
    x = mx.sym.softmax(x, axis=1, name="softmax")
    return FieldNetwork(
        x,
        {"data": (3, 64, 48)},
        layers=["fc1_voc12", "crop"],
        other={"data": (3, 57, 33)},
        told="data (n, 3, ?, ?)",
    )


@network
def dense_upsampling(mx):
    """Of Wang et al.: classes at every pixel, out of channels."""
    x = relu(mx, conv(mx, mx.sym.var("data"), "conv0", 8, 3, 4, 1), "relu0")
    x = conv(mx, x, "fc1_c0", 5 * 16, 1)
    x = mx.sym.Reshape(x, shape=(0, 5, 16, -1), name="reshape0")
    x = mx.sym.transpose(x, axes=(0, 1, 3, 2))
    x = mx.sym.SoftmaxOutput(x, multi_output=True, normalization="valid", name="seg_loss")
    images = {"data": (3, 32, 48)}
    return FieldNetwork(
        x, images, "0.11", ["seg_loss"], {"data": (3, 40, 24)}, labels=["seg_loss_label"]
    )


# --- classification -----------------------------------------------------------------------------


@network
def inception_bn(mx):
    def factory(x, filters, kernel, name, suffix="", stride=1, pad=0):
        x = conv(mx, x, f"conv_{name}{suffix}", filters, kernel, stride, pad, workspace=512)
        x = norm(mx, x, f"bn_{name}{suffix}", fix_gamma=True, eps=1e-10)
        return relu(mx, x, f"relu_{name}{suffix}")

    x = factory(mx.sym.var("data"), 8, 7, "1", stride=2, pad=3)
    x = pool(mx, x, "pool_1", 3, 2)
    x = pool(mx, factory(x, 8, 3, "2", pad=1), "pool_2", 3, 2)
    for name, kind in (("3a", "avg"), ("3c", None), ("5b", "max")):
        stride = 1 if kind else 2
        parts = [factory(x, 4, 1, name, "_1x1")] if kind else []
        y = factory(x, 4, 1, name, "_3x3_reduce")
        parts.append(factory(y, 6, 3, name, "_3x3", stride, 1))
        y = factory(x, 4, 1, name, "_double_3x3_reduce")
        y = factory(y, 4, 3, name, "_double_3x3_0", pad=1)
        parts.append(factory(y, 4, 3, name, "_double_3x3_1", stride, 1))
        y = pool(mx, x, f"{kind or 'max'}_pool_{name}_pool", 3, stride, 1, kind or "max")
        parts.append(factory(y, 4, 1, name, "_proj") if kind else y)
        x = mx.sym.Concat(*parts, name=f"ch_concat_{name}_chconcat")
    x = pool(mx, x, "global_pool", 14, 1, 0, "avg")
    x = mx.sym.FullyConnected(mx.sym.Flatten(x, name="flatten"), num_hidden=10, name="fc1")
    return FieldNetwork(
        mx.sym.SoftmaxOutput(x, name="softmax"),
        {"data": (3, 224, 224)},
        "0.8",
        ["global_pool", "flatten", "fc1", "ch_concat_3c_chconcat"],
        told="data (n, 3, 224, 224)",
        labels=["softmax_label"],
    )


@network
def inception_resnet_v2(mx):
    def factory(x, filters, kernel, pad=0, stride=1, act=True):
        x = mx.sym.Convolution(
            x, num_filter=filters, kernel=kernel, stride=pair(stride), pad=pair(pad)
        )
        x = mx.sym.BatchNorm(x)
        return mx.sym.Activation(x, act_type="relu") if act else x

    def block(x, scale, act=True):
        parts = [
            factory(x, 4, (1, 1)),
            factory(factory(factory(x, 4, (1, 1)), 4, (1, 7), (1, 2)), 4, (7, 1), (2, 1)),
        ]
        mixed = mx.sym.Concat(*parts)
        x = x + scale * factory(mixed, 12, (1, 1), act=False)
        return mx.sym.Activation(x, act_type="relu") if act else x

    x = factory(mx.sym.var("data"), 8, (3, 3), stride=2)
    x = mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pool_type="max")
    x = factory(x, 12, (1, 1))
    x = block(block(x, 0.17), 0.2, act=False)
    x = mx.sym.Pooling(x, kernel=(1, 1), global_pool=True, stride=(2, 2), pool_type="avg")
    x = mx.sym.Dropout(mx.sym.Flatten(x), p=0.8)
    x = mx.sym.FullyConnected(x, num_hidden=10)
    return FieldNetwork(
        mx.sym.SoftmaxOutput(x, name="softmax"),
        {"data": (3, 75, 75)},
        "0.11",
        ["flatten0", "pooling1"],
        {"data": (3, 60, 44)},
        "data (n, 3, ?, ?)",
        labels=["softmax_label"],
    )


@network
def imagenet_resnext(mx):
    """Pre-activation as imagenet-resnet-152 has it, groups as ResNeXt, for bytes as they are."""
    x = mx.sym.var("data")
    x = norm(mx, x, "bn_data", fix_gamma=True)
    x = conv(mx, x, "conv0", 8, 7, 2, 3, no_bias=True, workspace=256)
    x = pool(mx, relu(mx, norm(mx, x, "bn0"), "relu0"), "pooling0", 3, 2, 1)
    for stage in (1, 2):
        for number in (1, 2):
            name, filters = f"stage{stage}_unit{number}", 16 * stage
            stride = 2 if number < stage else 1
            y = relu(mx, norm(mx, x, f"{name}_bn1"), f"{name}_relu1")
            if number == 1:
                x = conv(mx, y, f"{name}_sc", filters, 1, stride, no_bias=True)
            y = conv(mx, y, f"{name}_conv1", 8, 1, no_bias=True)
            y = relu(mx, norm(mx, y, f"{name}_bn2"), f"{name}_relu2")
            y = conv(mx, y, f"{name}_conv2", 8, 3, stride, 1, no_bias=True, num_group=4)
            y = relu(mx, norm(mx, y, f"{name}_bn3"), f"{name}_relu3")
            x = mx.sym.elemwise_add(
                conv(mx, y, f"{name}_conv3", filters, 1, no_bias=True), x, name=f"{name}_plus"
            )
    x = pool(mx, relu(mx, norm(mx, x, "bn1"), "relu1"), "pool1", 7, kind="avg", global_pool=True)
    x = mx.sym.FullyConnected(mx.sym.Flatten(x, name="flatten0"), num_hidden=10, name="fc1")
    return FieldNetwork(
        mx.sym.SoftmaxOutput(x, name="softmax"),
        {"data": (3, 64, 64)},
        "0.9",
        ["flatten0", "fc1", "bn_data"],
        {"data": (3, 50, 70)},
        "data (n, 3, ?, ?)",
        labels=["softmax_label"],
    )


@network
def dual_path(mx):
    def unit(x, name, filters, kernel, stride=1, pad=0, groups=1):
        x = relu(mx, norm(mx, x, f"{name}__bn", eps=0.001), f"{name}__relu")
        return conv(mx, x, name, filters, kernel, stride, pad, num_group=groups, no_bias=True)

    def halves(x, name, at):
        return [
            mx.sym.slice_axis(x, axis=1, begin=0, end=at, name=f"{name}_split1"),
            mx.sym.slice_axis(x, axis=1, begin=at, end=None, name=f"{name}_split2"),
        ]

    x = conv(mx, mx.sym.var("data"), "conv1_x_1", 8, 3, 2, 1, no_bias=True)
    residual, dense = halves(unit(x, "conv2_x__1_c1x1-w(s/1)", 12, 1), "conv2_x__1", 8)
    for number in (1, 2, 3):
        name = f"conv2_x__{number}"
        x = mx.sym.Concat(residual, dense, name=f"{name}_cat-input")
        y = unit(x, f"{name}_c1x1-a", 8, 1)
        y = unit(y, f"{name}_c3x3-b", 8, 3, 1, 1, groups=4)
        one, other = halves(unit(y, f"{name}_c1x1-c", 10, 1), f"{name}_c1x1-c", 8)
        residual = mx.sym.ElementWiseSum(residual, one, name=f"{name}_sum-ele")
        dense = mx.sym.Concat(dense, other, name=f"{name}_cat-concat")
    x = relu(mx, norm(mx, mx.sym.Concat(residual, dense), "conv5_x_x__bn"), "conv5_x_x__relu")
    x = pool(mx, x, "pool5", 7, 1, 0, "avg", global_pool=True)
    x = conv(mx, x, "fc6", 10, 1)
    x = mx.sym.SoftmaxOutput(mx.sym.Flatten(x, name="flatten"), name="softmax")
    return FieldNetwork(
        x,
        {"data": (3, 32, 32)},
        "0.11",
        ["pool5", "flatten", "conv2_x__2_sum-ele", "conv2_x__1_c1x1-c_split2"],
        {"data": (3, 24, 40)},
        labels=["softmax_label"],
    )


@network
def squeeze_and_excitation(mx):
    x = relu(mx, conv(mx, mx.sym.var("data"), "conv0", 8, 3, 2, 1), "relu0")
    y = mx.sym.Pooling(x, global_pool=True, kernel=(7, 7), pool_type="avg", name="stage1_squeeze")
    y = mx.sym.Flatten(y, name="stage1_flatten")
    y = mx.sym.FullyConnected(y, num_hidden=2, name="stage1_excitation1")
    y = relu(mx, y, "stage1_excitation1_relu")
    y = mx.sym.FullyConnected(y, num_hidden=8, name="stage1_excitation2")
    y = mx.sym.Activation(y, act_type="sigmoid", name="stage1_excitation2_sigmoid")
    x = mx.sym.broadcast_mul(x, mx.sym.reshape(y, shape=(-1, 8, 1, 1)))
    x = mx.sym.Flatten(pool(mx, x, "pool1", 1, kind="avg", global_pool=True), name="flatten0")
    images = {"data": (3, 40, 40)}
    layers = ["stage1_excitation2", "flatten0"]
    return FieldNetwork(x, images, "1.1", layers, {"data": (3, 30, 44)}, "data (n, 3, ?, ?)")


@network
def shuffle_net(mx):
    x = relu(mx, conv(mx, mx.sym.var("data"), "conv0", 12, 3, 2, 1), "relu0")
    for number in (1, 2):
        y = conv(mx, x, f"unit{number}_conv1", 12, 1, num_group=3)
        y = mx.sym.reshape(y, shape=(0, -4, 3, -1, -2))
        y = mx.sym.reshape(mx.sym.swapaxes(y, 1, 2), shape=(0, -3, -2), name=f"unit{number}_mix")
        y = conv(mx, y, f"unit{number}_conv2", 12, 3, 2, 1, num_group=12, no_bias=True)
        short = pool(mx, x, f"unit{number}_pool", 3, 2, 1, "avg")
        x = relu(mx, mx.sym.concat(conv(mx, y, None, 12, 1), short, dim=1), f"unit{number}_relu")
    x = mx.sym.Flatten(pool(mx, x, "pool", 1, kind="avg", global_pool=True), name="flatten")
    images = {"data": (3, 48, 32)}
    layers = ["unit1_mix", "unit2_mix", "flatten"]
    return FieldNetwork(x, images, "1.1", layers, {"data": (3, 30, 44)}, "data (n, 3, ?, ?)")


@network
def network_in_network(mx):
    x = mx.sym.var("data")
    for number, kernel in ((1, 5), (2, 3)):
        x = relu(mx, conv(mx, x, f"conv{number}", 8, kernel, 1, kernel // 2), f"relu{number}")
        x = relu(mx, conv(mx, x, f"cccp{number}", 8, 1), f"relu_cccp{number}")
        x = pool(mx, x, f"pool{number}", 3, 2, 0, "avg" if number > 1 else "max")
        x = mx.sym.Dropout(x, p=0.5, name=f"drop{number}")
    x = mx.sym.Flatten(pool(mx, x, "pool4", 7, kind="avg"), name="flatten")
    return FieldNetwork(
        mx.sym.SoftmaxOutput(x, name="softmax"),
        {"data": (3, 32, 32)},
        "0.8",
        ["pool4", "flatten"],
        {"data": (3, 36, 32)},
        told="data (n, 3, ?, ?)",
        labels=["softmax_label"],
    )


@network
def squeezenet(mx):
    x = relu(mx, conv(mx, mx.sym.var("data"), "conv1", 8, 7, 2), "relu_conv1")
    x = pool(mx, x, "pool1", 3, 2, pooling_convention="full")
    for number in (2, 3):
        y = relu(mx, conv(mx, x, f"fire{number}_squeeze1x1", 4, 1), f"fire{number}_relu_s")
        parts = [
            relu(mx, conv(mx, y, f"fire{number}_expand{k}x{k}", 8, k, 1, k // 2), f"f{number}_{k}")
            for k in (1, 3)
        ]
        x = mx.sym.Concat(*parts, dim=1, name=f"fire{number}_concat")
    x = relu(mx, conv(mx, mx.sym.Dropout(x, p=0.5), "conv10", 10, 1, pad=1), "relu_conv10")
    x = mx.sym.Flatten(pool(mx, x, "pool10", 13, kind="avg", global_pool=True), name="flatten")
    x = mx.sym.SoftmaxOutput(x, name="prob")
    images = {"data": (3, 63, 63)}
    layers = ["flatten", "fire3_concat"]
    return FieldNetwork(
        x, images, "0.9", layers, {"data": (3, 50, 41)}, "data (n, 3, ?, ?)", labels=["prob_label"]
    )


@network
def fast_neural_style(mx):
    def padded(x, filters, kernel, stride):
        edge = kernel // 2
        x = mx.sym.Pad(x, mode="reflect", pad_width=(0, 0, 0, 0, edge, edge, edge, edge))
        return mx.sym.Convolution(x, kernel=pair(kernel), stride=pair(stride), num_filter=filters)

    x = padded(mx.sym.var("data"), 8, 9, 1)
    x = mx.sym.Activation(mx.sym.InstanceNorm(x, eps=1e-5), act_type="relu")
    y = mx.sym.Activation(mx.sym.InstanceNorm(padded(x, 8, 3, 2)), act_type="relu")
    y = mx.sym.UpSampling(y, scale=2, sample_type="nearest")
    x = padded(y, 8, 3, 1) + x
    x = mx.sym.Deconvolution(
        x, kernel=(4, 4), stride=(2, 2), pad=(1, 1), num_filter=3, no_bias=True, adj=(0, 0)
    )
    images = {"data": (3, 32, 40)}
    x = mx.sym.clip(mx.sym.tanh(x) * 150 + 127.5, 0, 255, name="out")
    return FieldNetwork(x, images, "1.1", ["out"], {"data": (3, 24, 20)})


# --- as Gluon exports them ----------------------------------------------------------------------


def gluon_unit(mx, x, prefix, filters, kernel=3, stride=1, act="leaky"):
    pad = kernel // 2
    x = conv(mx, x, f"{prefix}_conv0_fwd", filters, kernel, stride, pad, no_bias=True)
    x = norm(mx, x, f"{prefix}_batchnorm0_fwd", eps=1e-5, axis=1, use_global_stats=False)
    if act == "leaky":
        return mx.sym.LeakyReLU(x, act_type="leaky", slope=0.1, name=f"{prefix}_leakyrelu0_fwd")
    return relu(mx, x, f"{prefix}_relu0_fwd")


@network
def yolo3(mx):
    x, routes = mx.sym.var("data"), []
    for number, filters in enumerate((8, 8, 12)):
        x = gluon_unit(mx, x, f"darknetv30_{number}", filters, stride=2)
        y = gluon_unit(mx, x, f"darknetv30_{number}a", filters // 2, 1)
        x = x + gluon_unit(mx, y, f"darknetv30_{number}b", filters)
        routes.append(x)
    classes, wanted, found = 4, 9, []
    for level, route in enumerate(reversed(routes[1:])):
        if level:
            x = gluon_unit(mx, x, f"yolov30_{level}", 8, 1)
            x = mx.sym.repeat(mx.sym.repeat(x, axis=-1, repeats=2), axis=-2, repeats=2)
            x = mx.sym.concat(mx.sym.slice_like(x, route * 0, axes=(2, 3)), route, dim=1)
        x = gluon_unit(mx, x, f"yolov30_detection{level}", 8, 1)
        y = gluon_unit(mx, x, f"yolov30_tip{level}", 8)
        prefix = f"yolov30_yolooutputv3{level}"
        y = conv(mx, y, f"{prefix}_conv0_fwd", 3 * wanted, 1)
        y = mx.sym.reshape(y, shape=(0, 3 * wanted, -1))
        y = mx.sym.reshape(mx.sym.transpose(y, axes=(0, 2, 1)), shape=(0, -1, 3, wanted))
        centres = mx.sym.slice_axis(y, axis=-1, begin=0, end=2)
        scales = mx.sym.slice_axis(y, axis=-1, begin=2, end=4)
        sure = mx.sym.sigmoid(mx.sym.slice_axis(y, axis=-1, begin=4, end=5))
        scores = mx.sym.sigmoid(mx.sym.slice_axis(y, axis=-1, begin=5, end=None))
        offsets = mx.sym.var(f"{prefix}_offsets", shape=(1, 1, 32, 32, 2))
        offsets = mx.sym.slice_like(offsets, x * 0, axes=(2, 3))
        offsets = mx.sym.reshape(offsets, shape=(1, -1, 1, 2))
        centres = mx.sym.broadcast_add(mx.sym.sigmoid(centres), offsets) * 8
        anchors = mx.sym.var(f"{prefix}_anchors", shape=(1, 1, 3, 2))
        half = mx.sym.broadcast_mul(mx.sym.exp(scales), anchors) / 2.0
        boxes = mx.sym.concat(centres - half, centres + half, dim=-1)
        scores = mx.sym.broadcast_mul(scores, sure)
        boxes = mx.sym.tile(boxes, reps=(classes, 1, 1, 1, 1))
        scores = mx.sym.expand_dims(mx.sym.transpose(scores, axes=(3, 0, 1, 2)), axis=-1)
        numbers = mx.sym.reshape(mx.sym.arange(0, classes), shape=(0, 1, 1, 1, 1))
        numbers = mx.sym.broadcast_add(scores * 0, numbers)
        y = mx.sym.concat(numbers, scores, boxes, dim=-1)
        y = mx.sym.transpose(y, axes=(1, 0, 2, 3, 4))
        found.append(mx.sym.reshape(y, shape=(0, -1, 6), name=f"{prefix}_detections"))
    boxes = mx.sym.concat(*found, dim=1, name="yolov30_boxes")
    kept = mx.sym.contrib.box_nms(
        boxes, overlap_thresh=0.45, valid_thresh=0.01, topk=400, id_index=0, score_index=1
    )
    heads = [mx.sym.slice_axis(kept, axis=-1, begin=k, end=k + 1) for k in (0, 1)]
    return FieldNetwork(
        mx.sym.Group(heads),
        {"data": (3, 48, 64)},
        layers=["yolov30_boxes", "yolov30_tip1_leakyrelu0_fwd"],
        other={"data": (3, 40, 32)},
        refused={"slice_axis8": "no conversion for operator _contrib_box_nms"},
        told="data (n, 3, 112, 112)",  # its grids, cut out of constants, are not of any size
    )


@network
def gluon_ssd(mx):
    """Anchors that are cut out of a constant; decoding of boxes by elementary operators."""
    x = mx.sym.var("data")
    scale = mx.sym.var("vgg0_init_scale", shape=(1, 3, 1, 1))
    x = gluon_unit(mx, mx.sym.broadcast_mul(x, scale), "vgg0_1", 8, stride=2, act="relu")
    maps = [mx.sym.L2Normalization(x, mode="channel", eps=1e-5)]
    maps[0] = mx.sym.broadcast_mul(maps[0], mx.sym.var("normalize_scale", shape=(1, 8, 1, 1)))
    x = mx.sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pooling_convention="full")
    maps.append(gluon_unit(mx, x, "vgg0_2", 8, stride=1, act="relu"))
    found = [[], [], []]
    for k, x in enumerate(maps):
        for parts, name, filters in zip(found, ("class", "box"), (12, 16)):
            y = conv(mx, x, f"ssd0_{name}predictor{k}_fwd", filters, 3, 1, 1)
            parts.append(mx.sym.flatten(mx.sym.transpose(y, axes=(0, 2, 3, 1))))
        name = f"ssd0_ssdanchorgenerator{k}_anchor_{k}"
        anchors = mx.sym.var(name, shape=(1, 1, 32, 32, 16))
        anchors = mx.sym.slice_like(anchors, x * 0, axes=(2, 3))
        anchors = mx.sym.reshape(anchors, shape=(1, -1, 4))
        found[2].append(mx.sym.reshape(anchors, shape=(1, -1)))
    classes = mx.sym.reshape(mx.sym.concat(*found[0], dim=1), shape=(0, -1, 3), name="classes")
    boxes = mx.sym.reshape(mx.sym.concat(*found[1], dim=1), shape=(0, -1, 4), name="boxes")
    anchors = mx.sym.reshape(mx.sym.concat(*found[2], dim=1), shape=(1, -1, 4), name="anchors")
    left, top, right, bottom = mx.sym.split(anchors, axis=-1, num_outputs=4)
    width, height = right - left, bottom - top
    shifts = mx.sym.split(boxes, axis=-1, num_outputs=4, name="boxes_split")
    middle = mx.sym.broadcast_add(
        mx.sym.broadcast_mul(shifts[0] * 0.1 + 0.0, width), left + width / 2
    )
    half = mx.sym.broadcast_mul(mx.sym.exp(shifts[3] * 0.2 + 0.0), height) / 2
    decoded = mx.sym.concat(middle - half, middle + half, dim=-1, name="decoded")
    scores = mx.sym.slice_axis(mx.sym.softmax(classes, axis=-1), axis=-1, begin=1, end=None)
    template = mx.sym.zeros_like(mx.sym.slice_axis(classes, axis=-1, begin=0, end=1))
    numbers = mx.sym.concat(template + 0, template + 1, dim=-1)
    sure = scores > 0.01
    numbers = mx.sym.where(sure, numbers, mx.sym.ones_like(numbers) * -1)
    scores = mx.sym.where(sure, scores, mx.sym.zeros_like(scores))
    results = [
        mx.sym.concat(
            mx.sym.slice_axis(numbers, axis=-1, begin=k, end=k + 1),
            mx.sym.slice_axis(scores, axis=-1, begin=k, end=k + 1),
            decoded,
            dim=-1,
        )
        for k in range(2)
    ]
    return FieldNetwork(
        mx.sym.concat(*results, dim=1, name="result"),
        {"data": (3, 24, 24)},
        layers=["classes", "boxes", "decoded", "result"],
        refused={"anchors": r"has output shape \(1, .* for a batch of n"},
    )


@network
def simple_pose(mx):
    x = gluon_unit(mx, mx.sym.var("data"), "simpleposeresnet0", 8, stride=2, act="relu")
    for number in range(2):
        x = mx.sym.Deconvolution(
            x,
            kernel=(4, 4),
            stride=(2, 2),
            dilate=(1, 1),
            pad=(1, 1),
            adj=(0, 0),
            num_filter=8,
            no_bias=True,
            layout="NCHW",
            name=f"simpleposeresnet0_deconv{number}_fwd",
        )
        x = norm(mx, x, f"simpleposeresnet0_deconv_bn{number}_fwd", eps=1e-5)
        x = relu(mx, x, f"simpleposeresnet0_deconv_relu{number}_fwd")
    x = conv(mx, x, "simpleposeresnet0_final_conv_fwd", 17, 1)
    images = {"data": (3, 32, 24)}
    layers = ["simpleposeresnet0_final_conv_fwd"]
    return FieldNetwork(x, images, "1.5", layers, {"data": (3, 17, 29)})


@network
def deeplab_v3(mx):
    """Atrous pyramid with a branch of image means, brought back to the image's size."""
    x = gluon_unit(mx, mx.sym.var("data"), "deeplabv30_resnetv1s0", 8, stride=4, act="relu")
    branches = [gluon_unit(mx, x, "aspp_0", 4, 1, act="relu")]
    for k, rate in enumerate((2, 4), 1):
        y = conv(mx, x, f"aspp_{k}_conv", 4, 3, 1, rate, dilate=pair(rate), no_bias=True)
        branches.append(relu(mx, norm(mx, y, f"aspp_{k}_bn"), f"aspp_{k}_relu"))
    y = mx.sym.contrib.AdaptiveAvgPooling2D(x, name="asppooling0_pool")
    y = gluon_unit(mx, y, "asppooling0", 4, 1, act="relu")
    branches.append(mx.sym.contrib.BilinearResize2D(y, height=12, width=8, name="asppooling0_up"))
    x = mx.sym.Dropout(conv(mx, mx.sym.concat(*branches, dim=1), "project", 8, 1), p=0.5)
    x = conv(mx, x, "head_conv1_fwd", 5, 1)
    x = mx.sym.contrib.BilinearResize2D(x, height=48, width=32, name="deeplabv30_up0")
    return FieldNetwork(x, {"data": (3, 48, 32)}, layers=["asppooling0_up", "deeplabv30_up0"])


@network
def pyramid_scene_parsing(mx):
    x = gluon_unit(mx, mx.sym.var("data"), "pspnet0_resnetv1s0", 8, stride=4, act="relu")
    parts = [x]
    for k, size in enumerate((1, 2, 3, 6)):
        y = mx.sym.contrib.AdaptiveAvgPooling2D(x, output_size=(size, size))
        y = gluon_unit(mx, y, f"pyramidpooling{k}", 2, 1, act="relu")
        options = {"mode": "like"} if k % 2 else {"height": 12, "width": 10}
        parts.append(mx.sym.contrib.BilinearResize2D(y, *([x] if k % 2 else []), **options))
    x = mx.sym.concat(*parts, dim=1, name="pspnet0_concat")
    x = conv(mx, x, "pspnet0_head_fwd", 5, 1)
    x = mx.sym.contrib.BilinearResize2D(x, height=48, width=40, align_corners=False)
    return FieldNetwork(x, {"data": (3, 48, 40)}, "1.5", ["pspnet0_concat"])


@network
def pixel_shuffle(mx):
    """Maps made larger out of channels, as in FastPose and super-resolution; swish."""
    x = conv(mx, mx.sym.var("data"), "conv0", 16, 3, 2, 1)
    x = x * mx.sym.sigmoid(x)
    for number in range(2):
        y = mx.sym.reshape(x, shape=(0, -4, -1, 4, 0, 0))
        y = mx.sym.reshape(y, shape=(0, 0, -4, 2, 2, 0, 0))
        y = mx.sym.transpose(y, axes=(0, 1, 4, 2, 5, 3))
        x = mx.sym.reshape(y, shape=(0, 0, -3, -3), name=f"pixelshuffle{number}")
        x = gluon_unit(mx, x, f"duc{number}", 16, act="relu")
    x = conv(mx, x, "conv_out", 17, 3, 1, 1)
    images = {"data": (3, 20, 16)}
    layers = ["pixelshuffle1", "conv_out"]
    return FieldNetwork(x, images, "1.5", layers, {"data": (3, 15, 9)}, "data (n, 3, ?, ?)")


@network
def resnest(mx):
    """Attention that chooses between halves of the channels."""
    x = gluon_unit(mx, mx.sym.var("data"), "resnest0", 8, stride=2, act="relu")
    y = conv(mx, x, "split_conv", 16, 3, 1, 1, num_group=4, no_bias=True)
    y = relu(mx, norm(mx, y, "split_bn"), "split_relu")
    parts = mx.sym.reshape(mx.sym.expand_dims(y, axis=1), shape=(0, 2, 8, 0, 0))
    z = mx.sym.contrib.AdaptiveAvgPooling2D(mx.sym.sum(parts, axis=1), output_size=1)
    z = conv(mx, relu(mx, conv(mx, z, "fc1", 4, 1, num_group=2), "fc1_relu"), "fc2", 16, 1)
    z = mx.sym.swapaxes(mx.sym.reshape(z, shape=(0, 2, 2, -1)), 1, 2)
    z = mx.sym.reshape(mx.sym.softmax(z, axis=1), shape=(0, -1, 1, 1))
    z = mx.sym.expand_dims(mx.sym.reshape(z, shape=(0, 2, 8)), axis=3)
    z = mx.sym.expand_dims(z, axis=4)
    x = x + mx.sym.sum(mx.sym.broadcast_mul(parts, z), axis=1, name="chosen")
    x = mx.sym.Pooling(x, kernel=(1, 1), global_pool=True, pool_type="avg", name="pool")
    x = mx.sym.FullyConnected(mx.sym.Flatten(x), num_hidden=10, name="dense")
    images = {"data": (3, 20, 16)}
    return FieldNetwork(x, images, "1.6", ["chosen", "pool", "dense"], {"data": (3, 15, 9)})


@network
def slow_fast(mx):
    """Films: convolutions over time too, on every and on each fourth picture."""
    data = mx.sym.var("data")
    slow = mx.sym.slice(data, begin=(None, None, None), end=(None, None, None), step=(1, 1, 4))
    shape = {"kernel": (3, 3, 3), "stride": (1, 2, 2), "pad": (1, 1, 1), "no_bias": True}
    fast = mx.sym.Convolution(data, num_filter=4, name="fast_conv1", **shape)
    fast = relu(mx, norm(mx, fast, "fast_bn1"), "fast_relu1")
    side = {"kernel": (5, 1, 1), "stride": (4, 1, 1), "pad": (2, 0, 0), "no_bias": True}
    side = mx.sym.Convolution(fast, num_filter=4, name="lateral", **side)
    slow = mx.sym.Convolution(slow, num_filter=8, name="slow_conv1", **shape)
    slow = mx.sym.concat(relu(mx, norm(mx, slow, "slow_bn1"), "slow_relu1"), side, dim=1)
    size = {"kernel": (1, 3, 3), "stride": (1, 2, 2), "pad": (0, 1, 1)}
    slow = mx.sym.Pooling(slow, pool_type="max", name="slow_pool", **size)
    means = [
        mx.sym.Pooling(x, kernel=(1, 1, 1), global_pool=True, pool_type="avg") for x in (slow, fast)
    ]
    x = mx.sym.Flatten(mx.sym.concat(*means, dim=1), name="flatten")
    x = mx.sym.FullyConnected(x, num_hidden=6, name="dense")
    films = {"data": (3, 8, 16, 12)}
    return FieldNetwork(
        x, films, "1.6", ["flatten", "slow_pool"], {"data": (3, 12, 9, 20)}, "data (n, 3, ?, ?, ?)"
    )


@network
def hourglass(mx):
    """Landmarks of faces: halves and doubles, heat maps at the end."""
    data = mx.sym.var("data")
    x = relu(mx, norm(mx, conv(mx, data, "conv0", 8, 7, 2, 3, no_bias=True), "bn0"), "relu0")

    def level(x, depth, name):
        up = relu(mx, conv(mx, x, f"{name}_up", 8, 3, 1, 1), f"{name}_up_relu")
        low = pool(mx, x, f"{name}_pool", 2, 2)
        low = relu(mx, conv(mx, low, f"{name}_low", 8, 3, 1, 1), f"{name}_low_relu")
        low = level(low, depth - 1, f"{name}_in") if depth > 1 else low
        options = {"scale": 2, "num_filter": 8, "workspace": 256}
        if depth == 2:
            low = mx.sym.UpSampling(low, sample_type="nearest", name=f"{name}_big", **options)
        else:
            low = mx.sym.UpSampling(low, sample_type="bilinear", name=f"{name}_big", **options)
        return mx.sym.add_n(up, low, name=f"{name}_sum")

    x = conv(mx, level(x, 2, "hg1"), "heatmap", 5, 1)
    x = mx.sym.LinearRegressionOutput(x, mx.sym.var("heat_label"), name="heat")
    images = {"data": (3, 32, 48)}
    return FieldNetwork(
        x,
        images,
        "1.1",
        ["hg1_sum", "heatmap", "heat"],
        {"data": (3, 16, 40)},
        labels=["heat_label"],
    )


# --- text ---------------------------------------------------------------------------------------


@network
def bert(mx):
    """As GluonNLP exports it: word ids, lengths, kinds of tokens; attention all in one."""
    words, kinds, lengths = (mx.sym.var(f"data{k}") for k in range(3))
    units, heads = 16, 4
    table = mx.sym.var("bertmodel0_word_embed_embedding0_weight", shape=(50, units))
    x = mx.sym.Embedding(words, table, input_dim=50, output_dim=units, dtype="float32")
    y = mx.sym.Embedding(kinds, input_dim=2, output_dim=units, name="bertmodel0_token_type_embed")
    x = mx.sym.elemwise_add(x, y)
    steps = mx.sym.contrib.arange_like(x, axis=1)
    steps_row = mx.sym.reshape(steps, shape=(1, -1))
    mask = mx.sym.broadcast_lesser(steps_row, mx.sym.reshape(lengths, shape=(-1, 1)))
    ones = mx.sym.ones_like(steps)
    mask = mx.sym.broadcast_mul(
        mx.sym.expand_dims(mask, axis=1),
        mx.sym.broadcast_mul(mx.sym.reshape(ones, shape=(-1, 1)), mx.sym.reshape(ones, (1, -1))),
    )
    spots = mx.sym.Embedding(steps, input_dim=32, output_dim=units, name="position_embed")
    x = mx.sym.broadcast_add(x, mx.sym.expand_dims(spots, axis=0))
    x = mx.sym.Dropout(mx.sym.LayerNorm(x, eps=1e-12, axis=-1, name="layernorm0"), p=0.1)
    x = mx.sym.transpose(x, axes=(1, 0, 2))
    for k in range(2):
        parts = {
            kind: [
                mx.sym.var(f"cell{k}_{part}_{kind}", shape=shape)
                for part in ["query", "key", "value"]
            ]
            for kind, shape in (("weight", (units, units)), ("bias", (units,)))
        }
        wide = [mx.sym.reshape(p, shape=(heads, -1, 0), reverse=True) for p in parts["weight"]]
        weight = mx.sym.reshape(mx.sym.concat(*wide, dim=1), shape=(-1, 0), reverse=True)
        bias = [mx.sym.reshape(p, shape=(heads, -1)) for p in parts["bias"]]
        bias = mx.sym.reshape(mx.sym.stack(*bias, axis=1), shape=(-1,))
        y = mx.sym.FullyConnected(x, weight, bias, num_hidden=3 * units, flatten=False)
        scores = mx.sym.contrib.interleaved_matmul_selfatt_qk(y, heads=heads)
        wide_mask = mx.sym.broadcast_axis(mx.sym.expand_dims(mask, axis=1), axis=1, size=heads)
        wide_mask = mx.sym.reshape(wide_mask, shape=(-3, 0, 0))
        scores = mx.sym.where(wide_mask, scores, mx.sym.ones_like(scores) * -1e18)
        weights = mx.sym.broadcast_mul(mx.sym.softmax(scores, axis=-1), wide_mask)
        y = mx.sym.contrib.interleaved_matmul_selfatt_valatt(y, weights, heads=heads)
        y = mx.sym.FullyConnected(y, num_hidden=units, flatten=False, name=f"cell{k}_proj")
        x = mx.sym.LayerNorm(y + x, eps=1e-12, axis=-1, name=f"cell{k}_layernorm0")
        y = mx.sym.FullyConnected(x, num_hidden=32, flatten=False, name=f"cell{k}_ffn_1")
        y = mx.sym.LeakyReLU(y, act_type="gelu", name=f"cell{k}_gelu")
        y = mx.sym.FullyConnected(y, num_hidden=units, flatten=False, name=f"cell{k}_ffn_2")
        x = mx.sym.LayerNorm(y + x, eps=1e-12, axis=-1, name=f"cell{k}_layernorm1")
    x = mx.sym.transpose(x, axes=(1, 0, 2), name="encoded")
    y = mx.sym.slice_axis(x, axis=1, begin=0, end=1)
    y = mx.sym.FullyConnected(mx.sym.reshape(y, shape=(0, -1)), num_hidden=units, name="pooler")
    y = mx.sym.Activation(y, act_type="tanh", name="pooled")
    masked = mx.sym.SequenceMask(x, lengths, use_sequence_length=True, axis=1, name="masked")
    mean = mx.sym.broadcast_div(mx.sym.sum(masked, axis=1), mx.sym.expand_dims(lengths, axis=1))
    return FieldNetwork(
        mx.sym.Group([x, y, mean]),
        {"data0": (12,), "data1": (12,), "data2": ()},
        "1.6",
        ["encoded", "pooled", "masked", "cell0_gelu"][:3],
        {"data0": (7,), "data1": (7,), "data2": ()},
        ids={"data0": 50, "data1": 2, "data2": 7},
        refused={"cell0_gelu": r"features need one row for each example"},
    )


@network
def transformer_encoder(mx):
    """Attention before its operators were fused, as in GluonNLP 0.6."""
    x = mx.sym.Embedding(mx.sym.var("data0"), input_dim=40, output_dim=12, name="embed")
    x = mx.sym.LayerNorm(x, axis=-1, eps=1e-5, name="layernorm")

    def split(x, name):
        x = mx.sym.FullyConnected(x, num_hidden=12, flatten=False, no_bias=True, name=name)
        x = mx.sym.transpose(mx.sym.reshape(x, shape=(0, 0, 3, -1)), axes=(0, 2, 1, 3))
        return mx.sym.reshape(x, shape=(-1, 0, 0), reverse=True)

    query, key, value = (split(x, f"proj_{name}") for name in ("query", "key", "value"))
    scores = mx.sym.batch_dot(mx.sym.contrib.div_sqrt_dim(query), key, transpose_b=True)
    y = mx.sym.batch_dot(mx.sym.softmax(scores), value)
    y = mx.sym.transpose(mx.sym.reshape(y, shape=(-1, 3, 0, 0), reverse=True), axes=(0, 2, 1, 3))
    y = mx.sym.reshape(y, shape=(0, 0, -1))
    x = mx.sym.LayerNorm(x + y, axis=-1, name="layernorm1")
    x = mx.sym.Activation(mx.sym.mean(x, axis=1), act_type="tanh", name="sentence")
    words = {"data0": (9,)}
    return FieldNetwork(x, words, "1.3", ["sentence"], {"data0": (5,)}, ids={"data0": 40})


@network
def text_cnn(mx):
    """Kim's, as the example of 0.8 has it: written for one number of examples."""
    x = mx.sym.Embedding(mx.sym.var("data"), input_dim=60, output_dim=8, name="vocab_embed")
    x = mx.sym.Reshape(x, target_shape=(6, 1, 20, 8))
    pooled = []
    for size in (3, 4):
        y = mx.sym.Convolution(x, kernel=(size, 8), num_filter=5)
        y = mx.sym.Activation(y, act_type="relu")
        pooled.append(mx.sym.Pooling(y, pool_type="max", kernel=(20 - size + 1, 1), stride=(1, 1)))
    x = mx.sym.Reshape(mx.sym.Concat(*pooled, dim=1), target_shape=(6, 10), name="h_pool")
    x = mx.sym.Dropout(x, p=0.5)
    weight, bias = mx.sym.var("cls_weight"), mx.sym.var("cls_bias")
    x = mx.sym.FullyConnected(x, weight, bias, num_hidden=2)
    return FieldNetwork(
        mx.sym.SoftmaxOutput(x, mx.sym.var("softmax_label"), name="softmax"),
        {"data": (20,)},
        "0.8",
        ["h_pool", "vocab_embed"],
        ids={"data": 60},
        batch=6,
        labels=["softmax_label"],
    )


@network
def character_cnn(mx):
    """Crepe: letters one by one as columns."""
    x = mx.sym.var("data")
    for number, (kernel, pooled) in enumerate((((7, 30), True), ((7, 1), True), ((3, 1), False))):
        x = conv(mx, x, f"conv{number + 1}", 8, kernel)
        x = relu(mx, x, f"relu{number + 1}")
        if pooled:
            x = pool(mx, x, f"pool{number + 1}", (3, 1), (3, 1))
    x = mx.sym.Flatten(x, name="flatten")
    x = mx.sym.Dropout(mx.sym.FullyConnected(x, num_hidden=12, name="fc1"), p=0.5)
    x = mx.sym.SoftmaxOutput(x, name="softmax")
    letters = {"data": (1, 86, 30)}
    return FieldNetwork(x, letters, "0.11", ["flatten", "fc1"], labels=["softmax_label"])


@network
def unrolled_lstm(mx):
    """As the first examples unroll it: first states are inputs, a head for all steps together."""
    hidden = 6
    weights = {
        f"{part}_{kind}": mx.sym.var(f"l0_{part}_{kind}")
        for part in ("i2h", "h2h")
        for kind in ("weight", "bias")
    }
    x = mx.sym.Embedding(mx.sym.var("data"), input_dim=30, output_dim=5, name="embed")
    words = mx.sym.SliceChannel(x, num_outputs=4, squeeze_axis=True, name="words")
    c, h, found = mx.sym.var("l0_init_c"), mx.sym.var("l0_init_h"), []
    for step in range(4):
        i2h = mx.sym.FullyConnected(
            words[step],
            weights["i2h_weight"],
            weights["i2h_bias"],
            num_hidden=hidden * 4,
            name=f"t{step}_l0_i2h",
        )
        h2h = mx.sym.FullyConnected(
            h,
            weights["h2h_weight"],
            weights["h2h_bias"],
            num_hidden=hidden * 4,
            name=f"t{step}_l0_h2h",
        )
        gates = mx.sym.SliceChannel(i2h + h2h, num_outputs=4, name=f"t{step}_l0_slice")
        enter = mx.sym.Activation(gates[0], act_type="sigmoid")
        change = mx.sym.Activation(gates[1], act_type="tanh")
        forget = mx.sym.Activation(gates[2], act_type="sigmoid")
        leave = mx.sym.Activation(gates[3], act_type="sigmoid")
        c = forget * c + enter * change
        h = leave * mx.sym.Activation(c, act_type="tanh", name=f"t{step}_c")
        found.append(h)
    together = mx.sym.Concat(*found, dim=0, name="hidden")
    scores = mx.sym.FullyConnected(together, num_hidden=30, name="pred")
    label = mx.sym.Reshape(mx.sym.transpose(mx.sym.var("label")), shape=(-1,))
    return FieldNetwork(
        mx.sym.SoftmaxOutput(scores, label, name="softmax"),
        {"data": (4,), "l0_init_c": (hidden,), "l0_init_h": (hidden,)},
        "0.9",
        ["t3_c", "t3_l0_h2h"],
        ids={"data": 30},
        refused={"hidden": r"output shape \(4n, 6\)", "softmax": r"output shape \(4n, 30\)"},
        labels=["label"],
        label_shape=(4,),
    )


@network
def bucketed_lstm(mx):
    cell = mx.rnn.SequentialRNNCell()
    for layer in range(2):
        cell.add(mx.rnn.LSTMCell(num_hidden=6, prefix=f"lstm_l{layer}_"))
    x = mx.sym.Embedding(mx.sym.var("data"), input_dim=30, output_dim=5, name="embed")
    outputs, states = cell.unroll(5, inputs=x, merge_outputs=True)
    scores = mx.sym.Reshape(outputs, shape=(-1, 6))
    scores = mx.sym.FullyConnected(scores, num_hidden=30, name="pred")
    label = mx.sym.Reshape(mx.sym.var("softmax_label"), shape=(-1,))
    loss = mx.sym.SoftmaxOutput(scores, label, name="softmax")
    return FieldNetwork(
        mx.sym.Group([loss, mx.sym.BlockGrad(states[-2], name="last")]),
        {"data": (5,)},
        "0.11",
        ["last"],
        ids={"data": 30},
        refused={"pred": r"output shape \(5n, 30\)"},
        labels=["softmax_label"],
        label_shape=(5,),
    )


@network
def fused_lstm(mx):
    cell = mx.rnn.FusedRNNCell(6, num_layers=2, mode="lstm", bidirectional=True, prefix="bilstm_")
    x = mx.sym.Embedding(mx.sym.var("data"), input_dim=30, output_dim=5, name="embed")
    outputs, _ = cell.unroll(5, inputs=x, layout="NTC", merge_outputs=True)
    x = mx.sym.max(outputs, axis=1, name="over_time")
    x = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(x, num_hidden=3, name="pred"), name="softmax")
    words = {"data": (5,)}
    layers = ["over_time", "pred"]
    return FieldNetwork(
        x, words, "1.0", layers, {"data": (8,)}, ids={"data": 30}, labels=["softmax_label"]
    )


@network
def gluon_lstm(mx):
    """Parameters in pieces, first states made of nothing."""
    net = mx.gluon.nn.HybridSequential(prefix="model_")
    with net.name_scope():
        net.add(mx.gluon.nn.Embedding(30, 6))
        net.add(mx.gluon.rnn.LSTM(5, num_layers=2, layout="NTC", bidirectional=True))
        net.add(mx.gluon.rnn.GRU(4, layout="NTC"))
        net.add(mx.gluon.nn.LayerNorm(), mx.gluon.nn.Dense(3, flatten=False))
    x = mx.sym.max(net(mx.sym.var("data")), axis=1, name="over_time")
    words = {"data": (6,)}
    return FieldNetwork(x, words, "1.6", ["over_time"], {"data": (9,)}, ids={"data": 30})


@network
def crnn(mx):
    """Reads text off a line: columns of a picture as steps of a recurrent network."""
    x = mx.sym.var("data")
    for number, (filters, stride) in enumerate([(4, (2, 2)), (8, (2, 2)), (8, (2, 1))]):
        x = conv(mx, x, f"conv-{number}", filters, 3, 1, 1)
        x = relu(mx, norm(mx, x, f"batchnorm-{number}"), f"relu-{number}")
        x = pool(mx, x, f"pool-{number}", (2, 2), stride, (0, 0) if number < 2 else (0, 1))
    x = mx.sym.transpose(mx.sym.reshape(x, shape=(0, -3, -2)), axes=(2, 0, 1))
    states = [mx.sym.zeros((2, 0, 6)) for _ in range(2)]
    options = {"state_size": 6, "num_layers": 1, "bidirectional": True, "mode": "lstm"}
    x = mx.sym.RNN(x, mx.sym.var("lstm_parameters"), *states, name="lstm", **options)
    x = mx.sym.FullyConnected(x, num_hidden=11, flatten=False, name="pred_fc")
    by_step = mx.sym.softmax(x, axis=2, name="by_step")
    scores = mx.sym.transpose(by_step, axes=(1, 0, 2), name="scores")
    loss = mx.sym.MakeLoss(mx.sym.contrib.ctc_loss(x, mx.sym.var("label")), name="ctc")
    return FieldNetwork(
        mx.sym.Group([scores, loss]),
        {"data": (1, 16, 40)},
        layers=["scores", "relu-2"],
        other={"data": (1, 16, 28)},
        refused={"by_step": "features need one row for each example", "ctc": "CTCLoss|ctc_loss"},
        labels=["label"],
        label_shape=(4,),
    )


@network
def recommender(mx):
    """Two inputs and, of all names, `score` for the label."""
    user = mx.sym.Embedding(mx.sym.var("user"), input_dim=20, output_dim=6, name="user_embed")
    item = mx.sym.Embedding(mx.sym.var("item"), input_dim=30, output_dim=6, name="item_embed")
    x = mx.sym.sum(relu(mx, user, "user_relu") * item, axis=1)
    x = mx.sym.LinearRegressionOutput(
        mx.sym.Flatten(x, name="flat"), mx.sym.var("score"), name="lro"
    )
    ids = {"user": 20, "item": 30}
    return FieldNetwork(
        x, {"user": (), "item": ()}, "0.11", ["user_relu", "lro"], ids=ids, labels=["score"]
    )


# --- files --------------------------------------------------------------------------------------

# What MXNet 0.8 called what has another name since.
_OLD_NAMES = {
    "elemwise_add": "_Plus",
    "elemwise_mul": "_Mul",
    "_minus_scalar": "_MinusScalar",
    "_mul_scalar": "_MulScalar",
    "_maximum": "_Maximum",
    "add_n": "ElementWiseSum",
}


def save(mx, network, prefix, epoch, seed=0):
    """Write a network with random parameters, in the formats of its age."""
    parameters = draw_parameters(network, seed)
    graph = json.loads(network.symbol.tojson())
    version = {"0.8": None, "0.9": 905, "0.11": 1100}.get(network.era)
    if network.era == "0.8":
        graph = _as_of_08(graph)
    else:
        key = "attr" if network.era in ("0.9", "0.11") else "attrs"
        for node in graph["nodes"]:
            if "attrs" in node:
                node[key] = node.pop("attrs")
        minor = int(network.era.split(".")[1])
        graph["attrs"] = {"mxnet_version": ["int", version or 10000 + 100 * minor]}
    Path(f"{prefix}-symbol.json").write_text(json.dumps(graph, indent=2))
    path = f"{prefix}-{epoch:04d}.params"
    if network.era == "0.8":
        _write_first_layout(path, parameters)
    else:
        mx.nd.save(path, {name: mx.nd.array(array) for name, array in parameters.items()})


def draw_parameters(network, seed):
    random = np.random.RandomState(seed)
    rows = network.batch or 2
    known = {name: (rows, *shape) for name, shape in network.shapes.items()}
    if network.label_shape:
        known[network.labels[0]] = (rows, *network.label_shape)
    symbol = network.symbol
    shapes, _, others = symbol.infer_shape(**known)
    names = [f"arg:{name}" for name in symbol.list_arguments()]
    names += [f"aux:{name}" for name in symbol.list_auxiliary_states()]
    found = {}
    for name, shape in zip(names, [*shapes, *others]):
        if name[4:] in network.shapes or name[4:] in network.labels:
            continue
        if name.endswith("weight") and len(shape) > 1:
            values = random.normal(size=shape, scale=np.sqrt(2 / np.prod(shape[1:])))
        else:
            values = np.abs(random.normal(size=shape, scale=0.3))
        if name.endswith(("gamma", "_var", "_scale")) and "relu" not in name:
            values = 1 + values
        found[name] = values.astype(np.float32)
    return found


def _as_of_08(graph):
    """Variables that are no arguments left out, everything about an operator under `param`."""
    nodes, places = [], {}
    kept = {number for node in graph["nodes"] for number, _, version in node["inputs"]}
    states = {number for node in graph["nodes"] for number, _, version in node["inputs"] if version}
    assert kept >= states
    for number, node in enumerate(graph["nodes"]):
        if number in states:
            continue
        places[number] = len(nodes)
        texts = node.get("attrs", {})
        users = {key.strip("_"): text for key, text in texts.items() if key.startswith("__")}
        param = {key: text.replace(", ", ",") for key, text in texts.items() if key[:2] != "__"}
        made = {
            "op": _OLD_NAMES.get(node["op"], node["op"]),
            "param": {} if node["op"] == "null" else param,
            "name": node["name"],
            "inputs": [[places[n], out] for n, out, _ in node["inputs"] if n not in states],
            "backward_source_id": -1,
        }
        nodes.append({**made, "attr": users} if users else made)
    arguments = [place for place, node in enumerate(nodes) if node["op"] == "null"]
    heads = [[places[number], out] for number, out, _ in graph["heads"]]
    return {"nodes": nodes, "arg_nodes": arguments, "heads": heads}


def _write_first_layout(path, arrays):
    with open(path, "wb") as file:
        file.write(struct.pack("<QQQ", 0x112, 0, len(arrays)))
        for array in arrays.values():
            file.write(struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape))
            file.write(struct.pack("<iii", 1, 0, 0) + array.tobytes())
        file.write(struct.pack("<Q", len(arrays)))
        for name in arrays:
            file.write(struct.pack("<Q", len(name)) + name.encode())
