"""Repurposers that train the network: what they learn, what they leave alone, what they refuse."""

import copy
import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
import warnings
import zipfile
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import skops.io
from conftest import bound_module, cifar_input, load_module
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

import xfer
from xfer import persistence
from xfer.checkpoint.network import Network
from xfer.checkpoint.symbol import MxGraph, Node
from xfer.meta import CalibratedLogisticRegression
from xfer.sources import open_source
from xfer.sources.checkpoint import CheckpointSource
from xfer.training import TrainingDiverged
from xfer.training.augment import images as vary_images
from xfer.training.examples import split
from xfer.training.options import SCHEDULES

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

STILL = {"learning_rate": 0.0}
SGD = {"optimizer": "sgd", "optimizer_params": {"learning_rate": 0.1}}


def fine_tune(model, layer="tanh1", **options):
    return xfer.NeuralNetworkFineTuneRepurposer(model, layer, **{"num_epochs": 1, **options})


def freeze(model, **options):
    return xfer.NeuralNetworkRandomFreezeRepurposer(model, **{"num_epochs": 1, **options})


KINDS = pytest.mark.parametrize("kind", [fine_tune, freeze])


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
def small():
    """The flavour that is opened fastest, for what is the same in all of them."""
    return make_checkpoint()


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


def log_loss(repurposer, images, targets):
    """Mean log loss of the scores of the network, before any scale."""
    head = repurposer.meta_model_
    scores = repurposer.features_.transform(images) @ np.transpose(head.coef) + head.intercept
    return -log_softmax(scores, axis=1)[np.arange(len(targets)), targets].mean()


# What is learned

LABELS = {
    "integers with gaps": [3, 7, 40],
    "negative integers": [-5, 0, 2],
    "strings": ["autos", "hockey", "guns"],
    "objects": np.array(["autos", "hockey", "guns"], dtype=object),
    "two classes": [1, 4],
    "booleans": [False, True],
}


@KINDS
def test_every_flavour_learns(net, data, kind):
    images, targets = data
    labels = np.array(["autos", "guns", "hockey"])[targets]
    before = parameters(net)
    repurposer = kind(net, num_epochs=3).fit(images, labels)
    assert repurposer.score(images, labels) > 0.9
    assert BODY <= moved(before, parameters(repurposer))
    assert_same(parameters(net), before)
    assert type(repurposer.features_.source_) is type(open_source(net))


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_any_kind(small, data, labels):
    labels = np.asarray(labels)
    images, targets = data[0], data[1] % len(labels)
    repurposer = fine_tune(small, target_class_count=len(labels)).fit(images, labels[targets])
    np.testing.assert_array_equal(repurposer.classes_, np.unique(labels))
    probabilities = repurposer.predict_proba(images)
    assert probabilities.shape == (60, len(labels))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    predicted = repurposer.predict(images)
    np.testing.assert_array_equal(predicted, repurposer.classes_[probabilities.argmax(axis=1)])
    assert (predicted == labels[targets]).mean() == repurposer.score(images, labels[targets])
    if len(labels) == 3:
        assert repurposer.score(images, labels[targets]) > 0.8


def test_one_example_per_class_and_classes_without_any(net, data):
    images, targets = data[0][:3], data[1][:3]
    repurposer = fine_tune(net, num_epochs=3).fit(images, targets)
    np.testing.assert_array_equal(repurposer.predict(images), targets)
    more = fine_tune(net, target_class_count=5, num_epochs=3).fit(images, targets)
    np.testing.assert_array_equal(more.classes_, np.arange(5))
    np.testing.assert_array_equal(more.predict(images), targets)
    assert more.predict_proba(images)[:, 3:].max() < more.predict_proba(images).max(1).min()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_all_flavours_learn_the_same(flavour, net, data, optimizer):
    options = {"num_epochs": 2, "optimizer": optimizer, "optimizer_params": {"learning_rate": 0.01}}
    expected = fine_tune(make_torch(), **options).fit(*data)
    found = fine_tune(net, **options).fit(*data)
    reference, arrays = parameters(expected), parameters(found)
    for name in [*BODY - STATISTICS, "scores_weight", "scores_bias"]:
        # The gradient of the bias below a batch norm is rounding, of which Adam makes steps.
        if name != "conv1_bias" or optimizer == "sgd":
            np.testing.assert_allclose(arrays[name], reference[name], atol=2e-4, err_msg=name)
    np.testing.assert_allclose(found.history_.loss, expected.history_.loss, rtol=1e-4)


@KINDS
@pytest.mark.parametrize("count", [2, 3])
def test_training_starts_where_logistic_regression_ends(net, data, kind, count):
    images, targets = data[0], data[1] % count
    # Running statistics of batch norms would move, so the layers below are fixed.
    options = {"optimizer_params": STILL, "fixed_layers": ["bn1"]}
    repurposer = kind(net, **options).fit(images, targets)
    features = open_source(net).extract(images, "tanh1").matrix
    regression = CalibratedLogisticRegression(square_root=False).fit(features, targets)
    expected = softmax(features @ regression.coef_.T + regression.intercept_, axis=1)
    np.testing.assert_allclose(repurposer.predict_proba(images), expected, atol=1e-5)
    assert moved(parameters(net), parameters(repurposer)) == set()


def test_training_goes_on_from_there(small, data):
    """Labels that the features say little of: the loss falls below that of the start."""
    labels = np.random.RandomState(0).randint(2, size=60)
    options = {"num_epochs": 15, "optimizer_params": {"learning_rate": 0.02}}
    repurposer = fine_tune(small, **options).fit(data[0], labels)
    start = fine_tune(small, optimizer_params=STILL, fixed_layers=["bn1"]).fit(data[0], labels)
    assert log_loss(repurposer, data[0], labels) < 0.8 * log_loss(start, data[0], labels)
    history = repurposer.history_
    assert history.loss[-1] < history.loss[0] and history.accuracy[-1] > history.accuracy[0]
    assert history.best_epoch == 15 and history.validation_loss == []
    assert start.history_.loss[0] == pytest.approx(log_loss(start, data[0], labels), rel=0.3)
    whole = fine_tune(small, optimizer_params=STILL, fixed_layers=["bn1"], batch_size=60)
    found = whole.fit(data[0], labels).history_.loss
    assert found == pytest.approx([log_loss(whole, data[0], labels)], rel=1e-5)


def test_a_layer_of_maps_is_pooled_as_in_other_repurposers(net, data):
    for pooling, width in (("mean", 4), ("max", 4), ("flatten", 16)):
        repurposer = fine_tune(net, "pool1", pooling=pooling).fit(*data)
        assert parameters(repurposer)["scores_weight"].shape == (3, width)
        features = repurposer.features_.source_.extract(data[0], "pool1", pooling=pooling).matrix
        head = repurposer.meta_model_
        expected = softmax(features @ np.transpose(head.coef) + head.intercept, axis=1)
        np.testing.assert_allclose(repurposer.predict_proba(data[0]), expected, atol=1e-6)


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
    for name in BODY - {"conv1_bias"}:
        expected = body.state_dict()[IN_TORCH[name]].numpy()
        np.testing.assert_allclose(found[name], expected, atol=1e-3, err_msg=name)
    np.testing.assert_allclose(found["scores_weight"], head.weight.detach(), atol=1e-3)


REAL = {
    "mnist_lenet": (10, "activation2", (1, 28, 28)),
    "cifar_resnet20_v1": (0, "cifarresnetv10_pool0_fwd", (3, 32, 32)),
    "cifar_resnet20_v2": (0, "cifarresnetv20_pool0_fwd", (3, 32, 32)),
    "newsgroups_cnn": (0, "reshape1", (300,)),
}


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("name", REAL)
def test_one_step_gives_mxnets_weights(mx, shared, name, optimizer):
    """From the same weights on the same batch; relative to the largest entry of each array."""
    epoch, layer, shape = REAL[name]
    random, size = np.random.RandomState(0), 16
    images = random.normal(size=(size, *shape)).astype(np.float32)
    if name == "newsgroups_cnn":
        images = random.randint(1000, size=(size, *shape)).astype(np.float32)
    targets = np.resize(np.arange(4), size)
    kind = "sgd" if optimizer == "momentum" else optimizer
    # PyTorch's Adam adds eps after its correction of the bias, MXNet's before; so large an eps also
    # keeps gradients that are nothing but rounding from making steps.
    theirs = {
        "sgd": {"learning_rate": 0.01},
        "momentum": {"learning_rate": 0.01, "momentum": 0.9},
        "adam": {"learning_rate": 0.001, "epsilon": 1e-3},
    }[optimizer]
    ours = dict(theirs)
    if optimizer == "adam":
        ours["epsilon"] = theirs["epsilon"] / np.sqrt(1 - 0.999)
    source = xfer.load_checkpoint(shared / "models" / name, epoch)
    options = {"batch_size": size, "learning_rate_schedule": "constant"}
    start = fine_tune(source, layer, optimizer_params=STILL, **options).fit(images, targets)
    tuned = fine_tune(source, layer, optimizer=kind, optimizer_params=ours, **options)
    found = parameters(tuned.fit(images, targets))
    sym = mx.sym.load_json(source.network.graph.to_json()).get_internals()[f"{layer}_output"]
    sym = mx.sym.FullyConnected(sym, num_hidden=4, name="scores")
    module = mx.mod.Module(mx.sym.SoftmaxOutput(sym, name="softmax"))
    module.bind([("data", images.shape)], [("softmax_label", (size,))])
    halves = source.network.arguments, source.network.auxiliary
    head = {n: parameters(start)[n] for n in ("scores_weight", "scores_bias")}
    given = [{n: mx.nd.array(a) for n, a in half.items()} for half in ({**halves[0], **head},)]
    auxiliary = {n: mx.nd.array(a) for n, a in halves[1].items()}
    module.set_params(given[0], auxiliary, allow_extra=True)
    module.init_optimizer(optimizer=kind, optimizer_params=theirs)
    module.forward_backward(mx.io.DataBatch([mx.nd.array(images)], [mx.nd.array(targets)]))
    module.update()
    mx.nd.waitall()
    before, changed = {**source.network.parameters, **head}, 0
    for half in module.get_params():
        for key, array in half.items():
            expected = array.asnumpy()
            bound = 1e-5 * max(np.abs(expected).max(), 1e-2)
            np.testing.assert_allclose(found[key], expected, rtol=0, atol=bound, err_msg=key)
            changed += not np.array_equal(expected, before[key])
    assert changed > 4


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


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rates_follow_the_schedule(small, data, schedule):
    options = {"optimizer_params": {"learning_rate": 0.01}, "learning_rate_schedule": schedule}
    done = np.arange(4) / 4
    expected = {
        "constant": np.ones(4),
        "linear": 1 - done,
        "cosine": (1 + np.cos(np.pi * done)) / 2,
    }
    found = fine_tune(small, num_epochs=4, batch_size=20, **options).fit(*data)
    np.testing.assert_allclose(found.history_.learning_rate, 0.01 * expected[schedule])


# What stays as it is

FIXED = {
    "the bottom": ["conv1", "bn1"],
    "a batch norm alone": ["bn1"],
    "the top": ["hidden"],
    "a layer below a batch norm that learns": ["conv1"],
    "nothing": [],
}


@KINDS
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


def test_a_module_in_the_middle_of_a_fit_by_mxnet(mx, data):
    """Its parameters, gradients and optimizer are as they were, and its own fit goes on."""

    def step(module):
        size = slice(0, 8)
        batch = mx.io.DataBatch([mx.nd.array(data[0][size])], [mx.nd.array(data[1][size])])
        module.forward_backward(batch)
        module.update()
        mx.nd.waitall()

    def module_in_training():
        net = mx.sym.load_json(small_graph().prune(("fc1",)).to_json())
        symbol = mx.sym.SoftmaxOutput(net, name="softmax")
        module = bound_module(mx, symbol, {"data": (8, 2, 6, 6)})
        params = {"learning_rate": 0.1, "momentum": 0.9}
        module.init_optimizer(optimizer="sgd", optimizer_params=params)
        step(module)
        return module

    def arrays(module):
        return {name: a.asnumpy() for half in module.get_params() for name, a in half.items()}

    module, alone = module_in_training(), module_in_training()
    before = arrays(module)
    for kind in (fine_tune, freeze):
        kind(module, num_epochs=2, validation_fraction=0.2).fit(*data)
    assert_same(arrays(module), before)
    step(module)
    step(alone)
    assert_same(arrays(module), arrays(alone))
    assert "conv1_weight" in moved(before, arrays(module))


# Data

LOADERS = {
    "DataLoader": lambda X, y: DataLoader(TensorDataset(torch.tensor(X), torch.tensor(y)), 16),
    "list of batches": lambda X, y: [(X[i : i + 16], y[i : i + 16]) for i in range(0, 60, 16)],
    "generator": lambda X, y: ((X[i : i + 16], y[i : i + 16]) for i in range(0, 60, 16)),
}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_loaders_teach_what_arrays_teach(small, data, make, fraction):
    images, labels = data[0], np.array([3, 7, 40])[data[1]]
    options = {"num_epochs": 3, "validation_fraction": fraction, "batch_size": 16}
    by_array = fine_tune(small, **options).fit(images, labels)
    by_loader = fine_tune(small, **options).repurpose(make(images, labels))
    np.testing.assert_array_equal(by_loader.classes_, [3, 7, 40])
    assert (by_loader.predict(images) == by_array.predict(images)).mean() > 0.9
    if make is not LOADERS["DataLoader"] or fraction:  # read into memory, as arrays are
        assert_same(parameters(by_loader), parameters(by_array))


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


def test_a_loader_may_not_bring_new_labels_later(small, data):
    images, calls = data[0], []

    class Changing(DataLoader):
        def __iter__(self):
            calls.append(1)
            labels = data[1] + 5 * (len(calls) > 2)
            return iter([(images[:30], labels[:30]), (images[30:], labels[30:])])

    loader = Changing(TensorDataset(torch.tensor(images)))
    with pytest.raises(ValueError, match="the loader has the label 5, which it had not before"):
        fine_tune(small, num_epochs=3).fit(loader)


@KINDS
def test_both_families_of_verbs_do_the_same(mx, small, data, kind):
    """An NDArrayIter is read into memory, in its order."""
    images, labels = data[0], np.array([3, 7, 40])[data[1]]
    by_array = kind(small).fit(images, labels)
    iterator = mx.io.NDArrayIter(images, labels, 8)
    by_iterator = kind(small).repurpose(iterator)
    np.testing.assert_array_equal(by_iterator.classes_, [3, 7, 40])
    assert_same(parameters(by_iterator), parameters(by_array))
    found = by_iterator.predict_probability(iterator)
    np.testing.assert_allclose(found, by_array.predict_proba(images), atol=1e-6)
    np.testing.assert_array_equal(by_iterator.predict_label(iterator), by_array.predict(images))
    assert by_iterator.score(iterator) == by_array.score(images, labels)
    unlabelled = mx.io.NDArrayIter(images[:11], None, 8)
    assert by_iterator.predict_label(unlabelled).shape == (11,)
    shuffled = kind(small).repurpose(mx.io.NDArrayIter(images, labels, 8, shuffle=True))
    assert (shuffled.predict(images) == by_array.predict(images)).mean() > 0.9


def test_raw_examples_are_made_into_inputs(small, data, monkeypatch):
    """In every epoch, if they would take too much memory as inputs."""
    images, targets = data
    calls = []

    def read(examples):
        calls.append(len(examples))
        return np.stack([images[int(name)] for name in examples])

    names = [str(i) for i in range(60)]
    source = open_source(small, preprocess=read)
    expected = fine_tune(small, num_epochs=2).fit(images, targets)
    once = fine_tune(source, num_epochs=2).fit(names, targets)
    n_calls = sum(calls)
    monkeypatch.setattr("xfer.training.repurposers._MOST_KEPT", 0)
    calls.clear()
    again = fine_tune(source, num_epochs=2).fit(names, targets)
    assert sum(calls) >= 60 * 2 + 64 > 0 and sum(calls) > n_calls
    for repurposer in (once, again):
        assert_same(parameters(repurposer), parameters(expected))
        np.testing.assert_array_equal(repurposer.predict(names), expected.predict(images))


# What is held out


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("counts", [[20, 20, 20], [40, 18, 2], [2, 2], [30, 1, 9]])
def test_of_each_class_its_share_is_held_out_but_never_the_last(counts, fraction):
    targets = np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts))
    count = round(fraction * len(targets))
    if not count:
        with pytest.raises(ValueError, match="leaves none of .* to hold out"):
            split(targets, fraction, np.random.RandomState(0))
        return
    kept, held_out = split(targets, fraction, np.random.RandomState(0))
    np.testing.assert_array_equal(np.sort([*kept, *held_out]), np.arange(len(targets)))
    assert np.bincount(targets[kept], minlength=len(counts)).min() >= 1
    assert len(held_out) == min(count, len(targets) - len(counts))
    for found, size in zip(np.bincount(targets[held_out], minlength=len(counts)), counts):
        assert abs(found - min(fraction * size, size - 1)) <= 1
    again, other = (split(targets, fraction, np.random.RandomState(seed))[1] for seed in (0, 1))
    np.testing.assert_array_equal(again, held_out)
    if counts[0] > 2:
        assert not np.array_equal(other, held_out)


@pytest.fixture
def numbered(data):
    """Images that hold their own index, and an augmentation that collects those learned from."""
    images, seen = data[0].copy(), set()
    images[:, 0, 0, 0] = np.arange(60) / 100

    def collect(X, random):
        seen.update(np.round(100 * X[:, 0, 0, 0]).astype(int).tolist())
        return X

    return images, seen, collect


@pytest.mark.parametrize("rate", [0.0003, 0.02, 1.0])
def test_the_weights_of_least_loss_on_what_is_held_out_are_kept(net, numbered, rate):
    images, seen, collect = numbered
    targets = np.random.RandomState(0).randint(3, size=60)
    options = {"num_epochs": 8, "learning_rate_schedule": "constant", "patience": 3}
    options |= {"validation_fraction": 0.3, "augment": collect}
    tuned = fine_tune(net, optimizer_params={"learning_rate": rate}, **options)
    history = tuned.fit(images, targets).history_
    epochs = len(history.loss)
    assert len(history.validation_loss) == len(history.validation_accuracy) == epochs + 1
    assert history.best_epoch == np.argmin(history.validation_loss)
    assert epochs == min(8, history.best_epoch + 3)
    held_out = np.setdiff1d(np.arange(60), [*seen])
    assert len(held_out) == 18
    images, targets = images[held_out], targets[held_out]
    found = log_loss(tuned, images, targets)
    assert found == pytest.approx(history.validation_loss[history.best_epoch], rel=1e-4)
    hits = (tuned.predict(images) == targets).mean()
    assert hits == pytest.approx(history.validation_accuracy[history.best_epoch])
    if rate == 1.0:
        assert history.best_epoch == 0
        assert moved(parameters(net), parameters(tuned)) == set()


def test_the_scale_of_probabilities_is_learned_from_what_is_held_out(small, numbered):
    images, seen, collect = numbered
    targets = np.random.RandomState(0).randint(3, size=60)
    options = {"validation_fraction": 0.3, "augment": collect, "num_epochs": 2}
    tuned = fine_tune(small, **options).fit(images, targets)
    held_out, head = np.setdiff1d(np.arange(60), [*seen]), tuned.meta_model_
    features = tuned.features_.transform(images[held_out]).astype(np.float64)
    scores = features @ np.transpose(head.coef) + head.intercept
    scales = np.exp(np.linspace(-5, 5, 2001))
    losses = [
        np.log(scale) ** 2
        - log_softmax(scale * scores, axis=1)[np.arange(18), targets[held_out]].sum()
        for scale in scales
    ]
    best = scales[np.argmin(losses)]
    assert head.inverse_temperature == pytest.approx(best, rel=0.01)
    assert abs(np.log(best)) > 0.05
    expected = softmax(head.inverse_temperature * scores, axis=1)
    np.testing.assert_allclose(tuned.predict_proba(images[held_out]), expected, atol=1e-5)
    assert fine_tune(small).fit(images, targets).meta_model_.inverse_temperature == 1
    with pytest.raises(ValueError, match="leaves none .*; training needs at least one per class"):
        fine_tune(small, validation_fraction=0.5).fit(images[:3], [0, 1, 2])


# Options


def test_class_weights_make_a_rare_class_count(small, data):
    images = data[0]
    labels = np.where(np.random.RandomState(0).uniform(size=60) < 0.15, "rare", "usual")
    options = {"num_epochs": 15, "optimizer_params": {"learning_rate": 0.05}}

    def count(class_weight):
        repurposer = fine_tune(small, class_weight=class_weight, **options).fit(images, labels)
        return repurposer.predict_proba(images)[:, 0].sum()

    plain, balanced = count(None), count("balanced")
    assert plain < balanced
    assert count({"rare": 1000}) > 50 and count({"usual": 1000}) < 5
    shares = (labels == "usual").sum() / (labels == "rare").sum()
    assert count({"rare": shares}) == pytest.approx(balanced, rel=1e-2)
    assert count({"rare": 1, "usual": 1.0}) == pytest.approx(plain)


def test_what_augment_makes_is_learned_from(net, data):
    images, calls = data[0], []

    def nothing(X, random):
        calls.append(X)
        assert isinstance(X, np.ndarray) and X.dtype == np.float32
        assert isinstance(random, np.random.RandomState)
        return 0 * X

    repurposer = fine_tune(net, augment=nothing, num_epochs=2, batch_size=20).fit(*data)
    assert [X.shape for X in calls] == [(20, 2, 6, 6)] * 6
    rows = np.concatenate(calls[:3])
    np.testing.assert_array_equal(np.sort(rows.ravel()), np.sort(images.ravel()))
    assert not np.array_equal(rows, images), "in a random order"
    assert repurposer.history_.accuracy[0] < 0.5

    def noise(X, random):
        return torch.tensor(X + random.normal(size=X.shape))

    found = [parameters(fine_tune(net, augment=noise).fit(*data)) for _ in range(2)]
    assert_same(*found)
    assert "conv1_weight" in moved(found[0], parameters(fine_tune(net).fit(*data)))


@pytest.mark.parametrize("shape", [(200, 3, 12, 10), (200, 12, 10, 3)])
def test_augmented_images_are_flipped_and_shifted(small, data, shape):
    axes = [axis for axis in range(1, 4) if shape[axis] != 3]
    given = np.random.RandomState(0).normal(size=shape).astype(np.float32)
    found = vary_images(given, np.random.RandomState(1))
    assert found.shape == shape and found.dtype == given.dtype
    kinds = set()
    for before, after in zip(np.moveaxis(given, axes, [1, 2]), np.moveaxis(found, axes, [1, 2])):
        padded = np.pad(before, [(4, 4), (4, 4), (0, 0)], mode="edge")
        crops = {
            (top, left, turn): padded[top : top + 12, left : left + 10][:, ::turn]
            for top in range(9)
            for left in range(9)
            for turn in (1, -1)
        }
        kinds.add(next(kind for kind, crop in crops.items() if np.array_equal(crop, after)))
    assert {kind[0] for kind in kinds} == {kind[1] for kind in kinds} == {*range(9)}
    assert {kind[2] for kind in kinds} == {1, -1}
    with pytest.raises(ValueError, match="takes one input of shape .*, got dict"):
        vary_images({}, np.random.RandomState(0))
    assert np.isfinite(fine_tune(small, augment="images").fit(*data).history_.loss).all()


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc_left, self.fc_right = nn.Linear(5, 4), nn.Linear(3, 4)
        self.joined = nn.Tanh()
        self.fc1 = nn.Linear(4, 2)

    def forward(self, left, right):
        return self.fc1(self.joined(self.fc_left(left) + self.fc_right(right)))


def test_a_network_with_two_inputs():
    torch.manual_seed(0)
    pair, random = Pair(), np.random.RandomState(0)
    X = {"left": random.normal(size=(40, 5)), "right": random.normal(size=(40, 3))}
    labels = np.where(X["left"][:, 0] + X["right"][:, 0] > 0, "more", "less")
    seen = []

    def swap(inputs, random):
        seen.append({name: array.shape for name, array in inputs.items()})
        return dict(reversed(inputs.items()))

    plain = fine_tune(pair, "joined", num_epochs=3).fit(X, labels)
    swapped = fine_tune(pair, "joined", num_epochs=3, augment=swap).fit(X, labels)
    assert seen == [{"left": (32, 5), "right": (32, 3)}] * 6
    assert_same(parameters(plain), parameters(swapped))
    assert plain.score(X, labels) > 0.7
    fixed = freeze(pair, fixed_layers=["fc_left"], num_layers_to_drop=1, num_epochs=2)
    learned = moved(parameters(pair), parameters(fixed.fit(X, labels)))
    assert learned == {"fc_right.weight", "fc_right.bias"}
    for augment in (lambda X, random: X["left"], lambda X, random: {"left": X["left"]}):
        with pytest.raises(ValueError, match="must return a dict with 'left', 'right', got"):
            fine_tune(pair, "joined", augment=augment).fit(X, labels)
    tensors = {name: torch.tensor(array, dtype=torch.float32) for name, array in X.items()}
    scores = plain.to_torch()(**tensors).detach().numpy()
    np.testing.assert_allclose(softmax(scores, axis=1), plain.predict_proba(X), atol=1e-5)


def test_clones_and_searches_share_the_network(small, data):
    repurposer = fine_tune(small, optimizer_params={"learning_rate": 0.01}, patience=3)
    copied = clone(repurposer)
    assert copied.source_model is small and copied.get_params() == repurposer.get_params()
    assert copied.optimizer_params is not repurposer.optimizer_params
    assert repurposer.set_params(num_epochs=2).fit(*data).history_.best_epoch == 2
    rates = [{"learning_rate": 100.0}, {"learning_rate": 0.001}]
    search = GridSearchCV(fine_tune(small, batch_size=60), {"optimizer_params": rates}, cv=2)
    assert search.fit(*data).best_params_ == {"optimizer_params": rates[1]}
    assert search.best_estimator_.source_model is small


def test_a_bar_with_loss_and_accuracy(small, data, capsys):
    def slow(X, random):
        time.sleep(0.6)  # bars of quick work are not shown
        return X

    fine_tune(small, progress=True, augment=slow).fit(*data)
    shown = capsys.readouterr().err
    assert "training" in shown and "loss=" in shown and "accuracy=" in shown
    fine_tune(small).fit(*data)
    assert "training" not in capsys.readouterr().err


@pytest.mark.parametrize("n_batches", [16, 3])
def test_few_examples_are_seen_often_but_not_without_end(small, n_batches):
    repurposer = freeze(small, num_epochs=None, batch_size=10, random_layers=["hidden"])
    images = np.random.RandomState(0).normal(size=(10 * n_batches, 2, 6, 6))
    repurposer.fit(images, np.resize([0, 1], len(images)))
    epochs = len(repurposer.history_.loss)
    assert 6 <= epochs <= 30
    assert epochs == 30 or 350 < epochs * n_batches <= 400


@KINDS
def test_the_same_seed_gives_the_same_network_bit_for_bit(data, kind):
    """With dropout, and whatever was sampled before."""
    net = make_torch(drop=0.5)
    options = {"layer": "drop1"} if kind is fine_tune else {"random_layers": ["hidden"]}
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    found = []
    for before, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(before)
        found.append(parameters(kind(net, random_state=seed, **options).fit(*data)))
    assert_same(found[0], found[1])
    assert {"conv1_weight", "scores_weight"} <= moved(found[1], found[2])
    np.testing.assert_array_equal(np.random.get_state()[1], state)


# Divergence and interruption


@KINDS
@pytest.mark.parametrize("num_epochs", [1, 3])
def test_divergence_is_told_and_leaves_the_weights_before(net, data, kind, num_epochs):
    def spoil(X, random):
        return X * np.nan

    repurposer = kind(net, num_epochs=num_epochs, augment=spoil, batch_size=20)
    message = (
        r"diverged in epoch 1: .* is NaN or infinite; the weights of epoch 0 are kept\. Try a "
        "smaller learning rate than 0.001"
    )
    with pytest.raises(ValueError, match=message) as caught:
        repurposer.fit(*data)
    assert type(caught.value) is TrainingDiverged
    assert moved(parameters(net), parameters(repurposer)) == set()
    assert np.isfinite(repurposer.predict_proba(data[0])).all()
    assert repurposer.score(*data) > 0.6
    assert repurposer.history_.best_epoch == 0 and repurposer.history_.loss == []
    again = pickle.loads(pickle.dumps(caught.value))  # workers of a search send it
    assert str(again) == str(caught.value)


@pytest.mark.parametrize("rate", [1e3, 1e10, 1e30])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_huge_learning_rates_end_or_are_told(net, data, optimizer, rate):
    tuned = fine_tune(net, "pool1", optimizer=optimizer, optimizer_params={"learning_rate": rate})
    tuned.set_params(num_epochs=4)
    try:
        tuned.fit(*data)
    except TrainingDiverged as error:
        assert "Try a smaller learning rate than" in str(error)
    probabilities = tuned.predict_proba(data[0])
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert all(np.isfinite(array).all() for array in parameters(tuned).values())


def test_late_divergence_keeps_the_epoch_before(small, data):
    calls = []

    def spoil(X, random, last):
        calls.append(1)
        return X * (np.nan if len(calls) > last else 1)

    options = {"batch_size": 20, "learning_rate_schedule": "constant"}
    repurposer = fine_tune(small, num_epochs=5, augment=partial(spoil, last=7), **options)
    with pytest.raises(TrainingDiverged, match="in epoch 3: .* the weights of epoch 2 are kept"):
        repurposer.fit(*data)
    augment = partial(spoil, last=np.inf)
    expected = fine_tune(small, num_epochs=2, augment=augment, **options).fit(*data)
    assert_same(parameters(repurposer), parameters(expected))
    assert repurposer.history_ == expected.history_
    calls.clear()  # where something is held out, the best weights are kept
    targets = np.random.RandomState(0).randint(3, size=60)
    options |= {"validation_fraction": 0.3, "optimizer_params": {"learning_rate": 1.0}}
    repurposer = fine_tune(small, num_epochs=5, augment=partial(spoil, last=7), **options)
    with pytest.raises(TrainingDiverged, match="in epoch 3: .* the weights of epoch 0 are kept"):
        repurposer.fit(data[0], targets)
    assert moved(parameters(small), parameters(repurposer)) == set()
    assert len(repurposer.history_.validation_loss) == 3


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
    np.testing.assert_allclose(
        tuned.predict_proba(data[0]), expected.predict_proba(data[0]), atol=1e-6
    )
    assert tuned.history_ == expected.history_
