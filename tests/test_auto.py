"""AutoRepurposer: layers and words found, every kind of data, files."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from source_cases import CASES, IMAGES

import xfer
from xfer.meta.mixture import _ALL


@pytest.fixture(scope="module")
def task():
    """Source, and images and labels of the digits 5 to 9 in a random order."""
    images, digits = xfer.example.digits()
    order = np.random.RandomState(0).permutation(np.flatnonzero(digits >= 5))
    names = np.array([f"digit {label}" for label in digits[order]])
    return xfer.load_checkpoint(xfer.example.checkpoint()), images[order], names


@pytest.fixture(scope="module")
def fitted(task):
    source, images, names = task
    return xfer.AutoRepurposer(source).fit(images[:50], names[:50], unlabelled=images[50:250])


def test_it_is_better_than_the_last_layer(task, fitted):
    source, images, names = task
    one = xfer.SvmRepurposer(source, "pool3").fit(images[:50], names[:50])
    assert fitted.score(images[300:], names[300:]) > one.score(images[300:], names[300:]) + 0.05
    layers = {row.layer for row in fitted.explain()}
    assert layers == {"pool1", "pool2", "relu3", "pool3", "fc1", _ALL}


def test_all_methods_of_the_mixture(task, fitted):
    _, images, names = task
    new = images[300:400]
    p = fitted.predict_proba(new)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(fitted.predict(new), fitted.classes_[p.argmax(axis=1)])
    assert fitted.predict_set(new, 0.8).sum() < fitted.predict_set(new, 0.95).sum()
    assert fitted.is_novel(1 - new).mean() > fitted.is_novel(new, false_alarms=0.1).mean()
    assert len(fitted.next_to_label(images[:400], 5)) == 5
    assert 0.5 < fitted.score_estimate_.accuracy <= 1
    wrong = names[:50].copy()
    wrong[:2] = "digit 5"
    found = xfer.AutoRepurposer(fitted.source_model).fit(images[:50], wrong).suspicious_labels()
    assert {one.row for one in found} & {0, 1}


def batches(images, names=None):
    for start in range(0, len(images), 20):
        part = slice(start, start + 20)
        yield images[part] if names is None else (images[part], names[part])


def test_data_in_batches(task, fitted):
    source, images, names = task
    known = np.unique(names, return_inverse=True)[1]
    again = xfer.AutoRepurposer(source).repurpose(
        list(batches(images[:50], known[:50])), unlabelled=batches(images[50:250])
    )
    np.testing.assert_allclose(
        again.predict_probability(batches(images[300:400])),
        fitted.predict_proba(images[300:400]),
        atol=1e-4,
    )
    # Without a look at examples first, the layers may be others.
    once = xfer.AutoRepurposer(source).repurpose(batches(images[:50], known[:50]))
    assert once.score(batches(images[300:], known[300:])) > 0.7


def test_data_loaders(task):
    torch = pytest.importorskip("torch")
    source, images, names = task
    known = torch.as_tensor(np.unique(names, return_inverse=True)[1])
    data = torch.utils.data.TensorDataset(torch.as_tensor(images), known)
    few = torch.utils.data.Subset(data, range(50))
    auto = xfer.AutoRepurposer(source).repurpose(torch.utils.data.DataLoader(few, batch_size=16))
    assert {row.layer for row in auto.explain()} == {"pool1", "pool2", "relu3", "pool3", "fc1"}
    loader = torch.utils.data.DataLoader(data, batch_size=100)
    assert (auto.predict_label(loader) == known.numpy()).mean() > 0.75


def test_mxnet_iterators(mx, task):
    _, images, names = task
    known = np.unique(names, return_inverse=True)[1]
    module = mx.mod.Module.load(xfer.example.checkpoint(), 0)
    train = mx.io.NDArrayIter(images[:50], known[:50], batch_size=20)
    pool = mx.io.NDArrayIter(images[50:250], batch_size=20)
    auto = xfer.AutoRepurposer(module).repurpose(train, unlabelled=pool)
    test = mx.io.NDArrayIter(images[300:], known[300:], batch_size=100)
    assert (auto.predict_label(test) == known[300:]).mean() > 0.75


def test_layers_by_name(task):
    source, images, names = task
    auto = xfer.AutoRepurposer(source, ["relu2", "fc1"], pooling={"relu2": "max"})
    auto.fit(images[:50], names[:50])
    assert [*auto.meta_model_.widths_.values()] == [32, 5]
    assert auto.meta_model_.shares == {"relu2": 0.5, "fc1": 0.5}
    plain = xfer.AutoRepurposer(source, "relu2").fit(images[:50], names[:50])
    assert [*plain.meta_model_.widths_.values()] == [64]  # mean and max
    with pytest.raises(ValueError, match="no layer 'relu7'"):
        xfer.AutoRepurposer(source, "relu7").fit(images[:50], names[:50])


def test_a_source_of_ones_own(task):
    source, images, names = task

    class Own:
        layers = source.layers

        def extract(self, data, layers, **options):
            return source.extract(data, layers, **options)

    auto = xfer.AutoRepurposer(Own()).fit(images[:50], names[:50])
    assert auto.score(images[300:], names[300:]) > 0.7


def test_saved_and_loaded(task, fitted, tmp_path):
    source, images, _ = task
    fitted.save_repurposer("auto", tmp_path)
    loaded = xfer.load("auto", tmp_path)
    new = images[300:400]
    np.testing.assert_array_equal(loaded.predict_proba(new), fitted.predict_proba(new))
    np.testing.assert_array_equal(loaded.novelty(new), fitted.novelty(new))
    assert loaded.score_estimate_ == fitted.score_estimate_
    assert str(loaded.explain()) == str(fitted.explain())
    fitted.save_repurposer("without", tmp_path, save_source_model=False)
    loaded = xfer.load("without", tmp_path, source_model=source)
    np.testing.assert_array_equal(loaded.predict_proba(new), fitted.predict_proba(new))


def test_clones_and_searches(task, fitted):
    source, images, names = task
    copy = clone(fitted)
    assert copy.source_model is fitted.source_model
    assert not hasattr(copy, "meta_model_")
    search = GridSearchCV(xfer.AutoRepurposer(source), {"feature_layer_names": [None, "fc1"]}, cv=3)
    search.fit(images[:60], names[:60])
    assert search.best_params_ == {"feature_layer_names": None}


def test_weights_of_examples(task):
    source, images, names = task
    weights = np.r_[np.zeros(10), np.ones(40)]
    weighted = xfer.AutoRepurposer(source).fit(images[:50], names[:50], sample_weight=weights)
    fewer = xfer.AutoRepurposer(source).fit(images[10:50], names[10:50])
    np.testing.assert_allclose(
        weighted.predict_proba(images[300:320]), fewer.predict_proba(images[300:320]), atol=1e-4
    )
    with pytest.raises(ValueError, match="sample_weight needs X and y as arrays"):
        weighted.fit(batches(images[:50], names[:50]), sample_weight=weights)
    with pytest.raises(ValueError, match="class_weight must be"):
        xfer.AutoRepurposer(source, class_weight="even").fit(images[:50], names[:50])


@pytest.mark.parametrize("unlabelled", [[], np.empty((0, 1, 16, 16), np.float32)])
def test_no_unlabelled_examples(task, unlabelled):
    source, images, names = task
    auto = xfer.AutoRepurposer(source).fit(images[:50], names[:50], unlabelled=unlabelled)
    assert not auto.meta_model_.graphs_


@pytest.mark.parametrize(
    "call",
    [
        lambda auto: auto.score_estimate_,
        lambda auto: auto.explain(),
        lambda auto: auto.suspicious_labels(),
        lambda auto: auto.predict_set(None),
        lambda auto: auto.novelty(None),
        lambda auto: auto.next_to_label(None, 1),
    ],
)
def test_nothing_before_a_fit(call):
    with pytest.raises(NotFittedError):
        call(xfer.AutoRepurposer(None))


def test_ids_of_words_and_texts(shared, tmp_path):
    from sklearn.datasets import fetch_20newsgroups

    found = fetch_20newsgroups(
        subset="train", categories=["rec.autos", "sci.electronics", "soc.religion.christian"]
    )
    texts, labels = found.data[:300], found.target[:300]
    path = shared / "models/newsgroups_cnn"
    vocabulary = xfer.Vocabulary.from_words(word_list(path))
    ids = xfer.Corpus(texts, None, vocabulary, fix_length=300).x
    source = xfer.load_checkpoint(str(path), 0)
    auto = xfer.AutoRepurposer(source).fit(ids[:60], labels[:60], unlabelled=ids[60:])
    alone = xfer.SvmRepurposer(source, "dropout0").fit(ids[:60], labels[:60])
    assert auto.score(ids[60:], labels[60:]) > alone.score(ids[60:], labels[60:]) + 0.05
    assert {"words"} < {row.layer for row in auto.explain()}

    inputs = xfer.TextInputs(vocabulary, length=300)
    source = xfer.load_checkpoint(str(path), 0, inputs=inputs)
    auto = xfer.AutoRepurposer(source).fit(texts[:60], labels[:60], unlabelled=texts[60:100])
    auto.save_repurposer("texts", tmp_path)
    loaded = xfer.load("texts", tmp_path)
    assert loaded.score(texts[60:], labels[60:]) > 0.8
    with pytest.raises(ValueError, match="the fit had texts, and these data have ids of words"):
        loaded.predict({"data": ids[:5]})


def word_list(path):
    import json

    words = json.loads(path.with_name("newsgroups_cnn-words.json").read_text())
    return words["id2word"] if isinstance(words, dict) else words


def test_data_that_do_not_fit_the_network(task):
    source, images, names = task
    with pytest.raises(ValueError, match="do not fit the network"):
        xfer.AutoRepurposer(source).fit(images[:50].reshape(50, -1), names[:50])


def test_errors_of_unlabelled_examples_say_so(task):
    source, images, names = task
    with pytest.raises(ValueError, match="do not fit the network") as caught:
        xfer.AutoRepurposer(source).fit(
            images[:50], names[:50], unlabelled=images[:50].reshape(50, -1)
        )
    assert caught.value.__notes__ == ["The error is in the unlabelled examples."]


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_every_source(make, tmp_path):
    auto = xfer.AutoRepurposer(make(tmp_path).model)
    y = np.arange(21) % 3
    p = auto.fit(IMAGES, y, unlabelled=IMAGES).predict_proba(IMAGES)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert (p.argmax(axis=1) == y).mean() > 0.5


def test_image_files(shared, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    data = np.load(shared / "data/cifar100_10class.npz")
    rows = np.random.RandomState(0).permutation(1000)[:60]
    images, y = data["x_train"][rows], data["y_train"][rows]
    paths = [tmp_path / f"{index}.png" for index in range(60)]
    for image, path in zip(images, paths):
        Image.fromarray(image).save(path)
    inputs = xfer.ImageInputs(
        size=32, scale=1 / 255, mean=[0.4914, 0.4822, 0.4465], std=[0.2023, 0.1994, 0.2010]
    )
    path = shared / "models/cifar_resnet20_v2"
    source = xfer.load_checkpoint(str(path), 0, inputs=inputs)
    auto = xfer.AutoRepurposer(source).fit(paths[:50], y[:50], unlabelled=paths[50:])
    assert auto.predict(paths[50:]).shape == (10,)
    assert "words" not in auto.meta_model_.widths_


def test_one_label_of_each_class_is_no_warning(task):
    source, images, names = task
    rows = np.unique(names, return_index=True)[1]
    auto = xfer.AutoRepurposer(source).fit(images[rows], names[rows], unlabelled=images)
    assert auto.score(images, names) > 0.3
