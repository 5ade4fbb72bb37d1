"""The fixed part of a network is computed once, and everything else is as if it were not."""

import numpy as np
import pytest

import xfer

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from torch import nn  # noqa: E402
from torch_resnet import Block  # noqa: E402

from xfer.training import loop  # noqa: E402
from xfer.training.bottom import Bottom  # noqa: E402


class Residual(nn.Module):
    """Blocks that add what they read, with their batch norms before or after the convolution."""

    class Before(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.relu = nn.BatchNorm2d(4), nn.ReLU()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return x + self.conv(self.relu(self.norm(x)))

    def __init__(self, make=Before):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.blocks = nn.Sequential(*(make() for _ in range(3)))
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.pool(self.blocks(self.stem(x))).flatten(1)


class Listed(nn.Module):
    """An encoder that calls a list of blocks, each of which returns a tuple."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.dense, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

        def forward(self, x):
            seen = self.attention(x, x, x, need_weights=False)[0]
            return (self.norm(x + self.dense(seen)),)

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(12, 4)
        self.layers = nn.ModuleList([self.Layer() for _ in range(3)])

    def forward(self, x):
        x = self.embed(x.flatten(2).reshape(len(x), 6, 12))
        for layer in self.layers:
            x = layer(x)[0]
        return x.mean(1)


class Twice(nn.Module):
    """A fixed module that is called again above one that is trained, and an activation shared."""

    def __init__(self):
        super().__init__()
        self.flat, self.first, self.tanh = nn.Flatten(), nn.Linear(72, 6), nn.Tanh()
        self.shared, self.trained = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = self.tanh(self.shared(self.tanh(self.first(self.flat(x)))))
        return self.tanh(self.shared(self.tanh(self.trained(x))))


class Around(nn.Module):
    """What is trained reads the middle of the fixed part, its end, and the images themselves."""

    def __init__(self):
        super().__init__()
        self.low, self.high = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.side, self.trained = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        low = torch.relu(self.low(x))
        high = torch.relu(self.high(low))
        return self.trained(high + low + self.side(x)).mean((2, 3))


def chain(**more):
    layers = {
        "conv1": nn.Conv2d(2, 4, 3),
        "norm1": nn.BatchNorm2d(4),
        "relu1": nn.ReLU(inplace=True),
        **more,
        "conv2": nn.Conv2d(4, 4, 3),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
    }
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    return net


# A network, its last layer, its fixed layers, and the module whose output is kept, if any is.
NETWORKS = {
    "chain": (chain, "flat", ["conv1", "norm1"], "relu1"),
    "dropout below": (
        lambda: chain(drop=nn.Dropout(0.5)),
        "flat",
        ["conv1", "norm1"],
        "drop",
    ),
    "norm that learns": (chain, "flat", ["conv1"], "conv1"),
    "pre-activation": (Residual, "output", ["stem", "blocks.0", "blocks.1"], "blocks.1"),
    "half a block": (Residual, "output", ["stem", "blocks.0", "blocks.1.norm"], None),
    "post-activation": (
        lambda: Residual(lambda: Block(4, 4, 1)),
        "output",
        ["stem", "blocks.0", "blocks.1"],
        "blocks.1",
    ),
    "list of blocks": (Listed, "output", ["embed", "layers.0", "layers.1"], None),
    "called twice": (Twice, "output", ["first", "shared"], None),
    "skipped": (Around, "output", ["low", "high", "side"], None),
    "skipped by what learns": (Around, "output", ["low", "high"], None),
    "all": (chain, "flat", ["conv1", "norm1", "conv2"], "flat"),
    "nothing": (chain, "flat", [], None),
    "the top only": (chain, "flat", ["conv2"], None),
}
CASES = pytest.mark.parametrize("case", NETWORKS.values(), ids=NETWORKS)


@pytest.fixture
def data():
    """40 images of two kinds, and their labels."""
    random, labels = np.random.RandomState(0), np.resize([0, 1], 40)
    images = random.normal(size=(40, 2, 6, 6)) + labels[:, None, None, None]
    return images.astype(np.float32), labels


@pytest.fixture
def kept(monkeypatch):
    """The fixed parts that were found in a fit."""
    found = []

    class Spy(Bottom):
        calls = 0

        def __init__(self, *given):
            super().__init__(*given)
            self.calls = 0  # those that found the end do not count
            found.append(self)

        def put(self, rows):
            super().put(rows)
            self.calls += 1

    monkeypatch.setattr(loop, "Bottom", Spy)
    return found


def fit(make, layer, fixed, data, **options):
    torch.manual_seed(0)
    net = make()
    for module in net.modules():  # statistics that differ from those of a batch
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    options = {"num_epochs": 3, "batch_size": 16, "fixed_layers": fixed, **options}
    return xfer.NeuralNetworkFineTuneRepurposer(net, layer, **options).fit(*data)


def state(repurposer):
    head = repurposer.meta_model_
    arrays = {n: t.numpy() for n, t in repurposer.features_.source_.module.state_dict().items()}
    return {**arrays, "coef": np.asarray(head.coef), "intercept": np.asarray(head.intercept)}


def assert_close(found, expected, atol=1e-5):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=atol, err_msg=name)


@CASES
@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_computing_the_fixed_part_once_changes_nothing(case, data, kept, monkeypatch, fraction):
    make, layer, fixed, _ = case
    options = {"validation_fraction": fraction}
    once = fit(make, layer, fixed, data, **options)
    monkeypatch.setattr(loop, "_MOST_KEPT", 0)
    n_found = len(kept)
    again = fit(make, layer, fixed, data, **options)
    assert not any(one.calls for one in kept[n_found:]), "nothing is kept"
    assert_close(state(once), state(again))
    np.testing.assert_allclose(once.history_.loss, again.history_.loss, rtol=1e-4)
    found, expected = once.history_.validation_loss, again.history_.validation_loss
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@CASES
def test_the_fixed_part_ends_where_training_begins(case, data, kept):
    make, layer, fixed, end = case
    trained = fit(make, layer, fixed, data).features_.source_.module
    if not fixed:
        assert not kept
        return
    (bottom,) = kept
    if end is not None:
        assert bottom.last is trained.get_submodule(end)
    elif bottom.last is not None:
        # An end that is found is below everything that is trained, or a read of it gives NaN.
        assert not any(one.requires_grad for one in bottom.last.parameters())


@CASES
def test_nothing_is_left_on_the_modules(case, data, kept):
    make, layer, fixed, _ = case
    module = fit(make, layer, fixed, data).features_.source_.module
    for part in module.modules():
        assert "forward" not in vars(part)
        assert not part._forward_hooks and not part._forward_pre_hooks


@pytest.mark.parametrize("name", ["chain", "dropout below", "pre-activation", "post-activation"])
def test_the_fixed_part_is_computed_once_per_example(name, data):
    """By the examples that its first layer sees: features, one batch to find the end, and once."""
    make, layer, fixed, _ = NETWORKS[name]
    seen = []

    class Counting(nn.Conv2d):
        def forward(self, x):
            seen.append((len(x), torch.is_grad_enabled()))
            return super().forward(x)

    def counting():
        net = make()
        first = "conv1" if hasattr(net, "conv1") else "stem"
        old = getattr(net, first)
        setattr(net, first, Counting(2, 4, 3, padding=old.padding))
        return net

    counts = []
    for num_epochs in (2, 9):
        seen.clear()
        fit(counting, layer, fixed, data, num_epochs=num_epochs)
        counts.append(sum(n for n, _ in seen))
    assert counts[0] == counts[1], "more epochs compute no more of it"
    seen.clear()
    fit(counting, layer, [], data, num_epochs=9)
    assert sum(n for n, _ in seen) >= 9 * 40


@pytest.mark.parametrize(
    "options",
    [{"augment": lambda X, random: X + random.normal()}, {}],
    ids=["augmented", "loader"],
)
def test_what_varies_is_computed_in_every_step(data, kept, options):
    make, layer, fixed, _ = NETWORKS["chain"]
    given = data
    if not options:
        pairs = torch.utils.data.TensorDataset(*map(torch.tensor, data))
        given = (torch.utils.data.DataLoader(pairs, 16),)
    module = fit(make, layer, fixed, given, **options).features_.source_.module
    assert not any(one.calls for one in kept)
    assert not any("forward" in vars(part) for part in module.modules())


@pytest.mark.parametrize("fails", ["diverges", "stops"])
def test_nothing_is_left_where_a_fit_ends_early(data, kept, monkeypatch, fails):
    step, calls = torch.optim.Adam.step, []

    def spoilt(self, *given, **options):
        calls.append(1)
        if len(calls) > 4 and fails == "stops":
            raise KeyboardInterrupt
        found = step(self, *given, **options)
        if len(calls) > 4:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(np.nan)
        return found

    monkeypatch.setattr(torch.optim.Adam, "step", spoilt)
    make, layer, fixed, _ = NETWORKS["chain"]
    tuned = xfer.NeuralNetworkFineTuneRepurposer(
        make(), layer, fixed_layers=fixed, batch_size=16, num_epochs=5
    )
    expected = xfer.TrainingDiverged if fails == "diverges" else UserWarning
    check = pytest.raises if fails == "diverges" else pytest.warns
    with check(expected, match="epoch 2.*weights of epoch 1 are kept"):
        tuned.fit(*data)
    assert kept[0].last is not None
    for part in tuned.features_.source_.module.modules():
        assert "forward" not in vars(part) and not part._forward_hooks
    assert np.isfinite(tuned.predict_proba(data[0])).all()


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_graph_of_a_residual_network(shared, kept, monkeypatch, is_kept):
    """Fixed up to the last stage: the same as with every layer computed in every epoch."""
    source = xfer.load_checkpoint(shared / "models" / "cifar_resnet20_v2")
    names = source.layer_names
    fixed = [n for n in names if n.startswith(("cifarresnetv20_stage1", "cifarresnetv20_stage2"))]
    fixed += ["cifarresnetv20_batchnorm0", "cifarresnetv20_conv0_fwd"]
    fixed = [name for name in names if name in fixed or name.replace("_fwd", "") in fixed]
    fixed = [name for name in fixed if source.parameters_of(name)]
    assert len(fixed) > 20
    random, labels = np.random.RandomState(0), np.resize([0, 1], 12)
    images = random.normal(size=(12, 3, 32, 32)).astype(np.float32) + labels[:, None, None, None]
    options = {"fixed_layers": fixed, "num_epochs": 2, "batch_size": 6}
    layer = "cifarresnetv20_pool0_fwd"

    def train():
        return xfer.NeuralNetworkFineTuneRepurposer(source, layer, **options).fit(images, labels)

    once = train()
    assert kept[0].last is not None and kept[0].calls >= 4
    before = source.network.parameters
    after = once.features_.source_.network.parameters
    stays = {parameter for name in fixed for parameter in source.parameters_of(name)}
    assert all(np.array_equal(before[name], after[name]) for name in stays)
    assert not np.array_equal(
        before["cifarresnetv20_stage3_conv0_weight"], after["cifarresnetv20_stage3_conv0_weight"]
    )
    if not is_kept:
        return
    monkeypatch.setattr(loop, "_MOST_KEPT", 0)
    again = train()
    found, expected = (one.features_.source_.network.parameters for one in (once, again))
    assert_close(dict(found), dict(expected), atol=1e-4)
    np.testing.assert_allclose(once.history_.loss, again.history_.loss, rtol=1e-3)
