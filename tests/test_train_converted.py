"""A converted network as a PyTorch module of its own: its layers get parameters from the graph."""

import pytest

import xfer

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def converted():
    return xfer.load_checkpoint(xfer.example.checkpoint()).to_torch("relu2")


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_fixed_layers_of_a_converted_network(converted, is_wrapped):
    images, digits = xfer.example.digits()
    net, name, start = converted, "conv1", ""
    if is_wrapped:
        net, name, start = torch.nn.Sequential(converted), "0.conv1", "0."
    options = {"pooling": "max", "num_epochs": 1, "fixed_layers": [name]}
    tuned = xfer.NeuralNetworkFineTuneRepurposer(net, f"{start}relu2", **options)
    tuned.fit(images[:40], digits[:40])
    before, after = net.state_dict(), tuned.features_.source_.module.state_dict()
    same = {name.removeprefix(start): torch.equal(before[name], after[name]) for name in before}
    assert same == {
        **dict.fromkeys(["conv1_weight", "conv1_bias"], True),
        **dict.fromkeys(["conv2_weight", "conv2_bias"], False),
    }
    blocks = xfer.open_source(net).parameters_of("0") if is_wrapped else [*before]
    assert set(blocks) == set(before)


def test_random_layers_of_a_converted_network_are_refused(converted):
    images, digits = xfer.example.digits()
    tuned = xfer.NeuralNetworkRandomFreezeRepurposer(
        converted, random_layers=["conv1"], num_layers_to_drop=1, num_epochs=1
    )
    with pytest.raises(ValueError, match="'conv1' in random_layers gets its parameters from a gr"):
        tuned.fit(images[:40], digits[:40])
