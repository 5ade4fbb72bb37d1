"""Frozen networks as sources of features, against MXNet itself."""

import io
import os
import re

import numpy as np
import pytest
from conftest import bound_module, cifar_input, convolutional_symbol, load_module

import xfer
from xfer.sources import SourceModel

LAYERS = ["relu1", "halves_output1", "dropout0", "softmax"]


def mxnet_outputs(mx, module, names, arrays):
    """What MXNet gives when it is bound for training and run for inference: the slow, safe way."""
    symbol = mx.sym.Group([module.symbol.get_internals()[name] for name in names])
    reference = mx.mod.Module(symbol, data_names=list(arrays), label_names=None)
    labels = {"softmax_label": (len(next(iter(arrays.values()))),)}
    shapes = {name: array.shape for name, array in arrays.items()}
    shapes.update({n: s for n, s in labels.items() if n in symbol.list_arguments()})
    reference = mx.mod.Module(symbol, data_names=list(shapes), label_names=None)
    reference.bind(list(shapes.items()))
    reference.set_params(*module.get_params(), allow_extra=True)
    arrays = {**{name: np.zeros(shape) for name, shape in shapes.items()}, **arrays}
    batch = mx.io.DataBatch([mx.nd.array(arrays[name]) for name in shapes])
    reference.forward(batch, is_train=False)
    return [output.asnumpy() for output in reference.get_outputs()]


def test_layers_are_told_in_order_with_shapes_and_parameters(module):
    source = xfer.open_source(module)
    table = {layer.name: layer for layer in source.layers}
    assert source.layer_names == list(table)
    assert source.layer_names.index("conv1") < source.layer_names.index("bn1")
    assert table["conv1"].operator == "Convolution"
    assert table["conv1"].shape == (4, 6, 6)
    assert table["conv1"].parameter_count == 4 * 2 * 3 * 3 + 4
    assert table["bn1"].parameter_count == 8, "running statistics do not count"
    assert table["halves_output1"].shape == (2, 6, 6)
    assert table["softmax"].shape == (3,)
    assert "conv1           Convolution     (4, 6, 6)     76" in str(source)
    assert repr(source) == "CheckpointSource(13 layers, inputs: data)"


def test_features_are_those_of_mxnet(mx, module, images):
    features = xfer.open_source(module).extract(images, LAYERS)
    names = ["relu1_output", "halves_output1", "dropout0_output", "softmax_output"]
    expected = mxnet_outputs(mx, module, names, {"data": images})
    for name, output in zip(LAYERS, expected):
        np.testing.assert_allclose(features[name], output, rtol=1e-5, atol=1e-6)
        flat = features.matrix[:, features.columns[name]]
        np.testing.assert_array_equal(flat, features[name].reshape(21, -1))
    assert features.matrix.dtype == np.float32
    assert features.matrix.shape == (21, 4 * 36 + 2 * 36 + 2 + 3)


@pytest.mark.parametrize("suffix", ["", "_output"])
def test_a_layer_may_be_named_as_its_output(module, images, suffix):
    features = xfer.open_source(module).extract(images, "dropout0" + suffix)
    assert list(features) == ["dropout0"]


def test_every_kind_of_data_gives_the_same_features(mx, module, images):
    source = xfer.open_source(module)
    expected = source.extract(images, LAYERS).matrix
    labels = np.arange(21)
    pad = mx.io.NDArrayIter(images, labels, 8)
    kinds = {
        "another batch size": lambda: source.extract(images, LAYERS, batch_size=5),
        "a dict": lambda: source.extract({"data": images}, LAYERS),
        "64-bit floats": lambda: source.extract(images.astype(np.float64), LAYERS),
        "an MXNet array": lambda: source.extract(mx.nd.array(images), LAYERS),
        "a list": lambda: source.extract(images.tolist(), LAYERS),
        "an iterator": lambda: source.extract(pad, LAYERS),
        "the iterator again": lambda: source.extract(pad, LAYERS),
        "an iterator of one batch": lambda: source.extract(
            mx.io.NDArrayIter(images, labels, 21), LAYERS
        ),
        "a batch larger than the data": lambda: source.extract(
            mx.io.NDArrayIter(images, labels, 50), LAYERS
        ),
        "another input name": lambda: source.extract(
            mx.io.NDArrayIter({"pictures": images}, labels, 8), LAYERS
        ),
        "an iterator without labels": lambda: source.extract(
            mx.io.NDArrayIter(images, None, 8), LAYERS
        ),
        "a prefetching iterator": lambda: source.extract(
            mx.io.PrefetchingIter(mx.io.NDArrayIter(images, labels, 8)), LAYERS
        ),
        "two devices": lambda: xfer.open_source(module, num_devices=2).extract(images, LAYERS),
        "three devices from a function": lambda: xfer.open_source(
            module, context_function=mx.cpu, num_devices=3
        ).extract(images, LAYERS),
    }
    for kind, extract in kinds.items():
        np.testing.assert_allclose(extract().matrix, expected, rtol=1e-5, atol=1e-6, err_msg=kind)


def test_one_example_is_enough(module, images):
    source = xfer.open_source(module)
    all_rows = source.extract(images, "dropout0").matrix
    np.testing.assert_allclose(source.extract(images[3:4], "dropout0").matrix, all_rows[3:4], 1e-5)


def test_extraction_is_repeatable(module, images):
    source = xfer.open_source(module)
    first = source.extract(images, LAYERS).matrix
    np.testing.assert_array_equal(source.extract(images, LAYERS).matrix, first)
    np.testing.assert_array_equal(xfer.open_source(module).extract(images, LAYERS).matrix, first)


def test_labels_stay_with_their_features_when_an_iterator_shuffles(mx, module, images):
    source = xfer.open_source(module)
    expected = source.extract(images, "dropout0").matrix
    iterator = mx.io.NDArrayIter(images, np.arange(21), 8, shuffle=True)
    for _ in range(2):
        features = source.extract(iterator, "dropout0")
        assert sorted(features.labels) == list(range(21))
        np.testing.assert_allclose(features.matrix, expected[features.labels], 1e-5, 1e-6)


def test_an_iterator_is_read_from_its_start_and_left_there(mx, module, images):
    iterator = mx.io.NDArrayIter(images, np.arange(21), 8)
    iterator.next()
    features = xfer.open_source(module).extract(iterator, "dropout0")
    assert features.labels.tolist() == list(range(21))
    assert iterator.next().label[0].asnumpy().tolist() == list(range(8))


def test_an_iterator_that_failed_is_left_at_its_start(mx, module, images):
    images[12] = np.nan
    iterator = mx.io.NDArrayIter(images, np.arange(21), 8)
    with pytest.raises(ValueError, match="input 'data' has NaN.* at example 12"):
        xfer.open_source(module).extract(iterator, "dropout0")
    assert iterator.next().label[0].asnumpy()[0] == 0


class ReadAheadIterator:
    """Stands in for MXNet's C++ iterators, which lose their place at random if reset too early.

    What it does was seen of ``mx.io.CSVIter``; here it is the same every time, and a reset before
    the end is a failure.
    """

    def __init__(self, mx, images, batch_size=8, round_batch=True):
        self.mx, self.images, self.round_batch = mx, images, round_batch
        self.batch_size = batch_size
        self.provide_data = [("data", (batch_size, *images.shape[1:]))]
        self.begin, self.ended = 0, True
        self.reset()
        self.first_batch = self.next()

    def reset(self):
        assert self.ended, "reset before the end"
        self.position, self.ended = self.begin, False
        self.first_batch, self._debug_at_begin = None, True

    def next(self):
        if self.first_batch is not None:
            batch, self.first_batch = self.first_batch, None
            return batch
        self._debug_at_begin = False
        number, size = len(self.images), self.batch_size
        if self.position >= number:
            self.ended = True
            raise StopIteration
        rows = np.arange(self.position, self.position + size)
        pad = max(0, rows[-1] + 1 - number)
        self.position += size
        if pad and self.round_batch:
            self.begin = pad
            rows %= number
        elif pad:  # what the batch before has left there
            rows[size - pad :] -= size
        else:
            self.begin = 0
        arrays = [self.mx.nd.array(self.images[rows])], [self.mx.nd.array(rows)]
        return self.mx.io.DataBatch(*arrays, pad=pad)

    __next__ = next

    def __iter__(self):
        return self


def test_iterators_that_read_ahead_give_every_row_in_order_every_time(mx, module, images):
    source = xfer.open_source(module)
    expected = source.extract(images, "dropout0").matrix
    iterator = ReadAheadIterator(mx, images, round_batch=False)
    for attempt in range(6):
        if attempt % 2:  # somebody else reads some of it in between
            iterator.next()
        features = source.extract(iterator, "dropout0")
        assert features.labels.tolist() == list(range(21))
        np.testing.assert_allclose(features.matrix, expected, 1e-5, 1e-6)


def test_an_iterator_that_would_begin_in_the_middle_is_refused(mx, module, images):
    source = xfer.open_source(module)
    iterator = ReadAheadIterator(mx, images)
    assert source.extract(iterator, "dropout0").labels.tolist() == list(range(21))
    with pytest.raises(ValueError, match="start in the middle of its data.*Make a new"):
        source.extract(iterator, "dropout0")
    used = ReadAheadIterator(mx, images)
    list(used)
    with pytest.warns(UserWarning, match="was read before.*Make a new iterator"):
        features = source.extract(used, "dropout0")
    assert features.labels[0] == 3, "where the padding had ended"


def test_one_reading_of_a_real_iterator_that_reads_ahead(mx, module, images, tmp_path):
    np.savetxt(tmp_path / "data.csv", images.reshape(21, -1), delimiter=",")
    np.savetxt(tmp_path / "labels.csv", np.arange(21))
    iterator = mx.io.CSVIter(
        data_csv=str(tmp_path / "data.csv"),
        data_shape=(2, 6, 6),
        label_csv=str(tmp_path / "labels.csv"),
        batch_size=8,
    )
    source = xfer.open_source(module)
    features = source.extract(iterator, "dropout0")
    assert features.labels.tolist() == list(range(21))
    expected = source.extract(images, "dropout0").matrix
    np.testing.assert_allclose(features.matrix, expected, 1e-4, 1e-5)


@pytest.fixture
def image_file(mx, tmp_path):
    """A RecordIO file of images of one colour, 0 to 20, which are their labels too."""
    image = pytest.importorskip("PIL.Image")
    file = mx.recordio.MXRecordIO(str(tmp_path / "images.rec"), "w")
    for number in range(21):
        picture = io.BytesIO()
        image.fromarray(np.full((6, 6), number, np.uint8)).save(picture, "PNG")
        header = mx.recordio.IRHeader(0, float(number), number, 0)
        file.write(mx.recordio.pack(header, picture.getvalue()))
    file.close()
    return str(tmp_path / "images.rec")


class Centre(SourceModel):
    """A source for images that gives one of their pixels."""

    layers = [xfer.sources.Layer("centre", "pixel", (1,), 0)]
    input_names = ["data"]

    def _forward(self, inputs, layers):
        return [inputs["data"][:, :1, 3, 3]]


def image_iterator(mx, file, batch_size=8, **options):
    return mx.io.ImageRecordIter(
        path_imgrec=file, data_shape=(1, 6, 6), batch_size=batch_size, **options
    )


@pytest.mark.parametrize("shuffle", [False, True])
def test_images_from_a_file_are_all_read_and_nothing_else(mx, image_file, shuffle):
    def extracted(iterator):
        features = Centre().extract(iterator, "centre")
        np.testing.assert_array_equal(features["centre"][:, 0], features.labels)
        return features.labels.tolist() if not shuffle else sorted(features.labels)

    everything = list(range(21))
    rounded = image_iterator(mx, image_file, shuffle=shuffle)
    assert extracted(rounded) == everything
    with pytest.raises(ValueError, match="start in the middle of its data.*Make a new"):
        extracted(rounded)
    counted = image_iterator(mx, image_file, round_batch=False, shuffle=shuffle)
    counted.num_data = 21
    for _ in range(3):
        assert extracted(counted) == everything
    # One by one, and seven by seven, no batch can be filled up.
    assert extracted(image_iterator(mx, image_file, 1, round_batch=False)) == everything
    for round_batch in (True, False):
        even = image_iterator(mx, image_file, 7, round_batch=round_batch, shuffle=shuffle)
        even.num_data = 21
        for _ in range(2):
            assert extracted(even) == everything


def test_an_end_that_may_not_be_one_is_refused(mx, image_file):
    def extract(batch_size=8, num_data=None, wrap=lambda iterator: iterator, **options):
        iterator = wrap(image_iterator(mx, image_file, batch_size, **options))
        if num_data is not None:
            iterator.num_data = num_data
        return Centre().extract(iterator, "centre")

    for options in (
        {"round_batch": False},
        {"round_batch": False, "batch_size": 30},
        {"batch_size": 7},
        {"round_batch": False, "wrap": mx.io.PrefetchingIter},
    ):
        with pytest.raises(ValueError, match="of its last batch.*Set its num_data to the number"):
            extract(**options)
    for number in (25, 20):
        with pytest.raises(ValueError, match=f"gave 21 examples, but its num_data is {number}"):
            extract(num_data=number)
    with pytest.raises(ValueError, match="has more examples than its num_data, 8"):
        extract(num_data=8, round_batch=False)
    used = image_iterator(mx, image_file)
    used.num_data = 21
    list(used)
    with pytest.raises(ValueError, match="gave 18 examples, but its num_data is 21; .* new"):
        Centre().extract(used, "centre")


@pytest.mark.parametrize(("handle", "expected"), [("discard", 16), ("roll_over", 16), ("pad", 21)])
def test_each_way_to_end_an_epoch_gives_its_own_rows_every_time(
    mx, module, images, handle, expected
):
    source = xfer.open_source(module)
    rows = source.extract(images, "dropout0").matrix
    iterator = mx.io.NDArrayIter(images, np.arange(21), 8, last_batch_handle=handle)
    for _ in range(3):
        features = source.extract(iterator, "dropout0")
        assert features.labels.tolist() == list(range(expected))
        np.testing.assert_allclose(features.matrix, rows[:expected], 1e-5, 1e-6)


class LengthlessIterator:
    """An iterator of a user's own that does not tell how much it holds."""

    def __init__(self, mx, images, labels, sizes):
        stops = np.cumsum(sizes)
        self.batches = [
            mx.io.DataBatch([mx.nd.array(images[a:b])], [np.array(labels[a:b])], pad=None)
            for a, b in zip([0, *stops], stops)
        ]
        self.provide_data = [("data", (sizes[0] if sizes else 1, *images.shape[1:]))]

    def reset(self):
        self.position = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.position >= len(self.batches):
            raise StopIteration
        self.position += 1
        return self.batches[self.position - 1]


def test_an_iterator_of_unknown_length_and_string_labels(mx, module, images):
    source = xfer.open_source(module)
    words = [f"label {number}" for number in range(21)]
    iterator = LengthlessIterator(mx, images, words, [2, 7, 7, 5])
    features = source.extract(iterator, LAYERS)
    np.testing.assert_allclose(features.matrix, source.extract(images, LAYERS).matrix, 1e-5, 1e-6)
    assert features.labels.tolist() == words
    with pytest.raises(ValueError, match="the iterator is empty"):
        source.extract(LengthlessIterator(mx, images, words, []), LAYERS)


def test_labels_that_mxnet_carries_as_floats_are_integers_again(mx, module, images):
    source = xfer.open_source(module)
    whole = mx.io.NDArrayIter(images, np.resize([3, 7, 40, -2], 21), 8)
    assert source.extract(whole, "fc1").labels.dtype == np.int64
    halves = mx.io.NDArrayIter(images, np.resize([0.5, 1.0], 21), 8)
    assert source.extract(halves, "fc1").labels[:2].tolist() == [0.5, 1.0]
    large = mx.io.NDArrayIter(images, np.resize([20_000_001, 1], 21), 8)
    with pytest.raises(ValueError, match="which is exact only below"):
        source.extract(large, "fc1")
    several = mx.io.NDArrayIter(images, {"a": np.ones(21), "b": np.ones(21)}, 8)
    with pytest.raises(ValueError, match="has 2 labels"):
        source.extract(several, "fc1")


def test_pooling_reduces_maps_and_leaves_vectors(module, images):
    source = xfer.open_source(module)
    flat = source.extract(images, ["relu1", "fc1"])
    mean = source.extract(images, ["relu1", "fc1"], pooling="mean")
    top = source.extract(images, ["relu1", "fc1"], pooling="max")
    assert mean.matrix.shape == (21, 4 + 3)
    np.testing.assert_allclose(mean["relu1"], flat["relu1"].mean((2, 3)), 1e-5)
    np.testing.assert_array_equal(top["relu1"], flat["relu1"].max((2, 3)))
    np.testing.assert_array_equal(mean["fc1"], flat["fc1"])
    with pytest.raises(ValueError, match=r"pooling must be one of .*, got 'sum'"):
        source.extract(images, "relu1", pooling="sum")


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
def test_modules_bound_or_not_and_labelled_or_not(mx, tmp_path, images, bound, labelled):
    symbol = convolutional_symbol(mx)
    if not labelled:
        symbol = mx.sym.softmax(symbol.get_internals()["fc1_output"], name="softmax")
    label_names = ["softmax_label"] if labelled else None
    module = bound_module(mx, symbol, {"data": (8, 2, 6, 6)}, label_names=label_names)
    expected = mxnet_outputs(mx, module, ["dropout0_output", "softmax_output"], {"data": images})
    if not bound:
        module.save_checkpoint(str(tmp_path / "net"), 3)
        module = mx.mod.Module.load(str(tmp_path / "net"), 3, label_names=label_names)
    source = xfer.open_source(module)
    features = source.extract(images, ["dropout0", "softmax"])
    np.testing.assert_allclose(features["dropout0"], expected[0], 1e-5, 1e-6)
    np.testing.assert_allclose(features["softmax"], expected[1], 1e-5, 1e-6)
    assert {layer.name: layer.shape for layer in source.layers}["conv1"] == (4, 6, 6)


@pytest.fixture
def two_inputs(mx):
    words = mx.sym.Embedding(mx.sym.var("words"), input_dim=9, output_dim=3, name="embed")
    size = mx.sym.FullyConnected(mx.sym.var("size"), num_hidden=2, name="size_fc")
    joined = mx.sym.concat(mx.sym.Flatten(words), size, dim=1, name="joined")
    net = mx.sym.FullyConnected(joined, num_hidden=2, name="out")
    return bound_module(mx, net, {"words": (4, 5), "size": (4, 2)}, label_names=None)


def test_several_inputs(mx, two_inputs):
    random = np.random.RandomState(2)
    arrays = {"words": random.randint(0, 9, (10, 5)), "size": random.normal(size=(10, 2))}
    source = xfer.open_source(two_inputs)
    assert source.input_names == ["words", "size"]
    expected = mxnet_outputs(mx, two_inputs, ["joined_output"], arrays)[0]
    np.testing.assert_allclose(source.extract(arrays, "joined")["joined"], expected, 1e-5)
    iterator = mx.io.NDArrayIter(dict(reversed(arrays.items())), np.ones(10), 4)
    np.testing.assert_allclose(source.extract(iterator, "joined")["joined"], expected, 1e-5)
    alone = mxnet_outputs(mx, two_inputs, ["size_fc_output"], {"size": arrays["size"]})[0]
    for some in (arrays, {"size": arrays["size"]}, arrays["size"]):
        for engine in ("auto", "mxnet"):
            source = xfer.open_source(two_inputs, engine=engine)
            np.testing.assert_allclose(source.extract(some, "size_fc")["size_fc"], alone, 1e-5)
    iterator = mx.io.NDArrayIter(arrays["size"], np.ones(10), 4)
    np.testing.assert_allclose(source.extract(iterator, "size_fc")["size_fc"], alone, 1e-5)
    with pytest.raises(ValueError, match="has 2 inputs .words, size.: give a dict"):
        source.extract(arrays["words"], "joined")
    with pytest.raises(ValueError, match="data are named words, length; .* are words, size"):
        source.extract({"words": arrays["words"], "length": arrays["size"]}, "joined")
    with pytest.raises(ValueError, match="different numbers of examples: .*'size': 3"):
        source.extract({"words": arrays["words"], "size": arrays["size"][:3]}, "joined")


def test_ids_outside_an_embedding_are_refused(two_inputs):
    source = xfer.open_source(two_inputs)
    size = np.zeros((2, 2))
    for wrong in (9, -1):
        with pytest.raises(ValueError, match=f"id {wrong}, but layer 'embed' has only ids 0 to 8"):
            source.extract({"words": [[0] * 5, [0, 1, 2, 3, wrong]], "size": size}, "joined")


def test_the_module_is_untouched_and_later_training_does_not_reach_the_source(mx, module, images):
    source = xfer.open_source(module)
    before = source.extract(images, LAYERS).matrix
    parameters = {n: a.asnumpy() for half in module.get_params() for n, a in half.items()}
    assert module.for_training
    assert module.data_shapes[0].shape == (8, 2, 6, 6)
    for half in module.get_params():
        for name, array in half.items():
            np.testing.assert_array_equal(array.asnumpy(), parameters[name])
    module.init_optimizer()
    iterator = mx.io.NDArrayIter(images, np.resize([0, 1, 2], 21), 8)
    for batch in iterator:
        module.forward_backward(batch)
        module.update()
    np.testing.assert_array_equal(source.extract(images, LAYERS).matrix, before)
    assert not np.array_equal(xfer.open_source(module).extract(images, LAYERS).matrix, before)


def test_one_bind_for_each_shape(mx, module, images, monkeypatch):
    binds = []
    bind = mx.sym.Symbol.bind
    monkeypatch.setattr(
        mx.sym.Symbol, "bind", lambda *args, **kwargs: binds.append(1) or bind(*args, **kwargs)
    )
    source = xfer.open_source(module, engine="mxnet")
    iterator = mx.io.NDArrayIter(images, np.arange(21), 8)
    for _ in range(3):
        source.extract(images, "dropout0")
        source.extract(iterator, "dropout0")
    assert len(binds) == 1, "the iterator's smaller batches are filled up"


def test_arrays_are_read_in_batches_of_a_sensible_size(mx, module, images):
    assert xfer.open_source(module).batch_size == 32, "bound for 8"
    large = bound_module(mx, convolutional_symbol(mx), {"data": (100, 2, 6, 6)})
    assert xfer.open_source(large).batch_size == 100
    fixed = mx.sym.Reshape(mx.sym.var("data"), shape=(8, 72), name="fixed")
    fixed = xfer.open_source(bound_module(mx, fixed, {"data": (8, 2, 6, 6)}, label_names=None))
    assert fixed.batch_size == 8
    features = fixed.extract(images, "fixed")
    np.testing.assert_array_equal(features["fixed"], images.reshape(21, -1))


def test_unknown_layers_are_refused_with_the_nearest_names(module, images):
    source = xfer.open_source(module)
    with pytest.raises(ValueError, match="no layer 'dropout'; nearest: dropout0"):
        source.extract(images, ["dropout"])
    with pytest.raises(ValueError, match="no layer 'qqq'; nearest: "):
        source.extract(images, ["qqq"])
    with pytest.raises(ValueError, match="no layer 'halves'; nearest: .*halves_output0"):
        source.extract(images, ["halves"])
    with pytest.raises(ValueError, match="must name at least one layer"):
        source.extract(images, [])
    with pytest.raises(ValueError, match="must not repeat a layer"):
        source.extract(images, ["fc1", "fc1_output"])
    with pytest.raises(TypeError, match="must be a string, got int: 3"):
        source.extract(images, [3])


def test_data_that_do_not_fit_are_refused(module, images):
    source = xfer.open_source(module)
    with pytest.raises(ValueError, match=r"shape \(3, 6, 6\) for one example do not fit"):
        source.extract(np.zeros((4, 3, 6, 6)), "dropout0")
    with pytest.raises(ValueError, match="the data are empty"):
        source.extract(images[:0], "dropout0")
    with pytest.raises(ValueError, match="must be an array of numbers .* of <U1"):
        source.extract(["a", "b"], "dropout0")
    with pytest.raises(TypeError, match="must be an array, a dict, a list or an iterable, got 3.0"):
        source.extract(3.0, "dropout0")
    with pytest.raises(ValueError, match="beyond 32-bit floats at example 20"):
        source.extract(np.concatenate([images[:20], images[:1].astype(float) + 1e300]), "dropout0")
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1, got -1"):
        source.extract(images, "dropout0", batch_size=-1)


def test_features_that_are_not_numbers_are_refused(mx, images):
    net = mx.sym.log(mx.sym.Flatten(mx.sym.var("data")), name="log")
    module = bound_module(mx, net, {"data": (8, 2, 6, 6)}, label_names=None)
    positive = np.abs(images) + 1
    positive[13, 0, 0, 0] = -1
    with pytest.raises(ValueError, match="layer 'log' gave NaN or infinity .*for example 13"):
        xfer.open_source(module).extract(positive, "log")


def test_layers_whose_rows_are_not_the_examples_give_them_first(mx, images):
    data = mx.sym.var("data")
    turned = mx.sym.transpose(mx.sym.Flatten(data), name="turned")
    parts = mx.sym.Reshape(data, shape=(-1, 8), name="parts")
    module = bound_module(mx, mx.sym.Group([turned, parts]), {"data": (8, 2, 6, 6)}, label_names=[])
    source = xfer.open_source(module)
    # 72 rows of transposed features for a batch of 72 would pass for examples.
    many = np.resize(images, (72, 2, 6, 6))
    found = source.extract(many, ["turned", "parts"], batch_size=72)
    np.testing.assert_array_equal(found["turned"], many.reshape(72, -1))
    np.testing.assert_array_equal(found["parts"], many.reshape(72, 9, 8))


def test_layers_without_a_row_for_each_example_are_refused(mx, images):
    total = mx.sym.sum(mx.sym.var("data"), axis=0, keepdims=True, name="total")
    module = bound_module(mx, total, {"data": (8, 2, 6, 6)}, label_names=[])
    with pytest.raises(ValueError, match="layer 'total' has output shape .* one row for each"):
        xfer.open_source(module).extract(images, "total")


def test_data_whose_first_axis_is_not_the_example_are_refused(mx, module, images):
    iterator = mx.io.NDArrayIter(images.swapaxes(0, 1), np.arange(21), 7, layout="TNC")
    with pytest.raises(ValueError, match="layout 'TNC': its first axis must be the example"):
        xfer.open_source(module).extract(iterator, "fc1")


def test_models_that_cannot_be_opened_are_refused(mx, module):
    with pytest.raises(TypeError, match="cannot open 'net': there is no such file"):
        xfer.open_source("net")
    with pytest.raises(TypeError, match="cannot open mxnet.symbol.symbol.Symbol"):
        xfer.open_source(module.symbol)
    with pytest.raises(ValueError, match="the Module has no parameters: load them"):
        xfer.open_source(mx.mod.Module(module.symbol))
    with pytest.raises(ValueError, match="num_devices must be an integer >= 1, got 0"):
        xfer.open_source(module, num_devices=0)


def test_a_checkpoint_without_some_parameter_is_refused(mx, module, images, tmp_path):
    prefix = str(tmp_path / "net")
    arguments, statistics = module.get_params()
    arguments = {name: array for name, array in arguments.items() if name != "fc1_bias"}
    mx.model.save_checkpoint(prefix, 0, module.symbol, arguments, statistics)
    source = xfer.open_source(mx.mod.Module.load(prefix, 0))
    assert source.extract(images, "dropout0").matrix.shape == (21, 2)
    with pytest.raises(ValueError, match="the network has no parameters named fc1_bias"):
        source.extract(images, "softmax")


def test_a_source_of_ones_own():
    class Squares(SourceModel):
        layers = [xfer.sources.Layer("squares", "square", (3,), 0)]
        input_names = ["numbers"]

        def _forward(self, inputs, layers):
            return [inputs["numbers"] ** 2]

    source = xfer.open_source(Squares())
    features = source.extract(np.arange(6.0).reshape(2, 3), "squares")
    assert features.matrix.tolist() == [[0, 1, 4], [9, 16, 25]]


class Counted:
    """Neither of xfer's classes nor of any: what has `layers` and `extract` is a source."""

    layers = [xfer.sources.Layer("double", "times", (3,), 0)]

    def extract(self, data, layer_names, *, pooling="flatten", progress=None):
        assert (layer_names, pooling) == (["double"], "flatten")
        matrix = 2 * np.asarray(data, np.float32)
        return xfer.sources.Features(matrix, {"double": slice(0, 3)}, {"double": (3,)}, None)


def test_whatever_has_layers_and_extract_is_a_source(tmp_path):
    rows, labels = np.random.RandomState(0).normal(size=(20, 3)), np.resize(["a", "b"], 20)
    features = xfer.LayerFeatures(Counted(), "double").fit(rows)
    np.testing.assert_array_equal(features.transform(rows), np.float32(2 * rows))
    repurposer = xfer.LrRepurposer(Counted(), ["double"]).fit(rows, labels)
    repurposer.save_repurposer("own", tmp_path, save_source_model=False)
    with pytest.warns(UserWarning, match="was not checked"):
        loaded = xfer.load("own", tmp_path, source_model=Counted())
    np.testing.assert_array_equal(loaded.predict(rows), repurposer.predict(rows))
    for name, error in (("doubel", "no layer 'doubel'; nearest: double"), ([], "at least one lay")):
        with pytest.raises(ValueError, match=error):
            xfer.LrRepurposer(Counted(), name).fit(rows, labels)


@pytest.fixture
def halves():
    """A source with a preprocess for what is in parts: dicts, tuples and lists."""

    def halve(examples):
        parts = [list(e.values()) if isinstance(e, dict) else e for e in examples]
        return np.stack([vector / len(str(other)) for vector, other in parts])

    return xfer.open_source(Same(), preprocess=halve)


class Same(SourceModel):
    layers = [xfer.sources.Layer("same", "identity", (3,), 0)]
    input_names = ["numbers"]

    def _forward(self, inputs, layers):
        return [inputs["numbers"]]


def test_examples_in_parts_are_no_batches(halves):
    rows = np.random.RandomState(0).normal(size=(20, 3)).astype(np.float32)
    labels = np.resize(["a", "b"], 20)
    kinds = {
        "lists": [[row, 10] for row in rows],
        "a number": [(row, 10) for row in rows],
        "a number of NumPy's": [(row, np.int64(10)) for row in rows],
        "a word": [(row, "no") for row in rows],
        "dicts": [{"vector": row, "word": "no"} for row in rows],
    }
    expected = xfer.LrRepurposer(Same(), "same").fit(rows / 2, labels).predict_proba(rows / 2)
    for kind, examples in kinds.items():
        matrix = halves.extract(examples, "same", batch_size=8).matrix
        np.testing.assert_array_equal(matrix, rows / 2, err_msg=kind)
        repurposer = xfer.LrRepurposer(halves, "same").fit(examples, labels)
        np.testing.assert_allclose(repurposer.predict_proba(examples), expected, rtol=1e-6)
        with pytest.raises(ValueError, match="the examples have several parts|must be an arr"):
            Same().extract(np.array(examples, object) if kind == "lists" else examples, "same")


def test_examples_that_look_like_batches_are_refused_with_what_to_do(halves):
    rows = np.ones((20, 3), np.float32)
    for examples, error in (
        ([(row, row[:2]) for row in rows], "a batch has 3 examples and labels of shape .2,."),
        ([{"vector": row} for row in rows], "the data are named vector; .* are numbers"),
    ):
        with pytest.raises(ValueError, match=f"{error}.*read as batches; .* as lists"):
            halves.extract(examples, "same")
    batches = [([[row, 10] for row in rows], np.arange(20))]
    assert halves.extract(batches, "same").labels.tolist() == list(range(20))
    assert halves.extract([{"numbers": rows, "label": np.arange(20)}], "same").labels[7] == 7


def cifar_accuracy(mx, shared, name):
    data = np.load(shared / "data" / "cifar10_test_1000.npz")
    module = load_module(mx, shared, name, 0, label_names=None)
    source = xfer.open_source(module, engine="mxnet")
    scores = source.extract(cifar_input(data["x"]), source.layer_names[-1]).matrix
    return (scores.argmax(axis=1) == data["y"]).mean()


@pytest.mark.parametrize(
    ("name", "accuracy"), [("cifar_resnet20_v1", 0.92), ("cifar_resnet20_v2", 0.93)]
)
def test_residual_networks_are_right_under_mxnets_defaults(mx, shared, name, accuracy):
    assert "MXNET_SUBGRAPH_BACKEND" not in os.environ
    assert cifar_accuracy(mx, shared, name) >= accuracy
    assert "MXNET_SUBGRAPH_BACKEND" not in os.environ


def test_preactivation_networks_are_wrong_without_the_guard(mx, shared, monkeypatch):
    from contextlib import nullcontext

    from xfer.sources import mxnet_engine

    monkeypatch.setattr(mxnet_engine, "_without_subgraph_backend", nullcontext)
    assert cifar_accuracy(mx, shared, "cifar_resnet20_v2") < 0.8


def test_the_guard_gives_the_environment_back(mx, module, images, monkeypatch):
    monkeypatch.setenv("MXNET_SUBGRAPH_BACKEND", "MKLDNN")
    xfer.open_source(module).extract(images, "dropout0")
    assert os.environ["MXNET_SUBGRAPH_BACKEND"] == "MKLDNN"


def test_binding_is_quiet_about_its_backend_and_nothing_else(
    mx, module, images, monkeypatch, capfd
):
    bind = mx.sym.Symbol.bind

    def talkative(*args, **kwargs):
        os.write(2, b"something that matters\n")
        return bind(*args, **kwargs)

    monkeypatch.setattr(mx.sym.Symbol, "bind", talkative)
    source = xfer.open_source(module)
    capfd.readouterr()
    source.extract(images, "fc1")
    assert capfd.readouterr().err == "something that matters\n"

    def failing(*args, **kwargs):
        os.write(2, b"the last words\n")
        raise mx.MXNetError("no memory")

    monkeypatch.setattr(mx.sym.Symbol, "bind", failing)
    with pytest.raises(mx.MXNetError, match="no memory"):
        source.extract(images, "relu1")
    assert capfd.readouterr().err == "the last words\n"


def test_the_oldest_checkpoint(mx, shared):
    source = xfer.open_source(load_module(mx, shared, "mnist_lenet", 10))
    assert "?: known once the network has run on an example" in str(source)
    counts = {layer.name: layer.parameter_count for layer in source.layers}
    assert counts["convolution0"] == 20 * 25 + 20
    features = source.extract(np.zeros((2, 1, 28, 28)), ["activation2"])
    assert features.matrix.shape == (2, 500)
    assert re.search(r"activation2 +Activation +\(500,\) +0", str(source))
    assert "?" not in str(source)


def test_a_preprocess_sees_each_example_once(tmp_path):
    images, _ = xfer.example.digits()
    paths = []
    for number, image in enumerate(images[:21]):
        paths.append(tmp_path / f"{number}.npy")
        np.save(paths[-1], image)
    checkpoint = xfer.load_checkpoint(xfer.example.checkpoint())
    source = xfer.open_source(
        checkpoint, preprocess=lambda files: [np.load(file) for file in files]
    )
    files = [path.open("rb") for path in paths]
    found = source.extract(files, "pool3", batch_size=8).matrix
    for file in files:
        file.close()
    np.testing.assert_allclose(found, checkpoint.extract(images[:21], "pool3").matrix, atol=1e-5)


def test_labels_too_large_for_integers_stay_as_they_are():
    from xfer.sources.data import batch_labels

    for large in ([1e30, 2.0], [np.nan, 2.0], [-np.inf, 1.0]):
        assert batch_labels(np.array(large), 2).dtype == float
    assert batch_labels(np.array([1.0, 2.0]), 2).dtype == int
