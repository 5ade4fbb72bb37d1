"""Plots that scikit-learn's Displays do not draw; the only file that imports matplotlib.

Each function draws on the Axes `ax`, by default those of a new figure, and returns them.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn import metrics
from sklearn.base import is_classifier
from sklearn.calibration import calibration_curve
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import check_is_fitted

from xfer._checks import check_integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from xfer.meta.mixture import Explanation
    from xfer.meta.posterior import Uncertainty
    from xfer.ranking import LayerRanking
    from xfer.training import History

__all__ = ["class_probabilities", "confusion_matrix", "explanation", "features_2d"]
__all__ += [
    "layer_comparison",
    "layer_ranking",
    "learning_curve",
    "reliability",
    "training_curves",
    "uncertainty_split",
]

# What colour-blind readers can tell apart: Okabe and Ito (2008), without their faint yellow.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "os^Dv"
_GREY = "#999999"
_SMALL, _MEDIUM = 8, 9  # points; smaller text is hard to read in a notebook
_LETTERS_PER_INCH = 13
_MOST_COUNTS = 50  # classes of a confusion matrix with numbers in it
_ENOUGH = 30  # examples in a bin: their share of right ones has a standard error of 0.09 or less
_CLASSIFIERS = ("linear", "graph", "gaussian", "kernel", "naive Bayes")


def class_probabilities(
    probabilities: ArrayLike, classes: Sequence, *, ax: "Axes | None" = None
) -> "Axes":
    """Draw one row of ``predict_proba`` as bars, one for each of the ``classes_``.

    Examples
    --------
    >>> ax = class_probabilities([0.7, 0.2, 0.1], ["autos", "electronics", "guns"])
    """
    names = [_plain(name) for name in classes]
    n, shape = len(names), np.shape(probabilities)
    if not names or shape != (n,):
        raise ValueError(f"probabilities must have shape ({n},), one for each class, got {shape}")
    ax = _axes(ax, 5, 0.9 + 0.3 * n)
    positions = np.arange(n)
    colours = np.where(positions == np.argmax(probabilities), _COLOURS[0], "#9ecae1").tolist()
    bars = ax.barh(positions, probabilities, color=colours)
    ax.bar_label(bars, fmt="%.2f", padding=3, fontsize=_MEDIUM)
    ax.set_yticks(positions, names)
    ax.set(xlim=(0, 1.12), xticks=np.linspace(0, 1, 6), xlabel="probability", ylabel="class")
    ax.invert_yaxis()
    return ax


def confusion_matrix(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    classes: Sequence | None = None,
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw how many examples of each class are predicted as each class.

    This is scikit-learn's ``ConfusionMatrixDisplay``, coloured by the share of the true class. The
    order of the classes is that of ``classes``, by default of those that occur, sorted. With more
    than 50 classes, there are no numbers in it.

    Examples
    --------
    >>> ax = confusion_matrix(["cat", "dog", "dog"], ["cat", "dog", "cat"])
    >>> [text.get_text() for text in ax.texts]
    ['1', '0', '1', '1']
    """
    y_true, y_pred = _labels("confusion_matrix(y_true, y_pred)", y_true, y_pred)
    found = unique_labels(y_true, y_pred).tolist()
    classes = found if classes is None else np.asarray(classes).tolist()
    if len({*classes}) < len(classes):
        raise ValueError(f"a class must not be repeated, got {classes}")
    if unknown := [label for label in found if label not in classes]:
        raise ValueError(f"labels must be among the classes {classes}, got {unknown[:5]}")
    counts = metrics.confusion_matrix(y_true, y_pred, labels=classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    n_classes, names = len(classes), [_plain(name) for name in classes]
    longest = max(map(len, names))
    cell = 0.45 if n_classes <= _MOST_COUNTS else 0.12
    side = max(2.6, cell * n_classes) + longest / _LETTERS_PER_INCH
    ax = _axes(ax, side + 1.4, side + 0.5)
    look: dict[str, Any] = {"im_kw": {"vmin": 0, "vmax": 1, "aspect": "auto"}, "cmap": "Blues"}
    display = metrics.ConfusionMatrixDisplay(shares, display_labels=names)
    look.update(colorbar=False, include_values=n_classes <= _MOST_COUNTS)
    display.plot(ax=ax, text_kw={"fontsize": _SMALL + (n_classes <= 12)}, **look)
    if display.text_ is None:
        ax.tick_params(labelsize=_SMALL - 1)
    else:
        for text, count in zip(display.text_.flat, counts.flat):
            text.set_text(f"{count:,}")
            text.set_color(text.get_color() if count else _GREY)
    inches = ax.get_window_extent().width / ax.figure.dpi
    if longest > _LETTERS_PER_INCH * inches / n_classes:
        ax.set_xticks(range(n_classes), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.tick_params(length=0)
    ax.set_frame_on(False)
    bar: Any = ax.figure.colorbar(display.im_, ax=ax, label="share of the true class")
    bar.outline.set_visible(False)
    return ax


def reliability(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    classes: ArrayLike,
    *,
    bins: int = 15,
    name: str | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw how often predictions are right against how sure they are, and count them below.

    ``probabilities`` are what ``predict_proba`` returned, and ``classes`` are
    ``repurposer.classes_``. Only the predicted class of each example counts. Bins are of equal
    width. Those with fewer than 30 examples are drawn faintly, and empty ones are not drawn.

    The legend gives the expected calibration error, the mean distance of predictions from the
    diagonal (eq. 3 of Guo et al., 2017, On Calibration of Modern Neural Networks). To compare
    several models, give the same `ax` again, and a `name`; each has a histogram of its own, and all
    have the same scale.

    Examples
    --------
    >>> ax = reliability(["a", "b"], [[0.9, 0.1], [0.3, 0.7]], ["a", "b"], name="GP")
    >>> ax.get_legend_handles_labels()[1]
    ['GP: 0.200']
    """
    order = "reliability(y_true, probabilities, classes)"
    (y_true,), probabilities = _labels(order, y_true), np.asarray(probabilities)
    classes = np.asarray(classes)
    shape, found = (len(y_true), len(classes)), probabilities.shape
    if found != shape:
        what = f"probabilities must have shape {shape}, labels x classes, got {found}"
        raise ValueError(f"{what}; the order is {order}")
    sure, least = probabilities.max(axis=1), probabilities.min()
    if not (sure <= 1 + 1e-6).all() or least < 0:
        raise ValueError(f"probabilities must be from 0 to 1, got {least:.3g} to {sure.max():.3g}")
    check_integer("bins", bins)
    right = classes[probabilities.argmax(axis=1)] == y_true
    sure = np.minimum(sure, 1)  # float32 may round to slightly more
    ax = _axes(ax, 5, 6)
    insets: list[Any] = [one for one in ax.child_axes if one.get_label() == "counts"]
    (counts_ax,) = insets or [_draw_frame(ax)]
    style = _style(len(counts_ax.patches))
    y, x = calibration_curve(right.astype(int), sure, n_bins=bins)
    # Bins include their upper edge, like those of calibration_curve.
    edges = np.linspace(0, 1, bins + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], sure), minlength=bins)
    filled = counts[counts > 0]
    error = np.average(np.abs(y - x), weights=filled)
    opacity = np.clip(filled / _ENOUGH, 0.15, 1)
    ax.scatter(x, y, s=16, alpha=opacity, linewidths=0, **style)
    for k, faintest in enumerate(np.minimum(opacity[1:], opacity[:-1])):
        ax.plot(x[k : k + 2], y[k : k + 2], color=style["color"], alpha=faintest)
    label = f"{_plain(name)}: {error:.3f}" if name else f"{error:.3f}"
    ax.plot([], [], markersize=4, label=label, **style)
    _draw_counts(counts_ax, counts, edges, style["color"])
    ax.set_xlabel("probability of the predicted class")
    bottom, top = ax.get_ylim()
    ax.set_ylabel("share that is right", y=(0.5 - bottom) / (top - bottom))
    square = {"loc": "best", "bbox_to_anchor": (0, 0, 1, 1), "bbox_transform": ax.transData}
    small = {"fontsize": _SMALL, "title_fontsize": _SMALL, "handlelength": 1.2, "framealpha": 0.7}
    ax.legend(title="expected calibration error", **square, **small)
    return ax


def _draw_frame(ax: "Axes") -> Any:
    """Draw the diagonal, and return the Axes of the counts below it."""
    ax.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
    ticks = np.linspace(0, 1, 6)
    ax.set(xlim=(0, 1), ylim=(-0.36, 1.02), xticks=ticks, yticks=ticks, aspect="equal")
    ax.spines["left"].set_bounds(0, 1)
    ax.hlines(0, 0, 1, color="black", linewidth=0.8)
    bounds = 0, -0.36, 1, 0.28
    counts_ax = ax.inset_axes(bounds, transform=ax.transData, sharex=ax, label="counts")
    counts_ax.set_ylabel("count", fontsize=_MEDIUM)
    counts_ax.tick_params(bottom=False, labelbottom=False, labelsize=_SMALL)
    return _axes(counts_ax)


def _draw_counts(counts_ax: Any, counts: np.ndarray, edges: np.ndarray, colour: str) -> None:
    """Draw a histogram below those that are there already, on one scale for all."""
    counts_ax.stairs(counts, edges, baseline=0, fill=True, color=colour)
    drawn = [steps.get_data() for steps in counts_ax.patches]
    most = max((values - baseline).max() for values, _, baseline in drawn)
    for row, (steps, (values, its_edges, baseline)) in enumerate(zip(counts_ax.patches, drawn)):
        below = -1.2 * most * row
        steps.set_data(values - baseline + below, its_edges, below)
    counts_ax.set_ylim(-1.2 * most * (len(drawn) - 1), 1.05 * most)
    counts_ax.set_yticks([0, most], ["0", f"{most:,.0f}"])


def uncertainty_split(
    uncertainty: "Uncertainty", groups: ArrayLike | None = None, *, ax: "Axes | None" = None
) -> "Axes":
    """Draw how uncertain predictions are, and how much of that more labels would remove.

    ``uncertainty`` is what ``predict_uncertainty`` of a `GpRepurposer` or `BnnRepurposer` returned.
    More labels reduce its epistemic part, but not the aleatoric one. ``groups`` has a name for each
    example; each group has a bar, in the order of their first examples.

    Examples
    --------
    >>> from xfer.meta.posterior import Uncertainty
    >>> ax = uncertainty_split(Uncertainty([0.3, 0.9], [0.2, 0.3], [0.1, 0.6]), ["seen", "new"])
    """
    names = "aleatoric", "epistemic"
    try:
        parts = [np.asarray(getattr(uncertainty, name)) for name in names]
    except AttributeError as error:
        raise TypeError(f"uncertainty must be what predict_uncertainty returned: {error}") from None
    groups = np.full(len(parts[0]), "all") if groups is None else groups
    *parts, groups = _columns(*parts, groups)
    found, firsts, inverse = np.unique(groups, return_index=True, return_inverse=True)
    order = firsts.argsort()
    counts = np.bincount(inverse)
    ax = _axes(ax, 6, 1.1 + 0.38 * len(found))
    positions, total = np.arange(len(found)), np.zeros(len(found))
    for name, part, colour in zip(names, parts, (_COLOURS[5], _COLOURS[1])):
        means = (np.bincount(inverse, part) / counts)[order]
        bars = ax.barh(positions, means, left=total, label=name, color=colour)
        total = total + means
    ax.bar_label(bars, [f"{value:.2f}" for value in total], padding=4, fontsize=_MEDIUM)
    ax.set_yticks(positions, [f"{_plain(found[k])} ({counts[k]:,})" for k in order])
    ax.set(xlabel="mean uncertainty, nats", ylabel="group (examples)")
    ax.margins(x=0.18)
    ax.set_xlim(left=0)
    ax.invert_yaxis()
    _legend_beside(ax)
    return ax


def explanation(explanation: "Explanation", *, ax: "Axes | None" = None) -> "Axes":
    """Draw what ``explain`` returned: the weight of each layer, split by classifier.

    The layer of the largest weight is at the top. The number behind a bar is its total.

    Examples
    --------
    >>> from xfer.meta.mixture import Explanation, HeadReport
    >>> linear = HeadReport("pool2", "linear", 0.5, accuracy=0.8, log_loss=0.5)
    >>> graph = HeadReport("pool2", "graph", 0.25, accuracy=0.9, log_loss=0.4)
    >>> ax = explanation(Explanation([linear, graph]))
    >>> [text.get_text() for text in ax.texts]
    ['0.75']
    """
    layers = list(dict.fromkeys(row.layer for row in explanation))
    # The same colour in all pictures; and nothing in the legend that is not to be seen.
    kinds = [*_CLASSIFIERS, *(row.classifier for row in explanation)]
    kinds = list(dict.fromkeys(kinds))
    weights = np.zeros((len(kinds), len(layers)))
    for row in explanation:
        weights[kinds.index(row.classifier), layers.index(row.layer)] += row.weight
    order = np.argsort(-weights.sum(axis=0), kind="stable")
    ax = _axes(ax, 6, 1.1 + 0.38 * len(layers))
    positions, total = np.arange(len(layers)), np.zeros(len(layers))
    for index, (kind, part) in enumerate(zip(kinds, weights[:, order])):
        if part.any():
            colour = _COLOURS[index % len(_COLOURS)]
            bars = ax.barh(positions, part, left=total, label=_plain(kind), color=colour)
            total = total + part
    ax.bar_label(bars, [f"{value:.2f}" for value in total], padding=4, fontsize=_MEDIUM)
    ax.set_yticks(positions, [_plain(layers[k]) for k in order])
    ax.set(xlabel="weight in the mixture", ylabel="layer")
    ax.margins(x=0.12)
    ax.set_xlim(left=0)
    ax.invert_yaxis()
    _legend_beside(ax, title="classifier", title_fontsize=_MEDIUM)
    return ax


def features_2d(features: ArrayLike, labels: ArrayLike, *, ax: "Axes | None" = None) -> "Axes":
    """Draw standardised features on their first two principal components, coloured by class.

    ``features``, of shape (n, d), may be the ``matrix`` that a source extracted; at least two must
    vary.

    Examples
    --------
    >>> ax = features_2d([[0, 0, 1], [1, 0, 1], [1, 1, 0]], ["a", "b", "b"])
    """
    matrix: np.ndarray = check_array(features, ensure_min_samples=2, ensure_min_features=2)
    check_consistent_length(matrix, labels)
    labels = column_or_1d(labels)
    n_varying = int((matrix != matrix[0]).any(axis=0).sum())
    if n_varying < 2:
        raise ValueError(f"at least 2 features must vary, got {n_varying} of {matrix.shape[1]}")
    components = PCA(2, random_state=0)
    points = components.fit_transform(StandardScaler().fit_transform(matrix))
    ax = _axes(ax)
    classes = np.unique(labels)
    size = np.clip(6000 / len(points), 12, 40)
    for index, name in enumerate(classes):
        x, y = points[labels == name].T
        ax.scatter(x, y, s=size, alpha=0.7, linewidths=0, label=_plain(name), **_style(index))
    first, second = components.explained_variance_ratio_
    ax.set_xlabel(f"first component ({first:.0%} of the variance)")
    ax.set_ylabel(f"second component ({second:.0%} of the variance)")
    # A name in the legend is 0.15 inches high.
    rows = max(1, int(ax.get_window_extent().height / ax.figure.dpi / 0.15))
    tight = {"columnspacing": 1, "handletextpad": 0.2, "labelspacing": 0.2, "markerscale": 1.5}
    _legend_beside(ax, ncols=1 + (len(classes) - 1) // rows, **tight)
    return ax


def layer_comparison(search: Any, *, ax: "Axes | None" = None) -> "Axes":
    """Draw the scores of layers in a search, as mean and standard deviation over the folds.

    If parameters other than layers and poolings vary, the best of their scores is drawn.

    The search is a fitted GridSearchCV or RandomizedSearchCV with one score, over
    ``feature_layer_names`` and maybe ``pooling``, of a repurposer or of a pipeline with
    :class:`xfer.LayerFeatures`.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> repurposer = xfer.LrRepurposer(xfer.load_checkpoint(xfer.example.checkpoint()), "pool3")
    >>> search = GridSearchCV(repurposer, {"feature_layer_names": ["pool2", "pool3"]}, cv=2)
    >>> ax = layer_comparison(search.fit(images[:100], digits[:100]))
    """
    layer_key = _find_layer_key(search)
    pooling_key = layer_key.replace("feature_layer_names", "pooling")
    results, usual = search.cv_results_, search.estimator.get_params()
    best: dict[tuple[str, str], tuple[float, float]] = {}
    scores = zip(results["mean_test_score"], results["std_test_score"])
    for params, (mean, deviation) in zip(results["params"], scores):
        known = {**usual, **params}
        key = _join(known[layer_key]), _join(known.get(pooling_key, ""))
        if key not in best or not mean <= best[key][0]:
            best[key] = mean, deviation
    layers, poolings = (list(dict.fromkeys(names)) for names in zip(*best))
    ax = _axes(ax, 5, 1 + len(layers) * (0.2 + 0.14 * len(poolings)))
    for index, pooling in enumerate(poolings):
        rows = [row for row, layer in enumerate(layers) if (layer, pooling) in best]
        x, error = np.transpose([best[layers[row], pooling] for row in rows])
        y = np.add(rows, 0.7 * ((index + 0.5) / len(poolings) - 0.5))
        style = {**_style(index), "label": _plain(pooling), "markersize": 5, "capsize": 2}
        ax.errorbar(x, y, xerr=error, linestyle="none", **style)
    ax.set_yticks(range(len(layers)), map(_plain, layers))
    ax.set_ylim(len(layers) - 0.5, -0.5)
    default = "accuracy" if is_classifier(search.estimator) else "R²"
    score = default if search.scoring is None else search.scoring
    score = score if isinstance(score, str) else "score"
    score = score.replace("neg_", "negative ").replace("_", " ")
    ax.set(xlabel=f"{score} ± standard deviation of {search.n_splits_} folds", ylabel="layer")
    ax.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    ax.set_axisbelow(True)
    if len(poolings) > 1:
        _legend_beside(ax, title="pooling", title_fontsize=_MEDIUM)
    return ax


def _find_layer_key(search: Any) -> str:
    """Return the parameter of a search that names the layers."""
    if not isinstance(search, (GridSearchCV, RandomizedSearchCV)):
        found = type(search).__name__
        raise TypeError(f"search must be a GridSearchCV or a RandomizedSearchCV, got {found}")
    unfitted = "this %(name)s is not fitted yet: call fit before layer_comparison"
    check_is_fitted(search, "cv_results_", msg=unfitted)
    if search.multimetric_:
        raise ValueError(f"a search by one score is needed, got {', '.join(search.scorer_)}")
    varied = dict.fromkeys(key for params in search.cv_results_["params"] for key in params)
    keys = [key for key in varied if key.rpartition("__")[2] == "feature_layer_names"]
    if len(keys) != 1:
        found = ", ".join(varied) or "no parameters"
        raise ValueError(f"search must be over the feature_layer_names of one step, got {found}")
    return keys[0]


def _join(value: Any) -> str:
    """Write one or several layers or poolings."""
    if isinstance(value, Mapping):
        return ", ".join(f"{layer}: {pooling}" for layer, pooling in value.items())
    if value is None:
        return "default"
    return value if isinstance(value, str) else " + ".join(map(str, value))


def layer_ranking(ranking: "LayerRanking", *, ax: "Axes | None" = None) -> "Axes":
    """Draw what :func:`xfer.rank_layers` found: LogME of each layer, the best at the top.

    Examples
    --------
    >>> from xfer.ranking import LayerRanking, LayerScore
    >>> scores = LayerScore("pool2", "mean+max", 64, h_score=2.1, logme=0.3)
    >>> ax = layer_ranking(LayerRanking([scores]))
    """
    ax = _axes(ax, 5, 0.9 + 0.3 * len(ranking))
    positions = np.arange(len(ranking))
    ax.plot([row.logme for row in ranking], positions, "o", color=_COLOURS[0])
    ax.set_yticks(positions, [f"{_plain(row.layer)} ({row.pooling})" for row in ranking])
    ax.set(xlabel="LogME (nats per example)", ylabel="layer (pooling)")
    ax.grid(axis="y", color="#dddddd")
    ax.margins(x=0.12)
    ax.invert_yaxis()
    return ax


def learning_curve(
    sizes: ArrayLike, scores: ArrayLike, *, name: str | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draw how the score grows with the number of labels, on a logarithmic scale.

    Unlike scikit-learn's ``LearningCurveDisplay`` it compares several models: give the same `ax`
    again, and a `name`. With ``scores`` of shape (n_sizes, n_samples), their mean is drawn, and
    their standard deviation as a band.

    Examples
    --------
    >>> ax = learning_curve([10, 50], [[0.4, 0.5], [0.8, 0.7]], name="relu2")
    >>> ax.lines[0].get_ydata().round(2)
    array([0.45, 0.75])
    """
    check_consistent_length(sizes, scores)
    x = column_or_1d(sizes)
    y: np.ndarray = check_array(np.reshape(scores, (len(x), -1)))
    if not (np.isfinite(x) & (x > 0)).all():
        raise ValueError(f"sizes must be positive numbers, got {x.tolist()}")
    order = x.argsort()
    x, mean, deviation = x[order], y.mean(axis=1)[order], y.std(axis=1)[order]
    ax = _axes(ax)
    curves = [line for line in ax.lines if line.get_gid() == "learning curve"]
    style = _style(len(curves))
    curves += ax.plot(x, mean, markersize=5, gid="learning curve", **style)
    if y.shape[1] > 1:
        band = mean - deviation, mean + deviation
        ax.fill_between(x, *band, color=style["color"], alpha=0.15, linewidth=0)
        ax.set_ylabel("accuracy ± standard deviation")
    # Ticks are at the sizes, from the largest down, except where they would overlap.
    drawn = np.unique(np.concatenate([line.get_xdata() for line in curves]))[::-1]
    marked = [drawn[0]]
    for size in drawn[1:]:
        if np.log(marked[-1] / size) >= 0.07 * np.log(drawn[0] / drawn[-1]):
            marked.append(size)
    ax.set(xscale="log", xlabel="labels", ylabel=ax.get_ylabel() or "accuracy")
    ax.set_xticks(marked, [f"{size:,.6g}" for size in marked])
    ax.set_xticks([], minor=True)
    if name is not None:
        curves[-1].set_label(_plain(name))
        ax.legend(fontsize=_MEDIUM, frameon=False)
    return ax


def training_curves(history: "History", *, ax: "Axes | None" = None) -> "Axes":
    """Draw the ``history_`` of a repurposer that trains its network: loss and accuracy by epoch.

    Examples
    --------
    >>> from xfer.training import History
    >>> ax = training_curves(History([0.1, 0.05], [1.2, 0.7], [0.5, 0.8], best_epoch=2))
    """
    if not history.loss or len(history.loss) != len(history.accuracy):
        found = f"{len(history.loss)} and {len(history.accuracy)}"
        raise ValueError(f"history needs the loss and the accuracy of each epoch, got {found}")
    ax = _axes(ax)
    right = ax.twinx()
    # The held-out examples are also scored before the first epoch.
    for label, colour, first, losses, accuracies in (
        ("training", _COLOURS[0], 1, history.loss, history.accuracy),
        ("held out", _COLOURS[1], 0, history.validation_loss, history.validation_accuracy),
    ):
        if losses:
            epochs = np.arange(first, first + len(losses))
            ax.plot(epochs, losses, color=colour, marker=".", label=label)
            right.plot(epochs, accuracies, color=colour, marker=".", linestyle=":")
    label = f"kept: epoch {history.best_epoch}"
    ax.axvline(history.best_epoch, color=_GREY, linewidth=1, linestyle="--", label=label)
    ax.set(xlabel="epoch", ylabel="log loss, nats (solid)")
    ax.set_ylim(bottom=0)
    ax.locator_params(axis="x", integer=True)
    right.set(ylabel="accuracy (dotted)", ylim=(0, 1.02))
    # There are few curves here: losses have fallen and accuracies risen.
    handles, labels = ax.get_legend_handles_labels()
    right.legend(handles, labels, loc="center right", fontsize=_MEDIUM, framealpha=0.7)
    right.spines["top"].set_visible(False)
    return ax


def _axes(ax: "Axes | None", width: float = 5, height: float = 3.6) -> "Axes":
    """Return the Axes to draw on, of a new figure of this size in inches if none are given."""
    if ax is None:
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError("plots need matplotlib: pip install matplotlib") from error
        ax = plt.subplots(figsize=(width, height), layout="constrained")[1]
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _columns(*arrays: ArrayLike) -> list[np.ndarray]:
    """Check that arrays have one entry for each example, and that there are examples."""
    check_consistent_length(*arrays)
    columns = [column_or_1d(array) for array in arrays]
    if not columns[0].size:
        raise ValueError("at least one example is needed, got none")
    return columns


def _labels(order: str, *arrays: ArrayLike) -> list[np.ndarray]:
    """Check that arrays are labels of the same examples; a matrix may be in the wrong place."""
    for shape in map(np.shape, arrays):
        if len(shape) > 1 and shape[1] != 1:
            raise ValueError(f"labels must be of shape (n,), got {shape}; the order is {order}")
    return _columns(*arrays)


def _style(index: int) -> dict[str, Any]:
    """Return the colour and marker of a line; 35 differ."""
    rounds, colour = divmod(index, len(_COLOURS))
    return {"color": _COLOURS[colour], "marker": _MARKERS[rounds % len(_MARKERS)]}


def _plain(name: object) -> str:
    """Write a name so that matplotlib shows it as it is."""
    # Text between dollar signs would become a formula, and a name that begins with an underscore
    # would not be in the legend; a space without width goes before it.
    text = str(name).replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def _legend_beside(ax: "Axes", **options: Any) -> None:
    """Put the legend to the right of the Axes, where it covers nothing."""
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    ax.legend(**place, fontsize=_MEDIUM, frameon=False, **options)
