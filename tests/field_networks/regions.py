"""Detection by regions, landmarks of bodies, segmentation."""

from field_networks.layers import FieldNetwork, conv, network, norm, pair, pool, relu


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
        refused={"fc6": "do not fit the network|has output shape"},
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
