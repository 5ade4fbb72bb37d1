"""Detection of faces and other objects, all at once."""

from field_networks.layers import FieldNetwork, conv, network, norm, pool, prelu, relu


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


NO_ROWS = r"has output shape \(1, .* for a batch of 5|depend on no input of the network"


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
        beyond=["cls_prob", "det_out", "detection"],
        told="data (n, 3, ?, ?)",
        refused={"loc_loss": "no conversion for operator _contrib_MultiBoxTarget"},
        labels=["label"],
        label_shape=(3, 6),
    )
