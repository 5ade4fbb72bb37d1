"""Networks as Gluon exports them."""

from field_networks.layers import FieldNetwork, conv, network, norm, pair, pool, relu


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
        beyond=["slice_axis8", "slice_axis9"],  # many scores are 1, and the areas of boxes overflow
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
        refused={"anchors": "depend on no input of the network"},
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
def center_net(mx):
    """Both kinds of deformable convolution, and a head each for places, sizes and shifts."""
    x = gluon_unit(mx, mx.sym.var("data"), "centernet0", 8, stride=2, act="relu")
    shape = {"kernel": (3, 3), "stride": (1, 1), "pad": (1, 1), "num_filter": 8}
    moves = conv(mx, x, "dcn0_offset", 36, 3, 1, 1)
    x = mx.sym.contrib.DeformableConvolution(
        x, moves, num_deformable_group=2, dilate=(1, 1), no_bias=True, name="dcn0", **shape
    )
    moves = conv(mx, x, "dcn1_offset", 27, 3, 1, 1)
    weights = mx.sym.sigmoid(mx.sym.slice_axis(moves, axis=1, begin=18, end=None)) * 2
    moves = mx.sym.slice_axis(moves, axis=1, begin=0, end=18)
    x = mx.sym.contrib.ModulatedDeformableConvolution(
        x, moves, weights, num_deformable_group=1, name="dcn1", **shape
    )
    x = relu(mx, norm(mx, x, "dcn1_bn"), "dcn1_relu")
    heads = []
    for name, filters in (("heatmap", 4), ("wh", 2), ("reg", 2)):
        y = relu(mx, conv(mx, x, f"{name}_conv0", 8, 3, 1, 1), f"{name}_relu0")
        heads.append(conv(mx, y, f"{name}_conv1", filters, 1))
    heads[0] = mx.sym.clip(mx.sym.sigmoid(heads[0]), 1e-4, 1 - 1e-4, name="heat")
    peaks = mx.sym.Pooling(heads[0], kernel=(3, 3), stride=(1, 1), pad=(1, 1), pool_type="max")
    heads[0] = mx.sym.broadcast_mul(heads[0], mx.sym.broadcast_equal(peaks, heads[0]), name="peaks")
    scores = mx.sym.topk(mx.sym.reshape(heads[0], shape=(0, -1)), k=6, ret_typ="both")[0]
    return FieldNetwork(
        mx.sym.Group([*heads, scores]),
        {"data": (3, 20, 24)},
        "1.6",
        ["dcn0", "dcn1", "heat", "wh_conv1", "reg_conv1"],
        {"data": (3, 18, 15)},
        told="data (n, 3, ?, ?)",
    )


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
