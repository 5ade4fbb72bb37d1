"""Repurposers: features of a frozen network and a classifier, by both families of verbs."""

import numpy as np
import pytest
from conftest import bound_module, convolutional_symbol
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

import xfer

KINDS = [xfer.LrRepurposer, xfer.SvmRepurposer, xfer.GpRepurposer, xfer.BnnRepurposer]
LABELS = {
    "integers with gaps": [3, 7, 40],
    "negative integers": [-5, 0, 2],
    "strings": ["autos", "hockey", "guns"],
    "objects": np.array(["autos", "hockey", "guns"], dtype=object),
    "two classes": [1, 4],
    "booleans": [False, True],
}


@pytest.fixture
def data():
    """60 images of three kinds that a classifier can tell apart, with column numbers."""
    random = np.random.RandomState(3)
    numbers = np.resize([0, 1, 2], 60)
    images = random.normal(size=(60, 2, 6, 6)) + 2 * numbers[:, None, None, None]
    return images.astype(np.float32), numbers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_any_kind(module, data, kind, labels):
    labels = np.asarray(labels)
    images, numbers = data
    numbers = numbers % len(labels)
    repurposer = kind(module, ["relu1"], pooling="mean").fit(images, labels[numbers])
    np.testing.assert_array_equal(repurposer.classes_, np.unique(labels))
    probabilities = repurposer.predict_proba(images)
    assert probabilities.shape == (60, len(labels))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    predicted = repurposer.predict(images)
    np.testing.assert_array_equal(predicted, repurposer.classes_[probabilities.argmax(axis=1)])
    if len(labels) == 3:
        assert (predicted == labels[numbers]).mean() > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_both_families_of_verbs_do_the_same(mx, module, data, kind):
    images, numbers = data
    labels = np.array([3, 7, 40])[numbers]
    by_array = kind(module, "relu1").fit(images, labels)
    iterator = mx.io.NDArrayIter(images, labels, 8)
    by_iterator = kind(module, "relu1").repurpose(iterator)
    np.testing.assert_array_equal(by_iterator.classes_, [3, 7, 40])
    np.testing.assert_allclose(
        by_iterator.predict_probability(iterator), by_array.predict_proba(images), atol=1e-6
    )
    np.testing.assert_array_equal(by_iterator.predict_label(iterator), by_array.predict(images))
    assert by_iterator.predict_label(iterator).dtype == np.int64
    assert by_iterator.score(iterator) == by_array.score(images, labels)
    unlabelled = mx.io.NDArrayIter(images[:11], None, 8)
    assert by_iterator.predict_label(unlabelled).shape == (11,)
    one = mx.io.NDArrayIter(images[:1], None, 1)
    assert by_iterator.predict_probability(one).shape == (1, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shuffling_iterator_teaches_the_same_lesson(mx, module, data, kind):
    images, numbers = data
    plain = kind(module, "relu1").fit(images, numbers)
    shuffled = kind(module, "relu1").repurpose(mx.io.NDArrayIter(images, numbers, 8, shuffle=True))
    assert (shuffled.predict(images) == plain.predict(images)).mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_result_and_no_global_generator_is_used(module, data, kind):
    np.random.seed(0)
    first = kind(module, "relu1", random_state=0).fit(*data).predict_proba(data[0])
    state = np.random.get_state()[1].copy()
    second = kind(module, "relu1", random_state=0).fit(*data).predict_proba(data[0])
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("kind", KINDS)
def test_one_example_of_a_class_will_do(module, data, kind):
    images, numbers = data
    few = [0, 1, 2, 3, 4]
    repurposer = kind(module, "relu1").fit(images[few], numbers[few])
    assert repurposer.predict_proba(images).shape == (60, 3)
    repurposer = kind(module, "relu1").fit(images[:3], numbers[:3])
    assert np.isfinite(repurposer.predict_proba(images)).all()


def test_several_layers_stand_side_by_side(module, data):
    repurposer = xfer.LrRepurposer(module, ["dropout0", "relu1"], pooling="max").fit(*data)
    assert repurposer.features_.extract(data[0]).columns == {
        "dropout0": slice(0, 2),
        "relu1": slice(2, 6),
    }


def test_the_gaussian_process_has_a_kernel_for_each_layer(module, data):
    repurposer = xfer.GpRepurposer(module, ["dropout0", "relu1"], pooling="max").fit(*data)
    model = repurposer.meta_model_
    assert [columns.tolist() for columns in model.columns_] == [[0, 1], [2, 3, 4, 5]]
    assert model.length_scales_.shape == model.variances_.shape == (2,)
    matrix = repurposer.features_.transform(data[0])
    np.testing.assert_array_equal(model.predict_proba(matrix), repurposer.predict_proba(data[0]))


@pytest.mark.parametrize("kind", [xfer.GpRepurposer, xfer.BnnRepurposer])
def test_uncertainty_of_iterators_and_arrays(mx, module, data, kind):
    images, numbers = data
    repurposer = kind(module, "relu1").fit(images, numbers)
    found = repurposer.predict_uncertainty(images)
    np.testing.assert_allclose(found.total, found.aleatoric + found.epistemic)
    assert found.epistemic.shape == (60,)
    iterator = mx.io.NDArrayIter(images, None, 8)
    np.testing.assert_allclose(repurposer.predict_uncertainty(iterator), found, atol=1e-5)


def test_others_have_no_uncertainty(module):
    assert hasattr(xfer.GpRepurposer(module, "relu1"), "predict_uncertainty")
    assert not hasattr(xfer.LrRepurposer(module, "relu1"), "predict_uncertainty")


def test_scripts_that_name_a_device_for_the_bayesian_network_run_on(mx, module, data):
    options = {"bnn_context_function": mx.cpu, "num_epochs": 60, "verbose": 0}
    assert xfer.BnnRepurposer(module, "relu1", **options).fit(*data).score(*data) > 0.8


def test_any_classifier_can_be_the_meta_model(module, data):
    pipeline = make_pipeline(MinMaxScaler(), LogisticRegression())
    repurposer = xfer.MetaModelRepurposer(module, ["relu1"], pipeline).fit(*data)
    matrix = xfer.LayerFeatures(module, ["relu1"]).fit_transform(data[0])
    expected = clone(pipeline).fit(matrix, data[1]).predict_proba(matrix)
    np.testing.assert_allclose(repurposer.predict_proba(data[0]), expected, atol=1e-6)
    assert not hasattr(pipeline, "classes_"), "the given classifier is cloned"


def test_a_meta_model_without_probabilities_has_none(module, data):
    repurposer = xfer.MetaModelRepurposer(module, ["relu1"], RidgeClassifier()).fit(*data)
    assert repurposer.predict(data[0]).shape == (60,)
    assert not hasattr(repurposer, "predict_proba")
    with pytest.raises(AttributeError, match="predict_proba"):
        repurposer.predict_probability(data[0])


def test_machines_without_probabilities_say_how_to_have_them(module, data):
    repurposer = xfer.SvmRepurposer(module, "relu1", enable_probability_estimates=False).fit(*data)
    assert repurposer.score(*data) > 0.8
    message = (
        "SvmRepurposer' has no attribute 'predict_proba': .* enable_probability_estimates=True"
    )
    with pytest.raises(AttributeError, match=message):
        repurposer.predict_probability(data[0])


def test_methods_that_others_have_are_told(module, data):
    repurposer = xfer.LrRepurposer(module, "relu1")
    with pytest.raises(AttributeError, match="GpRepurposer and BnnRepurposer have it"):
        repurposer.predict_uncertainty(data[0])


def test_one_example_without_a_first_axis_is_told(module, data):
    repurposer = xfer.LrRepurposer(module, "relu1").fit(*data)
    with pytest.raises(ValueError, match=r"If this is one example, give X\[None\]"):
        repurposer.predict(data[0][0])
    assert repurposer.predict(data[0][0][None]).shape == (1,)
    gray = xfer.example.digits()[0][:20]
    of_gray = xfer.load_checkpoint(xfer.example.checkpoint())
    fitted = xfer.LrRepurposer(of_gray, "relu2").fit(gray, [0, 1] * 10)
    with pytest.raises(ValueError, match=r"In fit, it was X\[:, None\]"):
        fitted.predict(gray[:5, 0])


def test_an_axis_that_the_network_ignores_may_be_left_out():
    nn = pytest.importorskip("torch").nn
    X = np.random.RandomState(0).rand(40, 1, 33).astype(np.float32)
    network = nn.Sequential(nn.Flatten(1), nn.Linear(33, 4), nn.ReLU())
    repurposer = xfer.LrRepurposer(network, "2").fit(X, [0, 1] * 20)
    for n in (1, 33, 34):
        np.testing.assert_array_equal(repurposer.predict(X[:n, 0]), repurposer.predict(X[:n]))


def test_a_subclass_that_makes_its_own_meta_model(module, data):
    class DummyRepurposer(xfer.LrRepurposer):
        def _meta_model(self):
            return DummyClassifier()

    assert len(set(DummyRepurposer(module, ["relu1"]).fit(*data).predict(data[0]))) == 1


def test_clones_and_searches_share_the_network(module, data):
    repurposer = xfer.LrRepurposer(module, ["relu1"], c=0.5, pooling="mean")
    assert clone(repurposer).source_model is module
    assert clone(repurposer).get_params() == repurposer.get_params()
    search = GridSearchCV(
        repurposer, {"c": [0.1, 1.0], "feature_layer_names": [["relu1"], ["dropout0"]]}, cv=3
    )
    assert search.fit(*data).best_estimator_.source_model is module
    inner = xfer.MetaModelRepurposer(module, ["relu1"], LogisticRegression())
    assert inner.set_params(meta_model__C=0.5).fit(*data).meta_model_.C == 0.5


def test_layer_features_in_a_pipeline(module, data):
    pipeline = make_pipeline(
        xfer.LayerFeatures(module, ["relu1", "fc1"], pooling="mean"), LogisticRegression()
    )
    assert pipeline.fit(*data).score(*data) > 0.8
    names = pipeline[0].get_feature_names_out()
    assert names.tolist() == ["relu1_0", "relu1_1", "relu1_2", "relu1_3", "fc1_0", "fc1_1", "fc1_2"]


@pytest.mark.parametrize("kind", KINDS)
def test_not_fitted(module, data, kind):
    repurposer = kind(module, ["relu1"])
    for verb in (repurposer.predict, repurposer.predict_label, repurposer.predict_probability):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            verb(data[0])
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        repurposer.score(*data)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused_and_leaves_the_repurposer_as_it_was(mx, module, data, kind):
    images, numbers = data
    repurposer = kind(module, ["relu1"]).fit(images, numbers)
    before = repurposer.predict_proba(images)
    spoilt = images.copy()
    spoilt[59] = np.nan
    iterator = mx.io.NDArrayIter(images, numbers, 8)
    cases = [
        ("input 'data' has NaN.* at example 59", lambda: repurposer.fit(spoilt, numbers)),
        ("X has 60 examples and y has 3 labels", lambda: repurposer.fit(images, numbers[:3])),
        ("carry no labels; give them as y", lambda: repurposer.fit(images)),
        ("an iterator has its own labels", lambda: repurposer.fit(iterator, numbers)),
        ("the labels hold NaN", lambda: repurposer.fit(images, numbers * np.nan)),
        ("needs at least 2 classes; every label is 0", lambda: repurposer.fit(images, numbers * 0)),
        (
            "the iterator has no labels",
            lambda: repurposer.repurpose(mx.io.NDArrayIter(images, None, 8)),
        ),
        ("Unknown label type: continuous", lambda: repurposer.fit(images, numbers + 0.5)),
        ("the data are empty", lambda: repurposer.fit(images[:0], numbers[:0])),
        ("do not fit the network", lambda: repurposer.predict(images[:, :1])),
        (r"shape \(4, 5, 6\), but", lambda: repurposer.predict(images[:, :, :5])),
    ]
    for message, act in cases:
        with pytest.raises(ValueError, match=message):
            act()
    name, message = {
        xfer.GpRepurposer: ("max_function_evaluations", "must be an integer.* 1"),
        xfer.BnnRepurposer: ("sigma", "must be a positive number"),
    }.get(kind, ("c", "must be a positive number"))
    good = getattr(repurposer, name)
    repurposer.set_params(**{name: 0})
    assert hasattr(kind(module, ["relu1"], **{name: 0}), "predict_proba"), "asking is not fitting"
    with pytest.raises(ValueError, match=f"{name} {message}, got 0"):
        repurposer.fit(spoilt, numbers)  # found before the data are looked at
    repurposer.set_params(**{name: good})
    repurposer.feature_layer_names = ["relu9"]
    with pytest.raises(ValueError, match="no layer 'relu9'; nearest: relu1"):
        repurposer.fit(images, numbers)
    np.testing.assert_array_equal(repurposer.predict_proba(images), before)


def test_a_subclass_with_its_own_fit_and_predict(data):
    class Majority(xfer.Repurposer):
        """Predicts the most frequent label, of whatever examples."""

        def __init__(self, source_model=None):
            self.source_model = source_model

        def fit(self, X, y=None):
            self.classes_, counts = np.unique(y, return_counts=True)
            self.majority_ = self.classes_[counts.argmax()]
            return self

        def predict(self, X):
            return np.full(len(X), self.majority_)

    images, labels = data[0], np.where(data[1] == 1, "rare", "frequent")
    repurposer = Majority().fit(images, labels)
    assert repurposer.score(images, labels) == np.mean(labels == "frequent")
    assert repurposer.score(images, labels, sample_weight=labels == "rare") == 0
    assert set(repurposer.predict_label(images)) == {"frequent"}
    assert not hasattr(repurposer, "predict_proba")
    assert clone(repurposer).get_params() == {"source_model": None}
    with pytest.raises(ValueError, match="X has 60 examples and y has 3 labels"):
        repurposer.score(images, labels[:3])


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (xfer.LrRepurposer, {"C": 1.0}, r"LrRepurposer.__init__\(\) got an unexpected .* 'C'"),
        (xfer.MetaModelRegressor, {"C": 1.0}, r"MetaModelRegressor.__init__\(\) got an unex.* 'C'"),
    ],
)
def test_wrong_parameters_are_refused_at_once(kind, arguments, message):
    with pytest.raises(TypeError, match=message):
        kind("net.onnx", "relu1", **arguments)


def test_the_loss_of_a_guess_is_what_a_network_of_another_task_gives(mx, data):
    """A random network is no good source: the control for all the accuracies above."""
    module = bound_module(mx, convolutional_symbol(mx), {"data": (8, 2, 6, 6)}, seed=5)
    shuffled = np.random.RandomState(0).permutation(data[1])
    assert xfer.LrRepurposer(module, ["fc1"]).fit(data[0], shuffled).score(*data) < 0.6
