"""Steps of a training: against MXNet, and by hand; what batch norms, loaders and rates do.

The small network has a batch norm, and comes as a torch module, an ONNX graph, a checkpoint and a
Module.
"""

from pathlib import Path

import numpy as np
import pytest
from conftest import cifar_input
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

import xfer
from xfer.checkpoint.network import Network
from xfer.checkpoint.symbol import MxGraph, Node
from xfer.sources import open_source
from xfer.sources.checkpoint import CheckpointSource

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from xfer.training import TrainingDiverged  # noqa: E402

STILL = {"learning_rate": 0.0}
SGD = {"optimizer": "sgd", "optimizer_params": {"learning_rate": 0.1}}


def fine_tune(model, layer="tanh1", **options):
    return xfer.NeuralNetworkFineTuneRepurposer(model, layer, **{"num_epochs": 1, **options})


def freeze(model, **options):
    return xfer.NeuralNetworkRandomFreezeRepurposer(model, **{"num_epochs": 1, **options})


# One small network in every framework: convolution, batch norm, pooling, two dense layers.

SHAPES = {
    "conv1_weight": (4, 2, 3, 3),
    "conv1_bias": (4,),
    **{f"bn1_{name}": (4,) for name in ("gamma", "beta", "moving_mean", "moving_var")},
    "hidden_weight": (8, 16),
    "hidden_bias": (8,),
    "fc1_weight": (3, 8),
    "fc1_bias": (3,),
}
RANDOM = np.random.RandomState(0)
ARRAYS = {n: RANDOM.normal(size=s, scale=0.5).astype(np.float32) for n, s in SHAPES.items()}
# 60 images of three kinds that a classifier can tell apart, whose statistics the network has seen.
TARGETS = np.resize([0, 1, 2], 60)
IMAGES = (RANDOM.normal(size=(60, 2, 6, 6)) + TARGETS[:, None, None, None]).astype(np.float32)
_windows = np.lib.stride_tricks.sliding_window_view(IMAGES, (3, 3), axis=(2, 3))
_maps = np.einsum("ncijkl,ockl->noij", _windows, ARRAYS["conv1_weight"])
ARRAYS["bn1_moving_mean"] = _maps.mean(axis=(0, 2, 3)) + ARRAYS["conv1_bias"]
ARRAYS["bn1_moving_var"] = _maps.var(axis=(0, 2, 3))
STATISTICS = {"bn1_moving_mean", "bn1_moving_var"}
# The parameters below the layer tanh1, and their names in PyTorch.
BODY = {name for name in SHAPES if not name.startswith("fc1")}
ENDINGS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
ENDINGS["moving_var"] = "running_var"
IN_TORCH = {
    name: f"{layer}.{ENDINGS.get(end, end)}"
    for name, (layer, _, end) in ((name, name.partition("_")) for name in SHAPES)
}


def small_graph():
    nodes, before = [Node("null", "data", {}, ())], 0
    for name, operator, options in (
        ("conv1", "Convolution", {"kernel": "(3, 3)", "num_filter": "4"}),
        ("bn1", "BatchNorm", {"fix_gamma": "False", "eps": "1e-5"}),
        ("relu1", "Activation", {"act_type": "relu"}),
        ("pool1", "Pooling", {"kernel": "(2, 2)", "stride": "(2, 2)", "pool_type": "max"}),
        ("hidden", "FullyConnected", {"num_hidden": "8"}),
        ("tanh1", "Activation", {"act_type": "tanh"}),
        ("fc1", "FullyConnected", {"num_hidden": "3"}),
        ("softmax", "softmax", {}),
    ):
        own = [one for one in SHAPES if one.startswith(f"{name}_")]
        nodes += [Node("null", one, {}, ()) for one in own]
        inputs = [(before, 0), *((len(nodes) - len(own) + i, 0) for i in range(len(own)))]
        nodes.append(Node(operator, name, options, tuple(inputs)))
        before = len(nodes) - 1
    return MxGraph(tuple(nodes), ((before, 0),))


def make_checkpoint():
    auxiliary = {name: ARRAYS[name].copy() for name in STATISTICS}
    arguments = {name: ARRAYS[name].copy() for name in SHAPES if name not in STATISTICS}
    return CheckpointSource(Network(small_graph(), arguments, auxiliary, ["data"], []))


def make_module():
    mx = pytest.importorskip("mxnet")
    module = mx.mod.Module(mx.sym.load_json(small_graph().to_json()), label_names=None)
    module.bind([("data", (8, 2, 6, 6))], for_training=False)
    halves = [{}, {}]
    for name, array in ARRAYS.items():
        halves[name in STATISTICS][name] = mx.nd.array(array)
    module.set_params(*halves)
    return module


def make_onnx():
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def of(layer):
        return [name for name in SHAPES if name.startswith(layer)]

    node = helper.make_node
    nodes = [
        node("Conv", ["data", *of("conv1")], ["conv1"]),
        node("BatchNormalization", ["conv1", *of("bn1")], ["bn1"]),
        node("Relu", ["bn1"], ["relu1"]),
        node("MaxPool", ["relu1"], ["pool1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["pool1"], ["flat"]),
        node("Gemm", ["flat", *of("hidden")], ["hidden"], transB=1),
        node("Tanh", ["hidden"], ["tanh1"]),
        node("Gemm", ["tanh1", *of("fc1")], ["fc1"], transB=1),
        node("Softmax", ["fc1"], ["softmax"]),
    ]
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 2, 6, 6])
    out = helper.make_tensor_value_info("softmax", TensorProto.FLOAT, ["n", 3])
    weights = [numpy_helper.from_array(array, name) for name, array in ARRAYS.items()]
    graph = helper.make_graph(nodes, "net", [data], [out], weights)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opset)
    onnx.checker.check_model(model)
    return model


def make_torch(drop=None):
    layers = {
        "conv1": nn.Conv2d(2, 4, 3),
        "bn1": nn.BatchNorm2d(4),
        "relu1": nn.ReLU(inplace=True),
        "pool1": nn.MaxPool2d(2),
        "flat": nn.Flatten(),
        "hidden": nn.Linear(16, 8),
        "tanh1": nn.Tanh(),
        **({} if drop is None else {"drop1": nn.Dropout(drop)}),
        "fc1": nn.Linear(8, 3),
        "softmax": nn.Softmax(1),
    }
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    state = {IN_TORCH[name]: torch.tensor(array) for name, array in ARRAYS.items()}
    net.load_state_dict({**net.state_dict(), **state})
    return net


MAKERS = {
    "torch": make_torch,
    "onnx": make_onnx,
    "checkpoint": make_checkpoint,
    "module": make_module,
}
FLAVOURS = [n if n != "module" else pytest.param(n, marks=pytest.mark.mxnet) for n in MAKERS]


@pytest.fixture(params=FLAVOURS)
def flavour(request):
    return request.param


@pytest.fixture
def net(flavour):
    return MAKERS[flavour]()


@pytest.fixture
def data():
    return IMAGES.copy(), TARGETS.copy()


def parameters(model):
    """The arrays of a network, or of a repurposer's with those of its new layer, by name."""
    if hasattr(model, "features_"):
        head = model.meta_model_
        return {
            **parameters(model.features_.source_),
            "scores_weight": np.asarray(head.coef),
            "scores_bias": np.asarray(head.intercept),
        }
    source = open_source(model)
    if hasattr(source, "network"):
        return dict(source.network.parameters)
    if hasattr(source, "module"):
        state = {name: array.detach().numpy() for name, array in source.module.state_dict().items()}
        named = {in_torch: name for name, in_torch in IN_TORCH.items()}
        return {named.get(name, name): array.copy() for name, array in state.items()}
    return dict(source._graph.parameters)


def moved(before, after):
    """Names of the parameters in both that are not bit for bit the same."""
    both = before.keys() & after.keys()
    found = {name for name in both if not np.array_equal(before[name], after[name])}
    return {name for name in found if not name.endswith("num_batches_tracked")}


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert not moved(first, second)


# Steps against MXNet and against PyTorch by hand

OPTIMIZERS = {
    "sgd": {"learning_rate": 0.05},
    "sgd, momentum": {"learning_rate": 0.05, "momentum": 0.9},
    "nag": {"learning_rate": 0.05, "momentum": 0.9},
    "sgd, momentum, decay": {"learning_rate": 0.05, "momentum": 0.9, "wd": 0.1},
    "adam": {"learning_rate": 0.01, "beta1": 0.8},
    "rmsprop": {"learning_rate": 0.01, "gamma1": 0.95, "epsilon": 1e-6},
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_steps_are_those_of_a_loop_by_hand(data, case):
    """Five epochs of one batch each, with PyTorch's names of the options."""
    images, targets = torch.tensor(data[0]), torch.tensor(data[1])
    optimizer, options = case.partition(",")[0], OPTIMIZERS[case]
    tuned = fine_tune(
        make_torch(),
        optimizer=optimizer,
        optimizer_params=options,
        num_epochs=5,
        batch_size=60,
        learning_rate_schedule="linear",
    )
    found = parameters(tuned.fit(*data))
    start = fine_tune(make_torch(), optimizer_params=STILL, fixed_layers=["bn1"]).fit(*data)
    body, head = make_torch()[:7].train(), nn.Linear(8, 3)
    head.load_state_dict(
        {n: torch.tensor(parameters(start)[f"scores_{n}"]) for n in ("weight", "bias")}
    )
    rate = options["learning_rate"]
    both = [*body.parameters(), *head.parameters()]
    by_hand = {
        "sgd": lambda: torch.optim.SGD(
            both,
            lr=rate,
            momentum=options.get("momentum", 0),
            weight_decay=options.get("wd", 0),
        ),
        "nag": lambda: torch.optim.SGD(both, lr=rate, momentum=0.9, nesterov=True),
        "adam": lambda: torch.optim.Adam(both, lr=rate, betas=(0.8, 0.999)),
        "rmsprop": lambda: torch.optim.RMSprop(both, lr=rate, alpha=0.95, eps=1e-6),
    }[optimizer]()
    for step in range(5):
        by_hand.param_groups[0]["lr"] = rate * (1 - step / 5)
        loss = nn.functional.cross_entropy(head(body(images)), targets)
        assert tuned.history_.loss[step] == pytest.approx(loss.item(), rel=1e-3)
        by_hand.zero_grad()
        loss.backward()
        by_hand.step()
    # The gradient of a bias below a batch norm is rounding, of which Adam makes steps.
    noise = {"conv1_bias", "bn1_moving_mean"} if optimizer in ("adam", "rmsprop") else set()
    for name in BODY - noise:
        expected = body.state_dict()[IN_TORCH[name]].numpy()
        np.testing.assert_allclose(found[name], expected, atol=1e-3, err_msg=name)
    np.testing.assert_allclose(found["scores_weight"], head.weight.detach(), atol=1e-3)


REAL = {
    "mnist_lenet": (10, "activation2"),
    "cifar_resnet20_v1": (0, "cifarresnetv10_pool0_fwd"),
    "cifar_resnet20_v2": (0, "cifarresnetv20_pool0_fwd"),
    "newsgroups_cnn": (0, "reshape1"),
}
# Name in MXNet, its parameters, those of PyTorch that mean the same, and how near one step comes.
STEPS = {
    "sgd": ("sgd", {}, {}, 1e-5),
    "momentum": ("sgd", {"momentum": 0.9}, {}, 1e-5),
    "nag": ("nag", {"momentum": 0.9}, {}, 1e-5),
    # MXNet adds epsilon before it corrects the bias of the second moment, PyTorch after. With a
    # small one, gradients that are nothing but rounding would make whole steps; with this one, the
    # order of a batch moves weights by 2e-5 to 5e-5 of those of the same step in float64.
    "adam": ("adam", {"epsilon": 1e-4}, {"epsilon": 1e-4 / np.sqrt(1 - 0.999)}, 1e-4),
    # MXNet adds it under the root, and is itself 1e-3 and 3e-4 from the same step in float64, from
    # which PyTorch's are 1e-5.
    "rmsprop": ("rmsprop", {"gamma1": 0.9, "epsilon": 1e-16}, {"epsilon": 1e-8}, 3e-3),
    "adagrad": ("adagrad", {"eps": 1e-16}, {"eps": 1e-8}, 1e-3),
}
CASES = [(n, o) for o in STEPS for n in (REAL if o in ("sgd", "momentum", "adam") else [*REAL][:1])]


def real_data(name, shared):
    """32 examples that the network was made for, or word ids, and four labels."""
    random, targets = np.random.RandomState(0), np.resize(np.arange(4), 32)
    if name == "mnist_lenet":
        images, digits = load_digits(return_X_y=True)
        rows = np.stack([np.flatnonzero(digits == d)[:8] for d in range(4)], axis=1).ravel()
        images = zoom(images[rows].reshape(-1, 8, 8) / 16, (1, 2.5, 2.5), order=1)
        return np.pad(images, ((0, 0), (4, 4), (4, 4)))[:, None].astype(np.float32), targets
    if name == "newsgroups_cnn":
        return random.randint(1000, size=(32, 300)).astype(np.float32), targets
    with np.load(shared / "data" / "cifar100_10class.npz") as file:
        x, y = file["x_train"], file["y_train"]
    known = np.unique(y)[:4]
    rows = np.stack([np.flatnonzero(y == label)[:8] for label in known], axis=1).ravel()
    return cifar_input(x[rows]), targets


@pytest.mark.parametrize(("name", "case"), CASES)
def test_one_step_gives_mxnets_weights(mx, shared, name, case):
    """A whole fit of one step, from the same weights on the same batch."""
    from xfer.sources.mxnet_engine import safe_binding

    (epoch, layer), (kind, theirs, ours, most) = REAL[name], STEPS[case]
    images, targets = real_data(name, shared)
    source = xfer.load_checkpoint(shared / "models" / name, epoch)
    # Started at random and small, as in MXNet, so that the loss is not 0 already.
    random = np.random.RandomState(0)
    width = source.extract(images, layer).matrix.shape[1]
    start = {"scores_weight": random.normal(size=(4, width), scale=0.05).astype(np.float32)}
    start["scores_bias"] = np.zeros(4, np.float32)
    rate = {"learning_rate": 0.01 if kind != "adam" else 0.001}
    options = {"batch_size": 32, "optimizer": kind, "optimizer_params": {**theirs, **ours, **rate}}
    batches = []

    def note(X, random):  # in the order of the step, on which rounding depends
        batches.append(X)
        return X

    with pytest.MonkeyPatch.context() as patched:
        head = start["scores_weight"], start["scores_bias"]
        patched.setattr("xfer.training.repurposers._logistic_head", lambda *_: head)
        tuned = fine_tune(source, layer, augment=note, **options)
        found = parameters(tuned.fit(images, targets))
    (batch,) = batches
    order = [next(i for i in range(32) if np.array_equal(images[i], one)) for one in batch]
    symbol = mx.sym.load_json(source.network.graph.to_json()).get_internals()[f"{layer}_output"]
    symbol = mx.sym.FullyConnected(symbol, num_hidden=4, name="scores")
    module = mx.mod.Module(mx.sym.SoftmaxOutput(symbol, name="softmax"))
    with safe_binding():
        module.bind([("data", images.shape)], [("softmax_label", (32,))])
    before = {**source.network.arguments, **start}
    halves = before, source.network.auxiliary
    halves = [{key: mx.nd.array(array) for key, array in half.items()} for half in halves]
    module.set_params(*halves, allow_extra=True)
    module.init_optimizer(optimizer=kind, optimizer_params={**theirs, **rate})
    module.forward_backward(mx.io.DataBatch([mx.nd.array(batch)], [mx.nd.array(targets[order])]))
    module.update()
    mx.nd.waitall()  # running statistics are still being written
    expected = {key: a.asnumpy() for half in module.get_params() for key, a in half.items()}
    for key, array in expected.items():
        # A mean may be close to 0, and is as exact as the data that it is of.
        size = np.sqrt(expected[key[:-4] + "var"]) if key.endswith("_mean") else array
        error = np.linalg.norm(found[key] - array) / np.linalg.norm(size)
        # What was 0 is now a gradient whose terms nearly cancel: the same batch in another order,
        # or in float64, changes it by up to 8e-3.
        is_step = key in before and not before[key].any()
        assert error < (2e-2 if is_step else most), (key, error)
        if key.endswith("weight"):
            assert not np.array_equal(array, before[key])


# Flavours and batch norms


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_all_flavours_learn_the_same(flavour, net, data, optimizer):
    options = {"num_epochs": 3, "optimizer": optimizer, "optimizer_params": {"learning_rate": 0.01}}
    expected = fine_tune(make_torch(), **options).fit(*data)
    found = fine_tune(net, **options).fit(*data)
    reference, arrays = parameters(expected), parameters(found)
    for name in [*BODY - STATISTICS, "scores_weight", "scores_bias"]:
        # The gradient of the bias below a batch norm is rounding, of which Adam makes steps.
        if name != "conv1_bias" or optimizer == "sgd":
            np.testing.assert_allclose(arrays[name], reference[name], atol=2e-4, err_msg=name)
    np.testing.assert_allclose(found.history_.loss, expected.history_.loss, rtol=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_transferred_layers_have_a_rate_of_their_own(net, data, rate):
    options = {**SGD, "batch_size": 60}
    before = parameters(net)
    whole = parameters(fine_tune(net, **options).fit(*data))
    found = parameters(fine_tune(net, transferred_rate=rate, **options).fit(*data))
    for name in BODY - STATISTICS:
        expected = rate * (whole[name] - before[name])
        np.testing.assert_allclose(found[name] - before[name], expected, rtol=1e-3, atol=1e-6)
    head = {"scores_weight", "scores_bias"}
    assert not moved(*({name: one[name] for name in head} for one in (found, whole)))


FIXED = {
    "the bottom": ["conv1", "bn1"],
    "a batch norm alone": ["bn1"],
    "the top": ["hidden"],
    "a layer below a batch norm that learns": ["conv1"],
    "nothing": [],
}


@pytest.mark.parametrize("kind", [fine_tune, freeze])
@pytest.mark.parametrize("fixed", FIXED.values(), ids=FIXED)
def test_what_is_fixed_stays_and_the_rest_moves(net, data, kind, fixed):
    before = parameters(net)
    after = parameters(kind(net, fixed_layers=fixed, num_epochs=2).fit(*data))
    stays = {name for name in BODY if name.partition("_")[0] in fixed}
    assert moved(before, after) & BODY == BODY - stays


def test_layers_start_at_random(flavour, net, data):
    def start(seed, names=("conv1", "bn1")):
        options = {"optimizer_params": STILL, "num_epochs": 1, "batch_size": 60}
        repurposer = freeze(net, random_layers=names, random_state=seed, **options)
        return parameters(repurposer.fit(*data))

    before, first, second = parameters(net), start(1), start(2)
    new = {"conv1_weight", "conv1_bias", "bn1_gamma", "bn1_beta", *STATISTICS}
    assert moved(before, first) & BODY == new
    assert {"conv1_weight", "scores_weight"} <= moved(first, second)
    assert not {"bn1_beta", "hidden_weight"} & moved(first, second)
    assert_same(start(1), first)
    assert np.abs(first["conv1_weight"]).max() <= np.sqrt(6 / ((4 + 2) * 9)) + 0.05
    assert first["conv1_weight"].std() > 0.1
    assert not first["bn1_beta"].any() and (first["bn1_gamma"] == 1).all()
    # What is new learns at the full rate.
    options = {"random_layers": ["hidden"], "transferred_rate": 0.0, **SGD}
    slow = parameters(freeze(net, **options).fit(*data))
    still = parameters(freeze(net, **{**options, "optimizer_params": STILL}).fit(*data))
    learned = {"hidden_weight", "hidden_bias", "scores_weight", "scores_bias"}
    assert moved(still, slow) - STATISTICS == learned


def test_a_torch_module_is_left_alone(data):
    """Its parameters, buffers, modes, hooks, what needs a gradient, and PyTorch's generators."""
    net, calls = make_torch(drop=0.5), []
    net.train()
    net.bn1.eval()
    net.hidden.bias.requires_grad_(False)
    net.conv1.weight.grad = torch.ones_like(net.conv1.weight)
    handle = net.tanh1.register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(7)
    random = torch.get_rng_state()
    tensors = {name: one.clone() for name, one in net.state_dict().items()}

    def state():
        modes = [one.training for one in net.modules()]
        hooks = [len(one._forward_hooks) + len(one._forward_pre_hooks) for one in net.modules()]
        own = [sorted(vars(one)) for one in net.modules()]
        asked = [(one.requires_grad, one.data_ptr()) for one in net.parameters()]
        return modes, hooks, own, asked

    before = state()
    for options in ({}, {"fixed_layers": ["conv1"]}, {"validation_fraction": 0.3}):
        fine_tune(net, num_epochs=2, **options).fit(*data).predict(data[0])
    freeze(net, random_layers=["hidden"], num_layers_to_drop=3).fit(*data)
    with pytest.raises(TrainingDiverged):
        fine_tune(net, augment=lambda X, random: X * np.nan).fit(*data)
    assert state() == before
    assert all(torch.equal(tensors[name], one) for name, one in net.state_dict().items())
    assert torch.equal(net.conv1.weight.grad, torch.ones_like(net.conv1.weight))
    assert torch.equal(torch.get_rng_state(), random) and torch.is_grad_enabled()
    handle.remove()


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_transformers_learn_slowly_and_keep_words_without_labels(norm):
    """Those with the norms of BERT, and those with the norms of Llama."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(50, 8), norm(8), nn.Flatten())
    ids = np.random.RandomState(0).randint(1, 25, size=(40, 6))
    tuned = fine_tune(net, "2").fit(ids, np.resize([0, 1], 40))
    assert tuned.history_.learning_rate == [0.0001]
    before, after = net[0].weight.detach(), tuned.features_.source_.module[0].weight
    assert torch.equal(after[25:], before[25:]) and not torch.equal(after[1:25], before[1:25])


# Data, and an interruption


def test_a_loader_is_read_anew_in_every_epoch(net, data):
    """Its batches are those of each step, in its order, and nothing else is read."""
    passes = []

    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 60

        def __getitem__(self, index):
            passes[-1].append(index)
            return data[0][index] + 100 * len(passes), int(data[1][index])

    class Counting(DataLoader):
        def __iter__(self):
            passes.append([])
            return super().__iter__()

    seen = []

    def watch(X, random):
        seen.append((len(X), round(float(X.mean()) / 100)))
        return X

    fine_tune(net, augment=watch, num_epochs=2, **SGD).fit(Counting(Noisy(), 25))
    assert passes == [[*range(60)]] * 3
    # The first pass gave the features that the new layer starts from.
    assert seen == [(25, 2), (25, 2), (10, 2), (25, 3), (25, 3), (10, 3)]
    passes.clear()
    fine_tune(net, num_epochs=2, validation_fraction=0.2, **SGD).fit(Counting(Noisy(), 25))
    assert passes == [[*range(60)]]


def test_raw_examples_are_made_into_inputs(data, monkeypatch):
    """In every epoch, if they would take too much memory as inputs."""
    small, (images, targets), calls = make_checkpoint(), data, []

    def read(examples):
        calls.append(len(examples))
        return np.stack([images[int(name.name)] for name in examples])

    names = [Path(str(i)) for i in range(60)]  # texts would be made into inputs in every step
    source = open_source(small, preprocess=read)
    expected = parameters(fine_tune(small, num_epochs=2).fit(images, targets))

    def count(num_epochs):
        calls.clear()
        tuned = fine_tune(source, num_epochs=num_epochs).fit(names, targets)
        if num_epochs == 2:
            assert_same(parameters(tuned), expected)
        return sum(calls)

    count(2)  # the first fit also checks whether batches change features
    assert count(2) == count(5)
    monkeypatch.setattr("xfer.training.repurposers._MOST_KEPT", 0)
    assert count(5) - count(2) == 3 * 64  # two batches of 32 in each epoch


def test_an_interruption_keeps_the_epoch_before(net, data):
    calls = []

    def interrupt(X, random):
        calls.append(1)
        if len(calls) > 7:
            raise KeyboardInterrupt
        return X

    options = {"batch_size": 20, "learning_rate_schedule": "constant"}
    tuned = fine_tune(net, num_epochs=5, augment=interrupt, **options)
    with pytest.warns(UserWarning, match="interrupted in epoch 3; the weights of epoch 2 are kept"):
        tuned.fit(*data)
    expected = fine_tune(net, num_epochs=2, augment=lambda X, random: X, **options).fit(*data)
    learned = BODY - STATISTICS | {"scores_weight", "scores_bias"}
    assert not moved(parameters(tuned), parameters(expected)) & learned
    assert moved(parameters(net), parameters(tuned)) & BODY >= BODY - STATISTICS
    np.testing.assert_allclose(
        tuned.predict_proba(data[0]), expected.predict_proba(data[0]), atol=1e-6
    )
    assert tuned.history_ == expected.history_
