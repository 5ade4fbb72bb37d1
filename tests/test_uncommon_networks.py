"""Networks that training once got wrong: shared parameters, masks, buffers, closures and others."""

import copy

import numpy as np
import pytest

import xfer

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from xfer.training.augment import images  # noqa: E402

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(64, 1, 8, 8).astype(np.float32)
Y = (X.mean((1, 2, 3)) > 0).astype(int)
IDS = RANDOM.randint(1, 50, size=(64, 16))
IDS[32:, 4:] = 0


def unchanged(batch, random):
    """An augmentation that varies nothing, so that nothing is computed once."""
    return batch


def fit(net, layer, data=X, labels=Y, **options):
    options = {"num_epochs": 2, **options}
    return xfer.NeuralNetworkFineTuneRepurposer(net, layer, **options).fit(data, labels)


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.gru, self.relu = nn.Linear(4, 6), nn.GRU(6, 8), nn.ReLU()

    def forward(self, x):
        return self.relu(self.gru(self.into(x.transpose(0, 1)))[0][-1])


class Masked(nn.Module):
    """A mask of integers that is made of the ids, before the part that is trained."""

    def __init__(self):
        super().__init__()
        self.words, self.to_mask, self.dense = nn.Embedding(50, 8), Padding(), nn.Linear(8, 8)

    def forward(self, ids):
        padding, words = self.to_mask(ids), self.words(ids)
        return self.dense(words).relu().masked_fill(padding[..., None], 0).sum(1)


class Padding(nn.Module):
    def forward(self, ids):
        return ids == 0


@pytest.mark.parametrize(("kind", "layer", "fixed", "data"), [
    (TimeFirst, "relu", "into", RANDOM.randn(64, 32, 4).astype(np.float32)),
    (Masked, "output", "words", IDS),
])  # fmt: skip
def test_the_fixed_part_is_kept_only_where_rows_are_examples(kind, layer, fixed, data):
    """There are as many time steps as examples in a batch; the first batch has no padding."""
    found = []
    for augment in (None, unchanged):
        torch.manual_seed(0)
        options = {"fixed_layers": [fixed], "augment": augment, "optimizer_params": {"lr": 0.01}}
        found.append(fit(kind(), layer, data, num_epochs=5, **options).history_.loss)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)


@pytest.mark.parametrize("fixed", [(), ("1",)])
def test_looking_for_the_fixed_part_moves_no_statistics(fixed):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8))
    net.append(nn.BatchNorm1d(8))
    options = {"optimizer": "sgd", "optimizer_params": {"lr": 1e-9}, "batch_size": 64}
    found = fit(net, "4", num_epochs=1, fixed_layers=fixed, **options).to_torch().body[4]
    expected = copy.deepcopy(net).train()
    expected(torch.tensor(X))
    torch.testing.assert_close(found.running_mean, expected[4].running_mean)


def test_statistics_without_parameters_can_be_fixed():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 3))
    found = fit(net, "2", pooling="mean", fixed_layers=["0", "1"]).to_torch().body
    torch.testing.assert_close(found[1].running_var, net[1].running_var, rtol=0, atol=0)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x.flatten(1)).tanh())


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_shared_parameter_is_fixed_by_either_name(name):
    net = Tied()
    found = fit(net, "output", fixed_layers=[name]).to_torch().body
    assert torch.equal(found.a.weight, net.a.weight)
    with pytest.raises(ValueError, match="share"):
        xfer.NeuralNetworkRandomFreezeRepurposer(
            net, num_layers_to_drop=1, fixed_layers=["a"], random_layers=["b"]
        ).fit(X, Y)


def test_padding_is_masked_in_to_torch():
    net = nn.Sequential(nn.Embedding(50, 8, padding_idx=0), nn.Linear(8, 8))
    repurposer = fit(net, "1", IDS, pooling="masked_mean")
    found = repurposer.to_torch()(torch.tensor(IDS)).softmax(1).detach().numpy()
    np.testing.assert_allclose(found, repurposer.predict_proba(IDS), atol=1e-5)


class Closure(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(64, 8)
        self.step = lambda x: self.dense(x).relu()

    def forward(self, x):
        return self.step(x.flatten(1))


def test_a_copy_that_runs_the_original_is_refused():
    net = Closure()
    with pytest.raises(ValueError, match="such as a lambda in __init__, so a copy cannot"):
        fit(net, "output")
    assert net.dense.weight.grad is None


class Infinite(nn.Module):
    """With a mask that holds infinity, state that is no tensor, and a layer that is left out."""

    def __init__(self):
        super().__init__()
        self.query, self.value, self.top = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1))
        self.top.weight.data[:] = torch.nan

    def forward(self, x):
        query = self.query(x[:, 0])
        return self.top(self.value((query @ query.mT / 3 + self.mask).softmax(-1) @ query))

    def get_extra_state(self):
        return {}

    def set_extra_state(self, state):
        pass


def test_only_what_was_finite_must_stay_so():
    assert len(fit(Infinite(), "value").history_.loss) == 2


class Running(nn.Module):
    """A mean that is learned, and is not in the module's state."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.mean(0).detach(), 0.1)
        return x - self.mean


@pytest.mark.parametrize(("top", "dtype"), [(nn.ReLU, torch.float64), (Running, torch.float32)])
def test_every_array_is_saved_as_it_is(tmp_path, top, dtype):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), top()).to(dtype)
    repurposer = fit(net, "2")
    repurposer.save_repurposer("net", tmp_path)
    loaded = xfer.load("net", tmp_path, source_model=net)
    np.testing.assert_array_equal(loaded.predict_proba(X), repurposer.predict_proba(X))


def test_a_trained_network_can_be_trained_again():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    trained = fit(net, "2", pooling="mean").to_torch()
    assert fit(trained, "body.2", pooling="mean").history_.loss


def test_compiled_modules_are_refused():
    with pytest.warns(DeprecationWarning, match="script"):
        net = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, 8)))
    with pytest.raises(ValueError, match="cannot be trained: train the module it was made of"):
        fit(net, "output")


def test_sparse_gradients():
    net = nn.Sequential(nn.Embedding(50, 8, sparse=True), nn.Flatten(), nn.Linear(128, 8))
    assert fit(net, "2", IDS, optimizer="sgd").history_.loss


def test_fits_where_gradients_are_off():
    with torch.no_grad():
        assert fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), "1").history_.loss


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_channels_are_not_mixed(channels):
    given = np.broadcast_to(np.arange(channels, dtype=np.float32), (20, 9, 7, channels))
    np.testing.assert_array_equal(images(given, np.random.RandomState(0)), given)
    given = np.moveaxis(given, 3, 1)
    np.testing.assert_array_equal(images(given, np.random.RandomState(0)), given)
