"""Networks of words and letters."""

from field_networks.layers import FieldNetwork, conv, network, norm, pool, relu


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
        ["encoded", "pooled", "masked", "cell0_gelu"],
        {"data0": (7,), "data1": (7,), "data2": ()},
        ids={"data0": 50, "data1": 2, "data2": 7},
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
        refused=dict.fromkeys(("hidden", "softmax"), "different features in another batch"),
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
        ["last", "pred"],
        ids={"data": 30},
        beyond=["softmax"],  # MXNet cannot work out the shape of its label
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
        layers=["scores", "relu-2", "by_step"],
        other={"data": (1, 16, 28)},
        refused={"ctc": "CTCLoss|ctc_loss"},
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
