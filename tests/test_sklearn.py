"""Estimators on layers among scikit-learn's tools: searches, unions, workers, targets, diagrams."""

import copy
import os
import pickle

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import (
    GridSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils import get_tags

import xfer
import xfer._workers
from xfer.sources import Layer, SourceModel

KINDS = [xfer.LrRepurposer, xfer.SvmRepurposer, xfer.GpRepurposer, xfer.BnnRepurposer]


class Maps(SourceModel):
    """A source for rows of 6 numbers that writes down each time it is pickled or comes back."""

    layers = [Layer("same", "identity", (6,), 0), Layer("maps", "reshape", (2, 3), 0)]
    input_names = ["data"]

    def __init__(self, log=os.devnull, factor=1.0):
        self.log = log
        self.factor = factor

    def version(self):
        return self.factor

    def _forward(self, inputs, layers):
        rows = self.factor * inputs["data"].astype(np.float32)
        return [rows.reshape(len(rows), *layer.shape) for layer in layers]

    def __getstate__(self):
        self._write("sent")
        return vars(self)

    def __setstate__(self, state):
        vars(self).update(state)
        self._write("received")

    def _write(self, what):
        with open(self.log, "a") as file:
            file.write(f"{what} {os.getpid()}\n")


class Letters(SourceModel):
    """A source for texts: how often each vowel occurs."""

    layers = [Layer("vowels", "count", (5,), 0)]
    input_names = ["counts"]

    @staticmethod
    def inputs(texts):
        return np.array([[text.count(vowel) for vowel in "aeiou"] for text in texts], np.float32)

    def _forward(self, inputs, layers):
        return [inputs["counts"]]


@pytest.fixture(scope="module")
def data():
    """90 rows of three kinds that can be told apart, with the columns of their labels."""
    random = np.random.RandomState(0)
    labels = np.resize([0, 1, 2], 90)
    return random.normal(size=(90, 6)) + 2 * np.eye(3)[labels] @ np.ones((3, 6)).cumsum(0), labels


@pytest.fixture(scope="module")
def several(data):
    """Indicators of two labels that the rows of `data` have."""
    return np.column_stack([data[1] > 0, data[0][:, 0] > 2]).astype(int)


# --- processes ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_worker_gets_the_network_once_and_the_answer_is_the_same(data, tmp_path):
    source = Maps(tmp_path / "log")
    repurposer = xfer.MetaModelRepurposer(source, "same", LogisticRegression(max_iter=500))
    grid = {
        "meta_model__C": [0.01, 1.0],
        "feature_layer_names": [["same", "maps"], ["maps", "same"]],
        "pooling": ["flatten", {"same": "mean"}],
    }
    search = GridSearchCV(repurposer, grid, cv=3, n_jobs=2).fit(*data)
    events = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert events.count(["sent", str(os.getpid())]) == 1
    received = [pid for what, pid in events if what == "received"]
    assert 1 <= len(received) == len(set(received)) <= 2 and str(os.getpid()) not in received
    assert len(events) == 1 + len(received)
    alone = GridSearchCV(repurposer, grid, cv=3).fit(*data)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )
    assert search.best_estimator_.source_model is source


def test_what_workers_fit_comes_home_to_the_same_network(data, tmp_path):
    source = Maps(tmp_path / "log")
    repurposer = xfer.LrRepurposer(source, "maps", pooling="mean")
    found = cross_validate(repurposer, *data, cv=3, n_jobs=2, return_estimator=True)
    for estimator in found["estimator"]:
        assert estimator.source_model is source
        assert estimator.features_.source_ is source
    assert "sent" not in (tmp_path / "log").read_text().splitlines()[1:]


def test_what_a_worker_opens_itself_comes_home_whole(data):
    """A worker may end before its answer is read, and take its files with it."""

    def fit():
        return xfer.LayerFeatures(Maps(), "same").fit()

    (features,) = joblib.Parallel(n_jobs=2)([joblib.delayed(fit)()])
    assert features.transform(data[0]).shape == (90, 6)
    assert features.source_ not in xfer._workers._files._paths


def test_a_network_that_nothing_can_hold_on_to_is_kept_by_its_content(data, tmp_path):
    class Slotted(Maps):
        __hash__ = None

    source = Slotted(tmp_path / "log")
    repurposer = xfer.MetaModelRepurposer(source, "same", LogisticRegression())
    cross_val_score(repurposer, *data, cv=4, n_jobs=2)
    events = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    received = [pid for what, pid in events if what == "received"]
    assert 1 <= len(received) == len(set(received)) <= 2


def test_workers_see_a_network_as_it_is_now(data):
    source = Maps(factor=1e-9)
    repurposer = xfer.MetaModelRepurposer(source, "same", LogisticRegression())
    before = cross_val_score(repurposer, *data, cv=3, n_jobs=2)
    source.factor = 1.0
    after = cross_val_score(repurposer, *data, cv=3, n_jobs=2)
    np.testing.assert_array_equal(after, cross_val_score(repurposer, *data, cv=3))
    assert before.mean() < 0.7 < after.mean()


@pytest.mark.slow
def test_a_module_goes_to_workers(module, images):
    labels = np.resize([0, 1], len(images))
    repurposer = xfer.LrRepurposer(module, "relu1")
    grid = {"c": [0.1, 1.0], "pooling": ["mean", "max"]}
    search = GridSearchCV(repurposer, grid, cv=2, n_jobs=2).fit(images, labels)
    alone = GridSearchCV(repurposer, grid, cv=2).fit(images, labels)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )
    assert search.best_estimator_.source_model is module


@pytest.mark.parametrize("fitted", [False, True])
def test_a_pickle_is_complete(module, images, fitted):
    repurposer = xfer.LrRepurposer(module, "relu1", pooling="mean")
    if fitted:
        repurposer.fit(images, np.resize(["a", "b"], len(images)))
    content = pickle.dumps(repurposer)
    assert b"_receive" not in content
    loaded = pickle.loads(content)
    if not fitted:
        for one in (loaded, repurposer):
            one.fit(images, np.resize(["a", "b"], len(images)))
    np.testing.assert_allclose(
        loaded.predict_proba(images), repurposer.predict_proba(images), atol=1e-6
    )


def test_copies_share_the_network(data, tmp_path):
    source = Maps(tmp_path / "log")
    repurposer = xfer.MetaModelRepurposer(source, "same", LogisticRegression(), cache=None)
    repurposer.fit(*data)
    for other in (copy.copy(repurposer), copy.deepcopy(repurposer)):
        assert other.source_model is source and other.features_.source_ is source
        np.testing.assert_array_equal(other.predict(data[0]), repurposer.predict(data[0]))
    assert copy.deepcopy(repurposer).meta_model_ is not repurposer.meta_model_
    pipeline = copy.deepcopy(make_pipeline(xfer.LayerFeatures(source, "same"), Ridge()))
    assert clone(pipeline)[0].source_model is source
    assert not (tmp_path / "log").exists()


def test_a_pipeline_with_a_memory_keeps_features(data, tmp_path):
    pipeline = make_pipeline(
        xfer.LayerFeatures(Maps(), "same"), LogisticRegression(), memory=str(tmp_path)
    )
    first = pipeline.fit(*data).predict(data[0])
    np.testing.assert_array_equal(clone(pipeline).fit(*data).predict(data[0]), first)


class Cache:
    """What is given to a source in place of a FeatureCache."""


def test_a_cache_goes_to_the_source_and_only_where_one_is_given(data):
    class Asked(Maps):
        def extract(self, data, layer_names, **options):
            self.options = options
            options = {name: value for name, value in options.items() if name != "cache"}
            return super().extract(data, layer_names, **options)

    cache = Cache()
    for kind in (*KINDS[:2], xfer.LayerFeatures):
        source = Asked()
        estimator = clone(kind(source, "same", cache=cache))
        assert copy.deepcopy(estimator).cache is cache
        estimator.fit(*data)
        estimator.transform(data[0]) if kind is xfer.LayerFeatures else None
        assert source.options["cache"] is cache
        estimator.set_params(cache=None).fit(*data)
        estimator.transform(data[0]) if kind is xfer.LayerFeatures else None
        assert "cache" not in source.options


# --- transformers ------------------------------------------------------------------------------


def test_names_of_columns_follow_pooling():
    pooling = {"maps": "mean+max"}
    features = xfer.LayerFeatures(Maps(), ["same", "maps"], pooling=pooling).fit()
    names = [*(f"same_{n}" for n in range(6)), *(f"maps_{n}" for n in range(4))]
    assert features.get_feature_names_out().tolist() == names
    assert features.transform(np.ones((3, 6))).shape == (3, 10)
    assert features.get_feature_names_out().tolist() == names
    with pytest.raises(ValueError, match="pooling names 'other'"):
        xfer.LayerFeatures(Maps(), "same", pooling={"other": "mean"}).fit()


def test_names_of_columns_that_only_data_can_tell():
    class Unknown(Maps):
        layers = [Layer("some", "identity", None, 0)]

        def _forward(self, inputs, layers):
            return [inputs["data"]]

    features = xfer.LayerFeatures(Unknown(), "some").fit()
    with pytest.raises(ValueError, match="the shape of layer 'some' is not known"):
        features.get_feature_names_out()
    features.transform(np.ones((2, 3)))
    assert features.get_feature_names_out().tolist() == ["some_0", "some_1", "some_2"]


def test_set_output(data):
    features = xfer.LayerFeatures(Maps(), "same").set_output(transform="pandas")
    try:
        import pandas as pd
    except ImportError:
        with pytest.raises(ImportError, match="pandas"):
            features.fit_transform(data[0])
    else:
        table = pd.DataFrame(data[0], columns=list("abcdef"), index=range(90, 0, -1))
        found = features.fit_transform(table)
        assert found.columns.tolist() == [f"same_{number}" for number in range(6)]
        assert found.index.tolist() == table.index.tolist()


def test_layers_beside_words():
    texts = np.array(["aa ee", "ee", "oo", "oo aa"], dtype=object)
    union = FeatureUnion(
        [("net", xfer.LayerFeatures(Letters(), "vowels")), ("words", TfidfVectorizer())]
    )
    found = union.fit_transform(texts)
    assert found.shape == (4, 5 + 3)
    np.testing.assert_array_equal(found[:, :5].toarray()[:, 0], [2, 0, 0, 2])
    names = union.get_feature_names_out().tolist()
    assert names[0] == "net__vowels_0" and names[5:] == ["words__aa", "words__ee", "words__oo"]
    classifier = make_pipeline(union, LogisticRegression()).fit(list(texts), [0, 0, 1, 1])
    assert classifier.predict(["ee ee", "oo oo"]).tolist() == [0, 1]


def test_columns_of_a_table(data):
    X = np.column_stack([data[1], data[0]])
    table = ColumnTransformer(
        [("net", xfer.LayerFeatures(Maps(), "maps"), slice(1, 7)), ("plain", StandardScaler(), [0])]
    )
    assert (
        make_pipeline(table, LogisticRegression(max_iter=500)).fit(X, data[1]).score(X, data[1])
        == 1
    )
    assert table.fit(X).get_feature_names_out()[0] == "net__maps_0"


def test_data_of_another_kind_than_those_of_the_fit(data):
    repurposer = xfer.LrRepurposer(Maps(), "same").fit(*data)
    assert repurposer.n_features_in_ == 6
    assert not hasattr(xfer.LrRepurposer(Maps(), "same"), "n_features_in_")
    with pytest.raises(ValueError, match=r"the data have shape \(6,\), where .* 2 dimensions"):
        repurposer.predict(data[0][0])
    for estimator in (repurposer, xfer.LayerFeatures(Maps(), "same").fit(*data)):
        assert estimator.n_features_in_ == 6
        assert not hasattr(estimator.fit(data[0].reshape(90, 2, 3), data[1]), "n_features_in_")


# --- classifiers -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_repurposer_among_others(data, kind):
    repurposer = kind(Maps(), "same")
    probabilities = cross_val_predict(repurposer, *data, cv=3, method="predict_proba")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert (probabilities.argmax(axis=1) == data[1]).mean() > 0.8
    calibrated = CalibratedClassifierCV(repurposer, cv=3).fit(*data)
    assert calibrated.score(*data) > 0.8
    voting = VotingClassifier([("a", repurposer), ("b", LogisticRegression())], voting="soft")
    assert voting.fit(*data).score(*data) > 0.8
    tags = get_tags(repurposer)
    assert tags.estimator_type == "classifier" and not tags.classifier_tags.multi_label


def test_a_classifier_with_scores_only_can_be_calibrated(data):
    repurposer = xfer.MetaModelRepurposer(Maps(), "same", LinearSVC())
    assert not hasattr(repurposer, "predict_proba")
    calibrated = CalibratedClassifierCV(repurposer, cv=3).fit(*data)
    assert calibrated.predict_proba(data[0]).shape == (90, 3)
    assert repurposer.fit(*data).decision_function(data[0]).shape == (90, 3)


@pytest.mark.parametrize(
    "model",
    [
        HistGradientBoostingClassifier(max_iter=5),
        GridSearchCV(
            make_pipeline(StandardScaler(), LinearSVC()), {"linearsvc__C": [0.1, 1]}, cv=3
        ),
    ],
)
def test_any_classifier_is_a_meta_model(data, model):
    repurposer = xfer.MetaModelRepurposer(Maps(), "same", model).fit(*data)
    expected = clone(model).fit(data[0].astype(np.float32), data[1])
    np.testing.assert_array_equal(
        repurposer.predict(data[0]), expected.predict(data[0].astype(np.float32))
    )


@pytest.mark.parametrize(
    "model", [LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression())]
)
def test_weights_go_to_the_meta_model(data, model):
    X, y = data
    weight = np.where(y == 2, 0, 1)
    repurposer = xfer.MetaModelRepurposer(Maps(), "same", model).fit(X, y, sample_weight=weight)
    assert set(repurposer.predict(X)) == {0, 1}
    assert 2 in xfer.MetaModelRepurposer(Maps(), "same", model).fit(X, y).predict(X)


def test_weights_that_nothing_takes_are_refused(data):
    with pytest.raises(ValueError, match="KNeighborsClassifier does not accept"):
        xfer.MetaModelRepurposer(Maps(), "same", KNeighborsClassifier()).fit(*data, np.ones(90))


@pytest.mark.parametrize(
    ("kind", "model"),
    [(xfer.MetaModelRepurposer, LogisticRegression()), (xfer.MetaModelRegressor, Ridge())],
)
def test_weights_of_an_iterator_are_refused_before_it_is_read(data, kind, model):
    """Weights have an order, and an iterator may have another."""
    batches = iter([data])
    with pytest.raises(ValueError, match="sample_weight needs X and y as arrays, not an iterator"):
        kind(Maps(), "same", model).fit(batches, sample_weight=np.ones(90))
    assert next(batches) is data


@pytest.mark.parametrize("as_iterator", [False, True])
def test_scores_are_weighted(data, as_iterator):
    X, y = data
    weight = np.random.RandomState(0).uniform(size=90)
    given = (lambda: (iter([(X[:40], y[:40]), (X[40:], y[40:])]),)) if as_iterator else lambda: data
    model = DummyClassifier(strategy="constant", constant=2)
    repurposer = xfer.MetaModelRepurposer(Maps(), "same", model).fit(X, y)
    assert repurposer.score(*given()) == pytest.approx(1 / 3)
    expected = weight[y == 2].sum() / weight.sum()
    assert repurposer.score(*given(), sample_weight=weight) == pytest.approx(expected)
    assert repurposer.score(*given(), sample_weight=y == 2) == 1
    regressor = xfer.MetaModelRegressor(Maps(), "same", LinearRegression()).fit(X[:60], y[:60])
    expected = r2_score(y, regressor.predict(X), sample_weight=weight)
    assert regressor.score(*given(), sample_weight=weight) == pytest.approx(expected)
    assert regressor.score(*given()) != pytest.approx(expected)


def test_weights_are_routed(data):
    X, y = data
    weight = np.where(y == 2, 0, 1)
    with sklearn.config_context(enable_metadata_routing=True):
        inner = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False),
            LogisticRegression().set_fit_request(sample_weight=True),
        )
        for model in (LogisticRegression(), inner):
            repurposer = xfer.MetaModelRepurposer(Maps(), "same", model)
            repurposer.set_fit_request(sample_weight=True).set_score_request(sample_weight=False)
            search = GridSearchCV(repurposer, {"pooling": ["flatten"]}, cv=3)
            assert set(search.fit(X, y, sample_weight=weight).predict(X)) == {0, 1}


# --- several labels ----------------------------------------------------------------------------

SEVERAL = [
    KNeighborsClassifier(3),
    RandomForestClassifier(20, random_state=0),
    MultiOutputClassifier(LogisticRegression()),
    OneVsRestClassifier(LogisticRegression()),
    MLPClassifier(solver="lbfgs", random_state=0),
    make_pipeline(StandardScaler(), KNeighborsClassifier(3)),
]


@pytest.mark.parametrize("model", SEVERAL, ids=lambda model: type(model).__name__)
def test_several_labels_to_an_example(data, several, model):
    X, _ = data
    repurposer = xfer.MetaModelRepurposer(Maps(), "same", model).fit(X, several)
    predicted, probabilities = repurposer.predict(X), repurposer.predict_proba(X)
    assert predicted.shape == probabilities.shape == (90, 2)
    np.testing.assert_array_equal(predicted, probabilities > 0.5)
    assert repurposer.score(X, several) == (predicted == several).all(axis=1).mean() > 0.8
    np.testing.assert_array_equal(repurposer.classes_, [[0, 1], [0, 1]])
    scores = cross_val_score(repurposer, X, several, cv=2, scoring="roc_auc")
    assert scores.mean() > 0.9


def test_a_label_that_no_example_has(data, several):
    unseen = np.column_stack([several, np.zeros(90, int)])
    model = RandomForestClassifier(5, random_state=0)
    repurposer = xfer.MetaModelRepurposer(Maps(), "same", model).fit(data[0], unseen)
    found = repurposer.predict_proba(data[0])
    assert found.shape == (90, 3) and (found[:, 2] == 0).all()


def test_several_labels_from_an_iterator(mx, module, images):
    labels = (images.mean(axis=(2, 3)) > 0).astype(np.float32)
    repurposer = xfer.MetaModelRepurposer(module, "relu1", KNeighborsClassifier(1))
    iterator = mx.io.NDArrayIter(images, labels, 8)
    assert repurposer.repurpose(iterator).score(iterator) == 1
    np.testing.assert_array_equal(repurposer.predict_label(iterator), labels)
    np.testing.assert_array_equal(repurposer.fit(images, labels).predict(images), labels)


@pytest.mark.parametrize("kind", KINDS)
def test_own_repurposers_say_who_takes_several_labels(data, several, kind):
    with pytest.raises(ValueError, match=r"got shape \(90, 2\).*OneVsRestClassifier"):
        kind(Maps(), "same").fit(data[0], several)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.tile([1, 2], (90, 1)), "must be 1 where a label applies and 0 where not"),
        (np.tile(["a", "b"], (90, 1)), "must be 1 where a label applies and 0 where not"),
        (np.zeros((90, 2)), "needs at least 2 classes; every label is 0"),
        (np.full((90, 2), np.nan), "the labels hold NaN"),
        (np.array([None] + ["a"] * 89, dtype=object), "the labels hold None at example 0"),
        (np.array([np.nan] + ["a"] * 89, dtype=object), "the labels hold NaN"),
        (np.linspace(0, 1, 90), "Unknown label type: continuous.*MetaModelRegressor"),
    ],
)
def test_labels_that_are_none_are_refused_before_the_network_runs(data, y, message):
    class Sleeping(Maps):
        def _forward(self, inputs, layers):
            raise AssertionError("the network was run")

    with pytest.raises((TypeError, ValueError), match=message):
        xfer.MetaModelRepurposer(Sleeping(), "same", KNeighborsClassifier()).fit(data[0], y)


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_numbers_are_learned(data, shape):
    X = data[0]
    y = X @ np.random.RandomState(1).normal(size=shape)
    regressor = xfer.MetaModelRegressor(Maps(), ["same"], LinearRegression()).fit(X, y)
    np.testing.assert_allclose(regressor.predict(X), y, rtol=1e-3, atol=1e-3)
    assert regressor.score(X, y) > 0.999
    assert not hasattr(regressor, "predict_proba") and not hasattr(regressor, "classes_")
    search = GridSearchCV(regressor, {"pooling": ["flatten", "mean"]}, cv=3, n_jobs=2)
    assert search.fit(X, y).best_score_ > 0.99


def test_numbers_from_an_iterator(mx, module, images):
    numbers = images.mean(axis=(1, 2, 3))
    regressor = xfer.MetaModelRegressor(module, "relu1", Ridge())
    iterator = mx.io.NDArrayIter(images, numbers, 8)
    found = regressor.repurpose(iterator).predict(iterator)
    np.testing.assert_allclose(found, regressor.fit(images, numbers).predict(images), atol=1e-4)
    assert regressor.score(iterator) == pytest.approx(regressor.score(images, numbers))


@pytest.mark.parametrize(
    ("model", "y", "message"),
    [
        (Ridge(), [np.nan] + [0.5] * 89, "Input y contains NaN"),
        (Ridge(), ["a"] * 90, "a regressor learns numbers"),
        (Ridge(), None, "carry no labels"),
        (LogisticRegression(), [0, 1] * 45, "is a classifier: use xfer.MetaModelRepurposer"),
    ],
)
def test_what_a_regressor_cannot_learn(data, model, y, message):
    with pytest.raises(ValueError, match=message):
        xfer.MetaModelRegressor(Maps(), "same", model).fit(data[0], y)


def test_a_classifier_from_a_regressor_is_refused(data):
    with pytest.raises(ValueError, match="is a regressor: use xfer.MetaModelRegressor"):
        xfer.MetaModelRepurposer(Maps(), "same", Ridge()).fit(*data)


# --- diagrams ----------------------------------------------------------------------------------


def test_the_diagram_of_a_fitted_repurposer(module, images):
    repurposer = xfer.LrRepurposer(module, ["relu1", "fc1"], pooling={"relu1": "max"})
    repurposer.fit(images, np.resize([0, 1], len(images)))
    html = repurposer._repr_html_()
    for text in (
        "network: CheckpointSource",
        "inputs: data",
        "layers: relu1, fc1",
        "relu1 Activation (4, 6, 6), pooling: max",
        "fc1 FullyConnected (3,)",
        "CalibratedLogisticRegression</div>",
    ):
        assert text in html
    source = repurposer.features_.source_
    assert f"{sum(layer.parameter_count for layer in source.layers)} parameters" in html


def test_the_diagram_of_one_that_is_not_fitted_opens_nothing():
    class Closed(Maps):
        @property
        def layers(self):
            raise AssertionError("it was looked into")

    html = xfer.MetaModelRepurposer("no/such.onnx", "pool", Ridge(), pooling="mean")._repr_html_()
    for text in ("network: such.onnx", "layer: pool", "pool, pooling: mean", "Ridge</div>"):
        assert text in html
    block = xfer.LayerFeatures(Closed(), "same")._sk_visual_block_()
    assert block.names == ["network: Closed", "layer: same"]


@pytest.mark.parametrize("fitted", [False, True])
def test_diagrams_stand_in_those_of_pipelines(data, fitted):
    pipeline = make_pipeline(
        FunctionTransformer(), xfer.LayerFeatures(Maps(), ["same", "maps"]), LogisticRegression()
    )
    html = (pipeline.fit(*data) if fitted else pipeline)._repr_html_()
    assert "network: Maps" in html and "layers: same, maps" in html


def test_the_diagram_of_one_that_trains_a_network(module):
    html = xfer.NeuralNetworkFineTuneRepurposer(module, "flat")._repr_html_()
    assert "network: Module" in html and "layer: flat" in html
    html = xfer.NeuralNetworkRandomFreezeRepurposer(module)._repr_html_()
    assert "network: Module" in html and "layer:" not in html


@pytest.mark.parametrize("wrong", [None, 3, [3]])
def test_a_diagram_never_fails(wrong):
    for kind in (xfer.LayerFeatures, *KINDS):
        assert kind.__name__ in kind(wrong, wrong, pooling=wrong)._repr_html_()
    assert "MetaModel" in xfer.MetaModelRegressor(wrong, wrong, wrong)._repr_html_()
    assert "MetaModel" in xfer.MetaModelRepurposer(wrong, wrong, wrong)._repr_html_()


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [Ridge(), make_pipeline(StandardScaler(), LinearRegression())])
@pytest.mark.parametrize("number", [None, 2])
def test_a_regressor_comes_back_the_same(module, images, tmp_path, model, number):
    y = images.mean(axis=(1, 2, 3))
    y = y if number is None else np.column_stack([y] * number)
    regressor = xfer.MetaModelRegressor(module, "relu1", model, pooling={"relu1": "mean"})
    regressor.fit(images, y).save_repurposer("numbers", tmp_path)
    loaded = xfer.load("numbers", tmp_path)
    assert type(loaded) is xfer.MetaModelRegressor
    np.testing.assert_array_equal(loaded.predict(images), regressor.predict(images))
    assert loaded.fit(images, y).score(images, y) == regressor.score(images, y)
    assert loaded.pooling == {"relu1": "mean"}


@pytest.mark.parametrize(
    "model", [m for m in SEVERAL if "Forest" not in str(m)], ids=lambda model: type(model).__name__
)
def test_several_labels_come_back(module, images, tmp_path, model):
    labels = (images.mean(axis=(2, 3)) > 0).astype(int)
    repurposer = xfer.MetaModelRepurposer(module, "relu1", model, cache=None).fit(images, labels)
    repurposer.save_repurposer("several", tmp_path)
    loaded = xfer.load("several", tmp_path)
    np.testing.assert_array_equal(loaded.classes_, repurposer.classes_)
    np.testing.assert_array_equal(loaded.predict_proba(images), repurposer.predict_proba(images))
    np.testing.assert_array_equal(loaded.predict(images), repurposer.predict(images))


def test_joblib_files_are_complete(data, tmp_path):
    repurposer = xfer.LrRepurposer(Maps(), "same").fit(*data)
    joblib.dump(repurposer, tmp_path / "file")
    loaded = joblib.load(tmp_path / "file")
    np.testing.assert_array_equal(loaded.predict(data[0]), repurposer.predict(data[0]))


@pytest.mark.slow
def test_workers_get_a_network_of_torch_as_it_is_now():
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(4, 3)
    source = xfer.open_source(net)
    X, y = np.random.RandomState(0).normal(size=(40, 4)), np.resize([0, 1], 40)

    def scores():
        repurposer = xfer.LrRepurposer(source, "output")
        return cross_val_predict(repurposer, X, y, cv=2, n_jobs=2, method="predict_proba")

    first = scores()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[3.0, 0, 0, 0], [0, 0, 9, 0], [0, 0, 0, 0]]))
    alone = cross_val_predict(
        xfer.LrRepurposer(source, "output"), X, y, cv=2, method="predict_proba"
    )
    np.testing.assert_allclose(scores(), alone, atol=1e-6)
    assert not np.allclose(first, alone, atol=1e-3)


def test_tables_of_pandas():
    pd = pytest.importorskip("pandas")
    torch = pytest.importorskip("torch")
    X = np.random.RandomState(0).normal(size=(10, 4))
    table = pd.DataFrame(X, columns=list("abcd"), index=range(5, 15))
    features = xfer.LayerFeatures(torch.nn.Linear(4, 3), "output").set_output(transform="pandas")
    found = features.fit(table).transform(table)
    assert found.columns.tolist() == ["output_0", "output_1", "output_2"]
    assert found.index.tolist() == table.index.tolist()
    np.testing.assert_array_equal(found, features.set_output(transform="default").transform(X))
