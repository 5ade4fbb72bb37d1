"""Meta-models as formulas: each as in xfer.meta, which it is tested against."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from onnx import numpy_helper
from scipy.sparse import issparse

from xfer.export.expression import Value, concatenate
from xfer.meta import (
    BayesianNetwork,
    CalibratedLogisticRegression,
    CalibratedSvm,
    DirichletGaussianProcess,
    MixtureClassifier,
    WhitenedRidge,
)
from xfer.meta.calibrated import ScaledScores
from xfer.meta.graph import _ALPHA, _NEIGHBOURS, _POWER, _ROUNDING, GraphSpreading, unpack
from xfer.meta.heads import _GAMMA, FeatureHeads, GaussianHead, RidgeHead
from xfer.meta.mixture import _ALL, _FLOOR, JoinedSpace
from xfer.meta.novelty import Novelty
from xfer.meta.posterior import _GUMBEL, _INTEGRAL_POINTS
from xfer.meta.whitening import PartialWhitening
from xfer.meta.words import WordWeights

_TINY = float(np.finfo(np.float64).tiny)

#: What a meta-model takes: a matrix, or for a mixture one by layer.
Given: TypeAlias = "Value | Mapping[str, Value | Words]"


class Predicted(NamedTuple):
    """What a classifier predicts, of shape (n, n_classes): the largest score is that of the label.

    ``samples`` are scores sampled from a posterior, of shape (n_samples, n, n_classes) or (n,
    n_samples, n_classes), and ``of_samples`` is that axis.
    """

    scores: Value
    probabilities: Value
    samples: Value | None = None
    of_samples: int = 1


@singledispatch
def predict(model: Any, X: Any) -> Predicted | None:
    """Return the predictions of a meta-model of xfer; None for any other."""
    return None


@predict.register
def _scaled(model: ScaledScores, X: Value) -> Predicted:
    scores = X if model.coef is None else X @ np.transpose(model.coef) + np.asarray(model.intercept)
    scores = scores * model.inverse_temperature
    return Predicted(scores, scores.softmax())


@predict.register
def _regression(model: CalibratedLogisticRegression, X: Value) -> Predicted:
    features = _root(X) if model.square_root_ else X
    scores = features @ model.coef_.T + model.intercept_
    return Predicted(scores, scores.softmax())


@predict.register
def _ridge(model: WhitenedRidge, X: Value) -> Predicted:
    features = _root(X) if model.square_root_ else X
    numbers = features @ np.atleast_2d(model.coef_).T + np.atleast_1d(model.intercept_)
    return Predicted(numbers, numbers)


@predict.register
def _svm(model: CalibratedSvm, X: Value) -> Predicted:
    Z, vectors = _whitened(model.whitening_, X), model.support_vectors_
    named: dict[Any, float] = {"scale": 1.0, "auto": 1 / model.n_features_in_}
    gamma: Any = named.get(model.gamma, model.gamma)
    if model.kernel == "rbf":
        kernel = (_squared_distances(Z, vectors) * -gamma).apply("Exp")
    else:
        kernel = Z @ vectors.T
        if model.kernel != "linear":
            kernel = kernel * gamma
        if model.kernel == "poly":
            kernel = kernel * kernel * kernel
        if model.kernel == "sigmoid":
            kernel = kernel.apply("Tanh")
    scores = kernel @ model.dual_coef_.T + model.intercept_
    return Predicted(scores, scores.softmax())


@predict.register
def _gaussian_process(model: DirichletGaussianProcess, X: Value) -> Predicted:
    kernels = []
    for layer, columns in enumerate(model.columns_):
        part = X.take(columns, axis=1) if len(model.columns_) > 1 else X
        part = _unit_rows(part) if model.apply_l2_norm else part
        part = _squashed(_whitened(model.whitenings_[layer], part))
        squares = _squared_distances(part, model.basis_[layer])
        kernel = (squares * (-0.5 / model.length_scales_[layer] ** 2)).apply("Exp")
        kernels.append(kernel * model.variances_[layer])
    K = sum(kernels[1:], kernels[0])
    h = [K @ root for root in model.roots_]
    variances = model.variances_.sum() - h[0].square().sum(1, keepdims=True)
    if len(h) > 1:
        variances = variances + h[1].square().sum(1, keepdims=True)
    starts = np.append(0, model.class_ends_[:-1])
    of_class = np.zeros((model.class_roots_.shape[1], len(starts)))
    for c, (start, end) in enumerate(zip(starts, model.class_ends_)):
        of_class[start:end, c] = 1
    variances = (variances - (h[-1] @ model.class_roots_).square() @ of_class).at_least(0.0)
    factor = model.inverse_temperature_
    means, variances = K @ model.weights_ * factor, variances * factor**2
    p = _expected_softmax(means, variances, len(starts)) * model.prior_ratio_
    p = p / p.sum(1, keepdims=True)
    samples = means.add_axis(1) + variances.apply("Sqrt").add_axis(1) * model.points_
    return Predicted(p, p, samples)


@predict.register
def _bayesian_network(model: BayesianNetwork, X: Value) -> Predicted:
    Z = _squashed(_whitened(model.whitening_, X))
    inputs = (Z * np.sqrt(model.whitening_.components_.shape[1])).astype(np.float32)
    means, deviations = model.weights_, model.standard_deviations_
    noises = np.split(model.noise_, np.cumsum([mean.shape[1] for mean in means[:-2]]), axis=1)
    units, last = inputs, len(means) - 2
    for layer, noise in enumerate(noises):
        layers = [(units, layer), (inputs, -1)][: 1 + (layer == last)]
        mean, variance = (
            sum(power(x) @ table[index][:-1] + table[index][-1] for x, index in layers)
            for table, power in ((means, _same), ([d**2 for d in deviations], Value.square))
        )
        sums = mean + (variance + 1e-12).apply("Sqrt") * noise[:, None]
        units = sums.apply("Relu")
    center = sums.mean(0, keepdims=True) * (1 - model.temperature_)
    samples = (sums * model.temperature_ + center) * model.inverse_temperature_
    p = (samples.softmax() * model.prior_ratio_).mean(0).astype(np.float64)
    p = p / p.sum(1, keepdims=True)
    return Predicted(p, p, samples, 0)


@predict.register
def _mixture(model: MixtureClassifier, X: Any) -> Predicted:
    found: dict[tuple[str, str], Value] = {}
    for name, heads in model.heads_.items():
        kinds = zip(heads.heads_, _feature_heads(heads, X[name]))
        found.update({(name, kind): log_p for kind, log_p in kinds})
    for name, graph in model.graphs_.items():
        nodes = _joined(model.space_, X) if name == _ALL else X[name]
        found[name, "graph"] = _spread(graph, nodes)
    scores: Any = 0.0
    for head, weight in zip(model.head_names_, model.weights_):
        if weight:
            scores = found[head].at_least(_FLOOR) * weight + scores
    p = scores.softmax() * (1 - model.doubt_) + model.doubt_ / len(model.classes_)
    p = p * model.prior_ratio_
    p = p / p.sum(1, keepdims=True)
    return Predicted(p, p)


def uncertainty(found: Predicted, prior_ratio: np.ndarray) -> dict[str, Value]:
    """Return the parts of the uncertainty, of shape (n,); see ``predict_uncertainty``."""
    assert found.samples is not None
    p = found.samples.softmax() * prior_ratio
    sums = p.sum(2)
    weighted = (_entropy(p).sum(2) - _entropy(sums)).mean(found.of_samples)
    total = _entropy(found.probabilities).sum(1)
    aleatoric = (weighted / sums.mean(found.of_samples)).astype(np.float64).at_most(total)
    return {"total": total, "aleatoric": aleatoric, "epistemic": total - aleatoric}


def novelty(model: Any, X: Any, probabilities: Value) -> Value:
    """Return how unlike all classes examples are, of shape (n,); see ``novelty``."""
    if isinstance(model, MixtureClassifier):
        space, logarithms, total = model.space_, [], 0.0
        for name, part in _joined_parts(space, X).items():
            share = space.shares[name]
            distance = _distance(model._novelty[name], part).at_least(_TINY)
            logarithms.append(distance.apply("Log") * share)
            total += share
        logarithm = sum(logarithms[1:], logarithms[0]) / total
    else:
        logarithm = _distance(model._novelty, X).at_least(_TINY).apply("Log")
    n_classes = len(model.classes_)
    return logarithm + _entropy(probabilities).sum(1) / np.log(n_classes)


class Words:
    """The weighted words of examples, from their ids, as :class:`WordWeights` computes them.

    ``index`` (n, length) is the column of the word at each position, ``shares`` the weight of that
    word divided by its occurrences: a sum over positions is then a sum over words.
    """

    def __init__(self, weights: WordWeights, ids: Value) -> None:
        known = weights.columns_
        # Ids beyond the known ones are all unseen; the last entry stands for them.
        table = np.full(known.max(initial=-1) + 2, len(known))
        table[known] = np.arange(len(known))
        ids = ids.astype(np.int64)
        ids = ids.apply("Mod", 1 << 20)
        self.index = ids.constant(table, np.int64).take(ids.at_most(len(table) - 1), axis=0)
        same = ids.add_axis(2).apply("Equal", ids.add_axis(1)).astype(np.float32)
        self.counts = same.sum(2).astype(np.float64)
        rarity = self.counts.constant(weights.rarity_).take(self.index, axis=0)
        found = (self.counts.apply("Log") + 1.0) * rarity
        self.width = len(known)
        unit = found / _not_zero((found.square() / self.counts).sum(1, keepdims=True).apply("Sqrt"))
        # Words that were never seen count in the length, but have no column.
        seen = self.counts.constant(np.append(np.ones(len(known)), 0)).take(self.index, axis=0)
        self.shares = unit * seen / self.counts

    def unit(self) -> Words:
        """Return them scaled so that the columns have length 1."""
        other = object.__new__(Words)
        vars(other).update(vars(self))
        length = (self.shares.square() * self.counts).sum(1, keepdims=True).apply("Sqrt")
        other.shares = self.shares / _not_zero(length)
        return other

    def __matmul__(self, table: np.ndarray) -> Value:
        rows = np.vstack([table, np.zeros((1, table.shape[1]))])
        found = self.shares.constant(rows).take(self.index, axis=0)
        return (found * self.shares.add_axis(2)).sum(1)

    def compare(self, rows: np.ndarray) -> Value:
        """Multiply by many rows of words, which is quicker with a column for each word."""
        shares = self.shares.astype(rows.dtype)
        n = shares.apply("Shape", end=1)
        sizes = n.apply("Concat", n.constant([self.width + 1], np.int64), axis=0)
        zeros = sizes.apply(
            "ConstantOfShape", value=numpy_helper.from_array(np.zeros(1, rows.dtype))
        )
        words = zeros.apply("ScatterElements", self.index, shares, axis=1, reduction="add")
        table = np.vstack([rows.T, np.zeros((1, len(rows)), rows.dtype)])
        return (words @ table).astype(np.float64)


def _feature_heads(heads: FeatureHeads, X: Any) -> list[Value]:
    if heads.mean_ is None:
        scaled = [X.unit(), X]
    else:
        Z = _whitened(heads.whitening_, X)
        scaled = [_unit_rows(X - heads.mean_), Z, Z]
    return [_log_proba(head, Z) for head, Z in zip(heads.heads_.values(), scaled)]


def _log_proba(head: Any, Z: Any) -> Value:
    if isinstance(head, GaussianHead):
        return (Z @ head.coefficients_ + head.intercepts_).log_softmax()
    if isinstance(head, RidgeHead):
        if head.kernel == "rbf":
            Z = (_squared_distances(Z, head.landmarks_) * -_GAMMA).apply("Exp")
        scores = Z @ head.coefficients_[:-1] + head.coefficients_[-1]
    else:
        scores = Z @ head.coefficients_
    return (scores * head.inverse_temperature_).log_softmax()


def _spread(graph: GraphSpreading, X: Any) -> Value:
    if graph.whitening_ is not None:
        assert graph.axes_ is not None
        X = _whitened(graph.whitening_, X) * graph.axes_
    elif graph.mean_ is not None:
        X = (_root(X) if graph.square_root_ else X) - graph.mean_
    nodes = _dense(graph.nodes_)
    norms = np.square(nodes, dtype=np.float64).sum(axis=1)
    cosines = _cosines(X, nodes)
    k = cosines.constant([min(_NEIGHBOURS, len(nodes))], np.int64)
    near = (cosines * 2.0 - norms).tensor
    found = cosines.builder.add_node("TopK", "xfer", [near, k.tensor], 2, axis=1)
    index = Value(cosines.builder, found[1])
    cosines = cosines.apply("GatherElements", index, axis=1)
    edges = cosines.where(cosines.apply("Greater", _ROUNDING), 0.0)
    edges = edges.apply("Pow", float(_POWER))
    to = cosines.constant(graph.degrees_).take(index, axis=0).at_least(edges)
    roots = (edges.sum(1, keepdims=True) * to).apply("Sqrt")
    weights = edges / roots.where(edges.apply("Greater", 0.0), 1.0)
    rows = cosines.constant(graph.scores_).take(index, axis=0)
    scores = (rows * weights.add_axis(2)).sum(1) * _ALPHA
    return ((scores + graph.floor_).apply("Log") * graph.inverse_temperature_).log_softmax()


def _joined(space: JoinedSpace, X: Mapping[str, Any]) -> Value:
    parts = _joined_parts(space, X)
    return concatenate(
        [
            _unit_rows(part - space.means_.get(name, 0.0)) * np.sqrt(space.shares[name])
            for name, part in parts.items()
        ]
    )


def _joined_parts(space: JoinedSpace, X: Mapping[str, Any]) -> dict[str, Value]:
    if space.means_:
        return {name: _root(X[name]) if space.roots_[name] else X[name] for name in space.means_}
    return {name: _cosines(X[name], _dense(rows)) for name, rows in space.rows_.items()}


def _cosines(X: Any, rows: np.ndarray) -> Value:
    """Compare features or words with rows of norm 1, in the precision of the rows."""
    if isinstance(X, Words):
        return X.unit().compare(rows)
    return _unit_rows(X).astype(rows.dtype).astype(np.float64) @ rows.T


def _dense(rows: Any) -> np.ndarray:
    found: Any = unpack(rows)
    return found.toarray() if issparse(found) else found


def _distance(model: Novelty, X: Value) -> Value:
    X = (_root(X) if model.roots_ else X) - model.center_
    along, elsewhere, _ = model._precisions(
        np.array([model.total_weight_]), np.array([model.trace_])
    )
    excess, apart = along - elsewhere, elsewhere.item()
    Z, means = X, model._project(model.means_)
    for matrix in model.projections_:
        Z = Z @ matrix
    squares = _squared_distances(X, model.means_) * apart
    squares = squares + (Z.square() * excess).sum(1, keepdims=True)
    squares = squares + (excess @ np.square(means).T) - (Z * excess) @ means.T * 2.0
    return squares.at_least(0.0).min(1).apply("Sqrt")


def _expected_softmax(means: Value, variances: Value, n_classes: int) -> Value:
    """See ``xfer.meta.posterior.expected_softmax``; the points are axis 1 here."""
    # In 32 bits, whose errors are below 1e-6 here, this takes half the time.
    means, variances = means.astype(np.float32), variances.astype(np.float32)
    deviations = variances.apply("Sqrt")
    low = (means - deviations * 4.0).max(1, keepdims=True) - 2.5
    high = (means + deviations * 4.5).max(1, keepdims=True) + (8 + np.log(n_classes))
    x = low + (high - low) * np.linspace(0, 1, _INTEGRAL_POINTS)
    x = x.add_axis(2) - means.add_axis(1)
    values: Any = 0.0
    slopes: Any = 0.0
    for weight, mean, deviation in _GUMBEL:
        spread = (variances + deviation**2).apply("Sqrt").add_axis(1)
        z = ((x - mean) / spread).at_least(-9.0).at_most(9.0)
        square = z * z
        below = 1.0 / ((z * (square * -0.070566 - 1.5976)).apply("Exp") + 1.0)
        slope = (square * (3 * 0.070566) + 1.5976) * below * (1.0 - below)
        slopes = slopes + slope * (weight / spread)
        values = values + below * weight
    products = values.apply("Log").sum(2, keepdims=True).apply("Exp")
    p = (slopes / values * products).sum(1).astype(np.float64)
    return p / p.sum(1, keepdims=True)


def _whitened(whitening: PartialWhitening, X: Value) -> Value:
    Z = _root(X) if whitening.square_root_ else X
    return (Z - whitening.mean_) @ whitening.components_


def _root(X: Value) -> Value:
    return X.apply("Abs").apply("Sqrt") * X.apply("Sign")


def _squashed(Z: Value) -> Value:
    return Z / ((Z.square().sum(1, keepdims=True) + 1.0) * 0.5).apply("Sqrt")


def _unit_rows(X: Value) -> Value:
    return X / _not_zero(X.square().sum(1, keepdims=True).apply("Sqrt"))


def _not_zero(lengths: Value) -> Value:
    return lengths.where(lengths.apply("Greater", 0.0), 1.0)


def _squared_distances(X: Value, rows: np.ndarray) -> Value:
    rows = rows.astype(X.dtype)
    squares = X.square().sum(1, keepdims=True) - X @ rows.T * 2.0
    return (squares + np.square(rows).sum(axis=1)).at_least(0.0)


def _entropy(p: Value) -> Value:
    """Return -p log p, which is 0 at 0."""
    return p * p.at_least(float(np.finfo(p.dtype).tiny)).apply("Log") * -1.0


def _same(x: Value) -> Value:
    return x
