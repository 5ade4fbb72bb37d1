"""Repurposers that train the network: what they learn, what they leave alone, what they refuse."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import skops.io
from conftest import bound_module, cifar_input, load_module
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

import xfer
from xfer import persistence
from xfer.sources import open_source
from xfer.training import TrainingDiverged
from xfer.training.loop import SCHEDULES, Examples

LABELS = {
    "integers with gaps": [3, 7, 40],
    "negative integers": [-5, 0, 2],
    "strings": ["autos", "hockey", "guns"],
    "objects": np.array(["autos", "hockey", "guns"], dtype=object),
    "two classes": [1, 4],
    "booleans": [False, True],
}
STILL = {"learning_rate": 0.0}


def fine_tune(module, layer="tanh1", **options):
    return xfer.NeuralNetworkFineTuneRepurposer(module, layer, **{"num_epochs": 1, **options})


def freeze(module, **options):
    return xfer.NeuralNetworkRandomFreezeRepurposer(module, **{"num_epochs": 1, **options})


KINDS = pytest.mark.parametrize("kind", [fine_tune, freeze])


def small_symbol(mx, norm=False):
    """Two layers with weights, without dropout, and what a task put on them."""
    # A batch norm takes the bias away, whose gradient is then nothing but rounding.
    options = {"kernel": (3, 3), "num_filter": 4, "no_bias": norm}
    net = mx.sym.Convolution(mx.sym.var("data"), name="conv1", **options)
    if norm:
        net = mx.sym.BatchNorm(net, fix_gamma=False, name="bn1")
    net = mx.sym.Activation(net, act_type="relu", name="relu1")
    net = mx.sym.Pooling(net, kernel=(2, 2), stride=(2, 2), pool_type="max", name="pool1")
    net = mx.sym.FullyConnected(net, num_hidden=8, name="hidden")
    net = mx.sym.Activation(net, act_type="tanh", name="tanh1")
    return mx.sym.SoftmaxOutput(
        mx.sym.FullyConnected(net, num_hidden=3, name="fc1"), name="softmax"
    )


@pytest.fixture
def small(mx):
    return bound_module(mx, small_symbol(mx), {"data": (8, 2, 6, 6)})


@pytest.fixture
def normed(mx):
    return bound_module(mx, small_symbol(mx, norm=True), {"data": (8, 2, 6, 6)})


@pytest.fixture
def data():
    """60 images of three kinds that a classifier can tell apart, with the index of their class."""
    random = np.random.RandomState(3)
    targets = np.resize([0, 1, 2], 60)
    images = random.normal(size=(60, 2, 6, 6)) + 2 * targets[:, None, None, None]
    return images.astype(np.float32), targets


def parameters(model):
    """The parameters of a repurposer's network or of a Module, by name."""
    if hasattr(model, "features_"):
        return dict(model.features_.source_.network.parameters)
    return {name: array.asnumpy() for half in model.get_params() for name, array in half.items()}


def moved(before, after):
    """Names of the parameters in both that are not bit for bit the same."""
    return {name for name in before.keys() & after if not np.array_equal(before[name], after[name])}


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert not moved(first, second)


# What is learned


@KINDS
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_any_kind(small, data, kind, labels):
    labels = np.asarray(labels)
    images, targets = data
    targets = targets % len(labels)
    repurposer = kind(small, target_class_count=len(labels)).fit(images, labels[targets])
    np.testing.assert_array_equal(repurposer.classes_, np.unique(labels))
    probabilities = repurposer.predict_proba(images)
    assert probabilities.shape == (60, len(labels))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    predicted = repurposer.predict(images)
    np.testing.assert_array_equal(predicted, repurposer.classes_[probabilities.argmax(axis=1)])
    assert (predicted == labels[targets]).mean() == repurposer.score(images, labels[targets])
    if len(labels) == 3:
        assert repurposer.score(images, labels[targets]) > 0.8


@KINDS
def test_both_families_of_verbs_do_the_same(mx, small, data, kind):
    images, targets = data
    labels = np.array([3, 7, 40])[targets]
    by_array = kind(small).fit(images, labels)
    iterator = mx.io.NDArrayIter(images, labels, 8)
    by_iterator = kind(small).repurpose(iterator)
    np.testing.assert_array_equal(by_iterator.classes_, [3, 7, 40])
    assert_same(parameters(by_iterator), parameters(by_array))
    np.testing.assert_allclose(
        by_iterator.predict_probability(iterator), by_array.predict_proba(images), atol=1e-6
    )
    np.testing.assert_array_equal(by_iterator.predict_label(iterator), by_array.predict(images))
    assert by_iterator.score(iterator) == by_array.score(images, labels)
    unlabelled = mx.io.NDArrayIter(images[:11], None, 8)
    assert by_iterator.predict_label(unlabelled).shape == (11,)


@KINDS
def test_a_shuffling_iterator_teaches_the_same_lesson(mx, small, data, kind):
    images, targets = data
    plain = kind(small).fit(images, targets)
    shuffled = kind(small).repurpose(mx.io.NDArrayIter(images, targets, 8, shuffle=True))
    assert (shuffled.predict(images) == plain.predict(images)).mean() > 0.9


@KINDS
@pytest.mark.parametrize("count", [2, 3])
def test_training_starts_where_logistic_regression_ends(small, data, kind, count):
    images, targets = data[0], data[1] % count
    repurposer = kind(small, optimizer_params=STILL).fit(images, targets)
    regression = xfer.LrRepurposer(small, "tanh1").fit(images, targets)
    np.testing.assert_allclose(
        repurposer.predict_proba(images), regression.predict_proba(images), atol=1e-5
    )
    assert moved(parameters(small), parameters(repurposer)) == set()


def test_training_goes_on_from_there(small, data):
    """Labels that the features say little of: the loss falls below that of the start."""
    labels = np.random.RandomState(0).randint(2, size=60)
    options = {"num_epochs": 15, "optimizer_params": {"learning_rate": 0.02}}
    repurposer = fine_tune(small, **options).fit(data[0], labels)
    start = fine_tune(small, optimizer_params=STILL).fit(data[0], labels)
    assert log_loss(repurposer, data[0], labels) < 0.8 * log_loss(start, data[0], labels)
    assert repurposer.history_.loss[-1] < repurposer.history_.loss[0]
    assert repurposer.history_.accuracy[-1] > repurposer.history_.accuracy[0]
    assert repurposer.history_.best_epoch == 15
    assert repurposer.history_.validation_loss == []


def log_loss(repurposer, images, targets):
    """Mean log loss of the scores of the network, before any scale."""
    scores = repurposer.features_.transform(images).astype(np.float64)
    return -log_softmax(scores, axis=1)[np.arange(len(targets)), targets].mean()


def test_the_history_is_what_came_of_the_batches(small, data):
    repurposer = fine_tune(small, optimizer_params=STILL, num_epochs=2).fit(*data)
    start = log_loss(repurposer, *data)
    # A batch of 32 is the first of two, which are 64 of 60 examples.
    np.testing.assert_allclose(repurposer.history_.loss, [start] * 2, rtol=0.3)
    assert fine_tune(small, optimizer_params=STILL, batch_size=60).fit(*data).history_.loss == (
        pytest.approx([start], rel=1e-5)
    )


# Numerics


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.2, 3.0, 1.0]])
def test_the_gradient_is_that_of_the_loss(weights):
    random = np.random.RandomState(0)
    scores, targets = random.normal(size=(7, 3)), random.randint(3, size=7)
    examples = Examples({}, targets, np.array(weights))
    gradient, step = examples.gradient(scores), 1e-6
    for place in np.ndindex(scores.shape):
        change = np.zeros_like(scores)
        change[place] = step
        difference = examples.loss(scores + change)[0] - examples.loss(scores - change)[0]
        assert gradient[place] == pytest.approx(7 * difference / (2 * step), abs=1e-6)
    losses = -log_softmax(scores, axis=1)[np.arange(7), targets]
    expected = np.average(losses, weights=np.take(weights, targets))
    assert examples.loss(scores) == pytest.approx((expected, (scores.argmax(1) == targets).mean()))


def training_module(module, rows=8, **options):
    """The scores of a small Module, to be trained."""
    from xfer.training.mxnet import TrainingModule

    network = open_source(module).network
    network = network.with_graph(network.prune(["fc1"]))
    options = {
        "fixed": (),
        "rates": {},
        "optimizer": "sgd",
        "optimizer_params": {"learning_rate": 0.1},
        **options,
    }
    options.setdefault("rate", lambda step: options["optimizer_params"]["learning_rate"])
    return TrainingModule(network, {"data": (rows, 2, 6, 6)}, **options)


def train(module, images, targets, steps=5, rows=8, **options):
    trained = training_module(module, rows, **options)
    for step in range(steps):
        batch = slice(rows * step, rows * (step + 1))
        examples = Examples({}, targets[batch], np.ones(3))
        trained.learn(examples.gradient(trained.forward({"data": images[batch]})))
    return trained.network().parameters


OPTIMIZERS = {
    "sgd": {"learning_rate": 0.05},
    "sgd, momentum": {"learning_rate": 0.05, "momentum": 0.9},
    "sgd, momentum, decay": {"learning_rate": 0.05, "momentum": 0.9, "wd": 0.1},
    "adam": {"learning_rate": 0.01},
    "adam, decay": {"learning_rate": 0.01, "wd": 0.1},
    "rmsprop": {"learning_rate": 0.01},
}


@pytest.mark.parametrize("case", OPTIMIZERS)
@pytest.mark.parametrize("norm", [False, True])
def test_steps_are_those_of_a_plain_module_with_a_softmax_output(mx, data, case, norm):
    images, targets = data
    module = bound_module(mx, small_symbol(mx, norm), {"data": (8, 2, 6, 6)})
    optimizer = case.partition(",")[0]
    options = {"optimizer": optimizer, "optimizer_params": OPTIMIZERS[case]}
    found = train(module, images, targets, **options)
    assert moved(parameters(module), found) == found.keys()
    module.init_optimizer(optimizer=optimizer, optimizer_params=OPTIMIZERS[case])
    for start in range(0, 40, 8):
        batch = slice(start, start + 8)
        module.forward_backward(
            mx.io.DataBatch([mx.nd.array(images[batch])], [mx.nd.array(targets[batch])])
        )
        module.update()
    mx.nd.waitall()
    for name, expected in parameters(module).items():
        np.testing.assert_allclose(found[name], expected, rtol=2e-4, atol=2e-5, err_msg=name)


def test_two_devices_give_what_one_gives(mx, small, data):
    options = {"optimizer_params": {"learning_rate": 0.05, "momentum": 0.9}}
    one = train(small, *data, **options)
    two = train(small, *data, contexts=[mx.cpu(0), mx.cpu(1)], **options)
    for name, expected in one.items():
        np.testing.assert_allclose(two[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)

    def predict(**devices):  # with a random new layer, so that the start is the same
        options = {"optimizer": "sgd", "num_epochs": 2, "random_layers": ["hidden"]}
        return freeze(small, **options, **devices).fit(*data).predict_proba(data[0])

    expected = predict()
    np.testing.assert_allclose(predict(num_devices=2), expected, atol=1e-4)
    found = predict(num_devices=2, context_function=mx.cpu)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_rates_scale_the_first_step_of_a_parameter_and_of_no_other(small, data):
    before = parameters(small)
    plain = train(small, *data, steps=1)
    found = train(small, *data, steps=1, rates={"conv1_weight": 0.25, "hidden_bias": 0.0})
    assert moved(plain, found) == {"conv1_weight", "hidden_bias"}
    assert "hidden_bias" not in moved(before, found)
    expected = 0.25 * (plain["conv1_weight"] - before["conv1_weight"])
    np.testing.assert_allclose(
        found["conv1_weight"] - before["conv1_weight"], expected, rtol=1e-3, atol=1e-6
    )


def test_the_rate_of_each_step_is_asked_for_from_0_on(mx, small, data):
    before = parameters(small)
    first = train(small, *data, steps=1)
    for contexts in (None, [mx.cpu(0), mx.cpu(1)]):
        rates = [0.1, 0.0, 0.0]
        asked = []

        def rate(step, asked=asked, rates=rates):
            asked.append(step)
            return rates[step]

        found = train(small, *data, steps=3, rate=rate, contexts=contexts)
        assert sorted(set(asked)) == [0, 1, 2]
        for name, expected in first.items():
            np.testing.assert_allclose(found[name], expected, atol=1e-5, err_msg=name)
    assert moved(before, first) == first.keys()


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


@pytest.fixture
def trained(mx, monkeypatch):
    """Shapes of the inputs, and options, of every network that was trained."""
    from xfer.training import mxnet

    found = []

    class Spy(mxnet.TrainingModule):
        def __init__(self, network, shapes, **options):
            super().__init__(network, shapes, **options)
            found.append({"shapes": shapes, **options})

    monkeypatch.setattr(mxnet, "TrainingModule", Spy)
    return found


def test_the_schedule_goes_on_within_an_epoch_and_over_stages(small, data, trained):
    options = {"optimizer_params": {"learning_rate": 1.2e-3}, "learning_rate_schedule": "linear"}
    fine_tune(small, num_epochs=4, batch_size=20, unfreeze_epochs=1, **options).fit(*data)
    found = [[one["rate"](step) for step in range(3)] for one in trained]
    np.testing.assert_allclose(found, 1e-4 * np.array([[12, 11, 10], [9, 8, 7], [6, 5, 4]]))


# What stays as it is


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_transferred_layers_have_a_rate_of_their_own(small, data, rate):
    options = {"optimizer": "sgd", "optimizer_params": {"learning_rate": 0.1}, "batch_size": 60}
    before = parameters(small)
    whole = parameters(fine_tune(small, **options).fit(*data))
    found = parameters(fine_tune(small, transferred_rate=rate, **options).fit(*data))
    for name in before.keys() & found:
        expected = rate * (whole[name] - before[name])
        np.testing.assert_allclose(found[name] - before[name], expected, rtol=1e-3, atol=1e-6)
    assert not moved(*({n: p[n] for n in ("scores_weight", "scores_bias")} for p in (found, whole)))
    start = parameters(fine_tune(small, **{**options, "optimizer_params": STILL}).fit(*data))
    assert "scores_weight" in moved(start, found)


FIXED = {
    "the bottom": ["conv1", "bn1"],
    "a batch norm alone": ["bn1"],
    "the top": ["hidden"],
    "a layer below a batch norm that learns": ["conv1"],
    "nothing": [],
}


@pytest.mark.parametrize("fixed", FIXED.values(), ids=FIXED)
def test_what_is_fixed_stays_and_the_rest_moves(normed, data, fixed):
    before = parameters(normed)
    after = parameters(freeze(normed, fixed_layers=fixed, num_epochs=2).fit(*data))
    stays = {name for name in before if name.partition("_")[0] in fixed}
    learned = {name for name in before if not name.startswith("fc1")} - stays
    assert moved(before, after) == learned
    assert after.keys() == learned | stays | {"scores_weight", "scores_bias"}


def test_layers_start_at_random(normed, data):
    def start(seed, names=("conv1", "bn1")):
        options = {"optimizer_params": STILL, "transferred_rate": 0}
        repurposer = freeze(normed, random_layers=names, random_state=seed, **options)
        return parameters(repurposer.fit(*data))

    before, first, second = parameters(normed), start(1), start(2)
    assert moved(before, first) == {
        *("conv1_weight", "bn1_gamma", "bn1_beta"),
        *("bn1_moving_mean", "bn1_moving_var"),
    }
    assert {"conv1_weight", "scores_weight"} <= moved(first, second)
    assert not {"bn1_beta", "hidden_weight"} & moved(first, second)
    assert_same(start(1), first)
    assert np.abs(first["conv1_weight"]).max() <= np.sqrt(6 / ((4 + 2) * 9))
    assert first["conv1_weight"].std() > 0.1
    assert not first["bn1_beta"].any()
    assert (first["bn1_gamma"] == 1).all()


def test_what_starts_at_random_is_trained_from_the_first_epoch(normed, data):
    before = parameters(normed)
    options = {"unfreeze_epochs": 1, "random_layers": ["hidden"]}
    one = parameters(freeze(normed, **options).fit(*data))
    still = parameters(freeze(normed, optimizer_params=STILL, **options).fit(*data))
    assert moved(still, one) == {"hidden_weight", "hidden_bias", "scores_weight", "scores_bias"}
    assert moved(before, one) == {"hidden_weight", "hidden_bias"}


@KINDS
def test_the_users_module_is_left_alone(mx, normed, data, kind):
    before = parameters(normed)
    batch = mx.io.DataBatch([mx.nd.array(data[0][:8])], [mx.nd.zeros(8)])

    def run():
        normed.forward(batch, is_train=False)
        return normed.get_outputs()[0].asnumpy()

    expected = run()
    kind(normed, num_epochs=2, validation_fraction=0.2).fit(*data)
    assert_same(parameters(normed), before)
    np.testing.assert_array_equal(run(), expected)
    normed.init_optimizer()
    normed.forward_backward(batch)
    normed.update()
    assert "conv1_weight" in moved(before, parameters(normed))


@pytest.mark.parametrize("every", [1, 2])
def test_layers_are_unfrozen_from_the_top(normed, data, every):
    """First the new layer, then the dense one, then the convolution and its batch norm."""
    before = parameters(normed)
    norm = {"bn1_gamma", "bn1_beta", "bn1_moving_mean", "bn1_moving_var"}
    expected = [
        set(),
        {"hidden_weight", "hidden_bias"},
        {"hidden_weight", "hidden_bias", "conv1_weight"} | norm,
    ]
    still = parameters(fine_tune(normed, optimizer_params=STILL).fit(*data))
    for i, names in enumerate(expected):
        for epochs in {i * every + 1, (i + 1) * every}:
            repurposer = fine_tune(normed, unfreeze_epochs=every, num_epochs=epochs).fit(*data)
            assert moved(before, parameters(repurposer)) == names
            assert "scores_weight" in moved(still, parameters(repurposer))
            assert len(repurposer.history_.loss) == epochs
    fixed = freeze(normed, fixed_layers=["hidden"], unfreeze_epochs=every, num_epochs=every + 1)
    assert moved(before, parameters(fixed.fit(*data))) == expected[2] - expected[1]


# What fixed layers put out is computed once


OPTIONS = {
    "fixed bottom": {"fixed_layers": ["conv1", "bn1"]},
    "unfreezing": {"unfreeze_epochs": 1, "num_epochs": 3},
    "held out": {"fixed_layers": ["conv1", "bn1"], "validation_fraction": 0.3, "num_epochs": 3},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_computing_fixed_layers_once_changes_nothing(normed, data, options, trained, monkeypatch):
    once = freeze(normed, **options).fit(*data)
    shapes = [one["shapes"] for one in trained]
    trained.clear()
    monkeypatch.setattr("xfer.training.loop._MOST_KEPT", 0)
    again = freeze(normed, **options).fit(*data)
    for name, expected in parameters(again).items():
        np.testing.assert_allclose(parameters(once)[name], expected, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(once.history_.loss, again.history_.loss, rtol=1e-4)
    assert {name for one in trained for name in one["shapes"]} == {"data"}
    if "unfreeze_epochs" in options:
        assert shapes == [{"tanh1": (32, 8)}, {"pool1": (32, 4, 2, 2)}, {"data": (32, 2, 6, 6)}]
    else:
        assert shapes == [{"pool1": (32, 4, 2, 2)}]


def test_layers_on_several_fixed_outputs(module, data, trained):
    """The network of two branches, which read the same fixed layer, and two halves of its sum."""
    options = {"fixed_layers": ["conv1", "bn1"], "num_layers_to_drop": 3, "num_epochs": 2}
    before = parameters(module)
    after = parameters(freeze(module, **options).fit(*data))
    assert trained[0]["shapes"] == {"relu1": (32, 4, 6, 6)}
    assert moved(before, after) == {"conv2_weight", "conv2_bias"}
    freeze(module, **{**options, "fixed_layers": ["conv1", "bn1", "conv2"]}).fit(*data)
    assert trained[1]["shapes"] == {"flat": (32, 2)}


def test_what_is_augmented_is_computed_in_every_step(normed, data, trained):
    freeze(normed, fixed_layers=["conv1", "bn1"], augment=lambda X, random: X).fit(*data)
    assert [one["shapes"] for one in trained] == [{"data": (32, 2, 6, 6)}]


# What is held out


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("counts", [[20, 20, 20], [40, 18, 2], [2, 2], [30, 1, 9]])
def test_of_each_class_its_share_is_held_out_but_never_the_last(counts, fraction):
    targets = np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts))
    examples = Examples({"data": np.arange(len(targets))}, targets, np.ones(len(counts)))
    count = round(fraction * len(targets))
    if not count:
        with pytest.raises(ValueError, match="leaves none of .* to hold out"):
            examples.split(fraction, np.random.RandomState(0))
        return

    def split(seed):
        kept, held_out = examples.split(fraction, np.random.RandomState(seed))
        for part in (kept, held_out):
            np.testing.assert_array_equal(part.targets, targets[part.inputs["data"]])
        together = np.concatenate([kept.inputs["data"], held_out.inputs["data"]])
        np.testing.assert_array_equal(np.sort(together), np.arange(len(targets)))
        return kept, held_out

    kept, held_out = split(0)
    assert np.bincount(kept.targets).min() >= 1 and len({*kept.targets}) == len(counts)
    assert len(held_out) == min(count, len(targets) - len(counts))
    for found, size in zip(np.bincount(held_out.targets, minlength=len(counts)), counts):
        assert abs(found - min(fraction * size, size - 1)) <= 1
    np.testing.assert_array_equal(split(0)[1].inputs["data"], held_out.inputs["data"])
    if counts[0] > 2:
        assert not np.array_equal(split(1)[1].inputs["data"], held_out.inputs["data"])


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
def test_the_weights_of_least_loss_on_what_is_held_out_are_kept(small, numbered, rate):
    images, seen, collect = numbered
    targets = np.random.RandomState(0).randint(3, size=60)
    options = {"num_epochs": 8, "learning_rate_schedule": "constant", "patience": 3}
    repurposer = fine_tune(
        small,
        validation_fraction=0.3,
        augment=collect,
        optimizer_params={"learning_rate": rate},
        **options,
    ).fit(images, targets)
    history = repurposer.history_
    epochs = len(history.loss)
    assert len(history.validation_loss) == len(history.validation_accuracy) == epochs + 1
    assert history.best_epoch == np.argmin(history.validation_loss)
    assert epochs == min(8, history.best_epoch + 3)
    held_out = np.setdiff1d(np.arange(60), [*seen])
    assert len(held_out) == 18
    images, targets = images[held_out], targets[held_out]
    found = log_loss(repurposer, images, targets)
    assert found == pytest.approx(history.validation_loss[history.best_epoch], rel=1e-4)
    hits = (repurposer.predict(images) == targets).mean()
    assert hits == pytest.approx(history.validation_accuracy[history.best_epoch])
    if rate == 1.0:
        assert history.best_epoch == 0
        assert moved(parameters(small), parameters(repurposer)) == set()


def test_the_scale_of_probabilities_is_learned_from_what_is_held_out(small, numbered):
    images, seen, collect = numbered
    targets = np.random.RandomState(0).randint(3, size=60)
    options = {"validation_fraction": 0.3, "augment": collect, "num_epochs": 2}
    repurposer = fine_tune(small, **options).fit(images, targets)
    held_out = np.setdiff1d(np.arange(60), [*seen])
    scores = repurposer.features_.transform(images[held_out]).astype(np.float64)
    scales = np.exp(np.linspace(-5, 5, 2001))
    losses = [
        np.log(scale) ** 2
        - log_softmax(scale * scores, axis=1)[np.arange(18), targets[held_out]].sum()
        for scale in scales
    ]
    best = scales[np.argmin(losses)]
    assert repurposer.meta_model_.inverse_temperature == pytest.approx(best, rel=0.01)
    assert abs(np.log(best)) > 0.05
    expected = log_softmax(repurposer.meta_model_.inverse_temperature * scores, axis=1)
    np.testing.assert_allclose(
        np.log(repurposer.predict_proba(images[held_out])), expected, atol=1e-3
    )
    assert fine_tune(small).fit(images, targets).meta_model_.inverse_temperature == 1


def test_one_example_of_each_class_leaves_none_to_hold_out(small, data):
    with pytest.raises(ValueError, match="leaves none .*; training needs at least one per class"):
        fine_tune(small, validation_fraction=0.5).fit(data[0][:3], data[1][:3])


# Options


def test_class_weights_make_a_rare_class_count(small, data):
    images = data[0]
    labels = np.where(np.random.RandomState(0).uniform(size=60) < 0.15, "rare", "usual")
    options = {"num_epochs": 15, "optimizer_params": {"learning_rate": 0.05}}

    def count(class_weight):
        repurposer = fine_tune(small, class_weight=class_weight, **options).fit(images, labels)
        return repurposer.predict_proba(images)[:, 0].sum()

    plain, balanced = count(None), count("balanced")
    assert plain < 0.6 * balanced
    assert count({"rare": 1000}) > 55
    assert count({"usual": 1000}) < 5
    shares = (labels == "usual").sum() / (labels == "rare").sum()
    assert count({"rare": shares}) == pytest.approx(balanced, rel=1e-3)
    assert count({"rare": 1, "usual": 1.0}) == pytest.approx(plain)


def test_what_augment_makes_is_learned_from(small, data):
    images, targets = data
    calls = []

    def nothing(X, random):
        calls.append(X)
        assert isinstance(X, np.ndarray) and X.dtype == np.float32
        assert isinstance(random, np.random.RandomState)
        return 0 * X

    repurposer = fine_tune(small, augment=nothing, num_epochs=2, batch_size=20).fit(*data)
    assert [X.shape for X in calls] == [(20, 2, 6, 6)] * 6
    rows = np.concatenate(calls[:3])
    np.testing.assert_array_equal(np.sort(rows.ravel()), np.sort(images.ravel()))
    assert not np.array_equal(rows, images), "in a random order"
    zeros = fine_tune(small, optimizer_params=STILL).fit(*data)
    scores = zeros.features_.transform(0 * images[:1])[0]
    expected = -log_softmax(scores.astype(float))[targets[:20]].mean()
    first = fine_tune(small, augment=nothing, batch_size=60).fit(*data).history_.loss[0]
    expected = -log_softmax(scores.astype(float))[targets].mean()
    assert first == pytest.approx(expected, rel=1e-3)
    assert repurposer.history_.accuracy[0] < 0.5

    def noise(X, random):
        return X + random.normal(size=X.shape)

    found = [parameters(fine_tune(small, augment=noise).fit(*data)) for _ in range(2)]
    assert_same(*found)
    plain = parameters(fine_tune(small).fit(*data))
    assert "conv1_weight" in moved(found[0], plain)


@pytest.fixture
def pair(mx):
    """A Module with two inputs."""
    sides = [
        mx.sym.FullyConnected(mx.sym.var(name), num_hidden=4, name=f"fc_{name}")
        for name in ("left", "right")
    ]
    joined = mx.sym.Activation(sides[0] + sides[1], act_type="tanh", name="joined")
    scores = mx.sym.FullyConnected(joined, num_hidden=2, name="fc1")
    symbol = mx.sym.SoftmaxOutput(scores, name="softmax")
    return bound_module(mx, symbol, {"left": (8, 5), "right": (8, 3)})


def test_a_network_with_two_inputs(mx, pair):
    random = np.random.RandomState(0)
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
    assert plain.predict(X).shape == (40,)
    iterator = mx.io.NDArrayIter({k: v.astype(np.float32) for k, v in X.items()}, None, 8)
    np.testing.assert_array_equal(plain.predict_label(iterator), plain.predict(X))
    before = parameters(pair)
    fixed = freeze(pair, fixed_layers=["fc_left"], num_epochs=2).fit(X, labels)
    learned = {"fc_right_weight", "fc_right_bias"}
    assert moved(before, parameters(fixed)) == learned
    for augment in (lambda X, random: X["left"], lambda X, random: {"left": X["left"]}):
        with pytest.raises(ValueError, match="must return a dict with 'left', 'right', got"):
            fine_tune(pair, "joined", augment=augment).fit(X, labels)
    with pytest.raises(ValueError, match=r"2 inputs \(left, right\): give a dict"):
        fine_tune(pair, "joined").fit(X["left"], labels)


def test_clones_and_searches_share_the_network(small, data):
    repurposer = fine_tune(small, optimizer_params={"learning_rate": 0.01}, patience=3)
    copy = clone(repurposer)
    assert copy.source_model is small and copy.get_params() == repurposer.get_params()
    assert copy.optimizer_params is not repurposer.optimizer_params
    assert repurposer.set_params(num_epochs=2).fit(*data).history_.best_epoch == 2
    rates = [{"learning_rate": 100.0}, {"learning_rate": 0.001}]
    search = GridSearchCV(fine_tune(small, batch_size=60), {"optimizer_params": rates}, cv=2)
    assert search.fit(*data).best_params_ == {"optimizer_params": rates[1]}
    assert search.best_estimator_.source_model is small


def test_a_bar_with_loss_and_accuracy(small, data, capsys):
    def slow(X, random):
        time.sleep(0.6)  # bars of quick work are not shown
        return X

    options = {"augment": slow, "num_epochs": 2}
    fine_tune(small, progress=True, **options).fit(*data)
    shown = capsys.readouterr().err
    assert "training" in shown and "loss=" in shown and "accuracy=" in shown
    fine_tune(small, **{**options, "augment": None}).fit(*data)
    assert "training" not in capsys.readouterr().err


@pytest.mark.parametrize("n_batches", [16, 3])
def test_few_examples_are_seen_often_but_not_without_end(small, n_batches):
    repurposer = freeze(small, num_epochs=None, batch_size=10, random_layers=["hidden"])
    images = np.random.RandomState(0).normal(size=(10 * n_batches, 2, 6, 6))
    repurposer.fit(images, np.resize([0, 1], len(images)))
    epochs = len(repurposer.history_.loss)
    assert 6 <= epochs <= 30
    assert epochs == 30 or 350 < epochs * n_batches <= 400


# Chance


@KINDS
def test_the_same_seed_gives_the_same_network_bit_for_bit(mx, module, data, kind):
    """With dropout, which uses MXNet's own generator."""
    options = {"layer": "dropout0"} if kind is fine_tune else {"random_layers": ["conv2"]}
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    found = []
    for before, seed in ((1, 0), (2, 0), (2, 1)):
        mx.random.seed(before)
        found.append(parameters(kind(module, random_state=seed, **options).fit(*data)))
    assert_same(found[0], found[1])
    assert {"conv1_weight", "conv2_weight", "scores_weight"} <= moved(found[1], found[2])
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_mxnets_generator_goes_on_from_its_own_seed(mx, module, data):
    def sample(seed):
        mx.random.seed(seed)
        fine_tune(module, "dropout0").fit(*data)
        return mx.nd.random.uniform(shape=5).asnumpy()

    first = sample(1)
    np.testing.assert_array_equal(sample(1), first)
    assert not np.array_equal(sample(2), first)


# Divergence


@KINDS
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("batch_size", "num_epochs"), [(20, 2), (60, 1), (60, 3)])
def test_divergence_is_told_and_leaves_the_weights_before(
    module, data, kind, optimizer, batch_size, num_epochs
):
    layer = {"layer": "flat"} if kind is fine_tune else {}
    repurposer = kind(
        module,
        **layer,
        optimizer=optimizer,
        optimizer_params={"learning_rate": 1e30},
        batch_size=batch_size,
        num_epochs=num_epochs,
    )
    message = (
        r"diverged in epoch 1: the (scores|parameter '\w+') (are|is) NaN or infinite; the "
        r"weights of epoch 0 are kept\. Try a smaller learning rate than 1e\+30"
    )
    with pytest.raises(ValueError, match=message) as caught:
        repurposer.fit(*data)
    assert type(caught.value) is TrainingDiverged
    assert moved(parameters(module), parameters(repurposer)) == set()
    assert np.isfinite(repurposer.predict_proba(data[0])).all()
    assert repurposer.score(*data) > 0.6
    assert repurposer.history_.best_epoch == 0 and repurposer.history_.loss == []
    again = pickle.loads(pickle.dumps(caught.value))  # workers of a search send it
    assert str(again) == str(caught.value) and again.history == caught.value.history


def test_finite_but_huge_scores_are_no_divergence(small, data):
    # The layer before the last is bounded, so nothing becomes NaN.
    new = fine_tune(small, num_epochs=2, optimizer_params={"learning_rate": 1e10}).fit(*data)
    assert len(new.history_.loss) == 2 and 745 < new.history_.loss[1] < np.inf


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
    calls.clear()  # where something is held out, it keeps the best
    targets = np.random.RandomState(0).randint(3, size=60)
    options |= {"validation_fraction": 0.3, "optimizer_params": {"learning_rate": 1.0}}
    repurposer = fine_tune(small, num_epochs=5, augment=partial(spoil, last=7), **options)
    with pytest.raises(TrainingDiverged, match="in epoch 3: .* the weights of epoch 0 are kept"):
        repurposer.fit(data[0], targets)
    assert moved(parameters(small), parameters(repurposer)) == set()
    assert len(repurposer.history_.validation_loss) == 3


# What is refused

OUT_OF_RANGE = [
    ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
    ({"batch_size": 2.5}, "batch_size must be an integer >= 1, got 2.5"),
    ({"num_epochs": 0}, "num_epochs must be an integer >= 1, got 0"),
    ({"num_epochs": True}, "num_epochs must be an integer >= 1, got True"),
    ({"patience": 0}, "patience must be an integer >= 1, got 0"),
    ({"patience": None}, "patience must be an integer >= 1, got None"),
    ({"unfreeze_epochs": -1}, "unfreeze_epochs must be an integer >= 0, got -1"),
    ({"learning_rate_schedule": "step"}, "must be one of cosine, linear, constant, got 'step'"),
    ({"learning_rate_schedule": ["linear"]}, r"cosine, linear, constant, got \['linear'\]"),
    ({"transferred_rate": -1}, "transferred_rate must be a number >= 0, got -1"),
    ({"transferred_rate": np.nan}, "transferred_rate must be a number >= 0, got nan"),
    ({"validation_fraction": 1}, "validation_fraction must be a number >= 0 and < 1, got 1"),
    ({"validation_fraction": "a"}, "validation_fraction must be a number .* got 'a'"),
    ({"augment": 3}, "augment must be callable, got int"),
    ({"optimizer": "newton"}, "optimizer must be one of .*adam.*sgd.*, got 'newton'"),
    ({"optimizer": None}, "optimizer must be one of .*, got None"),
    ({"optimizer_params": {"beta3": 1}}, "'adam' does not accept optimizer_params: .*beta3"),
    ({"optimizer_params": 0.1}, "optimizer_params must be a dict or None, got float"),
    ({"optimizer_params": {"learning_rate": -1}}, "learning_rate .* number >= 0, got -1"),
    ({"optimizer_params": {"learning_rate": "a"}}, "learning_rate .* number >= 0, got 'a'"),
    ({"optimizer_params": {"lr_scheduler": 1}}, "lr_scheduler: give learning_rate_schedule"),
    ({"target_class_count": 2}, "target_class_count is 2, but the labels have 3 classes: 0, 1, 2"),
    ({"class_weight": {"a": 2}}, "class_weight has 'a', but the labels are 0, 1, 2"),
    ({"class_weight": {0: 0}}, "class_weight must be positive numbers, got 0 for 0"),
    ({"class_weight": {0: np.nan}}, "class_weight must be positive numbers, got nan for 0"),
    ({"class_weight": "even"}, "class_weight.* must be .*dict.*balanced.* None. Got 'even'"),
    ({"num_devices": 0}, "num_devices must be an integer >= 1, got 0"),
    ({"num_devices": 9, "batch_size": 8}, "num_devices=9 cannot share batches of 8 examples"),
    ({"augment": lambda X, random: X[1:]}, r"augment must not change shapes: .*\(31, .*\(32, "),
]
OF_THE_LAYER = [
    ({"layer": "tanh9"}, "no layer 'tanh9'; nearest: tanh1"),
    ({"layer": ["tanh1", "pool1"]}, "transfer_layer_name must be the name of a layer, got"),
    ({"layer": 3}, "transfer_layer_name must be the name of a layer, got 3"),
    ({"layer": "softmax"}, r"transfer_layer_name must be before .*, got 'softmax' \(Soft"),
]
OF_LAYERS = [
    ({"fixed_layers": ["conv2"]}, "no layer 'conv2'; nearest: conv1"),
    ({"random_layers": ["conv2"]}, "no layer 'conv2'; nearest: conv1"),
    ({"fixed_layers": ["fc1"]}, "fixed_layers has layer 'fc1', which num_layers_to_drop drops"),
    ({"fixed_layers": "conv1"}, "fixed_layers must be a list of names of layers, got 'conv1'"),
    ({"random_layers": None}, "random_layers must be a list of names of layers, got None"),
    ({"fixed_layers": ["conv1"], "random_layers": ["hidden", "conv1"]}, "share the .*'conv1_"),
    ({"num_layers_to_drop": 0}, "num_layers_to_drop must be an integer >= 1, got 0"),
    ({"num_layers_to_drop": 7}, "cannot drop 7 layers from the top: there is no layer below"),
]


@KINDS
def test_options_out_of_range_leave_the_repurposer_as_it_was(small, data, kind):
    fitted = kind(small).fit(*data)
    expected, history = fitted.predict_proba(data[0]), fitted.history_
    good = fitted.get_params()
    for options, message in OUT_OF_RANGE + (OF_THE_LAYER if kind is fine_tune else OF_LAYERS):
        new = kind(small, **options)
        with pytest.raises((TypeError, ValueError), match=message) as caught:
            new.fit(*data)
        assert len(str(caught.value)) < 300
        with pytest.raises(NotFittedError):
            new.predict(data[0])
        options = {"transfer_layer_name" if k == "layer" else k: v for k, v in options.items()}
        with pytest.raises((TypeError, ValueError), match=message):
            fitted.set_params(**{**good, **options}).fit(*data)
        assert fitted.history_ is history
    np.testing.assert_array_equal(fitted.predict_proba(data[0]), expected)


@KINDS
def test_bad_data_are_refused_and_leave_the_repurposer_as_it_was(mx, small, data, kind):
    images, targets = data
    repurposer, new = kind(small).fit(images, targets), kind(small)
    before = repurposer.predict_proba(images)
    spoilt = images.copy()
    spoilt[59] = np.nan
    iterator = mx.io.NDArrayIter(images, targets, 8)
    cases = [
        ("input 'data' has NaN.* at example 59", spoilt, targets),
        ("X has 60 examples and y has 3 labels", images, targets[:3]),
        ("these data carry no labels; give them as y", images, None),
        ("an iterator has its own labels", iterator, targets),
        ("the iterator has no labels", mx.io.NDArrayIter(images, None, 8), None),
        ("the labels hold NaN", images, targets * np.nan),
        ("Unknown label type: continuous", images, targets + 0.5),
        ("needs at least 2 classes; every label is 0", images, targets * 0),
        ("the data are empty", images[:0], targets[:0]),
        ("do not fit the network", images[:, :1], targets),
        ("the data are named text; the network's inputs are data", {"text": images}, targets),
    ]
    for message, X, y in cases:
        for one in (repurposer, new):
            with pytest.raises(ValueError, match=message):
                one.fit(X, y)
    for verb in (new.predict, new.predict_label, new.predict_probability):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            verb(images)
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        new.score(images, targets)
    np.testing.assert_array_equal(repurposer.predict_proba(images), before)


def test_word_ids_are_checked_before_training(mx):
    net = mx.sym.Embedding(mx.sym.var("data"), input_dim=20, output_dim=4, name="embed")
    net = mx.sym.FullyConnected(net, num_hidden=6, name="hidden")
    net = mx.sym.softmax(mx.sym.FullyConnected(net, num_hidden=2, name="fc1"), name="out")
    module = bound_module(mx, net, {"data": (8, 5)}, label_names=None)
    ids, targets = np.random.RandomState(0).randint(20, size=(30, 5)), np.resize([0, 1], 30)
    repurposer = freeze(module, random_layers=["hidden"]).fit(ids, targets)
    assert "embed_weight" in moved(parameters(module), parameters(repurposer))
    before = repurposer.predict_proba(ids)
    for wrong in (-1, 20):
        spoilt = np.where(np.arange(150).reshape(30, 5) == 77, wrong, ids)
        with pytest.raises(ValueError, match=f"id {wrong}, but layer 'embed' has only ids 0 to 19"):
            repurposer.fit(spoilt, targets)
    np.testing.assert_array_equal(repurposer.predict_proba(ids), before)


@KINDS
def test_networks_that_cannot_be_trained_are_refused(mx, small, data, kind, tmp_path):
    class Own:
        layers = [xfer.sources.Layer("tanh1", "sum", (2,), 0)]

        def extract(self, data, layer_names, **options):
            raise AssertionError("it is refused before")

    open_source(small).network.export(tmp_path / "net.onnx", {"data": (8, 2, 6, 6)})
    for model, message in (
        (
            tmp_path / "net.onnx",
            "only MXNet networks can be trained, and this is of class OnnxSource;",
        ),
        (Own(), "only MXNet networks can be trained, and this is of class Own; allowed are"),
        (None, "was loaded without its source model"),
        (3, "cannot open int as a source model"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            kind(model).fit(*data)


# Files


@KINDS
@pytest.mark.parametrize("labels", [["autos", "guns", "hockey"], [3, 7, 40]])
def test_a_repurposer_comes_back_the_same(small, data, tmp_path, kind, labels):
    images, labels = data[0], np.array(labels)[data[1]]
    options = {
        "validation_fraction": 0.2,
        "optimizer_params": {"learning_rate": 0.002, "beta1": 0.8},
        "class_weight": dict.fromkeys(labels.tolist(), 1.5),
        "num_epochs": 2,
    }
    if kind is freeze:
        options |= {"fixed_layers": ["conv1"], "random_layers": [], "num_layers_to_drop": 3}
    repurposer = kind(small, augment=lambda X, random: X, **options).fit(images, labels)
    path = repurposer.save_repurposer("net", tmp_path)
    loaded = xfer.load("net", tmp_path)
    assert type(loaded) is type(repurposer)
    np.testing.assert_array_equal(loaded.predict_proba(images), repurposer.predict_proba(images))
    np.testing.assert_array_equal(loaded.predict(images), repurposer.predict(images))
    np.testing.assert_array_equal(loaded.classes_, repurposer.classes_)
    assert loaded.history_ == repurposer.history_
    assert_same(parameters(loaded), parameters(repurposer))
    expected = {**repurposer.get_params(), "source_model": None, "augment": None}
    assert loaded.get_params() == expected
    before = path.read_bytes()
    with pytest.raises(ValueError, match="so the network always goes into the file"):
        repurposer.save_repurposer("net", tmp_path, save_source_model=False)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="loaded without its source model.* xfer.load as source_"):
        loaded.fit(images, labels)
    np.testing.assert_array_equal(loaded.predict(images), repurposer.predict(images))
    again = xfer.load("net", tmp_path, source_model=small)
    np.testing.assert_array_equal(again.predict_proba(images), repurposer.predict_proba(images))
    assert_same(
        parameters(again.fit(images, labels)),
        parameters(kind(small, **options).fit(images, labels)),
    )


CHANGES = {
    "a weight": lambda content: content["network"].update({"arg:scores_bias": np.zeros(3, "f4")}),
    "the layer": lambda content: edit_manifest(content, layers=["hidden"]),
    "no network": lambda content: edit_manifest(content, network=None),
    "another class": lambda content: edit_manifest(content, **{"class": "os.system"}),
}


def edit_manifest(content, **changes):
    content["manifest"] = json.dumps({**json.loads(content["manifest"]), **changes})


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_tampered_network_is_refused(small, data, tmp_path, change):
    """Even if the checksum of the file was adapted."""
    path = fine_tune(small).fit(*data).save_repurposer("net", tmp_path)

    def rewrite(change):
        content = skops.io.loads(path.read_bytes()[:-64], trusted=persistence._TRUSTED)
        change(content)
        state = skops.io.dumps(content)
        path.write_bytes(state + hashlib.sha256(state).hexdigest().encode())

    rewrite(lambda content: None)
    assert xfer.load("net", tmp_path).score(*data) > 0.8
    rewrite(change)
    with pytest.raises(ValueError, match=r"net\.xfer cannot be loaded"):
        xfer.load("net", tmp_path)


def test_what_was_trained_predicts_without_mxnet(small, data, tmp_path):
    labels = np.array(["autos", "guns", "hockey"])[data[1]]
    repurposer = freeze(small, validation_fraction=0.2).fit(data[0], labels)
    repurposer.save_repurposer("net", tmp_path)
    np.save(tmp_path / "images.npy", data[0])
    script = """
import sys
sys.modules["mxnet"] = None
import numpy as np
import xfer
images, loaded = np.load("images.npy"), xfer.load("net")
np.save("found.npy", loaded.predict_proba(images))
print(*loaded.classes_)
try:
    loaded.fit(images, loaded.predict(images))
except ImportError as error:
    print(error)
"""
    run = [sys.executable, "-c", script]
    env = {**os.environ, "PYTHONPATH": str(Path(xfer.__file__).parents[1])}
    said = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True).stdout
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_array_equal(found, repurposer.predict_proba(data[0]))
    assert said.startswith("autos guns hockey\ntraining a network needs MXNet")


@pytest.mark.skipif(find_spec("mxnet") is not None, reason="MXNet is installed")
@KINDS
def test_training_says_what_to_install(data, kind):
    with pytest.raises(ImportError, match="training a network needs MXNet, .* pip install"):
        kind(None).fit(*data)


# Real networks


@pytest.mark.slow
def test_ten_labels_per_class_of_real_images(mx, shared):
    """At least 5 points above logistic regression, and what MXNet's own network says."""
    with np.load(shared / "data" / "cifar100_10class.npz") as file:
        arrays = {name: file[name] for name in file.files}
    images, targets = cifar_input(arrays["x_train"]), arrays["y_train"]
    random = np.random.RandomState(0)
    places = [random.choice(np.flatnonzero(targets == c), 10, False) for c in np.unique(targets)]
    few = np.concatenate(places)
    unseen, truth = cifar_input(arrays["x_test"][:600]), arrays["y_test"][:600]
    module = load_module(mx, shared, "cifar_resnet20_v2", 0, label_names=None)
    layer = "cifarresnetv20_pool0_fwd"
    repurposer = fine_tune(module, layer, num_epochs=8).fit(images[few], targets[few])
    regression = xfer.LrRepurposer(module, layer).fit(images[few], targets[few])
    assert repurposer.score(unseen, truth) >= regression.score(unseen, truth) + 0.05
    network = repurposer.features_.source_.network
    trained = mx.mod.Module(mx.sym.load_json(network.graph.to_json()), label_names=None)
    from xfer.sources.mxnet_engine import safe_binding

    with safe_binding():
        trained.bind([("data", (20, 3, 32, 32))], for_training=False)
    trained.set_params(
        {name: mx.nd.array(array) for name, array in network.arguments.items()},
        {name: mx.nd.array(array) for name, array in network.auxiliary.items()},
    )
    trained.forward(mx.io.DataBatch([mx.nd.array(unseen[:20])]), is_train=False)
    expected = mx.nd.softmax(trained.get_outputs()[0]).asnumpy()
    np.testing.assert_allclose(repurposer.predict_proba(unseen[:20]), expected, atol=1e-4)


def test_word_vectors_are_learned_too(mx, shared):
    module = load_module(mx, shared, "newsgroups_cnn", 0)
    random = np.random.RandomState(0)
    before = open_source(module).network.parameters
    ids = random.randint(1000, size=(15, 300))
    labels = np.repeat(["autos", "guns", "hockey"], 5)
    repurposer = fine_tune(module, "dropout0", num_epochs=2, batch_size=8).fit(ids, labels)
    (name,) = (name for name in before if "embed" in name and name.endswith("weight"))
    changed = np.flatnonzero((parameters(repurposer)[name] != before[name]).any(axis=1))
    assert len(changed) and {*changed} <= {*ids.ravel()}
    assert repurposer.score(ids, labels) > 0.9
