"""Classification of images."""

from field_networks.layers import FieldNetwork, conv, network, norm, pair, pool, relu


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
