"""Plots: each draws what it was given, where it was told, legibly; and refuses what it cannot."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import xfer
from xfer import plots
from xfer.meta.mixture import Explanation, HeadReport
from xfer.meta.posterior import Uncertainty
from xfer.ranking import LayerRanking, LayerScore
from xfer.training import History

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.text import Text  # noqa: E402

NEW = [5, 6, 7, 8, 9]
HISTORY = History([0.1] * 2, [1.2, 0.7], [0.5, 0.8], [1.5, 1.3, 1.4], [0.3, 0.6, 0.6], best_epoch=1)


@pytest.fixture(autouse=True)
def _no_figures():
    plt.close("all")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def task():
    """Ten labels of each of the digits 5 to 9, and what two repurposers make of the others."""
    images, digits = xfer.example.digits()
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    numbers = [np.flatnonzero(digits == digit) for digit in NEW]
    few, others = (np.concatenate(part) for part in zip(*((n[:10], n[10:50]) for n in numbers)))
    repurposer = xfer.LrRepurposer(source, "relu2", pooling="max").fit(images[few], digits[few])
    process = xfer.GpRepurposer(source, "pool3").fit(images[few], digits[few])
    grid = {"feature_layer_names": ["relu2", "pool3", "relu3"], "pooling": ["mean", "max"]}
    search = GridSearchCV(repurposer, {**grid, "c": [0.01, 1]}, cv=2)
    return SimpleNamespace(
        source=source,
        images=images[few],
        digits=digits[few],
        labels=digits[others],
        probabilities=repurposer.predict_proba(images[others]),
        predicted=repurposer.predict(images[others]),
        uncertainty=process.predict_uncertainty(images[np.r_[others, :100]]),
        groups=np.repeat(["learned", "never shown"], [len(others), 100]),
        features=source.extract(images[others], "relu2", pooling="max").matrix,
        search=search.fit(images[few], digits[few]),
    )


def draw_reliability(task, ax):
    for name in ("first", "second"):
        ax = plots.reliability(task.labels, task.probabilities, NEW, name=name, ax=ax)
    return ax


def draw_learning_curves(task, ax):
    scores = np.linspace(0.3, 0.8, 4)[:, None] + [0, 0.01, 0.02]
    for name in ("first", "second"):
        ax = plots.learning_curve([2, 5, 10, 1000], scores, name=name, ax=ax)
    return ax


RANKING = LayerRanking(
    [LayerScore("stage$1", "mean+max", 64, 2.1, 0.3), LayerScore("fc1", "flatten", 5, 1.0, 0.1)]
)
EXPLANATION = Explanation(
    [
        HeadReport("pool3", "graph", 0.4, 0.8, 0.5),
        HeadReport("_stage$1", "linear", 0.3, 0.9, 0.4),
        HeadReport("_stage$1", "graph", 0.2, 0.7, 0.6),
        HeadReport("pool3", "linear", 0.0, 0.5, 1.2),
    ]
)
DRAW = {
    "class_probabilities": lambda t, ax: plots.class_probabilities(t.probabilities[0], NEW, ax=ax),
    "confusion_matrix": lambda t, ax: plots.confusion_matrix(t.labels, t.predicted, NEW, ax=ax),
    "explanation": lambda t, ax: plots.explanation(EXPLANATION, ax=ax),
    "features_2d": lambda t, ax: plots.features_2d(t.features, t.labels, ax=ax),
    "layer_comparison": lambda t, ax: plots.layer_comparison(t.search, ax=ax),
    "layer_ranking": lambda t, ax: plots.layer_ranking(RANKING, ax=ax),
    "learning_curve": draw_learning_curves,
    "reliability": draw_reliability,
    "training_curves": lambda t, ax: plots.training_curves(HISTORY, ax=ax),
    "uncertainty_split": lambda t, ax: plots.uncertainty_split(t.uncertainty, t.groups, ax=ax),
}


def test_every_plot_is_under_contract():
    assert sorted(DRAW) == sorted(plots.__all__)


@pytest.mark.parametrize("name", DRAW)
def test_a_plot_makes_one_figure_that_can_be_read(name, task):
    settings = dict(matplotlib.rcParams)
    ax = DRAW[name](task, None)
    assert isinstance(ax, Axes)
    assert plt.get_fignums() == [ax.figure.number]
    assert dict(matplotlib.rcParams) == settings
    assert ax.get_xlabel() and ax.get_ylabel()
    ax.figure.canvas.draw()
    for text in ax.figure.findobj(lambda one: isinstance(one, Text) and one.get_text().strip()):
        assert not text.get_visible() or text.get_fontsize() >= 8, text
    # Nothing is cut off.
    drawn, whole = ax.figure.get_tightbbox(), ax.figure.bbox_inches
    assert drawn.x0 >= -0.01 and drawn.x1 <= whole.x1 + 0.01
    assert drawn.y0 >= -0.01 and drawn.y1 <= whole.y1 + 0.01


@pytest.mark.parametrize("name", DRAW)
def test_a_plot_is_drawn_where_it_is_told(name, task):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", dpi=50)
    assert DRAW[name](task, right) is right
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()
    assert not left.lines and not left.patches and not left.get_xlabel()
    for drawn in (right.get_tightbbox(), *(ax.get_tightbbox() for ax in right.child_axes)):
        assert drawn.x0 > left.get_window_extent().x1 and drawn.x1 <= figure.bbox.x1


MISTAKES = {
    "a class too many": (
        lambda t: plots.class_probabilities([0.5, 0.5], ["a", "b", "c"]),
        (ValueError, r"probabilities must have shape \(3,\), .* got \(2,\)"),
    ),
    "no class": (
        lambda t: plots.class_probabilities([], []),
        (ValueError, r"one for each class, got \(0,\)"),
    ),
    "a label too many": (
        lambda t: plots.reliability(["a", "b", "a"], np.eye(2), ["a", "b"]),
        (ValueError, r"must have shape \(3, 2\), .* got \(2, 2\)"),
    ),
    "probabilities before labels": (
        lambda t: plots.reliability(np.eye(2), ["a", "b"], ["a", "b"]),
        (ValueError, r"got \(2, 2\); the order is reliability\(y_true, probabilities, classes\)"),
    ),
    "probabilities of one class before labels": (
        lambda t: plots.reliability(np.ones((2, 1)), ["a", "a"], ["a"]),
        (ValueError, r"got \(2,\); the order is reliability\(y_true, probabilities, classes\)"),
    ),
    "probabilities for labels": (
        lambda t: plots.confusion_matrix(["a", "b"], np.eye(2)),
        (ValueError, r"got \(2, 2\); the order is confusion_matrix\(y_true, y_pred\)"),
    ),
    "scores, not probabilities": (
        lambda t: plots.reliability(["a"], [[-2.0, 3.0]], ["a", "b"]),
        (ValueError, "probabilities must be from 0 to 1, got -2 to 3"),
    ),
    "NaN for a probability": (
        lambda t: plots.reliability(["a"], [[np.nan, 1.0]], ["a", "b"]),
        (ValueError, "probabilities must be from 0 to 1, got nan"),
    ),
    "no examples": (
        lambda t: plots.reliability([], np.zeros((0, 2)), ["a", "b"]),
        (ValueError, "at least one example is needed"),
    ),
    "no bins": (
        lambda t: plots.reliability(["a", "b"], np.eye(2), ["a", "b"], bins=0),
        (ValueError, "bins must be an integer >= 1, got 0"),
    ),
    "a prediction too few": (
        lambda t: plots.confusion_matrix([1, 2], [1]),
        (ValueError, r"inconsistent numbers of samples: \[2, 1\]"),
    ),
    "a label that is no class": (
        lambda t: plots.confusion_matrix(["a", "c"], ["a", "b"], ["a", "b"]),
        (ValueError, r"among the classes \['a', 'b'\], got \['c'\]"),
    ),
    "labels of another kind": (
        lambda t: plots.confusion_matrix([1, 2], ["1", "2"]),
        (ValueError, "Mix of label input types"),
    ),
    "a class twice": (
        lambda t: plots.confusion_matrix(["a"], ["a"], ["a", "a"]),
        (ValueError, r"a class must not be repeated, got \['a', 'a'\]"),
    ),
    "a score too few": (
        lambda t: plots.learning_curve([1, 2], [0.5]),
        (ValueError, r"inconsistent numbers of samples: \[2, 1\]"),
    ),
    "no labels": (
        lambda t: plots.learning_curve([0, 2], [0.5, 0.6]),
        (ValueError, r"sizes must be positive numbers, got \[0, 2\]"),
    ),
    "infinitely many labels": (
        lambda t: plots.learning_curve([1, np.inf], [0.5, 0.6]),
        (ValueError, r"sizes must be positive numbers, got \[1.0, inf\]"),
    ),
    "NaN for a score": (
        lambda t: plots.learning_curve([1, 2], [0.5, np.nan]),
        (ValueError, "contains NaN"),
    ),
    "probabilities, not uncertainty": (
        lambda t: plots.uncertainty_split(np.eye(2)),
        (TypeError, "must be what predict_uncertainty returned: .*ndarray.* attribute 'aleatoric'"),
    ),
    "a group too few": (
        lambda t: plots.uncertainty_split(Uncertainty(*np.ones((3, 2))), ["a"]),
        (ValueError, r"inconsistent numbers of samples: \[2, 2, 1\]"),
    ),
    "parts of two lengths": (
        lambda t: plots.uncertainty_split(Uncertainty([1.0], [1.0], [1.0, 2.0])),
        (ValueError, r"inconsistent numbers of samples: \[1, 2, 1\]"),
    ),
    "one feature": (
        lambda t: plots.features_2d(np.ones((5, 1)), np.ones(5)),
        (ValueError, r"1 feature\(s\) \(shape=\(5, 1\)\) while a minimum of 2 is required"),
    ),
    "NaN for a feature": (
        lambda t: plots.features_2d([[1, 2], [3, np.nan]], ["a", "b"]),
        (ValueError, "contains NaN"),
    ),
    "features all the same": (
        lambda t: plots.features_2d([[1, 2], [1, 3]], ["a", "b"]),
        (ValueError, "at least 2 features must vary, got 1 of 2"),
    ),
    "labels of fewer examples": (
        lambda t: plots.features_2d(np.eye(3), ["a", "b"]),
        (ValueError, r"inconsistent numbers of samples: \[3, 2\]"),
    ),
    "a repurposer, not a search": (
        lambda t: plots.layer_comparison(t.search.best_estimator_),
        (TypeError, "must be a GridSearchCV or a RandomizedSearchCV, got LrRepurposer"),
    ),
    "a search that is not fitted": (
        lambda t: plots.layer_comparison(GridSearchCV(t.search.estimator, {"c": [1]})),
        (NotFittedError, "this GridSearchCV is not fitted yet: call fit before layer_comparison"),
    ),
    "a search over something else": (
        lambda t: plots.layer_comparison(
            GridSearchCV(LogisticRegression(), {"C": [1]}, cv=2).fit(np.eye(4), [0, 1, 0, 1])
        ),
        (ValueError, "must be over the feature_layer_names of one step, got C"),
    ),
    "a search by several scores": (
        lambda t: plots.layer_comparison(
            GridSearchCV(
                LogisticRegression(), {"C": [1]}, cv=2, scoring=["accuracy", "r2"], refit=False
            ).fit(np.eye(4), [0, 1, 0, 1])
        ),
        (ValueError, "a search by one score is needed, got accuracy, r2"),
    ),
    "a history of nothing": (
        lambda t: plots.training_curves(History()),
        (ValueError, "loss and the accuracy of each epoch, got 0 and 0"),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_before_a_figure_is_made(mistake, task):
    draw, (kind, message) = MISTAKES[mistake]
    with pytest.raises(kind, match=message):
        draw(task)
    assert not plt.get_fignums()


def test_a_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"plots need matplotlib: pip install matplotlib"):
        plots.class_probabilities([1.0], ["a"])


def test_names_are_shown_as_they_are(task):
    names = ["$5", "$5 to $10", "_private"]
    ax = plots.class_probabilities([0.2, 0.3, 0.5], names)
    other = plots.features_2d(task.features[:3], names)
    for texts in (ax.get_yticklabels(), other.get_legend().get_texts()):
        shown = [text._preprocess_math(text.get_text()) for text in texts]
        assert [text.lstrip("\u200b") for text, _ in shown] == names
        assert not any(is_formula for _, is_formula in shown)


def test_class_probabilities_keep_classes_of_one_name_apart():
    ax = plots.class_probabilities([0.2, 0.3, 0.5], [1, "1", 7])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "1", "7"]
    assert [bar.get_width() for bar in ax.patches] == [0.2, 0.3, 0.5]


def test_a_reliability_diagram_tells_the_calibration_error():
    random = np.random.RandomState(0)
    sure = random.uniform(0.5, 1, size=20_000)
    labels = np.where(random.uniform(size=20_000) < sure, "a", "b")
    right = np.column_stack([sure, 1 - sure])
    bold = np.column_stack([np.ones(20_000), np.zeros(20_000)])
    ax = plots.reliability(labels, right, ["a", "b"], name="right")
    assert plots.reliability(labels, bold, ["a", "b"], name="bold", ax=ax) is ax
    errors = [float(text.split()[-1]) for text in ax.get_legend_handles_labels()[1]]
    assert errors[0] < 0.02 and errors[1] == pytest.approx(0.25, abs=0.01)
    points = ax.collections[1].get_offsets()
    np.testing.assert_allclose(*points.T, atol=0.05)


def test_bins_with_few_examples_are_faint():
    # 500, 15 and 1 examples of which all are right.
    sure = np.repeat([0.95, 0.75, 0.55], [500, 15, 1])
    probabilities = np.column_stack([sure, 1 - sure])
    ax = plots.reliability(["a"] * len(sure), probabilities, ["a", "b"], bins=10)
    _, points = ax.collections
    np.testing.assert_allclose(points.get_offsets()[:, 0], [0.55, 0.75, 0.95])
    np.testing.assert_allclose(points.get_alpha(), [0.15, 0.5, 1])
    # A line is as faint as the fainter of its ends.
    assert [line.get_alpha() for line in ax.lines[1:-1]] == [0.15, 0.5]


def test_a_reliability_diagram_counts_predictions(task):
    for ax in (None, plt.figure(layout="constrained").add_subplot(2, 2, 4)):
        ax = plots.reliability(task.labels, task.probabilities, NEW, bins=4, ax=ax)
        (strip,) = ax.child_axes
        sure = task.probabilities.max(axis=1)
        expected = np.histogram(sure, np.linspace(0, 1, 5))[0]
        (first,) = strip.patches
        assert first.get_data().values.tolist() == expected.tolist()
        half = len(sure) // 2
        plots.reliability(task.labels[:half], task.probabilities[:half], NEW, bins=2, ax=ax)
        assert ax.child_axes == [strip]
        first, second = strip.patches
        values, _, baseline = second.get_data()
        assert sum(values - baseline) == half
        # Each has a row of its own.
        assert max(values) < first.get_data().baseline == 0
        assert strip.get_ylim()[0] == baseline
        assert to_hex(first.get_facecolor()) != to_hex(second.get_facecolor())
        ax.figure.canvas.draw()
        # It is a part of the Axes, below the square, with the same scale from left to right.
        inner, outer = strip.get_window_extent(), ax.get_window_extent()
        np.testing.assert_allclose(inner.intervalx, outer.intervalx, atol=1)
        assert inner.y0 == pytest.approx(outer.y0, abs=1)
        legend = ax.get_legend().get_window_extent()
        assert inner.y1 < ax.transData.transform((0, 0))[1] < legend.y0
        assert strip.get_ylim()[1] >= expected.max()


@pytest.mark.parametrize("kind", [int, str])
def test_a_confusion_matrix_counts(kind):
    random = np.random.RandomState(0)
    labels, predicted = random.randint(3, 7, size=(2, 50)).astype(kind)
    classes = [kind(number) for number in (6, 4, 9, 3, 5)]
    ax = plots.confusion_matrix(labels, predicted, classes)
    shown = np.array([int(text.get_text()) for text in ax.texts]).reshape(5, 5)
    expected = confusion_matrix(labels, predicted, labels=classes)
    assert np.array_equal(shown, expected)
    assert not shown[2].any()
    shares = ax.images[0].get_array()
    np.testing.assert_allclose(shares[0], expected[0] / expected[0].sum())
    for names in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [name.get_text() for name in names] == [str(name) for name in classes]
    default = plots.confusion_matrix(labels, predicted)
    assert [name.get_text() for name in default.get_xticklabels()] == ["3", "4", "5", "6"]


def test_a_confusion_matrix_of_many_classes_has_no_numbers():
    labels = np.arange(51)
    assert len(plots.confusion_matrix(labels[:50], labels[:50]).texts) == 50 * 50
    assert not plots.confusion_matrix(labels, labels).texts


def test_long_names_of_a_confusion_matrix_do_not_overlap():
    names = [f"talk.politics.{number}" for number in range(20)]
    ax = plots.confusion_matrix(names, names)
    ax.figure.canvas.draw()
    assert {name.get_rotation() for name in ax.get_xticklabels()} == {45}
    cell = ax.get_window_extent().width / 20
    assert all(text.get_window_extent().width < cell for text in ax.texts)


def test_a_learning_curve_is_the_mean_of_draws():
    scores = np.random.RandomState(0).uniform(size=(4, 5))
    sizes = [50, 2, 1000, 1050]
    ax = plots.learning_curve(sizes, scores, name="one")
    order = np.argsort(sizes)
    x, y = ax.lines[0].get_data()
    assert x.tolist() == sorted(sizes)
    np.testing.assert_allclose(y, scores.mean(axis=1)[order])
    band = ax.collections[0].get_paths()[0].vertices
    for size, mean, deviation in zip(x, y, scores.std(axis=1)[order]):
        ends = band[band[:, 0] == size, 1]
        np.testing.assert_allclose([ends.min(), ends.max()], [mean - deviation, mean + deviation])
    # One tick of two that would overlap.
    assert sorted(ax.get_xticks()) == [2, 50, 1050]
    plots.learning_curve([10], [0.5], name="two", ax=ax)
    assert sorted(ax.get_xticks()) == [2, 10, 50, 1050]
    assert len({line.get_color() for line in ax.lines}) == 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "two"]


def test_an_uncertainty_split_adds_up_to_the_total(task):
    ax = plots.uncertainty_split(task.uncertainty, task.groups)
    (aleatoric, epistemic), total = ax.containers, task.uncertainty.total
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["learned (200)", "never shown (100)"]
    for place, some in enumerate([slice(200), slice(200, None)]):
        ends = [bars[place].get_x() + bars[place].get_width() for bars in (aleatoric, epistemic)]
        expected = [task.uncertainty.aleatoric[some].mean(), total[some].mean()]
        np.testing.assert_allclose(ends, expected)
    # In the order of the first examples, which is not that of the alphabet.
    turned = plots.uncertainty_split(task.uncertainty, np.where(np.arange(300) < 200, "z", "a"))
    assert [label.get_text() for label in turned.get_yticklabels()] == ["z (200)", "a (100)"]
    alone = plots.uncertainty_split(task.uncertainty)
    assert alone.containers[0][0].get_width() == pytest.approx(task.uncertainty.aleatoric.mean())


def test_features_are_drawn_by_their_principal_components(task):
    def points(features):
        ax = plots.features_2d(features, task.labels)
        return np.concatenate([found.get_offsets() for found in ax.collections]), ax

    found, ax = points(task.features)
    centred = task.features - task.features.mean(axis=0)
    standard = centred / np.maximum(centred.std(axis=0), 1e-9)
    order = np.argsort(task.labels, kind="stable")
    left, sizes, _ = np.linalg.svd(standard[order], full_matrices=False)
    for column in range(2):
        expected = left[:, column] * sizes[column]
        expected *= np.sign(expected @ found[:, column])
        np.testing.assert_allclose(found[:, column], expected, atol=0.05)
    share = sizes[0] ** 2 / np.sum(sizes**2)
    assert ax.get_xlabel() == f"first component ({share:.0%} of the variance)"
    # Another unit of a feature is no other picture.
    units = np.random.RandomState(0).uniform(0.5, 20, size=task.features.shape[1])
    np.testing.assert_allclose(points(task.features * units)[0], found, atol=0.01)


def test_twenty_classes_are_told_apart():
    labels = np.arange(60) % 20
    ax = plots.features_2d(np.random.RandomState(0).normal(size=(60, 4)), labels)
    shapes = [found.get_paths()[0].vertices.tobytes() for found in ax.collections]
    colours = [to_hex(found.get_facecolor()[0]) for found in ax.collections]
    assert len({*zip(shapes, colours)}) == 20 and len({*colours}) == 7
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().height < ax.figure.bbox.height


def test_a_layer_comparison_is_of_the_best_of_other_parameters(task):
    ax = plots.layer_comparison(task.search)
    layers = ["relu2", "pool3", "relu3"]
    assert [label.get_text() for label in ax.get_yticklabels()] == layers
    results, best = task.search.cv_results_, {}
    for params, *found in zip(*map(results.get, ("params", "mean_test_score", "std_test_score"))):
        key = params["feature_layer_names"], params["pooling"]
        best[key] = max(best.get(key, [-1, 0]), found, key=lambda pair: pair[0])
    assert [bars.get_label() for bars in ax.containers] == ["mean", "max"]
    for bars in ax.containers:
        line, _, (spread,) = bars
        for layer, x, y, segment in zip(layers, *line.get_data(), spread.get_segments()):
            mean, deviation = best[layer, bars.get_label()]
            assert x == pytest.approx(mean)
            np.testing.assert_allclose(segment[:, 0], [mean - deviation, mean + deviation])
            assert round(y) == layers.index(layer)
    assert ax.get_xlabel() == "accuracy ± standard deviation of 2 folds"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


# As scikit-learn puts names and lists of names into one array, beside NumPy 1.23.
@pytest.mark.filterwarnings("ignore:Creating an ndarray from ragged")
def test_a_layer_comparison_of_a_pipeline(task):
    pipeline = make_pipeline(
        xfer.LayerFeatures(task.source, "pool3"), LogisticRegression(max_iter=50, tol=0.1)
    )
    layers = np.empty(4, object)
    layers[:] = ["relu3", ["relu2", "pool3"], "pool3", None]
    choices = {"layerfeatures__feature_layer_names": layers}
    search = GridSearchCV(pipeline, choices, cv=2, scoring="neg_log_loss")
    ax = plots.layer_comparison(search.fit(task.images, task.digits))
    names = ["relu3", "relu2 + pool3", "pool3", "default"]
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    assert ax.get_xlabel().startswith("negative log loss ±") and ax.get_legend() is None


def test_an_explanation_adds_up_the_weights_of_a_layer():
    ax = plots.explanation(EXPLANATION)
    names = [label.get_text().lstrip("\u200b") for label in ax.get_yticklabels()]
    assert names == [r"_stage\$1", "pool3"]  # in the order of 0.5 and 0.4
    assert [bars.get_label() for bars in ax.containers] == ["linear", "graph"]
    linear, graph = ([round(bar.get_width(), 6) for bar in bars] for bars in ax.containers)
    assert graph == [0.2, 0.4] and linear == [0.3, 0.0]
    assert [bar.get_x() for bar in ax.containers[1]] == [0.3, 0.0]
    assert [text.get_text() for text in ax.texts] == ["0.50", "0.40"]


def test_training_curves_show_what_was_held_out():
    history = History([0.1, 0.0], [1.2, 0.7], [0.5, 0.8], best_epoch=2)
    ax = plots.training_curves(history)
    assert [line.get_label() for line in ax.lines] == ["training", "kept: epoch 2"]
    ax = plots.training_curves(HISTORY, ax=plt.figure().add_subplot())
    assert ax.lines[1].get_xdata().tolist() == [0, 1, 2]
    assert ax.lines[2].get_xdata()[0] == 1
