"""The fixed part of a network, computed once: the same results, and nothing left behind."""

import numpy as np
import pytest

import xfer

torch = pytest.importorskip("torch")

from xfer.training import loop  # noqa: E402
from xfer.training.bottom import Bottom  # noqa: E402

nn = torch.nn


class Residual(nn.Module):
    """A block with a shortcut, its norms after the convolutions or before them."""

    def __init__(self, before):
        super().__init__()
        self.norm, self.conv, self.before = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, 1, 1), before

    def forward(self, x):
        if self.before:
            return x + self.conv(torch.relu(self.norm(x)))
        return torch.relu(x + self.norm(self.conv(x)))


class Around(nn.Module):
    """The input of the first block is read again after the second."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(4, 4, 3, 1, 1) for _ in range(3))

    def forward(self, x):
        first = self.one(x)
        return self.three(torch.relu(self.two(torch.relu(first)))) + first


class Twice(nn.Module):
    """One module is called below and above."""

    def __init__(self):
        super().__init__()
        self.relu, self.one, self.two = nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.relu(self.two(self.relu(self.one(x))))


class Beside(nn.Module):
    """What is trained reads the middle of the fixed part, its end, and the images themselves."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(4, 4, 3, 1, 1) for _ in range(3))
        self.side = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        first = torch.relu(self.one(x))
        return self.three(torch.relu(self.two(first)) + first + self.side(x))


def chain():
    parts = [nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(), nn.Conv2d(4, 4, 3)]
    return nn.Sequential(*parts)


def encoder():
    layer = nn.TransformerEncoderLayer(48, 2, 16, batch_first=True)
    return nn.Sequential(nn.Flatten(2), nn.TransformerEncoder(layer, 3))


# A network, its fixed layers, and the class of the module where the fixed part ends.
CASES = {
    "a chain": (chain, ["0", "1"], "ReLU"),
    "residual blocks": (lambda: nn.Sequential(*(Residual(False) for _ in range(3))), ["0"], "Resi"),
    "pre-activation": (
        lambda: nn.Sequential(*(Residual(True) for _ in range(3))),
        ["0", "1.norm"],
        "Residual",
    ),
    "a connection around": (Around, ["one", "two"], "Conv2d"),
    "several ends": (Beside, ["one", "two"], "Conv2d"),
    "several ends, all fixed": (Beside, ["one", "two", "side"], ""),
    "a norm that learns": (chain, ["0"], "Conv2d"),
    "a module called twice": (Twice, ["one"], "Conv2d"),
    "blocks of an encoder": (encoder, ["1.layers.0", "1.layers.1"], "TransformerEncoderLayer"),
    "everything": (lambda: nn.Sequential(nn.Conv2d(4, 4, 3)), ["0"], ""),
}


@pytest.fixture
def data():
    random = np.random.RandomState(0)
    images = random.normal(size=(50, 4, 8, 6)).astype(np.float32)
    return images, (images[:, 0].mean(axis=(1, 2)) > 0).astype(int)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_keeping_the_fixed_part_changes_nothing(data, monkeypatch, case, fraction):
    build, fixed, kind = case
    torch.manual_seed(0)
    net = build()
    ends, counts = [], []
    init = Bottom.__init__

    def spy(self, network, batch):
        init(self, network, batch)
        ends.append(type(self.last).__name__)
        counts.append(0)
        self.last.register_forward_hook(count)

    def count(module, inputs, output):
        counts[-1] += "forward" not in vars(module)

    monkeypatch.setattr(Bottom, "__init__", spy)

    def fit():
        options = {"num_epochs": 4, "batch_size": 20, "validation_fraction": fraction}
        return xfer.NeuralNetworkFineTuneRepurposer(
            net, "output", fixed_layers=fixed, **options
        ).fit(*data)

    kept = fit()
    trained = kept.features_.source_.module
    assert ends and ends[0].startswith(kind)
    assert not any("forward" in vars(module) for module in trained.modules())
    seen = counts[-1]
    monkeypatch.setattr(loop, "_MOST_KEPT", 0)
    again = fit()
    if not fraction:
        assert seen < counts[-1], "it is computed less often"
    np.testing.assert_allclose(kept.history_.loss, again.history_.loss, rtol=1e-4)
    np.testing.assert_allclose(kept.predict_proba(data[0]), again.predict_proba(data[0]), atol=1e-4)


def test_the_fixed_part_of_a_real_graph(shared, monkeypatch):
    source = xfer.load_checkpoint(shared / "models/cifar_resnet20_v2", 0)
    fixed = [name for name in source.layer_names if "stage1" in name or "stage2" in name]
    fixed = [name for name in fixed if source.parameters_of(name)]
    fixed += ["cifarresnetv20_batchnorm0_fwd", "cifarresnetv20_conv0_fwd"]
    images = np.random.RandomState(0).normal(size=(24, 3, 32, 32)).astype(np.float32)
    labels = np.resize([0, 1], 24)

    def fit():
        return xfer.NeuralNetworkFineTuneRepurposer(
            source, "cifarresnetv20_pool0_fwd", fixed_layers=fixed, num_epochs=2, batch_size=12
        ).fit(images, labels)

    puts, put = [], Bottom.put
    monkeypatch.setattr(
        Bottom, "put", lambda self, rows: puts.append(rows.shape) or put(self, rows)
    )
    kept = fit()
    assert puts[-4:] == [(12, 32, 16, 16)] * 4
    before, after = source.network.parameters, kept.features_.source_.network.parameters
    assert all(np.array_equal(before[n], after[n]) for n in after if "stage1" in n)
    monkeypatch.setattr(loop, "_MOST_KEPT", 0)
    again = fit()
    np.testing.assert_allclose(kept.predict_proba(images), again.predict_proba(images), atol=1e-3)


def test_what_varies_is_computed_each_time(data, monkeypatch):
    torch.manual_seed(0)
    puts, put = [], Bottom.put
    monkeypatch.setattr(Bottom, "put", lambda self, rows: puts.append(1) or put(self, rows))

    def vary(images, random):
        return images[:, :, ::-1]

    options = {"fixed_layers": ["0"], "num_epochs": 2, "augment": vary, "batch_size": 20}
    xfer.NeuralNetworkFineTuneRepurposer(chain(), "output", **options).fit(*data)
    assert len(puts) <= 2, "only to see where the fixed part ends"


@pytest.mark.parametrize("name", ["a chain", "residual blocks", "a norm that learns"])
def test_more_epochs_compute_no_more_of_it(data, name):
    """The first layer sees the examples for their features, to find the end, and once."""
    build, fixed, _ = CASES[name]
    torch.manual_seed(0)
    net, seen = build(), []
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))

    class Counting(nn.Conv2d):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    first.__class__ = Counting

    def count(num_epochs, fixed):
        seen.clear()
        options = {"num_epochs": num_epochs, "batch_size": 20, "fixed_layers": fixed}
        xfer.NeuralNetworkFineTuneRepurposer(net, "output", **options).fit(*data)
        return sum(seen)

    assert count(2, fixed) == count(9, fixed)
    assert count(9, []) >= 9 * len(data[0])


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_nothing_is_left_where_a_fit_ends_early(data, monkeypatch, error):
    step, calls = torch.optim.Adam.step, []

    def spoil(self, *given, **options):
        calls.append(1)
        if len(calls) > 4 and error:
            raise error
        step(self, *given, **options)
        if len(calls) > 4:
            self.param_groups[0]["params"][0].data.fill_(np.nan)

    monkeypatch.setattr(torch.optim.Adam, "step", spoil)
    options = {"fixed_layers": ["0", "1"], "batch_size": 20, "num_epochs": 5}
    tuned = xfer.NeuralNetworkFineTuneRepurposer(chain(), "output", **options)
    message = "epoch 2.*weights of epoch 1 are kept"
    if error:
        with pytest.warns(UserWarning, match=message):
            tuned.fit(*data)
    else:
        with pytest.raises(xfer.TrainingDiverged, match=message):
            tuned.fit(*data)
    for module in tuned.features_.source_.module.modules():
        assert "forward" not in vars(module) and not module._forward_hooks
    assert np.isfinite(tuned.predict_proba(data[0])).all()
