"""PyTorch networks as sources, against passes of the networks themselves."""

import copy
import pickle
import warnings

import numpy as np
import pytest
from conftest import cifar_input

import xfer

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch_resnet import ResNet, cifar_resnet20, resnet18  # noqa: E402

from xfer.sources.torch import TorchSource, unwrap  # noqa: E402


class Images(nn.Module):
    """What can go wrong in one network: a module called twice, work in place, several outputs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, images):
        x = self.relu(self.norm(self.conv(images)))
        x -= 0.5
        x = self.relu(x)
        states = self.lstm(self.dropout(x.flatten(2).transpose(1, 2)))[0]
        return {"logits": self.head(states[:, -1]), "states": states, "nothing": None}


class Texts(nn.Module):
    """Word ids to scores, with a mask that may be left away."""

    def __init__(self, words=50):
        super().__init__()
        self.words = nn.Embedding(words, 6, padding_idx=0)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(6, 2, 12, batch_first=True), 2
        )
        self.head = nn.Linear(6, 3)

    def forward(self, ids, padding=None):
        x = self.encoder(self.words(ids), src_key_padding_mask=padding)
        return self.head(x.mean(1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Images()
    network.norm.running_mean.normal_()
    return network.train()


@pytest.fixture
def ids():
    return np.random.RandomState(0).randint(1, 50, (21, 7))


def by_hand(network, data, names):
    """Layers by hooks that copy what they see, in a pass of all data."""
    network, found = copy.deepcopy(network).eval(), {}

    def keep(name):
        def hook(module, inputs, output):
            found[name] = output.clone()

        return hook

    for name in names:
        network.get_submodule(name).register_forward_hook(keep(name))
    with torch.no_grad():
        found["output"] = network(torch.tensor(data))
    return found


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def state_of(network):
    """All that a pass could have changed."""
    modules = list(network.modules())
    return (
        [module.training for module in modules],
        [list(module._forward_hooks) + list(module._forward_pre_hooks) for module in modules],
        {name: tensor.clone() for name, tensor in network.state_dict().items()},
        torch.get_rng_state(),
        torch.is_grad_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    )


def assert_same_state(network, before):
    after = state_of(network)
    assert after[:2] == before[:2] and after[4:] == before[4:]
    assert all(torch.equal(before[2][name], after[2][name]) for name in before[2])
    assert torch.equal(before[3], after[3]), "the random generator was used"


def test_layers_are_those_of_the_checkpoint_that_mxnet_saved(shared):
    images = cifar_input(np.load(shared / "data" / "cifar10_test_1000.npz")["x"][:40])
    blocks = [(stage, block) for stage in range(3) for block in range(3)]
    names = [f"stages.{stage}.{block}" for stage, block in blocks]
    theirs = [f"cifarresnetv10_stage{stage + 1}_activation{block}" for stage, block in blocks]
    found = TorchSource(cifar_resnet20(shared / "models")).extract(images, [*names, "output"])
    source = xfer.load_checkpoint(shared / "models" / "cifar_resnet20_v1")
    expected = source.extract(images, [*theirs, "cifarresnetv10_dense0_fwd"])
    for name, values in zip(found, expected.values()):
        bound = 1e-5 * np.abs(values).max()
        np.testing.assert_allclose(found[name], values, rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("batch_size", [1, 8, 21, 50])
def test_layers_are_what_they_put_out_and_not_what_became_of_it(network, images, batch_size):
    names = ["conv", "norm", "relu:0", "dropout", "lstm[0]", "head"]
    source = TorchSource(network)
    found = source.extract(images, [*names, "output[states]"], batch_size=batch_size)
    assert found.matrix.dtype == np.float32
    expected = by_hand(network, images, ["conv", "norm", "dropout", "head"])
    for name in ("conv", "norm", "dropout", "head"):
        assert_close(found[name], expected[name])
    assert_close(found["relu:0"], expected["norm"].relu())
    assert_close(found["lstm[0]"], expected["output"]["states"])
    assert_close(found["output[states]"], expected["output"]["states"])


def test_each_layer_alone_is_as_among_others(network, images):
    source = TorchSource(network)
    names = ["conv", "norm", "relu:0", "relu:1", "dropout", "lstm[0]", "output[logits]"]
    together = source.extract(images, names, batch_size=8)
    for name in names:
        alone = source.extract(images, name, batch_size=8)
        np.testing.assert_array_equal(alone.matrix, together.matrix[:, together.columns[name]])


def test_a_network_is_afterwards_as_it_was(network, images):
    network.norm.eval()
    network.conv.weight.requires_grad_(False)
    calls = []
    network.conv.register_forward_hook(lambda *call: calls.append(call))
    network.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    before, given = state_of(network), images.copy()
    found = TorchSource(network).extract(images, ["conv", "head"], batch_size=8)
    assert_same_state(network, before)
    np.testing.assert_array_equal(images, given)
    assert calls, "hooks of the user's run"
    expected = copy.deepcopy(network).eval().conv(torch.tensor(2 * images))
    assert_close(found["conv"], expected.detach())


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, RuntimeError("first\nsecond"), ZeroDivisionError]
)
@pytest.mark.parametrize("batch", [0, 1])
def test_a_network_that_failed_is_afterwards_as_it_was(network, images, error, batch):
    passes = []

    def fail(module, inputs):
        passes.append(1)
        if len(passes) > 2 * batch:  # the first batch is computed twice
            raise error

    network.head.register_forward_pre_hook(fail)
    before = state_of(network)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else ValueError
    said = {KeyboardInterrupt: None, ZeroDivisionError: "ZeroDivisionError$"}.get(error, "first$")
    with pytest.raises(expected, match=said) as caught:
        TorchSource(network).extract(images, "head", batch_size=8)
    if expected is ValueError:
        assert "data of shape (2, 6, 6) for one example do not fit the network" in str(caught.value)
        assert caught.value.__cause__ is not None
    assert_same_state(network, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_data_stay_as_they_were_where_a_network_works_in_place(images, dtype):
    data = (10 * images).clip(0 if dtype is np.uint8 else -100).astype(dtype)
    given = data.copy()
    network = nn.Sequential(nn.Identity(), nn.Threshold(5.0, -1.0, inplace=True))
    found = TorchSource(network).extract(data, ["0", "1"], batch_size=8)
    np.testing.assert_array_equal(data, given)
    np.testing.assert_array_equal(found["0"], given.astype(np.float32))
    np.testing.assert_array_equal(found["1"], np.where(given > 5, found["0"], -1))
    data.flags.writeable = False
    TorchSource(network).extract(data, "1")


def test_data_that_do_not_fit_are_told_in_a_line(network, images):
    with pytest.raises(
        ValueError, match=r"data of shape \(1, 6, 6\) for one .* 2 channels"
    ) as caught:
        TorchSource(network).extract(images[:, :1], "conv")
    assert "\n" not in str(caught.value)


def test_names_say_which_of_several_calls_and_tensors(network, images):
    source = TorchSource(network)
    refused = {
        "relu": "layer 'relu' is called 2 times in a pass: ask for one call, relu:0 to relu:1",
        "relu:2": "layer 'relu' is called 2 times in a pass .* there is no 'relu:2'",
        "lstm": r"gives 3 tensors: ask for one of lstm\[0\], lstm\[1\]\[0\], lstm\[1\]\[1\]",
        "lstm[1]": r"gives 2 tensors: ask for one of lstm\[1\]\[0\], lstm\[1\]\[1\]",
        "lstm[2]": r"layer 'lstm' gives lstm\[0\], .* there is no 'lstm\[2\]'",
        "output": r"gives 2 tensors: ask for one of output\[logits\], output\[states\]",
        "con": "the network has no layer 'con'; nearest: conv",
        "con:0": "the network has no layer 'con:0'; nearest: conv",
        "lstm[1][0]": r"'lstm\[1\]\[0\]' has output shape \(1, 21, 5\) for a batch of 21 examples",
    }
    for name, said in refused.items():
        with pytest.raises(ValueError, match=said):
            source.extract(images, name)


def test_the_table_tells_classes_parameters_and_shapes_that_were_seen(network, images):
    source = TorchSource(network)
    assert source.layer_names == [*dict(network.named_modules()), "output"][1:]
    assert {layer.shape for layer in source.layers} == {None}
    source.extract(images, ["conv", "lstm[0]"])
    table = {layer.name: layer for layer in source.layers}
    assert (table["conv"].operator, table["conv"].shape) == ("Conv2d", (4, 4, 4))
    assert table["conv"].parameter_count == 4 * 2 * 9 + 4
    assert table["norm"].parameter_count == 8, "running statistics do not count"
    assert source.find_layers("lstm[0]")[0].shape == (16, 5)
    assert table["output"].parameter_count == 0, "its own, not those of its parts"
    assert repr(source) == "TorchSource(7 layers, inputs: images)"


@pytest.mark.parametrize("catches", [(), Exception, BaseException])
def test_nothing_after_the_last_layer_is_computed_but_in_the_first_batch(catches):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 5)

        def forward(self, x):
            try:
                hidden = self.first(x)
            except catches:
                return self.second(torch.zeros(len(x), 4))
            return self.second(hidden)

    network, rows = Network(), []
    network.second.register_forward_hook(lambda module, x, y: rows.append(len(y)))
    data = np.random.RandomState(0).normal(size=(40, 3)).astype(np.float32)
    source = TorchSource(network)
    found = source.extract(data, "first", batch_size=8)
    assert_close(found["first"], network.first(torch.tensor(data)).detach())
    expected = 6 if catches is BaseException else 1
    assert len(rows) == expected
    assert_close(source.extract(data, "second")["second"], network(torch.tensor(data)).detach())


def test_a_number_of_calls_that_follows_the_data_is_refused():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.Linear(3, 3)

        def forward(self, x):
            for step in range(x.shape[1]):
                y = self.cell(x[:, step])
            return y

    source = TorchSource(Loop())
    random = np.random.RandomState(0)
    one, two = (random.normal(size=(8, steps, 3)).astype(np.float32) for steps in (1, 2))
    assert source.extract([(one,), (one,)], "cell").matrix.shape == (16, 3)
    with pytest.raises(ValueError, match="'cell' is called 2 times .* cell:0 to cell:1"):
        source.extract([(one,), (two,)], "cell")
    with pytest.raises(ValueError, match="is called 1 times .* there is no 'cell:1'"):
        source.extract([(two,), (one,)], "cell:1")
    assert source.extract([(two,), (one,)], "cell:0").matrix.shape == (16, 3)


class Mixer(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.same = kind, nn.Identity()
        self.lstm = nn.LSTM(3, 3)
        self.norm = nn.BatchNorm1d(5, track_running_stats=False)

    def forward(self, x):
        if self.kind == "dropout":
            x = nn.functional.dropout(x)
        if self.kind == "time first":
            x = self.lstm(x)[0]
        if self.kind == "batch statistics":
            x = self.norm(x)
        if self.kind == "reversed":
            x = x.flip(0)
        if self.kind == "transposed":
            x = x.transpose(0, 1)
        return self.same(x)


@pytest.mark.parametrize(
    "kind", ["dropout", "time first", "batch statistics", "reversed", "transposed"]
)
@pytest.mark.parametrize("rows", [3, 5, 40])
def test_features_that_mix_examples_or_are_drawn_are_refused(kind, rows):
    torch.manual_seed(0)
    network = Mixer(kind)
    data = np.random.RandomState(0).normal(size=(rows, 5, 3)).astype(np.float32)
    before = state_of(network)
    with pytest.raises(ValueError, match="different features in another batch|one row for each"):
        TorchSource(network).extract(data, "same", batch_size=rows)
    assert_same_state(network, before)


def test_equal_examples_are_checked_once_and_others_after_them(ids):
    network = Mixer("reversed")
    passes = []
    network.register_forward_pre_hook(lambda *call: passes.append(call))
    source, data = TorchSource(network), np.ones((8, 5, 3), np.float32)
    source.extract(data, "same")
    source.extract(data, "same")
    assert len(passes) == 3
    data[1:] = np.arange(7)[:, None, None]
    with pytest.raises(ValueError, match="different features in another batch"):
        source.extract(data, "same")


def test_several_inputs_are_known_by_name_and_defaults_may_be_left_away(ids):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(50, 3)
            self.join = nn.Linear(5, 2)

        def forward(self, ids, *, extra, scale=None):
            x = self.join(torch.cat([self.words(ids).mean(1), extra], 1))
            return x if scale is None else x * scale[:, None]

    network, extra = Both(), np.random.RandomState(1).normal(size=(21, 2)).astype(np.float32)
    source = TorchSource(network)
    assert source.input_names == ["ids", "extra", "scale"]
    found = source.extract({"extra": extra, "ids": ids}, "output", batch_size=8)["output"]
    expected = network(torch.tensor(ids), extra=torch.tensor(extra)).detach()
    assert_close(found, expected)
    scale = np.arange(21, dtype=np.float32)
    found = source.extract({"ids": ids, "extra": extra, "scale": scale}, "output")["output"]
    assert_close(found, expected * torch.tensor(scale)[:, None])
    with pytest.raises(ValueError, match="needed here: ids, extra"):
        source.extract({"ids": ids}, "output")


def test_inputs_of_other_signatures():
    class Any(nn.Module):
        def forward(self, *inputs):
            return inputs[0] * 2

    class Defaults(nn.Module):
        def forward(self, x=None, y=None, **rest):
            return x * 2

    data = np.random.RandomState(0).normal(size=(5, 2)).astype(np.float32)
    for network, names in ((Any(), ["input"]), (Defaults(), ["x", "y"])):
        source = TorchSource(network)
        assert source.input_names == names
        np.testing.assert_allclose(source.extract(data, "output").matrix, 2 * data)


def test_pixels_become_floats_and_ids_stay_integers(network, images, ids):
    pixels = (images * 20 + 100).clip(0, 255).astype(np.uint8)
    found = TorchSource(network).extract(pixels, "head")["head"]
    assert_close(found, by_hand(network, pixels.astype(np.float32), ["head"])["head"])
    texts = Texts()
    expected = by_hand(texts, ids, ["words"])["words"]
    for kind in (np.int64, np.int32, np.uint8, np.float32):
        assert_close(TorchSource(texts).extract(ids.astype(kind), "words")["words"], expected)
    bag = nn.EmbeddingBag(50, 4)
    found = TorchSource(bag).extract(ids.astype(np.float32), "output")["output"]
    assert_close(found, bag(torch.tensor(ids)).detach())


@pytest.mark.parametrize("stranger", [50, -1])
@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_ids_that_an_embedding_lacks_are_refused(ids, stranger, kind):
    for row in (0, 20):  # the first batch, and one that ends early
        data = ids.astype(kind)
        data[row, 3] = stranger
        with pytest.raises(
            ValueError, match=f"id {stranger}, but layer 'words' has only ids 0 to 49"
        ):
            TorchSource(Texts()).extract(data, "words", batch_size=8)
    with pytest.raises(ValueError, match="'words' takes integer ids; the data have fractions"):
        TorchSource(Texts()).extract(ids + 0.5, "words")


def test_padding_is_known_from_the_embedding(ids):
    network = Texts()
    assert TorchSource(network).padding_id == 0
    assert TorchSource(nn.Linear(2, 2)).padding_id is None
    ids[:, 4:] = 0
    found = TorchSource(network).extract(ids, "words", pooling="masked_mean")["words"]
    assert_close(found, by_hand(network, ids, ["words"])["words"][:, :4].mean(1))


def test_layers_of_a_transformer_are_the_same_alone_and_together(ids):
    network = Texts()
    padding = np.zeros(ids.shape, bool)
    padding[:, 5:] = True
    data = {"ids": ids, "padding": padding}
    names = ["encoder.layers.0", "encoder.layers.1.linear1", "encoder", "head", "output"]
    source = TorchSource(network)
    together = source.extract(data, names, batch_size=8)
    for name in names:
        np.testing.assert_array_equal(
            source.extract(data, name, batch_size=8)[name], together[name]
        )
    slow = copy.deepcopy(network).eval()
    expected = slow(torch.tensor(ids), torch.tensor(padding)).detach()  # with gradients: slow path
    assert_close(together["output"], expected)
    with pytest.raises(ValueError, match="'encoder.layers.0.self_attn.out_proj' is never called"):
        source.extract(data, "encoder.layers.0.self_attn.out_proj")
    found = source.extract(data, "encoder.layers.0.self_attn")
    assert found["encoder.layers.0.self_attn"].shape == (21, 7, 6), "None beside it does not count"


def test_poolings_are_those_of_numpy(network, images):
    maps = by_hand(network, images, ["norm"])["norm"].numpy()
    expected = {
        "mean": maps.mean((2, 3)),
        "max": maps.max((2, 3)),
        "mean+max": np.concatenate([maps.mean((2, 3)), maps.max((2, 3))], 1),
        "flatten": maps.reshape(21, -1),
    }
    for pooling, values in expected.items():
        found = TorchSource(network).extract(images, "norm", pooling=pooling, batch_size=8).matrix
        np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-5)
    tokens = by_hand(network, images, [])["output"]["states"]
    found = TorchSource(network).extract(images, "output[states]", pooling="first_token").matrix
    assert_close(found, tokens[:, 0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_networks_compute_in_their_own_dtype(images, dtype):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).to(dtype)
    found = TorchSource(network).extract(images, ["0", "3"], pooling={"0": "mean"}, batch_size=8)
    with torch.no_grad():
        expected = network(torch.tensor(images, dtype=dtype))
    assert found.matrix.dtype == np.float32
    np.testing.assert_allclose(found["3"], expected.float().numpy(), rtol=0.02, atol=0.01)
    assert {parameter.dtype for parameter in network.parameters()} == {dtype}


def test_autocast_computes_in_what_it_is_told(network, images):
    exact = TorchSource(network).extract(images, "conv").matrix
    coarse = TorchSource(network, autocast=torch.bfloat16).extract(images, "conv").matrix
    assert 0 < np.abs(exact - coarse).max() < 0.1
    assert not torch.is_autocast_enabled("cpu")


def test_outputs_that_are_no_floats(images):
    class Best(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    found = TorchSource(Best(lambda x: x.flatten(1).argmax(1))).extract(images, "output")
    assert found["output"].tolist() == images.reshape(21, -1).argmax(1).tolist()
    found = TorchSource(Best(lambda x: x > 0)).extract(images, "output", pooling="mean")
    np.testing.assert_allclose(found["output"], (images > 0).mean((2, 3)), rtol=1e-6)
    for function, said in (
        (lambda x: x.to(torch.complex64), "complex64, not real numbers"),
        (lambda x: x.mean(), r"output shape \(\) for a batch of 21"),
        (lambda x: "text", "gives no tensor, but str"),
    ):
        with pytest.raises(ValueError, match=said):
            TorchSource(Best(function)).extract(images, "output")


def test_modules_under_two_names_are_found_by_both(images):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.same = nn.Conv2d(2, 2, 1)
            self.parts = nn.ModuleDict({"relu": nn.ReLU(), "none": nn.Identity()})
            self.more = nn.ModuleList([nn.Conv2d(2, 2, 1)])
            self.more[0].weight = self.first.weight

        def forward(self, x):
            return self.more[0](self.parts["none"](self.parts["relu"](self.first(x))))

    network = Tied()
    names = ["first", "same", "parts.relu", "parts.none", "more.0"]
    found = TorchSource(network).extract(images, names)
    expected = by_hand(network, images, names)
    np.testing.assert_array_equal(found["first"], found["same"])
    for name in ("first", "parts.relu", "parts.none", "more.0"):
        assert_close(found[name], expected[name])
    with pytest.raises(ValueError, match="'parts' is never called"):
        TorchSource(network).extract(images, "parts")


def test_networks_without_parameters_and_those_with_none_yet(images):
    np.testing.assert_allclose(
        TorchSource(nn.Sequential(nn.ReLU())).extract(images, "0")["0"], images.clip(0)
    )
    only_buffers = nn.BatchNorm2d(2, affine=False).double()
    only_buffers.running_mean += 1
    found = TorchSource(only_buffers).extract(images, "output")["output"]
    np.testing.assert_allclose(found, images - 1, rtol=1e-3, atol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch says that lazy modules may change
        lazy = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ValueError, match="'0.weight' of the network has no values yet"):
        TorchSource(lazy)
    with pytest.raises(ValueError, match="'weight' of the network is on the meta device"):
        TorchSource(nn.Linear(2, 2, device="meta"))
    with pytest.raises(TypeError, match="cannot open str as a PyTorch network: 'resnet18'"):
        TorchSource("resnet18")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own use
def test_wrapped_networks_are_unwrapped(network, images):
    expected = TorchSource(network).extract(images, "head").matrix
    compiled = torch.compile(network, backend="eager")
    for wrapped in (nn.DataParallel(network), compiled, nn.DataParallel(compiled)):
        assert unwrap(wrapped) is network
        np.testing.assert_array_equal(TorchSource(wrapped).extract(images, "head").matrix, expected)
    compilations = []

    def compiler(graph, inputs):
        compilations.append(graph)
        return graph.forward

    parts = nn.Sequential(
        torch.compile(network.conv, backend=compiler), copy.deepcopy(network.norm)
    )
    parts[1].compile(backend=compiler)
    parts.eval()(torch.tensor(images))
    before = len(compilations)
    assert before
    names = ["0._orig_mod", "0", "1"]
    found = TorchSource(parts).extract(images, names, batch_size=8)
    maps = by_hand(network, images, ["conv", "norm"])
    for name, values in zip(names, (maps["conv"], maps["conv"], maps["norm"])):
        assert_close(found[name], values)
    assert len(compilations) == before, "hooks are not compiled"


def test_graphs_and_scripts(images):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    expected = by_hand(network, images, ["1"])
    graph = TorchSource(torch.fx.symbolic_trace(network))
    found = graph.extract(images, ["1", "output"], batch_size=8)
    assert_close(found["1"], expected["1"])
    assert_close(found["output"], expected["output"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch retires its scripts
        scripts = [torch.jit.script(network), torch.jit.trace(network, torch.tensor(images[:2]))]
    for script in scripts:
        source = TorchSource(script.train())
        assert_close(source.extract(images, "output", batch_size=8)["output"], expected["output"])
        assert script.training
        assert source.layer_names == ["output"]
        with pytest.raises(ValueError, match="the network has no layer '1'"):
            source.extract(images, "1")


def test_a_source_travels_to_another_process(network, images):
    source = TorchSource(network)
    expected = source.extract(images, "head").matrix
    there = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(there.extract(images, "head").matrix, expected)
    assert there.fingerprint(["head"]) == source.fingerprint(["head"])


def test_preprocess_and_tensors(network, images):
    expected = TorchSource(network).extract(images, "head").matrix
    source = TorchSource(network)
    source.inputs = lambda examples: torch.stack(examples) / 2
    found = source.extract([torch.tensor(2 * image) for image in images], "head", batch_size=8)
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-4, atol=1e-6)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.tensor(images), torch.arange(21)), 8
    )
    found = TorchSource(network).extract(loader, "head")
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-4, atol=1e-6)
    assert found.labels.tolist() == list(range(21))


def test_a_large_network_is_like_a_small_one():
    torch.manual_seed(0)
    network = resnet18()
    images = np.random.RandomState(0).normal(size=(3, 3, 64, 64)).astype(np.float32)
    names = ["stem", "stages.1.0.body.2", "stages.3.1", "pool"]
    found = TorchSource(network).extract(images, names, batch_size=2)
    expected = by_hand(network, images, ["stem", "stages.3.1", "pool"])
    for name in expected.keys() - {"output"}:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4)
    assert isinstance(network, ResNet)
