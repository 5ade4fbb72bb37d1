"""A repurposer as a function of batches, against its own methods, and in engines that call it."""

import os
import pickle
import signal
import time

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

import xfer
from xfer import predictor as module

NAMES = np.array(["five", "number six", "seven", "eight", "nine"])
KINDS = ["dict", "lists", "pandas", "arrow", "record batch", "polars"]


@pytest.fixture(scope="module")
def digits():
    """Pictures of the digits 5 to 9, and their names."""
    images, digits = xfer.example.digits()
    return images[digits >= 5], NAMES[digits[digits >= 5] - 5]


@pytest.fixture(scope="module")
def source():
    return xfer.load_checkpoint(xfer.example.checkpoint())


@pytest.fixture(scope="module")
def gp(digits, source):
    images, labels = digits
    return xfer.GpRepurposer(source, "relu2", pooling="max").fit(images[:50], labels[:50])


@pytest.fixture(scope="module")
def path(gp, tmp_path_factory):
    return gp.save_repurposer("digits", tmp_path_factory.mktemp("saved"))


def make(kind, columns):
    """A batch of a kind from columns, of which some are arrays of pictures."""
    lists = {name: np.asarray(values).tolist() for name, values in columns.items()}
    if kind in ("dict", "lists"):
        return {n: np.asarray(values) for n, values in columns.items()} if kind == "dict" else lists
    if kind == "polars":
        return pytest.importorskip("polars").DataFrame(lists)
    if kind == "pandas":
        pandas = pytest.importorskip("pandas")
        return pandas.DataFrame(lists, index=[f"row {i}" for i in range(len(lists["id"]))])
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table(lists)
    return table if kind == "arrow" else table.combine_chunks().to_batches()[0]


def read(batch):
    """The columns of any batch as lists in which None is what is missing."""
    if isinstance(batch, dict):
        found = {name: np.asarray(values).tolist() for name, values in batch.items()}
    elif hasattr(batch, "to_pydict"):
        found = batch.to_pydict()
    else:
        found = {name: batch[name].to_list() for name in batch.columns}
    return {n: [None if one != one else one for one in values] for n, values in found.items()}


# What a model says


HEADS = {
    "lr": (xfer.LrRepurposer, {}),
    "svm": (xfer.SvmRepurposer, {}),
    "svm without": (xfer.SvmRepurposer, {"enable_probability_estimates": False}),
    "gp": (xfer.GpRepurposer, {}),
    "bnn": (xfer.BnnRepurposer, {"num_epochs": 5, "start_annealing": 1, "end_annealing": 2}),
    "naive bayes": (xfer.MetaModelRepurposer, {"meta_model": GaussianNB()}),
    "auto": (xfer.AutoRepurposer, {}),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("labels", ["texts", "integers"])
def test_the_columns_are_what_the_repurposer_says(digits, source, head, labels, tmp_path):
    kind, options = HEADS[head]
    images, names = digits
    y = names if labels == "texts" else np.searchsorted(np.sort(NAMES), names) * 7 - 3
    few = images[50:90]
    repurposer = kind(source, "relu2", pooling="max", **options).fit(images[:50], y[:50])
    found = xfer.Predictor(repurposer)({"data": few})
    np.testing.assert_array_equal(found["label"], repurposer.predict(few))
    assert found["label"].dtype.kind == ("U" if labels == "texts" else "i")
    assert ("probability" in found) == (head != "svm without")
    if "probability" in found:
        p, columns = repurposer.predict_proba(few), repurposer.classes_.searchsorted(found["label"])
        np.testing.assert_array_equal(found["probability"], p[np.arange(40), columns])
    assert ("uncertainty" in found) == (head in ("gp", "bnn"))
    if "uncertainty" in found:
        np.testing.assert_array_equal(
            found["uncertainty"], repurposer.predict_uncertainty(few).total
        )
    assert ("novelty" in found) == (head in ("gp", "bnn", "auto"))
    if "novelty" in found:
        np.testing.assert_array_equal(found["novelty"], repurposer.novelty(few))
    saved = xfer.Predictor(repurposer.save_repurposer("saved", tmp_path))({"data": few})
    assert {k: v.tolist() for k, v in saved.items()} == {k: v.tolist() for k, v in found.items()}


def test_a_trained_network_is_a_model_too(digits, source):
    pytest.importorskip("torch")
    images, labels = digits
    options = {"pooling": "max", "num_epochs": 1}
    trained = xfer.NeuralNetworkFineTuneRepurposer(source, "relu2", **options)
    trained.fit(images[:50], labels[:50])
    found = xfer.Predictor(trained)({"data": images[:40]})
    np.testing.assert_array_equal(found["label"], trained.predict(images[:40]))
    np.testing.assert_array_equal(
        found["probability"], trained.predict_proba(images[:40]).max(axis=1)
    )


def test_the_network_runs_once_over_each_example(digits, gp, monkeypatch):
    counted, forward = [], type(gp.features_.source_)._forward

    def counting(self, inputs, layers):
        counted.append(len(next(iter(inputs.values()))))
        return forward(self, inputs, layers)

    xfer.Predictor(gp)({"data": digits[0][:64]})  # with the first batch, a few are checked again
    monkeypatch.setattr(type(gp.features_.source_), "_forward", counting)
    xfer.Predictor(gp)({"data": digits[0][:64]})
    assert sum(counted) == 64


@pytest.mark.parametrize("kind", KINDS)
def test_several_labels_and_several_numbers_are_rows_of_values(digits, source, kind):
    images, labels = digits
    several = np.column_stack([labels == "five", labels < "n"]).astype(int)
    options = {"feature_layer_names": "relu2", "pooling": "max"}
    neighbours = xfer.MetaModelRepurposer(source, meta_model=KNeighborsClassifier(5), **options)
    neighbours.fit(images[:50], several[:50])
    broken = images[:9].copy()
    broken[4] = np.nan
    batch = make(kind, {"id": np.arange(9), "pixels": broken})
    found = xfer.Predictor(neighbours, "pixels", errors="report")(batch)
    good = np.arange(9) != 4
    values = [row for row, is_good in zip(column(found, "label"), good) if is_good]
    np.testing.assert_array_equal(np.array(values, int), neighbours.predict(images[:9][good]))
    values = [row for row, is_good in zip(column(found, "probability"), good) if is_good]
    np.testing.assert_allclose(np.array(values), neighbours.predict_proba(images[:9][good]))
    ink = np.column_stack([images.sum(axis=(1, 2, 3)), images.max(axis=(1, 2, 3))])
    for numbers in (ink, ink[:, 0]):
        regressor = xfer.MetaModelRegressor(source, meta_model=LinearRegression(), **options)
        regressor.fit(images[:50], numbers[:50])
        found = xfer.Predictor(regressor, "pixels")(
            make(kind, {"id": range(9), "pixels": images[:9]})
        )
        np.testing.assert_allclose(
            np.array(list(column(found, "prediction")), float), regressor.predict(images[:9])
        )


def column(batch, name):
    found = batch[name]
    return found.to_pylist() if hasattr(found, "to_pylist") else list(found)


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_layers_are_columns_of_vectors(digits, source, kind):
    images, _ = digits
    features = xfer.LayerFeatures(source, ["relu1", "relu2"], pooling="max").fit()
    expected = features.extract(images[:9])
    found = xfer.Predictor(features, "pixels")(make(kind, {"id": range(9), "pixels": images[:9]}))
    for name, part in expected.columns.items():
        values = np.array([np.asarray(row) for row in column(found, name)], np.float32)
        np.testing.assert_array_equal(values, expected.matrix[:, part])


# Batches


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_each_kind_keeps_its_kind_rows_and_columns(digits, path, gp, kind):
    images, _ = digits
    columns = {"id": np.arange(60, 30, -1), "pixels": images[50:80], "more": ["ä b", "c\nd"] * 15}
    batch = make(kind, columns)
    found = xfer.Predictor(path, "pixels")(batch)
    assert type(found) is type(batch)
    values, given = read(found), read(batch)
    assert list(values) == [*columns, "label", "probability", "uncertainty", "novelty"]
    assert {name: values[name] for name in columns} == given
    assert read(batch).keys() == columns.keys()  # the batch itself is as it was
    assert values["label"] == gp.predict(images[50:80]).tolist()
    assert values["novelty"] == gp.novelty(images[50:80]).tolist()
    if kind == "pandas":
        assert found.index.tolist() == batch.index.tolist()


@pytest.mark.parametrize("kind", KINDS[3:])
@pytest.mark.parametrize(("start", "stop"), [(2, 3), (0, 2), (3, 3)])
def test_types_do_not_depend_on_the_rows(digits, path, kind, start, stop):
    images = digits[0][50:56].copy()
    images[2] = np.nan
    predictor = xfer.Predictor(path, "pixels", errors="report")
    batch = make(kind, {"id": np.arange(6), "pixels": images})
    whole, part = predictor(batch), predictor(batch.slice(start, stop - start))
    assert len(part) == stop - start and part.schema == whole.schema
    values, expected = read(part), read(whole)
    for name in ("id", "label", "probability", "uncertainty", "novelty", "error"):
        assert values[name] == expected[name][start:stop]
    assert expected["label"][2] is None and "NaN" in expected["error"][2]


def test_an_example_may_be_in_a_tensor_column(digits, path, gp):
    pyarrow = pytest.importorskip("pyarrow")
    pixels = pyarrow.FixedShapeTensorArray.from_numpy_ndarray(
        np.ascontiguousarray(digits[0][50:60])
    )
    for table in (
        pyarrow.table({"pixels": pixels}),
        pyarrow.table({"pixels": pixels}).to_batches()[0],
    ):
        found = xfer.Predictor(path)(table)
        assert found["label"].to_pylist() == gp.predict(digits[0][50:60]).tolist()


class Pair(xfer.sources.SourceModel):
    """A source with two inputs, which are the columns of its layer."""

    layers = [xfer.sources.Layer("both", "concat", (2,), 0)]
    input_names = ["left", "right"]

    def _forward(self, inputs, layers):
        return [np.column_stack([inputs["left"], inputs["right"]]).astype(np.float32)]


def test_several_inputs_are_several_columns():
    features = xfer.LayerFeatures(Pair(), "both").fit()
    both = np.arange(12.0).reshape(6, 2)

    def matrix(column, **batch):
        return xfer.Predictor(features, column)(batch)["both"]

    left, right = both.T
    for found in (
        matrix(None, left=left, right=right, other=right),
        matrix(["left", "right"], right=right, left=left),
        matrix(["right", "left"], right=right, left=left),
        matrix(["a", "b"], b=right, a=left),
        matrix({"right": "b", "left": "a"}, b=right, a=left),
    ):
        np.testing.assert_array_equal(found, both)
    with pytest.raises(ValueError, match="'a' for the inputs 'left', 'right'"):
        matrix(["a"], a=left)
    with pytest.raises(ValueError, match="has no 'c'; its columns: 'a', 'b'"):
        matrix({"left": "a", "right": "c"}, a=left, b=right)


def test_wrong_batches_and_models_are_refused(digits, path, gp):
    pixels = digits[0][50:52]
    predictor = xfer.Predictor(path)
    for batch in ([pixels], pixels, "pixels", None):
        with pytest.raises(TypeError, match="batch must be a dict of columns, a DataFrame"):
            predictor(batch)
    with pytest.raises(ValueError, match="set column to one of 'a', 'b'"):
        predictor({"a": pixels, "b": pixels})
    with pytest.raises(ValueError, match="has no 'pixel'; its columns: 'pixels'"):
        xfer.Predictor(path, "pixel")({"pixels": pixels})
    with pytest.raises(ValueError, match="already has 'label', 'novelty', which would be added"):
        predictor({"data": pixels, "label": [1, 2], "novelty": [1, 2], "error": [1, 2]})
    with pytest.raises(ValueError, match="already has 'error'"):
        xfer.Predictor(path, errors="report")({"data": pixels, "error": [1, 2]})
    with pytest.raises(ValueError, match="errors must be 'fail' or 'report', got 'ignore'"):
        xfer.Predictor(path, errors="ignore")
    for wrong in (LogisticRegression(), None, 3):
        with pytest.raises(
            TypeError, match=f"repurposer, LayerFeatures.*got {type(wrong).__name__}"
        ):
            xfer.Predictor(wrong)
    with pytest.raises(NotFittedError):
        xfer.Predictor(xfer.LrRepurposer(gp.source_model, "relu2"))
    with pytest.raises(FileNotFoundError, match="nowhere.xfer"):
        xfer.Predictor("nowhere")({"data": pixels})


# Broken rows


@pytest.mark.parametrize("n_broken", [1, 7, 40])
def test_broken_rows_change_no_other_row(digits, path, n_broken):
    images = digits[0][50:90]
    rows = np.random.RandomState(0).permutation(40)[:n_broken]
    broken = images.copy()
    broken[rows, 0, 3, 3] = np.nan
    expected = xfer.Predictor(path)({"data": images})
    found = xfer.Predictor(path, errors="report")({"data": broken})
    good = np.setdiff1d(np.arange(40), rows)
    for name in ("label", "probability", "uncertainty", "novelty"):
        np.testing.assert_array_equal(found[name][good], expected[name][good])
        assert read(found)[name].count(None) == n_broken
    assert [found["error"][row] for row in good] == [None] * len(good)
    reason = "input 'data' has NaN, infinity or a number beyond 32-bit floats at the example"
    assert {found["error"][row] for row in rows} == {reason}
    with pytest.raises(ValueError, match=f"^row {min(rows)} of the batch: {reason}$"):
        xfer.Predictor(path)({"data": broken})


def test_a_row_may_be_refused_by_the_network_itself():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    words = torch.nn.Sequential(torch.nn.EmbeddingBag(50, 4), torch.nn.Linear(4, 3))
    features = xfer.LayerFeatures(words, "1").fit()
    ids = np.random.RandomState(0).randint(50, size=(40, 6))
    expected = xfer.Predictor(features, "ids")({"ids": ids})["1"]
    ids[17, 2] = 50
    found = xfer.Predictor(features, "ids", errors="report")({"ids": ids})
    assert [row for row in range(40) if found["error"][row]] == [17]
    assert "50" in found["error"][17]
    good = np.arange(40) != 17
    np.testing.assert_array_equal(found["1"][good], expected[good])


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_that_cannot_be_read_are_reported(kind, tmp_path, shared):
    image = pytest.importorskip("PIL.Image")
    data = np.load(shared / "data" / "cifar100_10class.npz")
    inputs = xfer.ImageInputs(size=32, mean=[0.4914, 0.4822, 0.4465], std=[0.2023, 0.1994, 0.2010])
    checkpoint = shared / "models" / "cifar_resnet20_v1"
    source = xfer.load_checkpoint(checkpoint, 0, inputs=inputs)
    paths = [str(tmp_path / f"图 {i}.png") for i in range(12)]
    for one, pixels in zip(paths, data["x_train"]):
        image.fromarray(pixels).save(one)
    labels = np.array(["left one", "right one"] * 6)
    repurposer = xfer.LrRepurposer(source, "cifarresnetv10_pool0_fwd").fit(paths, labels)
    expected = repurposer.predict(paths)
    with open(paths[3], "r+b") as file:
        file.truncate(600)
    os.remove(paths[5])
    paths[8] = None
    if kind == "dict":
        columns = {"path": np.array(paths, object), "id": np.arange(12)}
    else:
        columns = {"path": paths, "id": range(12)}
    batch = columns if kind == "dict" else make_plain(kind, columns)
    found = read(xfer.Predictor(repurposer, "path", errors="report")(batch))
    good = [row for row in range(12) if row not in (3, 5, 8)]
    assert [row for row in range(12) if found["error"][row] is None] == good
    assert [found["label"][row] for row in good] == expected[good].tolist()
    assert "图 3.png" in found["error"][3] and "not a readable image" in found["error"][3]
    assert "there is no file" in found["error"][5] and "图 5.png" in found["error"][5]
    assert "the example must be a str" in found["error"][8]
    with pytest.raises(ValueError, match="row 3 of the batch: the example is not a readable image"):
        xfer.Predictor(repurposer, "path")(batch)


def make_plain(kind, columns):
    columns = {name: list(values) for name, values in columns.items()}
    if kind == "lists":
        return columns
    if kind == "pandas":
        return pytest.importorskip("pandas").DataFrame(columns)
    if kind == "polars":
        return pytest.importorskip("polars").DataFrame(columns)
    table = pytest.importorskip("pyarrow").table(columns)
    return table if kind == "arrow" else table.to_batches()[0]


def test_what_is_wrong_with_the_whole_batch_is_raised(digits, path):
    features = xfer.LayerFeatures(Mixing(), "mean").fit()
    with pytest.raises(ValueError, match="different features in another batch"):
        xfer.Predictor(features, errors="report")({"data": np.arange(9.0)[:, None]})


class Mixing(xfer.sources.SourceModel):
    """A source whose features depend on the other examples."""

    layers = [xfer.sources.Layer("mean", "mean", (1,), 0)]
    input_names = ["data"]

    def _forward(self, inputs, layers):
        return [inputs["data"] - inputs["data"].mean()]


# Processes


def test_a_pickle_is_small_and_predicts_the_same(digits, path, gp):
    batch = {"data": digits[0][50:60]}
    expected = xfer.Predictor(gp)(batch)
    for predictor in (xfer.Predictor(path), xfer.Predictor(gp)):
        copied = pickle.loads(pickle.dumps(predictor))
        found = copied(batch)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    used = xfer.Predictor(str(path))
    used(batch)
    assert len(pickle.dumps(used)) < 1000


def test_a_process_opens_a_file_once_and_a_new_one_again(digits, source, tmp_path, monkeypatch):
    images, labels = digits
    opened = []
    monkeypatch.setattr(module, "load", lambda path: opened.append(path) or xfer.load(path))
    kind = xfer.LrRepurposer(source, "relu2", pooling="max")
    kind.fit(images[:50], labels[:50]).save_repurposer("once", tmp_path)
    first, second = xfer.Predictor(tmp_path / "once.xfer"), xfer.Predictor(tmp_path / "once")
    before = first({"data": images[50:60]})["label"]
    assert second({"data": images[50:60]})["label"].tolist() == before.tolist()
    assert len(opened) == 1
    kind.fit(images[:50], np.roll(labels, 1)[:50]).save_repurposer("once", tmp_path)
    assert first({"data": images[50:60]})["label"].tolist() != before.tolist()
    assert len(opened) == 2


# Engines


def test_plain_map_and_dask(digits, path, gp):
    pandas = pytest.importorskip("pandas")
    images, _ = digits
    predictor, expected = xfer.Predictor(path, "pixels"), gp.predict(images[50:90]).tolist()
    batches = [{"pixels": images[start : start + 20]} for start in (50, 70)]
    found = [label for batch in map(predictor, batches) for label in batch["label"]]
    assert found == expected
    dask = pytest.importorskip("dask")
    frames = pytest.importorskip("dask.dataframe")
    table = pandas.DataFrame({"id": range(40), "pixels": images[50:90].tolist()})
    with dask.config.set({"dataframe.convert-string": False}):  # which makes texts of lists
        parts = frames.from_pandas(table, npartitions=3)
        found = parts.map_partitions(predictor, meta=predictor(table.head(0)))
        found = found.compute(scheduler="threads")
    assert found["id"].tolist() == list(range(40)) and found["label"].tolist() == expected


@pytest.mark.slow
def test_datasets_of_hugging_face(digits, path, gp):
    datasets = pytest.importorskip("datasets")
    images, _ = digits
    predictor, expected = xfer.Predictor(path, "pixels"), gp.predict(images[50:90]).tolist()
    data = datasets.Dataset.from_dict({"pixels": images[50:90].tolist()})
    predictor({"pixels": images[50:90]})  # the workers are forked after the network was opened here
    for n_processes in (None, 2):
        found = data.map(predictor, batched=True, batch_size=16, num_proc=n_processes)
        assert found["label"][:] == expected


# Ray


@pytest.fixture
def ray(monkeypatch):
    """Ray with no cluster yet; the workers have the threads that Ray gives them."""
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    pytest.importorskip("ray.data")
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def blocks(ray, images, n_blocks=12):
    """A dataset of pictures with the index of each, in blocks that are given to the workers."""
    pyarrow = pytest.importorskip("pyarrow")
    parts = np.array_split(np.arange(len(images)), n_blocks)
    tables = [pyarrow.table({"id": rows, "pixels": images[rows].tolist()}) for rows in parts]
    return ray.data.from_arrow(tables)


def check_rows(found, predictor, images):
    """Compare the rows of Ray, in any order, with those of one call here."""
    found.sort(key=lambda row: row["id"])
    assert [row["id"] for row in found] == list(range(len(images)))
    expected = read(predictor({"pixels": images}))
    for name in set(expected) - {"pixels"}:
        values = [row[name] for row in found]
        if name in ("label", "error"):
            assert values == expected[name]
        else:
            assert [value is None for value in values] == [one is None for one in expected[name]]
            np.testing.assert_allclose(
                np.array(values, float), np.array(expected[name], float), rtol=1e-6
            )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray itself
def test_ray_gives_what_one_process_gives(ray, digits, source, path, tmp_path):
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    images = digits[0][:240].copy()
    images[[7, 100, 101, 230], 0, 3, 3] = np.nan
    options = {"batch_size": 20, "compute": ray.data.ActorPoolStrategy(min_size=1, max_size=2)}
    options.update(fn_constructor_args=(path, "pixels"))

    class Threads(xfer.Predictor):
        def __call__(self, batch):
            from xfer.sources.onnx_session import _threads

            assert _threads() == 1
            return super().__call__(batch)

    report = {"fn_constructor_kwargs": {"errors": "report"}}
    for batch_format in ("pyarrow", "numpy"):
        data = blocks(ray, images)
        data = data.map_batches(Threads, batch_format=batch_format, **options, **report)
        rows = data.drop_columns(["pixels"]).take_all()
        rows = [{k: None if v != v else v for k, v in row.items()} for row in rows]
        check_rows(rows, xfer.Predictor(path, "pixels", errors="report"), images)

    # Features to Parquet; files have an order of their own.
    pyarrow = pytest.importorskip("pyarrow.parquet")
    features = xfer.LayerFeatures(source, "relu2", pooling="max").fit()
    options["fn_constructor_args"] = (features, "pixels")
    data = blocks(ray, digits[0][:240])
    written = data.map_batches(xfer.Predictor, batch_format="pyarrow", **options)
    written.drop_columns(["pixels"]).write_parquet(str(tmp_path / "features"))
    table = pyarrow.read_table(tmp_path / "features").sort_by("id")
    matrix = np.stack(table["relu2"].to_numpy())
    np.testing.assert_allclose(matrix, features.transform(digits[0][:240]), rtol=1e-5)

    # At the end, because the error keeps the workers of a run, and with them the cores.
    options["fn_constructor_args"] = (path, "pixels")
    with pytest.raises(Exception, match="row [017] of the batch: input 'data' has NaN"):
        blocks(ray, images).map_batches(xfer.Predictor, **options).take_all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_is_killed_loses_nothing(ray, digits, path, tmp_path):
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    images, killed = digits[0][:240], tmp_path / "killed"

    class Killed(xfer.Predictor):
        def __call__(self, batch):
            found = super().__call__(batch)
            if 130 in batch["id"] and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return {**found, "process": [os.getpid()] * len(batch["id"])}

    found = blocks(ray, images).map_batches(
        Killed,
        fn_constructor_args=(path, "pixels"),
        batch_size=20,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    rows = found.take_all()
    assert killed.exists()
    check_rows(rows, xfer.Predictor(path, "pixels"), images)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_node_that_is_lost_loses_nothing(ray, digits, path, tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        node = cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False)
        images = digits[0][:480]

        class Where(xfer.Predictor):
            def __call__(self, batch):
                import ray

                time.sleep(0.3)
                here = ray.get_runtime_context().get_node_id()
                (tmp_path / here).touch()
                return {**super().__call__(batch), "node": [here] * len(batch["id"])}

        found = blocks(ray, images, 24).map_batches(
            Where,
            fn_constructor_args=(path, "pixels"),
            batch_size=20,
            compute=ray.data.ActorPoolStrategy(size=2),
        )
        rows, lost = [], False
        for row in found.iter_rows():
            rows.append(row)
            if not lost and (tmp_path / node.node_id).exists():
                cluster.remove_node(node, allow_graceful=False)
                lost = True
        assert lost
        check_rows(rows, xfer.Predictor(path, "pixels"), images)
    finally:
        ray.shutdown()
        cluster.shutdown()
