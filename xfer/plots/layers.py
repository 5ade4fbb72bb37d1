"""Pictures of what layers are good for."""

from collections.abc import Mapping

import numpy as np

from xfer.plots._shared import SMALL, legend_beside, look, new_axes, plain


def features_2d(features, labels, *, ax=None):
    """Draw features on their first two principal components, coloured by class.

    Features are standardised first, so that each counts the same.

    Parameters
    ----------
    features : array-like of shape (n, d)
        Such as the ``matrix`` that a source extracted; d is at least 2.
    labels : array-like of shape (n,)
        The class of each example.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the shapes do not fit, there are fewer than two examples or two features that vary, or a
        feature is not finite.

    Examples
    --------
    >>> ax = features_2d([[0, 0, 1], [1, 0, 1], [1, 1, 0]], ["a", "b", "b"])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['a', 'b']
    """
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or min(features.shape) < 2:
        raise ValueError(
            f"features must have shape (n, d), n and d at least 2, got {features.shape}"
        )
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels must have shape ({len(features)},), one for each row of features, got "
            f"{labels.shape}"
        )
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise ValueError(
            f"features must be finite, got {features[row, column]} in row {row}, column {column}"
        )
    varying = int((features != features[0]).any(axis=0).sum())
    if varying < 2:
        raise ValueError(f"at least 2 features must vary, got {varying} of {features.shape[1]}")
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    components = PCA(2, random_state=0)
    points = components.fit_transform(StandardScaler().fit_transform(features))
    if ax is None:
        ax = new_axes(6, 4)
    classes = np.unique(labels)
    size = np.clip(6000 / len(points), 12, 40)
    for number, name in enumerate(classes):
        some = points[labels == name]
        style = {**look(number), "s": size, "alpha": 0.7, "linewidths": 0}
        ax.scatter(*some.T, **style, label=plain(name))
    shares = components.explained_variance_ratio_
    for axis, place, share in zip((ax.xaxis, ax.yaxis), ("first", "second"), shares):
        axis.set_label_text(f"{place} component ({share:.0%} of the variance)")
    ax.spines[["top", "right"]].set_visible(False)
    # Of names below each other, at 9 points, so many fit in the height.
    rows = max(1, int(ax.get_window_extent().height / ax.figure.dpi / 0.15))
    tight = {"columnspacing": 1, "handletextpad": 0.2, "labelspacing": 0.2, "markerscale": 1.5}
    legend_beside(ax, ncols=1 + (len(classes) - 1) // rows, **tight)
    return ax


def layer_comparison(search, *, ax=None):
    """Draw how well each layer did in a search, as the mean and standard deviation over folds.

    Of parameters other than the layer and the pooling the best are drawn.

    Parameters
    ----------
    search : GridSearchCV or RandomizedSearchCV
        Fitted, over ``feature_layer_names`` and maybe ``pooling``, of a repurposer or of a pipeline
        with :class:`xfer.LayerFeatures`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Layers are in the order in which the search was given them, the first at the top.

    Raises
    ------
    TypeError
        If it is no search.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    ValueError
        If it did not search over layers, or over those of several steps; or it has several scores
        and chose by none.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> repurposer = xfer.LrRepurposer(xfer.load_checkpoint(xfer.example.checkpoint()), "pool3")
    >>> search = GridSearchCV(repurposer, {"feature_layer_names": ["pool2", "pool3"]}, cv=2)
    >>> ax = layer_comparison(search.fit(images[:100], digits[:100]))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['pool2', 'pool3']
    """
    layer_key, score_key = _check_search(search)
    scores = _best_scores(search, layer_key, score_key)
    layers = _in_order(search, layer_key, [layer for layer, _ in scores])
    pooling_key = layer_key.replace("feature_layer_names", "pooling")
    poolings = _in_order(search, pooling_key, [pooling for _, pooling in scores])
    if ax is None:
        ax = new_axes(6, 1 + len(layers) * (0.2 + 0.14 * len(poolings)))
    for number, pooling in enumerate(poolings):
        places = [place for place, layer in enumerate(layers) if (layer, pooling) in scores]
        means, deviations = np.transpose([scores[layers[place], pooling] for place in places])
        beside = 0.7 * ((number + 0.5) / len(poolings) - 0.5)
        style = {**look(number), "linestyle": "none", "markersize": 5, "capsize": 2}
        ax.errorbar(means, np.add(places, beside), xerr=deviations, **style, label=plain(pooling))
    ax.set_yticks(range(len(layers)), map(plain, layers))
    ax.set_ylim(len(layers) - 0.5, -0.5)
    score = _name_score(search, score_key)
    ax.set(xlabel=f"{score} ± standard deviation of {search.n_splits_} folds", ylabel="layer")
    ax.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if len(poolings) > 1:
        legend_beside(ax, title="pooling", title_fontsize=SMALL + 1)
    return ax


def _check_search(search):
    """Return under which keys of its results a search has layers and scores."""
    from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(search, (GridSearchCV, RandomizedSearchCV)):
        raise TypeError(
            "search must be a GridSearchCV or a RandomizedSearchCV, got "
            f"{type(search).__name__}: {search!r:.80}"
        )
    unfitted = "this %(name)s is not fitted yet: call fit before layer_comparison"
    check_is_fitted(search, "cv_results_", msg=unfitted)
    varied = {key: None for params in search.cv_results_["params"] for key in params}
    keys = [key for key in varied if key.rpartition("__")[2] == "feature_layer_names"]
    if len(keys) != 1:
        raise ValueError(
            "the search must be over the feature_layer_names of one step, got "
            f"{', '.join(varied) or 'no parameters'}"
        )
    if not search.multimetric_:
        return keys[0], "score"
    if isinstance(search.refit, str):
        return keys[0], search.refit
    raise ValueError(
        f"a search of several scores ({', '.join(search.scorer_)}) must choose by one: "
        f"refit must be a name, got {search.refit!r}"
    )


def _best_scores(search, layer_key, score_key):
    """Return mean and deviation by layer and pooling, of the best other parameters."""
    pooling_key = layer_key.replace("feature_layer_names", "pooling")
    usual = search.estimator.get_params()
    results, best = search.cv_results_, {}
    for params, mean, deviation in zip(
        results["params"], results[f"mean_test_{score_key}"], results[f"std_test_{score_key}"]
    ):
        known = {**usual, **params}
        key = _tell(known[layer_key]), _tell(known.get(pooling_key, ""))
        if key not in best or not mean <= best[key][0]:
            best[key] = mean, deviation
    return best


def _in_order(search, key, found):
    """Sort what was found as the search was given it; what it was not comes last."""
    grids = search.param_grid if hasattr(search, "param_grid") else search.param_distributions
    grids = [grids] if isinstance(grids, Mapping) else grids
    given = [grid.get(key, ()) for grid in grids]
    listed = [_tell(value) for values in given if not hasattr(values, "rvs") for value in values]
    return list(dict.fromkeys([*(value for value in listed if value in found), *found]))


def _tell(value):
    """Write layers or poolings, of which there may be several (str)."""
    if isinstance(value, Mapping):
        return ", ".join(f"{layer}: {pooling}" for layer, pooling in value.items())
    return value if isinstance(value, str) else " + ".join(map(str, value))


def _name_score(search, score_key):
    from sklearn.base import is_classifier

    if score_key == "score" and search.scoring is None:
        return "accuracy" if is_classifier(search.estimator) else "R²"
    name = search.scoring if isinstance(search.scoring, str) else score_key
    return name.replace("neg_", "negative ").replace("_", " ")
