"""Recognition of faces, their age and gender."""

from field_networks.layers import FieldNetwork, conv, network, norm, pool, prelu, relu


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
