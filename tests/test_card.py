"""Model cards say what is true, and what was not measured."""

import hashlib
import re

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

import xfer
from xfer.cache import DataHash


@pytest.fixture(scope="module")
def task():
    images, digits = xfer.example.digits()
    images, digits = (
        images[digits >= 5],
        np.array(["n", "o|p", "q", "r", "s"])[digits[digits >= 5] - 5],
    )
    return images[:60], digits[:60], images[60:], digits[60:]


@pytest.fixture(scope="module")
def source():
    return xfer.load_checkpoint(xfer.example.checkpoint())


def value(card, name):
    return re.search(rf"^\| {re.escape(name)} \| (.*) \|$", card, re.M)[1]


def test_it_says_what_the_model_is_made_of(source, task):
    X, y, _, _ = task
    card = xfer.LrRepurposer(source, ["relu2", "pool3"], pooling="mean").fit(X, y).card()
    assert value(card, "network") == "CheckpointSource, 11 layers, 23,621 parameters"
    assert value(card, "layers") == "relu2 (mean), pool3 (mean)"
    assert value(card, r"o\|p") == str((y == "o|p").sum())
    assert value(card, "fitted").endswith("on 60 labelled examples")
    assert xfer.__version__ in value(card, "versions")
    assert "Not measured" in card


def test_it_says_what_was_measured(source, task):
    X, y, X_test, y_test = task
    model = xfer.GpRepurposer(source, "relu2", pooling="max").fit(X, y)
    card, p = model.card(X_test, y_test), model.predict_proba(X_test)
    assert f"Measured on {len(y_test)} labelled examples." in card
    assert float(value(card, "accuracy")) == round(accuracy_score(y_test, model.predict(X_test)), 3)
    assert float(value(card, "log loss, nats")) == round(log_loss(y_test, p), 3)
    plots = pytest.importorskip("xfer.plots")
    pytest.importorskip("matplotlib").use("Agg")
    ax = plots.reliability(y_test, p, model.classes_)
    drawn = float(ax.get_legend_handles_labels()[1][0])
    assert float(value(card, "expected calibration error, 15 bins")) == drawn


def test_auto_estimates_from_the_labelled_examples(source, task, tmp_path):
    X, y, _, _ = task
    auto = xfer.AutoRepurposer(source).fit(X, y)
    path = auto.save_repurposer(tmp_path / "digits", card=True)
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert card.startswith("# digits\n")
    assert value(card, "accuracy").startswith(f"{auto.score_estimate_.accuracy:.3f} ± ")
    loaded = xfer.load(path)
    assert loaded.card().splitlines()[1:] == auto.card().splitlines()[1:]
    if "![" in card:  # with Matplotlib
        assert path.with_suffix(".png").read_bytes()[1:4] == b"PNG"


def test_regressors_and_several_labels(source, task):
    X, _, X_test, _ = task
    ink = lambda images: images.sum(axis=(1, 2, 3))  # noqa: E731
    regressor = xfer.MetaModelRegressor(source, "relu1", pooling="mean").fit(X, ink(X))
    assert float(value(regressor.card(X_test, ink(X_test)), "R²")) > 0.9
    from sklearn.neighbors import KNeighborsClassifier

    several = lambda images: np.column_stack([ink(images) > 20, ink(images) > 30]).astype(int)  # noqa: E731
    model = xfer.MetaModelRepurposer(source, "relu2", KNeighborsClassifier(3), pooling="mean")
    card = model.fit(X, several(X)).card(X_test, several(X_test))
    assert value(card, "0") == str(several(X)[:, 0].sum())
    assert 0 < float(value(card, "accuracy")) <= 1


def test_a_hash_does_not_depend_on_batches():
    images = np.arange(24, dtype=np.float32).reshape(6, 4)
    whole, parts, other = DataHash(), DataHash(), DataHash()
    whole.see({"data": images})
    for part in np.split(images, [1, 4]):
        parts.see({"data": part})
    other.see({"data": images[::-1]})
    assert whole.hexdigest() == parts.hexdigest() != other.hexdigest()
    assert len(whole.hexdigest()) == len(hashlib.sha256().hexdigest())
    texts, again = DataHash(), DataHash()
    texts.see(["a", "b", "c"])
    again.see(["a"])
    again.see(["b", "c"])
    assert texts.hexdigest() == again.hexdigest()
    assert DataHash().hexdigest() == ""


def test_what_is_refused(source, task, tmp_path):
    model = xfer.LrRepurposer(source, "pool3")
    with pytest.raises(ValueError, match="not fitted"):
        model.card()
    model.fit(*task[:2])
    with pytest.raises(ValueError, match=r"path must end in \.md, got .*card\.txt"):
        model.card(path=tmp_path / "card.txt")
    with pytest.raises(ValueError, match="no labels; give them as y"):
        model.card(task[0])
    with pytest.raises(ValueError, match="labels that were not in the fit: 'z'"):
        model.card(task[0][:2], ["z", "q"])


def test_a_source_of_ones_own(source, task):
    class Own:
        layers = source.layers

        def extract(self, data, layers, **options):
            return source.extract(data, layers, **options)

    X, y, X_test, y_test = task
    card = xfer.LrRepurposer(Own(), "pool3").fit(X, y).card(X_test, y_test)
    assert value(card, "inputs") == "unknown"
    assert value(card, "network").startswith("Own, 11 layers")


def test_trained_networks_and_labels_that_are_floats(source, task, tmp_path):
    pytest.importorskip("torch")
    X, y, _, _ = task
    numbers = np.unique(y, return_inverse=True)[1]
    model = xfer.NeuralNetworkFineTuneRepurposer(source, "relu2", pooling="max", num_epochs=1).fit(
        X, numbers.astype(np.float32)
    )
    card = model.card()
    assert value(card, "fitted").endswith("on 60 labelled examples")
    assert value(card, "1.0") == str((numbers == 1).sum())
    same = xfer.LrRepurposer(source, "pool3").fit(X, y).card()
    assert value(card, "SHA-256 of the examples") == value(same, "SHA-256 of the examples")
    path = model.save_repurposer(tmp_path / "trained")
    assert xfer.load(path).card().splitlines()[1:] == card.splitlines()[1:]
    with pytest.warns(UserWarning, match="are the data scaled in the same way"):
        model.predict(255 * X)


def test_parameters_that_layers_share_count_once():
    nn = pytest.importorskip("torch").nn
    shared = nn.Linear(4, 4)
    network = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared), nn.Linear(4, 2))
    X, y = np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 3], [0, 0, 1, 1] * 3
    card = xfer.LrRepurposer(network, "1").fit(X, y).card()
    assert value(card, "network").endswith(" 30 parameters")


def test_what_has_no_hash():
    data = DataHash()
    data.see(["a", object()])
    data.see(["b"])
    assert data.hexdigest() == ""


def test_a_hash_is_the_same_however_data_are_read(source, task):
    data = pytest.importorskip("torch").utils.data
    X, y, _, _ = task
    pairs = [(image, int(label == "q")) for image, label in zip(X, y)]
    hashes = set()
    for share in (0.0, 0.2):
        model = xfer.NeuralNetworkFineTuneRepurposer(
            source, "relu2", pooling="max", num_epochs=1, validation_fraction=share
        )
        card = model.repurpose(data.DataLoader(pairs, 16)).card()
        hashes.add(value(card, "SHA-256 of the examples"))
    card = xfer.LrRepurposer(source, "relu2").repurpose(data.DataLoader(pairs, 7)).card()
    assert hashes == {value(card, "SHA-256 of the examples")}
