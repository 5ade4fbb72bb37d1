"""What every source keeps to, whatever framework its network comes from."""

import copy
import pickle
import sys

import numpy as np
import pytest
from source_cases import (
    CASES,
    IMAGES,
    PAIR,
    PAIRS,
    TABLE,
    WORD_CASES,
    WORDS,
    reference,
    reference_of_pair,
)

import xfer
from xfer.cache import FeatureCache

MAPS, SCORES = reference(IMAGES)


@pytest.fixture(params=CASES, ids=lambda case: case.__name__)
def case(request, tmp_path):
    return request.param(tmp_path)


@pytest.fixture
def source(case):
    return xfer.open_source(case.model)


@pytest.fixture
def layers(case):
    return [case.relu, case.scores]


def assert_right(features, case, rows=slice(None)):
    np.testing.assert_allclose(features[case.relu], MAPS[rows], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features[case.scores], SCORES[rows], rtol=1e-4, atol=1e-5)
    flat = np.concatenate([MAPS[rows].reshape(len(features.matrix), -1), SCORES[rows]], axis=1)
    np.testing.assert_allclose(features.matrix, flat, rtol=1e-4, atol=1e-5)
    assert features.matrix.dtype == np.float32


@pytest.mark.parametrize("batch_size", [None, 1, 5, 8, 21, 50])
def test_rows_in_order_whatever_the_batches(source, case, layers, batch_size):
    assert_right(source.extract(IMAGES, layers, batch_size=batch_size), case)


def test_layers_together_are_the_layers_by_themselves(source, case, layers):
    together = source.extract(IMAGES, layers)
    for name in layers:
        alone = source.extract(IMAGES, name)
        assert list(alone) == [name]
        np.testing.assert_allclose(alone.matrix, together.matrix[:, together.columns[name]], 1e-5)
    turned = source.extract(IMAGES, layers[::-1])
    assert turned.columns == {case.scores: slice(0, 3), case.relu: slice(3, 67)}
    expected = np.concatenate([SCORES, MAPS.reshape(21, -1)], axis=1)
    np.testing.assert_allclose(turned.matrix, expected, rtol=1e-4, atol=1e-5)


def test_layers_are_told(source, layers):
    assert {*layers} <= {*source.layer_names}
    source.extract(IMAGES[:2], layers)
    shapes = [layer.shape for layer in source.find_layers(layers)]
    assert shapes == [(4, 4, 4), (3,)]
    assert sum(layer.parameter_count for layer in source.layers) == 76 + 195
    assert all(name in str(source) for name in layers)


def test_one_row(source, case, layers):
    assert_right(source.extract(IMAGES[4:5], layers), case, slice(4, 5))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.uint8, ">f4"])
def test_numbers_of_any_type(source, case, dtype):
    numbers = (np.abs(IMAGES) * 20).astype(dtype)
    expected = reference(numbers.astype(np.float32))[1]
    features = source.extract(numbers, case.scores)
    np.testing.assert_allclose(features[case.scores], expected, rtol=1e-3, atol=1e-3)


def test_arrays_that_are_views(source, case, layers):
    turned = np.asfortranarray(IMAGES)
    assert_right(source.extract(turned, layers), case)
    assert_right(source.extract(IMAGES[::-1][::-1], layers), case)


def test_the_same_every_time(source, case, layers):
    first = source.extract(IMAGES, layers).matrix
    np.testing.assert_array_equal(source.extract(IMAGES, layers).matrix, first)
    np.testing.assert_array_equal(
        xfer.open_source(case.model).extract(IMAGES, layers).matrix, first
    )


def test_nothing_else_is_changed(source, case, layers):
    before, data = case.state(), IMAGES.copy()
    source.extract(IMAGES, layers, pooling={case.relu: "mean+max"})
    with pytest.raises(ValueError, match="do not fit"):
        source.extract(IMAGES[:, :1], layers)
    assert case.state() == before
    np.testing.assert_array_equal(IMAGES, data)


def test_copies_and_pickles(source, case, layers):
    source.extract(IMAGES[:2], layers)
    assert_right(pickle.loads(pickle.dumps(source)).extract(IMAGES, layers), case)
    assert_right(copy.copy(source).extract(IMAGES, layers), case)


def test_an_open_source_is_opened_as_it_is(source):
    assert xfer.open_source(source) is source


class TestPooling:
    def test_maps(self, source, case):
        names = ["mean", "max", "mean+max"]
        mean, top = MAPS.mean(axis=(2, 3)), MAPS.max(axis=(2, 3))
        for name, expected in zip(names, [mean, top, np.concatenate([mean, top], axis=1)]):
            features = source.extract(IMAGES, case.relu, pooling=name)
            np.testing.assert_allclose(features.matrix, expected, rtol=1e-4, atol=1e-5)

    def test_by_layer(self, source, case, layers):
        features = source.extract(IMAGES, layers, pooling={case.relu: "max"})
        assert features.shapes == {case.relu: (4,), case.scores: (3,)}
        np.testing.assert_allclose(features[case.relu], MAPS.max(axis=(2, 3)), 1e-4, 1e-5)

    def test_what_is_refused(self, source, case, layers):
        with pytest.raises(ValueError, match=r"pooling must be one of flatten, .*, got 'sum'"):
            source.extract(IMAGES, layers, pooling="sum")
        with pytest.raises(ValueError, match="pooling names 'conv9'; the layers asked for are"):
            source.extract(IMAGES, layers, pooling={"conv9": "max"})
        with pytest.raises(ValueError, match="masked_mean.*tokens.*gives shape .4, 4, 4."):
            source.extract(IMAGES, layers, pooling="masked_mean")


@pytest.mark.parametrize("words", WORD_CASES, ids=lambda words: words.__name__)
class TestTokens:
    def test_padding_does_not_count(self, words, tmp_path):
        model, layer = words(tmp_path)
        source = xfer.open_source(model, padding_id=0)
        found = source.extract(WORDS, layer, pooling="masked_mean", batch_size=3).matrix
        expected = [TABLE[row[row != 0]].mean(axis=0) if row.any() else [0, 0, 0] for row in WORDS]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        first = source.extract(WORDS, layer, pooling="first_token").matrix
        np.testing.assert_allclose(first, TABLE[WORDS[:, 0]], rtol=1e-5)
        with pytest.raises(ValueError, match="'mean' is for maps: use 'masked_mean'"):
            source.extract(WORDS, layer, pooling="mean")

    def test_without_padding_all_count(self, words, tmp_path):
        model, layer = words(tmp_path)
        found = xfer.open_source(model).extract(WORDS, layer, pooling="masked_mean").matrix
        np.testing.assert_allclose(found, TABLE[WORDS].mean(axis=1), rtol=1e-5, atol=1e-6)

    def test_ids_of_any_type_and_no_others(self, words, tmp_path):
        model, layer = words(tmp_path)
        source = xfer.open_source(model)
        for dtype in (np.int32, np.float32, np.uint8):
            found = source.extract(WORDS.astype(dtype), layer)[layer]
            np.testing.assert_allclose(found, TABLE[WORDS], rtol=1e-5)
        for wrong in (6, -1):
            ids = WORDS.copy()
            ids[1, 2] = wrong
            with pytest.raises(ValueError, match=f"data have id {wrong}, but .* only ids 0 to 5"):
                source.extract(ids, layer)

    def test_what_is_no_id(self, words, tmp_path):
        with pytest.raises(TypeError, match="padding_id must be a word id, an integer, got '0'"):
            xfer.open_source(words(tmp_path)[0], padding_id="0")


class TestPreprocess:
    def test_a_list_of_examples(self, case, layers):
        seen = []

        def scale(examples):
            seen.append(len(examples))
            return [np.float32(example) / 2 for example in examples]

        source = xfer.open_source(case.model, preprocess=scale)
        doubled = [(2 * image).tolist() for image in IMAGES]
        assert_right(source.extract(doubled, layers, batch_size=8), case)
        assert sum(seen) >= 21 and max(seen) == 8
        assert_right(source.extract(2 * IMAGES, layers), case)
        assert xfer.open_source(case.model).inputs is None

    def test_a_source_that_is_open_stays_as_it_is(self, source, case, layers):
        other = xfer.open_source(source, preprocess=lambda images: np.stack(images))
        assert source.inputs is None
        assert_right(other.extract(list(IMAGES), layers), case)

    def test_inputs_that_are_ready(self, case, layers):
        source = xfer.open_source(case.model, preprocess=lambda images: 1 / 0)
        assert_right(source.extract({source.input_names[0]: IMAGES}, layers), case)

    def test_what_is_refused(self, case):
        def extract(preprocess, data=IMAGES):
            source = xfer.open_source(case.model, preprocess=preprocess)
            return source.extract(data, case.scores, batch_size=8)

        with pytest.raises(TypeError, match="preprocess must be a function .* got 'scale'"):
            extract("scale")
        with pytest.raises(ValueError, match="inputs gave 7 rows .* for 8 examples"):
            extract(lambda images: np.stack(images[1:]))
        with pytest.raises(ValueError, match="arrays of one shape"):
            extract(lambda images: [image[: 1 + n % 2] for n, image in enumerate(images)])
        with pytest.raises(ValueError, match="the data are named image; the network's inputs are"):
            extract(lambda images: {"image": np.stack(images)})
        with pytest.raises(ValueError, match="has NaN.* at example 3 of a batch"):
            extract(lambda images: [i * (np.nan if n == 3 else 1) for n, i in enumerate(images)])
        with pytest.raises(TypeError, match="list of examples, got str: 'a picture'"):
            extract(np.stack, "a picture")
        with pytest.raises(ValueError, match="empty"):
            extract(np.stack, [])


class TestCache:
    def count(self, monkeypatch, source):
        counted = []
        compute = type(source)._compute

        def counting(self, examples, *rest):
            first = next(iter(examples.values())) if isinstance(examples, dict) else examples
            counted.append(len(first))
            return compute(self, examples, *rest)

        monkeypatch.setattr(type(source), "_compute", counting)
        return counted

    def test_what_is_kept_is_not_computed(self, monkeypatch, source, case, layers, tmp_path):
        cache = FeatureCache(tmp_path / "cache")
        computed = self.count(monkeypatch, source)
        first = source.extract(IMAGES, layers, cache=cache, batch_size=8)
        assert_right(first, case)
        assert sum(computed) == 21
        computed.clear()
        again = source.extract(IMAGES, layers, cache=cache, batch_size=8)
        np.testing.assert_array_equal(again.matrix, first.matrix)
        assert (again.columns, again.shapes) == (first.columns, first.shapes)
        other = xfer.open_source(case.model).extract(IMAGES, case.scores, cache=cache)
        np.testing.assert_allclose(other.matrix, SCORES, 1e-4, 1e-5)
        assert computed == []

    def test_only_what_is_new_is_computed(self, monkeypatch, source, case, layers, tmp_path):
        cache = FeatureCache(tmp_path / "cache")
        source.extract(IMAGES[3:9], case.scores, cache=cache)
        computed = self.count(monkeypatch, source)
        order = np.random.RandomState(1).permutation(21)
        features = source.extract(IMAGES[order], case.scores, cache=cache, batch_size=8)
        np.testing.assert_allclose(features.matrix, SCORES[order], 1e-4, 1e-5)
        assert sum(computed) == 15
        computed.clear()
        batches = (IMAGES[some] for some in (slice(0, 5), slice(5, 21)))
        features = source.extract(batches, layers, cache=cache)
        assert_right(features, case)
        assert sum(computed) >= 21, "the other layer was not kept"
        computed.clear()
        features = source.extract(iter([IMAGES[5:7], IMAGES[:5]]), layers, cache=cache)
        assert_right(features, case, np.array([5, 6, 0, 1, 2, 3, 4]))
        assert computed == []

    def test_what_decides_the_features_is_told_apart(self, case, tmp_path):
        cache = FeatureCache(tmp_path / "cache")

        def extract(factor, pooling="flatten"):
            source = xfer.open_source(
                case.model, preprocess=lambda i: factor * np.stack(i), cache_key=f"times {factor}"
            )
            return source.extract(IMAGES, case.relu, cache=cache, pooling=pooling).matrix

        for _ in range(2):
            np.testing.assert_allclose(extract(1.0), MAPS.reshape(21, -1), 1e-4, 1e-5)
            twice = reference(2 * IMAGES)[0].reshape(21, -1)
            np.testing.assert_allclose(extract(2.0), twice, 1e-4, 1e-5)
            np.testing.assert_allclose(extract(1.0, "max"), MAPS.max(axis=(2, 3)), 1e-4, 1e-5)

    def test_a_large_matrix_is_a_file(self, monkeypatch, source, case, layers, tmp_path):
        monkeypatch.setattr("xfer.sources.table._IN_MEMORY", 1)
        cache = FeatureCache(tmp_path / "cache")
        for _ in range(2):
            batches = (IMAGES[start : start + 4] for start in range(0, 21, 4))
            features = source.extract(batches, layers, cache=cache)
            assert_right(features, case)
            assert not features.matrix.flags.owndata

    def test_work_that_was_interrupted_goes_on(self, monkeypatch, source, case, layers, tmp_path):
        cache = FeatureCache(tmp_path / "cache")

        def batches():
            yield IMAGES[:8]
            yield IMAGES[8:16]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            source.extract(batches(), layers, cache=cache)
        computed = self.count(monkeypatch, source)
        assert_right(source.extract(IMAGES, layers, cache=cache, batch_size=8), case)
        assert sum(computed) in (5, 8)


class TestBatches:
    @pytest.mark.parametrize("sizes", [[21], [8, 8, 5], [1, 20], [5, 9, 7]])
    def test_a_generator(self, source, case, layers, sizes):
        stops = np.cumsum(sizes)
        batches = (IMAGES[a:b] for a, b in zip([0, *stops], stops))
        features = source.extract(batches, layers)
        assert_right(features, case)
        assert features.labels is None

    def test_inputs_with_labels(self, source, case, layers):
        numbers = np.arange(21)
        name = source.input_names[0]
        parts = [slice(0, 8), slice(8, 21)]
        kinds = [
            [(IMAGES[some], numbers[some]) for some in parts],
            [{name: IMAGES[some], "labels": numbers[some]} for some in parts],
            ([IMAGES[some], numbers[some].astype(np.float32)] for some in parts),
        ]
        for kind in kinds:
            features = source.extract(kind, layers)
            assert_right(features, case)
            assert features.labels.tolist() == list(range(21))
            assert features.labels.dtype == np.int64

    def test_rows_of_labels(self, source, case, layers):
        labels = np.arange(42).reshape(21, 2)
        parts = [slice(0, 8), slice(8, 21)]
        features = source.extract([(IMAGES[some], labels[some]) for some in parts], layers)
        np.testing.assert_array_equal(features.labels, labels)

    def test_loaders_of_gluon(self, source, case, layers):
        mx = pytest.importorskip("mxnet")
        data = mx.gluon.data.ArrayDataset(IMAGES, np.arange(21))
        loader = mx.gluon.data.DataLoader(data, 8, last_batch="keep")
        for _ in range(2):
            features = source.extract(loader, layers)
            assert_right(features, case)
            assert features.labels.tolist() == list(range(21))

    def test_loaders_of_torch(self, source, case, layers):
        torch = pytest.importorskip("torch")
        data = torch.utils.data.TensorDataset(torch.tensor(IMAGES), torch.arange(21))
        for _ in range(2):
            features = source.extract(torch.utils.data.DataLoader(data, 8), layers)
            assert_right(features, case)
            assert features.labels.tolist() == list(range(21))
        shuffled = torch.utils.data.DataLoader(data, 8, shuffle=True)
        features = source.extract(shuffled, layers)
        assert_right(features, case, features.labels)
        assert_right(source.extract(torch.tensor(IMAGES), layers), case)

    def test_iterators_of_mxnet(self, source, case, layers):
        mx = pytest.importorskip("mxnet")
        iterator = mx.io.NDArrayIter(IMAGES, np.arange(21), 8)
        for _ in range(2):
            features = source.extract(iterator, layers)
            assert_right(features, case)
            assert features.labels.tolist() == list(range(21))

    def test_what_is_refused(self, source, case):
        def extract(*batches):
            return source.extract(iter(batches), case.scores)

        with pytest.raises(ValueError, match="the data are empty.*only once"):
            extract()
        with pytest.raises(ValueError, match="must hold the inputs .* got 3 arrays"):
            extract((IMAGES, IMAGES, IMAGES))
        with pytest.raises(ValueError, match="8 examples and labels of shape .7,."):
            extract((IMAGES[:8], np.arange(7)))
        with pytest.raises(ValueError, match="a batch after 8 examples is empty"):
            extract(IMAGES[:8], IMAGES[:0])
        with pytest.raises(ValueError, match="the data are named pictures; the network's inputs"):
            extract({"pictures": IMAGES})
        wrong = IMAGES.copy()
        wrong[11, 0, 0, 0] = np.nan
        with pytest.raises(ValueError, match="has NaN.* at example 11$"):
            extract(wrong[:8], wrong[8:])


class TestRefused:
    def test_layers(self, source, case):
        with pytest.raises(
            ValueError, match=f"no layer '{case.scores}x'; nearest: .*{case.scores}"
        ):
            source.extract(IMAGES, case.scores + "x")
        with pytest.raises(ValueError, match="must name at least one layer"):
            source.extract(IMAGES, [])
        with pytest.raises(ValueError, match="must not repeat a layer"):
            source.extract(IMAGES, [case.scores, case.scores])
        with pytest.raises(TypeError, match="must be a string, got int: 3"):
            source.extract(IMAGES, [3])

    def test_data(self, source, case):
        wrong = IMAGES.copy()
        wrong[12, 0, 0, 0] = np.inf
        with pytest.raises(ValueError, match="has NaN, infinity .* at example 12$"):
            source.extract(wrong, case.scores, batch_size=8)
        with pytest.raises(ValueError, match="empty"):
            source.extract(IMAGES[:0], case.scores)
        with pytest.raises(ValueError, match="the data are named image; the network's inputs are"):
            source.extract({"image": IMAGES}, case.scores)
        with pytest.raises(ValueError, match="must be an array of numbers"):
            source.extract(np.array(["a", "b"]), case.scores)
        with pytest.raises(ValueError, match="do not fit"):
            source.extract(IMAGES[:, :, :5, :5], case.scores)
        with pytest.raises(ValueError, match="batch_size must be an integer >= 1, got 0"):
            source.extract(IMAGES, case.scores, batch_size=0)

    def test_a_package_that_is_missing(self, tmp_path, monkeypatch):
        (tmp_path / "modules.json").write_text("[]")
        monkeypatch.setitem(sys.modules, "sentence_transformers", None)
        monkeypatch.delitem(sys.modules, "xfer.sources.sentence_transformers", raising=False)
        with pytest.raises(ImportError, match=r"pip install sentence-transformers"):
            xfer.open_source(tmp_path)

    def test_files_of_torch(self, tmp_path):
        with pytest.raises(TypeError, match="net.pt is a PyTorch file.*pass the module"):
            xfer.open_source(tmp_path / "net.pt")


class TestSeveralInputs:
    @pytest.fixture(params=PAIRS, ids=lambda pair: pair.__name__)
    def pair(self, request, tmp_path):
        model, layer = request.param(tmp_path)
        return xfer.open_source(model), layer

    def test_by_name(self, pair):
        source, layer = pair
        expected = reference_of_pair(**PAIR)
        assert source.input_names == ["left", "right"]
        turned = {"right": PAIR["right"], "left": PAIR["left"]}
        for data in (PAIR, turned):
            features = source.extract(data, layer, batch_size=8)
            np.testing.assert_allclose(features.matrix, expected, rtol=1e-5, atol=1e-6)

    def test_batches(self, pair):
        source, layer = pair
        left, right = PAIR["left"], PAIR["right"]
        tuples = [(left[:8], right[:8], np.arange(8)), (left[8:], right[8:], np.arange(8, 21))]
        features = source.extract(tuples, layer)
        np.testing.assert_allclose(features.matrix, reference_of_pair(**PAIR), 1e-5, 1e-6)
        assert features.labels.tolist() == list(range(21))

    def test_what_is_refused(self, pair):
        source, layer = pair
        with pytest.raises(ValueError, match=r"2 inputs \(left, right\): give a dict"):
            source.extract(PAIR["left"], layer)
        with pytest.raises(ValueError, match="the data are named left; .* inputs are left, right"):
            source.extract({"left": PAIR["left"]}, layer)
        with pytest.raises(ValueError, match="different numbers of examples"):
            source.extract({**PAIR, "right": PAIR["right"][:5]}, layer)
