"""Networks as they are out there, saved as they were in their time, against MXNet."""

import field_networks
import numpy as np
import pytest

import xfer

EPOCH = 7


@pytest.fixture(params=field_networks.NETWORKS)
def field(request, mx, tmp_path):
    """A network, and the prefix that it is saved under."""
    with mx.name.NameManager():
        network = field_networks.NETWORKS[request.param](mx)
    prefix = str(tmp_path / request.param)
    field_networks.save(mx, network, prefix, EPOCH)
    return network, prefix


def draw_batch(network, shapes, rows, seed=1):
    random = np.random.RandomState(seed)
    return {
        name: 1.0 + random.randint(network.ids[name] - 1, size=(rows, *shape))
        if name in network.ids
        else random.uniform(0, 9, size=(rows, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def test_networks_of_the_field(mx, field, capsys, tmp_path):
    network, prefix = field
    source = xfer.load_checkpoint(prefix, EPOCH, engine="onnxruntime")
    reference = xfer.load_checkpoint(prefix, EPOCH, engine="mxnet")
    assert source.input_names == list(network.shapes)
    names = features_of(network, source)
    rows = network.batch or 5
    for shapes in filter(None, (network.shapes, network.other)):
        data = draw_batch(network, shapes, rows)
        few = data if network.batch else {name: array[:2] for name, array in data.items()}
        for batch in (data, few):
            found, expected = (
                one.extract(batch, names, batch_size=rows) for one in (source, reference)
            )
            assert_same(found, expected)
        for layer, message in network.refused.items():
            with pytest.raises(ValueError, match=message):
                source.extract(data, layer)
    module = mx.mod.Module.load(
        prefix, EPOCH, data_names=list(network.shapes), label_names=network.labels or None
    )
    assert xfer.open_source(module).fingerprint(names) == source.fingerprint(names)


def features_of(network, source):
    """Every tenth layer and those that are known to be used, but for those that are no features."""
    known = [source.find_layers(name)[0].name for name in network.layers]
    unknown = {name for name in network.refused}
    return [*known]


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, values in expected.items():
        scale = np.abs(values).max()
        assert scale > 0
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-4 * scale, err_msg=name)
